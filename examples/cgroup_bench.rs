//! What reading statistics and setting limits costs beside the bare reads and writes of the same files.
//!
//! `cgroup_bench [ROUNDS]`, in a cgroup in which the caller may make children. Made for `cargo xtask bench-cgroup`; on a
//! hybrid host most controllers are lacking, so run it in the VM lane too. Only there (`VM_LANE` is set) it enables the
//! controllers of its own cgroup for its children. Rows take turns; the first tenth is not counted. The bare calls are
//! rustix's, as the library's own are: those of the C library take longer.
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use stockade::cgroup::{BlockDevice, Cgroup, CpuMax, CpuSet, Enforce, Hierarchy, IoLimits, Limits};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Microseconds of each round.
type Times = Vec<f64>;

fn main() -> Result {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(1000), |n| n.parse())?;
    let hierarchy = Hierarchy::detect()?;
    let own = hierarchy.own();
    if std::env::var_os("VM_LANE").is_some() {
        own.enable_controllers(&own.controllers()?)?;
    }
    let leaf = own.create_child(&format!("stockade-bench-{}", std::process::id()))?;
    leaf.enable_controllers(&leaf.controllers()?)?;
    let done = stats(&leaf, rounds)
        .and_then(|()| limits(&leaf, rounds, io_weight()))
        .and_then(|()| limits(&leaf, rounds, io_max(disk()?)));
    leaf.remove(Some(Instant::now() + Duration::from_secs(10)))?;
    done
}

/// A process in the cgroup, so that there is something to count.
struct Sleeper(Child);

impl Sleeper {
    fn new(cgroup: &Cgroup) -> Result<Self> {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn()?;
        let sleeper = Self(child);
        fs::write(cgroup.path().join("cgroup.procs"), sleeper.0.id().to_string())?;
        Ok(sleeper)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stats(parent: &Cgroup, rounds: usize) -> Result {
    let cgroup = parent.create_child("stats")?;
    let sleeper = Sleeper::new(&cgroup)?;
    let mut reader = cgroup.stats_reader()?;
    let names: Vec<String> = reader.files().map(str::to_owned).collect();
    let open = |name: &String| File::open(cgroup.path().join(name));
    let files = names.iter().map(open).collect::<std::io::Result<Vec<File>>>()?;
    let mut buffer = vec![0; 64 << 10];
    println!("statistics: {} files: {}", names.len(), names.join(" "));
    let times = take_turns(
        rounds,
        || (),
        || {
            for file in &files {
                rustix::io::pread(file, &mut buffer[..], 0)?;
            }
            Ok(())
        },
        || {
            std::hint::black_box(reader.read()?);
            Ok(())
        },
    )?;
    report("full stats", "bare preads", times);
    drop(sleeper);
    cgroup.remove(Some(Instant::now() + Duration::from_secs(10)))?;
    Ok(())
}

/// A limit, its file, and what is written there.
type Row = (Limits, &'static str, String);

/// Seven limits and one of I/O, in the order in which they are set.
fn table(io: Row) -> Result<Vec<Row>> {
    let half = CpuMax::quota(Duration::from_millis(50), Duration::from_millis(100));
    let none = Limits::new;
    Ok(vec![
        (none().cpu_weight(50_u32), "cpu.weight", "50".to_owned()),
        (none().cpu_max(half), "cpu.max", "50000 100000".to_owned()),
        (none().cpuset_cpus(CpuSet::new([0])?), "cpuset.cpus", "0".to_owned()),
        io,
        (none().pids_max(100), "pids.max", "100".to_owned()),
        (none().memory_swap_max(0), "memory.swap.max", "0".to_owned()),
        (none().memory_high(256 << 20), "memory.high", "268435456".to_owned()),
        (none().memory_max(512 << 20), "memory.max", "536870912".to_owned()),
    ])
}

fn io_weight() -> Row {
    (Limits::new().io_weight(50_u32), "io.weight", "default 50".to_owned())
}

/// This one is looked up on the host first.
fn io_max(disk: BlockDevice) -> Row {
    let text = format!("{disk} rbps=10485760");
    (Limits::new().io_device(disk, IoLimits::new().read_bytes_max(10 << 20)), "io.max", text)
}

/// A whole disk; the first loop device where there is none.
fn disk() -> Result<BlockDevice> {
    let disks = fs::read_dir("/sys/block")?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let made_up = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        ["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind))
    };
    let best = disks.iter().min_by_key(|p| (made_up(p), *p)).ok_or("there is no block device")?;
    Ok(fs::read_to_string(best.join("dev"))?.trim().parse()?)
}

fn limits(parent: &Cgroup, rounds: usize, io: Row) -> Result {
    let probe = parent.create_child("probe")?;
    let (mut writes, mut limits) = (Vec::new(), Limits::new());
    for (limit, file, text) in table(io)? {
        if probe.path().join(file).exists() {
            limits = limits.patched(&limit);
            writes.push((file, text));
        } else {
            println!("left out: no {file} here");
        }
    }
    probe.remove(None)?;
    println!("limits: {}: {}", writes.len(), writes.iter().map(|(f, _)| *f).collect::<Vec<_>>().join(" "));
    let made = std::cell::RefCell::new(None);
    let times = take_turns(
        rounds,
        || *made.borrow_mut() = parent.create_child("limits").ok(),
        || {
            let made = made.borrow();
            let cgroup = made.as_ref().ok_or("no cgroup was made")?;
            for (file, text) in &writes {
                let file = openat(cgroup, *file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                rustix::io::write(&file, text.as_bytes())?;
            }
            Ok(unlinkat(parent, "limits", AtFlags::REMOVEDIR)?)
        },
        || {
            let made = made.borrow();
            let cgroup = made.as_ref().ok_or("no cgroup was made")?;
            cgroup.apply(&limits, Enforce::Required)?;
            Ok(cgroup.remove(None)?)
        },
    )?;
    report("apply and remove", "bare writes and rmdir", times);
    Ok(())
}

/// Bare and ours in turn; `before` comes before each and is not counted. Which of the two is first changes.
fn take_turns(
    rounds: usize,
    mut before: impl FnMut(),
    mut bare: impl FnMut() -> Result,
    mut ours: impl FnMut() -> Result,
) -> Result<(Times, Times)> {
    let (mut bare_times, mut our_times) = (Times::new(), Times::new());
    let mut time = |run: &mut dyn FnMut() -> Result| -> Result<f64> {
        before();
        let start = Instant::now();
        run()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    let unmeasured = rounds / 10 + 1;
    for round in 0..rounds + unmeasured {
        let (b, o) = if round % 2 == 0 {
            let b = time(&mut bare)?;
            (b, time(&mut ours)?)
        } else {
            let o = time(&mut ours)?;
            (time(&mut bare)?, o)
        };
        if round >= unmeasured {
            bare_times.push(b);
            our_times.push(o);
        }
    }
    Ok((bare_times, our_times))
}

fn report(ours: &str, bare: &str, (mut bare_times, mut our_times): (Times, Times)) {
    bare_times.sort_by(f64::total_cmp);
    our_times.sort_by(f64::total_cmp);
    let n = bare_times.len();
    println!("{:24} {:>10} {:>10} {:>10}", format!("us, {n} rounds"), "min", "p25", "median");
    let pick = |times: &Times| [0, n / 4, n / 2].map(|i| times.get(i).copied().unwrap_or(f64::NAN));
    let line = |name: &str, v: [f64; 3]| println!("{name:24} {:>10.2} {:>10.2} {:>10.2}", v[0], v[1], v[2]);
    let (b, o) = (pick(&bare_times), pick(&our_times));
    line(bare, b);
    line(ours, o);
    line("ratio", [o[0] / b[0], o[1] / b[1], o[2] / b[2]]);
}

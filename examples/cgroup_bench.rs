//! What reading statistics and setting limits costs beside the bare reads and writes of the same files.
//!
//! `cgroup_bench [ROUNDS]`, in a cgroup in which the caller may make children. Made for `cargo xtask bench-cgroup`; on a
//! hybrid host most controllers are lacking, so run it in the VM lane too. Only there (`VM_LANE` is set) it enables the
//! controllers of its own cgroup for its children. Rows take turns; the first tenth is not counted.
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use stockade::cgroup::{Cgroup, Enforce, Hierarchy, Limits};

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
    let done = stats(&leaf, rounds).and_then(|()| limits(&leaf, rounds));
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
                file.read_at(&mut buffer, 0)?;
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

/// Each limit as it stands in JSON, its file, and what is written.
fn table() -> Vec<(&'static str, serde_json::Value, &'static str, &'static str)> {
    let us = |n: u64| json!({ "secs": n / 1_000_000, "nanos": n % 1_000_000 * 1000 });
    vec![
        ("cpu_weight", json!(50), "cpu.weight", "50"),
        (
            "cpu_max",
            json!({ "quota": { "quota": us(50_000), "period": us(100_000) } }),
            "cpu.max",
            "50000 100000",
        ),
        ("memory_low", json!(1 << 20), "memory.low", "1048576"),
        ("memory_high", json!(256 << 20), "memory.high", "268435456"),
        ("memory_max", json!(512 << 20), "memory.max", "536870912"),
        ("memory_swap_max", json!(0), "memory.swap.max", "0"),
        ("io_weight", json!(50), "io.weight", "50"),
        ("pids_max", json!(100), "pids.max", "100"),
    ]
}

fn limits(parent: &Cgroup, rounds: usize) -> Result {
    let probe = parent.create_child("probe")?;
    let (mut writes, mut all) = (Vec::new(), serde_json::Map::new());
    for (key, value, file, text) in table() {
        let one = serde_json::from_value::<Limits>(json!({ key: &value }));
        if one.is_err() {
            println!("left out: {key}: this version has no such limit");
        } else if !probe.path().join(file).exists() {
            println!("left out: {key}: no {file} here");
        } else {
            all.insert(key.to_owned(), value);
            writes.push((file, text));
        }
    }
    probe.remove(None)?;
    let limits: Limits = serde_json::from_value(all.into())?;
    println!("limits: {}: {}", writes.len(), writes.iter().map(|(f, _)| *f).collect::<Vec<_>>().join(" "));
    let made = std::cell::RefCell::new(None);
    let times = take_turns(
        rounds,
        || *made.borrow_mut() = parent.create_child("limits").ok(),
        || {
            let made = made.borrow();
            let path = made.as_ref().ok_or("no cgroup was made")?.path();
            for (file, text) in &writes {
                File::options().write(true).open(path.join(file))?.write_all(text.as_bytes())?;
            }
            Ok(fs::remove_dir(path)?)
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

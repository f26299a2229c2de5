//! What `cargo xtask bench-vm` runs in the lane: guests booted by the library and by QEMU's microvm in turns, from the same
//! kernel and initramfs. Not an example of use.
//!
//! `bench_vm DIR ROUNDS` measures: DIR has `vmlinux`, `bzimage`, `initramfs` and `qemu`, a program that takes QEMU's
//! options. `bench_vm boot KERNEL INITRAMFS LINE` is one of the processes measured.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use stockade::instance::{DeleteMode, DeleteOptions};
use stockade::{Runtime, VmConfig};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The same for all.
const LINE: &str = "console=ttyS0 quiet panic=-1 reboot=t pci=off mitigations=off cryptomgr.notests";
const MEMORY: u64 = 192 << 20;
/// The guest's init says it.
const INIT: &str = "INIT";
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["boot", kernel, initramfs, line] => boot(kernel, initramfs, line),
        [dir, rounds] => measure(Path::new(dir), rounds.parse()?),
        _ => Err("usage: bench_vm DIR ROUNDS".into()),
    }
}

/// Boots, passes the console on, and tells of the exits at the first word of the init. Ends with its standard input.
fn boot(kernel: &str, initramfs: &str, line: &str) -> Result<()> {
    let dir = tempfile::tempdir_in("/run")?;
    let at = |name| dir.path().join(name);
    let runtime = Runtime::builder().state_dir(at("state")).run_dir(at("run")).open()?;
    let config =
        VmConfig::builder("guest").kernel(kernel).initramfs(initramfs).command_line(line).memory(MEMORY);
    let vm = runtime.create(config.ephemeral().build()?)?;
    vm.start()?;
    let end = Instant::now() + PATIENCE / 2;
    while !vm.console_log().text().contains(INIT) && Instant::now() < end && vm.exit_reason().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("{}\nEXITS {}", vm.console_log().text(), vm.exit_counts().total());
    if !vm.console_log().text().contains(INIT) {
        return Err(format!("no init: {:?}, {:?}", vm.exit_reason(), vm.exit_counts()).into());
    }
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(vm.delete_with(DeleteOptions::new().mode(DeleteMode::Stop))?)
}

/// One way to boot, and what was seen of it.
struct Row {
    name: &'static str,
    command: Box<dyn Fn() -> Command>,
    to_init: Vec<f64>,
    exits: Vec<u64>,
    /// KiB in memory beside the guest's.
    overhead: Vec<u64>,
}

fn measure(dir: &Path, rounds: u32) -> Result<()> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let initramfs = path("initramfs");
    let ours = std::env::current_exe()?;
    let (vmlinux, bzimage, qemu) = (path("vmlinux"), path("bzimage"), path("qemu"));
    let row = |name, command| Row { name, command, to_init: vec![], exits: vec![], overhead: vec![] };
    let microvm = |kernel: &str| {
        let (qemu, kernel, initramfs) = (qemu.clone(), kernel.to_owned(), initramfs.clone());
        move || {
            let mut command = Command::new(&qemu);
            // Without what a guest with a 16550 alone does not need: its fastest form.
            command
                .args([
                    "-M",
                    "microvm,rtc=off,pit=off,pic=off,isa-serial=on",
                    "-accel",
                    "kvm",
                    "-cpu",
                    "host",
                ])
                .args(["-m", &(MEMORY >> 20).to_string(), "-smp", "1", "-nodefaults", "-no-user-config"])
                .args(["-display", "none", "-no-reboot", "-serial", "stdio", "-append", LINE])
                .args(["-kernel", &kernel, "-initrd", &initramfs]);
            command
        }
    };
    let own = {
        let (vmlinux, initramfs) = (vmlinux.clone(), initramfs.clone());
        move || {
            let mut command = Command::new(&ours);
            command.args(["boot", &vmlinux, &initramfs, LINE]);
            command
        }
    };
    let mut rows = [
        row("stockade, vmlinux", Box::new(own)),
        row("QEMU microvm, vmlinux", Box::new(microvm(&vmlinux))),
        row("QEMU microvm, bzImage", Box::new(microvm(&bzimage))),
    ];
    for n in 0..=rounds {
        for row in &mut rows {
            match one((row.command)(), n > 0, row) {
                Ok(ms) => println!("round {n}: {}: {ms:.0} ms", row.name),
                Err(e) => println!("round {n}: {}: FAILED: {e}", row.name),
            }
        }
    }
    let base = rows[0].to_init.clone();
    println!(
        "| to init, ms | min | median | n | stockade's x min | x median | exits to user space | MiB beside the guest's |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for row in &mut rows {
        let Some((min, median)) = min_and_median(&mut row.to_init) else { continue };
        let (own_min, own_median) = min_and_median(&mut base.clone()).unwrap_or((min, median));
        let exits = row.exits.iter().max().map_or("not known".to_owned(), |n| format!("at most {n}"));
        let mib = row.overhead.iter().max().map_or(f64::NAN, |kib| *kib as f64 / 1024.0);
        println!(
            "| {} | {min:.0} | {median:.0} | {} | {:.2} | {:.2} | {exits} | {mib:.1} |",
            row.name,
            row.to_init.len(),
            own_min / min,
            own_median / median
        );
    }
    Ok(())
}

/// Milliseconds from the start of the process to the first word of the init. The first round is not counted.
fn one(mut command: Command, counts: bool, row: &mut Row) -> Result<f64> {
    let begin = Instant::now();
    let mut child = Guard(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let out = child.0.stdout.take().ok_or("no output")?;
    let (tell, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    let next = || lines.recv_timeout(PATIENCE.saturating_sub(begin.elapsed()));
    let mut said = Vec::new();
    loop {
        let line = next().map_err(|_| format!("no init; it said:\n{}", said.join("\n")))?;
        if line.contains(INIT) {
            break;
        }
        said.push(line);
    }
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    if counts {
        row.to_init.push(ms);
        if row.name.starts_with("stockade") {
            let line = std::iter::repeat_with(next).take(20).map_while(std::result::Result::ok);
            let exits = line.into_iter().find_map(|line| line.strip_prefix("EXITS ")?.parse().ok());
            row.exits.push(exits.ok_or("it told of no exits")?);
        }
        row.overhead.push(beside_guest(child.0.id())?);
    }
    drop(child);
    reader.join().map_err(|_| "the reader panicked")?;
    Ok(ms)
}

/// Does not outlive the measurement.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// KiB of a process in memory, without its largest mapping's: the guest's memory (`proc_pid_smaps(5)`).
fn beside_guest(pid: u32) -> Result<u64> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    let (mut sizes, mut all) = (Vec::new(), Vec::new());
    for line in smaps.lines() {
        if line.starts_with("Size:") {
            sizes.extend(kib(line));
        } else if line.starts_with("Rss:") {
            all.extend(kib(line));
        }
    }
    let largest = sizes.iter().zip(&all).max_by_key(|(size, _)| **size).map_or(0, |(_, rss)| *rss);
    Ok(all.iter().sum::<u64>() - largest)
}

fn min_and_median(all: &mut [f64]) -> Option<(f64, f64)> {
    all.sort_by(f64::total_cmp);
    Some((*all.first()?, all[all.len() / 2]))
}

//! What `cargo xtask bench-vm` runs in the lane: guests booted by the library, by QEMU's microvm and, where it is given,
//! by Firecracker in turns, from the same kernel and initramfs; and one with the library's agent. Not an example of use.
//!
//! `bench_vm DIR ROUNDS MODULES ROOT` measures: DIR has `vmlinux`, `bzimage`, `initramfs` and `qemu`, a program that takes
//! QEMU's options, and may have `firecracker`; MODULES are the kernel's, ROOT is a directory with `true`.
//! `bench_vm boot KERNEL INITRAMFS LINE` and `bench_vm agent KERNEL MODULES IMAGE LINE` are the processes measured.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use stockade::instance::{DeleteMode, DeleteOptions, ExecOptions, WaitOptions};
use stockade::vm::{Guest, PackImage, RootMode, VmBuilder};
use stockade::{ExitStatus, Rootfs, Runtime, Vm, VmConfig};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The same for all.
const LINE: &str = "console=ttyS0 quiet panic=-1 reboot=t pci=off mitigations=off cryptomgr.notests";
const MEMORY: u64 = 192 << 20;
/// The guest's init says it, or the process when the agent has answered.
const INIT: &str = "INIT";
const PATIENCE: Duration = Duration::from_secs(120);
/// How many commands a guest with the agent is given.
const COMMANDS: usize = 30;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["boot", kernel, initramfs, line] => boot(kernel, initramfs, line),
        ["agent", kernel, modules, image, line] => agent(kernel, modules, image, line),
        [dir, rounds, modules, root] => measure(Path::new(dir), rounds.parse()?, modules, root),
        _ => Err("usage: bench_vm DIR ROUNDS MODULES ROOT".into()),
    }
}

/// Boots, passes the console on, and tells of the exits at the first word of the init. Ends with its standard input.
fn boot(kernel: &str, initramfs: &str, line: &str) -> Result<()> {
    with_machine(VmConfig::builder("guest").kernel(kernel).initramfs(initramfs), line, |vm| {
        let end = Instant::now() + PATIENCE / 2;
        while !vm.console_log().text().contains(INIT) && Instant::now() < end && vm.exit_reason().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if !vm.console_log().text().contains(INIT) {
            return Err(format!("no init: {:?}, {:?}", vm.exit_reason(), vm.exit_counts()).into());
        }
        println!("{}\nEXITS {}", vm.console_log().text(), vm.exit_counts().total());
        Ok(())
    })
}

/// Boots with the agent, and tells of the exits when it has answered, and of how long commands took.
fn agent(kernel: &str, modules: &str, image: &str, line: &str) -> Result<()> {
    let guest = Guest::new(modules).root(image, RootMode::Overlay);
    with_machine(VmConfig::builder("guest").kernel(kernel).guest(guest), line, |vm| {
        vm.wait_agent(WaitOptions::new().deadline(PATIENCE / 2))?;
        println!("{INIT}\nEXITS {}", vm.exit_counts().total());
        std::io::stdout().flush()?;
        let mut times = Vec::new();
        for _ in 0..COMMANDS {
            let begin = Instant::now();
            let status = vm.exec(ExecOptions::new(["true"]).deadline(PATIENCE / 2))?.wait()?;
            if status != ExitStatus::Exited(0) {
                return Err(format!("`true` in the guest: {status}").into());
            }
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        println!("EXEC {}", min_and_median(&mut times).ok_or("no command")?.1);
        Ok(())
    })
}

fn with_machine(config: VmBuilder, line: &str, work: impl FnOnce(&Vm) -> Result<()>) -> Result<()> {
    let dir = tempfile::tempdir_in("/run")?;
    let at = |name| dir.path().join(name);
    let runtime = Runtime::builder().state_dir(at("state")).run_dir(at("run")).open()?;
    let vm = runtime.create(config.command_line(line).memory(MEMORY).ephemeral().build()?)?;
    vm.start()?;
    work(&vm)?;
    println!("DONE");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(vm.delete_with(DeleteOptions::new().mode(DeleteMode::Stop))?)
}

/// One way to boot, and what was seen of it.
struct Row {
    name: &'static str,
    command: Box<dyn Fn() -> Command>,
    ours: bool,
    to_init: Vec<f64>,
    exits: Vec<u64>,
    /// Milliseconds of a command in the guest.
    exec: Vec<f64>,
    /// KiB in memory beside the guest's: all, and those that are no file's.
    overhead: Vec<(u64, u64)>,
}

fn measure(dir: &Path, rounds: u32, modules: &str, root: &str) -> Result<()> {
    let mut rows = rows(dir, modules, root)?;
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
        "| to init, ms | min | median | n | stockade's x min | x median | exits to user space | exec, ms (min) | MiB beside the guest's (no file's) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for row in &mut rows {
        let Some((min, median)) = min_and_median(&mut row.to_init) else { continue };
        let (own_min, own_median) = min_and_median(&mut base.clone()).unwrap_or((min, median));
        let exits = row.exits.iter().max().map_or("not known".to_owned(), |n| format!("at most {n}"));
        let exec = min_and_median(&mut row.exec)
            .map_or("-".to_owned(), |(min, median)| format!("{median:.1} ({min:.1})"));
        let mib = |kib: u64| kib as f64 / 1024.0;
        let (all, own) = row.overhead.iter().max().copied().unwrap_or_default();
        println!(
            "| {} | {min:.0} | {median:.0} | {} | {:.2} | {:.2} | {exits} | {exec} | {:.1} ({:.1}) |",
            row.name,
            row.to_init.len(),
            own_min / min,
            own_median / median,
            mib(all),
            mib(own)
        );
    }
    Ok(())
}

/// All that are compared, ours first.
fn rows(dir: &Path, modules: &str, root: &str) -> Result<Vec<Row>> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let (initramfs, vmlinux, bzimage, qemu) =
        (path("initramfs"), path("vmlinux"), path("bzimage"), path("qemu"));
    let ours = std::env::current_exe()?;
    let image = PackImage::new(Rootfs::dir(root)).run(dir.join("images"))?;
    let row = |name, ours, program: &Path, args: Vec<String>| {
        let program = program.to_owned();
        let command = move || {
            let mut command = Command::new(&program);
            command.args(&args);
            command
        };
        let command = Box::new(command);
        Row { name, command, ours, to_init: vec![], exits: vec![], exec: vec![], overhead: vec![] }
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mib = (MEMORY >> 20).to_string();
    let microvm = |kernel: &str| {
        // Without what a guest with a 16550 alone does not need: its fastest form.
        let machine = "microvm,rtc=off,pit=off,pic=off,isa-serial=on";
        let mut args = words(&["-M", machine, "-accel", "kvm", "-cpu", "host", "-m", &mib, "-smp", "1"]);
        args.extend(words(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]));
        args.extend(words(&["-serial", "stdio", "-append", LINE, "-kernel", kernel, "-initrd", &initramfs]));
        args
    };
    let image = image.to_string_lossy();
    let mut rows = vec![
        row("stockade, vmlinux", true, &ours, words(&["boot", &vmlinux, &initramfs, LINE])),
        row("QEMU microvm, vmlinux", false, qemu.as_ref(), microvm(&vmlinux)),
        row("QEMU microvm, bzImage", false, qemu.as_ref(), microvm(&bzimage)),
    ];
    if dir.join("firecracker").is_file() {
        let config = dir.join("firecracker.json");
        let json = serde_json::json!({
            "boot-source": { "kernel_image_path": vmlinux, "initrd_path": initramfs, "boot_args": LINE },
            "drives": [],
            "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY >> 20 },
        });
        std::fs::write(&config, json.to_string())?;
        let args = words(&["--no-api", "--config-file", &config.to_string_lossy()]);
        rows.push(row("Firecracker, vmlinux", false, &dir.join("firecracker"), args));
    }
    rows.push(row("stockade, to the agent", true, &ours, words(&["agent", &vmlinux, modules, &image, LINE])));
    Ok(rows)
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
    let mut told = Vec::new();
    if row.ours {
        let lines = std::iter::repeat_with(next).map_while(std::result::Result::ok);
        told.extend(lines.take_while(|line| line != "DONE"));
    }
    if counts {
        let number =
            |what: &str| told.iter().find_map(|line| line.strip_prefix(what)?.trim().parse::<f64>().ok());
        row.to_init.push(ms);
        row.exits.extend(number("EXITS").map(|n| n as u64));
        row.exec.extend(number("EXEC"));
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

/// KiB of a process in memory, all and those that are no file's, without its largest mapping's: the guest's memory
/// (`proc_pid_smaps(5)`).
fn beside_guest(pid: u32) -> Result<(u64, u64)> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let kib = |what| {
        let lines = smaps.lines().filter_map(move |line| line.strip_prefix(what));
        lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).collect::<Vec<_>>()
    };
    let (sizes, all, own) = (kib("Size:"), kib("Rss:"), kib("Anonymous:"));
    let guest = (0..sizes.len()).max_by_key(|at| sizes[*at]).ok_or("a process without memory")?;
    let sum = |all: &[u64]| all.iter().enumerate().filter(|(at, _)| *at != guest).map(|(_, kib)| kib).sum();
    Ok((sum(&all), sum(&own)))
}

fn min_and_median(all: &mut [f64]) -> Option<(f64, f64)> {
    all.sort_by(f64::total_cmp);
    Some((*all.first()?, all[all.len() / 2]))
}

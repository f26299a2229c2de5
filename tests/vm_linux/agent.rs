//! Guests with the library's agent: Debian's kernels, roots on disks.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade::cgroup::{Limit, Limits};
use stockade::instance::{ExecOptions, FreezeOptions, Instance, ShutdownOptions, Stdio, WaitOptions};
use stockade::process::User;
use stockade::vm::{ExitReason, Guest, GuestInit, PackImage, RootMode, VmBuilder};
use stockade::{ErrorKind, ExitStatus, Rootfs, Signal, Vm, VmConfig};

use super::{Kernel, LINE, PATIENCE, Rig, ended, rig};

/// Of a guest.
const MEMORY: u64 = 256 << 20;

fn patient() -> WaitOptions {
    WaitOptions::new().deadline(PATIENCE)
}

/// A root of busybox on an image.
fn busybox(rig: &Rig) -> std::path::PathBuf {
    let root = support::fixture("busybox").unwrap();
    PackImage::new(Rootfs::dir(root)).free(8 << 20).run(rig.dir.path().join("images")).unwrap()
}

fn config(kernel: &Kernel, name: &str, guest: Guest) -> VmBuilder {
    let config = VmConfig::builder(name).kernel(&kernel.vmlinux).guest(guest).command_line(LINE);
    config.memory(MEMORY).rng().ephemeral()
}

fn start(rig: &Rig, config: VmBuilder) -> Arc<Vm> {
    let vm = rig.runtime.create(config.build().unwrap()).unwrap();
    vm.start().unwrap();
    vm
}

fn boot(rig: &Rig, kernel: &Kernel, name: &str, guest: Guest) -> Arc<Vm> {
    start(rig, config(kernel, name, guest))
}

fn up(vm: &Vm) {
    if let Err(e) = vm.wait_agent(patient()) {
        panic!("{e}; the console:\n{}", vm.console_log().text());
    }
}

fn run(vm: &Vm, args: &[&str]) -> (ExitStatus, String) {
    let options = ExecOptions::new(args.iter().copied()).stdout(Stdio::Piped).deadline(PATIENCE);
    let out = vm.exec(options).and_then(stockade::vm::VmProcess::output);
    let out = out.unwrap_or_else(|e| panic!("{e}; the console:\n{}", vm.console_log().text()));
    (out.status, String::from_utf8(out.stdout).unwrap())
}

/// KiB of this process that are resident: all, and those of the mapping of that many bytes.
fn resident(guest: u64) -> (u64, u64) {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut all, mut of_guest, mut inside) = (0, 0, false);
    for line in smaps.lines() {
        if let Some((from, rest)) = line.split_once('-')
            && let Ok(from) = u64::from_str_radix(from, 16)
        {
            let to = rest.split(' ').next().and_then(|to| u64::from_str_radix(to, 16).ok());
            inside = to.is_some_and(|to| to - from == guest);
        }
        if let Some(kib) = line.strip_prefix("Rss:") {
            let kib: u64 = kib.trim().trim_end_matches(" kB").parse().unwrap();
            all += kib;
            of_guest += if inside { kib } else { 0 };
        }
    }
    (all, of_guest)
}

#[test]
fn commands_memory_and_consoles_in_guests_with_roots_on_disks() {
    let rig = require_rig!();
    let image = busybox(&rig);
    for kernel in &rig.kernels {
        let (before, _) = resident(MEMORY);
        let begin = Instant::now();
        let config = config(kernel, "exec", Guest::new(&kernel.modules).root(&image, RootMode::Overlay));
        let vm = start(&rig, config.balloon().virtio_console());
        up(&vm);
        let to_agent = begin.elapsed();
        let (all, guest) = resident(MEMORY);
        let overhead = (all - guest).saturating_sub(before);

        let (status, release) = run(&vm, &["uname", "-r"]);
        assert_eq!((status, release.trim()), (ExitStatus::Exited(0), kernel.release.as_str()));
        streams_come_back_whole(&vm);
        users_signals_and_programs_that_are_none(&vm);
        let round_trip = many_one_by_one_and_at_once(&vm);
        assert_eq!(run(&vm, &["sh", "-c", "dd if=/dev/hwrng bs=16 count=4 2>/dev/null | wc -c"]).1, "64\n");
        run(&vm, &["sh", "-c", "echo from hvc0 > /dev/hvc0"]);
        super::says(&vm, "from hvc0");
        assert_eq!(vm.console_input(b"typed\n").unwrap(), 6);
        assert_eq!(run(&vm, &["head", "-n", "1", "/dev/hvc0"]).1, "typed\n");
        state_clock_and_file_systems(&vm);
        let balloon = memory_comes_back(&vm);
        let counts = vm.exit_counts();
        vm.shutdown_with(ShutdownOptions::new().deadline(PATIENCE)).unwrap();
        assert_eq!(vm.exit_reason(), Some(ExitReason::Poweroff(0)));
        println!(
            "{}: {} ms to the agent, {round_trip} for exec, {counts:?}; guest {guest} KiB after boot, {balloon}; overhead \
             {overhead} KiB",
            kernel.release,
            to_agent.as_millis(),
        );
    }
}

fn streams_come_back_whole(vm: &Vm) {
    let options = ExecOptions::new(["sh", "-c", "cat; echo \"$WHAT\" >&2; exit 3"])
        .env("WHAT", "error")
        .stdin(Stdio::Piped)
        .stdout(Stdio::Piped)
        .stderr(Stdio::Piped)
        .deadline(PATIENCE);
    let mut cat = vm.exec(options).unwrap();
    let text = "0123456789abcdef".repeat(20_000);
    let mut stdin = std::fs::File::from(cat.take_stdin().unwrap());
    let sent = text.clone();
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
    let mut back = String::new();
    std::fs::File::from(cat.take_stdout().unwrap()).read_to_string(&mut back).unwrap();
    writer.join().unwrap();
    let mut errors = String::new();
    std::fs::File::from(cat.take_stderr().unwrap()).read_to_string(&mut errors).unwrap();
    assert_eq!((cat.wait().unwrap(), errors.as_str()), (ExitStatus::Exited(3), "error\n"));
    assert!(back == text, "{} of {} bytes came back", back.len(), text.len());
}

fn users_signals_and_programs_that_are_none(vm: &Vm) {
    let options = ExecOptions::new(["sh", "-c", "id -u; id -g; pwd"]);
    let options = options.user(User::new(7, 8)).cwd("/tmp").stdout(Stdio::Piped).deadline(PATIENCE);
    let out = vm.exec(options).unwrap().output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "7\n8\n/tmp\n");
    let mut sleeps = vm.exec(ExecOptions::new(["sleep", "1000"]).deadline(PATIENCE)).unwrap();
    assert_eq!(sleeps.wait_timeout(Duration::from_millis(100)).unwrap(), None);
    sleeps.signal(Signal::TERM).unwrap();
    assert_eq!(sleeps.wait().unwrap(), ExitStatus::Signaled { signal: 15, core_dumped: false });
    assert_eq!(sleeps.signal(Signal::TERM).unwrap_err().kind(), ErrorKind::InvalidState);
    assert!(sleeps.take_stdin().is_none());
    for (program, kind) in
        [("no-such", ErrorKind::PayloadNotFound), ("/etc", ErrorKind::PayloadNotExecutable)]
    {
        let e = vm.exec(ExecOptions::new([program]).deadline(PATIENCE)).unwrap_err();
        assert_eq!((e.kind(), e.what()), (kind, Some(program)), "{e}");
    }
}

/// Says how long they took.
fn many_one_by_one_and_at_once(vm: &Arc<Vm>) -> String {
    let begin = Instant::now();
    let rounds = 10;
    (0..rounds).for_each(|_| assert_eq!(run(vm, &["true"]).0, ExitStatus::Exited(0)));
    let round_trip = begin.elapsed() / rounds;
    let begin = Instant::now();
    let threads: Vec<_> = (0..100)
        .map(|n| {
            let vm = Arc::clone(vm);
            std::thread::spawn(move || {
                let (status, text) = run(&vm, &["sh", "-c", &format!("echo {n}; exit {n}")]);
                assert_eq!((status, text), (ExitStatus::Exited(n), format!("{n}\n")));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    format!("{} ms (100 at once: {} ms)", round_trip.as_millis(), begin.elapsed().as_millis())
}

fn state_clock_and_file_systems(vm: &Vm) {
    let state = vm.guest_state(patient()).unwrap();
    assert!(state.memory_total > 100 << 20 && state.memory_available < state.memory_total, "{state:?}");
    assert!((state.cpus, state.hostname.as_str()) == (1, "exec") && state.processes > 1, "{state:?}");
    vm.sync_time(patient()).unwrap();
    vm.freeze_filesystems(patient()).unwrap();
    vm.thaw_filesystems(patient()).unwrap();
    assert_eq!(run(vm, &["touch", "/written"]).0, ExitStatus::Exited(0));
}

/// Touched by the guest, then given back.
fn memory_comes_back(vm: &Vm) -> String {
    run(vm, &["sh", "-c", "dd if=/dev/zero of=/tmp/x bs=1M count=80 2>/dev/null; rm /tmp/x"]);
    let (_, touched) = resident(MEMORY);
    vm.set_balloon(128 << 20).unwrap();
    support::until(PATIENCE, "the guest gives memory back", || vm.balloon().unwrap() >= 120 << 20);
    let (_, left) = resident(MEMORY);
    assert!(left + (40 << 10) < touched, "{touched} KiB before, {left} KiB after");
    vm.set_balloon(0).unwrap();
    support::until(PATIENCE, "the guest has it again", || vm.balloon().unwrap() == 0);
    // The same as a limit, and what the guest says of it.
    vm.update(Limits::new().memory_max(160 << 20)).unwrap();
    support::until(PATIENCE, "the guest keeps to its limit", || vm.balloon().unwrap() >= 90 << 20);
    let said = || vm.vm_stats().unwrap().balloon.unwrap().guest;
    // Linux counts what is in the balloon among all that it has, as it may take it back.
    support::until(PATIENCE, "the guest reports less memory", || {
        said().and_then(|g| Some(g.free? + (90 << 20) <= g.total?)) == Some(true)
    });
    println!("{:?}", said().unwrap());
    vm.update(Limits::new().memory_max(Limit::Max)).unwrap();
    format!("{touched} KiB touched, {left} KiB after the balloon")
}

#[test]
fn a_command_is_the_guest_and_its_writes_stay() {
    let rig = require_rig!();
    let image = busybox(&rig);
    let [_, kernel] = &rig.kernels;
    let disk = rig.dir.path().join("own.ext4");
    std::fs::copy(&image, &disk).unwrap();
    let guest = |script: &str| {
        Guest::new(&kernel.modules)
            .root(&disk, RootMode::ReadWrite)
            .env("ADDED", "yes")
            .init(GuestInit::Command(["sh", "-c", script].map(Into::into).into()))
    };
    let vm = boot(&rig, kernel, "command", guest("echo $ADDED > /kept; echo SAID $(id -u); exit 9"));
    assert_eq!(ended(&vm), ExitReason::Poweroff(9), "{}", vm.console_log().text());
    assert!(vm.console_log().text().contains("SAID 0"), "{}", vm.console_log().text());
    vm.delete().unwrap();
    let vm = boot(&rig, kernel, "again", guest("cat /kept; kill -9 $$"));
    assert_eq!(ended(&vm), ExitReason::Poweroff(137), "{}", vm.console_log().text());
    assert!(vm.console_log().text().contains("yes"), "{}", vm.console_log().text());
    vm.delete().unwrap();
}

#[test]
fn commands_whose_machine_rests_or_ends_and_streams_of_the_callers() {
    let rig = require_rig!();
    let image = busybox(&rig);
    let kernel = &rig.kernels[0];
    let vm = boot(&rig, kernel, "rests", Guest::new(&kernel.modules).root(&image, RootMode::ReadOnly));
    up(&vm);
    vm.freeze_with(FreezeOptions::new().deadline(PATIENCE)).unwrap();
    let e = vm.exec(ExecOptions::new(["true"]).deadline(Duration::from_millis(200))).unwrap_err();
    assert!(e.kind() == ErrorKind::Timeout && e.to_string().contains("thaw"), "{e}");
    vm.unfreeze().unwrap();
    assert_eq!(run(&vm, &["true"]).0, ExitStatus::Exited(0));
    // The root cannot be written to.
    assert_eq!(run(&vm, &["touch", "/x"]).0, ExitStatus::Exited(1));
    // Files of the caller's.
    let at = |name: &str| rig.dir.path().join(name);
    std::fs::write(at("in"), "x".repeat(300_000)).unwrap();
    let options = ExecOptions::new(["sh", "-c", "wc -c; cat /nothing"]).deadline(PATIENCE);
    let options = options.stdin(std::fs::File::open(at("in")).unwrap());
    let options = options.stdout(std::fs::File::create(at("out")).unwrap());
    let ended = vm.exec(options.stderr(std::fs::File::create(at("err")).unwrap())).unwrap().wait().unwrap();
    assert_eq!(ended, ExitStatus::Exited(1));
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    support::until(PATIENCE, "all was copied", || !read("out").is_empty() && read("err").contains("nothing"));
    assert_eq!(read("out").trim(), "300000");
    // A host that hangs up ends who writes; one that lets go of a command ends nothing.
    let mut yes = vm.exec(ExecOptions::new(["yes"]).stdout(Stdio::Piped).deadline(PATIENCE)).unwrap();
    drop(yes.take_stdout());
    let status = yes.wait_timeout(PATIENCE).unwrap();
    assert!(
        matches!(status, Some(ExitStatus::Signaled { signal: 13, .. } | ExitStatus::Exited(1))),
        "{status:?}"
    );
    drop(vm.exec(ExecOptions::new(["sh", "-c", "sleep 1; touch /tmp/later"]).deadline(PATIENCE)).unwrap());
    support::until(PATIENCE, "it went on", || {
        run(&vm, &["test", "-e", "/tmp/later"]).0 == ExitStatus::Exited(0)
    });
    // Connections that are not the agent's business, and one with another token.
    let mut stranger = vm.vsock_connect(1000, patient()).unwrap();
    stranger.write_all(&[5, 0, 0, 0, 1, 2, 3, 4, 5]).unwrap();
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
    assert_eq!(vm.vsock_connect(77, patient()).unwrap_err().kind(), ErrorKind::NotFound);
    let sleeps = vm.exec(ExecOptions::new(["sleep", "1000"]).deadline(PATIENCE)).unwrap();
    vm.stop().unwrap();
    assert_eq!(sleeps.wait().unwrap(), ExitStatus::Unknown);
    assert_eq!(vm.exec(ExecOptions::new(["true"])).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn debian_boots_from_a_disk_with_its_own_init() {
    let rig = require_rig!();
    let root = match support::fixture("debian") {
        Ok(root) => root,
        Err(why) => return support::skip(why),
    };
    let image = PackImage::new(Rootfs::dir(root)).run(rig.dir.path().join("images")).unwrap();
    let kernel = &rig.kernels[0];
    let guest = Guest::new(&kernel.modules)
        .root(&image, RootMode::Overlay)
        .init(GuestInit::Image(vec!["/sbin/init".into()]));
    let begin = Instant::now();
    // Without udev it would wait 90 s for the terminal's device to be announced.
    let line = format!("{LINE} systemd.mask=serial-getty@ttyS0.service");
    let vm = start(&rig, config(kernel, "debian", guest).command_line(line));
    up(&vm);
    let end = Instant::now() + 4 * PATIENCE;
    let state = loop {
        let (_, state) = run(&vm, &["systemctl", "is-system-running"]);
        if matches!(state.trim(), "running" | "degraded") {
            break state;
        }
        assert!(Instant::now() < end, "{state}; the console:\n{}", vm.console_log().text());
        std::thread::sleep(Duration::from_millis(500));
    };
    println!("Debian: {} after {} s", state.trim(), begin.elapsed().as_secs());
    let (_, failed) = run(&vm, &["systemctl", "--failed", "--plain", "--no-legend"]);
    assert_eq!(state.trim(), "running", "{failed}");
    let as_instance: Arc<dyn Instance> = vm.clone();
    as_instance.shutdown_with(ShutdownOptions::new().deadline(2 * PATIENCE)).unwrap();
    assert_eq!(vm.exit_reason(), Some(ExitReason::Poweroff(0)));
}

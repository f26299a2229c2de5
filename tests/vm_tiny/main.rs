//! Virtual machines with guests of a few instructions, on whatever KVM there is: they need no guest that boots.
#![allow(clippy::print_stderr)]

/// Skips the test where there is no KVM.
macro_rules! require_kvm {
    () => {
        if let Err(e) = stockade::vm::probe() {
            support::skip(format!("needs KVM: {e}"));
            return;
        }
    };
}

mod beside;
mod devices;
mod figures;
mod guests;
mod limits;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stockade::instance::{
    DeleteMode, DeleteOptions, FreezeOptions, ShutdownOptions, Status, StopOptions, WaitOptions,
};
use stockade::vm::{Disk, ExitReason, MemoryBacking, VmBuilder, Vsock};
use stockade::{ErrorKind, ExitStatus, Runtime, Vm, VmConfig};
use support::HostSnapshot;

const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { runtime: open(&dir), dir }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn config(&self, name: &str, kernel: &[u8]) -> VmBuilder {
        VmConfig::builder(name).kernel(self.file(name, kernel)).memory(32 << 20)
    }

    /// A machine that runs.
    fn start(&self, name: &str, kernel: &[u8]) -> Arc<Vm> {
        let vm = self.runtime.create(self.config(name, kernel).build().unwrap()).unwrap();
        vm.start().unwrap();
        vm
    }
}

fn open(dir: &tempfile::TempDir) -> Runtime {
    let at = |name| dir.path().join(name);
    Runtime::builder().state_dir(at("state")).run_dir(at("run")).open().unwrap()
}

fn ended(vm: &Vm) -> ExitReason {
    vm.wait_with(WaitOptions::new().deadline(PATIENCE)).unwrap();
    vm.exit_reason().unwrap()
}

/// Waits until the console has this many bytes.
fn console_has(vm: &Vm, bytes: u64) {
    support::until(PATIENCE, "the console has more", || vm.console_log().end() >= bytes);
}

#[test]
fn a_guest_ends_in_every_way_that_there_is() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let cases: [(&str, Vec<u8>, ExitReason, ExitStatus); 6] = [
        ("off", guests::hello(), ExitReason::Poweroff(7), ExitStatus::Exited(7)),
        ("reboot", guests::reboot(), ExitReason::Reboot(0), ExitStatus::Exited(0)),
        ("keyboard", guests::keyboard_reboot(), ExitReason::Reboot(0), ExitStatus::Exited(0)),
        ("triple", guests::triple_fault(), ExitReason::TripleFault, signaled(11)),
        ("panic", guests::panic(), ExitReason::Panic, signaled(6)),
        ("nobody", guests::nobody(), ExitReason::Poweroff(0), ExitStatus::Exited(0)),
    ];
    for (name, kernel, reason, status) in cases {
        let vm = rig.start(name, &kernel);
        assert_eq!(ended(&vm), reason, "{name}");
        assert_eq!((vm.wait().unwrap(), vm.status()), (status, Status::Stopped), "{name}");
        let said = vm.console_log().text();
        match name {
            "off" => assert_eq!(said, "hi"),
            "nobody" => assert_eq!(said, "F0"),
            _ => assert_eq!(said, ""),
        }
        assert!(vm.exit_counts().total() >= 1);
        vm.delete().unwrap();
    }
}

fn signaled(signal: i32) -> ExitStatus {
    ExitStatus::Signaled { signal, core_dumped: false }
}

#[test]
fn what_kvm_cannot_do_ends_with_its_reason() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let vm = rig.start("vector", &guests::vector());
    match ended(&vm) {
        // A KVM that runs it.
        ExitReason::Poweroff(0) => assert_eq!(vm.wait().unwrap(), ExitStatus::Exited(0)),
        ExitReason::Failed(why) => {
            assert!(why.contains("emulate") && why.contains("suberror 1"), "{why}");
            assert_eq!(vm.wait().unwrap(), ExitStatus::Unknown);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn every_guest_is_stopped_whatever_it_does() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    for (name, kernel) in [("spin", guests::spin()), ("halt", guests::halt()), ("flood", guests::flood())] {
        let vm = rig.start(name, &kernel);
        assert_eq!(vm.status(), Status::Running);
        assert_eq!(vm.start().unwrap_err().kind(), ErrorKind::InvalidState);
        assert_eq!(vm.delete().unwrap_err().kind(), ErrorKind::InvalidState);
        let soon = vm.wait_with(WaitOptions::new().deadline(Duration::from_millis(1)));
        assert_eq!(soon.unwrap_err().kind(), ErrorKind::Timeout);
        let button = vm.shutdown_with(ShutdownOptions::new().deadline(Duration::from_millis(10)));
        assert_eq!(button.unwrap_err().kind(), ErrorKind::Timeout);
        vm.stop_with(StopOptions::new().deadline(PATIENCE)).unwrap();
        assert_eq!((vm.exit_reason(), vm.wait().unwrap()), (Some(ExitReason::Stopped), signaled(9)));
        assert_eq!(vm.stop().unwrap_err().kind(), ErrorKind::InvalidState);
    }
}

#[test]
fn a_flood_of_output_stays_bounded() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let config = rig.config("flood", &guests::flood()).console_ring(1000).build().unwrap();
    let vm = rig.runtime.create(config).unwrap();
    vm.start().unwrap();
    console_has(&vm, 5000);
    let log = vm.console_log();
    assert_eq!((log.bytes.len(), log.start > 0), (1000, true));
    assert!(log.bytes.iter().all(|b| *b == b'.'));
    let new = vm.console_since(log.end());
    assert!(new.start >= log.end());
    vm.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)).unwrap();
}

#[test]
fn frozen_guests_do_nothing_and_go_on() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let vm = rig.start("flood", &guests::flood());
    for round in 0..5 {
        let before = vm.console_log().end();
        console_has(&vm, before + 10);
        vm.freeze_with(FreezeOptions::new().deadline(PATIENCE)).unwrap();
        assert_eq!((vm.status(), vm.freeze().unwrap_err().kind()), (Status::Frozen, ErrorKind::InvalidState));
        let frozen = vm.console_log().end();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(vm.console_log().end(), frozen, "round {round}");
        vm.unfreeze().unwrap();
        assert_eq!(vm.unfreeze().unwrap_err().kind(), ErrorKind::InvalidState);
    }
    vm.freeze().unwrap();
    vm.stop().unwrap();
    assert_eq!(vm.exit_reason(), Some(ExitReason::Stopped));
}

#[test]
fn garbage_on_every_port_does_no_harm() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let vm = rig.start("garbage", &guests::garbage());
    assert_eq!(ended(&vm), ExitReason::Poweroff(0));
    let counts = vm.exit_counts();
    assert!(counts.pio > 4000 && counts.mmio > 1000, "{counts:?}");
}

#[test]
fn the_timer_of_the_processor_interrupts() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let vm = rig.start("timer", &guests::timer());
    assert_eq!((ended(&vm), vm.console_log().text()), (ExitReason::Poweroff(0), "TTT".to_owned()));
}

#[test]
fn input_and_the_power_button_come_as_interrupts() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let vm = rig.start("echo", &guests::echo());
    console_has(&vm, 1);
    for n in 0..20_u8 {
        assert_eq!(vm.console_input(&[b'a' + n]).unwrap(), 1);
        console_has(&vm, 2 + u64::from(n));
    }
    assert_eq!(vm.console_log().text(), "rabcdefghijklmnopqrst");
    vm.shutdown_with(ShutdownOptions::new().deadline(PATIENCE)).unwrap();
    assert_eq!(vm.exit_reason(), Some(ExitReason::Poweroff(0)));
    assert_eq!(vm.console_input(b"x").unwrap_err().kind(), ErrorKind::InvalidState);
    // The same machine once more, from the beginning.
    vm.start().unwrap();
    console_has(&vm, 1);
    vm.restart().unwrap();
    console_has(&vm, 1);
    vm.kill(stockade::Signal::TERM).unwrap();
    assert_eq!(ended(&vm), ExitReason::Poweroff(0));
}

#[test]
fn a_second_processor_starts() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let vm = rig.runtime.create(rig.config("second", &guests::second()).vcpus(2).build().unwrap()).unwrap();
    vm.start().unwrap();
    assert_eq!((ended(&vm), vm.console_log().text()), (ExitReason::Poweroff(0), "2".to_owned()));
    // All that there can be: one waits for the others, which never begin.
    let most = rig.runtime.create(rig.config("most", &guests::spin()).vcpus(32).build().unwrap()).unwrap();
    most.start().unwrap();
    most.freeze_with(FreezeOptions::new().deadline(PATIENCE)).unwrap();
    most.unfreeze().unwrap();
    most.stop().unwrap();
}

#[test]
fn memory_of_every_kind_serves() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    for (name, backing, memory) in [
        ("private", MemoryBacking::Private, 33 << 20),
        ("shared", MemoryBacking::Shared, (32 << 20) + 4096),
        ("large", MemoryBacking::Private, 6 << 30),
    ] {
        let config = rig.config(name, &guests::hello()).memory(memory).memory_backing(backing);
        let vm = rig.runtime.create(config.build().unwrap()).unwrap();
        vm.start().unwrap();
        assert_eq!(ended(&vm), ExitReason::Poweroff(7), "{name}");
    }
    let config = rig.config("huge", &guests::hello()).memory(1 << 40).memory_backing(MemoryBacking::Huge1GiB);
    let vm = rig.runtime.create(config.build().unwrap()).unwrap();
    let e = vm.start().unwrap_err();
    assert!(e.to_string().contains("nr_hugepages"), "{e}");
    assert_eq!(vm.status(), Status::Stopped);
}

#[test]
fn kernels_that_cannot_be_used_are_named() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let hello = guests::hello();
    let own = std::env::current_exe().unwrap();
    let cases = [
        (rig.file("empty", b""), "empty"),
        (rig.file("text", b"hello, world"), "12 bytes"),
        (rig.file("cut", &hello[..hello.len() - 1]), "cut short"),
        (rig.file("packed", b"\x1f\x8b\x08\0\0\0\0\0"), "gzip"),
        (rig.dir.path().to_owned(), "no regular file"),
        (rig.dir.path().join("none"), "No such file"),
        (own, "below the first MiB"),
    ];
    for (n, (path, why)) in cases.into_iter().enumerate() {
        let config = VmConfig::builder(format!("wrong-{n}")).kernel(&path).build().unwrap();
        let vm = rig.runtime.create(config).unwrap();
        let e = vm.start().unwrap_err().to_string();
        assert!(e.contains(why) && e.contains(&path.display().to_string()), "{e} lacks {why}");
        assert_eq!(vm.status(), Status::Stopped);
        assert_eq!(vm.wait().unwrap_err().kind(), ErrorKind::InvalidState);
    }
    let large = rig.dir.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(40 << 20).unwrap();
    let config = rig.config("initramfs", &hello).initramfs(&large).build().unwrap();
    let e = rig.runtime.create(config).unwrap().start().unwrap_err().to_string();
    assert!(e.contains("40 MiB") && e.contains("at least") && e.contains("more memory"), "{e}");
}

#[test]
fn handles_come_and_go_and_the_machine_stays() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let vm = rig.start("stays", &guests::spin());
    let id = vm.id();
    drop(vm);
    let found = rig.runtime.get(&id).unwrap();
    assert_eq!((found.kind().as_str(), found.status()), ("virtual-machine", Status::Running));
    assert_eq!(rig.runtime.list().unwrap().len(), 1);
    assert_eq!(rig.runtime.container(&id).unwrap_err().kind(), ErrorKind::NotFound);
    // Another runtime on the same directories sees it, and cannot touch it.
    let other = open(&rig.dir);
    let seen = other.get(&id).unwrap();
    assert_eq!(seen.status(), Status::Running);
    assert_eq!(seen.stop().unwrap_err().kind(), ErrorKind::Unsupported);
    found.stop().unwrap();
    assert_eq!((seen.status(), seen.wait().unwrap()), (Status::Stopped, signaled(9)));
    let vm = rig.runtime.vm(&id).unwrap();
    vm.rename(&stockade::InstanceName::new("renamed").unwrap()).unwrap();
    vm.start().unwrap();
    rig.runtime.clone().close();
    assert_eq!(vm.status(), Status::Stopped);
    vm.delete().unwrap();
    assert_eq!(vm.start().unwrap_err().kind(), ErrorKind::NotFound);
    assert!(rig.runtime.list().unwrap().is_empty());

    let config = rig.config("brief", &guests::spin()).ephemeral().kill_on_drop().build().unwrap();
    let brief = rig.runtime.create(config).unwrap();
    brief.start().unwrap();
    let id = brief.id();
    drop(brief);
    assert_eq!(rig.runtime.get(&id).unwrap().status(), Status::Stopped);
    let again = rig.runtime.vm(&id).unwrap();
    again.start().unwrap();
    again.stop().unwrap();
    assert_eq!(rig.runtime.get(&id).unwrap_err().kind(), ErrorKind::NotFound);
}

/// The directory of the host that is to die, where this process is that host.
const DOOMED: &str = "STOCKADE_TEST_DOOMED";

#[test]
fn a_machine_ends_with_its_host_and_is_found_stopped() {
    if let Some(dir) = std::env::var_os(DOOMED) {
        return die(PathBuf::from(dir));
    }
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let this = std::env::current_exe().unwrap();
    let mut host = std::process::Command::new(this)
        .args(["--exact", "a_machine_ends_with_its_host_and_is_found_stopped", "--nocapture"])
        .env(DOOMED, rig.dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let there = rig.dir.path().join("runs");
    support::until(PATIENCE, "the machine runs", || there.exists());
    let vm = rig.runtime.vm(&"doomed".parse().unwrap()).unwrap();
    assert_eq!((vm.status(), vm.start().unwrap_err().kind()), (Status::Running, ErrorKind::Unsupported));
    assert_eq!(vm.delete().unwrap_err().kind(), ErrorKind::Unsupported);
    host.kill().unwrap();
    host.wait().unwrap();
    assert_eq!((vm.status(), vm.wait().unwrap()), (Status::Stopped, ExitStatus::Unknown));
    assert_eq!(open(&rig.dir).get(&vm.id()).unwrap().status(), Status::Stopped);
    vm.start().unwrap();
    assert_eq!(vm.status(), Status::Running);
    vm.stop().unwrap();
    vm.delete().unwrap();
}

fn die(dir: PathBuf) {
    let at = |name| dir.join(name);
    let runtime = Runtime::builder().state_dir(at("state")).run_dir(at("run")).open().unwrap();
    std::fs::write(at("spin"), guests::spin()).unwrap();
    let config = VmConfig::builder("doomed").kernel(at("spin")).memory(32 << 20).build().unwrap();
    runtime.create(config).unwrap().start().unwrap();
    std::fs::write(at("runs"), "").unwrap();
    std::thread::sleep(PATIENCE);
}

#[test]
fn damaged_records_are_errors() {
    let _serial = support::serial();
    let rig = Rig::new();
    for (n, (was, is)) in
        [("\"vcpus\":1", "\"vcpus\":0"), ("\"memory\":33554432", "\"memory\":1"), ("\"kernel\"", "\"k\"")]
            .into_iter()
            .enumerate()
    {
        let name = format!("damaged-{n}");
        let vm = rig.runtime.create(rig.config(&name, b"").build().unwrap()).unwrap();
        let id = vm.id();
        drop(vm);
        let record = rig.dir.path().join(format!("state/instances/default/{name}/record.json"));
        let text = std::fs::read_to_string(&record).unwrap();
        assert!(text.contains(was), "{text}");
        std::fs::write(&record, text.replace(was, is)).unwrap();
        let e = rig.runtime.get(&id).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
        assert!(rig.runtime.list().unwrap().is_empty());
        std::fs::remove_dir_all(record.parent().unwrap()).unwrap();
    }
}

#[test]
fn twenty_machines_come_and_go_and_leave_nothing() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    // The first one installs the handler of the kick, which stays.
    ended(&rig.start("first", &guests::hello()));
    assert!(stockade::vm::kick_signal().is_some());
    let before = HostSnapshot::take();
    let machines: Vec<Arc<Vm>> = (0..20)
        .map(|n| {
            let guest = if n % 2 == 0 { guests::hello() } else { guests::spin() };
            let disk = Disk::new(rig.file(&format!("image-{n}"), &[0; 512]));
            let config = rig.config(&format!("vm-{n}"), &guest).vcpus(1 + n % 3).rng().disk(disk);
            let vsock = Vsock::default().socket(rig.dir.path().join(format!("vsock-{n}")));
            let config = config.vsock(vsock).balloon().virtio_console();
            rig.runtime.create(config.build().unwrap()).unwrap()
        })
        .collect();
    for _ in 0..3 {
        machines.iter().for_each(|vm| vm.start().unwrap());
        before.assert_new_fds_cloexec();
        for (n, vm) in machines.iter().enumerate() {
            if n % 2 == 0 {
                assert_eq!(ended(vm), ExitReason::Poweroff(7));
            } else {
                vm.stop().unwrap();
            }
        }
    }
    machines.iter().for_each(|vm| vm.delete().unwrap());
    drop(machines);
    before.assert_unchanged();
}

#[test]
fn forty_machines_at_once_each_do_as_they_are_told() {
    const COUNT: usize = 40;
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    ended(&rig.start("first", &guests::hello()));
    let before = HostSnapshot::take();
    let kernel = guests::echo();
    let machines: Vec<Arc<Vm>> = (0..COUNT).map(|n| rig.start(&format!("vm-{n}"), &kernel)).collect();
    machines.iter().for_each(|vm| console_has(vm, 1));
    assert!(machines.iter().all(|vm| vm.status() == Status::Running));
    // Each hears what is typed in it, and no other.
    let letter = |n: usize| char::from(b'A' + u8::try_from(n).unwrap());
    for (n, vm) in machines.iter().enumerate() {
        assert_eq!(vm.console_input(letter(n).to_string().as_bytes()).unwrap(), 1);
    }
    for (n, vm) in machines.iter().enumerate() {
        console_has(vm, 2);
        assert_eq!(vm.console_log().text(), format!("r{}", letter(n)));
    }
    machines.iter().for_each(|vm| vm.freeze_with(FreezeOptions::new().deadline(PATIENCE)).unwrap());
    assert!(machines.iter().all(|vm| vm.status() == Status::Frozen));
    machines.iter().for_each(|vm| vm.unfreeze().unwrap());
    // Somebody waits for each. Half end by themselves, half are stopped, from threads of their own.
    let waiting: Vec<_> = machines
        .iter()
        .map(|vm| {
            let vm = Arc::clone(vm);
            std::thread::spawn(move || vm.wait_with(WaitOptions::new().deadline(PATIENCE)).unwrap())
        })
        .collect();
    std::thread::scope(|scope| {
        for (n, vm) in machines.iter().enumerate() {
            scope.spawn(move || match n % 2 {
                0 => vm.shutdown_with(ShutdownOptions::new().deadline(PATIENCE)).unwrap(),
                _ => vm.stop_with(StopOptions::new().deadline(PATIENCE)).unwrap(),
            });
        }
    });
    for (n, waiter) in waiting.into_iter().enumerate() {
        let status = if n % 2 == 0 { ExitStatus::Exited(0) } else { signaled(9) };
        assert_eq!(waiter.join().unwrap(), status, "vm-{n}");
    }
    machines.iter().for_each(|vm| vm.delete().unwrap());
    eprintln!("{COUNT} machines at once");
    drop(machines);
    before.assert_unchanged();
}

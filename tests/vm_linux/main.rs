//! Virtual machines with Debian's kernels: in the lane with `--kvm` alone, since a KVM that interprets runs no Linux.
//!
//! A boot takes seconds there, so a guest that is up is asked many things; both kernels are in it where they differ.

#![allow(clippy::print_stdout)]

macro_rules! require_rig {
    () => {
        match rig() {
            Ok(rig) => rig,
            Err(why) => return support::skip(why),
        }
    };
}

mod agent;
mod initramfs;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use initramfs::Kernel;
use stockade::instance::{FreezeOptions, ShutdownOptions, Status, WaitOptions};
use stockade::vm::ExitReason;
use stockade::{Runtime, Vm, VmConfig};

const PATIENCE: Duration = Duration::from_secs(120);
/// The goal for a whole boot.
const EXITS: u64 = 500;
const LINE: &str = "console=ttyS0 quiet panic=-1 pci=off mitigations=off cryptomgr.notests";
/// For the power button, and for word of a panic.
const MODULES: &[&str] = &[
    "drivers/acpi/button",
    "drivers/input/evdev",
    "drivers/misc/pvpanic/pvpanic",
    "drivers/misc/pvpanic/pvpanic-mmio",
];

struct Rig {
    runtime: Runtime,
    dir: tempfile::TempDir,
    /// The newest first.
    kernels: [Kernel; 2],
    busybox: PathBuf,
    /// Last: guests that share the emulated processor would only make each other slow.
    _serial: support::Serial,
}

/// What the tests need, or why they cannot run here.
fn rig() -> Result<Rig, String> {
    if std::env::var_os("VM_LANE").is_none() {
        return Err("needs a KVM that runs Linux: the lane with --kvm".to_owned());
    }
    stockade::vm::probe().map_err(|e| format!("needs KVM (the lane with --kvm): {e}"))?;
    let busybox = initramfs::busybox().ok_or("needs the lane's busybox")?;
    let kernels = initramfs::kernels()?;
    let serial = support::serial();
    let dir = tempfile::tempdir_in("/run").map_err(|e| e.to_string())?;
    let at = |name| dir.path().join(name);
    let runtime = Runtime::builder().state_dir(at("state")).run_dir(at("run")).open();
    Ok(Rig { runtime: runtime.map_err(|e| e.to_string())?, dir, kernels, busybox, _serial: serial })
}

/// How a boot went, up to the first word of its init.
struct Boot {
    vm: Arc<Vm>,
    to_init: Duration,
}

impl Rig {
    fn start(&self, kernel: &Kernel, image: &PathBuf, what: &str, vcpus: u8) -> Boot {
        let initramfs = self.dir.path().join(format!("initramfs-{}", kernel.release));
        if !initramfs.is_file() {
            std::fs::write(&initramfs, initramfs::pack(kernel, &self.busybox, MODULES)).unwrap();
        }
        let config = VmConfig::builder(what)
            .kernel(image)
            .initramfs(&initramfs)
            .command_line(format!("{LINE} do={what}"))
            .vcpus(vcpus)
            .memory(192 << 20)
            .ephemeral();
        let vm = self.runtime.create(config.build().unwrap()).unwrap();
        let begin = Instant::now();
        vm.start().unwrap();
        says(&vm, "INIT ");
        Boot { vm, to_init: begin.elapsed() }
    }
}

/// Waits until the guest has said this.
fn says(vm: &Vm, what: &str) {
    let end = Instant::now() + PATIENCE;
    while !vm.console_log().text().contains(what) {
        let reason = vm.exit_reason();
        let late = Instant::now() > end;
        if (late || reason.is_some()) && !vm.console_log().text().contains(what) {
            panic!("no {what:?} ({reason:?}); the console:\n{}", vm.console_log().text());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ended(vm: &Vm) -> ExitReason {
    if let Err(e) = vm.wait_with(WaitOptions::new().deadline(PATIENCE)) {
        panic!("{e}; the console:\n{}", vm.console_log().text());
    }
    vm.exit_reason().unwrap()
}

fn finish(vm: &Vm) {
    assert!(!vm.console_log().text().contains("NO MODULE"), "{}", vm.console_log().text());
    vm.delete().unwrap();
}

#[test]
fn every_kernel_boots_with_one_and_two_processors_and_switches_off() {
    let rig = require_rig!();
    for kernel in &rig.kernels {
        for vcpus in [1, 2] {
            let Boot { vm, to_init } = rig.start(kernel, &kernel.vmlinux, "off", vcpus);
            assert_eq!(ended(&vm), ExitReason::Poweroff(5));
            let (counts, text) = (vm.exit_counts(), vm.console_log().text());
            let line = text.lines().find(|l| l.starts_with("INIT ")).unwrap().trim_end().to_owned();
            println!(
                "{} vcpus={vcpus}: {} ms to init, {counts:?}, {line}",
                kernel.release,
                to_init.as_millis()
            );
            assert!(line.contains(&format!("cpus={vcpus} ")) && line.contains("clock=kvm-clock"), "{text}");
            assert!(counts.total() <= EXITS, "{counts:?}\n{text}");
            finish(&vm);
        }
    }
}

#[test]
fn a_bzimage_boots_too() {
    let rig = require_rig!();
    let kernel = &rig.kernels[0];
    let Boot { vm, to_init } = rig.start(kernel, &kernel.bzimage, "off", 1);
    assert_eq!(ended(&vm), ExitReason::Poweroff(5));
    println!("{} bzImage: {} ms to init, {:?}", kernel.release, to_init.as_millis(), vm.exit_counts());
    finish(&vm);
}

#[test]
fn the_pvh_entry_boots_too() {
    let rig = require_rig!();
    let kernel = &rig.kernels[0];
    let initramfs = rig.dir.path().join("initramfs");
    std::fs::write(&initramfs, initramfs::pack(kernel, &rig.busybox, MODULES)).unwrap();
    let config = VmConfig::builder("pvh")
        .kernel(&kernel.vmlinux)
        .initramfs(&initramfs)
        .boot_protocol(stockade::vm::BootProtocol::Pvh)
        .command_line(format!("{LINE} do=off"))
        .memory(192 << 20);
    let vm = rig.runtime.create(config.build().unwrap()).unwrap();
    let begin = Instant::now();
    vm.start().unwrap();
    says(&vm, "INIT ");
    println!("{} PVH: {} ms to init, {:?}", kernel.release, begin.elapsed().as_millis(), vm.exit_counts());
    assert_eq!(ended(&vm), ExitReason::Poweroff(5));
    finish(&vm);
}

#[test]
fn reboot_and_panic_are_told_apart() {
    let rig = require_rig!();
    let [new, old] = &rig.kernels;
    let (reboot, panic) = (ExitReason::Reboot(0), ExitReason::Panic);
    for (kernel, what, reason) in [
        (new, "reboot", reboot.clone()),
        (new, "panic", panic.clone()),
        (old, "panic", panic),
        // Without its driver, a panic is a restart, for which `panic=-1` asks.
        (old, "bare", reboot),
    ] {
        let Boot { vm, .. } = rig.start(kernel, &kernel.vmlinux, what, 1);
        assert_eq!(ended(&vm), reason, "{what}, {}\n{}", kernel.release, vm.console_log().text());
        finish(&vm);
    }
}

#[test]
fn the_power_button_reaches_the_guest() {
    let rig = require_rig!();
    for kernel in &rig.kernels {
        let Boot { vm, .. } = rig.start(kernel, &kernel.vmlinux, "button", 1);
        says(&vm, "LISTENING");
        let pressed = vm.shutdown_with(ShutdownOptions::new().deadline(PATIENCE));
        assert!(pressed.is_ok(), "{pressed:?}\n{}", vm.console_log().text());
        assert!(vm.console_log().text().contains("PRESSED"));
        assert_eq!(vm.exit_reason(), Some(ExitReason::Poweroff(0)));
        assert!(rig.runtime.get(&vm.id()).is_err(), "an ephemeral one goes with its end");
    }
}

#[test]
fn a_frozen_guest_rests_and_goes_on_and_hears_what_is_typed() {
    let rig = require_rig!();
    let kernel = &rig.kernels[0];
    let Boot { vm, .. } = rig.start(kernel, &kernel.vmlinux, "count", 2);
    says(&vm, "COUNT 5");
    vm.freeze_with(FreezeOptions::new().deadline(PATIENCE)).unwrap();
    let at = vm.console_log().end();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((vm.console_log().end(), vm.status()), (at, Status::Frozen));
    vm.unfreeze().unwrap();
    support::until(PATIENCE, "it counts on", || vm.console_log().end() > at + 100);
    assert_eq!(vm.console_input(b"one two\nend\n").unwrap(), 12);
    says(&vm, "ECHO one two");
    assert_eq!(ended(&vm), ExitReason::Poweroff(0));
    finish(&vm);
}

//! The balloon as a limit, and what machines count.

use std::time::Duration;

use stockade::ErrorKind;
use stockade::cgroup::{Limit, Limits};
use stockade::vm::{Disk, Vsock};

use super::limits::started;
use super::{PATIENCE, Rig, guests};

#[test]
fn a_limit_of_memory_moves_the_balloon() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let config = rig.config("memory", &guests::spin()).memory(64 << 20).balloon();
    let vm = started(&rig, config.limits(Limits::new().memory_max(48 << 20)));
    let target = || vm.vm_stats().unwrap().balloon.unwrap().target;
    assert_eq!(target(), 16 << 20);
    vm.update(Limits::new().memory_max(40 << 20)).unwrap();
    assert_eq!(target(), 24 << 20);
    for wrong in [1_u64, 65 << 20] {
        let e = vm.update(Limits::new().memory_max(wrong)).unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("memory_max"), "{e}");
    }
    assert_eq!((target(), vm.balloon().unwrap()), (24 << 20, 0));
    // The next run as well.
    vm.restart().unwrap();
    assert_eq!(target(), 24 << 20);
    vm.update(Limits::new().memory_max(Limit::Max)).unwrap();
    assert_eq!(target(), 0);
    vm.stop().unwrap();
    let none = rig.start("none", &guests::spin());
    let e = none.update(Limits::new().memory_max(32 << 20)).unwrap_err();
    assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("balloon"), "{e}");
    assert_eq!(none.config().limits(), &Limits::new());
    none.stop().unwrap();
}

#[test]
fn a_machine_counts_what_it_uses() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let disk = Disk::new(rig.file("disk", &[vec![b'a'; 512], vec![0; 512]].concat())).with_id("root");
    let config = rig.config("counts", &guests::disk_and_spin()).disk(disk).vcpus(2).vsock(Vsock::default());
    let vm = started(&rig, config);
    super::console_has(&vm, 4);
    support::until(PATIENCE, "the processor has run", || {
        vm.vm_stats().unwrap().vcpus[0] > Duration::from_millis(20)
    });
    let stats = vm.vm_stats().unwrap();
    eprintln!("{stats:?}");
    assert_eq!((stats.vcpus.len(), stats.disks.len(), stats.memory), (2, 1, 32 << 20));
    let disk = &stats.disks[0];
    assert_eq!(
        (disk.id.as_str(), disk.reads, disk.read_bytes, disk.writes, disk.written_bytes),
        ("root", 1, 512, 1, 512)
    );
    // The third request was for a sector that is not there.
    assert_eq!((disk.errors, disk.flushes), (1, 0));
    assert!(stats.memory_resident > 0 && stats.memory_resident <= 33 << 20);
    assert!(stats.exits.total() > 0 && stats.balloon.is_none() && stats.vsock.is_some());
    let same = stockade::Instance::metrics(&*vm).unwrap().stats().unwrap();
    assert!(same.cpu.unwrap().usage >= stats.vcpus[0]);
    assert!(same.memory.unwrap().current.unwrap() > 0);
    assert_eq!(same.pids.unwrap().current, 4);
    vm.stop().unwrap();
    assert_eq!(vm.vm_stats().unwrap_err().kind(), ErrorKind::InvalidState);
}

//! Devices, as a guest and as the host meet them.

use std::sync::Arc;
use std::time::Duration;

use stockade::ErrorKind;
use stockade::instance::{ExecOptions, FreezeOptions, ShutdownOptions, Status, WaitOptions};
use stockade::vm::{Disk, ExitReason, Guest, Vsock};

use super::{PATIENCE, Rig, ended, guests};

#[test]
fn disks_are_read_and_written_and_must_be_there() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let disk = rig.file("disk", &[vec![b'a'; 512], vec![0; 512]].concat());
    let config = rig.config("disk-guest", &guests::disk()).disk(Disk::new(&disk));
    let vm = rig.runtime.create(config.build().unwrap()).unwrap();
    vm.start().unwrap();
    assert_eq!((ended(&vm), vm.console_log().text()), (ExitReason::Poweroff(0), "0a01".to_owned()));
    let written = std::fs::read(&disk).unwrap();
    assert_eq!((written.len(), written[512], written[513]), (1024, b'b', b'a'));
    // Again, with a disk that can only be read.
    let config = rig.config("read-only", &guests::disk()).disk(Disk::new(&disk).read_only());
    let vm = rig.runtime.create(config.build().unwrap()).unwrap();
    vm.start().unwrap();
    assert_eq!((ended(&vm), vm.console_log().text()), (ExitReason::Poweroff(0), "0a11".to_owned()));
    // The most that there can be, each with its thread, paused and thawed.
    let mut config = rig.config("twelve", &guests::spin());
    for n in 0..12 {
        config = config.disk(Disk::new(rig.file(&format!("disk-{n}"), &[0; 512])));
    }
    let vm = rig.runtime.create(config.build().unwrap()).unwrap();
    vm.start().unwrap();
    vm.freeze_with(FreezeOptions::new().deadline(PATIENCE)).unwrap();
    vm.unfreeze().unwrap();
    // One disk, one machine.
    let config = rig.config("second-user", &guests::hello()).disk(Disk::new(rig.dir.path().join("disk-3")));
    let second = rig.runtime.create(config.build().unwrap()).unwrap();
    let e = second.start().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
    vm.stop().unwrap();
    second.start().unwrap();
    assert_eq!(ended(&second), ExitReason::Poweroff(7));
    // None at all is said before anything is made.
    let none = rig.dir.path().join("no-disk");
    let config = rig.config("none", &guests::hello()).disk(Disk::new(&none));
    let vm = rig.runtime.create(config.build().unwrap()).unwrap();
    let e = vm.start().unwrap_err();
    assert_eq!((e.kind(), e.what()), (ErrorKind::NotFound, none.to_str()));
    assert_eq!(vm.status(), Status::Stopped);
}

#[test]
fn sockets_without_a_driver_and_without_a_device_are_errors() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let socket = rig.dir.path().join("vsock");
    let config = rig.config("sockets", &guests::spin()).vsock(Vsock::default().socket(&socket));
    let vm = rig.runtime.create(config.build().unwrap()).unwrap();
    assert_eq!(vm.vsock_connect(1, WaitOptions::new()).unwrap_err().kind(), ErrorKind::InvalidState);
    vm.start().unwrap();
    let soon = || WaitOptions::new().deadline(Duration::from_millis(50));
    assert_eq!(vm.vsock_connect(1, soon()).unwrap_err().kind(), ErrorKind::Timeout);
    let listener = vm.vsock_listen(1).unwrap();
    assert_eq!(listener.accept(soon()).unwrap_err().kind(), ErrorKind::Timeout);
    // Who comes by the Unix socket waits for the guest's driver, without using the processor.
    let outside = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    std::io::Write::write_all(&mut &outside, b"CONNECT 1\n").unwrap();
    // A caller who waits while the machine ends.
    let waiting = {
        let vm = Arc::clone(&vm);
        std::thread::spawn(move || vm.vsock_connect(1, WaitOptions::new().deadline(PATIENCE)))
    };
    std::thread::sleep(Duration::from_millis(50));
    vm.stop().unwrap();
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(listener.accept(soon()).unwrap_err().kind(), ErrorKind::InvalidState);
    assert!(!socket.exists());
    let none = rig.start("no-sockets", &guests::spin());
    assert_eq!(none.vsock_connect(1, soon()).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(none.guest_state(soon()).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(none.set_balloon(0).unwrap_err().kind(), ErrorKind::Unsupported);
    none.stop().unwrap();
}

#[test]
fn a_guest_whose_agent_never_comes_is_an_error_in_time() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    let modules = rig.dir.path().join("modules");
    let guest = || Guest::new(&modules);
    let vm =
        rig.runtime.create(rig.config("silent", &guests::spin()).guest(guest()).build().unwrap()).unwrap();
    // No modules: said before anything runs.
    let e = vm.start().unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("modules.dep"), "{e}");
    assert_eq!(vm.status(), Status::Stopped);
    std::fs::create_dir(&modules).unwrap();
    rig.file("modules/modules.dep", b"");
    rig.file("modules/modules.builtin", b"virtio_mmio.ko\nvmw_vsock_virtio_transport.ko\n");
    vm.start().unwrap();
    let soon = || WaitOptions::new().deadline(Duration::from_millis(50));
    assert_eq!(vm.wait_agent(soon()).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(vm.vsock_listen(1000).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let exec = vm.exec(ExecOptions::new(["true"]).deadline(Duration::from_millis(50)));
    assert_eq!(exec.unwrap_err().kind(), ErrorKind::Timeout);
    let shutdown = vm.shutdown_with(ShutdownOptions::new().deadline(Duration::from_millis(50)));
    assert_eq!(shutdown.unwrap_err().kind(), ErrorKind::Timeout);
    // One that waits while the machine ends.
    let waiting = {
        let vm = Arc::clone(&vm);
        std::thread::spawn(move || vm.wait_agent(WaitOptions::new().deadline(PATIENCE)))
    };
    std::thread::sleep(Duration::from_millis(50));
    vm.stop().unwrap();
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::InvalidState);
    let both = rig.config("both", b"").guest(guest()).initramfs("/i").build().unwrap_err().to_string();
    assert!(both.contains("initramfs"), "{both}");
}

#[test]
fn a_virtio_device_answers_and_does_not_believe_everything() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    for (name, kernel, said) in [("random", guests::random(), "RRR"), ("hostile", guests::hostile(), "oN0")] {
        let vm = rig.runtime.create(rig.config(name, &kernel).rng().vcpus(2).build().unwrap()).unwrap();
        vm.start().unwrap();
        assert_eq!((ended(&vm), vm.console_log().text()), (ExitReason::Poweroff(0), said.to_owned()));
    }
    // Paused and thawed with its event thread.
    let vm = rig.runtime.create(rig.config("pause", &guests::spin()).rng().build().unwrap()).unwrap();
    vm.start().unwrap();
    vm.freeze_with(FreezeOptions::new().deadline(PATIENCE)).unwrap();
    vm.unfreeze().unwrap();
    vm.stop().unwrap();
}

//! `setxattr`, `sysinfo`, `sched_setscheduler`; and callers of all kinds.

use std::path::Path;
use std::sync::Arc;

use stockade::Rootfs;
use stockade::cgroup::{CpuSet, Limits};
use stockade::container::{Container, ContainerBuilder, ContainerConfig, Mount};
use stockade::seccomp::{Interception, MountInterception, Nodes};

use super::rig::{Rig, busybox, end};
use super::{fails, inside, works};

/// A container with a Debian, which has Python and GNU tar, and a directory with its own ids at `/work`.
pub(super) fn debian(work: &Path, name: &str) -> Option<ContainerBuilder> {
    let root = support::fixture("debian").map_err(support::skip).ok()?;
    let config = ContainerConfig::builder(name)
        .rootfs(Rootfs::overlay([root]))
        .mount(Mount::bind(work, "/work").idmapped())
        .mount(Mount::bind(std::env::current_exe().unwrap(), inside::PROGRAM))
        .args(["sleep", "1000"])
        .env("LC_ALL", "C")
        .kill_on_drop();
    Some(config)
}

/// Starts a Debian for `test`.
pub(super) fn in_debian(what: &Interception, test: impl Fn(&Container, &Path)) {
    let Some(rig) = Rig::new() else { return };
    let work = tempfile::tempdir().unwrap();
    if let Some(config) = debian(work.path(), "debian") {
        let c: Arc<Container> = rig.run(config.intercept(what.clone()));
        test(&c, work.path());
        end(c);
    }
    drop(work);
    rig.end();
}

#[test]
fn an_opaque_directory_can_be_marked_and_nothing_else() {
    in_debian(&Interception::new().setxattr(), |c, work| {
        let Some(said) = inside::run(c, "xattr") else { return };
        let expected = [
            r#"("0", "0") ("0", "0") ("0", "0")"#,
            r#"("ENOENT", "ENOENT") ("EPERM", "EPERM") ("EPERM", "EPERM")"#,
            r#"("0", "EPERM")"#,
            "EEXIST",
            "EPERM EPERM EPERM 0",
        ];
        assert_eq!(said, expected);
        // On the host it is the attribute that an overlay looks for.
        let mut value = [0_u8; 8];
        let len = rustix::fs::getxattr(work.join("d"), "trusted.overlay.opaque", &mut value).unwrap();
        assert_eq!(&value[..len], b"y");
    });
    in_debian(&Interception::new().sysinfo(), |c, _| {
        let Some(said) = inside::run(c, "xattr") else { return };
        assert_eq!(said[0], r#"("EPERM", "EPERM") ("EPERM", "EPERM") ("EPERM", "EPERM")"#);
    });
}

#[test]
fn sysinfo_shows_the_container() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("info").intercept(Interception::new().sysinfo()));
    // The time since its start, in busybox's words.
    let uptime = works(&c, "uptime");
    assert!(uptime.contains("up 0 min") || uptime.contains("up 1 min"), "{uptime}");
    end(c);
    let c = rig.run(busybox("host"));
    let of_host = works(&c, "uptime; cat /proc/uptime");
    eprintln!("with: {uptime}; without: {of_host}");
    end(c);

    let limits = Limits::new().memory_max(64 << 20_u64).pids_max(50_u64);
    let limits = limits.cpuset_cpus(CpuSet::new([0]).unwrap());
    let config = busybox("limits").limits(limits).intercept(Interception::new().sysinfo());
    let c = rig.runtime.create(config.build().unwrap()).unwrap();
    match c.start() {
        Err(e) if e.to_string().contains("controller") => support::skip(format!("limits: {e}")),
        started => {
            started.unwrap();
            // The columns may touch: what is used busybox works out with the page cache of the machine.
            let free = works(&c, "free -k");
            let mem =
                free.lines().find_map(|line| line.strip_prefix("Mem:")).unwrap().trim_start().to_owned();
            assert!(mem.starts_with("65536"), "{free}");
            assert_eq!(works(&c, "nproc").trim(), "1");
        }
    }
    end(c);
    rig.end();
}

#[test]
fn real_time_scheduling_by_root_of_the_container() {
    in_debian(&Interception::new().sched_setscheduler(), |c, _| {
        let Some(said) = inside::run(c, "sched") else { return };
        assert_eq!(said[..4], ["0 2", "0 2", "0 2", "0 1"]);
        assert_eq!(said[4..], ["EINVAL EINVAL ESRCH EINVAL EFAULT", "0", "EPERM"]);
    });
    in_debian(&Interception::new().sysinfo(), |c, _| {
        let Some(said) = inside::run(c, "sched") else { return };
        assert_eq!(said[..2], ["EPERM 0", "EPERM 0"]);
    });
}

/// A notification has the number of a thread, which is no process's (lxc/incus#3637).
#[test]
fn callers_that_are_not_the_first_thread() {
    in_debian(&Interception::new().mknod(Nodes::Plain).setxattr().sysinfo(), |c, _| {
        let Some(said) = inside::run(c, "threads") else { return };
        assert_eq!(said, ["0 256"]);
        eprintln!("32 threads, 768 calls");
    });
}

#[test]
fn an_image_with_nodes_unpacks() {
    // As a layer of an image has it: nodes, a whiteout, owners.
    let make = "mkdir -p layer/dev; cd layer/dev; mknod null c 1 3; mknod zero c 1 5; mknod tty c 5 0; mknod gone c 0 0
        mkfifo pipe; chown 7:7 pipe; chgrp 5 tty; chmod 666 null zero; chmod 620 tty; chmod 600 gone pipe
        cd ../..; tar -cf layer.tar --numeric-owner -C layer dev; rm -r layer";
    let unpack = "mkdir /work/tree; tar -xpf /work/layer.tar -C /work/tree --numeric-owner --same-owner";
    in_debian(&Interception::new().mknod(Nodes::Plain).setxattr(), |c, work| {
        let made = std::process::Command::new("sh").args(["-euc", make]).current_dir(work).status();
        assert!(made.unwrap().success());
        works(c, unpack);
        let listed = works(c, "cd /work/tree/dev; stat -c '%n %t:%T %a %u:%g' *");
        let expected =
            "gone 0:0 600 0:0\nnull 1:3 666 0:0\npipe 0:0 600 7:7\ntty 5:0 620 0:5\nzero 1:5 666 0:0";
        assert_eq!(listed, expected);
        works(c, "rm -rf /work/tree");
    });
    in_debian(&Interception::new().sysinfo(), |c, work| {
        let made = std::process::Command::new("sh").args(["-euc", make]).current_dir(work).status();
        assert!(made.unwrap().success());
        assert!(fails(c, unpack).contains("Cannot mknod: Operation not permitted"));
    });
}

/// What the supervisor makes of addresses where nothing is, and of paths that lead nowhere, is what the kernel makes of them.
#[test]
fn wrong_pointers_fail_as_on_a_plain_kernel() {
    let mut all = Vec::new();
    let policy = stockade::cgroup::DevicePolicy::standard;
    let mount = MountInterception::new().allow("ext4");
    let everything = Interception::new().mknod(Nodes::Plain).setxattr().sched_setscheduler().sysinfo();
    for what in [everything.bpf_devices().mount(mount), Interception::new()] {
        let Some(rig) = Rig::new() else { return };
        let work = tempfile::tempdir().unwrap();
        if let Some(config) = debian(work.path(), "pointers") {
            let c = rig.run(config.devices(policy()).intercept(what));
            all.push(inside::run(&c, "pointers"));
            end(c);
        }
        drop(work);
        rig.end();
    }
    let [Some(with), Some(without)] = &all[..] else { return };
    // On a plain kernel the permission is asked for first, or last: the others are the same.
    for (with, without) in with.iter().zip(without) {
        let pairs = with.split(' ').zip(without.split(' '));
        for (a, b) in pairs {
            assert!(a == b || b == "EPERM", "{with} | {without}");
        }
    }
    assert_eq!(with[2], "0", "a path of 4,090 bytes: {with:?}");
    eprintln!("{} lines of wrong pointers: {with:?}", with.len());
}

/// Programs of 32 bits run in containers, and x32 numbers come from any program.
#[test]
fn calls_through_other_abis() {
    in_debian(&Interception::new().mknod(Nodes::Plain).sysinfo(), |c, _| {
        let Some(said) = inside::run(c, "abis") else { return };
        // The memory unit of 4,096, in units of 256.
        if said[0].contains("Exec format error") {
            support::skip("this kernel runs no programs of 32 bits");
        } else {
            assert_eq!(said[..2], ["0 1 16", "259"], "{said:?}");
        }
        let x32 = said[2].starts_with("0 ");
        assert!(x32, "{said:?}");
        eprintln!("{said:?}");
    });
}

#[test]
fn races_and_dying_callers_lead_nowhere() {
    in_debian(&Interception::new().mknod(Nodes::Usable).sysinfo(), |c, work| {
        let Some(said) = inside::run(c, "races") else { return };
        // Nothing came where the links led.
        let listed = works(c, "ls /dev");
        for entry in listed.lines() {
            assert!(!entry.starts_with('n') || entry == "null", "{entry}");
        }
        let nodes = std::fs::read_dir(work.join("in/b")).unwrap().count();
        eprintln!("{} nodes beside a directory that was a link, {nodes} by callers that died", said[0]);
        // The supervisor answers on.
        works(c, "mknod /work/last c 1 3");
    });
}

#[test]
fn interception_is_for_unprivileged_containers_with_a_filter() {
    use stockade::container::SeccompConfig;
    let some = Interception::new().mknod(Nodes::Plain);
    let base = || ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x"));
    let fields = |b: ContainerBuilder| b.problems().into_iter().map(|p| p.field).collect::<Vec<_>>();
    assert_eq!(fields(base().intercept(some.clone())), Vec::<String>::new());
    assert_eq!(fields(base().privileged().intercept(some.clone())), ["intercept"]);
    assert_eq!(fields(base().seccomp(SeccompConfig::Unconfined).intercept(some)), ["intercept"]);
    let mount = |name: &str| Interception::new().mount(MountInterception::new().allow(name));
    assert_eq!(fields(base().intercept(mount("ext4"))), ["intercept.mount"]);
    let policy = stockade::cgroup::DevicePolicy::standard;
    assert_eq!(fields(base().devices(policy()).intercept(mount("ext4"))), Vec::<String>::new());
    assert_eq!(fields(base().devices(policy()).intercept(mount("debugfs"))), ["intercept.mount"]);
}

#[test]
fn a_container_cannot_listen_itself() {
    in_debian(&Interception::new().sysinfo(), |c, _| {
        let Some(said) = inside::run(c, "listener") else { return };
        assert_eq!(said, ["EINVAL 0"]);
    });
}

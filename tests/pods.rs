//! Containers that share namespaces: of another container, by path, by process, and clocks of their own.

mod rig;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rig::{Rig, busybox, end, sh};
use stockade::container::{Container, ContainerBuilder};
use stockade::instance::Status;
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target, TimeOffset, TimeOffsets};
use stockade::{ErrorKind, ExitStatus};

use NamespaceKind::{Cgroup, Ipc, Mount, Net, Pid, Time, User, Uts};

const ALL: [NamespaceKind; 8] = NamespaceKind::ALL;

/// What the first process has behind `/proc/PID/ns`, as the host sees it.
fn namespace(c: &Container, kind: NamespaceKind) -> PathBuf {
    let pid = c.info().unwrap().pid.unwrap();
    std::fs::read_link(format!("/proc/{pid}/ns/{}", kind.proc_name())).unwrap()
}

fn joining(config: ContainerBuilder, kinds: &[NamespaceKind], target: &Target) -> ContainerBuilder {
    kinds.iter().fold(config, |c, kind| c.namespace(*kind, NamespaceSource::Join(target.clone())))
}

fn instance(name: &str) -> Target {
    Target::Instance(name.parse().unwrap())
}

/// Checks which namespaces the two share, for the first process and for what is run in it.
#[track_caller]
fn shares(a: &Container, b: &Container, kinds: &[NamespaceKind]) {
    for kind in ALL {
        let host = std::fs::read_link(format!("/proc/thread-self/ns/{}", kind.proc_name())).unwrap();
        let (x, y) = (namespace(a, kind), namespace(b, kind));
        let host_kind = kind == Time;
        assert_eq!(x == y, kinds.contains(&kind) || host_kind, "{kind}: {} {}", x.display(), y.display());
        assert_eq!(x == host || y == host, host_kind, "{kind} is the host's");
        let inside = sh(b, &format!("readlink /proc/self/ns/{}", kind.proc_name())).1;
        assert_eq!(inside, y.to_str().unwrap(), "exec joins another {kind} namespace");
    }
}

/// Whether `/proc/1` is not that of its own first process.
fn sees(c: &Container, name: &str) -> bool {
    sh(c, &format!("cat /proc/[0-9]*/comm 2>/dev/null | grep -qx {name}")).0 == 0
}

#[test]
fn a_pod_of_two() {
    let Some(rig) = Rig::new() else { return };
    let kinds = [User, Net, Ipc, Pid];
    let script = "httpd -f -p 127.0.0.1:8080 -h /etc";
    let a = rig.run(busybox("a").args(["sh", "-c", &format!("{script} & exec sleep 999")]));
    let b = rig.run(joining(busybox("b").args(["sleep", "1000"]), &kinds, &instance("a")));
    shares(&a, &b, &kinds);
    // Processes of both, but files, mounts and names of its own.
    assert!(sees(&b, "httpd") && sees(&b, "sleep"));
    assert!(sh(&a, "ps -o args").1.contains("sleep 1000"));
    assert_ne!(sh(&b, "echo $$").1, "1");
    assert_eq!(sh(&a, "hostname").1, "a");
    assert_eq!(sh(&b, "hostname").1, "b");
    assert_eq!(sh(&b, "touch /of-b; mount -t tmpfs none /mnt && touch /mnt/x; ls /mnt").1, "x");
    assert_ne!(sh(&a, "ls /of-b").0, 0);
    assert_eq!(sh(&a, "ls /mnt").1, "");
    // One loopback.
    let fetch = "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://127.0.0.1:8080/hosts && exit; sleep 0.1; done; exit 1";
    assert!(sh(&b, fetch).1.contains("127.0.0.1 localhost"));
    // One user namespace: the same ids, rights over each other's processes.
    assert_eq!(sh(&b, "cat /proc/self/uid_map").1, sh(&a, "cat /proc/self/uid_map").1);
    assert_eq!(sh(&b, "killall httpd && sleep 0.1; wget -q -O - http://127.0.0.1:8080/hosts").0, 1);
    // Each with a cgroup of its own: the second is stopped alone, and can be frozen alone.
    assert_ne!(a.info().unwrap().cgroup, b.info().unwrap().cgroup);
    b.freeze().unwrap();
    assert_eq!((a.status(), b.status()), (Status::Running, Status::Frozen));
    b.unfreeze().unwrap();
    sh(&b, "sleep 500 & sleep 501 &");
    b.stop().unwrap();
    assert_eq!(a.status(), Status::Running);
    assert_eq!(sh(&a, "ps -o args | grep -c '[s]leep 50'").1, "0", "all of it is gone");
    b.start().unwrap();
    shares(&a, &b, &kinds);

    // With the first one's pid namespace ends everything in it.
    a.stop().unwrap();
    assert_eq!(b.wait().unwrap(), ExitStatus::Signaled { signal: 9, core_dumped: false });
    assert_eq!(b.status(), Status::Stopped);
    let e = b.start().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidState, "{e}");
    for part in ["start of default/b", "a", "not running", "start it before those that share with it"] {
        assert!(e.to_string().contains(part), "{e}");
    }
    end(a);
    let e = b.start().unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("default/a"), "{e}");
    end(b);
    rig.end();
}

#[test]
fn each_kind_alone_and_by_every_way() {
    let Some(rig) = Rig::new() else { return };
    for privileged in [false, true] {
        let config = |name: &str| if privileged { busybox(name).privileged() } else { busybox(name) };
        let a = rig.run(config("a"));
        let pid = a.info().unwrap().pid.unwrap();
        for kind in [Net, Ipc, Pid, Uts, Cgroup] {
            let path = Target::Path(format!("/proc/{pid}/ns/{}", kind.proc_name()).into());
            for target in [instance("a"), Target::Pid(pid), path] {
                // Another user namespace cannot join what belongs to the first one's.
                let kinds = if privileged { vec![kind] } else { vec![User, kind] };
                let user = Target::Path(format!("/proc/{pid}/ns/user").into());
                let b = joining(config("b").args(["sleep", "998"]), &kinds[..kinds.len() - 1], &user);
                let b = rig.run(joining(b, &[kind], &target));
                if privileged {
                    assert_eq!(namespace(&a, kind), namespace(&b, kind), "{kind}");
                    assert_eq!(
                        sh(&b, &format!("readlink /proc/self/ns/{}", kind.proc_name())).1,
                        namespace(&b, kind).to_str().unwrap()
                    );
                    let others = ALL.into_iter().filter(|k| ![kind, User, Time].contains(k));
                    for other in others {
                        assert_ne!(namespace(&a, other), namespace(&b, other), "{kind}: {other}");
                    }
                } else {
                    shares(&a, &b, &kinds);
                }
                match kind {
                    Pid => assert!(sees(&b, "sleep") && sh(&b, "ps -o args").1.contains("sleep 1000")),
                    Uts => assert_eq!(sh(&b, "hostname").1, "a"),
                    _ => {}
                }
                end(b);
                assert_eq!(a.status(), Status::Running);
            }
        }
        end(a);
    }
    rig.end();
}

#[test]
fn the_user_namespace_alone() {
    let Some(rig) = Rig::new() else { return };
    let a = rig.run(busybox("a"));
    let b = rig.run(joining(busybox("b"), &[User], &instance("a")));
    shares(&a, &b, &[User]);
    assert_eq!(
        sh(&b, "id -u; touch /x && stat -c %u /x; mount -t tmpfs none /mnt && echo mounted").1,
        "0\n0\nmounted"
    );
    assert_eq!(sh(&b, "grep Cap /proc/self/status").1, sh(&a, "grep Cap /proc/self/status").1);
    end(a);
    // It stays while anybody is in it.
    assert_eq!(sh(&b, "id -u").1, "0");
    end(b);
    rig.end();
}

#[test]
fn what_cannot_be_joined_is_an_error() {
    let Some(rig) = Rig::new() else { return };
    let a = rig.runtime.create(busybox("a").build().unwrap()).unwrap();
    let refused = |target: Target, kind: NamespaceKind| {
        let b = rig.runtime.create(joining(busybox("b"), &[kind], &target).build().unwrap()).unwrap();
        let e = b.start().unwrap_err();
        assert_eq!((e.op(), e.instance()), (Some("start"), Some("default/b")), "{e:?}");
        assert!(!b.status().is_running());
        end(b);
        e
    };
    let e = refused(instance("a"), Net);
    assert!(e.kind() == ErrorKind::InvalidState && e.to_string().contains("not running"), "{e}");
    let e = refused(instance("none"), Net);
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("none"), "{e}");
    let e = refused(Target::Path("/run/netns/none".into()), Net);
    assert!(e.kind() == ErrorKind::NotFound && e.what() == Some("/run/netns/none"), "{e}");
    let e = refused(Target::Path("/etc/passwd".into()), Net);
    assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("/etc/passwd"), "{e}");
    let e = refused(Target::Path("/proc/self/ns/ipc".into()), Net);
    assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("ipc"), "{e}");
    let e = refused(Target::Pid(0x3fff_ffff), Pid);
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("1073741823"), "{e}");

    for (kind, target) in [(Mount, instance("a")), (Net, Target::Pid(0)), (Net, Target::Path("x".into()))] {
        let e = joining(busybox("b"), &[kind], &target).build().unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("namespaces: "), "{e}");
    }
    // A namespace of a user namespace that is not shared.
    a.start().unwrap();
    let e = refused(instance("a"), Net);
    assert!(e.step().contains("mount sysfs") || e.kind() == ErrorKind::PermissionDenied, "{e:?}");
    end(a);
    rig.end();
}

#[test]
fn clocks_have_their_offsets() {
    let Some(rig) = Rig::new() else { return };
    let host = || {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        text.split('.').next().unwrap().parse::<i64>().unwrap()
    };
    let day = 86_400;
    let ahead = |days: u64| TimeOffset::ahead(Duration::from_secs(days * day)).unwrap();
    let offsets = TimeOffsets { boottime: ahead(1), monotonic: ahead(2) };
    for privileged in [false, true] {
        let config = busybox("a").time_offsets(offsets);
        let a = rig.run(if privileged { config.privileged() } else { config });
        let before = host();
        let inside: i64 = sh(&a, "cut -d. -f1 /proc/uptime").1.parse().unwrap();
        let after = host();
        let day = i64::try_from(day).unwrap();
        assert!((before + day..=after + day).contains(&inside), "{before} {inside} {after}");
        assert_ne!(namespace(&a, Time), std::fs::read_link("/proc/self/ns/time").unwrap());
        let (_, text) =
            sh(&a, "cat /proc/1/timens_offsets; readlink /proc/1/ns/time; readlink /proc/self/ns/time");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("172800") && lines[1].contains("86400"), "{text}");
        assert_eq!(lines[2], lines[3]);
        // And who joins it has them too.
        let kinds: &[NamespaceKind] = if privileged { &[Time] } else { &[User, Time] };
        let b = busybox("b");
        let b = rig.run(joining(if privileged { b.privileged() } else { b }, kinds, &instance("a")));
        assert_eq!(namespace(&b, Time), namespace(&a, Time));
        let joined: i64 = sh(&b, "cut -d. -f1 /proc/uptime").1.parse().unwrap();
        assert!(joined >= inside && joined <= host() + day);
        end(b);
        end(a);
    }
    rig.end();
}

#[test]
fn several_join_at_once() {
    let Some(rig) = Rig::new() else { return };
    let a = rig.run(busybox("a"));
    let runtime = &rig.runtime;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn(move || {
                    let config = joining(busybox(&format!("b{n}")), &[User, Net, Ipc, Pid], &instance("a"));
                    let b: Arc<Container> = runtime.create(config.build().unwrap()).unwrap();
                    for _ in 0..5 {
                        b.start().unwrap();
                        assert_eq!(sh(&b, "exit 3").0, 3);
                        b.stop().unwrap();
                    }
                    end(b);
                })
            })
            .collect();
        for thread in all {
            thread.join().unwrap();
        }
    });
    assert_eq!(sh(&a, "ps -o args | grep -c '[s]leep'").1, "1");
    end(a);
    rig.end();
}

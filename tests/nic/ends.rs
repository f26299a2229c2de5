//! The end of interfaces: with a stop, an end by itself, a failed start, a runtime that is gone.

use std::process::Stdio as Std;
use std::time::Duration;

use stockade::container::{Container, ContainerBuilder, ContainerConfig, Nic};
use stockade::instance::{StartOptions, Status, WaitOptions};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::{ExitStatus, Fault, Rootfs, Runtime};
use support::scaled;

use crate::rig::{busybox, end};
use crate::{again, bridged, with_rig, works};

/// Past the capture of the test harness.
fn eprint(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn mac(c: &Container) -> String {
    let all = c.interfaces().unwrap();
    all.iter().find(|i| i.name == "eth0").unwrap().mac.unwrap().to_string()
}

#[test]
fn an_interface_goes_with_each_run_and_its_hardware_address_stays() {
    with_rig(|wire, rig| {
        let c = rig.run(busybox("c").nic(bridged(11).host_name("web0")));
        let first = mac(&c);
        assert!(first.starts_with("02:"), "{first}");
        assert_eq!(wire.links(), ["web0"]);
        let config = serde_json::to_string(&*c.config()).unwrap();
        assert!(config.contains(&first), "{config}");
        for _ in 0..3 {
            c.restart().unwrap();
            assert_eq!((mac(&c), wire.links()), (first.clone(), vec!["web0".to_owned()]));
            wire.pings("10.77.0.11");
        }
        c.stop().unwrap();
        assert_eq!(wire.links(), Vec::<String>::new());
        end(c);
        // It ends by itself.
        let c = rig.run(busybox("short").nic(bridged(11)).args(["sh", "-c", "exit 7"]));
        assert_eq!(c.wait().unwrap(), ExitStatus::Exited(7));
        assert_eq!(wire.links(), Vec::<String>::new());
        end(c);
    });
}

#[test]
fn the_interface_stands_before_the_first_instruction() {
    with_rig(|_, rig| {
        let script = "ip -o addr show dev eth0 >/out && ip route >>/out && ping -c 1 -W 20 fd77::1 >>/out; exec sleep 1000";
        let c = rig.run(busybox("c").nic(bridged(11)).args(["sh", "-c", script]));
        let text = works(
            &c,
            "for i in $(seq 200); do grep -q 'packets transmitted' /out && break; sleep 0.1; done; cat /out",
        );
        for part in ["10.77.0.11/24", "fd77::11/64", "default via 10.77.0.1", " 0% packet loss"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        end(c);
    });
}

/// Every op of the start with both kinds of fault: no link is left, whoever made which by then.
#[test]
fn a_fault_at_any_op_leaves_no_link() {
    const MOST: usize = 1000;
    with_rig(|wire, rig| {
        let two = |b: ContainerBuilder| b.nic(bridged(11)).nic(Nic::p2p().host_name("cable0"));
        let mut positions = 0;
        for (privileged, errno) in [(false, libc::EDOM), (true, libc::EDOM), (false, 0)] {
            let config = two(busybox("c").args(["sh", "-c", "exit 42"]));
            let config = if privileged { config.privileged() } else { config };
            let c = rig.runtime.create(config.build().unwrap()).unwrap();
            c.start().unwrap();
            c.wait().unwrap();
            let mut ended = false;
            let (mut before, mut after) = (0, 0);
            for op in (0..MOST).step_by(MOST / scaled(MOST)) {
                let options =
                    StartOptions::new().deadline(Duration::from_secs(60)).fault(Fault { op, errno });
                match c.start_with(options) {
                    Err(e) if e.step() == "wait for the host" => after += 1,
                    Err(_) => before += 1,
                    Ok(_) if c.wait().unwrap() == ExitStatus::Exited(42) => ended = true,
                    Ok(_) => {}
                }
                positions += 1;
                assert_eq!(wire.links(), Vec::<String>::new(), "op {op}");
                assert_ne!(c.status(), Status::Running);
                if ended {
                    break;
                }
            }
            assert!(ended && before > 0, "{before} {after}");
            end(c);
        }
        eprint(&format!("a fault at {positions} positions\n"));
        assert!(positions > scaled(100));
    });
}

#[test]
fn another_runtime_reports_and_removes_them() {
    with_rig(|wire, rig| {
        let builder = || Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run());
        let id = "c".parse().unwrap();
        {
            let first = builder().open().unwrap();
            let config = ContainerConfig::builder("c")
                .rootfs(Rootfs::overlay([support::fixture("busybox").unwrap()]))
                .args(["sleep", "1000"])
                .nic(bridged(11));
            let c = first.create(config.build().unwrap()).unwrap();
            c.start().unwrap();
            drop(c);
            first.close();
        }
        assert_eq!(wire.links().len(), 1);
        let second = builder().open().unwrap();
        let c = second.container(&id).unwrap();
        assert_eq!(c.addresses().unwrap().len(), 2);
        let all = c.interfaces().unwrap();
        assert_eq!(wire.links(), [all.iter().find(|i| i.name == "eth0").unwrap().host_name.clone().unwrap()]);
        c.stop().unwrap();
        assert_eq!(wire.links(), Vec::<String>::new());
        c.start().unwrap();
        let pid = c.info().unwrap().pid.unwrap();
        drop(c);
        second.close();
        // Its end is seen by nobody, and its network is held by somebody.
        let held = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        support::until(Duration::from_secs(20), "it is gone", || {
            // A zombie: without its memory it is not at its end yet.
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        });
        assert_eq!(wire.links().len(), 1);
        let third = builder().open().unwrap();
        let c = third.container(&id).unwrap();
        assert_eq!(c.status(), Status::Stopped);
        assert_eq!(wire.links(), Vec::<String>::new());
        drop(held);
        end(c);
        third.close();
    });
}

/// A link of that name which is somebody else's stays.
#[test]
fn links_of_others_stay() {
    with_rig(|wire, rig| {
        let c = rig.run(busybox("c").nic(Nic::p2p().host_name("mine0")));
        wire.ip("link set mine0 name moved0");
        wire.ip("link add mine0 type bridge");
        c.stop().unwrap();
        support::until(Duration::from_secs(20), "the moved one goes with its namespace", || {
            wire.links() == ["mine0"]
        });
        wire.ip("link del mine0");
        end(c);
    });
}

#[test]
fn pools_serve_containers_with_interfaces() {
    with_rig(|wire, rig| {
        let runtime = &rig.runtime;
        let root = support::fixture("busybox").unwrap();
        let template = |name: &str| {
            ContainerConfig::builder(name)
                .rootfs(Rootfs::dir(&root))
                .read_only_root()
                .ephemeral()
                .args(["sleep", "1000"])
        };
        runtime.prewarm(template("t").build().unwrap(), 1).unwrap();
        let c = runtime.create(template("c").nic(bridged(11)).build().unwrap()).unwrap();
        c.start().unwrap();
        wire.pings("10.77.0.11");
        assert_eq!(c.addresses().unwrap().len(), 2);
        c.stop().unwrap();
        drop(c);
        runtime.prewarm(template("t").build().unwrap(), 0).unwrap();
        let e = runtime.prewarm(template("t").nic(bridged(11)).build().unwrap(), 1).unwrap_err();
        assert!(e.to_string().contains("network interfaces"), "{e}");
    });
}

const KILLED: &str = "ends::a_host_that_is_killed_leaves_no_link";

/// A host that starts and stops a container until it is killed. The next one finds every link, and none is left.
#[test]
fn a_host_that_is_killed_leaves_no_link() {
    const KILLS: usize = 40;
    let config = || {
        let root = support::fixture("busybox").unwrap();
        let config = ContainerConfig::builder("c").rootfs(Rootfs::overlay([root])).args(["sleep", "1000"]);
        config.nic(bridged(11)).nic(Nic::p2p().host_name("cable0"))
    };
    if let Some(role) = again::role() {
        let (state, run) = role.split_once(':').unwrap();
        let runtime = Runtime::builder().state_dir(state).run_dir(run).open().unwrap();
        let c = runtime.container(&"c".parse().unwrap()).unwrap();
        loop {
            match c.status() {
                Status::Running => c.stop().unwrap(),
                _ => c.start().unwrap(),
            }
        }
    }
    with_rig(|wire, rig| {
        let dirs = (rig.dirs.state(), rig.dirs.run());
        let open = || Runtime::builder().state_dir(dirs.0).run_dir(dirs.1).open().unwrap();
        let runtime = open();
        runtime.create(config().build().unwrap()).unwrap();
        runtime.close();
        let (mut running, mut ended) = (0, 0);
        for n in 0..scaled(KILLS) {
            let role = format!("{}:{}", dirs.0.display(), dirs.1.display());
            let mut host = again::command(&[], KILLED, &role);
            let mut host = host.stdout(Std::null()).stderr(Std::null()).spawn().unwrap();
            // A debug build is at work after 30 ms; one life of the container takes about as long.
            std::thread::sleep(Duration::from_millis(30 + 3 * (n as u64 * 7 % 20)));
            assert!(host.try_wait().unwrap().is_none(), "the host ended by itself");
            host.kill().unwrap();
            host.wait().unwrap();
            let runtime = open();
            let c = runtime.container(&"c".parse().unwrap()).unwrap();
            // One that was killed a moment ago still counts as running.
            let moment = WaitOptions::new().deadline(Duration::from_millis(100));
            if c.status() == Status::Running && c.wait_with(moment).is_err() {
                running += 1;
                assert_eq!((wire.links().len(), c.addresses().unwrap().len()), (2, 2), "kill {n}");
                wire.pings("10.77.0.11");
                c.stop().unwrap();
            } else {
                ended += 1;
            }
            // What was made by a start that nobody finished goes with its child, which the kernel ends.
            support::until(Duration::from_secs(20), "links are left", || wire.links().is_empty());
            // And another start is none the worse for it.
            c.start().unwrap();
            c.stop().unwrap();
            drop(c);
            runtime.close();
        }
        eprint(&format!("killed while it ran {running} times, in between {ended} times\n"));
        let runtime = open();
        runtime.container(&"c".parse().unwrap()).unwrap().delete().unwrap();
        runtime.close();
    });
}

#[test]
fn pooled_namespaces_and_joined_users_take_interfaces() {
    with_rig(|wire, rig| {
        rig.runtime.prewarm_networks(1).unwrap();
        let pooled = rig.run(busybox("pooled").privileged().nic(bridged(11)));
        wire.pings("10.77.0.11");
        assert_eq!(pooled.addresses().unwrap().len(), 2);
        end(pooled);
        rig.runtime.prewarm_networks(0).unwrap();
        let first = rig.run(busybox("first"));
        let users = NamespaceSource::Join(Target::Instance("first".parse().unwrap()));
        let second = rig.run(busybox("second").namespace(NamespaceKind::User, users).nic(bridged(12)));
        wire.pings("10.77.0.12");
        assert_eq!(second.addresses().unwrap().len(), 2);
        end(second);
        end(first);
    });
}

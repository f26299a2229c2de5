//! The device policy: from the first instruction on, changed live, kept through a crash, and refused where it cannot
//! be.
#![allow(clippy::print_stderr)]

#[path = "../again/mod.rs"]
mod again;
mod program;
#[path = "../rig/mod.rs"]
mod rig;

use std::io::BufRead;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rig::{Rig, busybox, end, sh};
use stockade::caps::{CapSet, Capability, CapabilitySets};
use stockade::cgroup::{DevicePolicy, DeviceRule, Enforce};
use stockade::container::{
    CgroupConfig, Container, ContainerBuilder, ContainerConfig, IdMapConfig, Mount, MountSet,
};
use stockade::instance::{ExecOptions, Status};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::{ErrorKind, ExitStatus, Rootfs, Runtime};

/// How many starts of each kind.
fn starts() -> u32 {
    support::scaled(1000) as u32
}

fn rule(text: &str) -> DeviceRule {
    text.parse().unwrap()
}

fn without_full() -> DevicePolicy {
    DevicePolicy::standard().deny(rule("c 1:7 rw"))
}

fn without_zero() -> DevicePolicy {
    DevicePolicy::standard().deny(rule("c 1:5 rw"))
}

/// Whether a node opens, in a process of its own in the container.
#[track_caller]
fn opens(c: &Container, node: &str) -> bool {
    let (code, text) = sh(c, &format!("exec 3<>{node}"));
    match (code, text.contains("Operation not permitted")) {
        (0, _) => true,
        (_, true) => false,
        _ => panic!("{node}: {code}: {text}"),
    }
}

/// Starts `init` and waits for its end.
fn run_once(c: &Container) -> i32 {
    c.start().unwrap();
    match c.wait().unwrap() {
        ExitStatus::Exited(code) => code,
        other => panic!("{other}"),
    }
}

#[test]
fn a_static_init_that_opens_a_forbidden_node_at_once_gets_eperm() {
    let Some(rig) = Rig::new() else { return };
    if !cfg!(target_arch = "x86_64") {
        support::skip("the static program is machine code of x86_64");
        return;
    }
    let dir = program::directory(&program::once("/dev/full"));
    let config =
        |name: &str| busybox(name).ephemeral().mount(Mount::bind(dir.path(), "/opt")).args(["/opt/init"]);
    let host = rig.run(busybox("host"));
    let pod = |name: &str| {
        let target = Target::Instance("host".parse().unwrap());
        [NamespaceKind::User, NamespaceKind::Net]
            .into_iter()
            .fold(config(name), |c, kind| c.namespace(kind, NamespaceSource::Join(target.clone())))
    };
    // Without the node's mknod the host's own is bound.
    let bound = without_full().deny(rule("a *:* m"));
    let kinds = [
        ("privileged", config("privileged").privileged().devices(without_full()), starts()),
        ("user namespace", config("users").devices(without_full()), starts()),
        ("bound nodes", config("bound").privileged().devices(bound), starts() / 10),
        ("pod", pod("pod").devices(without_full()), starts() / 10),
    ];
    for (kind, config, starts) in kinds {
        let c = rig.runtime.create(config.build().unwrap()).unwrap();
        let begin = Instant::now();
        let denied = (0..starts).filter(|_| run_once(&c) == libc_eperm()).count();
        eprintln!("{kind}: EPERM in {denied} of {starts} starts, {:?}", begin.elapsed());
        assert_eq!(denied, starts as usize, "{kind}");
        // And it is the policy: with another one the same program opens the node.
        c.set_devices(DevicePolicy::standard()).unwrap();
        assert!(run_once(&c) > 200, "{kind}");
        end(c);
    }
    end(host);
    rig.end();
}

fn libc_eperm() -> i32 {
    rustix::io::Errno::PERM.raw_os_error()
}

#[test]
fn what_the_policy_denies_does_not_break_the_start() {
    let Some(rig) = Rig::new() else { return };
    // Not even what stage-2 makes and opens for other containers: the nodes, and /dev/null for the streams.
    for privileged in [true, false] {
        let config = busybox(if privileged { "p" } else { "u" }).devices(DevicePolicy::deny_all());
        let c = rig.run(if privileged { config.privileged() } else { config });
        for node in ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"] {
            assert!(!opens(&c, node), "{node}");
        }
        // For what is run in it beside, whatever its streams are.
        let status = c.exec(ExecOptions::new(["true"])).unwrap().wait().unwrap();
        assert_eq!(status, ExitStatus::Exited(0));
        assert_eq!(sh(&c, "mkfifo /tmp/f && ls /dev/null").0, 0);
        c.restart().unwrap();
        assert!(!opens(&c, "/dev/null"));
        end(c);
    }
    rig.end();
}

#[test]
fn a_privileged_container_has_the_standard_policy() {
    let Some(rig) = Rig::new() else { return };
    let mknod = CapabilitySets::of(CapabilitySets::system_privileged().permitted.insert(Capability::Mknod));
    let c = rig.run(busybox("p").privileged().capabilities(mknod));
    assert_eq!(c.config().devices(), Some(&DevicePolicy::standard()));
    // Any node may be made, as LXC has it; only the usual ones open.
    let kinds = [("c 1 1", false), ("c 1 11", false), ("b 8 0", false), ("b 7 0", false), ("c 1 5", true)];
    for (n, (node, expected)) in kinds.into_iter().enumerate() {
        assert_eq!(sh(&c, &format!("mknod /dev/x{n} {node}")), (0, String::new()), "{node}");
        assert_eq!(opens(&c, &format!("/dev/x{n}")), expected, "{node}");
    }
    c.set_devices(DevicePolicy::standard().deny(rule("b *:* m"))).unwrap();
    assert_ne!(sh(&c, "mknod /dev/y b 8 0").0, 0);
    assert_eq!(sh(&c, "mknod /dev/y c 1 3").0, 0);
    // A policy that is open does not go with the right to make nodes.
    let e = c.set_devices(DevicePolicy::allow_all()).unwrap_err();
    assert_eq!((e.kind(), e.op()), (ErrorKind::InvalidConfig, Some("update")), "{e}");
    assert!(e.to_string().contains("CAP_MKNOD"), "{e}");
    assert_ne!(sh(&c, "mknod /dev/z b 8 0").0, 0);
    assert_eq!(c.config().devices().unwrap().rules().count(), 13);
    end(c);
    // In a user namespace there is none, until one is set.
    let c = rig.run(busybox("u"));
    assert_eq!(c.config().devices(), None);
    assert!(opens(&c, "/dev/full"));
    c.set_devices(without_full()).unwrap();
    assert!(!opens(&c, "/dev/full"));
    c.set_devices(None).unwrap();
    assert!(opens(&c, "/dev/full"));
    end(c);
    rig.end();
}

#[test]
fn a_policy_is_replaced_without_a_gap() {
    let Some(rig) = Rig::new() else { return };
    if !cfg!(target_arch = "x86_64") {
        support::skip("the static program is machine code of x86_64");
        return;
    }
    let switches = starts();
    let dir = program::directory(&program::until_it_opens("/dev/full"));
    let config =
        busybox("c").ephemeral().mount(Mount::bind(dir.path(), "/opt")).args(["/opt/init"]).privileged();
    let c = rig.run(config.devices(without_full()));
    // Both without the node, and with programs that differ.
    let other = DevicePolicy::deny_all().allow(rule("c *:* m")).allow(rule("c 1:3 rwm"));
    let before = cpu_ticks(&c);
    let begin = Instant::now();
    for n in 0..switches {
        c.set_devices(if n % 2 == 0 { other.clone() } else { without_full() }).unwrap();
    }
    let took = begin.elapsed();
    // It must have been at it all the time.
    let end_of_wait = Instant::now() + Duration::from_secs(20);
    while cpu_ticks(&c) < before + 5 && Instant::now() < end_of_wait {
        std::thread::sleep(Duration::from_millis(10));
    }
    let ticks = cpu_ticks(&c) - before;
    assert!(ticks >= 5, "the program did not run");
    assert_eq!(c.status(), Status::Running, "an open succeeded in a gap");
    eprintln!("{switches} switches in {took:?} beside {ticks} ticks of opens: none succeeded");
    // And the one that opens is seen.
    c.set_devices(DevicePolicy::standard()).unwrap();
    assert_eq!(c.wait().unwrap(), ExitStatus::Exited(77));
    end(c);

    // Back and forth between allowing and denying, and the last one holds.
    let c = rig.run(busybox("d").ephemeral().privileged());
    for n in 0..switches {
        c.set_devices(if n % 2 == 0 { without_full() } else { DevicePolicy::standard() }).unwrap();
        if n % 100 < 2 {
            assert_eq!(opens(&c, "/dev/full"), n % 2 == 1, "after {n} switches");
        }
    }
    c.set_devices(without_full()).unwrap();
    assert!(!opens(&c, "/dev/full"));
    end(c);
    rig.end();
}

/// The time that the first process has had, of user and kernel, in ticks.
fn cpu_ticks(c: &Container) -> u64 {
    let pid = c.info().unwrap().pid.expect("it runs");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> =
        stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2).map(|n| n.parse().unwrap()).collect();
    fields[0] + fields[1]
}

#[test]
fn a_policy_outlives_restarts_and_holds_in_a_sandbox() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("c").privileged().devices(without_full()));
    // Another runtime changes it while this one has its own idea.
    let second = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
    let same = second.container(&"c".parse().unwrap()).unwrap();
    assert_eq!(same.config().devices(), Some(&without_full()));
    same.set_devices(without_zero()).unwrap();
    assert!(opens(&c, "/dev/full") && !opens(&c, "/dev/zero"));
    c.restart().unwrap();
    assert!(opens(&c, "/dev/full") && !opens(&c, "/dev/zero"));
    assert_eq!(c.config().devices(), Some(&without_zero()));
    drop(same);
    second.close();
    // Stopped, it is a matter of the record.
    c.stop().unwrap();
    c.set_devices(without_full()).unwrap();
    c.start().unwrap();
    assert!(!opens(&c, "/dev/full") && opens(&c, "/dev/zero"));
    end(c);

    // A sandbox of a pool knows of no policy until it becomes a container.
    let root = support::fixture("busybox").unwrap();
    let config = |name: &str| {
        ContainerConfig::builder(name)
            .ephemeral()
            .kill_on_drop()
            .rootfs(Rootfs::dir(&root))
            .read_only_root()
            .privileged()
            .args(["sleep", "1000"])
    };
    rig.runtime.prewarm(config("template").build().unwrap(), 1).unwrap();
    let c = rig.run(config("warm").devices(DevicePolicy::deny_all()));
    for node in ["/dev/full", "/dev/null", "/dev/zero"] {
        assert!(!opens(&c, node), "{node}");
    }
    rig.runtime.prewarm(config("template").build().unwrap(), 0).unwrap();
    end(c);
    rig.end();
}

#[test]
fn a_host_that_died_between_record_and_kernel_is_made_good() {
    const TEST: &str = "a_host_that_died_between_record_and_kernel_is_made_good";
    if again::role().is_some() {
        let dir = |name| std::env::var_os(name).unwrap();
        let _runtime = Runtime::builder().state_dir(dir("STATE")).run_dir(dir("RUN")).open().unwrap();
        eprintln!("open");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let (state, run) = (rig.dirs.state(), rig.dirs.run());
    let c = rig.run(busybox("c").privileged().devices(without_full()));
    let users = rig.run(busybox("u"));
    // What `set_devices` writes before it asks the kernel: that a change is on its way, then the change.
    let noted = run.join("instances/default/c/run.json");
    let text = std::fs::read_link(&noted).unwrap().to_str().unwrap().to_owned();
    std::fs::remove_file(&noted).unwrap();
    std::fs::write(&noted, text.replace("\"record\":{", "\"record\":{\"updating\":true,")).unwrap();
    let record = state.join("instances/default/c/record.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let changed = text.replace("deny c 1:7 rw", "deny c 1:5 rw");
    assert_ne!(text, changed);
    std::fs::write(&record, changed).unwrap();
    let mut host = again::command(&[], TEST, "host");
    let mut host = host.env("STATE", state).env("RUN", run).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = std::io::BufReader::new(host.stderr.take().unwrap());
    assert!(stderr.lines().map_while(Result::ok).any(|line| line == "open"));
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(!opens(&c, "/dev/full") && opens(&c, "/dev/zero"));

    let next = Runtime::builder().state_dir(state).run_dir(run).open().unwrap();
    assert!(opens(&c, "/dev/full") && !opens(&c, "/dev/zero"));
    assert!(opens(&users, "/dev/full"));
    next.close();
    end(users);
    end(c);
    rig.end();
}

#[test]
fn without_the_right_to_attach_a_policy_is_an_error_or_is_reported() {
    const TEST: &str = "without_the_right_to_attach_a_policy_is_an_error_or_is_reported";
    if again::role().is_none() {
        let Some(rig) = Rig::new() else { return };
        let mut host = again::command(&["unshare", "-U", "-r", "-m"], TEST, "nested");
        let status = host.env("STATE", rig.dirs.state()).env("RUN", rig.dirs.run()).status().unwrap();
        assert!(status.success());
        rig.end();
        return;
    }
    // Root of a user namespace that is not the first.
    let dir = |name| std::env::var_os(name).unwrap();
    let runtime = Runtime::builder().state_dir(dir("STATE")).run_dir(dir("RUN")).open().unwrap();
    let root = support::fixture("busybox").unwrap();
    let config = |name: &str| {
        ContainerConfig::builder(name)
            .rootfs(Rootfs::dir(&root))
            .idmap(IdMapConfig::SingleUser)
            .args(["sleep", "1000"])
            .kill_on_drop()
    };
    let run = |config: ContainerBuilder| {
        let c = runtime.create(config.build().unwrap()).unwrap();
        let started = c.start().map(|()| c.info().unwrap().skipped_limits);
        end(c);
        started
    };
    let e = run(config("a").devices(without_full())).unwrap_err();
    assert_eq!((e.kind(), e.step()), (ErrorKind::PermissionDenied, "load the device program"), "{e}");
    assert!(e.way_out().unwrap().contains("CAP_BPF") && e.way_out().unwrap().contains("BestEffort"), "{e}");
    let skipped = run(config("b").devices(without_full()).enforce(Enforce::BestEffort)).unwrap();
    assert!(skipped.len() == 1 && skipped[0].starts_with("devices: load the device program"), "{skipped:?}");
    assert_eq!(run(config("c")).unwrap(), Vec::<String>::new());
    // Live: no start goes on without, so it is always an error, and the record is as before.
    let c = runtime.create(config("d").build().unwrap()).unwrap();
    c.start().unwrap();
    let e = c.set_devices(without_full()).unwrap_err();
    assert_eq!((e.kind(), e.op()), (ErrorKind::PermissionDenied, Some("update")), "{e}");
    assert_eq!(c.config().devices(), None);
    c.restart().unwrap();
    end(c);
    // A privileged one has nothing to lose here: nobody asked for its policy, and no node can be made.
    let bare = ContainerConfig::builder("e").rootfs(Rootfs::dir(&root)).privileged();
    let bare = bare.base_mounts(MountSet::None).masked_paths([""; 0]).readonly_paths([""; 0]);
    let bare = bare.args(["sleep", "1000"]).kill_on_drop();
    assert_eq!(run(bare.clone()).unwrap(), Vec::<String>::new());
    let e = run(bare.devices(DevicePolicy::standard())).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}");
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let base = || ContainerConfig::builder("x").rootfs(Rootfs::dir("/srv/x"));
    let mknod = CapabilitySets::of(CapSet::of(&[Capability::Mknod]));
    let devices = Mount::bind("/dev/kvm", "/dev/kvm").dev();
    let problem = |config: ContainerBuilder| config.build().unwrap_err().to_string();
    let none = base().cgroup(CgroupConfig::None).devices(DevicePolicy::deny_all());
    assert!(problem(none).contains("devices: need a control group"));
    let many = (0..2000).fold(DevicePolicy::deny_all(), |p, _| p.allow(DeviceRule::ALL));
    assert!(problem(base().devices(many)).contains("2000 rules"));
    // What opens the host's devices goes only with a policy that is sure to be there.
    for config in [base().capabilities(mknod), base().mount(devices.clone())] {
        let config = config.privileged();
        config.clone().build().unwrap();
        config.clone().devices(DevicePolicy::deny_all()).build().unwrap();
        for open in [
            config.clone().devices(DevicePolicy::allow_all()),
            config.clone().enforce(Enforce::BestEffort),
            config.clone().cgroup(CgroupConfig::None),
        ] {
            assert!(problem(open).contains("without a device policy"));
        }
    }
}

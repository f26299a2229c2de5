//! Prewarmed sandboxes: that a container made of one is like any other, and that none is left.

use std::io::Read;
use std::time::Duration;

use stockade::cgroup::DevicePolicy;
use stockade::container::{Container, ContainerBuilder, ContainerConfig};
use stockade::instance::{ExecOptions, StartOptions, Stdio};
use stockade::{ErrorKind, ExitStatus, Rootfs, Runtime, Signal, SpawnStrategy};
use support::{HostSnapshot, PrivateDirs, require_fixture, require_root};

/// How long what a pool does by itself may take.
const SOON: Duration = Duration::from_secs(10);

fn runtime(dirs: &PrivateDirs) -> Runtime {
    Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap()
}

fn job(name: &str) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    ContainerConfig::builder(name).ephemeral().rootfs(Rootfs::dir(root)).read_only_root()
}

/// What `script` prints in a container of this configuration, as its first process.
fn first_process(rt: &Runtime, builder: ContainerBuilder, script: &str) -> (ExitStatus, String) {
    let c = rt.create(builder.args(["sh", "-c", script]).build().unwrap()).unwrap();
    let pipes = c.start_with(StartOptions::new().stdout(Stdio::Piped)).unwrap();
    let mut text = String::new();
    std::fs::File::from(pipes.stdout.unwrap()).read_to_string(&mut text).unwrap();
    let status = c.wait().unwrap();
    c.delete().unwrap();
    (status, text)
}

/// Pids of the sandboxes that wait.
fn parked() -> Vec<u32> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(1).map(str::to_owned));
        if parent.as_deref() == Some(&own) {
            found.push(pid);
        }
    }
    found
}

/// What a process of the container finds, whichever way it was made.
const LOOK: &str = "hostname; id; pwd; umask; cat /proc/self/mountinfo | cut -d' ' -f5- | sed 's/[0-9:]* //' | \
     sed 's/stockade-[^ ]*//'; grep -E '^(Cap|NoNew|Seccomp|Sig(Ign|Blk)|Groups|Umask)' /proc/self/status; \
     ls /proc/self/fd | wc -l; echo $HOME $A; set -- /proc/[0-9]*; echo $#; ls /sys/class/net; touch /x 2>&1; cat /proc/self/uid_map";

#[test]
fn a_container_of_a_sandbox_is_like_any_other() {
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    for strategy in [SpawnStrategy::Exec, SpawnStrategy::Fork] {
        for privileged in [false, true] {
            let dirs = support::private_dirs();
            let build =
                || Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).spawn_strategy(strategy);
            let rt = build().open().unwrap();
            let config = |name: &str| {
                let b = job(name).env("A", "b").cwd("/tmp");
                if privileged { b.privileged() } else { b }
            };
            let (status, usual) = first_process(&rt, config("same"), LOOK);
            assert!(status.success(), "{usual}");
            let template = config("template").build().unwrap();
            rt.prewarm(template.clone(), 2).unwrap();
            assert_eq!(rt.prewarmed(&template), 2);
            let (status, pooled) = first_process(&rt, config("same"), LOOK);
            assert!(status.success(), "{pooled}");
            // Each has a range of ids of its own.
            let but_ids = |text: &str| {
                text.lines().filter(|l| !l.trim_start().starts_with("0 ")).collect::<Vec<_>>().join("\n")
            };
            let unnumbered = |text: &str| but_ids(text).replace(|c: char| c.is_ascii_digit(), "#");
            assert_eq!(unnumbered(&usual), unnumbered(&pooled), "{strategy:?} {privileged}");
            support::until(SOON, "the pool is full again", || rt.prewarmed(&template) == 2);
            rt.close();
            assert!(parked().is_empty(), "{strategy:?}");
        }
    }
    before.assert_unchanged();
}

#[test]
fn exec_freeze_and_stop_work_in_a_sandbox() {
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    let rt = runtime(&dirs);
    rt.prewarm(job("template").build().unwrap(), 1).unwrap();
    let [waiting] = parked()[..] else { panic!("{:?} wait", parked()) };
    let c = rt.create(job("a").args(["sleep", "1000"]).build().unwrap()).unwrap();
    c.start().unwrap();
    assert_eq!(c.info().unwrap().pid, Some(waiting), "it is the sandbox that waited");
    let out = c.exec(ExecOptions::new(["hostname"]).stdout(Stdio::Piped)).unwrap().output().unwrap();
    assert_eq!((out.status, &*out.stdout), (ExitStatus::Exited(0), &b"a\n"[..]));
    c.freeze().unwrap();
    c.unfreeze().unwrap();
    assert!(c.info().unwrap().cgroup.is_some());
    c.stop().unwrap();
    assert_eq!(
        c.start().unwrap_err().kind(),
        ErrorKind::NotFound,
        "an ephemeral container goes with its stop"
    );
    drop(c);
    // A durable one: its second start has no sandbox.
    let durable = |name: &str| {
        ContainerConfig::builder(name)
            .rootfs(Rootfs::dir(support::fixture("busybox").unwrap()))
            .read_only_root()
    };
    let c: std::sync::Arc<Container> =
        rt.create(durable("b").args(["sleep", "1000"]).build().unwrap()).unwrap();
    let map = |c: &Container| c.info().unwrap().id_map.unwrap();
    c.start().unwrap();
    let first = map(&c);
    c.restart().unwrap();
    assert_eq!(map(&c), first, "it keeps its ids");
    c.stop().unwrap();
    c.delete().unwrap();
    drop(c);
    rt.close();
    before.assert_unchanged();
}

/// Sandboxes have their template's device policy before they are taken.
#[test]
fn the_device_policy_of_a_sandbox_is_that_of_its_container() {
    const LOOK: &str =
        "for d in null urandom; do head -c 1 < /dev/$d > /dev/null && echo $d; done 2> /dev/null; true";
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    let rt = runtime(&dirs);
    let without_urandom = || DevicePolicy::standard().deny("c 1:9 r".parse().unwrap());
    let denied = |name: &str| job(name).devices(without_urandom());
    let ready = |builder: ContainerBuilder| rt.prewarmed(&builder.build().unwrap());
    let text = |builder| first_process(&rt, builder, LOOK).1;

    rt.prewarm(job("template").build().unwrap(), 1).unwrap();
    assert_eq!((ready(job("a")), ready(denied("a"))), (1, 0));
    assert_eq!(text(denied("a")), "null\n", "no sandbox of another policy");
    assert_eq!(text(job("a")), "null\nurandom\n");

    rt.prewarm(denied("template").build().unwrap(), 1).unwrap();
    assert_eq!(ready(denied("a")), 1);
    assert_eq!(text(denied("a")), "null\n", "it holds in the sandbox");

    // The policy changes between create and start: the sandbox that was taken is of no use any more.
    rt.prewarm(denied("template").build().unwrap(), 0).unwrap();
    rt.prewarm(job("template").build().unwrap(), 0).unwrap();
    rt.prewarm(job("template").build().unwrap(), 1).unwrap();
    let [taken] = parked()[..] else { panic!("{:?} wait", parked()) };
    let c = rt.create(job("b").args(["sh", "-c", LOOK]).build().unwrap()).unwrap();
    c.set_devices(without_urandom()).unwrap();
    let pipes = c.start_with(StartOptions::new().stdout(Stdio::Piped)).unwrap();
    assert!(!parked().contains(&taken), "the sandbox is left");
    assert_eq!(std::io::read_to_string(std::fs::File::from(pipes.stdout.unwrap())).unwrap(), "null\n");
    assert_eq!(c.wait().unwrap(), ExitStatus::Exited(0));
    c.delete().unwrap();
    drop(c);
    rt.close();
    before.assert_unchanged();
}

#[test]
fn what_is_not_used_is_given_up() {
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    let rt = runtime(&dirs);
    let template = job("template").build().unwrap();
    // Without a pool first: what the runtime keeps for itself is there then.
    first_process(&rt, job("warm"), "true");
    let leaks = dirs.leak_check();
    rt.prewarm(template.clone(), 3).unwrap();
    assert_eq!(parked().len(), 3);
    // Created, never started, deleted: its sandbox goes with it.
    rt.create(job("unused").build().unwrap()).unwrap().delete().unwrap();
    // A sandbox that somebody kills is not handed out.
    for pid in parked() {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
        support::until(SOON, "it has ended", || {
            std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "))
        });
    }
    let (status, text) = first_process(&rt, job("after"), "echo here");
    assert_eq!((status, &*text), (ExitStatus::Exited(0), "here\n"));
    support::until(SOON, "the pool is full again", || rt.prewarmed(&template) == 3);
    // Other configurations take none.
    let (_, text) = first_process(&rt, job("other").user(stockade::process::User::new(1000, 1000)), "id -u");
    assert_eq!((&*text, rt.prewarmed(&template)), ("1000\n", 3));
    // Smaller, then given up.
    rt.prewarm(template.clone(), 1).unwrap();
    assert_eq!(rt.prewarmed(&template), 1);
    rt.prewarm(template.clone(), 0).unwrap();
    assert_eq!((rt.prewarmed(&template), parked().len()), (0, 0));
    leaks.assert_clean();
    // Dropped without `close`: the same.
    rt.prewarm(template, 2).unwrap();
    drop(rt);
    support::until(SOON, "nothing waits", || parked().is_empty());
    leaks.assert_clean();
    before.assert_unchanged();
}

#[test]
fn a_parked_sandbox_holds_no_descriptor_of_the_host() {
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let dirs = support::private_dirs();
    // A descriptor that the host forgot to close on exec.
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::empty()).unwrap();
    let rt = runtime(&dirs);
    rt.prewarm(job("template").build().unwrap(), 1).unwrap();
    drop(write);
    let mut byte = [0];
    assert_eq!(rustix::io::read(&read, &mut byte).unwrap(), 0, "somebody else holds the pipe");
    for pid in parked() {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        assert_eq!(fds, 1, "its socket alone");
    }
    let c = rt.create(job("a").args(["sleep", "1000"]).build().unwrap()).unwrap();
    let inherit = StartOptions::new().stdin(Stdio::Inherit).stdout(Stdio::Inherit).stderr(Stdio::Inherit);
    c.start_with(inherit).unwrap();
    c.kill(Signal::KILL).unwrap();
    c.wait().unwrap();
    c.delete().unwrap();
    rt.close();
}

#[test]
fn a_template_that_cannot_be_shared_is_refused() {
    let _serial = support::serial();
    require_root!();
    let root = require_fixture!("busybox");
    let dirs = support::private_dirs();
    let rt = runtime(&dirs);
    let writable = ContainerConfig::builder("w").rootfs(Rootfs::dir(&root)).build().unwrap();
    let overlay = ContainerConfig::builder("o").rootfs(Rootfs::overlay([&root])).build().unwrap();
    for template in [writable, overlay] {
        let e = rt.prewarm(template, 1).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{e}");
    }
    let missing =
        ContainerConfig::builder("m").rootfs(Rootfs::dir("/no/such/root")).read_only_root().build().unwrap();
    assert_eq!(rt.prewarm(missing, 1).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(parked().is_empty());
}

#[test]
fn dropping_a_runtime_ends_a_pool_that_is_being_filled() {
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    let open = || runtime(&dirs);
    first_process(&open(), job("warm"), "true");
    let leaks = dirs.leak_check();
    for _ in 0..20 {
        let rt = open();
        rt.prewarm(job("template").build().unwrap(), 1).unwrap();
        // Its only sandbox is taken, so the thread makes another one at once.
        rt.create(job("a").build().unwrap()).unwrap().delete().unwrap();
        drop(rt);
        // The program could end now, and its threads with it.
        assert!(parked().is_empty());
        before.assert_unchanged();
    }
    leaks.assert_clean();
}

/// The network namespace of a container's first process.
fn network(rt: &Runtime, builder: ContainerBuilder) -> String {
    let (status, text) = first_process(rt, builder, "readlink /proc/self/ns/net; ls /sys/class/net; ip addr");
    assert!(status.success() && text.contains("lo"), "{text}");
    text.lines().next().unwrap().to_owned()
}

#[test]
fn a_prewarmed_network_namespace_is_used_once() {
    let _serial = support::serial();
    require_root!();
    let _ = require_fixture!("busybox");
    let before = HostSnapshot::take();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    for thread in [false, true] {
        let dirs = support::private_dirs();
        let builder = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run());
        let rt = if thread { builder.spawner_thread() } else { builder }.open().unwrap();
        let (status, usual) = first_process(&rt, job("a").privileged(), LOOK);
        assert!(status.success(), "{usual}");

        assert_eq!(rt.prewarmed_networks(), 0);
        rt.prewarm_networks(2).unwrap();
        assert_eq!(rt.prewarmed_networks(), 2);
        let (status, pooled) = first_process(&rt, job("a").privileged(), LOOK);
        assert!(status.success(), "{pooled}");
        assert_eq!(usual, pooled);
        support::until(SOON, "there are two again", || rt.prewarmed_networks() == 2);

        // All of them alive at a time, more than there are ready, and then others: no two share one.
        let held: Vec<_> = (0..5)
            .map(|n| {
                let job = job(&format!("held{n}")).privileged().args(["sleep", "1000"]);
                let c = rt.create(job.build().unwrap()).unwrap();
                c.start().unwrap();
                c
            })
            .collect();
        let of_held = |c: &std::sync::Arc<Container>| {
            let look = ExecOptions::new(["readlink", "/proc/self/ns/net"]).stdout(Stdio::Piped);
            String::from_utf8(c.exec(look).unwrap().output().unwrap().stdout).unwrap().trim().to_owned()
        };
        let mut seen: Vec<String> = held.iter().map(of_held).collect();
        support::until(SOON, "there are two again", || rt.prewarmed_networks() == 2);
        seen.extend((0..3).map(|n| network(&rt, job(&format!("n{n}")).privileged())));
        seen.push(own.to_string_lossy().into_owned());
        for (i, one) in seen.iter().take(6).enumerate() {
            assert!(!seen[i + 1..].contains(one), "{one} twice: {seen:?}");
        }

        // One that a container fails to start in is gone; those that have no use for one take none.
        support::until(SOON, "there are two again", || rt.prewarmed_networks() == 2);
        network(&rt, job("users"));
        let shared = job("shared").privileged().network(stockade::container::Network::Host);
        let (_, text) = first_process(&rt, shared, "readlink /proc/self/ns/net");
        assert_eq!(std::path::Path::new(text.trim()), own);
        assert_eq!(rt.prewarmed_networks(), 2);

        rt.prewarm_networks(1).unwrap();
        assert_eq!(rt.prewarmed_networks(), 1);
        rt.prewarm_networks(0).unwrap();
        assert_eq!(rt.prewarmed_networks(), 0);
        network(&rt, job("none").privileged());
        rt.prewarm_networks(3).unwrap();
        for c in held {
            c.stop().unwrap();
        }
        rt.close();
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), own);
        before.assert_unchanged();
    }
}

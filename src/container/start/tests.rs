//! Plans of typical configurations, without privilege: as golden text, and by the rules of order that each follows.
//!
//! A golden file changes when the plan does. `STOCKADE_BLESS=1` writes them anew; the rules still hold then, and
//! the difference is read before it is committed.

mod order;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::caps::CapabilitySets;
use crate::container::config::{ContainerBuilder, Mount, Nesting, Network, Nic, SystemConfig};
use crate::container::streams;
use crate::instance::Stdio;
use crate::namespaces::{NamespaceSource, Target, TimeOffset, TimeOffsets};
use crate::process::User;
use crate::rootfs::Rootfs;
use crate::seccomp::{Action, Policy};
use crate::spawn::{Hooks, Stage2};
use crate::views::ResourceViews;

/// Who starts the container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Root,
    OrdinaryUser,
}

/// One configuration, and the name of its golden file.
struct Case {
    name: &'static str,
    by: By,
    config: ContainerBuilder,
}

/// What a plan is, once it is built.
struct Built {
    name: &'static str,
    config: ContainerConfig,
    /// The dump, without what differs from machine to machine.
    text: String,
}

/// A place on this machine that plans are made from; its path reads `DIR` in the dumps.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root", "layer", "upper", "data"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        Self(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A policy of its own, so that the library's may grow without a change here.
fn policy() -> Policy {
    Policy::new(Action::Allow)
}

fn config(rootfs: impl Into<Rootfs>) -> ContainerBuilder {
    ContainerConfig::builder("golden").rootfs(rootfs).args(["/bin/true", "one"]).seccomp(policy())
}

fn offsets() -> TimeOffsets {
    let monotonic = TimeOffset::ahead(Duration::from_secs(100)).unwrap();
    let boottime = TimeOffset::behind(Duration::from_millis(1500)).unwrap();
    TimeOffsets { monotonic, boottime }
}

fn cases(place: &Place) -> Vec<Case> {
    let case = |name, config| Case { name, by: By::Root, config };
    let dir = || Rootfs::dir(place.at("root"));
    let own = |kind: NamespaceKind| format!("/proc/self/ns/{}", kind.proc_name());
    let join = |kind| NamespaceSource::Join(Target::Path(own(kind).into()));
    let oci = CapabilitySets::oci_default();
    vec![
        case("privileged", config(dir()).privileged()),
        case("user-namespace", config(dir())),
        case(
            "overlay",
            config(Rootfs::overlay([place.at("layer"), place.at("root")])).read_only_root().hostname("web"),
        ),
        case("host", config(Rootfs::host()).cwd("/srv")),
        case("host-network", config(dir()).network(Network::Host)),
        case(
            "mounts",
            config(dir())
                .mount(Mount::bind(place.at("data"), "/data").read_only())
                .mount(Mount::bind(place.at("file"), "/etc/one").idmapped())
                .mount(Mount::tmpfs("/tmp").size(1 << 20).mode(0o1777))
                .resolv_conf("nameserver 192.0.2.1\n")
                .sysctl("net.ipv4.ip_forward", "1"),
        ),
        case("no-new-privs", config(dir()).privileged().no_new_privs().capabilities(oci)),
        case(
            "ambient-user",
            config(dir()).user(User::new(1000, 100)).cwd("/home").capabilities(CapabilitySets {
                ambient: CapSet::of(&[Capability::NetBindService]),
                inheritable: CapSet::of(&[Capability::NetBindService]),
                ..oci
            }),
        ),
        case(
            "nic",
            config(dir())
                .nic(Nic::bridged("br0").address("10.0.0.2/24"))
                .sysctl("net.ipv4.conf.eth0.arp_notify", "1"),
        ),
        case("system", config(dir()).system_with(SystemConfig::new().ttys(1).nesting(Nesting::Allow))),
        case("time", config(dir()).time_offsets(offsets())),
        case(
            "views",
            config(dir())
                .resource_views(ResourceViews::ALL.without(ResourceViews::DISKSTATS))
                .mount(Mount::bind(place.at("file"), "/proc/loadavg"))
                .masked_paths(["/proc/uptime"]),
        ),
        case(
            "pod",
            config(dir())
                .namespace(NamespaceKind::User, join(NamespaceKind::User))
                .namespace(NamespaceKind::Net, join(NamespaceKind::Net))
                .namespace(NamespaceKind::Ipc, join(NamespaceKind::Ipc))
                .namespace(NamespaceKind::Pid, join(NamespaceKind::Pid)),
        ),
        Case {
            name: "ordinary-user",
            by: By::OrdinaryUser,
            config: config(dir()).mount(Mount::bind(place.at("data"), "/data")),
        },
    ]
}

fn build(place: &Place, case: Case) -> Result<Built> {
    let config = case.config.build()?;
    let (permitted, ids) = match case.by {
        By::Root => (CapSet::ALL, (0, 0)),
        By::OrdinaryUser => (CapSet::EMPTY, (1000, 1000)),
    };
    let host = Host::of(permitted, ids);
    let stage2 = Stage2::new()?;
    let map = IdMap::range(100_000, 65_536)?;
    let joins = config.namespaces.open_joins(|_, _| unreachable!("no case joins an instance"))?;
    let user = config.namespaces.get(NamespaceKind::User);
    let upper = place.at("upper");
    let null = std::fs::File::open("/dev/null").map_err(|e| Error::io("open the null device", e))?;
    let views = (!config.resource_views().is_empty()).then(|| OwnedFd::from(null));
    let request = Request {
        host: &host,
        config: &config,
        uuid: "0123456789abcdef0123456789abcdef",
        users: match user {
            NamespaceSource::Host => UserNamespace::Host,
            NamespaceSource::New => UserNamespace::New(&map),
            NamespaceSource::Join(_) => UserNamespace::Joined,
        },
        groups: host.set_groups(),
        cgroup: None,
        v1_groups: false,
        named_owner: None,
        payload: None,
        network: None,
        joins: Vec::new(),
        nics: None,
        views: views.as_ref(),
        upper: Some(upper),
        runtime_dirs: [Path::new("/var/lib/stockade"), Path::new("/run/stockade")],
        strategy: Strategy::Exec(&stage2),
        deadline: Deadline::none(),
        cancel: None,
        hooks: Hooks::default(),
        witness: None,
    };
    let (streams, _pipes) = streams::open(Stdio::Null, Stdio::Piped, Stdio::Inherit)?;
    let (plan, _) = match joins.is_empty() {
        true => request.plan_alone(streams)?,
        false => request.plan_joined(streams, &joins)?,
    };
    if let Some(dir) = std::env::var_os("STOCKADE_PLAN_SEEDS") {
        std::fs::write(Path::new(&dir).join(case.name), plan.encode()).unwrap();
    }
    let text = portable(&plan.dump(), place);
    Ok(Built { name: case.name, config, text })
}

/// Takes out of a dump what differs from machine to machine.
fn portable(dump: &str, place: &Place) -> String {
    let dir = place.0.path().display().to_string();
    // The same path as the child opens it after pivot_root.
    let relative = format!("path={}", &dir[1..]);
    let lines = dump.lines().filter(|line| !line.contains("/etc/ssh/ssh_host_"));
    let lines = lines.map(|line| line.split_at(4).1.replace(&dir, "DIR").replace(&relative, "path=DIR"));
    let lines = lines.map(|line| match line.split_once(" instructions=") {
        Some((before, after)) => {
            format!("{before} instructions=N{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => line,
    });
    let lines = lines.map(|line| match line.split_once("/boot_id data=") {
        Some((before, _)) => format!("{before}/boot_id data=RANDOM"),
        None => line,
    });
    lines.enumerate().map(|(i, line)| format!("{i:3} {line}\n")).collect()
}

/// All plans that can be built here.
fn all() -> Vec<Built> {
    let place = Place::new();
    let mut built = Vec::new();
    for case in cases(&place) {
        let name = case.name;
        match build(&place, case) {
            Ok(plan) => built.push(plan),
            Err(e) if name == "host" && e.kind() == ErrorKind::Unsupported => support::skip(e),
            Err(e) => panic!("{name}: {e}"),
        }
    }
    built
}

/// Flags of open(2) have other values on other architectures.
#[cfg(target_arch = "x86_64")]
#[test]
fn plans_are_as_written_down() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plans");
    let bless = std::env::var_os("STOCKADE_BLESS").is_some();
    let mut wrong = Vec::new();
    for built in all() {
        let path = dir.join(format!("{}.txt", built.name));
        if bless {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, &built.text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        let mut lines = golden.lines();
        for line in built.text.lines() {
            let want = lines.next();
            if want != Some(line) {
                wrong.push(format!("{}:\n  have {line}\n  want {}", built.name, want.unwrap_or("the end")));
                break;
            }
        }
        if let Some(more) = lines.next()
            && built.text.len() < golden.len()
        {
            wrong.push(format!("{}: ends before {more}", built.name));
        }
    }
    assert!(wrong.is_empty(), "STOCKADE_BLESS=1 writes the plans anew\n{}", wrong.join("\n"));
}

#[test]
fn the_cgroup_and_descriptors_of_a_joined_plan_follow_its_namespaces() {
    let place = Place::new();
    let pod = cases(&place).into_iter().find(|c| c.name == "pod").unwrap();
    let text = build(&place, pod).unwrap().text;
    // Four namespaces, then what the barrier brings: the root and a stream.
    for line in
        ["setns to=slot 3", "barrier slot=4", "move_mount mount=slot 4 to=/", "dup_to from=slot 5 to=1"]
    {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

/// A sandbox waits for long, with whatever the host had open without closing it on exec: that goes first of all.
#[test]
fn a_parked_child_first_closes_what_is_not_its_own() {
    let place = Place::new();
    let mut looked_at = 0;
    for privileged in [false, true] {
        let config = ContainerConfig::builder("c").rootfs(Rootfs::dir(place.at("root"))).read_only_root();
        let config = if privileged { config.privileged() } else { config }.build().unwrap();
        let (host, stage2, map) =
            (Host::of(CapSet::ALL, (0, 0)), Stage2::new().unwrap(), IdMap::range(100_000, 65_536).unwrap());
        let request = Request {
            host: &host,
            config: &config,
            uuid: "0123456789abcdef0123456789abcdef",
            users: if privileged { UserNamespace::Host } else { UserNamespace::New(&map) },
            groups: host.set_groups(),
            cgroup: None,
            network: None,
            v1_groups: false,
            named_owner: None,
            payload: None,
            joins: Vec::new(),
            views: None,
            nics: None,
            upper: None,
            runtime_dirs: [Path::new("/var/lib/stockade"), Path::new("/run/stockade")],
            strategy: Strategy::Exec(&stage2),
            deadline: Deadline::none(),
            cancel: None,
            hooks: Hooks::default(),
            witness: None,
        };
        let mut fds = Descriptors::from_slot(0);
        let plan = request.plan_sandbox(&mut fds).unwrap();
        let text = portable(&plan.dump(), &place);
        let ops: Vec<&str> = text.lines().map(|line| line.split_at(4).1).collect();
        assert_eq!(ops[0], "close_inherited", "{text}");
        // Nothing is open when it waits, either.
        assert!(ops[ops.len() - 2].starts_with("close_others"), "{text}");
        assert!(ops[ops.len() - 1].starts_with("next_plan"), "{text}");
        assert!(ops.iter().any(|op| op.starts_with("pivot_root")), "{text}");
        looked_at += 1;
    }
    assert_eq!(looked_at, 2);
}

#[test]
fn descriptors_that_one_message_cannot_carry_are_refused() {
    let mut fds = Descriptors::from_slot(0);
    let null = std::fs::File::open("/dev/null").unwrap();
    let fd = || null.as_fd().try_clone_to_owned().unwrap();
    for _ in 0..119 {
        fds.ready(fd()).unwrap();
    }
    let e = fds.ready(fd()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig);
    assert!(e.to_string().contains("119"), "{e}");
}

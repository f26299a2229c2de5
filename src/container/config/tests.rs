//! Configurations, good and bad.

use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use super::*;
use crate::ErrorKind;
use crate::caps::{CapSet, Capability};
use crate::idmap::{IdMap, IdRange, InnerGid};
use crate::namespaces::{TimeOffset, TimeOffsets};
use crate::process::FileAccess;
use crate::rootfs::FileIds;
use crate::seccomp::{Action, Policy};

fn base() -> ContainerBuilder {
    ContainerConfig::builder("web").rootfs(Rootfs::dir("/srv/web"))
}

fn problems(b: ContainerBuilder) -> Vec<String> {
    let found: Vec<String> = b.problems().iter().map(ToString::to_string).collect();
    match b.build() {
        Ok(_) => assert!(found.is_empty()),
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::InvalidConfig);
            assert!(e.to_string().contains(&found.join("; ")), "{e}");
        }
    }
    found
}

/// Exactly one problem, in this field, with this word in it.
fn one(b: ContainerBuilder, field: &str, word: &str) {
    let found = problems(b);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(&format!("{field}: ")) && found[0].contains(word), "{found:?}");
}

#[test]
fn the_least_that_must_be_said() {
    let c = base().build().unwrap();
    assert_eq!(c.id().to_string(), "default/web");
    assert_eq!(c.args(), ["/sbin/init"]);
    assert_eq!((c.cwd().to_str(), c.hostname(), c.umask().bits()), (Some("/"), Some("web"), 0o022));
    assert_eq!(c.network(), Network::None);
    assert_eq!(c.capabilities(), CapabilitySets::system_unprivileged());
    assert_eq!((c.masked_paths().len(), c.readonly_paths().len()), (10, 5));
    assert!(!c.is_privileged() && !c.is_ephemeral() && !c.has_no_new_privs());
    assert_eq!(c.durability(), Durability::Durable);
    let c = c.with_id("other/db".parse().unwrap());
    assert_eq!((c.id().to_string().as_str(), c.hostname()), ("other/db", Some("db")));
}

#[test]
fn everything_wrong_is_said_at_once() {
    let found = problems(
        ContainerConfig::builder("a b")
            .args::<[&str; 0]>([])
            .cwd("tmp")
            .oom_score_adj(5000)
            .sysctl("kernel.panic", "1")
            .rlimit(Resource::ALL[7], 2, 1)
            .hostname("-x")
            .mount(Mount::tmpfs("relative")),
    );
    for field in
        ["id", "rootfs", "args", "cwd", "oom_score_adj", "sysctls", "rlimits", "hostname", "mounts[0].target"]
    {
        assert!(found.iter().any(|p| p.starts_with(&format!("{field}: "))), "{field}: {found:?}");
    }
    assert_eq!(found.len(), 9, "{found:?}");
    one(base().oom_score_adj(5000), "oom_score_adj", "5000");
}

#[test]
fn names() {
    for bad in ["", ".", "..", "a/../b", "/a", "a/", &"x".repeat(64), "a\0"] {
        let b = ContainerConfig::builder(bad).rootfs(Rootfs::dir("/srv/web"));
        assert_eq!(problems(b).len(), 1, "{bad:?}");
    }
    let snapshot = ContainerConfig::builder("p/a/s").rootfs(Rootfs::dir("/srv/web"));
    one(snapshot, "id", "snapshot");
    for good in ["a", "a.b.c", "A-1_b", &"x".repeat(64)] {
        assert_eq!(problems(base().hostname(good)), Vec::<String>::new());
    }
    for bad in ["", "-a", "a-", ".a", "a.", "a..b", "a b", "a/b", "ä", "a\0", &"x".repeat(65)] {
        assert_eq!(problems(base().hostname(bad)).len(), 1, "{bad:?}");
        assert_eq!(problems(base().domainname(bad)).len(), 1, "{bad:?}");
    }
    let shared = base().namespace(NamespaceKind::Uts, NamespaceSource::Host);
    assert_eq!(shared.clone().build().unwrap().hostname(), None);
    one(shared.hostname("x"), "hostname", "uts");
}

#[test]
fn roots() {
    one(base().rootfs(Rootfs::dir("srv/x")), "rootfs", "not an absolute path");
    one(base().rootfs(Rootfs::dir("/")), "rootfs", "Rootfs::host()");
    one(base().rootfs(Rootfs::dir("/a\0b")), "rootfs", "NUL");
    one(base().rootfs(Rootfs::dir(format!("/{}", "x".repeat(4095)))), "rootfs", "longer");
    one(base().rootfs(Rootfs::overlay::<[&str; 0]>([])), "rootfs.lower", "0 layers");
    one(base().rootfs(Rootfs::overlay(["/a", "b"])), "rootfs.lower[1]", "absolute");
    one(base().rootfs(Rootfs::overlay(["/a", "/b", "/a"])), "rootfs.lower[2]", "twice");
    one(base().rootfs(Rootfs::overlay(["/a"]).upper("/a/up")), "rootfs.upper", "overlaps");
    one(base().rootfs(Rootfs::overlay(["/a"]).upper("up")), "rootfs.upper", "absolute");
    let many: Vec<String> = (0..501).map(|n| format!("/l/{n}")).collect();
    one(base().rootfs(Rootfs::overlay(many)), "rootfs.lower", "501");
    one(base().rootfs(Rootfs::host()).privileged(), "rootfs", "user namespace only");
    let ok = base().rootfs(Rootfs::overlay(["/a", "/b"]).upper("/ab").ids(FileIds::AsIs));
    assert_eq!(problems(ok), Vec::<String>::new());
}

#[test]
fn mount_targets() {
    let at = |target: &str| base().mount(Mount::bind("/srv/x", target));
    for ok in [
        "/data",
        "/dev/kvm",
        "/proc/cpuinfo",
        "/proc/./uptime",
        "/sys/fs/cgroup/",
        "/sys/devices/system/cpu/online",
        "/process",
        "/system",
    ] {
        assert_eq!(problems(at(ok)), Vec::<String>::new(), "{ok}");
    }
    for bad in [
        "data",
        "",
        "/",
        "//",
        "/a/../b",
        "/..",
        "/proc",
        "/proc/",
        "//proc//sys",
        "/proc/self/attr",
        "/proc/cpuinfo/x",
        "/sys",
        "/sys/kernel/debug",
        "/sys/fs/cgroup/x",
        "/a\0",
    ] {
        assert_eq!(problems(at(bad)).len(), 1, "{bad}");
    }
    let twice = at("/data").mount(Mount::tmpfs("//data/."));
    one(twice, "mounts[1].target", "already");
    one(base().mount(Mount::bind("x", "/y")), "mounts[0].source", "absolute");
    one(base().mount(Mount::tmpfs("/y").mode(0o10000)), "mounts[0].mode", "bits");
    one(base().mount(Mount::tmpfs("/y").size(0)), "mounts[0].size", "is 0");
    one(base().masked_paths(["/proc/../x"]), "masked_paths[0]", "..");
    one(base().readonly_paths(["/"]), "readonly_paths[0]", "root itself");
}

#[test]
fn mount_flags() {
    let m = Mount::from(Mount::bind("/a", "/b"));
    assert_eq!(m.options(), MountOptions { read_only: false, nosuid: true, nodev: true, noexec: false });
    let all = Mount::tmpfs("/t").read_only().noexec().suid().dev();
    assert_eq!(all.options(), MountOptions { read_only: true, nosuid: false, nodev: false, noexec: true });
    assert_eq!(problems(base().mount(all.clone())), Vec::<String>::new());
    base().privileged().mount(all.clone()).build().unwrap();
    let unconfined = base().privileged().devices(DevicePolicy::allow_all());
    one(unconfined.mount(all), "mounts[0].options", "devices");
    let idmapped = Mount::bind("/a", "/b").idmapped();
    assert_eq!(problems(base().mount(idmapped.clone())), Vec::<String>::new());
    one(base().privileged().mount(idmapped), "mounts[0].ids", "user namespace");
}

#[test]
fn commands() {
    one(base().args(["", "x"]), "args[0]", "empty");
    one(base().args(["a", "b\0"]), "args[1]", "NUL");
    one(base().args(["a".to_owned(), "x".repeat(131_072)]), "args[1]", "longer");
    assert_eq!(problems(base().args(["a".to_owned(), "x".repeat(131_071)])), Vec::<String>::new());
    for name in ["", "a=b", "a\0"] {
        one(base().env(name, "v"), "env[2]", "no name");
    }
    let found = problems(base().env("TOKEN", "hunter2\0"));
    assert!(found.len() == 1 && found[0].contains("TOKEN") && !found[0].contains("hunter2"), "{found:?}");
    let c = base().env("PATH", "/bin").env("A", "1").env("A", "2").build().unwrap();
    let names: Vec<_> = c.env().iter().map(|(n, v)| format!("{}={}", n.display(), v.display())).collect();
    assert_eq!(names, ["PATH=/bin", "container=stockade", "A=2"]);
    assert!(base().env_clear().build().unwrap().env().is_empty());
    assert!(!format!("{:?}", base().env("TOKEN", "hunter2").build()).contains("hunter2"));
    one(base().cwd("x"), "cwd", "absolute");
    one(base().hosts("x".repeat((1 << 20) + 1)), "hosts", "1 MiB");
}

#[test]
fn users_must_be_in_the_map() {
    let with_group = User { groups: vec![InnerGid::new(70_000)], ..User::new(1000, 1000) };
    one(base().user(User::new(65_536, 0)), "user.uid", "not in the id map");
    one(base().user(with_group.clone()), "user.groups[0]", "70000");
    one(base().user(User::new(u32::MAX, 0)), "user", "no id");
    assert_eq!(problems(base().user(User::new(65_535, 65_535))), Vec::<String>::new());
    assert_eq!(problems(base().privileged().user(with_group)), Vec::<String>::new());

    let map = IdMap::range(100_000, 1000).unwrap();
    one(base().idmap(map.clone()).user(User::new(0, 1000)), "user.gid", "gid 1000");
    assert_eq!(problems(base().idmap(map.clone()).user(User::new(999, 999))), Vec::<String>::new());
    one(base().idmap(map.clone()).privileged(), "idmap", "new user namespace");
    let rootless = IdMap::new(vec![IdRange::new(5, 100_000, 1)], vec![IdRange::new(0, 100_000, 9)]).unwrap();
    one(base().idmap(rootless).user(User::new(5, 0)), "idmap", "no user 0");

    let single = base().idmap(IdMapConfig::SingleUser);
    assert_eq!(problems(single.clone()), Vec::<String>::new());
    one(single.clone().user(User::new(1, 0)), "user.uid", "uid 1");
    let root_group = User { groups: vec![InnerGid::ROOT], ..User::default() };
    one(single.user(root_group), "user.groups", "supplementary");
}

#[test]
fn privilege() {
    let c = base().privileged().build().unwrap();
    assert!(c.is_privileged() && !c.namespaces().is_new(NamespaceKind::User));
    assert_eq!(c.capabilities(), CapabilitySets::system_privileged());
    one(base().privileged().namespaces(NamespaceSet::default()), "privileged", "another one");
    one(base().namespace(NamespaceKind::User, NamespaceSource::Host), "namespaces", "privileged");
    let unconfined = base().privileged().devices(DevicePolicy::allow_all());
    one(unconfined.capabilities(CapabilitySets::docker_default()), "capabilities", "CAP_MKNOD");
    assert_eq!(problems(base().capabilities(CapabilitySets::docker_default())), Vec::<String>::new());
    let broken = CapabilitySets { ambient: CapSet::of(&[Capability::NetRaw]), ..CapabilitySets::none() };
    one(base().capabilities(broken), "capabilities", "ambient");
}

#[test]
fn namespaces_and_network() {
    let c = base().network(Network::Host).build().unwrap();
    assert_eq!((c.network(), c.is_privileged()), (Network::Host, false));
    one(base().network(Network::Joined), "network", "namespace");
    let fd = Target::Fd(Arc::new(std::fs::File::open("/proc/self/ns/net").unwrap().into()));
    let joined = base().namespace(NamespaceKind::Net, NamespaceSource::Join(fd));
    one(joined.clone(), "namespaces", "ephemeral");
    let c = joined.ephemeral().network(Network::Joined).build().unwrap();
    assert_eq!((c.network(), c.durability()), (Network::Joined, Durability::Ephemeral));
    one(base().namespace(NamespaceKind::Mount, NamespaceSource::Host), "namespaces", "mount");
    let host_pids = base().namespace(NamespaceKind::Pid, NamespaceSource::Host);
    one(host_pids.clone(), "namespaces", "proc");
    assert_eq!(problems(host_pids.clone().base_mounts(MountSet::None)), Vec::<String>::new());
    assert_eq!(problems(host_pids.clone().privileged()), Vec::<String>::new());
    one(host_pids.privileged().cgroup(CgroupConfig::None), "cgroup", "pid namespace");
}

#[test]
fn sysctls() {
    let forward = base().sysctl("net.ipv4.ip_forward", "1");
    assert_eq!(forward.clone().build().unwrap().sysctls()[0].name(), "net/ipv4/ip_forward");
    one(forward.clone().network(Network::Host), "sysctls", "network");
    one(forward.sysctl("net/ipv4/ip_forward", "0"), "sysctls", "twice");
    one(base().domainname("a").sysctl("kernel.domainname", "b"), "sysctls", "domain name");
    one(base().sysctl("vm.swappiness", "1"), "sysctls", "whole host");
}

#[test]
fn limits_need_a_control_group() {
    let limits = Limits::new().pids_max(10);
    assert_eq!(problems(base().limits(limits.clone())), Vec::<String>::new());
    one(base().limits(limits).cgroup(CgroupConfig::None), "limits", "control group");
}

#[test]
fn json_and_back() {
    let odd = |s: &str| OsString::from_vec([s.as_bytes(), &[0xff]].concat());
    let policy = Policy::new(Action::Allow);
    let limits = Limits::new().memory_max(1 << 30);
    let full = base()
        .ephemeral()
        .kill_on_drop()
        .rootfs(Rootfs::overlay([PathBuf::from(odd("/a")), "/b".into()]).upper("/up"))
        .read_only_root()
        .propagation(Propagation::Slave)
        .mount(Mount::bind(odd("/src"), odd("/dst")).recursive().idmapped())
        .mount(Mount::tmpfs("/t").size(4096).mode(0o1777))
        .masked_paths(["/proc/kcore"])
        .readonly_paths(["/proc/sys"])
        .resolv_conf("nameserver 192.0.2.1\n")
        .args([odd("prog"), "x".into()])
        .env("K", odd("v"))
        .cwd("/tmp")
        .user("33:33".parse().unwrap())
        .umask("0077".parse().unwrap())
        .rlimit(Resource::ALL[7], 1024, u64::MAX)
        .oom_score_adj(-5)
        .personality(Personality::Linux32)
        .capabilities(CapabilitySets::docker_default())
        .securebits(Securebits::NOROOT)
        .no_new_privs()
        .label(SecurityLabel::AppArmor("p".into()))
        .landlock(Landlock::new().allow("/", FileAccess::RUN).allow(odd("/w"), FileAccess::ALL))
        .keyring(SessionKeyring::Host)
        .seccomp(policy)
        .idmap(IdMap::range(200_000, 65_536).unwrap())
        .time_offsets(TimeOffsets { boottime: TimeOffset::new(5, 0).unwrap(), ..TimeOffsets::default() })
        .hostname("h")
        .domainname("d")
        .sysctl("net.ipv4.ip_forward", "1")
        .limits(limits)
        .enforce(Enforce::BestEffort)
        .devices(DevicePolicy::standard())
        .build()
        .unwrap();
    for config in [full, base().build().unwrap(), base().privileged().build().unwrap()] {
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ContainerConfig>(&json).unwrap(), config, "{json}");
    }
}

#[test]
fn json_is_checked_like_the_builder() {
    let json = serde_json::to_value(base().build().unwrap()).unwrap();
    let with = |field: &str, value: serde_json::Value| {
        let mut json = json.clone();
        json[field] = value;
        serde_json::from_value::<ContainerConfig>(json)
    };
    with("cwd", "/tmp".into()).unwrap();
    assert!(with("cwd", "tmp".into()).unwrap_err().to_string().contains("cwd: `tmp`"));
    assert!(with("args", serde_json::json!([])).is_err());
    assert!(with("no_such_field", 1.into()).is_err());
}

#[test]
fn a_descriptor_is_stored_as_lost() {
    let fd = Target::Fd(Arc::new(std::fs::File::open("/proc/self/ns/net").unwrap().into()));
    let config = base().ephemeral().namespace(NamespaceKind::Net, NamespaceSource::Join(fd)).build().unwrap();
    let back: ContainerConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(back.network(), Network::Joined);
    let NamespaceSource::Join(Target::Path(path)) = back.namespaces().get(NamespaceKind::Net) else {
        panic!("{:?}", back.namespaces());
    };
    assert!(path.starts_with("/proc/0/descriptor-was-not-stored") && !path.exists());
}

#[test]
fn labels_and_landlock_rules_are_checked() {
    let label = |text: &str| SecurityLabel::AppArmor(text.to_owned());
    let rules = || Landlock::new().allow("/", FileAccess::RUN);
    assert!(problems(base().label(label("p")).landlock(rules())).is_empty());
    let found = problems(base().label(label("")).landlock(Landlock::new()).base_mounts(MountSet::None));
    assert!(found.iter().any(|p| p.starts_with("label: ") && p.contains("is empty")), "{found:?}");
    assert!(found.iter().any(|p| p.starts_with("label: ") && p.contains("standard mounts")), "{found:?}");
    assert!(found.iter().any(|p| p.starts_with("landlock: ")), "{found:?}");
    let found = problems(base().system().landlock(rules()));
    assert!(found.iter().any(|p| p.contains("forbids mounting")), "{found:?}");
}

//! Containers and machines of one host, with limits of both, where v2 is alone: the host's cgroup can give controllers to
//! containers or have children for threads, and a leaf for the host makes both possible.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade::cgroup::{CpuMax, Limits};
use stockade::container::ContainerConfig;
use stockade::vm::ThreadPlacement;
use stockade::{ErrorKind, Placement, Rootfs, Runtime, VmConfig};

use super::guests;

/// The cgroup that the host of this test is to be in.
const SERVICE: &str = "STOCKADE_TEST_SERVICE";

#[test]
fn containers_and_machines_have_limits_side_by_side() {
    if let Some(cgroup) = std::env::var_os(SERVICE) {
        return serve(Path::new(&cgroup));
    }
    let _serial = support::serial();
    require_kvm!();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.trim().strip_prefix("0::/").map(|below| Path::new("/sys/fs/cgroup").join(below));
    let Some(own) = own.filter(|own| own.join("cgroup.controllers").exists()) else {
        return support::skip("limits side by side: needs a host with cgroup v2 alone");
    };
    if let Err(why) = support::privilege().and_then(|()| support::fixture("busybox").map(drop)) {
        return support::skip(why);
    }
    let service = own.join("stockade-test-service");
    std::fs::create_dir(&service).unwrap();
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "beside::containers_and_machines_have_limits_side_by_side", "--nocapture"])
        .env(SERVICE, &service)
        .status();
    let removed = std::fs::remove_dir(&service);
    assert!(done.unwrap().success());
    removed.unwrap();
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap().trim().to_owned()
}

fn serve(service: &Path) {
    std::fs::write(service.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("spin"), guests::spin()).unwrap();
    let open = |placement| {
        let builder = Runtime::builder().state_dir(at("state")).run_dir(at("run"));
        builder.cgroup_placement(placement).vm_threads(ThreadPlacement::Own).open().unwrap()
    };
    let container = |name: &str| {
        let root = support::fixture("busybox").unwrap();
        ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).args(["sleep", "1000"]).kill_on_drop()
    };
    let machine = |name: &str| {
        let half = CpuMax::quota(Duration::from_millis(50), Duration::from_millis(100));
        let config = VmConfig::builder(name).kernel(at("spin")).memory(32 << 20);
        config.limits(Limits::new().cpu_max(half)).build().unwrap()
    };

    // In one cgroup: who is there first has it.
    let runtime = open(Placement::Own);
    let first = runtime.create(container("first").build().unwrap()).unwrap();
    first.start().unwrap();
    let second = runtime.create(machine("second")).unwrap();
    let e = second.start().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.to_string().contains("cgroup.type") && e.way_out().is_some(), "{e}");
    assert_eq!(read(service, "cgroup.type"), "domain");
    first.stop().unwrap();
    second.start().unwrap();
    assert_eq!(read(service, "cgroup.type"), "domain threaded");
    let e = first.start().unwrap_err();
    assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("OwnWithLeaf"), "{e}");
    second.stop().unwrap();
    assert_eq!(
        (read(service, "cgroup.type"), read(service, "cgroup.subtree_control")),
        ("domain".to_owned(), String::new())
    );
    first.start().unwrap();
    first
        .delete_with(stockade::instance::DeleteOptions::new().mode(stockade::instance::DeleteMode::Stop))
        .unwrap();
    second.delete().unwrap();
    drop((first, second));
    runtime.close();

    // With a leaf for the host.
    let runtime = open(Placement::OwnWithLeaf);
    let limits = Limits::new().memory_max(32 << 20).pids_max(20);
    let web = runtime.create(container("web").limits(limits).build().unwrap()).unwrap();
    let guest = runtime.create(machine("guest")).unwrap();
    for round in 0..2 {
        guest.start().unwrap();
        web.start().unwrap();
        let (inside, threads): (PathBuf, PathBuf) =
            (web.info().unwrap().cgroup.unwrap(), guest.info().unwrap().cgroup.unwrap());
        let leaf = threads.parent().unwrap();
        assert_eq!((inside.parent(), leaf.parent()), (Some(service), Some(service)));
        assert_eq!(read(&inside, "memory.max"), (32_u64 << 20).to_string());
        assert_eq!(read(&threads, "cpu.max"), "50000 100000");
        assert_eq!(
            (read(leaf, "cgroup.type"), read(&threads, "cgroup.type")),
            ("domain threaded".to_owned(), "threaded".to_owned())
        );
        web.update(Limits::new().memory_max(64 << 20)).unwrap();
        let quarter = CpuMax::quota(Duration::from_millis(25), Duration::from_millis(100));
        guest.update(Limits::new().cpu_max(quarter)).unwrap();
        assert_eq!(
            (read(&inside, "memory.max"), read(&threads, "cpu.max")),
            ((64_u64 << 20).to_string(), "25000 100000".to_owned())
        );
        guest
            .update(
                Limits::new().cpu_max(CpuMax::quota(Duration::from_millis(50), Duration::from_millis(100))),
            )
            .unwrap();
        web.update(Limits::new().memory_max(32 << 20)).unwrap();
        if round == 0 {
            web.stop().unwrap();
            guest.stop().unwrap();
        } else {
            guest.stop().unwrap();
            web.stop().unwrap();
        }
        assert!(!threads.exists() && !inside.exists());
        assert_eq!(
            (read(leaf, "cgroup.type"), read(leaf, "cgroup.subtree_control")),
            ("domain".to_owned(), String::new())
        );
    }
    web.delete().unwrap();
    guest.delete().unwrap();
    drop((web, guest));
    runtime.close();
    // Back where it was, so that it leaves nothing when it ends.
    assert_eq!(
        (
            read(service, "cgroup.type"),
            std::fs::read_dir(service).unwrap().flatten().filter(|e| e.path().is_dir()).count()
        ),
        ("domain".to_owned(), 0)
    );
}

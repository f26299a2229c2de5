//! Limits, places of threads, and figures of machines. Which cgroups there are differs: with v2 alone (the lane), and with v1
//! beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade::cgroup::{CpuMax, CpuSet, Enforce, Limits};
use stockade::instance::{Cpus, Status, UpdateOptions};
use stockade::vm::{Disk, ExitReason, ThreadPlacement, VmBuilder};
use stockade::{ErrorKind, Runtime, Vm, VmConfig};
use support::HostSnapshot;

use super::{PATIENCE, Rig, ended, guests};

/// A rig whose machines have cgroups; `None`, with a message, where none can be made.
fn placed() -> Option<Rig> {
    if !rustix::process::geteuid().is_root() {
        support::skip("cgroups of threads: needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = open_placed(dir.path(), ThreadPlacement::Own);
    Some(Rig { runtime, dir })
}

fn open_placed(dir: &Path, placement: ThreadPlacement) -> Runtime {
    let builder = Runtime::builder().state_dir(dir.join("state")).run_dir(dir.join("run"));
    builder.vm_threads(placement).open().unwrap()
}

fn of_cpu(percent: u64) -> CpuMax {
    CpuMax::quota(Duration::from_millis(percent), Duration::from_millis(100))
}

pub(super) fn started(rig: &Rig, config: VmBuilder) -> Arc<Vm> {
    let vm = rig.runtime.create(config.build().unwrap()).unwrap();
    vm.start().unwrap();
    vm
}

/// The group of this controller: in v2, or the one of that name in v1.
fn group(vm: &Vm, controller: &str) -> PathBuf {
    let v2 = vm.info().unwrap().cgroup.expect("it has a cgroup");
    let has = std::fs::read_to_string(v2.join("cgroup.controllers")).unwrap();
    if has.split_whitespace().any(|c| c == controller) {
        return v2;
    }
    let all = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let line = all.lines().find(|l| l.split(':').nth(1).unwrap().split(',').any(|c| c == controller));
    let mut fields = line.unwrap_or_else(|| panic!("nobody has {controller}:\n{all}")).splitn(3, ':').skip(1);
    let (controllers, own) = (fields.next().unwrap(), fields.next().unwrap());
    Path::new("/sys/fs/cgroup")
        .join(controllers)
        .join(own.trim_start_matches('/'))
        .join(v2.file_name().unwrap())
}

/// Whether v2 or v1 has this controller here.
fn there_is(controller: &str) -> bool {
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let v1 = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    v2.split_whitespace().any(|c| c == controller)
        || v1.lines().any(|l| l.split(':').nth(1).unwrap().split(',').any(|c| c == controller))
}

fn read(dir: &Path, names: &[&str]) -> String {
    let found = names.iter().find_map(|name| std::fs::read_to_string(dir.join(name)).ok());
    found.unwrap_or_else(|| panic!("{} has none of {names:?}", dir.display())).trim().to_owned()
}

/// The threads of a machine of this process, by the names that they have: number and name.
fn threads(vm: &Vm) -> Vec<(u32, String)> {
    let suffix: String = format!(":{}", vm.id().name);
    let all = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut found: Vec<_> = all
        .filter_map(|entry| {
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned();
            let tid = entry.file_name().to_str()?.parse().ok()?;
            name.ends_with(&suffix).then_some((tid, name))
        })
        .collect();
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found
}

fn is_kvms(tid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).is_ok_and(|name| name.starts_with("kvm-"))
}

fn allowed(tid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

/// CPU time that the machine uses in about this time, and how long that was.
fn used(vm: &Vm, about: Duration) -> (Duration, Duration) {
    let usage = || vm.stats().unwrap().cpu.unwrap().usage;
    let (begin, before) = (Instant::now(), usage());
    std::thread::sleep(about);
    (usage() - before, begin.elapsed())
}

/// At most so many per cent were used: with two periods more, which the ends of the time can have cut.
fn assert_at_most(vm: &Vm, percent: u32, why: &str) {
    let (used, time) = used(vm, Duration::from_secs(3));
    let most =
        time * percent / 100 + 2 * Duration::from_millis(100) * percent / 100 + Duration::from_millis(50);
    eprintln!("{why}: {used:?} of CPU time in {time:?}");
    assert!(used <= most, "{why}: {used:?} in {time:?} is more than {most:?}");
}

#[test]
fn cpu_time_is_limited_and_the_limit_changes_while_it_runs() {
    let _serial = support::serial();
    require_kvm!();
    let Some(rig) = placed() else { return };
    ended(&rig.start("first", &guests::hello()));
    let before = HostSnapshot::take();
    let limits = Limits::new().cpu_max(of_cpu(20)).cpu_weight(50_u32);
    let disk = Disk::new(rig.file("disk", &[0; 512]));
    let vm = started(&rig, rig.config("spin", &guests::spin()).vcpus(2).disk(disk).rng().limits(limits));
    let cgroup = vm.info().unwrap().cgroup.unwrap();
    let cpu = group(&vm, "cpu");
    eprintln!("limited in {}", cpu.display());
    // All of its threads, and no other.
    let tids: Vec<String> = threads(&vm).iter().map(|(tid, _)| tid.to_string()).collect();
    assert_eq!(tids.len(), 4, "{:?}", threads(&vm));
    for (dir, names) in
        [(&cgroup, ["cgroup.threads"]), (&cpu, [if cpu == cgroup { "cgroup.threads" } else { "tasks" }])]
    {
        let text = read(dir, &names);
        // The kernel may have one of its own for the machine.
        let inside: Vec<&str> = text.lines().filter(|tid| !is_kvms(tid)).collect();
        let (mut inside, mut want) = (inside, tids.iter().map(String::as_str).collect::<Vec<_>>());
        inside.sort_unstable();
        want.sort_unstable();
        assert_eq!(inside, want, "{}", dir.display());
    }
    assert!(matches!(&*read(&cpu, &["cpu.max", "cpu.cfs_quota_us"]), "20000 100000" | "20000"));
    assert!(matches!(&*read(&cpu, &["cpu.weight", "cpu.shares"]), "50" | "512"));
    assert_at_most(&vm, 20, "with 20 %");
    let stats = vm.stats().unwrap().cpu.unwrap();
    assert!(stats.throttled_periods.unwrap() > 0, "{stats:?}");

    vm.update(Limits::new().cpu_max(of_cpu(10))).unwrap();
    assert!(matches!(&*read(&cpu, &["cpu.max", "cpu.cfs_quota_us"]), "10000 100000" | "10000"));
    assert_at_most(&vm, 10, "with 10 %");
    // What cannot be is refused, and the old limit stays, here and on record.
    let too_much = vm.update(Limits::new().cpu_max(of_cpu(30)).cpu_weight(0_u32)).unwrap_err();
    assert_eq!(too_much.kind(), ErrorKind::InvalidConfig, "{too_much}");
    let pids = vm.update(Limits::new().cpu_max(of_cpu(30)).pids_max(5)).unwrap_err();
    assert!(pids.kind() == ErrorKind::Unsupported && pids.to_string().contains("pids_max"), "{pids}");
    let fault = stockade::cgroup::WriteFault { write: 1, errno: libc::EIO };
    let both = Limits::new().cpu_max(of_cpu(30)).cpu_weight(70_u32);
    assert!(vm.update_with(UpdateOptions::new(both).fault(fault)).is_err());
    assert!(matches!(&*read(&cpu, &["cpu.max", "cpu.cfs_quota_us"]), "10000 100000" | "10000"));
    assert!(matches!(&*read(&cpu, &["cpu.weight", "cpu.shares"]), "50" | "512"));
    assert_eq!(vm.config().limits().cpu_max, Some(of_cpu(10)));

    vm.update(Limits::new().cpu_max(CpuMax::Max)).unwrap();
    assert!(matches!(&*read(&cpu, &["cpu.max", "cpu.cfs_quota_us"]), "max 100000" | "-1"));
    let throttled = || vm.stats().unwrap().cpu.unwrap().throttled_periods.unwrap();
    // The period in which it was lifted may count yet.
    let (now, _) = (throttled(), used(&vm, Duration::from_millis(500)));
    assert!(throttled() <= now + 1);
    // Frozen with its threads there, and the limit changes all the same.
    vm.freeze().unwrap();
    vm.update(Limits::new().cpu_max(of_cpu(20))).unwrap();
    assert!(vm.stats().unwrap().state.unwrap().frozen);
    vm.unfreeze().unwrap();
    // The next run has what is on record.
    vm.restart().unwrap();
    assert!(matches!(&*read(&cpu, &["cpu.max", "cpu.cfs_quota_us"]), "20000 100000" | "20000"));
    vm.stop().unwrap();
    assert!(!cgroup.exists() && !cpu.exists());
    assert_eq!(vm.info().unwrap().cgroup, None);
    vm.update(Limits::new().cpu_max(of_cpu(30))).unwrap();
    vm.delete().unwrap();
    drop(vm);
    before.assert_unchanged();
}

#[test]
fn cgroups_go_however_a_run_ends_and_when_a_start_fails() {
    let _serial = support::serial();
    require_kvm!();
    let Some(rig) = placed() else { return };
    ended(&rig.start("first", &guests::hello()));
    let before = HostSnapshot::take();
    let limits = || Limits::new().cpu_max(of_cpu(50));
    // By itself: whoever looks removes it.
    let vm = started(&rig, rig.config("off", &guests::hello()).limits(limits()));
    assert_eq!(ended(&vm), ExitReason::Poweroff(7));
    assert_eq!((vm.status(), vm.info().unwrap().cgroup), (Status::Stopped, None));
    // Starts that fail before and after the cgroup is made.
    let none = rig.dir.path().join("none");
    for config in [
        rig.config("no-kernel", b"not a kernel").limits(limits()),
        rig.config("no-disk", &guests::hello()).disk(Disk::new(&none)).limits(limits()),
        rig.config("no-cpu", &guests::hello())
            .limits(limits().cpuset_cpus("8000".parse::<CpuSet>().unwrap())),
        rig.config("no-place", &guests::hello()).limits(limits()).vcpu_cpus(0, "8000".parse().unwrap()),
    ] {
        let vm = rig.runtime.create(config.build().unwrap()).unwrap();
        let e = vm.start().unwrap_err();
        eprintln!("{e}");
        assert_eq!((vm.status(), vm.info().unwrap().cgroup), (Status::Stopped, None));
        vm.delete().unwrap();
    }
    // By the end of the runtime, and with two that end one after the other.
    let two = [
        started(&rig, rig.config("a", &guests::spin()).limits(limits())),
        started(&rig, rig.config("b", &guests::spin()).limits(limits())),
    ];
    let groups: Vec<PathBuf> = two.iter().map(|vm| vm.info().unwrap().cgroup.unwrap()).collect();
    two[0].stop().unwrap();
    assert!(!groups[0].exists() && groups[1].exists());
    rig.runtime.clone().close();
    assert!(!groups[1].exists());
    drop((vm, two));
    before.assert_unchanged();
}

/// The directory of the host that is to die with a cgroup.
const DOOMED: &str = "STOCKADE_TEST_DOOMED_CGROUP";

#[test]
fn the_cgroup_of_a_machine_whose_host_was_killed_is_removed_by_the_next() {
    if let Some(dir) = std::env::var_os(DOOMED) {
        let dir = PathBuf::from(dir);
        let runtime = open_placed(&dir, ThreadPlacement::Own);
        std::fs::write(dir.join("spin"), guests::spin()).unwrap();
        for name in ["doomed", "other"] {
            let config = VmConfig::builder(name).kernel(dir.join("spin")).memory(32 << 20);
            let vm =
                runtime.create(config.limits(Limits::new().cpu_max(of_cpu(20))).build().unwrap()).unwrap();
            vm.start().unwrap();
            std::fs::write(dir.join(format!("group-{name}")), group(&vm, "cpu").to_str().unwrap()).unwrap();
        }
        std::fs::write(dir.join("runs"), "").unwrap();
        std::thread::sleep(PATIENCE);
        return;
    }
    let _serial = support::serial();
    require_kvm!();
    let Some(rig) = placed() else { return };
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "limits::the_cgroup_of_a_machine_whose_host_was_killed_is_removed_by_the_next",
            "--nocapture",
        ])
        .env(DOOMED, rig.dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    support::until(PATIENCE, "the machine runs", || rig.dir.path().join("runs").exists());
    let at = |name: &str| PathBuf::from(std::fs::read_to_string(rig.dir.path().join(name)).unwrap());
    let (doomed, other) = (at("group-doomed"), at("group-other"));
    let vm = rig.runtime.vm(&"doomed".parse().unwrap()).unwrap();
    // Nothing is touched of one that runs.
    assert_eq!(vm.status(), Status::Running);
    drop(open_placed(rig.dir.path(), ThreadPlacement::Own));
    assert!(doomed.exists() && other.exists());
    assert_eq!(vm.update(Limits::new().cpu_max(of_cpu(30))).unwrap_err().kind(), ErrorKind::Unsupported);
    host.kill().unwrap();
    host.wait().unwrap();
    assert_eq!(vm.status(), Status::Stopped);
    assert!(!doomed.exists(), "{}", doomed.display());
    // Who opens removes those that nobody asks for, wherever its own machines go.
    assert!(other.exists());
    drop(open_placed(rig.dir.path(), ThreadPlacement::Stay));
    assert!(!other.exists(), "{}", other.display());
    vm.start().unwrap();
    vm.stop().unwrap();
}

#[test]
fn what_cannot_be_limited_is_refused_by_name_or_reported() {
    let _serial = support::serial();
    require_kvm!();
    let rig = Rig::new();
    // Never, whatever the host has.
    let all = Limits::new().pids_max(10).memory_high(1 << 20).io_weight(10_u32);
    let e = rig.config("never", b"").limits(all.clone()).build().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig);
    for name in ["pids", "memory", "io", "balloon"] {
        let text = match name {
            "balloon" => rig
                .config("m", b"")
                .limits(Limits::new().memory_max(32 << 20))
                .build()
                .unwrap_err()
                .to_string(),
            _ => e.to_string(),
        };
        assert!(text.contains(name), "{text}");
    }
    for (limits, why) in [
        (Limits::new().memory_max(1), "memory_max"),
        (Limits::new().memory_max(1 << 40), "memory_max"),
        (Limits::new().cpu_weight(0_u32), "cpu_weight"),
    ] {
        let e = rig.config("wrong", b"").balloon().limits(limits).build().unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
    }
    for config in [
        rig.config("pin", b"").vcpu_cpus(1, "0".parse().unwrap()),
        rig.config("pin", b"")
            .vcpu_cpus(0, "1".parse().unwrap())
            .limits(Limits::new().cpuset_cpus("0".parse::<CpuSet>().unwrap())),
    ] {
        assert!(config.build().unwrap_err().to_string().contains("vCPU"));
    }
    // Not in this runtime: nothing is left of the start, and the hint says what is.
    let vm = rig
        .runtime
        .create(
            rig.config("none", &guests::spin()).limits(Limits::new().cpu_max(of_cpu(20))).build().unwrap(),
        )
        .unwrap();
    let e = vm.start().unwrap_err();
    assert!(
        e.kind() == ErrorKind::Unsupported
            && e.to_string().contains("cpu_max")
            && e.to_string().contains("vm_threads"),
        "{e}"
    );
    assert_eq!(vm.status(), Status::Stopped);
    // Left out on request, and said so.
    vm.update_with(UpdateOptions::new(all).enforce(Enforce::BestEffort)).unwrap();
    vm.start().unwrap();
    let skipped = vm.info().unwrap().skipped_limits;
    eprintln!("{} are skipped", skipped.len());
    for file in ["cpu.max:", "pids.max:", "memory.high:", "io.weight:"] {
        assert!(skipped.iter().any(|s| s.starts_with(file)), "{file} is not in {skipped:?}");
    }
    let more = vm.update(Limits::new().cpu_weight(10_u32)).unwrap();
    assert_eq!((more.len(), more[0].file.as_str()), (1, "cpu.weight"));
    let e = vm
        .update_with(UpdateOptions::new(Limits::new().cpu_weight(20_u32)).enforce(Enforce::Required))
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert_eq!(vm.config().limits().cpu_weight, Some(10));
    let balanced = vm.update_with(UpdateOptions::new(Limits::new()).cpus(Cpus::Count(1))).unwrap_err();
    assert_eq!(balanced.kind(), ErrorKind::Unsupported);
    let metrics = stockade::Instance::metrics(&*vm).unwrap();
    assert_eq!(metrics.stats_reader().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(metrics.resource_events().unwrap_err().kind(), ErrorKind::Unsupported);
    vm.stop().unwrap();
    assert_eq!(vm.stats().unwrap_err().kind(), ErrorKind::InvalidState);
    // Places that there are not.
    if placed().is_none() {
        return;
    }
    for (path, kind) in
        [("/sys/fs/cgroup/none", ErrorKind::NotFound), ("/elsewhere", ErrorKind::InvalidConfig)]
    {
        let runtime = open_placed(rig.dir.path(), ThreadPlacement::Below(path.into()));
        let config = rig.config(&format!("place{}", path.len()), &guests::spin());
        let vm = runtime.create(config.build().unwrap()).unwrap();
        let e = vm.start().unwrap_err();
        assert!(e.kind() == kind || e.kind() == ErrorKind::InvalidConfig, "{e}");
        assert!(e.to_string().contains(path), "{e}");
        vm.update_with(UpdateOptions::new(Limits::new()).enforce(Enforce::BestEffort)).unwrap();
        vm.start().unwrap();
        assert!(vm.info().unwrap().skipped_limits[0].starts_with("cgroup: "));
        vm.stop().unwrap();
    }
}

#[test]
fn threads_run_where_they_are_told_to() {
    let _serial = support::serial();
    require_kvm!();
    let here = allowed(std::process::id());
    let cpus: CpuSet = here.parse().unwrap();
    let cpus: Vec<u32> = cpus.iter().collect();
    let [first, .., last] = cpus[..] else { return support::skip("pins: this process has one CPU") };
    let set = |cpus: &[u32]| CpuSet::new(cpus.iter().copied()).unwrap();
    let mut rigs = vec![("by affinity", Rig::new())];
    if there_is("cpuset") {
        rigs.extend(placed().map(|rig| ("by a cgroup", rig)));
    }
    for (how, rig) in rigs {
        eprintln!("{how}");
        let disk = Disk::new(rig.file("disk", &[0; 512]));
        let config = rig.config("pin", &guests::spin()).vcpus(2).disk(disk).rng();
        let config = config.vcpu_cpus(1, set(&[last])).device_cpus(set(&[first]));
        let vm = started(&rig, config);
        let run = |vm: &Vm| -> Vec<String> { threads(vm).into_iter().map(|(tid, _)| allowed(tid)).collect() };
        let names: Vec<String> = threads(&vm).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["vcpu0:pin", "vcpu1:pin", "vm-disk0:pin", "vm-io:pin"]);
        let (here, f, l) = (here.as_str(), &*first.to_string(), &*last.to_string());
        assert_eq!(run(&vm), [here, l, f, f]);
        // One for all that leaves nothing to some is refused.
        let e = vm.update(Limits::new().cpuset_cpus(set(&[first]))).unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("vCPU 1"), "{e}");
        assert_eq!(run(&vm), [here, l, f, f]);
        vm.stop().unwrap();

        let vm = started(
            &rig,
            rig.config("all", &guests::spin()).vcpus(2).limits(Limits::new().cpuset_cpus(set(&[last]))),
        );
        assert_eq!(run(&vm), [l, l]);
        vm.update(Limits::new().cpuset_cpus(set(&[first]))).unwrap();
        assert_eq!(run(&vm), [f, f]);
        if how == "by a cgroup" {
            assert_eq!(read(&group(&vm, "cpuset"), &["cpuset.cpus"]), f);
        }
        let e = vm.update(Limits::new().cpuset_cpus(set(&[8000]))).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{e}");
        assert_eq!(run(&vm), [f, f]);
        vm.update(Limits::new().cpuset_cpus(CpuSet::default())).unwrap();
        assert_eq!(run(&vm), [here, here]);
        vm.stop().unwrap();
    }
    assert_eq!(allowed(std::process::id()), here);
}

#[test]
fn a_set_of_cpus_and_of_nodes_is_the_cgroups_where_it_can_be() {
    let _serial = support::serial();
    require_kvm!();
    let Some(rig) = placed().filter(|_| there_is("cpuset")) else { return };
    let here = allowed(std::process::id());
    let cpus: CpuSet = here.parse().unwrap();
    let first = cpus.iter().next().unwrap();
    let nodes = "0".parse::<stockade::cgroup::NodeSet>().unwrap();
    let limits = Limits::new().cpuset_cpus(CpuSet::new([first]).unwrap()).cpuset_mems(nodes);
    let vm = started(&rig, rig.config("set", &guests::spin()).vcpus(2).limits(limits));
    let dir = group(&vm, "cpuset");
    assert_eq!(
        (read(&dir, &["cpuset.cpus"]), read(&dir, &["cpuset.mems"])),
        (first.to_string(), "0".to_owned())
    );
    let run = |vm: &Vm| -> Vec<String> { threads(vm).into_iter().map(|(tid, _)| allowed(tid)).collect() };
    assert_eq!(run(&vm), [first.to_string(), first.to_string()]);
    vm.update(Limits::new().cpuset_cpus(CpuSet::default())).unwrap();
    assert_eq!(run(&vm), [&*here, &*here]);
    assert!(matches!(&*read(&dir, &["cpuset.cpus"]), "") || read(&dir, &["cpuset.cpus"]) == here);
    vm.stop().unwrap();
    assert!(!dir.exists());
    eprintln!("sets in {}", dir.display());
}

/// The directory of the host that may not make cgroups.
const NOBODY: &str = "STOCKADE_TEST_NOBODY";

#[test]
fn who_may_not_make_cgroups_is_told_whose_they_are() {
    if let Some(dir) = std::env::var_os(NOBODY) {
        let dir = PathBuf::from(dir).join("own");
        std::fs::create_dir(&dir).unwrap();
        let runtime = open_placed(&dir, ThreadPlacement::Own);
        let config = VmConfig::builder("mine").kernel("/k").limits(Limits::new().cpu_max(of_cpu(20)));
        let vm = runtime.create(config.build().unwrap()).unwrap();
        let e = vm.start().unwrap_err();
        eprintln!("{e}");
        assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}");
        for part in ["create cgroup `/sys/fs/cgroup", "belongs to user 0", "Delegate=yes"] {
            assert!(e.to_string().contains(part), "{part} is not in {e}");
        }
        return;
    }
    let _serial = support::serial();
    if !rustix::process::geteuid().is_root() {
        return support::skip("limits without privilege: needs root to become somebody else");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    // The program where somebody else can reach it.
    let program = dir.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut host = std::process::Command::new(&program);
    host.args(["--exact", "limits::who_may_not_make_cgroups_is_told_whose_they_are", "--nocapture"]);
    std::os::unix::process::CommandExt::uid(&mut host, 65534);
    std::os::unix::process::CommandExt::gid(&mut host, 65534);
    assert!(host.env(NOBODY, dir.path()).current_dir("/").status().unwrap().success());
}

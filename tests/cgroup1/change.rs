//! Limits of v1 change as one with those of v2; and what v1 does not have.

use std::fs;
use std::time::Duration;

use stockade::ErrorKind;
use stockade::cgroup::{
    Controller, CpuMax, DevicePolicy, Enforce, Hierarchy, HugePageSize, HugetlbLimits, Limit, Limits,
    OomPolicy, WriteFault,
};
use stockade::instance::UpdateOptions;

use crate::host::{group_of, limits_of, own_group, read, rig};
use crate::rig::{busybox, end, sh};

/// A set of limits of four controllers; each is another with another number.
fn many(n: u64) -> Limits {
    let limits = Limits::new()
        .cpu_weight(100 * n as u32)
        .cpu_max(CpuMax::quota(Duration::from_millis(40 * n), Duration::from_millis(90 + n)))
        .cpu_max_burst(Duration::from_millis(30 * n))
        .memory_max((80 << 20) * n)
        .memory_swap_max((10 << 20) * n)
        .memory_low((1 << 20) * n)
        .pids_max(100 * n);
    // Of v2, on hosts such as this.
    let pages = HugetlbLimits::new().max((2 << 20) * n);
    if own_group("hugetlb").is_none() && has_huge_pages() {
        limits.huge_pages(HugePageSize::MB2, pages)
    } else {
        limits
    }
}

/// Whether the cgroups of instances have v2's own controller already: giving it to them would change this process's own.
fn has_huge_pages() -> bool {
    let own = Hierarchy::detect().unwrap();
    own.own().enabled_controllers().unwrap().contains(&Controller::Hugetlb)
}

#[test]
fn a_running_container_gets_new_limits_of_both_trees_or_keeps_all_old_ones() {
    let Some(rig) = rig(&["cpu", "memory", "pids"]) else { return };
    let c = rig.run(busybox("live").limits(many(2)));
    let record = rig.dirs.state().join("instances/default/live/record.json");
    let (before, on_disk) = (limits_of(&c), fs::read_to_string(&record).unwrap());
    let mut faults = 0;
    loop {
        let fault = WriteFault { write: faults, errno: 5 };
        let Err(e) = c.update_with(UpdateOptions::new(many(3)).fault(fault)) else { break };
        assert_eq!((e.errno(), e.op()), (Some(5), Some("update")), "{e}");
        assert_eq!(limits_of(&c), before, "write {faults}");
        assert_eq!(fs::read_to_string(&record).unwrap(), on_disk);
        faults += 1;
    }
    // Up, which has just been done, and down again.
    assert_eq!(limits_of(&c), before.patched(&many(3)));
    let (up, before) = (faults, limits_of(&c));
    faults = 0;
    loop {
        let fault = WriteFault { write: faults, errno: 5 };
        let Err(e) = c.update_with(UpdateOptions::new(many(1)).fault(fault)) else { break };
        assert_eq!(e.errno(), Some(5), "{e}");
        assert_eq!(limits_of(&c), before, "write {faults}");
        faults += 1;
    }
    assert_eq!(limits_of(&c), before.patched(&many(1)));
    let trees = if many(1).hugetlb.is_empty() { "v1" } else { "v1 and v2" };
    println!("covered: of {trees} {up} writes that fail on the way up, {faults} on the way down");
    assert!(up >= 8 && faults >= 8);
    // The next run has them too.
    c.restart().unwrap();
    assert_eq!(limits_of(&c), before.patched(&many(1)));
    end(c);
    rig.end();
}

#[test]
fn what_v1_does_not_have_is_refused_by_name_or_skipped() {
    let Some(rig) = rig(&["cpu", "memory", "pids"]) else { return };
    let lacking = [
        ("memory.high", Limits::new().memory_high(64 << 20)),
        ("memory.min", Limits::new().memory_min(1 << 20)),
        ("memory.oom.group", Limits::new().memory_oom_group(OomPolicy::Cgroup)),
        ("memory.swap.max", Limits::new().memory_swap_max(1 << 20)),
        ("memory.zswap.max", Limits::new().memory_zswap_max(1 << 20)),
    ];
    let c = rig.run(busybox("lacks").limits(Limits::new().pids_max(9)));
    for (file, limits) in &lacking {
        let e = c.update(limits.clone().pids_max(10)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        assert!(e.to_string().contains("cgroup v1 holds memory") && e.to_string().contains(file), "{e}");
        assert!(e.way_out().is_some(), "{e}");
        assert_eq!(limits_of(&c).pids_max, Some(Limit::Value(9)));
    }
    let all = lacking.iter().fold(Limits::new().pids_max(11), |all, (_, limits)| all.patched(limits));
    let options = UpdateOptions::new(all.clone()).enforce(Enforce::BestEffort);
    let skipped = c.update_with(options).unwrap();
    let mut files: Vec<_> = skipped.iter().map(|s| s.file.as_str()).collect();
    files.sort_unstable();
    let mut expected: Vec<_> = lacking.iter().map(|(file, _)| *file).collect();
    expected.sort_unstable();
    assert_eq!(files, expected);
    assert_eq!(limits_of(&c).pids_max, Some(Limit::Value(11)));
    end(c);
    // The same at a start.
    let c = rig.runtime.create(busybox("start").limits(all.clone()).build().unwrap()).unwrap();
    assert_eq!(c.start().unwrap_err().kind(), ErrorKind::Unsupported);
    end(c);
    let c = rig.run(busybox("start").limits(all).enforce(Enforce::BestEffort));
    assert_eq!(c.info().unwrap().skipped_limits.len(), lacking.len());
    assert_eq!(read(&group_of(&c, "pids"), "pids.max"), "11");
    // What it does anyway is no limit that is lacking.
    c.update_with(
        UpdateOptions::new(Limits::new().memory_oom_group(OomPolicy::Process)).enforce(Enforce::BestEffort),
    )
    .unwrap();
    end(c);
    rig.end();
}

#[test]
fn no_group_is_made_that_no_limit_needs() {
    let Some(rig) = rig(&["cpu", "memory", "pids"]) else { return };
    let c = rig.run(busybox("none"));
    let mut reader = c.stats_reader().unwrap();
    for controller in ["cpu", "memory", "pids", "cpuset", "blkio", "freezer", "devices"] {
        assert!(own_group(controller).is_none_or(|_| !group_of(&c, controller).exists()), "{controller}");
    }
    c.update(Limits::new().cpu_weight(10_u32)).unwrap();
    assert!(group_of(&c, "cpu").exists() && !group_of(&c, "memory").exists());
    assert!(c.stats().unwrap().memory.is_none_or(|m| m.current.is_none()));
    // A reader finds what came later when it is told to look.
    c.update(Limits::new().pids_max(10)).unwrap();
    assert!(reader.read().unwrap().pids.is_none());
    reader.refresh().unwrap();
    assert_eq!(reader.read().unwrap().pids.map(|p| p.current), Some(1));
    drop(reader);
    end(c);
    rig.end();
}

#[test]
fn the_report_of_what_is_delegated_names_what_v1_gives() {
    let Some(rig) = rig(&["cpu", "memory", "pids"]) else { return };
    let found = rig.runtime.delegation().unwrap();
    let held = [Controller::Cpu, Controller::Memory, Controller::Pids];
    assert!(held.iter().all(|c| found.through_v1.contains(c)), "{found}");
    assert!(found.to_string().contains("set through cgroup v1: "), "{found}");
    rig.end();
}

#[test]
fn devices_are_confined_by_v1_where_the_kernel_has_no_programs_for_it() {
    let Some(rig) = rig(&["devices"]) else { return };
    let c = rig.run(busybox("dev"));
    let cgroup = Hierarchy::detect().unwrap().open(&c.info().unwrap().cgroup.unwrap()).unwrap();
    let opens = |node: &str| sh(&c, &format!("exec 3<{node}")).0 == 0;
    let rule = |text: &str| text.parse().unwrap();
    assert!(opens("/dev/null") && opens("/dev/zero"));
    cgroup
        .confine_by_v1(&DevicePolicy::deny_all().allow(rule("c 1:3 rw")).allow(rule("c 136:* rwm")))
        .unwrap();
    let group = group_of(&c, "devices");
    assert_eq!(read(&group, "devices.list"), "c 1:3 rw\nc 136:* rwm");
    assert!(opens("/dev/null") && !opens("/dev/zero"));
    cgroup.confine_by_v1(&DevicePolicy::allow_all().deny(rule("c 1:7 r"))).unwrap();
    assert!(!opens("/dev/full") && opens("/dev/zero"));
    let mixed = DevicePolicy::standard().deny(rule("c 1:7 rw"));
    assert_eq!(cgroup.confine_by_v1(&mixed).unwrap_err().kind(), ErrorKind::Unsupported);
    cgroup.confine_by_v1(&DevicePolicy::standard()).unwrap();
    assert!(opens("/dev/null") && opens("/dev/zero") && opens("/dev/full"));
    let list = read(&group, "devices.list");
    // Any node may be made, and no more: an `a` of v1 would be everything.
    assert!(list.starts_with("b *:* m\nc *:* m\nc 1:3 rwm\n") && !list.contains('a'), "{list}");
    drop(cgroup);
    end(c);
    assert!(!group.exists());
    rig.end();
}

#[test]
fn a_start_that_fails_leaves_no_group() {
    let Some(rig) = rig(&["cpu", "memory", "pids"]) else { return };
    let c = rig.run(busybox("model").limits(many(1)));
    let at: Vec<_> =
        ["cpu", "memory", "pids"].iter().map(|c1| group_of(&c, c1).parent().unwrap().to_owned()).collect();
    end(c);
    let groups = || at.iter().map(|dir| fs::read_dir(dir).unwrap().count()).collect::<Vec<_>>();
    let before = groups();
    let wrong = [
        busybox("none").args(["/no/such/program"]),
        busybox("dir").args(["/tmp"]),
        busybox("cwd").cwd("/no/such/directory"),
    ];
    for builder in wrong {
        let c = rig.runtime.create(builder.limits(many(1)).build().unwrap()).unwrap();
        c.start().unwrap_err();
        assert_eq!(groups(), before);
        c.delete().unwrap();
    }
    rig.end();
}

/// Who owns the v2 directory can write what it says of its v1 groups: that must not lead anywhere else.
#[test]
fn an_attribute_that_lies_removes_nothing() {
    let Some(rig) = rig(&["pids"]) else { return };
    let c = rig.run(busybox("liar").limits(Limits::new().pids_max(9)));
    let v2 = c.info().unwrap().cgroup.unwrap();
    let name = v2.file_name().unwrap().to_str().unwrap().to_owned();
    let victim = tempfile::tempdir().unwrap();
    let named = victim.path().join(&name);
    fs::create_dir(&named).unwrap();
    let other = own_group("pids").unwrap().join("stockade-test-other");
    fs::create_dir(&other).unwrap();
    let dir = fs::File::open(&v2).unwrap();
    let mut text = vec![0; 4096];
    let n = rustix::fs::fgetxattr(&dir, "user.stockade.cgroup1", &mut text[..]).unwrap();
    text.truncate(n);
    for path in [victim.path(), &named, &other] {
        text.extend(format!("pids {}\nmemory {}\n", path.display(), path.display()).into_bytes());
    }
    rustix::fs::fsetxattr(&dir, "user.stockade.cgroup1", &text, rustix::fs::XattrFlags::empty()).unwrap();
    let group = group_of(&c, "pids");
    drop(dir);
    assert_eq!(sh(&c, "true").0, 0);
    c.stop().unwrap();
    assert!(!group.exists() && named.is_dir() && other.is_dir());
    fs::remove_dir(&other).unwrap();
    drop(victim);
    end(c);
    rig.end();
}

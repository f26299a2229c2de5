//! Changing the limits of containers: on record, in the kernel, all or none, through faults and crashes. On a host whose
//! cgroup v2 has no controllers, what is refused and skipped; in the VM lane the limits themselves.

mod again;
mod rig;
mod v2_alone;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rig::{Rig, busybox, end, sh};
use stockade::cgroup::{
    BelowUse, Controller, CpuMax, CpuSet, Enforce, Hierarchy, Limit, Limits, Skipped, WriteFault,
};
use stockade::container::{CgroupConfig, Container};
use stockade::instance::{Instance, Status, UpdateOptions};
use stockade::{ErrorKind, Runtime};
use support::{require, until};

const LONG: Duration = Duration::from_secs(60);

fn has(controllers: &[Controller]) -> bool {
    let there = Hierarchy::detect().unwrap().own().controllers().unwrap();
    controllers.iter().all(|c| there.contains(c))
}

/// Whether such limits can be set, through v1 or v2.
fn can(controllers: &[Controller]) -> bool {
    let through_v1 = Hierarchy::detect().unwrap().delegation().unwrap().through_v1;
    controllers.iter().all(|c| has(&[*c]) || through_v1.contains(c))
}

fn file(c: &Container, name: &str) -> String {
    fs::read_to_string(c.info().unwrap().cgroup.unwrap().join(name)).unwrap().trim().to_owned()
}

/// What the kernel has.
fn limits_of(c: &Container) -> Limits {
    let path = c.info().unwrap().cgroup.unwrap();
    Hierarchy::detect().unwrap().open(&path).unwrap().limits().unwrap()
}

fn record(rig: &Rig, name: &str) -> PathBuf {
    rig.dirs.state().join(format!("instances/default/{name}/record.json"))
}

/// Where the record of its run is, and its text: a link's, where that is long enough for it.
fn run_record(rig: &Rig, name: &str) -> (PathBuf, String) {
    let path = rig.dirs.run().join(format!("instances/default/{name}/run.json"));
    let text = fs::read_link(&path)
        .map_or_else(|_| fs::read_to_string(&path).unwrap(), |link| link.to_str().unwrap().to_owned());
    (path, text)
}

fn none(skipped: Vec<Skipped>) {
    assert!(skipped.is_empty(), "{skipped:?}");
}

#[test]
fn of_a_stopped_container_the_record_changes() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.runtime.create(busybox("still").limits(Limits::new().pids_max(10)).build().unwrap()).unwrap();
    none(c.update(Limits::new().memory_max(1 << 30)).unwrap());
    let both = Limits::new().pids_max(10).memory_max(1 << 30);
    assert_eq!(*c.config().limits(), both);
    // Lifted, which is not the same as never set.
    let c: Arc<dyn Instance> = c;
    none(c.update(Limits::new().pids_max(Limit::Max)).unwrap());
    drop(c);
    // As the version before wrote it, which knew these two limits.
    let path = record(&rig, "still");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"schema\":2,"), "{text}");
    fs::write(&path, text.replacen("2", "1", 1)).unwrap();
    let again = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
    let c = again.container(&"still".parse().unwrap()).unwrap();
    assert_eq!(*c.config().limits(), both.patched(&Limits::new().pids_max(Limit::Max)));
    end(c);
    again.close();
    rig.end();
}

#[test]
fn what_another_runtime_wrote_of_the_run_stays() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("known"));
    let (path, text) = run_record(&rig, "known");
    assert!(!text.contains("reboots"), "{text}");
    fs::remove_file(&path).unwrap();
    fs::write(&path, text.replace("\"record\":{", "\"record\":{\"reboots\":[1],")).unwrap();
    let limits = Limits::new().cpu_weight(50_u32);
    c.update_with(UpdateOptions::new(limits).enforce(Enforce::BestEffort)).unwrap();
    let text = run_record(&rig, "known").1;
    assert!(text.contains("\"reboots\":[1]") && !text.contains("updating"), "{text}");
    end(c);
    rig.end();
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("wrong"));
    none(c.update_with(UpdateOptions::new(Limits::new()).enforce(Enforce::BestEffort)).unwrap());
    let before = fs::read_to_string(record(&rig, "wrong")).unwrap();
    let wrong = Limits::new().cpu_weight(0_u32).memory_high(2).memory_max(1);
    let e = c.update(wrong).unwrap_err();
    assert_eq!((e.kind(), e.op()), (ErrorKind::InvalidConfig, Some("update")));
    for part in ["limits.cpu_weight: 0", "limits.memory_high: 2 is above memory_max"] {
        assert!(e.to_string().contains(part), "{e}");
    }
    let e = c.update(Limits::new().cpuset_cpus(CpuSet::new([8191]).unwrap())).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("not on this host"), "{e}");
    assert_eq!(fs::read_to_string(record(&rig, "wrong")).unwrap(), before);
    end(c);

    let c = rig.run(busybox("bare").cgroup(CgroupConfig::None));
    let e = c.update(Limits::new().pids_max(5)).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("control group"), "{e}");
    end(c);

    // A CPU that is not there is found before anything is made.
    let c = busybox("cpus").limits(Limits::new().cpuset_cpus(CpuSet::new([8191]).unwrap()));
    let c = rig.runtime.create(c.build().unwrap()).unwrap();
    let e = c.start().unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("8191"), "{e}");
    c.delete().unwrap();
    let e = c.update(Limits::new().pids_max(5)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    drop(c);
    rig.end();
}

#[test]
fn without_controllers_a_running_container_refuses_or_skips() {
    if !v2_alone::goes_on_here("without_controllers_a_running_container_refuses_or_skips") {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    require!(!has(&[Controller::Pids]), "needs a host whose cgroup v2 has no pids controller");
    let c = rig.run(busybox("lacks"));
    let limits = || Limits::new().pids_max(7).memory_max(1 << 30);
    let e = c.update(limits()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.way_out().is_some_and(|h| h.contains("cgroup_no_v1=all")), "{e}");
    assert!(c.config().limits().is_empty());
    let skipped = c.update_with(UpdateOptions::new(limits()).enforce(Enforce::BestEffort)).unwrap();
    let files: Vec<_> = skipped.iter().map(|s| s.file.as_str()).collect();
    assert_eq!(files, ["pids.max", "memory.max"]);
    let shown = c.info().unwrap().skipped_limits;
    assert!(shown.len() == 2 && shown[0].starts_with("pids.max: "), "{shown:?}");
    assert_eq!((*c.config().limits()).clone(), limits());
    end(c);
    rig.end();
}

/// A set of eight limits; each is another with another number.
fn eight(n: u64) -> Limits {
    Limits::new()
        .cpu_weight(100 * n as u32)
        .cpu_max(CpuMax::quota(Duration::from_millis(40 * n), Duration::from_millis(100)))
        .cpu_max_burst(Duration::from_millis(30 * n))
        .memory_high((64 << 20) * n)
        .memory_max((80 << 20) * n)
        .memory_swap_max((10 << 20) * n)
        .memory_low((1 << 20) * n)
        .pids_max(100 * n)
}

#[test]
fn a_running_container_gets_new_limits_or_keeps_all_old_ones() {
    let Some(rig) = Rig::new() else { return };
    let needed = [Controller::Cpu, Controller::Memory, Controller::Pids];
    require!(has(&needed), "needs the cpu, memory and pids controllers on cgroup v2");
    let c = rig.run(busybox("live").limits(eight(2)));
    assert_eq!(file(&c, "cpu.weight"), "200");
    let kernel = limits_of;
    let (before, on_disk) = (kernel(&c), fs::read_to_string(record(&rig, "live")).unwrap());
    for write in 0..8 {
        let fault = WriteFault { write, errno: 5 };
        let e = c.update_with(UpdateOptions::new(eight(3)).fault(fault)).unwrap_err();
        assert_eq!((e.errno(), e.op()), (Some(5), Some("update")), "{e}");
        assert_eq!(kernel(&c), before, "write {write}");
        assert_eq!(fs::read_to_string(record(&rig, "live")).unwrap(), on_disk);
        assert_eq!(*c.config().limits(), eight(2));
    }
    none(c.update(eight(3)).unwrap());
    assert_eq!(kernel(&c), before.patched(&eight(3)));
    assert_eq!(*c.config().limits(), eight(3));
    // What is not named stays, and `max` lifts.
    none(c.update(Limits::new().pids_max(Limit::Max)).unwrap());
    assert_eq!((file(&c, "pids.max"), file(&c, "cpu.weight")), ("max".into(), "300".into()));
    // The next run has them too.
    c.restart().unwrap();
    assert_eq!((file(&c, "pids.max"), file(&c, "memory.max")), ("max".into(), (240 << 20).to_string()));
    end(c);
    rig.end();
}

#[test]
fn limits_act_at_once_on_what_runs() {
    let Some(rig) = Rig::new() else { return };
    require!(
        has(&[Controller::Memory, Controller::Pids]),
        "needs the memory and pids controllers on cgroup v2"
    );
    let c = rig.run(busybox("acts"));
    assert_eq!(sh(&c, "sleep 0 & wait").0, 0);
    none(c.update(Limits::new().pids_max(2)).unwrap());
    // The shell is the second; there is no third.
    let (code, text) = sh(&c, "sleep 0 & wait");
    assert!(code != 0 && text.contains("fork"), "{code} {text}");
    none(c.update(Limits::new().pids_max(Limit::Max).memory_swap_max(0)).unwrap());
    assert_eq!(sh(&c, "sleep 0 & wait").0, 0);

    // The kernel may kill a second process before it sees that the first one's memory is free: not the container's program.
    let eater = "echo 1000 > /proc/self/oom_score_adj; head -c 48m /dev/zero | tail -c 48m | sleep 600";
    let eaten = c.exec(stockade::instance::ExecOptions::new(["sh", "-c", eater])).unwrap();
    let used = |c: &Container| file(c, "memory.current").parse::<u64>().unwrap();
    until(LONG, "48 MiB are in use", || used(&c) > 48 << 20);
    let tight = || Limits::new().memory_max(16 << 20);
    let e = c.update(tight()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
    assert!(e.to_string().contains("bytes are in use"), "{e}");
    assert_eq!(file(&c, "memory.max"), "max");
    assert_eq!(c.config().limits().memory_max, None);
    none(c.update_with(UpdateOptions::new(tight()).below_use(BelowUse::Allow)).unwrap());
    until(LONG, "the eater is killed", || used(&c) < 16 << 20);
    assert_eq!(c.status(), Status::Running);
    drop(eaten);
    end(c);
    rig.end();
}

#[test]
fn a_change_that_a_crash_cut_short_is_finished_by_the_next_runtime() {
    let Some(rig) = Rig::new() else { return };
    let enforced = can(&[Controller::Pids]);
    let id = "cut".parse().unwrap();
    let config = busybox("cut").limits(Limits::new().pids_max(50)).enforce(Enforce::BestEffort);
    // As a host's that is gone.
    let first = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
    let c = first.create(config.build().unwrap()).unwrap();
    c.start().unwrap();
    // The state between two steps: the run says that a change is on its way, the record has the new limits.
    let (run, text) = run_record(&rig, "cut");
    fs::remove_file(&run).unwrap();
    fs::write(&run, text.replace("\"record\":{", "\"record\":{\"updating\":true,")).unwrap();
    let path = record(&rig, "cut");
    let old = fs::read_to_string(&path).unwrap();
    let new = old.replace("\"pids_max\":50", "\"pids_max\":60");
    assert_ne!(old, new);
    fs::write(&path, new).unwrap();

    let other = rig.runtime.container(&id).unwrap();
    assert_eq!(*other.config().limits(), Limits::new().pids_max(60));
    if enforced {
        assert_eq!(limits_of(&other).pids_max, Some(Limit::Value(60)));
        assert!(other.info().unwrap().skipped_limits.is_empty());
    } else {
        let skipped = other.info().unwrap().skipped_limits;
        assert!(skipped.len() == 1 && skipped[0].starts_with("pids.max"), "{skipped:?}");
    }
    let text = fs::read_link(&run).unwrap().to_str().unwrap().to_owned();
    assert!(!text.contains("updating"), "{text}");
    // The handle that did not know of it does with the next change.
    none_or_skipped(
        c.update(Limits::new().memory_oom_group(stockade::cgroup::OomPolicy::Process)).unwrap(),
        enforced,
    );
    assert_eq!(c.config().limits().pids_max, Some(Limit::Value(60)));
    drop(other);
    end(c);
    first.close();
    rig.end();
}

fn none_or_skipped(skipped: Vec<Skipped>, enforced: bool) {
    assert_eq!(skipped.is_empty(), enforced, "{skipped:?}");
}

#[test]
fn a_change_is_one_action() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.runtime.create(busybox("busy").build().unwrap()).unwrap();
    let start = Instant::now();
    let (mut done, mut busy) = (0, 0);
    while (done < 50 || busy == 0) && start.elapsed() < LONG {
        std::thread::scope(|s| {
            let threads: Vec<_> = (1..4_u64)
                .map(|n| {
                    let c = &c;
                    s.spawn(move || c.update(Limits::new().pids_max(n).memory_max(n << 20)))
                })
                .collect();
            for t in threads {
                match t.join().unwrap() {
                    Ok(skipped) => {
                        none(skipped);
                        done += 1;
                    }
                    Err(e) => {
                        assert!(e.kind() == ErrorKind::Busy && e.to_string().contains("update"), "{e}");
                        busy += 1;
                    }
                }
            }
        });
        let config = c.config();
        let l = config.limits();
        let (Some(Limit::Value(pids)), Some(Limit::Value(memory))) = (l.pids_max, l.memory_max) else {
            panic!("{l:?}")
        };
        assert_eq!(memory, pids << 20, "never half of one and half of another");
    }
    assert!(done >= 50 && busy > 0, "{done} done, {busy} busy");
    end(c);
    rig.end();
}

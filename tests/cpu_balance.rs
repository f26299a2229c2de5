//! CPUs of containers: counts that are spread over the host's CPUs, sets that pin, CPUs that come and go. In the VM lane,
//! with two CPUs or more; on a host without the cpuset controller on cgroup v2, what is refused and skipped.

#![allow(clippy::print_stdout)]

mod again;
mod rig;
mod v2_alone;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rig::{Rig, busybox, end, sh};
use rustix::event::{PollFd, PollFlags, Timespec};
use stockade::cgroup::{Controller, CpuSet, Enforce, Hierarchy, Limits};
use stockade::container::Container;
use stockade::instance::{CpuNodes, Cpus, UpdateOptions};
use stockade::{CpuWatch, ErrorKind, Runtime};
use support::{require, until};

fn has_cpuset() -> bool {
    let hierarchy = Hierarchy::detect().unwrap();
    let through_v1 = hierarchy.delegation().unwrap().through_v1;
    hierarchy.own().controllers().unwrap().contains(&Controller::Cpuset)
        || through_v1.contains(&Controller::Cpuset)
}

fn list(path: &str) -> CpuSet {
    fs::read_to_string(path).unwrap().parse().unwrap()
}

fn present() -> CpuSet {
    list("/sys/devices/system/cpu/present")
}

fn lane() -> bool {
    std::env::var_os("VM_LANE").is_some()
}

fn cpus(c: &Container) -> String {
    let path = c.info().unwrap().cgroup.unwrap();
    let limits = Hierarchy::detect().unwrap().open(&path).unwrap().limits().unwrap();
    limits.cpuset_cpus.map(|set| set.to_string()).unwrap_or_default()
}

/// What the programs of the container may use, as the kernel tells them.
fn allowed(c: &Container) -> String {
    let (code, text) = sh(c, "sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status");
    assert_eq!(code, 0, "{text}");
    text
}

/// How many of these have each CPU.
fn loads(all: &[&Container]) -> Vec<usize> {
    let sets: Vec<CpuSet> = all.iter().map(|c| cpus(c).parse().unwrap()).collect();
    present().iter().map(|cpu| sets.iter().filter(|set| set.contains(cpu)).count()).collect()
}

fn even(all: &[&Container]) {
    let loads = loads(all);
    let (most, least) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
    assert!(most - least <= 1, "{loads:?}");
}

fn one(name: &str) -> stockade::container::ContainerBuilder {
    busybox(name).cpus(1)
}

#[test]
fn without_cpuset_a_count_is_refused_or_skipped() {
    if !v2_alone::goes_on_here("without_cpuset_a_count_is_refused_or_skipped") {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    require!(!has_cpuset(), "needs a host whose cgroup v2 has no cpuset controller");
    let c = rig.runtime.create(one("refused").build().unwrap()).unwrap();
    let e = c.start().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.to_string().contains("cpuset.cpus"), "{e}");
    end(c);
    let c = rig.run(one("skipped").enforce(Enforce::BestEffort));
    let skipped = c.info().unwrap().skipped_limits;
    assert!(skipped.len() == 1 && skipped[0].starts_with("cpuset.cpus: "), "{skipped:?}");
    let skipped = c.update_with(UpdateOptions::new(Limits::new()).cpus(CpuSet::new([0]).unwrap())).unwrap();
    assert_eq!(skipped.len(), 1);
    assert_eq!(c.config().cpus().to_string(), "0-0");
    let balance = rig.runtime.rebalance_cpus().unwrap();
    assert!(balance.instances.is_empty() && balance.failed.is_empty(), "{balance:?}");
    assert!(!balance.usable.is_empty());
    end(c);
    rig.end();
}

#[test]
fn what_is_not_there_is_refused_everywhere() {
    let Some(rig) = Rig::new() else { return };
    let start = |config: stockade::container::ContainerBuilder| {
        let c = rig.runtime.create(config.build().unwrap()).unwrap();
        let e = c.start().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{e}");
        c.delete().unwrap();
        e.to_string()
    };
    let many = u32::try_from(present().len()).unwrap() + 1;
    assert!(start(busybox("many").cpus(many)).contains("CPUs of this host"));
    assert!(start(busybox("far").cpus(CpuSet::new([8191]).unwrap())).contains("8191 is not on this host"));
    assert!(start(busybox("node").cpu_nodes(CpuNodes::Set("1023".parse().unwrap()))).contains("node 1023"));

    let c = rig.run(busybox("running"));
    let e = c.update_with(UpdateOptions::new(Limits::new()).cpus(many)).unwrap_err();
    assert_eq!((e.kind(), e.op()), (ErrorKind::InvalidConfig, Some("update")), "{e}");
    assert_eq!(*c.config().cpus(), Cpus::All);
    let both = Limits::new().cpuset_cpus(CpuSet::new([0]).unwrap());
    let e = c.update_with(UpdateOptions::new(both).cpus(1)).unwrap_err();
    assert!(e.to_string().contains("limits.cpuset_cpus as well"), "{e}");
    end(c);
    rig.end();
}

#[test]
fn counts_are_spread_and_move_when_others_come_and_go() {
    let Some(rig) = Rig::new() else { return };
    require!(has_cpuset() && present().len() >= 2, "needs the cpuset controller and two CPUs");
    let n = present().len();
    // One more than there are CPUs.
    let all: Vec<Arc<Container>> = (0..=n).map(|i| rig.run(one(&format!("c{i}")))).collect();
    let refs: Vec<&Container> = all.iter().map(|c| &**c).collect();
    even(&refs);
    assert_eq!(loads(&refs).iter().sum::<usize>(), n + 1);
    for c in &refs {
        assert_eq!(allowed(c), cpus(c), "its programs have these and no others");
    }
    let mut moved = 0;
    let mut left = all;
    while left.len() > 2 {
        let shared = cpus(&left[0]);
        // One that is alone on its CPU, so that others have to move.
        let place = left.iter().position(|c| cpus(c) != shared && loads_of(&left, &cpus(c)) == 1);
        let gone = left.remove(place.unwrap_or(0));
        let before: Vec<String> = left.iter().map(|c| cpus(c)).collect();
        gone.stop().unwrap();
        let after: Vec<String> = left.iter().map(|c| cpus(c)).collect();
        let moves = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert!(moves <= 1, "{before:?} {after:?}");
        moved += moves;
        even(&left.iter().map(|c| &**c).collect::<Vec<_>>());
        end(gone);
    }
    assert!(moved >= 1, "nobody had to move");
    // A count of all, and a set, by update; then none.
    let c = &left[0];
    let all_of_them = present().to_string();
    let update = |cpus: Cpus| c.update_with(UpdateOptions::new(Limits::new()).cpus(cpus)).unwrap();
    assert!(update(Cpus::Count(u32::try_from(n).unwrap())).is_empty());
    assert_eq!(cpus(c), all_of_them);
    update("1-1".parse().unwrap());
    assert_eq!((cpus(c), cpus(&left[1])), ("1".to_owned(), "0".to_owned()));
    assert_eq!(allowed(c), "1");
    update(Cpus::All);
    assert_eq!(allowed(c), all_of_them);
    // The next run has what is on record.
    update(Cpus::Count(1));
    c.restart().unwrap();
    assert_eq!(loads(&[c, &left[1]]).iter().filter(|l| **l > 1).count(), 0);
    println!("counts: {} containers on {n} CPUs, {moved} moves at {} ends", n + 1, n - 1);
    left.into_iter().for_each(end);
    rig.end();
}

fn loads_of(all: &[Arc<Container>], set: &str) -> usize {
    all.iter().filter(|c| cpus(c) == set).count()
}

#[test]
fn pinned_ones_stay_and_count() {
    let Some(rig) = Rig::new() else { return };
    require!(has_cpuset() && present().len() >= 2, "needs the cpuset controller and two CPUs");
    let first = rig.run(one("first"));
    assert_eq!(cpus(&first), "0");
    let pinned = rig.run(busybox("pinned").cpus("0-0".parse::<Cpus>().unwrap()));
    let more = rig.run(busybox("pinned-too").cpus("0-0".parse::<Cpus>().unwrap()));
    assert_eq!((cpus(&pinned), cpus(&more)), ("0".into(), "0".into()));
    assert_eq!(cpus(&first), "1", "moved away from a CPU with two others");
    // Another runtime on the same directories sees them all, and an end that it causes counts.
    let other = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
    let balance = other.rebalance_cpus().unwrap();
    let ids: Vec<String> = balance.instances.iter().map(|p| p.id.to_string()).collect();
    assert_eq!(ids, ["default/first", "default/pinned", "default/pinned-too"]);
    assert!(balance.instances.iter().all(|p| p.cpus == p.before) && balance.failed.is_empty(), "{balance:?}");
    let second = rig.run(busybox("second").cpus(1).cpu_nodes(CpuNodes::Balanced));
    for name in ["pinned", "pinned-too"] {
        other.container(&name.parse().unwrap()).unwrap().stop().unwrap();
    }
    even(&[&first, &second]);
    other.close();
    // Whoever changes it by hand is overruled.
    let path = first.info().unwrap().cgroup.unwrap();
    let by_hand = Hierarchy::detect().unwrap().open(&path).unwrap();
    by_hand.update(&Limits::new().cpuset_cpus(CpuSet::new([0, 1]).unwrap()), Enforce::Required).unwrap();
    drop(by_hand);
    let balance = rig.runtime.rebalance_cpus().unwrap();
    assert_eq!(balance.instances[0].before.to_string(), "0-1");
    even(&[&first, &second]);
    [first, second, pinned, more].into_iter().for_each(end);
    rig.end();
}

/// Puts a CPU back online, whatever happens.
struct Offline(&'static str);

impl Offline {
    fn new(path: &'static str) -> Self {
        fs::write(path, "0").unwrap();
        Self(path)
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        let _ = fs::write(self.0, "1");
    }
}

#[test]
fn a_cpu_that_goes_and_comes_is_seen_and_balanced() {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
    let Some(rig) = Rig::new() else { return };
    require!(lane() && has_cpuset() && fs::exists(ONLINE).unwrap(), "needs the VM lane with two CPUs");
    let mut watch = CpuWatch::open().unwrap();
    // One more than CPUs: whichever goes, those that are left have several.
    let n = present().len() + 1;
    let all: Vec<Arc<Container>> = (0..n).map(|i| rig.run(one(&format!("h{i}")))).collect();
    let refs: Vec<&Container> = all.iter().map(|c| &**c).collect();
    even(&refs);
    assert!(!watch.changed().unwrap());

    let offline = Offline::new(ONLINE);
    let timeout = Timespec { tv_sec: 30, tv_nsec: 0 };
    let mut fds = [PollFd::new(&watch, PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1, "no event of the CPU");
    until(Duration::from_secs(30), "the CPU's event", || watch.changed().unwrap());
    let balance = rig.runtime.rebalance_cpus().unwrap();
    assert!(!balance.usable.contains(1) && balance.failed.is_empty(), "{balance:?}");
    assert!(balance.instances.iter().all(|p| p.cpus.len() == 1 && !p.cpus.contains(1)), "{balance:?}");
    // A count that the host has no CPUs for at present gets all that there are.
    let many = rig.run(busybox("many").cpus(u32::try_from(present().len()).unwrap()));
    assert_eq!(cpus(&many), balance.usable.to_string());
    end(many);
    drop(offline);
    until(Duration::from_secs(30), "the CPU's event", || watch.changed().unwrap());
    let balance = rig.runtime.rebalance_cpus().unwrap();
    assert!(balance.usable.contains(1));
    even(&refs);
    let moved = balance.instances.iter().filter(|p| p.cpus != p.before).count();
    assert!(moved >= 1, "{balance:?}");
    println!("hotplug: {moved} of {n} moved to the CPU that came back");
    drop(watch);
    all.into_iter().for_each(end);
    rig.end();
}

#[test]
fn starts_at_the_same_time_in_two_runtimes_end_up_even() {
    let Some(rig) = Rig::new() else { return };
    require!(has_cpuset() && present().len() >= 2, "needs the cpuset controller and two CPUs");
    let other = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
    let n = 2 * present().len();
    let made: Vec<Arc<Container>> = (0..n)
        .map(|i| {
            let runtime = if i % 2 == 0 { &rig.runtime } else { &other };
            runtime.create(one(&format!("t{i}")).build().unwrap()).unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for c in &made {
            scope.spawn(|| c.start().unwrap());
        }
    });
    let refs: Vec<&Container> = made.iter().map(|c| &**c).collect();
    assert!(loads(&refs).iter().all(|load| *load == 2), "{:?}", loads(&refs));
    println!("parallel: {n} starts by two runtimes");
    drop(refs);
    made.into_iter().for_each(end);
    other.close();
    rig.end();
}

/// As a host leaves it that dies between the record and the kernel.
fn cut_short(rig: &Rig, name: &str, old: &str, new: &str) {
    let run = rig.dirs.run().join(format!("instances/default/{name}/run.json"));
    let text = fs::read_link(&run).unwrap().to_str().unwrap().to_owned();
    let marked = text.replace("\"record\":{", "\"record\":{\"updating\":true,");
    assert_ne!(text, marked);
    fs::remove_file(&run).unwrap();
    fs::write(&run, marked).unwrap();
    let record = rig.dirs.state().join(format!("instances/default/{name}/record.json"));
    let text = fs::read_to_string(&record).unwrap();
    assert!(text.contains(old), "{text}");
    fs::write(&record, text.replace(old, new)).unwrap();
}

#[test]
fn a_change_of_cpus_that_a_crash_cut_short_is_finished() {
    let Some(rig) = Rig::new() else { return };
    require!(has_cpuset() && present().len() >= 2, "needs the cpuset controller and two CPUs");
    for (name, old, new, wanted) in [
        ("pins", "\"cpus\":\"1\"", "\"cpus\":\"1-1\"", "1".to_owned()),
        ("lifts", "\"cpus\":\"1\",", "", present().to_string()),
    ] {
        // As a host's that is gone.
        let first = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
        let c = first.create(one(name).build().unwrap()).unwrap();
        c.start().unwrap();
        assert_eq!(cpus(&c), "0", "{name}");
        cut_short(&rig, name, old, new);
        let found = rig.runtime.container(&name.parse().unwrap()).unwrap();
        assert_eq!(allowed(&found), wanted, "{name}");
        drop(found);
        end(c);
        first.close();
    }
    rig.end();
}

//! Limits through v1 for each way in which a container is started: alone, in a pod, out of a pool, by fork, privileged,
//! without a cgroup namespace of its own, and rebalanced by another thread at the same time.

use stockade::cgroup::{CpuSet, Enforce, Hierarchy, Limits};
use stockade::container::{ContainerBuilder, ContainerConfig};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::{Rootfs, Runtime, SpawnStrategy};

use crate::host::{group_of, procs, read, rig};
use crate::rig::{Rig, busybox, end};

fn limited(builder: ContainerBuilder) -> ContainerBuilder {
    builder.limits(Limits::new().pids_max(12).memory_max(64 << 20))
}

/// Checks that first process and commands are in the groups, and that these go with the container.
fn holds(rig: &Rig, builder: ContainerBuilder) {
    let c = rig.run(limited(builder));
    in_groups(&c);
    let groups = ["pids", "memory"].map(|controller| group_of(&c, controller));
    end(c);
    assert!(groups.iter().all(|group| !group.exists()));
}

fn in_groups(c: &stockade::container::Container) {
    let [pids, memory] = ["pids", "memory"].map(|controller| group_of(c, controller));
    assert_eq!(
        (read(&pids, "pids.max"), read(&memory, "memory.limit_in_bytes")),
        ("12".into(), (64 << 20).to_string())
    );
    let first = c.info().unwrap().pid.unwrap();
    assert!(procs(&pids).contains(&first) && procs(&memory).contains(&first));
    let command = c.exec(stockade::instance::ExecOptions::new(["sleep", "1000"])).unwrap();
    assert!(procs(&pids).contains(&command.pid()) && procs(&memory).contains(&command.pid()));
}

#[test]
fn every_way_to_start_leads_into_the_groups() {
    let Some(rig) = rig(&["pids", "memory"]) else { return };
    holds(&rig, busybox("alone"));
    holds(&rig, busybox("root").privileged());
    holds(&rig, busybox("shows").namespace(NamespaceKind::Cgroup, NamespaceSource::Host));
    // A pod: the second is cloned by a process that has joined the first.
    let first = rig.run(limited(busybox("first")));
    let target = || NamespaceSource::Join(Target::Instance((*first.id()).clone()));
    let member = [NamespaceKind::User, NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Pid]
        .into_iter()
        .fold(busybox("member"), |builder, kind| builder.namespace(kind, target()));
    holds(&rig, member);
    in_groups(&first);
    end(first);
    rig.end();
}

#[test]
fn a_forked_child_is_put_into_the_groups() {
    let Some(rig) = rig(&["pids", "memory"]) else { return };
    let open = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run());
    let runtime = open.spawn_strategy(SpawnStrategy::Fork).open().unwrap();
    let c = runtime.create(limited(busybox("forked")).build().unwrap()).unwrap();
    c.start().unwrap();
    in_groups(&c);
    end(c);
    runtime.close();
    rig.end();
}

#[test]
fn a_sandbox_gets_its_groups_with_its_limits() {
    let Some(rig) = rig(&["pids", "memory"]) else { return };
    let root = || Rootfs::dir(support::fixture("busybox").unwrap());
    let like = |name: &str| {
        let builder = ContainerConfig::builder(name).ephemeral().rootfs(root()).read_only_root();
        builder.args(["sleep", "1000"]).kill_on_drop()
    };
    rig.runtime.prewarm(like("template").build().unwrap(), 2).unwrap();
    for n in 0..4 {
        let c = rig.runtime.create(limited(like(&format!("p{n}"))).build().unwrap()).unwrap();
        c.start().unwrap();
        in_groups(&c);
        let group = group_of(&c, "pids");
        c.stop().unwrap();
        assert!(!group.exists());
    }
    rig.runtime.prewarm(like("template").build().unwrap(), 0).unwrap();
    rig.end();
}

#[test]
fn two_that_add_groups_at_the_same_time_forget_none() {
    let Some(rig) = rig(&["pids", "cpuset", "cpu"]) else { return };
    let rounds = support::scaled(30);
    for n in 0..rounds {
        let c = rig.run(busybox(&format!("both{n}")));
        let path = c.info().unwrap().cgroup.unwrap();
        let by_hand = |limits: Limits| {
            let cgroup = Hierarchy::detect().unwrap().open(&path).unwrap();
            cgroup.update(&limits, Enforce::Required).unwrap();
        };
        std::thread::scope(|s| {
            s.spawn(|| by_hand(Limits::new().cpuset_cpus(CpuSet::new([0]).unwrap())));
            s.spawn(|| by_hand(Limits::new().cpu_weight(20_u32)));
            c.update(Limits::new().pids_max(9)).unwrap();
        });
        let groups = ["pids", "cpuset", "cpu"].map(|controller| group_of(&c, controller));
        let first = c.info().unwrap().pid.unwrap();
        assert!(groups.iter().all(|group| procs(group) == [first]));
        end(c);
        assert!(groups.iter().all(|group| !group.exists()), "round {n}");
    }
    println!("covered: {rounds} rounds of three that add a group each");
    rig.end();
}

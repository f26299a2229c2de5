//! `limits.*` from text to the kernel's files: at a start, and changed while the container runs.

mod rig;

use std::fs;

use rig::{Rig, busybox, end, sh};
use stockade::cgroup::{Controller, Enforce, Hierarchy};
use stockade::container::Container;
use stockade::instance::keys::LimitKeys;
use support::require;

const FIRST: [(&str, &str); 9] = [
    ("limits.cpu", "1"),
    ("limits.cpu.allowance", "25ms/100ms"),
    ("limits.cpu.priority", "5"),
    ("limits.memory", "64MiB"),
    ("limits.memory.swap", "false"),
    ("limits.memory.oom_priority", "300"),
    ("limits.processes", "50"),
    ("limits.kernel.nofile", "100:200"),
    ("limits.disk.priority", "3"),
];

fn file(c: &Container, name: &str) -> String {
    fs::read_to_string(c.info().unwrap().cgroup.unwrap().join(name)).unwrap().trim().to_owned()
}

#[test]
fn keys_reach_the_programs_on_any_host() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("keys").enforce(Enforce::BestEffort).limits_from_keys(FIRST));
    let (_, text) = sh(&c, "ulimit -Sn; ulimit -Hn; cat /proc/1/oom_score_adj");
    assert_eq!(text.lines().collect::<Vec<_>>(), ["100", "200", "300"]);
    end(c);
    let e =
        busybox("wrong").limits_from_keys([("limits.memory", "x"), ("limits.cpu", "0")]).build().unwrap_err();
    for part in ["limits.memory: `x` is no size", "limits.cpu: "] {
        assert!(e.to_string().contains(part), "{e}");
    }
    rig.end();
}

#[test]
fn keys_reach_the_kernel_and_change_there() {
    let Some(rig) = Rig::new() else { return };
    let needed = [Controller::Cpu, Controller::Cpuset, Controller::Io, Controller::Memory, Controller::Pids];
    let there = Hierarchy::detect().unwrap().own().controllers().unwrap();
    require!(needed.iter().all(|c| there.contains(c)), "needs cpu, cpuset, io, memory and pids on cgroup v2");
    // What has no file everywhere is left out by itself: io.weight needs a kernel with its cost model.
    let c = rig.run(busybox("live").enforce(Enforce::BestEffort).limits_from_keys(FIRST));
    let files = ["cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "pids.max"];
    let read = || files.map(|name| file(&c, name));
    assert_eq!(read(), ["25000 100000", "95", "67108864", "0", "50"]);
    assert_eq!(file(&c, "cpuset.cpus"), "0");

    let (old, new) = (
        LimitKeys::parse(FIRST).unwrap(),
        [
            ("limits.memory", "32MiB"),
            ("limits.memory.enforce", "soft"),
            ("limits.memory.swap", "1MiB"),
            ("limits.cpu.allowance", "40%"),
        ],
    );
    let changes = old.changes(&LimitKeys::parse(new).unwrap()).unwrap();
    assert_eq!(changes.restart, ["limits.kernel.nofile", "limits.memory.oom_priority"]);
    c.update_with(changes.update).unwrap();
    assert_eq!(read(), ["max 100000", "40", "max", "1048576", "max"]);
    assert_eq!(file(&c, "memory.high"), (32 << 20).to_string());
    let all = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert_eq!(file(&c, "cpuset.cpus.effective"), all.trim());
    end(c);
    rig.end();
}

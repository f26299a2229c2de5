//! What the files say, and that others are as ever.

use std::fs;
use std::time::Duration;

use stockade::Runtime;
use stockade::cgroup::{CpuMax, CpuSet, Enforce, Limits};
use stockade::container::{Mount, Nesting, ResourceViews, SystemConfig};
use stockade::namespaces::{TimeOffset, TimeOffsets};
use stockade::seccomp::Interception;

use super::cgroup_util::Leaf;
use super::rig::{Rig, busybox, end, sh};
use super::{MIB, PATHS, debian, in_limits, limits, meminfo, start, works};

#[test]
fn programs_see_the_limits() {
    in_limits(|_, c| {
        let free = works(c, "free --bytes");
        let mem: Vec<&str> =
            free.lines().find_map(|line| line.strip_prefix("Mem:")).unwrap().split_whitespace().collect();
        assert_eq!(mem[0], (512 * MIB).to_string(), "{free}");
        let used: u64 = mem[1].parse().unwrap();
        assert!(used < 256 * MIB, "{free}");
        for script in [
            "getconf _NPROCESSORS_ONLN",
            "grep -c ^processor /proc/cpuinfo",
            "grep -c '^cpu[0-9]' /proc/stat",
            "python3 -c 'import os; print(os.cpu_count())'",
            "top -b -n 1 -1 | grep -c '^%Cpu'",
        ] {
            assert_eq!(works(c, script), "1", "{script}");
        }
        let uptime = works(c, "cut -d. -f1 /proc/uptime; uptime -p");
        assert!(uptime.lines().next().unwrap().parse::<u64>().unwrap() < 600, "{uptime}");
        let (loads, own) = (fs::read_to_string("/proc/loadavg").unwrap(), works(c, "cat /proc/loadavg"));
        assert_eq!(loads.split(' ').count(), own.split(' ').count(), "{loads} {own}");
        let threads = own.split(' ').nth(3).unwrap().split_once('/').unwrap().1.parse::<u64>().unwrap();
        assert!((2..20).contains(&threads), "{own}");
        let said = works(
            c,
            "vmstat -s | head -2; lscpu | grep -i on-line; w -h; ps -eo pid,etimes,comm; cat /proc/swaps",
        );
        eprintln!("{free}\n{uptime}\n{said}\nfirst line of stat: {}", works(c, "head -1 /proc/stat"));
        // Whatever takes the values apart finds as many lines as the machine has.
        let lines = |text: &str| text.lines().count();
        assert_eq!(
            lines(&works(c, "cat /proc/meminfo")),
            lines(&fs::read_to_string("/proc/meminfo").unwrap())
        );
    });
}

#[test]
fn a_set_of_cpus_is_shown_by_its_numbers() {
    let Some(rig) = Rig::new() else { return };
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let last = online.trim().parse::<CpuSet>().unwrap().iter().last().unwrap();
    let Some(config) = debian("pinned") else { return rig.end() };
    let config = config.resource_views(ResourceViews::ALL);
    if let Some(c) = start(&rig, config.limits(Limits::new().cpuset_cpus(CpuSet::new([last]).unwrap()))) {
        assert_eq!(works(&c, "cat /sys/devices/system/cpu/online"), last.to_string());
        assert_eq!(works(&c, "nproc"), "1");
        assert_eq!(works(&c, "grep ^processor /proc/cpuinfo"), format!("processor\t: {last}"));
        assert_eq!(works(&c, "grep -o '^cpu[0-9]*' /proc/stat"), format!("cpu\ncpu{last}"));
        end(c);
    }
    rig.end();
}

/// Where the container has a clock of its own, all that tells of times is of that: the age of processes, too.
#[test]
fn with_a_clock_of_its_own_uptime_is_the_kernels() {
    let Some(rig) = Rig::new() else { return };
    let Some(config) = debian("clock") else { return rig.end() };
    let up = fs::read_to_string("/proc/uptime").unwrap();
    let up: u64 = up.split('.').next().unwrap().parse().unwrap();
    let behind = TimeOffset::behind(Duration::from_secs(up)).unwrap();
    let offsets = TimeOffsets { boottime: behind, ..TimeOffsets::default() };
    let c = rig.run(config.time_offsets(offsets).resource_views(ResourceViews::ALL));
    let clocks = fs::read_link("/proc/self/ns/time").unwrap();
    if works(&c, "readlink /proc/self/ns/time") == clocks.to_string_lossy() {
        support::skip(
            "this kernel leaves a program in the time namespace of who executes it (before Linux 6.3)",
        );
        end(c);
        return rig.end();
    }
    let said =
        works(&c, "cut -d. -f1 /proc/uptime; ps -o etimes= -p 1; sed -n 's/^btime //p' /proc/stat; date +%s");
    let numbers: Vec<u64> = said.lines().map(|line| line.trim().parse().unwrap()).collect();
    let [up, age, btime, now] = numbers[..] else { panic!("{said}") };
    assert!(up < 300 && age <= up, "{said}");
    // It began when the container did.
    assert!((now - btime).abs_diff(up) <= 2, "{said}");
    assert_eq!(works(&c, "grep -c fuse.stockade /proc/mounts"), "7");
    end(c);
    rig.end();
}

#[test]
fn what_is_used_and_what_is_allowed_changes_at_once() {
    in_limits(|_, c| {
        let text = || works(c, "cat /proc/meminfo");
        let before = text();
        let held = "python3 -c 'b = bytearray(150 << 20); print(open(\"/proc/meminfo\").read())'";
        let meanwhile = works(c, held);
        let gone = |key| meminfo(&before, key).saturating_sub(meminfo(&meanwhile, key)) / MIB;
        assert!(gone("MemFree") >= 140 && gone("MemAvailable") >= 140, "{before}{meanwhile}");
        assert!(meminfo(&meanwhile, "AnonPages") >= 150 * MIB);
        let cached = works(c, "dd if=/dev/zero of=/tmp/file bs=1M count=64 2>&1; cat /proc/meminfo");
        assert!(meminfo(&cached, "Cached") >= meminfo(&before, "Cached") + 60 * MIB, "{cached}");

        let more = CpuMax::quota(Duration::from_millis(150), Duration::from_millis(100));
        c.update(Limits::new().memory_max(300 * MIB).cpu_max(more)).unwrap();
        assert_eq!(meminfo(&text(), "MemTotal"), 300 * MIB);
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor\t:").count();
        let shown: usize = works(c, "grep -c ^processor /proc/cpuinfo").parse().unwrap();
        assert_eq!(shown, cpus.min(2));

        // The time that is used is counted, and none of it is lost.
        let time = || {
            let stat = works(c, "head -1 /proc/stat");
            stat.split_whitespace().skip(1).take(3).map(|n| n.parse::<u64>().unwrap()).sum::<u64>()
        };
        let idle = time();
        works(
            c,
            "python3 -c 'import time; [0 for _ in iter(time.process_time, None) if time.process_time() > 1 and exit()]'",
        );
        assert!(time() - idle >= 90, "{idle} {}", time());
    });
}

#[test]
fn an_open_file_is_of_one_moment() {
    in_limits(|_, c| {
        let script = "
f = open('/proc/meminfo', 'rb', buffering=0)
first = f.read(40)
held = bytearray(100 << 20)
rest = f.read()
again = open('/proc/meminfo', 'rb').read()
f.seek(0)
anew = f.read(1 << 20)
free = lambda text: int(next(l for l in text.splitlines() if l.startswith(b'MemFree')).split()[1])
assert len(first) == 40, first
print(free(first + rest) - free(again) > 90 << 10, free(first + rest) - free(anew) > 90 << 10)";
        assert_eq!(works(c, &format!("python3 -c \"{script}\"")), "True True");
    });
}

/// The limits of cgroups above count: `sysinfo(2)` and the files say the same.
#[test]
fn the_least_limit_of_those_above_is_the_memory() {
    let Some(rig) = Rig::new() else { return };
    let Some(above) = Leaf::new() else { return rig.end() };
    let one = Duration::from_millis(100);
    let limits_above = Limits::new().memory_max(256 * MIB).cpu_max(CpuMax::quota(one, one));
    if !above.path().join("memory.max").exists() || !above.path().join("cpu.max").exists() {
        support::skip("this process's cgroup has no memory controller to give");
    } else {
        above.apply(&limits_above, Enforce::Required).unwrap();
        let builder = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run());
        let runtime = builder.cgroup(above.path()).open().unwrap();
        let own = Limits::new().memory_max(512 * MIB).cpu_max(CpuMax::quota(2 * one, one));
        let config = busybox("below").limits(own).resource_views(ResourceViews::ALL);
        let c = runtime.create(config.intercept(Interception::new().sysinfo()).build().unwrap()).unwrap();
        c.start().unwrap();
        assert_eq!(meminfo(&works(&c, "cat /proc/meminfo"), "MemTotal"), 256 * MIB);
        assert_eq!(works(&c, "grep -c ^processor /proc/cpuinfo"), "1");
        // busybox asks the kernel.
        let free = works(&c, "free -k");
        assert!(free.contains("Mem:         262144"), "{free}");
        end(c);
        runtime.close();
    }
    drop(above);
    rig.end();
}

#[test]
fn without_them_all_is_the_machines() {
    let Some(rig) = Rig::new() else { return };
    let Some(config) = debian("plain") else { return rig.end() };
    if let Some(c) = start(&rig, config.limits(limits())) {
        let total = |text: &str| meminfo(text, "MemTotal");
        assert_eq!(
            total(&works(&c, "cat /proc/meminfo")),
            total(&fs::read_to_string("/proc/meminfo").unwrap())
        );
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
        assert_eq!(works(&c, "cat /sys/devices/system/cpu/online"), online.trim());
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = threads.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        assert!(!names.into_iter().any(|name| name.trim() == "stockade-views"));
        end(c);
    }
    rig.end();
}

#[test]
fn some_of_them_alone_and_with_mounts_and_masks() {
    let Some(rig) = Rig::new() else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "mine\n").unwrap();
    fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let config = busybox("some")
        .resource_views(ResourceViews::ALL.without(ResourceViews::STAT))
        .mount(Mount::bind(file.path(), "/proc/loadavg"))
        .masked_paths(["/proc/cpuinfo", "/proc/keys"]);
    let c = rig.run(config);
    assert_eq!(works(&c, "cat /proc/loadavg"), "mine");
    assert_eq!(works(&c, "cat /proc/cpuinfo"), "");
    let table = works(&c, "cat /proc/mounts");
    let fuse = |path: &str| {
        table.lines().any(|line| line.starts_with(&format!("stockade {path} fuse.stockade ro,")))
    };
    let seen: Vec<&str> = PATHS.into_iter().filter(|path| fuse(path)).collect();
    assert_eq!(seen.len(), 6, "{table}");
    assert!(!seen.contains(&"/proc/stat") && !seen.contains(&"/proc/loadavg"), "{table}");
    end(c);
    drop(file);
    rig.end();
}

#[test]
fn a_system_container_has_them_below_its_own_mounts() {
    let Some(rig) = Rig::new() else { return };
    let system = SystemConfig::new().nesting(Nesting::Allow);
    let config =
        busybox("system").system_with(system).args(["sleep", "1000"]).resource_views(ResourceViews::ALL);
    let c = rig.run(config);
    for path in PATHS {
        works(&c, &format!("cat {path} > /dev/null; grep -q ' {path} fuse' /proc/mounts"));
    }
    // By sendfile(2), which ends with the size of the file.
    for path in ["/proc/meminfo", "/proc/stat", "/proc/cpuinfo"] {
        let (sent, read) = (works(&c, &format!("cat {path}")), works(&c, &format!("sed p {path}")));
        let lines = |text: &str| text.lines().count();
        assert!(lines(&sent) > 8 && lines(&read) == 2 * lines(&sent), "{path}: {sent}");
    }
    let (code, text) = sh(&c, "echo 1 > /proc/uptime");
    assert!(code != 0 && text.contains("Read-only"), "{text}");
    end(c);
    rig.end();
}

#[test]
fn a_privileged_container_and_one_of_a_pod_have_them() {
    use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
    let Some(rig) = Rig::new() else { return };
    let first = rig.run(busybox("first").privileged().resource_views(ResourceViews::ALL));
    works(&first, "grep -q '/proc/stat fuse' /proc/mounts; cat /proc/stat > /dev/null");
    end(first);
    let first = rig.run(busybox("pod"));
    let target = || NamespaceSource::Join(Target::Instance((*first.id()).clone()));
    let kinds = [NamespaceKind::User, NamespaceKind::Net, NamespaceKind::Ipc];
    let member = kinds.into_iter().fold(busybox("member"), |b, kind| b.namespace(kind, target()));
    let member = rig.run(member.resource_views(ResourceViews::ALL));
    works(&member, "grep -q '/proc/stat fuse' /proc/mounts; cat /proc/stat > /dev/null");
    end(member);
    end(first);
    rig.end();
}

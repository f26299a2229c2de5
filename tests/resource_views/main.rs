//! Files of `/proc` and `/sys` that show a container its own part of the machine: what they say, whom they obey, how they
//! end, and that nobody inside can do harm with them.
#![expect(
    unsafe_code,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "what was covered, and how a host tells what it does"
)]

#[path = "../cgroup_util/mod.rs"]
#[expect(dead_code, reason = "another test program uses the rest")]
mod cgroup_util;
#[path = "../rig/mod.rs"]
mod rig;

mod ends;
mod hostile;
mod shows;

use std::sync::Arc;

use rig::{Rig, end, works};
use stockade::Rootfs;
use stockade::cgroup::{CpuMax, Limits};
use stockade::container::{Container, ContainerBuilder, ContainerConfig, ResourceViews};

const MIB: u64 = 1 << 20;
/// Every file.
const PATHS: [&str; 8] = [
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/swaps",
    "/proc/diskstats",
    "/sys/devices/system/cpu/online",
];

/// Half a gigabyte, and one CPU's time.
fn limits() -> Limits {
    let one = std::time::Duration::from_millis(100);
    Limits::new().memory_max(512 * MIB).cpu_max(CpuMax::quota(one, one)).pids_max(200_u64)
}

/// A Debian that sleeps; `None`, with a loud reason, without the fixture.
fn debian(name: &str) -> Option<ContainerBuilder> {
    let root = support::fixture("debian").map_err(support::skip).ok()?;
    let config = ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).args(["sleep", "1000"]);
    Some(config.env("LC_ALL", "C").kill_on_drop())
}

/// Starts it; `None`, with a loud reason, where its limits cannot be set here.
fn start(rig: &Rig, config: ContainerBuilder) -> Option<Arc<Container>> {
    let c = rig.runtime.create(config.build().unwrap()).unwrap();
    match c.start() {
        Err(e) if e.to_string().contains("controller") => {
            support::skip(format!("limits: {e}"));
            end(c);
            None
        }
        started => {
            started.unwrap();
            Some(c)
        }
    }
}

/// A Debian with all views and [`limits`], for one test.
fn in_limits(test: impl Fn(&Rig, &Container)) {
    let Some(rig) = Rig::new() else { return };
    if let Some(config) = debian("limits")
        && let Some(c) = start(&rig, config.limits(limits()).resource_views(ResourceViews::ALL))
    {
        test(&rig, &c);
        end(c);
    }
    rig.end();
}

/// A line of `/proc/meminfo`, in bytes.
#[track_caller]
fn meminfo(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no {key} in {text}")) * 1024
}

//! The table: a row for each key.

use super::LimitKeys;
use super::values::{MemoryEnforce, allowance, amount, enforce, oom_priority, priority, processes, swap};
use crate::error::Error;
use crate::instance::keys::{ByteSize, Key, KeyChange, KeyScope, shown};
use crate::process::Resource;

const HUGE_PAGES: &str = "limits.hugepages.";
const KERNEL: &str = "limits.kernel.";

/// A key, and what is done with it.
pub(super) struct Row {
    pub(super) key: Key,
    /// Takes what follows the prefix of a key that stands for many, and a value that is not empty.
    pub(super) read: fn(&mut LimitKeys, &str, &str) -> Result<(), String>,
    pub(super) write: fn(&LimitKeys) -> Vec<(String, String)>,
}

macro_rules! row {
    ($name:literal, $scope:ident, $change:ident, $value:literal, $default:literal, $read:expr, $write:expr) => {
        Row {
            key: Key {
                name: $name,
                scope: KeyScope::$scope,
                change: KeyChange::$change,
                value: $value,
                default: $default,
            },
            read: $read,
            write: |k| {
                let write: fn(&LimitKeys) -> Option<String> = $write;
                write(k).map(|value| ($name.to_owned(), value)).into_iter().collect()
            },
        }
    };
}

pub(super) const TABLE: &[Row] = &[
    row!(
        "limits.cpu",
        Both,
        Live,
        "a count, or a set such as 0-1,3",
        "all CPUs",
        |k, _, v| v.parse().map(|cpus| k.cpu = cpus).map_err(|e: Error| e.to_string()),
        |k| Some(k.cpu.to_string()).filter(|v| !v.is_empty())
    ),
    row!(
        "limits.cpu.allowance",
        Container,
        Live,
        "N% or Xms/Yms",
        "100%",
        |k, _, v| allowance(v).map(|a| k.allowance = Some(a)),
        |k| k.allowance.map(|a| a.to_string())
    ),
    row!(
        "limits.cpu.priority",
        Container,
        Live,
        "0 to 10",
        "10",
        |k, _, v| priority(v).map(|p| k.cpu_priority = Some(p)),
        |k| k.cpu_priority.map(|p| p.to_string())
    ),
    row!(
        "limits.cpu.nodes",
        Both,
        Live,
        "a set of memory nodes, or balanced",
        "all nodes",
        |k, _, v| v.parse().map(|nodes| k.nodes = nodes).map_err(|e: Error| e.to_string()),
        |k| Some(k.nodes.to_string()).filter(|v| !v.is_empty())
    ),
    row!(
        "limits.disk.priority",
        Both,
        Live,
        "0 to 10",
        "the kernel's weight of 100",
        |k, _, v| priority(v).map(|p| k.disk_priority = Some(p)),
        |k| k.disk_priority.map(|p| p.to_string())
    ),
    row!(
        "limits.memory",
        Both,
        Live,
        "a size, or N% of the host's memory",
        "no limit",
        |k, _, v| amount(v).map(|a| k.memory = Some(a)),
        |k| k.memory.map(|a| a.to_string())
    ),
    row!(
        "limits.memory.enforce",
        Container,
        Live,
        "hard or soft",
        "hard",
        |k, _, v| enforce(v).map(|e| k.enforce = Some(e)),
        |k| k.enforce.map(|e| if e == MemoryEnforce::Hard { "hard" } else { "soft" }.to_owned())
    ),
    row!(
        "limits.memory.swap",
        Container,
        Live,
        "a boolean, or a size",
        "true",
        |k, _, v| swap(v).map(|s| k.swap = Some(s)),
        |k| k.swap.map(|s| s.to_string())
    ),
    row!(
        "limits.memory.swap.priority",
        Container,
        Live,
        "0 to 10; without effect on cgroup v2",
        "10",
        |k, _, v| priority(v).map(|p| k.swap_priority = Some(p)),
        |k| k.swap_priority.map(|p| p.to_string())
    ),
    row!(
        "limits.memory.oom_priority",
        Both,
        Restart,
        "-1000 to 1000",
        "that of the host's process",
        |k, _, v| oom_priority(v).map(|p| k.oom_priority = Some(p)),
        |k| k.oom_priority.map(|p| p.get().to_string())
    ),
    Row {
        key: Key {
            name: "limits.hugepages.SIZE",
            scope: KeyScope::Container,
            change: KeyChange::Live,
            value: "a size; SIZE is 64KB, 1MB, 2MB or 1GB",
            default: "no limit",
        },
        read: |k, name, v| {
            let size = if HUGE_PAGE_SIZES.contains(&name) { name.parse().ok() } else { None };
            let size = size.ok_or("is not known: huge pages are of 64KB, 1MB, 2MB or 1GB")?;
            k.huge_pages.insert(size, ByteSize::read(v)?);
            Ok(())
        },
        write: |k| k.huge_pages.iter().map(|(n, v)| (format!("{HUGE_PAGES}{n}"), v.to_string())).collect(),
    },
    row!(
        "limits.processes",
        Container,
        Live,
        "a number",
        "no limit",
        |k, _, v| processes(v).map(|n| k.processes = Some(n)),
        |k| k.processes.map(|n| n.to_string())
    ),
    Row {
        key: Key {
            name: "limits.kernel.NAME",
            scope: KeyScope::Container,
            change: KeyChange::Restart,
            value: "SOFT:HARD, one value for both, or unlimited; NAME as in setrlimit(2), such as nofile",
            default: "those of the host's process",
        },
        read: |k, name, v| {
            let known = Resource::ALL.into_iter().find(|resource| short(*resource) == name);
            let resource = known.ok_or_else(|| {
                let all: Vec<String> = Resource::ALL.into_iter().map(short).collect();
                format!("is not known: the kernel has {}", all.join(", "))
            })?;
            let limit = v.parse().map_err(|_| {
                format!(
                    "`{}` is no limit: SOFT:HARD with SOFT not above HARD, one value for both, or unlimited",
                    shown(v)
                )
            })?;
            k.kernel.insert(resource, limit);
            Ok(())
        },
        write: |k| k.kernel.iter().map(|(n, v)| (format!("{KERNEL}{}", short(*n)), v.to_string())).collect(),
    },
];
const HUGE_PAGE_SIZES: [&str; 4] = ["64KB", "1MB", "2MB", "1GB"];
/// Keys of virtual machines.
pub(super) const OF_VMS: [&str; 2] = ["limits.memory.hugepages", "limits.memory.hotplug"];

/// `nofile` of `RLIMIT_NOFILE`.
fn short(resource: Resource) -> String {
    resource.name()["RLIMIT_".len()..].to_ascii_lowercase()
}

/// The row of a key, and what follows the prefix of one that stands for many.
pub(super) fn row_of(name: &str) -> Option<(&'static Row, &str)> {
    let exact = TABLE.iter().find(|row| row.key.name == name && !row.key.name.ends_with(char::is_uppercase));
    exact.map(|row| (row, "")).or_else(|| {
        [HUGE_PAGES, KERNEL].into_iter().find_map(|prefix| {
            let rest = name.strip_prefix(prefix)?;
            Some((TABLE.iter().find(|row| row.key.name.starts_with(prefix))?, rest))
        })
    })
}

//! Settings of v2 files as settings of v1 files.
//!
//! | v2 | v1 |
//! |---|---|
//! | `cpu.weight` 1 to 10,000 | `cpu.shares`, of which 1,024 are a weight of 100, as the kernel reckons itself |
//! | `cpu.max`, `cpu.max.burst` | `cpu.cfs_quota_us` (-1: none), `cpu.cfs_period_us`, `cpu.cfs_burst_us` |
//! | `memory.max` | `memory.limit_in_bytes` |
//! | `memory.swap.max` | `memory.memsw.limit_in_bytes`, which is memory and swap together |
//! | `memory.low` | `memory.soft_limit_in_bytes`: what is above it is reclaimed first |
//! | `io.weight` | `blkio.bfq.weight`, 1 to 1,000 |
//! | `io.max` | `blkio.throttle.*_device`, 0 for none |
//! | `hugetlb.SIZE.max` | `hugetlb.SIZE.limit_in_bytes` |
//! | `cpu.idle`, `cpu.uclamp.*`, `cpuset.cpus`, `cpuset.mems`, `pids.max` | the same |
//!
//! What is not there has no like in v1: see [`instead_of`].

use super::files::Both;
use crate::cgroup::limit::Limit;
use crate::cgroup::setting::{Setting, pair};
use crate::error::Result;

/// From here on a v1 limit is none: what fits into the kernel's count of pages.
const NONE_FROM: u64 = 0x7fff_ffff_0000_0000;
/// The kernel's own bounds of `cpu.shares`.
const SHARES: (u64, u64) = (2, 1 << 18);
const NO_LIMIT: &str = "-1";
/// Rates of v1 and the keys of `io.max`.
const RATES: [(&str, &str); 4] = [
    ("rbps", "blkio.throttle.read_bps_device"),
    ("wbps", "blkio.throttle.write_bps_device"),
    ("riops", "blkio.throttle.read_iops_device"),
    ("wiops", "blkio.throttle.write_iops_device"),
];

/// Whether v1 has the like of a setting.
pub(super) fn is_known(setting: &Setting) -> bool {
    match &*setting.file {
        "cpu.weight" | "cpu.max" | "cpu.max.burst" | "cpu.idle" | "cpu.uclamp.min" | "cpu.uclamp.max" => true,
        "cpuset.cpus" | "cpuset.mems" | "pids.max" => true,
        "memory.max" | "memory.swap.max" | "memory.low" => true,
        // One process at a time is what v1 does.
        "memory.oom.group" => setting.value == "0",
        "cpuset.cpus.partition" => setting.value == "member",
        "io.weight" | "io.max" => true,
        file => huge_pages(file).is_some(),
    }
}

/// What to do about a limit that v1 does not have.
pub(super) fn instead_of(file: &str) -> &'static str {
    match file {
        "memory.high" => {
            "set memory_max, or memory_low for a v1 soft limit; or boot with cgroup_no_v1=memory"
        }
        "memory.swap.max" => "v1 limits swap only together with memory: set memory_max too",
        BOTH_FILE => "the kernel does not count swap: boot with swapaccount=1",
        "memory.min" => "set memory_low, which v1 has as its soft limit; or boot with cgroup_no_v1=memory",
        _ => "leave it out, choose Enforce::BestEffort, or have v2 hold the controller: cgroup_no_v1=all",
    }
}

/// `hugetlb.SIZE` and whether it is the limit of reservations.
fn huge_pages(file: &str) -> Option<String> {
    let stem = file.strip_prefix("hugetlb.")?.strip_suffix(".max")?;
    Some(format!("hugetlb.{stem}.limit_in_bytes"))
}

/// The settings in terms of v1, in the order for a new group.
pub(super) fn translate(wanted: Vec<Setting>, files: &Both<'_>) -> Result<Vec<Setting>> {
    let mut out = Vec::new();
    let mut memory = Memory::default();
    for setting in wanted {
        let plain = |file: &str, value: String| Setting {
            controller: setting.controller,
            file: file.to_owned().into(),
            line: None,
            value,
        };
        match &*setting.file {
            "cpu.weight" => out.push(plain("cpu.shares", shares(&setting.value))),
            "cpu.max" => {
                let mut words = setting.value.split(' ');
                match (words.next(), words.next()) {
                    (Some(quota), Some(period)) if quota != "max" => {
                        out.push(plain("cpu.cfs_period_us", period.to_owned()));
                        out.push(plain("cpu.cfs_quota_us", quota.to_owned()));
                    }
                    _ => out.push(plain("cpu.cfs_quota_us", NO_LIMIT.to_owned())),
                }
            }
            "cpu.max.burst" => out.push(plain("cpu.cfs_burst_us", setting.value.clone())),
            "memory.max" => memory.max = Some(setting),
            "memory.swap.max" => memory.swap = Some(setting),
            // No protection is no soft limit.
            "memory.low" => {
                let value = if setting.value == "0" { NO_LIMIT.to_owned() } else { bytes(&setting.value) };
                out.push(plain("memory.soft_limit_in_bytes", value));
            }
            "memory.oom.group" | "cpuset.cpus.partition" => {}
            "io.weight" => out.push(io_weight(&setting, files)?),
            "io.max" => {
                let (key, _) = setting.line.clone().unwrap_or_default();
                for (name, file) in RATES {
                    let Some(rate) = pair(&setting.value, name) else { continue };
                    let value = if rate == "max" { "0".to_owned() } else { rate.to_owned() };
                    out.push(Setting { line: Some((key.clone(), "0")), ..plain(file, value) });
                }
            }
            file => match huge_pages(file) {
                Some(v1) => out.push(plain(&v1, bytes(&setting.value))),
                None => out.push(setting.clone()),
            },
        }
    }
    memory.settings(files, &mut out)?;
    Ok(out)
}

/// The two limits that v1 has entangled: that of memory, and that of memory and swap together.
#[derive(Default)]
struct Memory {
    max: Option<Setting>,
    swap: Option<Setting>,
}

impl Memory {
    fn settings(self, files: &Both<'_>, out: &mut Vec<Setting>) -> Result<()> {
        let Some(one) = self.max.as_ref().or(self.swap.as_ref()) else { return Ok(()) };
        let set = |file: &'static str, limit: Limit| Setting {
            controller: one.controller,
            file: file.into(),
            line: None,
            value: bytes(&limit.to_string()),
        };
        let wanted = |s: &Option<Setting>| s.as_ref().and_then(|s| Limit::parse(&s.value));
        let now = Limits { max: read(files, LIMIT_FILE)?, both: read(files, BOTH_FILE)? };
        let max = wanted(&self.max).or(now.max).unwrap_or(Limit::Max);
        let swap = wanted(&self.swap).unwrap_or_else(|| now.swap());
        let both = match (max, swap) {
            (Limit::Value(max), Limit::Value(swap)) => Limit::Value(max.saturating_add(swap)),
            (_, Limit::Max) => Limit::Max,
            (Limit::Max, Limit::Value(_)) => match &self.swap {
                // Under its own name, which v1 does not have: the error says what to do.
                Some(swap) => {
                    out.extend(self.max.is_some().then(|| set(LIMIT_FILE, max)));
                    out.push(swap.clone());
                    return Ok(());
                }
                None => Limit::Max,
            },
        };
        // Where swap is not counted the file is not there, and an error only if it is asked for.
        let has_both = now.both.is_some() || self.swap.is_some();
        let both = has_both.then(|| set(BOTH_FILE, both));
        out.extend(self.max.is_some().then(|| set(LIMIT_FILE, max)));
        out.extend(both);
        Ok(())
    }
}

pub(super) const LIMIT_FILE: &str = "memory.limit_in_bytes";
pub(super) const BOTH_FILE: &str = "memory.memsw.limit_in_bytes";

/// What a v1 memory group has.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) max: Option<Limit>,
    pub(super) both: Option<Limit>,
}

impl Limits {
    /// The part of it that is for swap alone.
    pub(super) fn swap(self) -> Limit {
        match (self.max, self.both) {
            (Some(Limit::Value(max)), Some(Limit::Value(both))) => Limit::Value(both.saturating_sub(max)),
            _ => Limit::Max,
        }
    }
}

/// A limit of a v1 file; `None` where there is no such file.
pub(super) fn read(files: &Both<'_>, file: &str) -> Result<Option<Limit>> {
    Ok(files.v1_get(file)?.and_then(|text| amount(file, &text)))
}

fn bytes(value: &str) -> String {
    if value == "max" { NO_LIMIT.to_owned() } else { value.to_owned() }
}

/// A share of the CPU.
fn shares(weight: &str) -> String {
    let weight: u64 = weight.parse().unwrap_or(100);
    ((weight * 1024 + 50) / 100).clamp(SHARES.0, SHARES.1).to_string()
}

/// And back.
pub(super) fn weight(shares: u64) -> u32 {
    u32::try_from(((shares * 100 + 512) / 1024).clamp(1, 10_000)).unwrap_or(10_000)
}

/// A share of the block devices. BFQ's range ends at 1,000; 100 is the middle of both.
fn io_weight(setting: &Setting, files: &Both<'_>) -> Result<Setting> {
    let has_bfq = files.v1_get("blkio.bfq.weight")?.is_some();
    let stem = if has_bfq { "blkio.bfq.weight" } else { "blkio.weight" };
    let value = match setting.value.parse::<u64>() {
        Ok(n) if n > 100 => (100 + (n - 100) * 900 / 9900).to_string(),
        Ok(n) => n.to_string(),
        // The device's own is taken away.
        Err(_) => "0".to_owned(),
    };
    let plain = Setting { file: stem.into(), line: None, value, ..setting.clone() };
    Ok(match &setting.line {
        Some((key, _)) if key != "default" => {
            Setting { file: format!("{stem}_device").into(), line: Some((key.clone(), "0")), ..plain }
        }
        _ => plain,
    })
}

/// And back.
pub(super) fn weight_of_bfq(weight: u32) -> u32 {
    if weight > 100 { 100 + (weight - 100) * 9900 / 900 } else { weight }
}

/// What a v1 file with one number says, as an amount: some call none -1, some 0, some give the largest number there is.
pub(in crate::cgroup) fn amount(file: &str, text: &str) -> Option<Limit> {
    let text = text.trim();
    let none = match file {
        "cpu.cfs_quota_us" => text.starts_with('-'),
        _ if file.ends_with("limit_in_bytes") => {
            text.starts_with('-') || text.parse().is_ok_and(|n: u64| n >= NONE_FROM)
        }
        _ => file.starts_with("blkio.throttle.") && text == "0",
    };
    if none { Some(Limit::Max) } else { Limit::parse(text) }
}

/// Whether this is the limit that the kernel does not set below what is in use.
pub(in crate::cgroup) fn is_below_use(file: &str) -> bool {
    file == LIMIT_FILE || file == BOTH_FILE
}

/// The file that says how much of a limit of v1 is in use.
pub(in crate::cgroup) fn usage_file(file: &str) -> Option<String> {
    Some(format!("{}usage_in_bytes", file.strip_suffix("limit_in_bytes")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_shares_keep_their_ratio_and_every_weight_comes_back() {
        assert_eq!(
            (shares("1"), shares("100"), shares("10000")),
            ("10".into(), "1024".into(), "102400".into())
        );
        for n in 1..=10_000_u32 {
            assert_eq!(weight(shares(&n.to_string()).parse().unwrap()), n);
        }
        assert_eq!((weight(2), weight(1 << 18)), (1, 10_000));
    }

    #[test]
    fn no_limit_is_none_however_a_file_says_it() {
        for (file, text) in [
            (LIMIT_FILE, "9223372036854771712\n"),
            (LIMIT_FILE, "-1"),
            ("cpu.cfs_quota_us", "-1\n"),
            ("blkio.throttle.read_bps_device", "0"),
            ("hugetlb.2MB.limit_in_bytes", "9223372036852678656\n"),
            ("pids.max", "max\n"),
        ] {
            assert_eq!(amount(file, text), Some(Limit::Max), "{file} {text}");
        }
        assert_eq!(amount(LIMIT_FILE, "4096\n"), Some(Limit::Value(4096)));
        assert_eq!(amount("cpu.cfs_period_us", "0"), Some(Limit::Value(0)));
        assert_eq!(usage_file("memory.memsw.limit_in_bytes").as_deref(), Some("memory.memsw.usage_in_bytes"));
    }

    #[test]
    fn shares_of_block_devices_have_a_common_middle() {
        assert_eq!((weight_of_bfq(1), weight_of_bfq(100), weight_of_bfq(1000)), (1, 100, 10_000));
    }
}

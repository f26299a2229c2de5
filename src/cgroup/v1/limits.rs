//! Reading the limits of v1 groups back, in terms of v2.

use std::time::Duration;

use super::files::Both;
use super::settings::{self, BOTH_FILE, LIMIT_FILE, weight, weight_of_bfq};
use crate::cgroup::block::BlockDevice;
use crate::cgroup::cpu::{CpuIdle, CpuMax};
use crate::cgroup::io::IoLimits;
use crate::cgroup::limit::Limit;
use crate::cgroup::limits::Limits;
use crate::cgroup::setting::lines;
use crate::cgroup::{HugePageSize, HugetlbLimits, OomPolicy, Percent};
use crate::error::Result;

impl Both<'_> {
    /// Puts into `out` what the v1 groups have.
    pub(in crate::cgroup) fn read_v1(&self, out: &mut Limits) -> Result<()> {
        self.read_cpu(out)?;
        self.read_memory(out)?;
        self.read_io(out)?;
        let set = |name: &str| self.v1_get(name);
        if let Some(text) = set("pids.max")? {
            out.pids_max = Limit::parse(&text);
        }
        if let Some(text) = set("cpuset.cpus")? {
            out.cpuset_cpus = text.parse().ok();
        }
        if let Some(text) = set("cpuset.mems")? {
            out.cpuset_mems = text.parse().ok();
        }
        for size in self.v1_page_sizes() {
            let limit = |name: &str| settings::read(self, &format!("hugetlb.{size}.{name}"));
            let (max, rsvd_max) = (limit("limit_in_bytes")?, limit("rsvd.limit_in_bytes")?);
            out.hugetlb.insert(size, HugetlbLimits { max, rsvd_max });
        }
        Ok(())
    }

    fn read_cpu(&self, out: &mut Limits) -> Result<()> {
        let Some(shares) = self.v1_get("cpu.shares")? else { return Ok(()) };
        let idle = self.v1_get("cpu.idle")?.map(|t| match t.trim() {
            "1" => CpuIdle::Idle,
            _ => CpuIdle::Normal,
        });
        out.cpu_idle = idle;
        out.cpu_weight = shares.trim().parse().ok().filter(|_| idle != Some(CpuIdle::Idle)).map(weight);
        let micros = |text: Option<String>| text?.trim().parse().ok().map(Duration::from_micros);
        let quota = self.v1_get("cpu.cfs_quota_us")?;
        let period = micros(self.v1_get("cpu.cfs_period_us")?);
        out.cpu_max = match (quota, period) {
            (Some(quota), _) if quota.starts_with('-') => Some(CpuMax::Max),
            (quota, Some(period)) => micros(quota).map(|quota| CpuMax::Quota { quota, period }),
            _ => None,
        };
        out.cpu_max_burst = micros(self.v1_get("cpu.cfs_burst_us")?);
        let percent =
            |t: String| if t.trim() == "max" { Some(Percent::WHOLE) } else { t.trim().parse().ok() };
        out.cpu_uclamp_min = self.v1_get("cpu.uclamp.min")?.and_then(percent);
        out.cpu_uclamp_max = self.v1_get("cpu.uclamp.max")?.and_then(percent);
        Ok(())
    }

    fn read_memory(&self, out: &mut Limits) -> Result<()> {
        let Some(max) = settings::read(self, LIMIT_FILE)? else { return Ok(()) };
        out.memory_max = Some(max);
        let both = settings::read(self, BOTH_FILE)?;
        out.memory_swap_max = both.map(|_| settings::Limits { max: Some(max), both }.swap());
        out.memory_low = settings::read(self, "memory.soft_limit_in_bytes")?.map(|soft| match soft {
            Limit::Max => Limit::Value(0),
            soft => soft,
        });
        out.memory_oom_group = Some(OomPolicy::Process);
        Ok(())
    }

    fn read_io(&self, out: &mut Limits) -> Result<()> {
        if let Some(text) = self.v1_get("blkio.bfq.weight")? {
            let weight = text.split_whitespace().last().and_then(|n| n.parse().ok());
            out.io_weight = weight.map(weight_of_bfq);
        }
        let mut each = |file: &str, set: fn(&mut IoLimits, u64)| -> Result<()> {
            for (key, n) in lines(&self.v1_get(file)?.unwrap_or_default()) {
                if let (Ok(device @ BlockDevice::Number(_)), Ok(n)) = (key.parse(), n.trim().parse()) {
                    set(out.io_devices.entry(device).or_default(), n);
                }
            }
            Ok(())
        };
        each("blkio.bfq.weight_device", |l, n| {
            l.weight = u32::try_from(n).ok().map(|n| weight_of_bfq(n).into());
        })?;
        each("blkio.throttle.read_bps_device", |l, n| l.read_bytes_max = Some(n.into()))?;
        each("blkio.throttle.write_bps_device", |l, n| l.write_bytes_max = Some(n.into()))?;
        each("blkio.throttle.read_iops_device", |l, n| l.read_ops_max = Some(n.into()))?;
        each("blkio.throttle.write_iops_device", |l, n| l.write_ops_max = Some(n.into()))
    }

    /// The sizes of huge pages that v1 limits here.
    fn v1_page_sizes(&self) -> Vec<HugePageSize> {
        let dir = self.v1_file("hugetlb.x").and_then(|file| std::fs::read_dir(file.parent()?).ok());
        let size = |name: String| {
            name.strip_prefix("hugetlb.")?.strip_suffix(".limit_in_bytes")?.parse::<HugePageSize>().ok()
        };
        let names = dir.into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
        names.filter_map(size).collect()
    }
}

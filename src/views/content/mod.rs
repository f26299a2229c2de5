//! What is in the files: the machine's own text, with the container's figures in their places.
//!
//! Where the container's cgroup does not count something, the text is the machine's.

mod cpus;
mod disks;
mod memory;
mod tasks;

use std::time::Duration;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use self::cpus::Cpus;
use super::{Subject, View};
use crate::sys::fd::read_at;

/// More than any of the machine's files has, but for thousands of CPUs.
const FILE_MAX: usize = 4 << 20;

/// The text of a file at this moment. Reads files of the kernel's, which never block.
pub(super) fn render(view: View, of: &Subject) -> Result<Vec<u8>, Errno> {
    let host = host(view.path())?;
    let share = &of.share;
    let text = match view {
        View::Meminfo => share.memory().map(|memory| memory::meminfo(&host, &memory)),
        View::Swaps => share.memory().and_then(|memory| memory::swaps(&host, &memory)),
        View::Cpuinfo => machine_cpus()?.of(share).map(|cpus| cpus::cpuinfo(&host, &cpus)),
        View::CpuOnline => Cpus::parse(&host).ok_or(Errno::IO)?.of(share).map(|cpus| format!("{cpus}\n")),
        View::Stat => {
            let all = machine_cpus()?;
            let cpus = all.of(share).unwrap_or(all);
            Some(cpus::stat(&host, &cpus, share.cpu_time().as_ref(), lifetime(of), of.ahead))
        }
        View::Uptime => {
            let all = machine_cpus()?;
            let count = all.of(share).unwrap_or(all).len();
            let used = share.cpu_time().map_or(Duration::ZERO, |time| time.usage);
            Some(tasks::uptime(lifetime(of), count, used))
        }
        View::Loadavg => share.tasks().and_then(|tasks| tasks::loadavg(&host, tasks)),
        View::Diskstats => share.io().map(|io| disks::diskstats(&host, &io)),
    };
    Ok(text.unwrap_or(host).into_bytes())
}

/// Those that are online.
fn machine_cpus() -> Result<Cpus, Errno> {
    Cpus::parse(&host(View::CpuOnline.path())?).ok_or(Errno::IO)
}

/// For how long it has run.
fn lifetime(of: &Subject) -> Duration {
    now().saturating_sub(of.started)
}

/// `CLOCK_BOOTTIME`.
pub(crate) fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(now.tv_sec.max(0).cast_unsigned(), nanos)
}

fn host(path: &str) -> Result<String, Errno> {
    read_at(CWD, path, FILE_MAX).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

//! The threads of a machine as the kernel numbers them: where they run, and the CPU time that they have had.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::{CpuSet as Mask, Pid, sched_getaffinity, sched_setaffinity};

use crate::cgroup::{Cgroup, CpuSet};
use crate::error::{Error, ErrorKind, Result};

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The processor of this number.
    Vcpu(u8),
    /// Devices.
    Devices,
}

/// Where the threads of a machine may run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pins {
    /// Of single processors.
    pub(super) vcpus: BTreeMap<u8, CpuSet>,
    pub(super) devices: Option<CpuSet>,
    /// Of all, where no cgroup sees to it.
    pub(super) all: Option<CpuSet>,
}

impl Pins {
    /// The CPUs for one thread; `None` where it is as it was at first.
    fn of(&self, role: Role) -> Option<Vec<u32>> {
        let own = match role {
            Role::Vcpu(id) => self.vcpus.get(&id),
            Role::Devices => self.devices.as_ref(),
        };
        let all = self.all.as_ref().filter(|all| !all.is_empty());
        match (own, all) {
            (Some(own), Some(all)) => Some(own.iter().filter(|cpu| all.contains(*cpu)).collect()),
            (Some(one), None) | (None, Some(one)) => Some(one.iter().collect()),
            (None, None) => None,
        }
    }
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTime {
    pub(super) usage: Duration,
    pub(super) user: Duration,
    pub(super) system: Duration,
}

impl CpuTime {
    fn add(&mut self, other: Self) {
        self.usage += other.usage;
        self.user += other.user;
        self.system += other.system;
    }
}

/// CPU time of a whole machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTimes {
    /// By the number of the processor.
    pub(super) vcpus: BTreeMap<u8, CpuTime>,
    pub(super) devices: CpuTime,
}

impl CpuTimes {
    fn add(&mut self, role: Role, time: CpuTime) {
        match role {
            Role::Vcpu(id) => self.vcpus.entry(id).or_default().add(time),
            Role::Devices => self.devices.add(time),
        }
    }

    /// Of all threads.
    pub(super) fn total(&self) -> CpuTime {
        let mut sum = self.devices;
        self.vcpus.values().for_each(|time| sum.add(*time));
        sum
    }
}

#[derive(Debug)]
struct Thread {
    role: Role,
    tid: Pid,
    /// Where it could run at first.
    first: Option<Mask>,
}

/// The threads of one run of a machine.
#[derive(Debug, Default)]
pub(super) struct Threads(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// A number is another's once its thread has ended: so it goes before that.
    running: Vec<Thread>,
    ended: CpuTimes,
}

impl Threads {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called in the thread itself, which counts as one of the machine's as long as what this gives lives.
    pub(super) fn enter(&self, role: Role) -> Entered<'_> {
        let tid = rustix::thread::gettid();
        let thread = Thread { role, tid, first: sched_getaffinity(None).ok() };
        self.inner().running.push(thread);
        Entered { threads: self, tid }
    }

    pub(super) fn count(&self) -> usize {
        self.inner().running.len()
    }

    /// Moves all of them into a cgroup for threads.
    pub(super) fn move_to(&self, cgroup: &Cgroup) -> Result<()> {
        self.inner().running.iter().try_for_each(|thread| cgroup.add_thread(number(thread.tid)))
    }

    /// Lets each run where it may. After an error all run where they did before.
    pub(super) fn pin(&self, pins: &Pins) -> Result<()> {
        let inner = self.inner();
        let mut done: Vec<(Pid, Mask)> = Vec::new();
        for thread in &inner.running {
            let tid = Some(thread.tid);
            let cpus = pins.of(thread.role);
            let Some(mask) = cpus.as_deref().map(mask).or(thread.first) else { continue };
            let set = sched_getaffinity(tid).and_then(|old| {
                // A cgroup may have the last word on it: what is there already is no change.
                if old != mask || cpus.is_some() {
                    sched_setaffinity(tid, &mask)?;
                    done.push((thread.tid, old));
                }
                Ok(())
            });
            if let Err(errno) = set {
                for (tid, old) in done {
                    // It was so a moment ago.
                    let _ = sched_setaffinity(Some(tid), &old);
                }
                return Err(pin_error(thread.role, cpus.as_deref(), errno));
            }
        }
        Ok(())
    }

    /// What they have had so far, those that have ended too.
    pub(super) fn cpu_times(&self) -> CpuTimes {
        let inner = self.inner();
        let mut times = inner.ended.clone();
        for thread in &inner.running {
            times.add(thread.role, cpu_time(thread.tid).unwrap_or_default());
        }
        times
    }
}

pub(super) struct Entered<'a> {
    threads: &'a Threads,
    tid: Pid,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut inner = self.threads.inner();
        if let Some(at) = inner.running.iter().position(|thread| thread.tid == self.tid) {
            let role = inner.running.swap_remove(at).role;
            inner.ended.add(role, cpu_time(self.tid).unwrap_or_default());
        }
    }
}

fn number(tid: Pid) -> u32 {
    tid.as_raw_nonzero().get().unsigned_abs()
}

fn mask(cpus: &[u32]) -> Mask {
    let mut mask = Mask::new();
    // Those beyond what the call knows are on no host that it runs on.
    cpus.iter().filter(|cpu| (**cpu as usize) < Mask::MAX_CPU).for_each(|cpu| mask.set(*cpu as usize));
    mask
}

fn pin_error(role: Role, cpus: Option<&[u32]>, errno: Errno) -> Error {
    let who = match role {
        Role::Vcpu(id) => format!("vCPU {id}"),
        Role::Devices => "devices".to_owned(),
    };
    let e = Error::sys("pin a thread to CPUs (sched_setaffinity)", errno).object(who);
    match (errno, cpus) {
        (Errno::INVAL, Some(cpus)) => {
            let all: Vec<String> = cpus.iter().map(ToString::to_string).collect();
            e.with_kind(ErrorKind::InvalidConfig)
                .detail(format!("it may run on none of the CPUs {}", all.join(",")))
                .hint("they are not there, not online, or not among those that this process's cpuset has")
        }
        _ => e,
    }
}

/// The CPU time of a thread of this process (`proc_pid_stat(5)`, `proc_pid_schedstat(5)`); `None` where `/proc` does not
/// say.
fn cpu_time(tid: Pid) -> Option<CpuTime> {
    let file = |name: &str| std::fs::read_to_string(format!("/proc/self/task/{}/{name}", number(tid)));
    let stat = file("stat").ok()?;
    // The name in brackets may have anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |n: usize| -> Option<Duration> {
        let ticks: u64 = fields.get(n)?.parse().ok()?;
        Some(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).ok()?)
    };
    let (user, system) = (ticks(11)?, ticks(12)?);
    // To the nanosecond, where the kernel has CONFIG_SCHED_INFO.
    let exact = file("schedstat").ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
    let usage = exact.filter(|ns| *ns > 0).map_or(user + system, Duration::from_nanos);
    Some(CpuTime { usage, user, system })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    #[test]
    fn a_pin_is_what_a_thread_and_the_machine_have_in_common() {
        let mut pins = Pins { vcpus: [(1, set("2-5"))].into(), devices: Some(set("0")), all: None };
        assert_eq!(pins.of(Role::Vcpu(0)), None);
        assert_eq!(pins.of(Role::Vcpu(1)), Some(vec![2, 3, 4, 5]));
        pins.all = Some(set("4-9"));
        assert_eq!(pins.of(Role::Vcpu(1)), Some(vec![4, 5]));
        assert_eq!((pins.of(Role::Vcpu(0)).unwrap().len(), pins.of(Role::Devices)), (6, Some(vec![])));
        // No limit again.
        pins.all = Some(CpuSet::default());
        assert_eq!(pins.of(Role::Vcpu(0)), None);
    }

    #[test]
    fn a_thread_is_pinned_and_its_time_is_kept() {
        let threads = Threads::default();
        let here = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..Mask::MAX_CPU).find(|n| here.is_set(*n)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _entered = threads.enter(Role::Vcpu(3));
                let pins = Pins { all: Some(set(&cpu.to_string())), ..Pins::default() };
                threads.pin(&pins).unwrap();
                assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
                // Back to what it was at first.
                threads.pin(&Pins::default()).unwrap();
                assert_eq!(sched_getaffinity(None).unwrap(), here);
                let nowhere = Pins { all: Some(set("1000")), ..Pins::default() };
                let e = threads.pin(&nowhere).unwrap_err();
                assert_eq!((e.kind(), e.what()), (ErrorKind::InvalidConfig, Some("vCPU 3")), "{e}");
                assert_eq!(sched_getaffinity(None).unwrap(), here);
                while threads.cpu_times().total().usage < Duration::from_millis(5) {}
                assert_eq!(threads.count(), 1);
            });
        });
        let times = threads.cpu_times();
        assert_eq!(threads.count(), 0);
        assert!(times.vcpus[&3].usage >= Duration::from_millis(5), "{times:?}");
        assert_eq!(times.devices, CpuTime::default());
    }
}

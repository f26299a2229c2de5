//! What a machine uses.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::devices::virtio::{Balloon, DiskCounters, Report};
use super::handle::{Live, Vm};
use super::memory;
use super::vcpu::ExitCounts;
use crate::cgroup::{
    Cgroup, CgroupEvents, CpuStats, Events, MemoryStats, PidsStats, PressureTrigger, PressureWatch, Stats,
    StatsReader,
};
use crate::error::{Error, ErrorKind, Result};
use crate::instance::Metrics;

/// What a virtual machine has used since its run began; had from [`Vm::vm_stats`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VmStats {
    /// CPU time of the thread of each processor, the guest's own included.
    pub vcpus: Vec<Duration>,
    /// CPU time of the threads in which devices work.
    pub devices: Duration,
    /// How often processors came out of the kernel.
    pub exits: ExitCounts,
    /// Bytes of the guest's memory.
    pub memory: u64,
    /// Bytes of it that are in the host's memory.
    pub memory_resident: u64,
    /// Its balloon, where it has one.
    pub balloon: Option<BalloonStats>,
    /// Its disks, in the guest's order.
    pub disks: Vec<DiskStats>,
    /// Its sockets, where it has some.
    pub vsock: Option<VsockStats>,
}

/// The balloon of a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BalloonStats {
    /// Bytes that the guest is asked to do without.
    pub target: u64,
    /// Bytes that it says that it does without.
    pub actual: u64,
    /// What the guest has said last of its memory; `None` before its driver has.
    pub guest: Option<GuestMemory>,
}

/// What a guest says of its memory, by its balloon: nothing that the host has measured. `None` for what it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GuestMemory {
    /// How long ago it said so. A look at it asks the guest for news, which the next one has.
    pub age: Duration,
    /// Bytes that it has; those in the balloon are among them with Linux, which may take them back.
    pub total: Option<u64>,
    /// Bytes that are not used at all.
    pub free: Option<u64>,
    /// Bytes that its programs can have without swapping (`MemAvailable` of Linux).
    pub available: Option<u64>,
    /// Bytes of caches that can be given up.
    pub caches: Option<u64>,
    /// Bytes that it has read from swap.
    pub swap_in: Option<u64>,
    /// Bytes that it has written to swap.
    pub swap_out: Option<u64>,
    /// Page faults that waited for a disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
}

impl GuestMemory {
    /// By the tags of the standard (virtio 1.2, section 5.5.6.4).
    fn of(report: &Report, at: Instant) -> Self {
        let number = |tag: u16| report.numbers.get(&tag).copied();
        Self {
            age: at.elapsed(),
            swap_in: number(0),
            swap_out: number(1),
            major_faults: number(2),
            minor_faults: number(3),
            free: number(4),
            total: number(5),
            available: number(6),
            caches: number(7),
        }
    }
}

impl From<&Balloon> for BalloonStats {
    fn from(balloon: &Balloon) -> Self {
        let guest = balloon.report().map(|(report, at)| GuestMemory::of(&report, at));
        Self { target: balloon.target(), actual: balloon.bytes(), guest }
    }
}

/// What a disk of a virtual machine has done for its guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DiskStats {
    /// Its serial number, as [`Disk::with_id`](super::Disk::with_id) sets it.
    pub id: String,
    /// Reads, and the bytes of them.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Ranges that were given up or made zero.
    pub discards: u64,
    /// Bytes of them.
    pub discarded_bytes: u64,
    /// Times that the guest wanted all to be on the host's disk.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
}

impl From<&DiskCounters> for DiskStats {
    fn from(c: &DiskCounters) -> Self {
        Self {
            id: c.id.clone(),
            reads: get(&c.reads),
            read_bytes: get(&c.read_bytes),
            writes: get(&c.writes),
            written_bytes: get(&c.written_bytes),
            discards: get(&c.discards),
            discarded_bytes: get(&c.discarded_bytes),
            flushes: get(&c.flushes),
            errors: get(&c.errors),
        }
    }
}

/// The sockets of a virtual machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VsockStats {
    /// Bytes of all streams that went to the guest.
    pub to_guest: u64,
    /// Bytes that came from it.
    pub from_guest: u64,
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Vm {
    /// What it has used since this run began, as the machine around the guest counts it. How much of the memory is resident is
    /// looked up page by page: about a millisecond for each GiB.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run in this runtime.
    pub fn vm_stats(&self) -> Result<VmStats> {
        let stats = self.live().and_then(|live| vm_stats(&live, self.config().memory));
        stats.map_err(|e| e.with_op("stats").with_instance(self.id()))
    }

    /// The same as far as it is the same for every instance; see [`Metrics`]. CPU time and threads are those of the machine,
    /// memory is the guest's that is resident. With a cgroup of its own, what that counts is there, too, such as how often its
    /// CPU time was used up. Disks are in [`vm_stats`](Self::vm_stats): they are no block devices of the host's.
    ///
    /// # Errors
    /// As [`vm_stats`](Self::vm_stats).
    pub fn stats(&self) -> Result<Stats> {
        let stats = self.live().and_then(|live| stats(&live));
        stats.map_err(|e| e.with_op("stats").with_instance(self.id()))
    }

    /// What its cgroup counts, to be read again and again; see [`Metrics::stats_reader`].
    ///
    /// # Errors
    /// As there. [`Unsupported`](crate::ErrorKind::Unsupported) where its threads have no cgroup of their own
    /// ([`RuntimeBuilder::vm_threads`](crate::RuntimeBuilder::vm_threads)).
    pub fn stats_reader(&self) -> Result<StatsReader> {
        self.of_cgroup("stats", Cgroup::stats_reader)
    }

    /// What happens to its cgroup from now on; see [`Metrics::resource_events`].
    ///
    /// # Errors
    /// As [`stats_reader`](Self::stats_reader).
    pub fn resource_events(&self) -> Result<Events> {
        self.of_cgroup("events", Cgroup::events)
    }

    /// A report when its threads wait too much for CPU time; see [`Metrics::watch_pressure`].
    ///
    /// # Errors
    /// As [`stats_reader`](Self::stats_reader).
    pub fn watch_pressure(&self, trigger: PressureTrigger) -> Result<PressureWatch> {
        self.of_cgroup("watch of pressure", |cgroup| cgroup.watch_pressure(trigger))
    }

    fn of_cgroup<T>(&self, op: &'static str, get: impl FnOnce(&Cgroup) -> Result<T>) -> Result<T> {
        let got = self.live().and_then(|live| match &live.given().group {
            Some(group) => get(&group.cgroup),
            None => Err(Error::new(ErrorKind::Unsupported, "find the cgroup")
                .detail("the threads of the virtual machine have none of their own")
                .hint("open the runtime with RuntimeBuilder::vm_threads")),
        });
        got.map_err(|e| e.with_op(op).with_instance(self.id()))
    }
}

fn vm_stats(live: &Live, memory: u64) -> Result<VmStats> {
    let machine = &live.machine;
    let times = machine.threads().cpu_times();
    Ok(VmStats {
        vcpus: times.vcpus.values().map(|time| time.usage).collect(),
        devices: times.devices.usage,
        exits: machine.exit_counts(),
        memory,
        memory_resident: memory::resident(machine.memory())?,
        balloon: machine.balloon().map(BalloonStats::from),
        disks: machine.disks().iter().map(|counters| DiskStats::from(&**counters)).collect(),
        vsock: machine
            .vsock()
            .map(|host| VsockStats { to_guest: get(&host.to_guest), from_guest: get(&host.from_guest) }),
    })
}

fn stats(live: &Live) -> Result<Stats> {
    let machine = &live.machine;
    let mut stats = match &live.given().group {
        Some(group) => group.cgroup.stats()?,
        None => Stats::default(),
    };
    let time = machine.threads().cpu_times().total();
    let cpu = stats.cpu.unwrap_or_default();
    stats.cpu = Some(CpuStats { usage: time.usage, user: time.user, system: time.system, ..cpu });
    let resident = memory::resident(machine.memory())?;
    stats.memory = Some(MemoryStats { current: Some(resident), ..MemoryStats::default() });
    let threads = machine.threads().count() as u64;
    stats.pids = Some(PidsStats { current: threads, ..stats.pids.unwrap_or_default() });
    stats.state = Some(CgroupEvents {
        populated: true,
        frozen: machine.control().is_paused(),
        ..CgroupEvents::default()
    });
    Ok(stats)
}

impl Metrics for Vm {
    fn stats(&self) -> Result<Stats> {
        Self::stats(self)
    }

    fn stats_reader(&self) -> Result<StatsReader> {
        Self::stats_reader(self)
    }

    fn resource_events(&self) -> Result<Events> {
        Self::resource_events(self)
    }

    fn watch_pressure(&self, trigger: PressureTrigger) -> Result<PressureWatch> {
        Self::watch_pressure(self, trigger)
    }
}

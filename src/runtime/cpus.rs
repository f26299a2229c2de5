//! Giving the host's CPUs to the instances that have a count of them.
//!
//! Nothing is remembered: who wants what is on record, and what each has is in the kernel (`cpuset.cpus`). So any
//! runtime on the directories can do it, one at a time, and a crash in between leaves what the next one puts right.
//!
//! | | |
//! |---|---|
//! | start | the CPUs are chosen before, so that the program never sees others; once it runs, all are balanced |
//! | update of the CPUs | as a start |
//! | the end of a run | those that are left are balanced, by whoever sees it |
//! | a CPU comes or goes | [`Runtime::rebalance_cpus`], when the host's program calls it |
//!
//! An instance without a count or a set, and that says nothing of nodes, has no part in it and pays nothing.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Runtime;
use crate::cgroup::{Cgroup, CpuSet, Enforce, HostCpus, Limits};
use crate::container::ContainerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{CpuNodes, Cpus, Machine, Task, Want, Where, balance};
use crate::name::InstanceId;
use crate::op::Between;
use crate::store::{RunRecord, Stored, boot_id};

/// How long to wait for another runtime that gives out CPUs.
const WAIT: Duration = Duration::from_secs(10);
/// The same, where the balance is not what was asked for.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// What [`Runtime::rebalance_cpus`] found and did.
#[derive(Debug)]
#[non_exhaustive]
pub struct CpuBalance {
    /// The CPUs that could be given out.
    pub usable: CpuSet,
    /// The running instances that have a count or a set of CPUs, by project and name.
    pub instances: Vec<CpuPlacement>,
    /// Those among them whose CPUs could not be set, and why. They keep what they had.
    pub failed: Vec<(InstanceId, Error)>,
}

/// The CPUs of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuPlacement {
    /// Which instance.
    pub id: InstanceId,
    /// The CPUs that it has now.
    pub cpus: CpuSet,
    /// Those that it had before; none where it had no limit.
    pub before: CpuSet,
}

/// What a record says of CPUs.
#[derive(Deserialize)]
struct Recorded {
    config: Wanted,
}

#[derive(Clone, Deserialize)]
struct Wanted {
    #[serde(default)]
    cpus: Cpus,
    #[serde(default)]
    cpu_nodes: CpuNodes,
    #[serde(default)]
    enforce: Enforce,
}

/// An instance that runs, and wants something.
struct Running {
    id: InstanceId,
    wanted: Wanted,
    cgroup: Option<Cgroup>,
    has: CpuSet,
}

/// The right to give out CPUs.
struct Held<'a> {
    between: &'a Between,
    _thread: MutexGuard<'a, ()>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.between.release_cpus();
    }
}

impl Runtime {
    /// Spreads the running instances that have a count of CPUs ([`Cpus::Count`](crate::instance::Cpus::Count)) evenly
    /// over the CPUs of the host, by `cpuset.cpus` of their cgroups.
    ///
    /// This happens by itself when an instance with a count or a set of CPUs starts, stops or is changed. **When a CPU
    /// goes online or offline nobody but the kernel knows**: call it then; [`CpuWatch`](crate::CpuWatch) tells an event
    /// loop. The library has no thread for it.
    ///
    /// The rules, which give the same for the same instances:
    ///
    /// * CPUs that can be given out are online, in the cgroup that the instances' cgroups are made in, and not kept
    ///   apart by the host (`isolcpus=`; `/sys/devices/system/cpu/isolated`), unless there are no others.
    /// * The load of a CPU is the number of running instances of these directories that have it, those that are pinned
    ///   to a set included. Loads differ by one at most, where sets and nodes allow it.
    /// * An instance has as many CPUs as it counts, or all where there are fewer. Nobody moves unless loads are two
    ///   apart.
    ///
    /// Reads the record of every instance, and writes where something changes.
    ///
    /// ```no_run
    /// let balance = stockade::Runtime::open()?.rebalance_cpus()?;
    /// for instance in &balance.instances {
    ///     println!("{}: CPUs {}, before {}", instance.id, instance.cpus, instance.before);
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy): another runtime has been at it for ten seconds.
    /// [`Unsupported`](ErrorKind::Unsupported): a host without a cgroup2 mount. What fails for one instance is in the
    /// result.
    pub fn rebalance_cpus(&self) -> Result<CpuBalance> {
        self.rebalance(WAIT).map_err(|e| e.with_op("rebalance CPUs"))
    }

    /// The same after a verb, whose own work is done. What fails here, the next balance makes good; the limit of the
    /// verb's own instance was set, or refused, before.
    pub(crate) fn settle_cpus(&self) {
        let _ = self.rebalance(SHORT_WAIT);
    }

    fn rebalance(&self, wait: Duration) -> Result<CpuBalance> {
        let _held = self.hold_cpus(wait)?;
        let host = self.inner.host.cgroup()?.host_cpus()?;
        let running = self.running(None)?;
        let sets = shares(&host, &running)?;
        let mut found = CpuBalance { usable: host.usable, instances: Vec::new(), failed: Vec::new() };
        for (one, cpus) in running.into_iter().zip(sets) {
            let Some(cgroup) = &one.cgroup else { continue };
            if !cpus.is_empty() && cpus != one.has {
                match cgroup.update(&Limits::new().cpuset_cpus(cpus.clone()), one.wanted.enforce) {
                    Ok(skipped) if skipped.is_empty() => {}
                    // It is known to have no such limit.
                    Ok(_) => continue,
                    // It has ended meanwhile.
                    Err(e) if e.kind() == ErrorKind::NotFound => continue,
                    Err(e) => {
                        found.failed.push((one.id, e));
                        continue;
                    }
                }
            }
            let cpus = if cpus.is_empty() { one.has.clone() } else { cpus };
            found.instances.push(CpuPlacement { id: one.id, cpus, before: one.has });
        }
        Ok(found)
    }

    /// The configuration with the CPUs that an instance is to have among its limits, where it runs in `cgroup` or is
    /// about to start.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig): it wants CPUs or nodes that are not there.
    pub(crate) fn with_cpus(
        &self,
        id: &InstanceId,
        config: &ContainerConfig,
        cgroup: Option<&Cgroup>,
    ) -> Result<ContainerConfig> {
        let wanted = Wanted {
            cpus: config.cpus().clone(),
            cpu_nodes: config.cpu_nodes().clone(),
            enforce: config.enforce,
        };
        let host = self.inner.host.cgroup()?.host_cpus()?;
        wanted.check(&host)?;
        let cpus = match &wanted.cpus {
            Cpus::Set(set) => set.clone(),
            _ => {
                let _held = self.hold_cpus(WAIT)?;
                let mut running = self.running(Some(id))?;
                let has = cgroup.map_or(Ok(CpuSet::default()), Cgroup::given_cpus)?;
                // In its place, so that the balance which follows comes to the same.
                let place = running.partition_point(|other| other.id < *id);
                running.insert(place, Running { id: id.clone(), wanted, cgroup: None, has });
                shares(&host, &running)?.swap_remove(place)
            }
        };
        let mut config = config.clone();
        config.limits.cpuset_cpus = Some(cpus);
        Ok(config)
    }

    fn hold_cpus(&self, wait: Duration) -> Result<Held<'_>> {
        let thread = self.inner.cpus.lock().unwrap_or_else(PoisonError::into_inner);
        let between = self.inner.store.between();
        let end = Instant::now() + wait;
        while !between.try_cpus()? {
            if Instant::now() >= end {
                return Err(Error::new(ErrorKind::Busy, "balance CPUs")
                    .detail(format!("another runtime has been at it for {wait:?}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Held { between, _thread: thread })
    }

    /// The instances that run and want something, sorted. One whose record cannot be read is left alone.
    fn running(&self, except: Option<&InstanceId>) -> Result<Vec<Running>> {
        let store = &self.inner.store;
        let mut out = Vec::new();
        for id in store.list()?.into_iter().filter(|id| Some(id) != except) {
            let Ok(Stored { record: Recorded { config: wanted }, .. }) = store.load(&id) else { continue };
            if wanted.cpus == Cpus::All && wanted.cpu_nodes == CpuNodes::Any {
                continue;
            }
            let Ok(Some(run)) = store.load_run(&id) else { continue };
            if let Some((cgroup, has)) = self.cgroup_of(&run)? {
                out.push(Running { id, wanted, cgroup: Some(cgroup), has });
            }
        }
        Ok(out)
    }

    /// The cgroup of a run that goes on, and the CPUs that it has.
    fn cgroup_of(&self, run: &RunRecord) -> Result<Option<(Cgroup, CpuSet)>> {
        if run.exit.is_some() || run.boot_id != boot_id()? {
            return Ok(None);
        }
        let cgroup = run.cgroup_path.as_ref().and_then(|path| self.inner.host.open_cgroup(path).ok());
        let Some(cgroup) = cgroup.filter(|cg| cg.state().is_ok_and(|state| state.populated)) else {
            return Ok(None);
        };
        Ok(cgroup.given_cpus().ok().map(|has| (cgroup, has)))
    }
}

impl Wanted {
    /// Fails where it wants what the host never has.
    fn check(&self, host: &HostCpus) -> Result<()> {
        let absent =
            |what: &'static str, wanted: String, why: String| Err(Error::invalid(what, why).object(wanted));
        let HostCpus { present, allowed, nodes, .. } = host;
        match &self.cpus {
            Cpus::Count(n) if *n as usize > present.len() => {
                let why = format!("are more than the {} CPUs of this host", present.len());
                return absent("cpus", n.to_string(), why);
            }
            Cpus::Set(set) => {
                let lacking = CpuSet::new(set.iter().filter(|cpu| !present.contains(*cpu)))?;
                if !lacking.is_empty() {
                    let why = format!("{lacking} is not on this host, which has {present}");
                    return absent("cpus", set.to_string(), why);
                }
                // The kernel would take it for no limit at all.
                if !set.iter().any(|cpu| allowed.contains(cpu)) {
                    let why = format!("none of them can be used here: online and allowed are {allowed}");
                    return absent("cpus", set.to_string(), why);
                }
                return Ok(());
            }
            _ => {}
        }
        if let CpuNodes::Set(set) = &self.cpu_nodes {
            if let Some(lacking) = set.iter().find(|node| !nodes.contains_key(node)) {
                let why = format!("node {lacking} is not on this host, or is offline");
                return absent("cpu_nodes", set.to_string(), why);
            }
            let mut cpus = set.iter().filter_map(|node| nodes.get(&node)).flat_map(CpuSet::iter);
            if !cpus.any(|cpu| host.usable.contains(cpu)) {
                let why = format!("none of their CPUs can be used: those that can are {}", host.usable);
                return absent("cpu_nodes", set.to_string(), why);
            }
        }
        Ok(())
    }

    fn want(&self) -> Want {
        let place = match &self.cpu_nodes {
            CpuNodes::Any => Where::Anywhere,
            CpuNodes::Set(nodes) => Where::Nodes(nodes.iter().collect()),
            CpuNodes::Balanced => Where::Balanced,
        };
        match &self.cpus {
            Cpus::Set(set) => Want::Pinned(set.iter().collect()),
            Cpus::Count(n) => Want::Some(Some(*n), place),
            Cpus::All => Want::Some(None, place),
        }
    }
}

/// The CPUs of each.
fn shares(host: &HostCpus, running: &[Running]) -> Result<Vec<CpuSet>> {
    let machine = Machine {
        usable: host.usable.iter().collect(),
        nodes: host.nodes.iter().map(|(node, cpus)| (*node, cpus.iter().collect())).collect(),
    };
    let task = |one: &Running| Task { want: one.wanted.want(), has: one.has.iter().collect() };
    let tasks: Vec<Task> = running.iter().map(task).collect();
    balance(&machine, &tasks).into_iter().map(|cpus: BTreeSet<u32>| CpuSet::new(cpus)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn host() -> HostCpus {
        HostCpus {
            present: "0-3".parse().unwrap(),
            allowed: "0-2".parse().unwrap(),
            usable: "0-1".parse().unwrap(),
            nodes: BTreeMap::from([(0, "0-1".parse().unwrap()), (1, "2-3".parse().unwrap())]),
        }
    }

    fn check(cpus: &str, nodes: &str) -> Result<()> {
        let wanted = Wanted {
            cpus: cpus.parse().unwrap(),
            cpu_nodes: nodes.parse().unwrap(),
            enforce: Enforce::Required,
        };
        wanted.check(&host())
    }

    #[test]
    fn what_the_host_never_has_is_refused() {
        // More than can be used now, but not more than there are.
        for (cpus, nodes) in [("4", ""), ("2", "0"), ("", "balanced"), ("0-2", ""), ("2-2", "1"), ("2,3", "")]
        {
            check(cpus, nodes).unwrap();
        }
        for (cpus, nodes, what) in [
            ("5", "", "more than the 4 CPUs"),
            ("3,4", "", "4 is not on this host, which has 0-3"),
            ("3-3", "", "allowed are 0-2"),
            ("1", "2", "node 2"),
            ("1", "1", "those that can are 0-1"),
            ("", "0,7", "node 7"),
        ] {
            let e = check(cpus, nodes).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidConfig);
            assert!(e.to_string().contains(what), "{cpus} {nodes}: {e}");
        }
    }
}

//! The limits of a machine: CPU time by the cgroup of its threads, CPUs by that or by affinity, memory by its balloon.

use std::os::fd::AsFd;

use super::config::VmConfig;
use super::group::{Above, Parent, ThreadGroup};
use super::machine::Machine;
use super::threads::Pins;
use crate::cgroup::{ChangeOptions, Controller, Enforce, Limit, Limits, Skipped};
use crate::error::{Error, ErrorKind, Result};
use crate::instance::UpdateOptions;
use crate::op::Deadline;

/// The limits of a machine by who sees to them.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// A cgroup of threads.
    cgroup: Limits,
    /// The balloon: bytes that the guest is asked to do without.
    balloon: Option<u64>,
    /// What nobody can see to.
    pub(super) skipped: Vec<Skipped>,
}

impl Parts {
    /// # Errors
    /// `Unsupported`, for a limit that a machine cannot have and that is required.
    pub(super) fn of(config: &VmConfig) -> Result<Self> {
        Self::split(config, &config.limits, config.enforce)
    }

    fn split(config: &VmConfig, limits: &Limits, enforce: Enforce) -> Result<Self> {
        let mut parts = Self::default();
        let mut rest = limits.clone();
        let own = &mut parts.cgroup;
        own.cpu_weight = rest.cpu_weight.take();
        own.cpu_max = rest.cpu_max.take();
        own.cpu_max_burst = rest.cpu_max_burst.take();
        own.cpu_idle = rest.cpu_idle.take();
        own.cpu_uclamp_min = rest.cpu_uclamp_min.take();
        own.cpu_uclamp_max = rest.cpu_uclamp_max.take();
        own.cpuset_cpus = rest.cpuset_cpus.take();
        own.cpuset_mems = rest.cpuset_mems.take();
        if let Some(max) = rest.memory_max.take() {
            if config.balloon {
                parts.balloon = Some(match max {
                    Limit::Value(bytes) => config.memory.saturating_sub(bytes),
                    _ => 0,
                });
            } else if max != Limit::Max {
                parts.skip("memory.max".to_owned(), no_balloon());
            }
        }
        for name in names(&rest) {
            let reason = Error::new(ErrorKind::Unsupported, "limit a virtual machine")
                .object(name.clone())
                .detail(
                    "its threads can have no limit of this kind: the kernel counts that for whole processes",
                )
                .hint("its memory is VmBuilder::memory; CPUs and CPU time can be limited");
            parts.skip(name.replace('_', "."), reason);
        }
        match enforce {
            Enforce::BestEffort => Ok(parts),
            _ => required(parts.skipped).map(|skipped| Self { skipped, ..parts }),
        }
    }

    fn skip(&mut self, file: String, reason: Error) {
        self.skipped.push(Skipped { file, reason });
    }
}

/// Fails with the first, and the names of all.
fn required(mut skipped: Vec<Skipped>) -> Result<Vec<Skipped>> {
    if skipped.is_empty() {
        return Ok(skipped);
    }
    let others: Vec<String> = skipped.iter().skip(1).map(|s| s.file.clone()).collect();
    let first = skipped.swap_remove(0).reason;
    Err(if others.is_empty() { first } else { first.also(format!("so it is with {}", others.join(", "))) })
}

fn no_balloon() -> Error {
    Error::new(ErrorKind::Unsupported, "limit a virtual machine")
        .object("memory_max")
        .detail("it has no balloon")
        .hint("give it VmBuilder::balloon, or set its memory with VmBuilder::memory")
}

fn no_cgroup(name: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "limit a virtual machine")
        .object(name)
        .detail("its threads have no cgroup of their own")
        .hint("open the runtime with RuntimeBuilder::vm_threads")
}

/// The names of the limits that are set.
fn names(limits: &Limits) -> Vec<String> {
    match serde_json::to_value(limits) {
        Ok(serde_json::Value::Object(fields)) => fields.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    }
}

/// Everything that is wrong with the limits of a configuration, whatever the host is like.
pub(super) fn problems(config: &VmConfig, least: u64) -> Vec<String> {
    let wrong = |(field, why): (String, String)| format!("limits: {field}: {why}");
    let mut found: Vec<String> = config.limits.problems().into_iter().map(wrong).collect();
    if let Some(Limit::Value(bytes)) = config.limits.memory_max
        && !(least.min(config.memory)..=config.memory).contains(&bytes)
    {
        let most = config.memory;
        found.push(format!(
            "limits: memory_max: is {bytes} bytes, and must be from {least} to its memory, {most}"
        ));
    }
    if let Err(e) = Parts::of(config) {
        found.push(format!("limits: {e}"));
    }
    let all = config.limits.cpuset_cpus.as_ref().filter(|all| !all.is_empty());
    let pins = config.vcpu_cpus.iter().map(|(id, cpus)| (format!("vCPU {id}"), cpus));
    let pins = pins.chain(config.device_cpus.iter().map(|cpus| ("devices".to_owned(), cpus)));
    for (who, cpus) in pins {
        if cpus.is_empty() || all.is_some_and(|all| !cpus.iter().any(|cpu| all.contains(cpu))) {
            found.push(format!("{who}: may run on none of the CPUs of the machine"));
        }
    }
    if let Some(id) = config.vcpu_cpus.keys().find(|id| **id >= config.vcpus) {
        found.push(format!("vcpu_cpus: vCPU {id} is none of the {} that it has", config.vcpus));
    }
    found
}

/// What a run has been given. Changed by one action at a time.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) group: Option<ThreadGroup>,
    /// What could not be set, by the last change of it.
    pub(super) skipped: Vec<String>,
}

/// The cgroup of a machine's threads, made and with its limits; `None` where there is to be none.
pub(super) fn prepare(config: &VmConfig, parent: Option<Parent>, name: &str, above: &Above) -> Result<Given> {
    let parts = Parts::of(config)?;
    config.limits.check_host()?;
    let mut skipped = parts.skipped;
    let group = match parent.map(|parent| parent.make(name, &parts.cgroup, above)).transpose() {
        Ok(group) => group,
        Err(e) if config.enforce == Enforce::BestEffort && may_be_left_out(&e) => {
            skipped.push(Skipped { file: "cgroup".to_owned(), reason: e });
            None
        }
        Err(e) => return Err(e),
    };
    let Some(group) = group else {
        skipped.extend(without_cgroup(&parts.cgroup, config.enforce)?);
        return Ok(Given { group: None, skipped: texts(&skipped) });
    };
    let done = group.of_cgroup(&parts.cgroup).and_then(|limits| group.cgroup.apply(&limits, config.enforce));
    match done {
        Ok(more) => {
            skipped.extend(more);
            Ok(Given { group: Some(group), skipped: texts(&skipped) })
        }
        Err(e) => Err(match group.remove(above) {
            Ok(()) => e,
            Err(left) => e.also(format!("the cgroup could not be removed again: {left}")),
        }),
    }
}

pub(super) fn texts(skipped: &[Skipped]) -> Vec<String> {
    skipped.iter().map(ToString::to_string).collect()
}

fn may_be_left_out(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied)
}

impl ThreadGroup {
    /// The limits without a set of CPUs where the cgroup can have none: affinity does the same.
    fn of_cgroup(&self, limits: &Limits) -> Result<Limits> {
        let mut limits = limits.clone();
        if limits.cpuset_cpus.is_some() && !self.cgroup.can_have(Controller::Cpuset)? {
            limits.cpuset_cpus = None;
        }
        Ok(limits)
    }
}

/// Those that need a cgroup where there is none.
fn without_cgroup(limits: &Limits, enforce: Enforce) -> Result<Vec<Skipped>> {
    let mut rest = limits.clone();
    rest.cpuset_cpus = None;
    let skipped = names(&rest).into_iter().map(|name| {
        let reason = no_cgroup(&name);
        Skipped { file: name.replace('_', "."), reason }
    });
    let skipped = skipped.collect();
    if enforce == Enforce::BestEffort { Ok(skipped) } else { required(skipped) }
}

/// Where the threads of a machine may run.
fn pins(config: &VmConfig) -> Pins {
    Pins {
        vcpus: config.vcpu_cpus.clone(),
        devices: config.device_cpus.clone(),
        all: config.limits.cpuset_cpus.clone(),
    }
}

/// Puts a machine that has not yet run into its place.
pub(super) fn place(config: &VmConfig, machine: &Machine, given: &Given) -> Result<()> {
    if let Some(group) = &given.group {
        machine.threads().move_to(&group.cgroup)?;
    }
    machine.threads().pin(&pins(config))?;
    if let (Some(bytes), Some(balloon)) = (Parts::of(config)?.balloon, machine.balloon()) {
        balloon.ask(bytes);
    }
    Ok(())
}

/// Changes the limits of a machine that runs: all of them, or none.
pub(super) fn change(
    old: &VmConfig,
    new: &VmConfig,
    machine: &Machine,
    given: &Given,
    options: &UpdateOptions,
    above: &Above,
) -> Result<Vec<Skipped>> {
    let change = Parts::split(new, &options.limits, new.enforce)?;
    let mut skipped = change.skipped;
    // What can be refused comes before what cannot.
    match &given.group {
        None => {
            skipped.extend(without_cgroup(&change.cgroup, new.enforce)?);
            if pins(old) != pins(new) {
                machine.threads().pin(&pins(new))?;
            }
        }
        Some(group) => {
            // Without them the limit has its own error.
            match group.enable(&change.cgroup, above) {
                Err(e) if new.enforce == Enforce::Required => return Err(e),
                _ => {}
            }
            let limits = group.of_cgroup(&change.cgroup)?;
            let how = ChangeOptions {
                enforce: new.enforce,
                deadline: Deadline::from(options.deadline).instant(),
                fault: options.fault,
                ..ChangeOptions::default()
            };
            let stop = options.cancel.as_ref().map(AsFd::as_fd);
            let before = group.cgroup.limits()?;
            skipped.extend(group.cgroup.update_unless(&limits, &how, stop)?);
            if let Err(e) = machine.threads().pin(&pins(new)) {
                let back = group.cgroup.update(&before.only(&limits), Enforce::Required);
                return Err(match back {
                    Ok(_) => e,
                    Err(left) => e.also(format!("the old limits are not back: {left}")),
                });
            }
        }
    }
    if let (Some(bytes), Some(balloon)) = (change.balloon, machine.balloon()) {
        balloon.ask(bytes);
    }
    Ok(skipped)
}

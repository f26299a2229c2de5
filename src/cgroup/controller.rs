//! Which controllers a cgroup has, and giving them to its children.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::group::Cgroup;
use super::place::held_by_v1;
use crate::error::{Error, ErrorKind, Result};

/// A cgroup v2 controller that can be enabled for children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Controller {
    /// CPU bandwidth and weight.
    Cpu,
    /// Which CPUs and memory nodes.
    Cpuset,
    /// Device memory (Linux 6.14).
    Dmem,
    /// Huge pages.
    Hugetlb,
    /// Block I/O.
    Io,
    /// Memory and swap.
    Memory,
    /// Scalar resources of the host.
    Misc,
    /// The number of processes and threads.
    Pids,
    /// RDMA handles and objects.
    Rdma,
}

impl Controller {
    /// All of them, ordered by name.
    pub const ALL: [Self; 9] = [
        Self::Cpu,
        Self::Cpuset,
        Self::Dmem,
        Self::Hugetlb,
        Self::Io,
        Self::Memory,
        Self::Misc,
        Self::Pids,
        Self::Rdma,
    ];

    /// The kernel's name, which is also the prefix of the controller's files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Dmem => "dmem",
            Self::Hugetlb => "hugetlb",
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Misc => "misc",
            Self::Pids => "pids",
            Self::Rdma => "rdma",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Controller {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|c| c.name() == s);
        known.ok_or_else(|| Error::invalid("controller", "is not one that is known").object(s))
    }
}

impl Cgroup {
    /// The controllers that this cgroup has (`cgroup.controllers`), and so could give to its children. Names
    /// that [`Controller`] does not know are left out.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed.
    pub fn controllers(&self) -> Result<Vec<Controller>> {
        Ok(parse(&self.read("cgroup.controllers")?))
    }

    /// The controllers that its children have (`cgroup.subtree_control`).
    ///
    /// # Errors
    /// As [`controllers`](Self::controllers).
    pub fn enabled_controllers(&self) -> Result<Vec<Controller>> {
        Ok(parse(&self.read("cgroup.subtree_control")?))
    }

    /// Gives `controllers` to the children of this cgroup, all of them or none. Those that the children have
    /// already are left alone.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): this cgroup lacks one of them itself.
    /// [`InvalidState`](ErrorKind::InvalidState): this cgroup holds processes of its own, so that the kernel
    /// refuses (`EBUSY`, the no-internal-process rule of `cgroups(7)`).
    /// [`PermissionDenied`](ErrorKind::PermissionDenied): the file is not the caller's to write.
    pub fn enable_controllers(&self, controllers: &[Controller]) -> Result<()> {
        let enabled = self.enabled_controllers()?;
        let wanted: Vec<Controller> = controllers.iter().copied().filter(|c| !enabled.contains(c)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let text = wanted.iter().map(|c| format!("+{c}")).collect::<Vec<_>>().join(" ");
        self.write("cgroup.subtree_control", &text).map_err(|e| match e.errno() {
            Some(libc::EBUSY) => e
                .with_kind(ErrorKind::InvalidState)
                .detail(format!(
                    "the cgroup holds processes itself ({}), so its children get no controllers",
                    self.some_procs()
                ))
                .hint(
                    "move them into a child first: Placement::OwnWithLeaf does it for this process, \
                       `DelegateSubgroup=` for a systemd service",
                ),
            // EINVAL: this kernel does not know the name.
            Some(libc::ENOENT | libc::EINVAL) => {
                let has = list(&self.controllers().unwrap_or_default());
                e.with_kind(ErrorKind::Unsupported)
                    .detail(format!("the cgroup itself has only: {has}"))
                    .hint(MISSING)
            }
            _ => e,
        })
    }

    /// The error for `file` of `controller` that this cgroup does not have.
    pub(super) fn missing(&self, controller: Controller, file: &str) -> Error {
        let error = |kind| Error::new(kind, "set limit").path(self.path().join(file));
        let parent = self.parent().ok().flatten();
        let above = parent.as_ref().map(|p| (p, p.controllers().unwrap_or_default()));
        if self.controllers().is_err() {
            return error(ErrorKind::NotFound).detail("the cgroup was removed");
        }
        match above {
            None => error(ErrorKind::Unsupported).detail("the root of the hierarchy has no limits"),
            Some((p, has)) if has.contains(&controller) => error(ErrorKind::Unsupported)
                .detail(format!("the parent has {controller} but does not give it to its children"))
                .hint(format!("write `+{controller}` to {}/cgroup.subtree_control", p.path().display())),
            Some((_, has)) => error(ErrorKind::Unsupported)
                .detail(format!("{controller} is not among the parent's controllers: {}", list(&has)))
                .hint(if held_by_v1().contains(&controller) { MISSING_V1 } else { MISSING }),
        }
    }
}

/// What gives a cgroup a controller that it lacks.
const MISSING: &str = "enable it in cgroup.subtree_control of every cgroup above (systemd: `Delegate=yes`); where \
                       cgroup v1 holds it, boot with cgroup_no_v1=all";

/// The same where cgroup v1 holds it and none of its mounts serves.
const MISSING_V1: &str = if cfg!(feature = "cgroup1") {
    "cgroup v1 holds it, and no mount shows this process's own group of it: mount the v1 hierarchy, or boot with \
     cgroup_no_v1=all"
} else {
    "cgroup v1 holds it: build with the feature `cgroup1`, which sets such limits through v1, or boot with \
     cgroup_no_v1=all"
};

fn parse(text: &str) -> Vec<Controller> {
    text.split_whitespace().filter_map(|name| name.parse().ok()).collect()
}

fn list(controllers: &[Controller]) -> String {
    match controllers {
        [] => "none".to_owned(),
        some => some.iter().map(|c| c.name()).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_left_out() {
        for c in Controller::ALL {
            assert_eq!(c.name().parse::<Controller>().unwrap(), c);
            assert_eq!(serde_json::to_string(&c).unwrap(), format!("\"{c}\""));
        }
        assert_eq!(parse("cpu io quantum pids\n"), [Controller::Cpu, Controller::Io, Controller::Pids]);
        assert_eq!(parse("\n"), []);
        assert_eq!("quantum".parse::<Controller>().unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}

//! The capability sets that a process starts with.

use serde::{Deserialize, Serialize};

use super::{CapSet, Capability};
use crate::error::{Error, Result};

/// The five sets that a process starts with, as `process.capabilities` of an OCI configuration.
///
/// What a program has after its `execve(2)` follows from these by the rules in `capabilities(7)`: for root it is
/// the bounding set (without `noroot`), for anybody else the ambient set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapabilitySets {
    /// What the kernel checks.
    pub effective: CapSet,
    /// What may become effective.
    pub permitted: CapSet,
    /// What a file's inheritable set can pass on.
    pub inheritable: CapSet,
    /// The limit for everything that comes later.
    pub bounding: CapSet,
    /// What a program without file capabilities keeps for an ordinary user.
    pub ambient: CapSet,
}

impl CapabilitySets {
    /// `set` as effective, permitted and bounding set, none inheritable or ambient: what a root process needs.
    pub const fn of(set: CapSet) -> Self {
        Self {
            effective: set,
            permitted: set,
            inheritable: CapSet::EMPTY,
            bounding: set,
            ambient: CapSet::EMPTY,
        }
    }

    /// No capability at all.
    pub const fn none() -> Self {
        Self::of(CapSet::EMPTY)
    }

    /// The three that `runc spec` writes.
    pub const fn oci_default() -> Self {
        use Capability::{AuditWrite, Kill, NetBindService};
        Self::of(CapSet::of(&[AuditWrite, Kill, NetBindService]))
    }

    /// The fourteen that Docker gives an application container.
    pub const fn docker_default() -> Self {
        use Capability::*;
        Self::of(CapSet::of(&[
            Chown,
            DacOverride,
            Fsetid,
            Fowner,
            Mknod,
            NetRaw,
            Setgid,
            Setuid,
            Setfcap,
            Setpcap,
            NetBindService,
            SysChroot,
            Kill,
            AuditWrite,
        ]))
    }

    /// For a system container in a user namespace of its own: everything but `CAP_SYS_RAWIO`. Without that one
    /// systemd skips its mount of debugfs, which would fail.
    pub const fn system_unprivileged() -> Self {
        Self::of(CapSet::ALL.remove(Capability::SysRawio))
    }

    /// For a system container that shares the host's user namespace. Root inside is root of the host all the
    /// same: this keeps accidents away, not an attacker.
    pub const fn system_privileged() -> Self {
        use Capability::{MacAdmin, MacOverride, Mknod, SysModule, SysRawio, SysTime};
        let dropped = CapSet::of(&[MacAdmin, MacOverride, SysTime, SysModule, SysRawio, Mknod]);
        Self::of(CapSet::ALL.difference(dropped))
    }

    /// The same sets without everything that is not in `limit`.
    #[must_use]
    pub const fn limited_to(self, limit: CapSet) -> Self {
        Self {
            effective: self.effective.intersection(limit),
            permitted: self.permitted.intersection(limit),
            inheritable: self.inheritable.intersection(limit),
            bounding: self.bounding.intersection(limit),
            ambient: self.ambient.intersection(limit),
        }
    }

    /// Checks what the kernel would refuse (`EPERM`) or drop without a word.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), naming every rule that is broken and the capabilities.
    pub fn validate(&self) -> Result<()> {
        let rules = [
            ("effective", self.effective, "permitted", self.permitted),
            ("ambient", self.ambient, "permitted", self.permitted),
            ("ambient", self.ambient, "inheritable", self.inheritable),
            ("inheritable", self.inheritable, "bounding", self.bounding),
        ];
        let broken: Vec<String> = rules
            .iter()
            .filter(|(_, a, _, b)| !a.is_subset(*b))
            .map(|(a_name, a, b_name, b)| format!("{a_name} but not {b_name}: {}", a.difference(*b)))
            .collect();
        if broken.is_empty() { Ok(()) } else { Err(Error::invalid("capabilities", broken.join("; "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets() {
        for sets in [
            CapabilitySets::none(),
            CapabilitySets::oci_default(),
            CapabilitySets::docker_default(),
            CapabilitySets::system_unprivileged(),
            CapabilitySets::system_privileged(),
        ] {
            sets.validate().unwrap();
        }
        assert_eq!(CapabilitySets::oci_default().bounding.len(), 3);
        assert_eq!(CapabilitySets::docker_default().bounding.len(), 14);
        assert_eq!(CapabilitySets::docker_default().bounding.bits(), 0xa804_25fb);
        assert_eq!(CapabilitySets::system_unprivileged().permitted.len(), 40);
        assert_eq!(CapabilitySets::system_privileged().permitted.len(), 35);
        let limited = CapabilitySets::docker_default().limited_to(CapSet::of(&[Capability::Kill]));
        assert_eq!(limited, CapabilitySets::of(CapSet::of(&[Capability::Kill])));
    }

    #[test]
    fn every_broken_rule_is_told() {
        let kill = CapSet::of(&[Capability::Kill]);
        let sets = CapabilitySets { effective: kill, ambient: kill, ..CapabilitySets::none() };
        let text = sets.validate().unwrap_err().to_string();
        for part in
            ["effective but not permitted: CAP_KILL", "ambient but not permitted", "ambient but not inh"]
        {
            assert!(text.contains(part), "{text}");
        }
        let sets = CapabilitySets { inheritable: kill, ..CapabilitySets::none() };
        assert!(sets.validate().unwrap_err().to_string().contains("inheritable but not bounding"));
    }
}

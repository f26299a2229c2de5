//! The device policy by the v1 controller, for kernels that have no programs for it.

use cgroups_rs::fs::devices::{DevicePermissions, DeviceType, DevicesController};

use super::groups::{Group, Groups};
use crate::cgroup::{Cgroup, DeviceAccess, DeviceKind, DevicePolicy, DeviceRule, DeviceVerdict};
use crate::error::{Error, ErrorKind, Result};

const NAME: &str = "devices";
const STEP: &str = "set the device policy by cgroup v1";

impl Cgroup {
    /// Whether v1 can confine the devices of this cgroup.
    pub(crate) fn v1_confines(&self) -> bool {
        self.v1.place_in(NAME).is_some()
    }

    /// Sets the policy by the v1 controller, which the crate does itself where the kernel has no programs for it. For
    /// tests, and no part of the stable interface.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): v1 does not hold the controller, or the policy has rules both to allow and
    /// to deny: v1 knows exceptions of one kind alone.
    #[doc(hidden)]
    pub fn confine_by_v1(&self, policy: &DevicePolicy) -> Result<()> {
        let unsupported = |why: &str| Error::new(ErrorKind::Unsupported, STEP).path(self.path()).detail(why);
        let (controllers, dir) =
            self.v1.place_in(NAME).ok_or_else(|| unsupported("no v1 mount shows the devices controller"))?;
        let exceptions = match policy.default_verdict() {
            DeviceVerdict::Allow => DeviceVerdict::Deny,
            DeviceVerdict::Deny => DeviceVerdict::Allow,
        };
        if policy.rules().any(|(verdict, _)| verdict != exceptions) {
            return Err(unsupported(
                "cgroup v1 takes rules that differ from the default alone, and these are mixed",
            )
            .hint("leave out the others, or run a kernel with CONFIG_CGROUP_BPF"));
        }
        let group = Group { controllers: controllers.to_owned(), dir: dir.clone() };
        self.v1_add(&mut Groups::default(), vec![group])?;
        let devices = DevicesController::new(dir.clone(), dir.clone());
        let set = |verdict: DeviceVerdict, kind: DeviceType, rule: &DeviceRule| {
            let number = |n: Option<u32>| n.map_or(-1, i64::from);
            let (major, minor, access) = (number(rule.major()), number(rule.minor()), access(rule));
            let done = match verdict {
                DeviceVerdict::Allow => devices.allow_device(kind, major, minor, &access),
                DeviceVerdict::Deny => devices.deny_device(kind, major, minor, &access),
            };
            done.map_err(|e| Error::sys(STEP, super::files::errno(&e)).path(&dir).detail(rule.to_string()))
        };
        // That takes away all rules of before.
        set(policy.default_verdict(), DeviceType::All, &DeviceRule::ALL)?;
        for (verdict, rule) in policy.rules() {
            for kind in kinds(rule) {
                set(verdict, *kind, rule)?;
            }
        }
        Ok(())
    }
}

/// The kinds of a rule, each by its own: of `a` v1 ignores numbers and access, and means everything.
fn kinds(rule: &DeviceRule) -> &'static [DeviceType] {
    match rule.kind() {
        DeviceKind::All => &[DeviceType::Block, DeviceType::Char],
        DeviceKind::Block => &[DeviceType::Block],
        DeviceKind::Char => &[DeviceType::Char],
    }
}

fn access(rule: &DeviceRule) -> Vec<DevicePermissions> {
    let all = [
        (DeviceAccess::READ, DevicePermissions::Read),
        (DeviceAccess::WRITE, DevicePermissions::Write),
        (DeviceAccess::MKNOD, DevicePermissions::MkNod),
    ];
    all.into_iter().filter(|(one, _)| rule.access().contains(*one)).map(|(_, one)| one).collect()
}

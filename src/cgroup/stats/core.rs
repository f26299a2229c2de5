//! `cgroup.events` and `cgroup.stat`: what every cgroup has.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::parse::{flat_keyed, pairs};
use crate::cgroup::Controller;

flat_keyed! {
    /// State of a cgroup and its descendants (`cgroup.events`).
    pub struct CgroupEvents {
        /// There is a process in it.
        populated: bool = b"populated",
        /// Every process in it is frozen.
        frozen: bool = b"frozen",
    }
}

/// How many cgroups are below a cgroup (`cgroup.stat`). Keys that are not named here are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CgroupTree {
    /// Cgroups below it that exist.
    pub descendants: u64,
    /// Cgroups below it that were removed and whose memory something still uses.
    pub dying_descendants: u64,
    /// The same by controller, itself included (Linux 6.12; empty before).
    pub controllers: Vec<ControllerCount>,
}

/// In how many cgroups a controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ControllerCount {
    /// Which controller.
    pub controller: Controller,
    /// Those that exist.
    pub cgroups: u64,
    /// Those that were removed and are still in use.
    pub dying: u64,
}

impl CgroupTree {
    pub(super) fn parse(&mut self, text: &[u8]) {
        for (key, n) in pairs(text) {
            match key {
                b"nr_descendants" => self.descendants = n,
                b"nr_dying_descendants" => self.dying_descendants = n,
                _ => self.controller(key, n),
            }
        }
    }

    fn controller(&mut self, key: &[u8], n: u64) {
        let dying = key.strip_prefix(b"nr_dying_subsys_");
        let Some(name) = dying.or_else(|| key.strip_prefix(b"nr_subsys_")) else { return };
        let Some(controller) = Controller::ALL.into_iter().find(|c| c.name().as_bytes() == name) else {
            return;
        };
        let at = self.controllers.iter().position(|c| c.controller == controller).unwrap_or_else(|| {
            if self.controllers.is_empty() {
                self.controllers.reserve(Controller::ALL.len());
            }
            self.controllers.push(ControllerCount { controller, cgroups: 0, dying: 0 });
            self.controllers.len() - 1
        });
        match dying {
            Some(_) => self.controllers[at].dying = n,
            None => self.controllers[at].cgroups = n,
        }
    }
}

flat_keyed! {
    /// What happened to the cgroup itself, its descendants aside (`cgroup.stat.local`, Linux 6.18).
    pub struct CgroupLocalStats {
        /// Time that it was frozen, or about to be.
        frozen: Duration = b"frozen_usec",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_counted_by_controller() {
        let mut tree = CgroupTree::default();
        tree.parse(
            b"nr_descendants 3\nnr_subsys_cpu 4\nnr_subsys_perf_event 4\nnr_dying_descendants 2\n\
            nr_dying_subsys_cpu 1\nnr_dying_subsys_memory 2\nnr_x 9\n",
        );
        assert_eq!((tree.descendants, tree.dying_descendants), (3, 2));
        let count = |controller, cgroups, dying| ControllerCount { controller, cgroups, dying };
        assert_eq!(tree.controllers, [count(Controller::Cpu, 4, 1), count(Controller::Memory, 0, 2)]);
    }
}

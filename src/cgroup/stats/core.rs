//! `cgroup.events` and `cgroup.stat`: what every cgroup has.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::parse::{Text, flat_keyed};
use crate::cgroup::Controller;

flat_keyed! {
    /// State of a cgroup and its descendants (`cgroup.events`).
    pub struct CgroupEvents {
        /// There is a process in it.
        populated: bool = "populated",
        /// Every process in it is frozen.
        frozen: bool = "frozen",
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
        let mut text = Text::new(text);
        while !text.is_empty() {
            text.take("nr_descendants ", &mut self.descendants);
            text.take("nr_dying_descendants ", &mut self.dying_descendants);
            if text.skip("nr_subsys_") {
                self.count(text.line(), |count, n| count.cgroups = n);
            } else if text.skip("nr_dying_subsys_") {
                self.count(text.line(), |count, n| count.dying = n);
            } else {
                text.line();
            }
        }
    }

    fn count(&mut self, line: Option<(&[u8], u64)>, set: impl Fn(&mut ControllerCount, u64)) {
        let Some((name, n)) = line else { return };
        let is = |c: Controller| c.name().as_bytes() == name;
        if let Some(count) = self.controllers.iter_mut().find(|c| is(c.controller)) {
            return set(count, n);
        }
        let Some(controller) = Controller::ALL.into_iter().find(|c| is(*c)) else { return };
        if self.controllers.is_empty() {
            self.controllers.reserve(Controller::ALL.len());
        }
        let mut count = ControllerCount { controller, cgroups: 0, dying: 0 };
        set(&mut count, n);
        self.controllers.push(count);
    }
}

flat_keyed! {
    /// What happened to the cgroup itself, its descendants aside (`cgroup.stat.local`, Linux 6.18).
    pub struct CgroupLocalStats {
        /// Time that it was frozen, or about to be.
        frozen: Duration = "frozen_usec",
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

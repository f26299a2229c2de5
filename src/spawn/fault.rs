//! What tests do to a plan: an op that fails, a child that dies, and (feature `attacks`) a safeguard that is not there.

use super::plan::Plan;
#[cfg(feature = "attacks")]
use super::weaken::Weaken;

/// Makes one op of the plan of a start or an exec fail. For tests of what is left behind, and no part of the stable interface.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which op, counted from 0.
    pub op: usize,
    /// The errno that it fails with; 0 ends the child without a word.
    pub errno: i32,
}

/// All that a test does to one plan. Nothing, outside of tests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    pub(crate) fault: Option<Fault>,
    #[cfg(feature = "attacks")]
    pub(crate) weaken: Vec<Weaken>,
}

impl Hooks {
    /// Does it. A fault for an op that is not there does nothing.
    pub(crate) fn apply(&self, plan: &mut Plan) {
        #[cfg(feature = "attacks")]
        for weaken in &self.weaken {
            plan.weaken(*weaken);
        }
        if let Some(fault) = self.fault {
            plan.inject(fault.op, fault.errno);
        }
    }
}

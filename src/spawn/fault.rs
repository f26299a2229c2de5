//! Faults on purpose, for tests: an op of the plan that fails, or a child that dies.

use super::plan::Plan;

/// Makes one op of the plan of a start or an exec fail. For tests of what is left behind, and no part of the stable interface.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which op, counted from 0.
    pub op: usize,
    /// The errno that it fails with; 0 ends the child without a word.
    pub errno: i32,
}

impl Fault {
    /// Puts the fault into `plan`; one for an op that is not there does nothing.
    pub(crate) fn inject(self, plan: &mut Plan) {
        plan.inject(self.op, self.errno);
    }
}

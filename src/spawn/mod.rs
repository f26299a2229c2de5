//! Starting processes: a plan built by the parent, executed by stage-2.

pub(crate) mod interp;

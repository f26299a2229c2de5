//! Starting processes: a plan built by the parent, executed by stage-2.

//! The pids controller.

use super::Controller;
use super::limits::{Limits, Setting};

pub(super) fn settings(limits: &Limits, out: &mut Vec<Setting>) {
    if let Some(max) = limits.pids_max {
        out.push(Setting { controller: Controller::Pids, file: "pids.max", value: max.to_string() });
    }
}

//! Checking what security modules are to do.

use super::check::Problem;
use super::{ContainerConfig, MountSet};

pub(super) fn problems(config: &ContainerConfig) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some(label) = &config.label {
        if let Err(e) = label.validate() {
            found.push(Problem::of("label", &e));
        }
        if config.base_mounts == MountSet::None {
            found.push(Problem::new("label", "is written through proc, which the standard mounts bring"));
        }
    }
    if let Some(rules) = &config.landlock {
        if let Err(e) = rules.validate() {
            found.push(Problem::of("landlock", &e));
        }
        if config.system.is_some() {
            found.push(Problem::new("landlock", "forbids mounting, which an init must do"));
        }
    }
    found
}

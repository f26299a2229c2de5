//! Writing the maps of a new user namespace.

use rustix::fs::CWD;

use super::{IdKind, IdMap};
use crate::error::{Error, Result};
use crate::sys::fd::write_at;

/// Whether supplementary groups can be set in a user namespace (`user_namespaces(7)`, `/proc/PID/setgroups`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetGroups {
    Allow,
    /// The kernel wants it so where the map is written without `CAP_SETGID`.
    Deny,
}

/// Writes the maps of the process `pid`, which is in a new user namespace that has none yet.
pub(crate) fn write(pid: u32, map: &IdMap, groups: SetGroups) -> Result<()> {
    if groups == SetGroups::Deny {
        write_file("deny setgroups", &format!("/proc/{pid}/setgroups"), "deny")?;
    }
    for kind in [IdKind::Uid, IdKind::Gid] {
        let path = format!("/proc/{pid}/{}", kind.map_file());
        write_file("write the id map", &path, &map.kernel_text(kind)).map_err(|e| match e.errno() {
            Some(libc::EPERM) => e.hint(
                "a map of other ids than one's own needs CAP_SETUID and CAP_SETGID, \
                 and the ids must be mapped in this process's own user namespace",
            ),
            _ => e,
        })?;
    }
    Ok(())
}

fn write_file(what: &'static str, path: &str, text: &str) -> Result<()> {
    write_at(CWD, path, text.as_bytes()).map_err(|e| Error::sys(what, e).path(path))
}

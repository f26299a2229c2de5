//! Threaded cgroups: members of one process in different cgroups, where only controllers that divide CPU time act
//! (`cgroups(7)`, "Thread mode").

use super::Cgroup;
use super::place::CgroupKind;
use crate::error::{ErrorKind, Result};

/// How the cgroup above can be made fit for threads.
const ABOVE: &str = "have the process in a cgroup of its own whose children hold no processes and have none of the \
                     controllers memory, io, hugetlb, rdma and misc: Placement::OwnWithLeaf moves this process into one";

impl Cgroup {
    /// Makes this cgroup, in which there is no process yet, one for threads (`cgroup.type`). The one above becomes a
    /// threaded domain by it, unless it is the hierarchy's root: from then on its other children can only be for threads
    /// too. There is no way back but to remove it.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): the cgroup above cannot have such children.
    /// [`PermissionDenied`](ErrorKind::PermissionDenied): the file is not the caller's to write.
    pub fn make_threaded(&self) -> Result<()> {
        if self.kind()? == CgroupKind::Threaded {
            return Ok(());
        }
        self.write("cgroup.type", "threaded").map_err(|e| match e.errno() {
            Some(libc::EOPNOTSUPP) => e
                .detail("the cgroup above cannot have children for threads: others of its children hold processes, or it gives them controllers that threads cannot have")
                .hint(ABOVE),
            _ => e,
        })
    }

    /// Moves a single thread, by its number (`gettid(2)`), into this threaded cgroup, and into its v1 groups where it has
    /// any (feature `cgroup1`).
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): the rest of its process is not in the threaded domain that this cgroup
    /// belongs to. [`PermissionDenied`](ErrorKind::PermissionDenied): the cgroup, the one that the thread is in or the one
    /// above both is not the caller's to write. `ESRCH`: there is no such thread.
    pub fn add_thread(&self, tid: u32) -> Result<()> {
        self.write("cgroup.threads", &tid.to_string()).map_err(|e| match e.errno() {
            Some(libc::EOPNOTSUPP) => e
                .with_kind(ErrorKind::Unsupported)
                .detail("its threads can only be those of the process in the cgroup above it")
                .hint("name the cgroup that this process is in, or a threaded one below it"),
            _ => e,
        })?;
        self.v1_take_in_thread(tid)
    }

    /// The threads in the cgroup itself, as `cgroup.threads` lists them: in no order, and 0 for one that the caller's pid
    /// namespace does not show.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed.
    pub fn threads(&self) -> Result<Vec<u32>> {
        Ok(self.read("cgroup.threads")?.lines().filter_map(|l| l.parse().ok()).collect())
    }

    /// Whether limits of this controller can be set on it, by v2 or v1.
    #[cfg(feature = "vm")]
    pub(crate) fn can_have(&self, controller: super::Controller) -> Result<bool> {
        Ok(self.controllers()?.contains(&controller) || self.v1.controllers().contains(&controller))
    }
}

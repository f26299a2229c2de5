//! Which files are to show the container its own part of the machine.

use super::check::Problem;
use super::choices::CgroupConfig;
use super::{ContainerBuilder, ContainerConfig, MountSet};
use crate::views::ResourceViews;

impl ContainerBuilder {
    /// Sets which files of `/proc` and `/sys` show the container its own limits and what it uses of them, in place of the
    /// machine's: so that `free`, `top`, `uptime`, and what sizes itself by the number of CPUs or by `MemTotal`, see what they
    /// can have. This is what LXCFS does. None unless told otherwise.
    ///
    /// ```
    /// use stockade::cgroup::Limits;
    /// use stockade::container::{ContainerConfig, ResourceViews};
    /// use stockade::rootfs::Rootfs;
    ///
    /// let config = ContainerConfig::system("web")
    ///     .rootfs(Rootfs::dir("/srv/debian"))
    ///     .limits(Limits::new().memory_max(512 << 20_u64))
    ///     .resource_views(ResourceViews::ALL)
    ///     .build()?;
    /// assert!(config.resource_views().contains(ResourceViews::MEMINFO));
    /// # Ok::<(), stockade::Error>(())
    /// ```
    ///
    /// A file that is read from its beginning shows that moment: a limit that has changed is seen at once. A resource whose
    /// controller the container's cgroup lacks is the machine's: the runtime enables the controllers that limits need, and all
    /// for a [system container](Self::system). With the feature `cgroup1` v1 groups count too.
    ///
    /// **They inform, and hide nothing.** Root inside can unmount them, and then sees the machine's files, as without them. Also
    /// where a container inside mounts a procfs of its own, it shows the machine's. A file that is to be
    /// [masked](Self::masked_paths) is masked, and a [mount](Self::mount) of yours at its place or above stays there.
    ///
    /// **This process serves them**, in one thread for all containers of the [`Runtime`](crate::Runtime), from a FUSE file
    /// system for each that is mounted nowhere on the host: two descriptors for each container that runs, and no time unless
    /// they are read. When the runtime is closed or dropped, or this process ends however it may, every read fails at once with
    /// `ENOTCONN`, until the container is started anew: also where another runtime has taken it over. While this process is
    /// stopped (`SIGSTOP`), readers wait for it. Therefore a system container does not have them by itself: its init must be
    /// able to read `/proc/stat` and the like when this process has gone.
    ///
    /// The kernel counts no loads for a cgroup, and not on which CPU time was used: see
    /// [`LOADAVG`](ResourceViews::LOADAVG) and [`STAT`](ResourceViews::STAT). As `/proc/PID/stat` tells when a process began in
    /// time of the machine, some versions of `ps` show another age of processes with [`UPTIME`](ResourceViews::UPTIME).
    ///
    /// Needs `CAP_SYS_ADMIN`, `/dev/fuse`, and a cgroup of its own; otherwise a start is refused before it changes anything.
    pub fn resource_views(mut self, views: ResourceViews) -> Self {
        self.config.resource_views = views;
        self
    }
}

pub(super) fn problems(config: &ContainerConfig) -> Vec<Problem> {
    let mut found = Vec::new();
    if config.resource_views.is_empty() {
        return found;
    }
    if config.base_mounts == MountSet::None {
        found
            .push(Problem::new("resource_views", "lie over proc and sysfs, which the standard mounts bring"));
    }
    if config.cgroup == CgroupConfig::None {
        found.push(Problem::new("resource_views", "show a control group, and the container is to have none"));
    }
    found
}

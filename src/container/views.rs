//! The file system that shows a container its own part of the machine: see
//! [`resource_views`](super::ContainerBuilder::resource_views).

use std::os::fd::OwnedFd;

use super::config::ContainerConfig;
use super::handle::Container;
use crate::cgroup::{Cgroup, Share};
use crate::error::{Error, ErrorKind, Result};
use crate::views::{Subject, Unmounted, now};

impl Container {
    /// Sees whether there can be one, where one is wanted, before anything is changed.
    pub(super) fn prepare_views(&self, config: &ContainerConfig) -> Result<Option<Unmounted>> {
        if config.resource_views.is_empty() {
            return Ok(None);
        }
        if !self.runtime.inner().host.can_clone_mounts() {
            return Err(Error::new(ErrorKind::PermissionDenied, "make the file system of resource views")
                .detail("it needs CAP_SYS_ADMIN on the host")
                .hint("run this process as root, or leave `resource_views` out"));
        }
        Unmounted::open().map(Some)
    }

    /// Makes it, and has it served until [`end_views`](crate::runtime::Inner::end_views). Gives its mount.
    pub(super) fn mount_views(
        &self,
        config: &ContainerConfig,
        prepared: Option<Unmounted>,
        cgroup: Option<&Cgroup>,
    ) -> Result<Option<OwnedFd>> {
        let (Some(prepared), Some(cgroup)) = (prepared, cgroup) else { return Ok(None) };
        let inner = self.runtime.inner();
        // Of a run whose end nobody has looked at, and whose cgroup is gone.
        inner.end_views(&self.uuid);
        let ahead = config.namespaces.time_offsets.boottime.secs();
        let subject = Subject { share: Share::of(cgroup)?, started: now(), ahead };
        prepared.mount(inner.view_server()?, &self.uuid, subject).map(Some)
    }
}

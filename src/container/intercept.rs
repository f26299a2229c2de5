//! Having a container's calls answered that its filter hands to this process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::config::ContainerConfig;
use super::handle::Container;
use super::programs::Starter;
use crate::caps::{CapSet, Capability};
use crate::cgroup::{Cgroup, Share};
use crate::error::{Error, ErrorKind, Result};
use crate::idmap::{IdKind, IdMap};
use crate::seccomp::intercept::{Interceptor, Programs, Subject};
use crate::spawn::{Child, Guests};
use crate::sys::nsfs;

/// What the helper needs on the host.
const NEEDED: CapSet = CapSet::of(&[
    Capability::SysAdmin,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::Setuid,
    Capability::Setgid,
    Capability::Mknod,
]);

/// A process of the container whose filter has a listener.
#[derive(Debug)]
pub(super) struct Watched<'a> {
    pub(super) child: &'a Child,
    pub(super) id_map: Option<&'a IdMap>,
    pub(super) cgroup: Option<&'a Cgroup>,
    /// What this process has in its pid namespace.
    pub(super) guests: &'a Arc<Guests>,
    /// When the container was started.
    pub(super) started_at: SystemTime,
}

impl Container {
    /// Whether the runtime answers the calls of its filters.
    pub(super) fn is_supervised(&self, config: &ContainerConfig) -> bool {
        !config.intercept.is_empty() || self.runtime.inner().responder().is_some()
    }

    /// Refuses a start that could not do what is asked for.
    pub(super) fn check_interception(&self, config: &ContainerConfig) -> Result<()> {
        if config.intercept.is_empty() || NEEDED.is_subset(self.runtime.inner().host.permitted()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::PermissionDenied, "intercept system calls")
            .detail("this process lacks the rights that the calls need")
            .hint("run it as root of the host, or leave `intercept` out"))
    }

    /// Has the calls of `listener` answered.
    pub(super) fn watch(
        &self,
        config: &Arc<ContainerConfig>,
        listener: OwnedFd,
        watched: &Watched<'_>,
    ) -> Result<()> {
        let inner = self.runtime.inner();
        let pid = watched.child.id();
        let (user_namespace, is_own) = container_users(pid)?;
        let id_map = match watched.id_map {
            Some(map) => map.clone(),
            None if is_own => map_of(pid)?,
            None => {
                return Err(Error::new(ErrorKind::Unsupported, "read the container's id map")
                    .detail("its program has gone to a user namespace of its own"));
            }
        };
        let subject = Subject {
            id_map,
            user_namespace,
            devices: config.devices().cloned(),
            share: watched.cgroup.map(Share::of).transpose()?,
            filters: own_filters()?.saturating_add(1),
            started: seconds_of_boot(watched.started_at),
        };
        let others = inner.responder().cloned();
        let programs: Box<dyn Programs> = Box::new(Starter {
            runtime: self.runtime.downgrade(),
            config: Arc::clone(config),
            guests: Arc::clone(watched.guests),
            cgroup: watched.cgroup.map(Cgroup::try_clone).transpose()?,
        });
        let programs = config.intercept.mounts().map(|_| programs);
        let interceptor = Interceptor { what: config.intercept.clone(), subject, programs, others };
        self.runtime.supervisor()?.watch(&self.uuid, listener, Arc::new(interceptor))
    }

    /// Gives the seccomp listeners of this container out: from now on whoever holds them answers its intercepted calls, and
    /// those of a policy with [`Action::Notify`](crate::seccomp::Action::Notify). For a process that is to outlive this one:
    /// it gets the descriptors over a socket. Once they are closed everywhere, the calls fail with `ENOSYS`.
    ///
    /// Waits up to 5 s for a call that is being answered.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where the container does not run.
    pub fn release_seccomp_listeners(&self) -> Result<Vec<OwnedFd>> {
        self.live().map_err(|e| e.with_op("release listeners").with_instance(self.id()))?;
        Ok(self.runtime.inner().known_supervisor().map_or_else(Vec::new, |s| s.release(&self.uuid)))
    }

    /// Takes a seccomp listener of this container over that another process held: from now on this runtime answers its calls.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where the container does not run or the runtime is closed.
    pub fn adopt_seccomp_listener(&self, listener: OwnedFd) -> Result<()> {
        let adopted = self.live().and_then(|live| {
            let watched = Watched {
                child: &live.child,
                id_map: live.id_map.as_ref(),
                cgroup: live.cgroup.as_ref(),
                guests: &live.guests,
                started_at: live.started_at,
            };
            self.watch(&self.config(), listener, &watched)
        });
        adopted.map_err(|e| e.with_op("adopt a listener").with_instance(self.id()))
    }
}

/// The user namespace of the container that a process is in, and whether it is the process's own: device and inode.
///
/// The program runs already, and may have gone to a namespace below, where all capabilities are its own. The container's is
/// the one that was made in this process's.
fn container_users(pid: u32) -> Result<((u64, u64), bool)> {
    /// The kernel nests no deeper (`user_namespaces(7)`).
    const DEPTH: usize = 33;
    let failed = |e| Error::sys("look at the container's user namespace", e);
    let identity = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let open = |path: String| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let host = open("/proc/self/ns/user".to_owned()).and_then(|ns| identity(ns.as_fd())).map_err(failed)?;
    let mut namespace = open(format!("/proc/{pid}/ns/user")).map_err(failed)?;
    if identity(namespace.as_fd()).map_err(failed)? == host {
        return Ok((host, true));
    }
    for depth in 0..DEPTH {
        let parent = nsfs::parent(namespace.as_fd()).map_err(failed)?;
        if identity(parent.as_fd()).map_err(failed)? == host {
            return Ok((identity(namespace.as_fd()).map_err(failed)?, depth == 0));
        }
        namespace = parent;
    }
    Err(failed(Errno::LOOP))
}

/// How many seccomp filters this process is under, which its children are too.
fn own_filters() -> Result<u32> {
    let step = "count the seccomp filters";
    let status = std::fs::read_to_string("/proc/self/status").map_err(|e| Error::io(step, e))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    line.and_then(|n| n.trim().parse().ok()).ok_or_else(|| Error::new(ErrorKind::Kernel, step))
}

/// The map of a process's user namespace.
fn map_of(pid: u32) -> Result<IdMap> {
    let read = |kind: IdKind| {
        std::fs::read_to_string(format!("/proc/{pid}/{}", kind.map_file()))
            .map_err(|e| Error::io("read the container's id map", e))
    };
    IdMap::parse_kernel(&read(IdKind::Uid)?, &read(IdKind::Gid)?)
}

/// The second of `CLOCK_BOOTTIME` that a time of day was.
fn seconds_of_boot(time: SystemTime) -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ago = SystemTime::now().duration_since(time).unwrap_or(Duration::ZERO);
    now.tv_sec.max(0).cast_unsigned().saturating_sub(ago.as_secs())
}

//! Signals.

use super::handle::Container;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{KillOptions, KillTarget};
use crate::signal::Signal;
use crate::sys::pidfd;

impl Container {
    /// Sends a signal and returns at once; see [`Instance::kill`](crate::instance::Instance::kill).
    ///
    /// # Errors
    /// As there.
    pub fn kill(&self, options: impl Into<KillOptions>) -> Result<()> {
        let options = options.into();
        let sent = self.live().and_then(|live| match (options.target, &live.cgroup) {
            (KillTarget::Init, _) => live.child.signal(options.signal),
            (KillTarget::All, Some(cgroup)) if options.signal == Signal::KILL => cgroup.kill(),
            (KillTarget::All, Some(cgroup)) => {
                cgroup.procs_below()?.into_iter().try_for_each(|pid| signal_pid(pid, options.signal))
            }
            (KillTarget::All, None) => Err(Error::new(ErrorKind::Unsupported, "signal every process")
                .detail("the container has no cgroup, which alone knows them all")),
        });
        sent.map_err(|e| e.with_op("kill").with_instance(self.id()))
    }
}

/// A member may end, and its number go to another process, between the reading of the list and the signal. A
/// pidfd opened here and checked against the list again would leave the same gap; the kernel offers none smaller
/// but for SIGKILL, which goes by the cgroup.
fn signal_pid(pid: u32, signal: Signal) -> Result<()> {
    let failed = |e| Error::sys("signal a process", e).object(pid.to_string());
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    let sent =
        pidfd::open(pid).and_then(|fd| pidfd::send_signal(std::os::fd::AsFd::as_fd(&fd), signal.as_raw()));
    match sent {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

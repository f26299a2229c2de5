//! Running the program that makes a file system, within its time.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::{Error, ErrorKind, Result};
use crate::op::Deadline;
use crate::sys::pidfd;

/// What is kept of what it says.
const SAID: usize = 64 << 10;
/// How long a killed program may take to be gone: it may wait for a disk.
const KILLED: Duration = Duration::from_secs(10);

/// How a program has ended, and what it said on its standard error.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) status: ExitStatus,
    pub(super) said: String,
}

/// Runs it, and kills it at the deadline.
///
/// # Errors
/// `Timeout`, also with what it said.
pub(super) fn run(program: &Path, command: &mut Command, within: Duration) -> Result<Done> {
    let failed = |e| Error::io("run a program", e).path(program);
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(failed)?;
    let mut said = Vec::new();
    let waited = wait(&mut child, Deadline::after(within), &mut said);
    if !matches!(waited, Ok(true)) {
        end(&child);
    }
    let text = || String::from_utf8_lossy(&said).trim().to_owned();
    match waited {
        Ok(true) => Ok(Done { status: child.wait().map_err(failed)?, said: text() }),
        Ok(false) => {
            // A child that cannot be killed stays one of this process, as it has to.
            let _ = child.try_wait();
            let e = Error::new(ErrorKind::Timeout, "run a program").path(program);
            let e = e.detail(format!("it was killed after {within:?}"));
            let e = e.hint("give it more time: PackImage::deadline");
            Err(if said.is_empty() { e } else { e.also(format!("it said: {}", text())) })
        }
        Err(errno) => {
            let _ = child.try_wait();
            Err(Error::sys("wait for a program", errno).path(program))
        }
    }
}

/// Says whether it has ended in time.
fn wait(child: &mut Child, deadline: Deadline, said: &mut Vec<u8>) -> Result<bool, Errno> {
    let pidfd = pidfd::open(Pid::from_child(child))?;
    let mut stderr = child.stderr.take();
    if let Some(stderr) = &stderr {
        rustix::io::ioctl_fionbio(stderr, true)?;
    }
    loop {
        let mut fds = vec![pidfd.as_fd()];
        fds.extend(stderr.as_ref().map(AsFd::as_fd));
        let ready = pidfd::poll_in(&fds, deadline.instant())?;
        if ready.get(1) == Some(&true)
            && let Some(from) = &mut stderr
        {
            let mut part = [0; 4096];
            match from.read(&mut part) {
                // Closed: the process goes on perhaps.
                Ok(0) => stderr = None,
                Ok(n) => said.extend_from_slice(&part[..n.min(SAID.saturating_sub(said.len()))]),
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
            }
        } else if ready.first() == Some(&true) {
            // All that it has said was read; what its children say is not waited for.
            return Ok(true);
        }
        if deadline.expired() {
            return Ok(false);
        }
    }
}

/// Kills it, and waits a while until it is gone.
fn end(child: &Child) {
    if let Ok(pidfd) = pidfd::open(Pid::from_child(child)) {
        // It is this process's, and not waited for yet: so it is the one that is meant.
        let _ = pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL);
        let _ = pidfd::wait_ended(pidfd.as_fd(), Deadline::after(KILLED).instant());
    }
}

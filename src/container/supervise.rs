//! A thread that sees to the reboots of one container, for a host that asks for it.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::handle::Container;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::ExitStatus;
use crate::instance::WaitOptions;
use crate::op::Cancel;

/// What [`Container::supervise`] gives. Dropping it ends the thread, and changes nothing on the container.
#[derive(Debug)]
pub struct Supervisor {
    cancel: Cancel,
    thread: Option<JoinHandle<Result<ExitStatus>>>,
}

impl Supervisor {
    pub(super) fn start(container: Arc<Container>) -> Result<Self> {
        let cancel = Cancel::new()?;
        let options = WaitOptions { deadline: None, cancel: Some(cancel.clone()) };
        let thread = std::thread::Builder::new()
            .name("stockade-reboot".to_owned())
            .spawn(move || container.wait_with(options))
            .map_err(|e| Error::io("start the thread that sees to reboots", e))?;
        Ok(Self { cancel, thread: Some(thread) })
    }

    /// Whether the container was seen to stay stopped, or could not be started again.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the thread. How the container has ended; `None` where it still runs.
    ///
    /// # Errors
    /// Those of the start that a reboot led to.
    pub fn stop(mut self) -> Result<Option<ExitStatus>> {
        match self.join() {
            Some(Ok(exit)) => Ok(Some(exit)),
            Some(Err(e)) if e.kind() == ErrorKind::Cancelled => Ok(None),
            Some(Err(e)) => Err(e),
            None => Ok(None),
        }
    }

    fn join(&mut self) -> Option<Result<ExitStatus>> {
        self.cancel.cancel();
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

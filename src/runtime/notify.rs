//! The runtime's supervisor of seccomp listeners.

use std::sync::{Arc, OnceLock, Weak};

use super::{Inner, Runtime};
use crate::error::{Error, ErrorKind, Result};
use crate::seccomp::hands::{Hands, HandsMaker};
use crate::seccomp::{NotifyLoop, Responder, Supervisor};
use crate::spawn::Helper;

/// It, once somebody needed it; and how it is to be.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    pub(super) drive: NotifyLoop,
    pub(super) responder: Option<Arc<dyn Responder>>,
    supervisor: OnceLock<Supervisor>,
}

impl Notify {
    pub(super) fn new(drive: NotifyLoop, responder: Option<Arc<dyn Responder>>) -> Self {
        Self { drive, responder, supervisor: OnceLock::new() }
    }

    /// Ends it, where it was ever needed.
    pub(super) fn close(&self) {
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.close();
        }
    }
}

impl Runtime {
    /// Who answers the calls that filters of this runtime's containers hand to this process: those of
    /// [`Interception`](crate::seccomp::Interception), and where there is a
    /// [`responder`](super::RuntimeBuilder::responder) those of policies with
    /// [`Action::Notify`](crate::seccomp::Action::Notify). A host with a loop of its own
    /// ([`NotifyLoop::Host`]) polls it.
    ///
    /// Beside its threads it has, for each of them that has answered such a call, a helper process: a child of this process
    /// that has the caller's root and user for the time of the call, which no thread of this process may have. They end with
    /// [`close`](Self::close).
    ///
    /// # Errors
    /// [`Exhausted`](crate::ErrorKind::Exhausted) where no descriptors are left.
    pub fn supervisor(&self) -> Result<Supervisor> {
        let notify = &self.inner.notify;
        if let Some(made) = notify.supervisor.get() {
            return Ok(made.clone());
        }
        let made = Supervisor::with_hands(notify.drive, Some(maker(Arc::downgrade(&self.inner))))?;
        Ok(notify.supervisor.get_or_init(|| made).clone())
    }
}

impl Inner {
    pub(crate) fn responder(&self) -> Option<&Arc<dyn Responder>> {
        self.notify.responder.as_ref()
    }

    pub(crate) fn known_supervisor(&self) -> Option<&Supervisor> {
        self.notify.supervisor.get()
    }
}

fn maker(inner: Weak<Inner>) -> HandsMaker {
    Arc::new(move || {
        let inner = inner.upgrade();
        let inner = inner.ok_or_else(|| Error::new(ErrorKind::InvalidState, "start a helper"))?;
        Ok(Box::new(Helper::start(inner.host.strategy())?) as Box<dyn Hands>)
    })
}

//! Renaming.

use std::sync::Arc;

use super::handle::{Container, Run};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{InstanceId, InstanceName};
use crate::op::Action;

impl Container {
    /// Gives it another name in the same project; see [`Instance::rename`](crate::instance::Instance::rename).
    ///
    /// # Errors
    /// As there.
    pub fn rename(self: &Arc<Self>, name: &InstanceName) -> Result<()> {
        let done = self.rename_inner(name);
        if done.is_ok() {
            self.runtime.remember(&self.id(), self);
        }
        done
    }

    pub(super) fn rename_inner(&self, name: &InstanceName) -> Result<()> {
        let done = self.begin(Action::Rename).and_then(|_guard| {
            self.settle_if_ended()?;
            match &*self.run() {
                Run::Live(_) => {
                    return Err(
                        Error::new(ErrorKind::InvalidState, "rename").detail("the container is running")
                    );
                }
                Run::Deleted => return Err(self.gone()),
                Run::Never | Run::Ended { .. } => {}
            }
            let old = self.id();
            let new = InstanceId { name: name.clone(), ..(*old).clone() };
            if new == *old {
                return Ok(());
            }
            let durability = self.config().durability();
            let store = &self.runtime.inner().store;
            store.rename(&old, &new, durability)?;
            let config = (*self.config()).clone().with_id(new.clone());
            // The directory alone has the name. A record that knows the old one, for want of space or after a crash, is as
            // good: the rename is done.
            let _ = store.save(&new, durability, &self.record(config.clone()));
            *self.config.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(config);
            *self.identity.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(new);
            self.runtime.forget(&old);
            Ok(())
        });
        self.named(Action::Rename, done)
    }
}

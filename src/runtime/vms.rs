//! The virtual machines of a runtime: the handles that are open, and the machines that run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Inner, Runtime};
use crate::error::Result;
use crate::name::InstanceId;
use crate::store::{Durability, Store};
use crate::vm::{Above, Live, ThreadPlacement, Vm};

#[derive(Debug, Default)]
pub(crate) struct Vms {
    open: Mutex<HashMap<InstanceId, Weak<Vm>>>,
    /// By uuid: what runs is kept here, so that it runs on without a handle.
    running: Mutex<HashMap<String, Running>>,
    placement: ThreadPlacement,
    above: Above,
}

#[derive(Debug)]
struct Running {
    live: Arc<Live>,
    /// It is not renamed while it runs.
    id: InstanceId,
    durability: Durability,
}

impl Vms {
    pub(super) fn new(placement: ThreadPlacement) -> Self {
        Self { placement, ..Self::default() }
    }

    pub(crate) fn placement(&self) -> &ThreadPlacement {
        &self.placement
    }

    pub(crate) fn above(&self) -> &Above {
        &self.above
    }

    /// The handle that is open, if one is.
    pub(super) fn find(&self, id: &InstanceId) -> Option<Arc<Vm>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(id).and_then(Weak::upgrade).filter(|vm| !vm.is_deleted())
    }

    pub(crate) fn remember(&self, id: &InstanceId, vm: &Arc<Vm>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(id.clone(), Arc::downgrade(vm));
    }

    pub(crate) fn forget(&self, id: &InstanceId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn running(&self, uuid: &str) -> Option<Arc<Live>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(uuid).map(|r| Arc::clone(&r.live))
    }

    pub(crate) fn started(&self, uuid: &str, id: &InstanceId, durability: Durability, live: &Arc<Live>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(uuid.to_owned(), Running { live: Arc::clone(live), id: id.clone(), durability });
    }

    pub(crate) fn ended(&self, uuid: &str) {
        let ended = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(uuid);
        // Outside of the lock: its threads may be waited for.
        drop(ended);
    }

    /// Ends every machine and waits for its threads.
    pub(super) fn end_all(&self, store: &Store) {
        let all = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for Running { live, id, durability } in all.into_values() {
            let exit = live.end();
            // The next runtime that looks finds that this process does not run it any more, or is gone.
            let _ = store.save_run(&id, durability, &live.record(Some(exit), &self.above));
        }
    }
}

impl Runtime {
    pub(crate) fn vms(&self) -> &Vms {
        &self.inner.vms
    }

    /// As [`get`](Self::get), for a virtual machine.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`NotFound`](crate::ErrorKind::NotFound) where the instance is of another kind.
    pub fn vm(&self, id: &InstanceId) -> Result<Arc<Vm>> {
        if let Some(found) = self.vms().find(id) {
            return Ok(found);
        }
        self.must_be(id, crate::instance::InstanceKind::Vm)?;
        let mut open = self.vms().open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = open.get(id).and_then(Weak::upgrade)
            && !found.is_deleted()
        {
            return Ok(found);
        }
        let loaded = Arc::new(Vm::load(self.clone(), id)?);
        open.insert(id.clone(), Arc::downgrade(&loaded));
        Ok(loaded)
    }
}

impl Inner {
    pub(super) fn end_vms(&self) {
        self.vms.end_all(&self.store);
    }
}

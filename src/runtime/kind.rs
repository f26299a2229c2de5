//! What kind of instance a record is of.

use serde::Deserialize;

use super::Runtime;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::InstanceKind;
use crate::name::InstanceId;

/// The part that says it. A container's record, which is older, does not.
#[derive(Debug, Deserialize)]
pub(super) struct KindOf {
    #[serde(default = "container")]
    pub(super) kind: InstanceKind,
    pub(super) uuid: String,
}

fn container() -> InstanceKind {
    InstanceKind::Container
}

impl Runtime {
    pub(super) fn kind_of(&self, id: &InstanceId) -> Result<KindOf> {
        let found = self.inner.store.load::<KindOf>(id).map_err(|e| e.with_instance(id))?;
        Ok(found.record)
    }

    /// # Errors
    /// `NotFound` where the instance is of another kind.
    pub(super) fn must_be(&self, id: &InstanceId, kind: InstanceKind) -> Result<()> {
        let found = self.kind_of(id)?.kind;
        if found == kind {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("find the {kind}"))
            .detail(format!("the instance of that name is a {found}"))
            .with_instance(id))
    }
}

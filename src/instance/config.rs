//! What the runtime can make an instance from.

use std::sync::Arc;

use crate::error::Result;
use crate::instance::Instance;
use crate::name::InstanceId;
use crate::runtime::Runtime;

/// A whole configuration from which the runtime makes one instance. The library's own configuration types have
/// it; it cannot be implemented elsewhere.
pub trait InstanceConfig: sealed::Sealed {
    /// What `create` returns a handle of.
    type Handle: Instance;

    /// The instance that it is for.
    fn id(&self) -> &InstanceId;

    /// What [`Runtime::create`] calls.
    ///
    /// # Errors
    /// As there.
    #[doc(hidden)]
    fn create_in(self, runtime: &Runtime) -> Result<Arc<Self::Handle>>;
}

pub(crate) mod sealed {
    /// Keeps [`InstanceConfig`](super::InstanceConfig) to the types of this crate.
    pub trait Sealed {}
}

//! What the runtime can make an instance from.

use crate::instance::Instance;
use crate::name::InstanceId;

/// A whole configuration from which the runtime makes one instance. The library's own configuration types have
/// it; it cannot be implemented elsewhere.
pub trait InstanceConfig: sealed::Sealed {
    /// What `create` returns a handle of.
    type Handle: Instance;

    /// The instance that it is for.
    fn id(&self) -> &InstanceId;
}

pub(crate) mod sealed {
    /// Keeps [`InstanceConfig`](super::InstanceConfig) to the types of this crate.
    pub trait Sealed {}
}

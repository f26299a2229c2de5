//! Id maps: which user and group ids of the host stand behind those inside a user namespace.
//!
//! * [`IdMap`] is a valid map with its algebra: [`shift`](IdMap::uid_to_host), [`compose`](IdMap::compose),
//!   [`inverse`](IdMap::inverse), [`kernel_text`](IdMap::kernel_text).
//! * [`RawIdmap`] is what a user adds to a map (`raw.idmap` of LXD and Incus, `lxc.idmap` of LXC).
//! * [`subid`] reads `/etc/subuid` and `/etc/subgid`.
//! * [`RangeAllocator`] hands out ranges that no two instances share.
//! * [`mounts`] applies a map to a mount.
//! * [`shift`](mod@shift) changes the owners on disk, where that cannot be.
//!
//! See `user_namespaces(7)`.

mod allocator;
mod area;
mod claims;
pub(crate) mod delegated;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod ids;
mod map;
pub mod mounts;
#[cfg(test)]
mod props;
mod range;
mod raw;
mod record;
mod session;
pub mod shift;
pub mod subid;
mod write;

pub use allocator::{Allocation, AllocatorOptions, Lifetime, RangeAllocator};
pub use area::IdArea;
pub use claims::RANGE_SIZE;
pub use ids::{HostGid, HostUid, IdKind, InnerGid, InnerUid};
pub use map::IdMap;
pub use range::{IdRange, MAX_EXTENTS};
pub use raw::{RawEntry, RawIdmap, RawKind};
pub(crate) use write::{SetGroups, write};

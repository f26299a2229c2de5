//! Id maps: which user and group ids of the host stand behind those inside a user namespace.
//!
//! * [`IdMap`] is a valid map with its algebra: [`shift`](IdMap::uid_to_host), [`compose`](IdMap::compose),
//!   [`inverse`](IdMap::inverse), [`kernel_text`](IdMap::kernel_text).
//! * [`RawIdmap`] is what a user adds to a map (`raw.idmap` of LXD and Incus, `lxc.idmap` of LXC).
//!
//! See `user_namespaces(7)`.

mod ids;
mod map;
#[cfg(test)]
mod props;
mod range;
mod raw;

pub use ids::{HostGid, HostUid, IdKind, InnerGid, InnerUid};
pub use map::IdMap;
pub use range::{IdRange, MAX_EXTENTS};
pub use raw::{RawEntry, RawIdmap, RawKind};

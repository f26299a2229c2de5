//! What the tests share.
//!
//! A library of its own (`use support::...`, never `mod support;`), so that a test uses what it needs and the rest
//! is not dead code in it. Unit tests inside `src/` may use it as well.
//!
//! A privileged test looks like this:
//! ```ignore
//! #[test]
//! fn container_starts() {
//!     let _serial = support::serial();
//!     support::require_root!();
//!     let root = support::require_fixture!("busybox");
//!     let host = support::HostSnapshot::take();
//!     let dirs = support::private_dirs();
//!     let leaks = dirs.leak_check();
//!     // ... the work, all handles dropped ...
//!     leaks.assert_clean();
//!     host.assert_unchanged();
//! }
//! ```
//! Every test in a file that holds such a test begins with [`serial`], or its threads and files would be seen as
//! effects on the host.

mod diff;
mod dirs;
mod fixture;
mod leak;
mod proc;
mod scale;
mod serial;
mod skip;
mod snapshot;
mod tree;
mod until;

pub use dirs::{PrivateDirs, private_dirs, private_dirs_in_memory};
pub use fixture::fixture;
pub use leak::LeakCheck;
pub use scale::scaled;
pub use serial::{Serial, serial};
pub use skip::{privilege, skip};
pub use snapshot::HostSnapshot;
pub use tree::{tree_differences, tree_size, xattrs};
pub use until::until;

//! Containers inside your own program.
//!
//! Your daemon calls `start()`, and a process runs in its own namespaces and cgroup, with its own root file system.
//! No liblxc, no runc, no helper daemon, no C; your program is not executed a second time. And **nothing in your
//! process changes**: it may be threaded, hold gigabytes of memory, and call from forty threads at once.
//!
//! ```no_run
//! use stockade::instance::{ExecOptions, Stdio};
//! use stockade::{ContainerConfig, Rootfs, Runtime};
//!
//! let runtime = Runtime::open()?;
//! let config = ContainerConfig::builder("job-1")
//!     .rootfs(Rootfs::overlay(["/srv/debian"]))
//!     .args(["sleep", "600"])
//!     .build()?;
//! let job = runtime.create(config)?;
//! job.start()?;
//! let out = job.exec(ExecOptions::new(["make", "test"]).cwd("/src").stdout(Stdio::Piped))?.output()?;
//! println!("{}: {}", out.status, String::from_utf8_lossy(&out.stdout));
//! job.stop()?;
//! job.delete()?;
//! # Ok::<(), stockade::Error>(())
//! ```
//!
//! `/srv/debian` is a directory with a Debian in it, as `debootstrap` makes one. Without one at hand,
//! [`Rootfs::host`] takes the machine's own files. The package's `examples/quickstart.rs` goes through a whole life
//! and times it; `examples/daemon.rs` is a threaded job server that survives whatever its jobs do.
//!
//! # What it is
//!
//! | | |
//! |---|---|
//! | [`Runtime`] | where containers live: a durable directory and one on tmpfs. Opened again, by this program or the next, it finds what runs |
//! | [`ContainerConfig`] | what a container is like; checked as a whole, with every mistake told at once |
//! | [`Container`] | the handle: start, exec, freeze, stop, shutdown, kill, wait, restart, rename, delete. Dropping it stops nothing |
//! | [`Instance`] | the same verbs as a trait, for code that does not care which kind of instance it has |
//! | [`Rootfs`] | a directory, layers under an overlay, or the host's own files |
//! | [`namespaces`], [`cgroup`], [`idmap`], [`seccomp`], [`caps`], [`process`] | one subject of the kernel each, usable alone |
//!
//! A container is safe by default: a user namespace with 65,536 ids that no other container has, seven more
//! namespaces, a seccomp policy, masked paths, no network but loopback. What takes protection away has a name in the
//! builder, such as [`privileged`](container::ContainerBuilder::privileged).
//!
//! All calls block, most for less than a millisecond; from async code use its blocking pool. Whatever can wait for
//! long has a deadline of 30 seconds unless told otherwise, and can be [cancelled](Cancel). A command's handle is a
//! descriptor that any event loop can poll.
//!
//! # What it is not
//!
//! Not a daemon, not an image store, not an orchestrator: it starts what you give it. It does not set up networks
//! beyond "none" and "the host's". OCI bundles, images and snapshots are planned and not there yet; virtual machines
//! (feature `vm`) have a console, and no disk and no network so far. A container shares the host's kernel: a hole in the kernel is a hole in the container.
//!
//! # What happens to your process
//!
//! | state of the host process | effect of any call |
//! |---|---|
//! | working directory, umask, environment, signal mask and handlers, credentials, namespaces of any thread, resource limits, `no_new_privs`, dumpable and subreaper flag, `oom_score_adj` | none |
//! | file descriptors | those that a live handle owns, all close-on-exec; none after it is dropped |
//! | threads | with feature `vm` those of running virtual machines; those of a pool, of the spawner thread, of the notify supervisor and of resource views, where they are switched on, until the runtime is closed; with feature `image` one for the time of unpacking a compressed archive; with `systemd` one for the time of a D-Bus call |
//! | cgroup of the process | none, unless [`Placement::OwnWithLeaf`] or `RuntimeBuilder::vm_threads` is asked for |
//! | child processes | the first processes of containers and the commands run by `exec`; where calls are intercepted a helper or two; for an ordinary user `newuidmap`, `newgidmap` and `rm` for a moment. They are waited for by pidfd alone, never by `wait(-1)`. Their end raises SIGCHLD, as any child's does |
//! | signals | with feature `vm` one real-time signal that does nothing, of your choice (`vm::use_kick_signal`) |
//! | end of the process | never caused; bad input gives an error, never a panic |
//!
//! The tests take a snapshot of all this around every container that they start.
//!
//! Your program may ignore SIGCHLD or reap every child itself: on Linux 6.15 and newer the exit status is right all
//! the same, before that it is [`ExitStatus::Unknown`], never a wrong one and never a hang.
//!
//! # What it needs
//!
//! | for | privilege on the host |
//! |---|---|
//! | a container with 65,536 ids of its own, id-mapped roots and mounts | root, or its `CAP_SYS_ADMIN`, `CAP_SETUID`, `CAP_SETGID` |
//! | a container with the ids that `/etc/subuid` and `/etc/subgid` give the user | none, where `newuidmap` and `newgidmap` are installed: see [`IdMapConfig::Auto`](container::IdMapConfig::Auto) |
//! | a container with one id, the user's own | none, where the host allows user namespaces to everybody |
//! | a [privileged](container::ContainerBuilder::privileged) container | root |
//! | a cgroup of its own: freeze, limits, a stop that no fork bomb outruns | root, or a delegated cgroup; else [`CgroupConfig::None`](container::CgroupConfig::None) |
//! | a [device policy](container::ContainerBuilder::devices), live or at the start | root of the first user namespace, and a kernel with `CONFIG_CGROUP_BPF`; else an error, or [a note](cgroup::Enforce::BestEffort) |
//! | [resource views](container::ContainerBuilder::resource_views) | root, or its `CAP_SYS_ADMIN`, and `/dev/fuse` |
//! | a limit | that the controller is on cgroup v2 and enabled above the container; else an error, or [a note](cgroup::Enforce::BestEffort) |
//!
//! | Linux | what it brings; older kernels get a fallback |
//! |---|---|
//! | 6.1 | the oldest that works |
//! | 6.3 | id maps on tmpfs |
//! | 6.9 | processes found again by the inode of their pidfd; before, by number and start time |
//! | 6.11 | namespaces of a process through its pidfd; before, through `/proc` |
//! | 6.15 | the true exit status even where the host process took it away |
//!
//! x86_64 and aarch64. Where `vm.memfd_noexec=2` forbids executable memory files, children are
//! [forked](SpawnStrategy::Fork), which costs time in proportion to the host's memory.
//!
//! # Errors
//!
//! There is one type, [`Error`]. [`kind`](Error::kind) is for programs. The text is for people: the verb, the
//! container, the step that failed, the object (a path, a cgroup file, a value), the errno, and what can be done about
//! it. A step may have run in the child: its failure comes back by a socket and reads the same.
//!
//! ```text
//! start of default/job-1: execute `make`: No such file or directory (ENOENT); the program, its interpreter (#!)
//! or its dynamic loader is not in the root file system
//! ```
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `container` (default) | reserved: the container engine, which is always there at present |
//! | `cgroup1` | limits through cgroup v1 where it holds the controllers, beside v2 or alone: see [`cgroup`] |
//! | `image` | [`Unpack`](rootfs::Unpack): root file systems from tar archives, plain or compressed by gzip, zstd, xz |
//! | `systemd` | `Placement::SystemdScope`: a scope of systemd's for the instances' cgroups, over D-Bus |
//! | `vm` | `Vm`: virtual machines through KVM, in threads of your program |
#![deny(unsafe_code)]
#![cfg(target_os = "linux")]

mod error;
mod exit;
mod name;
mod named_bits;
mod os_text;
mod signal;
mod sys;

pub mod caps;
pub mod cgroup;
pub mod idmap;
pub mod namespaces;
pub mod process;
pub mod rootfs;
pub mod seccomp;
mod views;

mod op;
mod spawn;
mod store;

pub mod container;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod instance;
mod runtime;
#[cfg(feature = "vm")]
pub mod vm;

pub use container::{Container, ContainerConfig};
pub use error::{Error, ErrorKind, Result};
pub use exit::ExitStatus;
pub use instance::Instance;
pub use name::{InstanceId, InstanceName};
pub use op::Cancel;
pub use rootfs::Rootfs;
pub use runtime::{CpuBalance, CpuPlacement, CpuWatch, Placement, Runtime, RuntimeBuilder, SpawnStrategy};
#[cfg(feature = "systemd")]
pub use runtime::{Manager, SystemdScope};
pub use signal::Signal;
#[doc(hidden)]
pub use spawn::Fault;
#[cfg(feature = "attacks")]
#[doc(hidden)]
pub use spawn::{Hold, Weaken};
#[cfg(feature = "vm")]
pub use vm::{Vm, VmConfig};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

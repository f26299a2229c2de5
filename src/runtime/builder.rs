//! Opening a runtime.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use super::{HeldUsers, Host, Inner, Placement, Runtime};
use crate::error::{Error, Result};
use crate::seccomp::{NotifyLoop, Responder};
use crate::store::Store;

/// How children come to have memory of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnStrategy {
    /// [`Exec`](Self::Exec) where it works, else [`Fork`](Self::Fork).
    #[default]
    Auto,
    /// Share the host's memory for a moment, then execute a small program from a sealed memory file. The cost does
    /// not grow with the host.
    Exec,
    /// Copy the host's memory map: 40 to 90 ms from a host of 2 GiB. For hosts where `vm.memfd_noexec=2` forbids
    /// executable memory files.
    Fork,
}

/// Where and how to open a [`Runtime`].
///
/// ```no_run
/// use stockade::Runtime;
///
/// let runtime = Runtime::builder().state_dir("/var/lib/ci").run_dir("/run/ci").open()?;
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is opened before `open`"]
pub struct RuntimeBuilder {
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    placement: Placement,
    strategy: SpawnStrategy,
    spawner_thread: bool,
    notify_loop: NotifyLoop,
    responder: Option<Arc<dyn Responder>>,
    #[cfg(feature = "vm")]
    vm_threads: crate::vm::ThreadPlacement,
}

impl RuntimeBuilder {
    /// Sets the directory of what must survive a restart of the machine: records of durable instances, id ranges,
    /// changes to layered root file systems. Made where it is missing, mode 0700.
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Sets the directory of what must not: it should be on a tmpfs. Made where it is missing, mode 0700.
    pub fn run_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.run_dir = Some(dir.into());
        self
    }

    /// Sets who waits for calls that filters hand to this process; a thread of the runtime's unless told otherwise. See
    /// [`Runtime::supervisor`].
    pub fn notify_loop(mut self, notify_loop: NotifyLoop) -> Self {
        self.notify_loop = notify_loop;
        self
    }

    /// Sets who answers the calls for which policies have [`Action::Notify`](crate::seccomp::Action::Notify). Without one the
    /// caller of a start gets the listener ([`Pipes`](crate::instance::Pipes)), and those of commands fail with `ENOSYS`.
    pub fn responder(mut self, responder: impl Responder + 'static) -> Self {
        self.responder = Some(Arc::new(responder));
        self
    }

    /// Sets the cgroup in which the instances' cgroups are made, as an absolute path (`/sys/fs/cgroup/...`). Unless told
    /// otherwise it is this process's own. The same as [`Placement::Below`].
    pub fn cgroup(self, path: impl Into<PathBuf>) -> Self {
        self.cgroup_placement(Placement::Below(path.into()))
    }

    /// Sets where the instances' cgroups are made.
    ///
    /// ```no_run
    /// use stockade::{Placement, Runtime};
    ///
    /// let runtime = Runtime::builder().cgroup_placement(Placement::OwnWithLeaf).open()?;
    /// println!("{}", runtime.delegation()?);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn cgroup_placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets where the threads of virtual machines are: in the cgroup of this process unless told otherwise. Read when a machine
    /// starts.
    #[cfg(feature = "vm")]
    pub fn vm_threads(mut self, placement: crate::vm::ThreadPlacement) -> Self {
        self.vm_threads = placement;
        self
    }

    /// Sets how children come to have memory of their own.
    pub fn spawn_strategy(mut self, strategy: SpawnStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Starts containers from a thread of the runtime that has next to nothing mounted: a start then takes the same
    /// time however many mounts the host has. With a few dozen it gains nothing. The thread is named
    /// `stockade-spawn`, has a mount namespace of its own, and ends with the runtime. Needs `CAP_SYS_ADMIN`.
    ///
    /// A host's `/sys` or `/proc` that a container shares is then one without the mounts below it.
    pub fn spawner_thread(mut self) -> Self {
        self.spawner_thread = true;
        self
    }

    /// Opens it: makes the directories, finds out what the host can do, removes what a crash left half-made. Running
    /// instances are found when they are asked for. Only where another runtime on these directories has crashed, or for
    /// the first time after a restart of the machine, all records are read here: some tens of microseconds for each.
    ///
    /// # Errors
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) where a directory cannot be made or is not this
    /// user's alone; [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where no directory can be told from the
    /// environment. A [`Placement`] that was asked for and cannot be had is an error that says what is in its way; it is
    /// carried out last, so nothing is moved by an opening that fails for another reason.
    pub fn open(self) -> Result<Runtime> {
        let root = rustix::process::geteuid().is_root();
        let state_dir = self.state_dir.map_or_else(|| default_dir(root, Dir::State), Ok)?;
        let run_dir = self.run_dir.map_or_else(|| default_dir(root, Dir::Run), Ok)?;
        let (store, tag) = (Store::open(&state_dir, &run_dir)?, tag(&run_dir));
        let host = Host::probe(&self.placement, &tag, self.strategy, self.spawner_thread)?;
        let inner = Arc::new(Inner {
            store,
            host,
            tag,
            state_dir,
            run_dir,
            ranges: OnceLock::new(),
            held: HeldUsers::default(),
            notify: super::notify::Notify::new(self.notify_loop, self.responder),
            views: super::views::Views::default(),
            open: Mutex::new(HashMap::new()),
            cpus: Mutex::new(()),
            #[cfg(feature = "vm")]
            vms: super::vms::Vms::new(self.vm_threads),
        });
        let runtime = Runtime { pools: Arc::default(), inner };
        runtime.recover();
        Ok(runtime)
    }
}

#[derive(Clone, Copy)]
enum Dir {
    State,
    Run,
}

fn default_dir(root: bool, dir: Dir) -> Result<PathBuf> {
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let (fixed, found, wanted) = match dir {
        Dir::State => (
            "/var/lib/stockade",
            env("XDG_DATA_HOME").or_else(|| env("HOME").map(|h| h.join(".local/share"))),
            "set XDG_DATA_HOME or HOME, or RuntimeBuilder::state_dir",
        ),
        Dir::Run => {
            let uid = rustix::process::geteuid().as_raw();
            let usual = Path::new("/run/user").join(uid.to_string());
            let found = env("XDG_RUNTIME_DIR").or_else(|| usual.is_dir().then_some(usual));
            ("/run/stockade", found, "set XDG_RUNTIME_DIR, or RuntimeBuilder::run_dir")
        }
    };
    if root {
        return Ok(fixed.into());
    }
    found.map(|d| d.join("stockade")).ok_or_else(|| {
        Error::invalid("runtime directory", "cannot be told from the environment").hint(wanted)
    })
}

/// Eight hexadecimal digits that stand for a run directory (FNV-1a).
fn tag(run_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let hash = run_dir
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

//! `stockade run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade::cgroup::{Hierarchy, Limit, Limits};
use stockade::container::{CgroupConfig, Container, IdMapConfig, Mount, ResourceViews, SeccompConfig};
use stockade::instance::{DeleteMode, DeleteOptions, KillOptions, KillTarget, StartOptions, Stdio};
use stockade::rootfs::FileIds;
use stockade::{ContainerConfig, ErrorKind, ExitStatus, Rootfs, Runtime, Signal};

use crate::args::{Dirs, Root, Run};
use crate::fail::{Fail, OURS};
use crate::image::{self, Image};
use crate::signals::Held;

/// Runs the command and says which exit status it had.
pub(crate) fn run(options: Run) -> Result<u8, Fail> {
    let signals = Held::new()?;
    let mut options = options;
    let runtime = open(&options.dirs)?;
    let place = place(&options.dirs)?;
    // Removed when this function ends, after the container.
    let image = match &options.root {
        Root::Image(file) => {
            image::sweep(&runtime, &place);
            Some(Image::unpack(file, &place, &signals)?)
        }
        _ => None,
    };
    if let Some(image) = &image {
        options.root = Root::Image(image.root());
    }
    let container = runtime.create(config(options)?)?;
    let ended = see_through(&container, signals);
    let removed = remove(&container);
    let status = ended?;
    removed?;
    code(status)
}

fn see_through(container: &Arc<Container>, signals: Held) -> Result<ExitStatus, Fail> {
    let streams = StartOptions::new().stdin(Stdio::Inherit).stdout(Stdio::Inherit).stderr(Stdio::Inherit);
    container.start_with(streams)?;
    // A container that has just ended takes no signals any more: nothing to be told.
    let (one, all) = (Arc::clone(container), Arc::clone(container));
    let _passing = signals.pass_on(
        move |signal| drop(one.kill(signal)),
        move || {
            if all.kill(KillOptions::new(Signal::KILL).target(KillTarget::All)).is_err() {
                drop(all.kill(Signal::KILL));
            }
        },
    )?;
    Ok(container.wait()?)
}

/// Ends what runs and removes it; that it is gone already is fine. Another process may be about to finish its `stop`:
/// it gets some time for that.
fn remove(container: &Container) -> Result<(), Fail> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match container.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == ErrorKind::Busy && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return Ok(other?),
        }
    }
}

/// The exit status as a shell has it.
pub(crate) fn code(status: ExitStatus) -> Result<u8, Fail> {
    match status.shell_code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(code),
        None => {
            Fail::Other(format!("the command {status}")).tell();
            Ok(OURS)
        }
    }
}

fn config(options: Run) -> Result<ContainerConfig, Fail> {
    let Run { dirs, root, process, name, network, memory, pids, volumes, switches } = options;
    let name = name.unwrap_or_else(|| format!("run-{}", std::process::id()));
    let mut limits = Limits::default();
    limits.memory_max = memory.map(Limit::Value);
    limits.pids_max = pids.map(Limit::Value);
    let has_limits = !limits.is_empty();

    let mut c = ContainerConfig::builder(name).ephemeral().network(network).limits(limits).args(process.args);
    c = match root {
        Root::Host => c.rootfs(Rootfs::host()),
        Root::Dir(dir) => c.rootfs(Rootfs::dir(absolute("--rootfs", &dir)?)),
        Root::Image(dir) if image::owners_are_kept() => c.rootfs(Rootfs::dir(dir)),
        Root::Image(dir) => c.rootfs(Rootfs::dir(dir).ids(FileIds::AsIs)).idmap(IdMapConfig::SingleUser),
    };
    for (name, value) in process.env {
        c = c.env(name, value);
    }
    if let Some(dir) = process.workdir {
        c = c.cwd(dir);
    }
    if let Some(user) = process.user {
        c = c.user(user);
    }
    if switches.read_only {
        c = c.read_only_root();
    }
    if switches.no_seccomp {
        c = c.seccomp(SeccompConfig::Unconfined);
    }
    if switches.privileged {
        c = c.privileged();
    }
    if switches.resource_views {
        c = c.resource_views(ResourceViews::ALL);
    }
    for volume in volumes {
        let mut mount = Mount::bind(absolute("--volume", &volume.source)?, volume.target).recursive();
        if volume.read_only {
            mount = mount.read_only();
        }
        if volume.idmapped && !switches.privileged {
            mount = mount.idmapped();
        }
        c = c.mount(mount);
    }
    // Limits that cannot be had are an error; a cgroup alone is not worth one.
    if dirs.cgroup.is_none() && !has_limits && !may_make_cgroups() {
        c = c.cgroup(CgroupConfig::None);
    }
    Ok(c.build()?)
}

/// The path from `/`. Links are resolved, so that the path still leads there from another working directory.
fn absolute(option: &str, path: &Path) -> Result<PathBuf, Fail> {
    path.canonicalize().map_err(|e| Fail::Other(format!("{option}: `{}`: {e}", path.display())))
}

fn may_make_cgroups() -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    Hierarchy::detect().is_ok_and(|h| {
        accessat(CWD, h.own().path(), Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    })
}

/// Opens the runtime where the options say.
pub(crate) fn open(dirs: &Dirs) -> Result<Runtime, Fail> {
    let mut builder = Runtime::builder();
    let user = rustix::process::geteuid();
    let mut run = dirs.run.clone();
    let mut state = dirs.state.clone();
    // Root has the library's own directories, where ids are shared out among all who use it. Others have no ids to
    // share out and nothing to keep.
    if !user.is_root() {
        let dir = run.unwrap_or_else(|| user_dir(user.as_raw()));
        state = state.or_else(|| Some(dir.join("state")));
        run = Some(dir);
    }
    if let Some(dir) = run {
        builder = builder.run_dir(absolute_dir(dir)?);
    }
    if let Some(dir) = state {
        builder = builder.state_dir(absolute_dir(dir)?);
    }
    if let Some(cgroup) = &dirs.cgroup {
        builder = builder.cgroup(cgroup);
    }
    Ok(builder.open()?)
}

/// What tells a runtime from others: its run directory, or nothing for the usual one.
fn place(dirs: &Dirs) -> Result<PathBuf, Fail> {
    dirs.run.clone().map_or_else(|| Ok(PathBuf::new()), absolute_dir)
}

/// As [`absolute`], for a directory that need not exist yet.
fn absolute_dir(dir: PathBuf) -> Result<PathBuf, Fail> {
    std::path::absolute(&dir).map_err(|e| Fail::Other(format!("`{}`: {e}", dir.display())))
}

/// An ordinary user's run directory. The library refuses one that is not the user's alone.
fn user_dir(uid: u32) -> PathBuf {
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| d.is_absolute());
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    match given.or_else(|| usual.is_dir().then_some(usual)) {
        Some(dir) => dir.join("stockade"),
        None => PathBuf::from(format!("/tmp/stockade-{uid}")),
    }
}

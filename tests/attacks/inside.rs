//! What the attacks share: secrets of the host, and an attacker that runs inside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use stockade::container::{Container, ContainerBuilder, Mount};
use stockade::instance::{ExecOptions, Stdio};
use stockade::{Error, Rootfs};
use tempfile::TempDir;

/// What a file of the host holds that nobody in a container may read or change.
pub(crate) const SECRET: &str = "secret-of-the-host";

/// A directory of the host with a secret in it that only permissions do not hide.
pub(crate) struct HostFiles(TempDir);

impl HostFiles {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
        open_to_all(dir.path());
        fs::write(dir.path().join("secret"), SECRET).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn secret(&self) -> PathBuf {
        self.0.path().join("secret")
    }

    /// Checks that nothing was added, and the secret is as it was.
    #[track_caller]
    pub(crate) fn assert_untouched(&self, known: &[&str]) {
        let names = fs::read_dir(self.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut more: Vec<String> = names.filter(|n| n != "secret" && !known.contains(&n.as_str())).collect();
        more.sort();
        assert!(more.is_empty(), "made on the host: {more:?}");
        assert_eq!(fs::read_to_string(self.secret()).unwrap(), SECRET);
    }
}

/// Gives everybody the right to look into a directory, which an id map inside needs.
pub(crate) fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A root file system of its own for one test, on which the host can let a child go on that waits at `/hold`.
pub(crate) struct Root(tempfile::TempDir);

impl Root {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
        let from = support::fixture("busybox").unwrap().join(".");
        assert!(Command::new("cp").arg("-a").arg(from).arg(dir.path()).status().unwrap().success());
        open_to_all(dir.path());
        assert!(
            Command::new("mkfifo")
                .args(["-m", "666"])
                .arg(dir.path().join("hold"))
                .status()
                .unwrap()
                .success()
        );
        Self(dir)
    }

    pub(crate) fn container(&self, name: &str) -> ContainerBuilder {
        crate::rig::busybox(name).rootfs(Rootfs::dir(self.0.path()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn release(&self) {
        drop(std::fs::File::open(self.0.path().join("hold")).unwrap());
    }
}

/// Gives the container this very program at `/attacker`, with what it is linked to.
pub(crate) fn with_attacker(mut config: ContainerBuilder) -> ContainerBuilder {
    let own = std::env::current_exe().unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut libraries: Vec<&str> =
        maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).collect();
    libraries.retain(|path| path.contains(".so") || path.contains("/ld-"));
    libraries.sort_unstable();
    libraries.dedup();
    for path in libraries {
        let name = Path::new(path).file_name().unwrap();
        let dir = if name.to_string_lossy().starts_with("ld-") { LOADER } else { "/lib" };
        config = config.mount(Mount::bind(path, Path::new(dir).join(name)).read_only());
    }
    config.mount(Mount::bind(own, "/attacker").read_only())
}

/// Where an executable names its loader.
const LOADER: &str = if cfg!(target_arch = "x86_64") { "/lib64" } else { "/lib" };

/// The command that does a task of the attacker's.
pub(crate) fn task(task: &str) -> ExecOptions {
    let args = ["/attacker", "--exact", "attacker", "--ignored", "--nocapture", "--test-threads=1"];
    ExecOptions::new(args).env("STOCKADE_TEST_ROLE", task).stdout(Stdio::Piped).stderr(Stdio::Piped)
}

/// Has the attacker do a task in the container; what it found, a line each.
#[track_caller]
pub(crate) fn attack(c: &Container, what: &str) -> Vec<String> {
    found(c.exec(task(what)))
}

/// What an attacker wrote until it ended.
#[track_caller]
pub(crate) fn found(process: Result<stockade::container::Process, Error>) -> Vec<String> {
    let out = process.unwrap().output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{}: {text}", out.status);
    text.lines().filter_map(|line| line.strip_prefix("@ ")).map(str::to_owned).collect()
}

/// The number of the container's first process on the host.
pub(crate) fn first_pid(c: &Container) -> u32 {
    c.info().unwrap().pid.unwrap()
}

/// Says what a test has done, past the capture of the harness.
pub(crate) fn say(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("attacks: {text}\n").as_bytes());
}

/// A container that an attacker can run in.
pub(crate) fn victim(name: &str) -> ContainerBuilder {
    with_attacker(crate::rig::busybox(name))
}

/// Lets a child go on that waits at `/hold` of a container, as its root sees it.
pub(crate) fn release(c: &Arc<Container>) {
    let (code, said) = crate::rig::sh(c, "timeout 20 cat /hold");
    assert_eq!(code, 0, "{said}");
}

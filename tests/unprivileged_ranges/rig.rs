//! A process of an ordinary user's, and a runtime in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stockade::container::{CgroupConfig, Container, ContainerBuilder, ContainerConfig};
use stockade::idmap::shift::shift_tree;
use stockade::idmap::{IdMap, IdRange};
use stockade::instance::{ExecOptions, Status, Stdio};
use stockade::process::User;
use stockade::{Error, Rootfs, Runtime};
use support::{HostSnapshot, LeakCheck, Serial};

use crate::again;

pub(crate) const UID: u32 = 54_322;
pub(crate) const FIRST: u32 = 2_000_000_000;
pub(crate) const COUNT: u32 = 131_072;

/// How the test's process is made; the fields are pieces of shell.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    /// As root, in the private mount namespace.
    pub(crate) before: &'a str,
    /// Between root and the test's own program.
    pub(crate) become_user: &'a str,
    /// Whether the files give him ids.
    pub(crate) delegated: bool,
    /// Whether there is a Debian root with the owners that the whole map gives it.
    pub(crate) debian: bool,
}

pub(crate) const SETPRIV: &str = "setpriv --reuid 54322 --regid 54322 --clear-groups --inh-caps=-all";
pub(crate) const WITH_RANGES: Around<'_> =
    Around { before: "", become_user: SETPRIV, delegated: true, debian: false };

/// What the test's body gets in the process of its own.
pub(crate) struct Rig {
    pub(crate) dir: PathBuf,
    pub(crate) runtime: Runtime,
}

/// Runs `body` as that user; skips loudly where that cannot be.
pub(crate) fn as_user(test: &str, around: Around<'_>, body: impl FnOnce(&Rig)) {
    with_turn(&support::serial(), test, around, body);
}

pub(crate) fn with_turn(_turn: &Serial, test: &str, around: Around<'_>, body: impl FnOnce(&Rig)) {
    if again::role().is_some() {
        let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
        let host = HostSnapshot::take();
        let runtime = open(&dir);
        let (state, run) = (dir.join("state"), dir.join("run"));
        let leaks = LeakCheck::of([state.join("instances"), run.join("instances")]);
        let rig = Rig { dir, runtime };
        body(&rig);
        drop(rig);
        let left: Vec<_> = leaks.left().into_iter().filter(|p| !p.ends_with("default")).collect();
        assert!(left.is_empty(), "{left:?}");
        host.assert_unchanged();
        return;
    }
    support::require_root!();
    let fixture = support::require_fixture!("busybox");
    for file in ["/etc/subuid", "/etc/subgid", "/usr/bin/newuidmap", "/usr/bin/newgidmap"] {
        support::require!(Path::new(file).exists(), "needs {file}: cargo xtask setup");
    }
    let host = HostSnapshot::take();
    let dir = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    chown(dir.path(), Some(UID), Some(UID)).unwrap();
    for (name, owner) in [("root", UID), ("shifted", FIRST)] {
        let root = dir.path().join(name);
        sh_on_host(&format!("cp -r --preserve=mode,links {}/. {}", fixture.display(), root.display()));
        sh_on_host(&format!("chown -hR {owner}:{owner} {}", root.display()));
    }
    if around.debian {
        let (root, fixture) = (dir.path().join("debian"), support::require_fixture!("debian"));
        sh_on_host(&format!("cp -a {} {}", fixture.display(), root.display()));
        // The user's own id is one that files have before they are shifted: so by a third range.
        let third = IdMap::range(FIRST + COUNT, 65_536).unwrap();
        shift_tree(&root, &IdMap::range(0, 65_536).unwrap(), &third).unwrap();
        shift_tree(&root, &third, &whole_map()).unwrap();
    }
    let ids = if around.delegated { format!("{UID}:{FIRST}:{COUNT}\n") } else { String::new() };
    fs::write(dir.path().join("subids"), ids).unwrap();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(dir.path().join("passwd"), format!("{passwd}stockadetest:x:{UID}:{UID}::/:/bin/sh\n")).unwrap();
    let script = format!(
        "set -e; mount --bind $DIR/subids /etc/subuid; mount --bind $DIR/subids /etc/subgid
         mount --bind $DIR/passwd /etc/passwd; {}; exec {} \"$@\"",
        if around.before.is_empty() { ":" } else { around.before },
        around.become_user
    );
    let args = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    let out = again::command(&args, test, "user").env("DIR", dir.path()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    drop(dir);
    host.assert_unchanged();
}

fn sh_on_host(script: &str) {
    let status = std::process::Command::new("sh").args(["-c", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

pub(crate) fn open(dir: &Path) -> Runtime {
    Runtime::builder().state_dir(dir.join("state")).run_dir(dir.join("run")).open().unwrap()
}

impl Rig {
    pub(crate) fn container(&self, name: &str, rootfs: impl Into<Rootfs>) -> ContainerBuilder {
        let config = ContainerConfig::builder(name).rootfs(rootfs).args(["sleep", "1000"]);
        config.cgroup(CgroupConfig::None).kill_on_drop()
    }

    pub(crate) fn dir(&self, name: &str) -> ContainerBuilder {
        self.container(name, Rootfs::dir(self.dir.join("root")))
    }

    pub(crate) fn run(&self, config: ContainerBuilder) -> Arc<Container> {
        let c = self.runtime.create(config.build().unwrap()).unwrap();
        c.start().unwrap();
        c
    }

    pub(crate) fn refuses(&self, config: ContainerBuilder) -> Error {
        let c = self.runtime.create(config.build().unwrap()).unwrap();
        let e = c.start().expect_err("it started");
        assert_eq!((e.op(), c.status()), (Some("start"), Status::Stopped), "{e:?}");
        c.delete().unwrap();
        e
    }
}

#[track_caller]
pub(crate) fn sh_as(c: &Container, user: User, script: &str) -> String {
    let script = format!("exec 2>&1; {script}");
    let options = ExecOptions::new(["sh", "-c", &script]).user(user).stdout(Stdio::Piped);
    let out = c.exec(options).unwrap().output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

#[track_caller]
pub(crate) fn sh(c: &Container, script: &str) -> String {
    sh_as(c, User::new(0, 0), script)
}

pub(crate) fn end(c: Arc<Container>) {
    assert_eq!(c.status(), Status::Running);
    c.stop().unwrap();
    c.delete().unwrap();
}

pub(crate) fn whole_map() -> IdMap {
    let half = || vec![IdRange::new(0, UID, 1), IdRange::new(1, FIRST, COUNT)];
    IdMap::new(half(), half()).unwrap()
}

pub(crate) fn single() -> IdMap {
    IdMap::single(UID.into(), UID.into()).unwrap()
}

pub(crate) fn id_of_users(c: &Container) -> u64 {
    // Which one it is, as the kernel numbers it.
    let text = sh(c, "readlink /proc/self/ns/user");
    text.trim_start_matches("user:[").trim_end_matches(']').parse().unwrap()
}

//! What the tests of bad input share: images with odd files, and what an error must say.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use stockade::container::ContainerBuilder;
use stockade::{Error, ErrorKind, Rootfs};
use tempfile::TempDir;

use crate::again;
use crate::rig::{Rig, busybox};

/// Files that lie over the busybox root.
pub(crate) struct Patch(TempDir);

impl Patch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(crate) fn file(&self, name: &str, mode: u32, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn link(&self, name: &str, target: &str) {
        symlink(target, self.path(name)).unwrap();
    }

    pub(crate) fn container(&self, name: &str) -> ContainerBuilder {
        busybox(name)
            .rootfs(Rootfs::overlay([self.0.path().to_owned(), support::fixture("busybox").unwrap()]))
    }
}

/// What an error must say: its kind, its step, what it is about, the errno, and a part of the way out.
pub(crate) struct Says<'a> {
    pub(crate) kind: ErrorKind,
    pub(crate) step: &'a str,
    pub(crate) what: &'a str,
    pub(crate) errno: Option<i32>,
    pub(crate) hint: &'a str,
}

pub(crate) fn says<'a>(kind: ErrorKind, step: &'a str, what: &'a str, errno: i32, hint: &'a str) -> Says<'a> {
    Says { kind, step, what, errno: (errno != 0).then_some(errno), hint }
}

#[track_caller]
pub(crate) fn check(e: &Error, op: &str, expected: &Says<'_>) {
    let text = format!("{e:?}");
    assert_eq!(e.kind(), expected.kind, "{text}");
    assert_eq!(e.op(), Some(op), "{text}");
    assert!(e.instance().is_some_and(|i| i.starts_with("default/")), "{text}");
    assert!(e.step().contains(expected.step), "{text}");
    assert!(e.what().unwrap_or_default().contains(expected.what), "{text}");
    assert_eq!(e.errno(), expected.errno, "{text}");
    let hint = e.way_out().unwrap_or_default();
    assert!(hint.contains(expected.hint) && hint.is_empty() == expected.hint.is_empty(), "{text}");
    for part in [op, e.instance().unwrap(), expected.step, expected.what, expected.hint] {
        assert!(e.to_string().contains(part), "{e} does not say {part}");
    }
}

impl Rig {
    /// Both kinds of container refuse to start, in the same words.
    #[track_caller]
    pub(crate) fn refuses(&self, config: &dyn Fn() -> ContainerBuilder, expected: &Says<'_>) {
        for privileged in [false, true] {
            let config = if privileged { config().privileged() } else { config() };
            let c = self.runtime.create(config.build().unwrap()).unwrap();
            let e = c.start().expect_err("it started");
            check(&e, "start", expected);
            assert!(!c.status().is_running());
            assert_eq!(c.info().unwrap().pid, None);
            c.delete().unwrap();
        }
    }
}

/// Runs the rest of the test in a mount namespace of its own; true there.
pub(crate) fn with_own_mounts(test: &str) -> bool {
    if again::role().is_some() {
        return true;
    }
    let _serial = support::serial();
    if let Err(why) = support::privilege().and_then(|()| support::fixture("busybox").map(drop)) {
        support::skip(why);
        return false;
    }
    let host = support::HostSnapshot::take();
    let around = ["unshare", "--mount", "--propagation", "private"];
    let out = again::command(&around, test, "own-mounts").output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    host.assert_unchanged();
    false
}

pub(crate) fn mount(args: &[&str], at: &Path) {
    assert!(Command::new("mount").args(args).arg(at).status().unwrap().success(), "mount {args:?}");
}

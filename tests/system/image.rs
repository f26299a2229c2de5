//! Roots to boot from, made for one test.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stockade::Rootfs;
use stockade::container::{ContainerBuilder, ContainerConfig};

/// How long a boot or an orderly end may take on a slow machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A copy of a fixture.
pub(crate) struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    pub(crate) fn of(fixture: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
        let from = support::fixture(fixture).unwrap();
        let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(dir.path().join("root")).status();
        assert!(copied.unwrap().success());
        Self { dir }
    }

    /// Busybox with this shell script as `/sbin/init`.
    pub(crate) fn script(script: &str) -> Self {
        let image = Self::of("busybox");
        image.init(&format!("#!/bin/sh\n{script}\n"));
        image
    }

    /// Busybox with `/sbin/init` as a link.
    pub(crate) fn linked(to: &str) -> Self {
        let image = Self::without_init();
        symlink(to, image.init_path()).unwrap();
        image
    }

    pub(crate) fn without_init() -> Self {
        let image = Self::of("busybox");
        let _ = fs::remove_file(image.init_path());
        image
    }

    fn init(&self, content: &str) {
        let path = self.init_path();
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn init_path(&self) -> PathBuf {
        self.path().join("bin/init")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Makes a file in it, which a running container sees.
    pub(crate) fn touch(&self, name: &str) {
        fs::write(self.path().join(name), "").unwrap();
    }

    pub(crate) fn system(&self, name: &str) -> ContainerBuilder {
        system_of(name, &self.path()).kill_on_drop()
    }
}

pub(crate) fn system_of(name: &str, root: &Path) -> ContainerBuilder {
    ContainerConfig::system(name).rootfs(Rootfs::dir(root))
}

/// What a test has covered.
#[expect(clippy::print_stderr, reason = "what a test says of itself")]
pub(crate) fn eprint(text: &str) {
    eprintln!("{text}");
}

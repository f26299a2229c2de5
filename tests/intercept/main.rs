//! Calls that are made in a container's stead: what becomes possible, what stays refused, and that nobody hangs.
#![allow(unsafe_code, clippy::print_stderr)]
#![cfg(target_arch = "x86_64")]

#[path = "../loop_device/mod.rs"]
mod loop_device;
#[path = "../rig/mod.rs"]
mod rig;

mod calls;
mod ends;
mod inside;
mod inside_fuse;
mod memory;
mod mounts;
mod nodes;
mod programs;
mod turns;

use std::sync::Arc;

use rig::{Rig, busybox, sh, works};
use stockade::Rootfs;
use stockade::container::{Container, ContainerBuilder, ContainerConfig};

/// A copy of the busybox root, for one container.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut cp = std::process::Command::new("cp");
        let copied =
            cp.arg("-a").arg(support::fixture("busybox").unwrap()).arg(dir.path().join("root")).status();
        assert!(copied.unwrap().success());
        Self(dir)
    }

    /// A container with this root, whose files have the container's ids: nothing lies between it and the file system.
    fn container(&self, name: &str) -> ContainerBuilder {
        let config = ContainerConfig::builder(name).rootfs(Rootfs::dir(self.0.path().join("root")));
        config.args(["sleep", "1000"]).kill_on_drop()
    }
}

/// The output of a script that must fail.
#[track_caller]
fn fails(c: &Container, script: &str) -> String {
    let (code, text) = sh(c, script);
    assert_ne!(code, 0, "{script}: {text}");
    text
}

/// Runs `test` on both kinds of roots.
fn on_both(what: &stockade::seccomp::Interception, test: impl Fn(&Container, &str)) {
    let Some(rig) = Rig::new() else { return };
    let root = Root::new();
    for (kind, config) in [("overlay", busybox("overlay")), ("directory", root.container("directory"))] {
        let c: Arc<Container> = rig.run(config.intercept(what.clone()));
        test(&c, kind);
        rig::end(c);
    }
    drop(root);
    rig.end();
}

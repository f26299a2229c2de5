//! A runtime in directories of its own, under watch: at its end nothing may be left and nothing on the host changed.

use std::sync::Arc;

use stockade::container::{Container, ContainerBuilder, ContainerConfig};
use stockade::instance::{DeleteMode, DeleteOptions, ExecOptions, Stdio};
use stockade::{ExitStatus, Rootfs, Runtime};
use support::{HostSnapshot, LeakCheck, PrivateDirs, Serial};

pub(crate) struct Rig {
    pub(crate) runtime: Runtime,
    pub(crate) dirs: PrivateDirs,
    leaks: LeakCheck,
    host: HostSnapshot,
    _serial: Serial,
}

impl Rig {
    /// `None`, with a loud reason, where containers cannot be started as root here.
    pub(crate) fn new() -> Option<Self> {
        let serial = support::serial();
        let lacking = support::privilege().and_then(|()| support::fixture("busybox").map(drop));
        if let Err(why) = lacking {
            support::skip(why);
            return None;
        }
        let host = HostSnapshot::take();
        let dirs = support::private_dirs();
        let runtime = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap();
        // Makes the files that a runtime keeps for itself: what comes after them is a leak.
        let warm = runtime.create(busybox("warm").build().unwrap()).unwrap();
        warm.start().unwrap();
        warm.stop().unwrap();
        warm.delete().unwrap();
        let leaks = dirs.leak_check();
        Some(Self { runtime, dirs, leaks, host, _serial: serial })
    }

    /// A container that runs.
    pub(crate) fn run(&self, config: ContainerBuilder) -> Arc<Container> {
        let container = self.runtime.create(config.build().unwrap()).unwrap();
        container.start().unwrap();
        container
    }

    /// Checks that all is as it was. Every handle must be dropped.
    #[track_caller]
    pub(crate) fn end(self) {
        let Self { runtime, dirs, leaks, host, _serial } = self;
        runtime.close();
        leaks.assert_clean();
        drop(dirs);
        host.assert_unchanged();
    }
}

/// A container on the busybox root, changes aside, that sleeps, until its handle is dropped at the latest.
pub(crate) fn busybox(name: &str) -> ContainerBuilder {
    let root = support::fixture("busybox").unwrap();
    ContainerConfig::builder(name).rootfs(Rootfs::overlay([root])).args(["sleep", "1000"]).kill_on_drop()
}

/// Stops it where it runs, and deletes it.
pub(crate) fn end(container: Arc<Container>) {
    container.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)).unwrap();
}

/// Runs a shell script inside: the code that it exits with, and everything that it writes.
pub(crate) fn sh(container: &Container, script: &str) -> (i32, String) {
    let script = format!("exec 2>&1; {script}");
    let options = ExecOptions::new(["sh", "-c", &script]).stdout(Stdio::Piped);
    let out = container.exec(options).unwrap().output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).trim_end().to_owned();
    match out.status {
        ExitStatus::Exited(code) => (code, text),
        other => panic!("{script}: {other}: {text}"),
    }
}

/// The output of a script that must succeed, each command of it.
#[allow(dead_code, reason = "not every test program uses it")]
#[track_caller]
pub(crate) fn works(container: &Container, script: &str) -> String {
    let (code, text) = sh(container, &format!("set -e; {script}"));
    assert_eq!(code, 0, "{script}: {text}");
    text
}

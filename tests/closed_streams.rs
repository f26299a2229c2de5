//! A host that has closed its own standard descriptors: what is opened for a start gets their numbers.

mod again;

use std::os::fd::AsRawFd;

use stockade::container::ContainerConfig;
use stockade::instance::{ExecOptions, StartOptions, Stdio};
use stockade::{Rootfs, Runtime};
use support::{require_fixture, require_root};

const NAME: &str = "a_host_without_standard_descriptors_can_start_and_exec";

#[test]
fn a_host_without_standard_descriptors_can_start_and_exec() {
    let _serial = support::serial();
    require_root!();
    let root = require_fixture!("busybox");
    if again::role().is_none() {
        let status = again::command(&[], NAME, "closed").status().unwrap();
        assert!(status.success(), "{status}");
        return;
    }
    let dirs = support::private_dirs();
    for fd in 0..3 {
        // SAFETY: nothing in this process writes to its standard streams until they are there again.
        unsafe { libc::close(fd) };
    }
    let found = std::panic::catch_unwind(|| {
        let rt = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap();
        let mut seen = Vec::new();
        for privileged in [false, true] {
            let config =
                ContainerConfig::builder("closed").rootfs(Rootfs::dir(&root)).args(["sleep", "1000"]);
            let config = if privileged { config.privileged() } else { config };
            let c = rt.create(config.build().unwrap()).unwrap();
            let pipes =
                c.start_with(StartOptions::new().stdout(Stdio::Piped).stderr(Stdio::Inherit)).unwrap();
            assert!(pipes.stdout.is_some());
            let script = "ls -l /proc/self/fd; echo; ls -l /proc/1/fd; pwd";
            let options = ExecOptions::new(["sh", "-c", script]).stdout(Stdio::Piped).stderr(Stdio::Inherit);
            let out = c.exec(options).unwrap().output().unwrap();
            seen.push((out.status, String::from_utf8(out.stdout).unwrap()));
            c.stop().unwrap();
            c.delete().unwrap();

            // A descriptor of the host that lay under a standard number would be a door out of the root.
            for fd in 0..3 {
                let config =
                    ContainerConfig::builder("door").rootfs(Rootfs::dir(&root)).args(["sleep", "1000"]);
                let config = if privileged { config.privileged() } else { config };
                let c = rt.create(config.cwd(format!("/proc/self/fd/{fd}")).build().unwrap()).unwrap();
                let inherit =
                    StartOptions::new().stdin(Stdio::Inherit).stdout(Stdio::Inherit).stderr(Stdio::Inherit);
                let e = c.start_with(inherit).unwrap_err();
                assert_eq!(e.step(), "enter the working directory", "{e}");
                c.delete().unwrap();
            }
        }
        seen
    });
    for fd in 0..3 {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        // SAFETY: gives the test harness streams again.
        unsafe { libc::dup2(null.as_raw_fd(), fd) };
        std::mem::forget(null);
    }
    let seen = found.expect("start and exec");
    for (status, text) in seen {
        assert!(status.success(), "{status}: {text}");
        let (own, init) = text.split_once("\n\n").unwrap();
        // ls has one descriptor more: the directory that it reads.
        for (list, streams) in [(own, ["null", "pipe", ""]), (init, ["null", "pipe", ""])] {
            let lines: Vec<&str> = list.lines().filter(|l| l.contains("->")).collect();
            for (n, want) in streams.iter().enumerate().filter(|(_, want)| !want.is_empty()) {
                let line = lines.iter().find(|l| l.contains(&format!(" {n} -> "))).unwrap();
                assert!(line.contains(want), "{list}");
            }
            assert!(!list.contains("/busybox") && !list.contains("memfd"), "{list}");
        }
        assert!(text.trim_end().ends_with("\n/"), "{text}");
    }
}

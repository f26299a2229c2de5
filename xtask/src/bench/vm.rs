//! `cargo xtask bench-vm`: from the start of a process to the first word of a guest's init, beside QEMU's microvm. In the
//! lane, whose KVM runs Linux.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::args::Args;
use crate::fixtures::at;
use crate::vm::{self, Ending, Streams};
use crate::{Result, paths, sh};

/// The program that measures.
const EXAMPLE: &str = "bench_vm";
/// In the machine's memory: its share of the host's files is slow.
const PLACE: &str = "/run/bench-vm";
const INIT: &str = "#!/bin/busybox sh\necho INIT\nexec /bin/busybox sleep 1000\n";
/// For all rounds together.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Builds what is measured, and runs it in the lane.
pub fn run(mut args: Args) -> Result {
    let rounds: u32 = args.value("--n")?.unwrap_or(5);
    let kernel: Option<String> = args.value("--kernel")?;
    args.done()?;
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "--features", "vm", "--example", EXAMPLE]))?;
    let dir = paths::target().join("bench/vm");
    at(&dir, fs::create_dir_all(&dir))?;
    let program = paths::target().join("release/examples").join(EXAMPLE);
    let script = format!(
        "mkdir {PLACE} && cp '{}'/* '{}' {PLACE} && exec {PLACE}/{EXAMPLE} {PLACE} {rounds}",
        dir.display(),
        program.display()
    );
    let mut options = vm::Options::new(vec!["sh".to_owned(), "-c".to_owned(), script], paths::root());
    options.kvm = true;
    // With two CPUs the emulation trips over code that the guest changes in itself: it hangs in its first second.
    options.cpus = 1;
    options.memory = "3G".to_owned();
    options.timeout = LIMIT;
    options.kernel = kernel.unwrap_or(options.kernel);
    options.visible = vec![paths::target()];
    let parts = vm::prepare(&options)?;
    let guest = parts.guest(INIT)?;
    let qemu = script_of(&parts.qemu()?);
    for (name, content) in [
        ("vmlinux", guest.vmlinux.as_slice()),
        ("bzimage", &guest.bzimage),
        ("initramfs", &guest.initramfs),
        ("qemu", qemu.as_bytes()),
    ] {
        let path = dir.join(name);
        at(&path, fs::write(&path, content))?;
        at(&path, fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))?;
    }
    println!("bench-vm: {rounds} rounds, guest Linux {}", guest.release);
    match vm::run(&parts, &options, Streams::passed_on())? {
        Ending::Status(0) => Ok(()),
        Ending::Status(status) => Err(format!("it ended with {status}")),
        Ending::TimedOut => Err(format!("out of time after {} s", LIMIT.as_secs())),
    }
}

/// A shell script that runs the command with more words.
fn script_of(command: &Command) -> String {
    let quoted = |word: &Path| vm::quoted(&word.to_string_lossy());
    let mut text = "#!/bin/sh\n".to_owned();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = writeln!(text, "export {}={}", name.display(), quoted(value.as_ref()));
        }
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| quoted(word.as_ref())).collect();
    let _ = writeln!(text, "exec {} \"$@\"", words.join(" "));
    text
}

//! `cargo xtask bench-vm`: from the start of a process to the first word of a guest's init, beside QEMU's microvm and,
//! where its program is given, Firecracker. In the lane, whose KVM runs Linux.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::args::Args;
use crate::fixtures::{at, remove};
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
    let firecracker: Option<PathBuf> = args.value("--firecracker")?;
    args.done()?;
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "--features", "vm", "--example", EXAMPLE]))?;
    let dir = paths::target().join("bench/vm");
    remove(&dir)?;
    at(&dir, fs::create_dir_all(&dir))?;
    let program = paths::target().join("release/examples").join(EXAMPLE);
    let mut options = vm::Options::new(Vec::new(), paths::root());
    options.kvm = true;
    options.memory = "3G".to_owned();
    options.timeout = LIMIT;
    options.kernel = kernel.unwrap_or(options.kernel);
    options.visible = vec![paths::target()];
    let parts = vm::prepare(&options)?;
    let guest = parts.guest(INIT)?;
    let quoted = |path: &Path| vm::quoted(&path.to_string_lossy());
    let mut qemu = script_of(&parts.qemu()?);
    let mut tools = String::new();
    if let Some(dir) = parts.unpacked_tools() {
        tools = format!("cp -r {} {PLACE}/tools && ", quoted(dir));
        qemu = qemu.replace(&*dir.to_string_lossy(), &format!("{PLACE}/tools"));
    }
    let script = format!(
        "mkdir {PLACE} && cp {}/* {} {PLACE} && {tools}exec {PLACE}/{EXAMPLE} {PLACE} {rounds} {} {}",
        quoted(&dir),
        quoted(&program),
        quoted(&guest.modules),
        quoted(&paths::fixtures().join("busybox"))
    );
    options.command = vec!["sh".to_owned(), "-c".to_owned(), script];
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
    if let Some(program) = firecracker {
        at(&program, fs::copy(&program, dir.join("firecracker")))?;
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

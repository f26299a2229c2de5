//! A virtual machine's whole life: `cargo run --release --features vm --example vm_quickstart [-- KERNEL MODULES ROOT]`.
//!
//! It packs a root file system into an image, boots a kernel with it, runs a command, and stops. Without arguments it takes
//! the kernel that `cargo xtask vm` has unpacked and the busybox root of `cargo xtask setup`. It needs `/dev/kvm` and
//! `mkfs.ext4`; where the machine's own KVM runs no Linux, there is one that does in the lane (see README.md).
#![allow(clippy::print_stdout, reason = "an example")]

mod vm_guest;

use std::time::{Duration, Instant};

use stockade::instance::{ExecOptions, ShutdownOptions, Stdio, WaitOptions};
use stockade::vm::{Guest, PackImage, RootMode};
use stockade::{Rootfs, Runtime, Vm, VmConfig};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let files = vm_guest::Files::from_args()?;
    println!("kernel {}", files.kernel.display());
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let runtime = Runtime::builder().state_dir(at("state")).run_dir(at("run")).open()?;

    let root = files.root.canonicalize()?;
    let image = step("pack the root into an image", || PackImage::new(Rootfs::dir(root)).run(at("images")))?;
    let config = VmConfig::builder("quickstart")
        .kernel(&files.kernel)
        .guest(Guest::new(&files.modules).root(image, RootMode::Overlay))
        .command_line("console=ttyS0 quiet panic=-1 pci=off")
        .memory(256 << 20)
        .ephemeral()
        .build()?;
    let vm = step("make the machine", || runtime.create(config))?;
    let lived = life(&vm);
    if lived.is_err() {
        println!("the console:\n{}", vm.console_log().text());
    }
    lived
}

fn life(vm: &Vm) -> Result<()> {
    let patient = || WaitOptions::new().deadline(PATIENCE);
    step("start it", || vm.start())?;
    step("wait for the guest", || vm.wait_agent(patient()))?;
    let options = ExecOptions::new(["sh", "-c", "uname -sr; cat /proc/mounts | head -n 1"]);
    let options = options.stdout(Stdio::Piped).deadline(PATIENCE);
    let output = step("run a command", || vm.exec(options)?.output())?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    println!("  {}", output.status);
    let state = step("ask the guest for its state", || vm.guest_state(patient()))?;
    println!(
        "  {} MiB of memory, {} MiB free, up for {:?}",
        state.memory_total >> 20,
        state.memory_available >> 20,
        state.uptime
    );
    let counts = vm.exit_counts();
    step("shut down", || vm.shutdown_with(ShutdownOptions::new().deadline(PATIENCE)))?;
    let reason = vm.exit_reason().map(|reason| reason.to_string()).unwrap_or_default();
    println!("  {reason}; {} exits to this process before", counts.total());
    Ok(())
}

/// Does one thing, and says how long it took.
fn step<T>(what: &str, run: impl FnOnce() -> stockade::Result<T>) -> stockade::Result<T> {
    let begin = Instant::now();
    let done = run();
    println!("{:>9.1} ms  {what}", begin.elapsed().as_secs_f64() * 1e3);
    done
}

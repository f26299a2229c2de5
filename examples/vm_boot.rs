//! Boots a kernel in this process and shows its console until it ends.
//!
//! ```sh
//! cargo run --release --features vm --example vm_boot -- KERNEL [INITRAMFS [COMMAND LINE]]
//! ```
//!
//! KERNEL is a vmlinux or a bzImage. It needs `/dev/kvm`; on a machine whose KVM runs no Linux,
//! `cargo xtask vm --kvm -- target/release/examples/vm_boot ...` has one that does.
#![allow(clippy::print_stdout, reason = "an example")]

use std::io::Write;
use std::time::{Duration, Instant};

use stockade::{Runtime, VmConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let kernel = args.next().ok_or("usage: vm_boot KERNEL [INITRAMFS [COMMAND LINE]]")?;
    let dir = tempfile::tempdir()?;
    let runtime =
        Runtime::builder().state_dir(dir.path().join("state")).run_dir(dir.path().join("run")).open()?;
    let mut config = VmConfig::builder("guest").kernel(kernel).memory(256 << 20).ephemeral();
    if let Some(initramfs) = args.next() {
        config = config.initramfs(initramfs);
    }
    if let Some(line) = args.next() {
        config = config.command_line(line);
    }
    let vm = runtime.create(config.build()?)?;

    let begin = Instant::now();
    vm.start()?;
    let started = begin.elapsed();
    let mut shown = 0;
    loop {
        let ended = vm.exit_reason();
        let new = vm.console_since(shown);
        shown = new.end();
        std::io::stdout().write_all(&new.bytes)?;
        std::io::stdout().flush()?;
        if let Some(reason) = ended {
            println!(
                "\n{reason}, after {:?}; started in {started:?}; {:?}",
                begin.elapsed(),
                vm.exit_counts()
            );
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

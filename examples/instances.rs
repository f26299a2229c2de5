//! One program for containers and virtual machines: what follows `main` knows only `Arc<dyn Instance>`.
//!
//! ```sh
//! cargo run --release --features vm --example instances [-- KERNEL MODULES ROOT]
//! ```
//!
//! As root. Where there is no KVM that runs Linux, the virtual machine is left out with the reason.
#![allow(clippy::print_stdout, reason = "an example")]

mod vm_guest;

use std::sync::Arc;
use std::time::Duration;

use stockade::instance::{
    ExecOptions, FreezeOptions, Instance, ShutdownOptions, StartOptions, Stdio, WaitOptions,
};
use stockade::vm::{Guest, PackImage, RootMode};
use stockade::{ContainerConfig, Rootfs, Runtime, VmConfig};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let files = vm_guest::Files::from_args()?;
    let root = files.root.canonicalize()?;
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let runtime = Runtime::builder().state_dir(at("state")).run_dir(at("run")).open()?;

    // The same root for both, which neither changes.
    let script = "trap 'exit 0' TERM; while :; do sleep 1; done";
    let config = ContainerConfig::builder("container")
        .rootfs(Rootfs::overlay([&root]))
        .args(["sh", "-c", script])
        .build()?;
    let container: Arc<dyn Instance> = runtime.create(config)?;
    use_it(&container)?;

    if let Err(why) = stockade::vm::probe() {
        println!("no virtual machine: {why}");
        return Ok(());
    }
    let image = PackImage::new(Rootfs::dir(&root)).run(at("images"))?;
    let config = VmConfig::builder("machine")
        .kernel(&files.kernel)
        .guest(Guest::new(&files.modules).root(image, RootMode::Overlay))
        .memory(256 << 20)
        .build()?;
    let machine: Arc<dyn Instance> = runtime.create(config)?;
    use_it(&machine)
}

fn use_it(instance: &Arc<dyn Instance>) -> Result<()> {
    println!("{} ({})", instance.id(), instance.kind().as_str());
    instance.start_with(StartOptions::default())?;
    println!("  is {:?}", instance.status());
    let exec = instance.exec().ok_or("it runs no commands")?;
    let options = ExecOptions::new(["sh", "-c", "echo from inside: $(uname -r), $(id -u); exit 3"]);
    let mut command = exec.exec(options.stdout(Stdio::Piped).deadline(PATIENCE))?;
    let said = std::io::read_to_string(std::fs::File::from(command.take_stdout().ok_or("no output")?))?;
    print!("  {said}");
    println!("  the command: {}", command.wait()?);
    instance.freeze_with(FreezeOptions::new().deadline(PATIENCE))?;
    println!("  is {:?}", instance.status());
    instance.unfreeze()?;
    instance.shutdown_with(ShutdownOptions::new().deadline(PATIENCE))?;
    println!("  ended: {}", instance.wait_with(WaitOptions::new().deadline(PATIENCE))?);
    instance.delete()?;
    Ok(())
}

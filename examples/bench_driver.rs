//! The library's side of `cargo xtask bench-peers`: one run for each line on standard input, its microseconds on
//! standard output.
//!
//! `bench_driver ROW`, where ROW is `stockade` (privileged, what the floor program does), `stockade_userns` (the
//! same in a user namespace of its own, which is the default), `stockade_pool` and `stockade_userns_pool` (from a
//! prewarmed sandbox), `stockade_networks` (into a prewarmed network namespace), `stockade_mounts` (on a host with 1,000
//! mounts, from the spawner thread), `stockade_2gib` and `stockade_1gib` (the first one from a host with 1 GiB
//! resident in 4 KiB pages), `exec` (a command in a running container) or `throughput` (the mean of a loop of as many
//! runs as `STOCKADE_BENCH_LOOP` says). A second figure is the time from the call of `create`, or of `exec`, until the
//! call returns that waits for the program's execve: the socket that execve closes has ended by then.
//!
//! `neighbours` is none of them: it keeps as many containers running as the line says.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade::caps::CapabilitySets;
use stockade::container::{Container, ContainerBuilder, ContainerConfig, SeccompConfig};
use stockade::instance::{ExecOptions, StartOptions, Stdio};
use stockade::{Rootfs, Runtime};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn env(name: &str) -> Result<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set").into())
}

/// The floor's work: six namespaces (a seventh for `userns`), the OCI mounts with masks, three capabilities, a
/// cgroup; no loopback and no seccomp, as there. `Inherit` because the floor does not touch its streams.
fn config(name: &str, privileged: bool) -> Result<ContainerBuilder> {
    let builder = ContainerConfig::builder(name)
        .ephemeral()
        .rootfs(Rootfs::dir(env("STOCKADE_BENCH_ROOTFS")?))
        .read_only_root()
        .capabilities(CapabilitySets::oci_default())
        .seccomp(SeccompConfig::Unconfined)
        .without_loopback();
    Ok(if privileged { builder.privileged() } else { builder })
}

fn full_run(rt: &Runtime, privileged: bool) -> Result<(f64, f64)> {
    let config = config("run", privileged)?.args(["/bin/true"]).build()?;
    let start = Instant::now();
    let c = rt.create(config)?;
    let inherit = StartOptions::new().stdin(Stdio::Inherit).stdout(Stdio::Inherit).stderr(Stdio::Inherit);
    c.start_with(inherit)?;
    let to_exec = start.elapsed();
    let status = c.wait()?;
    c.delete()?;
    let total = start.elapsed();
    if !status.success() {
        return Err(format!("the container {status}").into());
    }
    Ok((total.as_secs_f64() * 1e6, to_exec.as_secs_f64() * 1e6))
}

/// Sandboxes, or network namespaces, that are kept ready.
const POOL: usize = 3;

/// A run from a sandbox.
fn pooled_run(rt: &Runtime, privileged: bool) -> Result<(f64, f64)> {
    let config = config("template", privileged)?.build()?;
    full(|| rt.prewarmed(&config))?;
    full_run(rt, privileged)
}

/// Waits until a pool's thread is done with making what was taken: it would take the processor away.
fn full(ready: impl Fn() -> usize) -> Result {
    for _ in 0..1000 {
        if ready() == POOL {
            std::thread::sleep(Duration::from_millis(2));
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err("the pool is not filled".into())
}

/// Runs as fast as one thread can make them, and the mean of one.
fn looped(rt: &Runtime) -> Result<(f64, f64)> {
    let count: u32 = std::env::var("STOCKADE_BENCH_LOOP")?.parse()?;
    let (start, mut to_exec) = (Instant::now(), 0.0);
    for _ in 0..count {
        to_exec += full_run(rt, true)?.1;
    }
    Ok((start.elapsed().as_secs_f64() * 1e6 / f64::from(count), to_exec / f64::from(count)))
}

/// Keeps as many containers running as each line of the input says, and answers when they run.
fn neighbours(rt: &Runtime) -> Result {
    let mut running = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let wanted: usize = line?.trim().parse()?;
        while running.len() > wanted {
            let last: Option<Arc<Container>> = running.pop();
            last.map_or(Ok(()), |c| c.stop())?;
        }
        while running.len() < wanted {
            let config = config(&format!("n{}", running.len()), true)?;
            let c = rt.create(config.args(["/bin/sleep", "100000"]).build()?)?;
            c.start()?;
            running.push(c);
        }
        writeln!(std::io::stdout(), "{wanted}")?;
    }
    running.iter().try_for_each(|c| c.stop())?;
    Ok(())
}

fn exec_run(c: &Arc<Container>) -> Result<(f64, f64)> {
    let start = Instant::now();
    let inherit =
        ExecOptions::new(["/bin/true"]).stdin(Stdio::Inherit).stdout(Stdio::Inherit).stderr(Stdio::Inherit);
    let process = c.exec(inherit)?;
    let to_exec = start.elapsed();
    let status = process.wait()?;
    let total = start.elapsed();
    if !status.success() {
        return Err(format!("the command {status}").into());
    }
    Ok((total.as_secs_f64() * 1e6, to_exec.as_secs_f64() * 1e6))
}

/// Memory that is resident in 4 KiB pages, as a long-lived heap is.
fn ballast(bytes: usize) -> Result<Vec<u8>> {
    let mut memory = Vec::<u8>::with_capacity(bytes);
    // SAFETY: advice about the pages of an allocation that is ours.
    if unsafe {
        libc::madvise(memory.as_mut_ptr().map_addr(|a| a & !4095).cast(), bytes, libc::MADV_NOHUGEPAGE)
    } != 0
    {
        return Err(std::io::Error::last_os_error().into());
    }
    memory.resize(bytes, 1);
    Ok(memory)
}

/// Gives this process a mount namespace of its own with so many mounts more.
fn many_mounts(n: usize) -> Result {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    // SAFETY: this process has one thread, which shares nothing that the call takes away.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let dir = env("STOCKADE_BENCH_DIR")?.join("mounts");
    std::fs::create_dir_all(&dir)?;
    for i in 0..n {
        let place = dir.join(i.to_string());
        std::fs::create_dir(&place)?;
        mount_bind(&place, &place)?;
    }
    Ok(())
}

fn main() -> Result {
    let row = std::env::args().nth(1).unwrap_or_default();
    let _ballast = match &*row {
        "stockade_1gib" => ballast(1 << 30)?,
        "stockade_2gib" => ballast(2 << 30)?,
        _ => Vec::new(),
    };
    if row == "stockade_mounts" {
        many_mounts(1000)?;
    }
    let dir = env("STOCKADE_BENCH_DIR")?.join(&row);
    let builder = Runtime::builder()
        .state_dir(dir.join("state"))
        .run_dir(dir.join("run"))
        .cgroup(env("STOCKADE_BENCH_CGROUP")?);
    let rt = if row == "stockade_mounts" { builder.spawner_thread() } else { builder }.open()?;
    if row == "neighbours" {
        return neighbours(&rt);
    }
    let target = if row == "exec" {
        let c = rt.create(config("target", true)?.args(["/bin/sleep", "100000"]).build()?)?;
        c.start()?;
        Some(c)
    } else {
        None
    };
    if row.ends_with("_pool") {
        rt.prewarm(config("template", row == "stockade_pool")?.build()?, POOL)?;
    }
    if row == "stockade_networks" {
        rt.prewarm_networks(POOL)?;
    }
    let (stdin, mut stdout) = (std::io::stdin().lock(), std::io::stdout());
    for line in stdin.lines() {
        line?;
        let (total, to_exec) = match (&*row, &target) {
            ("exec", Some(c)) => exec_run(c)?,
            ("stockade" | "stockade_1gib" | "stockade_2gib" | "stockade_mounts", _) => full_run(&rt, true)?,
            ("throughput", _) => looped(&rt)?,
            ("stockade_userns", _) => full_run(&rt, false)?,
            ("stockade_pool", _) => pooled_run(&rt, true)?,
            ("stockade_networks", _) => {
                full(|| rt.prewarmed_networks())?;
                full_run(&rt, true)?
            }
            ("stockade_userns_pool", _) => pooled_run(&rt, false)?,
            _ => return Err(format!("unknown row `{row}`").into()),
        };
        writeln!(stdout, "{total:.1} {to_exec:.1}")?;
        stdout.flush()?;
    }
    if let Some(c) = target {
        c.stop()?;
    }
    Ok(())
}

//! A container's whole life, on this machine's own files: `cargo run --release --example quickstart`.
//!
//! Runs as root, and as an ordinary user where the host allows user namespaces to everybody. An ordinary user gets
//! a container with one user id, and a cgroup only where one is delegated: what that leaves out is printed as
//! `skipped: REASON`. Records go to a directory of its own, which it removes. The last lines show that nothing of
//! the container is left.
//!
//! `Rootfs::host()` is for a first try like this one. It is no sandbox: inside, the host's files can be read.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to whoever runs it")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use stockade::cgroup::{Enforce, Hierarchy, Limits};
use stockade::container::{CgroupConfig, Container};
use stockade::instance::{DeleteMode, DeleteOptions, ExecOptions, Stdio};
use stockade::{ContainerConfig, ErrorKind, InstanceId, Rootfs, Runtime};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    match quickstart() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\nquickstart: {why}");
            ExitCode::FAILURE
        }
    }
}

fn quickstart() -> Result {
    println!("a container on this machine's own files, as user {}", rustix::process::geteuid().as_raw());
    let before = Traces::now()?;
    let dir = tempfile::Builder::new().prefix("stockade-quickstart-").tempdir()?;
    // Dropped before the directory goes, so also after an error nothing stays.
    let rest = Rest(dir.path());
    life(dir.path()).map_err(explain)?;
    drop(rest);
    dir.close()?;
    before.compare()
}

/// Opens the runtime on directories of this example's own; `Runtime::open()` takes the usual ones.
fn open(dir: &Path) -> stockade::Result<Runtime> {
    Runtime::builder().state_dir(dir.join("state")).run_dir(dir.join("run")).open()
}

fn life(dir: &Path) -> Result {
    let id: InstanceId = "quickstart".parse()?;
    let runtime = step("open the runtime", || open(dir), |_| dir.display().to_string())?;

    // What the container is to be like. Limits come with a cgroup of its own, where it may have one.
    let cgroup = may_make_cgroups();
    let mut config = ContainerConfig::builder("quickstart").rootfs(Rootfs::host()).args(["sleep", "1000"]);
    config = match &cgroup {
        Ok(()) => {
            let limits = Limits::new().pids_max(64).memory_max(256 << 20);
            config.limits(limits).enforce(Enforce::BestEffort)
        }
        Err(_) => config.cgroup(CgroupConfig::None),
    };
    let config = config.build()?;

    let container = step("create", || runtime.create(config), |c| c.id().to_string())?;
    step("start", || container.start(), |()| whereabouts(&container))?;
    match &cgroup {
        Ok(()) => limits(&container)?,
        Err(why) => note("limits", format!("skipped: {why}")),
    }

    let release = step(
        "run `cat /etc/os-release`",
        || run(&container, &["cat", "/etc/os-release"]),
        |text| text.lines().find(|l| l.starts_with("PRETTY_NAME=")).unwrap_or("no name in it").to_owned(),
    )?;
    if release != std::fs::read_to_string("/etc/os-release")? {
        return Err("the container has another /etc/os-release than this machine".into());
    }
    let shell = "echo host $(hostname), user $(id -u), processes $(ls -d /proc/[0-9]* | wc -l)";
    step("run a line of shell", || run(&container, &["sh", "-c", shell]), |text| text.trim().to_owned())?;

    match &cgroup {
        Ok(()) => {
            step("freeze", || container.freeze(), |()| container.status().to_string())?;
            step("thaw", || container.unfreeze(), |()| container.status().to_string())?;
        }
        Err(why) => note("freeze and thaw", format!("skipped: {why}")),
    }

    // A program that is started anew finds what an earlier one left running.
    drop(container);
    runtime.close();
    let runtime = step("open the runtime again", || open(dir), |_| String::new())?;
    let container =
        step("find the container", || runtime.container(&id), |c| format!("{}, {}", c.id(), c.status()))?;

    step("stop", || container.stop(), |()| container.status().to_string())?;
    step("delete", || container.delete(), |()| format!("{} containers left", count(&runtime)))?;
    Ok(())
}

/// Runs a command in the container and gives what it printed.
fn run(container: &Container, command: &[&str]) -> Result<String> {
    let options = ExecOptions::new(command.iter().copied()).stdout(Stdio::Piped).stderr(Stdio::Inherit);
    let out = container.exec(options)?.output()?;
    if !out.status.success() {
        return Err(format!("`{}` {}", command.join(" "), out.status).into());
    }
    Ok(String::from_utf8(out.stdout)?)
}

/// Says whether this process may make a cgroup, by making one.
fn may_make_cgroups() -> stockade::Result<()> {
    let own = Hierarchy::detect()?;
    let name = format!("stockade-quickstart-{}", std::process::id());
    own.own().create_child(&name)?.remove(None)
}

/// Adds what often keeps a user namespace from being made or used.
fn explain(why: Box<dyn std::error::Error>) -> Box<dyn std::error::Error> {
    let denied =
        why.downcast_ref::<stockade::Error>().is_some_and(|e| e.kind() == ErrorKind::PermissionDenied);
    let switches = [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    let set = |(file, value): &(&str, &str)| std::fs::read_to_string(file).is_ok_and(|v| v.trim() == *value);
    match switches.into_iter().find(set) {
        Some((file, value)) if denied => {
            format!("{why}\n{file} is {value}: this machine keeps user namespaces from ordinary users").into()
        }
        _ => why,
    }
}

fn limits(container: &Container) -> Result {
    let skipped = container.info()?.skipped_limits;
    let config = container.config();
    for (file, limit) in [("pids.max", config.limits().pids_max), ("memory.max", config.limits().memory_max)]
    {
        let Some(limit) = limit else { continue };
        match skipped.iter().find(|s| s.starts_with(file)) {
            Some(why) => note("limit", format!("skipped: {why}")),
            None => note("limit", format!("{file} {limit}")),
        }
    }
    Ok(())
}

fn whereabouts(container: &Container) -> String {
    let Ok(info) = container.info() else { return String::new() };
    let ids = info.id_map.and_then(|map| map.uids().first().map(|range| range.host_ids()));
    match (info.pid, ids) {
        (Some(pid), Some(ids)) => {
            format!("process {pid}, root inside is user {} of {} here", ids.start, ids.end - ids.start)
        }
        _ => info.status.to_string(),
    }
}

fn count(runtime: &Runtime) -> usize {
    runtime.list().map_or(0, |all| all.len())
}

/// Does one step, and prints how long it took and what came of it.
fn step<T, E>(
    name: &str,
    work: impl FnOnce() -> Result<T, E>,
    say: impl FnOnce(&T) -> String,
) -> Result<T, E> {
    let start = Instant::now();
    let done = work()?;
    let took = start.elapsed();
    println!("{:>9.3} ms  {name:<26} {}", took.as_secs_f64() * 1000.0, say(&done));
    Ok(done)
}

fn note(name: &str, text: impl std::fmt::Display) {
    println!("{:>12}  {name:<26} {text}", "");
}

/// Deletes whatever is in the runtime of this example.
struct Rest<'a>(&'a Path);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        for left in open(self.0).and_then(|rt| rt.list()).unwrap_or_default() {
            if let Err(why) = left.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)) {
                eprintln!("quickstart: {why}");
            }
        }
    }
}

/// What a container could leave on the host.
struct Traces {
    cgroups: BTreeSet<String>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
    descriptors: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Traces {
    fn now() -> Result<Self> {
        Ok(Self {
            cgroups: Hierarchy::detect().map(|h| names(h.own().path())).unwrap_or_default(),
            mounts: std::fs::read_to_string("/proc/self/mountinfo")?.lines().map(str::to_owned).collect(),
            processes: std::fs::read_to_string("/proc/thread-self/children")?
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            descriptors: descriptors()?,
            files: names(&std::env::temp_dir()),
        })
    }

    fn compare(&self) -> Result {
        let now = Self::now()?;
        println!("what is left of it:");
        let mut clean = true;
        for (what, before, now) in [
            ("cgroups below our own", &self.cgroups, &now.cgroups),
            ("mounts", &self.mounts, &now.mounts),
            ("child processes", &self.processes, &now.processes),
            ("open descriptors", &self.descriptors, &now.descriptors),
            ("files in the temporary directory", &self.files, &now.files),
        ] {
            let left: Vec<_> = now.difference(before).collect();
            clean &= left.is_empty();
            let list = if left.is_empty() { String::new() } else { format!(" {left:?}") };
            println!("{:>12}  {what}{list}", left.len());
        }
        if clean { Ok(()) } else { Err("something was left".into()) }
    }
}

/// What is there of this example's: others may come and go meanwhile.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().display().to_string()).filter(|n| n.contains("quickstart")).collect()
}

/// What is open; the directory that is read here has another number each time.
fn descriptors() -> Result<BTreeSet<String>> {
    let entries = std::fs::read_dir("/proc/self/fd")?.flatten();
    let open = entries.filter_map(|e| {
        let target = std::fs::read_link(e.path()).ok()?;
        let shown = format!("{} -> {}", e.file_name().display(), target.display());
        (!target.ends_with("fd")).then_some(shown)
    });
    Ok(open.collect())
}

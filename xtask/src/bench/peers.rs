//! The rows of other runtimes, each doing the floor's work as far as it can: six namespaces, the OCI mounts with
//! read-only and masked paths, three capabilities, a cgroup of its own, a read-only root, `/bin/true`.
//!
//! Before it is measured, a peer runs once with a payload that prints its namespaces: all six must differ from
//! ours. A peer that is not installed, or that fails this, is left out, and that is said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::guard::ROOTFS;
use super::measure::{Place, Wanted};
use super::ours::LOOP;
use super::row::{Row, Runner, append, tail};
use crate::fixtures::at;
use crate::{Result, paths, sh};

const NAMESPACES: [&str; 6] = ["mnt", "pid", "uts", "ipc", "net", "cgroup"];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
];
const CAPABILITIES: [&str; 3] = ["audit_write", "kill", "net_bind_service"];
/// The container in which the exec rows run.
const HELD: &str = "held";

/// What a peer is made to execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    /// Measured.
    True,
    /// Prints a line for each of [`NAMESPACES`].
    Proof,
    /// Stays.
    Sleep,
}

impl Payload {
    const ALL: [Self; 3] = [Self::True, Self::Proof, Self::Sleep];

    fn words(self) -> &'static [&'static str] {
        const PRINT: &str =
            "for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n || echo none; done";
        match self {
            Self::True => &["/bin/true"],
            Self::Proof => &["/bin/sh", "-c", PRINT],
            Self::Sleep => &["/bin/sleep", "100000"],
        }
    }

    /// Its bundle, for the runtimes that take one.
    fn bundle(self, scratch: &Path) -> PathBuf {
        scratch.join(format!("bundle-{self:?}").to_lowercase())
    }
}

/// Makes the command that executes the payload under this name.
type Make = Box<dyn Fn(Payload, &str) -> Command>;

/// The rows of the peers that work here.
pub fn rows(place: &Place, wanted: &Wanted) -> Result<Vec<Row>> {
    bundles(place)?;
    lxc_config(place)?;
    let scratch = &place.scratch;
    let mut rows = Vec::new();
    let mut add =
        |name: &'static str, base: &'static str, program: &str, make: fn(PathBuf, PathBuf) -> Make| {
            if !wanted.has(name) {
                return;
            }
            let Some(program) = paths::program(program) else {
                eprintln!("bench-peers: {name} left out: {program} is not installed");
                return;
            };
            match row(name, base, make(program, scratch.clone()), place) {
                Ok(row) => rows.push(row),
                Err(why) => eprintln!("bench-peers: {name} LEFT OUT: {why}{}", tail(&place.log(name))),
            }
        };
    add("bwrap", "floor", "bwrap", bwrap);
    add("lxc_execute", "floor", "lxc-execute", lxc_execute);
    add("crun", "floor", "crun", oci_run);
    add("runc", "floor", "runc", oci_run);
    add("crun_throughput", "crun_throughput", "crun", oci_run);
    for (name, program) in [("crun_exec", "crun"), ("runc_exec", "runc")] {
        if wanted.has(name)
            && let Some(path) = paths::program(program)
            && let Err(why) = hold(&path, place, name)
        {
            eprintln!("bench-peers: {name}: no container to exec in: {why}{}", tail(&place.log(name)));
        }
        add(name, "floor_exec", program, oci_exec);
    }
    Ok(rows)
}

/// Removes the containers of the exec rows. What is left otherwise ends with the cgroup.
pub fn end(place: &Place) {
    for program in ["crun", "runc"].into_iter().filter_map(paths::program) {
        if state(&program, &place.scratch).join(HELD).exists() {
            let mut delete = oci(&program, &place.scratch);
            delete.args(["delete", "--force", HELD]);
            if let Err(why) = sh::output(&mut delete) {
                eprintln!("bench-peers: {why}");
            }
        }
    }
}

/// A row, after the proof that its command does what it says.
fn row(name: &'static str, base: &'static str, make: Make, place: &Place) -> Result<Row> {
    let out = sh::output(&mut make(Payload::Proof, "proof"))?;
    let inside: Vec<&str> = out.lines().collect();
    for (i, kind) in NAMESPACES.into_iter().enumerate() {
        let link = PathBuf::from(format!("/proc/self/ns/{kind}"));
        let ours = at(&link, fs::read_link(&link))?;
        let theirs = inside.get(i).copied().unwrap_or("none");
        if !theirs.starts_with(kind) || Path::new(theirs) == ours {
            return Err(format!("its payload has no {kind} namespace of its own: `{}`", out.trim()));
        }
    }
    let make = move |n| make(Payload::True, &format!("run{n}"));
    let runner = if name == "crun_throughput" {
        Runner::Loop(LOOP, Box::new(make))
    } else {
        Runner::Command(Box::new(make))
    };
    Ok(Row::new(name, base, runner, place.log(name)))
}

/// Where an OCI runtime keeps its state.
fn state(program: &Path, scratch: &Path) -> PathBuf {
    scratch.join(program.file_name().unwrap_or_default())
}

fn oci(program: &Path, scratch: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(state(program, scratch));
    // crun has the cgroup manager as a global option; runc uses cgroupfs unless told otherwise.
    if program.ends_with("crun") {
        command.arg("--cgroup-manager=cgroupfs");
    }
    command
}

fn oci_run(program: PathBuf, scratch: PathBuf) -> Make {
    Box::new(move |payload, name| {
        let mut command = oci(&program, &scratch);
        command.args(["run", "--bundle"]).arg(payload.bundle(&scratch)).arg(name);
        command
    })
}

fn oci_exec(program: PathBuf, scratch: PathBuf) -> Make {
    Box::new(move |payload, _| {
        let mut command = oci(&program, &scratch);
        command.args(["exec", HELD]).args(payload.words());
        command
    })
}

/// Starts the container for the exec row.
fn hold(program: &Path, place: &Place, row: &str) -> Result {
    let mut command = oci(program, &place.scratch);
    command.args(["run", "--detach", "--bundle"]).arg(Payload::Sleep.bundle(&place.scratch)).arg(HELD);
    sh::run(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(append(&place.log(row))?))
}

fn bundles(place: &Place) -> Result {
    for payload in Payload::ALL {
        let dir = payload.bundle(&place.scratch);
        at(&dir, fs::create_dir_all(&dir))?;
        let file = dir.join("config.json");
        at(&file, fs::write(&file, config(payload).to_string()))?;
    }
    Ok(())
}

/// The floor's work in the words of the OCI runtime specification.
fn config(payload: Payload) -> Value {
    let mount = |at: &str, kind: &str, options: &str| {
        let options: Vec<&str> = options.split(',').collect();
        json!({"destination": at, "type": kind, "source": kind, "options": options})
    };
    let capabilities: Vec<String> =
        CAPABILITIES.iter().map(|name| format!("CAP_{}", name.to_uppercase())).collect();
    let namespaces =
        ["mount", "pid", "uts", "ipc", "network", "cgroup"].map(|kind| json!({"type": kind})).to_vec();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": payload.words(),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                "inheritable": capabilities,
            },
            "noNewPrivileges": false,
        },
        "root": {"path": ROOTFS, "readonly": true},
        "hostname": "c",
        "mounts": [
            mount("/proc", "proc", "nosuid,noexec,nodev"),
            mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            mount("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
            mount("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
            mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
            mount("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
            mount("/sys/fs/cgroup", "cgroup", "nosuid,noexec,nodev,ro"),
        ],
        "linux": {
            // One path for all: a runtime runs one container at a time, but for the held one.
            "cgroupsPath": if payload == Payload::Sleep { "/perf/oci-held" } else { "/perf/oci" },
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

/// Bubblewrap makes no cgroup, and has no masked paths by that name.
fn bwrap(program: PathBuf, _scratch: PathBuf) -> Make {
    Box::new(move |payload, _| {
        let mut command = Command::new(&program);
        for kind in ["ipc", "pid", "net", "uts", "cgroup"] {
            command.arg(format!("--unshare-{kind}"));
        }
        command.args(["--hostname", "c", "--ro-bind", ROOTFS, "/", "--proc", "/proc", "--dev", "/dev"]);
        command.args(["--mqueue", "/dev/mqueue", "--ro-bind", "/sys", "/sys"]);
        for path in READ_ONLY.into_iter().filter(|path| Path::new(path).exists()) {
            command.args(["--ro-bind", path, path]);
        }
        for path in MASKED.map(Path::new) {
            if path.is_dir() {
                command.arg("--tmpfs").arg(path);
            } else if path.exists() {
                command.args(["--ro-bind", "/dev/null"]).arg(path);
            }
        }
        command.args(["--cap-drop", "ALL"]);
        for name in CAPABILITIES {
            command.args(["--cap-add".to_owned(), format!("CAP_{}", name.to_uppercase())]);
        }
        command.arg("--").args(payload.words());
        command
    })
}

fn lxc_execute(program: PathBuf, scratch: PathBuf) -> Make {
    Box::new(move |payload, name| {
        let mut command = Command::new(&program);
        command.arg("-P").arg(&scratch).args(["-n", name, "-f"]).arg(scratch.join("lxc.conf"));
        command.arg("--").args(payload.words());
        command
    })
}

fn lxc_config(place: &Place) -> Result {
    let file = place.scratch.join("lxc.conf");
    let text = format!(
        "lxc.rootfs.path = dir:{ROOTFS}\nlxc.uts.name = c\nlxc.net.0.type = empty\nlxc.autodev = 1\n\
         lxc.mount.auto = proc:mixed sys:ro cgroup:ro\nlxc.cap.keep = {}\nlxc.apparmor.profile = unconfined\n\
         lxc.cgroup.relative = 1\nlxc.cgroup.dir = perf/lxc\n",
        CAPABILITIES.join(" ")
    );
    at(&file, fs::write(&file, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_does_the_floors_work() {
        let config = config(Payload::True);
        assert_eq!(config["process"]["args"], json!(["/bin/true"]));
        assert_eq!(config["linux"]["namespaces"].as_array().map(Vec::len), Some(NAMESPACES.len()));
        assert_eq!(config["mounts"].as_array().map(Vec::len), Some(7));
        assert_eq!(config["process"]["capabilities"]["bounding"][2], json!("CAP_NET_BIND_SERVICE"));
        assert_eq!(config["root"]["readonly"], json!(true));
    }
}

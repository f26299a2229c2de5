//! The rows of this project: the floor and Stockade itself.

use std::process::Command;

use super::floor;
use super::guard::ROOTFS;
use super::measure::{Place, Wanted};
use super::row::{Driver, Row, Runner};
use crate::{Result, paths, sh};

/// The program that makes the library's calls, as a driver (see `row.rs`): `bench_driver ROW`, with the root in
/// `STOCKADE_BENCH_ROOTFS`, the parent cgroup in `STOCKADE_BENCH_CGROUP` and a directory on tmpfs for its records
/// in `STOCKADE_BENCH_DIR`.
const DRIVER: &str = "bench_driver";
/// The rows that it knows, and their units.
const LIBRARY: [(&str, &str); 10] = [
    ("stockade", "floor"),
    ("stockade_userns", "floor_userns"),
    ("stockade_1gib", "floor"),
    ("stockade_2gib", "floor"),
    ("stockade_mounts", "floor"),
    ("stockade_networks", "floor"),
    ("stockade_pool", "floor"),
    ("stockade_userns_pool", "floor_userns"),
    ("exec", "floor_exec"),
    ("throughput", "crun_throughput"),
];
/// Runs of a loop whose mean is one figure of `throughput` and `crun_throughput`.
pub const LOOP: u32 = 20;

/// Builds the command and the library's driver with optimisation.
pub fn build() -> Result {
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "--package", "stockade-cli"]))?;
    if !has_driver() {
        eprintln!("bench-peers: no examples/{DRIVER}.rs: the library's rows are left out");
        return Ok(());
    }
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "--example", DRIVER]))
}

fn has_driver() -> bool {
    paths::root().join("examples").join(DRIVER).with_extension("rs").is_file()
}

/// What the floor does, in its own words.
fn spec(name: &str, namespaces: &str) -> String {
    format!("name={name},ns={namespaces},cg=1,caps=1,mnt=oci,rootfs={ROOTFS}")
}

/// Starts the drivers of the wanted rows.
pub fn rows(place: &Place, wanted: &Wanted) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let held = spec("floor_exec", "mpuicn") + ",exe=/bin/sleep,arg=100000";
    for (name, mode, spec) in [
        ("floor", "--serve", spec("floor", "mpuicn")),
        ("floor_userns", "--serve", spec("floor_userns", "mpuicnU")),
        ("floor_exec", "--serve-exec", held),
    ] {
        if wanted.has(name) {
            let mut command = Command::new(floor());
            command.args([mode, &spec]).env("CGBASE", &place.cgroup);
            let log = place.log(name);
            rows.push(Row::new(name, name, Runner::Driver(Driver::start(&mut command, &log)?), log));
        }
    }
    if wanted.has("floor_cli") {
        let cgroup = place.cgroup.clone();
        // No counted round: the program then does its one uncounted run and ends.
        let make = move |_| {
            let mut command = Command::new(floor());
            command.args(["0", "0", &spec("floor_cli", "mpuicn")]).env("CGBASE", &cgroup).env("QUIET", "1");
            command
        };
        rows.push(Row::new("floor_cli", "floor", Runner::Command(Box::new(make)), place.log("floor_cli")));
    }
    if wanted.has("stockade_cli") {
        let scratch = place.scratch.join("stockade");
        // The floor's work, as the peers do it: no user namespace, no seccomp, a read-only root.
        let make = move |n| {
            let mut command = Command::new(paths::target().join("release/stockade"));
            command.args(["run", "--privileged", "--no-seccomp", "--read-only", "--rootfs", ROOTFS]);
            command.arg("--run-dir").arg(scratch.join("run")).arg("--state-dir").arg(scratch.join("state"));
            command.args(["--name", &format!("run{n}"), "--", "/bin/true"]);
            command
        };
        let log = place.log("stockade_cli");
        rows.push(Row::new("stockade_cli", "floor_cli", Runner::Command(Box::new(make)), log));
    }
    for (name, base) in LIBRARY.into_iter().filter(|(name, _)| has_driver() && wanted.has(name)) {
        rows.push(Row::new(name, base, Runner::Driver(library(place, name)?), place.log(name)));
    }
    Ok(rows)
}

/// The driver that keeps as many containers running as the last line that it got says.
pub fn neighbours(place: &Place) -> Result<Driver> {
    library(place, "neighbours")
}

fn library(place: &Place, row: &str) -> Result<Driver> {
    let mut command = Command::new(paths::target().join("release/examples").join(DRIVER));
    command
        .arg(row)
        .env("STOCKADE_BENCH_ROOTFS", ROOTFS)
        .env("STOCKADE_BENCH_CGROUP", &place.cgroup)
        .env("STOCKADE_BENCH_DIR", &place.scratch)
        .env("STOCKADE_BENCH_LOOP", LOOP.to_string());
    Driver::start(&mut command, &place.log(row))
}

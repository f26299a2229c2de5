//! The inner stage: starts the rows, takes turns between them, reports.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::guard::{CGROUP, SCRATCH, mount_cgroup2};
use super::row::Row;
use super::{Options, ours, peers, report};
use crate::Result;
use crate::fixtures::at;

/// Between two runs: the kernel takes namespaces apart in the background.
const GAP: Duration = Duration::from_millis(2);

/// Where the runs happen.
pub struct Place {
    /// Scratch files on tmpfs.
    pub scratch: PathBuf,
    /// The cgroup for the instances of every row, as an absolute path.
    pub cgroup: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        mount_cgroup2()?;
        // Ourselves in a leaf: a cgroup with processes in it cannot hand controllers on.
        let own = Path::new(CGROUP).join("self");
        let cgroup = Path::new(CGROUP).join("perf");
        for dir in [&own, &cgroup] {
            at(dir, fs::create_dir(dir))?;
        }
        let procs = own.join("cgroup.procs");
        at(&procs, fs::write(&procs, "0"))?;
        Ok(Self { scratch: PathBuf::from(SCRATCH), cgroup })
    }

    /// The file for a row's standard error.
    pub fn log(&self, row: &str) -> PathBuf {
        self.scratch.join(format!("{row}.log"))
    }
}

pub fn run(options: &Options) -> Result {
    let place = Place::new()?;
    let wanted = Wanted::new(options.only.as_deref());
    let mut rows = ours::rows(&place, &wanted)?;
    rows.extend(peers::rows(&place, &wanted)?);
    let order = |row: &Row| ORDER.iter().position(|name| *name == row.name).unwrap_or(ORDER.len());
    rows.sort_by_key(order);
    for asked in wanted.asked() {
        if !rows.iter().any(|row| row.name == asked) {
            eprintln!("bench-peers: no row `{asked}` here");
        }
    }

    eprintln!("bench-peers: {} rounds of {} rows, {}", options.rounds, rows.len(), machine());
    // One round more, not counted: caches and lazy kernel structures are warm afterwards.
    for round in 0..=options.rounds {
        for row in &mut rows {
            let time = row.once()?;
            if round > 0 {
                row.times.push(time);
            }
            sleep(GAP);
        }
    }
    if options.json {
        println!("{}", report::json(&rows));
    } else {
        print!("{}", report::table(&rows));
    }
    peers::end(&place);
    rows.into_iter().try_for_each(Row::end)
}

/// The order of the table.
const ORDER: &[&str] = &[
    "floor",
    "floor_userns",
    "stockade",
    "stockade_userns",
    "stockade_1gib",
    "stockade_2gib",
    "stockade_500",
    "stockade_mounts",
    "stockade_pool",
    "stockade_userns_pool",
    "floor_cli",
    "stockade_cli",
    "bwrap",
    "lxc_execute",
    "crun",
    "runc",
    "floor_exec",
    "exec",
    "crun_exec",
    "runc_exec",
];

/// Which rows were asked for.
pub struct Wanted(Option<Vec<String>>);

impl Wanted {
    fn new(only: Option<&str>) -> Self {
        Self(only.map(|list| list.split(',').map(str::to_owned).collect()))
    }

    /// Whether the row is wanted, by itself or as the unit of one that is.
    pub fn has(&self, name: &str) -> bool {
        // "Unit" as in the ratio columns of the table.
        let unit_of = |row: &str| match row {
            "stockade_userns" | "stockade_userns_pool" => "floor_userns",
            "exec" | "crun_exec" | "runc_exec" => "floor_exec",
            "stockade_cli" => "floor_cli",
            _ => "floor",
        };
        self.0.as_ref().is_none_or(|list| list.iter().any(|row| row == name || unit_of(row) == name))
    }

    fn asked(&self) -> &[String] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// What the figures depend on most.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cpus} CPUs, load {load}", kernel.trim())
}

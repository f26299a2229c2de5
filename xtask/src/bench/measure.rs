//! The inner stage: starts the rows, takes turns between them, reports.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::guard::{CGROUP, SCRATCH, mount_cgroup2};
use super::report::Series;
use super::row::{Driver, Row};
use super::{Options, ours, peers, report};
use crate::Result;
use crate::fixtures::at;

/// Between two runs: the kernel takes namespaces apart in the background.
const GAP: Duration = Duration::from_millis(2);
/// After neighbours were stopped, for the same reason.
const SETTLE: Duration = Duration::from_millis(500);
/// Rounds with one number of neighbours, before the turn of the next: as noise comes and goes, it meets all of them.
const BLOCK: u32 = 10;

/// Where the runs happen.
pub struct Place {
    /// Scratch files on tmpfs.
    pub scratch: PathBuf,
    /// The cgroup for the instances of every row, as an absolute path.
    pub cgroup: PathBuf,
}

impl Place {
    pub fn new() -> Result<Self> {
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
    let series = turns(&place, &mut rows, options)?;
    if options.json {
        println!("{}", report::json(&series));
    } else {
        print!("{}", report::tables(&series));
    }
    peers::end(&place);
    rows.into_iter().try_for_each(Row::end)
}

/// The rows in turns, and blocks of rounds with each number of neighbours in turns. What the neighbours' numbers are
/// compared with is the first of them.
fn turns(place: &Place, rows: &mut [Row], options: &Options) -> Result<Vec<Series>> {
    let beside = &options.beside;
    let alone = beside == &[0];
    let mut neighbours = if alone { None } else { Some(ours::neighbours(place)?) };
    let mut series = Vec::new();
    for row in &*rows {
        for (i, n) in beside.iter().enumerate() {
            let name = if *n == 0 { row.name.to_owned() } else { format!("{}+{n}", row.name) };
            let first = beside[0];
            let base = match (i, first) {
                (0, _) => row.base.to_owned(),
                (_, 0) => row.name.to_owned(),
                _ => format!("{}+{first}", row.name),
            };
            series.push(Series { name, base, times: Vec::new() });
        }
    }
    let mut left = options.rounds;
    while left > 0 {
        let block = if alone { left } else { left.min(BLOCK) };
        left -= block;
        for (i, n) in beside.iter().enumerate() {
            if let Some(driver) = &mut neighbours {
                let running = driver.once(&n.to_string())?;
                if running.trim() != n.to_string() {
                    return Err(format!("{n} containers beside: the driver answered `{}`", running.trim()));
                }
                sleep(SETTLE);
            }
            // One round more, not counted: caches and lazy kernel structures are warm afterwards.
            for round in 0..=block {
                for (j, row) in rows.iter_mut().enumerate() {
                    let times = row.once()?;
                    if round > 0 {
                        series[j * beside.len() + i].times.push(times);
                    }
                    sleep(GAP);
                }
            }
        }
    }
    neighbours.map_or(Ok(()), Driver::end)?;
    Ok(series)
}

/// The order of the table.
const ORDER: &[&str] = &[
    "floor",
    "floor_userns",
    "stockade",
    "stockade_userns",
    "stockade_1gib",
    "stockade_2gib",
    "stockade_mounts",
    "stockade_networks",
    "stockade_pool",
    "stockade_userns_pool",
    "floor_cli",
    "stockade_cli",
    "bwrap",
    "lxc_execute",
    "crun",
    "runc",
    "throughput",
    "crun_throughput",
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
            "throughput" => "crun_throughput",
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

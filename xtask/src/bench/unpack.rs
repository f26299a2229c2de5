//! `cargo xtask bench-unpack`: the Debian root unpacked by the library and by GNU tar, in memory and on disk, plain
//! and compressed; at the end both results are compared, file by file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::{self, Series};
use super::row::{Row, Runner};
use crate::args::Args;
use crate::fixtures::{at, remove};
use crate::{Result, paths, setup, sh};

/// The program that makes the library's call.
const EXAMPLE: &str = "unpack";

/// A pair of rows: GNU tar and ours on one archive in one place.
struct Pair {
    names: [&'static str; 2],
    place: Place,
    /// The compressing program; `None` for a plain archive.
    program: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Memory,
    Disk,
}

const PAIRS: &[Pair] = &[
    Pair { names: ["tar_mem", "ours_mem"], place: Place::Memory, program: None },
    Pair { names: ["tar_mem_gzip", "ours_mem_gzip"], place: Place::Memory, program: Some("gzip") },
    Pair { names: ["tar_mem_zstd", "ours_mem_zstd"], place: Place::Memory, program: Some("zstd") },
    Pair { names: ["tar_mem_xz", "ours_mem_xz"], place: Place::Memory, program: Some("xz") },
    Pair { names: ["tar_disk", "ours_disk"], place: Place::Disk, program: None },
    Pair { names: ["tar_disk_zstd", "ours_disk_zstd"], place: Place::Disk, program: Some("zstd") },
];

/// Directories that go with the measurement.
struct Scratch {
    memory: PathBuf,
    disk: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self> {
        let name = format!("stockade-unpack-{}", std::process::id());
        let scratch = Self {
            memory: Path::new("/dev/shm").join(&name),
            disk: paths::target().join("bench").join(&name),
        };
        for dir in [&scratch.memory, &scratch.disk] {
            at(dir, fs::create_dir_all(dir))?;
        }
        Ok(scratch)
    }

    fn of(&self, place: Place) -> &Path {
        if place == Place::Memory { &self.memory } else { &self.disk }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for dir in [&self.memory, &self.disk] {
            if let Err(why) = remove(dir) {
                eprintln!("bench-unpack: left behind: {why}");
            }
        }
    }
}

/// Measures and compares.
pub fn run(mut args: Args) -> Result {
    let rounds = args.value("--n")?.unwrap_or(15_u32);
    let json = args.switch("--json");
    let only: Option<String> = args.value("--only")?;
    args.done()?;
    if !sh::is_root() {
        return Err("bench-unpack needs root: the archive has owners".to_owned());
    }
    setup::run(setup::Wanted::WhatIsQuick)?;
    let debian = paths::fixtures().join("debian");
    if !debian.is_dir() {
        return Err("no Debian root: run `cargo xtask setup`".to_owned());
    }
    sh::run(sh::cargo().args([
        "build",
        "--quiet",
        "--release",
        "--features",
        "image",
        "--example",
        EXAMPLE,
    ]))?;

    let scratch = Scratch::new()?;
    let wanted = |pair: &&Pair| {
        let asked = |list: &String| list.split(',').any(|name| pair.names.contains(&name));
        only.as_ref().is_none_or(asked)
            && pair.program.is_none_or(|program| paths::program(program).is_some())
    };
    let pairs: Vec<&Pair> = PAIRS.iter().filter(wanted).collect();
    let mut rows = Vec::new();
    for pair in &pairs {
        let archive = archive(&scratch, &debian, pair.program)?;
        for name in pair.names {
            let target = scratch.of(pair.place).join(name);
            let archive = archive.clone();
            let (place, gnu) = (pair.place, name == pair.names[0]);
            let make = move |_| command(gnu, place, &archive, &target);
            let log = scratch.disk.join(format!("{name}.log"));
            rows.push(Row::new(name, pair.names[0], Runner::Command(Box::new(make)), log));
        }
    }
    let unmeasured =
        |row: &Row| Series { name: row.name.to_owned(), base: row.base.to_owned(), times: Vec::new() };
    let mut series: Vec<Series> = rows.iter().map(unmeasured).collect();
    eprintln!("bench-unpack: {rounds} rounds of {} rows", rows.len());
    for round in 0..=rounds {
        for (row, series) in rows.iter_mut().zip(&mut series) {
            let times = row.once()?;
            // The first round is not counted: it warms the caches.
            if round > 0 {
                series.times.push(times);
            }
        }
    }
    if json {
        println!("{}", report::json(&series));
    } else {
        print!("{}", report::tables(&series));
    }
    for pair in &pairs {
        let [gnu, ours] = pair.names.map(|name| scratch.of(pair.place).join(name));
        compare(&gnu, &ours)?;
    }
    Ok(())
}

/// Packs the root once for each way of compression.
fn archive(scratch: &Scratch, root: &Path, program: Option<&str>) -> Result<PathBuf> {
    let path = scratch.disk.join(format!("root.tar.{}", program.unwrap_or("plain")));
    if !path.exists() {
        let mut tar = tar();
        tar.arg("-C").arg(root);
        if let Some(program) = program {
            tar.arg(format!("--use-compress-program={program}"));
        }
        sh::run(tar.arg("-cf").arg(&path).arg("."))?;
    }
    Ok(path)
}

fn tar() -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*"]);
    tar
}

/// The command of one run, which finds no target of the run before.
fn command(gnu: bool, place: Place, archive: &Path, target: &Path) -> Command {
    // A failure shows in the run itself, whose target is then there already.
    let _ = fs::remove_dir_all(target);
    if place == Place::Disk {
        // What earlier runs have not written yet is not to be paid by this one.
        let _ = Command::new("sync").arg("-f").arg(target.parent().unwrap_or(target)).status();
    }
    if gnu {
        let _ = fs::create_dir(target);
        let mut tar = tar();
        tar.arg("-C").arg(target).arg("-xpf").arg(archive);
        return tar;
    }
    let mut ours = Command::new(paths::target().join("release/examples").join(EXAMPLE));
    ours.arg(archive).arg(target);
    ours
}

fn compare(gnu: &Path, ours: &Path) -> Result {
    let found = support::tree_differences(gnu, ours).map_err(|e| format!("comparing the results: {e}"))?;
    if let Some(first) = found.first() {
        return Err(format!("{} differences from GNU tar, the first: {first}", found.len()));
    }
    let files = support::tree_size(ours).map_err(|e| format!("{}: {e}", ours.display()))?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    eprintln!("{} and {}: {files} files, no difference", name(gnu), name(ours));
    Ok(())
}

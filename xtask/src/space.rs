//! Whether there is room on disk for the tests: a disk that fills in the middle gives failures that do not say so.

use std::path::Path;
use std::process::Command;

use crate::{Result, paths, sh};

/// What a whole run of the tests builds, in MiB: 4.8 GiB, and 2.4 more of incremental builds where those are on.
const TARGET: u64 = 7400;
/// What setup leaves in the user's cache, in MiB.
const CACHE: u64 = 1 << 10;
/// What the tests have in the directory for temporary files at any one time, in MiB.
const TEMPORARY: u64 = 1 << 10;

/// What is still to be written to one file system, in MiB.
#[derive(Debug, PartialEq, Eq)]
struct Demand {
    mount: String,
    free: u64,
    wanted: u64,
}

/// Refuses to begin where a whole run would not fit, before anything is made.
pub fn check() -> Result {
    let target = paths::target();
    let cache = paths::cache();
    let mut demands = Vec::new();
    add(&mut demands, &target, TARGET.saturating_sub(used(&target.join("debug"))?))?;
    add(&mut demands, &cache, CACHE.saturating_sub(used(&cache)?))?;
    add(&mut demands, &std::env::temp_dir(), TEMPORARY)?;
    demands.iter().try_for_each(Demand::fits)
}

impl Demand {
    fn fits(&self) -> Result {
        let Self { mount, free, wanted } = self;
        if free >= wanted {
            return Ok(());
        }
        Err(format!(
            "{mount} has {free} MiB free, and the tests need {wanted} more: free some, or put CARGO_TARGET_DIR, \
             STOCKADE_CACHE or TMPDIR elsewhere"
        ))
    }
}

/// Adds what `dir` is to hold to the demand on its file system.
fn add(demands: &mut Vec<Demand>, dir: &Path, wanted: u64) -> Result {
    // The directory itself may still be to be made.
    let there = dir.ancestors().find(|d| d.is_dir()).unwrap_or(Path::new("/"));
    let text = sh::output(Command::new("df").args(["--block-size=1M", "--output=avail,target"]).arg(there))?;
    let (free, mount) = available(&text).ok_or_else(|| format!("df {}: {text:?}", there.display()))?;
    match demands.iter_mut().find(|demand| demand.mount == mount) {
        Some(demand) => demand.wanted += wanted,
        None => demands.push(Demand { mount, free, wanted }),
    }
    Ok(())
}

/// The free MiB and the mount point, from df(1)'s second line.
fn available(text: &str) -> Option<(u64, String)> {
    let (free, mount) = text.lines().nth(1)?.trim().split_once(' ')?;
    Some((free.parse().ok()?, mount.trim().to_owned()))
}

/// The MiB that a directory holds; none if it is not there.
fn used(dir: &Path) -> Result<u64> {
    if !dir.is_dir() {
        return Ok(0);
    }
    let text = sh::output(Command::new("du").args(["--summarize", "--block-size=1M"]).arg(dir))?;
    let size = text.split_whitespace().next().and_then(|size| size.parse().ok());
    size.ok_or_else(|| format!("du {}: {text:?}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_with_a_way_out() {
        let demand = Demand { mount: "/srv".to_owned(), free: 228, wanted: 9000 };
        let why = demand.fits().unwrap_err();
        assert!(
            why.contains("/srv has 228 MiB free") && why.contains("9000") && why.contains("TMPDIR"),
            "{why}"
        );
        assert_eq!(Demand { free: 9000, ..demand }.fits(), Ok(()));
    }

    #[test]
    fn two_directories_of_one_file_system_add_up() {
        let mut demands = Vec::new();
        add(&mut demands, &paths::root(), 5).unwrap();
        add(&mut demands, &paths::root().join("not/yet/there"), 7).unwrap();
        let [demand] = demands.as_slice() else { panic!("{demands:?}") };
        assert_eq!(demand.wanted, 12);
        assert!(demand.mount.starts_with('/'), "{demand:?}");
    }

    #[test]
    fn mount_points_may_have_spaces() {
        let text = " Avail Mounted on\n 64123 /mnt/a b\n";
        assert_eq!(available(text), Some((64123, "/mnt/a b".to_owned())));
        assert_eq!(available("Avail\n"), None);
    }

    #[test]
    fn what_is_not_there_holds_nothing() {
        assert_eq!(used(Path::new("/nonexistent/of/the/tests")), Ok(0));
        assert!(used(&paths::root().join("xtask")).unwrap() >= 1);
    }
}

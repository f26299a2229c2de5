//! The fuzz targets of `fuzz/`, on stable Rust: over their seeds and over mutations of these, the same in every run.
//!
//! This keeps the targets from rotting and finds what is easy to find; `fuzz/README.md` says how to look deeper.
//! `STOCKADE_FUZZ_N=1000000` tries more mutations, `STOCKADE_FUZZ_SEED=7` other ones.

#[path = "../../fuzz/targets/archive.rs"]
mod archive;
mod mutate;
#[path = "../../fuzz/targets/notify.rs"]
mod notify;
#[path = "../../fuzz/targets/plan.rs"]
mod plan;
#[path = "../../fuzz/targets/policy.rs"]
mod policy;
#[path = "../../fuzz/targets/record.rs"]
mod record;
mod seeds;
#[path = "../../fuzz/targets/views.rs"]
mod views;
#[path = "../../fuzz/targets/vm.rs"]
mod vm;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use mutate::Mutator;

fn seed_dir(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |n| n.parse().unwrap())
}

/// Runs a target over its seeds and `count` mutations. An input that fails is kept, and named.
fn smoke(target: &str, count: u64, run: fn(&[u8])) {
    let start = Instant::now();
    let mut paths: Vec<PathBuf> =
        seed_dir(target).read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(seeds.len() >= 5, "{target}: the seeds are missing");
    let count = number("STOCKADE_FUZZ_N", count);
    let mut mutator = Mutator::new(number("STOCKADE_FUZZ_SEED", 1));
    let mutations = (0..count).map(|_| mutator.one_of(&seeds));
    let mut bytes = 0;
    for (n, input) in seeds.iter().cloned().chain(mutations).enumerate() {
        bytes += input.len();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&input))) {
            let kept = std::env::temp_dir().join(format!("stockade-fuzz-{target}-{n}"));
            let _ = std::fs::write(&kept, &input);
            let _ = std::io::stderr().write_all(format!("input {n} of {target} is in {kept:?}\n").as_bytes());
            std::panic::resume_unwind(panic);
        }
    }
    let text = format!(
        "fuzz target {target}: {} seeds, {count} mutations, {} KiB in {:.1} s\n",
        seeds.len(),
        bytes / 1024,
        start.elapsed().as_secs_f64()
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[test]
fn archive_smoke() {
    smoke("archive", 4_000, archive::run);
}

#[test]
fn plan_smoke() {
    smoke("plan", 10_000, plan::run);
}

#[test]
fn policy_smoke() {
    smoke("policy", 2_000, policy::run);
}

#[test]
fn notify_smoke() {
    smoke("notify", 40_000, notify::run);
}

#[test]
fn record_smoke() {
    smoke("record", 20_000, record::run);
}

#[test]
fn views_smoke() {
    smoke("views", 40_000, views::run);
}

#[test]
fn vm_smoke() {
    smoke("vm", 20_000, vm::run);
}

/// The seeds are good ones: what they were made as is what they are taken for.
#[test]
fn seeds_are_taken() {
    let mut took = std::collections::BTreeSet::new();
    for entry in seed_dir("record").read_dir().unwrap() {
        took.extend(stockade::fuzzing::record(&std::fs::read(entry.unwrap().path()).unwrap()));
    }
    for format in [
        "container",
        "run",
        "id ranges",
        "session",
        "claim",
        "subid",
        "passwd",
        "kernel's id map",
        "instance",
    ] {
        assert!(took.contains(format), "no seed is taken for: {format}; {took:?}");
    }
    for entry in seed_dir("policy").read_dir().unwrap() {
        let path = entry.unwrap().path();
        assert!(stockade::fuzzing::policy(&std::fs::read(&path).unwrap()), "{}", path.display());
    }
    let mut forms = std::collections::BTreeSet::new();
    for entry in seed_dir("notify").read_dir().unwrap() {
        forms.extend(stockade::fuzzing::notify(&std::fs::read(entry.unwrap().path()).unwrap()));
    }
    for form in ["status", "mount options", "bpf load", "bpf program", "path", "found"] {
        assert!(forms.contains(form), "no seed is taken for: {form}; {forms:?}");
    }
    for entry in seed_dir("views").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let [answered, ..] = stockade::fuzzing::views(&std::fs::read(&path).unwrap());
        assert!(answered > 0, "{}: nothing is answered", path.display());
    }
    let (mut plans, mut reports) = (0, 0);
    for entry in seed_dir("plan").read_dir().unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        plans += usize::from(stockade::fuzzing::plan(&bytes).is_some_and(|text| text.contains("exec path=")));
        reports += usize::from(stockade::fuzzing::report(&bytes).is_some());
    }
    assert!(plans >= 3 && reports >= 2, "{plans} plans, {reports} reports");
    for entry in seed_dir("vm").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let took = stockade::fuzzing::vm(&std::fs::read(&path).unwrap());
        assert!(took.is_some_and(|took| name.starts_with(took)), "{name}: {took:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut compressions = std::collections::BTreeSet::new();
    for (n, entry) in seed_dir("archive").read_dir().unwrap().enumerate() {
        let unpack = stockade::rootfs::Unpack::new().ids(stockade::rootfs::UnpackIds::Caller);
        let path = entry.unwrap().path();
        let done = unpack.run_file(&path, dir.path().join(n.to_string()));
        let hostile = path.file_name().unwrap().to_string_lossy().starts_with("bad-");
        assert_eq!(done.is_err(), hostile, "{}: {done:?}", path.display());
        compressions.extend(done.map(|done| done.compression.to_string()));
    }
    assert_eq!(compressions.len(), 4, "{compressions:?}");
}

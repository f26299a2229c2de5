//! The test programs once more, as root in a machine that has pure cgroup v2 with every controller.
//!
//! It is emulated: what only reckons takes ten times as long there, so [`LEFT_OUT`] stays out, and tests that do
//! one thing many times do it less often ([`SCALE`]).

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use crate::vm::{self, Ending, Streams};
use crate::{Result, paths, sh};

use super::sums::{Place, Skips};

/// Test programs that do not run in the lane, and why; all others do. A test among them that is skipped on the host
/// runs nowhere, which fails.
const LEFT_OUT: &[(&str, &str)] = &[
    ("xtask", "the project's tasks, not the library"),
    ("support", "what the tests share, not the library"),
    ("layers", "reads the sources"),
    ("file_size", "reads the sources"),
    ("archives", "much reckoning, and no cgroup in it; the host's run has it all"),
    ("archives_debian", "as archives"),
    ("torture", "eight busy threads beside each start take minutes there; the stress is the host's"),
    ("syscall_faults", "strace takes seconds for each fault there; the host's run tries them all"),
    ("seccomp_equivalence", "compares filters in memory, by the thousand"),
];
/// Test programs with virtual machines: they get a machine of their own, with KVM. It has one processor: with
/// two, the emulation now and then trips over code that the kernel changes under the other's feet, as KVM makes it do
/// whenever the first virtual machine comes and the last one goes.
const WITH_KVM: &[&str] = &["vm_linux", "vm_tiny"];
/// Per cent of what a test with many rounds does on the host.
const SCALE: u32 = 10;
/// For all programs together. Above it the lane fails: the test command has 40 minutes.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// Seconds for one program.
const PROGRAM_LIMIT: u32 = 600;
/// Before the name of a program that starts, or that failed.
const STARTS: &str = "lane: program ";
const FAILED: &str = "lane: FAILED: ";

/// Whether the lane ran.
pub enum Lane {
    Ran {
        place: Place,
        failures: Vec<String>,
    },
    /// There is no lane here, and why.
    Absent(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: String,
    path: PathBuf,
    /// The package's directory, where `cargo test` runs it.
    dir: PathBuf,
}

/// Runs the test programs in the lane: those that are named, or all but those that are left out.
pub fn run(only: &[String]) -> Result<Lane> {
    if !sh::is_root() {
        return Ok(Lane::Absent("needs root, as the fixtures' owners do".to_owned()));
    }
    let programs = programs(only)?;
    for (name, why) in LEFT_OUT.iter().filter(|_| only.is_empty()) {
        println!("lane: left out: {name}: {why}");
    }
    let (with_kvm, others): (Vec<Program>, Vec<Program>) =
        programs.into_iter().partition(|program| WITH_KVM.contains(&program.name.as_str()));
    let mut all = (Place::default(), Vec::new());
    for (programs, kvm) in [(others, false), (with_kvm, true)] {
        if programs.is_empty() {
            continue;
        }
        match run_in_one(&programs, kvm)? {
            Lane::Ran { place, failures } => {
                all.0.add(place);
                all.1.extend(failures);
            }
            absent @ Lane::Absent(_) => return Ok(absent),
        }
    }
    Ok(Lane::Ran { place: all.0, failures: all.1 })
}

/// Runs these programs in one machine.
fn run_in_one(programs: &[Program], kvm: bool) -> Result<Lane> {
    let out = paths::target().join(format!("lane-{}", std::process::id()));
    let mut options = options(programs, out.clone());
    if kvm {
        (options.kvm, options.cpus) = (true, 1);
    }
    let parts = match vm::prepare(&options) {
        Ok(parts) => parts,
        Err(why) => return Ok(Lane::Absent(why)),
    };
    let report = Mutex::new(Report::default());
    let out_line = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        print!("{line}");
        if let Ok(mut report) = report.lock() {
            report.add(line.trim_end());
        }
    };
    let err_line = |line: &[u8]| eprint!("{}", String::from_utf8_lossy(line));
    let ended = vm::run(&parts, &options, Streams { out: Box::new(out_line), err: Box::new(err_line) });
    let skips = Skips::read(&out.join("skips"));
    fs::remove_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let Report { mut place, mut failures, started } = report.into_inner().unwrap_or_default();
    place.skips = skips;
    match ended? {
        Ending::Status(0) => {}
        Ending::Status(status) => failures.push(format!("the lane's script ended with {status}")),
        Ending::TimedOut => failures.push(format!("out of time after {} s", LIMIT.as_secs())),
    }
    for program in programs.iter().filter(|program| !started.contains(&program.name)) {
        failures.push(format!("{} did not start", program.name));
    }
    Ok(Lane::Ran { place, failures })
}

fn options(programs: &[Program], out: PathBuf) -> vm::Options {
    let script: String = programs.iter().map(line).collect();
    let mut options = vm::Options::new(vec!["sh".to_owned(), "-c".to_owned(), script], paths::root());
    options.cpus = 2;
    options.memory = "3G".to_owned();
    options.timeout = LIMIT;
    options.out = Some(out);
    let fixtures = paths::fixtures();
    options.env = [
        ("STOCKADE_FIXTURES", fixtures.to_string_lossy().into_owned()),
        ("STOCKADE_SKIP_LOG", "/run/vm/out/skips".to_owned()),
        ("STOCKADE_TEST_SCALE", SCALE.to_string()),
        // With one, the harness writes a test's name before its result, and others' lines come between.
        ("RUST_TEST_THREADS", "2".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    options.visible = vec![paths::target()];
    options.disk = Some(fixtures);
    options
}

/// The shell line that runs it.
fn line(program: &Program) -> String {
    let Program { name, path, dir } = program;
    let (dir, path) = (dir.display(), path.display());
    format!(
        "echo '{STARTS}{name}'; t=$(date +%s)
        cd '{dir}' && timeout -k 5 {PROGRAM_LIMIT} '{path}' || echo '{FAILED}{name}' \"ended with $?\"
        echo \"lane: $(($(date +%s) - t)) s\"\n"
    )
}

/// The test programs, built.
fn programs(only: &[String]) -> Result<Vec<Program>> {
    let mut command = sh::cargo();
    command.args(["test", "--workspace", "--all-features", "--no-run", "--message-format=json", "--quiet"]);
    let out = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let out = out.map_err(|e| format!("`{}` did not start: {e}", sh::shown(&command)))?;
    if !out.status.success() {
        return Err(format!("`{}` ended with {}", sh::shown(&command), out.status));
    }
    let programs = in_messages(&String::from_utf8_lossy(&out.stdout));
    if let Some(name) = only.iter().find(|name| !programs.iter().any(|program| program.name == **name)) {
        return Err(format!("no test program {name}"));
    }
    let left_out = |name: &str| LEFT_OUT.iter().any(|(out, _)| *out == name);
    let wanted = |name: &String| if only.is_empty() { !left_out(name) } else { only.contains(name) };
    Ok(programs.into_iter().filter(|program| wanted(&program.name)).collect())
}

/// The test programs among cargo's messages, one JSON object a line.
fn in_messages(text: &str) -> Vec<Program> {
    let mut found: Vec<Program> = text
        .lines()
        .filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let program = message["profile"]["test"].as_bool()?.then(|| message["executable"].as_str())??;
            let manifest = PathBuf::from(message["manifest_path"].as_str()?);
            Some(Program {
                name: message["target"]["name"].as_str()?.to_owned(),
                path: program.into(),
                dir: manifest.parent()?.to_owned(),
            })
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// What the lane said so far.
#[derive(Default)]
struct Report {
    place: Place,
    failures: Vec<String>,
    started: Vec<String>,
}

impl Report {
    fn add(&mut self, line: &str) {
        if let Some(program) = line.strip_prefix(STARTS) {
            self.started.push(program.to_owned());
        } else if let Some(what) = line.strip_prefix(FAILED) {
            self.failures.push(what.to_owned());
        } else if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... ok")) {
            let name = test.strip_suffix(" - should panic").unwrap_or(test);
            let program = self.started.last().cloned().unwrap_or_default();
            self.place.ok.insert((program, name.to_owned()));
        } else {
            self.place.totals.add(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let text = r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"name":"t"},"profile":{"test":true},"executable":"/p/t-1"}
{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"name":"l"},"profile":{"test":false},"executable":"/p/l"}
{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"name":"x"},"profile":{"test":true},"executable":null}
not JSON
{"reason":"build-finished","success":true}"#;
        let t = Program { name: "t".into(), path: "/p/t-1".into(), dir: "/p".into() };
        assert_eq!(in_messages(text), [t]);
    }

    #[test]
    fn a_report_has_each_program_and_its_tests() {
        let mut report = Report::default();
        for line in [
            "lane: program one",
            "test a::b ... ok",
            "test c ... FAILED",
            "test d - should panic ... ok",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            "lane: FAILED: one ended with 101",
            "lane: program two",
            "test a::b ... ok",
        ] {
            report.add(line);
        }
        let ok = [("one", "a::b"), ("one", "d"), ("two", "a::b")];
        let ok: Vec<_> = ok.map(|(p, t)| (p.to_owned(), t.to_owned())).to_vec();
        assert_eq!(report.place.ok.into_iter().collect::<Vec<_>>(), ok);
        assert_eq!((report.place.totals.passed, report.place.totals.failed), (2, 1));
        assert_eq!(report.failures, ["one ended with 101"]);
        assert_eq!(report.started, ["one", "two"]);
    }
}

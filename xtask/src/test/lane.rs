//! The test programs once more, as root in a machine that has pure cgroup v2 with every controller.
//!
//! It is emulated: what only reckons takes ten times as long there, so [`LEFT_OUT`] stays out, and tests that do
//! one thing many times do it less often ([`SCALE`]). All CPUs of an emulated machine share one thread of the host: so
//! there are several machines side by side, and the one with two CPUs runs only what needs them.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::fixtures::remove;
use crate::vm::{self, Ending, Streams};
use crate::{Result, paths, sh};

use super::sums::{Place, Skips};

/// Test programs that do not run in the lane, and why; all others do. A test among them that is skipped on the host
/// runs nowhere, which fails.
const LEFT_OUT: &[(&str, &str)] = &[
    ("xtask", "the project's tasks, not the library"),
    (
        "stockade",
        "the units of the library: nothing in them depends on controllers; the host's run has them all",
    ),
    ("support", "what the tests share, not the library"),
    ("layers", "reads the sources"),
    ("file_size", "reads the sources"),
    ("cgroup1", "the lane has v2 alone, with every controller; all of it is about hosts with v1"),
    ("archives", "much reckoning, and no cgroup in it; the host's run has it all"),
    ("archives_debian", "as archives"),
    ("cli", "starts hundreds of programs; what they do has tests of its own, and the host's run has it all"),
    ("fuzz_smoke", "as archives"),
    ("lossy_store", "strace and hundreds of opened stores; no cgroup in it"),
    ("torture", "eight busy threads beside each start take minutes there; the stress is the host's"),
    ("syscall_faults", "strace takes seconds for each fault there; the host's run tries them all"),
    ("seccomp_equivalence", "compares filters in memory, by the thousand"),
];
/// Test programs that see more with two CPUs.
const TWO_CPUS: &[&str] = &[
    "cgroup_controls",
    "cgroup_effects",
    "cgroup_limits",
    "cgroup_place",
    "cgroup_stats",
    "container_update",
    "cpu_balance",
    "resource_views",
];
/// Test programs that need `/dev/kvm`. One CPU: with more, the emulation gives guests interrupts twice (`vm::machine`).
const KVM: &[&str] = &["vm_linux", "vm_tiny"];
/// Programs that the machine of those takes over from the plain one, which else is the last to end by far.
const TAKEN_OVER: &[&str] = &["attacks", "nested", "system"];
/// A kernel that guests of theirs boot, beside the machine's own.
const GUEST_KERNEL: &str = "6.1";
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
    let mut machines = Vec::new();
    for kind in [Kind::Kvm, Kind::Plain, Kind::TwoCpus] {
        let mut programs: Vec<&Program> = programs.iter().filter(|p| Kind::of(&p.name) == kind).collect();
        // What no other machine could do comes first.
        programs.sort_by_key(|program| TAKEN_OVER.contains(&&*program.name));
        if programs.is_empty() {
            continue;
        }
        let mut options = options(kind, &programs);
        // Before any of them runs: the first fetches what all need.
        let guests = || match kind {
            Kind::Kvm => {
                vm::prepare(&vm::Options { kernel: GUEST_KERNEL.to_owned(), ..options.clone() }).map(drop)
            }
            Kind::Plain | Kind::TwoCpus => Ok(()),
        };
        match guests().and_then(|()| vm::prepare(&options)) {
            Ok(parts) => {
                let parser = parts.apparmor_parser()?;
                options.env.push(("STOCKADE_APPARMOR_PARSER".to_owned(), parser.display().to_string()));
                machines.push((kind, programs, options, parts));
            }
            Err(why) => return Ok(Lane::Absent(why)),
        }
    }
    let reports = thread::scope(|scope| {
        let running: Vec<_> = machines
            .iter()
            .map(|(kind, programs, options, parts)| {
                scope.spawn(move || run_one(*kind, programs, options, parts))
            })
            .collect();
        running.into_iter().map(|machine| machine.join()).collect::<Vec<_>>()
    });
    let (mut place, mut failures) = (Place::default(), Vec::new());
    for report in reports {
        let report = report.map_err(|_| "a machine's thread panicked".to_owned())??;
        place.add(report.place);
        failures.extend(report.failures);
    }
    Ok(Lane::Ran { place, failures })
}

/// What a machine has. Each also has what a plain one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    TwoCpus,
    Kvm,
}

impl Kind {
    /// The one that a program needs.
    fn of(program: &str) -> Self {
        match program {
            name if TWO_CPUS.contains(&name) => Self::TwoCpus,
            name if KVM.contains(&name) || TAKEN_OVER.contains(&name) => Self::Kvm,
            _ => Self::Plain,
        }
    }

    /// Before each line that it says.
    fn mark(self) -> &'static str {
        match self {
            Self::Plain => "lane",
            Self::TwoCpus => "lane/2",
            Self::Kvm => "lane/kvm",
        }
    }
}

/// Runs `programs` in a machine of their own.
fn run_one(kind: Kind, programs: &[&Program], options: &vm::Options, parts: &vm::Parts) -> Result<Report> {
    let mark = kind.mark();
    let report = Mutex::new(Report::default());
    let out_line = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        print!("{mark}| {line}");
        if let Ok(mut report) = report.lock() {
            report.add(line.trim_end());
        }
    };
    let err_line = |line: &[u8]| eprint!("{mark}| {}", String::from_utf8_lossy(line));
    let ended = vm::run(parts, options, Streams { out: Box::new(out_line), err: Box::new(err_line) });
    let mut report = report.into_inner().unwrap_or_default();
    if let Some(out) = &options.out {
        report.place.skips = Skips::read(&out.join("skips"));
        // A machine that could not start made none.
        remove(out)?;
    }
    match ended {
        Ok(Ending::Status(0)) => {}
        Ok(Ending::Status(status)) => report.failures.push(format!("{mark}: the script ended with {status}")),
        Ok(Ending::TimedOut) => {
            report.failures.push(format!("{mark}: out of time after {} s", LIMIT.as_secs()));
        }
        Err(why) => {
            let last = report.started.last().map_or("the first program", String::as_str);
            report.failures.push(format!("{mark}: during {last}: {why}"));
        }
    }
    for program in programs.iter().filter(|program| !report.started.contains(&program.name)) {
        report.failures.push(format!("{} did not start", program.name));
    }
    Ok(report)
}

fn options(kind: Kind, programs: &[&Program]) -> vm::Options {
    let script: String = programs.iter().map(|program| line(program)).collect();
    let mut options = vm::Options::new(vec!["sh".to_owned(), "-c".to_owned(), script], paths::root());
    options.kvm = kind == Kind::Kvm;
    options.cpus = if kind == Kind::TwoCpus { 2 } else { 1 };
    options.memory = "3G".to_owned();
    options.timeout = LIMIT;
    options.out = Some(paths::target().join(format!("lane-{kind:?}-{}", std::process::id())));
    let fixtures = paths::fixtures();
    options.env = [
        ("STOCKADE_FIXTURES", fixtures.to_string_lossy().into_owned()),
        ("STOCKADE_SKIP_LOG", "/run/vm/out/skips".to_owned()),
        ("STOCKADE_TEST_SCALE", SCALE.to_string()),
        ("STOCKADE_GUESTS", vm::cache_dir().to_string_lossy().into_owned()),
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
    fn guests_get_a_machine_with_one_cpu_and_both_kernels() {
        let options = options(Kind::of("vm_linux"), &[]);
        assert!(options.kvm && options.cpus == 1);
        assert!(
            options.kernel != GUEST_KERNEL && options.env.iter().any(|(name, _)| name == "STOCKADE_GUESTS")
        );
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

//! Project tasks: `cargo xtask setup`, `cargo xtask test`, `cargo xtask vm`, `cargo xtask bench-peers`.

mod args;
mod bench;
mod debian;
mod fixtures;
mod inits;
mod package;
mod paths;
mod repeat;
mod setup;
mod sh;
mod space;
mod test;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  setup                   install what is lacking (Debian, as root) and make the test fixtures
  test [--quick] [--no-vm | --lane-only] [--no-skip]
                          setup, then format, lints, documentation, package, all tests, and the tests in the lane
                          --quick: format, lints and tests alone, with the fixtures that are there
                          --no-vm: without the lane, the machine with cgroup v2
                          --lane-only: setup and the lane alone; of it, those of each --program NAME
                          --no-skip: a skipped test fails
  test --repeat N [--no-skip] [NAME...]
                          the test programs N times in a row, without the names those of faults, crashes and many at
                          once; what they report is summed up
  bench-peers [--json] [--n N] [--only ROW,ROW...]
                          Stockade, the floor and the installed peers, interleaved (as root)
  bench-boot [--n N]      a system container's first instruction and whole boot, beside lxc-start's (as root)
  bench-cgroup [--n N]    statistics and limits of a cgroup beside the bare reads and writes (as root)
  bench-intercept [--n N] an intercepted system call beside the same on the host (as root)
  bench-unpack [--json] [--n N] [--only ROW,ROW...]
                          the Debian root unpacked by Stockade and by GNU tar, and the results compared (as root)
  bench-vm [--n N] [--kernel 6.12|6.1] [--firecracker PROGRAM]
                          a guest's boot to its init, beside QEMU's microvm, in the lane with KVM
  vm [OPTIONS] -- CMD [ARG...]
                          one command as root in a throw-away machine with cgroup v2; `cargo xtask vm` says more
";

/// Errors are sentences for the person at the terminal.
type Result<T = (), E = String> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((task, rest)) = words.split_first()
        && task == "vm"
    {
        return vm::main(rest);
    }
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result {
    let Some((task, rest)) = words.split_first() else {
        return Err(format!("no task named\n{USAGE}"));
    };
    match task.as_str() {
        "setup" => {
            args::Args::new(rest).done()?;
            setup::run(setup::Wanted::Everything)
        }
        "test" => test::run(args::Args::new(rest)),
        "bench-peers" => bench::run(args::Args::new(rest)),
        "bench-boot" => bench::boot::run(args::Args::new(rest)),
        "bench-cgroup" => bench::cgroup::run(args::Args::new(rest)),
        "bench-intercept" => bench::intercept::run(args::Args::new(rest)),
        "bench-unpack" => bench::unpack::run(args::Args::new(rest)),
        "bench-vm" => bench::vm::run(args::Args::new(rest)),
        bench::INNER => bench::inner(args::Args::new(rest)),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(format!("no task `{other}`\n{USAGE}")),
    }
}

//! A test that executes its own program again, for what one process cannot show: another process, other rights, mounts
//! of its own.

use std::process::Command;

const ROLE: &str = "STOCKADE_TEST_ROLE";

/// What this process is to be; `None` in the process that runs the tests.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// The test `name` of this program in a process of its own that has a role; `around` is a command that executes it,
/// such as `unshare -m`, or empty.
pub(crate) fn command(around: &[&str], name: &str, role: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut command = match around {
        [] => Command::new(&own),
        [program, args @ ..] => {
            let mut command = Command::new(program);
            command.args(args).arg(&own);
            command
        }
    };
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

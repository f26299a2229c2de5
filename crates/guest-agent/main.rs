//! The first process of a guest: it loads modules, mounts the root, starts what is to run, and then serves the host over
//! vsock. `build.rs` compiles it as a static program with plain rustc; it has no crate but the standard library.
//!
//! The conversation is drawn in `src/vm/agent/wire.rs`, which is a part of both sides.

mod boot;
mod children;
mod exec;
mod serve;
mod state;
mod sys;
#[path = "../../src/vm/agent/wire.rs"]
mod wire;

use std::sync::Arc;

use children::Children;
use wire::{Boot, Failure, Init};

/// What went wrong: the step, the object, the errno.
#[derive(Debug)]
pub(crate) struct Problem {
    step: &'static str,
    object: Vec<u8>,
    errno: i32,
}

impl Problem {
    pub(crate) fn new(step: &'static str, object: impl AsRef<[u8]>, error: &std::io::Error) -> Self {
        const EIO: i32 = 5;
        Self { step, object: object.as_ref().to_vec(), errno: error.raw_os_error().unwrap_or(EIO) }
    }

    pub(crate) fn failure(self) -> Failure {
        Failure { step: self.step.as_bytes().to_vec(), object: self.object, errno: self.errno }
    }
}

fn main() {
    if let Err(problem) = run() {
        // The console is all that there is.
        let why = std::io::Error::from_raw_os_error(problem.errno);
        say(&format!("cannot {} {}: {why}", problem.step, String::from_utf8_lossy(&problem.object)));
    }
    if std::process::id() == 1 {
        sys::sync();
        let _ = sys::power_off();
    }
}

/// Says something on the console.
pub(crate) fn say(text: &str) {
    use std::io::Write as _;
    // Nobody may read it.
    let _ = writeln!(std::io::stderr(), "stockade-agent: {text}");
}

fn run() -> Result<(), Problem> {
    let boot = boot::prepare()?;
    let Boot { token, init, env, .. } = boot;
    match init {
        Init::Agent => serve::serve(&Arc::new(Children::new(env)), token),
        Init::Image(args) => {
            let forked = sys::fork().map_err(|e| Problem::new("start a second process", "", &e))?;
            if forked {
                return serve::serve(&Arc::new(Children::new(env)), token);
            }
            Err(exec::become_init(&args, &env))
        }
        Init::Command(args) => {
            let children = Arc::new(Children::new(env));
            exec::run_command(&children, args)?;
            serve::serve(&children, token)
        }
    }
}

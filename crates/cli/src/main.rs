//! The `stockade` command: what the library does, from a shell.
//!
//! Arguments are read by hand: a container starts in a few milliseconds, and a parser that takes one of them to
//! set itself up would be felt.

mod args;
mod fail;
mod help;
mod image;
mod run;
mod signals;
mod value;
mod verbs;

use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    let done = args::parse(std::env::args_os().skip(1)).and_then(|command| match command {
        Command::Help(text) => verbs::print(text),
        Command::Version => verbs::print(concat!("stockade ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Run(options) => run::run(*options),
        Command::Exec(options) => verbs::exec(options),
        Command::List(dirs) => verbs::list(dirs),
        Command::Stop(dirs, name) => verbs::stop(dirs, &name),
        Command::Delete(dirs, name) => verbs::delete(dirs, &name),
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(fail) => {
            fail.tell();
            ExitCode::from(fail.code())
        }
    }
}

//! How long the kernel takes to install a filter of this library, beside libseccomp's of the same list.
//!
//! `filter_bench PROGRAM ROUNDS`; PROGRAM is `benches/filter.c`. Made for `cargo xtask bench-intercept`.
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::process::Command;

use stockade::seccomp::{Action, Arch, Policy, Rule, Syscall};

/// As many as the usual allow list of application containers has.
const CALLS: usize = 309;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [program, rounds] = &args[..] else { return Err("two arguments".into()) };
    let mut calls: Vec<Syscall> =
        Syscall::all(Arch::X86_64).filter(|c| c.number(Arch::X86_64) < Some(335)).collect();
    calls.sort_unstable_by_key(|call| call.number(Arch::X86_64));
    // Without some in between, as lists are; and with those that end a process.
    let spare = calls.len().saturating_sub(CALLS);
    let step = calls.len() / spare.max(1);
    let mut n = 0;
    let mut left_out = 0;
    calls.retain(|call| {
        n += 1;
        let out =
            n % step == 0 && left_out < spare && !matches!(call.name(), Some("exit_group" | "clock_gettime"));
        left_out += usize::from(out);
        !out
    });
    let names: Vec<&str> = calls.iter().filter_map(|call| call.name()).collect();
    let arches = [Arch::X86_64, Arch::X86, Arch::X32];
    let policy =
        Policy::new(Action::Errno(1)).arches(arches).rule(Rule::new(Action::Allow, names.iter().copied())?);
    let dir = tempfile::tempdir()?;
    let (ours, list) = (dir.path().join("ours"), dir.path().join("names"));
    std::fs::write(&ours, policy.compile()?.as_bytes())?;
    std::fs::write(&list, names.join("\n") + "\n")?;
    let out = Command::new(program).args([&ours, &list]).arg(rounds).output()?;
    let text = String::from_utf8(out.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [our_len, our_time, their_len, their_time] = numbers[..] else {
        return Err(format!("the program ended with {}: {text}", out.status).into());
    };
    println!("filter of {} calls on three ABIs, installed, median of {rounds}:", names.len());
    println!("  stockade   {our_len:>6} instructions {our_time:>8.1} us");
    println!("  libseccomp {their_len:>6} instructions {their_time:>8.1} us (linear)");
    println!("  {:.3} x libseccomp's", our_time / their_time);
    Ok(())
}

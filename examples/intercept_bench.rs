//! What an intercepted call costs beside the same call on the host, and what calls cost that are not intercepted.
//!
//! `intercept_bench PROGRAM ROUNDS`, as root; PROGRAM is `benches/intercept.c`, static. Made for
//! `cargo xtask bench-intercept`. All of it works in one directory, which the containers have with their own ids; rows take
//! turns. The first round is not counted.
#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::path::Path;
use std::process::Command;

use stockade::container::{Container, ContainerConfig, Mount};
use stockade::instance::{StartOptions, Stdio};
use stockade::seccomp::{Interception, Nodes};
use stockade::{Rootfs, Runtime};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Calls of each kind in a round.
const CALLS: &str = "2000";
const ROWS: [&str; 4] = ["on the host", "nothing intercepted", "intercepted, plain", "intercepted, usable"];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [program, rounds] = &args[..] else { return Err("two arguments".into()) };
    let dir = tempfile::tempdir()?;
    let work = dir.path().join("work");
    let root = dir.path().join("root");
    for place in [&work, &root, &root.join("bin"), &root.join("work"), &root.join("dev"), &root.join("proc")]
    {
        std::fs::create_dir(place)?;
    }
    for place in ["sys", "tmp", "etc"] {
        std::fs::create_dir(root.join(place))?;
    }
    std::fs::copy(program, root.join("bin/intercept"))?;
    let runtime =
        Runtime::builder().state_dir(dir.path().join("state")).run_dir(dir.path().join("run")).open()?;
    let start = |name: &str, what: Interception| {
        let config = ContainerConfig::builder(name).ephemeral().kill_on_drop().rootfs(Rootfs::dir(&root));
        let config = config.mount(Mount::bind(&work, "/work").idmapped().dev()).args([
            "/bin/intercept",
            "/work",
            CALLS,
        ]);
        let c = runtime.create(config.intercept(what).build()?)?;
        Ok::<_, Box<dyn Error>>(c)
    };
    let containers = [
        start("off", Interception::new())?,
        start("plain", Interception::new().mknod(Nodes::Plain).sysinfo())?,
        start("usable", Interception::new().mknod(Nodes::Usable).sysinfo())?,
    ];
    let mut figures: [Vec<[f64; 4]>; 4] = Default::default();
    for round in 0..=rounds.parse::<u32>()? {
        let mut all = vec![on_host(program, &work)?];
        for c in &containers {
            all.push(inside(c)?);
        }
        if round > 0 {
            figures.iter_mut().zip(all).for_each(|(row, one)| row.push(one));
        }
    }
    let middle = |row: &[[f64; 4]], n: usize| {
        let mut all: Vec<f64> = row.iter().map(|one| one[n]).collect();
        all.sort_unstable_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "{:22} {:>12} {:>12} {:>12} {:>12}",
        "median ns", "mknod null", "mknod FIFO", "sysinfo", "getppid"
    );
    for (name, row) in ROWS.iter().zip(&figures) {
        let [node, fifo, info, ppid] = [0, 1, 2, 3].map(|n| middle(row, n));
        println!("{name:22} {node:>12.0} {fifo:>12.0} {info:>12.0} {ppid:>12.1}");
    }
    let over = (middle(&figures[2], 0) - middle(&figures[0], 0)) / 1000.0;
    println!("an intercepted mknod costs {over:.1} us over one on the host");
    Ok(())
}

fn parse(text: &str) -> Result<[f64; 4]> {
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
    let [a, b, c, d, _failed] = numbers[..] else { return Err(format!("not five numbers: {text}").into()) };
    Ok([a, b, c, d])
}

fn on_host(program: &str, work: &Path) -> Result<[f64; 4]> {
    let out = Command::new(program).arg(work).arg(CALLS).output()?;
    parse(&String::from_utf8(out.stdout)?)
}

/// As the first process of a run.
fn inside(c: &Container) -> Result<[f64; 4]> {
    let pipes = c.start_with(StartOptions::new().stdout(Stdio::Piped))?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::fs::File::from(pipes.stdout.ok_or("no pipe")?), &mut text)?;
    c.wait()?;
    parse(&text)
}

//! `cargo xtask setup`: the Debian packages and the fixtures that the tests need.

use std::process::Command;

use crate::{Result, debian, fixtures, inits, paths, sh, space};

/// How much to prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Packages, the busybox root and the Debian root, where there is room for a whole run of the tests.
    Everything,
    /// The busybox root; the Debian root only if it need not be built.
    WhatIsQuick,
}

/// A program that the tests or the fixtures need, and the Debian package that has it.
const TOOLS: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("busybox", "busybox-static"),
    ("debootstrap", "debootstrap"),
    ("unshare", "util-linux"),
    ("tar", "tar"),
    ("strace", "strace"),
    ("newuidmap", "uidmap"),
    ("capsh", "libcap2-bin"),
];

/// Prepares what is wanted. What cannot be prepared here is said; the tests that need it are then skipped, loudly.
pub fn run(wanted: Wanted) -> Result {
    if wanted == Wanted::Everything {
        space::check()?;
    }
    tools();
    components()?;
    fixtures::busybox()?;
    debian::prepare(wanted)?;
    inits::prepare(wanted)
}

fn tools() {
    let mut missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(tool, _)| paths::program(tool).is_none())
        .map(|(_, package)| *package)
        .collect();
    // The dynamic busybox has the same name and is of no use in an empty root.
    if !missing.contains(&"busybox-static") && fixtures::static_busybox().is_none() {
        missing.push("busybox-static");
    }
    if missing.is_empty() {
        return;
    }
    let list = missing.join(" ");
    if !sh::is_root() || paths::program("apt-get").is_none() {
        eprintln!("setup: not installed: {list} (as root on Debian they would be installed now)");
        return;
    }
    eprintln!("setup: installing {list}");
    if let Err(why) = install(&missing) {
        eprintln!("setup: not installed: {list}: {why}");
    }
}

/// Installs Debian packages. The package lists are fetched first: on a fresh machine there are none.
fn install(packages: &[&str]) -> Result {
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
        apt
    };
    // A third party's list that cannot be fetched is no reason to stop: the installation says what it lacks.
    if let Err(why) = sh::run(apt().arg("update")) {
        eprintln!("setup: {why}; going on");
    }
    sh::run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))
}

/// rustfmt and clippy, which rustup's minimal profile lacks.
fn components() -> Result {
    for (component, command) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if sh::output(sh::cargo().args([command, "--version"])).is_err() {
            eprintln!("setup: adding {component}");
            sh::run(Command::new("rustup").current_dir(paths::root()).args(["component", "add", component]))?;
        }
    }
    Ok(())
}

//! `cargo xtask bench-boot`: from the call to the first instruction of a guest's init, and to the end of a whole boot,
//! beside lxc-start's. In the place that [`super::guard`] makes, as `bench-peers`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::guard::{ROOTFS, SCRATCH};
use super::measure::Place;
use super::{INNER, Options, own_program};
use crate::args::Args;
use crate::fixtures::at;
use crate::{Result, fixtures, paths, sh};

/// The root of the whole boot.
const DEBIAN: &str = "/media/debian";
/// Whole boots: each is seconds of work, of which nearly all is systemd's.
const WHOLE: u32 = 5;
/// Takes the time when everything else of the boot is done.
const UNIT: &str =
    "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nExecStart=/usr/bin/first /booted\n";

/// Builds what is measured and starts the guard.
pub fn run(mut args: Args) -> Result {
    let options = Options::take(&mut args)?;
    args.done()?;
    if !sh::is_root() {
        return Err("bench-boot needs root: it maps ids and makes cgroups".to_owned());
    }
    fixtures::busybox()?;
    let dir = paths::target().join("bench");
    at(&dir, fs::create_dir_all(&dir))?;
    let source = paths::root().join("benches/first.c");
    sh::run(Command::new("cc").args(["-O2", "-static", "-o"]).arg(first()).arg(source))?;
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "--example", "bench_boot"]))?;
    sh::run(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(own_program()?)
            .args([INNER, "--stage", "guard-boot"])
            .args(options.words()),
    )
}

fn first() -> PathBuf {
    paths::target().join("bench/first")
}

/// Inside.
pub(super) fn measure(options: &Options) -> Result {
    let place = Place::new()?;
    // lxc asks newuidmap(1), which asks these.
    for file in ["/etc/subuid", "/etc/subgid"] {
        let own = Path::new(SCRATCH).join(&file[5..]);
        at(&own, fs::write(&own, "root:100000:65536\n"))?;
        sh::run(Command::new("mount").arg("--bind").arg(&own).arg(file))?;
    }
    let init = Path::new(ROOTFS).join("bin/init");
    at(&init, fs::remove_file(&init))?;
    at(&init, fs::copy(first(), &init).map(drop))?;
    boot(&place, ROOTFS, "first instruction", "first", options.rounds)?;
    let debian = paths::fixtures().join("debian");
    if !debian.is_dir() {
        eprintln!("bench-boot: no Debian root: no whole boots");
        return Ok(());
    }
    sh::run(Command::new("cp").arg("-a").arg(debian).arg(DEBIAN))?;
    let root = Path::new(DEBIAN);
    let wants = root.join("etc/systemd/system/graphical.target.wants");
    at(&wants, fs::create_dir_all(&wants))?;
    let unit = root.join("etc/systemd/system/stamp.service");
    at(&unit, fs::write(&unit, UNIT))?;
    let link = wants.join("stamp.service");
    at(&link, std::os::unix::fs::symlink("../stamp.service", &link))?;
    let inside = root.join("usr/bin/first");
    at(&inside, fs::copy(first(), &inside).map(drop))?;
    boot(&place, DEBIAN, "whole boot", "booted", WHOLE.min(options.rounds))
}

fn boot(place: &Place, root: &str, label: &str, stamp: &str, rounds: u32) -> Result {
    sh::run(
        Command::new(paths::target().join("release/examples/bench_boot"))
            .args([root, label, stamp, &rounds.to_string()])
            .env("STOCKADE_BENCH_CGROUP", &place.cgroup)
            .env("STOCKADE_BENCH_DIR", &place.scratch),
    )
}

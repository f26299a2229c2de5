//! What `cargo xtask bench-boot` runs in the place that it has prepared: system containers booted by the library and by
//! lxc-start in turns, from one root. Not an example of use.
//!
//! `bench_boot ROOT LABEL STAMP ROUNDS`: the guest writes its CLOCK_MONOTONIC to STAMP, a file in ROOT.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stockade::container::ContainerConfig;
use stockade::idmap::IdMap;
use stockade::{Rootfs, Runtime};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The same for both.
const FIRST_ID: u32 = 100_000;
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, label, stamp, rounds] = &args[..] else { return Err("four arguments".into()) };
    let place = Place {
        root: root.into(),
        stamp: Path::new(root).join(stamp),
        scratch: std::env::var("STOCKADE_BENCH_DIR")?.into(),
        cgroup: std::env::var("STOCKADE_BENCH_CGROUP")?.into(),
    };
    let with_lxc = Command::new("lxc-start").arg("--version").stdout(Stdio::null()).status().is_ok();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first of each is not counted.
    for n in 0..=rounds.parse::<u32>()? {
        let a = place.stockade()?;
        let b = if with_lxc { Some(place.lxc()?) } else { None };
        if n > 0 {
            ours.push(a);
            theirs.extend(b);
        }
    }
    println!("{label}: stockade {}", figures(&mut ours));
    if theirs.is_empty() {
        println!("{label}: lxc-start is not installed");
    } else {
        println!("{label}: lxc-start {}", figures(&mut theirs));
        println!("{label}: {:.3} x lxc-start's", middle(&ours) / middle(&theirs));
    }
    Ok(())
}

struct Place {
    root: PathBuf,
    stamp: PathBuf,
    scratch: PathBuf,
    cgroup: PathBuf,
}

impl Place {
    /// Milliseconds from the call to the stamp.
    fn stockade(&self) -> Result<f64> {
        let dir = |name: &str| self.scratch.join("boot").join(name);
        let runtime =
            Runtime::builder().state_dir(dir("state")).run_dir(dir("run")).cgroup(&self.cgroup).open()?;
        let config = ContainerConfig::system("c")
            .rootfs(Rootfs::dir(&self.root))
            .idmap(IdMap::range(FIRST_ID, 65_536)?)
            .ephemeral();
        let config = config.build()?;
        let _ = std::fs::remove_file(&self.stamp);
        let began = monotonic();
        let container = runtime.create(config)?;
        container.start()?;
        let stamp = self.wait_for_stamp();
        container.stop()?;
        Ok((stamp? - began) / 1e6)
    }

    fn lxc(&self) -> Result<f64> {
        let config = self.scratch.join("boot.conf");
        let text = format!(
            "lxc.include = /usr/share/lxc/config/common.conf\nlxc.include = /usr/share/lxc/config/userns.conf\n\
             lxc.rootfs.path = dir:{}\nlxc.rootfs.options = idmap=container\nlxc.uts.name = c\n\
             lxc.net.0.type = empty\nlxc.apparmor.profile = unconfined\nlxc.cap.drop = sys_rawio\n\
             lxc.idmap = u 0 {FIRST_ID} 65536\nlxc.idmap = g 0 {FIRST_ID} 65536\n\
             lxc.cgroup.relative = 1\nlxc.cgroup.dir = perf/lxc\n",
            self.root.display()
        );
        std::fs::write(&config, text)?;
        let _ = std::fs::remove_file(&self.stamp);
        let lxc = |program: &str| {
            let mut command = Command::new(program);
            command.arg("-P").arg(&self.scratch).args(["-n", "c"]).stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let began = monotonic();
        let log = self.scratch.join("boot.log");
        let started =
            lxc("lxc-start").arg("-f").arg(&config).arg("-o").arg(&log).args(["-l", "INFO"]).status()?;
        let stamp = if started.success() { self.wait_for_stamp() } else { Err("lxc-start failed".into()) };
        let stopped = lxc("lxc-stop").arg("-k").status();
        let stamp =
            stamp.map_err(|e| format!("{e}\n{}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        stopped?;
        Ok((stamp - began) / 1e6)
    }

    fn wait_for_stamp(&self) -> Result<f64> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = std::fs::read_to_string(&self.stamp)
                && text.ends_with('\n')
            {
                return Ok(text.trim().parse()?);
            }
            if Instant::now() > end {
                return Err("the guest did not come up".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Nanoseconds, as the guest takes them.
fn monotonic() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn figures(all: &mut [f64]) -> String {
    all.sort_by(f64::total_cmp);
    let (first, last) = (all[0], all[all.len() - 1]);
    format!("median {:.2} ms, {first:.2} to {last:.2}, {} times", middle(all), all.len())
}

//! A host that is killed while its guest runs or reboots.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stockade::container::{OnReboot, SystemConfig};
use stockade::instance::{DeleteMode, DeleteOptions, Status};
use stockade::{ErrorKind, ExitStatus, Runtime};
use support::{HostSnapshot, PrivateDirs, require_fixture, require_root, scaled, until};

use super::image::{Image, SOON, eprint, system_of};

/// Says to this test program that it is the host that will be killed: its directories and the guest's root.
const DIRS: &str = "STOCKADE_TEST_HOST_DIRS";
/// How often it is killed while the guest reboots over and over.
const KILLS: usize = 30;
const HOUR: Duration = Duration::from_secs(3600);

fn open(state: &Path, run: &Path) -> Runtime {
    Runtime::builder().state_dir(state).run_dir(run).open().unwrap()
}

/// The host: starts the guest, says so, and waits for it until it is killed.
#[test]
#[expect(clippy::print_stdout, reason = "how the host tells the test what it does")]
fn the_host_that_is_killed() {
    let _serial = support::serial();
    let Ok(dirs) = std::env::var(DIRS) else { return };
    let [state, run, root] = dirs.split(':').map(PathBuf::from).collect::<Vec<_>>().try_into().unwrap();
    let runtime = open(&state, &run);
    let on_reboot = OnReboot::Restart { most: 100_000, within: HOUR };
    let config = system_of("web", &root).system_with(SystemConfig::new().on_reboot(on_reboot));
    let web = runtime.create(config.build().unwrap()).unwrap();
    web.start().unwrap();
    println!("\nstarted");
    let ended = web.wait();
    println!("\nended: {ended:?}");
}

/// Starts it, and waits until the guest runs.
fn host(dirs: &PrivateDirs, image: &Image) -> Child {
    let paths = [dirs.state().to_owned(), dirs.run().to_owned(), image.path()];
    let paths = paths.map(|p| p.to_str().unwrap().to_owned()).join(":");
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::the_host_that_is_killed", "--nocapture"])
        .env(DIRS, paths)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(host.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line == "started"));
    host
}

fn kill(mut host: Child) {
    host.kill().unwrap();
    host.wait().unwrap();
}

/// Whether a process that nobody of this program has made can be asked for its end: Linux 6.15.
fn kernel_tells_ends() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15)
}

#[test]
fn a_console_is_kept_and_a_reboot_followed_after_the_host_has_died() {
    let _serial = support::serial();
    require_root!();
    require_fixture!("busybox");
    let before = HostSnapshot::take();
    let image = Image::script(
        "echo boot; while ! test -e /go; do sleep 0.01; done; rm /go
        yes 'after the host' | head -c 200000; echo; echo going; exec reboot -f",
    );
    let dirs = support::private_dirs();
    kill(host(&dirs, &image));
    image.touch("go");
    // It goes away by itself: its console is read though nobody is there to do it.
    let gone = || {
        let runtime = open(dirs.state(), dirs.run());
        let web = runtime.container(&"web".parse().unwrap()).unwrap();
        let log = web.console_log().unwrap();
        String::from_utf8_lossy(&log).contains("going\r\n")
    };
    until(SOON, "it has written all", gone);
    {
        let runtime = open(dirs.state(), dirs.run());
        let web = runtime.container(&"web".parse().unwrap()).unwrap();
        // Where nobody could tell any more how it has ended, it stays as it is.
        let unknown = || !kernel_tells_ends() && web.info().unwrap().exit_status == Some(ExitStatus::Unknown);
        until(SOON, "it was started again", || match web.status() {
            Status::Running => web.console_log().unwrap().ends_with(b"boot\r\n"),
            _ => unknown(),
        });
        web.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)).unwrap();
        runtime.close();
    }
    drop((dirs, image));
    before.assert_unchanged();
}

#[test]
fn hosts_that_die_while_the_guest_reboots_leave_one_guest_or_none() {
    let _serial = support::serial();
    require_root!();
    require_fixture!("busybox");
    let before = HostSnapshot::take();
    let image = Image::script("echo boot; sleep 0.01; exec reboot -f");
    let kills = scaled(KILLS);
    let (mut running, mut stopped) = (0, 0);
    for n in 0..kills {
        let dirs = support::private_dirs();
        let host = host(&dirs, &image);
        std::thread::sleep(Duration::from_millis(7 * n as u64 % 53));
        kill(host);
        let runtime = open(dirs.state(), dirs.run());
        let web = runtime.container(&"web".parse().unwrap()).unwrap();
        match web.status() {
            Status::Running => running += 1,
            Status::Stopped => {
                stopped += 1;
                // A child of the dead host that has executed nothing yet has its locks for a moment.
                until(SOON, "it can be started", || match web.start() {
                    Err(e) if e.kind() == ErrorKind::Busy => false,
                    Err(e) if e.kind() == ErrorKind::InvalidState => web.status() == Status::Running,
                    started => started.map(|()| true).unwrap(),
                });
            }
            other => panic!("{other}"),
        }
        let mut unknown = 0;
        let boots = || web.console_log().unwrap().iter().filter(|b| **b == b'\n').count();
        let so_far = boots();
        until(SOON, "it goes on", || {
            if web.status() == Status::Stopped && !kernel_tells_ends() {
                assert_eq!(web.info().unwrap().exit_status, Some(ExitStatus::Unknown));
                web.start().unwrap();
                unknown += 1;
            }
            boots() > so_far
        });
        assert!(unknown <= 1, "its own guest's end is known");
        web.delete_with(DeleteOptions::new().mode(DeleteMode::Stop)).unwrap();
        runtime.close();
    }
    eprint(&format!("{kills} hosts killed: {running} guests ran at the next look, {stopped} were stopped"));
    if kernel_tells_ends() {
        assert!(running > 0);
    }
    drop(image);
    before.assert_unchanged();
}

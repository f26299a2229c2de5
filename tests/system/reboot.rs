//! Containers that reboot themselves.

use std::sync::Arc;
use std::time::Duration;

use stockade::container::{OnReboot, SystemConfig};
use stockade::instance::{Status, WaitOptions};
use stockade::{ErrorKind, ExitStatus};
use support::until;

use super::image::{Image, SOON, eprint};
use super::rig::{Rig, end, sh};

const HOUR: Duration = Duration::from_secs(3600);

fn restarted(most: u32) -> SystemConfig {
    SystemConfig::new().on_reboot(OnReboot::Restart { most, within: HOUR })
}

fn boots(log: &[u8]) -> usize {
    log.split(|b| *b == b'\n').filter(|line| *line == b"boot\r").count()
}

#[test]
fn a_reboot_in_a_loop_comes_to_an_end() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script("echo boot; exec reboot -f");
    let mut looped = 0;
    for ephemeral in [false, true] {
        let config = image.system("web").system_with(restarted(3));
        let c = rig.run(if ephemeral { config.ephemeral() } else { config });
        assert!(c.wait().unwrap().is_reboot());
        assert_eq!(boots(&c.console_log().unwrap()), 4, "the first and three more");
        // It stays stopped, however often somebody looks, until it is started.
        for _ in 0..3 {
            assert_eq!(c.status(), Status::Stopped);
            assert!(c.wait().unwrap().is_reboot());
        }
        assert_eq!(boots(&c.console_log().unwrap()), 4);
        c.start().unwrap();
        // This time by looks alone.
        until(SOON, "eight boots", || {
            c.status();
            boots(&c.console_log().unwrap()) == 8
        });
        until(SOON, "its end", || c.status() == Status::Stopped);
        assert_eq!(boots(&c.console_log().unwrap()), 8);
        looped += 8;
        end(c);
    }
    eprint(&format!("{looped} boots"));
    drop(image);
    rig.end();
}

#[test]
fn a_reboot_can_be_an_end() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script("echo boot; exec reboot -f");
    let c = rig.run(image.system("web").system_with(SystemConfig::new().on_reboot(OnReboot::Stop)));
    assert!(c.wait().unwrap().is_reboot());
    assert_eq!(boots(&c.console_log().unwrap()), 1);
    end(c);
    drop(image);
    rig.end();
}

/// Boots once and waits for a word to reboot; then it stays up.
const ONCE: &str = "rm -f /go
echo boot
while ! test -e /go; do sleep 0.01; done
exec reboot -f";

#[test]
fn all_who_wait_go_on_waiting_through_a_reboot() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script(ONCE);
    let c = rig.run(image.system("web").system_with(restarted(1000)));
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let c = Arc::clone(&c);
            std::thread::spawn(move || c.wait().unwrap())
        })
        .collect();
    let rounds = support::scaled(20);
    until(SOON, "it is up", || boots(&c.console_log().unwrap()) == 1);
    for n in 0..rounds {
        let first = c.info().unwrap().pid;
        image.touch("go");
        until(SOON, "the next one", || {
            let info = c.info().unwrap();
            info.status == Status::Running && info.pid != first
        });
        until(SOON, "it says so", || boots(&c.console_log().unwrap()) == n + 2);
        assert_eq!(sh(&c, "echo $$; ls /go 2>/dev/null | wc -l").1.lines().count(), 2);
    }
    assert!(waiters.iter().all(|w| !w.is_finished()));
    let e = c.wait_with(WaitOptions::new().deadline(Duration::from_millis(20))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    c.stop().unwrap();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap().signal().map(|s| s.as_raw()), Some(9));
    }
    eprint(&format!("{rounds} reboots, four waiters"));
    end(c);
    drop(image);
    rig.end();
}

#[test]
fn a_stop_between_two_runs_is_an_end() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script(ONCE);
    let mut held = 0;
    for shutdown in [false, true] {
        let c = rig.run(image.system("web").system_with(restarted(1000)));
        until(SOON, "it is up", || boots(&c.console_log().unwrap()) == 1);
        let pidfd = c.pidfd().unwrap();
        image.touch("go");
        // Its end, which nobody has looked at.
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        if shutdown {
            c.shutdown().unwrap()
        } else {
            c.stop().unwrap()
        }
        for _ in 0..3 {
            assert_eq!(c.status(), Status::Stopped);
        }
        assert!(c.info().unwrap().exit_status.is_some_and(ExitStatus::is_reboot));
        assert_eq!(c.stop().unwrap_err().kind(), ErrorKind::InvalidState);
        let _ = std::fs::remove_file(image.path().join("go"));
        held += 1;
        end(c);
    }
    assert_eq!(held, 2);
    drop(image);
    rig.end();
}

#[test]
fn a_container_that_cannot_be_started_again_says_why_and_stays_stopped() {
    let Some(rig) = Rig::new() else { return };
    let image = Image::script("while ! test -e /go; do sleep 0.01; done; rm /bin/init; exec reboot -f");
    let c = rig.run(image.system("web").system_with(restarted(1000)));
    image.touch("go");
    let e = c.wait().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PayloadNotFound, "{e}");
    assert_eq!(c.status(), Status::Stopped);
    assert!(c.wait().unwrap().is_reboot());
    end(c);
    drop(image);
    rig.end();
}

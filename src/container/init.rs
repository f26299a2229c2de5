//! Asking an init to halt or to reboot, each in the way that it understands.

use std::ffi::OsString;
use std::time::Duration;

use super::config::InitRequest;
use super::exec::Process;
use super::handle::Container;
use super::live::Live;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::ExecOptions;
use crate::op::{Cancel, Deadline};
use crate::signal::Signal;

/// How long between two looks at an init that does not listen yet, or cannot be spoken to yet.
const PAUSE: Duration = Duration::from_millis(10);
/// How often a command is tried again that has failed: an init that has only just begun may not answer it yet.
const AGAIN: Duration = Duration::from_millis(200);
/// How long an init may take after a command before it is given again.
const ONCE_MORE: Duration = Duration::from_secs(3);
/// How long an init that is sure to listen one day is waited for.
const ALL_EARS: Duration = Duration::from_secs(10);
/// How long one is waited for that may listen in a way which cannot be seen from outside.
const PERHAPS: Duration = Duration::from_secs(1);

/// What is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Halt,
    Reboot,
}

/// The first processes that differ in how they are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Systemd,
    Busybox,
    Sysvinit,
    OpenrcInit,
    Runit,
    S6,
    /// Called init, and nothing more is known.
    Init,
    Program,
}

/// Systemd's numbers wherever it was built: C libraries count `SIGRTMIN` from 34 or 35, systemd from 34.
const SYSTEMD_HALT: i32 = 37;
const SYSTEMD_REBOOT: i32 = 39;

impl Kind {
    /// By the program that runs, and the name that it was called by. Either may be a lie.
    fn of(exe: &str, called: &str) -> Self {
        let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let exe = base(exe.trim_end_matches(" (deleted)"));
        let called = base(called);
        match (exe.as_str(), called.as_str()) {
            ("systemd", _) => Self::Systemd,
            // It is an init only under these names.
            ("busybox", "init" | "linuxrc") => Self::Busybox,
            ("init" | "sysvinit", _) => Self::Sysvinit,
            ("openrc-init", _) => Self::OpenrcInit,
            ("runit" | "runit-init", _) => Self::Runit,
            ("s6-svscan", _) => Self::S6,
            ("busybox", _) => Self::Program,
            (_, "init") => Self::Init,
            _ => Self::Program,
        }
    }

    /// How long to wait until it is seen to listen to a signal, which `told` names one that the configuration does.
    fn ears(self, told: bool) -> Duration {
        match self {
            Self::Systemd | Self::OpenrcInit | Self::S6 if !told => ALL_EARS,
            // It waits in sigtimedwait(2), which does not show; and it does so from the first.
            Self::Busybox => Duration::ZERO,
            Self::Program if !told => Duration::ZERO,
            _ => PERHAPS,
        }
    }

    fn of_process(pid: u32) -> Self {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let called = cmdline.split(|b| *b == 0).next().unwrap_or_default();
        Self::of(&exe.to_string_lossy(), &String::from_utf8_lossy(called))
    }

    fn request(self, wish: Wish) -> InitRequest {
        let number = |n| Signal::new(n).map_or(InitRequest::Signal(Signal::TERM), InitRequest::Signal);
        let level = match wish {
            Wish::Halt => "0",
            Wish::Reboot => "6",
        };
        match (self, wish) {
            (Self::Systemd, Wish::Halt) => number(SYSTEMD_HALT),
            (Self::Systemd, Wish::Reboot) => number(SYSTEMD_REBOOT),
            (Self::Busybox, Wish::Halt) => Signal::USR2.into(),
            (Self::Busybox, Wish::Reboot) => Signal::TERM.into(),
            (Self::Sysvinit | Self::Runit, _) => InitRequest::exec(["/sbin/init", level]),
            (Self::OpenrcInit | Self::Init, Wish::Halt) => Signal::PWR.into(),
            (Self::OpenrcInit | Self::Init | Self::S6, Wish::Reboot) => Signal::INT.into(),
            (Self::S6, Wish::Halt) | (Self::Program, _) => Signal::TERM.into(),
        }
    }
}

impl Container {
    /// Asks the first process, and returns once it was asked. What was asked, in words.
    pub(super) fn ask_init(
        &self,
        live: &Live,
        wish: Wish,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<Asked> {
        let kind = Kind::of_process(live.child.id());
        let config = self.config();
        let configured = config.system.as_ref().and_then(|system| match wish {
            Wish::Halt => system.halt.clone(),
            Wish::Reboot => system.reboot.clone(),
        });
        let told = configured.is_some();
        match configured.unwrap_or_else(|| kind.request(wish)) {
            InitRequest::Signal(signal) => {
                // The kernel drops a signal that the first process of a pid namespace does not handle: one that is
                // sent while it comes up would be lost.
                wait_for_ears(live, signal, deadline.at_most(kind.ears(told)), cancel)?;
                send(live, signal).map(|()| Asked::Signal(signal))
            }
            InitRequest::Exec(args) => self.ask_by_command(live, &args, deadline, cancel),
        }
    }

    /// Asks once more, and once more, until the first process ends: a command can succeed and be for nothing, as with a
    /// runit that has not come to its second stage. What fails now does not matter.
    pub(super) fn ask_over_again(
        &self,
        live: &Live,
        wish: Wish,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        loop {
            pause(live, ONCE_MORE, deadline, cancel)?;
            if live.has_ended() {
                return Ok(());
            }
            let _ = self.ask_init(live, wish, deadline.at_most(ONCE_MORE), cancel);
        }
    }

    /// Runs a command until it succeeds or the first process has ended.
    fn ask_by_command(
        &self,
        live: &Live,
        args: &[OsString],
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<Asked> {
        loop {
            let mut options = ExecOptions::new(args.iter().cloned());
            options.deadline = deadline.remaining();
            options.cancel = cancel.cloned();
            match self.exec_in(live, options) {
                Ok(process) => match self.await_command(live, &process, deadline, cancel)? {
                    Command::Succeeded | Command::Overtaken => return Ok(Asked::Command(args.to_vec())),
                    Command::Failed => {}
                },
                // It ends just now.
                Err(e) if e.kind() == ErrorKind::InvalidState => return Ok(Asked::Command(args.to_vec())),
                Err(e) => return Err(e),
            }
            pause(live, AGAIN, deadline, cancel)?;
        }
    }

    fn await_command(
        &self,
        live: &Live,
        process: &Process,
        deadline: Deadline,
        cancel: Option<&Cancel>,
    ) -> Result<Command> {
        loop {
            if let Some(status) = process.try_wait()? {
                return Ok(if status.success() { Command::Succeeded } else { Command::Failed });
            }
            if live.has_ended() {
                return Ok(Command::Overtaken);
            }
            pause(live, PAUSE, deadline, cancel)?;
        }
    }
}

/// How a command went that asks an init for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Succeeded,
    Failed,
    /// What it asked for was faster.
    Overtaken,
}

/// What was asked, for an error.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Signal(Signal),
    Command(Vec<OsString>),
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal(signal) => signal.fmt(f),
            Self::Command(args) => {
                let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
                write!(f, "`{}`", words.join(" "))
            }
        }
    }
}

/// Sends a signal to the first process; it does not matter where that ended a moment ago.
pub(super) fn send(live: &Live, signal: Signal) -> Result<()> {
    match live.child.signal(signal) {
        Err(e) if e.kind() == ErrorKind::InvalidState => Ok(()),
        sent => sent,
    }
}

/// Waits until the first process handles or blocks a signal, but not for ever: it is asked then all the same.
fn wait_for_ears(live: &Live, signal: Signal, deadline: Deadline, cancel: Option<&Cancel>) -> Result<()> {
    while !listens(live.child.id(), signal) && !live.has_ended() && !deadline.expired() {
        match pause(live, PAUSE, deadline, cancel) {
            Err(e) if e.kind() == ErrorKind::Timeout => return Ok(()),
            paused => paused?,
        }
    }
    Ok(())
}

/// Whether a process does something with a signal, or waits for it in another way (`proc_pid_status(5)`).
fn listens(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let bit = 1_u64 << (signal.as_raw() - 1);
    (mask("SigBlk:").unwrap_or(0) | mask("SigCgt:").unwrap_or(0)) & bit != 0
}

/// Waits this long, or until the first process ends.
fn pause(live: &Live, pause: Duration, deadline: Deadline, cancel: Option<&Cancel>) -> Result<()> {
    match live.guests.wait_for(&live.child, deadline.at_most(pause), cancel) {
        Err(e) if e.kind() == ErrorKind::Timeout && !deadline.expired() => Ok(()),
        Err(e) if e.kind() == ErrorKind::Timeout => {
            Err(Error::new(ErrorKind::Timeout, "ask the first process"))
        }
        Err(e) => Err(e),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inits_are_told_by_their_programs() {
        for (exe, called, kind) in [
            ("/usr/lib/systemd/systemd", "/sbin/init", Kind::Systemd),
            ("/usr/lib/systemd/systemd (deleted)", "/sbin/init", Kind::Systemd),
            ("/bin/busybox", "/sbin/init", Kind::Busybox),
            ("/bin/busybox", "sleep", Kind::Program),
            ("/usr/sbin/init", "init [2]", Kind::Sysvinit),
            ("/usr/sbin/openrc-init", "/sbin/openrc-init", Kind::OpenrcInit),
            ("/usr/bin/runit", "runit", Kind::Runit),
            ("/usr/bin/s6-svscan", "s6-svscan", Kind::S6),
            ("/usr/bin/python3", "/sbin/init", Kind::Init),
            ("/bin/sleep", "sleep", Kind::Program),
            ("", "", Kind::Program),
        ] {
            assert_eq!(Kind::of(exe, called), kind, "{exe} {called}");
        }
    }

    #[test]
    fn each_is_asked_in_its_way() {
        let signal = |n| InitRequest::Signal(Signal::new(n).unwrap());
        assert_eq!(Kind::Systemd.request(Wish::Halt), signal(37));
        assert_eq!(Kind::Systemd.request(Wish::Reboot), signal(39));
        assert_eq!(Kind::Sysvinit.request(Wish::Reboot), InitRequest::exec(["/sbin/init", "6"]));
        assert_eq!(Kind::Runit.request(Wish::Halt), InitRequest::exec(["/sbin/init", "0"]));
        assert_eq!(Kind::Program.request(Wish::Halt), signal(libc::SIGTERM));
    }

    #[test]
    fn a_process_listens_to_what_it_handles() {
        assert!(!listens(std::process::id(), Signal::WINCH));
        assert!(!listens(u32::MAX, Signal::TERM));
    }
}

//! The `stockade` command as a shell sees it: exit statuses, streams, signals, and nothing left behind.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::{HostSnapshot, PrivateDirs, require_fixture, require_root};

const PROGRAM: &str = env!("CARGO_BIN_EXE_stockade");

/// The command on directories of the test's own.
struct Cli {
    dirs: PrivateDirs,
    busybox: PathBuf,
}

impl Cli {
    fn new(busybox: PathBuf) -> Self {
        let cli = Self { dirs: support::private_dirs(), busybox };
        // Makes the files that a runtime keeps for itself: what comes after them is a leak.
        assert_eq!(status(&cli.output(["true"])), 0);
        cli
    }

    fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg(verb).arg("--run-dir").arg(self.dirs.run()).arg("--state-dir").arg(self.dirs.state());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self) -> Command {
        let mut command = self.verb("run");
        command.arg("--rootfs").arg(&self.busybox);
        command
    }

    /// Runs it with these words and waits for its end.
    fn output<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Output {
        self.run().args(words).output().unwrap()
    }

    fn list(&self) -> String {
        text(&self.verb("list").output().unwrap().stdout)
    }
}

impl Drop for Cli {
    /// A container that a failed test leaves would hold the streams of whoever runs the tests.
    fn drop(&mut self) {
        for line in self.list().lines() {
            let name = line.split(' ').next().unwrap_or_default();
            let _ = self.verb("delete").arg(name).output();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn status(out: &Output) -> i32 {
    out.status.code().unwrap_or_else(|| panic!("{:?}: {}", out.status, text(&out.stderr)))
}

/// Checks status and both streams.
#[track_caller]
fn is(out: &Output, code: i32, stdout: &str) {
    assert_eq!((status(out), text(&out.stdout)), (code, stdout.to_owned()), "stderr: {}", text(&out.stderr));
}

#[track_caller]
fn complains(out: &Output, code: i32, about: &str) {
    let err = text(&out.stderr);
    assert_eq!(status(out), code, "{err}");
    assert!(err.starts_with("stockade: ") && err.contains(about), "no word of `{about}`: {err}");
}

/// What the busybox root says of itself.
const OS_RELEASE: &str = "ID=busybox\nPRETTY_NAME=\"Stockade test root\"\n";

/// How long what another process does may take.
const SOON: Duration = Duration::from_secs(10);

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Starts it, and returns once its command has written a line.
fn ready(command: &mut Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, out)
}

/// Does `work` on a command of its own and checks that nothing stays: neither on the host nor in its directories.
fn leaves_nothing(work: impl FnOnce(&Cli)) {
    let _serial = support::serial();
    require_root!();
    let busybox = require_fixture!("busybox");
    let host = HostSnapshot::take();
    {
        let cli = Cli::new(busybox);
        let leaks = cli.dirs.leak_check();
        work(&cli);
        assert_eq!(cli.list(), "");
        leaks.assert_clean();
    }
    host.assert_unchanged();
}

#[test]
fn the_exit_status_is_the_commands() {
    leaves_nothing(|cli| {
        is(&cli.output(["--", "true"]), 0, "");
        is(&cli.output(["--rm", "sh", "-c", "exit 3"]), 3, "");
        is(&cli.output(["sh", "-c", "exit 255"]), 255, "");
        // Process 1 cannot be ended from inside by a signal that it does not handle, so its child is.
        is(&cli.output(["sh", "-c", "sh -c 'kill -9 $$'; echo $?"]), 0, "137\n");
        complains(&cli.output(["no-such-program"]), 127, "no-such-program");
        complains(&cli.output(["/no/such/program"]), 127, "/no/such/program");
        complains(&cli.output(["/etc"]), 126, "/etc");
    });
}

#[test]
fn streams_are_passed_on() {
    leaves_nothing(|cli| {
        let script = "cat; echo err >&2";
        let mut child = cli
            .run()
            .args(["sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let megabyte = "0123456789abcde\n".repeat(1 << 16);
        let mut stdin = child.stdin.take().unwrap();
        let sent = megabyte.clone();
        let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap();
        is(&out, 0, &megabyte);
        assert_eq!(text(&out.stderr), "err\n");
    });
}

#[test]
fn options_reach_the_container() {
    leaves_nothing(|cli| {
        let sh = |options: &[&str], script: &str| {
            cli.run().args(options).args(["--", "sh", "-c", script]).output().unwrap()
        };
        is(&sh(&["--name", "box"], "hostname; id -u; pwd"), 0, "box\n0\n/\n");
        is(&sh(&["-e", "A=1 2", "--env=B="], "echo \"[$A][$B][$HOME]\""), 0, "[1 2][][]\n");
        is(&sh(&["-w", "/tmp", "-u", "5:6"], "pwd; id -u; id -g"), 0, "/tmp\n5\n6\n");
        is(&sh(&[], "ls /sys/class/net"), 0, "lo\n");
        is(&sh(&[], "grep SigBlk /proc/self/status | tr -d '\\t'"), 0, "SigBlk:0000000000000000\n");
        let devices = std::fs::read_dir("/sys/class/net").unwrap().count();
        is(&sh(&["--net=host"], "ls /sys/class/net | wc -l"), 0, &format!("{devices}\n"));
        is(&sh(&["--read-only"], "touch /x 2>/dev/null || echo no"), 0, "no\n");
        is(&sh(&["--privileged"], "cat /proc/self/uid_map | tr -s ' '"), 0, " 0 0 4294967295\n");
        is(&sh(&["--no-seccomp"], "grep Seccomp: /proc/self/status | tr -d '\\t'"), 0, "Seccomp:0\n");

        let shared = tempfile::tempdir().unwrap();
        std::fs::write(shared.path().join("file"), "of the host\n").unwrap();
        // Targets are made where they are missing, and the fixture is not to be changed.
        let host = |option: &str, script: &str| {
            let volume = format!("{}:/home/v{option}", shared.path().display());
            cli.verb("run").args(["--host", "-v", &volume, "--", "sh", "-c", script]).output().unwrap()
        };
        is(&host("", "cat /home/v/file; echo new > /home/v/new"), 0, "of the host\n");
        assert_eq!(std::fs::read_to_string(shared.path().join("new")).unwrap(), "new\n");
        is(&host(":ro", "rm /home/v/new 2>/dev/null || echo no"), 0, "no\n");
        is(&host(":noidmap", "stat -c %u /home/v/file"), 0, "65534\n");
    });
}

#[test]
fn a_limit_is_set_or_refused() {
    leaves_nothing(|cli| {
        let script = "for n in 1 2 3 4 5 6 7 8 9; do sleep 9 & done; echo all of them";
        let out = cli.output(["--pids", "7", "--memory=64M", "sh", "-c", script]);
        // Where cgroup v1 holds the controllers and is not used, or this process's cgroup has none to give.
        if status(&out) == 125 {
            complains(&out, 125, ".max");
        } else {
            assert_ne!((status(&out), out.stdout.as_slice()), (0, &b"all of them\n"[..]));
            assert!(String::from_utf8_lossy(&out.stderr).contains("fork"), "{out:?}");
        }
    });
}

#[test]
fn signals_reach_the_command_and_its_answer_counts() {
    leaves_nothing(|cli| {
        for (signal, name) in [(Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::INT, "INT")] {
            let script =
                format!("trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done");
            let (child, mut out) = ready(cli.run().args(["sh", "-c", &script]));
            send(&child, signal);
            let mut rest = String::new();
            out.read_to_string(&mut rest).unwrap();
            let ended = child.wait_with_output().unwrap().status;
            assert_eq!((ended.code(), rest), (Some(9), format!("got {name}\n")));
        }
    });
}

#[test]
fn a_second_interrupt_kills() {
    leaves_nothing(|cli| {
        let (child, _out) = ready(cli.run().args(["sh", "-c", "trap '' INT; echo ready; exec sleep 1000"]));
        send(&child, Signal::INT);
        // Two that wait at the same time are one: the first must be gone.
        support::until(SOON, "the first signal is taken", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let pending = status.lines().find_map(|l| l.strip_prefix("ShdPnd:")).unwrap().trim();
            pending.bytes().all(|b| b == b'0')
        });
        send(&child, Signal::INT);
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137));
    });
}

#[test]
fn what_makes_no_sense_is_told_and_nothing_is_made() {
    leaves_nothing(|cli| {
        complains(
            &cli.verb("run").arg("true").output().unwrap(),
            125,
            "--rootfs DIR, --image FILE or --host",
        );
        complains(&cli.run().output().unwrap(), 125, "which command");
        complains(&cli.output(["--hostt", "true"]), 125, "--hostt");
        complains(&cli.output(["--memory", "lots", "true"]), 125, "`lots`");
        complains(&cli.output(["--name", "a/b/c", "true"]), 125, "a/b/c");
        complains(&cli.output(["-w", "relative", "true"]), 125, "cwd");
        complains(&cli.output(["-v", "/no/such:/x", "true"]), 125, "/no/such");
        complains(&cli.output(["-v", "/tmp:/proc/x", "true"]), 125, "/proc/x");
        complains(&cli.output(["-u", "70000", "true"]), 125, "70000");
        let both = cli.verb("run").args(["--host", "--privileged", "true"]).output().unwrap();
        complains(&both, 125, "rootfs");
        let secret = cli.output(["-e", "hunter2", "true"]);
        complains(&secret, 125, "NAME=VALUE");
        assert!(!text(&secret.stderr).contains("hunter2"));
        let missing = cli.verb("run").args(["--rootfs", "/no/such/root", "true"]).output().unwrap();
        complains(&missing, 125, "/no/such/root");
    });
}

#[test]
fn help_and_version_go_to_standard_output() {
    let _serial = support::serial();
    for words in [&["--help"][..], &["run", "--help"], &["exec", "-h"], &["list", "--help"]] {
        let out = Command::new(PROGRAM).args(words).output().unwrap();
        assert_eq!(status(&out), 0);
        assert!(text(&out.stdout).contains("Usage: stockade"), "{words:?}");
    }
    let version = Command::new(PROGRAM).arg("--version").output().unwrap();
    is(&version, 0, concat!("stockade ", env!("CARGO_PKG_VERSION"), "\n"));
    complains(&Command::new(PROGRAM).output().unwrap(), 125, "--help");
}

#[test]
fn another_process_lists_enters_and_stops_it() {
    leaves_nothing(|cli| {
        let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
        let (child, _out) = ready(cli.run().args(["--name", "other", "-e", "A=1", "sh", "-c", script]));
        // Its record is written a moment after its first process has begun.
        support::until(SOON, "it is listed", || cli.list().starts_with("default/other Running "));
        let taken = cli.output(["--name", "other", "true"]);
        complains(&taken, 125, "other");
        let exec = |words: &[&str]| cli.verb("exec").args(words).output().unwrap();
        is(&exec(&["-e", "B=2", "other", "--", "sh", "-c", "hostname; echo $A$B; exit 6"]), 6, "other\n12\n");
        complains(&exec(&["other", "no-such-program"]), 127, "no-such-program");
        complains(&exec(&["nobody", "true"]), 125, "nobody");
        let stopped = cli.verb("stop").arg("other").output().unwrap();
        is(&stopped, 0, "");
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137));
    });
}

#[test]
fn what_a_killed_command_leaves_can_be_deleted() {
    leaves_nothing(|cli| {
        for recorded in [true, false] {
            let words = ["--name", "left", "sh", "-c", "echo ready; exec sleep 1000"];
            let (mut child, mut out) = ready(cli.run().args(words));
            support::until(SOON, "it is listed", || cli.list().starts_with("default/left Running "));
            child.kill().unwrap();
            child.wait().unwrap();
            if !recorded {
                // As if it had been killed before it could write down what runs.
                std::fs::remove_file(cli.dirs.run().join("instances/default/left/run.json")).unwrap();
                assert_eq!(cli.list(), "default/left Stopped -\n");
            }
            is(&cli.verb("delete").arg("left").output().unwrap(), 0, "");
            // The end of file comes when the last process of the container is gone.
            assert_eq!(out.read_to_string(&mut String::new()).unwrap(), 0);
        }
    });
}

#[test]
fn the_hosts_files_for_root_and_for_an_ordinary_user() {
    leaves_nothing(|cli| {
        let release = std::fs::read_to_string("/etc/os-release").unwrap();
        let script = "cat /etc/os-release; ls /root /home /tmp /run";
        let all = format!("{release}/home:\n\n/root:\n\n/run:\n\n/tmp:\n");
        let host = |cli: &Cli| {
            let mut command = cli.verb("run");
            command.args(["--host", "--", "sh", "-c", script]);
            command
        };
        is(&host(cli).output().unwrap(), 0, &all);

        const NOBODY: u32 = 65534;
        if std::fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|n| n.trim() == "0") {
            support::skip("user namespaces are off for ordinary users");
            return;
        }
        // Where the user can reach the program, and a directory of his own.
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("stockade");
        std::fs::copy(PROGRAM, &program).unwrap();
        let own = dir.path().join("own");
        std::fs::create_dir(&own).unwrap();
        open_to_all(dir.path());
        std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
        let as_nobody = |words: &[&str]| {
            let mut command = Command::new(&program);
            command.env_clear().env("PATH", "/usr/bin:/bin").env("XDG_RUNTIME_DIR", &own);
            command.arg("run").args(words).stdin(Stdio::null()).current_dir("/").uid(NOBODY).gid(NOBODY);
            command.output().unwrap()
        };
        is(&as_nobody(&["--host", "--", "sh", "-c", script]), 0, &all);
        is(&as_nobody(&["--host", "sh", "-c", "id -u; echo x > /tmp/x; exit 4"]), 4, "0\n");
        complains(&as_nobody(&["--host", "no-such-program"]), 127, "no-such-program");
        complains(&as_nobody(&["--host", "--privileged", "true"]), 125, "rootfs");
        let left = std::fs::read_dir(own.join("stockade/instances/default"));
        assert_eq!(left.map_or(0, Iterator::count), 0);
    });
}

fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// An archive of the busybox root, and where images are unpacked.
fn image(cli: &Cli, dir: &Path) -> PathBuf {
    let archive = dir.join("busybox.tar.gz");
    let packed =
        Command::new("tar").arg("-C").arg(&cli.busybox).arg("-czf").arg(&archive).arg(".").status().unwrap();
    assert!(packed.success());
    archive
}

#[test]
fn an_image_is_unpacked_for_the_run_and_removed() {
    leaves_nothing(image_runs);
}

fn image_runs(cli: &Cli) {
    let dir = tempfile::tempdir().unwrap();
    let archive = image(cli, dir.path());
    let tmp = dir.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let run = |options: &[&str]| {
        let mut command = cli.verb("run");
        command.env("TMPDIR", &tmp).arg("--image").arg(&archive).args(options);
        command
    };
    let left = || std::fs::read_dir(&tmp).unwrap().count();
    let script = "stat -c %u:%g /bin/busybox && touch /new && echo made";
    is(&run(&["sh", "-c", script]).output().unwrap(), 0, "0:0\nmade\n");
    is(&run(&["--privileged", "sh", "-c", script]).output().unwrap(), 0, "0:0\nmade\n");
    assert_eq!(left(), 0);
    complains(&run(&["/no/such"]).output().unwrap(), 127, "/no/such");
    assert_eq!(left(), 0);

    let bytes = std::fs::read(&archive).unwrap();
    std::fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    complains(&run(&["true"]).output().unwrap(), 125, "cut off");
    let mut none = cli.verb("run");
    complains(&none.args(["--image", "/no/such.tar", "true"]).output().unwrap(), 125, "/no/such.tar");
    assert_eq!(left(), 0);

    // An end asked for while the archive is still coming.
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut waiting = cli.verb("run");
    let child = waiting.env("TMPDIR", &tmp).arg("--image").arg(&fifo).arg("true").stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    let mut pipe = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    support::until(SOON, "one is left", || left() == 1);
    send(&child, Signal::TERM);
    // Refused when the reader has gone.
    let _ = pipe.write_all(&bytes);
    drop(pipe);
    complains(&child.wait_with_output().unwrap(), 125, "the caller ended it");
    assert_eq!(left(), 0);
}

#[test]
fn the_image_of_a_killed_run_goes_with_the_next() {
    leaves_nothing(|cli| {
        let dir = tempfile::tempdir().unwrap();
        let archive = image(cli, dir.path());
        let tmp = dir.path().join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        let left = || std::fs::read_dir(&tmp).unwrap().count();
        let on = |run_dir: &Path, words: &[&str]| {
            let mut command = Command::new(PROGRAM);
            command.stdin(Stdio::null()).env("TMPDIR", &tmp).arg("run").arg("--run-dir").arg(run_dir);
            command.arg("--state-dir").arg(cli.dirs.state()).arg("--image").arg(&archive).args(words);
            command
        };
        let run = |words: &[&str]| on(cli.dirs.run(), words);

        // Its container goes on, and has its root.
        let script = "echo ready; exec sleep 98764";
        let (mut killed, _out) =
            ready(run(&["--name", "orphan"]).args(["sh", "-c", script]).stderr(Stdio::null()));
        assert_eq!(left(), 1);
        // That of another runtime may be in use for all that this one knows, and that of a living run is.
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        is(&run(&["true"]).output().unwrap(), 0, "");
        assert_eq!(left(), 1);
        killed.kill().unwrap();
        let _ = killed.wait().unwrap();
        is(&run(&["true"]).output().unwrap(), 0, "");
        assert_eq!(left(), 1);
        is(&cli.verb("exec").args(["orphan", "cat", "/etc/os-release"]).output().unwrap(), 0, OS_RELEASE);

        is(&cli.verb("delete").arg("orphan").output().unwrap(), 0, "");
        assert_eq!(left(), 1);
        is(&on(&other, &["true"]).output().unwrap(), 0, "");
        assert_eq!(left(), 1);
        is(&run(&["true"]).output().unwrap(), 0, "");
        assert_eq!(left(), 0);

        // Killed while it unpacks.
        let fifo = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let mut waiting = cli.verb("run");
        let mut child = waiting.env("TMPDIR", &tmp).arg("--image").arg(&fifo).arg("true").spawn().unwrap();
        let mut pipe = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
        let bytes = std::fs::read(&archive).unwrap();
        pipe.write_all(&bytes[..bytes.len() / 2]).unwrap();
        support::until(SOON, "one is left", || left() == 1);
        is(&run(&["true"]).output().unwrap(), 0, "");
        assert_eq!(left(), 1);
        child.kill().unwrap();
        let _ = child.wait().unwrap();
        is(&run(&["true"]).output().unwrap(), 0, "");
        assert_eq!(left(), 0);
    });
}

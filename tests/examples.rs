//! The examples do what they say, as root, as an ordinary user, and where `/` is an overlay.
//!
//! Cargo builds them before it runs the tests.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::{HostSnapshot, require, require_root};
use tempfile::TempDir;

const NOBODY: u32 = 65534;

/// A copy of an example where every user can reach it, with a directory for temporary files beside it.
struct Example {
    dir: TempDir,
    program: PathBuf,
}

impl Example {
    fn new(name: &str) -> Result<Self, String> {
        // This program is target/PROFILE/deps/examples-HASH.
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let profile = own.parent().and_then(Path::parent).ok_or("this program has no directory")?;
        let built = profile.join("examples").join(name);
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let program = dir.path().join(name);
        std::fs::copy(&built, &program)
            .map_err(|e| format!("{}: {e}: run `cargo build --examples`", built.display()))?;
        let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
        let tmp = dir.path().join("tmp");
        let ready = open(dir.path(), 0o755)
            .and_then(|()| std::fs::create_dir(&tmp))
            .and_then(|()| open(&tmp, 0o1777));
        ready.map_err(|e| e.to_string())?;
        Ok(Self { dir, program })
    }

    fn prepare(&self, command: &mut Command) {
        let tmp = self.dir.path().join("tmp");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TMPDIR", tmp);
        command.stdin(Stdio::null()).current_dir("/");
    }

    fn run(&self, uid: u32, words: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        self.prepare(&mut command);
        command.args(words).uid(uid).gid(uid).output().unwrap()
    }

    /// Runs it in a mount namespace whose root is an overlay.
    fn run_on_overlay(&self) -> Output {
        const SCRIPT: &str = "set -e
            mount --make-rprivate /
            mount -t tmpfs none /mnt
            mkdir /mnt/upper /mnt/work /mnt/root
            mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work none /mnt/root
            for dir in proc sys dev tmp; do mount --rbind /$dir /mnt/root/$dir; done
            cd /mnt/root
            pivot_root . mnt
            cd /
            umount -l /mnt
            exec \"$@\"";
        let mut command = Command::new("unshare");
        self.prepare(&mut command);
        command.args(["-m", "sh", "-c", SCRIPT, "sh"]).arg(&self.program).output().unwrap()
    }

    /// Files that it left in its temporary directory.
    fn left(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("tmp")).unwrap().count()
    }
}

macro_rules! require_example {
    ($name:expr) => {
        match Example::new($name) {
            Ok(example) => example,
            Err(why) => {
                support::skip(why);
                return;
            }
        }
    };
}

/// Its output, if it succeeded.
#[track_caller]
fn text(out: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{}:\n{stdout}\n{stderr}", out.status);
    stdout.into_owned()
}

#[track_caller]
fn whole_life(text: &str) {
    for step in [
        "open the runtime",
        "create",
        "start",
        "run `cat /etc/os-release`",
        "run a line of shell",
        "open the runtime again",
        "find the container",
        "stop",
        "delete",
    ] {
        let done = text.lines().any(|line| {
            let mut words = line.trim_start().split("ms  ");
            let time = words.next().is_some_and(|t| t.trim().parse::<f64>().is_ok());
            time && words.next().is_some_and(|rest| rest.starts_with(&format!("{step} ")))
        });
        assert!(done, "`{step}` has no line with its time:\n{text}");
    }
    let left: Vec<_> = text.lines().skip_while(|l| !l.starts_with("what is left")).skip(1).collect();
    assert_eq!(left.len(), 5, "{text}");
    assert!(left.iter().all(|l| l.trim_start().starts_with("0 ")), "{text}");
}

fn users_may_make_namespaces() -> bool {
    let is = |file: &str, value: &str| std::fs::read_to_string(file).is_ok_and(|v| v.trim() == value);
    !is("/proc/sys/user/max_user_namespaces", "0")
        && !is("/proc/sys/kernel/unprivileged_userns_clone", "0")
        && !is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")
}

#[test]
fn quickstart_as_root() {
    let _serial = support::serial();
    require_root!();
    let example = require_example!("quickstart");
    let host = HostSnapshot::take();
    let text = text(&example.run(0, &[]));
    whole_life(&text);
    for step in ["freeze ", "thaw "] {
        assert!(text.contains(step), "{text}");
    }
    assert_eq!(example.left(), 0);
    host.assert_unchanged();
}

#[test]
fn quickstart_as_an_ordinary_user() {
    let _serial = support::serial();
    require_root!();
    require!(users_may_make_namespaces(), "user namespaces are kept from ordinary users");
    let example = require_example!("quickstart");
    let host = HostSnapshot::take();
    let text = text(&example.run(NOBODY, &[]));
    whole_life(&text);
    assert!(text.contains("user 65534"), "{text}");
    // What needs a cgroup is done or says why not.
    assert!(text.contains("skipped: ") || text.contains("Frozen"), "{text}");
    assert_eq!(example.left(), 0);
    host.assert_unchanged();
}

#[test]
fn quickstart_where_the_root_is_an_overlay() {
    let _serial = support::serial();
    require_root!();
    let example = require_example!("quickstart");
    let host = HostSnapshot::take();
    whole_life(&text(&example.run_on_overlay()));
    assert_eq!(example.left(), 0);
    host.assert_unchanged();
}

#[test]
fn quickstart_says_what_keeps_it_from_running() {
    let _serial = support::serial();
    require_root!();
    let example = require_example!("quickstart");
    // The kernel gives no user namespace to a process in a chroot.
    let script = "mount --make-rprivate / && mount --rbind / /mnt && exec chroot /mnt \"$0\"";
    let mut command = Command::new("unshare");
    example.prepare(&mut command);
    let out = command.args(["-m", "sh", "-c", script]).arg(&example.program).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{err}");
    assert!(err.contains("quickstart: start of default/quickstart") && err.contains("chroot"), "{err}");
    assert_eq!(example.left(), 0);
}

#[test]
fn the_daemon_survives_bad_jobs_and_bad_clients() {
    let _serial = support::serial();
    require_root!();
    let example = require_example!("daemon");
    let host = HostSnapshot::take();
    let text = text(&example.run(0, &["--self-test"]));
    assert!(text.ends_with("all well\n"), "{text}");
    for check in ["echo, after all that", "a fork bomb without end", "its job was cancelled"] {
        assert!(text.lines().any(|l| l.starts_with("ok ") && l.ends_with(check)), "{text}");
    }
    assert!(text.contains("heap=1024"), "{text}");
    assert_eq!(example.left(), 0);
    host.assert_unchanged();
}

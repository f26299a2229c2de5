//! Changing the owners of a tree on disk, there and back.

mod again;
mod rig;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as StdStdio};

use rig::{Rig, sh};
use rustix::fs::{Mode, OFlags, XattrFlags};
use stockade::container::ContainerConfig;
use stockade::idmap::shift::{Shift, Unmapped, shift_tree};
use stockade::idmap::{IdMap, RANGE_SIZE};
use stockade::instance::{ExecOptions, Stdio};
use stockade::process::User;
use stockade::rootfs::FileIds;
use stockade::{ErrorKind, Rootfs};
use tempfile::TempDir;

const BASE: u32 = 2_100_000_000;
/// `cap_net_raw+ep`.
const RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn plain() -> IdMap {
    IdMap::range(0, RANGE_SIZE).unwrap()
}

fn shifted() -> IdMap {
    IdMap::range(BASE, RANGE_SIZE).unwrap()
}

/// All that a shift must bring back; `ctime` is left out, which nothing can.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    device: u64,
    size: u64,
    modified: (i64, i64),
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

type Tree = BTreeMap<PathBuf, Facts>;

fn tree(top: &Path) -> Tree {
    let mut found = Tree::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match meta.file_type() {
            t if t.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            t if t.is_file() => fs::read(&path).unwrap(),
            _ => Vec::new(),
        };
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let facts = Facts {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links: meta.nlink(),
            device: meta.rdev(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            content,
            xattrs: xattrs(&path),
        };
        found.insert(path.strip_prefix(top).unwrap().to_owned(), facts);
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0_u8; 4096];
    let n = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..n].split(|b| *b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0_u8; 4096];
            let n = rustix::fs::lgetxattr(path, CString::new(name).unwrap(), &mut value).unwrap();
            (name.to_vec(), value[..n].to_vec())
        })
        .collect()
}

/// What the tree must look like once it is shifted.
fn moved(before: &Tree) -> Tree {
    let mut after = before.clone();
    for facts in after.values_mut() {
        facts.owner = (facts.owner.0 + BASE, facts.owner.1 + BASE);
        for (name, value) in &mut facts.xattrs {
            if name == b"security.capability" {
                value[3] = 3;
                value.extend(BASE.to_le_bytes());
            } else if name.starts_with(b"system.posix_acl") {
                for entry in value[4..].chunks_exact_mut(8).filter(|e| matches!(e[0], 2 | 8)) {
                    let id = u32::from_le_bytes(entry[4..].try_into().unwrap());
                    entry[4..].copy_from_slice(&(id + BASE).to_le_bytes());
                }
            }
        }
    }
    after
}

fn acl(user: u32, group: u32) -> Vec<u8> {
    let none = u32::MAX;
    let entries =
        [(1_u16, 7_u16, none), (2, 6, user), (4, 5, none), (8, 4, group), (16, 7, none), (32, 5, none)];
    let entries = entries
        .map(|(tag, perm, id)| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat());
    [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
}

/// A tree with one of everything.
fn sample() -> TempDir {
    let dir = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["d", "d/deep", "d/deep/er", "set-gid", "empty", "z"] {
        fs::create_dir(at(name)).unwrap();
    }
    let file = |name: &str, owner: (u32, u32), mode: u32| {
        fs::write(at(name), name).unwrap();
        chown(at(name), Some(owner.0), Some(owner.1)).unwrap();
        fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    file("plain", (0, 0), 0o644);
    file("set-uid", (0, 0), 0o4755);
    file("d/set-gid", (0, 42), 0o2755);
    file("d/both", (1000, 1000), 0o6711);
    file("d/sticky", (1, 2), 0o1600);
    file("d/no-exec-gid", (3, 4), 0o2644);
    file("d/deep/er/nobody", (65_534, 65_534), 0);
    file("caps", (0, 0), 0o755);
    file("z/caps and set-uid", (0, 7), 0o4755);
    for name in ["caps", "z/caps and set-uid"] {
        rustix::fs::setxattr(at(name), "security.capability", &RAW, XattrFlags::empty()).unwrap();
    }
    fs::hard_link(at("set-uid"), at("z/linked")).unwrap();
    fs::hard_link(at("caps"), at("z/linked caps")).unwrap();
    symlink("/etc/passwd", at("d/out")).unwrap();
    symlink("nowhere", at("d/dangling")).unwrap();
    lchown(at("d/dangling"), Some(5), Some(6)).unwrap();
    fs::set_permissions(at("set-gid"), PermissionsExt::from_mode(0o2775)).unwrap();
    chown(at("set-gid"), Some(8), Some(9)).unwrap();
    fs::set_permissions(at("set-gid"), PermissionsExt::from_mode(0o2775)).unwrap();
    fs::set_permissions(at("empty"), PermissionsExt::from_mode(0o1777)).unwrap();
    let name = std::ffi::OsStr::from_bytes(b"\xff\n not text");
    fs::write(dir.path().join(name), "x").unwrap();
    for (name, kind) in [("null", 0o020_666), ("fifo", 0o010_600), ("socket", 0o140_755)] {
        let dev = if name == "null" { rustix::fs::makedev(1, 3) } else { 0 };
        let (kind, mode) = (rustix::fs::FileType::from_raw_mode(kind), rustix::fs::Mode::from_raw_mode(kind));
        rustix::fs::mknodat(rustix::fs::CWD, at(name), kind, mode, dev).unwrap();
    }
    rustix::fs::setxattr(at("plain"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(at("plain"), "trusted.note", b"kept", XattrFlags::empty()).unwrap();
    for (name, list) in
        [("plain", "access"), ("d/both", "access"), ("d", "access"), ("d", "default"), ("null", "access")]
    {
        let list = format!("system.posix_acl_{list}");
        rustix::fs::setxattr(at(name), list, &acl(1000, 100), XattrFlags::empty()).unwrap();
    }
    // Setting a list changes modes.
    fs::set_permissions(at("d/both"), PermissionsExt::from_mode(0o6775)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    for name in ["plain", "set-uid", "caps", "d"] {
        fs::File::open(at(name)).unwrap().set_modified(old).unwrap();
    }
    dir
}

#[test]
fn there_and_back_changes_nothing() {
    let _serial = support::serial();
    support::require_root!();
    let dir = sample();
    let before = tree(dir.path());
    let passwd = fs::metadata("/etc/passwd").unwrap();
    let host = support::HostSnapshot::take();
    let report = shift_tree(dir.path(), &plain(), &shifted()).unwrap();
    assert_eq!(report.entries, before.len() as u64);
    // The two that have a second link.
    assert_eq!(report.changed, report.entries - 2);
    let there = tree(dir.path());
    assert_eq!(there, moved(&before));
    let again = shift_tree(dir.path(), &plain(), &shifted()).unwrap();
    assert_eq!((again.entries, again.changed), (report.entries, 0));
    assert_eq!(tree(dir.path()), there);
    assert_eq!(shift_tree(dir.path(), &shifted(), &plain()).unwrap(), report);
    assert_eq!(tree(dir.path()), before);
    let now = fs::metadata("/etc/passwd").unwrap();
    assert_eq!(
        (now.uid(), now.ctime(), now.ctime_nsec()),
        (passwd.uid(), passwd.ctime(), passwd.ctime_nsec())
    );
    host.assert_unchanged();
}

#[test]
fn it_goes_on_after_an_end_at_any_entry() {
    let _serial = support::serial();
    support::require_root!();
    let dir = sample();
    let before = tree(dir.path());
    let after = moved(&before);
    let (plain, shifted) = (plain(), shifted());
    for end in 1..=before.len() as u64 {
        let mut last = PathBuf::new();
        let stopped = Shift::new(&plain, &shifted).unwrap().progress(|done, path| {
            last = path.to_owned();
            if done.entries == end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let e = stopped.run(dir.path()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Cancelled);
        assert!(e.to_string().contains(&*last.to_string_lossy()), "{e}");
        assert_ne!(tree(dir.path()), before);
        // On to the end, or straight back.
        if end % 2 == 0 {
            shift_tree(dir.path(), &plain, &shifted).unwrap();
            assert_eq!(tree(dir.path()), after, "{end}");
        }
        shift_tree(dir.path(), &shifted, &plain).unwrap();
        assert_eq!(tree(dir.path()), before, "{end}");
    }
}

#[test]
fn it_goes_on_after_a_kill_at_any_moment() {
    const NAME: &str = "it_goes_on_after_a_kill_at_any_moment";
    let (plain, shifted) = (plain(), shifted());
    if again::role().is_some() {
        let dir = std::env::var_os("DIR").unwrap();
        loop {
            shift_tree(&dir, &plain, &shifted).unwrap();
            shift_tree(&dir, &shifted, &plain).unwrap();
        }
    }
    let _serial = support::serial();
    support::require_root!();
    let dir = sample();
    let before = tree(dir.path());
    let after = moved(&before);
    let mut half = 0;
    for n in 0..40 {
        let child =
            again::command(&[], NAME, "shift").env("DIR", dir.path()).stdout(StdStdio::null()).spawn();
        let mut child = child.unwrap();
        // Some moment, once it is at work.
        let begun = fs::metadata(dir.path()).unwrap().ctime_nsec();
        while fs::metadata(dir.path()).unwrap().ctime_nsec() == begun {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
        }
        std::thread::sleep(std::time::Duration::from_micros(n * 97));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = tree(dir.path());
        half += u32::from(found != before && found != after);
        if n % 2 == 0 {
            shift_tree(dir.path(), &plain, &shifted).unwrap();
            assert_eq!(tree(dir.path()), after);
        }
        shift_tree(dir.path(), &shifted, &plain).unwrap();
        assert_eq!(tree(dir.path()), before);
    }
    assert!(half > 0, "it was never killed half-way");
}

#[test]
fn what_is_swapped_meanwhile_does_not_lead_out() {
    let _serial = support::serial();
    support::require_root!();
    let (plain, shifted) = (plain(), shifted());
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("sub")).unwrap();
    fs::write(outside.path().join("sub/secret"), "x").unwrap();
    let safe = tree(outside.path());
    // A directory that is listed and not yet entered becomes a link: at each moment.
    for when in 1..=5 {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "b/sub"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("b/sub/secret"), "y").unwrap();
        let shift = Shift::new(&plain, &shifted).unwrap().progress(|done, _| {
            if done.entries == when {
                fs::rename(dir.path().join("b"), dir.path().join("hidden")).unwrap();
                symlink(outside.path(), dir.path().join("b")).unwrap();
            }
            ControlFlow::Continue(())
        });
        shift.run(dir.path()).unwrap();
        assert_eq!(tree(outside.path()), safe, "{when}");
    }
    // The directory that it is in is moved out of the tree: it does not come back by the way that `..` is then.
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/in")).unwrap();
    fs::create_dir(dir.path().join("a/in/side")).unwrap();
    let shift = Shift::new(&plain, &shifted).unwrap().progress(|_, path| {
        if path.ends_with("side") {
            fs::rename(dir.path().join("a/in"), outside.path().join("taken")).unwrap();
        }
        ControlFlow::Continue(())
    });
    let e = shift.run(dir.path()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidState);
    assert!(e.to_string().contains("moved"), "{e}");
    fs::remove_dir_all(outside.path().join("taken")).unwrap();
    let now = tree(outside.path());
    assert_eq!(now[Path::new("sub")], safe[Path::new("sub")]);
    assert_eq!(now[Path::new("sub/secret")], safe[Path::new("sub/secret")]);
}

#[test]
fn what_cannot_be_shifted_is_named() {
    let _serial = support::serial();
    support::require_root!();
    let (plain, shifted) = (plain(), shifted());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("foreign"), "x").unwrap();
    chown(dir.path().join("foreign"), Some(70_000), None).unwrap();
    let e = shift_tree(dir.path(), &plain, &shifted).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig);
    for part in ["foreign", "70000", "Keep"] {
        assert!(e.to_string().contains(part), "{e}");
    }
    let kept = Shift::new(&plain, &shifted).unwrap().unmapped(Unmapped::Keep);
    assert_eq!(kept.run(dir.path()).unwrap().entries, 2);
    let meta = fs::metadata(dir.path().join("foreign")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (70_000, BASE));

    let e = shift_tree(dir.path().join("none"), &plain, &shifted).unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("none"), "{e}");
    let e = shift_tree(dir.path().join("foreign"), &plain, &shifted).unwrap_err();
    assert!(e.errno() == Some(rustix::io::Errno::NOTDIR.raw_os_error()), "{e}");

    // Somebody has mounted something in it. Its owner's ids are in neither map of this shift, which stops there at the
    // latest: nothing of the host is changed.
    let sys = Path::new("/sys/fs");
    let mounted = fs::read_dir(sys).unwrap().map(|e| e.unwrap().path());
    let on_top = fs::metadata(sys).unwrap().dev();
    let mut mounted = mounted.filter(|path| fs::metadata(path).is_ok_and(|m| m.dev() != on_top));
    support::require!(mounted.next().is_some(), "needs something mounted below /sys/fs");
    let (nobodys, others) = (IdMap::range(BASE, 5).unwrap(), IdMap::range(BASE + 5, 5).unwrap());
    let keep = Shift::new(&nobodys, &others).unwrap().unmapped(Unmapped::Keep);
    let e = keep.run(sys).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig);
    assert!(e.to_string().contains("unmount it first"), "{e}");
}

#[test]
fn a_tree_deeper_than_there_are_descriptors() {
    let _serial = support::serial();
    support::require_root!();
    let dir = tempfile::tempdir().unwrap();
    // Step by step: the path is longer than a path may be.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
    for _ in 0..1500 {
        rustix::fs::mkdirat(&at, "dddd", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "dddd", flags, Mode::empty()).unwrap();
    }
    rustix::fs::symlinkat("nowhere", &at, "bottom").unwrap();
    drop(at);
    let report = shift_tree(dir.path(), &plain(), &shifted()).unwrap();
    assert_eq!((report.entries, report.changed), (1502, 1502));
    assert_eq!(shift_tree(dir.path(), &shifted(), &plain()).unwrap(), report);
    assert!(Command::new("rm").arg("-r").arg(dir.path().join("dddd")).status().unwrap().success());
}

#[test]
fn a_container_on_a_shifted_busybox() {
    let Some(rig) = Rig::new() else { return };
    let copy = rig.dirs.state().join("root");
    let fixture = support::fixture("busybox").unwrap();
    assert!(Command::new("cp").arg("-a").args([&fixture, &copy]).status().unwrap().success());
    shift_tree(&copy, &plain(), &shifted()).unwrap();
    let config = ContainerConfig::builder("x")
        .rootfs(Rootfs::dir(&copy).ids(FileIds::AsIs))
        .idmap(shifted())
        .args(["sleep", "1000"])
        .kill_on_drop();
    let c = rig.run(config);
    assert_eq!(sh(&c, "stat -c %u:%g /etc/passwd /; touch /new && stat -c %u /new").1, "0:0\n0:0\n0");
    assert_eq!(fs::metadata(copy.join("new")).unwrap().uid(), BASE);
    rig::end(c);
    shift_tree(&copy, &shifted(), &plain()).unwrap();
    assert_eq!(fs::metadata(copy.join("new")).unwrap().uid(), 0);
    fs::remove_dir_all(copy).unwrap();
    rig.end();
}

#[test]
fn a_container_on_a_shifted_debian() {
    let Some(rig) = Rig::new() else { return };
    let fixture = match support::fixture("debian") {
        Ok(fixture) => fixture,
        Err(why) => {
            support::skip(why);
            return rig.end();
        }
    };
    let copy = rig.dirs.state().join("root");
    assert!(Command::new("cp").arg("-a").args([&fixture, &copy]).status().unwrap().success());
    let before = tree(&copy);
    shift_tree(&copy, &plain(), &shifted()).unwrap();
    assert_eq!(tree(&copy), moved(&before));
    let config = ContainerConfig::builder("x")
        .rootfs(Rootfs::dir(&copy).ids(FileIds::AsIs))
        .idmap(shifted())
        .hosts("127.0.0.1 localhost x\n")
        .env("LC_ALL", "C")
        .args(["sleep", "1000"])
        .kill_on_drop();
    let c = rig.run(config);
    assert_eq!(
        sh(&c, "useradd -m -u 1500 ann && echo 'ann ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ann").0,
        0
    );
    let as_ann = |script: &str| {
        let options = ExecOptions::new(["sh", "-c", script]).user(User::new(1500, 1500)).stdout(Stdio::Piped);
        let out = c.exec(options).unwrap().output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(as_ann("sudo -n id -un"), "root\n");
    assert_eq!(as_ann("sudo -n -u nobody id -un"), "nobody\n");
    // File capabilities count inside: the container's root may give them, and they were shifted with the rest.
    assert_eq!(
        sh(&c, "cp /usr/bin/cat /usr/bin/readall && setcap cap_dac_read_search+ep /usr/bin/readall").0,
        0
    );
    assert_eq!(as_ann("readall /etc/shadow | head -c 5"), "root:");
    c.stop().unwrap();
    let other = IdMap::range(BASE - RANGE_SIZE, RANGE_SIZE).unwrap();
    shift_tree(&copy, &shifted(), &other).unwrap();
    c.delete().unwrap();
    drop(c);
    let config = ContainerConfig::builder("y")
        .rootfs(Rootfs::dir(&copy).ids(FileIds::AsIs))
        .idmap(other)
        .args(["sleep", "1000"])
        .kill_on_drop();
    let c = rig.run(config);
    let options =
        ExecOptions::new(["readall", "/etc/shadow"]).user(User::new(1500, 1500)).stdout(Stdio::Piped);
    assert!(c.exec(options).unwrap().output().unwrap().stdout.starts_with(b"root:"));
    rig::end(c);
    fs::remove_dir_all(copy).unwrap();
    rig.end();
}

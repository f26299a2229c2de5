//! Ids shifted into a map, an ordinary user's own, and what must be left out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use stockade::ErrorKind::{Corrupt, InvalidConfig, PermissionDenied};
use stockade::idmap::IdMap;
use stockade::rootfs::{DeviceKind, Skipped, SkippedPart, Unpack, UnpackDevices, UnpackIds};
use support::{require, require_root, xattrs};

use crate::build::{Head, Tar};
use crate::round_trip::has;
use crate::{Place, again};

/// The effective bit and `CAP_NET_RAW`.
const CAPS: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn owned(path: &str, owner: (u32, u32), mode: u32) -> Head<'_> {
    Head { path: path.as_bytes(), owner, mode, ..Head::default() }
}

fn shifted() -> UnpackIds {
    UnpackIds::Shifted(IdMap::range(100_000, 65_536).unwrap())
}

#[test]
fn owners_capabilities_and_acls_are_shifted() {
    require_root!();
    let place = Place::new();
    let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[5, 0], &id.to_le_bytes()].concat();
    let acl = |ids: [u32; 2]| {
        let rest = [(1, u32::MAX), (2, ids[0]), (4, u32::MAX), (8, ids[1]), (16, u32::MAX), (32, u32::MAX)];
        let entries: Vec<u8> = rest.iter().flat_map(|(tag, id)| entry(*tag, *id)).collect();
        [&2_u32.to_le_bytes()[..], &entries].concat()
    };
    let given = acl([7, 8]);
    let tar = Tar::new()
        .add(owned("setuid", (0, 5), 0o6755), b"x")
        .pax(&[("SCHILY.xattr.security.capability", CAPS), ("SCHILY.xattr.user.plain", b"as it is")])
        .add(owned("ping", (0, 0), 0o755), b"x")
        .pax(&[("SCHILY.xattr.system.posix_acl_access", &given)])
        .add(owned("acl", (1, 1), 0o555), b"x")
        .add(Head { kind: b'2', link: b"x", ..owned("link", (33, 34), 0o777) }, b"")
        .file("implied/file", "x")
        .pax(&[("uid", b"65535")])
        .add(owned("last", (0, 0), 0o600), b"x")
        .end();
    Unpack::new().ids(shifted()).run(tar.bytes(), place.target()).unwrap();
    let meta = |path: &str| {
        let meta = fs::symlink_metadata(place.target().join(path)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(meta("setuid"), (100_000, 100_005, 0o6755));
    assert_eq!(meta("link"), (100_033, 100_034, 0o777));
    assert_eq!(meta("implied"), (100_000, 100_000, 0o755));
    assert_eq!(meta("last"), (165_535, 100_000, 0o600));
    assert_eq!(meta(""), (100_000, 100_000, 0o755));
    let ping = xattrs(&place.target().join("ping")).unwrap();
    // The form that names the root for whom it counts.
    let caps = [&b"\x01\0\0\x03"[..], &CAPS[4..], &100_000_u32.to_le_bytes()].concat();
    assert_eq!(ping[std::ffi::OsStr::new("security.capability")], caps);
    assert_eq!(ping[std::ffi::OsStr::new("user.plain")], b"as it is");
    let found = xattrs(&place.target().join("acl")).unwrap();
    assert_eq!(found[std::ffi::OsStr::new("system.posix_acl_access")], acl([100_007, 100_008]));
}

#[test]
fn owners_outside_of_the_map_are_refused() {
    let place = Place::new();
    for (owner, word) in [((65_536, 0), "user 65536"), ((0, 70_000), "group 70000")] {
        let tar = Tar::new().add(owned("bin/x", owner, 0o644), b"x").end();
        let e = Unpack::new().ids(shifted()).run(tar.bytes(), place.target()).unwrap_err();
        place.refused(&e, InvalidConfig, &["bin/x", word, "larger map"]);
    }
    require_root!();
    for bad in [&b"short"[..], &[0; 20], &[1; 64]] {
        let tar = Tar::new().pax(&[("SCHILY.xattr.security.capability", bad)]).file("x", "y").end();
        let e = Unpack::new().ids(shifted()).run(tar.bytes(), place.target()).unwrap_err();
        place.refused(&e, Corrupt, &["`x`", "security.capability"]);
    }
}

#[test]
fn devices_are_listed_where_they_are_not_wanted() {
    require_root!();
    let place = Place::new();
    let device = |path: &'static str, kind, device| Head { kind, device, ..owned(path, (0, 6), 0o660) };
    let tar = Tar::new()
        .add(device("dev/sda", b'4', (8, 0)), b"")
        .add(device("dev/null", b'3', (1, 3)), b"")
        .hard_link("dev/zero", "dev/null")
        .add(device("dev/pipe", b'6', (0, 0)), b"")
        .end();
    let done = Unpack::new().devices(UnpackDevices::List).run(tar.bytes(), place.target()).unwrap();
    let names: Vec<_> = done.skipped.iter().map(|s| s.path.to_str().unwrap()).collect();
    assert_eq!(names, ["dev/sda", "dev/null", "dev/zero"]);
    assert_eq!((done.devices, done.fifos, done.skipped_total), (0, 1, 3));
    let Skipped { what, errno, .. } = &done.skipped[0];
    let kind = DeviceKind::Block;
    assert_eq!(*what, SkippedPart::Device { kind, major: 8, minor: 0, mode: 0o660, owner: (0, 6) });
    assert_eq!(*errno, None);
    assert_eq!(done.skipped[2].what, SkippedPart::LinkToDevice("dev/null".into()));
    let left: Vec<_> =
        fs::read_dir(place.target().join("dev")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["pipe"]);
}

#[test]
fn what_the_kernel_or_overlayfs_would_misread_is_left_out_and_listed() {
    let place = Place::new();
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.nonsense.name", b"x"),
            ("SCHILY.acl.access", b"user::rwx"),
        ])
        .dir("d")
        .end();
    let done = place.unpack(&tar).unwrap();
    let found: Vec<_> = done.skipped.iter().map(|s| (s.what.clone(), s.errno)).collect();
    let xattr = |name: &str| SkippedPart::Xattr(name.into());
    assert_eq!(
        found,
        [
            (SkippedPart::TextAcl(b"SCHILY.acl.access".to_vec()), None),
            (xattr("trusted.overlay.opaque"), None),
            (xattr("user.overlay.redirect"), None),
            (xattr("nonsense.name"), Some(libc::EOPNOTSUPP)),
        ]
    );
    assert!(done.skipped.iter().all(|s| s.path == Path::new("d")));
    assert_eq!(xattrs(&place.target().join("d")).unwrap().len(), 0);
}

/// An archive as root would make it.
fn roots() -> Tar {
    Tar::new()
        .add(Head { kind: b'5', ..owned("d", (0, 0), 0o555) }, b"")
        .add(owned("d/setuid", (0, 0), 0o6755), b"x")
        .add(owned("d/secret", (5, 6), 0), b"x")
        .pax(&[("SCHILY.xattr.security.capability", CAPS), ("SCHILY.xattr.user.x", b"1")])
        .add(owned("d/ping", (0, 0), 0o444), b"x")
        .add(Head { kind: b'3', device: (1, 3), ..owned("d/null", (0, 0), 0o666) }, b"")
        .end()
}

#[test]
fn an_ordinary_user_gets_everything_as_an_owner_without_privileges() {
    const NAME: &str = "owners::an_ordinary_user_gets_everything_as_an_owner_without_privileges";
    if rustix::process::geteuid().is_root() {
        require!(has("setpriv"), "needs setpriv");
        let around = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
        again_reachable(&around, NAME);
        return;
    }
    let place = Place::new();
    let done = Unpack::new().ids(UnpackIds::Caller).run(roots().bytes(), place.target()).unwrap();
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let meta = |path: &str| fs::symlink_metadata(place.target().join(path)).unwrap();
    for (path, mode) in [("d", 0o555), ("d/setuid", 0o755), ("d/secret", 0), ("d/ping", 0o444)] {
        let meta = meta(path);
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (own.0, own.1, mode), "{path}");
    }
    let mut skipped: Vec<_> = done.skipped.iter().map(|s| (s.path.to_str().unwrap(), s.errno)).collect();
    skipped.sort_unstable();
    assert_eq!(skipped, [("d/null", Some(libc::EPERM)), ("d/ping", Some(libc::EPERM))]);
    assert_eq!(xattrs(&place.target().join("d/ping")).unwrap().len(), 1);
    fs::set_permissions(place.target().join("d"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    fs::remove_dir_all(place.target()).unwrap();

    // With the archive's owners it cannot be done, and nothing is left, closed directories neither.
    let e = Unpack::new().run(roots().bytes(), place.target()).unwrap_err();
    place.refused(&e, PermissionDenied, &["d/setuid", "0:0", "UnpackIds::Caller"]);
    let closed = Tar::new()
        .add(Head { kind: b'5', ..owned("a/b", own, 0) }, b"")
        .file("a/b/c", "x")
        .add(Head { kind: b'5', ..owned("a", own, 0) }, b"")
        .pax(&[("SCHILY.xattr.user.", b"x")])
        .add(Head { kind: b'5', ..owned(".", own, 0o755) }, b"")
        .end();
    let e = Unpack::new().ids(UnpackIds::Caller).run(closed.bytes(), place.target()).unwrap_err();
    assert!(!place.target().exists(), "{e}");
}

/// Runs a test as another user, who may not reach this program where it is.
fn again_reachable(around: &[&str], name: &str) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let prepared = again::command(around, name, "user");
    let mut command = std::process::Command::new(prepared.get_program());
    let own = std::env::current_exe().unwrap();
    command.args(prepared.get_args().map(|arg| if arg == own { program.as_os_str() } else { arg }));
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

/// Root of a user namespace has capabilities, but may make no device there.
#[test]
fn devices_are_listed_where_they_are_not_permitted() {
    const NAME: &str = "owners::devices_are_listed_where_they_are_not_permitted";
    if again::role().is_none() {
        require_root!();
        require!(has("unshare"), "needs unshare");
        let around = ["unshare", "--user", "--map-root-user"];
        let out = again::command(&around, NAME, "inner").output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        assert!(text.contains("1 passed"), "{text}");
        return;
    }
    let place = Place::new();
    let tar = Tar::new()
        .add(Head { kind: b'3', device: (1, 3), ..owned("null", (0, 0), 0o666) }, b"")
        .hard_link("twin", "null")
        .pax(&[("SCHILY.xattr.security.capability", CAPS), ("SCHILY.xattr.trusted.x", b"1")])
        .file("ping", "x")
        .end();
    let done = Unpack::new().run(tar.bytes(), place.target()).unwrap();
    let found: Vec<_> = done.skipped.iter().map(|s| (s.path.to_str().unwrap(), s.errno)).collect();
    assert_eq!(found, [("null", Some(libc::EPERM)), ("twin", None), ("ping", Some(libc::EPERM))]);
    assert!(
        xattrs(&place.target().join("ping"))
            .unwrap()
            .contains_key(std::ffi::OsStr::new("security.capability"))
    );
    // An owner that does not exist there.
    fs::remove_dir_all(place.target()).unwrap();
    let other = Tar::new().add(owned("x", (5, 5), 0o644), b"x").end();
    let e = Unpack::new().run(other.bytes(), place.target()).unwrap_err();
    assert_eq!(e.errno(), Some(libc::EINVAL), "{e}");
    assert!(!place.target().exists() && e.to_string().contains("5:5"), "{e}");
}

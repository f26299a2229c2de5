//! What comes out is what GNU tar makes of the same archive, and what went in.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use stockade::rootfs::Unpack;
use support::{require, require_root, tree_differences};

use crate::Place;
use crate::build::{Head, Tar};

/// Runs GNU tar, which must succeed.
#[track_caller]
pub(crate) fn tar(args: &[&OsStr]) {
    let out =
        Command::new("tar").args(["--numeric-owner", "--xattrs", "--xattrs-include=*"]).args(args).output();
    let out = out.unwrap();
    assert!(out.status.success(), "tar {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
}

fn pack(from: &Path, archive: &Path, options: &[&str]) {
    let mut args: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    args.extend([
        OsStr::new("-C"),
        from.as_os_str(),
        OsStr::new("-cf"),
        archive.as_os_str(),
        OsStr::new("."),
    ]);
    tar(&args);
}

#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let differences = tree_differences(a, b).unwrap();
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences[..differences.len().min(20)].join("\n")
    );
}

/// A tree with one of everything.
fn zoo(dir: &Path) {
    fs::create_dir_all(dir.join("d/empty")).unwrap();
    let write = |path: &str, text: &[u8]| fs::write(dir.join(path), text).unwrap();
    write("empty", b"");
    write("d/block", &[7; 512]);
    write("d/odd", &[8; 1025]);
    write("d/large", &(0..3_000_000_u32).map(|n| (n * 31 >> 7) as u8).collect::<Vec<_>>());
    fs::write(dir.join(OsStr::from_bytes(b"d/not-utf8-\xff\xfe")), "x").unwrap();
    write(&"n".repeat(255), b"x");
    write("d/line\nbreak and \x1b[31m", b"x");
    fs::hard_link(dir.join("d/odd"), dir.join("twin")).unwrap();
    for (link, to) in [("rel", "d/odd"), ("abs", "/etc/passwd"), ("up", "../../.."), ("dangling", "none")] {
        symlink(to, dir.join(link)).unwrap();
    }
    symlink("x".repeat(3000), dir.join("long-link")).unwrap();
    fs::hard_link(dir.join("abs"), dir.join("abs-twin")).unwrap();
    let deep = (0..40).fold(dir.to_path_buf(), |path, n| path.join(format!("level-{n}-{}", "y".repeat(40))));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "deep").unwrap();
    for (path, mode) in
        [("empty", 0o4755), ("d/block", 0o2711), ("d/odd", 0), ("d/empty", 0o1777), ("d", 0o2750)]
    {
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// What only root can add.
fn root_zoo(dir: &Path) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags};
    let chown =
        |path: &str, uid, gid| std::os::unix::fs::lchown(dir.join(path), Some(uid), Some(gid)).unwrap();
    chown("d/large", 1000, 100);
    chown("rel", 3_000_000_000, 7);
    fs::write(dir.join("caps"), "x").unwrap();
    chown("caps", 5, 6);
    fs::set_permissions(dir.join("caps"), fs::Permissions::from_mode(0o555)).unwrap();
    // The effective bit, and capabilities 1, 3 (a line break as a byte) and 13.
    let caps = b"\x01\0\0\x02\x0a\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(dir.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    set("caps", "security.capability", caps);
    set("rel", "trusted.on-a-link", b"1\n2=3");
    set("d", "trusted.a=b%3D", b"");
    let acl = |tag: u16, perm: u16, id: u32| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let all = u32::MAX;
    let entries =
        [acl(1, 7, all), acl(2, 5, 33), acl(4, 5, all), acl(0x10, 5, all), acl(0x20, 0, all)].concat();
    let acl = [&2_u32.to_le_bytes()[..], &entries].concat();
    set("d", "system.posix_acl_default", &acl);
    set("d/large", "system.posix_acl_access", &acl);
    let node = |path: &str, kind, dev| {
        rustix::fs::mknodat(CWD, dir.join(path), kind, Mode::from_raw_mode(0o640), dev)
    };
    node("pipe", FileType::Fifo, 0).unwrap();
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)).unwrap();
    node("disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000)).unwrap();
    set("null", "trusted.on-a-device", b"x");
}

fn old_times(dir: &Path) {
    // One before 1970, whose fraction counts upwards.
    for (path, sec, nsec) in
        [("d", 1, 5), ("d/odd", -2, 750_000_000), ("rel", 1_700_000_000, 123_456_789), ("", 77, 0)]
    {
        let time = rustix::fs::Timespec { tv_sec: sec, tv_nsec: nsec };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, dir.join(path), &times, flags).unwrap();
    }
}

#[test]
fn one_of_everything_in_every_format() {
    require_root!();
    require!(has("tar"), "needs GNU tar");
    for shm in [false, true] {
        let place = if shm { Place::new() } else { Place::within(&std::env::temp_dir()) };
        let zoo_dir = place.path("zoo");
        zoo(&zoo_dir);
        root_zoo(&zoo_dir);
        old_times(&zoo_dir);
        for format in ["pax", "gnu", "oldgnu"] {
            let archive = place.path("archive");
            let mut options = vec!["--sort=name".to_owned(), format!("--format={format}")];
            if format != "pax" {
                // These formats have no attributes.
                options.extend(["--no-xattrs".to_owned(), "--no-acls".to_owned()]);
            }
            pack(&zoo_dir, &archive, &options.iter().map(String::as_str).collect::<Vec<_>>());
            let reference = place.path("reference");
            fs::create_dir(&reference).unwrap();
            tar(&["-C".as_ref(), reference.as_ref(), "-xpf".as_ref(), archive.as_ref()]);
            let done = Unpack::new().run_file(&archive, place.target()).unwrap();
            assert_eq!(done.skipped, [], "{format}");
            assert_same(&reference, &place.target());
            if format == "pax" {
                assert_same(&zoo_dir, &place.target());
                assert_eq!((done.devices, done.fifos, done.hard_links), (2, 1, 2));
            }
            for dir in [reference, place.target()] {
                fs::remove_dir_all(dir).unwrap();
            }
        }
        place.untouched();
    }
}

#[test]
fn an_ordinary_users_tree_comes_back() {
    require!(has("tar"), "needs GNU tar");
    let place = Place::new();
    zoo(&place.path("zoo"));
    // Nobody but root can read it.
    fs::set_permissions(place.path("zoo/d/odd"), fs::Permissions::from_mode(0o400)).unwrap();
    old_times(&place.path("zoo"));
    for format in ["pax", "ustar", "v7"] {
        let mut options = vec![format!("--format={format}")];
        if format != "pax" {
            let left_out = ["./level-0*", "./long-link", "./nnn*"];
            options.extend(left_out.iter().map(|name| format!("--exclude={name}")));
            // No fractions, and nothing before 1970.
            options.push("--mtime=@5".to_owned());
            options.push("--no-xattrs".to_owned());
        }
        let archive = place.path("archive");
        pack(&place.path("zoo"), &archive, &options.iter().map(String::as_str).collect::<Vec<_>>());
        let reference = place.path("reference");
        fs::create_dir(&reference).unwrap();
        tar(&["-C".as_ref(), reference.as_ref(), "-xpf".as_ref(), archive.as_ref()]);
        Unpack::new().ids(crate::ids()).run_file(&archive, place.target()).unwrap();
        assert_same(&reference, &place.target());
        for dir in [reference, place.target()] {
            fs::remove_dir_all(dir).unwrap();
        }
    }
}

#[test]
fn later_members_replace_earlier_ones() {
    let place = Place::new();
    let outside = place.path("outside/file");
    let tar = Tar::new()
        .file("a", "first")
        .file("a", "second")
        .symlink("b", outside.to_str().unwrap())
        .file("b", "a file now")
        .file("c", "x")
        .symlink("c", "a")
        .dir("d")
        .file("d", "was a directory")
        .file("e", "was a file")
        .dir("e/")
        .file("e/in", "x")
        .symlink("f", "/")
        .dir("f")
        .file("f/in", "x")
        .file("g", "x")
        .hard_link("h", "g")
        .hard_link("h", "g")
        .hard_link("g", "g")
        .hard_link("h", "a")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.text("a"), "second");
    assert_eq!(place.text("b"), "a file now");
    assert_eq!(fs::read_link(place.target().join("c")).unwrap(), Path::new("a"));
    assert_eq!(place.text("d"), "was a directory");
    assert_eq!(place.text("e/in") + &place.text("f/in") + &place.text("g"), "xxx");
    assert_eq!(place.text("h"), "second");
    place.untouched();
}

#[test]
fn directories_may_come_late_twice_or_never() {
    let place = Place::new();
    let dir = |mode: u32, mtime: u64| Head { path: b"a/b", kind: b'5', mode, mtime, ..Head::default() };
    let tar = Tar::new()
        .file("a/b/c", "x")
        .add(dir(0o500, 5), b"")
        .add(dir(0o711, 9), b"")
        .file("a/b/d", "y")
        .end();
    let done = place.unpack(&tar).unwrap();
    assert_eq!((done.members, done.files, done.directories), (4, 2, 2));
    let meta = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(place.target().join(path)).unwrap();
        (meta.mode() & 0o7777, meta.mtime())
    };
    assert_eq!(meta("a/b"), (0o711, 9));
    assert_eq!(meta("a").0, 0o755);
    assert_eq!(meta("").0, 0o755);
}

#[test]
fn an_empty_directory_is_taken_with_its_mode_and_no_other() {
    let place = Place::new();
    fs::create_dir(place.target()).unwrap();
    fs::set_permissions(place.target(), fs::Permissions::from_mode(0o751)).unwrap();
    let mode = || fs::metadata(place.target()).unwrap().permissions().mode() & 0o7777;
    let bad = Tar::new().file("a/b", "x").file("../c", "x").end();
    assert!(place.unpack(&bad).is_err());
    assert_eq!((mode(), fs::read_dir(place.target()).unwrap().count()), (0o751, 0));
    place.unpack(&Tar::new().file("a", "x").end()).unwrap();
    assert_eq!(mode(), 0o751);
    let e = place.unpack(&Tar::new().file("b", "x").end()).unwrap_err();
    assert_eq!(e.kind(), stockade::ErrorKind::InvalidConfig);
    assert_eq!((place.text("a"), fs::read_dir(place.target()).unwrap().count()), ("x".to_owned(), 1));
    let e = Unpack::new().run(Tar::new().end().bytes(), place.path("outside/file")).unwrap_err();
    assert_eq!((e.kind(), e.errno()), (stockade::ErrorKind::InvalidConfig, Some(libc::ENOTDIR)));
    let e = Unpack::new().run(Tar::new().end().bytes(), place.path("no/such")).unwrap_err();
    assert_eq!(e.kind(), stockade::ErrorKind::NotFound);
    place.untouched();
}

#[test]
fn several_compressed_streams_in_a_row_are_one_archive() {
    for (program, args) in [("gzip", &["-c"][..]), ("zstd", &["-qc"]), ("xz", &["-c"])] {
        if !has(program) {
            support::skip(format!("needs {program}"));
            continue;
        }
        let place = Place::new();
        let tar = Tar::new().file("a", "one").file("b", &"two".repeat(1000)).end();
        let (first, second) = tar.bytes().split_at(700);
        let compressed: Vec<u8> =
            [first, second].iter().flat_map(|part| filter(program, args, part)).collect();
        Unpack::new().ids(crate::ids()).run(compressed.as_slice(), place.target()).unwrap();
        assert_eq!((place.text("a"), place.text("b")), ("one".to_owned(), "two".repeat(1000)), "{program}");
    }
}

/// What a program makes of some bytes.
pub(crate) fn filter(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let out = std::thread::scope(|s| {
        s.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(out.status.success(), "{program}");
    out.stdout
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Names of any bytes, one to 255 of them in each part.
    #[test]
    fn any_name_comes_back(
        names in prop::collection::vec(
            prop::collection::vec(any::<u8>().prop_filter("no name", |b| !matches!(b, 0 | b'/')), 1..=255)
                .prop_filter("no name", |n| n != b"." && n != b".."),
            1..6,
        )
    ) {
        let place = Place::new();
        let path = names.join(&b'/');
        place.unpack(&Tar::new().long(&path, "x").end()).unwrap();
        let found = fs::read(place.target().join(OsStr::from_bytes(&path))).unwrap();
        prop_assert_eq!(found, b"x");
    }
}

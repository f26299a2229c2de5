//! What an archive may ask for, and ends from outside.

use std::cell::{Cell, RefCell};
use std::fs;
use std::process::Command;

use stockade::Cancel;
use stockade::ErrorKind::{Cancelled, Corrupt, Exhausted};
use stockade::rootfs::{OnFailure, Progress, Unpack, UnpackLimits};
use support::{require, require_root};

use crate::Place;
use crate::again;
use crate::build::{Head, Tar};
use crate::round_trip::{filter, has};

fn limits(change: impl FnOnce(&mut UnpackLimits)) -> UnpackLimits {
    let mut limits = UnpackLimits::default();
    change(&mut limits);
    limits
}

#[track_caller]
fn beyond(place: &Place, archive: &[u8], limits: UnpackLimits, words: &[&str]) {
    let e = Unpack::new().ids(crate::ids()).limits(limits).run(archive, place.target()).unwrap_err();
    place.refused(&e, Exhausted, words);
    assert_eq!(e.errno(), None, "{e}");
}

#[test]
fn members_bytes_and_depth_have_limits() {
    let place = Place::new();
    let files = (0..5).fold(Tar::new(), |tar, n| tar.file(format!("f{n}"), "x")).end();
    beyond(&place, files.bytes(), limits(|l| l.members = 4), &["`f4`", "4 members", "UnpackLimits::members"]);
    let ok = Unpack::new().ids(crate::ids()).limits(limits(|l| l.members = 5));
    ok.run(files.bytes(), place.target()).unwrap();
    fs::remove_dir_all(place.target()).unwrap();
    // Directories that no member names count.
    let deep = Tar::new().file("a/b/c/d", "x").end();
    beyond(&place, deep.bytes(), limits(|l| l.members = 3), &["3 members"]);
    beyond(&place, deep.bytes(), limits(|l| l.depth = 3), &["a/b/c/d", "3 parts", "UnpackLimits::depth"]);
    Unpack::new()
        .ids(crate::ids())
        .limits(limits(|l| l.depth = 4))
        .run(deep.bytes(), place.target())
        .unwrap();
    fs::remove_dir_all(place.target()).unwrap();
    let many = "d/".repeat(100_000);
    beyond(
        &place,
        Tar::new().long(many.as_bytes(), "x").end().bytes(),
        UnpackLimits::default(),
        &["512 parts"],
    );

    let big = Tar::new().file("big", &"x".repeat(100_000)).end();
    beyond(&place, big.bytes(), limits(|l| l.bytes = 100_000), &["100000 bytes", "UnpackLimits::bytes"]);
    // What is announced need not be read.
    let announced =
        Tar::new().file("a", "x").add(Head { path: b"huge", size: Some(1 << 32), ..Head::default() }, b"");
    let Err(e) = Unpack::new()
        .ids(crate::ids())
        .limits(limits(|l| l.bytes = 1 << 30))
        .run(announced.bytes(), place.target())
    else {
        panic!("taken")
    };
    place.refused(&e, Exhausted, &["after `a`", "1073741824 bytes"]);
}

#[test]
fn extension_headers_have_a_limit() {
    let place = Place::new();
    for kind in [b'x', b'g', b'L', b'K'] {
        let huge = Head { path: b"x", kind, size: Some(5 << 20), ..Head::default() };
        let tar = Tar::new().add(huge, &vec![b'a'; 5 << 20]).file("x", "y").end();
        place.refuses(&tar, Exhausted, &["extension header", "5242880"]);
    }
}

#[test]
fn bombs_are_stopped_by_their_ratio() {
    for (program, args) in [("gzip", &["-1c"][..]), ("zstd", &["-1qc"]), ("xz", &["-0c"])] {
        if !has(program) {
            support::skip(format!("needs {program}"));
            continue;
        }
        let place = Place::new();
        let size = 100 << 20;
        let mut bomb = Tar::new()
            .add(Head { path: b"zeros", size: Some(size), ..Head::default() }, b"")
            .bytes()
            .to_vec();
        bomb.resize(bomb.len() + size as usize + 1024, 0);
        let bomb = filter(program, args, &bomb);
        assert!(bomb.len() < 1 << 20, "{program}: {} bytes", bomb.len());
        beyond(&place, &bomb, limits(|l| l.ratio = 50), &["50 times its size", "UnpackLimits::ratio"]);
        // And behind the end mark, where no member is.
        let behind = [Tar::new().file("a", "x").end().bytes(), &vec![0; size as usize][..]].concat();
        beyond(&place, &filter(program, args, &behind), limits(|l| l.ratio = 50), &["50 times its size"]);
        let trusted = Unpack::new().ids(crate::ids()).limits(limits(|l| l.ratio = 1 << 20));
        trusted.run(bomb.as_slice(), place.target()).unwrap();
        assert_eq!(fs::metadata(place.target().join("zeros")).unwrap().len(), size);
    }
}

#[test]
fn progress_is_told_and_a_cancel_ends_it() {
    let place = Place::new();
    let tar = (0..100).fold(Tar::new(), |tar, n| tar.file(format!("d{n}/f"), &"x".repeat(10_000))).end();
    let path = place.path("archive");
    fs::write(&path, tar.bytes()).unwrap();

    let seen = RefCell::new(Vec::new());
    let mut progress = |p: Progress| seen.borrow_mut().push(p);
    Unpack::new().ids(crate::ids()).progress(&mut progress).run_file(&path, place.target()).unwrap();
    let seen = seen.take();
    assert!(seen.len() >= 200);
    let total = tar.bytes().len() as u64;
    for pair in seen.windows(2) {
        assert!(pair[0].members <= pair[1].members && pair[0].written <= pair[1].written);
        assert!(pair[0].taken <= pair[1].taken && pair[1].taken <= total);
    }
    let last = seen.last().unwrap();
    assert_eq!((last.members, last.written, last.taken, last.total), (200, 1_000_000, total, Some(total)));
    fs::remove_dir_all(place.target()).unwrap();

    let cancel = Cancel::new().unwrap();
    let ends = || cancel.is_cancelled();
    let mut stop_halfway = |p: Progress| {
        if p.members == 100 {
            cancel.cancel();
        }
    };
    let unpack = Unpack::new().ids(crate::ids()).progress(&mut stop_halfway).cancelled(&ends);
    let e = unpack.run_file(&path, place.target()).unwrap_err();
    place.refused(&e, Cancelled, &[]);

    // In the middle of one large file, too.
    let asked = Cell::new(0);
    let third = || asked.replace(asked.get() + 1) == 6;
    let large = Tar::new().file("large", &"x".repeat(4 << 20)).end();
    let e = Unpack::new().ids(crate::ids()).cancelled(&third).run(large.bytes(), place.target()).unwrap_err();
    place.refused(&e, Cancelled, &["`large`"]);
}

#[test]
fn what_failed_can_be_kept_for_a_look() {
    let place = Place::new();
    let tar = Tar::new().file("d/a", "x").file("../b", "x").end();
    let unpack = Unpack::new().ids(crate::ids()).on_failure(OnFailure::Keep);
    let e = unpack.run(tar.bytes(), place.target()).unwrap_err();
    assert_eq!(e.kind(), Corrupt);
    assert_eq!(place.text("d/a"), "x");
}

/// In a process with mounts of its own.
#[test]
fn a_full_disk_fails_with_the_members_name_and_leaves_nothing() {
    const NAME: &str = "limits::a_full_disk_fails_with_the_members_name_and_leaves_nothing";
    require_root!();
    if again::role().is_none() {
        require!(has("unshare"), "needs unshare");
        let around = ["unshare", "--mount", "--propagation", "private"];
        let out = again::command(&around, NAME, "inner").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        return;
    }
    let place = Place::new();
    let small = place.path("small");
    fs::create_dir(&small).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=100,mode=700", "none"];
    assert!(Command::new("mount").args(mount).arg(&small).status().unwrap().success());
    let target = small.join("target");
    let content = "x".repeat(300_000);
    let bytes = (0..5).fold(Tar::new(), |tar, n| tar.file(format!("f{n}"), &content)).end();
    let inodes = (0..200).fold(Tar::new(), |tar, n| tar.dir(format!("d{n}"))).end();
    let links = (0..200).fold(Tar::new(), |tar, n| tar.symlink(&format!("l{n}"), "x")).end();
    let xattrs: Vec<u8> = vec![b'x'; 60_000];
    let attributes = (0..50)
        .fold(Tar::new(), |tar, n| tar.pax(&[("SCHILY.xattr.user.x", &xattrs)]).file(format!("x{n}"), ""));
    let attributes = attributes.end();
    for (tar, member) in [(bytes, "`f3`"), (inodes, "`d9"), (links, "`l9"), (attributes, "`x")] {
        let e = Unpack::new().run(tar.bytes(), &target).unwrap_err();
        assert!(e.to_string().contains(member), "{e}");
        assert_eq!((e.kind(), e.errno()), (Exhausted, Some(libc::ENOSPC)), "{e}");
        assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
    }
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
}

//! Layers of images: what a whiteout becomes, and what it does not touch.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use stockade::ErrorKind::Corrupt;
use stockade::rootfs::{Unpack, UnpackWhiteouts, Unpacked};
use stockade::{Error, ErrorKind};
use support::xattrs;

use crate::build::{Head, Tar};
use crate::{Place, ids};

fn unpack(place: &Place, tar: Tar) -> Result<Unpacked, Error> {
    let unpack = Unpack::new().ids(ids()).whiteouts(UnpackWhiteouts::Overlay);
    unpack.run(tar.end().bytes(), place.target())
}

fn is_whiteout(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let found = xattrs(path).unwrap();
    found.iter().any(|(name, value)| name.to_string_lossy().ends_with(".overlay.opaque") && value == b"y")
}

/// What is in a directory, in order.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        dir.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let place = Place::new();
    let tar = Tar::new()
        .dir("etc")
        .file("etc/.wh.gone", "")
        .file("etc/kept", "x")
        // What no member of this layer has made is on the way.
        .file("usr/share/.wh.doc", "not looked at")
        // Linked, as aufs did it.
        .file(".wh..wh.aufs", "")
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", "x")
        .hard_link("opt/.wh.linked", ".wh..wh.aufs")
        .dir("var")
        .file("var/.wh..wh..opq", "")
        .file("var/new", "x")
        .file("etc/.wh.gone", "");
    let done = unpack(&place, tar).unwrap();
    let root = place.target();
    for path in ["etc/gone", "usr/share/doc", "opt/linked"] {
        assert!(is_whiteout(&root.join(path)), "{path}");
    }
    assert_eq!(names(&root), ["etc", "opt", "usr", "var"]);
    assert_eq!(names(&root.join("etc")), ["gone", "kept"]);
    assert_eq!(names(&root.join("var")), ["new"]);
    assert!(is_opaque(&root.join("var")) && !is_opaque(&root.join("etc")));
    assert_eq!((done.whiteouts, done.opaque, done.opaque_root), (3, 1, false));
    assert_eq!((done.files, done.devices), (2, 0));
    place.untouched();
}

#[test]
fn nothing_of_the_layer_itself_is_hidden() {
    let place = Place::new();
    let tar = Tar::new()
        // Before what has its name, and after.
        .file(".wh.file", "")
        .file("file", "of this layer")
        .file("later", "of this layer")
        .file(".wh.later", "")
        .file(".wh.dir", "")
        .dir("dir")
        .file("dir/new", "x")
        .file(".wh.unnamed", "")
        .file("unnamed/new", "x")
        .file("old/new", "x")
        .file(".wh.old", "")
        .file(".wh.old", "")
        .file("plain/x", "x");
    let done = unpack(&place, tar).unwrap();
    let root = place.target();
    assert_eq!(names(&root), ["dir", "file", "later", "old", "plain", "unnamed"]);
    assert_eq!((place.text("file"), place.text("later")), ("of this layer".into(), "of this layer".into()));
    for dir in ["dir", "unnamed", "old"] {
        // The one below is not to show through.
        assert!(is_opaque(&root.join(dir)), "{dir}");
        assert_eq!(names(&root.join(dir)), ["new"]);
    }
    assert!(!is_opaque(&root.join("plain")));
    assert_eq!((done.whiteouts, done.opaque), (0, 3));
}

#[test]
fn a_layer_that_hides_everything_says_so() {
    let place = Place::new();
    let done = unpack(&place, Tar::new().file(".wh..wh..opq", "").file("x", "")).unwrap();
    assert!(done.opaque_root && done.opaque == 0);
    assert_eq!(names(&place.target()), ["x"]);
}

#[test]
fn without_the_option_they_are_files() {
    let place = Place::new();
    let done = place.unpack(&Tar::new().file(".wh.a", "x").file(".wh..wh..opq", "y").end()).unwrap();
    assert_eq!(names(&place.target()), [".wh..wh..opq", ".wh.a"]);
    assert_eq!((place.text(".wh.a"), done.whiteouts, done.opaque_root), ("x".into(), 0, false));
}

#[test]
fn whiteouts_of_a_bad_form_are_refused() {
    for (tar, words) in [
        (Tar::new().file(".wh.", ""), "names nothing"),
        (Tar::new().file("a/.wh..", ""), "names nothing"),
        (Tar::new().file("a/.wh...", ""), "names nothing"),
        (Tar::new().dir(".wh.a"), "is a directory"),
        (Tar::new().file(".wh.a/b", ""), "is a directory"),
        (Tar::new().file(".wh.a", "").hard_link("b", "a"), "no member before it has made"),
        (Tar::new().file("d/.wh.a", "").file("d", ""), "not empty"),
        (Tar::new().symlink("out", "outside").file("out/.wh.file", ""), "below a link"),
        (Tar::new().symlink("out", "../outside").file("out/.wh..wh..opq", ""), "below a link"),
    ] {
        let place = Place::new();
        let e = unpack(&place, tar).unwrap_err();
        place.refused(&e, Corrupt, &[words]);
    }
    // A device 0/0 of the archive is no whiteout of the layer: it is made or left out as any device is.
    let place = Place::new();
    let device = Head { path: b"null", kind: b'3', ..Head::default() };
    match unpack(&place, Tar::new().add(device, b"")) {
        Ok(done) => assert_eq!((done.whiteouts, done.devices + done.skipped_total), (0, 1)),
        Err(e) => assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}"),
    }
}

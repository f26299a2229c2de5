//! Archives that want out, and those that make no sense.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;
use stockade::ErrorKind::{Corrupt, Kernel, Unsupported};

use crate::Place;
use crate::build::{Head, Tar, record, with_sum};

#[test]
fn paths_upwards_are_refused() {
    let place = Place::new();
    for path in
        ["../outside/new", "a/../../outside/new", "..", "/../outside/new", "a/..", "./../x", "a/b/../c"]
    {
        place.refuses(&Tar::new().file("before", "x").file(path, "x").end(), Corrupt, &[path, "`..`"]);
        place.refuses(&Tar::new().dir(path).end(), Corrupt, &["`..`"]);
        place.refuses(&Tar::new().symlink(path, "x").end(), Corrupt, &["`..`"]);
        place.refuses(&Tar::new().long(path.as_bytes(), "x").end(), Corrupt, &["`..`"]);
        place.refuses(&Tar::new().file("x", "x").hard_link("y", path).end(), Corrupt, &["y -> ", "`..`"]);
    }
}

#[test]
fn absolute_paths_lie_in_the_target() {
    let place = Place::new();
    let absolute = place.path("outside/new");
    let path = absolute.to_str().unwrap();
    let tar = Tar::new().file(path, "inside").hard_link("/twin", path).symlink("/link", "/").end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.text(&path[1..]), "inside");
    assert_eq!(place.text("twin"), "inside");
    place.untouched();
}

#[test]
fn nothing_is_written_through_a_link() {
    let place = Place::new();
    let outside = place.path("outside");
    let outside = outside.to_str().unwrap();
    for to in [outside, "../outside", ".", "real", "/proc/self/cwd"] {
        let with = |tar: Tar| tar.dir("real").symlink("link", to);
        let words = &["link/", "below a link or a file"];
        place.refuses(&with(Tar::new()).file("link/new", "x").end(), Corrupt, words);
        place.refuses(&with(Tar::new()).dir("link/new").end(), Corrupt, words);
        place.refuses(&with(Tar::new()).symlink("link/new", "x").end(), Corrupt, words);
        place.refuses(&with(Tar::new()).file("a", "x").hard_link("link/new", "a").end(), Corrupt, words);
        place.refuses(&with(Tar::new()).file("link/a/b", "x").end(), Corrupt, words);
    }
    place.refuses(
        &Tar::new().file("f", "x").file("f/new", "x").end(),
        Corrupt,
        &["f/new", "below a link or a file"],
    );
    // The last part of a path: what stands there is replaced, not followed.
    let file = place.path("outside/file");
    let tar = Tar::new().symlink("link", file.to_str().unwrap()).file("link", "inside").end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.text("link"), "inside");
    place.untouched();
}

#[test]
fn hard_links_to_what_is_not_in_the_archive_are_refused() {
    let place = Place::new();
    let file = place.path("outside/file");
    let file = file.to_str().unwrap();
    let words = &["no member before it has made"];
    place.refuses(&Tar::new().hard_link("x", file).end(), Corrupt, words);
    place.refuses(&Tar::new().hard_link("x", "/etc/passwd").end(), Corrupt, words);
    place.refuses(&Tar::new().hard_link("x", "later").file("later", "x").end(), Corrupt, words);
    place.refuses(&Tar::new().hard_link("x", "x").end(), Corrupt, words);
    place.refuses(&Tar::new().hard_link("x", ".").end(), Corrupt, words);
    let outside = place.path("outside");
    let linked = Tar::new().symlink("d", outside.to_str().unwrap());
    place.refuses(&linked.clone().hard_link("x", "d/file").end(), Corrupt, words);
    place.refuses(&Tar::new().dir("d").hard_link("x", "d").end(), Corrupt, &["x", "link to a directory"]);
    // A link is linked to, not what it points to.
    place.unpack(&Tar::new().symlink("l", file).hard_link("x", "l").file("x", "inside").end()).unwrap();
    assert_eq!(place.text("x"), "inside");
    assert!(fs::symlink_metadata(place.target().join("l")).unwrap().is_symlink());
    place.untouched();
}

#[test]
fn a_directory_with_something_in_it_is_not_replaced() {
    let place = Place::new();
    let tar = Tar::new().file("d/in", "x").file("d", "x").end();
    place.refuses(&tar, Corrupt, &["`d`", "not empty"]);
    place.refuses(&Tar::new().file("d/in", "x").symlink("d", "/").end(), Corrupt, &["not empty"]);
    // Even where the present directory is the one in the way.
    place.refuses(&Tar::new().file("a/b/c", "x").file("a/b", "x").end(), Corrupt, &["not empty"]);
    place.unpack(&Tar::new().dir("a/b").file("a/b", "x").file("a/c", "y").end()).unwrap();
    assert_eq!(place.text("a/b") + &place.text("a/c"), "xy");
}

#[test]
fn the_root_is_a_directory() {
    let place = Place::new();
    for path in [".", "./", "/", "//."] {
        let place = Place::new();
        place.unpack(&Tar::new().dir(path).file("a", "x").end()).unwrap();
        assert_eq!(place.text("a"), "x");
    }
    place.refuses(&Tar::new().file(".", "x").end(), Corrupt, &["name of the root"]);
    place.refuses(&Tar::new().symlink("/", "x").end(), Corrupt, &["name of the root"]);
}

#[test]
fn names_may_be_255_bytes_long_and_not_longer() {
    let place = Place::new();
    let name = "\u{e9}".repeat(127) + "x";
    assert_eq!(name.len(), 255);
    place.unpack(&Tar::new().long(name.as_bytes(), "x").end()).unwrap();
    assert_eq!(place.text(&name), "x");
    fs::remove_dir_all(place.target()).unwrap();
    for tar in [
        Tar::new().long(&[b'n'; 256], "x"),
        Tar::new().long(&[&[b'n'; 256][..], b"/x"].concat(), "x"),
        Tar::new().pax(&[("linkpath", &[b'l'; 5000])]).symlink("s", "x"),
    ] {
        let e = place.refuses(&tar.end(), Kernel, &[]);
        assert_eq!(e.errno(), Some(libc::ENAMETOOLONG), "{e}");
    }
    // Messages show no control characters, and no endless names.
    let e = place.refuses(&Tar::new().long(b"../\x1b[31m\n\xff", "x").end(), Corrupt, &["\\u{1b}[31m\\n"]);
    assert!(!e.to_string().contains(['\u{1b}', '\n']), "{e:?}");
    let e = place.refuses(&Tar::new().long(&b"../".repeat(2000), "x").end(), Corrupt, &["..."]);
    assert!(e.to_string().len() < 500, "{e}");
}

#[test]
fn trees_may_be_deeper_than_any_path() {
    let place = Place::new();
    let name = "x".repeat(200);
    let path = vec![name.as_str(); 100].join("/");
    assert!(path.len() > 4 * 4096);
    // Up and down, so that descriptors are opened again.
    let half = vec![name.as_str(); 50].join("/");
    let tar = Tar::new()
        .long(format!("{path}/bottom").as_bytes(), "deep")
        .long(format!("{half}/middle").as_bytes(), "half")
        .file("top", "x")
        .long(format!("{path}/bottom2").as_bytes(), "deep again")
        .pax(&[("linkpath", format!("{path}/bottom").as_bytes())])
        .hard_link("twin", "short")
        .end();
    let done = place.unpack(&tar).unwrap();
    assert_eq!((done.directories, done.files), (100, 4));
    assert_eq!(place.text("twin"), "deep");
    let mut dir =
        rustix::fs::open(place.target(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..100 {
        dir = rustix::fs::openat(&dir, &*name, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    let stat = |name: &str| rustix::fs::statat(&dir, name, rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!((stat("bottom").st_nlink, stat("bottom2").st_size), (2, 10));
    drop(dir);
    fs::remove_dir_all(place.target()).unwrap();
    // A failure at the end removes such a tree, too.
    let bad = Tar::new().long(format!("{path}/bottom").as_bytes(), "x").file("../x", "x").end();
    place.refuses(&bad, Corrupt, &["`..`"]);
}

#[test]
fn unknown_types_and_formats_are_refused() {
    let place = Place::new();
    for kind in [b'A', b'M', b'N', b'Z', 0xff] {
        let tar = Tar::new().add(Head { path: b"x", kind, ..Head::default() }, b"");
        place.refuses(&tar.end(), Unsupported, &["type"]);
    }
    for (magic, name) in [
        (&b"BZh91AY&SY"[..], "bzip2"),
        (b"\x04\x22\x4d\x18abc", "lz4"),
        (b"\x5d\0\0\x80\0\0", "lzma"),
        (b"\x1f\x9d\x90", "compress"),
        (b"PK\x03\x04abcd", "zip"),
        (b"hsqs\0\0", "squashfs"),
    ] {
        place.refuses(&Tar::new().raw(magic).raw(&[1; 600]), Unsupported, &[name, "gzip, zstd or xz"]);
    }
    for rubbish in ["#!/bin/sh\n", "<html>", "x"] {
        place.refuses(&Tar::new().raw(rubbish.repeat(600).as_bytes()), Corrupt, &["no tar archive"]);
    }
    place.refuses(&Tar::new(), Corrupt, &["empty"]);
}

#[test]
fn headers_with_impossible_numbers_are_refused() {
    let place = Place::new();
    let patched = |at: usize, bytes: &[u8]| {
        let mut block = Head { path: b"x", ..Head::default() }.block(0);
        block[at..at + bytes.len()].copy_from_slice(bytes);
        Tar::new().raw(&with_sum(block)).end()
    };
    for (at, bytes, word) in [
        (124, &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..], "size"),
        (124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", "larger than any file"),
        (124, b"9", "size"),
        (108, b"\x80\0\0\0\xff\xff\xff\xff", "owner"),
        (108, b"\x80\0\0\x01\0\0\0\0", "owner"),
        (116, b"\xff\xff\xff\xff\xff\xff\xff\xff", "owner"),
        (100, b"rw-r--r", "mode"),
        (136, b"today", "time"),
        (0, b"\0", "no name"),
    ] {
        place.refuses(&patched(at, bytes), Corrupt, &[word]);
    }
    let mut sum = Head { path: b"x", ..Head::default() }.block(0);
    sum[0] ^= 1;
    place.refuses(&Tar::new().raw(&sum).end(), Corrupt, &["checksum"]);
    let device =
        |device| Tar::new().add(Head { path: b"x", kind: b'3', device, ..Head::default() }, b"").end();
    place.refuses(&device((4096, 0)), Corrupt, &["out of range"]);
    place.refuses(&device((0, 1 << 20)), Corrupt, &["out of range"]);
}

#[test]
fn extended_headers_that_mislead_are_refused() {
    let place = Place::new();
    let raw = |text: &[u8]| {
        Tar::new().add(Head { kind: b'x', path: b"p", ..Head::default() }, text).file("x", "y").end()
    };
    place.refuses(&raw(b"nonsense"), Corrupt, &["LENGTH KEY=VALUE"]);
    place.refuses(&raw(b"99 path=x\n"), Corrupt, &["LENGTH KEY=VALUE"]);
    let pax = |key: &str, value: &[u8]| Tar::new().pax(&[(key, value)]).file("x", "y").end();
    place.refuses(&pax("path", b"a\0b"), Corrupt, &["zero byte"]);
    place.refuses(&pax("size", b"99999999999999999999"), Corrupt, &["size"]);
    place.refuses(&pax("size", b"18446744073709551615"), Corrupt, &["larger than any file"]);
    place.refuses(&pax("uid", b"4294967295"), Corrupt, &["owner"]);
    place.refuses(&pax("SCHILY.xattr.", b"x"), Corrupt, &["proper name"]);
    place.refuses(&pax("SCHILY.xattr.user.a\0b", b"x"), Corrupt, &["proper name"]);
    let twice = Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("x", "y");
    place.refuses(&twice.end(), Corrupt, &["two extension headers"]);
    place.refuses(&Tar::new().pax(&[("path", b"a")]).end(), Corrupt, &["after the extension header"]);
    let global = |text: &[u8]| Tar::new().add(Head { kind: b'g', path: b"g", ..Head::default() }, text);
    place.refuses(&global(&record(b"path", b"x")).file("y", "z").end(), Corrupt, &["global header"]);

    // A size that only a parser which stops at line breaks would miss: what it hides is content, not a member.
    let hidden = Tar::new().file("hidden", "x");
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.user.x", b"a\nb"), ("size", hidden.bytes().len().to_string().as_bytes())])
        .add(Head { path: b"outer", size: Some(0), ..Head::default() }, b"")
        .raw(hidden.bytes())
        .end();
    place.unpack(&tar).unwrap();
    assert!(!place.target().join("hidden").exists());
    assert_eq!(fs::metadata(place.target().join("outer")).unwrap().len(), 1024);
}

#[test]
fn global_headers_and_labels_are_understood() {
    let place = Place::new();
    let global = record(b"mtime", b"5.5");
    let tar = Tar::new()
        .add(Head { kind: b'V', path: b"label", ..Head::default() }, b"")
        .add(Head { kind: b'g', path: b"g", ..Head::default() }, &global)
        .file("a", "x")
        .pax(&[("mtime", b"7")])
        .file("b", "x")
        .end();
    place.unpack(&tar).unwrap();
    use std::os::unix::fs::MetadataExt;
    let time = |path: &str| {
        let meta = fs::metadata(place.target().join(path)).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!((time("a"), time("b")), ((5, 500_000_000), (7, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Members of any type with paths and links that lead everywhere: nothing is ever made outside.
    #[test]
    fn nothing_leads_out(members in prop::collection::vec(
        (
            prop::sample::select(b"0125567".to_vec()),
            prop::collection::vec(prop::sample::select(vec!["a", "b", "..", ".", "", "outside"]), 1..5),
            prop::sample::select(vec!["a", "b", "a/b", "..", "../outside", "../outside/file", "/", "."]),
        ),
        1..12,
    )) {
        let place = Place::new();
        let mut tar = Tar::new();
        for (kind, path, link) in &members {
            let path = path.join("/");
            let content: &[u8] = if *kind == b'0' { b"content" } else { b"" };
            tar = tar.add(Head { path: path.as_bytes(), kind: *kind, link: link.as_bytes(), ..Head::default() }, content);
        }
        match place.unpack(&tar.end()) {
            Ok(_) => {}
            Err(e) => {
                prop_assert!(!place.target().exists(), "{e}");
                prop_assert_eq!(e.op(), Some("unpack"));
            }
        }
        place.untouched();
        let mut beside: Vec<_> = place.dir.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        beside.retain(|name| name.as_bytes() != b"target");
        prop_assert_eq!(beside, ["outside"]);
    }
}

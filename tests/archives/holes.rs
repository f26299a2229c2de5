//! Files with holes, in all the forms that there are.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use stockade::ErrorKind::{Corrupt, Exhausted};
use stockade::rootfs::Unpack;
use support::{require, tree_differences};

use crate::Place;
use crate::build::{Head, Tar, with_sum};
use crate::round_trip::{has, tar};

const MB: u64 = 1 << 20;

/// A file of this size with a piece of data at each offset.
fn sparse(path: &Path, size: u64, data: &[(u64, &[u8])]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
}

#[test]
fn every_form_that_gnu_tar_writes_comes_back() {
    require!(has("tar"), "needs GNU tar");
    for dir in [std::env::temp_dir(), "/dev/shm".into()] {
        let place = Place::within(&dir);
        let zoo = place.path("zoo");
        fs::create_dir(&zoo).unwrap();
        let block = [5_u8; 4096];
        sparse(&zoo.join("middle"), 20 * MB, &[(0, &block), (10 * MB, &block), (20 * MB - 100, &[1; 100])]);
        sparse(&zoo.join("front"), 20 * MB, &[(20 * MB - 4096, &block)]);
        sparse(&zoo.join("end"), 20 * MB, &[(0, &[9; 5000])]);
        sparse(&zoo.join("nothing"), 20 * MB, &[]);
        // More extents than a header and one block more can hold.
        let many: Vec<(u64, &[u8])> = (0..100).map(|n| (n * 65_536, &block[..])).collect();
        sparse(&zoo.join("many"), 8 * MB + 3, &many);
        fs::write(zoo.join(format!("{}-not-sparse", "long".repeat(40))), "x").unwrap();
        sparse(&zoo.join("long".repeat(40)), 20 * MB, &[(MB, &block)]);
        fs::hard_link(zoo.join("many"), zoo.join("twin")).unwrap();
        for form in [
            &["--format=gnu"][..],
            &["--format=oldgnu"],
            &["--format=pax", "--sparse-version=0.0"],
            &["--format=pax", "--sparse-version=0.1"],
            &["--format=pax", "--sparse-version=1.0"],
        ] {
            let archive = place.path("archive");
            let mut args = vec!["--no-xattrs".as_ref(), "-S".as_ref()];
            args.extend(form.iter().map(std::ffi::OsStr::new));
            args.extend(["-C".as_ref(), zoo.as_os_str(), "-cf".as_ref(), archive.as_os_str(), ".".as_ref()]);
            tar(&args);
            assert!(fs::metadata(&archive).unwrap().len() < 3 * MB, "{form:?} has no holes");
            let done = Unpack::new().ids(crate::ids()).run_file(&archive, place.target()).unwrap();
            assert!(done.written < 2 * MB, "{form:?}: {} bytes were written", done.written);
            // Fractions of seconds are not in the GNU formats.
            let differences = tree_differences(&zoo, &place.target()).unwrap();
            let differences: Vec<_> =
                differences.iter().filter(|d| !(form[0] != "--format=pax" && only_time(d))).collect();
            assert!(differences.is_empty(), "{form:?}: {differences:#?}");
            for (file, most) in [("middle", 100), ("nothing", 0), ("many", 1000)] {
                let meta = fs::metadata(place.target().join(file)).unwrap();
                assert!(meta.blocks() <= most, "{form:?}: {file} takes {} blocks", meta.blocks());
            }
            fs::remove_dir_all(place.target()).unwrap();
        }
    }
}

/// Whether a difference is one of times alone.
fn only_time(line: &str) -> bool {
    let without = |entry: &str| {
        let (before, rest) = entry.split_once("mtime: (").unwrap_or_default();
        before.to_owned() + rest.split_once(')').unwrap_or_default().1
    };
    let Some((a, b)) = line.split_once(" is not Entry") else { return false };
    let a = a.split_once(": Entry").map_or("", |(_, a)| a);
    !a.is_empty() && without(a) == without(b)
}

/// The header of an old GNU file with holes.
fn old_gnu(extents: &[(u64, u64)], size: u64, data: u64, more: bool) -> [u8; 512] {
    let mut block = Head { path: b"s", kind: b'S', size: Some(data), ..Head::default() }.block(0);
    block[257..265].copy_from_slice(b"ustar  \0");
    block[345..].fill(0);
    for (n, (offset, len)) in extents.iter().enumerate() {
        block[386 + n * 24..][..24].copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
    }
    block[482] = u8::from(more);
    block[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
    with_sum(block)
}

#[test]
fn maps_that_lie_are_refused() {
    let place = Place::new();
    let content = [7_u8; 1024];
    let good = Tar::new().raw(&old_gnu(&[(0, 512), (4096, 512)], 8192, 1024, false)).raw(&content).end();
    place.unpack(&good).unwrap();
    assert_eq!(fs::metadata(place.target().join("s")).unwrap().len(), 8192);
    fs::remove_dir_all(place.target()).unwrap();

    for (extents, size, data) in [
        (&[(0, 512), (256, 512)][..], 8192, 1024),
        (&[(4096, 512), (0, 512)], 8192, 1024),
        (&[(0, 512), (4096, 512)], 4097, 1024),
        (&[(0, 512)], 8192, 1024),
        (&[(0, 512), (4096, 1024)], 8192, 1024),
        (&[(0, 0o77777777777), (0o77777777777, 512)], 8192, 1024),
    ] {
        let tar = Tar::new().raw(&old_gnu(extents, size, data, false)).raw(&content).end();
        place.refuses(&tar, Corrupt, &["file with holes"]);
    }
    // Further blocks that never end.
    let mut more = [0_u8; 512];
    more[504] = 1;
    place.refuses(&Tar::new().raw(&old_gnu(&[], 0, 0, true)).raw(&more.repeat(8)), Corrupt, &["cut off"]);

    let pax = |records: &[(&str, &[u8])], content: &str| Tar::new().pax(records).file("s", content).end();
    let one = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"100")];
    let block = |map: &str, data: &str| format!("{map:\0<512}{data}");
    place.unpack(&pax(&one, &block("1\n10\n3\n", "abc"))).unwrap();
    assert_eq!(place.text("s").trim_matches('\0'), "abc");
    fs::remove_dir_all(place.target()).unwrap();
    for content in [
        block("1\n10\n4\n", "abc"),
        block("2\n10\n3\n", "abc"),
        block("1\n98\n3\n", "abc"),
        block("x\n", ""),
        block("\n", ""),
        block("1\n-1\n3\n", "abc"),
        block("99999999999999999999999\n", ""),
        "1\n".to_owned(),
        String::new(),
    ] {
        place.refuses(&pax(&one, &content), Corrupt, &["file with holes"]);
    }
    place.refuses(&pax(&one[..1], &block("0\n", "")), Corrupt, &["unknown form"]);
    place.refuses(&pax(&one[..2], &block("0\n", "")), Corrupt, &["no size"]);
    let two = [("GNU.sparse.map", &b"0,3"[..]), ("GNU.sparse.size", b"3")];
    place.refuses(&Tar::new().pax(&two).raw(&old_gnu(&[], 0, 0, false)).end(), Corrupt, &["two maps"]);
    place.refuses(&Tar::new().pax(&two).dir("d").end(), Corrupt, &["no file"]);
    let named = [("GNU.sparse.name", &b"../x"[..]), two[0], two[1]];
    place.refuses(&pax(&named, "abc"), Corrupt, &["`..`"]);
}

#[test]
fn a_map_of_millions_of_extents_takes_no_memory() {
    let place = Place::new();
    let head = "GNU.sparse.major 1 GNU.sparse.minor 0 GNU.sparse.realsize 8589934591";
    let words: Vec<&str> = head.split(' ').collect();
    let records: Vec<(&str, &[u8])> = words.chunks(2).map(|w| (w[0], w[1].as_bytes())).collect();
    let mut map = "2000000\n".to_owned();
    (0..1_100_000).for_each(|n| map += &format!("{n}\n0\n"));
    let e = place.refuses(&Tar::new().pax(&records).file("s", &map).end(), Corrupt, &["million holes"]);
    assert_ne!(e.kind(), Exhausted);
}

//! Archives that are cut off or damaged: an error each time, and nothing left.

use std::fs;
use std::io::{self, Read};

use stockade::ErrorKind::{self, Corrupt, Kernel, NotFound};
use stockade::rootfs::Unpack;

use crate::Place;
use crate::build::Tar;
use crate::round_trip::{filter, has};

/// A small archive with most of what there is.
fn sample() -> Tar {
    let text: String = (0..400).map(|n| format!("line {n} of some text\n")).collect();
    Tar::new()
        .dir("d")
        .file("d/text", &text)
        .long(&[b'n'; 200], "long name")
        .pax(&[("GNU.sparse.map", b"0,3,1000,3"), ("GNU.sparse.size", b"2000")])
        .file("holes", "abcdef")
        .symlink("link", "d/text")
        .hard_link("twin", "d/text")
        .end()
}

#[test]
fn a_plain_archive_cut_off_anywhere_is_refused() {
    let place = Place::new();
    let whole = sample();
    place.unpack(&whole).unwrap();
    fs::remove_dir_all(place.target()).unwrap();
    // One block of the end mark is enough.
    let end = whole.bytes().len() - 512;
    let mut tried = 0;
    for cut in (0..end).step_by(64).chain([1, 511, 513, end - 1]) {
        place.refuses(&Tar::new().raw(&whole.bytes()[..cut]), Corrupt, &[]);
        tried += 1;
    }
    assert!(tried > 100, "{tried}");
    place.unpack(&Tar::new().raw(&whole.bytes()[..end])).unwrap();
}

#[test]
fn compressed_archives_cut_off_or_damaged_are_refused() {
    for (program, args) in [("gzip", &["-nc"][..]), ("zstd", &["-qc", "--check"]), ("xz", &["-c"])] {
        if !has(program) {
            support::skip(format!("needs {program}"));
            continue;
        }
        let place = Place::new();
        let whole = filter(program, args, sample().bytes());
        place.unpack(&Tar::new().raw(&whole)).unwrap();
        fs::remove_dir_all(place.target()).unwrap();
        // In the first bytes it is not even known what it is.
        for cut in (8..whole.len()).step_by(7).chain([whole.len() - 1]) {
            place.refuses(&Tar::new().raw(&whole[..cut]), Corrupt, &["decompress the archive"]);
        }
        // The checksum at the end is looked at, though the archive's end mark comes before it. Some bits of a
        // header mean nothing, so a changed one may do no harm; but then nothing is wrong with the result.
        let mut refused = 0;
        for at in 8..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            match place.unpack(&Tar::new().raw(&damaged)) {
                Ok(_) => {
                    assert!(
                        place.text("d/text").ends_with("line 399 of some text\n"),
                        "{program}, byte {at}"
                    );
                    fs::remove_dir_all(place.target()).unwrap();
                }
                Err(e) => {
                    let kinds = [Corrupt, ErrorKind::Unsupported];
                    assert!(kinds.contains(&e.kind()), "{program}, byte {at}: {e:?}");
                    assert!(!place.target().exists());
                    refused += 1;
                }
            }
        }
        assert!(refused * 100 > (whole.len() - 8) * 95, "{program}: {refused} of {}", whole.len());
        place.untouched();
    }
}

#[test]
fn no_damage_to_a_plain_archive_leads_out_or_panics() {
    let place = Place::new();
    let whole = sample();
    let (mut refused, mut taken) = (0, 0);
    for at in (0..whole.bytes().len()).step_by(3) {
        for bit in [0x01, 0x80] {
            let mut damaged = whole.bytes().to_vec();
            damaged[at] ^= bit;
            match place.unpack(&Tar::new().raw(&damaged)) {
                Ok(_) => {
                    taken += 1;
                    fs::remove_dir_all(place.target()).unwrap();
                }
                Err(_) => {
                    refused += 1;
                    assert!(!place.target().exists());
                }
            }
        }
    }
    // Headers have a checksum, content has none.
    assert!(refused > 1000 && taken > 1000, "{refused} refused, {taken} taken");
    place.untouched();
}

/// Gives some bytes, then an error, with interruptions before.
struct Failing<'a> {
    bytes: &'a [u8],
    calls: u32,
}

impl Read for Failing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.calls += 1;
        if self.calls % 2 == 1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // Few bytes at a time, as from a slow network.
        let n = self.bytes.len().min(into.len()).min(100);
        if n == 0 {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        into[..n].copy_from_slice(&self.bytes[..n]);
        self.bytes = &self.bytes[n..];
        Ok(n)
    }
}

#[test]
fn errors_of_the_reader_are_its_own() {
    let place = Place::new();
    let whole = sample();
    let mut archives = vec![whole.bytes().to_vec()];
    archives.extend(has("gzip").then(|| filter("gzip", &["-c"], whole.bytes())));
    for archive in archives {
        for cut in [0, 3, 1000, archive.len() - 1] {
            let bytes = &archive[..cut.min(archive.len())];
            let e =
                Unpack::new().ids(crate::ids()).run(Failing { bytes, calls: 0 }, place.target()).unwrap_err();
            place.refused(&e, Kernel, &["read the archive"]);
            assert_eq!(e.errno(), Some(libc::EIO));
        }
    }
    let e = Unpack::new().run_file(place.path("none"), place.target()).unwrap_err();
    place.refused(&e, NotFound, &["open the archive", "none"]);
    let e = Unpack::new().run_file(place.path("outside"), place.target()).unwrap_err();
    place.refused(&e, ErrorKind::InvalidConfig, &["outside", "directory"]);
}

#[test]
fn bytes_after_the_end_mark_are_read_and_left_out() {
    let place = Place::new();
    let tar = Tar::new().file("a", "x").end().file("hidden", "x").end();
    let done = place.unpack(&tar).unwrap();
    assert_eq!(done.archive, tar.bytes().len() as u64);
    assert!(!place.target().join("hidden").exists());
}

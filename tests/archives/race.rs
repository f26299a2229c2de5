//! Somebody changes the target while it is unpacked into: nothing leads out.
//!
//! The archive's reader does it, at known places, so no luck is needed.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::Path;

use stockade::ErrorKind;
use stockade::rootfs::{OnFailure, Unpack};

use crate::Place;
use crate::build::Tar;

/// Gives a block at a time, and does something before the one at `at`.
struct Meddling<'a, F> {
    bytes: &'a [u8],
    done: usize,
    at: usize,
    act: Option<F>,
}

impl<F: FnOnce()> Read for Meddling<'_, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.done >= self.at
            && let Some(act) = self.act.take()
        {
            act();
        }
        let n = (self.bytes.len() - self.done).min(into.len()).min(512);
        into[..n].copy_from_slice(&self.bytes[self.done..self.done + n]);
        self.done += n;
        Ok(n)
    }
}

/// Unpacks `before`, acts, and goes on with `after`.
fn meddled(
    place: &Place,
    before: Tar,
    act: impl FnOnce() + Send,
    after: impl FnOnce(Tar) -> Tar,
) -> Result<(), stockade::Error> {
    // One block more is read before the member that it belongs to is made.
    let at = before.bytes().len() + 512;
    let tar = after(before.file("between", "x")).end();
    let reader = Meddling { bytes: tar.bytes(), done: 0, at, act: Some(act) };
    Unpack::new().ids(crate::ids()).run(reader, place.target()).map(drop)
}

#[test]
fn a_directory_replaced_by_a_link_is_not_followed() {
    for to in ["outside", "absolute"] {
        let place = Place::new();
        let target = place.target();
        let outside = place.path("outside");
        let swap = || {
            fs::rename(target.join("a"), target.join("moved")).unwrap();
            let to: &Path = if to == "absolute" { &outside } else { Path::new("../outside") };
            symlink(to, target.join("a")).unwrap();
        };
        let before = Tar::new().file("a/first", "x").file("a/b/c", "x");
        let e = meddled(&place, before, swap, |tar| tar.file("a/new", "x").file("a/b/new", "x")).unwrap_err();
        place.refused(&e, ErrorKind::Kernel, &["a/", "somebody else changed the target"]);
        assert_eq!(e.errno(), Some(libc::ENOTDIR));
    }
}

#[test]
fn a_directory_in_use_is_gone_on_with_wherever_it_is() {
    let place = Place::new();
    let target = place.target();
    let outside = place.path("outside");
    let swap = || {
        fs::rename(target.join("a"), target.join("moved")).unwrap();
        symlink(&outside, target.join("a")).unwrap();
    };
    // The directory's descriptor is open: what comes goes into the directory, not through the name.
    let tar = Tar::new().file("a/first", "x").file("a/filler", &"x".repeat(2000)).file("a/new", "x").end();
    let reader = Meddling { bytes: tar.bytes(), done: 0, at: 2048, act: Some(swap) };
    let kept = Unpack::new().ids(crate::ids()).on_failure(OnFailure::Keep);
    let e = kept.run(reader, &target).unwrap_err();
    assert_eq!(e.errno(), Some(libc::ENOTDIR), "{e}");
    assert!(target.join("moved/new").exists());
    place.untouched();
}

#[test]
fn a_link_put_where_the_next_file_goes_is_replaced() {
    let place = Place::new();
    let target = place.target();
    let file = place.path("outside/file");
    let put = || {
        symlink(&file, target.join("next")).unwrap();
        symlink(&file, target.join("other")).unwrap();
    };
    meddled(&place, Tar::new().dir("d"), put, |tar| tar.file("next", "inside").hard_link("other", "next"))
        .unwrap();
    assert_eq!(place.text("next") + &place.text("other"), "insideinside");
    place.untouched();
}

#[test]
fn a_link_put_where_the_next_directory_goes_is_not_entered() {
    let place = Place::new();
    let target = place.target();
    let outside = place.path("outside");
    let put = || symlink(&outside, target.join("next")).unwrap();
    let e = meddled(&place, Tar::new().dir("d"), put, |tar| tar.file("next/new", "x")).unwrap_err();
    place.refused(&e, ErrorKind::Corrupt, &["next/new", "below a link or a file"]);
}

#[test]
fn a_hard_link_reaches_nothing_through_a_swapped_directory() {
    let place = Place::new();
    let target = place.target();
    let outside = place.path("outside");
    let swap = || {
        fs::rename(target.join("a"), target.join("moved")).unwrap();
        symlink(&outside, target.join("a")).unwrap();
    };
    let before = Tar::new().file("a/file", "x").dir("d");
    let e = meddled(&place, before, swap, |tar| tar.hard_link("d/link", "a/file")).unwrap_err();
    place.refused(&e, ErrorKind::Kernel, &["d/link"]);
    assert_eq!(e.errno(), Some(libc::ENOTDIR));
}

#[test]
fn the_target_itself_may_be_moved_away() {
    let place = Place::new();
    let target = place.target();
    let outside = place.path("outside");
    let moved = place.path("moved");
    let swap = || {
        fs::rename(&target, &moved).unwrap();
        symlink(&outside, &target).unwrap();
    };
    meddled(&place, Tar::new().dir("d"), swap, |tar| tar.file("d/new", "x")).unwrap();
    assert_eq!(fs::read_to_string(place.path("moved/d/new")).unwrap(), "x");
    place.untouched();
}

/// A thread that swaps a directory and a link all the time.
#[test]
fn a_busy_meddler_gets_nothing_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (mut whole, mut refused) = (0, 0);
    let outcome = RefCell::new(String::new());
    for _ in 0..20 {
        let place = Place::new();
        let target = place.target();
        let end = AtomicBool::new(false);
        let tar = (0..300).fold(Tar::new(), |tar, n| tar.file(format!("d{}/f{n}", n % 3), "x")).end();
        std::thread::scope(|s| {
            s.spawn(|| {
                let (dir, aside) = (target.join("d1"), target.join("aside"));
                while !end.load(Ordering::Relaxed) {
                    if fs::rename(&dir, &aside).is_ok() {
                        let _ = symlink(place.path("outside"), &dir);
                        let _ = fs::remove_file(&dir);
                        let _ = fs::rename(&aside, &dir);
                    }
                    std::thread::yield_now();
                }
            });
            match place.unpack(&tar) {
                Ok(_) => whole += 1,
                Err(e) => {
                    refused += 1;
                    *outcome.borrow_mut() = e.to_string();
                }
            }
            end.store(true, Ordering::Relaxed);
        });
        place.untouched();
    }
    println!("{whole} whole, {refused} refused, the last: {}", outcome.into_inner());
    assert_eq!(whole + refused, 20);
}

//! Archives: unpacked as GNU tar unpacks them, and bad ones refused without effect.

#[path = "../again/mod.rs"]
mod again;
mod bad;
mod broken;
mod build;
mod holes;
mod limits;
mod owners;
mod race;
mod round_trip;
mod whiteouts;

use std::path::{Path, PathBuf};

use build::Tar;
use stockade::rootfs::{Unpack, UnpackIds, Unpacked};
use stockade::{Error, ErrorKind};
use tempfile::TempDir;

/// A directory with a target in it, which does not exist, and a witness beside it that must stay as it is.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::within(memory) } else { Self::within(&std::env::temp_dir()) }
    }

    fn within(dir: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("stockade-test-").tempdir_in(dir).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/file"), "untouched").unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn target(&self) -> PathBuf {
        self.path("target")
    }

    /// Unpacks as whoever runs the test.
    fn unpack(&self, tar: &Tar) -> Result<Unpacked, Error> {
        Unpack::new().ids(ids()).run(tar.bytes(), self.target())
    }

    /// The text of an unpacked file.
    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.target().join(path)).unwrap()
    }

    /// Unpacking fails with this kind and a text with these words; nothing is left, nothing outside was touched.
    #[track_caller]
    fn refuses(&self, tar: &Tar, kind: ErrorKind, words: &[&str]) -> Error {
        let e = self.unpack(tar).unwrap_err();
        self.refused(&e, kind, words);
        e
    }

    #[track_caller]
    fn refused(&self, e: &Error, kind: ErrorKind, words: &[&str]) {
        let text = e.to_string();
        assert_eq!(e.kind(), kind, "{text}");
        assert_eq!(e.op(), Some("unpack"), "{text}");
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
        assert!(!self.target().exists(), "something is left: {text}");
        self.untouched();
    }

    #[track_caller]
    fn untouched(&self) {
        let mut names: Vec<_> =
            self.dir.path().join("outside").read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["file"], "something was made outside of the target");
        assert_eq!(std::fs::read_to_string(self.path("outside/file")).unwrap(), "untouched");
    }
}

/// What an ordinary user can do as well.
fn ids() -> UnpackIds {
    if rustix::process::geteuid().is_root() { UnpackIds::AsIs } else { UnpackIds::Caller }
}

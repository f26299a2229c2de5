//! Disk images of root file systems, made by `mkfs.ext4 -d` (e2fsprogs), and kept for as long as their source is the same.

mod copy;
mod fingerprint;
mod program;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

pub use self::copy::{CopyMethod, copy_image};
use self::fingerprint::{Contents, look_at};
use crate::error::{Error, ErrorKind, Result};
use crate::rootfs::Rootfs;

/// What stays free in an image for the guest to write.
const FREE: u64 = 64 << 20;
/// How long the program may take. Some GiB on a slow disk take minutes.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Where the program may be beside `PATH`, which a service's environment may lack.
const USUAL: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// Makes disk images with an ext4 file system from what a container's root can be made from.
///
/// An image is kept in a directory of the caller's under a name that stands for the names, owners, modes, sizes and times of
/// all that was packed: the same source has the same image, and is not packed again.
///
/// ```no_run
/// use stockade::Rootfs;
/// use stockade::vm::{Guest, PackImage, RootMode};
///
/// let image = PackImage::new(Rootfs::dir("/srv/debian")).run("/var/cache/images")?;
/// let guest = Guest::new("/lib/modules/6.12.0-amd64").root(image, RootMode::Overlay);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is made before `run`"]
pub struct PackImage {
    source: Source,
    free: u64,
    deadline: Duration,
    program: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Source {
    Rootfs(Rootfs),
    #[cfg(feature = "image")]
    Archive(PathBuf),
}

impl PackImage {
    /// Packs a directory, or layers of which the topmost is the first. Owners are kept as they are on disk.
    pub fn new(source: impl Into<Rootfs>) -> Self {
        Self::of(Source::Rootfs(source.into()))
    }

    /// Packs what is in an archive, plain or compressed: see [`Unpack`](crate::rootfs::Unpack).
    #[cfg(feature = "image")]
    pub fn archive(path: impl Into<PathBuf>) -> Self {
        Self::of(Source::Archive(path.into()))
    }

    fn of(source: Source) -> Self {
        Self { source, free: FREE, deadline: DEADLINE, program: None }
    }

    /// Sets how long `mkfs.ext4` may take: 30 minutes unless told otherwise. It is killed then, and what it has made is removed.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the program that is run in place of the `mkfs.ext4` that `PATH` or the usual directories have.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Sets how many bytes the guest can write beyond what is there: 64 MiB unless told otherwise. They take no space on the
    /// host before they are written.
    pub fn free(mut self, bytes: u64) -> Self {
        self.free = bytes;
        self
    }

    /// Makes the image in the directory `cache`, unless it is there; gives its path. A guest that writes to it changes it
    /// for all that come later: give it to them with [`RootMode::Overlay`](super::RootMode::Overlay), or
    /// [copy](copy_image) it.
    ///
    /// Blocks for about as long as a copy of the source takes; a program runs as a child of this process meanwhile. Layers
    /// need the privilege to mount an overlay (`CAP_SYS_ADMIN`), and any source that of reading all of it.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where there is no `mkfs.ext4`, and for [`Rootfs::Host`];
    /// [`NotFound`](crate::ErrorKind::NotFound) for a source that is not there. Those of `mkfs.ext4` with what it said, and
    /// [`Timeout`](crate::ErrorKind::Timeout) where it takes too long. Nothing half-made is left then.
    pub fn run(&self, cache: impl AsRef<Path>) -> Result<PathBuf> {
        let cache = cache.as_ref();
        let made = self.run_in(cache);
        made.map_err(|e| e.with_op("pack_image"))
    }

    fn run_in(&self, cache: &Path) -> Result<PathBuf> {
        match &self.source {
            Source::Rootfs(Rootfs::Dir(dir)) => self.pack(cache, &[dir.path().to_owned()]),
            Source::Rootfs(Rootfs::Overlay(overlay)) => self.pack(cache, overlay.lower()),
            Source::Rootfs(_) => Err(Error::new(ErrorKind::Unsupported, "pack a root file system")
                .detail("the host's own files are no image")
                .hint("give a directory or layers")),
            #[cfg(feature = "image")]
            Source::Archive(path) => self.pack_archive(cache, path),
        }
    }

    #[cfg(feature = "image")]
    fn pack_archive(&self, cache: &Path, archive: &Path) -> Result<PathBuf> {
        let contents = look_at(&[archive.to_owned()])?;
        let image = self.place(cache, &contents);
        if is_there(&image)? {
            return Ok(image);
        }
        let temp = Temporary::directory(cache)?;
        crate::rootfs::Unpack::new().run_file(archive, &temp.0)?;
        let contents = look_at(std::slice::from_ref(&temp.0))?;
        self.make(&image, &contents, &temp.0, None)
    }

    fn pack(&self, cache: &Path, layers: &[PathBuf]) -> Result<PathBuf> {
        for layer in layers {
            let meta = std::fs::metadata(layer)
                .map_err(|e| Error::io("look at a root file system", e).path(layer))?;
            if !meta.is_dir() {
                return Err(Error::new(ErrorKind::InvalidConfig, "look at a root file system")
                    .path(layer)
                    .detail("is no directory"));
            }
        }
        let contents = look_at(layers)?;
        let image = self.place(cache, &contents);
        if is_there(&image)? {
            return Ok(image);
        }
        match layers {
            [one] => self.make(&image, &contents, one, None),
            _ => {
                let merged = merge(layers)?;
                self.make(&image, &contents, Path::new("/proc/self/fd/0"), Some(merged))
            }
        }
    }

    /// The name of an image of these contents.
    fn place(&self, cache: &Path, contents: &Contents) -> PathBuf {
        cache.join(format!("{:032x}-{}.ext4", contents.fingerprint, self.free >> 20))
    }

    /// Runs the program. `input` is what it has as its standard input, by which it may find the source.
    fn make(
        &self,
        image: &Path,
        contents: &Contents,
        source: &Path,
        input: Option<OwnedFd>,
    ) -> Result<PathBuf> {
        const STEP: &str = "make a disk image";
        let cache = image.parent().unwrap_or(Path::new("/"));
        let temp = Temporary::file(cache)?;
        let failed = |e| Error::io(STEP, e).path(&temp.0);
        let file = File::options().write(true).open(&temp.0).map_err(failed)?;
        file.set_len(contents.image_size(self.free)).map_err(failed)?;
        let program = self.program.clone().map_or_else(program, Ok)?;
        let mut command = Command::new(&program);
        command.args(["-q", "-F", "-m", "0", "-L", "root", "-E", "lazy_itable_init=1,lazy_journal_init=1"]);
        // Room for what is there, and for as much again.
        command.arg("-N").arg((contents.entries * 2 + 4096).to_string());
        command.arg("-d").arg(source).arg(&temp.0);
        command.env("LC_ALL", "C").stdout(Stdio::null());
        command.stdin(input.map_or_else(Stdio::null, Stdio::from));
        let done = program::run(&program, &mut command, self.deadline)?;
        if !done.status.success() {
            let e = Error::new(ErrorKind::Kernel, STEP).path(source);
            return Err(e.detail(format!("{} failed: {}", program.display(), done.said)));
        }
        file.sync_all().map_err(failed)?;
        // Two that make the same one make it equally.
        std::fs::rename(&temp.0, image).map_err(failed)?;
        temp.keep();
        let dir = File::open(cache).and_then(|dir| dir.sync_all());
        dir.map_err(|e| Error::io(STEP, e).path(cache))?;
        Ok(image.to_owned())
    }
}

fn is_there(image: &Path) -> Result<bool> {
    match std::fs::metadata(image) {
        Ok(meta) => Ok(meta.is_file()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("look for a disk image", e).path(image)),
    }
}

fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    let mut all = dirs.chain(USUAL.iter().map(PathBuf::from)).map(|dir| dir.join("mkfs.ext4"));
    all.find(|path| path.is_file()).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "find mkfs.ext4")
            .hint("install e2fsprogs, or make the image elsewhere")
    })
}

/// The layers as one tree that hangs nowhere.
fn merge(layers: &[PathBuf]) -> Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    const STEP: &str = "put the layers of an image over each other";
    let failed =
        |e| Error::sys(STEP, e).hint("this needs CAP_SYS_ADMIN and Linux 6.5; or pack one directory");
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    for layer in layers {
        rustix::mount::fsconfig_set_string(&fs, "lowerdir+", layer).map_err(failed)?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(failed)?;
    let attrs = MountAttrFlags::MOUNT_ATTR_RDONLY;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs).map_err(failed)
}

/// Goes with its end, unless it is kept.
struct Temporary(PathBuf);

impl Temporary {
    /// What a crash has left goes after this time.
    const OLD: Duration = Duration::from_secs(24 * 3600);
    const PREFIX: &str = ".stockade-image-";

    fn path(cache: &Path) -> Result<PathBuf> {
        const STEP: &str = "make a disk image";
        std::fs::create_dir_all(cache).map_err(|e| Error::io(STEP, e).path(cache))?;
        clear(cache);
        let mut random = [0; 8];
        let got = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        got.map_err(|e| Error::sys(STEP, e))?;
        Ok(cache.join(format!("{}{:016x}", Self::PREFIX, u64::from_le_bytes(random))))
    }

    fn file(cache: &Path) -> Result<Self> {
        let temp = Self(Self::path(cache)?);
        File::create_new(&temp.0).map_err(|e| Error::io("make a disk image", e).path(&temp.0))?;
        Ok(temp)
    }

    #[cfg(feature = "image")]
    fn directory(cache: &Path) -> Result<Self> {
        let temp = Self(Self::path(cache)?);
        std::fs::create_dir(&temp.0).map_err(|e| Error::io("make a disk image", e).path(&temp.0))?;
        Ok(temp)
    }

    fn keep(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Nothing is lost with what cannot be removed.
fn remove(path: &Path) {
    if !path.as_os_str().is_empty() && std::fs::remove_file(path).is_err() {
        let _ = std::fs::remove_dir_all(path);
    }
}

/// Removes what others have left.
fn clear(cache: &Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(Temporary::PREFIX);
        let modified = entry.metadata().and_then(|m| m.modified()).unwrap_or_else(|_| SystemTime::now());
        if ours && modified.elapsed().is_ok_and(|age| age > Temporary::OLD) {
            remove(&entry.path());
        }
    }
}

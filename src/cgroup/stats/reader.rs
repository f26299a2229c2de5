//! Reading all statistics through descriptors that stay open.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::hugetlb::{self, HugetlbStats};
use super::{Pressure, Stats, io, parse, rdma};
use crate::cgroup::Cgroup;
use crate::cgroup::v1::StatsV1;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::open_dir;
use crate::sys::raw::retry;

/// The file that every cgroup has as long as it exists.
const ALWAYS: &str = "cgroup.stat";

/// More than any of the files holds on most machines; a longer one makes the buffer grow.
const BUFFER: usize = 8 << 10;

type Parse = fn(&mut Stats, &[u8]);

/// The files with one name everywhere, and what their text is for.
const FILES: &[(&str, Parse)] = &[
    (ALWAYS, |s, t| s.tree.parse(t)),
    ("cgroup.stat.local", |s, t| s.local.get_or_insert_default().parse(t)),
    ("cgroup.events", |s, t| s.state.get_or_insert_default().parse(t)),
    ("cpu.stat", |s, t| s.cpu.get_or_insert_default().parse(t)),
    ("cpu.stat.local", |s, t| s.cpu_local.get_or_insert_default().parse(t)),
    ("memory.current", |s, t| s.memory.get_or_insert_default().current = parse::single(t)),
    ("memory.peak", |s, t| s.memory.get_or_insert_default().peak = parse::single(t)),
    ("memory.swap.current", |s, t| s.memory.get_or_insert_default().swap_current = parse::single(t)),
    ("memory.swap.peak", |s, t| s.memory.get_or_insert_default().swap_peak = parse::single(t)),
    ("memory.zswap.current", |s, t| s.memory.get_or_insert_default().zswap_current = parse::single(t)),
    ("memory.stat", |s, t| s.memory.get_or_insert_default().stat.parse(t)),
    ("memory.events", |s, t| s.memory.get_or_insert_default().events.get_or_insert_default().parse(t)),
    ("memory.events.local", |s, t| {
        s.memory.get_or_insert_default().events_local.get_or_insert_default().parse(t);
    }),
    ("memory.swap.events", |s, t| {
        s.memory.get_or_insert_default().swap_events.get_or_insert_default().parse(t);
    }),
    ("io.stat", |s, t| s.io = Some(io::parse(t))),
    ("pids.current", |s, t| s.pids.get_or_insert_default().current = parse::single(t).unwrap_or(0)),
    ("pids.peak", |s, t| s.pids.get_or_insert_default().peak = parse::single(t)),
    ("pids.events", |s, t| s.pids.get_or_insert_default().events.parse(t)),
    ("pids.events.local", |s, t| {
        s.pids.get_or_insert_default().events_local.get_or_insert_default().parse(t);
    }),
    ("rdma.current", |s, t| s.rdma = Some(rdma::parse(t))),
    ("misc.current", |s, t| s.misc.get_or_insert_default().current = parse::map(t)),
    ("misc.peak", |s, t| s.misc.get_or_insert_default().peak = parse::map(t)),
    ("misc.events", |s, t| s.misc.get_or_insert_default().events = parse::map(t)),
    ("misc.events.local", |s, t| s.misc.get_or_insert_default().events_local = parse::map(t)),
    ("dmem.current", |s, t| s.dmem = Some(parse::map(t))),
    ("cpu.pressure", |s, t| s.pressure.cpu = Some(Pressure::parse(t))),
    ("memory.pressure", |s, t| s.pressure.memory = Some(Pressure::parse(t))),
    ("io.pressure", |s, t| s.pressure.io = Some(Pressure::parse(t))),
    ("irq.pressure", |s, t| s.pressure.irq = Some(Pressure::parse(t))),
];

/// How a file's text gets into [`Stats`].
#[derive(Clone, Copy, Debug)]
enum Use {
    Fixed(Parse),
    Hugetlb(u64, hugetlb::File),
}

impl Use {
    /// `None` for a file without statistics.
    fn of(name: &str) -> Option<Self> {
        if let Some((_, parse)) = FILES.iter().find(|(n, _)| *n == name) {
            return Some(Self::Fixed(*parse));
        }
        hugetlb::parse_name(name).map(|(page_size, file)| Self::Hugetlb(page_size, file))
    }

    fn put(self, text: &[u8], stats: &mut Stats) {
        match self {
            Self::Fixed(parse) => parse(stats, text),
            Self::Hugetlb(page_size, file) => {
                let stats = HugetlbStats::of(&mut stats.hugetlb, page_size);
                match file {
                    hugetlb::File::Current => stats.current = parse::single(text).unwrap_or(0),
                    hugetlb::File::Reserved => stats.reserved = parse::single(text).unwrap_or(0),
                    hugetlb::File::Events => stats.events.parse(text),
                    hugetlb::File::EventsLocal => stats.events_local.parse(text),
                }
            }
        }
    }
}

/// For the tests: puts `text` where that of the file `name` goes.
#[cfg(test)]
pub(super) fn put(name: &str, text: &[u8], stats: &mut Stats) -> bool {
    Use::of(name).map(|u| u.put(text, stats)).is_some()
}

#[derive(Debug)]
struct Open {
    name: Box<str>,
    fd: OwnedFd,
    role: Use,
}

/// Reads a cgroup's statistics again and again: each file is opened once and then read with one `pread(2)`, into one
/// buffer.
///
/// It holds one descriptor for each file, [`files`](Self::files) tells which, and one of the directory: about 35 in all
/// with every controller, 10 with none, all close-on-exec and closed on drop. Whoever watches thousands of cgroups and
/// cannot spare them takes [`Cgroup::stats`] instead. It does not keep the cgroup from being removed. Files of cgroup v1
/// (feature `cgroup1`) are opened for each reading.
///
/// ```no_run
/// use std::time::Duration;
/// use stockade::cgroup::Hierarchy;
///
/// let mut reader = Hierarchy::detect()?.own().stats_reader()?;
/// loop {
///     let stats = reader.read()?;
///     println!("{:?} {:?}", stats.cpu.map(|c| c.usage), stats.memory.and_then(|m| m.current));
///     std::thread::sleep(Duration::from_secs(10));
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Debug)]
pub struct StatsReader {
    dir: OwnedFd,
    path: PathBuf,
    files: Vec<Open>,
    v1: StatsV1,
    buffer: Vec<u8>,
}

impl Cgroup {
    /// Opens every file with statistics that this cgroup has. Needs no privilege.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed. [`Exhausted`](ErrorKind::Exhausted): there are not
    /// descriptors enough.
    pub fn stats_reader(&self) -> Result<StatsReader> {
        let dir = open_dir(self.as_fd(), ".").map_err(|e| read_error(self.path(), "", e))?;
        let path = self.path().to_owned();
        let v1 = StatsV1::unread(self);
        let mut reader = StatsReader { dir, path, files: Vec::new(), v1, buffer: vec![0; BUFFER] };
        reader.refresh()?;
        Ok(reader)
    }
}

impl StatsReader {
    /// Reads all of it. The figures of two files may be some microseconds apart.
    ///
    /// When a controller was taken from the cgroup meanwhile, its figures become `None` and its descriptors are closed.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed. It stays so; drop the reader.
    pub fn read(&mut self) -> Result<Stats> {
        let Self { path, files, buffer, .. } = self;
        let mut stats = Stats::default();
        let mut lost = false;
        for Open { name, fd, role } in files.iter() {
            match pread(fd, buffer) {
                Ok(n) => role.put(&buffer[..n], &mut stats),
                Err(Errno::NODEV) if &**name == ALWAYS => return Err(gone(path)),
                Err(Errno::NODEV) => lost = true,
                // The kernel has the file and was told not to count (`psi=0`).
                Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(read_error(path, name, e)),
            }
        }
        if lost {
            self.drop_lost()?;
        }
        self.v1.read(&mut stats)?;
        Ok(stats)
    }

    /// Closes what is there no more.
    fn drop_lost(&mut self) -> Result<()> {
        let Self { path, files, buffer, .. } = self;
        files.retain(|f| pread(&f.fd, buffer) != Err(Errno::NODEV));
        match files.first().is_some_and(|f| &*f.name == ALWAYS) {
            true => Ok(()),
            false => Err(gone(path)),
        }
    }

    /// Opens the files that the cgroup has got meanwhile, with a controller that was given to it.
    ///
    /// # Errors
    /// As [`Cgroup::stats_reader`].
    pub fn refresh(&mut self) -> Result<()> {
        let failed = |path: &Path, name: &str, e| match e {
            Errno::NOENT | Errno::NODEV => gone(path),
            e => read_error(path, name, e),
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = retry(|| {
            rustix::fs::openat(&self.dir, c".", flags | OFlags::DIRECTORY, Mode::empty()).and_then(Dir::new)
        });
        let mut exists = false;
        for entry in dir.map_err(|e| failed(&self.path, "", e))? {
            let entry = entry.map_err(|e| failed(&self.path, "", e))?;
            let Some((name, role)) = with_use(entry.file_name()) else { continue };
            exists |= name == ALWAYS;
            if self.files.iter().any(|f| &*f.name == name) {
                continue;
            }
            match retry(|| rustix::fs::openat(&self.dir, name, flags, Mode::empty())) {
                Ok(fd) => self.files.push(Open { name: name.into(), fd, role }),
                Err(Errno::NOENT | Errno::NODEV) => {}
                Err(e) => return Err(read_error(&self.path, name, e)),
            }
        }
        self.v1.refresh(&self.dir, &self.path)?;
        match self.files.iter().position(|f| &*f.name == ALWAYS) {
            Some(at) if exists => self.files.swap(0, at),
            // The directory of a removed cgroup can be read, and is empty.
            _ => return Err(gone(&self.path)),
        }
        Ok(())
    }

    /// The files that it holds open.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|f| &*f.name)
    }
}

fn with_use(name: &CStr) -> Option<(&str, Use)> {
    let name = name.to_str().ok()?;
    Some((name, Use::of(name)?))
}

/// The whole file: these have no more than one read gives when there is room for it.
fn pread(fd: &OwnedFd, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    loop {
        let n = retry(|| rustix::io::pread(fd, buffer.as_mut_slice(), 0))?;
        if n < buffer.len() {
            return Ok(n);
        }
        buffer.resize(buffer.len() * 2, 0);
    }
}

fn read_error(path: &Path, name: &str, errno: Errno) -> Error {
    Error::sys("read statistics", errno).path(path.join(name))
}

fn gone(path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, "read statistics").path(path).detail("the cgroup was removed")
}

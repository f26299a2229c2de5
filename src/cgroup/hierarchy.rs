//! Where cgroup v2 is mounted, and where in it the calling process sits.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::group::Cgroup;
use super::v1;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::{open_dir, read_at};
use crate::sys::raw::retry;

/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// More than any host's mount table.
const MOUNTINFO_LIMIT: usize = 64 << 20;
/// What stands for the mount point of a hierarchy that is mounted nowhere.
const UNMOUNTED: &str = "cgroup2:";
/// Where systemd mounts cgroup v2: pure, and beside v1.
const USUAL: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The cgroup v2 tree as the calling thread's mount namespace shows it.
///
/// Found once and kept: it holds two descriptors, of the mount's root and of the cgroup that the process sat in
/// at that time.
#[derive(Debug)]
pub struct Hierarchy {
    root: Cgroup,
    own: Cgroup,
    /// Of the mount and of its file system.
    options: Vec<String>,
}

impl Hierarchy {
    /// Finds the cgroup v2 mount, on pure v2 hosts and beside v1 on hybrid ones, and the cgroup of the calling
    /// process. On hosts that have only v1 mounted it takes, with the feature `cgroup1`, a mount of the v2 tree that is
    /// attached nowhere: each kernel has that tree. Paths in it begin with `cgroup2:`, and it needs `CAP_SYS_ADMIN`. Else
    /// it needs no privilege; reads `/proc/thread-self/mountinfo` and `/proc/thread-self/cgroup`
    /// (`proc_pid_mountinfo(5)`, `cgroups(7)`).
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): no cgroup v2 mount shows the process's own cgroup.
    /// [`PermissionDenied`](ErrorKind::PermissionDenied): only v1 is mounted, and `CAP_SYS_ADMIN` is lacking.
    /// [`InvalidState`](ErrorKind::InvalidState): the process sits outside the root of its cgroup namespace,
    /// which happens to one that entered the namespace by `setns(2)` and was never moved.
    pub fn detect() -> Result<Self> {
        let mut groups = proc_file("/proc/thread-self/cgroup")?;
        let mountinfo = proc_file("/proc/thread-self/mountinfo")?;
        let mounts = mounts_of(&mountinfo, b"cgroup2");
        let mut found = match mounts.is_empty() {
            false => Self::among(mounts, &parse_own(&groups)?)?,
            true => {
                let tree = v1::unmounted_v2()?;
                // The kernel shows the process's place in it from the first mount on.
                groups = proc_file("/proc/thread-self/cgroup")?;
                Self::unmounted(tree, &parse_own(&groups)?)?
            }
        };
        found.own.v1 = v1::Tree::find(&mountinfo, &groups);
        found.root.v1 = found.own.v1.elsewhere();
        Ok(found)
    }

    /// That of these mounts which shows the cgroup `own`.
    fn among(mounts: Vec<Mount>, own: &Path) -> Result<Self> {
        let mut candidates: Vec<(PathBuf, Mount)> = mounts
            .into_iter()
            .filter_map(|m| Some((own.strip_prefix(&m.root).ok()?.to_path_buf(), m)))
            .collect();
        // A copy of the tree inside some container's root must not win over the usual places.
        candidates.sort_by_key(|(_, m)| {
            USUAL.iter().position(|u| m.mount_point == Path::new(u)).unwrap_or(USUAL.len())
        });
        let found = candidates.into_iter().find_map(|(below, m)| Self::at(m, &below));
        found.ok_or_else(|| no_mount(&format!("no mounted cgroup2 file system shows `{}`", own.display())))
    }

    /// The hierarchy by a mount of it that is nowhere.
    fn unmounted(root: OwnedFd, own: &Path) -> Result<Self> {
        let root = Cgroup::from_parts(root, PathBuf::from(UNMOUNTED), None, v1::Side::none());
        let below = own.strip_prefix("/").unwrap_or(own);
        let own = match below.as_os_str().is_empty() {
            true => root.again()?,
            false => open_beneath(&root, below).map_err(|e| Error::sys("open cgroup", e).path(own))?,
        };
        Ok(Self { own, root, options: Vec::new() })
    }

    /// The hierarchy mounted at `mount`, if the path still leads to it: another mount may cover it.
    fn at(found: Mount, below: &Path) -> Option<Self> {
        let mount = &*found.mount_point;
        let root = open_dir(CWD, mount).ok()?;
        let fs = retry(|| rustix::fs::fstatfs(&root)).ok()?;
        if fs.f_type as u64 != CGROUP2_MAGIC {
            return None;
        }
        let parts = |fd| Cgroup::from_parts(fd, mount.to_path_buf(), None, v1::Side::none());
        let root = parts(root);
        let own = match below.as_os_str().is_empty() {
            true => open_dir(CWD, mount).map(parts),
            false => open_beneath(&root, below),
        };
        Some(Self { own: own.ok()?, root, options: found.options })
    }

    /// The cgroup at the mount's root. Not the host's root cgroup where the mount was made in a cgroup
    /// namespace.
    pub fn root(&self) -> &Cgroup {
        &self.root
    }

    /// The cgroup that the process sat in when the hierarchy was found.
    ///
    /// Children made here get controllers only if this cgroup holds no process itself (or is the root); a host
    /// that wants limits sits in a leaf and makes its children in the [`parent`](Cgroup::parent).
    pub fn own(&self) -> &Cgroup {
        &self.own
    }

    /// The options of the mount (`ro`) and of its file system (`nsdelegate`), as they were when it was found.
    pub(super) fn mount_options(&self) -> &[String] {
        &self.options
    }

    /// Opens an existing cgroup by its [`path`](Cgroup::path), to adopt it again after a restart. Compare its
    /// [`id`](Cgroup::id) too: a cgroup of the same name may have been made since.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig): the path is not below the mount.
    /// [`NotFound`](ErrorKind::NotFound): there is no such cgroup any more.
    pub fn open(&self, path: &Path) -> Result<Cgroup> {
        let plain = |p: &&Path| p.components().all(|c| matches!(c, Component::Normal(_)));
        let below = path.strip_prefix(self.root.path()).ok().filter(plain);
        let Some(below) = below.filter(|b| !b.as_os_str().is_empty()) else {
            return Err(Error::invalid("cgroup", format!("is not below {}", self.root.path().display()))
                .object(path.display().to_string()));
        };
        let mut found =
            open_beneath(&self.root, below).map_err(|e| Error::sys("open cgroup", e).path(path))?;
        found.v1 = self.own.v1.anchor().child(found.name().unwrap_or_default());
        Ok(found)
    }

    /// Takes `cgroup` for the one in which those of instances are made: their v1 groups, if they need any, are made in
    /// this process's own.
    pub(crate) fn with_instances_in(&self, mut cgroup: Cgroup) -> Cgroup {
        cgroup.v1 = self.own.v1.anchor();
        cgroup
    }
}

/// The error of a host on which no mount serves.
pub(super) fn no_mount(why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "find the cgroup v2 mount")
        .detail(why)
        .hint("mount it: `mount -t cgroup2 cgroup2 /sys/fs/cgroup` (with v1: on /sys/fs/cgroup/unified)")
}

fn open_beneath(root: &Cgroup, below: &Path) -> Result<Cgroup, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let fd = retry(|| rustix::fs::openat2(root, below, flags, Mode::empty(), resolve))?;
    let name = below.file_name().map(OsStr::to_owned);
    Ok(Cgroup::from_parts(fd, root.path().join(below), name, v1::Side::none()))
}

fn proc_file(path: &str) -> Result<Vec<u8>> {
    read_at(CWD, path, MOUNTINFO_LIMIT).map_err(|e| {
        Error::sys("find the cgroup v2 mount", e)
            .path(path)
            .hint("a proc file system must be mounted on /proc")
    })
}

#[derive(Debug, PartialEq)]
pub(super) struct Mount {
    /// Which cgroup the mount's root is, seen from the reader's cgroup namespace.
    pub(super) root: PathBuf,
    pub(super) mount_point: PathBuf,
    /// Of the mount and of its file system.
    pub(super) options: Vec<String>,
}

/// The mounts of one type in a mountinfo file; lines that cannot be read are no mounts of ours.
pub(super) fn mounts_of(text: &[u8], wanted: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|b| *b == b' ');
        let root = unescape(fields.nth(3)?);
        let mount_point = unescape(fields.next()?);
        let own = fields.next()?;
        let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
        let fs_type = fields.next()?;
        let shared = fields.nth(1).unwrap_or_default();
        let words = |list: &[u8]| -> Vec<String> {
            let list = String::from_utf8_lossy(list);
            list.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect()
        };
        let options = || [words(own), words(shared)].concat();
        (fs_type == wanted).then(|| Mount { root, mount_point, options: options() })
    };
    text.split(|b| *b == b'\n').filter_map(mount).collect()
}

/// Undoes the octal escapes of blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal {
            Some(d) => {
                out.push(d.iter().fold(0_u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// The v2 path in a `/proc/PID/cgroup` file.
fn parse_own(text: &[u8]) -> Result<PathBuf> {
    let own = text.split(|b| *b == b'\n').find_map(|l| l.strip_prefix(b"0::")).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "find the process's own cgroup")
            .object("/proc/thread-self/cgroup")
            .detail("has no line `0::PATH`: the kernel has no cgroup v2")
    })?;
    let path = Path::new(OsStr::from_bytes(own));
    if !path.is_absolute() || path.components().any(|c| c == Component::ParentDir) {
        return Err(Error::new(ErrorKind::InvalidState, "find the process's own cgroup")
            .path(path)
            .detail("the process sits outside the root of its cgroup namespace")
            .hint("move it into a cgroup of the namespace, or make the namespace anew (unshare -C) where it sits"));
    }
    Ok(path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(root: &str, at: &str, options: &str) -> Mount {
        let options = options.split(',').map(str::to_owned).collect();
        Mount { root: root.into(), mount_point: at.into(), options }
    }

    #[test]
    fn finds_cgroup2_mounts_on_pure_and_hybrid_hosts() {
        let pure = b"25 1 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mounts_of(pure, b"cgroup2"), [mount("/", "/sys/fs/cgroup", "rw,nosuid,rw,nsdelegate")]);
        let hybrid = b"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mounts_of(hybrid, b"cgroup2"), [mount("/", "/sys/fs/cgroup/unified", "rw,relatime,rw")]);
    }

    #[test]
    fn reads_roots_optional_fields_and_escapes_and_survives_rubbish() {
        let text = b"x\n\n1 2 3\n\
            50 1 0:22 /a\\040b /mnt/c\\134d rw shared:1 master:2 propagate_from:3 - cgroup2 none rw\n\
            51 1 0:22 /../.. /up rw - cgroup2 none rw\n\
            52 1 0:22 /- /dash rw - tmpfs cgroup2 rw\n\
            53 1 0:22 / /cut rw -";
        assert_eq!(
            mounts_of(text, b"cgroup2"),
            [mount("/a b", "/mnt/c\\d", "rw,rw"), mount("/../..", "/up", "rw,rw")]
        );
        assert_eq!(unescape(b"a\\9\\04"), Path::new("a\\9\\04"));
    }

    #[test]
    fn own_path_is_read_and_one_outside_the_namespace_is_refused() {
        assert_eq!(parse_own(b"9:name=systemd:/\n0::/user.slice/x\n").unwrap(), Path::new("/user.slice/x"));
        for outside in [&b"0::/..\n"[..], b"0::/../other/x\n"] {
            let err = parse_own(outside).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidState);
            assert!(err.to_string().contains("cgroup namespace"), "{err}");
        }
        assert_eq!(parse_own(b"9:memory:/a\n").unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

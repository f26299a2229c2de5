//! Which v1 hierarchies are mounted, and where in them this process is.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::Side;
use crate::cgroup::hierarchy::mounts_of;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::open_dir;

/// The v1 hierarchies that the calling thread's mount namespace shows.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cgroup) struct Tree(Vec<V1Hierarchy>);

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct V1Hierarchy {
    /// Its controllers as the kernel lists them: `cpu,cpuacct`.
    pub(super) controllers: String,
    /// This process's own group, as an absolute path.
    pub(super) own: PathBuf,
}

impl Tree {
    /// Those of which a mount shows this process's own group.
    pub(in crate::cgroup) fn find(mountinfo: &[u8], own: &[u8]) -> Side {
        let found = Self::parse(mountinfo, own);
        let tree = (!found.0.is_empty()).then(|| Arc::new(found));
        Side { tree, below: Some(PathBuf::new()) }
    }

    fn parse(mountinfo: &[u8], own: &[u8]) -> Self {
        let mounts = mounts_of(mountinfo, b"cgroup");
        let mut all = Vec::new();
        for line in own.split(|b| *b == b'\n') {
            let mut fields = line.splitn(3, |b| *b == b':');
            let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Ok(controllers) = std::str::from_utf8(controllers) else { continue };
            let path = Path::new(OsStr::from_bytes(path));
            let outside = path.components().any(|c| c == Component::ParentDir);
            if number == b"0" || controllers.is_empty() || outside {
                continue;
            }
            let shows = |options: &[String]| controllers.split(',').all(|c| options.iter().any(|o| o == c));
            let own = mounts.iter().filter(|m| shows(&m.options)).find_map(|m| {
                let own = m.mount_point.join(path.strip_prefix(&m.root).ok()?);
                // Another mount may cover it.
                own.join("cgroup.procs").exists().then_some(own)
            });
            // `join` of an empty path leaves a slash.
            let own = own.map(|own| own.components().collect::<PathBuf>());
            all.extend(own.map(|own| V1Hierarchy { controllers: controllers.to_owned(), own }));
        }
        Self(all)
    }

    /// The hierarchy with this controller.
    pub(super) fn of(&self, controller: &str) -> Option<&V1Hierarchy> {
        self.0.iter().find(|h| h.has(controller))
    }
}

impl V1Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|c| c == controller)
    }
}

/// A mount of the v2 tree that is attached nowhere: on a host that has only v1 mounted nobody sees it.
pub(in crate::cgroup) fn unmounted_v2() -> Result<OwnedFd> {
    let mount = || -> std::result::Result<OwnedFd, Errno> {
        let fs = rustix::mount::fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        open_dir(mount.as_fd(), ".")
    };
    mount().map_err(|errno| {
        let e = Error::sys("mount the cgroup v2 tree for this process", errno);
        match errno {
            Errno::PERM => e
                .detail("no cgroup2 file system is mounted")
                .hint("run as root, or mount one on /sys/fs/cgroup/unified"),
            Errno::NODEV => e.with_kind(ErrorKind::Unsupported).detail("the kernel has no cgroup v2"),
            _ => e,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_own_group_in_each_hierarchy_that_a_mount_shows() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("cgroup.procs"), "").unwrap();
            path
        };
        let (cpu, pids, systemd) = (at("cpu"), at("pids/b"), at("systemd"));
        let line = |root: &str, name: &str, options: &str| {
            let at = dir.path().join(name);
            format!("40 31 0:3 {root} {} rw,relatime shared:1 - cgroup cgroup rw,{options}\n", at.display())
        };
        let mounts = [
            line("/", "cpu", "cpu,cpuacct"),
            line("/a", "pids", "pids"),
            line("/", "systemd", "name=systemd"),
            line("/other", "memory", "memory"),
            line("/", "covered", "freezer"),
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n".to_owned(),
        ];
        let own = b"9:name=systemd:/\n8:pids:/a/b\n5:freezer:/\n4:memory:/mine\n3:devices:/../x\n\
            2:cpu,cpuacct:/\n0::/\nrubbish\n";
        let tree = Tree::parse(mounts.concat().as_bytes(), own);
        let hierarchy = |controllers: &str, own| V1Hierarchy { controllers: controllers.to_owned(), own };
        assert_eq!(
            tree,
            Tree(vec![
                hierarchy("name=systemd", systemd),
                hierarchy("pids", pids),
                hierarchy("cpu,cpuacct", cpu),
            ])
        );
        assert_eq!(tree.of("cpuacct").map(|h| &*h.controllers), Some("cpu,cpuacct"));
        assert_eq!(tree.of("memory"), None);
        assert!(Tree::find(b"", own).tree.is_none());
    }
}

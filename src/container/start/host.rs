//! The root of a container of the host's own files: what it is put together from, and what it must not show.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Request;
use super::descriptors::Descriptors;
use super::plan::{Root, Upper, View};
use crate::error::{Error, ErrorKind, Result};
use crate::rootfs::tree::Depth;
use crate::rootfs::{FileIds, Rootfs};

/// Files of the host that hold secrets, and where services keep theirs.
const SECRETS: [&str; 30] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/security/opasswd",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/krb5.keytab",
    "/etc/ssl/private",
    "/etc/pki/tls/private",
    "/etc/letsencrypt",
    "/etc/wireguard",
    "/etc/ipsec.secrets",
    "/etc/ppp",
    "/etc/NetworkManager/system-connections",
    "/etc/netplan",
    "/etc/wpa_supplicant",
    "/etc/cryptsetup-keys.d",
    "/etc/docker",
    "/etc/kubernetes",
    "/etc/rancher",
    "/var/backups",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/kubelet",
    "/var/lib/private",
    "/var/lib/sss",
    "/var/mail",
    "/var/spool",
];

/// Where the host's own mounts make no sense in a container; and what [`super::plan`] makes anew.
const NOT_SHOWN: [&str; 8] = ["dev", "home", "lost+found", "proc", "root", "run", "sys", "tmp"];

/// Each takes a descriptor in the child.
const MAX_DIRS: usize = 100;

impl Request<'_> {
    /// An overlay of the host's root under a memory file system; where that cannot be, a read-only view of it.
    pub(super) fn host_root(&self, fds: &mut Descriptors) -> Result<Root> {
        let root = Path::new("/");
        if !self.host.can_clone_mounts() || is_overlay(root)? || has_programs_elsewhere(root)? {
            return view_of(root).map(Root::View);
        }
        let lower = self.host_dir(fds, "open the host's root", root, Depth::One, FileIds::Mapped)?;
        Ok(Root::Overlay { lower: vec![lower], upper: Upper::Memory })
    }

    /// What a container of the host's own files must not see, beside what it gets anew.
    pub(super) fn hidden(&self) -> Vec<Vec<u8>> {
        if !matches!(self.config.rootfs, Rootfs::Host) {
            return Vec::new();
        }
        let runtime = self.runtime_dirs.iter().map(|dir| {
            let real = std::fs::canonicalize(dir);
            real.unwrap_or_else(|_| dir.to_path_buf())
        });
        let secrets = SECRETS.iter().map(PathBuf::from);
        secrets.chain(ssh_host_keys()).chain(runtime).map(|p| p.as_os_str().as_bytes().to_vec()).collect()
    }
}

/// An overlay can neither get an id map nor, more than once, be a layer.
fn is_overlay(root: &Path) -> Result<bool> {
    const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
    let fs = rustix::fs::statfs(root).map_err(|e| Error::sys("look at the host's root", e).path(root))?;
    Ok(fs.f_type == OVERLAYFS_MAGIC)
}

/// Whether programs are on a file system of their own, which a layer would not take along.
fn has_programs_elsewhere(root: &Path) -> Result<bool> {
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev());
    let here = device(root).map_err(|e| Error::io("look at the host's root", e).path(root))?;
    Ok(["usr", "nix"].iter().any(|dir| device(&root.join(dir)).is_ok_and(|dev| dev != here)))
}

/// The directories of the root, each to be bound, and its links.
fn view_of(root: &Path) -> Result<View> {
    let failed = |e| Error::io("list the host's root", e).path(root);
    let mut view = View::default();
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        if NOT_SHOWN.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            view.dirs.push(path);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path).map_err(failed)?;
            view.links.push((target, path));
        }
    }
    if view.dirs.len() > MAX_DIRS {
        return Err(Error::new(ErrorKind::Unsupported, "use the host's files as root file system")
            .path(root)
            .detail(format!("has {} directories, of which a view can show {MAX_DIRS}", view.dirs.len()))
            .hint("give a directory with Rootfs::dir, such as one made by debootstrap"));
    }
    view.dirs.sort();
    view.links.sort();
    Ok(view)
}

fn ssh_host_keys() -> Vec<PathBuf> {
    let Ok(dir) = std::fs::read_dir("/etc/ssh") else { return Vec::new() };
    let is_key = |name: &[u8]| name.starts_with(b"ssh_host_") && name.ends_with(b"_key");
    dir.flatten().filter(|e| is_key(e.file_name().as_bytes())).map(|e| e.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_has_directories_and_links_and_no_kernel_or_private_files() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["usr", "etc", "proc", "home", "root", "tmp", "run", "sys", "dev"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        std::fs::write(root.path().join("swapfile"), "").unwrap();
        std::os::unix::fs::symlink("usr/bin", root.path().join("bin")).unwrap();
        let view = view_of(root.path()).unwrap();
        assert_eq!(view.dirs, [root.path().join("etc"), root.path().join("usr")]);
        assert_eq!(view.links, [(PathBuf::from("usr/bin"), root.path().join("bin"))]);
        assert!(view_of(&root.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}

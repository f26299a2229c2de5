//! Images on this host, looked at with e2fsprogs.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::rootfs::Rootfs;

/// What debugfs(8) says; `None` where it is not there.
fn debugfs(image: &Path, what: &str) -> Option<String> {
    let program = PathBuf::from("/usr/sbin/debugfs");
    let out = program.is_file().then(|| Command::new(program).args(["-R", what]).arg(image).output())?;
    Some(String::from_utf8_lossy(&out.unwrap().stdout).into_owned())
}

fn has_mkfs() -> bool {
    let there = program().is_ok();
    if !there {
        support::skip("there is no mkfs.ext4");
    }
    there
}

#[test]
fn a_directory_is_packed_once_and_again_when_it_has_changed() {
    if !has_mkfs() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, cache) = (dir.path().join("root"), dir.path().join("cache"));
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/hello"), "world\n").unwrap();
    std::fs::set_permissions(root.join("etc/hello"), PermissionsExt::from_mode(0o640)).unwrap();
    let pack = PackImage::new(Rootfs::dir(&root)).free(1 << 20);
    let image = pack.run(&cache).unwrap();
    if let Some(text) = debugfs(&image, "cat /etc/hello") {
        assert_eq!(text, "world\n");
        assert!(debugfs(&image, "stat /etc/hello").unwrap().contains("Mode:  0640"));
    }
    let made = std::fs::metadata(&image).unwrap().modified().unwrap();
    assert_eq!(pack.run(&cache).unwrap(), image);
    assert_eq!(std::fs::metadata(&image).unwrap().modified().unwrap(), made);
    // What a crash has left goes, once it is old.
    let left = cache.join(".stockade-image-0");
    std::fs::write(&left, "").unwrap();
    let day = SystemTime::now() - Duration::from_secs(25 * 3600);
    File::options().write(true).open(&left).unwrap().set_modified(day).unwrap();
    std::fs::write(root.join("etc/hello"), "other\n").unwrap();
    let other = pack.run(&cache).unwrap();
    assert_ne!(other, image);
    let names: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_ne!(pack.free(5 << 20).run(&cache).unwrap(), other);
}

#[test]
fn layers_are_packed_as_they_lie_over_each_other() {
    if !has_mkfs() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (layer, text) in [("upper", "upper"), ("lower", "lower")] {
        std::fs::create_dir(at(layer)).unwrap();
        std::fs::write(at(layer).join("both"), text).unwrap();
        std::fs::write(at(layer).join(text), text).unwrap();
    }
    let packed = PackImage::new(Rootfs::overlay([at("upper"), at("lower")])).run(at("cache"));
    let image = match packed {
        Ok(image) => image,
        Err(e) => {
            assert!(e.to_string().contains("CAP_SYS_ADMIN"), "{e}");
            return support::skip(format!("layers: {e}"));
        }
    };
    if let Some(text) = debugfs(&image, "cat /both") {
        assert_eq!((text.as_str(), debugfs(&image, "cat /lower").unwrap().as_str()), ("upper", "lower"));
    }
}

#[test]
fn what_is_not_there_or_is_no_root_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let e = PackImage::new(Rootfs::dir(dir.path().join("none"))).run(dir.path()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let e = PackImage::new(Rootfs::dir(&file)).run(dir.path()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig);
    assert_eq!(PackImage::new(Rootfs::host()).run(dir.path()).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[cfg(feature = "image")]
#[test]
fn an_archive_is_unpacked_and_packed() {
    if !has_mkfs() || !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    archive.append_data(&mut header, "etc/name", &b"abc"[..]).unwrap();
    let path = dir.path().join("a.tar");
    std::fs::write(&path, archive.into_inner().unwrap()).unwrap();
    let cache = dir.path().join("cache");
    let image = PackImage::archive(&path).run(&cache).unwrap();
    if let Some(text) = debugfs(&image, "cat /etc/name") {
        assert_eq!(text, "abc");
    }
    assert_eq!(PackImage::archive(&path).run(&cache).unwrap(), image);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);
}

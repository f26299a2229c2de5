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

/// A program in place of mkfs.ext4.
fn fake(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("fake-mkfs");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_program_that_hangs_is_killed_in_time_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (root, cache) = (dir.path().join("root"), dir.path().join("cache"));
    std::fs::create_dir(&root).unwrap();
    let pid = dir.path().join("pid");
    // It has closed its standard error, fills it, or has given it to a child that goes on.
    let noise = "yes | head -c 200000 >&2";
    for (n, body) in ["exec 2>&-; exec sleep 1000", &format!("{noise}; echo stuck >&2; exec sleep 1000")]
        .iter()
        .enumerate()
    {
        let program = fake(dir.path(), &format!("echo $$ > {}; {body}", pid.display()));
        let pack = PackImage::new(Rootfs::dir(&root)).program(&program).deadline(Duration::from_millis(500));
        let e = pack.run(&cache).unwrap_err();
        assert_eq!((e.kind(), e.what()), (ErrorKind::Timeout, program.to_str()), "{e}");
        assert!(n == 0 || e.to_string().contains("it said: y"), "{e}");
        assert!(e.to_string().len() < 100_000);
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
        let was = std::fs::read_to_string(&pid).unwrap();
        assert!(!Path::new("/proc").join(was.trim()).exists(), "{was} is there still");
    }
}

#[test]
fn the_end_of_the_program_is_not_held_up_by_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let (root, cache) = (dir.path().join("root"), dir.path().join("cache"));
    std::fs::create_dir(&root).unwrap();
    // The child has the standard error, and ends when the test lets it.
    let go_on = dir.path().join("go-on");
    std::fs::write(&go_on, "").unwrap();
    let child = format!("while [ -e {} ]; do sleep 0.05; done &", go_on.display());
    let program = fake(dir.path(), &format!("{child}\necho no space >&2; exit 3"));
    let e = PackImage::new(Rootfs::dir(&root)).program(&program).run(&cache).unwrap_err();
    assert!(e.kind() == ErrorKind::Kernel && e.to_string().contains("failed: no space"), "{e}");
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
    std::fs::remove_file(&go_on).unwrap();
    let none = PackImage::new(Rootfs::dir(&root)).program(dir.path().join("none")).run(&cache).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound, "{none}");
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
}

//! A whole distribution: what is unpacked is, file by file, what GNU tar makes of the same archive; and the host
//! process is as before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use stockade::rootfs::{Compression, Unpack};
use support::{require, require_fixture, require_root, tree_differences, tree_size};

/// GNU tar, with all that is asked of an unpacker here.
fn tar() -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*"]);
    tar
}

#[track_caller]
fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let found = tree_differences(a, b).unwrap();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found[..found.len().min(20)].join("\n"));
}

/// In memory where there is room for two roots: disks are slow, and `tests/archives` looks at one.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).is_ok_and(|s| s.f_bavail * s.f_frsize > 2 << 30);
    if room { memory.to_owned() } else { std::env::temp_dir() }
}

#[test]
fn a_debian_root_is_what_gnu_tar_makes_of_it() {
    let _serial = support::serial();
    require_root!();
    require!(tar().arg("--version").output().is_ok_and(|out| out.status.success()), "needs GNU tar");
    let debian = require_fixture!("debian");
    for (options, compression) in [
        (&["--format=pax"][..], Compression::None),
        (&["--format=gnu", "--no-xattrs"], Compression::None),
        (&["--use-compress-program=gzip -1"], Compression::Gzip),
        (&["--use-compress-program=zstd -1"], Compression::Zstd),
        (&["--use-compress-program=xz -0"], Compression::Xz),
    ] {
        let dir = tempfile::tempdir_in(place()).unwrap();
        let [archive, reference, target] =
            ["archive", "reference", "target"].map(|name| dir.path().join(name));
        run(tar().args(options).arg("-C").arg(&debian).arg("-cf").arg(&archive).arg("."));
        fs::create_dir(&reference).unwrap();
        run(tar().arg("-C").arg(&reference).arg("-xpf").arg(&archive));
        let done = Unpack::new().run_file(&archive, &target).unwrap();
        assert_eq!(done.compression, compression);
        assert_eq!(done.archive, fs::metadata(&archive).unwrap().len());
        assert_eq!((&done.skipped[..], done.skipped_total), (&[][..], 0));
        assert_same(&reference, &target);
        if compression == Compression::None && options.len() == 1 {
            // With fractions of seconds the archive holds everything.
            assert_same(&debian, &target);
        }
        let all = done.files + done.directories + done.symlinks + done.hard_links + done.devices + done.fifos;
        // The archive names the root, too.
        assert_eq!(done.members, all + 1);
        let size = tree_size(&target).unwrap();
        assert_eq!(done.members, size as u64);
        let files = all - done.directories;
        assert!(files >= 9_000, "only {files} files");
    }
}

#[test]
fn unpacking_leaves_the_host_process_as_it_was() {
    let _serial = support::serial();
    require_root!();
    let busybox = require_fixture!("busybox");
    let dir = tempfile::tempdir().unwrap();
    let archives: Vec<_> = ["none", "gzip", "zstd", "xz"]
        .into_iter()
        .map(|program| {
            let archive = dir.path().join(program);
            let mut pack = tar();
            if program != "none" {
                pack.arg(format!("--use-compress-program={program}"));
            }
            run(pack.arg("-C").arg(&busybox).arg("-cf").arg(&archive).arg("."));
            (archive, dir.path().join(format!("from-{program}")))
        })
        .collect();
    let bad = dir.path().join("bad");
    let whole = fs::read(&archives[2].0).unwrap();
    fs::write(&bad, &whole[..whole.len() / 2]).unwrap();

    let host = support::HostSnapshot::take();
    for (archive, target) in &archives {
        Unpack::new().run_file(archive, target).unwrap();
    }
    Unpack::new().run_file(&bad, dir.path().join("none-of-it")).unwrap_err();
    host.assert_unchanged();
    assert_same(&busybox, &archives[3].1);
}

//! Layers of an image under a container: what a layer takes away is not there.

#[path = "archives/build.rs"]
#[allow(dead_code, reason = "the tests of archives use the rest")]
mod build;
#[allow(dead_code, reason = "other test programs use the rest")]
mod rig;

use build::Tar;
use rig::{Rig, busybox, end, sh};
use stockade::Rootfs;
use stockade::rootfs::{Unpack, UnpackWhiteouts};

#[test]
fn a_container_sees_the_layers_as_one() {
    let Some(rig) = Rig::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let base = Tar::new()
        .file("data/gone", "x")
        .file("data/kept", "base")
        .file("data/changed", "base")
        .file("dir/old", "x")
        .file("replaced/old", "x")
        .file("file-then-dir", "x")
        .file("tree/deep/old", "x")
        .end();
    let update = Tar::new()
        .file("data/.wh.gone", "")
        .file("data/changed", "update")
        .file("dir/.wh..wh..opq", "")
        .file("dir/new", "x")
        .file(".wh.replaced", "")
        .file("replaced/new", "x")
        .file("file-then-dir/.wh..wh..opq", "")
        .file("file-then-dir/new", "x")
        .file(".wh.tree", "")
        .end();
    let layers = [("update", &update), ("base", &base)].map(|(name, tar)| {
        let target = dir.path().join(name);
        let done = Unpack::new().whiteouts(UnpackWhiteouts::Overlay).run(tar.bytes(), &target).unwrap();
        assert_eq!(done.whiteouts, if name == "update" { 2 } else { 0 });
        target
    });
    let all = || layers.iter().cloned().chain(support::fixture("busybox"));
    for privileged in [false, true] {
        let config = busybox("layers").rootfs(Rootfs::overlay(all()));
        let c = rig.run(if privileged { config.privileged() } else { config });
        let found = sh(&c, "cd / && find data dir replaced file-then-dir tree 2>/dev/null | sort | xargs").1;
        let expected =
            "data data/changed data/kept dir dir/new file-then-dir file-then-dir/new replaced replaced/new";
        assert_eq!(found, expected, "privileged: {privileged}");
        assert_eq!(sh(&c, "cat /data/changed /data/kept").1, "updatebase");
        end(c);
    }
    rig.end();
}

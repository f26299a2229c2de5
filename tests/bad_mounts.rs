//! Images and mounts that lead elsewhere: nothing gets out of the root, and the error says what is wrong where.

mod again;
mod refuse;
mod rig;

use std::fs;
use std::path::Path;
use std::process::Command;

use refuse::{Patch, check, mount, says, with_own_mounts};
use rig::{Rig, busybox, end, sh};
use stockade::container::{ContainerConfig, Mount, Network};
use stockade::{ErrorKind, Rootfs};

use ErrorKind::{InvalidConfig, NotFound};

#[test]
fn images_whose_directories_are_links_or_files() {
    let Some(rig) = Rig::new() else { return };
    for (place, step) in [("proc", "mount proc"), ("dev", "mount /dev"), ("sys", "mount sysfs")] {
        for target in ["/etc", "../../../../tmp", "/none", ""] {
            let patch = Patch::new();
            if target.is_empty() {
                patch.file(place, 0o644, "");
            } else {
                patch.link(place, target);
            }
            let path = format!("/{place}");
            let errno = if target.is_empty() { libc::ENOTDIR } else { libc::ELOOP };
            let expected = says(InvalidConfig, step, &path, errno, "plain directory in the image");
            rig.refuses(&|| patch.container("x").args(["true"]), &expected);
            if place == "sys" {
                let host_net = || patch.container("x").args(["true"]).network(Network::Host);
                let c = rig.runtime.create(host_net().build().unwrap()).unwrap();
                let e = c.start().unwrap_err();
                check(
                    &e,
                    "start",
                    &says(InvalidConfig, "bind the host's /sys", &path, errno, "plain directory"),
                );
                c.delete().unwrap();
            }
        }
    }
    // What an image has in its /dev is under the container's own.
    let patch = Patch::new();
    patch.file("dev/null", 0o666, "prepared");
    patch.link("dev/pts", "/etc");
    patch.link("dev/shm", "../../../../etc");
    patch.link("dev/zero", "/proc/kcore");
    for privileged in [false, true] {
        let c = patch.container("x");
        let c = rig.run(if privileged { c.privileged() } else { c });
        assert_eq!(sh(&c, "cat /dev/null; head -c 2 /dev/zero | xxd -p").1, "0000");
        end(c);
    }
    drop(patch);
    rig.end();
}

#[test]
fn mount_targets_that_lead_elsewhere() {
    let Some(rig) = Rig::new() else { return };
    let patch = Patch::new();
    patch.link("up", "../../../../../etc");
    patch.link("abs", "/var");
    patch.link("to-proc", "/proc/sys");
    patch.link("to-sys", "../../sys/kernel");
    patch.link("magic", "/proc/self/root");
    patch.link("dangling", "/nowhere");
    patch.link("loop", "loop");
    patch.file("data/file", 0o644, "data");
    let data = patch.path("data");
    let step = "attach mount";
    let refuse = |target: &str, kind, errno, hint: &str| {
        let expected = says(kind, step, target, errno, hint);
        rig.refuses(&|| patch.container("x").args(["true"]).mount(Mount::bind(&data, target)), &expected);
        rig.refuses(&|| patch.container("x").args(["true"]).mount(Mount::tmpfs(target)), &expected);
    };
    let choose = "choose a target outside of /proc and /sys";
    refuse("/to-proc", InvalidConfig, libc::EXDEV, choose);
    refuse("/to-proc/kernel", InvalidConfig, libc::EXDEV, choose);
    refuse("/to-sys", InvalidConfig, libc::EXDEV, choose);
    refuse("/abs/../to-proc".replace("/abs/..", "").as_str(), InvalidConfig, libc::EXDEV, choose);
    refuse("/magic/etc", InvalidConfig, libc::ELOOP, "link");
    refuse("/loop", InvalidConfig, libc::ELOOP, "link");
    refuse("/dangling", InvalidConfig, libc::ENOENT, "link");
    refuse("/dangling/deeper", InvalidConfig, libc::ENOENT, "link");
    refuse("/etc/passwd/x", InvalidConfig, libc::ENOTDIR, "");
    refuse("/etc/passwd", InvalidConfig, libc::EINVAL, "of the kind that the source has");
    let file = patch.path("data/file");
    let over_dir = says(InvalidConfig, step, "/etc", libc::EINVAL, "of the kind");
    rig.refuses(&|| patch.container("x").args(["true"]).mount(Mount::bind(&file, "/etc")), &over_dir);
    let none = says(NotFound, "open the source of a mount", "/none", libc::ENOENT, "must exist");
    rig.refuses(&|| patch.container("x").args(["true"]).mount(Mount::bind("/none", "/mnt")), &none);

    // Those that stay inside work, and inside.
    for (target, inside) in [("/up/new", "/etc/new"), ("/up", "/etc"), ("/abs/lib/x", "/var/lib/x")] {
        let c = rig.run(patch.container("x").mount(Mount::bind(&data, target)));
        assert_eq!(sh(&c, &format!("cat {inside}/file")), (0, "data".to_owned()), "{target}");
        end(c);
    }
    assert!(!Path::new("/etc/new").exists() && !Path::new("/var/lib/x").exists());
    // The same as root of the host, who could make them there.
    for (target, inside) in [("/up/stockade-new", "/etc/stockade-new"), ("/up/a/b", "/etc/a/b")] {
        let c = rig.run(patch.container("x").privileged().mount(Mount::bind(&data, target)));
        assert!(!Path::new(inside).exists() && !Path::new("/etc/a").exists(), "{inside} is on the host");
        assert_eq!(sh(&c, &format!("cat {inside}/file")), (0, "data".to_owned()), "{target}");
        end(c);
    }
    let c = rig.run(patch.container("x").privileged().masked_paths(["/up/passwd"]).readonly_paths(["/up"]));
    assert_eq!(sh(&c, "cat /etc/passwd"), (0, String::new()));
    assert!(sh(&c, "touch /etc/x").1.contains("Read-only file system"));
    end(c);

    for bad in
        ["mnt", "/mnt/../proc", "/", "/proc", "/proc/sys", "/sys/kernel", "/proc/./sys/", "/proc//self/fd"]
    {
        let e = busybox("x").mount(Mount::tmpfs(bad)).build().unwrap_err();
        assert!(e.kind() == InvalidConfig && e.to_string().contains("mounts[0].target"), "{bad}: {e}");
    }
    drop(patch);
    rig.end();
}

#[test]
fn generated_files_over_links() {
    let Some(rig) = Rig::new() else { return };
    let patch = Patch::new();
    patch.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");
    patch.link("etc/hosts", "/proc/version");
    patch.link("etc/hostname", "../../../../../../var/name");
    patch.file("var/name", 0o644, "image's");
    let stub = || patch.container("x").args(["true"]).resolv_conf("nameserver ::1");
    let step = "attach a generated file";
    rig.refuses(&stub, &says(InvalidConfig, step, "/etc/resolv.conf", libc::ENOENT, "link"));
    let hosts = || patch.container("x").args(["true"]).hosts("::1 x");
    rig.refuses(&hosts, &says(InvalidConfig, step, "/etc/hosts", libc::EXDEV, "choose a target"));
    let c = rig.run(patch.container("x").hostname_file("ours"));
    assert_eq!(sh(&c, "cat /etc/hostname /var/name").1, "oursours");
    end(c);
    drop(patch);
    rig.end();
}

#[test]
fn a_read_only_root_without_places_to_mount() {
    if !with_own_mounts("a_read_only_root_without_places_to_mount") {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let patch = Patch::new();
    let root = patch.path("root");
    fs::create_dir(&root).unwrap();
    let copied =
        Command::new("cp").arg("-a").arg(support::fixture("busybox").unwrap()).arg(&root).status().unwrap();
    assert!(copied.success());
    mount(&["--bind", root.to_str().unwrap()], &root);
    mount(&["-o", "remount,bind,ro"], &root);
    let root = root.join("busybox");
    let fixed = || ContainerConfig::builder("x").rootfs(Rootfs::dir(&root)).args(["sleep", "1000"]);
    let c = rig.run(fixed());
    assert!(sh(&c, "touch /x").1.contains("Read-only file system"));
    end(c);
    mount(&["-o", "remount,bind,rw"], root.parent().unwrap());
    for (place, step) in [("proc", "mount proc"), ("dev", "mount /dev"), ("sys", "mount sysfs")] {
        fs::remove_dir(root.join(place)).unwrap();
        mount(&["-o", "remount,bind,ro"], root.parent().unwrap());
        let path = format!("/{place}");
        let expected =
            says(ErrorKind::Kernel, step, &path, libc::EROFS, "missing in a read-only root file system");
        rig.refuses(&fixed, &expected);
        mount(&["-o", "remount,bind,rw"], root.parent().unwrap());
        // A writable root gets what it lacks.
        let c = rig.run(fixed());
        assert_eq!(sh(&c, "[ -e /proc/self ] && [ -c /dev/null ] && [ -d /sys/class ]").0, 0);
        end(c);
    }
    assert!(Command::new("umount").arg(root.parent().unwrap()).status().unwrap().success());
    drop(patch);
    rig.end();
}

//! `mount`, and device programs.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use stockade::cgroup::DevicePolicy;
use stockade::container::{CgroupConfig, Container, Mount};
use stockade::seccomp::{Interception, MountInterception};

use super::calls::debian;
use super::loop_device::LoopDevice;
use super::rig::{Rig, busybox, end, sh};
use super::{fails, inside, works};

/// An ext4 on a loop device, with files of root and of user 7, a set-id program, and a node of the host's disk.
fn ext4() -> Result<LoopDevice, String> {
    let device = LoopDevice::new()?;
    let script = "mkfs.ext4 -q \"$1\" && dir=$(mktemp -d) && mount \"$1\" $dir && echo text > $dir/file \
        && touch $dir/seven && chown 7:7 $dir/seven && mknod $dir/disk b 7 0 && chmod 666 $dir/disk; umount $dir; rmdir $dir";
    let made = Command::new("unshare").args(["-m", "sh", "-ec", script, "sh"]).arg(device.node()).output();
    let made = made.map_err(|e| e.to_string())?;
    if !made.status.success() {
        return Err(format!("needs mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr)));
    }
    Ok(device)
}

fn with_device(rig: &Rig, name: &str, device: &Path, mount: Option<MountInterception>) -> Arc<Container> {
    let mut config = busybox(name).devices(DevicePolicy::standard());
    config = config.mount(Mount::bind(device, "/dev/image").dev());
    rig.run(match mount {
        Some(mount) => config.intercept(Interception::new().mount(mount)),
        None => config,
    })
}

#[test]
fn an_ext4_of_a_loop_device_is_mounted() {
    let Some(rig) = Rig::new() else { return };
    let device = match ext4() {
        Ok(device) => device,
        Err(why) => {
            support::skip(why);
            return rig.end();
        }
    };
    // Only who may open the device may mount it.
    std::os::unix::fs::chown(device.node(), Some(0), Some(0)).unwrap();
    let before = std::fs::metadata(device.node()).unwrap().permissions();
    let open = |mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(device.node(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(0o666);
    let ext4 = || MountInterception::new().allow("ext4");
    let c = with_device(&rig, "shifted", device.node(), Some(ext4().shifted()));
    works(&c, "mkdir /m; mount -t ext4 /dev/image /m");
    assert_eq!(works(&c, "stat -c '%u:%g' /m/file /m/seven; cat /m/file"), "0:0\n7:7\ntext");
    let line = works(&c, "grep ' /m ' /proc/mounts");
    assert!(line.contains(" ext4 ") && line.contains("nodev"), "{line}");
    works(&c, "echo more > /m/new; test $(stat -c %u /m/new) = 0; sync");
    // A node in it opens nowhere, also when root of the container takes `nodev` away.
    fails(&c, "dd if=/m/disk of=/dev/null count=1");
    let (_, text) = sh(&c, "mount -o remount,dev,bind /m; dd if=/m/disk of=/dev/null count=1");
    assert!(text.contains("Operation not permitted") || text.contains("Permission denied"), "{text}");
    works(&c, "umount /m; mount -t ext4 -o ro,noload,nosuid /dev/image /m; test -e /m/new");
    fails(&c, "touch /m/other");
    works(
        &c,
        "umount /m; cd /; mkdir -p deep; cd deep; mkdir m; mount -t ext4 ../dev/image m; test -e /deep/m/file; umount m",
    );
    // What is not on the list, or is no such file system, or no device.
    for other in [
        "-t ext2 /dev/image /m",
        "-t vfat /dev/image /m",
        "-t ext4 /file /m",
        "-t ext4 /dev/null /m",
        "-t ext4 none /m",
    ] {
        works(&c, "echo > /file");
        let text = fails(&c, &format!("mount {other}"));
        assert!(
            ["not permitted", "ermission denied", "lock device"].iter().any(|why| text.contains(why)),
            "{other}: {text}"
        );
    }
    fails(&c, "mount -t ext4 -o source=/dev/image none /m");
    // Mounts that need no help go on working.
    works(
        &c,
        "mount -t tmpfs t /m; umount /m; mount -t proc p /m; umount /m; mount --bind /bin /m; umount /m",
    );
    open(0o600);
    fails(&c, "mount -t ext4 /dev/image /m");
    open(0o666);
    end(c);

    let c = with_device(&rig, "plain", device.node(), Some(ext4()));
    works(&c, "mkdir /m; mount -t ext4 /dev/image /m");
    assert_eq!(works(&c, "stat -c '%u' /m/file"), "65534", "the host's root is nobody");
    works(&c, "umount /m");
    end(c);
    let c = with_device(&rig, "off", device.node(), None);
    assert!(fails(&c, "mkdir -p /m; mount -t ext4 /dev/image /m").contains("ermi"));
    end(c);
    std::fs::set_permissions(device.node(), before).unwrap();
    drop(device);
    rig.end();
}

#[test]
fn a_file_system_without_a_device() {
    let Some(rig) = Rig::new() else { return };
    let mount = MountInterception::new().allow("hugetlbfs");
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    if !known.contains("\thugetlbfs") {
        support::skip("this kernel has no hugetlbfs");
        return rig.end();
    }
    let config = busybox("huge").devices(DevicePolicy::standard());
    let c = rig.run(config.intercept(Interception::new().mount(mount)));
    works(&c, "mkdir /h; mount -t hugetlbfs -o mode=700,uid=7 none /h");
    assert_eq!(works(&c, "stat -c '%u:%g %a' /h"), "7:0 700");
    assert!(works(&c, "grep ' /h ' /proc/mounts").contains("nodev"));
    fails(&c, "mount -t hugetlbfs -o uid=70000 none /h");
    end(c);
    rig.end();
}

#[test]
fn device_programs_of_the_containers_own() {
    let Some(rig) = Rig::new() else { return };
    let work = tempfile::tempdir().unwrap();
    let run = |name: &str, what: Interception| {
        let config = debian(work.path(), name)?.cgroup(CgroupConfig::Delegated).readonly_paths(["/proc/sys"]);
        let c = rig.run(config.intercept(what));
        let said = inside::run(&c, "bpf");
        end(c);
        said
    };
    if let Some(said) = run("with", Interception::new().bpf_devices()) {
        assert_eq!(said[..3], ["loaded", "EPERM EPERM", "1"], "{said:?}");
        if said[3] == "no cgroup" {
            support::skip("no delegated cgroup to put a program on");
        } else {
            assert_eq!(said[3], "0 0 ENOENT EBADF", "{said:?}");
        }
    }
    if let Some(said) = run("without", Interception::new().sysinfo()) {
        assert_eq!(said[0], "EPERM", "{said:?}");
    }
    drop(work);
    rig.end();
}

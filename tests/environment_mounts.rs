//! The mounts inside: the usual ones, the caller's own, read-only and masked paths, generated files.

mod rig;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rig::{Rig, busybox, end, sh};
use stockade::container::{Container, Mount, MountSet, Propagation};
use stockade::instance::{ExecOptions, Stdio};

fn output(c: &Container, options: ExecOptions) -> String {
    let out = c.exec(options.stdout(Stdio::Piped).stderr(Stdio::Piped)).unwrap().output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Mount points with type and flags, from a mountinfo file.
fn mounts(text: &str) -> BTreeMap<String, (String, String)> {
    text.lines()
        .map(|line| {
            let (place, kind) = line.split_once(" - ").unwrap();
            let place: Vec<&str> = place.split(' ').collect();
            (place[4].to_owned(), (kind.split(' ').next().unwrap().to_owned(), place[5].to_owned()))
        })
        .collect()
}

#[test]
fn the_mounts_are_the_standard_ones_and_nothing_of_the_host() {
    let Some(rig) = Rig::new() else { return };
    for privileged in [false, true] {
        let config = if privileged { busybox("m").privileged() } else { busybox("m") };
        let c = rig.run(config);
        let text = sh(&c, "cat /proc/self/mountinfo").1;
        let found = mounts(&text);
        let mut expected = vec![
            ("/", "overlay", "rw nodev"),
            ("/proc", "proc", "rw nosuid nodev noexec"),
            ("/dev", "tmpfs", "rw nosuid"),
            ("/dev/pts", "devpts", "rw nosuid noexec"),
            ("/dev/shm", "tmpfs", "rw nosuid nodev noexec"),
            ("/dev/mqueue", "mqueue", "rw nosuid nodev noexec"),
            ("/sys", "sysfs", "ro nosuid nodev noexec"),
            ("/sys/fs/cgroup", "cgroup2", "ro nosuid nodev noexec"),
        ];
        for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
            if Path::new(path).exists() {
                expected.push((path, "proc", "ro nosuid nodev noexec"));
            }
        }
        let masked = c.config().masked_paths().to_vec();
        let devices: &[&str] =
            if privileged { &[] } else { &["null", "zero", "full", "random", "urandom", "tty"] };
        for (at, kind, flags) in &expected {
            let (is, has) = found.get(*at).unwrap_or_else(|| panic!("no {at} in {text}"));
            assert_eq!(is, kind, "{at}");
            for flag in flags.split(' ') {
                assert!(has.split(',').any(|f| f == flag), "{at}: {has} has no {flag}");
            }
        }
        for at in found.keys() {
            let known = expected.iter().any(|(e, ..)| e == at)
                || masked.iter().any(|m| m == Path::new(at))
                || devices.iter().any(|d| format!("/dev/{d}") == *at);
            assert!(known, "{at} is mounted: {text}");
        }
        for device in devices {
            assert!(found.contains_key(&format!("/dev/{device}")), "{device}: {text}");
        }
        // One mount on each place, and a root that nothing lies under.
        assert_eq!(text.lines().count(), found.len(), "{text}");
        assert_eq!(sh(&c, "ls -id / /.. /../../..").1.lines().collect::<Vec<_>>().len(), 3);
        assert_eq!(sh(&c, "cd /; cd ..; cd ../..; pwd; stat -c %i / /..; ls ..").0, 0);
        let (_, inodes) = sh(&c, "stat -c %d:%i / /.. /../../..");
        assert!(inodes.lines().all(|l| Some(l) == inodes.lines().next()), "{inodes}");

        for path in &masked {
            let path = path.display();
            let (code, seen) = sh(&c, &format!("[ -e {path} ] || exit 0; cat {path} || ls -A {path}"));
            let seen = seen.replace("cat: read error: Is a directory", "");
            assert_eq!((code, seen.trim()), (0, ""), "{path}");
        }
        for path in ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run"] {
            let (code, said) = sh(&c, &format!("[ -e {path} ] || exit 9; echo 0 > {path}"));
            assert!(code == 9 || said.contains("Read-only file system"), "{path}: {said}");
        }
        assert_ne!(sh(&c, "mkdir /sys/fs/cgroup/x").0, 0);
        end(c);
    }
    rig.end();
}

#[test]
fn own_mounts_have_their_flags_owners_and_sizes() {
    let Some(rig) = Rig::new() else { return };
    let data = tempfile::tempdir_in(rig.dirs.state().parent().unwrap()).unwrap();
    let path = |name: &str| data.path().join(name);
    for dir in ["rw", "ro", "mapped"] {
        std::fs::create_dir(path(dir)).unwrap();
        std::fs::set_permissions(path(dir), std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(path("file"), "one file").unwrap();
    std::fs::write(path("mapped/by-root"), "").unwrap();
    std::fs::write(path("rw/by-root"), "").unwrap();
    let c = rig.run(
        busybox("m")
            .mount(Mount::bind(path("rw"), "/new/deep/rw"))
            .mount(Mount::bind(path("ro"), "/mnt").read_only())
            .mount(Mount::bind(path("mapped"), "/mapped").idmapped())
            .mount(Mount::bind(path("file"), "/etc/one").read_only())
            .mount(Mount::tmpfs("/scratch").size(1 << 20).mode(0o1750).noexec()),
    );
    assert_eq!(sh(&c, "stat -c '%u:%g' /new/deep/rw/by-root /mapped/by-root").1, "65534:65534\n0:0");
    assert_eq!(sh(&c, "echo in > /new/deep/rw/in; echo in > /mapped/in").0, 0);
    let (code, said) = sh(&c, "echo in > /mnt/in");
    assert!(code != 0 && said.contains("Read-only file system"), "{said}");
    assert_eq!(sh(&c, "cat /etc/one").1, "one file");
    assert!(sh(&c, "echo x > /etc/one").1.contains("Read-only file system"));
    assert_eq!(
        sh(&c, "stat -c '%a %u' /scratch; df -k /scratch | tail -1 | awk '{print $2}'").1,
        "1750 0\n1024"
    );
    let (code, said) = sh(&c, "dd if=/dev/zero of=/scratch/big bs=64k count=32");
    assert!(code != 0 && said.contains("No space left"), "{said}");
    assert_eq!(sh(&c, "rm /scratch/big; cp /bin/busybox /scratch/true; /scratch/true").0, 126);
    // nosuid and nodev unless told otherwise.
    let found = sh(&c, "cat /proc/self/mountinfo").1;
    for at in ["/new/deep/rw", "/mnt", "/mapped", "/etc/one", "/scratch"] {
        let flags = &mounts(&found)[at].1;
        assert!(flags.contains("nosuid") && flags.contains("nodev"), "{at}: {flags}");
    }
    let owner = |name: &str| std::fs::metadata(path(name)).unwrap().uid();
    let root = c.info().unwrap().id_map.unwrap().host_root().unwrap().0.as_raw();
    assert_eq!((owner("mapped/in"), owner("rw/in")), (0, root));
    end(c);
    drop(data);
    rig.end();
}

#[test]
fn read_only_root_generated_files_and_kernel_parameters() {
    let Some(rig) = Rig::new() else { return };
    for privileged in [false, true] {
        let config = busybox("m")
            .read_only_root()
            .resolv_conf("nameserver 192.0.2.1\n")
            .hosts("192.0.2.2 other\n")
            .hostname_file("named\n")
            .sysctl("net.ipv4.ip_forward", "1")
            .sysctl("kernel.msgmax", "4096")
            .mount(Mount::tmpfs("/run"));
        let c = rig.run(if privileged { config.privileged() } else { config });
        let (code, said) = sh(&c, "touch /x");
        assert!(code != 0 && said.contains("Read-only file system"), "{said}");
        assert_eq!(sh(&c, "touch /run/x /dev/shm/x && echo y").1, "y");
        assert_eq!(
            sh(&c, "cat /etc/resolv.conf /etc/hosts /etc/hostname").1,
            "nameserver 192.0.2.1\n192.0.2.2 other\nnamed"
        );
        assert_ne!(sh(&c, "echo x >> /etc/resolv.conf").0, 0, "generated files are read-only");
        assert_eq!(sh(&c, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax").1, "1\n4096");
        end(c);
        // The shared layer is as it was.
        let root = support::fixture("busybox").unwrap();
        assert!(!root.join("etc/resolv.conf").exists());
    }
    rig.end();
}

#[test]
fn propagation_of_the_root_is_as_configured() {
    let Some(rig) = Rig::new() else { return };
    for (propagation, expected) in [
        (Propagation::Private, ""),
        (Propagation::Slave, ""),
        (Propagation::Shared, "shared:"),
        (Propagation::Unbindable, "unbindable"),
    ] {
        let c = rig.run(busybox("p").propagation(propagation));
        let text = sh(&c, "cat /proc/self/mountinfo").1;
        let root = text.lines().find(|l| l.split(' ').nth(4) == Some("/")).unwrap();
        let tags = root.split_once(" - ").unwrap().0.split(' ').skip(6).collect::<Vec<_>>().join(" ");
        assert!(
            if expected.is_empty() { tags.is_empty() } else { tags.starts_with(expected) },
            "{propagation:?}: {root}"
        );
        end(c);
    }
    rig.end();
}

#[test]
fn without_base_mounts_there_is_the_root_alone() {
    let Some(rig) = Rig::new() else { return };
    let bare = |name: &str| busybox(name).base_mounts(MountSet::None);
    // Null streams and masks work without a /dev of its own.
    let c = rig.run(bare("c").masked_paths(["/etc/passwd", "/home"]));
    let seen = output(&c, ExecOptions::new(["sh", "-c", "ls /proc /dev /sys; read x; echo end"]));
    assert_eq!(seen, "/dev:\n\n/proc:\n\n/sys:\nend\n");
    assert_eq!(output(&c, ExecOptions::new(["sh", "-c", "read x; echo $?"])), "1\n");
    let hidden = output(&c, ExecOptions::new(["sh", "-c", "cat /etc/passwd; ls -A /home; echo end"]));
    assert_eq!(hidden, "end\n");
    let write = ExecOptions::new(["sh", "-c", "echo x > /etc/passwd"]);
    assert!(output(&c, write).contains("Read-only file system"));
    end(c);
    rig.end();
}

#[test]
fn masks_are_not_made_from_what_a_mount_has_as_null_device() {
    let Some(rig) = Rig::new() else { return };
    let dev = tempfile::tempdir_in(rig.dirs.state().parent().unwrap()).unwrap();
    std::fs::set_permissions(dev.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("/etc/group", dev.path().join("null")).unwrap();
    for target in ["/dev", "/dev/null"] {
        let source = if target == "/dev" { dev.path().to_owned() } else { "/etc/os-release".into() };
        let c =
            rig.run(busybox("m").mount(Mount::bind(source, target)).masked_paths(["/etc/passwd", "/home"]));
        assert_eq!(sh(&c, "cat /etc/passwd; ls -A /home"), (0, String::new()), "{target}");
        assert_ne!(sh(&c, "cat /dev/null").1, "", "the mount is there");
        end(c);
    }
    // Masks in procfs and sysfs are made from there, and leave both in their places.
    for privileged in [false, true] {
        let config = busybox("m").mount(Mount::bind("/dev/null", "/dev/image").dev());
        let c = rig.run(if privileged {
            config.privileged().masked_paths(PATHS)
        } else {
            config.masked_paths(PATHS)
        });
        let text = sh(&c, "cat /proc/self/mountinfo").1;
        let found = mounts(&text);
        assert_eq!((found["/proc"].0.as_str(), found["/sys"].0.as_str()), ("proc", "sysfs"), "{text}");
        assert_eq!(text.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count(), 1, "{text}");
        assert_eq!(
            sh(
                &c,
                "cat /proc/timer_list /proc/keys /sys/kernel/uevent_seqnum; ls -A /proc/tty; ls -A /proc/irq"
            )
            .1,
            ""
        );
        end(c);
    }
    drop(dev);
    rig.end();
}

/// Files and directories, in both.
const PATHS: [&str; 5] =
    ["/proc/timer_list", "/proc/keys", "/proc/tty", "/sys/kernel/uevent_seqnum", "/proc/irq"];

#[test]
fn every_masked_path_is_hidden_whatever_the_others_are() {
    let Some(rig) = Rig::new() else { return };
    let odd = OsStr::from_bytes(b"/srv/\xff\xfe");
    for privileged in [false, true] {
        // A path below a masked one, a parent of a masked one, a link, no UTF-8.
        let paths = ["/var/log", "/var", "/var/log/x", "/home", "/etc/group", "/etc/hosts", "/none"];
        let paths = paths.map(OsStr::new).into_iter().chain([odd]);
        let config = busybox("m")
            .masked_paths(paths)
            .readonly_paths(["/none/x", "/etc", "/usr"])
            .mount(Mount::tmpfs(odd))
            .mount(Mount::tmpfs("/home").mode(0o700));
        let c = rig.run(if privileged { config.privileged() } else { config });
        assert_eq!(sh(&c, "cat /etc/group /etc/hosts; ls -A /var /home").1, "/home:\n\n/var:");
        let (code, said) = sh(&c, "touch /home/x");
        assert!(code != 0 && said.contains("Read-only file system"), "{said}");
        assert!(sh(&c, "touch /etc/x").1.contains("Read-only file system"));
        let (code, said) = sh(&c, "for d in /srv/*; do touch $d/x; done");
        assert!(code != 0 && said.contains("Read-only file system"), "{said}");
        end(c);
    }
    rig.end();
}

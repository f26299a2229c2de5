//! An ordinary user's containers with the ids that `/etc/subuid` and `/etc/subgid` give him, written by newuidmap and
//! newgidmap; and what is left where these, or the ids, or user namespaces, are missing.
//!
//! As root each test executes itself again as a user that nobody is, in a mount namespace where the files in `/etc` are
//! copies that know him.

#[path = "../again/mod.rs"]
mod again;
mod cgroup;
mod one_id;
mod rig;

use std::fs;
use std::os::unix::fs::MetadataExt;

use rig::*;
use stockade::container::IdMapConfig;
use stockade::idmap::{IdMap, IdRange};
use stockade::instance::ExecOptions;
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::process::User;
use stockade::{ErrorKind, Rootfs};

#[test]
fn many_ids_of_the_users() {
    as_user("many_ids_of_the_users", WITH_RANGES, |rig| {
        let c = rig.run(rig.dir("x"));
        assert_eq!(c.info().unwrap().id_map, Some(whole_map()));
        assert_eq!(
            sh(&c, "awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map"),
            format!("0 {UID} 1\n1 {FIRST} {COUNT}\n0 {UID} 1\n1 {FIRST} {COUNT}")
        );
        assert_eq!(
            sh(&c, "cat /proc/self/setgroups; id -u; id -G; stat -c %u:%g /etc/passwd"),
            "allow\n0\n0\n0:0"
        );
        // Files of others, on disk with the ids that stand behind them.
        sh(&c, "echo x > /f; chown 1000:100 /f; mkdir /d; chown 65534:65534 /d");
        let on_disk = |name: &str| {
            let meta = fs::metadata(rig.dir.join("root").join(name)).unwrap();
            (meta.uid(), meta.gid())
        };
        assert_eq!(on_disk("f"), (FIRST + 999, FIRST + 99));
        assert_eq!(on_disk("d"), (FIRST + 65_533, FIRST + 65_533));
        let mut ann = User::new(1000, 1000);
        ann.groups = vec!["100".parse().unwrap()];
        assert_eq!(
            sh_as(&c, ann, "id -u; id -G; cat /f; echo y >> /etc/passwd"),
            "1000\n1000 100\nx\nsh: can't create /etc/passwd: Permission denied"
        );
        // Terminals belong to the group that login(1) gives them to.
        assert_eq!(sh(&c, "grep -m 1 -o 'gid=5' /proc/mounts; stat -c %a /dev/pts/ptmx"), "gid=5\n666");
        // All rights inside, and none outside.
        assert_eq!(sh(&c, "mount -t tmpfs none /mnt && touch /mnt/x && ls /mnt && umount /mnt"), "x");
        assert!(sh(&c, "mknod /n c 1 3").contains("not permitted"));
        assert!(sh(&c, "chown 200000 /f").contains("Invalid argument"));
        assert!(sh(&c, "echo 1 > /proc/sys/kernel/panic").contains("Read-only file system"));
        sh(&c, "rm -r /f /d");
        // As another user from the beginning.
        let d = rig.run(rig.dir("y").user(User::new(7, 8)).oom_score_adj(500));
        assert_eq!(sh(&d, "stat -c %u:%g /proc/1; cat /proc/1/oom_score_adj"), "7:8\n500");
        d.kill(stockade::Signal::KILL).unwrap();
        d.wait().unwrap();
        d.delete().unwrap();
        end(c);
        let e = rig.refuses(rig.dir("x").oom_score_adj(-500));
        assert!(e.to_string().contains("CAP_SYS_RESOURCE"), "{e}");
    });
}

#[test]
fn a_pool_takes_no_map_that_the_programs_write() {
    as_user("a_pool_takes_no_map_that_the_programs_write", WITH_RANGES, |rig| {
        let template = rig.dir("template").read_only_root().build().unwrap();
        let e = rig.runtime.prewarm(template.clone(), 2).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        let text = format!("{e} {e:?}");
        assert!(text.contains("newuidmap(1)") && text.contains("IdMapConfig::SingleUser"), "{text}");
        assert_eq!(rig.runtime.prewarmed(&template), 0);
        // A container of that configuration starts as it did, and one of a map that needs no programs has a pool.
        end(rig.run(rig.dir("x").read_only_root()));
        let of_one = |name: &str| rig.dir(name).read_only_root().idmap(IdMapConfig::SingleUser);
        let template = of_one("template").build().unwrap();
        rig.runtime.prewarm(template.clone(), 1).unwrap();
        assert_eq!(rig.runtime.prewarmed(&template), 1);
        let c = rig.run(of_one("y"));
        assert_eq!(c.info().unwrap().id_map, Some(single()));
        end(c);
        // Nor network namespaces, which only root makes.
        let e = rig.runtime.prewarm_networks(1).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}");
    });
}

#[test]
fn the_programs_run_once_for_each_map() {
    as_user("the_programs_run_once_for_each_map", WITH_RANGES, |rig| {
        let (a, b) = (rig.run(rig.dir("a")), rig.run(rig.dir("b")));
        let first = id_of_users(&a);
        assert_eq!(id_of_users(&b), first);
        a.stop().unwrap();
        a.start().unwrap();
        assert_eq!(id_of_users(&a), first);
        // All else they have to themselves.
        for kind in ["net", "pid", "mnt", "ipc", "uts", "cgroup"] {
            let link = format!("readlink /proc/self/ns/{kind}");
            assert_ne!(sh(&a, &link), sh(&b, &link));
        }
        // Another runtime has one of its own, and finds those of this one.
        let second = open(&rig.dir);
        let found = second.container(&"b".parse().unwrap()).unwrap();
        assert_eq!((id_of_users(&found), found.info().unwrap().id_map), (first, Some(whole_map())));
        // Its handle ends it as well.
        drop(found);
        b.wait().unwrap();
        b.delete().unwrap();
        end(a);
        let c = second.create(rig.dir("c").build().unwrap()).unwrap();
        c.start().unwrap();
        assert_ne!(id_of_users(&c), first);
        end(c);
        // A map of its own is another namespace.
        let own = IdMap::new(
            vec![IdRange::new(0, UID, 1)],
            vec![IdRange::new(0, UID, 1), IdRange::new(5, FIRST, 1)],
        );
        let d = rig.run(rig.dir("d").idmap(own.unwrap()));
        assert_ne!(id_of_users(&d), first);
        assert_eq!(sh(&d, "wc -l < /proc/self/uid_map; wc -l < /proc/self/gid_map"), "1\n2");
        end(d);
    });
}

#[test]
fn changes_of_many_ids_go_with_the_container() {
    as_user("changes_of_many_ids_go_with_the_container", WITH_RANGES, |rig| {
        for ephemeral in [false, true] {
            let config = rig.container("x", Rootfs::overlay([rig.dir.join("root")]));
            let config = if ephemeral { config.ephemeral() } else { config };
            let c = rig.run(config);
            let script =
                "mkdir -p /d/e && touch /d/e/f && chown -R 1000:1000 /d && chmod 700 /d/e && chmod 0 /d/e/f
                chown 5 /etc && touch /etc/x && chmod 500 /d && id -u";
            assert_eq!(sh(&c, script), "0");
            c.stop().unwrap();
            if !ephemeral {
                c.start().unwrap();
                assert_eq!(sh(&c, "stat -c %u /d/e/f /etc"), "1000\n5");
                end(c);
            }
            assert!(!rig.dir.join("state/instances/default/x").exists());
            assert!(!rig.dir.join("run/instances/default/x").exists());
        }
    });
}

#[test]
fn a_distribution_of_the_users() {
    let around = Around { debian: true, ..WITH_RANGES };
    as_user("a_distribution_of_the_users", around, |rig| {
        let layers = Rootfs::overlay([rig.dir.join("debian")]);
        for (n, rootfs) in
            [layers.into(), Rootfs::from(Rootfs::dir(rig.dir.join("debian")))].into_iter().enumerate()
        {
            let c = rig.run(rig.container("x", rootfs).env("LC_ALL", "C").hosts("127.0.0.1 localhost x\n"));
            let said = sh(
                &c,
                "useradd -m -u 1500 -G tty ann; echo 'ann ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ann",
            );
            assert_eq!(said, "");
            assert_eq!(sh(&c, "su - ann -c id"), "uid=1500(ann) gid=1500(ann) groups=1500(ann),5(tty)");
            let ann = || User::new(1500, 1500);
            assert_eq!(sh_as(&c, ann(), "sudo -n id -un; sudo -n -u nobody id -un"), "root\nnobody");
            assert!(sh_as(&c, ann(), "cat /etc/shadow").contains("Permission denied"));
            assert_eq!(
                sh(&c, "cp /usr/bin/cat /usr/bin/all && setcap cap_dac_read_search+ep /usr/bin/all"),
                ""
            );
            assert_eq!(sh_as(&c, ann(), "all /etc/shadow | head -c 5"), "root:");
            assert_eq!(
                sh(&c, "dpkg --audit; stat -c %U:%G /home/ann /var/mail /etc/shadow"),
                "ann:ann\nroot:mail\nroot:shadow"
            );
            let changed = ["state/instances/default/x/rootfs/upper", "debian"][n];
            assert_eq!(fs::metadata(rig.dir.join(changed).join("home/ann")).unwrap().uid(), FIRST + 1499);
            end(c);
        }
    });
}

#[test]
fn a_map_without_the_user_himself() {
    as_user("a_map_without_the_user_himself", WITH_RANGES, |rig| {
        let map = IdMap::range(FIRST, 65_536).unwrap();
        let c = rig.run(rig.container("x", Rootfs::dir(rig.dir.join("shifted"))).idmap(map.clone()));
        assert_eq!(sh(&c, "id -u; stat -c %u:%g /etc/passwd; touch /new; stat -c %u /new"), "0\n0:0\n0");
        assert_eq!(fs::metadata(rig.dir.join("shifted/new")).unwrap().uid(), FIRST);
        assert_eq!(c.info().unwrap().id_map, Some(map));
        // The user rules over it all the same.
        c.kill(stockade::Signal::KILL).unwrap();
        c.wait().unwrap();
        c.start().unwrap();
        end(c);
    });
}

#[test]
fn maps_that_are_not_the_users_are_refused() {
    as_user("maps_that_are_not_the_users_are_refused", WITH_RANGES, |rig| {
        for map in [
            IdMap::range(0, 1).unwrap(),
            IdMap::range(100_000, 65_536).unwrap(),
            IdMap::range(FIRST, COUNT + 1).unwrap(),
        ] {
            let e = rig.refuses(rig.dir("x").idmap(map));
            assert_eq!(e.kind(), ErrorKind::PermissionDenied);
            for part in ["newgidmap", "not allowed", "/etc/subgid"] {
                assert!(e.to_string().contains(part), "{e}");
            }
        }
        let users = rig.runtime.user_namespace(&whole_map()).unwrap();
        assert_eq!(users.kind(), NamespaceKind::User);
        let e = rig.runtime.user_namespace(&IdMap::range(0, 5).unwrap()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn they_share_namespaces() {
    as_user("they_share_namespaces", WITH_RANGES, |rig| {
        let join = |name: &str| NamespaceSource::Join(Target::Instance(name.parse().unwrap()));
        let a = rig.run(rig.dir("a"));
        let b = rig.run(
            rig.dir("b").namespace(NamespaceKind::Net, join("a")).namespace(NamespaceKind::Ipc, join("a")),
        );
        assert_eq!(sh(&b, "readlink /proc/self/ns/net"), sh(&a, "readlink /proc/self/ns/net"));
        assert_eq!(
            sh(&b, "cat /proc/self/setgroups; ip link set lo mtu 1400; cat /sys/class/net/lo/mtu"),
            "allow\n1400"
        );
        let c = rig.run(
            rig.dir("c").namespace(NamespaceKind::User, join("a")).namespace(NamespaceKind::Net, join("a")),
        );
        assert_eq!(id_of_users(&c), id_of_users(&a));
        end(c);
        end(b);
        end(a);
    });
}

#[test]
fn a_host_that_ignores_the_end_of_its_children() {
    let become_user = format!("{SETPRIV} env --ignore-signal=CHLD");
    let around = Around { become_user: &become_user, ..WITH_RANGES };
    as_user("a_host_that_ignores_the_end_of_its_children", around, |rig| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:\t")).unwrap();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() >> 16 & 1, 1, "SIGCHLD is not ignored");
        let c = rig.run(rig.container("x", Rootfs::overlay([rig.dir.join("root")])));
        assert_eq!(c.info().unwrap().id_map, Some(whole_map()));
        let script = "mkdir /d && touch /d/f && chown -R 9:9 /d";
        c.exec(ExecOptions::new(["sh", "-c", script])).unwrap().wait().unwrap();
        end(c);
        let e = rig.refuses(rig.dir("x").idmap(IdMap::range(100_000, 9).unwrap()));
        assert!(e.to_string().contains("newgidmap"), "{e}");
    });
}

//! `mknod` and `mknodat`.

use std::sync::Arc;

use stockade::cgroup::DevicePolicy;
use stockade::container::Container;
use stockade::instance::{ExecOptions, Stdio};
use stockade::process::User;
use stockade::seccomp::{Interception, Nodes};

use super::rig::{Rig, busybox, end};
use super::{Root, fails, on_both, works};

/// Path and numbers.
const HARMLESS: [(&str, u32, u32); 7] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("console", 5, 1),
];

#[test]
fn harmless_nodes_are_made_and_work() {
    on_both(&Interception::new().mknod(Nodes::Usable), |c, kind| {
        for (name, major, minor) in HARMLESS {
            works(c, &format!("mkdir -p /made; mknod -m 620 /made/{name} c {major} {minor}"));
            let shown = works(c, &format!("stat -c '%F %t:%T %a %u:%g' /made/{name}"));
            assert_eq!(shown, format!("character special file {major:x}:{minor:x} 620 0:0"), "{kind} {name}");
        }
        works(c, "echo lost > /made/null; chown 7:8 /made/null; touch -d @1 /made/null");
        assert_eq!(works(c, "stat -c '%u:%g %Y' /made/null"), "7:8 1");
        assert_eq!(works(c, "dd if=/made/zero bs=3 count=1 2>/dev/null | od -An -tx1").trim(), "00 00 00");
        assert!(fails(c, "echo x > /made/full").contains("No space left"), "{kind}");
        assert_eq!(works(c, "dd if=/made/urandom bs=4 count=1 2>/dev/null | wc -c"), "4");
        // On a tmpfs of the container's own.
        works(c, "mkdir -p /t; mount -t tmpfs t /t; mknod /t/null c 1 3; echo lost > /t/null");
        eprintln!("{kind}: {} nodes", HARMLESS.len());
    });
}

#[test]
fn everything_else_is_refused_as_by_the_kernel() {
    let refused = [
        "b 7 0", "b 8 0", "c 1 1", "c 1 2", "c 1 4", "c 1 11", "c 5 2", "c 10 200", "c 10 229", "c 4 64",
        "c 136 0", "c 257 3",
    ];
    on_both(&Interception::new().mknod(Nodes::Usable), |c, kind| {
        for numbers in refused {
            let text = fails(c, &format!("mknod /node {numbers}"));
            assert!(text.contains("Operation not permitted"), "{kind} {numbers}: {text}");
            fails(c, "test -e /node");
        }
        // Where the kernel has other reasons, they are the same ones.
        for (path, why) in [
            ("/no/such/null", "No such file"),
            ("/bin/sh/null", "Not a directory"),
            ("/bin", "File exists"),
            ("/proc/null", "Operation not permitted|No such file|Permission denied"),
            ("/sys/null", "Operation not permitted|Read-only|Permission denied"),
        ] {
            let text = fails(c, &format!("mknod {path} c 1 3"));
            assert!(why.split('|').any(|why| text.contains(why)), "{kind} {path}: {text}");
        }
        // What needs no help.
        works(c, "mknod /pipe p; mkfifo /pipe2; mkdir /t; mount -t tmpfs t /t; mknod /t/whiteout c 0 0");
        assert_eq!(works(c, "stat -c '%t:%T' /t/whiteout"), "0:0");
        // An overlay has whiteouts of its own, and takes none from anybody.
        let (code, text) = super::sh(c, "mknod /whiteout c 0 0");
        assert_eq!(code == 0, kind == "directory", "{text}");
        eprintln!("{kind}: {} nodes refused", refused.len());
    });
}

#[test]
fn switched_off_it_fails_as_on_a_plain_kernel() {
    on_both(&Interception::new().sysinfo(), |c, kind| {
        assert!(fails(c, "mknod /null c 1 3").contains("Operation not permitted"), "{kind}");
    });
}

#[test]
fn a_plain_node_is_there_and_does_not_open() {
    let Some(rig) = Rig::new() else { return };
    let plain = Interception::new().mknod(Nodes::Plain);
    let root = Root::new();
    let c = rig.run(root.container("plain").intercept(plain.clone()));
    works(&c, "mknod /null c 1 3");
    assert_eq!(works(&c, "stat -c '%F %t:%T' /null"), "character special file 1:3");
    assert!(fails(&c, "echo > /null").contains("Permission denied"), "the root is nodev");
    works(&c, "rm /null");
    end(c);
    drop(root);
    // An overlay of a user namespace holds none.
    let c = rig.run(busybox("overlay").intercept(plain));
    assert!(fails(&c, "mknod /null c 1 3").contains("Operation not permitted"));
    end(c);
    rig.end();
}

/// Runs a script as another user, with these supplementary groups.
fn sh_as(c: &Container, user: User, script: &str) -> (i32, String) {
    let options =
        ExecOptions::new(["sh", "-c", &format!("exec 2>&1; {script}")]).user(user).stdout(Stdio::Piped);
    let out = c.exec(options).unwrap().output().unwrap();
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stdout).trim_end().to_owned())
}

#[test]
fn it_is_done_as_the_caller() {
    on_both(&Interception::new().mknod(Nodes::Usable), |c, kind| {
        // Without the capability nobody makes devices, not even in a directory of his own.
        works(c, "mkdir -m 777 /open; mkdir -m 700 /mine; chown 7:7 /mine");
        let (code, text) = sh_as(c, User::new(7, 7), "mknod /mine/null c 1 3");
        assert!(code != 0 && text.contains("Operation not permitted"), "{kind}: {text}");
        // Root of the container may in a directory of another user of the container.
        works(c, "mknod /mine/null c 1 3; echo > /mine/null");
        assert_eq!(works(c, "stat -c %u /mine/null"), "0");
        // Relative paths, links, a mask, another root, and a path through what only root may search.
        works(
            c,
            "cd /mine; mkdir deep; cd deep; umask 077; mknod ../zero c 1 5; ln -s /mine /link; mknod /link/full c 1 7",
        );
        assert_eq!(works(c, "stat -c %a /mine/zero"), "600");
        works(
            c,
            "mkdir -p /jail/dev /jail/bin; cp /bin/busybox /jail/bin/; chroot /jail /bin/busybox mknod /dev/null c 1 3",
        );
        assert_eq!(works(c, "stat -c '%F %t:%T' /jail/dev/null"), "character special file 1:3");
        works(c, "chroot /jail /bin/busybox mknod /../../../up c 1 3; test -e /jail/up; test ! -e /up");
        // Not through links of proc.
        works(c, "sleep 100 & echo $! > /pid");
        fails(c, "mknod /proc/1/root/through c 1 3");
        fails(c, "test -e /through");
        works(c, "kill $(cat /pid)");
        // In a further user namespace its capabilities are over that alone.
        fails(c, "unshare -Ur mknod /open/null c 1 3");
        fails(c, "test -e /open/null");
        eprintln!("{kind}: as the caller");
    });
}

#[test]
fn directories_of_the_host_stay_the_hosts() {
    use stockade::container::Mount;
    let Some(rig) = Rig::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    // The container sees them as nobody's: what it may do there is what everybody may.
    let config = busybox("bind").mount(Mount::bind(&shared, "/shared"));
    let c = rig.run(config.intercept(Interception::new().mknod(Nodes::Usable)));
    assert!(
        fails(&c, "mknod /shared/null c 1 3").contains("Permission denied")
            || fails(&c, "mknod /shared/null c 1 3").contains("not permitted")
    );
    assert!(std::fs::read_dir(&shared).unwrap().next().is_none());
    end(c);
    drop(dir);
    rig.end();
}

#[test]
fn the_device_policy_has_the_last_word() {
    let Some(rig) = Rig::new() else { return };
    let policy = DevicePolicy::standard().deny("c 1:5 m".parse().unwrap());
    let config = busybox("policy").devices(policy).intercept(Interception::new().mknod(Nodes::Usable));
    let c: Arc<Container> = rig.run(config);
    works(&c, "mknod /null c 1 3; echo > /null");
    assert!(fails(&c, "mknod /zero c 1 5").contains("Operation not permitted"));
    end(c);
    rig.end();
}

/// The helper holds it no longer by the time that the caller goes on.
#[test]
fn a_node_that_was_mounted_can_be_unmounted_at_once() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("busy").intercept(Interception::new().mknod(Nodes::Usable)));
    let rounds = support::scaled(2000);
    works(&c, &format!("for i in $(seq {rounds}); do mknod /null c 1 3; umount /null; rm /null; done"));
    eprintln!("{rounds} nodes unmounted at once");
    end(c);
    rig.end();
}

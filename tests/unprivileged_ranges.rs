//! An ordinary user's containers with the ids that `/etc/subuid` and `/etc/subgid` give him, written by newuidmap and
//! newgidmap; and what is left where these, or the ids, or user namespaces, are missing.
//!
//! As root each test executes itself again as a user that nobody is, in a mount namespace where the files in `/etc` are
//! copies that know him.

mod again;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stockade::cgroup::{Cgroup, Hierarchy};
use stockade::container::{CgroupConfig, Container, ContainerBuilder, ContainerConfig, IdMapConfig};
use stockade::idmap::shift::shift_tree;
use stockade::idmap::{IdMap, IdRange};
use stockade::instance::{ExecOptions, Status, Stdio};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::process::User;
use stockade::{Error, ErrorKind, Rootfs, Runtime};
use support::{HostSnapshot, LeakCheck, Serial};

const UID: u32 = 54_322;
const FIRST: u32 = 2_000_000_000;
const COUNT: u32 = 131_072;

/// How the test's process is made; the fields are pieces of shell.
#[derive(Clone, Copy)]
struct Around<'a> {
    /// As root, in the private mount namespace.
    before: &'a str,
    /// Between root and the test's own program.
    become_user: &'a str,
    /// Whether the files give him ids.
    delegated: bool,
    /// Whether there is a Debian root with the owners that the whole map gives it.
    debian: bool,
}

const SETPRIV: &str = "setpriv --reuid 54322 --regid 54322 --clear-groups --inh-caps=-all";
const WITH_RANGES: Around<'_> = Around { before: "", become_user: SETPRIV, delegated: true, debian: false };

/// What the test's body gets in the process of its own.
struct Rig {
    dir: PathBuf,
    runtime: Runtime,
}

/// Runs `body` as that user; skips loudly where that cannot be.
fn as_user(test: &str, around: Around<'_>, body: impl FnOnce(&Rig)) {
    with_turn(&support::serial(), test, around, body);
}

fn with_turn(_turn: &Serial, test: &str, around: Around<'_>, body: impl FnOnce(&Rig)) {
    if again::role().is_some() {
        let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
        let host = HostSnapshot::take();
        let runtime = open(&dir);
        let (state, run) = (dir.join("state"), dir.join("run"));
        let leaks = LeakCheck::of([state.join("instances"), run.join("instances")]);
        let rig = Rig { dir, runtime };
        body(&rig);
        drop(rig);
        let left: Vec<_> = leaks.left().into_iter().filter(|p| !p.ends_with("default")).collect();
        assert!(left.is_empty(), "{left:?}");
        host.assert_unchanged();
        return;
    }
    support::require_root!();
    let fixture = support::require_fixture!("busybox");
    for file in ["/etc/subuid", "/etc/subgid", "/usr/bin/newuidmap", "/usr/bin/newgidmap"] {
        support::require!(Path::new(file).exists(), "needs {file}: cargo xtask setup");
    }
    let host = HostSnapshot::take();
    let dir = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    chown(dir.path(), Some(UID), Some(UID)).unwrap();
    for (name, owner) in [("root", UID), ("shifted", FIRST)] {
        let root = dir.path().join(name);
        sh_on_host(&format!("cp -r --preserve=mode,links {}/. {}", fixture.display(), root.display()));
        sh_on_host(&format!("chown -hR {owner}:{owner} {}", root.display()));
    }
    if around.debian {
        let (root, fixture) = (dir.path().join("debian"), support::require_fixture!("debian"));
        sh_on_host(&format!("cp -a {} {}", fixture.display(), root.display()));
        // The user's own id is one that files have before they are shifted: so by a third range.
        let third = IdMap::range(FIRST + COUNT, 65_536).unwrap();
        shift_tree(&root, &IdMap::range(0, 65_536).unwrap(), &third).unwrap();
        shift_tree(&root, &third, &whole_map()).unwrap();
    }
    let ids = if around.delegated { format!("{UID}:{FIRST}:{COUNT}\n") } else { String::new() };
    fs::write(dir.path().join("subids"), ids).unwrap();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(dir.path().join("passwd"), format!("{passwd}stockadetest:x:{UID}:{UID}::/:/bin/sh\n")).unwrap();
    let script = format!(
        "set -e; mount --bind $DIR/subids /etc/subuid; mount --bind $DIR/subids /etc/subgid
         mount --bind $DIR/passwd /etc/passwd; {}; exec {} \"$@\"",
        if around.before.is_empty() { ":" } else { around.before },
        around.become_user
    );
    let args = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    let out = again::command(&args, test, "user").env("DIR", dir.path()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    drop(dir);
    host.assert_unchanged();
}

fn sh_on_host(script: &str) {
    let status = std::process::Command::new("sh").args(["-c", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

fn open(dir: &Path) -> Runtime {
    Runtime::builder().state_dir(dir.join("state")).run_dir(dir.join("run")).open().unwrap()
}

impl Rig {
    fn container(&self, name: &str, rootfs: impl Into<Rootfs>) -> ContainerBuilder {
        let config = ContainerConfig::builder(name).rootfs(rootfs).args(["sleep", "1000"]);
        config.cgroup(CgroupConfig::None).kill_on_drop()
    }

    fn dir(&self, name: &str) -> ContainerBuilder {
        self.container(name, Rootfs::dir(self.dir.join("root")))
    }

    fn run(&self, config: ContainerBuilder) -> Arc<Container> {
        let c = self.runtime.create(config.build().unwrap()).unwrap();
        c.start().unwrap();
        c
    }

    fn refuses(&self, config: ContainerBuilder) -> Error {
        let c = self.runtime.create(config.build().unwrap()).unwrap();
        let e = c.start().expect_err("it started");
        assert_eq!((e.op(), c.status()), (Some("start"), Status::Stopped), "{e:?}");
        c.delete().unwrap();
        e
    }
}

#[track_caller]
fn sh_as(c: &Container, user: User, script: &str) -> String {
    let script = format!("exec 2>&1; {script}");
    let options = ExecOptions::new(["sh", "-c", &script]).user(user).stdout(Stdio::Piped);
    let out = c.exec(options).unwrap().output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

#[track_caller]
fn sh(c: &Container, script: &str) -> String {
    sh_as(c, User::new(0, 0), script)
}

fn end(c: Arc<Container>) {
    assert_eq!(c.status(), Status::Running);
    c.stop().unwrap();
    c.delete().unwrap();
}

fn whole_map() -> IdMap {
    let half = || vec![IdRange::new(0, UID, 1), IdRange::new(1, FIRST, COUNT)];
    IdMap::new(half(), half()).unwrap()
}

fn single() -> IdMap {
    IdMap::single(UID.into(), UID.into()).unwrap()
}

fn id_of_users(c: &Container) -> u64 {
    // Which one it is, as the kernel numbers it.
    let text = sh(c, "readlink /proc/self/ns/user");
    text.trim_start_matches("user:[").trim_end_matches(']').parse().unwrap()
}

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

/// Everything that needs one id alone works.
fn has_one_id(rig: &Rig, own: u32) {
    let c = rig.run(rig.dir("x"));
    assert_eq!(c.info().unwrap().id_map, Some(IdMap::single(own.into(), own.into()).unwrap()));
    assert_eq!(sh(&c, "awk '{print $1, $2, $3}' /proc/self/uid_map"), format!("0 {own} 1"));
    assert_eq!(sh(&c, "cat /proc/self/setgroups; touch /new && rm /new; stat -c %u /etc"), "deny\n0");
    c.stop().unwrap();
    c.start().unwrap();
    end(c);
    let c = rig.run(rig.container("x", Rootfs::overlay([rig.dir.join("root")])));
    assert_eq!(sh(&c, "touch /etc/new && stat -c %u /etc/new"), "0");
    end(c);
}

#[test]
fn without_ids_or_programs_there_is_one_id() {
    let none = Around { delegated: false, ..WITH_RANGES };
    as_user("without_ids_or_programs_there_is_one_id", none, |rig| has_one_id(rig, UID));
}

#[test]
fn without_the_programs_there_is_one_id() {
    let hidden = Around { before: "mount --bind /dev/null /usr/bin/newgidmap", ..WITH_RANGES };
    as_user("without_the_programs_there_is_one_id", hidden, |rig| {
        has_one_id(rig, UID);
        let e = rig.refuses(rig.dir("x").idmap(whole_map()));
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        assert!(e.to_string().contains("newgidmap is not installed"), "{e}");
    });
}

#[test]
fn where_set_id_programs_have_no_effect_there_is_one_id() {
    let become_user = format!("{SETPRIV} --no-new-privs");
    let around = Around { become_user: &become_user, ..WITH_RANGES };
    as_user("where_set_id_programs_have_no_effect_there_is_one_id", around, |rig| {
        has_one_id(rig, UID);
        let e = rig.refuses(rig.dir("x").idmap(whole_map()));
        assert!(e.to_string().contains("no_new_privs"), "{e}");
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

#[test]
fn one_id_when_asked_for() {
    as_user("one_id_when_asked_for", WITH_RANGES, |rig| {
        let c = rig.run(rig.dir("x").idmap(IdMapConfig::SingleUser));
        assert_eq!(c.info().unwrap().id_map, Some(single()));
        end(c);
    });
}

#[test]
fn root_of_a_namespace_with_one_id() {
    for unshare in ["unshare -r", "unshare -rm"] {
        let become_user = format!("{SETPRIV} {unshare}");
        let around = Around { become_user: &become_user, ..WITH_RANGES };
        as_user("root_of_a_namespace_with_one_id", around, |rig| {
            assert!(rustix::process::geteuid().is_root());
            has_one_id(rig, 0);
        });
    }
}

#[test]
fn a_sysctl_that_forbids_user_namespaces_is_named() {
    let become_user =
        format!("{SETPRIV} unshare -r sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"' sh");
    let around = Around { become_user: &become_user, ..WITH_RANGES };
    as_user("a_sysctl_that_forbids_user_namespaces_is_named", around, |rig| {
        let e = rig.refuses(rig.dir("x"));
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        assert!(e.to_string().contains("user.max_user_namespaces is 0"), "{e}");
    });
}

/// A whole life in a cgroup that root has delegated.
fn lives_in_a_cgroup(rig: &Rig) {
    let c = rig.run(rig.dir("x").cgroup(CgroupConfig::Auto));
    let info = c.info().unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap().to_owned();
    assert!(info.cgroup.unwrap().to_str().unwrap().contains(own.as_str()));
    assert_eq!(sh(&c, "cat /proc/self/cgroup | grep ^0::"), "0::/");
    c.freeze().unwrap();
    assert_eq!(c.status(), Status::Frozen);
    c.unfreeze().unwrap();
    // Whatever its processes do, a stop ends them all.
    sh(&c, "for i in 1 2 3; do setsid sleep 1000 & done; true");
    c.stop().unwrap();
    c.start().unwrap();
    let second = open(&rig.dir);
    let found = second.container(&"x".parse().unwrap()).unwrap();
    assert_eq!(sh(&found, "echo x"), "x");
    drop(found);
    c.wait().unwrap();
    c.start().unwrap();
    c.restart().unwrap();
    end(c);
}

/// A cgroup of the test's own, removed at the end.
struct Delegated(Cgroup);

impl Delegated {
    fn new() -> stockade::Result<Self> {
        let name = format!("stockade-test-{}", std::process::id());
        let this = Self(Hierarchy::detect()?.own().create_child(&name)?);
        this.0.delegate(UID, UID)?;
        Ok(this)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let soon = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let removed = self.0.kill().and_then(|()| self.0.remove(Some(soon)));
        assert!(std::thread::panicking() || removed.is_ok(), "{removed:?}");
    }
}

fn in_a_cgroup(test: &str, delegated: bool, extra: &str) {
    let become_user = format!("{SETPRIV}{extra}");
    let around = Around { before: "", become_user: &become_user, delegated, debian: false };
    if again::role().is_some() {
        return as_user(test, around, lives_in_a_cgroup);
    }
    support::require_root!();
    // Tests of this program that watch the host would see it.
    let serial = support::serial();
    let made = Delegated::new();
    match made {
        Ok(cgroup) => {
            let before = format!("echo $$ > {}/cgroup.procs", cgroup.0.path().display());
            with_turn(&serial, test, Around { before: &before, ..around }, lives_in_a_cgroup);
        }
        Err(e) => support::skip(format!("no cgroup can be made here: {e}")),
    }
}

#[test]
fn a_delegated_cgroup() {
    in_a_cgroup("a_delegated_cgroup", true, "");
}

#[test]
fn a_delegated_cgroup_with_one_id() {
    in_a_cgroup("a_delegated_cgroup_with_one_id", false, "");
}

#[test]
fn a_delegated_cgroup_for_root_of_a_namespace() {
    in_a_cgroup("a_delegated_cgroup_for_root_of_a_namespace", true, " unshare -r");
}

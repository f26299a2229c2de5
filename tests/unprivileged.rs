//! An ordinary user's containers: no privilege, one id, no control group.
//!
//! As root the tests execute themselves again as a user that nobody is.

mod again;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use stockade::container::{CgroupConfig, Container, ContainerBuilder, ContainerConfig, Mount, Network};
use stockade::idmap::IdMap;
use stockade::instance::{ExecOptions, Status, Stdio};
use stockade::process::{Resource, User};
use stockade::{Error, ErrorKind, ExitStatus, Rootfs, Runtime};
use support::{HostSnapshot, LeakCheck};
use tempfile::TempDir;

const UID: u32 = 54_321;

/// An ordinary user's runtime, under watch.
struct Rig {
    runtime: Runtime,
    state: PathBuf,
    /// A busybox root that belongs to the user.
    root: PathBuf,
    leaks: LeakCheck,
    host: HostSnapshot,
}

/// Runs `body` as an ordinary user; skips loudly where that cannot be.
fn as_user(test: &str, body: impl FnOnce(&Rig)) {
    let _serial = support::serial();
    let fixture = match support::fixture("busybox") {
        Ok(fixture) => fixture,
        Err(why) => return support::skip(why),
    };
    if again::role().is_some() || !rustix::process::geteuid().is_root() {
        let dir = std::env::var_os("DIR").map_or_else(|| prepare(&fixture, None).keep(), PathBuf::from);
        let host = HostSnapshot::take();
        {
            let (state, run) = (dir.join("state"), dir.join("run"));
            let runtime = Runtime::builder().state_dir(&state).run_dir(&run).open().unwrap();
            let root = dir.join("root");
            // Makes the files that a runtime keeps for itself.
            let warm = ContainerConfig::builder("warm").rootfs(Rootfs::dir(&root)).cgroup(CgroupConfig::None);
            let warm = runtime.create(warm.args(["true"]).build().unwrap()).unwrap();
            warm.start().unwrap();
            warm.wait().unwrap();
            warm.delete().unwrap();
            let rig = Rig {
                runtime,
                root,
                leaks: LeakCheck::of([dir.join("state"), dir.join("run")]),
                state,
                host: HostSnapshot::take(),
            };
            body(&rig);
            rig.leaks.assert_clean();
            rig.host.assert_unchanged();
        }
        host.assert_unchanged();
        return;
    }
    let id = UID.to_string();
    let around = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all"];
    let allowed = Command::new(around[0]).args(&around[1..]).args(["unshare", "-U", "true"]).output();
    if !allowed.is_ok_and(|out| out.status.success()) {
        return support::skip("ordinary users may not make user namespaces here");
    }
    let host = HostSnapshot::take();
    let dir = prepare(&fixture, Some(UID));
    let out = again::command(&around, test, "user").env("DIR", dir.path()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    drop(dir);
    host.assert_unchanged();
}

/// A directory with a place for the runtime and a root, all of that user.
fn prepare(fixture: &Path, owner: Option<u32>) -> TempDir {
    let dir = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let copied =
        Command::new("cp").args(["-r", "--preserve=mode,links"]).arg(fixture.join(".")).arg(&root).status();
    assert!(copied.unwrap().success());
    if let Some(uid) = owner {
        let owned = Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).arg(dir.path()).status();
        assert!(owned.unwrap().success());
        chown(dir.path(), Some(uid), Some(uid)).unwrap();
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

impl Rig {
    fn container(&self, rootfs: impl Into<Rootfs>) -> ContainerBuilder {
        let config = ContainerConfig::builder("x").rootfs(rootfs).args(["sleep", "1000"]);
        config.cgroup(CgroupConfig::None).kill_on_drop()
    }

    fn dir(&self) -> ContainerBuilder {
        self.container(Rootfs::dir(&self.root))
    }

    fn run(&self, config: ContainerBuilder) -> Arc<Container> {
        let c = self.runtime.create(config.build().unwrap()).unwrap();
        c.start().unwrap();
        c
    }

    /// The error of a start, of which nothing is left.
    fn refuses(&self, config: ContainerBuilder) -> Error {
        let c = self.runtime.create(config.build().unwrap()).unwrap();
        let e = c.start().expect_err("it started");
        assert_eq!((e.op(), e.instance()), (Some("start"), Some("default/x")), "{e:?}");
        assert_eq!(c.status(), Status::Stopped);
        c.delete().unwrap();
        e
    }
}

#[track_caller]
fn sh(c: &Container, script: &str) -> String {
    let script = format!("exec 2>&1; {script}");
    let options = ExecOptions::new(["sh", "-c", &script]).stdout(Stdio::Piped);
    let out = c.exec(options).unwrap().output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

/// The rest of a life.
fn end(c: Arc<Container>) {
    assert_eq!(c.status(), Status::Running);
    c.stop().unwrap();
    assert_eq!(c.wait().unwrap(), ExitStatus::Signaled { signal: 9, core_dumped: false });
    c.restart().unwrap_err();
    c.start().unwrap();
    c.stop().unwrap();
    c.delete().unwrap();
}

#[test]
fn a_directory_of_the_users() {
    as_user("a_directory_of_the_users", |rig| {
        let own = rustix::process::geteuid().as_raw();
        assert_ne!(own, 0);
        let c = rig.run(rig.dir());
        assert_eq!(sh(&c, "id -u; id -g; stat -c %u:%g /etc/passwd"), "0\n0\n0:0");
        assert_eq!(sh(&c, "awk '{print $1, $2, $3}' /proc/self/uid_map"), format!("0 {own} 1"));
        assert_eq!(sh(&c, "cat /proc/self/setgroups"), "deny");
        assert_eq!(sh(&c, "echo made > /made && cat /made; hostname; cat /proc/1/comm"), "made\nx\nsleep");
        assert_eq!(fs::metadata(rig.root.join("made")).unwrap().uid(), own);
        fs::remove_file(rig.root.join("made")).unwrap();
        // All rights inside, in its own namespaces.
        assert_eq!(sh(&c, "mount -t tmpfs none /mnt && touch /mnt/x && ls /mnt && umount /mnt"), "x");
        assert_eq!(sh(&c, "ip link set lo mtu 1500 && cat /sys/class/net/lo/mtu"), "1500");
        assert_eq!(
            sh(&c, "echo x > /dev/null; head -c 1 /dev/zero | xxd -p; echo y > /dev/shm/y; cat /dev/shm/y"),
            "00\ny"
        );
        assert_eq!(sh(&c, "echo z > /dev/stdout; ls /proc/self/fd | wc -l"), "z\n4");
        // And none outside.
        assert!(sh(&c, "mknod /n c 1 3").contains("Operation not permitted"));
        assert!(sh(&c, "chown 1 /tmp").contains("Invalid argument"));
        assert!(sh(&c, "echo 1 > /proc/sys/kernel/panic").contains("Read-only file system"));
        assert_ne!(sh(&c, "cat /etc/shadow 2>/dev/null; dd if=/dev/vda count=1 2>/dev/null | wc -c"), "512");
        let info = c.info().unwrap();
        assert_eq!(
            (info.cgroup, info.id_map.unwrap()),
            (None, IdMap::single(own.into(), own.into()).unwrap())
        );
        end(c);
    });
}

#[test]
fn layers_with_changes_of_the_users() {
    as_user("layers_with_changes_of_the_users", |rig| {
        let fixture = support::fixture("busybox").unwrap();
        for lower in [vec![rig.root.clone()], vec![fixture], vec![rig.root.clone(), "/usr/share/doc".into()]]
        {
            let c = rig.run(rig.container(Rootfs::overlay(lower)));
            assert_eq!(sh(&c, "mkdir -p /new/dir && echo x > /new/dir/f && cat /new/dir/f; id -u"), "x\n0");
            c.stop().unwrap();
            c.start().unwrap();
            assert_eq!(sh(&c, "cat /new/dir/f"), "x", "changes outlive a run");
            assert!(!rig.root.join("new").exists());
            assert!(rig.state.join("instances/default/x/rootfs/upper/new/dir/f").exists());
            end(c);
        }
        // A directory that its owner may not read goes with the instance too.
        let c = rig.run(rig.container(Rootfs::overlay([&rig.root])));
        sh(&c, "mkdir -p /locked/in && touch /locked/in/f && chmod 0 /locked/in /locked");
        end(c);
    });
}

#[test]
fn the_hosts_own_files() {
    as_user("the_hosts_own_files", |rig| {
        let c = rig.run(rig.container(Rootfs::host()));
        let host = fs::read_to_string("/etc/os-release").unwrap();
        assert_eq!(sh(&c, "cat /etc/os-release"), host.trim_end());
        assert_eq!(sh(&c, "id -u; touch /tmp/here && ls /tmp"), "0\nhere");
        assert_eq!(sh(&c, "cat /etc/shadow 2>/dev/null | wc -c"), "0");
        end(c);
    });
}

#[test]
fn mounts_networks_and_streams_of_the_users() {
    as_user("mounts_networks_and_streams_of_the_users", |rig| {
        let data = rig.state.parent().unwrap().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("f"), "data").unwrap();
        let c = rig.run(
            rig.dir()
                .mount(Mount::bind(&data, "/rw"))
                .mount(Mount::bind(&data, "/ro").read_only())
                .mount(Mount::bind(data.join("f"), "/etc/f"))
                .mount(Mount::tmpfs("/scratch").size(1 << 20))
                .resolv_conf("nameserver 192.0.2.1\n")
                .read_only_root()
                .masked_paths(["/etc/passwd", "/home"]),
        );
        assert_eq!(
            sh(&c, "cat /ro/f /etc/f /etc/passwd; echo in > /rw/in; cat /ro/in /etc/resolv.conf"),
            "datadatain\nnameserver 192.0.2.1"
        );
        for script in
            ["touch /ro/x", "touch /x", "mount -o remount,rw /ro; touch /ro/x", "echo x >> /etc/resolv.conf"]
        {
            assert!(
                sh(&c, script).contains("ead-only file system") || sh(&c, script).contains("denied"),
                "{script}: {}",
                sh(&c, script)
            );
        }
        assert_eq!(sh(&c, "touch /scratch/x /dev/shm/x && echo y"), "y");
        end(c);
        let c = rig.run(rig.dir().network(Network::Host));
        let net = fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(sh(&c, "readlink /proc/self/ns/net"), net.to_str().unwrap());
        assert!(sh(&c, "ip link set lo mtu 1500").contains("Operation not permitted"));
        end(c);
        fs::remove_dir_all(data).unwrap();
        for name in ["rw", "ro", "etc/f", "scratch"] {
            let place = rig.root.join(name);
            fs::remove_dir(&place).or_else(|_| fs::remove_file(&place)).unwrap();
        }
    });
}

#[test]
fn it_is_found_again() {
    as_user("it_is_found_again", |rig| {
        let c = rig.run(rig.dir().args(["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.02; done"]));
        let run = rig.state.parent().unwrap().join("run");
        let second = Runtime::builder().state_dir(&rig.state).run_dir(run).open().unwrap();
        let d = second.container(&"x".parse().unwrap()).unwrap();
        assert_eq!((d.status(), d.info().unwrap().pid), (Status::Running, c.info().unwrap().pid));
        assert_eq!(sh(&d, "id -u"), "0");
        let ended = loop {
            d.kill(stockade::Signal::TERM).unwrap();
            let wait = stockade::instance::WaitOptions::new().deadline(Duration::from_millis(100));
            match c.wait_with(wait) {
                Err(e) if e.kind() == ErrorKind::Timeout => {}
                ended => break ended.unwrap(),
            }
        };
        assert_eq!(ended, ExitStatus::Exited(9));
        d.delete().unwrap();
    });
}

#[test]
fn what_needs_privilege_is_refused_clearly() {
    as_user("what_needs_privilege_is_refused_clearly", |rig| {
        let refused = |config: ContainerBuilder, kind: ErrorKind, parts: &[&str]| {
            let e = rig.refuses(config);
            assert_eq!(e.kind(), kind, "{e:?}");
            for part in parts {
                assert!(e.to_string().contains(part), "{e} does not say {part}");
            }
        };
        let denied = ErrorKind::PermissionDenied;
        // Allowed only where somebody has delegated this process's cgroup.
        let c = rig.runtime.create(rig.dir().cgroup(CgroupConfig::Auto).build().unwrap()).unwrap();
        match c.start() {
            Ok(()) => c.stop().unwrap(),
            Err(e) => {
                assert_eq!((e.kind(), e.errno()), (denied, Some(libc::EACCES)), "{e:?}");
                assert!(
                    e.to_string().contains("cgroup") && e.to_string().contains("CgroupConfig::None"),
                    "{e}"
                );
            }
        }
        c.delete().unwrap();
        drop(c);
        refused(rig.dir().privileged(), denied, &["EPERM", "CAP_SYS_ADMIN"]);
        refused(rig.dir().idmap(IdMap::range(100_000, 65_536).unwrap()), denied, &["id map", "newgidmap"]);
        let mut user = User::new(0, 0);
        user.groups = vec!["0".parse().unwrap()];
        refused(rig.dir().user(user.clone()), denied, &["EPERM", "leave them out"]);
        refused(
            rig.dir().rlimit(Resource::Nofile, 1 << 20, 1 << 21),
            denied,
            &["NOFILE", "EPERM", "CAP_SYS_RESOURCE"],
        );
        refused(rig.dir().oom_score_adj(-500), denied, &["oom_score_adj", "CAP_SYS_RESOURCE"]);
        let secret = Mount::bind("/root", "/mnt");
        let e = rig.refuses(rig.dir().args(["ls", "/mnt"]).mount(Mount::bind("/root/none", "/mnt")));
        assert!(matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound), "{e:?}");
        // It may be bound, and no more can be read in it than outside.
        let c = rig.run(rig.dir().mount(secret));
        assert!(sh(&c, "ls /mnt").contains("Permission denied"));
        end(c);
        refused(
            rig.dir().mount(Mount::bind("/usr", "/mnt").idmapped()),
            denied,
            &["id map", "CAP_SYS_ADMIN", "/usr"],
        );

        let c = rig.run(rig.dir());
        let e = c.exec(ExecOptions::new(["id"]).user(User::new(1000, 0))).unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidConfig && e.to_string().contains("id map"), "{e}");
        let e = c.exec(ExecOptions::new(["id"]).user(user)).unwrap_err();
        assert!(e.to_string().contains("leave them out"), "{e}");
        let e = c.freeze().unwrap_err();
        assert!(e.to_string().contains("control group") || e.to_string().contains("cgroup"), "{e}");
        end(c);
    });
}

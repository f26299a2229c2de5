//! A whole distribution inside: Debian with its package manager, Python, users, sudo, set-id programs and file
//! capabilities, as an ordinary container with a user namespace of its own.

mod rig;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use rig::{Rig, end, sh};
use stockade::container::{Container, ContainerConfig};
use stockade::instance::{ExecOptions, Stdio};
use stockade::process::User;
use stockade::{ErrorKind, Rootfs};

struct Debian {
    rig: Rig,
    container: Arc<Container>,
}

impl Debian {
    /// `None`, with a loud reason, where it cannot be started here.
    fn start(name: &str) -> Option<Self> {
        let rig = Rig::new()?;
        let root = match support::fixture("debian") {
            Ok(root) => root,
            Err(why) => {
                support::skip(why);
                rig.end();
                return None;
            }
        };
        let config = ContainerConfig::builder(name)
            .rootfs(Rootfs::overlay([root]))
            .args(["sleep", "1000"])
            .env("LC_ALL", "C")
            .hosts(format!("127.0.0.1 localhost {name}\n"))
            .kill_on_drop();
        let container = rig.run(config);
        Some(Self { rig, container })
    }

    /// The output of a script that must succeed.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let (code, text) = sh(&self.container, script);
        assert_eq!(code, 0, "{script}: {text}");
        text
    }

    /// The same as an ordinary user.
    #[track_caller]
    fn sh_as(&self, id: u32, script: &str) -> (i32, String) {
        let script = format!("exec 2>&1; {script}");
        let options = ExecOptions::new(["sh", "-c", &script]).user(User::new(id, id)).stdout(Stdio::Piped);
        let out = self.container.exec(options).unwrap().output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap().trim_end().to_owned())
    }

    /// A file of the container's changes, on the host.
    fn changed(&self, path: &str) -> PathBuf {
        self.rig
            .dirs
            .state()
            .join("instances/default")
            .join(self.container.id().name.as_str())
            .join("rootfs/upper")
            .join(path)
    }

    fn end(self) {
        end(self.container);
        self.rig.end();
    }
}

#[test]
fn programs_of_the_distribution_run() {
    let Some(debian) = Debian::start("deb") else { return };
    assert!(debian.sh("apt-get --version").starts_with("apt 2."));
    assert_eq!(debian.sh("python3 -c 'print(6*7)'"), "42");
    let python = "import subprocess, threading, socket
s = socket.create_server(('127.0.0.1', 0))
t = threading.Thread(target=lambda: s.accept()[0].sendall(b'hello'))
t.start()
print(socket.create_connection(s.getsockname()).recv(5).decode(), subprocess.check_output(['echo', 'x']).decode())";
    assert_eq!(debian.sh(&format!("python3 -c \"{python}\"")), "hello x");
    let packages = debian.sh("dpkg -l");
    for package in ["apt", "bash", "dpkg", "sudo"] {
        assert!(
            packages.lines().any(|l| l.starts_with("ii ") && l.split_whitespace().nth(1) == Some(package))
        );
    }
    assert_eq!(debian.sh("dpkg --audit; dpkg --print-architecture | wc -l"), "1");
    assert!(debian.sh(". /etc/os-release; echo $ID $VERSION_CODENAME").starts_with("debian bookworm"));
    assert_eq!(debian.sh("hostname; uname -n; cat /proc/sys/kernel/hostname"), "deb\ndeb\ndeb");
    assert_eq!(debian.sh("ps -e -o pid=,comm= | head -1 | tr -d ' '"), "1sleep");
    assert_eq!(debian.sh("stat -f -c %T /"), "overlayfs");
    debian.end();
}

#[test]
fn packages_can_be_built_installed_and_removed() {
    let Some(debian) = Debian::start("deb") else { return };
    let build = "mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin && cd /tmp && umask 022 &&
        printf 'Package: hello-inside\\nVersion: 1\\nArchitecture: all\\nMaintainer: n <n@example.org>\\nDescription: x\\n' > p/DEBIAN/control &&
        printf '#!/bin/sh\\nadduser --system --group inside\\n' > p/DEBIAN/postinst && chmod 755 p/DEBIAN/postinst &&
        printf '#!/bin/sh\\necho installed\\n' > p/usr/bin/hello-inside && chmod 755 p/usr/bin/hello-inside &&
        dpkg-deb --root-owner-group -b p hello.deb >/dev/null";
    debian.sh(build);
    let installed = debian.sh("dpkg -i /tmp/hello.deb && hello-inside && id -un inside");
    assert!(installed.ends_with("installed\ninside"), "{installed}");
    let removed = debian.sh("apt-get -y purge hello-inside && ! command -v hello-inside");
    assert!(removed.contains("Removing hello-inside"), "{removed}");
    debian.end();
}

#[test]
fn users_su_and_sudo_work() {
    let Some(debian) = Debian::start("deb") else { return };
    assert_eq!(debian.sh("id nobody"), "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)");
    debian.sh("useradd -m -u 1500 -G tty ann && useradd -m -u 1501 bob");
    assert_eq!(debian.sh("su - ann -c id"), "uid=1500(ann) gid=1500(ann) groups=1500(ann),5(tty)");
    assert_eq!(debian.sh("su - ann -c 'cd; pwd; touch mine; stat -c %U mine'"), "/home/ann\nann");
    assert_eq!(debian.sh("sudo -u nobody id -un"), "nobody");

    let (code, said) = debian.sh_as(1500, "sudo -n id -un");
    assert!(code != 0 && said.contains("password"), "{said}");
    debian.sh("echo 'ann ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ann");
    assert_eq!(debian.sh_as(1500, "sudo -n id -un"), (0, "root".to_owned()));
    assert_eq!(debian.sh_as(1500, "sudo -n -u bob id -un"), (0, "bob".to_owned()));
    assert_eq!(debian.sh_as(1501, "sudo -n id -un").0, 1);
    assert_eq!(debian.sh_as(1501, "cat /etc/shadow").0, 1);
    assert_eq!(debian.sh_as(1501, "touch /home/ann/x").0, 1);
    debian.end();
}

#[test]
fn sudo_has_no_effect_where_no_new_privileges_are_allowed() {
    let Some(debian) = Debian::start("deb") else { return };
    let root = support::fixture("debian").unwrap();
    let config = ContainerConfig::builder("strict").rootfs(Rootfs::overlay([root])).args(["sleep", "1000"]);
    let strict = Debian { container: debian.rig.run(config.no_new_privs().kill_on_drop()), rig: debian.rig };
    strict.sh("echo 'nobody ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/nobody");
    let (code, said) = strict.sh_as(65534, "sudo -n id -un");
    assert!(code != 0 && said.contains("no new privileges"), "{said}");
    strict.sh("cp /usr/bin/id /usr/local/bin/id && chmod 4755 /usr/local/bin/id");
    assert_eq!(strict.sh_as(65534, "/usr/local/bin/id -u"), (0, "65534".to_owned()));
    end(debian.container);
    strict.end();
}

#[test]
fn file_capabilities_and_set_id_bits_have_effect() {
    let Some(debian) = Debian::start("deb") else { return };
    debian.sh("cp /usr/bin/python3.11 /usr/local/bin/raw && setcap cap_net_raw+ep /usr/local/bin/raw");
    assert_eq!(debian.sh("getcap /usr/local/bin/raw"), "/usr/local/bin/raw cap_net_raw=ep");
    let socket = "-c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print(1)'";
    assert_eq!(debian.sh_as(65534, &format!("/usr/local/bin/raw {socket}")), (0, "1".to_owned()));
    let (code, said) = debian.sh_as(65534, &format!("python3 {socket}"));
    assert!(code != 0 && said.contains("PermissionError"), "{said}");
    let effective = "-c 'print([l for l in open(\"/proc/self/status\") if \"CapEff\" in l][0].split()[1])'";
    assert_eq!(debian.sh_as(65534, &format!("raw {effective}")).1, "0000000000002000");
    assert_eq!(debian.sh_as(65534, &format!("python3 {effective}")).1, "0000000000000000");
    assert!(debian.sh("capsh --print").contains("cap_sys_admin"));

    debian.sh("cd /usr/local/bin && cp /usr/bin/id uid && cp /usr/bin/id gid && chgrp tty gid && chmod 4755 uid && chmod 2755 gid");
    assert_eq!(debian.sh_as(1234, "uid -u; uid -ru"), (0, "0\n1234".to_owned()));
    assert_eq!(debian.sh_as(1234, "gid -g; gid -rg"), (0, "5\n1234".to_owned()));
    // A set-group-id program of a layer keeps its bit when it is copied up.
    assert_eq!(debian.sh("stat -c %a /usr/bin/expiry; touch -a /usr/bin/expiry; chown root:shadow /usr/bin/expiry; chmod g+s /usr/bin/expiry; stat -c %a /usr/bin/expiry"), "2755\n2755");
    debian.end();
}

#[test]
fn root_inside_may_mount_and_make_namespaces_of_its_own() {
    let Some(debian) = Debian::start("deb") else { return };
    debian.sh("mount -t tmpfs none /mnt && touch /mnt/x && mount --bind /mnt /srv && ls /srv | grep -q x && umount /srv /mnt");
    assert_eq!(debian.sh("unshare -Um true; unshare -m -n -p -f -i -u sh -c 'echo $$'"), "1");
    assert_eq!(debian.sh("unshare -Ur id -u"), "0");
    assert_eq!(debian.sh_as(1234, "unshare -Ur id -u"), (0, "0".to_owned()));
    debian.sh("ip link add d0 type dummy 2>/dev/null || true; mknod /tmp/p p && mkfifo /tmp/q");
    // What would reach the host is refused.
    for (script, why) in [
        ("mknod /tmp/null c 1 3", "Operation not permitted"),
        ("mount -t ext4 /dev/vda /mnt", ""),
        ("echo 1 > /proc/sys/kernel/panic", "Read-only file system"),
        ("mount -o remount,rw /proc/sys && echo 1 > /proc/sys/kernel/panic", ""),
        ("umount /proc/sys && echo 1 > /proc/sys/kernel/panic", ""),
        ("date -s @0", "Operation not permitted"),
        ("dmesg -C", ""),
        ("swapoff -a && losetup -f /etc/passwd", ""),
    ] {
        let (code, said) = sh(&debian.container, script);
        assert!(code != 0 && said.contains(why), "{script}: {code} {said}");
    }
    debian.end();
}

#[test]
fn changes_lie_on_the_host_with_the_containers_ids_as_on_disk() {
    let Some(debian) = Debian::start("deb") else { return };
    debian.sh(
        "echo r > /root-file && install -o 1500 -g 5 /dev/null /user-file && mkdir /etc/new && rm /etc/motd",
    );
    let owner = |path: &str| {
        let meta = std::fs::symlink_metadata(debian.changed(path)).unwrap();
        (meta.uid(), meta.gid())
    };
    // With an idmapped upper directory ids on disk are those inside.
    assert_eq!(owner("root-file"), (0, 0));
    assert_eq!(owner("user-file"), (1500, 5));
    assert_eq!(owner("etc/new"), (0, 0));
    let whiteout = std::fs::symlink_metadata(debian.changed("etc/motd")).unwrap();
    assert_eq!(whiteout.rdev(), 0);
    // The processes are of the host's ids in the map.
    let info = debian.container.info().unwrap();
    let map = info.id_map.unwrap();
    let host = std::fs::metadata(format!("/proc/{}", info.pid.unwrap())).unwrap().uid();
    assert_eq!(host, map.host_root().unwrap().0.as_raw());
    assert_ne!(host, 0);
    // The layer itself is as it was.
    let root = support::fixture("debian").unwrap();
    assert!(root.join("etc/motd").exists() && !root.join("root-file").exists());
    let e = debian.container.exec(ExecOptions::new(["true"]).user(User::new(65536, 0))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfig);
    debian.end();
}

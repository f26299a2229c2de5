//! A container of the host's own files: what it sees, what it does not, and that the host stays as it is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use stockade::container::{Container, ContainerBuilder, ContainerConfig, Mount, MountSet};
use stockade::instance::{ExecOptions, Stdio};
use stockade::{ErrorKind, Rootfs, Runtime};
use support::{HostSnapshot, PrivateDirs, require_root};

fn runtime(dirs: &PrivateDirs) -> Runtime {
    Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap()
}

fn host(name: &str) -> ContainerBuilder {
    ContainerConfig::builder(name).ephemeral().rootfs(Rootfs::host()).args(["sleep", "1000"])
}

/// What `script` prints, and whether it succeeded.
fn sh(c: &Container, script: &str) -> (bool, String) {
    let options = ExecOptions::new(["sh", "-c", script]).stdout(Stdio::Piped).stderr(Stdio::Piped);
    let out = c.exec(options).unwrap().output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[track_caller]
fn yes(c: &Container, script: &str) {
    let (ok, text) = sh(c, script);
    assert!(ok, "`{script}` fails: {text}");
}

#[track_caller]
fn no(c: &Container, script: &str) {
    let (ok, text) = sh(c, script);
    assert!(!ok, "`{script}` succeeds: {text}");
}

/// Whether the host's root can be below an overlay. If not, its directories are read-only.
fn is_layer() -> bool {
    const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
    let fs = rustix::fs::statfs("/").unwrap();
    fs.f_type != OVERLAYFS_MAGIC && same_device("/", "/usr")
}

fn same_device(a: &str, b: &str) -> bool {
    let device = |path| std::fs::metadata(path).unwrap().dev();
    device(a) == device(b)
}

#[test]
fn shows_the_hosts_files_and_hides_its_secrets_for_good() {
    let _serial = support::serial();
    require_root!();
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    let beside = tempfile::Builder::new().prefix("stockade-test-").tempdir_in("/var/lib").unwrap();
    {
        // The runtime's directory where nothing but its own mask hides it.
        let state = beside.path().join("state");
        let rt = Runtime::builder().state_dir(&state).run_dir(dirs.run()).open().unwrap();
        let c = rt.create(host("seen").build().unwrap()).unwrap();
        c.start().unwrap();
        let here = std::fs::read_to_string("/etc/os-release").unwrap();
        assert_eq!(sh(&c, "cat /etc/os-release"), (true, here));
        yes(&c, "test $(hostname) = seen -a $(id -u) = 0 -a -d /usr");

        let state = state.display();
        for empty in ["/root", "/home", "/tmp", "/var/tmp", "/run", &state.to_string()] {
            yes(&c, &format!("test -d {empty} && test -z \"$(ls -A {empty})\""));
        }
        if Path::new("/etc/shadow").exists() {
            yes(&c, "test ! -s /etc/shadow && test ! -f /etc/shadow");
        }
        // Root of the container cannot take the covers away, not even from a mount namespace of its own.
        no(&c, "umount /root || umount -l /etc/shadow || mount -t tmpfs x /mnt");
        no(&c, "unshare -m true");
        no(&c, "unshare -Ur -m sh -c 'umount /root' || unshare -Ur -m sh -c 'umount /etc/shadow'");
        c.stop().unwrap();
    }
    drop(beside);
    before.assert_unchanged();
}

#[test]
fn what_is_written_goes_with_the_run() {
    let _serial = support::serial();
    require_root!();
    let before = HostSnapshot::take();
    let dirs = support::private_dirs();
    // A directory that the container does not get anew, and that a failure of this test does no harm to.
    let kept = tempfile::Builder::new().prefix("stockade-test-").tempdir_in("/var/lib").unwrap();
    std::fs::write(kept.path().join("file"), "the host's\n").unwrap();
    {
        let rt = runtime(&dirs);
        let data = tempfile::tempdir().unwrap();
        let mount = Mount::bind(data.path(), "/home/data").idmapped();
        let c = rt.create(host("writes").mount(mount).build().unwrap()).unwrap();
        c.start().unwrap();
        let (file, new) = (kept.path().join("file"), kept.path().join("new"));
        let (file, new) = (file.display(), new.display());
        if is_layer() {
            yes(&c, &format!("echo changed > {file} && echo x > {new}"));
            yes(&c, &format!("cat {file} | grep -q changed && rm -r {}", kept.path().display()));
        } else {
            no(&c, &format!("echo changed > {file} || echo x > {new}"));
        }
        yes(&c, "echo x > /tmp/x && echo x > /root/x && mkdir -p /run/x && echo mine > /home/data/file");
        assert_eq!(std::fs::read_to_string(data.path().join("file")).unwrap(), "mine\n");
        c.stop().unwrap();
        assert_eq!(std::fs::read_to_string(kept.path().join("file")).unwrap(), "the host's\n");
        assert!(!kept.path().join("new").exists());
    }
    drop(kept);
    before.assert_unchanged();
}

#[test]
fn is_refused_where_it_could_not_hide_anything() {
    let _serial = support::serial();
    for builder in [host("p").privileged(), host("p").base_mounts(MountSet::None)] {
        let e = builder.build().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidConfig);
        assert!(e.to_string().contains("rootfs: the host's files"), "{e}");
    }
}

//! The host's own files: what the runtime keeps, opens and unpacks with the rights of its user.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::libc;
use stockade::container::{ContainerConfig, MountSet};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::rootfs::{Unpack, UnpackIds};
use stockade::{ErrorKind, InstanceId, InstanceName, Rootfs, Runtime};

use crate::again;
use crate::inside::{HostFiles, SECRET, first_pid, open_to_all, say};
use crate::rig::{Rig, busybox, end, sh};

/// Somebody who has no rights on this host.
const NOBODY: u32 = 65_534;

/// **CVE-2015-1331** (LXC). The runtime makes lock files and directories where everybody may write: a user puts a link
/// there first, and the runtime, which is root, makes or truncates the file that it leads to. Names with `..` lead out of
/// the directory too. Step: opening the runtime, making an instance. Held by: the directories must be no links, belong to
/// the runtime's user and be writable by nobody else; all else is made in them by descriptor; and a name has no slash. The
/// comparison is what a careless program does: it writes to the path.
#[test]
fn cve_2015_1331_files_of_the_runtime_are_not_made_through_links() {
    let _serial = support::serial();
    support::require_root!();
    let files = HostFiles::new();
    let shared = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let good = support::private_dirs();
    let open = |run: &Path| Runtime::builder().state_dir(good.state()).run_dir(run).open();
    // A link in the place of the directory.
    let run = shared.path().join("run");
    symlink(files.path(), &run).unwrap();
    std::os::unix::fs::lchown(&run, Some(NOBODY), Some(NOBODY)).unwrap();
    let e = open(&run).unwrap_err();
    assert!(matches!(e.errno(), Some(libc::ENOTDIR | libc::ELOOP)), "{e}");
    files.assert_untouched(&[]);
    fs::write(run.join("careless"), "").unwrap();
    assert!(files.path().join("careless").exists(), "what a careless program does");
    fs::remove_file(files.path().join("careless")).unwrap();
    fs::remove_file(&run).unwrap();
    // A directory of somebody else's, and one that others may write to.
    fs::create_dir(&run).unwrap();
    std::os::unix::fs::chown(&run, Some(NOBODY), Some(NOBODY)).unwrap();
    assert_eq!(open(&run).unwrap_err().kind(), ErrorKind::PermissionDenied);
    std::os::unix::fs::chown(&run, Some(0), Some(0)).unwrap();
    for mode in [0o777, 0o1777, 0o775, 0o702] {
        fs::set_permissions(&run, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(open(&run).unwrap_err().kind(), ErrorKind::PermissionDenied, "{mode:o}");
    }
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
    // What lies in it in the place of what is made there.
    symlink(files.path(), run.join("instances")).unwrap();
    let e = open(&run).unwrap_err();
    assert!(matches!(e.errno(), Some(libc::ENOTDIR | libc::ELOOP)), "{e}");
    fs::remove_file(run.join("instances")).unwrap();
    open(&run).unwrap().close();
    files.assert_untouched(&[]);
    // Names.
    let mut refused = 0;
    for name in ["../x", "..", ".", "a/../../x", "a/b/c/d", "/etc/x", "x\0y", ".tmp-x", "a b", "x/.."] {
        assert!(InstanceName::new(name).is_err(), "{name:?}");
        assert!(name.parse::<InstanceId>().is_err(), "{name:?}");
        assert!(ContainerConfig::builder(name).rootfs(Rootfs::dir("/x")).build().is_err(), "{name:?}");
        refused += 1;
    }
    say(&format!("CVE-2015-1331: {refused} names refused"));
}

/// A copy of this program that everybody can execute, as a command that does the test once more as nobody.
fn as_nobody(dir: &Path, test: &str, role: &str) -> Command {
    let program = dir.join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let prepared = again::command(&[], test, role);
    let mut command = Command::new(program);
    command.args(prepared.get_args()).envs(prepared.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.current_dir("/").uid(NOBODY).gid(NOBODY);
    command
}

/// **CVE-2017-5985** (LXC). A set-user-id helper makes or renames network interfaces in the namespace of any process that
/// it is told, without asking whether the caller has a right to it. Step: none here: there is no helper, and every call is
/// made with the rights of the host process. So a user's runtime cannot join, and not change, the network of a container
/// that is not his. The comparison is the same call by root, who may.
#[test]
fn cve_2017_5985_a_network_of_others_cannot_be_joined() {
    const TEST: &str = "host_files::cve_2017_5985_a_network_of_others_cannot_be_joined";
    let join = |dirs: &support::PrivateDirs, path: &str| {
        let runtime = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap();
        let join = NamespaceSource::Join(Target::Path(path.into()));
        let root = support::fixture("busybox").unwrap_or_else(|_| "/".into());
        let config = ContainerConfig::builder("thief").rootfs(Rootfs::dir(root)).base_mounts(MountSet::None);
        let config = config.cgroup(stockade::container::CgroupConfig::None).kill_on_drop();
        let config = config.namespace(NamespaceKind::Net, join).args(["/bin/sleep", "100"]);
        let c = runtime.create(config.build().unwrap()).unwrap();
        let started = c.start();
        drop(c);
        runtime.close();
        started
    };
    if let Some(path) = again::role() {
        let dirs = support::private_dirs();
        let e = join(&dirs, &path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}");
        assert!(e.to_string().contains(&path), "{e}");
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("c"));
    let path = format!("/proc/{}/ns/net", first_pid(&c));
    let dir = HostFiles::new();
    let out = as_nobody(dir.path(), TEST, &path).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&out.stderr));
    let dirs = support::private_dirs();
    join(&dirs, &path).unwrap();
    end(c);
    dir.assert_untouched(&["test"]);
    drop(dirs);
    drop(dir);
    rig.end();
}

/// **CVE-2018-6556** (LXC). The set-user-id helper opens any path that it is told, as root, to see whether it is a network
/// namespace: that tells whether a file is there, and has the effects of opening it. Step: opening a namespace by its path.
/// Held by: no helper; the file is opened with the rights of the host process, without waiting, and must be a namespace of
/// the kind asked for before anything is done with it. The comparison is a plain open, which hangs.
#[test]
fn cve_2018_6556_a_path_that_is_no_namespace_has_no_effect() {
    let Some(rig) = Rig::new() else { return };
    let files = HostFiles::new();
    let fifo = files.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut tried = 0;
    for path in [fifo.clone(), files.secret(), "/dev/null".into(), "/dev/ptmx".into(), PathBuf::from("/")] {
        let join = NamespaceSource::Join(Target::Path(path.clone()));
        let c =
            rig.runtime.create(busybox("c").namespace(NamespaceKind::Net, join).build().unwrap()).unwrap();
        let e = c.start().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{}: {e}", path.display());
        assert!(!e.to_string().contains(SECRET));
        c.delete().unwrap();
        tried += 1;
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let plain = fifo.clone();
    let hanging = std::thread::spawn(move || sender.send(fs::File::open(plain).is_ok()));
    assert!(receiver.recv_timeout(Duration::from_millis(300)).is_err(), "a plain open waits for a writer");
    drop(fs::OpenOptions::new().write(true).open(&fifo).unwrap());
    hanging.join().unwrap().unwrap();
    files.assert_untouched(&["fifo"]);
    say(&format!("CVE-2018-6556: {tried} paths tried"));
    drop(files);
    rig.end();
}

/// Type, name and link target.
pub(crate) type Member<'a> = (char, &'a str, &'a str);

/// An archive of these members (`tar(5)`); files have no content.
pub(crate) fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, path, link) in members {
        let mut head = [0_u8; 512];
        head[..path.len()].copy_from_slice(path.as_bytes());
        for (at, number) in
            [(100, "0000755\0"), (108, "0000000\0"), (116, "0000000\0"), (124, "00000000000\0")]
        {
            head[at..at + number.len()].copy_from_slice(number.as_bytes());
        }
        head[136..148].copy_from_slice(b"00000000000\0");
        head[148..156].fill(b' ');
        head[156] = *kind as u8;
        head[157..157 + link.len()].copy_from_slice(link.as_bytes());
        head[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend_from_slice(&head);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// **Files of an image that lead out of it** (canonical/lxd#789, golang/vulndb#4357, golang/vulndb#5798,
/// golang/vulndb#5803). The top of an archive is a link, or a directory that a later member replaces by one, and what comes
/// after is written through it. Step: unpacking. Held by: each member is made below a directory that is held open, without
/// following a link. The comparison writes to the paths, as a careless program does.
#[test]
fn members_of_an_archive_do_not_leave_it() {
    let _serial = support::serial();
    let files = HostFiles::new();
    let outside = files.path().display().to_string();
    let up = format!("{}{outside}", "../".repeat(12));
    let mut tried = 0;
    for to in [outside.as_str(), up.as_str(), "..", "../.."] {
        let secret = format!("{to}/secret");
        let archives: [&[Member<'_>]; 7] = [
            &[('2', "rootfs", to), ('0', "rootfs/new", "")],
            &[('5', "rootfs", ""), ('2', "rootfs", to), ('0', "rootfs/new", "")],
            &[('2', "a", to), ('2', "b", "a"), ('0', "b/new", "")],
            &[('2', "templates", to), ('5', "templates", ""), ('0', "templates/new", "")],
            &[('0', "metadata.yaml", ""), ('2', "metadata.yaml", &secret), ('0', "metadata.yaml", "")],
            &[('2', "a", to), ('1', "b", "a/secret")],
            &[('2', "backup", &secret), ('1', "b", "backup"), ('0', "b", "")],
        ];
        for tar in archives {
            let place = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
            let ids = if rustix::process::geteuid().is_root() { UnpackIds::AsIs } else { UnpackIds::Caller };
            // It is refused, or lies inside.
            let _ = Unpack::new().ids(ids).run(&*archive(tar), place.path().join("target"));
            files.assert_untouched(&[]);
            tried += 1;
        }
    }
    let place = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    symlink(&outside, place.path().join("rootfs")).unwrap();
    fs::write(place.path().join("rootfs/new"), "x").unwrap();
    assert!(files.path().join("new").exists(), "what a careless program does");
    say(&format!("archives that lead out: {tried} tried"));
}

/// **Files of an instance that lead out of it** (canonical/lxd#17550 and its like). The host writes the host name and the
/// machine id into the root file system of a system container, whose root has made links of them. Step: `write_over`. Held
/// by: it is done inside, after the host's root is gone, and follows no link. The comparison writes from the host.
#[test]
fn files_that_the_host_writes_into_a_root_do_not_leave_it() {
    let Some(rig) = Rig::new() else { return };
    let files = HostFiles::new();
    let root = crate::inside::Root::new();
    let secret = files.secret();
    for link in ["etc/hostname", "etc/machine-id"] {
        let _ = fs::remove_file(root.path().join(link));
        symlink(&secret, root.path().join(link)).unwrap();
    }
    fs::create_dir_all(root.path().join("var/lib/dbus")).unwrap();
    symlink(format!("{}{}", "../".repeat(12), secret.display()), root.path().join("var/lib/dbus/machine-id"))
        .unwrap();
    for _ in 0..2 {
        let c = rig.run(root.container("c").system().hostname("intruder").args(["/bin/sleep", "1000"]));
        end(c);
        files.assert_untouched(&[]);
    }
    fs::write(root.path().join("etc/hostname"), "intruder").unwrap();
    assert_ne!(fs::read_to_string(&secret).unwrap(), SECRET, "what a careless program does");
    drop(root);
    drop(files);
    rig.end();
}

/// **Set-user-id programs on the host** (flatcar/Flatcar#1945). Root of a container makes a set-user-id program in its file
/// system; with an id map it belongs to root of the host on disk, and a user of the host executes it there. Step: where
/// instances' files are kept. Held by: nobody but the runtime's user can go through the directories above them; and what is
/// mounted in a container for it is `nosuid` unless told otherwise. The comparison opens the directories.
#[test]
fn set_id_programs_of_a_container_are_out_of_reach_for_users_of_the_host() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("c"));
    let script = "mkdir /x && cp /bin/busybox /x/busybox && chmod 4755 /x/busybox";
    assert_eq!(sh(&c, script).0, 0);
    let file = find(rig.dirs.state(), "x/busybox").expect("the file is in the instance's directory");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o4755);
    let run = || {
        let mut command = Command::new(&file);
        command.args(["id", "-u"]).uid(NOBODY).gid(NOBODY).current_dir("/").output()
    };
    let e = run().unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::EACCES), "{e}");
    // Not even the state directory itself, nor the run directory's instances.
    for dir in [rig.dirs.state(), rig.dirs.run()] {
        assert_eq!(fs::metadata(dir.join("instances")).unwrap().permissions().mode() & 0o077, 0);
    }
    let above: Vec<&Path> =
        file.ancestors().skip(1).take_while(|d| d.starts_with(rig.dirs.state())).collect();
    let modes: Vec<_> = above.iter().map(|d| fs::metadata(d).unwrap().permissions()).collect();
    above.iter().for_each(|dir| open_to_all(dir));
    let out = run().unwrap();
    assert!(out.status.success(), "weakened, a user of the host can execute it: {out:?}");
    // The next runtime takes the way away again, whatever is above.
    let other = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
    assert_eq!(run().unwrap_err().raw_os_error(), Some(libc::EACCES));
    other.close();
    for (dir, mode) in above.iter().zip(modes) {
        fs::set_permissions(dir, mode).unwrap();
    }
    end(c);
    rig.end();
}

/// The first file below a directory whose path ends so.
fn find(dir: &Path, ending: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.ends_with(ending) {
            return Some(path);
        }
        if entry.file_type().ok()?.is_dir()
            && let Some(found) = find(&path, ending)
        {
            return Some(found);
        }
    }
    None
}

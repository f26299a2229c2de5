//! Descriptors, working directories and memory of the host that a container could get hold of.

use std::fs;
use std::os::unix::fs::MetadataExt;

use stockade::container::{Container, ContainerBuilder};
use stockade::instance::{ExecOptions, StartOptions, Stdio};
use stockade::{Hold, Weaken};

use crate::inside::{HostFiles, SECRET, first_pid, found, release, say, task, victim};
use crate::rig::{Rig, busybox, end, sh};

/// The descriptors that a working directory is tried through.
const NUMBERS: std::ops::Range<u32> = 3..24;

/// Reads the host's file from wherever the program was put, upwards.
fn climb(files: &HostFiles) -> String {
    let path = files.secret();
    let path = path.display();
    format!(
        "p=.; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do cat $p{path} 2>/dev/null && exit; p=$p/..; done; exit 1"
    )
}

fn exec_reaches(c: &Container, files: &HostFiles, cwd: &str, weaken: &[Weaken]) -> Option<bool> {
    let climb = climb(files);
    let mut options = ExecOptions::new(["/bin/sh", "-c", &climb]).cwd(cwd).stdout(Stdio::Piped);
    for w in weaken {
        options = options.weaken(*w);
    }
    let out = c.exec(options).ok()?.output().unwrap();
    Some(String::from_utf8_lossy(&out.stdout).contains(SECRET))
}

fn start_reaches(rig: &Rig, config: ContainerBuilder, files: &HostFiles, weaken: &[Weaken]) -> Option<bool> {
    use std::io::Read;
    let climb = climb(files);
    let c = rig.runtime.create(config.args(["/bin/sh", "-c", &climb]).build().unwrap()).unwrap();
    let mut options = StartOptions::new().stdout(Stdio::Piped);
    for w in weaken {
        options = options.weaken(*w);
    }
    let reached = c.start_with(options).ok().map(|pipes| {
        let mut text = String::new();
        fs::File::from(pipes.stdout.unwrap()).read_to_string(&mut text).unwrap();
        c.wait().unwrap();
        text.contains(SECRET)
    });
    c.delete().unwrap();
    reached
}

/// **CVE-2024-21626** (runc). A descriptor of a host directory is still open while the working directory is entered, so
/// that `/proc/self/fd/N` as working directory, of a start or an exec, puts the program outside of its root.
/// Step: `chdir` to the configured directory. Held by: every descriptor of the host is closed before (`close_others`),
/// and the directory must be one that `getcwd` can name from the root (`working_dir`).
#[test]
fn cve_2024_21626_working_directory_through_a_descriptor() {
    let Some(rig) = Rig::new() else { return };
    let files = HostFiles::new();
    let mut tried = 0;
    for privileged in [false, true] {
        let config = |name: &str| if privileged { busybox(name).privileged() } else { busybox(name) };
        let c = rig.run(config("c"));
        let (mut by_exec, mut by_start) = (0, 0);
        for number in NUMBERS {
            let cwd = format!("/proc/self/fd/{number}");
            assert_ne!(exec_reaches(&c, &files, &cwd, &[]), Some(true), "exec: {cwd}");
            assert_ne!(start_reaches(&rig, config("s").cwd(&cwd), &files, &[]), Some(true), "start: {cwd}");
            // The same with a directory of the image that leads there.
            assert_eq!(sh(&c, &format!("ln -sfn {cwd} /work")).0, 0);
            assert_ne!(exec_reaches(&c, &files, "/work", &[]), Some(true), "link to {cwd}");
            tried += 3;
            let weak = [Weaken::LateClose];
            by_exec += u32::from(exec_reaches(&c, &files, &cwd, &weak) == Some(true));
            by_start += u32::from(start_reaches(&rig, config("s").cwd(&cwd), &files, &weak) == Some(true));
        }
        assert!(by_exec > 0, "weakened, exec must reach the host's file (privileged: {privileged})");
        // The host's root is open in a start that binds devices from it.
        assert!(by_start > 0 || privileged, "weakened, a start must reach the host's file");
        end(c);
    }
    files.assert_untouched(&[]);
    say(&format!("CVE-2024-21626: {tried} working directories tried"));
    drop(files);
    rig.end();
}

/// What a process holds that is not its container's: its descriptors, working directory and root, by their mounts.
fn foreign(pid: u32) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let own: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').next()).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number = entry.file_name().into_string().unwrap();
        let target = fs::read_link(entry.path()).unwrap();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let mount = info.lines().find_map(|l| l.strip_prefix("mnt_id:")).unwrap().trim().to_owned();
        let text = target.display().to_string();
        // A pipe that the caller asked for is the one thing that may come from outside.
        if !text.starts_with("pipe:") && !own.contains(&mount.as_str()) {
            found.push(format!("fd {number} is {text}"));
        }
    }
    let root = fs::metadata(format!("/proc/{pid}/root/.")).unwrap();
    let host = fs::metadata("/").unwrap();
    if (root.dev(), root.ino()) == (host.dev(), host.ino()) {
        found.push("its root is the host's".to_owned());
    }
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    if cwd != std::path::Path::new("/") {
        found.push(format!("its working directory is {}", cwd.display()));
    }
    found
}

/// **Leaked descriptors** (lxc/go-lxc#66, and what CVE-2016-9962 and CVE-2024-21626 go through): no process of a
/// container, started or executed, has a descriptor, a working directory or a root of the host. Step: the last ones
/// before `execve`. Held by: `close_others`, and streams that the caller chooses.
#[test]
fn no_descriptor_of_the_host_is_in_any_process() {
    let Some(rig) = Rig::new() else { return };
    // What a careless host has open for its children.
    let careless = rustix::io::fcntl_dupfd_cloexec(fs::File::open("/").unwrap(), 50).unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    let mut processes = 0;
    for privileged in [false, true] {
        let config = |name: &str| if privileged { busybox(name).privileged() } else { busybox(name) };
        let c = rig.run(config("c"));
        let sleep = || ExecOptions::new(["sleep", "1000"]).stdout(Stdio::Piped);
        let plain = c.exec(sleep()).unwrap();
        let leaky = c.exec(sleep().weaken(Weaken::Leak)).unwrap();
        assert_eq!(foreign(first_pid(&c)), Vec::<String>::new());
        assert_eq!(foreign(plain.pid()), Vec::<String>::new());
        assert!(!foreign(leaky.pid()).is_empty(), "weakened, a leak must be seen");
        processes += 2;
        end(c);
        let leaky = rig.runtime.create(config("l").build().unwrap()).unwrap();
        leaky.start_with(StartOptions::new().weaken(Weaken::Leak)).unwrap();
        assert!(!foreign(first_pid(&leaky)).is_empty(), "weakened, a leak must be seen");
        end(leaky);
    }
    drop(careless);
    say(&format!("descriptors of {processes} processes looked at"));
    rig.end();
}

/// **CVE-2016-9962** (runc, LXC). A process that joins a container to run a command there is visible to the container's
/// root before it has given up what it holds of the host: it can be traced, and its descriptors lead to the host's
/// files. Step: between `setns` and `execve`. Held by: the joiner makes itself undumpable before it joins, and has
/// memory of its own, not the host's.
#[test]
fn cve_2016_9962_the_joining_process_cannot_be_looked_at() {
    let Some(rig) = Rig::new() else { return };
    let files = HostFiles::new();
    let c = rig.run(victim("c"));
    assert_eq!(sh(&c, "mkfifo -m 666 /hold").0, 0);
    let look = |weaken: &[Weaken]| {
        let watcher = c.exec(task(&format!("look-at-newcomer {}", files.secret().display()))).unwrap();
        std::thread::scope(|s| {
            let watching = s.spawn(move || found(Ok(watcher)));
            // It lists who is there first.
            std::thread::sleep(std::time::Duration::from_secs(1));
            let joining = s.spawn(|| {
                let mut options = ExecOptions::new(["true"]).weaken(Weaken::Wait(Hold::Joined));
                for w in weaken {
                    options = options.weaken(*w);
                }
                c.exec(options).unwrap().wait().unwrap()
            });
            let found = watching.join().unwrap();
            release(&c);
            assert!(joining.join().unwrap().success());
            found
        })
    };
    let held = look(&[]);
    for file in ["maps", "mem", "environ", "exe", "cwd", "root", "ns"] {
        assert!(held.contains(&format!("{file} EACCES")), "{held:?}");
    }
    assert!(held.contains(&"trace EPERM".to_owned()) && held.contains(&"fd no".to_owned()), "{held:?}");
    let open = look(&[Weaken::Dumpable]);
    for seen in ["maps yes", "root yes", "ns yes", "trace yes"] {
        assert!(open.contains(&seen.to_owned()), "weakened: {open:?}");
    }
    assert!(open.contains(&format!("secret {SECRET}")), "weakened, the host's file is reached: {open:?}");
    end(c);
    files.assert_untouched(&[]);
    drop(files);
    rig.end();
}

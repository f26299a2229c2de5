//! `mount` by FUSE programs of the container's own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockade::cgroup::DevicePolicy;
use stockade::container::{Container, Mount};
use stockade::instance::{ExecOptions, Stdio};
use stockade::process::User;
use stockade::seccomp::{Interception, MountInterception, Nodes, NotifyLoop};
use stockade::{ExitStatus, Runtime};

use super::calls::debian;
use super::loop_device::LoopDevice;
use super::rig::{Rig, end, sh};
use super::{fails, inside, works};

/// Needs a directory for what the container is given, and makes in it: an image of ext4 with a file of root and one of
/// user 7, and the node of FUSE, which on a machine without udev is root's alone.
fn prepare(work: &Path) -> bool {
    let script = "mkdir tree; echo text > tree/file; echo of-seven > tree/seven; chown 7:8 tree/seven; chmod 640 tree/seven
        truncate -s 16M image; mkfs.ext4 -q -F -d tree image; mknod -m 666 fuse c 10 229";
    let done = Command::new("sh").args(["-ec", script]).current_dir(work).output().unwrap();
    let opened = std::fs::File::options().read(true).write(true).open(work.join("fuse"));
    match (done.status.success(), opened) {
        (true, Ok(_)) => true,
        (made, opened) => {
            let why = String::from_utf8_lossy(&done.stderr);
            support::skip(format!("needs mkfs.ext4 and /dev/fuse: {made} {why} {opened:?}"));
            false
        }
    }
}

/// What is mounted by a program: names that `mount(8)` does not know, so that it gives it the file as it is.
fn programs() -> MountInterception {
    ["imagefs", "ext4"]
        .into_iter()
        .fold(MountInterception::new(), |all, name| all.by_program(name, "fuse2fs"))
}

/// Runs a Debian whose first process reaps what is left to it.
fn start(rig: &Rig, work: &Path, name: &str, mount: Option<MountInterception>) -> Option<Arc<Container>> {
    let config = debian(work, name)?
        .args(["bash", "-c", "while :; do sleep 1; done"])
        .devices(DevicePolicy::standard())
        .mount(Mount::bind(work.join("fuse"), "/dev/fuse").dev());
    Some(rig.run(match mount {
        Some(mount) => config.intercept(Interception::new().mount(mount).mknod(Nodes::Usable).sysinfo()),
        None => config,
    }))
}

/// Puts a shell script among the programs of the container.
fn put(c: &Container, name: &str, script: &str) {
    let file = format!("/usr/local/bin/{name}");
    works(c, &format!("cat > {file} <<'END'\n#!/bin/sh\n{script}\nEND\nchmod 755 {file}"));
}

/// Waits until no process of this name is left, a dead one neither.
fn gone(c: &Container, name: &str) {
    support::until(Duration::from_secs(20), "the program is gone", || {
        works(c, "cat /proc/[0-9]*/comm 2>/dev/null || true").lines().all(|comm| comm != name)
    });
}

fn with_work(test: impl FnOnce(&Rig, &Path)) {
    let Some(rig) = Rig::new() else { return };
    let work = tempfile::tempdir().unwrap();
    if prepare(work.path()) {
        test(&rig, work.path());
    }
    drop(work);
    rig.end();
}

/// Reads and writes what is mounted at `/m`.
fn use_it(c: &Container) {
    assert_eq!(works(c, "stat -c '%u:%g %a' /m/seven; cat /m/file /m/seven"), "7:8 640\ntext\nof-seven");
    works(c, "echo more > /m/new; chown 9:10 /m/new; mkdir /m/dir; cp /bin/true /m/dir; /m/dir/true");
    assert_eq!(works(c, "stat -c %u:%g /m/new; cat /m/new"), "9:10\nmore");
    works(c, "umount /m; test ! -e /m/new");
    gone(c, "fuse2fs");
}

#[test]
fn a_program_mounts_an_image() {
    with_work(|rig, work| {
        let Some(c) = start(rig, work, "image", Some(programs())) else { return };
        works(&c, "mkdir /m; mount -t imagefs /work/image /m");
        let line = works(&c, "grep ' /m ' /proc/mounts");
        assert!(line.contains(" fuse"), "{line}");
        use_it(&c);
        // What was written is there again, also when nobody may write.
        works(&c, "cd /work; mount -t imagefs -o ro,nosuid image ../m; test $(cat /m/new) = more");
        let line = works(&c, "grep ' /m ' /proc/mounts");
        assert!(line.contains("nosuid"), "{line}");
        fails(&c, "touch /m/other");
        works(&c, "umount /m");
        gone(&c, "fuse2fs");
        // By the call itself, as the file system that it is.
        if let Some(said) = inside::run(&c, "mount") {
            assert_eq!(said, ["0", "ENOENT", "EPERM", "EFAULT", "EPERM"]);
            works(&c, "test -e /m/file; umount /m");
            gone(&c, "fuse2fs");
        }
        // Others need no help as before, and one that nobody asked for gets none.
        works(&c, "mount -t tmpfs t /m; umount /m; mount --bind /bin /m; umount /m");
        assert!(fails(&c, "mount -t otherfs /work/image /m").contains("unknown filesystem type"));
        // One that is still mounted ends with the container.
        works(&c, "mount -t imagefs /work/image /m");
        end(c);
    });
}

#[test]
fn a_program_mounts_a_block_device() {
    with_work(|rig, work| {
        let device = match LoopDevice::new() {
            Ok(device) => device,
            Err(why) => return support::skip(why),
        };
        std::fs::copy(work.join("image"), device.node()).unwrap();
        std::fs::set_permissions(device.node(), std::fs::Permissions::from_mode(0o666)).unwrap();
        let (major, minor) = {
            use std::os::unix::fs::MetadataExt;
            let rdev = std::fs::metadata(device.node()).unwrap().rdev();
            (libc::major(rdev), libc::minor(rdev))
        };
        let Some(config) = debian(work, "block") else { return };
        let c = rig.run(
            config
                .args(["bash", "-c", "while :; do sleep 1; done"])
                .devices(DevicePolicy::standard().allow(format!("b {major}:{minor} rw").parse().unwrap()))
                .mount(Mount::bind(work.join("fuse"), "/dev/fuse").dev())
                .mount(Mount::bind(device.node(), "/dev/image").dev())
                .intercept(Interception::new().mount(programs())),
        );
        works(&c, "mkdir /m; mount -t ext4 /dev/image /m");
        use_it(&c);
        end(c);
    });
}

#[test]
fn switched_off_it_fails_as_on_a_plain_kernel() {
    with_work(|rig, work| {
        let without = [None, Some(MountInterception::new().by_program("otherfs", "fuse2fs"))];
        for (n, mount) in without.into_iter().enumerate() {
            let Some(c) = start(rig, work, &format!("off-{n}"), mount) else { return };
            works(&c, "mkdir /m");
            fails(&c, "mount -t imagefs /work/image /m");
            if let Some(said) = inside::run(&c, "mount") {
                assert_eq!(said[0], "EPERM");
            }
            end(c);
        }
    });
}

/// Shows how it runs.
const SHOW: &str = r#"{ id -u; id -G; umask; pwd; ls /only 2>&1
for ns in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$ns; done
grep -E "^(NoNewPrivs|Seccomp|CapBnd|CapEff|CapPrm|CapInh|CapAmb)" /proc/self/status; cat /proc/self/cgroup; }"#;
/// As `mount -o ro,x=1`, which is for root alone.
const MOUNT: &str = r#"perl -e 'my ($s, $t, $f, $o) = ("src", "/m", "showfs", "x=1"); exit(syscall(165, $s, $t, $f, 1, $o) != -1)'"#;

#[test]
fn a_program_runs_as_the_caller() {
    with_work(|rig, work| {
        let Some(c) = start(rig, work, "caller", Some(programs().by_program("showfs", "show"))) else {
            return;
        };
        works(&c, "mkdir -m 777 /m /out; mkdir /jail; mount --rbind / /jail; mount -t tmpfs t /jail/root");
        let rest = "ls -l /proc/self/fd > /out/fds; echo \"$@\" > /out/args";
        put(&c, "show", &format!("{SHOW} > /out/of-program; {rest}"));
        put(&c, "both", &format!("{SHOW} > /out/of-caller; {MOUNT}"));
        let ways = [
            "both",
            "cd /out; umask 027; both",
            "chroot /jail sh -c 'cd /out; both'",
            "unshare -m -n -i -u -C sh -c 'mkdir /only; mount -t tmpfs t /only; touch /only/x; cd /only; both'",
            "unshare -p -f --mount-proc both",
            "setpriv --no-new-privs both",
            "setpriv --groups 4,5 --regid 6 both",
            "setpriv --bounding-set -net_raw,-mknod,-dac_override both",
            "setpriv --reuid 7 --regid 8 --groups 9 --inh-caps +sys_admin,+chown --ambient-caps +sys_admin,+chown both",
        ];
        for way in ways {
            works(&c, "rm -f /out/*");
            works(&c, way);
            let [program, caller] = ["program", "caller"].map(|who| works(&c, &format!("cat /out/of-{who}")));
            let rights = |text: &str| -> Vec<u64> {
                let lines = text.lines().filter_map(|l| l.strip_prefix("Cap")?.split_once(":\t"));
                lines.map(|(_, n)| u64::from_str_radix(n, 16).unwrap()).collect()
            };
            let others = |text: &str| -> Vec<String> {
                text.lines().filter(|l| !l.starts_with("Cap")).map(str::to_owned).collect()
            };
            assert_eq!(others(&program), others(&caller), "{way}");
            // Inheritable, permitted, effective, bounding, ambient.
            let (of_program, of_caller) = (rights(&program), rights(&caller));
            let effective = of_caller[2];
            assert_eq!(of_program[1..3], [effective, effective], "{way}: {program}");
            assert!(of_program.iter().all(|set| set & !effective == 0), "{way}: {program}");
            assert_eq!(works(&c, "cat /out/args"), "src /m -o ro,x=1", "{way}");
            // Three streams, and what `ls` opens.
            let fds = works(&c, "grep -c -- '->' /out/fds; grep -c /dev/null /out/fds");
            assert_eq!(fds, "4\n2", "{way}: {}", works(&c, "cat /out/fds"));
        }
        eprintln!("{} kinds of callers", ways.len());
        end(c);
    });
}

#[test]
fn callers_that_may_not_mount_are_refused() {
    with_work(|rig, work| {
        let Some(c) = start(rig, work, "refused", Some(programs().by_program("leavefs", "leave"))) else {
            return;
        };
        put(&c, "leave", "touch /out/ran");
        works(&c, "mkdir -m 777 /m /out");
        let as_user = ExecOptions::new(["sh", "-c", "exec 2>&1; mount -i -t leavefs x /m"]);
        let out = c.exec(as_user.user(User::new(7, 7)).stdout(Stdio::Piped)).unwrap().output().unwrap();
        assert_ne!(out.status, ExitStatus::Exited(0), "{out:?}");
        let ways = [
            "setpriv --reuid 7 --regid 7 --clear-groups mount -i -t leavefs x /m",
            "setpriv --bounding-set -sys_admin mount -i -t leavefs x /m",
            // In a user namespace below, where anybody has all capabilities.
            "unshare -Ur mount -i -t leavefs x /m",
            "unshare -Urm mount -i -t leavefs x /m",
        ];
        for way in ways {
            fails(&c, way);
        }
        // Under a filter of its own, which the program would not be under.
        if let Some(said) = inside::run(&c, "filtered") {
            assert_eq!(said, ["ENODEV"]);
        }
        works(&c, "test ! -e /out/ran");
        fails(&c, "mount -i -t leavefs x /m");
        works(&c, "test -e /out/ran");
        eprintln!("{} callers refused", ways.len() + 2);
        end(c);
    });
}

#[test]
fn programs_that_fail_leave_it_to_the_kernel() {
    with_work(|rig, work| {
        let kinds = ["missing", "fails", "nothing", "crashes", "none", "again"];
        let mount = kinds.iter().fold(programs(), |all, name| all.by_program(format!("{name}fs"), *name));
        let Some(c) = start(rig, work, "fails", Some(mount)) else { return };
        put(&c, "fails", "exit 3");
        put(&c, "nothing", "exit 0");
        put(&c, "crashes", "kill -SEGV $$");
        works(&c, "mkdir /m; echo text > /usr/local/bin/none");
        // Has itself started again and again.
        put(&c, "again", "echo x >> /again; exec mount -i -t againfs x /m");
        let before = open_fds();
        for _ in 0..3 {
            for kind in kinds {
                let text = fails(&c, &format!("mount -i -t {kind}fs /work/image /m"));
                assert!(
                    text.contains("unknown filesystem type") || text.contains("not permitted"),
                    "{kind}: {text}"
                );
            }
        }
        let times: u32 = works(&c, "wc -l < /again").parse().unwrap();
        assert_eq!(times, 3 * 16);
        // Not a file system at all.
        fails(&c, "mount -i -t imagefs /etc/passwd /m; ");
        fails(&c, "mount -i -t imagefs /no/such /m");
        fails(&c, "mount -i -t imagefs /work/image /no/such");
        support::until(Duration::from_secs(20), "descriptors are back", || open_fds() <= before);
        assert_eq!(works(&c, "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true"), "0");
        works(&c, "mount -i -t imagefs /work/image /m; cat /m/file; umount /m");
        gone(&c, "fuse2fs");
        eprintln!("{} failures", kinds.len() * 3 + 3);
        end(c);
    });
}

/// Whether a process of this name runs on this machine.
fn on_host(name: &str) -> bool {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let comm = |p: &std::fs::DirEntry| std::fs::read_to_string(p.path().join("comm")).unwrap_or_default();
    all.into_iter().any(|p| comm(&p).trim() == name)
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Its time is 30 s; until then the calls of others, and other calls of its own container, are answered.
#[test]
fn a_program_that_hangs_holds_nobody_up() {
    for drive in [NotifyLoop::Thread, NotifyLoop::Host] {
        with_work(|rig, work| {
            let builder = Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run());
            let runtime = builder.notify_loop(drive).open().unwrap();
            let Some(config) = debian(work, "hangs") else { return };
            let mount = MountInterception::new().by_program("hangfs", "hang");
            let what = Interception::new().mount(mount).mknod(Nodes::Usable);
            let run = |config: stockade::container::ContainerBuilder| {
                let c = runtime.create(config.intercept(what.clone()).build().unwrap()).unwrap();
                c.start().unwrap();
                c
            };
            let hangs = run(config.args(["bash", "-c", "while :; do sleep 1; done"]));
            let other = run(super::busybox("other"));
            let supervisor = runtime.supervisor().unwrap();
            let done = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|s| {
                s.spawn(|| {
                    while drive == NotifyLoop::Host && !done.load(std::sync::atomic::Ordering::Relaxed) {
                        supervisor.dispatch().unwrap();
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                put(&hangs, "hang", "sleep 1000 & wait");
                works(&hangs, "mkdir /m");
                let begun = Instant::now();
                let waits: Vec<_> =
                    (0..3).map(|_| s.spawn(|| sh(&hangs, "mount -i -t hangfs x /m"))).collect();
                let count = || works(&hangs, "cat /proc/[0-9]*/comm | grep -c ^hang || true");
                support::until(Duration::from_secs(20), "the programs run", || count() == "3");
                // One caller is killed: nobody waits for what its program does any more, and it goes on.
                works(&hangs, "kill -9 $(grep -l ^mount /proc/[0-9]*/comm | head -1 | cut -d/ -f3)");
                let mut rounds = 0;
                while begun.elapsed() < Duration::from_secs(5) {
                    works(&other, "mknod /null c 1 3; echo > /null; umount /null; rm /null");
                    works(&hangs, "mknod /null c 1 3; echo > /null; umount /null; rm /null");
                    rounds += 1;
                }
                assert_eq!(count(), "3");
                assert_eq!(waits.iter().filter(|w| !w.is_finished()).count(), 2);
                let ended: Vec<_> = waits.into_iter().map(|w| w.join().unwrap()).collect();
                assert!(ended.iter().all(|(code, _)| *code != 0), "{ended:?}");
                assert!(begun.elapsed() >= Duration::from_secs(29), "{:?}", begun.elapsed());
                // With what it had started.
                gone(&hangs, "hang");
                gone(&hangs, "sleep 1000");
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                eprintln!(
                    "{drive:?}: {rounds} rounds of calls of two containers beside 3 programs that hung"
                );
            });
            drop(supervisor);
            end(hangs);
            end(other);
            runtime.close();
        });
    }
}

/// Whatever ends while a program is at it, it ends with it.
#[test]
fn stop_and_close_end_programs() {
    with_work(|rig, work| {
        for closes in [false, true] {
            let runtime =
                Runtime::builder().state_dir(rig.dirs.state()).run_dir(rig.dirs.run()).open().unwrap();
            let Some(config) = debian(work, "ends") else { return };
            let mount = MountInterception::new().by_program("hangfs", "hang-ends");
            let config = config.args(["bash", "-c", "while :; do sleep 1; done"]);
            let config = config.intercept(Interception::new().mount(mount));
            let c = runtime.create(config.build().unwrap()).unwrap();
            c.start().unwrap();
            put(&c, "hang-ends", "sleep 1000");
            works(&c, "mkdir /m");
            std::thread::scope(|s| {
                let waits = s.spawn(|| {
                    let options = ExecOptions::new(["mount", "-i", "-t", "hangfs", "x", "/m"]);
                    c.exec(options).unwrap().wait().unwrap()
                });
                let runs = || sh(&c, "cat /proc/[0-9]*/comm | grep -c ^hang").1 == "1";
                support::until(Duration::from_secs(20), "the program runs", runs);
                if closes {
                    runtime.clone().close();
                    assert!(matches!(waits.join().unwrap(), ExitStatus::Exited(1..)));
                    // Nobody answers what another command would call.
                    support::until(Duration::from_secs(20), "the program is gone", || !on_host("hang-ends"));
                    c.stop().unwrap();
                } else {
                    c.stop().unwrap();
                    assert!(!waits.join().unwrap().success());
                }
            });
            end(c);
            runtime.close();
        }
    });
}

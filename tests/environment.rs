//! What a process finds inside: its own attributes, descriptors, devices, names, network.

mod rig;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal, pthread_sigmask};
use rig::{Rig, busybox, end, sh};
use stockade::caps::{CapSet, Capability, CapabilitySets};
use stockade::container::{Container, ContainerBuilder, ContainerConfig, Network};
use stockade::instance::{ExecOptions, StartOptions, Stdio};
use stockade::process::{Personality, Resource, Umask, User};
use stockade::{Rootfs, Signal};

fn output(c: &Container, options: ExecOptions) -> String {
    let out = c.exec(options.stdout(Stdio::Piped).stderr(Stdio::Piped)).unwrap().output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// What the first process writes, from its start to its end.
fn first(rig: &Rig, config: ContainerBuilder) -> String {
    let c = rig.runtime.create(config.build().unwrap()).unwrap();
    let pipes = c.start_with(StartOptions::new().stdout(Stdio::Piped).stderr(Stdio::Piped)).unwrap();
    let mut text = String::new();
    for pipe in [pipes.stdout, pipes.stderr] {
        File::from(pipe.unwrap()).read_to_string(&mut text).unwrap();
    }
    c.wait().unwrap();
    c.delete().unwrap();
    text
}

/// What one program writes, as the first process and through exec.
fn both(rig: &Rig, config: impl Fn(&str) -> ContainerBuilder, args: &[&str]) -> [(&'static str, String); 2] {
    let started = first(rig, config("first").args(args));
    let c = rig.run(config("second"));
    // Without naming a user, exec is root's.
    let user = c.config().user().clone();
    let mut options = ExecOptions::new(args.iter().copied()).user(user.clone());
    if !user.is_root() {
        options = options.capabilities(c.config().capabilities());
    }
    let exec = output(&c, options);
    end(c);
    [("start", started), ("exec", exec)]
}

fn fields(status: &str) -> BTreeMap<&str, &str> {
    status.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k, v.trim())).collect()
}

fn mask(set: CapSet) -> String {
    format!("{:016x}", set.bits())
}

/// The host has things that must not come through: an ignored and a blocked signal, an inheritable descriptor.
struct Dirt {
    _fd: std::os::fd::OwnedFd,
    blocked: SigSet,
}

impl Dirt {
    fn new() -> Self {
        let file = File::open("/etc/passwd").unwrap();
        let fd = rustix::io::fcntl_dupfd_cloexec(&file, 40).unwrap();
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
        assert!(fd.as_raw_fd() >= 40);
        let mut blocked = SigSet::empty();
        blocked.add(NixSignal::SIGUSR1);
        blocked.add(NixSignal::SIGTERM);
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();
        Self { _fd: fd, blocked }
    }
}

impl Drop for Dirt {
    fn drop(&mut self) {
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&self.blocked), None).unwrap();
    }
}

#[test]
fn a_default_container_has_exactly_the_default_attributes() {
    let Some(rig) = Rig::new() else { return };
    let dirt = Dirt::new();
    for privileged in [false, true] {
        let config = |name: &str| if privileged { busybox(name).privileged() } else { busybox(name) };
        let mut caps = config("x").build().unwrap().capabilities();
        if privileged {
            // Nobody gets more than the host process has itself.
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let own =
                |key| CapSet::from_bits_truncate(u64::from_str_radix(fields(&status)[key], 16).unwrap());
            caps = caps.limited_to(own("CapPrm").intersection(own("CapBnd")));
        }
        for (how, status) in both(&rig, config, &["cat", "/proc/self/status"]) {
            let s = fields(&status);
            assert_eq!(s["Uid"], "0\t0\t0\t0", "{how}");
            assert_eq!(s["Gid"], "0\t0\t0\t0", "{how}");
            assert_eq!(s["Groups"], "", "{how}");
            assert_eq!(s["CapEff"], mask(caps.effective), "{how}");
            assert_eq!(s["CapPrm"], mask(caps.permitted), "{how}");
            assert_eq!(s["CapBnd"], mask(caps.bounding), "{how}");
            assert_eq!((s["CapInh"], s["CapAmb"]), ("0000000000000000", "0000000000000000"), "{how}");
            assert_eq!(s["NoNewPrivs"], "0", "{how}");
            assert_eq!(s["Seccomp"], "2", "{how}");
            assert_eq!(s["Seccomp_filters"], "1", "{how}");
            assert_eq!(s["Umask"], "0022", "{how}");
            for set in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
                assert_eq!(s[set], "0000000000000000", "{how}: {set}");
            }
            let mknod = caps.effective.contains(Capability::Mknod);
            assert_eq!(mknod, !privileged, "no CAP_MKNOD where it could open the host's devices");
        }
        for (how, env) in both(&rig, config, &["cat", "/proc/self/environ"]) {
            let default =
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0container=stockade\0";
            assert_eq!(env, default, "{how}");
        }
        for (how, fds) in both(&rig, config, &["ls", "/proc/self/fd"]) {
            // 3 is the listing's own.
            assert_eq!(fds, "0\n1\n2\n3\n", "{how}");
        }
        for (how, cwd) in both(&rig, config, &["readlink", "/proc/self/cwd"]) {
            assert_eq!(cwd, "/\n", "{how}");
        }
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        for (how, score) in both(&rig, config, &["cat", "/proc/self/oom_score_adj"]) {
            assert_eq!(score, own, "{how}");
        }
    }
    drop(dirt);
    rig.end();
}

#[test]
fn attributes_are_exactly_as_configured() {
    let Some(rig) = Rig::new() else { return };
    let bind = CapSet::of(&[Capability::NetBindService]);
    let few = CapSet::of(&[Capability::NetBindService, Capability::Chown, Capability::Kill]);
    let caps =
        CapabilitySets { effective: bind, permitted: bind, inheritable: bind, bounding: few, ambient: bind };
    for privileged in [false, true] {
        let config = |name: &str| {
            let mut user = User::new(1000, 100);
            user.groups = vec!["7".parse().unwrap(), "3000".parse().unwrap()];
            let c = busybox(name)
                .user(user)
                .umask(Umask::new(0o077).unwrap())
                .capabilities(caps)
                .no_new_privs()
                .cwd("/var/tmp")
                .env_clear()
                .env("PATH", "/bin")
                .env("A", "1=2 3")
                .rlimit(Resource::Nofile, 100, 200)
                .rlimit(Resource::Core, 0, 0)
                .rlimit(Resource::Stack, 1 << 20, u64::MAX)
                .oom_score_adj(321)
                .personality(Personality::Linux32);
            if privileged { c.privileged() } else { c }
        };
        for (how, status) in both(&rig, config, &["cat", "/proc/self/status"]) {
            let s = fields(&status);
            assert_eq!(s["Uid"], "1000\t1000\t1000\t1000", "{how}");
            assert_eq!(s["Gid"], "100\t100\t100\t100", "{how}");
            assert_eq!(s["Groups"], "7 3000", "{how}");
            let sets = ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"].map(|k| s[k]);
            let one = mask(bind);
            assert_eq!(sets, [&one, &one, &one, &one, &mask(few)], "{how}");
            assert_eq!((s["NoNewPrivs"], s["Seccomp"], s["Umask"]), ("1", "2", "0077"), "{how}");
        }
        for (how, env) in both(&rig, config, &["cat", "/proc/self/environ"]) {
            assert_eq!(env, "PATH=/bin\0A=1=2 3\0", "{how}");
        }
        for (how, limits) in both(&rig, config, &["cat", "/proc/self/limits"]) {
            let line = |name: &str| {
                let line = limits.lines().find(|l| l.starts_with(name)).unwrap();
                line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(line("Max open files"), ["100", "200"], "{how}");
            assert_eq!(line("Max core file size"), ["0", "0"], "{how}");
            assert_eq!(line("Max stack size"), ["1048576", "unlimited"], "{how}");
        }
        let script =
            "cat /proc/self/oom_score_adj; pwd; uname -m; nc -l -p 80 & sleep 0.1; kill $! && echo bound";
        for (how, text) in both(&rig, config, &["sh", "-c", script]) {
            assert_eq!(text, "321\n/var/tmp\ni686\nbound\n", "{how}");
        }
    }
    rig.end();
}

#[test]
fn devices_work_and_no_others_can_be_opened() {
    let Some(rig) = Rig::new() else { return };
    let root = tempfile::tempdir_in(rig.dirs.state().parent().unwrap()).unwrap();
    copy(&support::fixture("busybox").unwrap(), root.path());
    let ok = Command::new("mknod").arg(root.path().join("node")).args(["c", "1", "5"]).status().unwrap();
    assert!(ok.success());
    std::fs::set_permissions(root.path().join("node"), std::fs::Permissions::from_mode(0o666)).unwrap();
    for privileged in [false, true] {
        let config = ContainerConfig::builder("dev").rootfs(Rootfs::dir(root.path())).args(["sleep", "1000"]);
        let c = rig.run(if privileged { config.privileged() } else { config });
        let works = [
            ("echo x > /dev/null && cat /dev/null", ""),
            ("head -c 4 /dev/zero | xxd -p", "00000000"),
            ("head -c 4 /dev/full | xxd -p", "00000000"),
            ("head -c 4 /dev/random | wc -c", "4"),
            ("head -c 4 /dev/urandom | wc -c", "4"),
            ("cat < /dev/null; echo y | cat /dev/stdin; echo z > /dev/stdout", "y\nz"),
            ("echo f > /dev/shm/f && cat /dev/shm/f && rm /dev/shm/f", "f"),
            ("stat -c '%a %F' /dev/shm /dev/null", "1777 directory\n666 character special file"),
            ("readlink /dev/ptmx; readlink /dev/fd", "pts/ptmx\n/proc/self/fd"),
            ("script() { :; }; [ -c /dev/pts/ptmx ] && ls /dev/pts", "ptmx"),
        ];
        for (script, expected) in works {
            assert_eq!(sh(&c, script), (0, expected.to_owned()), "{script}");
        }
        // A pseudo-terminal of its own: opening the multiplexer makes one in the container's devpts.
        assert_eq!(sh(&c, "exec 5<>/dev/ptmx; ls /dev/pts").1, "0\nptmx");
        for (script, why) in [
            ("echo x > /dev/full", "No space left on device"),
            ("cat /dev/tty", "No such device or address"),
            ("cat /node", "Permission denied"),
        ] {
            let (code, said) = sh(&c, script);
            assert!(code != 0 && said.contains(why), "{script}: {code} {said}");
        }
        let (code, said) = sh(&c, "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg");
        assert!(code != 0 && said.contains("Operation not permitted"), "{said}");
        let (code, said) = sh(&c, "mknod /dev/kmsg c 1 11 && cat /dev/kmsg");
        assert!(code != 0 && said.contains("Operation not permitted"), "{said}");
        end(c);
    }
    drop(root);
    rig.end();
}

fn copy(from: &Path, to: &Path) {
    let source = from.join(".");
    assert!(Command::new("cp").arg("-a").arg(source).arg(to).status().unwrap().success());
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn names_and_network_are_the_containers_own() {
    let Some(rig) = Rig::new() else { return };
    for privileged in [false, true] {
        let config = |name: &str| if privileged { busybox(name).privileged() } else { busybox(name) };
        let c = rig.run(config("web").hostname("inside.example").domainname("nis"));
        assert_eq!(sh(&c, "hostname; cat /proc/sys/kernel/domainname").1, "inside.example\nnis");
        // Only loopback, and it answers.
        assert_eq!(sh(&c, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").1, "lo");
        assert_eq!(sh(&c, "ls /sys/class/net").1, "lo");
        let talk = "nc -l -p 7777 -e echo hello & \
                    for i in 1 2 3 4 5 6 7 8 9 10; do nc 127.0.0.1 7777 </dev/null 2>/dev/null && exit; sleep 0.1; done; exit 1";
        assert_eq!(sh(&c, talk), (0, "hello".to_owned()));
        assert_eq!(sh(&c, "ping -c 1 -W 2 127.0.0.1 >/dev/null").0, 0);
        end(c);

        let c = rig.run(config("down").without_loopback());
        assert_eq!(sh(&c, "hostname").1, "down");
        assert!(!sh(&c, "ip link show lo").1.contains("UP"));
        assert_ne!(sh(&c, "ping -c 1 -W 1 127.0.0.1").0, 0);
        end(c);

        let c = rig.run(config("host").network(Network::Host));
        let names = |text: &str| {
            let mut names: Vec<String> = text
                .lines()
                .filter_map(|l| l.split_once(':'))
                .map(|(name, _)| name.trim().to_owned())
                .collect();
            names.sort();
            names
        };
        let host = std::fs::read_to_string("/proc/net/dev").unwrap();
        assert_eq!(names(&sh(&c, "cat /proc/net/dev").1), names(&host));
        let net = std::fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(sh(&c, "readlink /proc/self/ns/net").1, net.to_str().unwrap());
        // The host's /sys is there, and read-only through and through.
        assert_ne!(sh(&c, "mkdir /sys/fs/cgroup/unified/stockade-intruder").0, 0);
        let writable = "while read -r _ _ _ _ at flags _; do \
                        case $at,$flags in /sys,rw*|/sys/*,rw*) echo $at $flags;; esac; done < /proc/self/mountinfo";
        assert_eq!(sh(&c, writable).1, "");
        end(c);
    }
    rig.end();
}

#[test]
fn the_first_process_is_number_one_and_gets_signals() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("p").args(["sh", "-c", "trap 'exit 42' USR2; while :; do sleep 0.05; done"]));
    assert_eq!(
        sh(&c, "cat /proc/1/comm; readlink /proc/1/ns/pid; readlink /proc/self/ns/pid").1.lines().next(),
        Some("sh")
    );
    let (_, ids) = sh(&c, "readlink /proc/1/ns/pid; readlink /proc/self/ns/pid");
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids[0], ids[1]);
    // It may not have set its trap yet: PID 1 ignores what it has no handler for.
    while c.status().is_running() {
        c.kill(Signal::USR2).ok();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(c.wait().unwrap().code(), Some(42));
    c.delete().unwrap();
    drop(c);
    rig.end();
}

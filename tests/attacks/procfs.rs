//! Files of procfs and devices whose place somebody else changes while a container is being set up.
//!
//! Who could do that is in another container of the same pod: root of the same user namespace, with the new one's first
//! process in sight. What keeps him out is that this process cannot be looked at; what holds behind that is that every
//! place is checked. So each attack is tried three times: against the plan as it is, against one that lets him in, and
//! against one that does not check either.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use stockade::container::{Container, ContainerBuilder, SystemConfig};
use stockade::instance::{ExecOptions, StartOptions};
use stockade::namespaces::{NamespaceKind, NamespaceSource, Target};
use stockade::{Error, Hold, Weaken};

use crate::inside::{Root, first_pid};
use crate::rig::{Rig, busybox, end, sh};

/// How long the attacker's part may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A second container of the first one's pod.
fn second(config: ContainerBuilder) -> ContainerBuilder {
    [NamespaceKind::User, NamespaceKind::Pid].into_iter().fold(config, |config, kind| {
        config.namespace(kind, NamespaceSource::Join(Target::Instance("first".parse().unwrap())))
    })
}

/// Waits for a process that came from outside of the pid namespace, and until it stands still; then does `script` among
/// its mounts.
fn intrude(script: &str) -> String {
    format!(
        "me=$$; n=
         while [ -z \"$n\" ]; do
             for p in /proc/[0-9]*; do
                 i=${{p#/proc/}}
                 [ $i = 1 ] || [ $i = $me ] || ! grep -q '^PPid:.0$' $p/status 2>/dev/null || n=$i
             done
         done
         s=0
         while [ $s -lt 8 ]; do
             read -r _ _ state _ < /proc/$n/stat || exit 9
             [ \"$state\" = S ] && s=$((s+1)) || s=0
             sleep 0.05
         done
         exec nsenter -t $n -m -i sh -c '{script}'"
    )
}

/// The attacker's container and the other one.
struct Pod {
    first: Arc<Container>,
    second: Arc<Container>,
}

impl Pod {
    fn end(self) {
        end(self.second);
        end(self.first);
    }
}

/// Starts `config` in the pod of an attacker, who does `script` among the newcomer's mounts while that stands at `hold`.
/// What came of the start, and whether the attacker could do it.
fn meddle(
    rig: &Rig,
    root: &Root,
    config: ContainerBuilder,
    weaken: &[Weaken],
    script: &str,
) -> (Pod, Result<(), Error>, bool) {
    let first = rig.run(busybox("first"));
    let victim = rig.runtime.create(second(config).build().unwrap()).unwrap();
    let attack = intrude(script);
    let attacker = first.exec(ExecOptions::new(["sh", "-c", &attack])).unwrap();
    // What the attacker puts in the place of the null device might not be opened.
    let null = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let mut options = StartOptions::new().stdin(null()).stdout(null()).stderr(null());
    options = options.weaken(Weaken::Wait(Hold::Settings));
    for w in weaken {
        options = options.weaken(*w);
    }
    let (started, done) = std::thread::scope(|s| {
        let starting = s.spawn(|| victim.start_with(options).map(drop));
        let done = attacker.wait_timeout(PATIENCE).unwrap().expect("the attacker comes to an end").success();
        root.release();
        (starting.join().unwrap(), done)
    });
    (Pod { first, second: victim }, started, done)
}

/// What a file of the container holds, without a process in it.
fn seen(c: &Container, path: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/root/{path}", first_pid(c))).unwrap().trim_end().to_owned()
}

/// **CVE-2025-31133** (runc). Masked files are covered by a bind of the container's `/dev/null`; who replaces that with a
/// link while the container is being set up has any file of procfs bound there, writable. Step: the bind of each mask.
/// Held by: nobody can get at a process that sets up a container; and after each bind the file must be the null device.
#[test]
fn cve_2025_31133_a_null_device_that_is_replaced_masks_nothing() {
    let Some(rig) = Rig::new() else { return };
    let root = Root::new();
    let replace = "umount /dev/null && rm /dev/null && ln -s /proc/version /dev/null";
    let config = || root.container("second").masked_paths(["/proc/uptime"]);
    let try_it = |weaken: &[Weaken]| {
        let (pod, started, done) = meddle(&rig, &root, config(), weaken, replace);
        let found = started.as_ref().ok().map(|()| seen(&pod.second, "proc/uptime"));
        pod.end();
        (started, done, found)
    };
    let (started, done, seen) = try_it(&[]);
    assert!(!done && started.is_ok(), "{started:?}");
    assert_eq!(seen.as_deref(), Some(""), "masked");
    let (started, done, _) = try_it(&[Weaken::Dumpable]);
    let e = started.unwrap_err();
    assert!(done && e.step() == "mask path" && e.errno() == Some(libc::EXDEV), "{e}");
    let (started, done, seen) = try_it(&[Weaken::Dumpable, Weaken::Unverified]);
    assert!(done && started.is_ok(), "{started:?}");
    assert!(
        seen.unwrap().starts_with("Linux version"),
        "weakened, the file of the attacker's choice is there"
    );
    drop(root);
    rig.end();
}

/// **CVE-2025-52881** (runc), and the diverted writes of CVE-2019-16884 and CVE-2015-1335. What the runtime writes to
/// procfs, sysctls and labels, lands in another file of procfs that somebody has mounted over it. Step: each write. Held
/// by: nobody can get at the process; and each file is looked up from procfs itself, across no mount and no link.
#[test]
fn cve_2025_52881_a_write_to_procfs_is_not_diverted() {
    let Some(rig) = Rig::new() else { return };
    let root = Root::new();
    let divert = "mount -o bind /proc/sys/kernel/msgmnb /proc/sys/kernel/msgmax";
    let config = || root.container("second").sysctl("kernel.msgmax", "4099");
    let try_it = |weaken: &[Weaken]| {
        let (pod, started, done) = meddle(&rig, &root, config(), weaken, divert);
        let found = started.as_ref().ok().map(|()| sh(&pod.second, "cat /proc/sys/kernel/msgmnb").1);
        pod.end();
        (started, done, found)
    };
    let (started, done, seen) = try_it(&[]);
    assert!(!done && started.is_ok(), "{started:?}");
    assert_ne!(seen.as_deref(), Some("4099"));
    let (started, done, _) = try_it(&[Weaken::Dumpable]);
    let e = started.unwrap_err();
    assert!(done && e.step() == "set sysctl" && e.errno() == Some(libc::EXDEV), "{e}");
    let (started, done, seen) = try_it(&[Weaken::Dumpable, Weaken::Unverified]);
    assert!(done && started.is_ok(), "{started:?}");
    assert_eq!(seen.as_deref(), Some("4099"), "weakened, the write lands where the attacker wants it");
    // A whole procfs that is none, as CVE-2019-16884 has it, is no better.
    let fake = "mount -t tmpfs none /proc && mkdir -p /proc/sys/kernel && : > /proc/sys/kernel/msgmax";
    let (pod, started, done) = meddle(&rig, &root, config(), &[Weaken::Dumpable], fake);
    let e = started.unwrap_err();
    assert!(done && e.errno() == Some(libc::EXDEV) && e.to_string().contains("/proc"), "{e}");
    pod.end();
    let (pod, started, done) = meddle(&rig, &root, config(), &[Weaken::Dumpable, Weaken::Unverified], fake);
    assert!(done && started.is_ok(), "weakened, it writes to a file of the attacker's: {started:?}");
    pod.end();
    drop(root);
    rig.end();
}

/// **CVE-2025-52565** (runc). The terminal that is to be the console is bound by its path; who replaces what is at that
/// path has a file of procfs bound to `/dev/console`, before the masks are made. Step: the bind of each terminal. Held
/// by: a container with a console has a pid namespace of its own, so nobody sees its first process; and what is bound
/// must be that terminal. The part of the attacker, whom there can be none, is played by root of the host.
#[test]
fn cve_2025_52565_a_console_is_the_terminal_that_was_made() {
    let Some(rig) = Rig::new() else { return };
    let root = Root::new();
    // The multiplexer is the true one. The first terminal has the number 0.
    let replace = "b=/bin/busybox; $b mount -t tmpfs none /mnt && : > /mnt/ptmx \
                   && $b mount -o bind /dev/pts/ptmx /mnt/ptmx && $b ln -s /proc/self/timerslack_ns /mnt/0 \
                   && $b mount -o rbind /mnt /dev/pts";
    let try_it = |weaken: &[Weaken]| {
        let config =
            root.container("c").system_with(SystemConfig::new().ttys(0)).args(["/bin/sleep", "1000"]);
        let c = rig.runtime.create(config.build().unwrap()).unwrap();
        let mut options = StartOptions::new().weaken(Weaken::Wait(Hold::Terminal));
        for w in weaken {
            options = options.weaken(*w);
        }
        let started = std::thread::scope(|s| {
            let starting = s.spawn(|| c.start_with(options).map(drop));
            let entered = format!("-t {} -m -r -- /bin/busybox sh -c", standing_still());
            let done = Command::new("nsenter").args(entered.split(' ')).arg(replace).status().unwrap();
            root.release();
            assert!(done.success(), "the attacker's part");
            starting.join().unwrap()
        });
        let seen = started.as_ref().ok().map(|()| seen(&c, "dev/console"));
        end(c);
        (started, seen)
    };
    let (started, _) = try_it(&[]);
    let e = started.unwrap_err();
    assert!(e.step() == "make a terminal" && e.errno() == Some(libc::EXDEV), "{e}");
    let (started, seen) = try_it(&[Weaken::Unverified]);
    started.unwrap();
    assert_eq!(seen.as_deref(), Some("50000"), "weakened, a file of procfs is the console");
    drop(root);
    rig.end();
}

/// The child of this process that sets itself up, once it stands still.
pub(crate) fn standing_still() -> u32 {
    let own = std::process::id().to_string();
    let is_ours = |stat: &str| {
        let mut words = stat.rsplit(") ").next().unwrap().split(' ');
        (words.next(), words.next()) == (Some("S"), Some(&own))
    };
    let stage2 = |pid: u32| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
        exe.is_ok_and(|exe| exe.to_string_lossy().contains("stockade-stage2"))
    };
    let (mut found, mut still) = (0, 0);
    support::until(PATIENCE, "a child stands still", || {
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        let now = pids.filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_ours(&stat))
                && stage2(*pid)
        });
        let now: Vec<u32> = now.collect();
        still = if now == [found] { still + 1 } else { 0 };
        found = now.first().copied().unwrap_or(0);
        still > 20
    });
    found
}

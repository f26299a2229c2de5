//! Plans by chance: what is encoded is what the interpreter reads, and a plan that was changed on its way ends in
//! an error.

use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::io::Errno;

use super::{DEADLINE, Deadline, Duration, ExitStatus, both, shell};
use crate::seccomp::{Action, Policy, Rule};
use crate::spawn::interp::abi::{Header, Op};
use crate::spawn::{self, CapMasks, Fd, MaskFrom, Mount, Plan, Running, Spec, Tolerate, launch};

const TEXT: &str = "[a-zA-Z0-9/_.-]{1,40}";

/// A few ops of each kind of argument.
#[derive(Clone, Debug)]
enum Step {
    Umask(u32),
    Chdir(String),
    Symlink(String, String),
    Groups(Vec<u32>),
    Rlimit(u32, u64, u64),
    Caps(u64, u64),
    Mount(String, String, String),
    OpenTree(String),
    Write(String, Vec<u8>),
    Seccomp(u8),
    Mask(String),
    Mkdir(String),
}

impl Step {
    /// Adds itself to the plan, and says how it has to read there.
    fn add(&self, plan: &mut Plan) -> String {
        match self {
            Self::Umask(mask) => {
                plan.umask(*mask);
                format!("umask mask={mask:o}")
            }
            Self::Chdir(path) => {
                plan.chdir("go", path);
                format!("chdir path={path}")
            }
            Self::Symlink(to, path) => {
                plan.symlink(to, path);
                format!("symlink to={to} path={path}")
            }
            Self::Groups(groups) => {
                plan.set_groups(groups);
                format!("set_groups count={}", groups.len())
            }
            Self::Rlimit(resource, soft, hard) => {
                plan.rlimit("limit", *resource, *soft, *hard);
                format!("rlimit resource={resource} soft={soft} hard={hard}")
            }
            Self::Caps(effective, ambient) => {
                plan.caps(CapMasks { effective: *effective, ambient: *ambient, ..CapMasks::default() });
                format!("caps effective={effective:#x} permitted=0x0 inheritable=0x0 ambient={ambient:#x}")
            }
            Self::Mount(source, target, data) => {
                let flags = rustix::mount::MountFlags::NOSUID;
                plan.mount(&Mount { what: "mount", source, target, fstype: "tmpfs", flags, data });
                format!("mount source={source} target={target} type=tmpfs flags=0x2 data={data}")
            }
            Self::OpenTree(path) => {
                let Fd::Slot(slot) = plan.open_tree("open", Fd::Raw(libc::AT_FDCWD), path, 1) else {
                    unreachable!("a result lies in a slot");
                };
                format!("open_tree dir=cwd path={path} flags=0x1 -> slot {slot}")
            }
            Self::Write(path, data) => {
                plan.write_proc("write", path, data);
                format!("write_file path={path} data={:?} resolve=0xb", String::from_utf8_lossy(data))
            }
            Self::Seccomp(count) => {
                plan.seccomp(&vec![0x42; 8 * usize::from(*count)], 7);
                format!("seccomp instructions={count} flags=0x7")
            }
            Self::Mask(path) => {
                plan.mask_path(path, MaskFrom::DevNull);
                format!("mask path={path} from=/dev/null device=0x103 (may be missing)")
            }
            Self::Mkdir(path) => {
                plan.mkdir("make", path, 0o751);
                plan.tolerate(Tolerate::Existing);
                format!("mkdir path={path} mode=751 (may exist)")
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u32>().prop_map(Step::Umask),
        TEXT.prop_map(Step::Chdir),
        (TEXT, TEXT).prop_map(|(to, path)| Step::Symlink(to, path)),
        vec(any::<u32>(), 0..9).prop_map(Step::Groups),
        any::<(u32, u64, u64)>().prop_map(|(r, s, h)| Step::Rlimit(r, s, h)),
        any::<(u64, u64)>().prop_map(|(e, a)| Step::Caps(e, a)),
        (TEXT, TEXT, TEXT).prop_map(|(s, t, d)| Step::Mount(s, t, d)),
        TEXT.prop_map(Step::OpenTree),
        (TEXT, vec(any::<u8>(), 0..40)).prop_map(|(p, d)| Step::Write(p, d)),
        (0..20_u8).prop_map(Step::Seccomp),
        TEXT.prop_map(Step::Mask),
        TEXT.prop_map(Step::Mkdir),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_what_is_read(
        steps in vec(step(), 0..40),
        args in vec(TEXT, 1..6),
        env in vec(TEXT, 0..6),
    ) {
        let mut plan = Plan::new(0);
        let mut want: Vec<String> = steps.iter().map(|s| s.add(&mut plan)).collect();
        plan.exec(args[0].as_bytes(), &[args[0].clone().into_bytes()], &args, &env);
        want.push(format!("exec path=[{}] argv=[{}] env=[{}]", args[0], args.join(" "), env.join(" ")));

        let encoded = plan.encode();
        let read = Plan::decode(&encoded).expect("the interpreter takes it");
        let text = read.dump();
        let lines: Vec<&str> = text.lines().map(|line| line.split_at(4).1).collect();
        prop_assert_eq!(lines, want);
        prop_assert_eq!(read.encode(), encoded);
    }

    #[test]
    fn no_message_of_another_length_is_a_plan(steps in vec(step(), 0..9), change in 1..200_usize) {
        let mut plan = Plan::new(0);
        for s in &steps {
            s.add(&mut plan);
        }
        let mut bytes = plan.encode();
        let shorter = bytes.len().saturating_sub(change);
        prop_assert!(Plan::decode(&bytes[..shorter]).is_none());
        bytes.resize(bytes.len() + change, 0);
        prop_assert!(Plan::decode(&bytes).is_none());
    }
}

/// A change to a message.
#[derive(Clone, Debug)]
enum Change {
    Byte(prop::sample::Index, u8),
    Word(prop::sample::Index, u64),
    /// A word of the head.
    Head(usize, u32),
    Length(prop::sample::Index),
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Byte(at, value) => {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            Self::Word(at, value) => {
                let at = at.index(bytes.len() / 8) * 8;
                bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
            }
            Self::Head(word, value) => {
                bytes[4 * word..4 * word + 4].copy_from_slice(&value.to_ne_bytes());
            }
            Self::Length(length) => {
                let length = length.index(2 * bytes.len());
                bytes.resize(length.max(size_of::<Header>()), 0);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    use prop::sample::Index;
    prop_oneof![
        4 => any::<(Index, u8)>().prop_map(|(at, v)| Change::Byte(at, v)),
        4 => (any::<Index>(), prop_oneof![0..4096_u64, any::<u64>()]).prop_map(|(at, v)| Change::Word(at, v)),
        2 => (0..4_usize, prop_oneof![0..4096_u32, any::<u32>()]).prop_map(|(w, v)| Change::Head(w, v)),
        1 => any::<Index>().prop_map(Change::Length),
    ]
}

/// Sends `bytes` to a new child and waits for what comes of it.
fn send(strategy: spawn::Strategy<'_>, bytes: &[u8], plan: &Plan) -> crate::Result<Running> {
    let spec = Spec { strategy, namespaces: 0, cgroup: None, ambient: 0, own_memory_first: false };
    let started = launch(&spec)?;
    started.send_bytes(bytes)?;
    started.wait_exec(plan, Deadline::after(Duration::from_secs(1)), None)
}

/// A plan that would show in the status of its child if it came to the program.
fn exits_with_7() -> Plan {
    let mut plan = Plan::new(0);
    plan.umask(0o22);
    plan.write_proc("write", "nonexistent/file", b"data");
    plan.tolerate(Tolerate::Missing);
    shell(&mut plan, "exit 7");
    plan
}

#[test]
fn what_is_no_whole_plan_is_refused() {
    both(|strategy| {
        let plan = exits_with_7();
        let whole = plan.encode();
        let ops_at = u32::from_ne_bytes(whole[12..16].try_into().unwrap());
        let head = |word: usize, value: u32| {
            let mut bytes = whole.clone();
            bytes[4 * word..4 * word + 4].copy_from_slice(&value.to_ne_bytes());
            bytes
        };
        let mut open_end = whole.clone();
        *open_end.last_mut().unwrap() = b'x';
        let mut longer = whole.clone();
        longer.resize(whole.len() + 8, 0);
        let too_many = (whole.len() - ops_at as usize) / size_of::<Op>() + 1;
        for (what, bytes) in [
            ("another first word", head(0, 0x5350_4c4c)),
            ("too many ops", head(1, too_many as u32)),
            ("as many ops as can be counted", head(1, u32::MAX)),
            ("another length", head(2, whole.len() as u32 - 8)),
            ("ops that are not aligned", head(3, ops_at - 4)),
            ("ops outside", head(3, whole.len() as u32)),
            ("ops far outside", head(3, u32::MAX - 7)),
            ("an open end", open_end),
            ("a longer message", longer),
            ("a shorter message", whole[..whole.len() - 8].to_vec()),
            ("a head alone", whole[..size_of::<Header>()].to_vec()),
            ("one byte", vec![0]),
        ] {
            assert!(Plan::decode(&bytes).is_none(), "{what}");
            let e = send(strategy, &bytes, &plan).unwrap_err();
            assert_eq!(e.errno(), Some(libc::EBADMSG), "{what}, {strategy:?}: {e}");
        }
    });
}

#[test]
fn lists_that_do_not_end_in_the_plan_are_refused() {
    both(|strategy| {
        let plan = exits_with_7();
        let whole = plan.encode();
        let ops_at = u32::from_ne_bytes(whole[12..16].try_into().unwrap()) as usize;
        let exec = ops_at + (plan.len() - 1) * size_of::<Op>();
        let last = whole.len() as u64 - 8;
        for list in 0..3 {
            for (what, at) in [
                ("none", 0),
                ("one outside", whole.len() as u64),
                ("one far outside", u64::MAX - 7),
                ("one that is not aligned", 20),
                ("one without an end", last),
            ] {
                let mut bytes = whole.clone();
                bytes[last as usize] = 1;
                let arg = exec + 8 + 8 * list;
                bytes[arg..arg + 8].copy_from_slice(&at.to_ne_bytes());
                let e = send(strategy, &bytes, &plan).unwrap_err();
                assert_eq!(e.errno(), Some(libc::EBADMSG), "list {list}, {what}, {strategy:?}: {e}");
            }
        }
    });
}

/// What a changed plan could do to this machine. The child inherits the filter, so these fail there.
const FORBIDDEN: [&str; 22] = [
    "mount",
    "umount2",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "mount_setattr",
    "pivot_root",
    "mkdirat",
    "mknodat",
    "symlinkat",
    "openat",
    "openat2",
    "sethostname",
    "setdomainname",
    "setns",
    "unshare",
    "socket",
    "prlimit64",
    "execve",
    "kill",
];

/// Runs `check` on a thread that can do none of that, for as long as it lives.
fn contained(check: impl FnOnce() + Send) {
    let rule = Rule::new(Action::Errno(libc::EDOM as u16), FORBIDDEN).unwrap();
    let filter = Policy::new(Action::Allow).rule(rule).compile().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            crate::sys::seccomp::install(filter.instructions(), 0).unwrap();
            check();
        });
    });
}

#[test]
fn a_changed_plan_ends_in_an_error_and_runs_nothing() {
    const CASES: u32 = 300;
    let plan = exits_with_7();
    let whole = plan.encode();
    both(|strategy| {
        contained(|| {
            // The filter is what it is meant to be: the plan itself fails at the first of those calls.
            let e = send(strategy, &whole, &plan).unwrap_err();
            assert_eq!((e.step(), e.errno()), ("write", Some(libc::EDOM)), "{e}");

            // Failures would be written to a file, which the filter forbids.
            let config =
                ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
            let mut runner = TestRunner::new(config);
            let done = runner.run(&vec(change(), 1..4), |changes| {
                let mut bytes = whole.clone();
                for change in &changes {
                    change.make(&mut bytes);
                }
                let start = Instant::now();
                match send(strategy, &bytes, &plan) {
                    Err(_) => {}
                    // It came past its marker and died later.
                    Ok(running) => {
                        let status = running.child.wait(Deadline::after(DEADLINE), None);
                        let status = status.map_err(|e| TestCaseError::fail(e.to_string()))?;
                        prop_assert_ne!(status, ExitStatus::Exited(7), "the program ran");
                        prop_assert!(!status.success(), "something ran");
                    }
                }
                prop_assert!(start.elapsed() < DEADLINE, "it hung");
                Ok(())
            });
            done.unwrap();
            // Nothing of it is left: every child of this thread is reaped.
            assert_eq!(
                rustix::process::waitid(rustix::process::WaitId::All, wait_options()).unwrap_err(),
                Errno::CHILD
            );
        });
    });
}

/// Looks for children of the calling thread alone (`__WNOTHREAD`), and takes none.
fn wait_options() -> rustix::process::WaitIdOptions {
    use rustix::process::WaitIdOptions as O;
    const WNOTHREAD: u32 = 0x2000_0000;
    O::EXITED | O::NOWAIT | O::NOHANG | O::from_bits_retain(WNOTHREAD)
}

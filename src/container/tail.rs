//! The last ops of every plan, of a start and of an exec alike: standard descriptors, limits, signals, then the
//! steps down in privilege in the one order that works, then the program.

use std::os::unix::ffi::OsStrExt;

use crate::caps::CapabilitySets;
use crate::error::Result;
use crate::process::{Rlimit, User};
use crate::seccomp::Filter;
use crate::spawn::{CapMasks, Fd, Plan};

/// Where the program's standard descriptors come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    /// What the host has under that number.
    Inherit,
    /// The null device.
    Null,
    /// A descriptor that came with the plan or its barrier.
    Given(Fd),
}

/// The three streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) streams: [Stream; 3],
}

/// How the program runs.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    pub(super) args: Vec<Vec<u8>>,
    pub(super) env: Vec<Vec<u8>>,
    pub(super) cwd: Option<std::path::PathBuf>,
    pub(super) umask: u32,
    pub(super) user: User,
    /// Whether setgroups(2) is allowed.
    pub(super) groups: bool,
    pub(super) caps: CapabilitySets,
    /// What the child holds when it comes here: capset(2) cannot give more.
    pub(super) held: u64,
    pub(super) securebits: Option<u32>,
    pub(super) no_new_privs: bool,
    pub(super) seccomp: Option<Filter>,
    /// Limits that the child sets itself.
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) personality: Option<u64>,
}

/// Adds the tail to `plan`.
pub(super) fn tail(plan: &mut Plan, output: &Output, t: &Tail) -> Result<()> {
    streams(plan, output);
    for r in &t.rlimits {
        plan.rlimit(r.resource().name(), r.resource().number(), r.soft(), r.hard());
    }
    if let Some(persona) = t.personality {
        plan.personality(persona);
    }
    plan.reset_signals();
    plan.umask(t.umask);
    plan.marker();
    // From here on nothing of the host is open, so that no path through /proc/self/fd leads to it.
    plan.close_others();
    if let Some(cwd) = &t.cwd {
        plan.working_dir(cwd.as_os_str().as_bytes());
    }
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, which goes below.
    if !t.no_new_privs {
        seccomp(plan, t);
    }
    privileges(plan, t);
    if t.no_new_privs {
        plan.prctl("set no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1);
        seccomp(plan, t);
    }
    let candidates = candidates(&t.args[0], &t.env);
    plan.exec(&t.args[0], &candidates, &t.args, &t.env);
    Ok(())
}

fn streams(plan: &mut Plan, output: &Output) {
    let mut null = None;
    for (n, stream) in (0..).zip(output.streams) {
        let from = match stream {
            Stream::Inherit => continue,
            Stream::Given(fd) => fd,
            Stream::Null => *null.get_or_insert_with(|| {
                plan.open("open the null device", "/dev/null", rustix::fs::OFlags::RDWR.bits())
            }),
        };
        plan.dup_to("set a standard descriptor", from, n);
    }
}

fn seccomp(plan: &mut Plan, t: &Tail) {
    if let Some(filter) = &t.seccomp {
        plan.seccomp(filter.as_bytes(), 0);
    }
}

fn privileges(plan: &mut Plan, t: &Tail) {
    let held = |set: crate::caps::CapSet| set.bits() & t.held;
    plan.bounding_set(t.caps.bounding.bits());
    if let Some(bits) = t.securebits {
        plan.prctl("set securebits", libc::PR_SET_SECUREBITS, u64::from(bits));
    }
    if t.groups && !t.user.groups.is_empty() {
        plan.set_groups(&t.user.groups.iter().map(|g| g.as_raw()).collect::<Vec<_>>());
    }
    let permitted = held(t.caps.permitted);
    if !t.user.is_root() || t.user.gid.as_raw() != 0 {
        // Leaving uid 0 empties the permitted set unless told otherwise; exec clears the flag.
        if !t.user.is_root() && permitted != 0 {
            plan.prctl("keep capabilities", libc::PR_SET_KEEPCAPS, 1);
        }
        plan.set_ids("become the user", t.user.uid.as_raw(), t.user.gid.as_raw());
    }
    plan.caps(CapMasks {
        effective: held(t.caps.effective),
        permitted,
        inheritable: held(t.caps.inheritable),
        ambient: held(t.caps.ambient),
    });
}

/// The paths to try, as execvp(3) does: in the container, by the container's own PATH.
fn candidates(program: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    const DEFAULT: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let path = env.iter().rev().find_map(|v| v.strip_prefix(b"PATH=")).unwrap_or(DEFAULT);
    path.split(|b| *b == b':')
        .map(|dir| {
            let dir = if dir.is_empty() { b"." } else { dir };
            [dir, b"/", program].concat()
        })
        .collect()
}

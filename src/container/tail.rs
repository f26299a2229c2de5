//! The last ops of every plan, of a start and of an exec alike: standard streams, limits, signals, then the steps
//! down in privilege in the one order that works, then the program.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::config::{ContainerConfig, SeccompConfig};
use super::streams::Stream;
use crate::caps::{CapSet, CapabilitySets, Securebits};
use crate::error::Result;
use crate::process::{Landlock, Personality, Resource, Rlimit, SecurityLabel, Umask, User};
use crate::runtime::Host;
use crate::seccomp::{Filter, Interception, Policy};
use crate::spawn::{CapMasks, Fd, KernelFs, Plan};

/// How a program runs: what a configuration or an exec asks for.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) cwd: PathBuf,
    pub(super) user: User,
    pub(super) caps: CapabilitySets,
    pub(super) umask: Umask,
    securebits: Securebits,
    pub(super) no_new_privs: bool,
    seccomp: SeccompConfig,
    intercept: Interception,
    label: Option<SecurityLabel>,
    landlock: Option<Landlock>,
    personality: Personality,
}

/// The root and the working directory of a process of the container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) root: Fd,
    pub(super) start: Fd,
}

/// Rules of Landlock in the kernel's numbers.
#[derive(Clone, Debug)]
struct FileRules {
    /// The rights that are restricted.
    handled: u64,
    rules: Vec<(Vec<u8>, u64)>,
}

/// The same as the plan wants it.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    cwd: PathBuf,
    /// Where the program begins, in place of the container's root and `cwd`.
    pub(super) place: Option<Place>,
    umask: u32,
    user: User,
    caps: CapabilitySets,
    /// What the child holds by then: capset(2) cannot give more.
    held: CapSet,
    /// The last capability that this kernel knows.
    last_cap: u32,
    securebits: Securebits,
    no_new_privs: bool,
    seccomp: Option<Filter>,
    label: Option<SecurityLabel>,
    landlock: Option<FileRules>,
    /// Whether the host takes the filter's notify descriptor. Otherwise calls that it would be asked about fail
    /// with `ENOSYS`, which is the kernel's answer without a listener.
    pub(super) listens: bool,
    /// Whether a stream that is null is the console.
    pub(super) console: bool,
    /// Whether the bounding set has been dropped already.
    pub(super) bounded: bool,
    /// Limits that the child sets itself.
    pub(super) rlimits: Vec<(Resource, Rlimit)>,
    personality: Personality,
}

impl Settings {
    pub(super) fn of(config: &ContainerConfig) -> Self {
        Self {
            args: config.args.clone(),
            env: config.env.clone(),
            cwd: config.cwd.clone(),
            user: config.user.clone(),
            caps: config.capabilities(),
            umask: config.umask,
            securebits: config.securebits,
            no_new_privs: config.no_new_privs,
            seccomp: config.seccomp.clone(),
            intercept: config.intercept.clone(),
            label: config.label.clone(),
            landlock: config.landlock.clone(),
            personality: config.personality,
        }
    }

    /// The capabilities that must be held until exec, because exec does not give them back: it does to root, out
    /// of the bounding set, unless no_new_privs or a secure bit is in the way.
    pub(super) fn needs_before_exec(&self) -> CapSet {
        let c = &self.caps;
        let root_gets_all =
            self.user.is_root() && !self.no_new_privs && !self.securebits.contains(Securebits::NOROOT);
        let kept = if root_gets_all { CapSet::EMPTY } else { c.permitted };
        kept.union(c.inheritable).union(c.ambient)
    }

    pub(super) fn tail(self, host: &Host, held: CapSet) -> Result<Tail> {
        if let Some(label) = &self.label {
            label.check_host()?;
        }
        let landlock = match &self.landlock {
            Some(rules) => {
                let (handled, rules) = rules.for_kernel()?;
                let owned = |(path, access): (&Path, u64)| (path.as_os_str().as_bytes().to_vec(), access);
                Some(FileRules { handled, rules: rules.into_iter().map(owned).collect() })
            }
            None => None,
        };
        Ok(Tail {
            args: self.args.into_iter().map(OsString::into_vec).collect(),
            env: self.env.iter().map(|(k, v)| [k.as_bytes(), b"=", v.as_bytes()].concat()).collect(),
            cwd: self.cwd,
            place: None,
            umask: self.umask.bits(),
            user: self.user,
            caps: self.caps,
            held,
            last_cap: host.last_cap(),
            securebits: self.securebits,
            no_new_privs: self.no_new_privs,
            seccomp: filter(&self.seccomp, &self.intercept)?,
            label: self.label,
            landlock,
            listens: false,
            console: false,
            bounded: false,
            rlimits: Vec::new(),
            personality: self.personality,
        })
    }
}

/// The compiled filter: compiling takes up to a tenth of a millisecond, so once for each policy.
fn filter(config: &SeccompConfig, intercept: &Interception) -> Result<Option<Filter>> {
    static DEFAULT: OnceLock<Arc<Policy>> = OnceLock::new();
    let policy = match config {
        SeccompConfig::Unconfined => return Ok(None),
        SeccompConfig::Policy(policy) => policy,
        SeccompConfig::Default => DEFAULT.get_or_init(|| Arc::new(Policy::system_default())),
    };
    if intercept.is_empty() {
        Filter::cached(policy).map(Some)
    } else {
        Filter::cached(&intercept.apply(policy)).map(Some)
    }
}

/// Drops capabilities from the bounding set: what costs most of the steps down, and takes nothing from the child
/// itself before it executes.
pub(super) fn bound(plan: &mut Plan, t: &Tail) {
    plan.bounding_set(t.caps.bounding.bits(), t.last_cap);
}

/// Adds the tail to `plan`.
pub(super) fn tail(plan: &mut Plan, streams: &[Stream; 3], t: &Tail) {
    add_streams(plan, streams, t.console);
    for (resource, limit) in &t.rlimits {
        plan.rlimit(resource.name(), resource.number(), limit.soft(), limit.hard());
    }
    if t.personality != Personality::Linux {
        plan.personality(u64::from(t.personality.number()));
    }
    plan.reset_signals();
    plan.umask(t.umask);
    plan.marker();
    if let Some(place) = t.place {
        // While they are open, and the label before: in another root there may be no procfs.
        add_label(plan, t);
        plan.chroot("enter the caller's root", place.root);
        plan.fchdir("enter the caller's working directory", place.start);
    }
    // From here on nothing of the host is open, so that no path through /proc/self/fd leads to it.
    plan.close_others();
    if t.place.is_none() {
        add_label(plan, t);
    }
    if t.place.is_none() && t.cwd.as_os_str() != OsStr::new("/") {
        plan.working_dir(t.cwd.as_os_str().as_bytes());
    }
    // It takes CAP_SYS_ADMIN too, and the rights to find the paths of its rules.
    if let Some(FileRules { handled, rules }) = &t.landlock {
        let rules: Vec<(&[u8], u64)> = rules.iter().map(|(path, access)| (&**path, *access)).collect();
        plan.landlock(*handled, &rules);
    }
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, which goes below.
    if !t.no_new_privs {
        add_filter(plan, t);
    }
    add_privileges(plan, t);
    if t.no_new_privs {
        plan.prctl("set no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1);
        add_filter(plan, t);
    }
    let candidates = candidates(&t.args[0], &t.env);
    plan.exec(&t.args[0], &candidates, &t.args, &t.env);
}

/// Limits of a program that joins a running container, which can be set only from outside: before it hides itself, which
/// makes its files in proc root's, and before it joins the user namespace, where limits can no longer be raised.
pub(super) fn add_limits(plan: &mut Plan, config: &ContainerConfig) {
    if let Some(value) = config.oom_score_adj {
        plan.enter_kernel(KernelFs::Proc);
        let value = value.get().to_string();
        plan.write_proc("set oom_score_adj", "/proc/self/oom_score_adj", value.as_bytes());
    }
    for (resource, limit) in &config.rlimits {
        plan.rlimit(resource.name(), resource.number(), limit.soft(), limit.hard());
    }
}

fn add_label(plan: &mut Plan, t: &Tail) {
    let Some(label) = &t.label else { return };
    // Its mounts may be the work of whoever is in the container by now: the file must be the kernel's own.
    let (path, text) = label.to_write();
    plan.enter_kernel(KernelFs::Proc);
    plan.write_proc(label.step(), path, &text);
    plan.chdir("enter the root", "/");
}

fn add_streams(plan: &mut Plan, streams: &[Stream; 3], console: bool) {
    let mut null = None;
    for (n, stream) in (0..).zip(streams) {
        let from = match stream {
            Stream::Inherit => continue,
            Stream::Given(fd) => *fd,
            Stream::Null if console => *null.get_or_insert_with(|| {
                let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
                plan.open("open the console", "/dev/console", flags.bits())
            }),
            Stream::Null => *null.get_or_insert_with(|| {
                plan.open("open the null device", "/dev/null", rustix::fs::OFlags::RDWR.bits())
            }),
        };
        plan.dup_to("set a standard stream", from, n);
    }
}

fn add_filter(plan: &mut Plan, t: &Tail) {
    if let Some(filter) = &t.seccomp {
        let listens = t.listens && filter.needs_listener();
        // A caller whose call is being answered is not interrupted by signals but by those that kill it: a call that was made
        // in its stead would be made again.
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        plan.seccomp(filter.as_bytes(), if listens { flags } else { 0 });
    }
}

fn add_privileges(plan: &mut Plan, t: &Tail) {
    let held = |set: CapSet| set.intersection(t.held).bits();
    if !t.bounded {
        bound(plan, t);
    }
    if !t.securebits.is_empty() {
        plan.prctl("set secure bits", libc::PR_SET_SECUREBITS, u64::from(t.securebits.bits()));
    }
    // Where setgroups(2) is denied this fails: better than to run with other groups than asked for.
    if !t.user.groups.is_empty() {
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
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let path = env.iter().rev().find_map(|v| v.strip_prefix(b"PATH="));
    path.unwrap_or(super::config::DEFAULT_PATH.as_bytes())
        .split(|b| *b == b':')
        .map(|dir| {
            let dir: &[u8] = if dir.is_empty() { b"." } else { dir };
            [dir, b"/", program].concat()
        })
        .collect()
}

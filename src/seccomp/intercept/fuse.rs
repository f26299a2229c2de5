//! `mount(2)` of file systems that a FUSE program of the container's is to mount.
//!
//! The program comes out of the caller's root and runs as the caller, with no right that the caller lacks: it could have
//! started it itself. So nothing depends on what it is or does. The call succeeds when the program, which goes on in the
//! background once it has mounted, has ended well in the foreground; and has mounted, since some (fuse2fs 1.47.0) end well
//! where they could not.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::Interceptor;
use super::acting::Actor;
use crate::caps::CapSet;
use crate::idmap::{HostGid, HostUid};
use crate::namespaces::NamespaceKind;
use crate::process::{MAX_GROUPS, User};
use crate::seccomp::notify::{Call, Caller, Response};
use crate::seccomp::unfinished::{Later, Progress, Unfinished};

/// How many programs of one container may be at it at a time. A program that has the same file system mounted would start
/// itself again and again.
const AT_ONCE: usize = 16;
const PATH_MAX: usize = 4095;
/// The longest list of mounts that is read, of some 20,000: with more the kernel decides.
const MOUNTS_MAX: usize = 4 << 20;

/// A program that is to run in the container.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Its name, the first of them, and its arguments.
    pub(crate) args: Vec<Vec<u8>>,
    /// Who it runs as, by the container's own numbers.
    pub(crate) user: User,
    pub(crate) caps: CapSet,
    pub(crate) umask: u32,
    pub(crate) no_new_privs: bool,
    /// Where it runs, in the order in which it goes there.
    pub(crate) namespaces: &'a [(NamespaceKind, OwnedFd)],
    pub(crate) root: BorrowedFd<'a>,
    pub(crate) start: BorrowedFd<'a>,
    /// The line of cgroup v2 in the caller's `cgroup` file: a path from the root of all cgroups.
    pub(crate) cgroup: Option<&'a str>,
}

/// Starts programs in a container.
pub(crate) trait Programs: Send + Sync + fmt::Debug {
    /// Starts one. Answers with 0 once it has ended well, and else leaves the call to the kernel.
    fn start(&self, wanted: &Wanted<'_>) -> Result<Later, Errno>;
}

/// Options for `-o`: those that flags of `mount(2)` stand for, and the data.
pub(super) fn options(flags: u64, data: &[u8]) -> Vec<u8> {
    // Those that FUSE programs know. How times of access are kept is the program's own business.
    const FLAGS: [(u64, &str); 7] = [
        (libc::MS_RDONLY, "ro"),
        (libc::MS_NOSUID, "nosuid"),
        (libc::MS_NODEV, "nodev"),
        (libc::MS_NOEXEC, "noexec"),
        (libc::MS_SYNCHRONOUS, "sync"),
        (libc::MS_DIRSYNC, "dirsync"),
        (libc::MS_NOATIME, "noatime"),
    ];
    let given = FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| name.as_bytes());
    let all: Vec<&[u8]> = given.chain((!data.is_empty()).then_some(data)).collect();
    all.join(&b","[..])
}

/// The words of the program. `None` where it would take one that is a path for an option.
pub(super) fn words(program: &str, source: &[u8], target: &[u8], options: Vec<u8>) -> Option<Vec<Vec<u8>>> {
    if source.is_empty() || target.is_empty() || source[0] == b'-' {
        return None;
    }
    let target = if target[0] == b'-' { [b"./", target].concat() } else { target.to_vec() };
    let mut words = vec![program.as_bytes().to_vec(), source.to_vec(), target];
    if !options.is_empty() {
        words.extend([b"-o".to_vec(), options]);
    }
    Some(words)
}

pub(super) fn answer(
    of: &Interceptor,
    call: &mut Call<'_>,
    program: &str,
    caller: Caller,
) -> Result<Response, Errno> {
    let subject = &of.subject;
    // Who has taken rights from itself in a way that the program could not be given too is left to the kernel.
    if caller.filters != subject.filters || call.unfinished() >= AT_ONCE {
        return Ok(Response::Continue);
    }
    let [source, target, _, flags, data, _] = call.args();
    let text = |at: u64| if at == 0 { Ok(Vec::new()) } else { call.text(at, PATH_MAX) };
    let (source, target, data) = (text(source)?, text(target)?, text(data)?);
    let options = options(super::mount::plain(flags), &data);
    let Some(args) = words(program, &source, &target, options) else { return Ok(Response::Continue) };
    let user = user(of, &caller).ok_or(Errno::PERM)?;
    let actor = Actor::open(call, caller, libc::AT_FDCWD, b"")?;
    actor.mounts(subject)?;
    let namespaces = namespaces(&actor.caller)?;
    let cgroup = crate::sys::fd::read_at(actor.caller.as_fd(), "cgroup", 64 * 1024)?;
    let cgroup = String::from_utf8(cgroup).ok();
    let before = fuse_mounts(&actor.caller)?;
    // All of it was read while the caller waited.
    if !call.is_waiting() {
        return Err(Errno::SRCH);
    }
    let [root, start] = actor.places();
    let wanted = Wanted {
        args,
        user,
        caps: actor.caller.effective,
        umask: actor.caller.umask,
        no_new_privs: actor.caller.no_new_privs,
        namespaces: &namespaces,
        root,
        start,
        cgroup: cgroup.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::"))),
    };
    let mut later = of.programs.as_ref().ok_or(Errno::NOSYS)?.start(&wanted)?;
    later.work = Box::new(Checked { work: later.work, caller: actor.caller, before });
    Ok(call.answer_later(later))
}

/// A program that has ended well, and mounted nothing, has failed.
#[derive(Debug)]
struct Checked {
    work: Box<dyn Unfinished>,
    caller: Caller,
    before: BTreeSet<Vec<u8>>,
}

impl Unfinished for Checked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    fn look(&mut self) -> Progress {
        let mut progress = self.work.look();
        if matches!(progress.response, Some(Response::Value(_))) {
            let now = fuse_mounts(&self.caller).unwrap_or_default();
            if now.is_subset(&self.before) {
                progress.response = Some(Response::Continue);
            }
        }
        progress
    }

    fn give_up(&mut self, until: Instant) {
        self.work.give_up(until);
    }
}

/// The FUSE file systems that the caller sees.
fn fuse_mounts(caller: &Caller) -> Result<BTreeSet<Vec<u8>>, Errno> {
    let text = crate::sys::fd::read_at(caller.as_fd(), "mountinfo", MOUNTS_MAX)?;
    if text.len() >= MOUNTS_MAX {
        return Err(Errno::TOOBIG);
    }
    Ok(fuse_lines(&text).map(<[u8]>::to_vec).collect())
}

/// The part of each line of FUSE that does not change: number, parent, device, root and place (`proc_pid_mountinfo(5)`).
pub(super) fn fuse_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        // No field holds a blank.
        let end = line.windows(3).position(|w| w == b" - ")?;
        let kind = line[end + 3..].split(|b| *b == b' ').next()?;
        let kind = kind.split(|b| *b == b'.').next()?;
        let place = line.iter().enumerate().filter(|(_, b)| **b == b' ').nth(4)?.0;
        matches!(kind, b"fuse" | b"fuseblk").then(|| &line[..place])
    })
}

/// Who the caller is by the container's own numbers. `None` for one that has none there.
fn user(of: &Interceptor, caller: &Caller) -> Option<User> {
    let map = &of.subject.id_map;
    let mut user = User::new(
        map.uid_to_inner(HostUid::new(caller.fsuid))?.as_raw(),
        map.gid_to_inner(HostGid::new(caller.fsgid))?.as_raw(),
    );
    let groups = caller.groups.iter().map(|gid| map.gid_to_inner(HostGid::new(*gid)));
    user.groups = groups.collect::<Option<_>>()?;
    (user.groups.len() <= MAX_GROUPS).then_some(user)
}

/// The caller's namespaces where they are not this process's own. Its users' comes last: there the rights over the others
/// are given up.
fn namespaces(caller: &Caller) -> Result<Vec<(NamespaceKind, OwnedFd)>, Errno> {
    let mut kinds = NamespaceKind::ALL.to_vec();
    kinds.sort_by_key(|kind| *kind == NamespaceKind::User);
    let mut found = Vec::with_capacity(kinds.len());
    for kind in kinds {
        let name = format!("ns/{}", kind.proc_name());
        let own = rustix::fs::stat(format!("/proc/self/{name}"));
        let theirs = rustix::fs::statat(caller, &name, AtFlags::empty());
        let (own, theirs) = match (own, theirs) {
            // A kernel without this kind.
            (Err(Errno::NOENT), _) => continue,
            (own, theirs) => (own?, theirs?),
        };
        if (own.st_dev, own.st_ino) != (theirs.st_dev, theirs.st_ino) {
            found.push((kind, caller.open_readable(&name)?));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(source: &str, target: &str, flags: u64, data: &str) -> Option<String> {
        let words = words("prog", source.as_bytes(), target.as_bytes(), options(flags, data.as_bytes()))?;
        Some(words.iter().map(|w| String::from_utf8_lossy(w)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn words_of_a_program() {
        let ro = libc::MS_RDONLY | libc::MS_NODEV | libc::MS_RELATIME;
        let cases = [
            (("/dev/loop0", "/mnt", 0, ""), Some("prog /dev/loop0 /mnt")),
            (("/dev/loop0", "/mnt", ro, ""), Some("prog /dev/loop0 /mnt -o ro,nodev")),
            (("a b", "-x", libc::MS_NOSUID, "c,d=e f"), Some("prog a b ./-x -o nosuid,c,d=e f")),
            (("x", "y", 0, "-f"), Some("prog x y -o -f")),
            (("-o", "/mnt", 0, ""), None),
            (("", "/mnt", 0, ""), None),
            (("x", "", 0, ""), None),
        ];
        for ((source, target, flags, data), expected) in cases {
            assert_eq!(words_of(source, target, flags, data).as_deref(), expected, "{source} {target}");
        }
    }

    #[test]
    fn lines_of_fuse() {
        let text = b"36 35 98:0 / /mnt1 rw,noatime master:1 - ext3 /dev/root rw\n\
            40 36 0:50 / /m rw,nosuid - fuse.ext4 /x - fuse rw,user_id=0\n41 36 0:51 / /n\\040x rw shared:1 - fuse x ro\n\
            42 36 0:52 / /o rw - fusectl x rw\n43 36 0:53 / /p rw - fuseblk x rw\nbroken - fuse\n - fuse";
        let lines: Vec<_> = fuse_lines(text).map(String::from_utf8_lossy).collect();
        assert_eq!(lines, ["40 36 0:50 / /m", "41 36 0:51 / /n\\040x", "43 36 0:53 / /p"]);
    }

    #[test]
    fn the_namespaces_of_oneself_are_not_joined() {
        let caller = Caller::read(std::process::id()).unwrap();
        assert!(namespaces(&caller).unwrap().is_empty());
    }
}

//! The v1 groups of a cgroup: made, filled, found again and removed.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::CgroupPid;
use cgroups_rs::fs::Controller as _;
use cgroups_rs::fs::pid::PidController;
use rustix::fs::{Access, AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::name_of;
use crate::cgroup::limits::Limits;
use crate::cgroup::remove::{remove_children, rmdir};
use crate::cgroup::setting::Setting;
use crate::cgroup::{Cgroup, CgroupKind, DELEGATION};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::{open_dir, read_at, write_at};
use crate::sys::raw::retry;

/// The attribute of the v2 cgroup: a line `CONTROLLERS PATH` for each group.
const ATTRIBUTE: &str = "user.stockade.cgroup1";
/// `CGROUP_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP_MAGIC: u64 = 0x27_e0eb;
/// What an attribute can hold.
const ATTRIBUTE_MAX: usize = 64 << 10;
/// How often the processes of a cgroup are looked for that are not in its groups yet, before it is frozen for it.
const LOOKS: u32 = 4;
/// How long the cgroup may take to freeze then.
const STILL: Duration = Duration::from_secs(10);
/// The longest pause between two attempts on a group that the kernel still calls busy.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// The hierarchy of systemd, which has no controllers.
const NAMED: &str = "name=systemd";
const STEP: &str = "put a process into its v1 group";

/// The v1 groups that a cgroup has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cgroup) struct Groups(Vec<Group>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) controllers: String,
    pub(super) dir: PathBuf,
}

impl Groups {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory of the group with this controller.
    pub(super) fn of(&self, controller: &str) -> Option<&Path> {
        let has = |group: &&Group| group.controllers.split(',').any(|c| c == controller);
        self.0.iter().find(has).map(|group| &*group.dir)
    }

    /// Those that the attribute of a v2 cgroup names.
    ///
    /// Who owns the directory can write the attribute, and a cgroup can be given away: so only groups of the cgroup's own
    /// name count, in what is a v1 hierarchy.
    fn noted(dir: &OwnedFd, name: Option<&OsStr>) -> Result<Self, Errno> {
        let mut all = Self::attribute(dir)?;
        all.0.retain(|group| group.dir.file_name() == name && is_v1(&group.dir));
        Ok(all)
    }

    fn attribute(dir: &OwnedFd) -> Result<Self, Errno> {
        let mut text = vec![0; 1 << 10];
        loop {
            match retry(|| rustix::fs::fgetxattr(dir, ATTRIBUTE, text.as_mut_slice())) {
                Ok(n) => return Ok(Self::parse(&text[..n])),
                Err(Errno::RANGE) if text.len() < ATTRIBUTE_MAX => text.resize(ATTRIBUTE_MAX, 0),
                Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT | Errno::NODEV) => {
                    return Ok(Self::default());
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The same by any descriptor of the directory; none where it is gone.
    pub(super) fn of_dir(dir: impl AsFd, name: Option<&OsStr>) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match retry(|| rustix::fs::openat(dir.as_fd(), ".", flags, Mode::empty())) {
            Err(Errno::NOENT | Errno::NODEV) => Ok(Self::default()),
            opened => Self::noted(&opened?, name),
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for group in &self.0 {
            text.extend(
                [group.controllers.as_bytes(), b" ", group.dir.as_os_str().as_bytes(), b"\n"].concat(),
            );
        }
        text
    }

    fn parse(text: &[u8]) -> Self {
        let group = |line: &[u8]| {
            let at = line.iter().position(|b| *b == b' ')?;
            let controllers = std::str::from_utf8(&line[..at]).ok()?.to_owned();
            let dir = PathBuf::from(OsString::from_vec(line[at + 1..].to_vec()));
            let plain = dir.is_absolute() && !dir.components().any(|c| c == Component::ParentDir);
            plain.then_some(Group { controllers, dir })
        };
        Self(text.split(|b| *b == b'\n').filter_map(group).collect())
    }

    /// Moves a process into all of them. One that is gone is no error.
    pub(super) fn take_in(&self, pid: u32) -> Result<()> {
        for group in &self.0 {
            // Any controller does: the file is the hierarchy's.
            let mover = PidController::new(group.dir.clone(), group.dir.clone(), false);
            match mover
                .add_task_by_tgid(&CgroupPid::from(u64::from(pid)))
                .map_err(|e| super::files::errno(&e))
            {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(self.take_in_error(group, pid, errno)),
            }
        }
        Ok(())
    }

    /// Moves a single thread into all of them. One that is gone is no error.
    fn take_in_thread(&self, tid: u32) -> Result<()> {
        for group in &self.0 {
            let path = group.dir.join("tasks");
            match write_at(CWD, &path, tid.to_string().as_bytes()) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    let e = Error::sys("put a thread into its v1 group", errno).path(path);
                    return Err(match errno {
                        Errno::ACCESS | Errno::PERM => e.hint(DELEGATION),
                        Errno::NOENT | Errno::NODEV => e.with_kind(ErrorKind::NotFound),
                        _ => e,
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether its limit of processes has room for one more. That is not asked of one that is moved, as it is of one that
    /// is born.
    fn check_room(&self) -> Result<()> {
        let Some(dir) = self.of("pids") else { return Ok(()) };
        let number = |file: &str| {
            let text = read_at(CWD, &dir.join(file), 64).unwrap_or_default();
            std::str::from_utf8(&text).ok().and_then(|t| t.trim().parse::<u64>().ok())
        };
        match (number("pids.current"), number("pids.max")) {
            (Some(now), Some(max)) if now >= max => Err(Error::sys(STEP, Errno::AGAIN)
                .path(dir.join("pids.max"))
                .detail(format!("{now} processes are there, and {max} may be"))),
            _ => Ok(()),
        }
    }

    fn take_in_error(&self, group: &Group, pid: u32, errno: Errno) -> Error {
        let e = Error::sys(STEP, errno).path(group.dir.join("cgroup.procs")).detail(format!("pid {pid}"));
        match errno {
            Errno::ACCESS | Errno::PERM => e.hint(DELEGATION),
            Errno::NOENT | Errno::NODEV => e.with_kind(ErrorKind::NotFound),
            // The kernel takes a process with a real-time policy only where the group has time for such.
            Errno::INVAL => e.hint("a real-time process needs cpu.rt_runtime_us in each v1 group above it"),
            _ => e,
        }
    }
}

impl Cgroup {
    /// The v1 groups that it has, whoever made them.
    pub(in crate::cgroup) fn v1_groups(&self) -> Result<Groups> {
        if self.v1.tree.is_none() {
            return Ok(Groups::default());
        }
        Groups::of_dir(self, self.name())
            .map_err(|e| self.error("read the v1 groups of cgroup".to_owned(), "", e))
    }

    /// What its attribute says.
    fn v1_noted(&self, dir: &OwnedFd) -> Result<Groups> {
        Groups::noted(dir, self.name())
            .map_err(|e| self.error("read the v1 groups of cgroup".to_owned(), "", e))
    }

    /// Puts a new process into its v1 groups, if it has any and they have room for it.
    pub(crate) fn v1_take_in(&self, pid: u32) -> Result<()> {
        let groups = self.v1_groups()?;
        groups.check_room()?;
        groups.take_in(pid)
    }

    /// Puts a thread into its v1 groups, if it has any.
    pub(in crate::cgroup) fn v1_take_in_thread(&self, tid: u32) -> Result<()> {
        self.v1_groups()?.take_in_thread(tid)
    }

    /// Whether these limits will need v1 groups.
    pub(crate) fn needs_v1_groups(&self, limits: &Limits) -> Result<bool> {
        let wanted = limits.controllers();
        if wanted.is_empty() || self.v1.tree.is_none() {
            return Ok(false);
        }
        let own = self.controllers()?;
        Ok(wanted.into_iter().any(|c| !own.contains(&c) && self.v1.place_of(c).is_some()))
    }

    /// Whether processes that come into it have to be put into v1 groups too.
    pub(crate) fn has_v1_groups(&self) -> Result<bool> {
        Ok(!self.v1_groups()?.is_empty())
    }

    /// Makes those v1 groups that `settings` need and that are not there, and puts its processes into them.
    pub(super) fn v1_make(&self, groups: &mut Groups, settings: &[Setting]) -> Result<()> {
        let mut wanted: Vec<Group> = Vec::new();
        for controller in settings.iter().map(|s| s.controller) {
            let Some((controllers, dir)) = self.v1.place_of(controller) else { continue };
            let there = name_of(controller).is_some_and(|name| groups.of(name).is_some());
            if !there && !wanted.iter().any(|group| group.controllers == controllers) {
                wanted.push(Group { controllers: controllers.to_owned(), dir });
            }
        }
        self.v1_add(groups, wanted)
    }

    /// Adds these groups, and puts its processes into them.
    pub(super) fn v1_add(&self, groups: &mut Groups, wanted: Vec<Group>) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        if self.v1.is_own() {
            return Err(Error::new(ErrorKind::Unsupported, "make the v1 group")
                .path(self.path())
                .detail("is this process's own, whose v1 limits are left alone")
                .hint("set limits on a child of it"));
        }
        let failed = |e| self.error("lock cgroup".to_owned(), "", e);
        // Two that add one each at the same time would forget one of them.
        let lock = self.v1_lock().map_err(failed)?;
        *groups = self.v1_noted(&lock)?;
        let new: Vec<Group> = wanted.into_iter().filter(|group| !groups.0.contains(group)).collect();
        let with = |new: &[Group]| Groups(groups.0.iter().chain(new).cloned().collect());
        let mut all = with(&new);
        self.v1_note(&lock, &all)?;
        let mut made = Ok(());
        for (n, group) in new.iter().enumerate() {
            if let Err(e) = make(group) {
                all = with(&new[..n]);
                made = Err(match self.v1_note(&lock, &all) {
                    Ok(()) => e,
                    Err(left) => e.also(format!("it stays noted: {left}")),
                });
                break;
            }
        }
        drop(lock);
        let kept = Groups(all.0[groups.0.len()..].to_vec());
        *groups = all;
        if !kept.is_empty() {
            self.v1_gather(&kept)?;
        }
        made
    }

    /// Whether this host has the hierarchy in which older systemds keep their units.
    pub(crate) fn has_v1_named(&self) -> bool {
        self.v1.place_in(NAMED).is_some()
    }

    /// Makes a group in that hierarchy, for its processes, and gives it to a user of the caller's user namespace.
    pub(crate) fn v1_delegate_named(&self, uid: u32, gid: u32) -> Result<()> {
        let Some((controllers, dir)) = self.v1.place_in(NAMED) else { return Ok(()) };
        let group = Group { controllers: controllers.to_owned(), dir: dir.clone() };
        self.v1_add(&mut Groups::default(), vec![group])?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        for file in ["", "cgroup.procs", "tasks"] {
            let path = if file.is_empty() { dir.clone() } else { dir.join(file) };
            retry(|| rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))
                .map_err(|e| {
                    Error::sys("change the owner of", e).path(&path).hint("run with CAP_CHOWN over the id")
                })?;
        }
        Ok(())
    }

    /// Keeps others from adding groups, and from removing the cgroup, as long as the descriptor is open.
    fn v1_lock(&self) -> Result<OwnedFd, Errno> {
        let dir = self.readable()?;
        retry(|| rustix::fs::flock(&dir, FlockOperation::LockExclusive))?;
        // It may have been removed meanwhile; an attribute could still be set.
        retry(|| rustix::fs::accessat(&dir, "cgroup.procs", Access::EXISTS, AtFlags::empty()))
            .map_err(|e| if e == Errno::NOENT { Errno::NODEV } else { e })?;
        Ok(dir)
    }

    /// Writes down which groups it has, or is about to have.
    fn v1_note(&self, dir: &OwnedFd, groups: &Groups) -> Result<()> {
        retry(|| rustix::fs::fsetxattr(dir, ATTRIBUTE, &groups.text(), XattrFlags::empty()))
            .map_err(|e| self.error("note the v1 groups of cgroup".to_owned(), "", e))
    }

    /// Puts every process of it into the groups. A process that forks while it is moved may leave a child behind, which
    /// the next look finds; where there is no end to it, they are frozen for the time that it takes.
    fn v1_gather(&self, groups: &Groups) -> Result<()> {
        let mut known = HashSet::new();
        for _ in 0..LOOKS {
            if self.v1_take_in_new(groups, &mut known)? == 0 {
                return Ok(());
            }
        }
        let frozen = self.state()?.frozen;
        let end = Some(Instant::now() + STILL);
        if !frozen {
            self.freeze(end)?;
        }
        let done = self.v1_take_in_new(groups, &mut known).map(drop);
        let thawed = if frozen { Ok(()) } else { self.thaw(end) };
        done.and(thawed)
    }

    /// Gives how many there were that were not known.
    fn v1_take_in_new(&self, groups: &Groups, known: &mut HashSet<u32>) -> Result<usize> {
        let mut new = 0;
        if self.kind()? == CgroupKind::Threaded {
            for tid in self.threads()? {
                if known.insert(tid) {
                    groups.take_in_thread(tid)?;
                    new += 1;
                }
            }
            return Ok(new);
        }
        for pid in self.procs_below()? {
            // 0: one that this pid namespace does not show.
            if pid != 0 && known.insert(pid) {
                groups.take_in(pid)?;
                new += 1;
            }
        }
        Ok(new)
    }

    /// Removes its v1 groups, with what its processes have made in them. They are left alone while there are processes
    /// in the cgroup. Until the returned descriptor is closed nobody makes others.
    pub(in crate::cgroup) fn v1_remove(&self, deadline: Option<Instant>) -> Result<Option<OwnedFd>> {
        if self.v1.tree.is_none() {
            return Ok(None);
        }
        let (lock, groups) = loop {
            let lock = match self.v1_lock() {
                // Somebody else has removed it.
                Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
                lock => lock.map_err(|e| self.error("lock cgroup".to_owned(), "", e))?,
            };
            let groups = self.v1_noted(&lock)?;
            if groups.is_empty() || !self.populated()? {
                break (lock, groups);
            }
            drop(lock);
            self.wait_empty(deadline)?;
        };
        let mut pause = Duration::from_millis(1);
        loop {
            let mut busy = None;
            for group in &groups.0 {
                let gone = remove(&group.dir, deadline);
                if !gone.map_err(|e| Error::sys("remove the v1 group", e).path(&group.dir))? {
                    busy = Some(&group.dir);
                }
            }
            let Some(busy) = busy else { return Ok(Some(lock)) };
            let left = deadline.map_or(PAUSE_MAX, |d| d.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Error::new(ErrorKind::Timeout, "remove the v1 group")
                    .path(busy)
                    .detail("processes are in it")
                    .hint("kill the processes first"));
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The same for the cgroups below it.
    pub(in crate::cgroup) fn v1_remove_below(&self, deadline: Option<Instant>) -> Result<()> {
        if self.v1.tree.is_none() {
            return Ok(());
        }
        // What cannot be listed has gone.
        let mut todo = self.children().unwrap_or_default();
        while let Some(here) = todo.pop() {
            here.v1_remove(deadline)?;
            todo.extend(here.children().unwrap_or_default());
        }
        Ok(())
    }

    fn readable(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        retry(|| rustix::fs::openat(self.as_fd(), ".", flags, Mode::empty()))
    }
}

/// Makes one. What is there already under this name was left by a crash, and is made anew if nobody is in it.
fn make(group: &Group) -> Result<()> {
    let failed = |e: Errno| {
        let e = Error::sys("make the v1 group", e).path(&group.dir);
        match e.kind() {
            ErrorKind::AlreadyExists => e.hint("another instance uses it: take another name"),
            ErrorKind::PermissionDenied => e.hint(DELEGATION),
            ErrorKind::NotFound => e
                .with_kind(ErrorKind::Unsupported)
                .detail("the cgroup above has no v1 group of this controller")
                .hint("set a limit of the same controller on that one first"),
            _ => e,
        }
    };
    let mode = Mode::from_raw_mode(0o755);
    match retry(|| rustix::fs::mkdirat(CWD, &group.dir, mode)) {
        Err(Errno::EXIST) => {
            if !remove(&group.dir, Some(Instant::now())).map_err(failed)? {
                return Err(failed(Errno::EXIST));
            }
            retry(|| rustix::fs::mkdirat(CWD, &group.dir, mode)).map_err(failed)?;
        }
        made => made.map_err(failed)?,
    }
    if group.controllers.split(',').any(|c| c == "cpuset") {
        // A new one has none, and takes no process.
        for file in ["mems", "cpus"] {
            let dir = group.dir.as_path();
            let all = read_at(CWD, &dir.join(format!("../cpuset.effective_{file}")), 1 << 16);
            all.and_then(|all| write_at(CWD, &dir.join(format!("cpuset.{file}")), all.trim_ascii()))
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// Whether a path is in a v1 hierarchy; one that is not there any more is as good as that.
fn is_v1(dir: &Path) -> bool {
    match retry(|| rustix::fs::statfs(dir)) {
        Ok(fs) => fs.f_type as u64 == CGROUP_MAGIC,
        Err(_) => true,
    }
}

/// Removes one with all that is in it; says whether it is gone.
fn remove(dir: &Path, deadline: Option<Instant>) -> Result<bool, Errno> {
    if rmdir(CWD, dir)? {
        return Ok(true);
    }
    let open = match open_dir(CWD, dir) {
        Err(Errno::NOENT) => return Ok(true),
        open => open?,
    };
    remove_children(open.as_fd(), deadline.map(|d| d.max(Instant::now() + Duration::from_millis(100))))?;
    rmdir(CWD, dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_as_they_are_written() {
        let group =
            |controllers: &str, dir: &str| Group { controllers: controllers.to_owned(), dir: dir.into() };
        let all = Groups(vec![group("cpu,cpuacct", "/sys/fs/cgroup/cpu/a b"), group("pids", "/x/y:z")]);
        assert_eq!(Groups::parse(&all.text()), all);
        assert_eq!(all.of("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu/a b")));
        assert_eq!(all.of("memory"), None);
        assert!(Groups::parse(b"pids /x/../y\npids \n").is_empty());
        assert!(Groups::parse(b"rubbish\npids relative\n\n").is_empty());
    }
}

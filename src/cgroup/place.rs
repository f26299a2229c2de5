//! What of the tree is the caller's to use, and which controllers can be had there.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use super::group::Cgroup;
use super::{Controller, Hierarchy};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::raw::retry;

/// What systemd sets on a cgroup that it has handed over (`Delegate=`); the second where it may not set the first.
const MARKS: [&str; 2] = ["trusted.delegate", "user.delegate"];
/// Exists where systemd is the manager of the tree (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";
/// The files that must be the caller's to make children and give them processes and controllers.
const NEEDED: [&str; 3] = ["", "cgroup.procs", "cgroup.subtree_control"];

/// What ends the part of the tree that is the caller's, on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Boundary {
    /// Nothing is above it that this mount shows: the root of the machine or of a cgroup namespace.
    Root,
    /// systemd marks it as delegated (`trusted.delegate`, `user.delegate`).
    Marked,
    /// The cgroup above is not the caller's to write.
    Owner,
    /// The caller may write more, as root may, but systemd manages the tree and has delegated none of it. Two writers
    /// of one cgroup undo each other's work, so nothing above is touched.
    Undelegated,
    /// Not even this one is the caller's to write.
    None,
}

/// What a cgroup can hold (`cgroup.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CgroupKind {
    /// The root of the hierarchy: has no type, and may hold processes and give controllers at once.
    Root,
    /// The usual one.
    Domain,
    /// The root of a threaded subtree: its processes' threads may be in different cgroups below.
    ThreadedDomain,
    /// A member of a threaded subtree: containers cannot be in it.
    Threaded,
    /// Below a threaded domain and not made threaded: cannot be used at all.
    Invalid,
}

/// One cgroup of the way from the boundary down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Level {
    /// The cgroup, as an absolute path.
    pub path: PathBuf,
    /// The user who owns its directory, as the caller's user namespace numbers him.
    pub owner: u32,
    /// What it can hold.
    pub kind: CgroupKind,
    /// The controllers that it has (`cgroup.controllers`).
    pub available: Vec<Controller>,
    /// Those that its children have (`cgroup.subtree_control`).
    pub enabled: Vec<Controller>,
    /// The processes in the cgroup itself. Those that the caller's pid namespace does not show are 0.
    pub processes: Vec<u32>,
}

/// What of the cgroup tree the calling process may use: from the boundary down to the cgroup in which those of the
/// instances are made. Its [`Display`](fmt::Display) is a report for people.
///
/// ```no_run
/// use stockade::cgroup::{Controller, Hierarchy};
///
/// let delegation = Hierarchy::detect()?.delegation()?;
/// println!("{delegation}");
/// if !delegation.attainable().contains(&Controller::Memory) {
///     println!("containers can have no memory limits here");
/// }
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Delegation {
    /// What ends it above.
    pub boundary: Boundary,
    /// From the boundary down to the cgroup that was asked about: that one alone where nothing is the caller's.
    pub levels: Vec<Level>,
    /// The mount has the option `nsdelegate`: cgroup namespaces are delegation boundaries too.
    pub nsdelegate: bool,
    /// The cgroup2 mount, or this view of it, is read-only.
    pub read_only: bool,
    /// Controllers that a cgroup v1 hierarchy holds, so that v2 cannot have them.
    pub held_by_v1: Vec<Controller>,
    /// Those of them whose limits are set through v1 all the same: with the feature `cgroup1`, where a v1 mount shows this
    /// process's own group.
    pub through_v1: Vec<Controller>,
}

impl Delegation {
    /// The controllers that cgroups made at the end of the way can have, once they are enabled on it. Limits of
    /// [`through_v1`](Self::through_v1) can be set besides.
    pub fn attainable(&self) -> Vec<Controller> {
        if self.boundary == Boundary::None {
            // What is enabled already its children would have, but none can be made.
            return Vec::new();
        }
        let mut all = self.levels.first().map(|l| l.available.clone()).unwrap_or_default();
        for level in &self.levels {
            all.retain(|c| level.enabled.contains(c) || level.gives());
        }
        all
    }

    /// The cgroup on the way whose own processes keep it from giving controllers to its children (the
    /// no-internal-process rule of `cgroups(7)`).
    pub fn occupied(&self) -> Option<&Level> {
        self.levels.iter().find(|l| l.kind == CgroupKind::Domain && !l.processes.is_empty())
    }
}

impl Level {
    fn gives(&self) -> bool {
        match self.kind {
            CgroupKind::Root => true,
            CgroupKind::Domain => self.processes.is_empty(),
            _ => false,
        }
    }
}

impl fmt::Display for Delegation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.boundary {
            Boundary::Root => "all that this mount shows",
            Boundary::Marked => "delegated by systemd",
            Boundary::Owner => "the cgroup above belongs to somebody else",
            Boundary::Undelegated => "systemd has delegated nothing on the way",
            Boundary::None => "not this process's to write",
        };
        writeln!(f, "boundary: {end}")?;
        for l in &self.levels {
            let kind = match l.kind {
                CgroupKind::Root => "root",
                CgroupKind::Domain => "domain",
                CgroupKind::ThreadedDomain => "threaded domain",
                CgroupKind::Threaded => "threaded",
                CgroupKind::Invalid => "invalid domain",
            };
            writeln!(
                f,
                "{}: {kind}, owner {}, {} processes, has {}, gives {}",
                l.path.display(),
                l.owner,
                l.processes.len(),
                list(&l.available),
                list(&l.enabled)
            )?;
        }
        write!(f, "instances can have: {}", list(&self.attainable()))?;
        if !self.held_by_v1.is_empty() {
            write!(f, "\nheld by cgroup v1: {}", list(&self.held_by_v1))?;
        }
        if !self.through_v1.is_empty() {
            write!(f, "\nset through cgroup v1: {}", list(&self.through_v1))?;
        }
        if self.read_only {
            write!(f, "\nmounted read-only")?;
        }
        if self.nsdelegate {
            write!(f, "\nmounted with nsdelegate")?;
        }
        Ok(())
    }
}

fn list(controllers: &[Controller]) -> String {
    match controllers {
        [] => "no controllers".to_owned(),
        some => some.iter().map(|c| c.name()).collect::<Vec<_>>().join(" "),
    }
}

impl Hierarchy {
    /// What of the tree the calling process may use, down to its own cgroup. Changes nothing.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): the cgroup was removed.
    pub fn delegation(&self) -> Result<Delegation> {
        self.delegation_of(self.own())
    }

    /// As [`delegation`](Self::delegation), down to `cgroup`: the one in which cgroups are to be made.
    ///
    /// # Errors
    /// As there.
    pub fn delegation_of(&self, cgroup: &Cgroup) -> Result<Delegation> {
        let mut levels = vec![level(cgroup)?];
        let mut boundary = if usable(cgroup) { Boundary::Root } else { Boundary::None };
        // Without a mark on the way privilege alone says nothing: only who manages the tree does.
        let mut unmarked_from = None;
        if boundary != Boundary::None {
            let mut marked = is_marked(cgroup);
            let mut above = cgroup.parent()?;
            while let Some(here) = above.filter(|_| !marked) {
                if !usable(&here) {
                    boundary = Boundary::Owner;
                    break;
                }
                levels.push(level(&here)?);
                marked = is_marked(&here);
                above = here.parent()?;
            }
            if marked {
                boundary = Boundary::Marked;
            } else if self.is_managed() {
                unmarked_from = Some(boundary);
            }
        }
        // An ordinary user's part begins where it was given to him, whoever marked it or did not.
        if unmarked_from == Some(Boundary::Root) && levels.len() > 1 {
            levels.truncate(1);
            boundary = Boundary::Undelegated;
        }
        levels.reverse();
        let options = self.mount_options();
        Ok(Delegation {
            boundary,
            levels,
            nsdelegate: options.iter().any(|o| o == "nsdelegate"),
            read_only: options.iter().any(|o| o == "ro"),
            held_by_v1: held_by_v1(),
            through_v1: self.own().v1.anchor().controllers(),
        })
    }

    /// Gives `wanted` to the children of `cgroup`: enables them in every cgroup from the boundary down, as far as the
    /// first of them has them. What the boundary itself lacks is left out, and the limit that needs it fails.
    ///
    /// # Errors
    /// As [`Cgroup::enable_controllers`], for the cgroup on the way that refuses.
    pub fn enable_controllers_for(&self, cgroup: &Cgroup, wanted: &[Controller]) -> Result<()> {
        let lacks = |c: &Cgroup| -> Result<Vec<Controller>> {
            let enabled = c.enabled_controllers()?;
            Ok(wanted.iter().copied().filter(|c| !enabled.contains(c)).collect())
        };
        let missing = lacks(cgroup)?;
        if missing.is_empty() {
            return Ok(());
        }
        let own = cgroup.controllers()?;
        if missing.iter().all(|c| own.contains(c)) {
            return cgroup.enable_controllers(&missing);
        }
        let found = self.delegation_of(cgroup)?;
        let Some(top) = found.levels.first() else { return Ok(()) };
        let grants: Vec<Controller> = missing.into_iter().filter(|c| top.available.contains(c)).collect();
        for level in &found.levels {
            if level.path == cgroup.path() {
                cgroup.enable_controllers(&grants)?;
            } else if level.path == self.root().path() {
                self.root().enable_controllers(&grants)?;
            } else {
                self.open(&level.path)?.enable_controllers(&grants)?;
            }
        }
        Ok(())
    }

    /// Whether systemd manages this tree: it marks what it hands over.
    fn is_managed(&self) -> bool {
        Path::new(SYSTEMD).is_dir() && self.root().path().starts_with("/sys/fs/cgroup")
    }
}

/// Whether the caller may make children here and give them processes and controllers. Asked of the kernel, which
/// knows the owner, the mode, the caller's capabilities and the mount.
fn usable(cgroup: &Cgroup) -> bool {
    let may = |file: &str| {
        let (name, flags) = if file.is_empty() { (".", AtFlags::EACCESS) } else { (file, AtFlags::EACCESS) };
        retry(|| rustix::fs::accessat(cgroup.as_fd(), name, Access::WRITE_OK, flags)).is_ok()
    };
    NEEDED.iter().all(|file| may(file))
}

fn level(cgroup: &Cgroup) -> Result<Level> {
    let stat = retry(|| rustix::fs::fstat(cgroup)).map_err(|e| cgroup.error("look at".to_owned(), "", e))?;
    let kind = cgroup.kind()?;
    // Threaded members have no list of processes.
    let processes = match kind {
        CgroupKind::Threaded | CgroupKind::Invalid => Vec::new(),
        _ => cgroup.procs()?,
    };
    Ok(Level {
        path: cgroup.path().to_owned(),
        owner: stat.st_uid,
        kind,
        available: cgroup.controllers()?,
        enabled: cgroup.enabled_controllers()?,
        processes,
    })
}

fn is_marked(cgroup: &Cgroup) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = retry(|| rustix::fs::openat(cgroup.as_fd(), ".", flags, Mode::empty())) else {
        return false;
    };
    MARKS.iter().any(|name| {
        let mut value = [0_u8; 8];
        match retry(|| rustix::fs::fgetxattr(&dir, *name, &mut value[..])) {
            Ok(n) => value[..n] == *b"1",
            Err(_) => false,
        }
    })
}

/// The controllers that v1 hierarchies hold (`/proc/cgroups`: hierarchy 0 is v2's).
pub(super) fn held_by_v1() -> Vec<Controller> {
    parse_v1(&std::fs::read_to_string("/proc/cgroups").unwrap_or_default())
}

fn parse_v1(text: &str) -> Vec<Controller> {
    let held = |line: &str| {
        let mut fields = line.split_whitespace();
        let (name, hierarchy) = (fields.next()?, fields.next()?);
        // v1 has another name for it.
        let name = if name == "blkio" { "io" } else { name };
        (hierarchy != "0").then(|| name.parse().ok())?
    };
    text.lines().filter(|l| !l.starts_with('#')).filter_map(held).collect()
}

impl Cgroup {
    /// What it can hold.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): it was removed.
    pub fn kind(&self) -> Result<CgroupKind> {
        let Some(text) = self.read_optional("cgroup.type")? else {
            return match self.controllers() {
                Ok(_) => Ok(CgroupKind::Root),
                Err(_) => Err(self.error("look at".to_owned(), "", Errno::NODEV)),
            };
        };
        match text.trim() {
            "domain" => Ok(CgroupKind::Domain),
            "domain threaded" => Ok(CgroupKind::ThreadedDomain),
            "threaded" => Ok(CgroupKind::Threaded),
            "domain invalid" => Ok(CgroupKind::Invalid),
            other => Err(Error::new(ErrorKind::Kernel, "look at the type of cgroup")
                .path(self.path())
                .detail(format!("`{other}` is not known"))),
        }
    }

    /// The user who owns `file`, or the directory itself where it is empty.
    pub(super) fn owner_of(&self, file: &str) -> Option<u32> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let fd: BorrowedFd<'_> = self.as_fd();
        retry(|| rustix::fs::statat(fd, file, flags)).ok().map(|s| s.st_uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, kind: CgroupKind, enabled: &[Controller], processes: &[u32]) -> Level {
        Level {
            path: path.into(),
            owner: 0,
            kind,
            available: vec![Controller::Cpu, Controller::Memory, Controller::Pids],
            enabled: enabled.to_vec(),
            processes: processes.to_vec(),
        }
    }

    fn of(levels: Vec<Level>) -> Delegation {
        Delegation {
            boundary: Boundary::Marked,
            levels,
            nsdelegate: true,
            read_only: false,
            held_by_v1: vec![Controller::Io],
            through_v1: vec![Controller::Io],
        }
    }

    #[test]
    fn processes_on_the_way_stop_what_is_not_enabled_there() {
        use CgroupKind::{Domain, Root, Threaded};
        let free = of(vec![at("/a", Domain, &[], &[]), at("/a/b", Domain, &[], &[])]);
        assert_eq!(free.attainable(), [Controller::Cpu, Controller::Memory, Controller::Pids]);
        assert_eq!(free.occupied(), None);

        let full = of(vec![at("/a", Domain, &[Controller::Pids], &[]), at("/a/b", Domain, &[], &[7])]);
        assert_eq!(full.attainable(), []);
        assert_eq!(full.occupied().unwrap().path, Path::new("/a/b"));
        assert_eq!(of(vec![at("/", Root, &[], &[1, 2])]).attainable().len(), 3);
        assert_eq!(of(vec![at("/a", Threaded, &[Controller::Cpu], &[])]).attainable(), [Controller::Cpu]);

        let none = Delegation { boundary: Boundary::None, ..free };
        assert_eq!(none.attainable(), []);
    }

    #[test]
    fn the_report_says_what_there_is() {
        let text = of(vec![at("/a", CgroupKind::Domain, &[Controller::Pids], &[3, 4])]).to_string();
        assert_eq!(
            text,
            "boundary: delegated by systemd\n\
             /a: domain, owner 0, 2 processes, has cpu memory pids, gives pids\n\
             instances can have: pids\n\
             held by cgroup v1: io\n\
             set through cgroup v1: io\n\
             mounted with nsdelegate"
        );
    }

    #[test]
    fn v1_holds_what_is_in_a_numbered_hierarchy() {
        let text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
            cpu\t1\t5\t1\nblkio\t7\t1\t1\nmemory\t0\t9\t1\nnet_cls\t3\t1\t1\nbroken\n";
        assert_eq!(parse_v1(text), [Controller::Cpu, Controller::Io]);
    }
}

//! `newuidmap(1)` and `newgidmap(1)`: set-id programs that write for an ordinary user the maps that `/etc/subuid` and
//! `/etc/subgid` allow him.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};

use crate::error::{Error, ErrorKind, Result};
use crate::idmap::{IdKind, IdMap};
use crate::op::Deadline;
use crate::spawn::{Readiness, wait_for};

/// Where they may be beside `PATH`, which a service's environment may lack.
const USUAL: [&str; 6] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/run/wrappers/bin"];

/// The two programs, both there and able to do their work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Programs {
    uid: PathBuf,
    gid: PathBuf,
}

impl Programs {
    /// Finds them; where that fails, the sentence says why.
    pub(crate) fn find() -> std::result::Result<Self, String> {
        if rustix::thread::no_new_privs().unwrap_or(false) {
            return Err("no_new_privs is set on this process, so set-id programs have no effect".to_owned());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs: Vec<PathBuf> = std::env::split_paths(&path)
            .filter(|dir| dir.is_absolute())
            .chain(USUAL.iter().map(PathBuf::from))
            .collect();
        Ok(Self { uid: find("newuidmap", &dirs)?, gid: find("newgidmap", &dirs)? })
    }

    /// Writes both maps of the process `pid`, a child of this one in a new user namespace of the caller's making.
    pub(crate) fn write(&self, pid: u32, map: &IdMap, deadline: Deadline) -> Result<()> {
        // Groups first: once the users are mapped the process may do more, and it must not with half a map.
        for (kind, program) in [(IdKind::Gid, &self.gid), (IdKind::Uid, &self.uid)] {
            run(program, kind, pid, map, deadline)?;
        }
        Ok(())
    }
}

fn find(name: &str, dirs: &[PathBuf]) -> std::result::Result<PathBuf, String> {
    let mut why = format!("{name} is not installed (package uidmap or shadow-utils)");
    for path in dirs.iter().map(|dir| dir.join(name)) {
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            continue;
        }
        let set_id = meta.permissions().mode() & 0o4000 != 0 && meta.uid() == 0;
        if set_id || has_capabilities(&path) {
            return Ok(path);
        }
        why = format!("{} is neither set-user-id root nor has it file capabilities", path.display());
    }
    Err(why)
}

fn has_capabilities(path: &Path) -> bool {
    let mut buf = [0_u8; 64];
    rustix::fs::getxattr(path, "security.capability", &mut buf).is_ok_and(|n| n > 0)
}

fn run(path: &Path, kind: IdKind, pid: u32, map: &IdMap, deadline: Deadline) -> Result<()> {
    const STEP: &str = "let the id map be written";
    let mut command = Command::new(path);
    command.arg(pid.to_string());
    for range in map.ranges(kind) {
        command.args([range.inner, range.host, range.count].map(|n| n.to_string()));
    }
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut program = command.spawn().map_err(|e| Error::io(STEP, e).path(path))?;
    let said = match program.stderr.take().map(|pipe| read_to_end(pipe, deadline)).transpose() {
        Ok(said) => said.unwrap_or_default(),
        Err(e) => {
            // It still holds the pipe, so it is there.
            let _ = program.kill();
            let _ = program.wait();
            return Err(e.path(path));
        }
    };
    let succeeded = match program.wait() {
        Ok(status) => status.success(),
        // The host ignores SIGCHLD, or something in it reaps every child: the map has the last word.
        Err(_) => is_written(kind, pid),
    };
    if succeeded {
        return Ok(());
    }
    let file = if kind == IdKind::Uid { "/etc/subuid" } else { "/etc/subgid" };
    let e = Error::new(ErrorKind::PermissionDenied, STEP).path(path).hint(format!(
        "every id of the map must be the caller's own or in a range that {file} gives to the caller"
    ));
    Err(if said.is_empty() { e.detail("it failed without a word") } else { e.detail(said) })
}

/// What the program writes, until it has ended. Its number is no way to wait for it: where something else reaps the
/// host's children it may be another's already.
fn read_to_end(mut pipe: ChildStderr, deadline: Deadline) -> Result<String> {
    use std::io::Read;
    wait_for(pipe.as_fd(), Readiness::Closed, deadline, None, "wait for the id map to be written")?;
    let mut buf = [0_u8; 1024];
    let n = pipe.read(&mut buf).unwrap_or(0);
    Ok(String::from_utf8_lossy(&buf[..n]).trim().to_owned())
}

fn is_written(kind: IdKind, pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/{}", kind.map_file())).is_ok_and(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_program_without_rights_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        assert!(find("newuidmap", &dirs).unwrap_err().contains("not installed"));
        std::fs::write(dir.path().join("newuidmap"), "").unwrap();
        assert!(find("newuidmap", &dirs).unwrap_err().contains("not installed"), "not executable");
        std::fs::set_permissions(dir.path().join("newuidmap"), PermissionsExt::from_mode(0o755)).unwrap();
        let why = find("newuidmap", &dirs).unwrap_err();
        assert!(why.contains("neither") && why.contains(dir.path().to_str().unwrap()), "{why}");
    }

    #[test]
    fn what_a_failed_program_says_is_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("p");
        std::fs::write(&program, "#!/bin/sh\necho \"p: $*: not allowed\" >&2; exit 1").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let map = IdMap::range(100_000, 10).unwrap();
        let after = |seconds| Deadline::after(std::time::Duration::from_secs(seconds));
        let e = run(&program, IdKind::Gid, 1, &map, after(30)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        assert!(e.to_string().contains("p: 1 0 100000 10: not allowed"), "{e}");
        assert!(e.to_string().contains("/etc/subgid"), "{e}");
    }

    #[test]
    fn one_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("p");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 1000").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let map = IdMap::range(100_000, 10).unwrap();
        let soon = Deadline::after(std::time::Duration::from_millis(50));
        let e = run(&program, IdKind::Uid, 1, &map, soon).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
        let none = dir.path().join("none");
        symlink("nowhere", &none).unwrap();
        assert_eq!(run(&none, IdKind::Uid, 1, &map, soon).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

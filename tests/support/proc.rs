//! Reading `/proc`, proc(5). What vanishes while it is read counts as not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The `Key: value` lines of a status file.
pub(crate) fn status(path: impl AsRef<Path>) -> BTreeMap<String, String> {
    read(path)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// The file's text, empty where it cannot be read.
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned()).unwrap_or_default()
}

/// Where a link points, `?` where that cannot be read.
pub(crate) fn link(path: impl AsRef<Path>) -> String {
    fs::read_link(path).map_or_else(|_| "?".to_owned(), |target| target.to_string_lossy().into_owned())
}

/// The names in a directory that are numbers: pids, thread ids, descriptors.
pub(crate) fn numbers(dir: impl AsRef<Path>) -> Vec<u32> {
    names(dir).iter().filter_map(|name| name.parse().ok()).collect()
}

/// The names in a directory, in order.
pub(crate) fn names(dir: impl AsRef<Path>) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeSet::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The processes whose parent is this process, zombies included: pid and name.
pub(crate) fn children() -> BTreeMap<u32, String> {
    let own = std::process::id().to_string();
    let mut found = BTreeMap::new();
    for pid in numbers("/proc") {
        let status = status(format!("/proc/{pid}/status"));
        if status.get("PPid") == Some(&own) {
            let field = |key| status.get(key).map_or("?", String::as_str);
            found.insert(pid, format!("{} ({})", field("Name"), field("State")));
        }
    }
    found
}

/// The open descriptors: what each is, and whether it is closed on exec.
pub(crate) fn fds() -> BTreeMap<u32, (String, bool)> {
    const O_CLOEXEC: u32 = 0o2_000_000;
    // The list is complete before the links are read: the directory's own descriptor is gone by then.
    let listed = numbers("/proc/self/fd");
    let mut found = BTreeMap::new();
    for fd in listed {
        let Ok(target) = fs::read_link(format!("/proc/self/fd/{fd}")) else { continue };
        let flags = status(format!("/proc/self/fdinfo/{fd}"));
        let flags = flags.get("flags").and_then(|v| u32::from_str_radix(v, 8).ok()).unwrap_or(0);
        found.insert(fd, (target.to_string_lossy().into_owned(), flags & O_CLOEXEC != 0));
    }
    found
}

/// Every cgroup below this process's own, in each hierarchy that is mounted: the directories' paths.
pub(crate) fn cgroups_below_own() -> BTreeSet<String> {
    let mounts = read("/proc/self/mountinfo");
    let mut found = BTreeSet::new();
    for line in read("/proc/self/cgroup").lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(own)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        for (root, at) in mounts.lines().filter_map(|mount| cgroup_mount(mount, controllers)) {
            if let Ok(rest) = Path::new(own).strip_prefix(root) {
                directories(&Path::new(at).join(rest), &mut found);
            }
        }
    }
    found
}

/// Root and mount point of a mountinfo line, where it mounts the hierarchy with these controllers.
fn cgroup_mount<'a>(line: &'a str, controllers: &str) -> Option<(&'a str, &'a str)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let matches = match kind.next()? {
        "cgroup2" => controllers.is_empty(),
        "cgroup" => {
            let mounted: BTreeSet<&str> = kind.nth(1)?.split(',').collect();
            !controllers.is_empty() && controllers.split(',').all(|c| mounted.contains(c))
        }
        _ => false,
    };
    let mut place = place.split(' ').skip(3);
    let (root, at) = (place.next()?, place.next()?);
    matches.then_some((root, at))
}

fn directories(dir: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let below: Vec<PathBuf> =
        entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
    for path in below {
        directories(&path, found);
        found.insert(path.to_string_lossy().into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_mounts_are_told_apart() {
        let v2 = "38 30 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let v1 = "31 30 0:21 /x /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(cgroup_mount(v2, ""), Some(("/", "/sys/fs/cgroup/unified")));
        assert_eq!(cgroup_mount(v2, "cpu"), None);
        assert_eq!(cgroup_mount(v1, "cpu,cpuacct"), Some(("/x", "/sys/fs/cgroup/cpu")));
        assert_eq!(cgroup_mount(v1, "memory"), None);
        assert_eq!(cgroup_mount(v1, ""), None);
    }

    #[test]
    fn a_child_is_seen_until_it_is_reaped() {
        let _serial = crate::serial();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children().contains_key(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children().contains_key(&child.id()));
    }
}

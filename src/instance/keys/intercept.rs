//! `security.syscalls.intercept.*`.

use std::collections::BTreeSet;

use super::{Key, KeyChange, KeyScope, shown};
use crate::error::{Error, Result};
use crate::seccomp::{Interception, MountInterception, Nodes};

const PREFIX: &str = "security.syscalls.intercept.";

/// The keys of intercepted calls, as LXD and Incus have them. `mknod` stands for [`Nodes::Usable`], which is what they do.
///
/// ```
/// use stockade::instance::keys::InterceptKeys;
/// use stockade::seccomp::{Interception, Nodes};
///
/// let keys = [("security.syscalls.intercept.mknod", "yes"), ("security.syscalls.intercept.sysinfo", "false")];
/// assert_eq!(InterceptKeys::parse(keys)?, Interception::new().mknod(Nodes::Usable));
/// let wrong = InterceptKeys::parse([("security.syscalls.intercept.mknod", "maybe")]).unwrap_err();
/// assert!(wrong.to_string().contains("maybe"));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct InterceptKeys;

const fn key(name: &'static str, value: &'static str) -> Key {
    Key { name, scope: KeyScope::Container, change: KeyChange::Restart, value, default: "false" }
}

const BOOL: &str = "true or false, yes or no, on or off, 1 or 0";

const TABLE: [Key; 10] = [
    key("security.syscalls.intercept.bpf", BOOL),
    key("security.syscalls.intercept.bpf.devices", BOOL),
    key("security.syscalls.intercept.mknod", BOOL),
    key("security.syscalls.intercept.mount", BOOL),
    Key {
        default: "none",
        ..key("security.syscalls.intercept.mount.allowed", "names of file systems with commas between them")
    },
    Key {
        default: "none",
        ..key(
            "security.syscalls.intercept.mount.fuse",
            "FILESYSTEM=PROGRAM, again and again, with commas between them",
        )
    },
    key("security.syscalls.intercept.mount.shift", BOOL),
    key("security.syscalls.intercept.sched_setscheduler", BOOL),
    key("security.syscalls.intercept.setxattr", BOOL),
    key("security.syscalls.intercept.sysinfo", BOOL),
];

/// What they say.
#[derive(Default)]
struct Said {
    bpf: bool,
    bpf_devices: bool,
    mknod: bool,
    mount: bool,
    allowed: Vec<String>,
    programs: Vec<(String, String)>,
    shift: bool,
    sched: bool,
    setxattr: bool,
    sysinfo: bool,
}

impl InterceptKeys {
    /// The keys that there are.
    pub fn table() -> impl Iterator<Item = Key> {
        TABLE.into_iter()
    }

    /// Reads keys and values. An empty value is as if the key were not there; `mount.*` and `bpf.devices` mean nothing
    /// unless `mount` and `bpf` are true.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), which lists every key that is not known, is there twice or has a
    /// value that is wrong.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(
        keys: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Interception> {
        let (mut said, mut seen, mut problems) = (Said::default(), BTreeSet::new(), Vec::new());
        for (key, value) in keys {
            let (key, value) = (key.as_ref(), value.as_ref().trim());
            let done = if seen.insert(key.to_owned()) {
                said.read(key, value)
            } else {
                Err("is there twice".to_owned())
            };
            if let Err(why) = done {
                problems.push(format!("{}: {why}", shown(key)));
            }
        }
        if problems.is_empty() {
            return Ok(said.interception());
        }
        Err(Error::invalid("configuration keys", problems.join("; ")))
    }
}

impl Said {
    fn read(&mut self, key: &str, value: &str) -> Result<(), String> {
        let field = match key.strip_prefix(PREFIX).unwrap_or_default() {
            "bpf" => &mut self.bpf,
            "bpf.devices" => &mut self.bpf_devices,
            "mknod" => &mut self.mknod,
            "mount" => &mut self.mount,
            "mount.shift" => &mut self.shift,
            "sched_setscheduler" => &mut self.sched,
            "setxattr" => &mut self.setxattr,
            "sysinfo" => &mut self.sysinfo,
            "mount.allowed" => {
                let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                self.allowed = names.map(str::to_owned).collect();
                return Ok(());
            }
            "mount.fuse" => {
                let pairs = value.split(',').map(str::trim).filter(|pair| !pair.is_empty());
                let pair = |pair: &str| match pair.split_once('=') {
                    Some((name, program)) => Ok((name.trim().to_owned(), program.trim().to_owned())),
                    None => Err(format!("`{}` is not FILESYSTEM=PROGRAM", shown(pair))),
                };
                self.programs = pairs.map(pair).collect::<Result<_, _>>()?;
                let mut names = BTreeSet::new();
                return match self.programs.iter().find(|(name, _)| !names.insert(name)) {
                    Some((name, _)) => Err(format!("has `{}` twice", shown(name))),
                    None => Ok(()),
                };
            }
            _ => return Err("is not known; InterceptKeys::table lists those that are".to_owned()),
        };
        *field = match value.to_ascii_lowercase().as_str() {
            "" | "false" | "no" | "off" | "0" => false,
            "true" | "yes" | "on" | "1" => true,
            _ => return Err(format!("`{}` is not {BOOL}", shown(value))),
        };
        Ok(())
    }

    fn interception(self) -> Interception {
        let all = Interception::new();
        let all = if self.mknod { all.mknod(Nodes::Usable) } else { all };
        let all = if self.setxattr { all.setxattr() } else { all };
        let all = if self.sched { all.sched_setscheduler() } else { all };
        let all = if self.sysinfo { all.sysinfo() } else { all };
        let all = if self.bpf && self.bpf_devices { all.bpf_devices() } else { all };
        if !self.mount || self.allowed.is_empty() && self.programs.is_empty() {
            return all;
        }
        let mount = self.allowed.into_iter().fold(MountInterception::new(), MountInterception::allow);
        let mount =
            self.programs.into_iter().fold(mount, |mount, (name, program)| mount.by_program(name, program));
        all.mount(if self.shift { mount.shifted() } else { mount })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_for(key: &Key, otherwise: &'static str) -> &'static str {
        match key.name.rsplit('.').next() {
            Some("allowed") => "ext4, xfs",
            Some("fuse") => "ntfs=ntfs-3g, a = b,",
            _ => otherwise,
        }
    }

    #[test]
    fn every_key_of_the_table_is_read() {
        for key in InterceptKeys::table() {
            let value = value_for(&key, "true");
            InterceptKeys::parse([(key.name, value)]).unwrap();
            InterceptKeys::parse([(key.name, "")]).unwrap();
        }
        let all = InterceptKeys::table().map(|k| (k.name, value_for(&k, "ON")));
        let mount = MountInterception::new().allow("ext4").allow("xfs").shifted();
        let mount = mount.by_program("ntfs", "ntfs-3g").by_program("a", "b");
        let expected = Interception::new().mknod(Nodes::Usable).setxattr().mount(mount).bpf_devices();
        assert_eq!(InterceptKeys::parse(all).unwrap(), expected.sched_setscheduler().sysinfo());
    }

    #[test]
    fn parts_of_what_is_off_mean_nothing() {
        let off = [
            ("security.syscalls.intercept.mount.allowed", "ext4"),
            ("security.syscalls.intercept.mount.shift", "1"),
            ("security.syscalls.intercept.mount.fuse", "ext4=fuse2fs"),
            ("security.syscalls.intercept.bpf.devices", "1"),
        ];
        assert!(InterceptKeys::parse(off).unwrap().is_empty());
        assert!(InterceptKeys::parse([("security.syscalls.intercept.mount", "1")]).unwrap().is_empty());
    }

    #[test]
    fn every_mistake_is_told() {
        let wrong = [
            ("security.syscalls.intercept.mknod", "2"),
            ("security.syscalls.intercept.sysinfo", "1"),
            ("security.syscalls.intercept.sysinfo", "1"),
            ("security.syscalls.intercept.mount.fuse", "ext4=fuse2fs,ext4=other"),
            ("limits.cpu", "1"),
        ];
        let text = InterceptKeys::parse(wrong).unwrap_err().to_string();
        for part in [
            "mknod: `2`",
            "sysinfo: is there twice",
            "mount.fuse: has `ext4` twice",
            "limits.cpu: is not known",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let fuse = |value| InterceptKeys::parse([("security.syscalls.intercept.mount.fuse", value)]);
        assert!(fuse("ext4").unwrap_err().to_string().contains("`ext4` is not FILESYSTEM=PROGRAM"));
        assert!(fuse(" ext4=fuse2fs , ").is_ok());
    }
}

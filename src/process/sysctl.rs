//! Kernel parameters that a container may set for itself (`sysctl(8)`).

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::clip;
use crate::error::{Error, Result};
use crate::namespaces::NamespaceKind;

/// Parameters in `kernel` that belong to the IPC namespace (`ipc_namespaces(7)`).
const IPC: &[&str] = &[
    "msgmax",
    "msgmnb",
    "msgmni",
    "msg_next_id",
    "sem",
    "sem_next_id",
    "shmall",
    "shmmax",
    "shmmni",
    "shm_next_id",
    "shm_rmid_forced",
];

/// A kernel parameter and its value: only one that belongs to a namespace, so that setting it changes nothing for
/// anybody else.
///
/// Names have dots or slashes, by the rule of `sysctl(8)`: whichever comes first separates, and the other one
/// stands for it inside a part (`net.ipv4.conf.eth0/7.forwarding` is about `eth0.7`).
///
/// ```
/// use stockade::namespaces::NamespaceKind;
/// use stockade::process::Sysctl;
///
/// let sysctl = Sysctl::new("net.ipv4.ip_forward", "1")?;
/// assert_eq!(sysctl.namespace(), NamespaceKind::Net);
/// assert_eq!(sysctl.path(), std::path::Path::new("/proc/sys/net/ipv4/ip_forward"));
/// assert!(Sysctl::new("kernel.panic", "1").is_err());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Sysctl {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    name: String,
    value: String,
}

impl TryFrom<Parts> for Sysctl {
    type Error = Error;

    fn try_from(p: Parts) -> Result<Self> {
        Self::new(&p.name, p.value)
    }
}

impl Sysctl {
    /// The parameter `name` with `value`.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the name is not one, the parameter belongs to no
    /// namespace, or the value has a NUL or a line break or is a page or longer.
    pub fn new(name: &str, value: impl Into<String>) -> Result<Self> {
        let value = value.into();
        let bad = |why: &str| Error::invalid("sysctl", why).object(clip(name));
        let parts = parts(name).map_err(bad)?;
        namespace(&parts).map_err(|(why, hint)| match hint {
            Some(hint) => bad(why).hint(hint),
            None => bad(why),
        })?;
        if value.contains(['\0', '\n']) || value.len() >= 4096 {
            return Err(bad("has a value with a NUL or a line break, or of 4096 bytes or more"));
        }
        Ok(Self { name: parts.join("/"), value })
    }

    /// The name with slashes: a relative path below `/proc/sys` without `.` or `..`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value to write.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The file to write to.
    pub fn path(&self) -> PathBuf {
        Path::new("/proc/sys").join(&self.name)
    }

    /// The namespace that it belongs to, which must not be the host's.
    pub fn namespace(&self) -> NamespaceKind {
        let parts: Vec<String> = self.name.split('/').map(str::to_owned).collect();
        // Checked by every constructor; the network is what all but a few belong to.
        namespace(&parts).unwrap_or(NamespaceKind::Net)
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

fn parts(name: &str) -> std::result::Result<Vec<String>, &'static str> {
    let separator =
        name.chars().find(|c| matches!(c, '.' | '/')).ok_or("is no name of a kernel parameter")?;
    let parts: Vec<String> = name.split(separator).map(|p| p.replace('/', ".")).collect();
    let plain = |p: &String| {
        !p.is_empty() && p != "." && p != ".." && p.chars().all(|c| !c.is_control() && !c.is_whitespace())
    };
    if parts.iter().all(plain) { Ok(parts) } else { Err("is no name of a kernel parameter") }
}

type Refusal = (&'static str, Option<&'static str>);

fn namespace(parts: &[String]) -> std::result::Result<NamespaceKind, Refusal> {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts[..] {
        ["net", _, ..] => Ok(NamespaceKind::Net),
        ["kernel", name] if IPC.contains(&name) => Ok(NamespaceKind::Ipc),
        ["fs", "mqueue", _] => Ok(NamespaceKind::Ipc),
        ["kernel", "domainname"] => Ok(NamespaceKind::Uts),
        ["kernel", "hostname"] => {
            Err(("is the host name", Some("set the container's host name in its configuration")))
        }
        ["user", _] => Ok(NamespaceKind::User),
        _ => Err((
            "belongs to no namespace, so that setting it would change the whole host",
            Some(
                "only net.*, user.*, fs.mqueue.*, kernel.msg*, kernel.sem*, kernel.shm* and kernel.domainname can be set",
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace() {
        for (name, kind) in [
            ("net.ipv4.ip_forward", NamespaceKind::Net),
            ("net/ipv4/conf/eth0.7/forwarding", NamespaceKind::Net),
            ("kernel.msgmax", NamespaceKind::Ipc),
            ("kernel.sem", NamespaceKind::Ipc),
            ("kernel.shm_rmid_forced", NamespaceKind::Ipc),
            ("fs.mqueue.msg_max", NamespaceKind::Ipc),
            ("kernel.domainname", NamespaceKind::Uts),
            ("user.max_user_namespaces", NamespaceKind::User),
        ] {
            assert_eq!(Sysctl::new(name, "1").unwrap().namespace(), kind, "{name}");
        }
    }

    #[test]
    fn paths_of_devices_with_dots() {
        let by_dots = Sysctl::new("net.ipv4.conf.eth0/7.forwarding", "1").unwrap();
        let by_slashes = Sysctl::new("net/ipv4/conf/eth0.7/forwarding", "1").unwrap();
        assert_eq!(by_dots, by_slashes);
        assert_eq!(by_dots.path(), Path::new("/proc/sys/net/ipv4/conf/eth0.7/forwarding"));
    }

    #[test]
    fn what_would_reach_the_host_is_refused() {
        for bad in [
            "",
            ".",
            "net",
            "net.",
            ".net.x",
            "net..x",
            "net/../kernel/panic",
            "net.ipv4.//.x",
            "net/./x",
            "/net/x",
            "kernel.panic",
            "kernel.core_pattern",
            "kernel.semx",
            "vm.swappiness",
            "fs.file-max",
            "fs.mqueue",
            "kernel.msgmax.x",
            "net.ipv4\0.x",
            "net.a b",
            "user.a.b",
        ] {
            assert!(Sysctl::new(bad, "1").is_err(), "{bad:?}");
        }
        let e = Sysctl::new("kernel.hostname", "x").unwrap_err();
        assert!(e.way_out().unwrap().contains("host name"));
        assert!(Sysctl::new("net.a.b", "1\n2").is_err());
        assert!(Sysctl::new("net.a.b", "x".repeat(4096)).is_err());
    }

    #[test]
    fn json_is_checked() {
        let sysctl = Sysctl::new("net.core.somaxconn", "9").unwrap();
        let json = serde_json::to_string(&sysctl).unwrap();
        assert_eq!(serde_json::from_str::<Sysctl>(&json).unwrap(), sysctl);
        assert!(serde_json::from_str::<Sysctl>(r#"{"name":"kernel/panic","value":"1"}"#).is_err());
    }
}

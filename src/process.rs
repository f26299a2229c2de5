//! The pieces of a process's configuration, typed and checked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::idmap::{InnerGid, InnerUid};

mod label;
mod landlock;
mod rlimit;
mod sysctl;

pub(crate) use label::{SET_APPARMOR, SET_SELINUX};
pub use label::{SecurityLabel, SessionKeyring};
pub use landlock::{FileAccess, Landlock};
pub use rlimit::{Resource, Rlimit};
pub use sysctl::Sysctl;

/// The kernel takes at most this many supplementary groups (`NGROUPS_MAX`, `setgroups(2)`).
pub const MAX_GROUPS: usize = 65_536;

/// Which user and groups a process has inside the container. The default is root, without further groups.
///
/// ```
/// use stockade::process::User;
///
/// let user: User = "1000:100".parse()?;
/// assert_eq!((user.uid.as_raw(), user.gid.as_raw()), (1000, 100));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    /// The user.
    pub uid: InnerUid,
    /// The primary group.
    pub gid: InnerGid,
    /// The supplementary groups, `additionalGids` of OCI.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<InnerGid>,
}

impl User {
    /// This user and group, without further groups.
    pub const fn new(uid: u32, gid: u32) -> Self {
        Self { uid: InnerUid::new(uid), gid: InnerGid::new(gid), groups: Vec::new() }
    }

    /// Whether the user is root inside.
    pub fn is_root(&self) -> bool {
        self.uid == InnerUid::ROOT
    }

    /// Checks that all ids exist and that the groups are not too many.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig).
    pub fn validate(&self) -> Result<()> {
        let bad = |why: &str| Err(Error::invalid("user", why));
        if !self.uid.is_valid() || !self.gid.is_valid() || !self.groups.iter().all(|g| g.is_valid()) {
            bad("has the id 4294967295, which means no id")
        } else if self.groups.len() > MAX_GROUPS {
            bad("has more than 65536 supplementary groups")
        } else {
            Ok(())
        }
    }
}

impl FromStr for User {
    type Err = Error;

    /// Takes `UID` or `UID:GID`; the group of a lone `UID` is 0.
    fn from_str(s: &str) -> Result<Self> {
        let (uid, gid) = s.split_once(':').unwrap_or((s, "0"));
        Ok(Self { uid: uid.parse()?, gid: gid.parse()?, groups: Vec::new() })
    }
}

/// The execution domain (`personality(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Personality {
    /// That of the kernel.
    #[default]
    Linux,
    /// `uname(2)` names the 32-bit machine that belongs to the kernel's, such as `i686`.
    Linux32,
}

impl Personality {
    /// The number for `personality(2)`.
    pub const fn number(self) -> u32 {
        match self {
            Self::Linux => 0,
            Self::Linux32 => 8,
        }
    }
}

/// A file mode creation mask, written in octal (`umask(2)`).
///
/// ```
/// use stockade::process::Umask;
///
/// assert_eq!("0027".parse::<Umask>()?.bits(), 0o027);
/// assert_eq!(Umask::default().to_string(), "0022");
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Umask(u32);

impl Umask {
    /// The mask with these bits.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where there are bits beyond 0777.
    pub fn new(bits: u32) -> Result<Self> {
        if bits <= 0o777 {
            Ok(Self(bits))
        } else {
            Err(Error::invalid("umask", "has bits beyond 0777").object(format!("0{bits:o}")))
        }
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl Default for Umask {
    /// 0022.
    fn default() -> Self {
        Self(0o022)
    }
}

impl fmt::Display for Umask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl FromStr for Umask {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        if s.is_empty() || !s.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::invalid("umask", "is not an octal number").object(clip(s)));
        }
        u32::from_str_radix(s, 8)
            .map_err(|_| Error::invalid("umask", "is not an octal number").object(clip(s)))
            .and_then(Self::new)
    }
}

impl TryFrom<String> for Umask {
    type Error = Error;

    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Umask> for String {
    fn from(u: Umask) -> Self {
        u.to_string()
    }
}

/// How readily the kernel kills the process when memory is short: -1000 (never) to 1000 (first)
/// (`proc_pid_oom_score_adj(5)`). Going below the starting process's own value needs `CAP_SYS_RESOURCE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct OomScoreAdj(i32);

impl OomScoreAdj {
    /// This value.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where it is not from -1000 to 1000.
    pub fn new(value: i32) -> Result<Self> {
        if (-1000..=1000).contains(&value) {
            Ok(Self(value))
        } else {
            Err(Error::invalid("oom_score_adj", "is not from -1000 to 1000").object(value.to_string()))
        }
    }

    /// The value.
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for OomScoreAdj {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<i32> for OomScoreAdj {
    type Error = Error;

    fn try_from(value: i32) -> Result<Self> {
        Self::new(value)
    }
}

impl From<OomScoreAdj> for i32 {
    fn from(v: OomScoreAdj) -> Self {
        v.0
    }
}

/// One environment variable, `KEY=VALUE` (`environ(7)`).
///
/// ```
/// use stockade::process::EnvVar;
///
/// let var: EnvVar = "LANG=C=x".parse()?;
/// assert_eq!((var.key(), var.value()), ("LANG", "C=x"));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvVar {
    text: String,
    /// The length of the key.
    key: usize,
}

impl EnvVar {
    /// The variable `key` with `value`.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the key is empty or holds `=`, or either holds a
    /// NUL. The value is never part of the message: it may be a secret.
    pub fn new(key: &str, value: &str) -> Result<Self> {
        if key.contains('=') {
            return Err(Error::invalid("environment variable", "has `=` in its name").object(clip(key)));
        }
        format!("{key}={value}").parse()
    }

    /// The name.
    pub fn key(&self) -> &str {
        &self.text[..self.key]
    }

    /// The value.
    pub fn value(&self) -> &str {
        &self.text[self.key + 1..]
    }

    /// `KEY=VALUE`, as `execve(2)` takes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for EnvVar {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::try_from(s.to_owned())
    }
}

impl TryFrom<String> for EnvVar {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let bad = |why: &str, key: &str| Err(Error::invalid("environment variable", why).object(clip(key)));
        match text.find('=') {
            // Without `=` there is no telling whether the text is a name or a secret value.
            None => bad("is not `KEY=VALUE`", "..."),
            Some(0) => bad("has no name", "=..."),
            Some(key) if text.contains('\0') => bad("holds a NUL byte", &text[..key].replace('\0', "?")),
            Some(key) => Ok(Self { text, key }),
        }
    }
}

impl From<EnvVar> for String {
    fn from(v: EnvVar) -> Self {
        v.text
    }
}

/// A piece of untrusted text that is short enough for a message.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        assert!(User::default().is_root());
        assert_eq!("5".parse::<User>().unwrap(), User::new(5, 0));
        for bad in ["", ":", "1:", "a", "1:2:3", "-1", "4294967295"] {
            assert!(bad.parse::<User>().is_err(), "{bad}");
        }
        User::new(1, 2).validate().unwrap();
        assert!(User::new(u32::MAX, 0).validate().is_err());
        assert!(User { groups: vec![InnerGid::ROOT; MAX_GROUPS + 1], ..User::default() }.validate().is_err());
        let user: User = serde_json::from_str(r#"{"uid":3,"groups":[4]}"#).unwrap();
        assert_eq!(user, User { groups: vec![InnerGid::new(4)], ..User::new(3, 0) });
    }

    #[test]
    fn personality_numbers_are_the_kernels() {
        let ran =
            std::process::Command::new("setarch").args(["linux32", "cat", "/proc/self/personality"]).output();
        match ran {
            Ok(out) if out.status.success() => {
                let hex = String::from_utf8(out.stdout).unwrap();
                assert_eq!(u32::from_str_radix(hex.trim(), 16).unwrap(), Personality::Linux32.number());
            }
            other => support::skip(format!("setarch linux32 does not run: {other:?}")),
        }
        assert_eq!(serde_json::to_string(&Personality::Linux32).unwrap(), r#""LINUX32""#);
    }

    #[test]
    fn umasks_are_octal() {
        assert_eq!("22".parse::<Umask>().unwrap(), Umask::default());
        assert_eq!("0777".parse::<Umask>().unwrap().bits(), 0o777);
        for bad in ["", "8", "1000", "-1", "0o22", "+22", "99999999999999999999"] {
            assert!(bad.parse::<Umask>().is_err(), "{bad}");
        }
        let json = serde_json::to_string(&Umask::default()).unwrap();
        assert_eq!(json, r#""0022""#);
        assert_eq!(serde_json::from_str::<Umask>(&json).unwrap(), Umask::default());
    }

    #[test]
    fn oom_scores() {
        for good in [-1000, 0, 1000] {
            assert_eq!(OomScoreAdj::new(good).unwrap().get(), good);
        }
        for bad in [-1001, 1001, i32::MIN] {
            assert!(OomScoreAdj::new(bad).is_err());
        }
        assert!(serde_json::from_str::<OomScoreAdj>("2000").is_err());
    }

    #[test]
    fn environment() {
        let var = EnvVar::new("A", "").unwrap();
        assert_eq!((var.key(), var.value(), var.as_str()), ("A", "", "A="));
        for bad in ["", "A", "=x", "A\0=x", "A=x\0"] {
            assert!(bad.parse::<EnvVar>().is_err(), "{bad:?}");
        }
        assert!(EnvVar::new("A=B", "x").is_err());
        assert!(EnvVar::new("", "x").is_err());
        let e = "KEY=hunter2\0".parse::<EnvVar>().unwrap_err();
        assert!(!format!("{e:?}").contains("hunter2"));
        let e = "hunter2".parse::<EnvVar>().unwrap_err();
        assert!(!format!("{e:?}").contains("hunter2"));
    }
}

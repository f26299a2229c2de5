//! What a security module and the kernel's keyrings know a process by.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Room for the file's own word before it, within the page that the kernel takes.
const MAX: usize = 4000;

/// The label that the programs of a container run under, for the security module of the host (`apparmor(7)`,
/// `selinux(8)`). It is set for the next `execve(2)`, and a program that is executed later keeps it or gets the one that
/// the policy of the module says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SecurityLabel {
    /// This profile of AppArmor, which must be loaded.
    #[serde(rename = "apparmor")]
    AppArmor(String),
    /// This context of SELinux, such as `system_u:system_r:container_t:s0:c1,c2`.
    #[serde(rename = "selinux")]
    SeLinux(String),
}

impl SecurityLabel {
    /// Checks that it can be one; whether the host has it only a start tells.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) where it is empty, longer than 4,000 bytes, or holds a space at either
    /// end or a control character.
    pub fn validate(&self) -> Result<()> {
        let text = self.text();
        let bad = |why: &str| Err(Error::invalid("security label", why));
        if text.is_empty() {
            return bad("is empty");
        }
        if text.len() > MAX {
            return bad("is longer than 4,000 bytes");
        }
        if text.chars().any(char::is_control) || text.trim() != text {
            return bad("has a control character, or a space at an end");
        }
        Ok(())
    }

    fn text(&self) -> &str {
        match self {
            Self::AppArmor(text) | Self::SeLinux(text) => text,
        }
    }

    /// The step that sets it.
    pub(crate) fn step(&self) -> &'static str {
        match self {
            Self::AppArmor(_) => SET_APPARMOR,
            Self::SeLinux(_) => SET_SELINUX,
        }
    }

    /// The file that it is written to, and what is written (`proc_pid_attr(5)`).
    pub(crate) fn to_write(&self) -> (&'static str, Vec<u8>) {
        match self {
            Self::AppArmor(profile) => {
                ("/proc/thread-self/attr/apparmor/exec", format!("exec {profile}").into_bytes())
            }
            Self::SeLinux(context) => ("/proc/thread-self/attr/exec", context.clone().into_bytes()),
        }
    }

    /// Makes sure that the host has the module, so that nothing runs without the label that it is to have.
    pub(crate) fn check_host(&self) -> Result<()> {
        let (has, module, hint) = match self {
            Self::AppArmor(_) => (
                reads("/sys/module/apparmor/parameters/enabled", |text| text.starts_with('Y')),
                "AppArmor",
                "start the kernel with `lsm=` that names apparmor, or leave the profile out",
            ),
            Self::SeLinux(_) => (
                reads("/proc/filesystems", |text| text.split_whitespace().any(|word| word == "selinuxfs")),
                "SELinux",
                "start the kernel with `lsm=` that names selinux, or leave the context out",
            ),
        };
        if has {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, self.step())
            .object(self.text())
            .detail(format!("{module} is not active in this kernel"))
            .hint(hint))
    }
}

/// The steps, by which a failure in the child is explained.
pub(crate) const SET_APPARMOR: &str = "set the AppArmor profile";
pub(crate) const SET_SELINUX: &str = "set the SELinux context";

fn reads(path: impl AsRef<Path>, holds: impl Fn(&str) -> bool) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| holds(&text))
}

/// The session keyring of the programs of a container (`session-keyring(7)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SessionKeyring {
    /// A new one for the first process, and for each command of an exec. Where the host process may make no keyring
    /// (a filter around it forbids `keyctl(2)`), nobody inside can reach one either, and none is made.
    #[default]
    Own,
    /// The host process's. Whoever runs inside may use, read and revoke the keys in it, whatever his ids.
    Host,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked() {
        for good in ["unconfined", "a profile//with parts", "system_u:system_r:container_t:s0:c1,c2"] {
            SecurityLabel::AppArmor(good.to_owned()).validate().unwrap();
            SecurityLabel::SeLinux(good.to_owned()).validate().unwrap();
        }
        for bad in ["", " x", "x\n", "x\0y", &"x".repeat(4001)] {
            assert!(SecurityLabel::AppArmor(bad.to_owned()).validate().is_err(), "{bad:?}");
            assert!(SecurityLabel::SeLinux(bad.to_owned()).validate().is_err(), "{bad:?}");
        }
        let label = SecurityLabel::AppArmor("p".to_owned());
        assert_eq!(label.to_write(), ("/proc/thread-self/attr/apparmor/exec", b"exec p".to_vec()));
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let label = SecurityLabel::SeLinux("x".to_owned());
        if let Err(e) = label.check_host() {
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            assert!(e.to_string().contains("SELinux is not active"), "{e}");
        }
    }
}

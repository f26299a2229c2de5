//! Names of system calls.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::arch::{Arch, X32_BIT};
use super::tables;
use crate::error::{Error, Result};

/// A system call: by name, known on at least one architecture, or by a number that is the same on all.
///
/// Two bytes of information in a `Copy` type, so that policies with hundreds of calls are cheap to hash and
/// compare. Serialised as the name, or as the number.
///
/// ```
/// use stockade::seccomp::{Arch, Syscall};
///
/// let call: Syscall = "openat".parse()?;
/// assert_eq!(call.number(Arch::X86_64), Some(257));
/// assert_eq!(call.number(Arch::X86), Some(295));
/// assert_eq!("open".parse::<Syscall>()?.number(Arch::Aarch64), None);
/// assert!("opnat".parse::<Syscall>().is_err());
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Syscall(u32);

/// Set: the rest is a number. Not set: the rest is an index into the table.
const NUMBER: u32 = 0x8000_0000;

impl Syscall {
    /// The call with this name.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), naming the call, where no architecture has it.
    pub fn new(name: &str) -> Result<Self> {
        match tables::index_of(name).and_then(|i| u32::try_from(i).ok()) {
            Some(index) => Ok(Self(index)),
            None => Err(Error::invalid("system call", "is not known on any architecture")
                .object(name.chars().take(80).collect::<String>())
                .hint("check the spelling, or give the number of a call that is newer than this library")),
        }
    }

    /// A call newer than the tables, by its number. Since Linux 5.1 new calls have one number on every
    /// architecture; on x32 the bit is added here.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the number is 2^30 or more.
    pub fn from_number(number: u32) -> Result<Self> {
        if number >= X32_BIT {
            return Err(Error::invalid("system call number", "must be below 2^30").object(number.to_string()));
        }
        Ok(Self(number | NUMBER))
    }

    /// The name; `None` for a call given by number.
    pub fn name(self) -> Option<&'static str> {
        if self.0 & NUMBER == 0 { tables::name_at(self.0 as usize) } else { None }
    }

    /// The number on `arch`, for x32 with bit 30 set; `None` where that architecture lacks the call.
    pub fn number(self, arch: Arch) -> Option<u32> {
        if self.0 & NUMBER == 0 {
            tables::number_at(self.0 as usize, arch)
        } else {
            Some(tables::unified(self.0 & !NUMBER, arch))
        }
    }

    /// All calls that the tables know on `arch`.
    pub fn all(arch: Arch) -> impl Iterator<Item = Self> {
        tables::calls(arch).filter_map(|(name, _)| Self::new(name).ok())
    }

    /// The name of `number` on `arch`, where the tables know it.
    pub fn name_of(number: u32, arch: Arch) -> Option<&'static str> {
        tables::name_of(number, arch)
    }
}

impl fmt::Display for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0 & !NUMBER),
        }
    }
}

impl fmt::Debug for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Syscall {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl Serialize for Syscall {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => s.serialize_str(name),
            None => s.serialize_u32(self.0 & !NUMBER),
        }
    }
}

impl<'de> Deserialize<'de> for Syscall {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u32),
            Name(String),
        }
        let call = match Either::deserialize(d)? {
            Either::Number(n) => Self::from_number(n),
            Either::Name(name) => Self::new(&name),
        };
        call.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_an_error_that_says_it() {
        let err = Syscall::new("no_such_call").unwrap_err();
        assert_eq!(err.kind(), crate::ErrorKind::InvalidConfig);
        assert!(err.to_string().contains("no_such_call"), "{err}");
    }

    #[test]
    fn serde_keeps_names_and_numbers() {
        let calls: Vec<Syscall> = serde_json::from_str(r#"["read", 470, "set_tls"]"#).unwrap();
        assert_eq!(serde_json::to_string(&calls).unwrap(), r#"["read",470,"set_tls"]"#);
        assert_eq!(calls[1].number(Arch::X32), Some(X32_BIT | 470));
        let err = serde_json::from_str::<Syscall>(r#""raed""#).unwrap_err();
        assert!(err.to_string().contains("raed"), "{err}");
        assert!(serde_json::from_str::<Syscall>("1073741824").is_err());
    }
}

//! Resource limits (`getrlimit(2)`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::clip;
use crate::error::{Error, Result};

macro_rules! resources {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// A resource that a process can be limited in (`getrlimit(2)`). In JSON it has its OCI name,
        /// `RLIMIT_NOFILE`; `nofile` of LXD is read as well, in any case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[repr(u8)]
        pub enum Resource {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Resource {
            /// All sixteen, by number.
            pub const ALL: [Self; 16] = [$(Self::$variant,)*];

            /// The OCI name, such as `RLIMIT_NOFILE`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("RLIMIT_", $name),)*
                }
            }
        }
    };
}

resources! {
    /// Seconds of CPU time.
    Cpu = 0, "CPU";
    /// Bytes of a file written.
    Fsize = 1, "FSIZE";
    /// Bytes of the data segment.
    Data = 2, "DATA";
    /// Bytes of the main thread's stack.
    Stack = 3, "STACK";
    /// Bytes of a core dump.
    Core = 4, "CORE";
    /// Without effect since Linux 2.4.30.
    Rss = 5, "RSS";
    /// Processes and threads of the user.
    Nproc = 6, "NPROC";
    /// File descriptors.
    Nofile = 7, "NOFILE";
    /// Bytes of locked memory.
    Memlock = 8, "MEMLOCK";
    /// Bytes of address space.
    As = 9, "AS";
    /// File locks; without effect since Linux 2.4.25.
    Locks = 10, "LOCKS";
    /// Queued signals of the user.
    Sigpending = 11, "SIGPENDING";
    /// Bytes of POSIX message queues of the user.
    Msgqueue = 12, "MSGQUEUE";
    /// How far the nice value may fall, as 20 minus the lowest one.
    Nice = 13, "NICE";
    /// The highest real-time priority.
    Rtprio = 14, "RTPRIO";
    /// Microseconds of CPU time without a blocking call, under real-time scheduling.
    Rttime = 15, "RTTIME";
}

impl Resource {
    /// The number for `prlimit(2)`, the same on x86_64 and aarch64.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Resource {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|r| {
                s.eq_ignore_ascii_case(r.name()) || s.eq_ignore_ascii_case(&r.name()["RLIMIT_".len()..])
            })
            .ok_or_else(|| Error::invalid("resource limit", "is not known").object(clip(s)))
    }
}

impl TryFrom<String> for Resource {
    type Error = Error;

    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Resource> for String {
    fn from(r: Resource) -> Self {
        r.name().to_owned()
    }
}

/// A soft and a hard limit; the soft one is what counts, the hard one is how far the process may raise it.
/// Units are those of the [`Resource`]. Raising a hard limit beyond the starting process's own needs
/// `CAP_SYS_RESOURCE`.
///
/// As text it is `SOFT:HARD`, or one value for both; `unlimited` is a value too.
///
/// ```
/// use stockade::process::Rlimit;
///
/// let limit: Rlimit = "1024:unlimited".parse()?;
/// assert_eq!((limit.soft(), limit.hard()), (1024, Rlimit::UNLIMITED));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Rlimit {
    soft: u64,
    hard: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    soft: u64,
    hard: u64,
}

impl TryFrom<Parts> for Rlimit {
    type Error = Error;

    fn try_from(p: Parts) -> Result<Self> {
        Self::new(p.soft, p.hard)
    }
}

impl Rlimit {
    /// No limit (`RLIM_INFINITY`).
    pub const UNLIMITED: u64 = u64::MAX;

    /// These limits.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) where the soft limit is above the hard one.
    pub fn new(soft: u64, hard: u64) -> Result<Self> {
        let limit = Self { soft, hard };
        if soft > hard {
            return Err(
                Error::invalid("resource limit", "is softly higher than hard").object(limit.to_string())
            );
        }
        Ok(limit)
    }

    /// One value for both.
    pub const fn both(value: u64) -> Self {
        Self { soft: value, hard: value }
    }

    /// The soft limit.
    pub const fn soft(self) -> u64 {
        self.soft
    }

    /// The hard limit.
    pub const fn hard(self) -> u64 {
        self.hard
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (separator, value) in [("", self.soft), (":", self.hard)] {
            f.write_str(separator)?;
            match value {
                Self::UNLIMITED => f.write_str("unlimited")?,
                n => write!(f, "{n}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Rlimit {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let value = |text: &str| match text {
            "unlimited" => Ok(Self::UNLIMITED),
            n if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => n.parse().map_err(|_| ()),
            _ => Err(()),
        };
        let (soft, hard) = s.split_once(':').unwrap_or((s, s));
        match (value(soft), value(hard)) {
            (Ok(soft), Ok(hard)) => Self::new(soft, hard),
            _ => Err(Error::invalid("resource limit", "is not `SOFT:HARD`, each a number or `unlimited`")
                .object(clip(s))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let libc_numbers = [
            libc::RLIMIT_CPU,
            libc::RLIMIT_FSIZE,
            libc::RLIMIT_DATA,
            libc::RLIMIT_STACK,
            libc::RLIMIT_CORE,
            libc::RLIMIT_RSS,
            libc::RLIMIT_NPROC,
            libc::RLIMIT_NOFILE,
            libc::RLIMIT_MEMLOCK,
            libc::RLIMIT_AS,
            libc::RLIMIT_LOCKS,
            libc::RLIMIT_SIGPENDING,
            libc::RLIMIT_MSGQUEUE,
            libc::RLIMIT_NICE,
            libc::RLIMIT_RTPRIO,
            libc::RLIMIT_RTTIME,
        ];
        for (ours, theirs) in Resource::ALL.into_iter().zip(libc_numbers) {
            assert_eq!(i64::from(ours.number()), i64::from(theirs), "{ours}");
        }
        assert_eq!(Rlimit::UNLIMITED, libc::RLIM_INFINITY);
    }

    #[test]
    fn names() {
        for text in ["RLIMIT_NOFILE", "nofile", "NoFile"] {
            assert_eq!(text.parse::<Resource>().unwrap(), Resource::Nofile);
        }
        for r in Resource::ALL {
            assert_eq!(r.to_string().parse::<Resource>().unwrap(), r);
        }
        for bad in ["", "RLIMIT_", "files"] {
            assert!(bad.parse::<Resource>().is_err(), "{bad}");
        }
        let map: std::collections::BTreeMap<Resource, Rlimit> =
            serde_json::from_str(r#"{"nofile":{"soft":1,"hard":2}}"#).unwrap();
        assert_eq!(serde_json::to_string(&map).unwrap(), r#"{"RLIMIT_NOFILE":{"soft":1,"hard":2}}"#);
    }

    #[test]
    fn values() {
        assert_eq!("5".parse::<Rlimit>().unwrap(), Rlimit::both(5));
        assert_eq!("unlimited".parse::<Rlimit>().unwrap(), Rlimit::both(Rlimit::UNLIMITED));
        for text in ["1:2", "0:unlimited", "unlimited:unlimited"] {
            assert_eq!(text.parse::<Rlimit>().unwrap().to_string(), text);
        }
        for bad in
            ["", ":", "1:", ":1", "2:1", "unlimited:1", "-1", "+1", "1:2:3", "x", "18446744073709551616"]
        {
            assert!(bad.parse::<Rlimit>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Rlimit>(r#"{"soft":2,"hard":1}"#).is_err());
    }
}

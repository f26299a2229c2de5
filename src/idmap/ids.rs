//! User and group ids that cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The number that the kernel uses for "no id" (`(uid_t)-1`); it is never a user or a group.
pub(super) const NO_ID: u32 = u32::MAX;

/// User ids or group ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdKind {
    /// User ids, `/proc/PID/uid_map`.
    Uid,
    /// Group ids, `/proc/PID/gid_map`.
    Gid,
}

impl IdKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Uid, Self::Gid];

    /// The name of the file in `/proc/PID` that holds this part of a map.
    pub const fn map_file(self) -> &'static str {
        match self {
            Self::Uid => "uid_map",
            Self::Gid => "gid_map",
        }
    }
}

impl fmt::Display for IdKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uid => "uid",
            Self::Gid => "gid",
        })
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u32);

        impl $name {
            /// Id 0.
            pub const ROOT: Self = Self(0);

            /// The id with this number.
            pub const fn new(id: u32) -> Self {
                Self(id)
            }

            /// The number.
            pub const fn as_raw(self) -> u32 {
                self.0
            }

            /// False for 4294967295, which the kernel takes as "no id".
            pub const fn is_valid(self) -> bool {
                self.0 != NO_ID
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u32> for $name {
            fn from(id: u32) -> Self {
                Self(id)
            }
        }

        impl From<$name> for u32 {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(s: &str) -> Result<Self> {
                parse_id(s, $what).map(Self)
            }
        }
    };
}

id! {
    /// A user id as this process sees it, outside of the container.
    HostUid, "user id"
}
id! {
    /// A group id as this process sees it, outside of the container.
    HostGid, "group id"
}
id! {
    /// A user id inside a container.
    InnerUid, "user id"
}
id! {
    /// A group id inside a container.
    InnerGid, "group id"
}

/// A decimal id that may be mapped: 0 to 4294967294, digits only.
pub(super) fn parse_id(text: &str, what: &'static str) -> Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(id) if digits && id != NO_ID => Ok(id),
        _ => Err(Error::invalid(what, "is not a number from 0 to 4294967294").object(clip(text))),
    }
}

/// A piece of untrusted text that is short enough for a message.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_numbers_in_json() {
        assert_eq!(serde_json::to_string(&InnerUid::new(7)).unwrap(), "7");
        assert_eq!(serde_json::from_str::<HostGid>("9").unwrap(), HostGid::new(9));
    }

    #[test]
    fn only_digits_and_only_real_ids_parse() {
        assert_eq!("4294967294".parse::<HostUid>().unwrap().as_raw(), 4_294_967_294);
        for bad in ["", "+1", "-1", "1 ", "4294967295", "99999999999", "x"] {
            assert!(bad.parse::<HostUid>().is_err(), "{bad}");
        }
        assert!(!HostUid::new(u32::MAX).is_valid());
    }
}

//! Secure bits: how user ids and capabilities act on each other.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! securebits {
    ($($(#[$doc:meta])* $konst:ident = $bit:literal, $name:literal;)*) => {
        /// The secure bits of a process (`PR_SET_SECUREBITS`, `capabilities(7)`). Setting them needs
        /// `CAP_SETPCAP`. In JSON a list of names.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct Securebits(u32);

        impl Securebits {
            /// None set.
            pub const EMPTY: Self = Self(0);
            $($(#[$doc])* pub const $konst: Self = Self(1 << $bit);)*

            const NAMES: &'static [(&'static str, Self)] = &[$(($name, Self::$konst),)*];
        }
    };
}

securebits! {
    /// Root gets no capabilities from its user id at `execve(2)`.
    NOROOT = 0, "noroot";
    /// `NOROOT` cannot be changed any more.
    NOROOT_LOCKED = 1, "noroot_locked";
    /// A change of user ids leaves the capability sets alone.
    NO_SETUID_FIXUP = 2, "no_setuid_fixup";
    /// `NO_SETUID_FIXUP` cannot be changed any more.
    NO_SETUID_FIXUP_LOCKED = 3, "no_setuid_fixup_locked";
    /// The permitted set outlives the switch to an ordinary user; cleared by `execve(2)`.
    KEEP_CAPS = 4, "keep_caps";
    /// `KEEP_CAPS` cannot be changed any more.
    KEEP_CAPS_LOCKED = 5, "keep_caps_locked";
    /// Nothing may be added to the ambient set.
    NO_CAP_AMBIENT_RAISE = 6, "no_cap_ambient_raise";
    /// `NO_CAP_AMBIENT_RAISE` cannot be changed any more.
    NO_CAP_AMBIENT_RAISE_LOCKED = 7, "no_cap_ambient_raise_locked";
}

impl Securebits {
    /// The number for `prctl(2)`.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// These and those of `other`.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether none is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Securebits {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_seq(Self::NAMES.iter().filter(|(_, bit)| self.contains(*bit)).map(|(name, _)| name))
    }
}

impl<'de> Deserialize<'de> for Securebits {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        Vec::<String>::deserialize(d)?.iter().try_fold(Self::EMPTY, |set, name| {
            match Self::NAMES.iter().find(|(n, _)| n == name) {
                Some((_, bit)) => Ok(set.union(*bit)),
                None => Err(serde::de::Error::custom(format_args!("`{name}` is no secure bit"))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn securebits_are_the_kernels() {
        let bits = Securebits::NOROOT.union(Securebits::KEEP_CAPS_LOCKED);
        assert_eq!(bits.bits(), 0x21);
        let json = serde_json::to_string(&bits).unwrap();
        assert_eq!(json, r#"["noroot","keep_caps_locked"]"#);
        assert_eq!(serde_json::from_str::<Securebits>(&json).unwrap(), bits);
        assert!(serde_json::from_str::<Securebits>(r#"["x"]"#).is_err());
    }
}

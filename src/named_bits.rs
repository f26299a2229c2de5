//! Sets of the kernel's bits that have names.

/// A type that is such a set; in JSON a list of the names. Its words are for one that is not a name of it.
macro_rules! named_bits {
    (
        $(#[$about:meta])* $set:ident($int:ty), $one:literal:
        $($(#[$doc:meta])* $konst:ident = $bit:literal, $name:literal;)*
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $set($int);

        impl $set {
            /// None of them.
            pub const EMPTY: Self = Self(0);
            $($(#[$doc])* pub const $konst: Self = Self(1 << $bit);)*

            const NAMES: &'static [(&'static str, Self)] = &[$(($name, Self::$konst),)*];

            /// The number for the kernel.
            pub const fn bits(self) -> $int {
                self.0
            }

            /// These and those of `other`.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Whether all of `other` are among them.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether there is none.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
        }

        impl serde::Serialize for $set {
            fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
                s.collect_seq(Self::NAMES.iter().filter(|(_, bit)| self.contains(*bit)).map(|(name, _)| name))
            }
        }

        impl<'de> serde::Deserialize<'de> for $set {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                <Vec<String> as serde::Deserialize>::deserialize(d)?.iter().try_fold(Self::EMPTY, |set, name| {
                    match Self::NAMES.iter().find(|(n, _)| n == name) {
                        Some((_, bit)) => Ok(set.union(*bit)),
                        None => Err(serde::de::Error::custom(format_args!(concat!("`{}` is no ", $one), name))),
                    }
                })
            }
        }
    };
}

pub(crate) use named_bits;

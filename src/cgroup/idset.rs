//! Sets of CPUs and of memory nodes, in the kernel's list format.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The numbers of a set, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Ids(Vec<u32>);

impl Ids {
    fn new(ids: impl IntoIterator<Item = u32>, most: u32) -> Result<Self, String> {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|w| w[0] == w[1]) {
            return Err(format!("{} is there twice", twice[0]));
        }
        match ids.last() {
            Some(last) if *last > most => Err(format!("{last} is above {most}, the most that a kernel has")),
            _ => Ok(Self(ids)),
        }
    }

    fn parse(text: &str, most: u32) -> Result<Self, String> {
        let number = |s: &str| {
            let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            let n = digits.then(|| s.parse::<u32>().ok()).flatten().filter(|n| *n <= most);
            n.ok_or_else(|| format!("`{}` is no number from 0 to {most}", short(s)))
        };
        let mut ids = Vec::new();
        let text = text.trim();
        for item in text.split(',').filter(|_| !text.is_empty()) {
            match item.split_once('-') {
                None => ids.push(number(item)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(format!("the range `{}` is reversed", short(item)));
                    }
                    ids.extend(first..=last);
                }
            }
            // Before many long ranges take memory.
            if ids.len() > most as usize + 1 {
                return Err("numbers are there twice".to_owned());
            }
        }
        Self::new(ids, most)
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

impl fmt::Display for Ids {
    /// The shortest form: `0-1,3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(first) = rest.first() {
            let run = rest.iter().zip(*first..).take_while(|(id, n)| *id == n).count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", rest[run - 1])?,
            }
            rest = &rest[run..];
            comma = ",";
        }
        Ok(())
    }
}

macro_rules! id_set {
    ($(#[$doc:meta])* $name:ident, $what:literal, $most:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Ids);

        impl $name {
            /// The highest number that can be in it.
            pub const HIGHEST: u32 = $most;

            /// The set of these numbers, in any order.
            ///
            /// # Errors
            /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): a number is there twice, or is above
            /// [`HIGHEST`](Self::HIGHEST).
            pub fn new(numbers: impl IntoIterator<Item = u32>) -> Result<Self> {
                let ids = Ids::new(numbers, Self::HIGHEST);
                ids.map(Self).map_err(|why| Error::invalid($what, why))
            }

            /// The numbers, in order.
            pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
                self.0.0.iter().copied()
            }

            /// How many they are.
            pub fn len(&self) -> usize {
                self.0.0.len()
            }

            /// Whether there is none: as a limit, all that the parent has.
            pub fn is_empty(&self) -> bool {
                self.0.0.is_empty()
            }

            /// Whether `number` is in it.
            pub fn contains(&self, number: u32) -> bool {
                self.0.0.binary_search(&number).is_ok()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let ids = Ids::parse(text, Self::HIGHEST);
                ids.map(Self).map_err(|why| Error::invalid($what, why).object(short(text)))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(set: $name) -> Self {
                set.to_string()
            }
        }
    };
}

id_set! {
    /// CPUs, as the kernel numbers them. As text, and in JSON, the list format of `cpuset(7)`.
    ///
    /// ```
    /// use stockade::cgroup::CpuSet;
    ///
    /// let cpus: CpuSet = "0-1,3".parse()?;
    /// assert_eq!(cpus, CpuSet::new([3, 1, 0])?);
    /// assert_eq!((cpus.len(), cpus.to_string()), (3, "0-1,3".to_owned()));
    /// for bad in ["1-0", "1,1", "0-3,2", "a", "1-", "-1", ",", "0,,1", "9999999"] {
    ///     assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
    /// }
    /// # Ok::<(), stockade::Error>(())
    /// ```
    CpuSet, "set of CPUs", 8191
}

id_set! {
    /// Memory nodes (NUMA), as the kernel numbers them. As text, and in JSON, the list format of `cpuset(7)`.
    NodeSet, "set of memory nodes", 1023
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_in_its_shortest_form() {
        for (text, shown) in [
            ("", ""),
            ("\n", ""),
            ("0", "0"),
            ("3,1-2\n", "1-3"),
            ("0-0", "0"),
            ("7,5,0-1", "0-1,5,7"),
            ("8191", "8191"),
        ] {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!(set.to_string(), shown, "{text:?}");
            assert_eq!(shown.parse::<CpuSet>().unwrap(), set);
            let json = serde_json::to_string(&set).unwrap();
            assert_eq!(serde_json::from_str::<CpuSet>(&json).unwrap(), set);
        }
        assert_eq!("0-8191".parse::<CpuSet>().unwrap().len(), 8192);
    }

    #[test]
    fn what_is_no_set_is_refused_with_the_reason() {
        for (text, why) in [
            ("1-0", "reversed"),
            ("1,1", "1 is there twice"),
            ("0-3,2", "2 is there twice"),
            ("0-8191,0-8191,0-8191", "twice"),
            ("8192", "0 to 8191"),
            ("0-4294967295", "0 to 8191"),
            ("99999999999", "0 to 8191"),
            ("+1", "no number"),
            ("1 ,2", "no number"),
            ("0-1-2", "no number"),
            ("0:1", "no number"),
            (",", "no number"),
        ] {
            let e = text.parse::<CpuSet>().unwrap_err();
            assert_eq!(e.kind(), crate::ErrorKind::InvalidConfig);
            assert!(e.to_string().contains(why), "{text}: {e}");
        }
        NodeSet::new([1024]).unwrap_err();
        CpuSet::new([1, 2, 1]).unwrap_err();
        assert!(CpuSet::new([2, 0]).unwrap().contains(2));
    }
}

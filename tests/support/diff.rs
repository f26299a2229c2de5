//! Differences, said in a way that names the thing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};

/// What is in only one of the two sets.
pub(crate) fn sets(what: &str, before: &BTreeSet<String>, now: &BTreeSet<String>, out: &mut Vec<String>) {
    out.extend(now.difference(before).map(|x| format!("{what} appeared: {x}")));
    out.extend(before.difference(now).map(|x| format!("{what} vanished: {x}")));
}

/// What is in only one of the two maps, or has another value.
pub(crate) fn maps<K, V>(what: &str, before: &BTreeMap<K, V>, now: &BTreeMap<K, V>, out: &mut Vec<String>)
where
    K: Ord + Display,
    V: PartialEq + Debug,
{
    for (key, new) in now {
        match before.get(key) {
            None => out.push(format!("{what} {key} appeared: {new:?}")),
            Some(old) if old != new => out.push(format!("{what} {key} was {old:?}, is {new:?}")),
            Some(_) => {}
        }
    }
    for (key, old) in before.iter().filter(|(key, _)| !now.contains_key(key)) {
        out.push(format!("{what} {key} vanished: it was {old:?}"));
    }
}

//! Paths and arguments in JSON.
//!
//! They are bytes to the kernel and mostly UTF-8 in practice: a string where they are, else a list of the bytes.
//! For use with `#[serde(with = "...")]`: the module itself for one value, `list` for a `Vec`, `option` for an
//! `Option`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One value.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
}

impl From<Text> for OsString {
    fn from(t: Text) -> Self {
        match t {
            Text::Utf8(s) => s.into(),
            Text::Bytes(b) => Self::from_vec(b),
        }
    }
}

struct Ref<'a>(&'a OsStr);

impl Serialize for Ref<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => s.serialize_str(text),
            None => s.collect_seq(self.0.as_bytes()),
        }
    }
}

pub(crate) fn serialize<T: AsRef<OsStr>, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    Ref(value.as_ref()).serialize(s)
}

pub(crate) fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    Ok(OsString::from(Text::deserialize(d)?).into())
}

pub(crate) mod list {
    use super::*;

    pub(crate) fn serialize<T: AsRef<OsStr>, S: Serializer>(list: &[T], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(list.iter().map(|v| Ref(v.as_ref())))
    }

    pub(crate) fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<T>, D::Error> {
        Ok(Vec::<Text>::deserialize(d)?.into_iter().map(|t| OsString::from(t).into()).collect())
    }
}

pub(crate) mod option {
    use super::*;

    pub(crate) fn serialize<T: AsRef<OsStr>, S: Serializer>(
        value: &Option<T>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(|v| Ref(v.as_ref())).serialize(s)
    }

    pub(crate) fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<T>, D::Error> {
        Ok(Option::<Text>::deserialize(d)?.map(|t| OsString::from(t).into()))
    }
}

/// For a list of names with values.
pub(crate) mod pairs {
    use super::*;

    type Pairs = Vec<(OsString, OsString)>;

    pub(crate) fn serialize<S: Serializer>(list: &Pairs, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(list.iter().map(|(a, b)| (Ref(a), Ref(b))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Pairs, D::Error> {
        Ok(Vec::<(Text, Text)>::deserialize(d)?.into_iter().map(|(a, b)| (a.into(), b.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct All {
        #[serde(with = "super")]
        one: PathBuf,
        #[serde(with = "super::list")]
        many: Vec<OsString>,
        #[serde(with = "super::option")]
        maybe: Option<PathBuf>,
        #[serde(with = "super::pairs")]
        pairs: Vec<(OsString, OsString)>,
    }

    #[test]
    fn text_where_it_is_text_and_bytes_where_not() {
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let all = All {
            one: "/x".into(),
            many: vec!["b".into(), odd.clone()],
            maybe: None,
            pairs: vec![("K".into(), odd)],
        };
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(json, r#"{"one":"/x","many":["b",[97,255]],"maybe":null,"pairs":[["K",[97,255]]]}"#);
        assert_eq!(serde_json::from_str::<All>(&json).unwrap(), all);
        assert!(serde_json::from_str::<All>(&json.replace("255", "256")).is_err());
    }
}

//! Records, decoded and encoded again.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file;

/// Whether this is a record of that kind. What was read must be written so that it is read the same.
pub(crate) fn takes<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let checked = file::check_schema(bytes);
    let Ok(record) = file::decode::<T>(bytes) else { return false };
    assert!(checked.is_ok(), "a record of an unknown version was read");
    let text = file::encode(&record).expect("what was read can be written");
    let again = file::decode::<T>(&text).expect("what was written can be read");
    let second = file::encode(&again).expect("and written again");
    assert_eq!(String::from_utf8_lossy(&text), String::from_utf8_lossy(&second));
    true
}

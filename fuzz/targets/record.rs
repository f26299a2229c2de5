//! Files of the state and run directories, and `/etc/subuid`: each parser gets the bytes. What is read must be written
//! so that it is read the same.

/// Parses the bytes as each of the formats.
pub(crate) fn run(data: &[u8]) {
    let took = stockade::fuzzing::record(data);
    assert!(took.len() < 6, "too many formats take this: {took:?}");
}

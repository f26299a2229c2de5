//! What a child is sent, and what it sends back; nothing is executed.
//!
//! The host must be able to read every plan that the child takes, no list or string of it may lead out of it, and a
//! record of a failure must become an error whatever numbers it holds.

/// Decodes the bytes as a plan and as a record.
pub(crate) fn run(data: &[u8]) {
    if let Some(text) = stockade::fuzzing::plan(data) {
        assert!(!text.is_empty());
    }
    if let Some(text) = stockade::fuzzing::report(data) {
        assert!(!text.is_empty());
    }
}

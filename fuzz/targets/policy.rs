//! Policies in JSON, from a configuration: the compiled filter must say what the policy says.

/// Reads the bytes as a policy, compiles it, and asks both about many calls.
pub(crate) fn run(data: &[u8]) {
    stockade::fuzzing::policy(data);
}

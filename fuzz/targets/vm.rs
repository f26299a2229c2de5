//! What a guest, its agent, or a kernel file can say to a virtual machine.

/// The first byte says which of them the others are.
pub(crate) fn run(data: &[u8]) {
    let _ = stockade::fuzzing::vm(data);
}

//! What a caller whose call is intercepted gives to read: paths, options of mounts, words of FUSE programs, structures and programs of `bpf(2)`, and
//! what the kernel says of it.

/// Reads the bytes as each of these.
pub(crate) fn run(data: &[u8]) {
    let took = stockade::fuzzing::notify(data);
    assert!(took.len() < 8, "{took:?}");
}

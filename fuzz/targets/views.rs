//! What the kernel sends of a container that uses its resource views, if the kernel, or what stands in for it, sent anything.

/// Reads the bytes as requests of FUSE, to one file system.
pub(crate) fn run(data: &[u8]) {
    let counts = stockade::fuzzing::views(data);
    assert!(counts.iter().sum::<usize>() <= data.len() / 4, "{counts:?}");
}

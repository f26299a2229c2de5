//! What the fuzz targets in `fuzz/` call: decoders of bytes that come from outside of the process, which are not public.
//!
//! No part of the API: it changes whenever the decoders do. A broken promise of a decoder panics.
#![allow(missing_docs, reason = "for the targets alone, which say what they do")]

use crate::container::ContainerRecord;
use crate::name::InstanceId;
use crate::store::RunRecord;
use crate::{idmap, seccomp, spawn, store};

/// A plan as the child gets it; not executed. Its text, where it is one.
pub fn plan(bytes: &[u8]) -> Option<String> {
    spawn::fuzzing::plan(bytes)
}

/// A record from a child. The error that it stands for.
pub fn report(bytes: &[u8]) -> Option<String> {
    spawn::fuzzing::record(bytes)
}

/// A seccomp policy in JSON. Whether it is one.
pub fn policy(bytes: &[u8]) -> bool {
    seccomp::fuzzing::policy(bytes)
}

/// What is read of a caller whose system call is intercepted. The names of the forms that took it.
pub fn notify(bytes: &[u8]) -> Vec<&'static str> {
    seccomp::fuzzing::notify(bytes)
}

/// Requests of FUSE, one after the other. How many were answered, had no answer, and were none.
pub fn views(bytes: &[u8]) -> [usize; 3] {
    crate::views::fuzzing::requests(bytes)
}

/// What virtual machines read of guests and files. What it was.
#[cfg(feature = "vm")]
pub fn vm(bytes: &[u8]) -> Option<&'static str> {
    crate::vm::fuzzing::vm(bytes)
}

/// A file of the state or run directory, or of `/etc`. The names of the formats that took it.
pub fn record(bytes: &[u8]) -> Vec<&'static str> {
    let mut took = Vec::new();
    if store::fuzzing::takes::<ContainerRecord>(bytes) {
        took.push("container");
    }
    if store::fuzzing::takes::<RunRecord>(bytes) {
        took.push("run");
    }
    idmap::fuzzing::take(bytes, &mut took);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(id) = text.parse::<InstanceId>()
    {
        assert_eq!(id.to_string().parse::<InstanceId>().expect("what was read can be written"), id);
        took.push("instance");
    }
    took
}

//! cgroup v2, directly on directory descriptors.

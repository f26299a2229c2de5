//! System and application containers.

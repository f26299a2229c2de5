//! Namespaces: kinds, sets of them, handles, time offsets.

//! The runtime: where instances are made, found and listed.

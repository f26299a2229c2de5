//! Capabilities (`capabilities(7)`).

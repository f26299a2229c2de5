//! One action at a time per instance, with cancel, deadline and undo.

//! The one error type of the crate.
//!
//! An [`Error`] says which operation failed on which instance, at which step, on which object (path, key,
//! cgroup file, value), with which errno, and, where a person can act, how. Its text never repeats what its
//! [`source`](std::error::Error::source) says.

use std::borrow::Cow;
use std::fmt;

use rustix::io::Errno;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What class of failure an [`Error`] is: the thing to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration value, name or argument is not acceptable. Nothing was touched.
    InvalidConfig,
    /// The named instance, file or object does not exist.
    NotFound,
    /// An instance or object of that name is already there.
    AlreadyExists,
    /// Another action is running on the instance.
    Busy,
    /// The instance is not in a state that allows the action (for example: not running).
    InvalidState,
    /// The host lacks the privilege that the step needs.
    PermissionDenied,
    /// The kernel or the host lacks a feature.
    Unsupported,
    /// The deadline passed first.
    Timeout,
    /// The caller's [`Cancel`](crate::Cancel) ended the wait.
    Cancelled,
    /// A limit was hit: of the host (memory, processes, file descriptors, disk space; there is an errno), or one
    /// that the caller set for an archive.
    Exhausted,
    /// The payload program is not there (a shell would say 127).
    PayloadNotFound,
    /// The payload program cannot be executed (a shell would say 126).
    PayloadNotExecutable,
    /// The process died before the payload ran.
    Died,
    /// A stored record cannot be read, or an archive is damaged, cut off, or not to be trusted.
    Corrupt,
    /// Any other refusal by the kernel or the file system.
    Kernel,
}

impl ErrorKind {
    /// The kind that an errno usually stands for.
    pub(crate) fn of_errno(errno: Errno) -> Self {
        match errno {
            Errno::PERM | Errno::ACCESS => Self::PermissionDenied,
            Errno::NOENT => Self::NotFound,
            Errno::EXIST => Self::AlreadyExists,
            Errno::NOSYS | Errno::OPNOTSUPP => Self::Unsupported,
            Errno::NOMEM | Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE | Errno::AGAIN => {
                Self::Exhausted
            }
            Errno::TIMEDOUT => Self::Timeout,
            _ => Self::Kernel,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::InvalidConfig => "invalid configuration",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Busy => "busy",
            Self::InvalidState => "invalid state",
            Self::PermissionDenied => "permission denied",
            Self::Unsupported => "not supported here",
            Self::Timeout => "deadline passed",
            Self::Cancelled => "cancelled",
            Self::Exhausted => "resource exhausted",
            Self::PayloadNotFound => "program not found",
            Self::PayloadNotExecutable => "program cannot be executed",
            Self::Died => "process died before its program ran",
            Self::Corrupt => "corrupt data",
            Self::Kernel => "refused by the kernel",
        }
    }
}

/// An error of any Stockade call.
///
/// ```
/// # fn main() {
/// use stockade::{ErrorKind, InstanceName};
///
/// let err = InstanceName::new("a/b").unwrap_err();
/// assert_eq!(err.kind(), ErrorKind::InvalidConfig);
/// assert!(err.to_string().contains("a/b"));
/// # }
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    op: Option<&'static str>,
    instance: Option<String>,
    step: Cow<'static, str>,
    object: Option<String>,
    errno: Option<i32>,
    detail: Option<String>,
    hint: Option<Cow<'static, str>>,
    also: Vec<String>,
    source: Option<Source>,
}

impl Error {
    /// A failure of `step` that is no errno's.
    pub(crate) fn new(kind: ErrorKind, step: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            op: None,
            instance: None,
            step: step.into(),
            object: None,
            errno: None,
            detail: None,
            hint: None,
            also: Vec::new(),
            source: None,
        }))
    }

    /// A failure of `step` with an errno; the kind follows from it.
    pub(crate) fn sys(step: impl Into<Cow<'static, str>>, errno: Errno) -> Self {
        let mut e = Self::new(ErrorKind::of_errno(errno), step);
        e.0.errno = Some(errno.raw_os_error());
        e
    }

    /// A failure of `step` in the standard library.
    pub(crate) fn io(step: impl Into<Cow<'static, str>>, err: std::io::Error) -> Self {
        match Errno::from_io_error(&err) {
            Some(errno) => Self::sys(step, errno),
            None => Self::new(ErrorKind::Kernel, step).with_source(err),
        }
    }

    /// A value that the caller gave is not acceptable: `what` names it, `why` says what is wrong.
    pub(crate) fn invalid(what: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidConfig, what).detail(why)
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Names the public call that failed, such as `start`; the outermost caller wins.
    pub(crate) fn with_op(mut self, op: &'static str) -> Self {
        self.0.op = Some(op);
        self
    }

    pub(crate) fn with_instance(mut self, instance: impl fmt::Display) -> Self {
        self.0.instance = Some(instance.to_string());
        self
    }

    /// Names the path, key, cgroup file or value that the step worked on.
    pub(crate) fn object(mut self, object: impl Into<String>) -> Self {
        self.0.object = Some(object.into());
        self
    }

    /// Names a path that the step worked on.
    pub(crate) fn path(self, path: impl AsRef<std::path::Path>) -> Self {
        self.object(path.as_ref().display().to_string())
    }

    /// One sentence on what is wrong, where the errno does not say it.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// What the reader can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Something that failed besides, such as a step of the undo.
    pub(crate) fn also(mut self, text: impl Into<String>) -> Self {
        self.0.also.push(text.into());
        self
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The public call that failed, such as `start` or `exec`, when one was running.
    pub fn op(&self) -> Option<&str> {
        self.0.op
    }

    /// The instance that it failed on, as `project/name`.
    pub fn instance(&self) -> Option<&str> {
        self.0.instance.as_deref()
    }

    /// The step inside the call, such as `mount proc`.
    pub fn step(&self) -> &str {
        &self.0.step
    }

    /// What the step worked on: a path, key, file or value.
    pub fn what(&self) -> Option<&str> {
        self.0.object.as_deref()
    }

    /// The errno, where the kernel gave one (`errno(3)`).
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// A way out, where a person can act.
    pub fn way_out(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        match (e.op, &e.instance) {
            (Some(op), Some(i)) => write!(f, "{op} of {i}: ")?,
            (Some(op), None) => write!(f, "{op}: ")?,
            (None, Some(i)) => write!(f, "{i}: ")?,
            (None, None) => {}
        }
        f.write_str(&e.step)?;
        if let Some(o) = &e.object {
            write!(f, " `{o}`")?;
        }
        match (&e.detail, e.errno) {
            (Some(d), Some(n)) => write!(f, ": {d} ({})", errno_name(n))?,
            (Some(d), None) => write!(f, ": {d}")?,
            (None, Some(n)) => write!(f, ": {} ({})", errno_text(n), errno_name(n))?,
            (None, None) => write!(f, ": {}", e.kind.text())?,
        }
        if let Some(h) = &e.hint {
            write!(f, "; {h}")?;
        }
        for a in &e.also {
            write!(f, "; {a}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        let mut source = std::error::Error::source(self);
        while let Some(s) = source {
            write!(f, ": {s}")?;
            source = s.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

fn errno_name(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}

fn errno_text(errno: i32) -> &'static str {
    nix::errno::Errno::from_raw(errno).desc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_op_instance_step_object_errno_and_hint() {
        let e = Error::sys("mount proc", Errno::PERM)
            .path("/proc")
            .hint("give the container its own pid namespace")
            .with_op("start")
            .with_instance("default/web");
        assert_eq!(
            e.to_string(),
            "start of default/web: mount proc `/proc`: Operation not permitted (EPERM); \
             give the container its own pid namespace"
        );
        assert_eq!((e.kind(), e.errno()), (ErrorKind::PermissionDenied, Some(libc::EPERM)));
    }

    #[test]
    fn text_does_not_repeat_the_source() {
        let e = Error::new(ErrorKind::Corrupt, "read record").with_source("line 3");
        assert!(!e.to_string().contains("line 3"));
        assert!(format!("{e:?}").contains("line 3"));
    }
}

//! Where a process reads and writes.

use std::os::fd::OwnedFd;

/// What a process gets as its standard input, output or error.
///
/// ```
/// use stockade::instance::Stdio;
///
/// let log = Stdio::from(std::fs::File::open("/dev/null").unwrap());
/// assert!(matches!(log, Stdio::Fd(_)));
/// assert!(matches!(Stdio::default(), Stdio::Null));
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Stdio {
    /// The null device of the container.
    #[default]
    Null,
    /// The host process's own descriptor of that number. A process of the container can then write to
    /// whatever that is, a terminal included.
    Inherit,
    /// This descriptor. The library's copy is closed once the process has it.
    Fd(OwnedFd),
    /// A new pipe (`pipe(2)`), whose other end the caller gets.
    Piped,
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(fd)
    }
}

impl From<std::fs::File> for Stdio {
    fn from(f: std::fs::File) -> Self {
        Self::Fd(f.into())
    }
}

/// What a start hands to the caller: the host's ends of the pipes that were asked for with [`Stdio::Piped`]. All
/// other fields are `None`.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Pipes {
    /// Write here what the process shall read.
    pub stdin: Option<OwnedFd>,
    /// What the process writes to its standard output.
    pub stdout: Option<OwnedFd>,
    /// What the process writes to its standard error.
    pub stderr: Option<OwnedFd>,
    /// The notify descriptor of the instance's seccomp filter, where its policy has
    /// [`Action::Notify`](crate::seccomp::Action::Notify) (`seccomp_unotify(2)`): whoever holds it must answer.
    /// Once it is dropped, calls that would be asked about fail with `ENOSYS`.
    pub seccomp_listener: Option<OwnedFd>,
}

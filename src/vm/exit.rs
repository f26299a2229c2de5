//! How a run of a virtual machine ended.

use std::fmt;

use crate::exit::ExitStatus;

/// Why a virtual machine does not run any more.
///
/// What [`Instance::wait`](crate::instance::Instance::wait) makes of it is in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// The guest switched itself off, with the code that it wrote to port 0x603 before, else 0
    /// (`Exited(code)`).
    Poweroff(u8),
    /// The guest asked for a restart, with a code as above (`Exited(code)`).
    Reboot(u8),
    /// The guest's kernel panicked and said so through pvpanic (killed by SIGABRT).
    Panic,
    /// The processor gave up: a fault in a fault in a fault. Linux with `reboot=t` restarts in this way too (killed
    /// by SIGSEGV).
    TripleFault,
    /// The host stopped it (killed by SIGKILL).
    Stopped,
    /// KVM or the machine around the guest could not go on: why, for people (`Unknown`).
    Failed(String),
}

impl ExitReason {
    /// As an instance's status.
    pub fn status(&self) -> ExitStatus {
        let signaled = |signal| ExitStatus::Signaled { signal, core_dumped: false };
        match self {
            Self::Poweroff(code) | Self::Reboot(code) => ExitStatus::Exited(i32::from(*code)),
            Self::Panic => signaled(libc::SIGABRT),
            Self::TripleFault => signaled(libc::SIGSEGV),
            Self::Stopped => signaled(libc::SIGKILL),
            Self::Failed(_) => ExitStatus::Unknown,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poweroff(code) => write!(f, "the guest switched itself off with code {code}"),
            Self::Reboot(code) => write!(f, "the guest asked for a restart with code {code}"),
            Self::Panic => f.write_str("the guest's kernel panicked"),
            Self::TripleFault => f.write_str("triple fault of the guest's processor"),
            Self::Stopped => f.write_str("stopped by the host"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

//! Running commands in a running instance.

use std::ffi::OsString;
use std::fmt::{self, Debug};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use crate::caps::CapabilitySets;
use crate::error::Result;
use crate::exit::ExitStatus;
use crate::instance::Stdio;
use crate::instance::options::{DEFAULT_DEADLINE, wait_setters};
use crate::op::Cancel;
use crate::process::User;
use crate::signal::Signal;
use crate::spawn::Fault;

/// An instance that can run commands.
pub trait Exec: Debug + Send + Sync {
    /// Runs a command beside the first process: in its namespaces, its control group and its root, under its
    /// seccomp policy. Returns once the program runs.
    ///
    /// Allowed when running. In a frozen instance it waits for the deadline.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where the instance does not run;
    /// [`PayloadNotFound`](crate::ErrorKind::PayloadNotFound) (a shell would say 127) and
    /// [`PayloadNotExecutable`](crate::ErrorKind::PayloadNotExecutable) (126) for the program;
    /// [`Timeout`](crate::ErrorKind::Timeout) and [`Cancelled`](crate::ErrorKind::Cancelled), after which the
    /// command is gone.
    fn exec(&self, options: ExecOptions) -> Result<Box<dyn Process>>;
}

/// A command that runs, or has run, in an instance.
///
/// The descriptor becomes readable when it has ended, so an event loop can wait for it. Dropping the handle
/// neither ends the command nor waits for it.
pub trait Process: AsFd + Debug + Send + Sync {
    /// Its process id as the host numbers it; `None` where it is no process of the host. For show: the number
    /// may name another process once this one was waited for.
    fn pid(&self) -> Option<u32>;

    /// Waits until it has ended. Returns then even if processes that it started live on and hold its pipes.
    /// A second call gives the same answer.
    ///
    /// # Errors
    /// Only where the kernel refuses the wait itself.
    fn wait(&mut self) -> Result<ExitStatus>;

    /// Waits at most this long; `None` while it still runs then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<ExitStatus>>;

    /// Says how it ended, without waiting; `None` while it runs.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    fn try_wait(&mut self) -> Result<Option<ExitStatus>>;

    /// Sends it a signal, and never to another process that has got its number.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it has ended.
    fn signal(&self, signal: Signal) -> Result<()>;

    /// Takes the host's end of its standard input, where that is [`Stdio::Piped`].
    fn take_stdin(&mut self) -> Option<OwnedFd>;

    /// Takes the host's end of its standard output, where that is [`Stdio::Piped`].
    fn take_stdout(&mut self) -> Option<OwnedFd>;

    /// Takes the host's end of its standard error, where that is [`Stdio::Piped`].
    fn take_stderr(&mut self) -> Option<OwnedFd>;
}

/// What to run, and as whom.
///
/// What is not set is as for the first process of the instance.
///
/// ```
/// use stockade::instance::{ExecOptions, Stdio};
///
/// let options = ExecOptions::new(["sh", "-c", "id; exit 3"]).env("LANG", "C").cwd("/tmp").stdout(Stdio::Piped);
/// assert_eq!(options.args.len(), 3);
/// ```
#[non_exhaustive]
pub struct ExecOptions {
    /// The program and its arguments. A program without a slash is looked for in the `PATH` of its environment.
    pub args: Vec<OsString>,
    /// Variables on top of the instance's own environment; a later one wins.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory: an absolute path in the instance.
    pub cwd: Option<PathBuf>,
    /// User and groups; root of the instance unless told otherwise.
    pub user: Option<User>,
    /// Capabilities. Unless told otherwise those of the instance for root, and none for anybody else.
    pub capabilities: Option<CapabilitySets>,
    /// Standard input; null unless told otherwise.
    pub stdin: Stdio,
    /// Standard output; null unless told otherwise.
    pub stdout: Stdio,
    /// Standard error; null unless told otherwise.
    pub stderr: Stdio,
    /// How long until the program must run: 30 s unless told otherwise. How long it runs is not limited.
    pub deadline: Option<Duration>,
    /// Ends the call early.
    pub cancel: Option<Cancel>,
    /// A fault on purpose, for tests.
    #[doc(hidden)]
    pub fault: Option<Fault>,
    /// What holds an attack and is to be left out, for tests.
    #[cfg(feature = "attacks")]
    #[doc(hidden)]
    pub weaken: Vec<crate::spawn::Weaken>,
}

wait_setters!(ExecOptions);

impl fmt::Debug for ExecOptions {
    /// Values of environment variables are left out: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("ExecOptions")
            .field("args", &self.args)
            .field("env", &names)
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .field("capabilities", &self.capabilities)
            .field("stdin", &self.stdin)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Default for ExecOptions {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            user: None,
            capabilities: None,
            stdin: Stdio::Null,
            stdout: Stdio::Null,
            stderr: Stdio::Null,
            deadline: Some(DEFAULT_DEADLINE),
            cancel: None,
            fault: None,
            #[cfg(feature = "attacks")]
            weaken: Vec::new(),
        }
    }
}

impl ExecOptions {
    /// What tests do to the plan.
    pub(crate) fn hooks(&self) -> crate::spawn::Hooks {
        crate::spawn::Hooks {
            fault: self.fault,
            #[cfg(feature = "attacks")]
            weaken: self.weaken.clone(),
        }
    }

    /// Leaves out what holds an attack, for tests.
    #[cfg(feature = "attacks")]
    #[doc(hidden)]
    #[must_use]
    pub fn weaken(mut self, what: crate::spawn::Weaken) -> Self {
        self.weaken.push(what);
        self
    }

    /// Sets a fault on purpose, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Runs the program `args[0]` with these arguments.
    pub fn new<I>(args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        Self { args: args.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.cwd = Some(cwd.into());
        self
    }

    /// Sets user and groups.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Sets the capabilities. They cannot be more than the instance's own bounding set.
    #[must_use]
    pub fn capabilities(mut self, sets: CapabilitySets) -> Self {
        self.capabilities = Some(sets);
        self
    }

    /// Sets the standard input.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Sets the standard output.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = stdout.into();
        self
    }

    /// Sets the standard error.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = stderr.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_not_shown() {
        let text = format!("{:?}", ExecOptions::new(["x"]).env("TOKEN", "hunter2"));
        assert!(text.contains("TOKEN") && !text.contains("hunter2"));
    }
}

//! What a container has beside the others whose first process is a distribution's own init.

use std::ffi::OsString;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::os_text;
use crate::signal::Signal;

/// The most terminals that a container can have.
pub(super) const MAX_TTYS: u8 = 63;
/// The most of a console's output that is kept, in bytes.
pub(super) const MAX_CONSOLE: u64 = 64 << 20;

/// How a container runs a whole distribution; see
/// [`ContainerBuilder::system`](super::ContainerBuilder::system).
///
/// ```
/// use stockade::container::{ContainerConfig, Nesting, SystemConfig};
/// use stockade::rootfs::Rootfs;
///
/// let system = SystemConfig::new().nesting(Nesting::Allow).console_log(16 << 10);
/// let config = ContainerConfig::builder("web").rootfs(Rootfs::dir("/srv/web")).system_with(system).build()?;
/// assert_eq!(config.system_config().map(|s| s.ttys), Some(4));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SystemConfig {
    /// How many terminals it has beside its console, as `/dev/tty1` and so on: 0 to 63, 4 unless told otherwise.
    pub ttys: u8,
    /// How much of what is written to `/dev/console` is kept, in bytes: 64 KiB unless told otherwise, 0 for nothing. See
    /// [`Container::console_log`](crate::Container::console_log).
    pub console_log: u64,
    /// Whether containers in it can mount their own proc and sysfs.
    pub nesting: Nesting,
    /// Whose name and machine id it has.
    pub identity: SystemIdentity,
    /// How it is asked to end; `None` for what its init understands, see [`InitRequest`].
    pub halt: Option<InitRequest>,
    /// How it is asked to reboot; `None` for what its init understands.
    pub reboot: Option<InitRequest>,
    /// What becomes of it when it reboots itself.
    pub on_reboot: OnReboot,
}

impl Default for SystemConfig {
    fn default() -> Self {
        Self {
            ttys: 4,
            console_log: 64 << 10,
            nesting: Nesting::default(),
            identity: SystemIdentity::default(),
            halt: None,
            reboot: None,
            on_reboot: OnReboot::default(),
        }
    }
}

impl SystemConfig {
    /// The same as `default()`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many terminals it has beside its console.
    #[must_use]
    pub fn ttys(mut self, count: u8) -> Self {
        self.ttys = count;
        self
    }

    /// Sets how much of its console's output is kept, in bytes.
    #[must_use]
    pub fn console_log(mut self, bytes: u64) -> Self {
        self.console_log = bytes;
        self
    }

    /// Sets whether containers in it can mount their own proc and sysfs.
    #[must_use]
    pub fn nesting(mut self, nesting: Nesting) -> Self {
        self.nesting = nesting;
        self
    }

    /// Sets whose name and machine id it has.
    #[must_use]
    pub fn identity(mut self, identity: SystemIdentity) -> Self {
        self.identity = identity;
        self
    }

    /// Sets how it is asked to end.
    #[must_use]
    pub fn halt(mut self, request: impl Into<InitRequest>) -> Self {
        self.halt = Some(request.into());
        self
    }

    /// Sets how it is asked to reboot.
    #[must_use]
    pub fn reboot(mut self, request: impl Into<InitRequest>) -> Self {
        self.reboot = Some(request.into());
        self
    }

    /// Sets what becomes of it when it reboots itself.
    #[must_use]
    pub fn on_reboot(mut self, on_reboot: OnReboot) -> Self {
        self.on_reboot = on_reboot;
        self
    }

    /// Everything that is wrong with it: field, reason.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.ttys > MAX_TTYS {
            found.push(("system.ttys", format!("is {}, not 0 to {MAX_TTYS}", self.ttys)));
        }
        if self.console_log > MAX_CONSOLE {
            found.push(("system.console_log", "is more than 64 MiB".to_owned()));
        }
        for (field, request) in [("system.halt", &self.halt), ("system.reboot", &self.reboot)] {
            let Some(InitRequest::Exec(args)) = request else { continue };
            let nul = |arg: &OsString| arg.as_encoded_bytes().contains(&0);
            if args.first().is_none_or(|program| program.is_empty()) || args.iter().any(nul) {
                found.push((field, "names no program, or holds a NUL byte".to_owned()));
            }
        }
        if let OnReboot::Restart { most, within } = self.on_reboot
            && (most == 0 || within.is_zero())
        {
            found.push(("system.on_reboot", "allows no restart: say OnReboot::Stop".to_owned()));
        }
        found
    }
}

/// Whether containers in a container can mount their own proc and sysfs.
///
/// The kernel lets a user namespace mount them only where it sees one of each with nothing mounted over its parts
/// (`mount_too_revealing`), and a container's own have such mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Nesting {
    /// They cannot.
    #[default]
    Deny,
    /// There is another proc and another sysfs below `/dev/.stockade`, with nothing over them. They show what the
    /// container's own namespaces have, and root inside could mount them anew himself.
    Allow,
}

/// Who a distribution takes itself for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SystemIdentity {
    /// This instance. At every start `/etc/hostname` gets its host name, and `/etc/machine-id` and
    /// `/var/lib/dbus/machine-id` a number that no other instance has and that it keeps through renames
    /// (`machine-id(5)`): each where it is a plain file of the root file system that can be written. So the copies of one
    /// image are told apart.
    #[default]
    Instance,
    /// What its root file system says. systemd takes the name from there, over the one that it was given.
    Image,
}

/// How an init is asked to halt or to reboot.
///
/// Where a configuration does not say, what the first process executes decides (`/proc/PID/exe`). The container may lie
/// there: it then gets a signal that it does not know, or its own program is run in it.
///
/// | first process | halts | reboots |
/// |---|---|---|
/// | systemd | signal 37 (`SIGRTMIN+3`) | signal 39 (`SIGRTMIN+5`) |
/// | busybox init | `SIGUSR2` | `SIGTERM` |
/// | sysvinit, also below OpenRC | `/sbin/init 0` | `/sbin/init 6` |
/// | openrc-init | `SIGPWR` | `SIGINT` |
/// | runit | `/sbin/init 0` | `/sbin/init 6` |
/// | s6-svscan | `SIGTERM` | `SIGINT` |
/// | anything else called init | `SIGPWR` | `SIGINT` |
/// | any other program | `SIGTERM` | `SIGTERM` |
///
/// What s6-svscan does then is for the scripts `SIGTERM` and `SIGINT` in its `.s6-svscan` to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InitRequest {
    /// It is sent this signal.
    Signal(Signal),
    /// This command runs in the container, as root.
    Exec(#[serde(with = "os_text::list")] Vec<OsString>),
}

impl InitRequest {
    /// This command.
    pub fn exec<I>(args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        Self::Exec(args.into_iter().map(Into::into).collect())
    }
}

impl From<Signal> for InitRequest {
    fn from(signal: Signal) -> Self {
        Self::Signal(signal)
    }
}

/// What becomes of a container that reboots itself (`reboot(2)` in a pid namespace: its first process ends by `SIGHUP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnReboot {
    /// It is stopped.
    Stop,
    /// It is started again, by the first call that sees the end of its first process: a
    /// [`wait`](crate::Container::wait), which then goes on waiting, `status`, `info` or `exec`; or by
    /// [`supervise`](crate::Container::supervise). With all of its configuration, as by `start`; its streams are then its
    /// console.
    ///
    /// One that has been started `most` times so `within` the last time stays stopped.
    Restart {
        /// How often.
        most: u32,
        /// In which time.
        within: Duration,
    },
}

impl Default for OnReboot {
    /// Ten times a minute.
    fn default() -> Self {
        Self::Restart { most: 10, within: Duration::from_secs(60) }
    }
}

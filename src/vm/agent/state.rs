//! What the agent tells of its guest, and what it does for it.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::wire::{self, Reply, Request};
use super::{Agent, lies, text};
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{DEFAULT_DEADLINE, WaitOptions};
use crate::op::{Cancel, Deadline};
use crate::vm::handle::{Live, Vm};

/// An address of a guest's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GuestAddress {
    /// The interface's name.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
}

/// What a guest says of itself. It may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GuestState {
    /// Bytes of memory that its kernel manages.
    pub memory_total: u64,
    /// Bytes that programs could still have without swapping.
    pub memory_available: u64,
    /// Bytes of swap.
    pub swap_total: u64,
    /// Bytes of swap that are free.
    pub swap_free: u64,
    /// Processor time of programs since its boot, of all processors together.
    pub cpu_user: Duration,
    /// The same of its kernel.
    pub cpu_system: Duration,
    /// Processors that are on line.
    pub cpus: u32,
    /// The load of one minute, in hundredths.
    pub load_hundredths: u32,
    /// Processes, its kernel's threads included.
    pub processes: u32,
    /// Since its boot.
    pub uptime: Duration,
    /// Addresses of its interfaces.
    pub addresses: Vec<GuestAddress>,
    /// Its name for itself.
    pub hostname: String,
}

impl GuestState {
    fn of(state: wire::State) -> Self {
        let address = |a: wire::Address| {
            // What is no address is none.
            let address = text(&a.address).parse().ok()?;
            Some(GuestAddress { interface: text(&a.interface), address, prefix: a.prefix })
        };
        Self {
            memory_total: state.memory_total,
            memory_available: state.memory_available,
            swap_total: state.swap_total,
            swap_free: state.swap_free,
            cpu_user: Duration::from_nanos(state.cpu_user),
            cpu_system: Duration::from_nanos(state.cpu_system),
            cpus: state.cpus,
            load_hundredths: state.load,
            processes: state.processes,
            uptime: Duration::from_nanos(state.uptime),
            addresses: state.addresses.into_iter().filter_map(address).collect(),
            hostname: text(&state.hostname),
        }
    }
}

impl Agent {
    fn state(&self, deadline: Deadline, cancel: Option<&Cancel>) -> Result<GuestState> {
        const STEP: &str = "ask the guest for its state";
        match self.ask(Request::State, STEP, deadline, cancel)? {
            (_, Reply::State(state)) => Ok(GuestState::of(state)),
            _ => Err(lies(STEP)),
        }
    }
}

/// The agent of a run.
pub(super) fn of(live: &Live) -> Result<&Agent> {
    live.agent.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "reach the guest's agent")
            .detail("the guest has none")
            .hint("give it VmBuilder::guest")
    })
}

impl Vm {
    fn with_agent<T>(
        &self,
        op: &'static str,
        options: &WaitOptions,
        what: impl FnOnce(&Agent, Deadline, Option<&Cancel>) -> Result<T>,
    ) -> Result<T> {
        let deadline = Deadline::from(options.deadline.or(Some(DEFAULT_DEADLINE)));
        let done = self.live().and_then(|live| {
            let agent = of(&live)?;
            let done = what(agent, deadline, options.cancel.as_ref());
            done.map_err(|e| match e.kind() {
                ErrorKind::Timeout if live.machine.control().is_paused() => {
                    e.hint("the machine is frozen: thaw it")
                }
                _ => e,
            })
        });
        done.map_err(|e| e.with_op(op).with_instance(self.id()))
    }

    /// Waits until the guest has started and its agent has reported. Options without a deadline mean 30 s, here and in all
    /// calls to the agent.
    ///
    /// # Errors
    /// [`InvalidState`](crate::ErrorKind::InvalidState) where it does not run in this runtime, or ends meanwhile;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where its guest has no agent;
    /// [`Timeout`](crate::ErrorKind::Timeout), [`Cancelled`](crate::ErrorKind::Cancelled).
    pub fn wait_agent(&self, options: WaitOptions) -> Result<()> {
        self.with_agent("wait_agent", &options, Agent::wait)
    }

    /// What the guest says of itself.
    ///
    /// # Errors
    /// As [`wait_agent`](Self::wait_agent); [`Died`](crate::ErrorKind::Died) and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for an agent that ends, or talks nonsense.
    pub fn guest_state(&self, options: WaitOptions) -> Result<GuestState> {
        self.with_agent("guest_state", &options, Agent::state)
    }

    /// Sets the guest's clock to the host's. A guest keeps the time by itself, but not while its host sleeps.
    ///
    /// # Errors
    /// As [`guest_state`](Self::guest_state).
    pub fn sync_time(&self, options: WaitOptions) -> Result<()> {
        self.with_agent("sync_time", &options, |agent, deadline, cancel| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            agent.request(Request::Time(nanos), "set the guest's clock", deadline, cancel)
        })
    }

    /// Lets the guest write everything to its disks and stop writing (`ioctl_fsfreeze(2)`), so that they can be copied.
    /// Programs of the guest that write wait until [`thaw_filesystems`](Self::thaw_filesystems).
    ///
    /// # Errors
    /// As [`guest_state`](Self::guest_state); [`Busy`](crate::ErrorKind::Busy) where they are frozen already.
    pub fn freeze_filesystems(&self, options: WaitOptions) -> Result<()> {
        self.with_agent("freeze_filesystems", &options, |agent, deadline, cancel| {
            agent.request(Request::Freeze, "freeze the guest's file systems", deadline, cancel)
        })
    }

    /// Lets the guest write again.
    ///
    /// # Errors
    /// As [`guest_state`](Self::guest_state).
    pub fn thaw_filesystems(&self, options: WaitOptions) -> Result<()> {
        self.with_agent("thaw_filesystems", &options, |agent, deadline, cancel| {
            agent.request(Request::Thaw, "thaw the guest's file systems", deadline, cancel)
        })
    }
}

//! One run of a virtual machine: from nothing to running threads, and to their end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::arch::{self, EVENT_GSI, Processors, SERIAL_GSI, ports};
use super::assembly::Assembly;
use super::boot::{self, BootProtocol, Initramfs};
use super::control::Control;
use super::devices::virtio::{self, Balloon, DiskCounters, Keys, OpenDisk, OpenSocket, VsockHost};
use super::devices::{BusDevice, ConsoleRing, Keyboard, PanicPort, PowerPorts, Rtc, Serial};
use super::disk::Disk;
use super::event_loop::EventLoop;
use super::exit::ExitReason;
use super::kick::{self, Kicker, VcpuKicker};
use super::memory::{self, Memory, MemoryBacking};
use super::threads::{Role, Threads};
use super::vcpu::{Buses, Counters, ExitCounts, VcpuThread};
use super::vsock::Vsock;
use super::{devices, host};
use crate::error::{Error, Result};
use crate::op::Deadline;
use crate::sys::vm::event::Event;
use crate::sys::vm::kick::block_all_but;
use crate::sys::vm::kvm::KvmVm;

/// How long new threads may take to come to their first rest.
const FIRST_REST: Duration = Duration::from_secs(60);

/// What a machine is made from.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// For the names of its threads.
    pub(super) name: String,
    pub(super) kernel: PathBuf,
    pub(super) protocol: BootProtocol,
    pub(super) initramfs: Option<Initramfs>,
    pub(super) command_line: String,
    pub(super) vcpus: u8,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) backing: MemoryBacking,
    /// Whether it has a source of random bytes.
    pub(super) rng: bool,
    pub(super) balloon: bool,
    pub(super) virtio_console: bool,
    pub(super) disks: Vec<Disk>,
    pub(super) vsock: Option<Vsock>,
}

/// A machine that runs, or has ended. Dropping it ends it and waits for its threads.
pub(super) struct Machine {
    control: Arc<Control>,
    handles: Mutex<Vec<JoinHandle<()>>>,
    threads: Arc<Threads>,
    memory: Memory,
    disks: Vec<Arc<DiskCounters>>,
    counters: Vec<Arc<Counters>>,
    serial: Arc<Serial>,
    power_button: Event,
    vsock: Option<Arc<VsockHost>>,
    balloon: Option<Arc<Balloon>>,
    /// Those of the virtio console, which then has all input.
    keys: Option<Arc<Keys>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("ended", &self.control.reason()).finish_non_exhaustive()
    }
}

/// What a device of the machine needs before it runs: called once for each, in order.
pub(super) type AddDevice<'a> = &'a dyn Fn(&mut Assembly) -> Result<()>;

impl Machine {
    /// Makes it, with its threads, which rest until [`Control::resume`].
    pub(super) fn start(spec: &Spec, console: Arc<ConsoleRing>, devices: &[AddDevice<'_>]) -> Result<Self> {
        // Before anything is made.
        let disks = spec.disks.iter().enumerate().map(|(n, disk)| OpenDisk::open(disk, n));
        let disks = disks.collect::<Result<Vec<_>>>()?;
        let socket = spec.vsock.as_ref().and_then(Vsock::socket_path).map(OpenSocket::open).transpose()?;
        let signal = kick::installed()?;
        let kvm = host::open()?;
        let vm = KvmVm::new(&kvm)
            .map_err(|e| Error::sys("make a virtual machine (KVM_CREATE_VM)", e).object("/dev/kvm"))?;
        arch::configure_vm(&vm)?;
        let memory = memory::allocate(spec.memory, spec.backing)?;
        memory::register(&memory, &vm)?;
        let loaded = boot::load(&memory, spec.memory, &spec.kernel, spec.protocol, spec.initramfs.as_ref())?;

        let control = Arc::new(Control::new()?);
        let buses = Buses { pio: devices::Bus::default(), mmio: devices::Bus::default() };
        let mut assembly = Assembly {
            vm: vm.clone(),
            memory: memory.clone(),
            buses,
            control: Arc::clone(&control),
            nodes: Vec::new(),
            handlers: Vec::new(),
            own: Vec::new(),
        };
        let serial = Arc::new(Serial::new(Arc::clone(&console), assembly.interrupt(SERIAL_GSI)?));
        let power_button = assembly.interrupt(EVENT_GSI)?;
        add_ports(&mut assembly, &serial)?;
        let disk_counters = disks.iter().map(|disk| Arc::clone(disk.counters())).collect();
        for (n, disk) in disks.into_iter().enumerate() {
            virtio::add(&mut assembly, Box::new(virtio::Block::new(disk, n)))?;
        }
        let vsock = match &spec.vsock {
            Some(vsock) => {
                let host = Arc::new(VsockHost::new()?);
                let device = virtio::Vsock::new(vsock.cid(), Arc::clone(&host), socket);
                virtio::add(&mut assembly, Box::new(device))?;
                Some(host)
            }
            None => None,
        };
        let mut keys = None;
        if spec.virtio_console {
            let typed = Arc::new(Keys::new()?);
            virtio::add(&mut assembly, Box::new(virtio::Console::new(Arc::clone(&typed), console)))?;
            keys = Some(typed);
        }
        let mut balloon = None;
        if spec.balloon {
            let shared = Arc::new(Balloon::new()?);
            virtio::add(&mut assembly, Box::new(virtio::BalloonDevice::new(Arc::clone(&shared))))?;
            balloon = Some(shared);
        }
        if spec.rng {
            virtio::add(&mut assembly, Box::new(virtio::Rng))?;
        }
        for add in devices {
            add(&mut assembly)?;
        }
        let Assembly { buses, memory, nodes, handlers, own, .. } = assembly;
        arch::describe(&memory, spec.memory, &loaded, &spec.command_line, spec.vcpus, &nodes)?;

        let buses = Arc::new(buses);
        let processors = Processors::new(&kvm, spec.vcpus)?;
        let mut vcpus = Vec::new();
        for id in 0..spec.vcpus {
            let vcpu = vm.vcpu(id).map_err(|e| {
                Error::sys("make a virtual processor (KVM_CREATE_VCPU)", e).object(format!("vCPU {id}"))
            })?;
            processors.configure(&vcpu.fd, id, loaded.entry)?;
            let kicker = Arc::new(Kicker::Vcpu(VcpuKicker::new(vcpu.run_page(), signal)));
            let counters = Arc::<Counters>::default();
            vcpus.push(VcpuThread { vcpu, buses: Arc::clone(&buses), counters, kicker });
        }
        let shared = ("vm-io".to_owned(), handlers);
        let all = std::iter::once(shared).chain(own.into_iter().map(|(name, own)| (name, vec![own])));
        let loops = all.filter(|(_, handlers)| !handlers.is_empty());
        let loops = loops.map(|(name, handlers)| Ok((name, EventLoop::new(handlers)?)));
        let loops = loops.collect::<Result<Vec<_>>>()?;
        let mut kickers: Vec<Arc<Kicker>> = vcpus.iter().map(|v| Arc::clone(&v.kicker)).collect();
        kickers.extend(loops.iter().map(|(_, l)| Arc::new(l.kicker())));
        control.set_kickers(kickers);

        let counters = vcpus.iter().map(|v| Arc::clone(&v.counters)).collect();
        let (handles, threads) = (Mutex::default(), Arc::default());
        let machine = Self {
            control,
            handles,
            threads,
            memory,
            disks: disk_counters,
            counters,
            serial,
            power_button,
            vsock,
            balloon,
            keys,
        };
        // From here on a failure drops the machine, which ends what runs.
        for (name, event_loop) in loops {
            let name = format!("{name}:{}", spec.name);
            machine.spawn(name, Role::Devices, None, move |control| event_loop.run(control))?;
        }
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let name = format!("vcpu{id}:{}", spec.name);
            let role = Role::Vcpu(u8::try_from(id).unwrap_or(u8::MAX));
            machine.spawn(name, role, Some(signal), move |control| vcpu.run(control))?;
        }
        machine.control.pause(Deadline::after(FIRST_REST), None)?;
        Ok(machine)
    }

    /// Starts a thread that takes no signal but, where it is one, the kick.
    fn spawn(
        &self,
        name: String,
        role: Role,
        kick: Option<i32>,
        run: impl FnOnce(&Control) + Send + 'static,
    ) -> Result<()> {
        let (control, threads) = (Arc::clone(&self.control), Arc::clone(&self.threads));
        let body = move || {
            let _entered = threads.enter(role);
            // It cannot fail with these arguments, as it has not just before.
            drop(block_all_but(kick));
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&control)));
            if ran.is_err() {
                control.end(ExitReason::Failed("a thread of the machine panicked".to_owned()));
            }
        };
        // The new thread inherits the mask: a signal of the host's never lands in it, not even at its beginning.
        let mask = block_all_but(None).map_err(|e| Error::sys("block signals", e))?;
        let thread = std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(body);
        mask.restore();
        let thread = thread.map_err(|e| Error::io("start a thread of the machine", e))?;
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    pub(super) fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Ends it, if it has not ended, and waits for its threads.
    pub(super) fn stop(&self) {
        self.control.end(ExitReason::Stopped);
        self.join();
    }

    /// Waits for the threads of a machine that has ended, or ends just now.
    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        let own = std::thread::current().id();
        for thread in threads {
            // The last handle may go in a thread of the machine itself.
            if thread.thread().id() != own {
                // A panic was caught inside.
                let _ = thread.join();
            }
        }
    }

    /// Presses the power button for a moment.
    pub(super) fn press_power_button(&self) {
        self.power_button.signal();
    }

    /// Types on the guest's console; says how many bytes it has room for.
    pub(super) fn console_input(&self, bytes: &[u8]) -> usize {
        match &self.keys {
            Some(keys) => keys.write(bytes),
            None => self.serial.input(bytes),
        }
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What its disks count, in the guest's order.
    pub(super) fn disks(&self) -> &[Arc<DiskCounters>] {
        &self.disks
    }

    /// Its balloon, where it has one.
    pub(super) fn balloon(&self) -> Option<&Balloon> {
        self.balloon.as_deref()
    }

    /// Its sockets, where it has some.
    pub(super) fn vsock(&self) -> Option<&Arc<VsockHost>> {
        self.vsock.as_ref()
    }

    pub(super) fn exit_counts(&self) -> ExitCounts {
        let mut sum = ExitCounts::default();
        self.counters.iter().for_each(|c| c.add_to(&mut sum));
        sum
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn add_ports(assembly: &mut Assembly, serial: &Arc<Serial>) -> Result<()> {
    let control = || Arc::clone(&assembly.control);
    let all: [(u64, u64, Arc<dyn BusDevice>); 5] = [
        (u64::from(ports::SERIAL), Serial::LEN, Arc::clone(serial) as _),
        (PowerPorts::BASE, PowerPorts::LEN, Arc::new(PowerPorts(control()))),
        (PanicPort::BASE, PanicPort::LEN, Arc::new(PanicPort(control()))),
        (Keyboard::BASE, Keyboard::LEN, Arc::new(Keyboard(control()))),
        (Rtc::BASE, Rtc::LEN, Arc::new(Rtc)),
    ];
    for (base, len, device) in all {
        assembly.buses.pio.add(base, len, device)?;
    }
    Ok(())
}

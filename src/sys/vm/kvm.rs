//! KVM's objects, with what they need kept alive as long as they are.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{kvm_run, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::io::Errno;

use super::mapping::Mapping;
use crate::sys::raw::last_errno;

/// A virtual machine of KVM with the memory that it was given, which stays as long as it or a CPU of it.
#[derive(Clone)]
pub(crate) struct KvmVm(Arc<Inner>);

struct Inner {
    fd: VmFd,
    memory: Mutex<Vec<Arc<Mapping>>>,
}

impl KvmVm {
    pub(crate) fn new(kvm: &Kvm) -> Result<Self, Errno> {
        let fd = crate::sys::raw::retry(|| kvm.create_vm().map_err(errno))?;
        Ok(Self(Arc::new(Inner { fd, memory: Mutex::default() })))
    }

    /// For the calls that take no address. Processors are made by [`vcpu`](Self::vcpu).
    pub(crate) fn fd(&self) -> &VmFd {
        &self.0.fd
    }

    /// Puts memory at a guest physical address.
    pub(crate) fn add_memory(&self, start: u64, memory: Arc<Mapping>) -> Result<(), Errno> {
        let mut all = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let region = kvm_userspace_memory_region {
            slot: u32::try_from(all.len()).map_err(|_| Errno::INVAL)?,
            flags: 0,
            guest_phys_addr: start,
            memory_size: memory.len() as u64,
            userspace_addr: memory.as_ptr() as u64,
        };
        // SAFETY: the mapping is kept until the machine and all its processors are closed.
        unsafe { self.0.fd.set_user_memory_region(region) }.map_err(errno)?;
        all.push(memory);
        Ok(())
    }

    /// Makes a virtual processor.
    pub(crate) fn vcpu(&self, id: u8) -> Result<Vcpu, Errno> {
        let fd = self.0.fd.create_vcpu(u64::from(id)).map_err(errno)?;
        let run = Arc::new(RunPage::new(&fd)?);
        Ok(Vcpu { fd, run, _vm: self.clone() })
    }
}

/// A virtual processor.
pub(crate) struct Vcpu {
    pub(crate) fd: VcpuFd,
    run: Arc<RunPage>,
    _vm: KvmVm,
}

/// What a guest asks for, in units of one access.
pub(crate) trait Accesses {
    fn pio_read(&self, port: u16, data: &mut [u8]);
    fn pio_write(&self, port: u16, data: &[u8]);
    fn mmio_read(&self, addr: u64, data: &mut [u8]);
    fn mmio_write(&self, addr: u64, data: &[u8]);
}

/// Why a processor came back, where it was not for an access.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// An access, which is done, or nothing that matters.
    Handled,
    /// It was kicked.
    Interrupted,
    /// A triple fault, or what the processor makes one of.
    Shutdown,
    /// `KVM_EXIT_SYSTEM_EVENT`, with its type.
    SystemEvent(u32),
    /// KVM cannot go on.
    Failed(String),
}

impl Vcpu {
    /// What others use to end [`run`](Self::run).
    pub(crate) fn run_page(&self) -> Arc<RunPage> {
        Arc::clone(&self.run)
    }

    /// Runs until something happens that is not the guest's own business.
    pub(crate) fn run(&mut self, accesses: &impl Accesses) -> Exit {
        let run = &self.run;
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                for piece in data.chunks_exact_mut(run.io_size()) {
                    accesses.pio_read(port, piece);
                }
                Exit::Handled
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                for piece in data.chunks_exact(run.io_size()) {
                    accesses.pio_write(port, piece);
                }
                Exit::Handled
            }
            Ok(VcpuExit::MmioRead(addr, data)) => {
                accesses.mmio_read(addr, data);
                Exit::Handled
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => {
                accesses.mmio_write(addr, data);
                Exit::Handled
            }
            Ok(VcpuExit::Intr) => Exit::Interrupted,
            Ok(VcpuExit::Shutdown) => Exit::Shutdown,
            Ok(VcpuExit::SystemEvent(kind, _)) => Exit::SystemEvent(kind),
            // The processor waits in the kernel: the interrupt controller is there.
            Ok(VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => Exit::Handled,
            Ok(VcpuExit::FailEntry(reason, _)) => {
                Exit::Failed(format!("KVM could not enter the guest (hardware reason {reason:#x})"))
            }
            Ok(VcpuExit::InternalError) => Exit::Failed(run.internal_error()),
            Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                Exit::Failed(format!("a memory fault at guest address {gpa:#x}"))
            }
            Ok(other) => Exit::Failed(format!("an exit that is not known here: {other:?}")),
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => Exit::Interrupted,
            Err(e) => Exit::Failed(format!("KVM_RUN failed: {}", std::io::Error::from(e))),
        }
    }
}

/// A second view of a processor's `struct kvm_run`, for other threads and for what kvm-ioctls does not hand out.
#[derive(Debug)]
pub(crate) struct RunPage {
    addr: NonNull<kvm_run>,
}

// SAFETY: it is used for one byte that is accessed atomically, and, by the processor's own thread, for plain numbers
// that are read after the kernel has written them.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    fn new(fd: &VcpuFd) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let addr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<kvm_run>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if addr == libc::MAP_FAILED {
            return Err(last_errno());
        }
        Ok(Self { addr: NonNull::new(addr.cast()).ok_or(Errno::NOMEM)? })
    }

    /// While set, the processor comes back from the kernel at once (`KVM_CAP_IMMEDIATE_EXIT`).
    pub(crate) fn set_immediate_exit(&self, now: bool) {
        // SAFETY: the byte is inside of the mapping, and the kernel only reads it.
        let byte = unsafe { AtomicU8::from_ptr(&raw mut (*self.addr.as_ptr()).immediate_exit) };
        byte.store(u8::from(now), Ordering::SeqCst);
    }

    /// Bytes of one access of the port exit that is handled.
    fn io_size(&self) -> usize {
        // SAFETY: plain numbers of which every value is valid, inside of the mapping; the kernel writes them only while
        // the processor runs, which the caller has done with.
        let size = unsafe { (&raw const (*self.addr.as_ptr()).__bindgen_anon_1.io.size).read_volatile() };
        usize::from(size.clamp(1, 4))
    }

    fn internal_error(&self) -> String {
        // SAFETY: as in `io_size`.
        let error = unsafe { (&raw const (*self.addr.as_ptr()).__bindgen_anon_1.internal).read_volatile() };
        let what = match error.suberror {
            1 => "it could not emulate an instruction",
            2 => "an exception came while another was delivered",
            3 => "an exit came while an interrupt was delivered",
            4 => "an exit for a reason that it does not know",
            _ => "it gives no reason",
        };
        let count = (error.ndata as usize).min(error.data.len());
        let data: Vec<String> = error.data[..count].iter().map(|d| format!("{d:#x}")).collect();
        format!("an internal error of KVM, {what} (suberror {}, data [{}])", error.suberror, data.join(", "))
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        unsafe { libc::munmap(self.addr.as_ptr().cast(), size_of::<kvm_run>()) };
    }
}

/// The errno of an error of kvm-ioctls.
pub(crate) fn errno(e: kvm_ioctls::Error) -> Errno {
    Errno::from_raw_os_error(e.errno())
}

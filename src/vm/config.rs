//! What a virtual machine is to be like.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::arch::{COMMAND_LINE_MAX, MAX_VCPUS};
use super::boot::{BootProtocol, Initramfs};
use super::disk::Disk;
use super::guest::Guest;
use super::limits;
use super::machine::Spec;
use super::memory::MemoryBacking;
use super::vsock::Vsock;
use crate::cgroup::{CpuSet, Enforce, Limits};
use crate::error::{Error, Result};
use crate::name::{InstanceId, InstanceName};
use crate::os_text;
use crate::store::Durability;

const MIB: u64 = 1 << 20;
const MIN_MEMORY: u64 = 32 * MIB;
/// More than processors have addresses for in practice.
const MAX_MEMORY: u64 = 4 << 40;
const MAX_RING: usize = 64 << 20;
/// With them, other devices still have a place.
const MAX_DISKS: usize = 12;

/// A checked configuration of a virtual machine; made by [`VmConfig::builder`].
///
/// ```
/// use stockade::vm::VmConfig;
///
/// let config = VmConfig::builder("web")
///     .kernel("/srv/vmlinux")
///     .initramfs("/srv/initramfs.cpio")
///     .memory(256 << 20)
///     .vcpus(2)
///     .build()?;
/// assert_eq!(config.memory(), 256 << 20);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    pub(super) id: InstanceId,
    #[serde(with = "os_text")]
    pub(super) kernel: PathBuf,
    #[serde(with = "os_text::option", default, skip_serializing_if = "Option::is_none")]
    pub(super) initramfs: Option<PathBuf>,
    pub(super) command_line: String,
    #[serde(default)]
    pub(super) boot_protocol: BootProtocol,
    pub(super) vcpus: u8,
    pub(super) memory: u64,
    #[serde(default)]
    pub(super) memory_backing: MemoryBacking,
    pub(super) console_ring: usize,
    #[serde(default)]
    pub(super) rng: bool,
    #[serde(default)]
    pub(super) balloon: bool,
    #[serde(default)]
    pub(super) virtio_console: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) disks: Vec<Disk>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vsock: Option<Vsock>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) guest: Option<Guest>,
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) enforce: Enforce,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) vcpu_cpus: BTreeMap<u8, CpuSet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) device_cpus: Option<CpuSet>,
    #[serde(default)]
    pub(super) ephemeral: bool,
    #[serde(default)]
    pub(super) kill_on_drop: bool,
}

impl VmConfig {
    /// The command line of a machine that is not told another: the serial console; a restart, which ends the machine,
    /// after a panic; no search for a PCI bus, which is not there.
    pub const DEFAULT_COMMAND_LINE: &str = "console=ttyS0 panic=-1 pci=off";

    /// Begins a configuration of the virtual machine `name`, or `project/name`: one processor, 128 MiB of memory.
    pub fn builder(name: impl Into<String>) -> VmBuilder {
        VmBuilder::new(name.into())
    }

    /// The kernel's file.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The initramfs's file.
    pub fn initramfs(&self) -> Option<&Path> {
        self.initramfs.as_deref()
    }

    /// What the kernel is told.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// How many processors it has.
    pub fn vcpus(&self) -> u8 {
        self.vcpus
    }

    /// Bytes of memory.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// What runs in its guest, where that has the agent.
    pub fn guest(&self) -> Option<&Guest> {
        self.guest.as_ref()
    }

    /// Its disks, in the guest's order. A [guest](Self::guest)'s root comes before them.
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// What the memory is made of.
    pub fn memory_backing(&self) -> MemoryBacking {
        self.memory_backing
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn durability(&self) -> Durability {
        if self.ephemeral { Durability::Ephemeral } else { Durability::Durable }
    }

    pub(super) fn spec(&self) -> Spec {
        Spec {
            name: self.id.name.to_string(),
            kernel: self.kernel.clone(),
            protocol: self.boot_protocol,
            initramfs: self.initramfs.clone().map(Initramfs::File),
            command_line: self.command_line.clone(),
            vcpus: self.vcpus,
            memory: self.memory,
            backing: self.memory_backing,
            rng: self.rng,
            balloon: self.balloon,
            virtio_console: self.virtio_console,
            disks: self.guest.iter().filter_map(Guest::disk).chain(self.disks.clone()).collect(),
            // The agent is reached by it.
            vsock: self.vsock.clone().or_else(|| self.guest.as_ref().map(|_| Vsock::default())),
        }
    }

    /// Everything that is wrong with it, in one line each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            found.push(format!("vcpus: is {}, and must be from 1 to {MAX_VCPUS}", self.vcpus));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) {
            let (least, most) = (MIN_MEMORY / MIB, MAX_MEMORY / MIB);
            let is = self.memory;
            found.push(format!("memory: is {is} bytes, and must be from {least} MiB to {most} MiB"));
        }
        let page = self.memory_backing.page();
        if !self.memory.is_multiple_of(page) {
            let is = self.memory;
            found.push(format!("memory: is {is} bytes, which is no multiple of a page of {page} bytes"));
        }
        let line = self.command_line.as_bytes();
        if line.len() >= COMMAND_LINE_MAX {
            let most = COMMAND_LINE_MAX - 1;
            found.push(format!("command_line: has {} bytes, and may have {most}", line.len()));
        }
        if line.contains(&0) {
            found.push("command_line: has a zero byte".to_owned());
        }
        if self.console_ring > MAX_RING {
            found.push(format!("console_ring: is {} bytes, and may be {MAX_RING}", self.console_ring));
        }
        if self.disks.len() > MAX_DISKS {
            found.push(format!("disks: are {}, and may be {MAX_DISKS}", self.disks.len()));
        }
        found.extend(limits::problems(self, MIN_MEMORY));
        found.extend(self.disks.iter().filter_map(Disk::problem));
        found.extend(self.vsock.iter().filter_map(Vsock::problem));
        if let Some(guest) = &self.guest {
            found.extend(guest.problems());
            if self.initramfs.is_some() {
                found.push("initramfs: is the agent's, where there is a guest".to_owned());
            }
        }
        found
    }
}

/// Collects what a virtual machine is to be like; made by [`VmConfig::builder`].
///
/// No setter fails. [`build`](Self::build) checks everything together and touches nothing on the host.
#[derive(Clone, Debug)]
#[must_use = "nothing is made before `build`"]
pub struct VmBuilder {
    config: VmConfig,
    kernel: Option<PathBuf>,
    refused: Vec<String>,
}

impl VmBuilder {
    fn new(name: String) -> Self {
        let mut refused = Vec::new();
        let id = name.parse().unwrap_or_else(|e: Error| {
            refused.push(format!("id: {e}"));
            // A plain word is always a name.
            InstanceId::new("unnamed").expect("a plain word is a name")
        });
        let config = VmConfig {
            id,
            kernel: PathBuf::new(),
            initramfs: None,
            command_line: VmConfig::DEFAULT_COMMAND_LINE.to_owned(),
            boot_protocol: BootProtocol::Auto,
            vcpus: 1,
            memory: 128 * MIB,
            memory_backing: MemoryBacking::Auto,
            console_ring: 256 << 10,
            rng: false,
            balloon: false,
            virtio_console: false,
            disks: Vec::new(),
            vsock: None,
            guest: None,
            limits: Limits::default(),
            enforce: Enforce::default(),
            vcpu_cpus: BTreeMap::new(),
            device_cpus: None,
            ephemeral: false,
            kill_on_drop: false,
        };
        Self { config, kernel: None, refused }
    }

    fn absolute(&mut self, field: &str, path: PathBuf) -> PathBuf {
        std::path::absolute(&path).unwrap_or_else(|e| {
            self.refused.push(format!("{field}: {}: {e}", path.display()));
            path
        })
    }

    /// Sets the kernel: a vmlinux (an ELF file, which starts fastest) or a bzImage. It is read at each start.
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        let path = self.absolute("kernel", path.into());
        self.kernel = Some(path);
        self
    }

    /// Sets the first root file system, a cpio archive that the kernel unpacks.
    pub fn initramfs(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.initramfs = Some(self.absolute("initramfs", path.into()));
        self
    }

    /// Sets what the kernel is told, in place of [`VmConfig::DEFAULT_COMMAND_LINE`]: up to 2,047 bytes.
    pub fn command_line(mut self, line: impl Into<String>) -> Self {
        self.config.command_line = line.into();
        self
    }

    /// Sets how the kernel is entered.
    pub fn boot_protocol(mut self, protocol: BootProtocol) -> Self {
        self.config.boot_protocol = protocol;
        self
    }

    /// Sets the number of processors, from 1 to 32.
    pub fn vcpus(mut self, count: u8) -> Self {
        self.config.vcpus = count;
        self
    }

    /// Sets the memory in bytes: at least 32 MiB, a multiple of 4 KiB. The host gives it as the guest uses it.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.config.memory = bytes;
        self
    }

    /// Sets what the memory is made of.
    pub fn memory_backing(mut self, backing: MemoryBacking) -> Self {
        self.config.memory_backing = backing;
        self
    }

    /// Sets how many bytes of the guest's console are kept, up to 64 MiB: 256 KiB unless told otherwise.
    pub fn console_ring(mut self, bytes: usize) -> Self {
        self.config.console_ring = bytes;
        self
    }

    /// Gives it a source of random bytes, the host's: a virtio device (`virtio_mmio` and `virtio-rng` in Linux).
    pub fn rng(mut self) -> Self {
        self.config.rng = true;
        self
    }

    /// Gives it a balloon, by which memory can be asked back from the guest: [`Vm::set_balloon`](super::Vm::set_balloon).
    /// The guest needs Linux's `virtio_balloon`.
    pub fn balloon(mut self) -> Self {
        self.config.balloon = true;
        self
    }

    /// Gives it a console beside the serial one, `hvc0` in Linux: with `console=hvc0` on the command line it is the kernel's.
    /// What is written there is in [`Vm::console_log`](super::Vm::console_log), too, and
    /// [`Vm::console_input`](super::Vm::console_input) types there alone. The kernel's first words, before its driver is
    /// there, need the serial one.
    pub fn virtio_console(mut self) -> Self {
        self.config.virtio_console = true;
        self
    }

    /// Adds a disk: up to 12. The path may be relative to the host's working directory.
    pub fn disk(mut self, disk: Disk) -> Self {
        let path = self.absolute("disk", disk.path().to_owned());
        self.config.disks.push(disk.at(path));
        self
    }

    /// Sets what runs in its guest, with the library's agent, in place of an initramfs. See [`Guest`].
    pub fn guest(mut self, guest: Guest) -> Self {
        let guest = guest.absolute(|field, path| self.absolute(field, path));
        self.config.guest = Some(guest);
        self
    }

    /// Gives it sockets to and from the host. See [`Vm::vsock_connect`](super::Vm::vsock_connect).
    pub fn vsock(mut self, vsock: Vsock) -> Self {
        let vsock = match vsock.socket_path().map(Path::to_owned) {
            Some(path) => {
                let path = self.absolute("vsock", path);
                vsock.socket(path)
            }
            None => vsock,
        };
        self.config.vsock = Some(vsock);
        self
    }

    /// Sets limits, which can be changed while it runs: [`Vm::update`](super::Vm::update). A machine can have these:
    ///
    /// | limit | by | what it limits |
    /// |---|---|---|
    /// | `cpu_max`, `cpu_max_burst`, `cpu_weight`, `cpu_idle`, `cpu_uclamp_*` | a cgroup of its threads | the CPU time of processors and devices together |
    /// | `cpuset_mems` | the same | where the memory that the guest touches first comes from |
    /// | `cpuset_cpus` | the same, or else `sched_setaffinity(2)` | the CPUs of all its threads |
    /// | `memory_max` | its [balloon](Self::balloon) | what the guest is asked to do with, of its [memory](Self::memory): from 32 MiB to all of it |
    ///
    /// The first two rows need a runtime with [`RuntimeBuilder::vm_threads`](crate::RuntimeBuilder::vm_threads).
    /// `memory_max` is asked for, not enforced: a guest without the driver, or one that needs more, keeps more; never more
    /// than its memory. All others are [`Unsupported`](crate::ErrorKind::Unsupported), as the kernel counts them for whole
    /// processes: a machine is threads of this one.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Sets what to do about a limit that cannot be set: fail, unless told otherwise.
    /// [`InstanceInfo::skipped_limits`](crate::instance::InstanceInfo::skipped_limits) has those that were left out.
    pub fn enforce(mut self, enforce: Enforce) -> Self {
        self.config.enforce = enforce;
        self
    }

    /// Lets the processor of this number, counted from 0, run on these CPUs of the host alone (`sched_setaffinity(2)`). With a
    /// limit of CPUs for all, on those of them that are in both.
    pub fn vcpu_cpus(mut self, vcpu: u8, cpus: CpuSet) -> Self {
        self.config.vcpu_cpus.insert(vcpu, cpus);
        self
    }

    /// The same for the threads in which its devices work.
    pub fn device_cpus(mut self, cpus: CpuSet) -> Self {
        self.config.device_cpus = Some(cpus);
        self
    }

    /// Its records live on tmpfs alone, and a stop or a shutdown deletes it.
    pub fn ephemeral(mut self) -> Self {
        self.config.ephemeral = true;
        self
    }

    /// Dropping the last handle of it stops it by force. Otherwise it runs on until the runtime is closed.
    pub fn kill_on_drop(mut self) -> Self {
        self.config.kill_on_drop = true;
        self
    }

    /// Puts it into a project.
    pub fn project(mut self, name: InstanceName) -> Self {
        self.config.id.project = name;
        self
    }

    /// Checks it.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), with everything that is wrong.
    pub fn build(self) -> Result<VmConfig> {
        let Self { mut config, kernel, refused: mut problems } = self;
        match kernel {
            Some(kernel) => config.kernel = kernel,
            None => problems.push("kernel: is not set".to_owned()),
        }
        problems.extend(config.problems());
        if problems.is_empty() {
            return Ok(config);
        }
        Err(Error::invalid("configuration", problems.join("; ")).object(config.id.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = VmConfig::builder("a/b/c/d")
            .vcpus(33)
            .memory((32 << 20) + 1)
            .memory_backing(MemoryBacking::Huge2MiB)
            .command_line("x\0".repeat(2000))
            .console_ring(usize::MAX)
            .build()
            .unwrap_err()
            .to_string();
        for part in ["id:", "kernel:", "vcpus:", "2097152 bytes", "4000 bytes", "zero byte", "console_ring:"]
        {
            assert!(wrong.contains(part), "{wrong} lacks {part}");
        }
        for memory in [0, 31 << 20, u64::MAX] {
            assert!(VmConfig::builder("a").kernel("/k").memory(memory).build().is_err(), "{memory}");
        }
    }

    #[test]
    fn records_keep_what_was_set() {
        let config =
            VmConfig::builder("p/a").kernel("/k").initramfs("/i").vcpus(4).ephemeral().build().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VmConfig>(&text).unwrap(), config);
        assert!(config.kernel().is_absolute() && config.vcpus() == 4);
    }
}

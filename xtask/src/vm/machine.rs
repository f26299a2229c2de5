//! QEMU: an emulated machine, from its start to its end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::fixtures::at;

use super::job::Job;
use super::{Options, Parts};

/// The cheapest model to emulate; SVM and nested paging are what kvm-amd needs, and `rdrand` seeds the kernel at once.
const CPU: &str = "qemu64,+svm,+npt,+rdrand";
/// Against its emulated timers the kernel measures the TSC wrong when the host has much to do, and time in the machine
/// then runs several times too fast: so the TSC is not its clock.
const KERNEL: &str = "console=ttyS0 quiet panic=-1 reboot=t tsc=unstable no_timer_check mitigations=off cryptomgr.notests random.trust_cpu=1";
/// How often the clock and the machine are looked at.
const TICK: Duration = Duration::from_millis(50);

/// How a command in the machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Status(u8),
    TimedOut,
}

/// Takes each piece of output, a line with its end where it has one.
pub type Sink<'a> = Box<dyn FnMut(&[u8]) + Send + 'a>;

/// Where the command's output goes.
pub struct Streams<'a> {
    pub out: Sink<'a>,
    pub err: Sink<'a>,
}

impl Streams<'_> {
    /// To our own.
    pub fn passed_on() -> Self {
        // A closed stream is no reason to lose the status.
        let out =
            |bytes: &[u8]| drop(std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()));
        let err = |bytes: &[u8]| drop(std::io::stderr().write_all(bytes));
        Self { out: Box::new(out), err: Box::new(err) }
    }
}

/// A child that does not outlive its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the machine and waits for its end.
pub fn run(parts: &Parts, options: &Options, job: &Job, streams: Streams<'_>) -> Result<Ending> {
    let out = options.out.clone().unwrap_or_else(|| job.dir.join("out"));
    at(&out, fs::create_dir_all(&out))?;
    let start = Instant::now();
    let mut qemu = parts.tools.qemu()?;
    // All CPUs in one thread: with a thread each, the guest's kernel now and then runs an instruction that it is
    // replacing on another CPU, and panics. The price is that `--kvm` goes with one CPU. VMRUN leaves the vector of an
    // interrupt that it delivered to a nested guest in `exception_index`; when the thread then turns to another CPU,
    // which it does ten times a second, the interrupt is delivered once more, even to a guest that takes none.
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-machine", "q35", "-accel", "tcg,thread=single", "-cpu", CPU])
        .args(["-smp", &options.cpus.to_string(), "-m", &options.memory])
        .arg("-kernel")
        .arg(&parts.kernel.image)
        .arg("-initrd")
        .arg(&parts.kernel.initramfs)
        .args(["-append", KERNEL])
        .arg("-serial")
        .arg(format!("file:{}", job.dir.join("console").display()))
        .args(["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"])
        .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]);
    for (name, path) in [("job", &job.share()), ("out", &out)] {
        qemu.arg("-fsdev")
            .arg(format!("local,id={name},path={},security_model=none", path.display()))
            .arg("-device")
            .arg(format!("virtio-9p-pci,fsdev={name},mount_tag={name}"));
    }
    for name in ["tmp", "copy"].into_iter().take(1 + usize::from(options.disk.is_some())) {
        let disk = job.dir.join(name);
        qemu.arg("-drive")
            .arg(format!("file={},format=raw,if=virtio,cache=unsafe,discard=unmap", disk.display()));
    }
    // Its own streams are the command's: it has nothing to say unless it fails.
    qemu.args(["-device", "virtio-serial-pci"]);
    for (name, fd) in [("out", 1), ("err", 2)] {
        qemu.arg("-chardev")
            .arg(format!("file,id=c{name},path=/proc/self/fd/{fd}"))
            .arg("-device")
            .arg(format!("virtserialport,chardev=c{name},nr={fd},name={name}"));
    }
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Killed(qemu.spawn().map_err(|e| format!("setpriv, for QEMU, did not start: {e}"))?);
    let (stdout, stderr) = (child.0.stdout.take(), child.0.stderr.take());

    let timed_out = std::thread::scope(|s| {
        let Streams { out, err } = streams;
        s.spawn(move || stdout.map(|from| pass_on(from, out)));
        s.spawn(move || stderr.map(|from| pass_on(from, err)));
        loop {
            match child.0.try_wait() {
                Ok(None) if start.elapsed() < options.timeout => std::thread::sleep(TICK),
                Ok(None) => {
                    let _ = child.0.kill();
                    break child.0.wait().map(|_| true);
                }
                Ok(Some(_)) => break Ok(false),
                Err(e) => break Err(e),
            }
        }
    })
    .map_err(|e| format!("waiting for QEMU: {e}"))?;
    match job.status() {
        Some(status) => Ok(Ending::Status(status)),
        None if timed_out => Ok(Ending::TimedOut),
        None => Err(format!("the machine ended without a status; its console:\n{}", job.console())),
    }
}

fn pass_on(from: impl Read, mut to: Sink<'_>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        to(&line);
        line.clear();
    }
}

//! `cargo xtask vm`: one command as root in a throw-away machine with pure cgroup v2 and every controller.
//!
//! QEMU and the kernel come from Debian's packages, unpacked into the cache and never installed. The machine sees the
//! host's files at their paths, read-only, below an overlay that is thrown away.

pub mod apt;
mod cache;
mod cpio;
mod job;
mod kernel;
mod machine;
mod modules;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::Result;
use crate::args::Args;

pub use cache::dir as cache_dir;
pub use job::quoted;
pub use kernel::Guest;
pub use machine::{Ending, Streams};

/// The status of a command that was cut off by the time limit, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// The status when the machine itself failed.
const NO_MACHINE: u8 = 125;

const USAGE: &str = "\
usage: cargo xtask vm [OPTIONS] -- CMD [ARG...]

One command as root in an emulated machine with cgroup v2 and every controller. It sees the host's files at their
paths; what it writes is thrown away but for what is in $VM_LANE_OUT. /tmp is a disk of its own, on which the current
directory stays in sight. No network but lo. The status is the command's; 124: the time limit; 125: no machine.

  --kernel 6.12|6.1   Debian's kernel (6.12)          --cpus N         processors (1)
  --kvm               a /dev/kvm, AMD's               --mem SIZE       memory (2G)
  --timeout S         seconds, then it is killed (300)
  --out DIR           the directory that is $VM_LANE_OUT in the machine
  --disk DIR          seen as a writable copy on ext4: it takes id maps, the share of the host's files takes none
  --env NAME=VALUE    for the command, which else gets PATH, HOME, TERM, LANG, RUST_BACKTRACE and RUST_LOG
";

/// The kernels of Debian 12 that the lane knows, and the packages that stand for the newest of each.
const KERNELS: &[(&str, &str)] = &[("6.12", "linux-image-6.12-amd64"), ("6.1", "linux-image-amd64")];

/// What the machine is to be like, and what runs in it.
#[derive(Debug, Clone)]
pub struct Options {
    /// A `/dev/kvm` of its own: AMD's SVM, emulated.
    pub kvm: bool,
    pub cpus: u32,
    /// As QEMU takes it: `2G`.
    pub memory: String,
    /// One of [`KERNELS`].
    pub kernel: String,
    pub timeout: Duration,
    /// Seen in the machine as `$VM_LANE_OUT`.
    pub out: Option<PathBuf>,
    /// Seen at its path as a writable copy on ext4, which takes id maps as the share of the host's files does not.
    pub disk: Option<PathBuf>,
    /// Where the command runs.
    pub dir: PathBuf,
    /// Directories that stay visible if they are below `/tmp`; `dir` always does.
    pub visible: Vec<PathBuf>,
    pub env: Vec<(String, String)>,
    pub command: Vec<String>,
}

impl Options {
    /// One CPU, 2 GiB, Linux 6.12, five minutes.
    pub fn new(command: Vec<String>, dir: PathBuf) -> Self {
        Self {
            kvm: false,
            cpus: 1,
            memory: "2G".to_owned(),
            kernel: "6.12".to_owned(),
            timeout: Duration::from_secs(300),
            out: None,
            disk: None,
            dir,
            visible: Vec::new(),
            env: Vec::new(),
            command,
        }
    }

    fn parse(words: &[String]) -> Result<Self> {
        let at = words.iter().position(|word| word == "--").unwrap_or(words.len());
        let command: Vec<String> = words.iter().skip(at + 1).cloned().collect();
        if command.is_empty() {
            return Err(format!("no command named\n{USAGE}"));
        }
        let dir = std::env::current_dir().map_err(|e| format!("the current directory: {e}"))?;
        let mut args = Args::new(&words[..at]);
        let mut options = Self::new(command, dir);
        options.kvm = args.switch("--kvm");
        options.cpus = args.value("--cpus")?.unwrap_or(options.cpus);
        options.memory = args.value("--mem")?.unwrap_or(options.memory);
        options.kernel = args.value("--kernel")?.unwrap_or(options.kernel);
        options.timeout = args.value("--timeout")?.map_or(options.timeout, Duration::from_secs);
        let whole =
            |path: Option<PathBuf>| path.map(std::path::absolute).transpose().map_err(|e| e.to_string());
        let out = args.value("--out")?.or_else(|| std::env::var_os("VM_LANE_OUT").map(PathBuf::from));
        options.out = whole(out)?;
        options.disk = whole(args.value("--disk")?)?;
        while let Some(pair) = args.value::<String>("--env")? {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| format!("--env takes NAME=VALUE, not `{pair}`"))?;
            options.env.push((name.to_owned(), value.to_owned()));
        }
        args.done()?;
        Ok(options)
    }

    fn package(&self) -> Result<&'static str> {
        let known = KERNELS.iter().find(|(name, _)| *name == self.kernel);
        known.map(|(_, package)| *package).ok_or_else(|| format!("--kernel does not take `{}`", self.kernel))
    }
}

/// What a machine is made from; to be had without the network once it is in the cache.
#[derive(Debug)]
pub struct Parts {
    tools: tools::Tools,
    kernel: kernel::Kernel,
}

impl Parts {
    /// The program that loads AppArmor's profiles.
    pub fn apparmor_parser(&self) -> Result<std::path::PathBuf> {
        self.tools.path(tools::APPARMOR_PARSER)
    }

    /// The same kernel for a machine within the machine, with this init.
    pub fn guest(&self, init: &str) -> Result<Guest> {
        self.kernel.guest(init, &self.tools)
    }

    /// QEMU, without options for a machine.
    pub fn qemu(&self) -> Result<std::process::Command> {
        self.tools.qemu()
    }

    /// The directory with QEMU and its libraries, where they are not installed.
    pub fn unpacked_tools(&self) -> Option<&std::path::Path> {
        self.tools.unpacked()
    }
}

/// Finds or fetches QEMU and the kernel.
pub fn prepare(options: &Options) -> Result<Parts> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the machine is an x86-64 one, and so must be the host".to_owned());
    }
    let package = options.package()?;
    let tools = tools::find()?;
    let kernel = kernel::find(package, &tools)?;
    Ok(Parts { tools, kernel })
}

/// Runs the command to its end, or the time limit.
pub fn run(parts: &Parts, options: &Options, streams: Streams<'_>) -> Result<Ending> {
    if options.kvm && options.cpus > 1 {
        eprintln!("vm: --kvm with several CPUs: the emulation stops Linux guests, see CONTRIBUTING.md");
    }
    let job = job::Job::new(parts, options)?;
    machine::run(parts, options, &job, streams)
}

/// `cargo xtask vm`, with the command's own status.
pub fn main(words: &[String]) -> ExitCode {
    let ended = Options::parse(words).and_then(|options| {
        let parts = prepare(&options)?;
        Ok((run(&parts, &options, Streams::passed_on())?, options.timeout))
    });
    match ended {
        Ok((Ending::Status(status), _)) => ExitCode::from(status),
        Ok((Ending::TimedOut, limit)) => {
            eprintln!("xtask: vm: the time limit of {} s was hit", limit.as_secs());
            ExitCode::from(TIMED_OUT)
        }
        Err(why) => {
            eprintln!("xtask: vm: FAILED: {why}");
            ExitCode::from(NO_MACHINE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_end_at_the_dashes() {
        let options = parse("--kvm --cpus 2 --env A=b=c --env D= --timeout 7 -- sh -c --cpus").unwrap();
        assert!(options.kvm);
        assert_eq!((options.cpus, options.timeout), (2, Duration::from_secs(7)));
        assert_eq!(options.env, [("A".to_owned(), "b=c".to_owned()), ("D".to_owned(), String::new())]);
        assert_eq!(options.command, ["sh", "-c", "--cpus"]);
    }

    #[test]
    fn wrong_words_are_named() {
        assert!(parse("--cpus 2").is_err_and(|e| e.contains("no command")));
        assert!(parse("--what -- true").is_err_and(|e| e.contains("--what")));
        assert!(parse("--env A -- true").is_err_and(|e| e.contains("NAME=VALUE")));
        let wrong = parse("--kernel 5.4 -- true").unwrap();
        assert!(wrong.package().is_err_and(|e| e.contains("5.4")));
    }
}

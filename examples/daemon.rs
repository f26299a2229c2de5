//! A job server, as a CI runner has one: threaded, with a large heap, each job in a container of its own.
//!
//! ```sh
//! cargo run --release --example daemon -- --self-test      # starts one and plays good and bad clients
//! cargo run --release --example daemon -- --socket /tmp/jobs.sock
//! printf 'run\t10\techo\thello\n' | nc -U /tmp/jobs.sock
//! ```
//!
//! # Protocol
//!
//! One request for each connection: a line of UTF-8, at most 4096 bytes, its words divided by tabs.
//!
//! | request | answer |
//! |---|---|
//! | `run` SECONDS PROGRAM ARG... | any number of `output N` lines, each followed by N bytes of what the job wrote to either stream, then one of the lines below |
//! | `status` | `status jobs=N done=N fds=N heap=MIB` |
//! | `shutdown` | `exit 0`; the server ends as after SIGTERM or SIGINT: no new jobs, the present ones are cancelled |
//!
//! | last line | |
//! |---|---|
//! | `exit` N | the job ended with this status |
//! | `signal` N | this signal ended it |
//! | `timeout` | it had not ended in SECONDS (1 to 3600) and was killed |
//! | `cancelled` | the server ends |
//! | `error` KIND TEXT | `bad-request`, `busy`, `not-found`, `not-executable`, `failed` |
//!
//! A client that goes away takes its job along. More than a mebibyte of output is dropped, and the job runs on.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to whoever runs it")]

#[path = "daemon/self_test.rs"]
mod self_test;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stockade::cgroup::{Enforce, Hierarchy, Limits};
use stockade::container::{CgroupConfig, Container};
use stockade::instance::{DeleteMode, DeleteOptions, StartOptions, Stdio, WaitOptions};
use stockade::process::Resource;
use stockade::{ContainerConfig, ErrorKind, ExitStatus, Rootfs, Runtime};

const MAX_REQUEST: usize = 4096;
const MAX_OUTPUT: usize = 1 << 20;
const MAX_CLIENTS: usize = 32;
const MAX_SECONDS: u64 = 3600;
/// How long a client may take for its request, and for reading each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a job looks whether the server ends.
const TICK: Duration = Duration::from_millis(100);

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let done = Options::read(std::env::args().skip(1))
        .and_then(|options| if options.self_test { self_test::run(&options) } else { serve(options) });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("daemon: {why}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    self_test: bool,
    socket: Option<PathBuf>,
    /// The runtime's directories are made in it; a temporary one unless given.
    dir: Option<PathBuf>,
    rootfs: Option<PathBuf>,
    heap_mib: usize,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { self_test: false, socket: None, dir: None, rootfs: None, heap_mib: 1024 };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--self-test" => options.self_test = true,
                "--socket" => options.socket = Some(value()?.into()),
                "--dir" => options.dir = Some(value()?.into()),
                "--rootfs" => options.rootfs = Some(value()?.into()),
                "--heap" => options.heap_mib = value()?.parse()?,
                _ => return Err(format!("what is {word}? There are --self-test, --socket PATH, --dir DIR, --rootfs DIR, --heap MIB").into()),
            }
        }
        Ok(options)
    }
}

fn serve(options: Options) -> Result {
    // Before the first thread: the signals are for the one that waits for them.
    let signals = [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT];
    let signals: nix::sys::signal::SigSet = signals.into_iter().collect();
    signals.thread_block()?;

    let own = tempfile::Builder::new().prefix("stockade-daemon-").tempdir()?;
    let dir = options.dir.clone().unwrap_or_else(|| own.path().to_owned());
    let socket = options.socket.clone().ok_or("where to listen? Say --socket PATH")?;
    let runtime = Runtime::builder().state_dir(dir.join("state")).run_dir(dir.join("run")).open()?;
    let rootfs = options.rootfs.map_or(Rootfs::host(), |dir| Rootfs::overlay([dir]).into());
    // Every page is written, as by a program that has been at work for a while.
    let heap = vec![1_u8; options.heap_mib << 20];
    let listener = UnixListener::bind(&socket)?;
    let server = Server {
        runtime,
        rootfs,
        cgroup: cgroup(),
        heap,
        socket: socket.clone(),
        clients: AtomicUsize::new(0),
        jobs: AtomicUsize::new(0),
        next: AtomicU64::new(1),
        done: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
    };
    let server = Arc::new(server);
    let stopper = Arc::clone(&server);
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            stopper.stop();
        }
    });
    println!("ready: {}", socket.display());
    server.accept(&listener);
    std::fs::remove_file(&socket)?;
    println!("ended: {} jobs done, {} MiB of heap untouched", server.done.load(SeqCst), server.heap_mib());
    Ok(())
}

/// Jobs get a cgroup where this process may make one.
fn cgroup() -> CgroupConfig {
    let name = format!("stockade-daemon-{}", std::process::id());
    let made = Hierarchy::detect().and_then(|h| h.own().create_child(&name)).and_then(|cg| cg.remove(None));
    match made {
        Ok(()) => CgroupConfig::Auto,
        Err(why) => {
            println!("jobs without cgroups and their limits: {why}");
            CgroupConfig::None
        }
    }
}

struct Server {
    runtime: Runtime,
    rootfs: Rootfs,
    cgroup: CgroupConfig,
    heap: Vec<u8>,
    socket: PathBuf,
    clients: AtomicUsize,
    jobs: AtomicUsize,
    next: AtomicU64,
    done: AtomicU64,
    stopping: AtomicBool,
}

/// What a client asks for.
enum Request {
    Run { limit: Duration, args: Vec<String> },
    Status,
    Shutdown,
}

/// How a job ended.
enum End {
    Status(ExitStatus),
    Timeout,
    Cancelled,
    /// Nobody is left to be told.
    ClientGone,
}

/// Counts one more for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Server {
    /// One thread for each client, until told to stop; returns when all have ended.
    fn accept(&self, listener: &UnixListener) {
        std::thread::scope(|scope| {
            for client in listener.incoming() {
                if self.stopping.load(SeqCst) {
                    break;
                }
                let Ok(mut client) = client else {
                    // Out of descriptors, most likely: some come back when a job ends.
                    std::thread::sleep(TICK);
                    continue;
                };
                let counted = Counted::new(&self.clients);
                if self.clients.load(SeqCst) > MAX_CLIENTS {
                    let _ = client.write_all(b"error busy too many clients\n");
                    continue;
                }
                let work = move || {
                    let _counted = counted;
                    // A client that cannot be answered is one that is gone.
                    let _ = self.client(&mut client);
                };
                if let Err(why) = std::thread::Builder::new().spawn_scoped(scope, work) {
                    eprintln!("daemon: no thread for a client: {why}");
                }
            }
        });
    }

    fn stop(&self) {
        self.stopping.store(true, SeqCst);
        // Wakes the thread that accepts.
        let _ = UnixStream::connect(&self.socket);
    }

    fn heap_mib(&self) -> usize {
        self.heap.iter().step_by(4096).map(|b| usize::from(*b)).sum::<usize>() >> 8
    }

    fn client(&self, client: &mut UnixStream) -> std::io::Result<()> {
        client.set_write_timeout(Some(PATIENCE))?;
        let line = match read_line(client)?.and_then(|line| parse(&line)) {
            Ok(Request::Run { limit, args }) => self.run(client, limit, args)?,
            Ok(Request::Status) => format!(
                "status jobs={} done={} fds={} heap={}",
                self.jobs.load(SeqCst),
                self.done.load(SeqCst),
                std::fs::read_dir("/proc/self/fd")?.count(),
                self.heap_mib()
            ),
            Ok(Request::Shutdown) => {
                self.stop();
                "exit 0".to_owned()
            }
            Err(why) => format!("error bad-request {why}"),
        };
        client.write_all(format!("{}\n", line.replace('\n', " ")).as_bytes())
    }

    /// Runs a job and gives the last line of the answer.
    fn run(&self, client: &mut UnixStream, limit: Duration, args: Vec<String>) -> std::io::Result<String> {
        let _counted = Counted::new(&self.jobs);
        let ended = self.job(client, limit, args);
        self.done.fetch_add(1, SeqCst);
        Ok(match ended {
            Ok(End::Status(ExitStatus::Exited(code))) => format!("exit {code}"),
            Ok(End::Status(ExitStatus::Signaled { signal, .. })) => format!("signal {signal}"),
            Ok(End::Status(other)) => format!("error failed the job {other}"),
            Ok(End::Timeout) => "timeout".to_owned(),
            Ok(End::Cancelled) => "cancelled".to_owned(),
            Ok(End::ClientGone) => return Err(std::io::ErrorKind::BrokenPipe.into()),
            Err(e) => {
                let kind = match e.kind() {
                    ErrorKind::PayloadNotFound => "not-found",
                    ErrorKind::PayloadNotExecutable => "not-executable",
                    ErrorKind::InvalidConfig => "bad-request",
                    _ => "failed",
                };
                format!("error {kind} {e}")
            }
        })
    }

    fn job(&self, client: &mut UnixStream, limit: Duration, args: Vec<String>) -> stockade::Result<End> {
        let end = Instant::now() + limit;
        let config = self.config(args)?;
        let container = self.runtime.create(config)?;
        let ended = self.see_through(&container, client, end);
        // Whatever happened, nothing of the job stays: its end is also that of a fork bomb.
        let removed = container.delete_with(DeleteOptions::new().mode(DeleteMode::Stop));
        let ended = ended?;
        removed?;
        Ok(ended)
    }

    fn config(&self, args: Vec<String>) -> stockade::Result<ContainerConfig> {
        let name = format!("daemon-{}/job-{}", std::process::id(), self.next.fetch_add(1, SeqCst));
        let builder = ContainerConfig::builder(name).ephemeral().rootfs(self.rootfs.clone()).args(args);
        // In a user namespace of its own this counts the processes of the container alone.
        let builder = builder.rlimit(Resource::Nproc, 128, 128).cgroup(self.cgroup);
        if self.cgroup == CgroupConfig::None {
            return builder.build();
        }
        let limits = Limits::new().pids_max(128).memory_max(1 << 30);
        builder.limits(limits).enforce(Enforce::BestEffort).build()
    }

    /// Starts the job and passes its output on until it has ended, or must.
    fn see_through(
        &self,
        container: &Container,
        client: &mut UnixStream,
        end: Instant,
    ) -> stockade::Result<End> {
        let Ok((mut output, input)) = std::io::pipe() else { return Ok(End::ClientGone) };
        let Ok(second) = input.try_clone() else { return Ok(End::ClientGone) };
        let streams = StartOptions::new().stdout(Stdio::Fd(input.into())).stderr(Stdio::Fd(second.into()));
        container.start_with(streams.deadline(left(end).max(TICK)))?;

        let (mut open, mut room) = (true, MAX_OUTPUT);
        loop {
            if self.stopping.load(SeqCst) {
                return Ok(End::Cancelled);
            }
            let pause = left(end).min(TICK);
            if pause.is_zero() {
                return Ok(End::Timeout);
            }
            let ready = wait_for(client, open.then_some(&output), pause);
            if ready.client_gone {
                return Ok(End::ClientGone);
            }
            if ready.output {
                let mut chunk = [0; 16 * 1024];
                let n = output.read(&mut chunk).unwrap_or(0);
                open = n > 0;
                let kept = &chunk[..n.min(room)];
                room -= kept.len();
                if !kept.is_empty() && send_output(client, kept).is_err() {
                    return Ok(End::ClientGone);
                }
            }
            // The end of its output is most often its own end too.
            if !open {
                match container.wait_with(WaitOptions::new().deadline(pause)) {
                    Err(e) if e.kind() == ErrorKind::Timeout => {}
                    other => return other.map(End::Status),
                }
            }
        }
    }
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

fn send_output(client: &mut UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    client.write_all(format!("output {}\n", bytes.len()).as_bytes())?;
    client.write_all(bytes)
}

struct Ready {
    client_gone: bool,
    output: bool,
}

/// Waits until there is output, or the client has gone, or the time is up.
fn wait_for(client: &UnixStream, output: Option<&std::io::PipeReader>, pause: Duration) -> Ready {
    // Without an event asked for, poll(2) tells of a hang-up alone.
    let mut fds = vec![PollFd::from_borrowed_fd(client.as_fd(), PollFlags::empty())];
    fds.extend(output.map(|o| PollFd::from_borrowed_fd(o.as_fd(), PollFlags::IN)));
    let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
    if poll(&mut fds, Some(&pause)).is_err() {
        return Ready { client_gone: false, output: false };
    }
    let gone = PollFlags::HUP | PollFlags::ERR;
    Ready {
        client_gone: fds[0].revents().intersects(gone),
        output: fds.get(1).is_some_and(|fd| fd.revents().intersects(PollFlags::IN | gone)),
    }
}

/// Reads one line, of bounded length and in bounded time. The inner error is the client's fault.
fn read_line(client: &mut UnixStream) -> std::io::Result<Result<Vec<u8>, &'static str>> {
    let end = Instant::now() + PATIENCE;
    let mut line = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let rest = left(end);
        if rest.is_zero() {
            return Ok(Err("no whole line came in time"));
        }
        client.set_read_timeout(Some(rest))?;
        match client.read(&mut chunk) {
            Ok(0) => return Ok(Err("the line has no end")),
            Ok(n) => line.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        if let Some(at) = line.iter().position(|b| *b == b'\n').filter(|at| *at <= MAX_REQUEST) {
            line.truncate(at);
            return Ok(Ok(line));
        }
        if line.len() > MAX_REQUEST {
            return Ok(Err("the line is longer than 4096 bytes"));
        }
    }
}

fn parse(line: &[u8]) -> Result<Request, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8")?;
    let mut words = line.split('\t');
    let request = match words.next() {
        Some("run") => {
            let seconds = words.next().and_then(|s| s.parse().ok()).filter(|s| (1..=MAX_SECONDS).contains(s));
            let seconds = seconds.ok_or("the second word is not 1 to 3600 seconds")?;
            let args: Vec<String> = words.by_ref().map(str::to_owned).collect();
            if args.first().is_none_or(String::is_empty) {
                return Err("there is no program to run");
            }
            Request::Run { limit: Duration::from_secs(seconds), args }
        }
        Some("status") => Request::Status,
        Some("shutdown") => Request::Shutdown,
        _ => return Err("the first word is not run, status or shutdown"),
    };
    if words.next().is_some() { Err("there are words too many") } else { Ok(request) }
}

/// Whether anything of a server's jobs is in the cgroup of this process.
fn cgroups_of(server: u32) -> Vec<String> {
    let list = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let Ok(hierarchy) = Hierarchy::detect() else { return Vec::new() };
    let names = list(hierarchy.own().path()).map(|e| e.file_name().display().to_string());
    names.filter(|n| n.contains(&format!("daemon-{server}-"))).collect()
}

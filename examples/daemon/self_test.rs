//! `--self-test`: starts a server and plays its clients, good and bad.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Options, Result, cgroups_of};

/// How long a server may take to start or to end.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn run(options: &Options) -> Result {
    let dir = tempfile::Builder::new().prefix("stockade-daemon-").tempdir()?;
    let mut report = Report { failed: 0 };

    let server = Server::start(options, dir.path(), options.heap_mib)?;
    jobs(&server, &mut report);
    server.end(&mut report, "shut down on request", |server| {
        let answer = server.ask("shutdown\n");
        if answer.last == "exit 0" { Ok(()) } else { Err(answer.shown()) }
    })?;

    // A second one, on the same directories, ends by a signal while it has work.
    let server = Server::start(options, dir.path(), 1)?;
    let busy = server.send("run\t60\tsh\t-c\techo up; sleep 50\n")?;
    until(|| field(&server.ask("status\n").last, "jobs") == Some(1)).ok_or("the job does not start")?;
    server.end(&mut report, "end on SIGTERM with a job at work", |server| {
        let pid = rustix::process::Pid::from_child(&server.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|e| e.to_string())
    })?;
    report.check("its job was cancelled", || {
        let answer = Answer::read(busy).map_err(|e| e.to_string())?;
        if answer.last == "cancelled" { Ok(()) } else { Err(answer.shown()) }
    });

    dir.close()?;
    println!("{}", if report.failed == 0 { "all well" } else { "NOT WELL" });
    if report.failed == 0 { Ok(()) } else { Err(format!("{} checks failed", report.failed).into()) }
}

/// A check by what is asked and what the answer must be.
fn jobs(server: &Server, report: &mut Report) {
    let status = |server: &Server| server.ask("status\n").last;
    report.check("echo", || server.expect("run\t10\techo\thello\n", "hello\n", "exit 0"));
    // From here on nothing more may stay open.
    let fds = field(&status(server), "fds");

    report.check("exit status", || {
        server.expect("run\t10\tsh\t-c\techo a; echo b >&2; exit 3\n", "a\nb\n", "exit 3")
    });
    report.check("4 MiB of output, cut to 1 MiB", || {
        let answer = server.ask("run\t20\tsh\t-c\thead -c 4194304 /dev/zero; exit 5\n");
        let as_told = answer.last == "exit 5" && answer.output.len() == 1 << 20;
        if as_told { Ok(()) } else { Err(answer.shown()) }
    });
    report.check("12 jobs at once", || {
        let clients: Vec<_> = (0..12)
            .map(|n| server.send(&format!("run\t20\tsh\t-c\techo {n}; sleep 0.2; exit {n}\n")))
            .collect::<Result<_>>()
            .map_err(|e| e.to_string())?;
        for (n, client) in clients.into_iter().enumerate() {
            Answer::read(client).map_err(|e| e.to_string())?.is(&format!("{n}\n"), &format!("exit {n}"))?;
        }
        Ok(())
    });

    report
        .check("a program that is not there", || server.refuses("run\t10\t/no/such/program\n", "not-found"));
    report.check("a program that is none", || server.refuses("run\t10\t/etc\n", "not-executable"));
    report.check("a crash", || {
        server.expect("run\t10\tsh\t-c\tsh -c 'kill -SEGV $$' >/dev/null 2>&1; exit $?\n", "", "exit 139")
    });
    report.check("a job that takes too long and ignores SIGTERM", || {
        server.expect("run\t1\tsh\t-c\ttrap '' TERM; while :; do sleep 1; done\n", "", "timeout")
    });
    report.check("a fork bomb without end", || {
        // A shell whose fork fails ends, and another one gets its place.
        let bomb = "exec >/dev/null 2>&1; f() { while :; do f & done; }; f & f & exec sleep 1000";
        server.expect(&format!("run\t1\tsh\t-c\t{bomb}\n"), "", "timeout")
    });
    report.check("a job that closes its output and goes on", || {
        server.expect("run\t10\tsh\t-c\texec >/dev/null 2>&1; sleep 0.3; exit 4\n", "", "exit 4")
    });

    for (name, request) in [
        ("an empty line", &b"\n"[..]),
        ("an unknown request", b"please\n"),
        ("no program", b"run\t10\n"),
        ("an empty program", b"run\t10\t\n"),
        ("a time that is none", b"run\tsoon\ttrue\n"),
        ("a time beyond all bounds", b"run\t99999999999999999999\ttrue\n"),
        ("a NUL byte", b"run\t10\techo\ta\0b\n"),
        ("no UTF-8", b"run\t10\techo\t\xff\xfe\n"),
        ("words too many", b"status\tof what\n"),
    ] {
        report.check(name, || server.refuses_bytes(request, "bad-request"));
    }
    let long = "x".repeat(100_000);
    report.check("a line without end", || server.refuses(&long, "bad-request"));
    report.check("a client that never finishes its line", || server.refuses("run\t10", "bad-request"));

    report.check("clients that go away", || {
        for request in ["run\t50\tsleep\t40\n", "run\t50\tsh\t-c\twhile :; do echo x; done\n", "run\t5", ""] {
            drop(server.send(request).map_err(|e| e.to_string())?);
        }
        until(|| field(&status(server), "jobs") == Some(0)).ok_or_else(|| status(server))
    });
    report.check("echo, after all that", || server.expect("run\t10\techo\thello\n", "hello\n", "exit 0"));
    report.check("nothing of the jobs is left", || {
        let left = || (cgroups_of(server.child.id()), field(&status(server), "fds"));
        until(|| left() == (Vec::new(), fds))
            .ok_or_else(|| format!("{:?}, and {fds:?} descriptors before", left()))
    });
    println!("        {}", status(server));
}

/// The number behind `name=`.
fn field(line: &str, name: &str) -> Option<u64> {
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Waits until it holds, for ten seconds at most.
fn until(holds: impl Fn() -> bool) -> Option<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(())
}

struct Report {
    failed: u32,
}

impl Report {
    fn check(&mut self, name: &str, work: impl FnOnce() -> Result<(), String>) {
        let start = Instant::now();
        let done = work();
        let took = start.elapsed().as_secs_f64() * 1000.0;
        match done {
            Ok(()) => println!("ok      {took:8.1} ms  {name}"),
            Err(why) => {
                println!("FAILED  {took:8.1} ms  {name}: {why}");
                self.failed += 1;
            }
        }
    }
}

/// A server in a process of its own. Dropping it kills it.
struct Server {
    child: Child,
    socket: PathBuf,
    out: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(options: &Options, dir: &Path, heap_mib: usize) -> Result<Self> {
        let socket = dir.join("socket");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--socket").arg(&socket).arg("--dir").arg(dir.join("runtime"));
        command.args(["--heap", &heap_mib.to_string()]);
        if let Some(rootfs) = &options.rootfs {
            command.arg("--rootfs").arg(rootfs);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("the server has no output")?;
        let mut server = Self { child, socket, out: BufReader::new(out) };
        loop {
            let mut line = String::new();
            if server.out.read_line(&mut line)? == 0 {
                return Err("the server did not start".into());
            }
            print!("server  {line}");
            if line.starts_with("ready") {
                return Ok(server);
            }
        }
    }

    fn send(&self, request: &str) -> Result<UnixStream> {
        self.send_bytes(request.as_bytes())
    }

    fn send_bytes(&self, request: &[u8]) -> Result<UnixStream> {
        let mut client = UnixStream::connect(&self.socket)?;
        client.set_read_timeout(Some(DEADLINE))?;
        // The server need not read a line without end to its end.
        match client.write_all(request) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
            _ => Ok(client),
        }
    }

    fn ask(&self, request: &str) -> Answer {
        self.ask_bytes(request.as_bytes())
    }

    fn ask_bytes(&self, request: &[u8]) -> Answer {
        let answer = self.send_bytes(request).and_then(Answer::read);
        answer.unwrap_or_else(|why| Answer { output: Vec::new(), last: format!("no answer: {why}") })
    }

    fn expect(&self, request: &str, output: &str, last: &str) -> Result<(), String> {
        self.ask(request).is(output, last)
    }

    fn refuses(&self, request: &str, kind: &str) -> Result<(), String> {
        self.refuses_bytes(request.as_bytes(), kind)
    }

    fn refuses_bytes(&self, request: &[u8], kind: &str) -> Result<(), String> {
        let answer = self.ask_bytes(request);
        let refused = answer.last.starts_with(&format!("error {kind} "));
        if refused { Ok(()) } else { Err(answer.shown()) }
    }

    /// Makes the server end, by `how`, and checks that it ends well and leaves nothing.
    fn end(
        mut self,
        report: &mut Report,
        name: &str,
        how: impl FnOnce(&Self) -> Result<(), String>,
    ) -> Result {
        report.check(name, || {
            how(&self)?;
            let end = Instant::now() + DEADLINE;
            let status = loop {
                match self.child.try_wait().map_err(|e| e.to_string())? {
                    Some(status) => break status,
                    None if Instant::now() > end => return Err("it does not end".to_owned()),
                    None => std::thread::sleep(Duration::from_millis(10)),
                }
            };
            let cgroups = cgroups_of(self.child.id());
            match (status.success(), cgroups.is_empty(), self.socket.exists()) {
                (true, true, false) => Ok(()),
                _ => Err(format!("{status}, cgroups {cgroups:?}, socket left: {}", self.socket.exists())),
            }
        });
        let mut last = String::new();
        self.out.read_to_string(&mut last)?;
        print!("server  {last}");
        Ok(())
    }
}

/// What a server answered.
struct Answer {
    output: Vec<u8>,
    last: String,
}

impl Answer {
    fn read(client: UnixStream) -> Result<Self> {
        let mut client = BufReader::new(client);
        let mut output = Vec::new();
        loop {
            let mut line = String::new();
            if client.read_line(&mut line)? == 0 {
                return Err("the connection ended before the answer".into());
            }
            match line.strip_prefix("output ") {
                Some(length) => {
                    let length: usize = length.trim().parse()?;
                    let start = output.len();
                    output.resize(start + length, 0);
                    client.read_exact(&mut output[start..])?;
                }
                None => return Ok(Self { output, last: line.trim_end().to_owned() }),
            }
        }
    }

    fn is(&self, output: &str, last: &str) -> Result<(), String> {
        if self.output == output.as_bytes() && self.last == last { Ok(()) } else { Err(self.shown()) }
    }

    fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.output[..self.output.len().min(200)]);
        format!("`{}` after {} bytes of output: {text:?}", self.last, self.output.len())
    }
}

//! What the host asks, one connection for each thing.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::children::Children;
use super::exec::{self, Streams, thread};
use super::sys::{self, MS_RDONLY, MS_REMOUNT, SIGKILL, SIGTERM};
use super::wire::{self, Hello, Open, PORT, Reply, Request, VERSION};
use super::{Problem, state};

/// How long programs may take to end when the guest does.
const GRACE: Duration = Duration::from_secs(5);
/// The host may take a little until it listens.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn reply(to: &File, reply: &Reply) -> io::Result<()> {
    wire::send(to, reply)
}

/// Serves for ever.
pub(crate) fn serve(children: &Arc<Children>, token: Vec<u8>) -> Result<(), Problem> {
    let reaper = Arc::clone(children);
    thread(move || reaper.reap()).map_err(|e| Problem::new("start", "a thread", &e))?;
    let listener = sys::listen(PORT).map_err(|e| Problem::new("listen on", "the vsock port", &e))?;
    // It is kept open: with its end the host sees that we have gone.
    let _report = report(&token)?;
    let token: Arc<[u8]> = token.into();
    let streams = Arc::<Streams>::default();
    loop {
        match sys::accept(&listener) {
            Ok((connection, true)) => {
                let (children, streams, token) =
                    (Arc::clone(children), Arc::clone(&streams), Arc::clone(&token));
                // Without a thread for it the connection is closed, which the host sees.
                let _ = thread(move || drop(answer(connection, &children, &streams, &token)));
            }
            // A program of the guest's own.
            Ok((_, false)) => {}
            Err(e) => {
                super::say(&format!("accept: {e}"));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn report(token: &[u8]) -> Result<File, Problem> {
    let end = Instant::now() + PATIENCE;
    let kernel = fs::read("/proc/sys/kernel/osrelease").unwrap_or_default().trim_ascii().to_vec();
    let hello = Hello { version: VERSION, token: token.to_vec(), kernel };
    loop {
        let told = sys::connect_to_host(PORT).and_then(|host| wire::send(&host, &hello).map(|()| host));
        match told {
            Ok(host) => return Ok(host),
            Err(e) if Instant::now() > end => return Err(Problem::new("report to", "the host", &e)),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn answer(from: File, children: &Arc<Children>, streams: &Streams, token: &[u8]) -> io::Result<()> {
    let open: Open = wire::receive(&from)?;
    if open.version != VERSION || open.token != token {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let done = |done: Result<(), Problem>| match done {
        Ok(()) => Reply::Done,
        Err(problem) => Reply::Failed(problem.failure()),
    };
    match open.request {
        Request::Exec(what) => exec::run(from, &what, children, streams),
        Request::Stream(stream) => {
            reply(&from, &Reply::Done)?;
            streams.add(stream.id, stream.which, from);
            Ok(())
        }
        Request::State => reply(&from, &Reply::State(state::now())),
        Request::Time(nanos) => {
            let set = sys::set_time(nanos).map_err(|e| Problem::new("set", "the clock", &e));
            reply(&from, &done(set))
        }
        Request::Freeze => reply(&from, &done(freeze())),
        Request::Thaw => reply(&from, &done(thaw())),
        Request::Shutdown => {
            let asked = ask_to_end(children);
            reply(&from, &done(asked))?;
            if std::process::id() == 1 {
                end_all();
            }
            Ok(())
        }
    }
}

/// Where the first process is another one, it is asked.
fn ask_to_end(children: &Arc<Children>) -> Result<(), Problem> {
    // SIGRTMIN+4.
    const SYSTEMD_POWEROFF: i32 = 38;
    if std::process::id() == 1 {
        return Ok(());
    }
    let failed = |e| Problem::new("ask", "the first process to end", &e);
    if Path::new("/run/systemd/system").exists() {
        return sys::kill(1, SYSTEMD_POWEROFF).map_err(failed);
    }
    exec::power_off(children)
}

/// Ends every process, writes everything to the disks, and ends the guest.
pub(crate) fn end_all() {
    for signal in [SIGTERM, SIGKILL] {
        // It reaches every process but this one.
        let _ = sys::kill(-1, signal);
        let end = Instant::now() + GRACE;
        while state::others() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    sys::sync();
    let _ = sys::mount(b"", b"/", b"", MS_REMOUNT | MS_RDONLY, b"");
    let _ = sys::power_off();
}

/// The places of file systems on disks, each disk once, those that were mounted last first.
fn on_disks() -> Vec<Vec<u8>> {
    let mounts = fs::read("/proc/self/mounts").unwrap_or_default();
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for line in mounts.split(|b| *b == b'\n') {
        let mut words = line.split(|b| *b == b' ');
        let (Some(device), Some(place)) = (words.next(), words.next()) else { continue };
        if device.starts_with(b"/dev/") && !found.iter().any(|(known, _)| known == device) {
            found.push((device.to_vec(), unescape(place)));
        }
    }
    found.reverse();
    found.into_iter().map(|(_, place)| place).collect()
}

/// The kernel writes blanks as `\040`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let number = tail.get(..3).filter(|_| *first == b'\\');
        let number = number.and_then(|n| u8::from_str_radix(std::str::from_utf8(n).ok()?, 8).ok());
        match number {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn change(place: &[u8], frozen: bool) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    sys::freeze(&File::open(std::ffi::OsStr::from_bytes(place))?, frozen)
}

/// All or none.
fn freeze() -> Result<(), Problem> {
    const EROFS: i32 = 30;
    let mut done: Vec<Vec<u8>> = Vec::new();
    for place in on_disks() {
        match change(&place, true) {
            Ok(()) => done.push(place),
            // Nothing is written there.
            Err(e) if e.raw_os_error() == Some(EROFS) => {}
            Err(e) => {
                done.iter().for_each(|place| drop(change(place, false)));
                return Err(Problem::new("freeze", &place, &e));
            }
        }
    }
    Ok(())
}

fn thaw() -> Result<(), Problem> {
    const EINVAL: i32 = 22;
    let mut first = Ok(());
    for place in on_disks().into_iter().rev() {
        match change(&place, false) {
            Err(e) if e.raw_os_error() != Some(EINVAL) && first.is_ok() => {
                first = Err(Problem::new("thaw", &place, &e));
            }
            _ => {}
        }
    }
    first
}

//! Running programs.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::children::Children;
use super::sys::{self, Ready, STEPS};
use super::wire::{self, Ended, Exec, Reply, Word};
use super::{Problem, serve};

/// How long the streams of a command may take to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the last output may take before the end of a command is told.
const DRAIN: Duration = Duration::from_millis(200);
/// The most streams that wait for their command.
const MOST_WAITING: usize = 1024;
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const STACK: usize = 128 << 10;

/// Streams whose command has not come yet.
#[derive(Default)]
pub(crate) struct Streams {
    waiting: Mutex<HashMap<(u64, u8), (Instant, File)>>,
    changed: Condvar,
}

impl Streams {
    /// Keeps a stream for its command; says whether there was room.
    pub(crate) fn add(&self, id: u64, which: u8, stream: File) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (since, _)| since.elapsed() < PATIENCE);
        if waiting.len() >= MOST_WAITING {
            return false;
        }
        waiting.insert((id, which), (Instant::now(), stream));
        self.changed.notify_all();
        true
    }

    fn take(&self, id: u64, which: u8) -> Option<File> {
        let end = Instant::now() + PATIENCE;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((_, stream)) = waiting.remove(&(id, which)) {
                return Some(stream);
            }
            let left = end.checked_duration_since(Instant::now())?;
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Starts a thread with a small stack.
pub(crate) fn thread(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().stack_size(STACK).spawn(run).map(drop)
}

fn strings(list: &[Vec<u8>]) -> Result<Vec<CString>, Problem> {
    let one = |s: &Vec<u8>| {
        CString::new(s.clone())
            .map_err(|_| Problem::new("understand", s, &io::ErrorKind::InvalidInput.into()))
    };
    list.iter().map(one).collect()
}

/// The variables, of which a later one wins.
fn environment(lists: [&[Vec<u8>]; 2]) -> Vec<Vec<u8>> {
    let name = |v: &[u8]| v.split(|b| *b == b'=').next().map(<[u8]>::to_vec).unwrap_or_default();
    let mut env: Vec<Vec<u8>> = vec![[b"PATH=", PATH].concat(), b"HOME=/root".to_vec()];
    for variable in lists.into_iter().flatten() {
        env.retain(|known| name(known) != name(variable));
        env.push(variable.clone());
    }
    env
}

/// Where the program may be.
fn candidates(program: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let path = env.iter().find_map(|v| v.strip_prefix(b"PATH=".as_slice())).unwrap_or(PATH);
    path.split(|b| *b == b':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| [dir, b"/", program].concat())
        .collect()
}

fn ready(exec: &Exec, children: &Children) -> Result<Ready, Problem> {
    let missing =
        || Problem::new("find a program in", "an empty command", &io::ErrorKind::InvalidInput.into());
    let program = exec.args.first().ok_or_else(missing)?;
    let env = environment([&children.env, &exec.env]);
    let cwd = if exec.cwd.is_empty() { b"/".to_vec() } else { exec.cwd.clone() };
    Ok(Ready {
        candidates: strings(&candidates(program, &env))?,
        args: strings(&exec.args)?,
        env: strings(&env)?,
        cwd: strings(&[cwd])?.remove(0),
        uid: exec.uid,
        gid: exec.gid,
        groups: exec.groups.clone(),
    })
}

/// Starts it; its number.
fn start(exec: &Exec, children: &Children, streams: [&OwnedFd; 3]) -> Result<i32, Problem> {
    let program = exec.args.first().cloned().unwrap_or_default();
    let failed = |e: io::Error| Problem::new("start", &program, &e);
    let ready = ready(exec, children)?;
    let (mut answer, report) = sys::pipe().map(|(r, w)| (File::from(r), w)).map_err(failed)?;
    // None of them may be where another is to go.
    let high = streams.map(|fd| fd.try_clone());
    let [Ok(a), Ok(b), Ok(c)] = high else {
        return Err(failed(io::Error::last_os_error()));
    };
    let pid = children.spawn(&ready, [a, b, c].each_ref().map(AsRawFd::as_raw_fd), report.as_raw_fd());
    let pid = pid.map_err(failed)?;
    drop(report);
    let mut record = [0; 5];
    if answer.read_exact(&mut record).is_err() {
        return Ok(pid);
    }
    children.wait(pid);
    let step = STEPS.get(usize::from(record[0])).copied().unwrap_or("start");
    let errno = i32::from_le_bytes([record[1], record[2], record[3], record[4]]);
    let object = if step == "change the directory" { exec.cwd.clone() } else { program };
    Err(Problem { step, object, errno })
}

fn pump(mut from: File, mut to: File) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(len) = from.read(&mut buffer) {
        if len == 0 || to.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// A command of the host's, until its end.
pub(crate) fn run(control: File, exec: &Exec, children: &Arc<Children>, streams: &Streams) -> io::Result<()> {
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    // What the command gets, and what is moved between that and the host.
    let (mut ends, mut pumps, mut input) = (Vec::new(), Vec::new(), None);
    for which in 0..3_u8 {
        if exec.streams & 1 << which == 0 {
            ends.push(null()?);
            continue;
        }
        let Some(stream) = streams.take(exec.id, which) else {
            let late = Problem::new("wait for", "a stream", &io::ErrorKind::TimedOut.into());
            return serve::reply(&control, &Reply::Failed(late.failure()));
        };
        let (read, write) = sys::pipe()?;
        if which == 0 {
            input = Some(stream.try_clone()?);
            ends.push(read);
            pumps.push((stream, File::from(write)));
        } else {
            ends.push(write);
            pumps.push((File::from(read), stream));
        }
    }
    let started = start(exec, children, [&ends[0], &ends[1], &ends[2]]);
    drop(ends);
    let pid = match started {
        Ok(pid) => pid,
        Err(problem) => return serve::reply(&control, &Reply::Failed(problem.failure())),
    };
    let (moved, all_moved) = std::sync::mpsc::channel::<()>();
    for (n, (from, to)) in (0..).zip(pumps) {
        // Not the input, whose end is after the command's.
        let moved = (n > 0 || input.is_none()).then(|| moved.clone());
        thread(move || {
            pump(from, to);
            drop(moved);
        })?;
    }
    drop(moved);
    let told = serve::reply(&control, &Reply::Started(pid as u32));
    if let Ok(words) = control.try_clone() {
        let children = Arc::clone(children);
        // The host may let go of it, which ends nothing.
        thread(move || {
            while let Ok(Word::Signal(signal)) = wire::receive(&words) {
                let _ = children.signal(pid, signal);
            }
        })?;
    }
    let status = children.wait(pid);
    // What it has written comes first, unless a process that it left behind still writes, or the host does not read.
    let _ = all_moved.recv_timeout(DRAIN);
    let signal = status & 0x7f;
    let code = if signal == 0 { status >> 8 & 0xff } else { 0 };
    let ended = Reply::Ended(Ended { code, signal, core: u8::from(signal != 0 && status & 0x80 != 0) });
    if let Some(input) = input {
        sys::shut(&input);
    }
    let told = told.and_then(|()| serve::reply(&control, &ended));
    sys::shut(&control);
    told
}

/// The one command for which the guest is there. With its end the guest ends.
pub(crate) fn run_command(children: &Arc<Children>, args: Vec<Vec<u8>>) -> Result<(), Problem> {
    let exec = Exec {
        id: 0,
        args,
        env: Vec::new(),
        cwd: Vec::new(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        streams: 0,
    };
    let console =
        || -> io::Result<OwnedFd> { Ok(File::options().read(true).write(true).open("/dev/console")?.into()) };
    let console = console().map_err(|e| Problem::new("open", "/dev/console", &e))?;
    let pid = start(&exec, children, [&console; 3])?;
    let of_thread = Arc::clone(children);
    let waited = thread(move || {
        let status = of_thread.wait(pid);
        let code = if status & 0x7f == 0 { status >> 8 } else { 128 + (status & 0x7f) };
        let _ = sys::tell_code(code as u8);
        serve::end_all();
    });
    waited.map_err(|e| Problem::new("start", "a thread", &e))
}

/// Runs the image's own program for that, and does not wait for its end.
pub(crate) fn power_off(children: &Arc<Children>) -> Result<(), Problem> {
    let exec = Exec {
        id: 0,
        args: vec![b"poweroff".to_vec()],
        env: Vec::new(),
        cwd: Vec::new(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        streams: 0,
    };
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = OwnedFd::from(null.map_err(|e| Problem::new("open", "/dev/null", &e))?);
    let pid = start(&exec, children, [&null; 3])?;
    let children = Arc::clone(children);
    let waited = thread(move || {
        children.wait(pid);
    });
    waited.map_err(|e| Problem::new("start", "a thread", &e))
}

/// Becomes the image's own init.
pub(crate) fn become_init(args: &[Vec<u8>], env: &[Vec<u8>]) -> Problem {
    let all = environment([&[b"TERM=linux".to_vec()], env]);
    let found = args.first().map(|program| candidates(program, &all)).unwrap_or_default();
    let found = found.into_iter().find(|path| fs::metadata(OsStr::from_bytes(path)).is_ok());
    let name = args.first().cloned().unwrap_or_default();
    let Some(path) = found else {
        return Problem::new("find", name, &io::ErrorKind::NotFound.into());
    };
    let made = strings(&[path]).and_then(|mut path| Ok((path.remove(0), strings(args)?, strings(&all)?)));
    match made {
        Ok((path, args, env)) => Problem::new("execute", name, &sys::execute(&path, &args, &env)),
        Err(problem) => problem,
    }
}

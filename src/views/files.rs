//! The file system of one container: a directory with a few files, which nobody can write.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::View;
use super::wire::{Attributes, Reply, Request, Wish};

/// Files that may be open at a time.
const MAX_OPEN: usize = 1024;
/// What the texts of open files may take together, in bytes.
const MAX_HELD: usize = 16 << 20;
/// How old the text may be that an open file begins with: the kernel asks for attributes within each open, and their size
/// is that of this text.
const FRESH: Duration = Duration::from_millis(10);
/// The number of the directory, which is the kernel's choice; those of files come after it.
const ROOT: u64 = 1;

/// What is open of it.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: BTreeMap<u64, Text>,
    next: u64,
    held: usize,
    /// By the number of the file: the text that its size was told of.
    measured: BTreeMap<u64, Text>,
}

/// A file's text of one moment; none yet without one.
#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    made: Option<Instant>,
    /// Whether something of it has been read.
    read: bool,
}

impl Text {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, made: Some(Instant::now()), read: false }
    }

    /// Whether it is still good for who begins to read.
    fn is_fresh(&self) -> bool {
        !self.read && self.made.is_some_and(|made| made.elapsed() < FRESH)
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The answer is made.
    Answer,
    /// There is none to be.
    Silence,
    /// It is no request.
    Garbage,
}

impl Files {
    /// Makes the answer to a request. `render` gives a file's text of this moment.
    pub(super) fn answer(
        &mut self,
        request: &[u8],
        reply: &mut Vec<u8>,
        render: impl FnOnce(View) -> Result<Vec<u8>, Errno>,
    ) -> Outcome {
        let Some(Request { unique, node, wish }) = Request::parse(request) else { return Outcome::Garbage };
        if wish == Wish::Forget {
            return Outcome::Silence;
        }
        let reply = Reply::to(unique, reply);
        match self.act(node, wish, render) {
            Ok(Done::Init) => reply.init(),
            Ok(Done::Entry(file)) => reply.entry(file),
            Ok(Done::Attributes(file)) => reply.attr(file),
            Ok(Done::Opened(handle)) => reply.opened(handle),
            Ok(Done::Data(bytes)) => reply.data(bytes),
            Ok(Done::Statistics) => reply.statistics(),
            Err(errno) => reply.fail(errno.raw_os_error()),
        }
        Outcome::Answer
    }

    fn act(
        &mut self,
        node: u64,
        wish: Wish<'_>,
        render: impl FnOnce(View) -> Result<Vec<u8>, Errno>,
    ) -> Result<Done<'_>, Errno> {
        match wish {
            Wish::Init => Ok(Done::Init),
            Wish::Statistics => Ok(Done::Statistics),
            Wish::Lookup(name) if node == ROOT => {
                let found = View::ALL.into_iter().find(|view| view.name().as_bytes() == name);
                found.map(|view| Done::Entry(attributes(number(view), 0))).ok_or(Errno::NOENT)
            }
            Wish::Lookup(_) => Err(Errno::NOTDIR),
            Wish::Attributes if node == ROOT => Ok(Done::Attributes(attributes(node, 0))),
            Wish::Attributes => {
                let text = Text::new(render(view(node).ok_or(Errno::NOENT)?)?);
                let size = text.bytes.len() as u64;
                self.measured.insert(node, text);
                Ok(Done::Attributes(attributes(node, size)))
            }
            Wish::Open => self.open(node).map(Done::Opened),
            Wish::Read { handle, offset, size } => {
                let view = view(node).ok_or(Errno::NOENT)?;
                let text = self.text(handle, offset == 0, || render(view))?;
                let from = usize::try_from(offset).map_or(text.len(), |from| from.min(text.len()));
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                Ok(Done::Data(&text[from..from.saturating_add(size).min(text.len())]))
            }
            Wish::Release { handle } => {
                self.held -= self.open.remove(&handle).map_or(0, |text| text.bytes.len());
                Ok(Done::Data(&[]))
            }
            Wish::Forget | Wish::Unknown => Err(Errno::NOSYS),
        }
    }

    fn open(&mut self, node: u64) -> Result<u64, Errno> {
        view(node).ok_or(Errno::NOENT)?;
        if self.open.len() >= MAX_OPEN {
            return Err(Errno::NFILE);
        }
        let measured = self.measured.remove(&node).filter(Text::is_fresh).unwrap_or_default();
        let fits = self.held.saturating_add(measured.bytes.len()) <= MAX_HELD;
        let text = if fits { measured } else { Text::default() };
        self.held += text.bytes.len();
        self.next += 1;
        self.open.insert(self.next, text);
        Ok(self.next)
    }

    /// What an open file holds: the text of the moment when its begin was read last.
    fn text(
        &mut self,
        handle: u64,
        from_begin: bool,
        render: impl FnOnce() -> Result<Vec<u8>, Errno>,
    ) -> Result<&[u8], Errno> {
        let slot = self.open.get_mut(&handle).ok_or(Errno::BADF)?;
        if slot.made.is_none() || (from_begin && !slot.is_fresh()) {
            let bytes = render()?;
            let rest = self.held - slot.bytes.len();
            if rest.saturating_add(bytes.len()) > MAX_HELD {
                return Err(Errno::NOMEM);
            }
            self.held = rest + bytes.len();
            *slot = Text::new(bytes);
        }
        slot.read = true;
        Ok(&slot.bytes)
    }
}

/// What an answer says.
enum Done<'a> {
    Init,
    Entry(Attributes),
    Attributes(Attributes),
    Opened(u64),
    Data(&'a [u8]),
    Statistics,
}

fn number(view: View) -> u64 {
    ROOT + 1 + view as u64
}

fn view(node: u64) -> Option<View> {
    View::ALL.into_iter().find(|view| number(*view) == node)
}

/// Reads go past the page cache and need no size; `splice(2)` and `sendfile(2)` do not, and end with it.
fn attributes(node: u64, size: u64) -> Attributes {
    let mode = if node == ROOT { 0o040_555 } else { 0o100_444 };
    Attributes { node, mode, size }
}

#[cfg(test)]
mod tests {
    use super::super::wire::request;
    use super::*;

    const OPEN: u32 = 14;
    const READ: u32 = 15;
    const RELEASE: u32 = 18;

    fn text(view: View) -> Result<Vec<u8>, Errno> {
        Ok(format!("text of {}", view.name()).into_bytes())
    }

    /// The errno of the answer, and what comes after its header.
    fn ask(files: &mut Files, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        let mut reply = Vec::new();
        let outcome = files.answer(&request(opcode, 1, node, body), &mut reply, text);
        assert_eq!(outcome, Outcome::Answer);
        (i32::from_ne_bytes(reply[4..8].try_into().unwrap()), reply[16..].to_vec())
    }

    fn open(files: &mut Files, node: u64) -> Result<u64, i32> {
        match ask(files, OPEN, node, &[0; 8]) {
            (0, body) => Ok(u64::from_ne_bytes(body[..8].try_into().unwrap())),
            (errno, _) => Err(-errno),
        }
    }

    fn read(files: &mut Files, node: u64, handle: u64, offset: u64, size: u64) -> (i32, String) {
        let body = [handle, offset, size, 0, 0].map(u64::to_ne_bytes).concat();
        let (errno, body) = ask(files, READ, node, &body);
        (errno, String::from_utf8(body).unwrap())
    }

    #[test]
    fn a_file_is_found_opened_and_read_in_parts() {
        let files = &mut Files::default();
        let (errno, entry) = ask(files, 1, ROOT, b"stat\0");
        assert_eq!(errno, 0);
        let node = u64::from_ne_bytes(entry[..8].try_into().unwrap());
        assert_eq!(view(node), Some(View::Stat));
        let handle = open(files, node).unwrap();
        assert_eq!(read(files, node, handle, 0, 100), (0, "text of stat".to_owned()));
        assert_eq!(read(files, node, handle, 5, 2), (0, "of".to_owned()));
        assert_eq!(read(files, node, handle, 12, 100), (0, String::new()));
        assert_eq!(read(files, node, handle, u64::MAX, u64::from(u32::MAX)), (0, String::new()));
        assert_eq!(files.held, 12);
        assert_eq!(ask(files, RELEASE, node, &[handle, 0, 0].map(u64::to_ne_bytes).concat()).0, 0);
        assert_eq!((files.held, files.open.len()), (0, 0));
        assert_eq!(read(files, node, handle, 0, 1).0, -libc::EBADF);
    }

    #[test]
    fn an_open_file_begins_with_the_text_that_was_measured() {
        let files = &mut Files::default();
        let counts = std::cell::Cell::new(0);
        let count = |_: View| {
            counts.set(counts.get() + 1);
            Ok(vec![b'x'; counts.get()])
        };
        let mut ask = |opcode: u32, body: &[u8]| {
            let mut reply = Vec::new();
            files.answer(&request(opcode, 1, 2, body), &mut reply, count);
            reply[16..].to_vec()
        };
        let word = |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        // Valid for no time, and the size of the text.
        let attributes = ask(3, &[0; 16]);
        assert_eq!((word(&attributes, 0), word(&attributes, 24)), (0, 1));
        let handle = word(&ask(OPEN, &[0; 8]), 0);
        let other = word(&ask(OPEN, &[0; 8]), 0);
        let mut read = |handle| ask(READ, &[handle, 0, 100, 0, 0].map(u64::to_ne_bytes).concat()).len();
        assert_eq!([read(handle), read(handle), read(other), read(handle)], [1, 2, 3, 4]);
        std::thread::sleep(FRESH);
        ask(3, &[0; 16]);
        let late = word(&ask(OPEN, &[0; 8]), 0);
        std::thread::sleep(FRESH);
        assert_eq!(ask(READ, &[late, 0, 100, 0, 0].map(u64::to_ne_bytes).concat()).len(), 6);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let files = &mut Files::default();
        assert_eq!(ask(files, 1, ROOT, b"kcore\0").0, -libc::ENOENT);
        assert_eq!(ask(files, 1, 2, b"stat\0").0, -libc::ENOTDIR);
        for node in [0, ROOT, 10, u64::MAX] {
            assert_eq!(open(files, node), Err(libc::ENOENT), "{node}");
        }
        assert_eq!(ask(files, 3, 10, b"").0, -libc::ENOENT);
        // Writing, listing, locking, attributes of all kinds, and what does not exist.
        for opcode in (4..60).filter(|n| ![14, 15, 17, 18, 26, 42].contains(n)).chain([u32::MAX]) {
            assert_eq!(ask(files, opcode, 2, &[0; 200]).0, -libc::ENOSYS, "{opcode}");
        }
        let mut reply = Vec::new();
        for forget in [2, 42] {
            assert_eq!(files.answer(&request(forget, 1, 2, &[0; 8]), &mut reply, text), Outcome::Silence);
        }
        assert_eq!(files.answer(b"short", &mut reply, text), Outcome::Garbage);
    }

    #[test]
    fn open_files_and_their_texts_are_bounded() {
        let files = &mut Files::default();
        let opened: Vec<u64> = (0..MAX_OPEN).map(|_| open(files, 2).unwrap()).collect();
        assert_eq!(open(files, 2), Err(libc::ENFILE));
        let big = |_: View| Ok(vec![b'x'; MAX_HELD / 4]);
        let mut errors = 0;
        for handle in opened.iter().take(8).chain(opened.iter().take(4)) {
            let body = [*handle, 0, 1, 0, 0].map(u64::to_ne_bytes).concat();
            let mut reply = Vec::new();
            files.answer(&request(READ, 1, 2, &body), &mut reply, big);
            errors += u32::from(reply[4..8] != [0; 4]);
        }
        assert_eq!((errors, files.held), (4, MAX_HELD));
    }
}

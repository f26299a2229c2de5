//! The archive's bytes: found out how they are compressed, decompressed, counted.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, Scope};

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::io::Errno;

use super::options::Compression;
use super::watch::Watch;
use crate::error::{Error, ErrorKind, Result};

/// How much is read at a time where nothing is decompressed: it is still in the processor's cache when it is written.
const CHUNK: usize = 64 * 1024;
/// How much is handed over at a time by the thread that decompresses.
const DECOMPRESSED: usize = 128 * 1024;
/// Chunks that wait for the writing side.
const AHEAD: usize = 4;
/// What decompression may take: enough for `xz -9` and `zstd --ultra -22`.
const XZ_MEMORY: u64 = 256 * 1024 * 1024;

/// What both sides know of the caller's reader.
#[derive(Debug, Default)]
struct Source {
    taken: AtomicU64,
    failed: AtomicBool,
}

/// The caller's reader, watched: an error of its own is not to be taken for a damaged archive.
struct Counted<R> {
    inner: R,
    source: Arc<Source>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(into);
        match &result {
            Ok(n) => {
                self.source.taken.fetch_add(*n as u64, Ordering::Relaxed);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.source.failed.store(true, Ordering::Relaxed),
        }
        result
    }
}

/// Where chunks come from.
enum Chunks<'a> {
    /// Straight from the reader.
    Here(Box<dyn Read + Send + 'a>),
    /// From a thread that decompresses, to which used buffers go back.
    Thread { full: Receiver<io::Result<Vec<u8>>>, empty: Sender<Vec<u8>> },
}

/// The archive after decompression, chunk by chunk.
pub(super) struct Input<'a, 'w> {
    chunks: Chunks<'a>,
    source: Arc<Source>,
    compression: Compression,
    buffer: Vec<u8>,
    at: usize,
    /// Bytes of chunks that are used up.
    before: u64,
    pub(super) watch: Watch<'w>,
}

impl<'a, 'w> Input<'a, 'w> {
    /// Looks at the first bytes. What is compressed is decompressed by a thread of the scope, since that takes as
    /// long as making the files does.
    pub(super) fn open<'s>(
        reader: impl Read + Send + 'a,
        scope: &'s Scope<'s, '_>,
        watch: Watch<'w>,
    ) -> Result<Self>
    where
        'a: 's,
    {
        let source = Arc::new(Source::default());
        let mut reader = Counted { inner: reader, source: source.clone() };
        let mut magic = [0; 6];
        let found = fill(&mut reader, &mut magic).map_err(|e| Error::io("read the archive", e))?;
        let magic = magic[..found].to_vec();
        let compression = Compression::of(&magic)?;
        let reader = Cursor::new(magic).chain(reader);
        let chunks = if compression == Compression::None {
            Chunks::Here(Box::new(reader))
        } else {
            let decoder = decoder(compression, BufReader::with_capacity(DECOMPRESSED, reader))?;
            decompress_beside(decoder, scope)?
        };
        Ok(Self { chunks, source, compression, buffer: Vec::new(), at: 0, before: 0, watch })
    }

    pub(super) fn compression(&self) -> Compression {
        self.compression
    }

    /// How far the archive was read, before decompression.
    pub(super) fn taken(&self) -> u64 {
        self.source.taken.load(Ordering::Relaxed)
    }

    /// How far it was read, after decompression.
    pub(super) fn position(&self) -> u64 {
        self.before + self.at as u64
    }

    /// The next bytes, `max` at most; none at the end of the archive.
    pub(super) fn next(&mut self, max: u64) -> Result<&[u8]> {
        if self.at == self.buffer.len() && max > 0 {
            self.refill()?;
        }
        let left = self.buffer.len() - self.at;
        let take = usize::try_from(max).map_or(left, |max| left.min(max));
        let found = &self.buffer[self.at..self.at + take];
        self.at += take;
        Ok(found)
    }

    fn refill(&mut self) -> Result<()> {
        self.before += self.buffer.len() as u64;
        self.at = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = match &mut self.chunks {
            Chunks::Here(reader) => {
                buffer.resize(CHUNK, 0);
                read(reader, &mut buffer).map(|n| {
                    buffer.truncate(n);
                    buffer
                })
            }
            Chunks::Thread { full, empty } => {
                // Without the thread there is no next chunk either, which is told below.
                let _ = empty.send(buffer);
                full.recv().unwrap_or_else(|_| Ok(Vec::new()))
            }
        };
        self.buffer = result.map_err(|e| self.failure(e))?;
        self.watch.look(self.taken(), self.before + self.buffer.len() as u64)
    }

    /// The reader's own errors as they are; the decoders' mean that the archive is damaged.
    fn failure(&self, error: io::Error) -> Error {
        if self.source.failed.load(Ordering::Relaxed) || self.compression == Compression::None {
            return Error::io("read the archive", error);
        }
        let what = match error.kind() {
            io::ErrorKind::UnexpectedEof => "is cut off",
            _ => "is damaged",
        };
        Error::new(ErrorKind::Corrupt, "decompress the archive")
            .detail(format!("its {} data {what}", self.compression))
            .with_source(error)
    }
}

fn decoder<'a>(
    compression: Compression,
    reader: BufReader<impl Read + Send + 'a>,
) -> Result<Box<dyn Read + Send + 'a>> {
    let fail = |e| Error::io("prepare decompression", e);
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(reader).map_err(fail)?),
        Compression::Xz => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                    .map_err(|e| fail(e.into()))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
        }
    })
}

/// Starts the thread. It ends when the archive does, at an error, or when the receiver is dropped.
fn decompress_beside<'a, 's>(
    mut decoder: Box<dyn Read + Send + 'a>,
    scope: &'s Scope<'s, '_>,
) -> Result<Chunks<'a>>
where
    'a: 's,
{
    let (full_to, full) = sync_channel(AHEAD);
    let (empty, empty_from) = channel();
    let work = move || decompress(&mut decoder, &full_to, &empty_from);
    // The host's handlers stay out of the thread. This is libc's mask, which leaves libc's own signals through.
    let mut old = SigSet::empty();
    let masked =
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut old));
    let spawned = Builder::new().name("stockade-unpack".into()).spawn_scoped(scope, work);
    if masked.is_ok() {
        // Setting a mask that was read from the kernel cannot fail.
        let _ = nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old), None);
    }
    spawned.map_err(|e| Error::io("start the thread that decompresses", e))?;
    Ok(Chunks::Thread { full, empty })
}

fn decompress(
    decoder: &mut (dyn Read + Send),
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) {
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.resize(DECOMPRESSED, 0);
        let result = fill(decoder, &mut buffer);
        let last = !matches!(result, Ok(DECOMPRESSED));
        let result = result.map(|n| {
            buffer.truncate(n);
            buffer
        });
        if full.send(result).is_err() || last {
            return;
        }
    }
}

/// One read, whatever signals come.
fn read(reader: &mut (dyn Read + Send), into: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(into) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Reads until the buffer is full or the data ends.
fn fill(reader: &mut (dyn Read + Send), into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match read(reader, &mut into[done..])? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

impl Compression {
    fn of(magic: &[u8]) -> Result<Self> {
        let other = match magic {
            [0x1f, 0x8b, ..] => return Ok(Self::Gzip),
            // The second is a frame to be skipped, with which some writers begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => return Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Ok(Self::Xz),
            [] => {
                return Err(Error::new(ErrorKind::Corrupt, "read the archive").detail("it is empty"));
            }
            [b'B', b'Z', b'h', ..] => "bzip2 data",
            [0x04, 0x22, 0x4d, 0x18, ..] => "lz4 data",
            [0x5d, 0, 0, ..] => "data of the old lzma format",
            [0x1f, 0x9d, ..] => "data of compress(1)",
            [b'P', b'K', 3, 4, ..] => "a zip archive",
            [b'h', b's', b'q', b's', ..] => "a squashfs image",
            [b'7', b'z', 0xbc, 0xaf, ..] => "a 7z archive",
            _ => return Ok(Self::None),
        };
        Err(Error::sys("read the archive", Errno::OPNOTSUPP)
            .detail(format!("it is {other}"))
            .hint("tar archives can be unpacked, plain or compressed by gzip, zstd or xz"))
    }
}

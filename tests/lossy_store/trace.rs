//! The system calls that a program made below one directory, from what `strace -f -y -xx` wrote.

use std::collections::HashMap;

/// What a call did. Paths are relative to the directory.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Mkdir(String),
    /// For writing. Makes the file where it is missing.
    Open {
        path: String,
        truncate: bool,
    },
    Write {
        path: String,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate(String, usize),
    Sync(String),
    Rename(String, String),
    Unlink(String),
    Symlink(String, String),
    /// A line on the standard output, not of the disk.
    Said(String),
}

/// The calls to trace. All that change names or content, so that none is overlooked.
pub(crate) const CALLS: &str = "trace=open,openat,openat2,creat,write,pwrite64,writev,pwritev,ftruncate,truncate,fsync,\
    fdatasync,sync,syncfs,sync_file_range,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,symlink,\
    symlinkat,link,linkat,mknod,mknodat,copy_file_range,sendfile,fallocate";

/// Reads a trace.
pub(crate) fn parse(text: &str, base: &str) -> Vec<Op> {
    let mut begun: HashMap<&str, String> = HashMap::new();
    let mut reader = Reader { base, offsets: HashMap::new(), ops: Vec::new() };
    for line in text.lines() {
        let (pid, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if let Some(start) = call.strip_suffix("<unfinished ...>") {
            begun.insert(pid, start.to_owned());
        } else if let Some((_, end)) = call.strip_prefix("<... ").and_then(|c| c.split_once(" resumed>")) {
            let start = begun.remove(pid).unwrap_or_default();
            reader.call(&format!("{start}{end}"));
        } else {
            reader.call(call);
        }
    }
    reader.ops
}

/// A relative path without a directory is none of the library's.
const HERE: &str = "AT_FDCWD</>";

struct Reader<'b> {
    base: &'b str,
    /// Where the next write to a descriptor goes.
    offsets: HashMap<String, usize>,
    ops: Vec<Op>,
}

impl Reader<'_> {
    fn call(&mut self, call: &str) {
        let Some((name, rest)) = call.split_once('(') else { return };
        let Some((args, result)) = rest.rsplit_once(" = ") else { return };
        if result.starts_with('-') || result.starts_with('?') {
            return;
        }
        let args = args.trim_end().trim_end_matches(')');
        let mut args: Vec<&str> = args.split(", ").collect();
        // The older calls are the newer ones without a directory.
        let name = match name {
            "open" | "mkdir" => {
                args.insert(0, HERE);
                if name == "open" { "openat" } else { "mkdirat" }
            }
            "unlink" | "rmdir" => {
                args = vec![HERE, args[0], "0"];
                "unlinkat"
            }
            "rename" => {
                args = vec![HERE, args[0], HERE, args[1]];
                "renameat"
            }
            "symlink" => {
                args.insert(1, HERE);
                "symlinkat"
            }
            other => other,
        };
        let op = match (name, &args[..]) {
            ("openat", [dir, path, flags, ..]) => {
                let Some(path) = self.path(dir, path) else { return };
                let writes = ["O_WRONLY", "O_RDWR"].iter().any(|f| flags.contains(f));
                assert!(
                    !flags.contains("O_APPEND") && !flags.contains("O_TMPFILE"),
                    "not understood: {call}"
                );
                let fd = result.split('<').next().unwrap_or_default();
                self.offsets.insert(fd.to_owned(), 0);
                if !writes {
                    return;
                }
                Op::Open { path, truncate: flags.contains("O_TRUNC") }
            }
            ("write", ["1", bytes, ..]) => Op::Said(String::from_utf8_lossy(&bytes_of(bytes)).into_owned()),
            ("write", [fd, bytes, ..]) if fd.starts_with("1<") => {
                Op::Said(String::from_utf8_lossy(&bytes_of(bytes)).into_owned())
            }
            ("write", [fd, bytes, ..]) => {
                let Some(path) = self.of_fd(fd) else { return };
                let number = fd.split('<').next().unwrap_or_default();
                let offset = self.offsets.entry(number.to_owned()).or_default();
                let mut bytes = bytes_of(bytes);
                bytes.truncate(result.trim().parse().unwrap());
                let at = *offset;
                *offset += bytes.len();
                Op::Write { path, at, bytes }
            }
            ("pwrite64", [fd, bytes, _, at]) => {
                let Some(path) = self.of_fd(fd) else { return };
                Op::Write { path, at: at.parse().unwrap(), bytes: bytes_of(bytes) }
            }
            ("ftruncate", [fd, len]) => {
                let Some(path) = self.of_fd(fd) else { return };
                Op::Truncate(path, len.parse().unwrap())
            }
            ("fsync" | "fdatasync", [fd]) => {
                let Some(path) = self.of_fd(fd) else { return };
                Op::Sync(path)
            }
            ("mkdirat", [dir, path, _]) => {
                let Some(path) = self.path(dir, path) else { return };
                Op::Mkdir(path)
            }
            ("unlinkat", [dir, path, _]) => {
                let Some(path) = self.path(dir, path) else { return };
                Op::Unlink(path)
            }
            ("symlinkat", [to, dir, path]) => {
                let Some(path) = self.path(dir, path) else { return };
                Op::Symlink(text_of(to), path)
            }
            ("renameat" | "renameat2", [from_dir, from, to_dir, to, ..]) => {
                match (self.path(from_dir, from), self.path(to_dir, to)) {
                    (Some(from), Some(to)) => Op::Rename(from, to),
                    (None, None) => return,
                    _ => panic!("a rename in or out: {call}"),
                }
            }
            // Anything else below the directory is a call that nobody taught this reader.
            _ => {
                let below =
                    args.iter().any(|arg| text_of(arg).starts_with(self.base) || self.of_fd(arg).is_some());
                let reads = name == "openat2" && !call.contains("O_CREAT") && !call.contains("O_TRUNC");
                assert!(!below || reads, "not understood: {call}");
                return;
            }
        };
        self.ops.push(op);
    }

    /// A path relative to the base, where it is below.
    fn path(&self, dir: &str, path: &str) -> Option<String> {
        let path = text_of(path);
        if path.starts_with('/') {
            return self.below(&path);
        }
        let dir = fd_path(dir)?;
        self.below(&if path == "." { dir } else { format!("{dir}/{path}") })
    }

    fn of_fd(&self, fd: &str) -> Option<String> {
        self.below(&fd_path(fd)?)
    }

    fn below(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(self.base)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/').to_owned())
    }
}

/// `5<\x2f\x74>`: the path of the descriptor.
fn fd_path(fd: &str) -> Option<String> {
    let (_, path) = fd.split_once('<')?;
    Some(String::from_utf8_lossy(&unhex(path.split('>').next()?)).into_owned())
}

fn text_of(arg: &str) -> String {
    String::from_utf8_lossy(&bytes_of(arg)).into_owned()
}

fn bytes_of(arg: &str) -> Vec<u8> {
    assert!(!arg.ends_with("..."), "strace cut a string off");
    unhex(arg.trim_matches('"'))
}

fn unhex(text: &str) -> Vec<u8> {
    if !text.starts_with("\\x") {
        return text.as_bytes().to_vec();
    }
    text.split("\\x").skip(1).filter_map(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok()).collect()
}

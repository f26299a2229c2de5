//! The plan as text: one line an op, decoded from what the interpreter will read. Golden files hold these dumps, so
//! that rules of order are tested without privilege.

use std::fmt::Write;

use super::interp::abi::{Header, NO_SLOT, Op, SLOT, code, on_error};
use super::plan::{At, Plan};

/// How an argument reads.
#[derive(Clone, Copy)]
enum Arg {
    Fd(&'static str),
    Text(&'static str),
    Number(&'static str),
    Octal(&'static str),
    Hex(&'static str),
    /// A list of strings.
    List(&'static str),
    /// Bytes whose length is the next argument.
    Data(&'static str),
    /// `struct mount_attr`.
    Attr,
    Skip,
}

fn row(op: u16) -> (&'static str, &'static [Arg]) {
    use Arg::{Attr, Data, Fd, Hex, List, Number, Octal, Skip, Text};
    match op {
        code::SET_IDS => ("set_ids", &[Number("uid"), Number("gid")]),
        code::SET_GROUPS => ("set_groups", &[Skip, Number("count")]),
        code::CLEAR_AMBIENT => ("clear_ambient", &[]),
        code::PRCTL => ("prctl", &[Number("option"), Number("value")]),
        code::UMASK => ("umask", &[Octal("mask")]),
        code::SET_HOSTNAME => ("set_hostname", &[Text("name")]),
        code::SET_DOMAINNAME => ("set_domainname", &[Text("name")]),
        code::LOOPBACK_UP => ("loopback_up", &[]),
        code::SETNS => ("setns", &[Fd("to"), Hex("kinds")]),
        code::UNSHARE => ("unshare", &[Hex("kinds")]),
        code::SETSID => ("setsid", &[]),
        code::RESET_SIGNALS => ("reset_signals", &[Skip]),
        code::RLIMIT => ("rlimit", &[Number("resource"), Number("soft"), Number("hard")]),
        code::PERSONALITY => ("personality", &[Hex("persona")]),
        code::BOUNDING_SET => ("bounding_set", &[Hex("keep"), Number("last")]),
        code::CAPS => ("caps", &[Hex("effective"), Hex("permitted"), Hex("inheritable"), Hex("ambient")]),
        code::SECCOMP => ("seccomp", &[Skip, Number("instructions"), Hex("flags")]),
        code::CLONE_SIBLING => ("clone_sibling", &[Hex("kinds"), Fd("cgroup"), Number("copy")]),
        code::BARRIER => ("barrier", &[Number("slot")]),
        code::MARKER => ("marker", &[]),
        code::NEXT_PLAN => ("next_plan", &[]),
        code::NETWORK_SOCKET => ("network_socket", &[]),
        code::KEEP_TERMINALS => {
            ("keep_terminals", &[Number("slot"), Number("count"), Fd("file"), Number("size"), Fd("until")])
        }
        code::ACT => ("act", &[Fd("home"), Number("slot")]),
        code::TERMINAL => ("terminal", &[Text("at"), Number("check")]),
        code::WRITE_OVER => ("write_over", &[Text("path"), Data("data")]),
        code::CLOSE_INHERITED => ("close_inherited", &[]),
        code::EXEC => ("exec", &[List("path"), List("argv"), List("env")]),
        code::FAULT => ("fault", &[Number("errno")]),
        code::PROPAGATION => ("propagation", &[Text("on"), Hex("flags")]),
        code::OPEN_TREE => ("open_tree", &[Fd("dir"), Text("path"), Hex("flags")]),
        code::MOUNT_SETATTR => ("mount_setattr", &[Fd("mount"), Attr, Hex("flags")]),
        code::MOVE_MOUNT => ("move_mount", &[Fd("mount"), Text("to")]),
        code::PIVOT_ROOT => ("pivot_root", &[Fd("root")]),
        code::DETACH_TOP => ("detach_top", &[]),
        code::MOUNT => ("mount", &[Text("source"), Text("target"), Text("type"), Hex("flags"), Text("data")]),
        code::MOUNT_TOP => {
            ("mount_top", &[Text("source"), Text("target"), Text("type"), Hex("flags"), Text("data")])
        }
        code::READ_ONLY => ("read_only", &[Text("path")]),
        code::MASK => ("mask", &[Text("path"), Text("from"), Hex("device")]),
        code::FSOPEN => ("fsopen", &[Text("type")]),
        code::FSCONFIG => ("fsconfig", &[Fd("fs"), Number("command"), Text("key"), Text("value")]),
        code::FSMOUNT => ("fsmount", &[Fd("fs"), Hex("attrs")]),
        code::CHECK_WRITABLE => ("check_writable", &[Fd("mount")]),
        code::ATTACH => ("attach", &[Fd("mount"), Text("target"), Number("dir"), Number("kernel_files")]),
        code::MOUNT_SETATTR_PATH => ("mount_setattr", &[Text("path"), Attr, Hex("flags")]),
        code::CHDIR => ("chdir", &[Text("path")]),
        code::FCHDIR => ("fchdir", &[Fd("dir")]),
        code::CHROOT => ("chroot", &[Fd("dir")]),
        code::MKNOD => ("mknod", &[Text("path"), Octal("mode"), Hex("device")]),
        code::SYMLINK => ("symlink", &[Text("to"), Text("path")]),
        code::MKDIR => ("mkdir", &[Text("path"), Octal("mode")]),
        code::OPEN => ("open", &[Text("path"), Hex("flags"), Octal("mode")]),
        code::DUP_TO => ("dup_to", &[Fd("from"), Number("to")]),
        code::WRITE_FILE => ("write_file", &[Text("path"), Data("data"), Skip, Hex("resolve")]),
        code::CREATE_FILE => ("create_file", &[Text("path"), Data("data"), Skip, Octal("mode")]),
        code::KEYRING => ("keyring", &[]),
        code::LANDLOCK => ("landlock", &[Hex("handled"), Skip, Number("rules")]),
        code::ENTER_KERNEL => ("enter_kernel", &[Text("path"), Hex("magic")]),
        code::CHECK_DEVICE => ("check_device", &[Text("path"), Hex("device")]),
        code::CLOSE_OTHERS => ("close_others", &[]),
        code::WORKING_DIR => ("working_dir", &[Text("path")]),
        _ => ("unknown", &[]),
    }
}

impl Plan {
    /// The plan in an encoded one, without what errors say; nothing where the interpreter would not take it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let header = Header { magic: word(0)?, ops: word(4)?, len: word(8)?, ops_at: word(12)? };
        if !header.is_whole(bytes.len(), *bytes.last()?) {
            return None;
        }
        let (data, ops) = bytes.split_at(header.ops_at as usize);
        let mut plan = Self::new(0);
        for op in ops.chunks_exact(size_of::<Op>()).take(header.ops as usize) {
            let long = |at: usize| op[at..at + 8].try_into().map(u64::from_ne_bytes).unwrap_or_default();
            let args = [long(8), long(16), long(24), long(32), long(40)];
            let added = plan.push("decoded", At::default(), u16::from_ne_bytes([op[0], op[1]]), args);
            (added.on_error, added.out) = (op[2], op[3]);
        }
        plan.set_data(data);
        Some(plan)
    }

    /// One line for each op: number, name, arguments, slot and tolerance. Descriptors that are numbers read `fd`:
    /// the numbers differ from run to run.
    pub(crate) fn dump(&self) -> String {
        let mut out = String::new();
        for (i, op) in self.ops().iter().enumerate() {
            let (name, args) = row(op.code);
            let _ = write!(out, "{i:3} {name}");
            for (k, arg) in args.iter().enumerate() {
                self.dump_arg(&mut out, op, k, *arg);
            }
            if op.out != NO_SLOT {
                let _ = write!(out, " -> slot {}", op.out);
            }
            out.push_str(match op.on_error {
                on_error::IGNORE_MISSING => " (may be missing)",
                on_error::IGNORE_EXISTING => " (may exist)",
                _ => "",
            });
            out.push('\n');
        }
        out
    }

    fn dump_arg(&self, out: &mut String, op: &Op, k: usize, arg: Arg) {
        let v = op.args[k];
        // What is too large for an offset lies outside, too.
        let at = At(u32::try_from(v).unwrap_or(u32::MAX));
        let _ = match arg {
            Arg::Skip => Ok(()),
            Arg::Fd(n) if v == u64::MAX => write!(out, " {n}=none"),
            Arg::Fd(n) if v & SLOT != 0 => write!(out, " {n}=slot {}", v & 0xff),
            Arg::Fd(n) if v as u32 as i32 == libc::AT_FDCWD => write!(out, " {n}=cwd"),
            Arg::Fd(n) => write!(out, " {n}=fd"),
            Arg::Text(_) if v == 0 => Ok(()),
            Arg::Text(n) => write!(out, " {n}={}", self.text_at(at)),
            Arg::Number(n) => write!(out, " {n}={v}"),
            Arg::Octal(n) => write!(out, " {n}={v:o}"),
            Arg::Hex(n) => write!(out, " {n}={v:#x}"),
            Arg::Data(n) => {
                let text = String::from_utf8_lossy(
                    self.bytes_at(at, usize::try_from(op.args[k + 1]).unwrap_or(usize::MAX)),
                )
                .into_owned();
                write!(out, " {n}={text:?}")
            }
            Arg::Attr => {
                let mut w = [0_u64; 4];
                for (word, bytes) in w.iter_mut().zip(self.bytes_at(at, 32).chunks_exact(8)) {
                    *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
                }
                let userns = if w[3] != 0 { " userns=fd" } else { "" };
                write!(out, " set={:#x} clear={:#x} propagation={:#x}{userns}", w[0], w[1], w[2])
            }
            Arg::List(n) => {
                let _ = write!(out, " {n}=[");
                let mut at = at.0;
                let mut first = true;
                loop {
                    let word = self.bytes_at(At(at), 8);
                    let off = u64::from_ne_bytes(word.try_into().unwrap_or_default());
                    if off == 0 {
                        break;
                    }
                    let sep = if first { "" } else { " " };
                    let _ = write!(out, "{sep}{}", self.text_at(At(u32::try_from(off).unwrap_or(u32::MAX))));
                    first = false;
                    at = at.saturating_add(8);
                }
                write!(out, "]")
            }
        };
    }
}

//! [`Plan`]: the list of operations that a child executes, and what to say when one of them fails.

use std::os::fd::RawFd;

use super::interp::abi::{Header, NO_SLOT, Op, PLAN, SLOT, code, on_error};

/// A descriptor as an op sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fd {
    /// A number in the child's table, or `AT_FDCWD`.
    Raw(RawFd),
    /// What an earlier op of the plan, or a message, left in a slot.
    Slot(u8),
}

impl Fd {
    pub(super) fn encode(self) -> u64 {
        match self {
            // The sign is kept in the low half: AT_FDCWD is a raw number too.
            Self::Raw(fd) => u64::from(fd.cast_unsigned()),
            Self::Slot(slot) => SLOT | u64::from(slot),
        }
    }
}

/// The offset of a string or structure in the plan; 0 is "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct At(pub(super) u32);

/// What an op is for, in the words of an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) what: &'static str,
    /// The string that names the object, if one does.
    pub(super) object: At,
}

/// A list of operations for one child, under construction or finished. All of it is built in the parent.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The head, then strings and structures.
    data: Vec<u8>,
    ops: Vec<Op>,
    steps: Vec<Step>,
    /// How many slots were ever used; stops at [`NO_SLOT`].
    slots: u8,
    free: Vec<u8>,
}

impl Plan {
    /// An empty plan; `received` descriptors will come with it and lie in the slots from 0 on.
    pub(crate) fn new(received: u8) -> Self {
        let mut data = Vec::with_capacity(8 * 1024);
        data.resize(size_of::<Header>(), 0);
        Self {
            data,
            ops: Vec::with_capacity(128),
            steps: Vec::with_capacity(128),
            slots: received,
            free: Vec::new(),
        }
    }

    /// Number of ops so far.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    /// A slot that nothing uses. [`NO_SLOT`] where there is none: such a plan [`is_overfull`](Self::is_overfull).
    pub(crate) fn slot(&mut self) -> u8 {
        self.free.pop().unwrap_or_else(|| {
            let slot = self.slots;
            self.slots = self.slots.saturating_add(1);
            slot
        })
    }

    /// Gives back a slot whose descriptor is closed.
    pub(super) fn free_slot(&mut self, slot: u8) {
        self.free.push(slot);
    }

    /// Whether it would need more descriptors at a time than there are slots. It must not be run then.
    pub(super) fn is_overfull(&self) -> bool {
        self.slots == NO_SLOT
    }

    /// Stores a string, with its final NUL.
    pub(crate) fn text(&mut self, text: impl AsRef<[u8]>) -> At {
        let at = self.data.len();
        self.data.extend_from_slice(text.as_ref());
        self.data.push(0);
        At(at as u32)
    }

    /// Stores bytes, 8-byte aligned.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> At {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let at = self.data.len();
        self.data.extend_from_slice(bytes);
        At(at as u32)
    }

    /// Stores 64-bit words.
    pub(crate) fn words(&mut self, words: &[u64]) -> At {
        let at = self.bytes(&[]);
        for w in words {
            self.data.extend_from_slice(&w.to_ne_bytes());
        }
        at
    }

    /// Stores a list of strings as an array of offsets ended by 0.
    pub(crate) fn list<T: AsRef<[u8]>>(&mut self, items: impl IntoIterator<Item = T>) -> At {
        let mut words: Vec<u64> = items.into_iter().map(|s| u64::from(self.text(s).0)).collect();
        words.push(0);
        self.words(&words)
    }

    /// Adds an op.
    pub(super) fn push(&mut self, what: &'static str, object: At, code: u16, args: [u64; 5]) -> &mut Op {
        self.steps.push(Step { what, object });
        self.ops.push(Op { code, on_error: on_error::FAIL, out: NO_SLOT, reserved: 0, args });
        let last = self.ops.len() - 1;
        &mut self.ops[last]
    }

    pub(super) fn last_op(&mut self) -> Option<&mut Op> {
        self.ops.last_mut()
    }

    pub(super) fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// What op number `op` is for, and the object that it works on.
    pub(crate) fn step(&self, op: u32) -> Option<(&'static str, Option<String>)> {
        let step = self.steps.get(op as usize)?;
        let object = (step.object != At::default()).then(|| self.text_at(step.object));
        Some((step.what, object))
    }

    pub(super) fn text_at(&self, at: At) -> String {
        let bytes = self.data.get(at.0 as usize..).unwrap_or_default();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Nothing where they are not all inside.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn bytes_at(&self, at: At, len: usize) -> &[u8] {
        self.data.get(at.0 as usize..).and_then(|rest| rest.get(..len)).unwrap_or_default()
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn set_data(&mut self, data: &[u8]) {
        self.data = data.to_vec();
    }

    /// Whether it opens directories of the host by their paths, instead of getting them as descriptors.
    pub(crate) fn opens_host_paths(&self) -> bool {
        let pivot = self.ops.iter().position(|op| op.code == code::PIVOT_ROOT).unwrap_or(0);
        self.ops[..pivot].iter().any(|op| op.code == code::OPEN_TREE)
    }

    /// Whether the child clones another one, which goes on with the plan.
    pub(crate) fn makes_sibling(&self) -> bool {
        self.ops.iter().any(|op| op.code == code::CLONE_SIBLING)
    }

    /// Says which signals the host ignores: bit N-1 for signal N.
    pub(crate) fn set_ignored_signals(&mut self, ignored: u64) {
        for op in self.ops.iter_mut().filter(|op| op.code == code::RESET_SIGNALS) {
            op.args[0] = ignored;
        }
    }

    /// Makes op number `op` fail with `errno`, or with 0 end the child without a word.
    pub(crate) fn inject(&mut self, op: usize, errno: i32) {
        if let Some(o) = self.ops.get_mut(op) {
            let args = [u64::from(errno.unsigned_abs()), 0, 0, 0, 0];
            *o = Op { code: code::FAULT, on_error: on_error::FAIL, out: NO_SLOT, reserved: 0, args };
        }
    }

    /// Its ops and what each is for, to be changed together.
    #[cfg(feature = "attacks")]
    pub(super) fn parts_mut(&mut self) -> (&mut Vec<Op>, &mut Vec<Step>) {
        (&mut self.ops, &mut self.steps)
    }

    /// The plan as the interpreter reads it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let ops_at = self.data.len().next_multiple_of(8);
        let len = ops_at + self.ops.len() * size_of::<Op>() + 8;
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&self.data);
        out.resize(ops_at, 0);
        for op in &self.ops {
            out.extend_from_slice(&op.code.to_ne_bytes());
            out.extend_from_slice(&[op.on_error, op.out]);
            out.extend_from_slice(&op.reserved.to_ne_bytes());
            for a in op.args {
                out.extend_from_slice(&a.to_ne_bytes());
            }
        }
        // The interpreter wants a 0 as last byte, so that no string runs out of the plan.
        out.resize(len, 0);
        for (i, word) in [PLAN, self.ops.len() as u32, len as u32, ops_at as u32].into_iter().enumerate() {
            out[4 * i..4 * i + 4].copy_from_slice(&word.to_ne_bytes());
        }
        out
    }
}

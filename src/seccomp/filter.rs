//! Compiled filters, and the cache of them.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use super::asm::{AND, JA, JEQ, JGE, JGT, JSET, LD};
use super::policy::{Action, Policy, SyscallData};
use super::{compile, run};
use crate::error::Result;
use crate::sys::seccomp::BpfInstruction;

/// How many compiled policies [`Filter::cached`] keeps.
const CACHED: usize = 32;

/// A policy compiled to BPF: at most 4096 instructions, cheap to clone.
///
/// Its text form is a listing of the program, one instruction on a line.
#[derive(Clone)]
pub struct Filter {
    instructions: Arc<[BpfInstruction]>,
    bytes: Arc<[u8]>,
    notifies: bool,
}

impl Filter {
    /// Compiles `policy`. See [`Policy::compile`].
    pub(super) fn compile(policy: &Policy) -> Result<Self> {
        let instructions = compile::compile(policy)?;
        let mut bytes = Vec::with_capacity(instructions.len() * size_of::<BpfInstruction>());
        for i in &instructions {
            bytes.extend_from_slice(&i.code.to_ne_bytes());
            bytes.extend_from_slice(&[i.jt, i.jf]);
            bytes.extend_from_slice(&i.k.to_ne_bytes());
        }
        let notify = Action::Notify.to_raw();
        let notifies = instructions.iter().any(|i| i.code == super::asm::RET && i.k == notify);
        Ok(Self { instructions: instructions.into(), bytes: bytes.into(), notifies })
    }

    /// The filter of `policy`, from the process-wide cache of the last 32 policies where it is there.
    ///
    /// A hit costs one hash and one comparison of the policy, so a few microseconds for a list of 300 calls;
    /// two threads that miss at once both compile, outside of the lock.
    ///
    /// # Errors
    /// As [`Policy::compile`].
    pub fn cached(policy: &Policy) -> Result<Self> {
        static CACHE: Mutex<Cache> = Mutex::new(Cache::new());
        Cache::get_or_compile(&CACHE, policy)
    }

    /// The program as the kernel takes it: an array of `struct sock_filter`, 8 bytes each, in native byte order.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The program.
    #[cfg(test)]
    pub(crate) fn instructions(&self) -> &[BpfInstruction] {
        &self.instructions
    }

    /// How many instructions the program has; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Whether some call is handed to a notify descriptor, so that the filter must be installed with
    /// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
    pub fn needs_listener(&self) -> bool {
        self.notifies
    }

    /// What the kernel would do with `call` under this filter alone.
    pub fn decide(&self, call: &SyscallData) -> Action {
        match run::run(&self.instructions, call) {
            Some((value, _)) => Action::from_raw(value),
            // The compiler writes no such program; the kernel's word for the impossible is to kill.
            None => Action::KillProcess,
        }
    }

    /// How many instructions the kernel runs for `call`.
    pub fn steps(&self, call: &SyscallData) -> usize {
        run::run(&self.instructions, call).map_or(0, |(_, steps)| steps)
    }
}

impl Policy {
    /// Compiles to BPF. [`Filter::cached`] spares the work for a policy seen before.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): no architecture, an errno above 4095, an argument
    /// index above 5, or a program of more than 4096 instructions.
    pub fn compile(&self) -> Result<Filter> {
        Filter::compile(self)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Filter {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").field("len", &self.len()).field("needs_listener", &self.notifies).finish()
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, i) in self.instructions.iter().enumerate() {
            let next = at + 1;
            let (yes, no) = (next + usize::from(i.jt), next + usize::from(i.jf));
            let mut test = |name| writeln!(f, "{at:4}: if {name} {:#x} goto {yes} else {no}", i.k);
            match i.code {
                JEQ => test("=="),
                JGT => test(">"),
                JGE => test(">="),
                JSET => test("&"),
                LD => writeln!(f, "{at:4}: load {}", i.k),
                AND => writeln!(f, "{at:4}: and {:#x}", i.k),
                JA => writeln!(f, "{at:4}: goto {}", next + i.k as usize),
                _ => writeln!(f, "{at:4}: return {:?}", Action::from_raw(i.k)),
            }?;
        }
        Ok(())
    }
}

/// The last used filters, the oldest first.
struct Cache {
    entries: Vec<Entry>,
}

struct Entry {
    hash: u64,
    policy: Policy,
    filter: Filter,
}

impl Cache {
    const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    fn get_or_compile(cache: &Mutex<Self>, policy: &Policy) -> Result<Filter> {
        let mut hasher = DefaultHasher::new();
        policy.hash(&mut hasher);
        let hash = hasher.finish();

        // Nothing that can panic changes the cache half-way, so a poisoned one is whole.
        let lock = || cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = lock().find(hash, policy) {
            return Ok(filter);
        }
        let filter = policy.compile()?;
        lock().keep(Entry { hash, policy: policy.clone(), filter: filter.clone() });
        Ok(filter)
    }

    fn find(&mut self, hash: u64, policy: &Policy) -> Option<Filter> {
        let at = self.entries.iter().rposition(|e| e.hash == hash && e.policy == *policy)?;
        self.entries[at..].rotate_left(1);
        self.entries.last().map(|e| e.filter.clone())
    }

    fn keep(&mut self, entry: Entry) {
        if self.entries.len() == CACHED {
            self.entries.remove(0);
        }
        self.entries.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::Rule;

    fn policy(errno: u16) -> Policy {
        Policy::new(Action::Allow).rule(Rule::new(Action::Errno(errno), ["read"]).unwrap())
    }

    #[test]
    fn cache_gives_the_same_program_and_forgets_the_least_used() {
        let cache = Mutex::new(Cache::new());
        let first = Cache::get_or_compile(&cache, &policy(1)).unwrap();
        for errno in 2..=CACHED as u16 + 1 {
            let again = Cache::get_or_compile(&cache, &policy(1)).unwrap();
            assert!(Arc::ptr_eq(&first.instructions, &again.instructions), "lost at {errno}");
            Cache::get_or_compile(&cache, &policy(errno)).unwrap();
        }
        let kept = |errno| cache.lock().unwrap().entries.iter().any(|e| e.policy == policy(errno));
        assert_eq!(cache.lock().unwrap().entries.len(), CACHED);
        assert!(kept(1) && !kept(2) && kept(3));
    }

    #[test]
    fn bytes_are_the_instructions() {
        let filter = policy(1).compile().unwrap();
        assert_eq!(filter.as_bytes().len(), filter.len() * 8);
        let last = filter.instructions().last().unwrap();
        let tail = &filter.as_bytes()[filter.as_bytes().len() - 8..];
        assert_eq!(tail[..2], last.code.to_ne_bytes());
        assert_eq!(tail[4..], last.k.to_ne_bytes());
    }

    #[test]
    fn listing_of_a_small_program() {
        let filter = policy(1).arches([crate::seccomp::Arch::Aarch64]).compile().unwrap();
        assert_eq!(
            filter.to_string(),
            "   0: load 4\n   1: if == 0xc00000b7 goto 3 else 2\n   2: return KillProcess\n   \
             3: load 0\n   4: if == 0x3f goto 6 else 5\n   5: return Allow\n   6: return Errno(1)\n"
        );
        assert!(!filter.needs_listener());
        let notify = Policy::new(Action::Allow).rule(Rule::new(Action::Notify, ["mknod"]).unwrap());
        assert!(notify.compile().unwrap().needs_listener());
    }
}

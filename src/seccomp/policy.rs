//! What a filter shall do, before it is compiled.

use serde::{Deserialize, Serialize};

use super::arch::{Arch, X32_BIT};
use super::syscall::Syscall;
use super::tables;
use crate::error::{Error, Result};

/// The largest errno that the kernel passes on (`MAX_ERRNO`).
pub(super) const MAX_ERRNO: u16 = 4095;

/// What the kernel does with a call (`seccomp(2)`, "Filter return values").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// Runs the call.
    Allow,
    /// Does not run the call; the caller sees this errno, at most 4095. Zero looks like success.
    Errno(u16),
    /// Ends the whole process as by SIGSYS.
    KillProcess,
    /// Ends the calling thread as by SIGSYS. Rarely what is wanted: the other threads go on.
    KillThread,
    /// Runs the call and writes it to the audit log.
    Log,
    /// Does not run the call; SIGSYS is sent to the calling thread.
    Trap,
    /// Stops for a ptrace tracer with this message; ENOSYS where there is none.
    Trace(u16),
    /// Asks the holder of the notify descriptor (`seccomp_unotify(2)`); ENOSYS where nobody holds it.
    Notify,
}

impl Action {
    /// The value that a filter returns for it.
    pub(super) const fn to_raw(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Trace(message) => libc::SECCOMP_RET_TRACE | message as u32,
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
        }
    }

    /// What the kernel takes a filter's value for; unknown ones kill.
    pub(super) const fn from_raw(raw: u32) -> Self {
        let data = (raw & libc::SECCOMP_RET_DATA) as u16;
        match raw & libc::SECCOMP_RET_ACTION_FULL {
            libc::SECCOMP_RET_ALLOW => Self::Allow,
            libc::SECCOMP_RET_ERRNO => Self::Errno(data),
            libc::SECCOMP_RET_KILL_THREAD => Self::KillThread,
            libc::SECCOMP_RET_LOG => Self::Log,
            libc::SECCOMP_RET_TRAP => Self::Trap,
            libc::SECCOMP_RET_TRACE => Self::Trace(data),
            libc::SECCOMP_RET_USER_NOTIF => Self::Notify,
            _ => Self::KillProcess,
        }
    }
}

/// How an argument is compared. All comparisons are unsigned and over 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Compare {
    /// Equal to the value.
    Eq,
    /// Not equal to the value.
    Ne,
    /// Less than the value.
    Lt,
    /// Less than or equal to the value.
    Le,
    /// Greater than the value.
    Gt,
    /// Greater than or equal to the value.
    Ge,
    /// Equal to the value in the bits of this mask; the others of both sides do not count.
    MaskedEq(u64),
}

/// A condition on one argument.
///
/// The kernel hands a filter the whole 64-bit register, but many calls take an `int` and ignore its upper half.
/// For such an argument use [`ArgCompare::low32`]; a plain [`Compare::Eq`] of a deny rule (or `Ne` of an allow
/// rule) could be passed with a value whose upper half is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArgCompare {
    /// Which argument: 0 to 5.
    pub index: u8,
    /// How to compare.
    pub compare: Compare,
    /// What to compare with.
    pub value: u64,
}

impl ArgCompare {
    /// Argument `index` (0 to 5) compared with `value`.
    pub const fn new(index: u8, compare: Compare, value: u64) -> Self {
        Self { index, compare, value }
    }

    /// The lower 32 bits of argument `index` equal `value`: the right test for an `int` argument.
    pub const fn low32(index: u8, value: u32) -> Self {
        Self::new(index, Compare::MaskedEq(0xffff_ffff), value as u64)
    }

    /// All bits of `bits` are set in argument `index`.
    pub const fn has_bits(index: u8, bits: u64) -> Self {
        Self::new(index, Compare::MaskedEq(bits), bits)
    }

    fn matches(self, args: &[u64; 6]) -> bool {
        let Some(&arg) = args.get(usize::from(self.index)) else { return false };
        match self.compare {
            Compare::Eq => arg == self.value,
            Compare::Ne => arg != self.value,
            Compare::Lt => arg < self.value,
            Compare::Le => arg <= self.value,
            Compare::Gt => arg > self.value,
            Compare::Ge => arg >= self.value,
            Compare::MaskedEq(mask) => arg & mask == self.value & mask,
        }
    }
}

/// What to do with some calls, when all conditions on their arguments hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The calls. One that an architecture lacks is skipped on that architecture.
    pub syscalls: Vec<Syscall>,
    /// What to do with them.
    pub action: Action,
    /// Conditions that must all hold; empty means always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<ArgCompare>,
}

impl Rule {
    /// `action` for the calls `names`, whatever their arguments.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), naming the call, where one is not known at all.
    pub fn new<'a>(action: Action, names: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let syscalls = names.into_iter().map(Syscall::new).collect::<Result<_>>()?;
        Ok(Self { syscalls, action, args: Vec::new() })
    }

    /// The same, on one more condition.
    #[must_use]
    pub fn when(mut self, arg: ArgCompare) -> Self {
        self.args.push(arg);
        self
    }
}

/// The registers of a call as a filter sees them (`struct seccomp_data`, `seccomp(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyscallData {
    /// The number; for x32 with bit 30.
    pub nr: u32,
    /// The `AUDIT_ARCH_*` value.
    pub arch: u32,
    /// The instruction pointer. No policy looks at it.
    pub instruction_pointer: u64,
    /// The six arguments.
    pub args: [u64; 6],
}

/// A seccomp policy: rules for calls, and what to do with the rest.
///
/// **Order.** For each call the first rule that names it and whose conditions all hold decides. Where none does,
/// [`unknown`](Self::unknown) decides over numbers that the tables do not know, and
/// [`default_action`](Self::default_action) over all others.
///
/// **Architectures.** A call through an ABI that is not in [`arches`](Self::arches) gets
/// [`foreign_arch`](Self::foreign_arch). One case is fixed: on x86_64 a number with bit 30 is an x32 call. Where
/// x86_64 is listed and x32 is not, it gets ENOSYS, so rules for x86_64 can never be passed by setting that bit.
///
/// **OCI.** libseccomp, and so runc and crun, take several rules of one action for the same call as
/// alternatives, whatever their order: with "first match" they are alternatives, too. Where two rules of
/// different actions can match the same call, an OCI reader should put conditional ones first; libseccomp leaves
/// that case undefined. Several conditions on the *same* argument in one OCI rule are alternatives for runc:
/// write one rule for each.
///
/// ```
/// use stockade::seccomp::{Action, ArgCompare, Arch, Filter, Policy, Rule, SyscallData};
///
/// let policy = Policy::new(Action::Allow)
///     .rule(Rule::new(Action::Errno(1), ["umount2"])?.when(ArgCompare::has_bits(1, 1)))
///     .rule(Rule::new(Action::Errno(38), ["kexec_load", "init_module"])?);
/// let filter = Filter::cached(&policy)?;
///
/// let nr = "umount2".parse::<stockade::seccomp::Syscall>()?.number(Arch::native_family()[0]).unwrap();
/// let mut call = SyscallData { nr, arch: Arch::native_family()[0].audit_arch(), ..Default::default() };
/// assert_eq!(filter.decide(&call), Action::Allow);
/// call.args[1] = 1;
/// assert_eq!(filter.decide(&call), Action::Errno(1));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Policy {
    /// What happens to calls that no rule decides.
    pub default_action: Action,
    /// The ABIs that the rules are for, the most used first: its checks cost least.
    #[serde(default = "native_arches")]
    pub arches: Vec<Arch>,
    /// What happens to calls of other ABIs.
    #[serde(default = "kill_process")]
    pub foreign_arch: Action,
    /// What happens to numbers that the tables do not name, so to calls that newer kernels may have; `None`
    /// leaves them to [`default_action`](Self::default_action). `Errno(38)` (ENOSYS) in an allow list makes
    /// programs fall back to older calls, where EPERM would make them fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Action>,
    /// The rules, in order.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

fn native_arches() -> Vec<Arch> {
    Arch::native_family().to_vec()
}

fn kill_process() -> Action {
    Action::KillProcess
}

impl Policy {
    /// No rules, for the ABIs of this machine; others are killed.
    pub fn new(default_action: Action) -> Self {
        Self {
            default_action,
            arches: native_arches(),
            foreign_arch: kill_process(),
            unknown: None,
            rules: Vec::new(),
        }
    }

    /// The same with `rule` as the last one.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// The same for these ABIs, the most used first.
    #[must_use]
    pub fn arches(mut self, arches: impl IntoIterator<Item = Arch>) -> Self {
        self.arches = arches.into_iter().collect();
        self
    }

    /// The same with `action` for calls of ABIs that are not listed.
    #[must_use]
    pub fn foreign_arch(mut self, action: Action) -> Self {
        self.foreign_arch = action;
        self
    }

    /// The same with `action` for numbers that the tables do not name.
    #[must_use]
    pub fn unknown(mut self, action: Action) -> Self {
        self.unknown = Some(action);
        self
    }

    /// What this policy says about a call: the meaning that the compiled filter must have.
    pub fn decide(&self, call: &SyscallData) -> Action {
        let arch = match self.abi_of(call) {
            Abi::Listed(arch) => arch,
            Abi::UnlistedX32 => return Action::Errno(libc::ENOSYS as u16),
            Abi::Foreign => return self.foreign_arch,
        };
        let named = |rule: &&Rule| rule.syscalls.iter().any(|s| s.number(arch) == Some(call.nr));
        if let Some(rule) =
            self.rules.iter().filter(named).find(|rule| rule.args.iter().all(|a| a.matches(&call.args)))
        {
            return rule.action;
        }
        match self.unknown {
            Some(action) if tables::name_of(call.nr, arch).is_none() => action,
            _ => self.default_action,
        }
    }

    fn abi_of(&self, call: &SyscallData) -> Abi {
        let is_x32 = |arch: Arch| arch == Arch::X32;
        let wants_x32 = call.nr >= X32_BIT;
        let mut same = self.arches.iter().copied().filter(|a| a.audit_arch() == call.arch);
        if call.arch != Arch::X32.audit_arch() {
            return same.next().map_or(Abi::Foreign, Abi::Listed);
        }
        match same.clone().find(|a| is_x32(*a) == wants_x32) {
            Some(arch) => Abi::Listed(arch),
            None if wants_x32 && same.next().is_some() => Abi::UnlistedX32,
            None => Abi::Foreign,
        }
    }

    /// Refuses what the kernel would take to mean something else.
    pub(super) fn validate(&self) -> Result<()> {
        const WHAT: &str = "seccomp policy";
        if self.arches.is_empty() {
            return Err(Error::invalid(WHAT, "lists no architecture")
                .hint("this machine's architecture may have no system call table"));
        }
        let actions = [self.default_action, self.foreign_arch].into_iter().chain(self.unknown);
        for action in actions.chain(self.rules.iter().map(|r| r.action)) {
            if let Action::Errno(errno) = action
                && errno > MAX_ERRNO
            {
                return Err(Error::invalid(WHAT, "errno is above 4095").object(errno.to_string()));
            }
        }
        for arg in self.rules.iter().flat_map(|r| &r.args) {
            if arg.index > 5 {
                return Err(Error::invalid(WHAT, "argument index is above 5").object(arg.index.to_string()));
            }
        }
        Ok(())
    }
}

enum Abi {
    Listed(Arch),
    UnlistedX32,
    Foreign,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_survive_the_kernels_encoding() {
        for action in [
            Action::Allow,
            Action::Errno(1),
            Action::Errno(MAX_ERRNO),
            Action::KillProcess,
            Action::KillThread,
            Action::Log,
            Action::Trap,
            Action::Trace(0xffff),
            Action::Notify,
        ] {
            assert_eq!(Action::from_raw(action.to_raw()), action);
        }
    }

    #[test]
    fn policy_reads_from_json_with_safe_defaults() {
        let policy: Policy = serde_json::from_str(
            r#"{"default_action": "allow", "rules": [
                {"syscalls": ["umount2"], "action": {"errno": 13},
                 "args": [{"index": 1, "compare": {"masked_eq": 1}, "value": 1}]}]}"#,
        )
        .unwrap();
        let expected = Policy::new(Action::Allow)
            .rule(Rule::new(Action::Errno(13), ["umount2"]).unwrap().when(ArgCompare::has_bits(1, 1)));
        assert_eq!(policy, expected);
        assert_eq!(policy.foreign_arch, Action::KillProcess);
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
    }

    #[test]
    fn bad_values_are_refused() {
        let rule = Rule::new(Action::Allow, ["read"]).unwrap();
        for (policy, word) in [
            (Policy::new(Action::Errno(5000)), "5000"),
            (Policy::new(Action::Allow).arches([]), "no architecture"),
            (
                Policy::new(Action::Allow).rule(rule.when(ArgCompare::new(6, Compare::Eq, 0))),
                "argument index",
            ),
        ] {
            let err = policy.validate().unwrap_err();
            assert_eq!(err.kind(), crate::ErrorKind::InvalidConfig);
            assert!(err.to_string().contains(word), "{err}");
        }
    }
}

//! Capabilities (`capabilities(7)`): names, sets, and the sets that a process starts with.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

mod securebits;
mod sets;

pub use securebits::Securebits;
pub use sets::CapabilitySets;

macro_rules! capabilities {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// One capability.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Capability {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Capability {
            /// Every capability of Linux 5.9 and newer, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kernel's name, such as `CAP_SYS_ADMIN`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("CAP_", $name),)*
                }
            }
        }
    };
}

capabilities! {
    /// Change owners of files.
    Chown = 0, "CHOWN";
    /// Pass by file permission checks.
    DacOverride = 1, "DAC_OVERRIDE";
    /// Pass by read checks on files and search checks on directories.
    DacReadSearch = 2, "DAC_READ_SEARCH";
    /// Do what else only the owner of a file may.
    Fowner = 3, "FOWNER";
    /// Keep set-id bits when a file changes.
    Fsetid = 4, "FSETID";
    /// Send signals to any process.
    Kill = 5, "KILL";
    /// Change group ids.
    Setgid = 6, "SETGID";
    /// Change user ids.
    Setuid = 7, "SETUID";
    /// Change the own bounding and inheritable sets and secure bits.
    Setpcap = 8, "SETPCAP";
    /// Change the immutable and append-only flags of files.
    LinuxImmutable = 9, "LINUX_IMMUTABLE";
    /// Bind ports below 1024.
    NetBindService = 10, "NET_BIND_SERVICE";
    /// Not used by the kernel.
    NetBroadcast = 11, "NET_BROADCAST";
    /// Configure networks.
    NetAdmin = 12, "NET_ADMIN";
    /// Use raw and packet sockets.
    NetRaw = 13, "NET_RAW";
    /// Lock memory.
    IpcLock = 14, "IPC_LOCK";
    /// Pass by permission checks on System V IPC objects.
    IpcOwner = 15, "IPC_OWNER";
    /// Load and remove kernel modules.
    SysModule = 16, "SYS_MODULE";
    /// Access I/O ports and the like.
    SysRawio = 17, "SYS_RAWIO";
    /// Use `chroot(2)`.
    SysChroot = 18, "SYS_CHROOT";
    /// Trace any process.
    SysPtrace = 19, "SYS_PTRACE";
    /// Use process accounting.
    SysPacct = 20, "SYS_PACCT";
    /// Mount, set up namespaces, and many other things.
    SysAdmin = 21, "SYS_ADMIN";
    /// Reboot.
    SysBoot = 22, "SYS_BOOT";
    /// Raise priorities and bind processes to CPUs.
    SysNice = 23, "SYS_NICE";
    /// Pass by resource limits.
    SysResource = 24, "SYS_RESOURCE";
    /// Set the clock.
    SysTime = 25, "SYS_TIME";
    /// Configure terminals.
    SysTtyConfig = 26, "SYS_TTY_CONFIG";
    /// Make device nodes.
    Mknod = 27, "MKNOD";
    /// Take leases on any file.
    Lease = 28, "LEASE";
    /// Write to the audit log.
    AuditWrite = 29, "AUDIT_WRITE";
    /// Configure auditing.
    AuditControl = 30, "AUDIT_CONTROL";
    /// Set capabilities of files.
    Setfcap = 31, "SETFCAP";
    /// Pass by mandatory access control.
    MacOverride = 32, "MAC_OVERRIDE";
    /// Configure mandatory access control.
    MacAdmin = 33, "MAC_ADMIN";
    /// Use privileged operations of the kernel's log.
    Syslog = 34, "SYSLOG";
    /// Set timers that wake the system up.
    WakeAlarm = 35, "WAKE_ALARM";
    /// Keep the system from suspending.
    BlockSuspend = 36, "BLOCK_SUSPEND";
    /// Read the audit log.
    AuditRead = 37, "AUDIT_READ";
    /// Use privileged performance monitoring (Linux 5.8).
    Perfmon = 38, "PERFMON";
    /// Use privileged eBPF operations (Linux 5.8).
    Bpf = 39, "BPF";
    /// Checkpoint and restore (Linux 5.9).
    CheckpointRestore = 40, "CHECKPOINT_RESTORE";
}

impl Capability {
    /// The kernel's number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The capability with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Capability {
    type Err = Error;

    /// Takes `CAP_SYS_ADMIN`, `sys_admin` and any mixture of case.
    fn from_str(s: &str) -> Result<Self> {
        let short = match s.get(..4) {
            Some(prefix) if prefix.eq_ignore_ascii_case("CAP_") => &s[4..],
            _ => s,
        };
        let full = format!("CAP_{}", short.to_ascii_uppercase());
        let known = full.parse::<::caps::Capability>().ok().and_then(|c| Self::from_number(c.index()));
        known.ok_or_else(|| {
            Error::invalid("capability", "is not known").object(s.chars().take(80).collect::<String>())
        })
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A set of capabilities: one `u64`, bit N for capability N, as the kernel has it.
///
/// ```
/// use stockade::caps::{CapSet, Capability};
///
/// let set = CapSet::of(&[Capability::Chown, Capability::Kill]);
/// assert!(set.contains(Capability::Kill));
/// assert_eq!(set.bits(), 0b10_0001);
/// assert_eq!(CapSet::from_names(["kill", "CAP_CHOWN"])?, set);
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CapSet(u64);

impl CapSet {
    /// No capability.
    pub const EMPTY: Self = Self(0);
    /// Every capability that this library knows.
    pub const ALL: Self = Self::of(Capability::ALL);

    /// The set of these.
    pub const fn of(caps: &[Capability]) -> Self {
        let mut set = Self::EMPTY;
        let mut i = 0;
        while i < caps.len() {
            set = set.insert(caps[i]);
            i += 1;
        }
        set
    }

    /// The set of this mask, without bits that no known capability has.
    pub const fn from_bits_truncate(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The set with these names, each with or without `CAP_`, in any case; `ALL` stands for all.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), naming the first name that is not known.
    pub fn from_names<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self> {
        names.into_iter().try_fold(Self::EMPTY, |set, name| {
            let name = name.as_ref();
            if name.eq_ignore_ascii_case("ALL") { Ok(Self::ALL) } else { Ok(set.insert(name.parse()?)) }
        })
    }

    /// The permitted set of the calling thread (`capget(2)`): what a child can at most be given without a user
    /// namespace of its own.
    ///
    /// # Errors
    /// Whatever `capget` gives.
    pub fn of_current_thread_permitted() -> Result<Self> {
        rustix::thread::capabilities(None)
            .map(|sets| Self::from_bits_truncate(sets.permitted.bits()))
            .map_err(|e| Error::sys("read capabilities", e))
    }

    /// The mask.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `cap` is in it.
    pub const fn contains(self, cap: Capability) -> bool {
        self.0 & (1 << cap.number()) != 0
    }

    /// The set with `cap`.
    #[must_use]
    pub const fn insert(self, cap: Capability) -> Self {
        Self(self.0 | 1 << cap.number())
    }

    /// The set without `cap`.
    #[must_use]
    pub const fn remove(self, cap: Capability) -> Self {
        Self(self.0 & !(1 << cap.number()))
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this one only.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of it is in `other`.
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Each of them, by number.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.iter().copied().filter(move |c| self.contains(*c))
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.iter().enumerate() {
            write!(f, "{}{c}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl FromIterator<Capability> for CapSet {
    fn from_iter<I: IntoIterator<Item = Capability>>(caps: I) -> Self {
        caps.into_iter().fold(Self::EMPTY, Self::insert)
    }
}

impl Serialize for CapSet {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for CapSet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        Self::from_names(Vec::<String>::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_the_caps_crate() {
        let theirs = ::caps::all();
        assert_eq!(theirs.len(), Capability::ALL.len());
        for cap in theirs {
            let ours: Capability = cap.to_string().parse().unwrap();
            assert_eq!(ours.name(), cap.to_string());
            assert_eq!(ours.number(), cap.index());
        }
    }

    #[test]
    fn numbers_are_positions() {
        for (i, cap) in Capability::ALL.iter().enumerate() {
            assert_eq!(usize::from(cap.number()), i);
            assert_eq!(Capability::from_number(cap.number()), Some(*cap));
        }
        assert_eq!(Capability::from_number(41), None);
        assert_eq!(CapSet::ALL.bits(), (1 << 41) - 1);
    }

    #[test]
    fn names_parse_in_any_case() {
        for text in ["CAP_SYS_ADMIN", "sys_admin", "Cap_Sys_Admin", "SYS_ADMIN"] {
            assert_eq!(text.parse::<Capability>().unwrap(), Capability::SysAdmin);
        }
        for bad in ["", "CAP_", "SYS", "sys-admin", "cäp_kill", "ééé"] {
            assert!(bad.parse::<Capability>().is_err(), "{bad}");
        }
    }

    #[test]
    fn set_operations() {
        let a = CapSet::of(&[Capability::Chown, Capability::Kill]);
        let b = CapSet::of(&[Capability::Kill, Capability::Bpf]);
        assert_eq!(a.union(b).len(), 3);
        assert_eq!(a.intersection(b), CapSet::of(&[Capability::Kill]));
        assert_eq!(a.difference(b), CapSet::of(&[Capability::Chown]));
        assert!(a.intersection(b).is_subset(a) && !a.is_subset(b));
        assert_eq!(a.iter().collect::<CapSet>(), a);
        assert_eq!(a.remove(Capability::Chown).remove(Capability::Kill), CapSet::EMPTY);
        assert_eq!(CapSet::from_bits_truncate(u64::MAX), CapSet::ALL);
        assert_eq!(CapSet::from_names(["all"]).unwrap(), CapSet::ALL);
        assert_eq!(a.to_string(), "CAP_CHOWN, CAP_KILL");
    }

    #[test]
    fn sets_are_lists_of_names_in_json() {
        let set = CapSet::of(&[Capability::Kill, Capability::Chown]);
        let json = serde_json::to_string(&set).unwrap();
        assert_eq!(json, r#"["CAP_CHOWN","CAP_KILL"]"#);
        assert_eq!(serde_json::from_str::<CapSet>(&json).unwrap(), set);
        assert!(serde_json::from_str::<CapSet>(r#"["CAP_NONE"]"#).is_err());
        assert_eq!(serde_json::from_str::<Capability>(r#""cap_kill""#).unwrap(), Capability::Kill);
    }

    #[test]
    fn own_permitted_set_is_what_proc_says() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let hex = status.lines().find_map(|l| l.strip_prefix("CapPrm:\t")).unwrap();
        let mask = u64::from_str_radix(hex, 16).unwrap();
        assert_eq!(CapSet::of_current_thread_permitted().unwrap(), CapSet::from_bits_truncate(mask));
    }
}

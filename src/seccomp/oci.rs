//! The names that OCI configurations use for actions, comparisons, architectures and flags
//! (`config-linux.md`, "Seccomp").

use super::arch::Arch;
use super::policy::{Action, ArgCompare, Compare};
use crate::error::{Error, Result};

/// The action called `name`, such as `SCMP_ACT_ERRNO`, with the errno or trace message `value`.
///
/// Without a value `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE` take EPERM, as the specification says.
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): an unknown name, or a value above 4095 for an errno or
/// above 65535 for a trace message.
pub fn action(name: &str, value: Option<u32>) -> Result<Action> {
    let data = || {
        let value = value.unwrap_or(libc::EPERM as u32);
        u16::try_from(value).map_err(|_| too_large(value))
    };
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => match data()? {
            errno if errno <= super::policy::MAX_ERRNO => Action::Errno(errno),
            errno => return Err(too_large(errno.into())),
        },
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(data()?),
        "SCMP_ACT_NOTIFY" => Action::Notify,
        _ => return Err(unknown("action", name)),
    })
}

fn too_large(value: u32) -> Error {
    Error::invalid("seccomp errnoRet", "is too large").object(value.to_string())
}

/// The comparison called `op`, such as `SCMP_CMP_MASKED_EQ`, of argument `index`.
///
/// For the masked one `value` is the mask and `value_two` is what the masked argument must be, as in OCI.
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): an unknown name, or an index above 5.
pub fn arg(index: u32, op: &str, value: u64, value_two: u64) -> Result<ArgCompare> {
    let index = u8::try_from(index)
        .ok()
        .filter(|i| *i <= 5)
        .ok_or_else(|| Error::invalid("seccomp argument index", "is above 5").object(index.to_string()))?;
    let compare = match op {
        "SCMP_CMP_EQ" => Compare::Eq,
        "SCMP_CMP_NE" => Compare::Ne,
        "SCMP_CMP_LT" => Compare::Lt,
        "SCMP_CMP_LE" => Compare::Le,
        "SCMP_CMP_GT" => Compare::Gt,
        "SCMP_CMP_GE" => Compare::Ge,
        "SCMP_CMP_MASKED_EQ" => return Ok(ArgCompare::new(index, Compare::MaskedEq(value), value_two)),
        _ => return Err(unknown("operator", op)),
    };
    Ok(ArgCompare::new(index, compare, value))
}

/// The architecture called `name`, such as `SCMP_ARCH_X86_64`.
///
/// `None` for one that OCI knows and this library has no table of: its calls fall to the policy's
/// [`foreign_arch`](super::Policy::foreign_arch).
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a name that OCI does not know either.
pub fn arch(name: &str) -> Result<Option<Arch>> {
    const WITHOUT_TABLE: [&str; 16] = [
        "LOONGARCH64",
        "M68K",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PARISC",
        "PARISC64",
        "PPC",
        "PPC64",
        "PPC64LE",
        "RISCV64",
        "S390",
        "S390X",
    ];
    Ok(match name.strip_prefix("SCMP_ARCH_") {
        Some("X86_64") => Some(Arch::X86_64),
        Some("X86") => Some(Arch::X86),
        Some("X32") => Some(Arch::X32),
        Some("AARCH64") => Some(Arch::Aarch64),
        Some("ARM") => Some(Arch::Arm),
        Some("NATIVE") => Arch::native_family().first().copied(),
        Some(other) if WITHOUT_TABLE.contains(&other) || ["SH", "SHEB"].contains(&other) => None,
        _ => return Err(unknown("architecture", name)),
    })
}

/// The bit of the flag called `name`, such as `SECCOMP_FILTER_FLAG_LOG`, for the flags of `seccomp(2)`.
///
/// # Errors
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for an unknown name.
pub fn flag(name: &str) -> Result<u64> {
    Ok(match name {
        "SECCOMP_FILTER_FLAG_TSYNC" => libc::SECCOMP_FILTER_FLAG_TSYNC,
        "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        _ => return Err(unknown("flag", name)),
    })
}

fn unknown(what: &str, name: &str) -> Error {
    Error::invalid(format!("seccomp {what}"), "is not known")
        .object(name.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions() {
        assert_eq!(action("SCMP_ACT_ERRNO", None).unwrap(), Action::Errno(1));
        assert_eq!(action("SCMP_ACT_ERRNO", Some(38)).unwrap(), Action::Errno(38));
        assert_eq!(action("SCMP_ACT_KILL", None).unwrap(), Action::KillThread);
        assert_eq!(action("SCMP_ACT_NOTIFY", Some(7)).unwrap(), Action::Notify);
        assert!(action("SCMP_ACT_ERRNO", Some(4096)).is_err());
        assert!(action("SCMP_ACT_TRACE", Some(65536)).is_err());
        assert!(action("ALLOW", None).unwrap_err().to_string().contains("`ALLOW`"));
    }

    #[test]
    fn the_masked_comparison_has_the_mask_first() {
        let a = arg(0, "SCMP_CMP_MASKED_EQ", 0x7E02_0000, 0).unwrap();
        assert_eq!(a, ArgCompare::new(0, Compare::MaskedEq(0x7E02_0000), 0));
        assert_eq!(arg(5, "SCMP_CMP_GE", 9, 0).unwrap(), ArgCompare::new(5, Compare::Ge, 9));
        assert!(arg(6, "SCMP_CMP_EQ", 0, 0).is_err());
        assert!(arg(0, "==", 0, 0).is_err());
    }

    #[test]
    fn architectures_with_without_and_beyond_the_tables() {
        assert_eq!(arch("SCMP_ARCH_X32").unwrap(), Some(Arch::X32));
        assert_eq!(arch("SCMP_ARCH_S390X").unwrap(), None);
        assert!(arch("SCMP_ARCH_VAX").is_err());
        assert!(arch("X86_64").is_err());
    }

    #[test]
    fn flags() {
        assert_eq!(flag("SECCOMP_FILTER_FLAG_LOG").unwrap(), 2);
        assert!(flag("LOG").is_err());
    }
}

//! The architectures that a filter can tell apart.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `__X32_SYSCALL_BIT`: numbers with it are x32 calls, though the architecture value is x86_64's.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A system call ABI: one numbering of the calls.
///
/// A kernel for x86_64 offers up to three of them to every program, so a filter has one block for each.
/// Written as OCI and the kernel's tools do, in lower case: `x86_64`, `x86`, `x32`, `aarch64`, `arm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 32-bit x86 (i386), also inside a 64-bit kernel through `int 0x80`.
    X86,
    /// 32-bit pointers in 64-bit mode; same architecture value as x86_64, numbers have bit 30.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM (EABI), also inside a 64-bit kernel.
    Arm,
}

impl Arch {
    /// Every architecture that has a table of numbers.
    pub const ALL: [Self; 5] = [Self::X86_64, Self::X86, Self::X32, Self::Aarch64, Self::Arm];

    /// The architecture of this program first, then those that the same kernel may also offer.
    ///
    /// Empty on an architecture without a table of numbers.
    ///
    /// ```
    /// use stockade::seccomp::Arch;
    ///
    /// # if cfg!(target_arch = "x86_64") {
    /// assert_eq!(Arch::native_family(), [Arch::X86_64, Arch::X86, Arch::X32]);
    /// # }
    /// ```
    pub const fn native_family() -> &'static [Self] {
        if cfg!(target_arch = "x86_64") {
            &[Self::X86_64, Self::X86, Self::X32]
        } else if cfg!(target_arch = "aarch64") {
            &[Self::Aarch64, Self::Arm]
        } else if cfg!(target_arch = "x86") {
            &[Self::X86]
        } else if cfg!(target_arch = "arm") {
            &[Self::Arm]
        } else {
            &[]
        }
    }

    /// The `AUDIT_ARCH_*` value that the kernel puts into `seccomp_data.arch`. x86_64 and x32 share one.
    pub const fn audit_arch(self) -> u32 {
        const BITS_64: u32 = 0x8000_0000;
        const LITTLE_ENDIAN: u32 = 0x4000_0000;
        match self {
            Self::X86_64 | Self::X32 => libc::EM_X86_64 as u32 | BITS_64 | LITTLE_ENDIAN,
            Self::X86 => libc::EM_386 as u32 | LITTLE_ENDIAN,
            Self::Aarch64 => libc::EM_AARCH64 as u32 | BITS_64 | LITTLE_ENDIAN,
            Self::Arm => libc::EM_ARM as u32 | LITTLE_ENDIAN,
        }
    }

    /// The ABI of a call with this `AUDIT_ARCH_*` value and number; `None` for one without a table.
    pub(crate) fn of_call(audit_arch: u32, number: u32) -> Option<Self> {
        let is_x32 = audit_arch == Self::X32.audit_arch() && number & X32_BIT != 0;
        let fits = |arch: &Self| arch.audit_arch() == audit_arch && (*arch == Self::X32) == is_x32;
        Self::ALL.into_iter().find(fits)
    }

    /// The name in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::X86 => "x86",
            Self::X32 => "x32",
            Self::Aarch64 => "aarch64",
            Self::Arm => "arm",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_values_are_the_kernels() {
        // linux/audit.h
        assert_eq!(Arch::X86_64.audit_arch(), 0xC000_003E);
        assert_eq!(Arch::X32.audit_arch(), 0xC000_003E);
        assert_eq!(Arch::X86.audit_arch(), 0x4000_0003);
        assert_eq!(Arch::Aarch64.audit_arch(), 0xC000_00B7);
        assert_eq!(Arch::Arm.audit_arch(), 0x4000_0028);
    }

    #[test]
    fn serde_spelling_is_as_str() {
        for arch in Arch::ALL {
            assert_eq!(serde_json::to_string(&arch).unwrap(), format!("\"{arch}\""));
        }
    }
}

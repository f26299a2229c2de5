//! System call numbers by name and architecture.

use super::arch::{Arch, X32_BIT};

mod generated;

/// The call does not exist on that architecture.
const NO: u32 = u32::MAX;

/// Where `name` stands in the table.
pub(super) fn index_of(name: &str) -> Option<usize> {
    generated::TABLE.binary_search_by(|(n, _)| (*n).cmp(name)).ok()
}

/// The name at `index`.
pub(super) fn name_at(index: usize) -> Option<&'static str> {
    generated::TABLE.get(index).map(|(name, _)| *name)
}

/// The number on `arch` of the call at `index`.
pub(super) fn number_at(index: usize, arch: Arch) -> Option<u32> {
    let (_, numbers) = generated::TABLE.get(index)?;
    Some(numbers[column(arch)]).filter(|n| *n != NO)
}

/// The table's calls of `arch` as `(name, number)`, sorted by name.
pub(super) fn calls(arch: Arch) -> impl Iterator<Item = (&'static str, u32)> {
    let column = column(arch);
    generated::TABLE.iter().map(move |(name, n)| (*name, n[column])).filter(|(_, n)| *n != NO)
}

/// The name of `number` on `arch`; the first by alphabet where the kernel has two.
pub(super) fn name_of(number: u32, arch: Arch) -> Option<&'static str> {
    calls(arch).find(|(_, n)| *n == number).map(|(name, _)| name)
}

/// What a number that is the same on every architecture is on `arch`.
pub(super) fn unified(number: u32, arch: Arch) -> u32 {
    if arch == Arch::X32 { number | X32_BIT } else { number }
}

fn column(arch: Arch) -> usize {
    match arch {
        Arch::X86_64 => 0,
        Arch::X86 => 1,
        Arch::X32 => 2,
        Arch::Aarch64 => 3,
        Arch::Arm => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_so_that_search_works() {
        assert!(generated::TABLE.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn numbers_agree_with_libc_for_this_machine() {
        #[cfg(target_arch = "x86_64")]
        let arch = Arch::X86_64;
        #[cfg(target_arch = "aarch64")]
        let arch = Arch::Aarch64;
        for (name, number) in [
            ("read", libc::SYS_read),
            ("openat2", libc::SYS_openat2),
            ("clone3", libc::SYS_clone3),
            ("kexec_load", libc::SYS_kexec_load),
            ("umount2", libc::SYS_umount2),
            ("mseal", libc::SYS_mseal),
        ] {
            let index = index_of(name).unwrap();
            assert_eq!(number_at(index, arch).map(i64::from), Some(number), "{name}");
        }
    }

    #[test]
    fn only_known_aliases_share_a_number() {
        for arch in Arch::ALL {
            let mut all: Vec<_> = calls(arch).map(|(name, n)| (n, name)).collect();
            all.sort_unstable();
            for pair in all.windows(2).filter(|p| p[0].0 == p[1].0) {
                assert_eq!(pair[0].1, "arm_sync_file_range", "{arch}: {pair:?}");
            }
        }
    }

    #[test]
    fn x32_numbers_carry_the_bit_and_others_do_not() {
        for arch in Arch::ALL {
            for (name, n) in calls(arch) {
                assert_eq!(n & X32_BIT != 0, arch == Arch::X32, "{arch} {name}");
            }
        }
    }

    /// The kernel headers of the build machine, where they are installed.
    #[test]
    fn numbers_agree_with_kernel_headers() {
        for (arch, file) in
            [(Arch::X86_64, "unistd_64.h"), (Arch::X86, "unistd_32.h"), (Arch::X32, "unistd_x32.h")]
        {
            let path = format!("/usr/include/x86_64-linux-gnu/asm/{file}");
            let Ok(text) = std::fs::read_to_string(&path) else {
                support::skip(format!("no {path}"));
                continue;
            };
            let mut seen = 0;
            for line in text.lines() {
                let Some(rest) = line.strip_prefix("#define __NR_") else { continue };
                let mut words = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let name = words.next().unwrap();
                let Some(number) = rest
                    .split(|c: char| !c.is_ascii_digit())
                    .filter_map(|w| w.parse::<u32>().ok())
                    .next_back()
                else {
                    continue;
                };
                let number = unified(number, arch);
                assert_eq!(index_of(name).and_then(|i| number_at(i, arch)), Some(number), "{arch} {name}");
                seen += 1;
            }
            assert!(seen > 300, "{path}: only {seen} calls read");
        }
    }
}

//! Kernels that are well, and all that are not.

use proptest::prelude::*;

use super::*;

/// An ELF file with one segment at 16 MiB and a PVH note.
fn elf() -> Vec<u8> {
    let mut f = vec![0_u8; 0x400];
    f[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let mut put = |at: usize, bytes: &[u8]| f[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(24, &0x100_0010_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    for (at, kind, offset, address, len, memory) in
        [(64, 1_u32, 0x200_u64, 0x100_0000_u64, 0x200_u64, 0x10_0000_u64), (120, 4, 0x100, 0, 20, 20)]
    {
        put(at, &kind.to_le_bytes());
        for (n, field) in [(8, offset), (24, address), (32, len), (40, memory)] {
            put(at + n, &field.to_le_bytes());
        }
    }
    put(0x100, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(0x10c, b"Xen\0");
    put(0x110, &0x100_0020_u32.to_le_bytes());
    f
}

fn bzimage() -> Vec<u8> {
    let mut f = vec![0_u8; 2048];
    let mut put = |at: usize, bytes: &[u8]| f[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &64_u32.to_le_bytes());
    put(0x1fe, &0xaa55_u16.to_le_bytes());
    put(0x201, &[0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &1_u16.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x20_0000_u32.to_le_bytes());
    f
}

fn parsed(bytes: &[u8]) -> Result<Kernel, Problem> {
    parse(&bytes)
}

#[test]
fn an_elf_kernel_has_both_entries() {
    let kernel = parsed(&elf()).unwrap();
    assert_eq!(kernel.entry(BootProtocol::Auto), Ok(Entry::Linux64(0x100_0010)));
    assert_eq!(kernel.entry(BootProtocol::Pvh), Ok(Entry::Pvh(0x100_0020)));
    assert_eq!(kernel.end(), 0x110_0000);
    assert!(check_fit(&kernel, 32 << 20).is_ok());
    let small = check_fit(&kernel, 16 << 20).unwrap_err();
    assert!(small.what.contains("up to 17 MiB") && small.hint.contains("more memory"), "{small:?}");
}

#[test]
fn a_bzimage_keeps_its_header() {
    let kernel = parsed(&bzimage()).unwrap();
    assert_eq!(kernel.entry(BootProtocol::Auto), Ok(Entry::Linux64(0x100_0200)));
    assert!(kernel.entry(BootProtocol::Pvh).is_err());
    assert_eq!(kernel.segments[0].memory_len, 0x20_0000);
    assert_eq!(kernel.setup_header.unwrap().len(), 0x268 - 0x1f1);
}

#[test]
fn an_initramfs_goes_to_the_end_or_says_what_it_needs() {
    let kernel = parsed(&elf()).unwrap();
    let placed = place_initramfs(&kernel, 32 << 20, 5000).unwrap();
    assert_eq!(placed, Placed { start: (32 << 20) - 8192, len: 5000 });
    let high = place_initramfs(&kernel, 8 << 30, 5000).unwrap();
    assert!(high.start + high.len <= HOLE_START);
    let large = place_initramfs(&kernel, 32 << 20, 20 << 20).unwrap_err();
    assert!(large.what.contains("at least 38 MiB"), "{large:?}");
    assert!(place_initramfs(&kernel, 32 << 20, u64::MAX).is_err());
}

#[test]
fn what_is_no_kernel_is_named() {
    let mut other = elf();
    other[18] = 183;
    let mut object = elf();
    object[16] = 1;
    let mut old = bzimage();
    old[0x206] = 1;
    let mut narrow = bzimage();
    narrow[0x236] = 0;
    let mut arm = vec![0; 1024];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let cases: [(&[u8], &str); 10] = [
        (b"", "empty"),
        (b"hello", "5 bytes"),
        (&[0; 4096], "no kernel"),
        (b"\x1f\x8b\x08aaaaaaaaaaaa", "gzip"),
        (&other, "another machine"),
        (&object, "cannot be executed"),
        (&old, "old boot protocol"),
        (&narrow, "without a 64-bit entry"),
        (&arm, "aarch64"),
        (b"\x7fELF", "cut short"),
    ];
    for (bytes, why) in cases {
        let problem = parsed(bytes).unwrap_err();
        assert!(problem.what.contains(why) && !problem.hint.is_empty(), "{problem:?} lacks {why}");
    }
}

#[test]
fn every_shorter_file_is_refused() {
    for whole in [elf(), bzimage()] {
        let least = whole.len() - 16;
        for len in 0..least {
            assert!(parsed(&whole[..len]).is_err(), "{len} of {} bytes", whole.len());
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_confuse_the_loader(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        usable(&bytes);
    }

    #[test]
    fn no_change_of_a_kernel_confuses_the_loader(
        from_elf in any::<bool>(),
        changes in proptest::collection::vec((0_usize..0x2d0, any::<u8>()), 1..8),
        cut in 0_usize..2048,
    ) {
        let mut bytes = if from_elf { elf() } else { bzimage() };
        for (at, value) in changes {
            bytes[at] = value;
        }
        usable(&bytes);
        usable(&bytes[..cut.min(bytes.len())]);
    }
}

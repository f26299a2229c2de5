//! The smallest programs that open a device node: static, without a libc, written as machine code. The first thing that
//! they do is the open.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Exits with the errno of its open, or with 253 and less where that succeeds.
pub(crate) fn once(path: &str) -> Vec<u8> {
    // neg eax; mov edi, eax; mov eax, 60 (exit); syscall
    program(path, &[0xf7, 0xd8, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05])
}

/// Opens it again and again until that succeeds, and then exits with 77.
pub(crate) fn until_it_opens(path: &str) -> Vec<u8> {
    // test eax, eax; js to the beginning; mov edi, 77; mov eax, 60; syscall
    let back = -(OPEN as i8 + 4);
    let code = [0x85, 0xc0, 0x78, back.cast_unsigned(), 0xbf, 77, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    program(path, &code)
}

/// The length of the open.
const OPEN: u8 = 21;
/// Where the only segment lies.
const BASE: u64 = 0x40_0000;
/// The headers.
const HEAD: usize = 64 + 56;

fn program(path: &str, then: &[u8]) -> Vec<u8> {
    // mov eax, 2 (open); lea rdi, [rip + ...]; mov esi, 2 (O_RDWR); xor edx, edx; syscall
    let to_path = u32::from(OPEN) - 12 + then.len() as u32;
    let mut code = vec![0xb8, 2, 0, 0, 0, 0x48, 0x8d, 0x3d];
    code.extend(to_path.to_le_bytes());
    code.extend([0xbe, 2, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x05]);
    assert_eq!(code.len(), usize::from(OPEN));
    code.extend(then);
    code.extend(path.bytes().chain([0]));

    let size = (HEAD + code.len()) as u64;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    // ET_EXEC, EM_X86_64, version; entry, program headers, no section headers; flags; sizes and counts.
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend((BASE + HEAD as u64).to_le_bytes());
    elf.extend(64_u64.to_le_bytes());
    elf.extend(0_u64.to_le_bytes());
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // PT_LOAD, R+X: offset, addresses, sizes, alignment.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// A directory with this program in it, `init`, that everybody may run.
pub(crate) fn directory(program: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("init");
    std::fs::write(&file, program).unwrap();
    for path in [dir.path(), Path::new(&file)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

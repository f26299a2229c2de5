//! Guests of a few instructions, as a kernel file: an ELF file whose one segment is at 1 MiB.
//!
//! They use integers alone, since a KVM that interprets its guests knows nothing else. Each begins in 64-bit mode with
//! the first 4 GiB mapped to themselves.

use std::arch::global_asm;

/// Wraps code as a kernel file.
pub(crate) fn kernel(code: &[u8]) -> Vec<u8> {
    let base: u64 = 1 << 20;
    let mut file = vec![0_u8; 0x78];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(24, &base.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    put(64, &1_u32.to_le_bytes());
    for (at, field) in [(72, 0x78), (88, base), (96, code.len() as u64), (104, code.len() as u64)] {
        put(at, &field.to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}

/// As [`disk`], but that it does not switch itself off.
pub(crate) fn disk_and_spin() -> Vec<u8> {
    let mut guest = disk();
    // `mov dx, 0x600`, `mov al, 0x34`, `out dx, al`: the last becomes nothing.
    let off = [0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee];
    let at = guest.windows(off.len()).position(|code| code == off).unwrap();
    guest[at + 6] = 0x90;
    guest
}

macro_rules! guests {
    ($($(#[$doc:meta])* $name:ident: $($line:literal)+;)*) => {$(
        global_asm!(
            ".pushsection .rodata",
            concat!(".globl guest_", stringify!($name)),
            concat!(".globl guest_end_", stringify!($name)),
            concat!("guest_", stringify!($name), ":"),
            $($line,)+
            concat!("guest_end_", stringify!($name), ":"),
            ".popsection",
        );

        $(#[$doc])*
        pub(crate) fn $name() -> Vec<u8> {
            unsafe extern "C" {
                #[link_name = concat!("guest_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("guest_end_", stringify!($name))]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: both are labels of one piece of constant data, the second behind the first.
            let code = unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) };
            kernel(code)
        }
    )*};
}

guests! {
    /// Writes `hi` and switches off with code 7.
    hello:
        "mov dx, 0x3f8" "mov al, 'h'" "out dx, al" "mov al, 'i'" "out dx, al"
        "mov dx, 0x603" "mov al, 7" "out dx, al"
        "mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "2: jmp 2b";

    /// Asks for a restart.
    reboot:
        "mov dx, 0x601" "mov al, 0x42" "out dx, al" "2: jmp 2b";

    /// Asks for a restart as PCs did first.
    keyboard_reboot:
        "3: in al, 0x64" "test al, 2" "jnz 3b" "mov al, 0xfe" "out 0x64, al" "2: jmp 2b";

    /// Has no handler for what it does.
    triple_fault: "ud2";

    /// Tells of a panic.
    panic:
        "mov dx, 0x505" "in al, dx" "test al, 1" "jz 2f" "mov al, 1" "out dx, al" "2: jmp 2b";

    /// Computes for ever.
    spin: "2: inc rax" "jmp 2b";

    /// Waits for ever.
    halt: "cli" "2: hlt" "jmp 2b";

    /// Writes dots for ever, in pieces of three bytes.
    flood:
        "lea rbx, [rip + 4f]" "mov dx, 0x3f8"
        "2: mov rsi, rbx" "mov ecx, 3" "rep outsb" "jmp 2b"
        "4: .ascii \"...\"";

    /// One instruction that not every KVM can do, then off.
    vector:
        "mov rax, cr4" "or eax, 0x600" "mov cr4, rax" "pxor xmm0, xmm0"
        "mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "2: jmp 2b";

    /// Reads where no device is: `F` if all is ones. Reads the clock, which must be no waiting: `0`.
    nobody:
        "mov ebx, 0xd0000000" "mov eax, [rbx]" "cmp eax, -1" "jne 2f"
        "mov dx, 0x8000" "in eax, dx" "cmp eax, -1" "jne 2f"
        "mov dx, 0x3f8" "mov al, 'F'" "out dx, al"
        "mov al, 10" "out 0x70, al" "in al, 0x71" "add al, '0'" "mov dx, 0x3f8" "out dx, al"
        "2: mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "5: jmp 5b";

    /// Writes garbage in all widths to most ports, and to where virtio devices would be; then off.
    garbage:
        "mov ebx, 12345" "xor ecx, ecx"
        "2: imul ebx, ebx, 1103515245" "add ebx, 12345" "mov eax, ebx" "mov edx, ecx"
        "out dx, al" "in al, dx" "out dx, ax" "out dx, eax" "in eax, dx"
        "3: inc ecx"
        // Not the ports that end it.
        "cmp ecx, 0x60" "je 4f" "cmp ecx, 0x4fe" "je 4f" "cmp ecx, 0x5f8" "je 4f"
        "cmp ecx, 0x800" "jb 2b"
        "jmp 5f"
        "4: add ecx, 15" "jmp 3b"
        "5: mov edi, 0xd0000000" "mov ecx, 512"
        "6: imul ebx, ebx, 1103515245" "add ebx, 12345" "mov [rdi], ebx" "mov [rdi + 2], bx" "mov [rdi + 1], bl"
        "mov rax, [rdi]" "add edi, 36" "dec ecx" "jnz 6b"
        "mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "7: jmp 7b";

    /// The timer of the processor ticks three times: `T` for each, then off.
    timer:
        "lea rax, [rip + 3f]" "mov ebx, 0x40" "call 8f"
        "mov ebx, 0xfee00000"
        "mov dword ptr [rbx + 0xf0], 0x1ff"
        "mov dword ptr [rbx + 0x3e0], 0xb"
        "mov dword ptr [rbx + 0x320], 0x20040"
        "mov dword ptr [rbx + 0x380], 1000000"
        "xor r12d, r12d" "sti"
        "2: hlt" "jmp 2b"
        "3: mov dx, 0x3f8" "mov al, 'T'" "out dx, al"
        "mov dword ptr [rbx + 0xb0], 0"
        "inc r12d" "cmp r12d, 3" "jb 4f"
        "mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "4: iretq"
        // Makes the handler at rax that of the interrupt number ebx, in a table at 2 MiB.
        "8: mov edi, 0x200000" "shl ebx, 4" "add ebx, edi"
        "mov [rbx], ax" "mov word ptr [rbx + 2], 0x10" "mov word ptr [rbx + 4], 0x8e00"
        "shr rax, 16" "mov [rbx + 6], ax" "shr rax, 16" "mov [rbx + 8], eax" "mov dword ptr [rbx + 12], 0"
        "mov word ptr [0x201000], 0xfff" "mov [0x201002], rdi" "lidt [0x201000]" "ret";

    /// Says `r`; for each byte that comes in on the serial port, by interrupt, writes it back; the power button ends it.
    echo:
        // The old interrupt controller would deliver them, too.
        "mov al, 0xff" "out 0x21, al" "out 0xa1, al"
        "lea rax, [rip + 3f]" "mov ebx, 0x41" "call 8f"
        "lea rax, [rip + 4f]" "mov ebx, 0x42" "call 8f"
        "mov ebx, 0xfee00000" "mov dword ptr [rbx + 0xf0], 0x1ff"
        // Inputs 4 and 5 of the IOAPIC.
        "mov edi, 0xfec00000"
        "mov dword ptr [rdi], 0x18" "mov dword ptr [rdi + 0x10], 0x41"
        "mov dword ptr [rdi], 0x19" "mov dword ptr [rdi + 0x10], 0"
        "mov dword ptr [rdi], 0x1a" "mov dword ptr [rdi + 0x10], 0x42"
        "mov dword ptr [rdi], 0x1b" "mov dword ptr [rdi + 0x10], 0"
        "mov dx, 0x3f9" "mov al, 1" "out dx, al"
        "mov dx, 0x3f8" "mov al, 'r'" "out dx, al" "sti"
        "2: hlt" "jmp 2b"
        "3: mov dx, 0x3fd" "in al, dx" "test al, 1" "jz 5f"
        "mov dx, 0x3f8" "in al, dx" "out dx, al" "jmp 3b"
        "5: mov dword ptr [rbx + 0xb0], 0" "iretq"
        "4: mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "6: jmp 6b"
        "8: mov edi, 0x200000" "shl ebx, 4" "add ebx, edi"
        "mov [rbx], ax" "mov word ptr [rbx + 2], 0x10" "mov word ptr [rbx + 4], 0x8e00"
        "shr rax, 16" "mov [rbx + 6], ax" "shr rax, 16" "mov [rbx + 8], eax" "mov dword ptr [rbx + 12], 0"
        "mov word ptr [0x201000], 0xfff" "mov [0x201002], rdi" "lidt [0x201000]" "ret";

    /// Asks a virtio device at the first place, a source of random bytes, three times for 16 bytes, by doorbell and
    /// interrupt: `R` for each time that there were some.
    random:
        "mov al, 0xff" "out 0x21, al" "out 0xa1, al"
        "lea rax, [rip + 3f]" "mov ebx, 0x46" "call 8f"
        "mov r8d, 0xfee00000" "mov dword ptr [r8 + 0xf0], 0x1ff"
        "mov edi, 0xfec00000"
        "mov dword ptr [rdi], 0x1c" "mov dword ptr [rdi + 0x10], 0x46"
        "mov dword ptr [rdi], 0x1d" "mov dword ptr [rdi + 0x10], 0"
        "mov ebx, 0xd0000000"
        "cmp dword ptr [rbx], 0x74726976" "jne 7f"
        "cmp dword ptr [rbx + 8], 4" "jne 7f"
        "mov dword ptr [rbx + 0x70], 0" "mov dword ptr [rbx + 0x70], 3"
        "mov dword ptr [rbx + 0x24], 1" "mov dword ptr [rbx + 0x20], 1"
        "mov dword ptr [rbx + 0x70], 0xb"
        "mov dword ptr [rbx + 0x30], 0" "mov dword ptr [rbx + 0x38], 8"
        "mov dword ptr [rbx + 0x80], 0x210000" "mov dword ptr [rbx + 0x84], 0"
        "mov dword ptr [rbx + 0x90], 0x211000" "mov dword ptr [rbx + 0x94], 0"
        "mov dword ptr [rbx + 0xa0], 0x212000" "mov dword ptr [rbx + 0xa4], 0"
        "mov dword ptr [rbx + 0x44], 1" "mov dword ptr [rbx + 0x70], 0xf"
        "mov dword ptr [0x210000], 0x213000" "mov dword ptr [0x210004], 0"
        "mov dword ptr [0x210008], 16" "mov dword ptr [0x21000c], 2"
        "xor r12d, r12d" "sti"
        "mov word ptr [0x211002], 1" "mov dword ptr [rbx + 0x50], 0"
        "2: hlt" "jmp 2b"
        "3: mov eax, [rbx + 0x60]" "mov [rbx + 0x64], eax" "mov dword ptr [r8 + 0xb0], 0"
        "test eax, 1" "jz 4f"
        "inc r12d" "cmp [0x212002], r12w" "jne 7f"
        "mov rax, [0x213000]" "or rax, [0x213008]" "jz 7f"
        "mov dx, 0x3f8" "mov al, 'R'" "out dx, al"
        "cmp r12d, 3" "je 7f"
        "xor eax, eax" "mov [0x213000], rax" "mov [0x213008], rax"
        "lea eax, [r12 + 1]" "mov [0x211002], ax" "mov dword ptr [rbx + 0x50], 0"
        "4: iretq"
        "7: mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "6: jmp 6b"
        "8: mov edi, 0x200000" "shl ebx, 4" "add ebx, edi"
        "mov [rbx], ax" "mov word ptr [rbx + 2], 0x10" "mov word ptr [rbx + 4], 0x8e00"
        "shr rax, 16" "mov [rbx + 6], ax" "shr rax, 16" "mov [rbx + 8], eax" "mov dword ptr [rbx + 12], 0"
        "mov word ptr [0x201000], 0xfff" "mov [0x201002], rdi" "lidt [0x201000]" "ret";

    /// Gives the same device a ring outside of memory, which it must not take (`o`), and one that says to hold more than
    /// it can, after which the device must want a reset (`N`) and take one (`0`).
    hostile:
        "mov ebx, 0xd0000000"
        "mov dword ptr [rbx + 0x70], 3"
        "mov dword ptr [rbx + 0x24], 1" "mov dword ptr [rbx + 0x20], 1"
        "mov dword ptr [rbx + 0x70], 0xb"
        "mov dword ptr [rbx + 0x38], 8"
        "mov dword ptr [rbx + 0x84], 0x7fffffff" "mov dword ptr [rbx + 0x44], 1"
        "cmp dword ptr [rbx + 0x44], 0" "jne 7f"
        "mov dx, 0x3f8" "mov al, 'o'" "out dx, al"
        "mov dword ptr [rbx + 0x80], 0x210000" "mov dword ptr [rbx + 0x84], 0"
        "mov dword ptr [rbx + 0x90], 0x211000" "mov dword ptr [rbx + 0xa0], 0x212000"
        "mov dword ptr [rbx + 0x44], 1" "mov dword ptr [rbx + 0x70], 0xf"
        "mov word ptr [0x211002], 1000" "mov dword ptr [rbx + 0x50], 0"
        "2: pause" "test dword ptr [rbx + 0x70], 0x40" "jz 2b"
        "mov al, 'N'" "out dx, al"
        "mov dword ptr [rbx + 0x70], 0" "cmp dword ptr [rbx + 0x70], 0" "jne 7f"
        "mov al, '0'" "out dx, al"
        "7: mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "6: jmp 6b";

    /// Reads the first sector of the disk at the first place, writes its first byte, adds one to it and writes the sector to
    /// the second place; then asks for a sector that is not there, and writes the answer (`1`: an error); off.
    disk:
        "mov ebx, 0xd0000000" "mov ebp, 0x213000"
        "cmp dword ptr [rbx + 8], 2" "jne 7f"
        "mov dword ptr [rbx + 0x70], 3"
        "mov dword ptr [rbx + 0x14], 0" "mov eax, [rbx + 0x10]" "and eax, 0x200"
        "mov dword ptr [rbx + 0x24], 0" "mov [rbx + 0x20], eax"
        "mov dword ptr [rbx + 0x24], 1" "mov dword ptr [rbx + 0x20], 1"
        "mov dword ptr [rbx + 0x70], 0xb"
        "mov dword ptr [rbx + 0x30], 0" "mov dword ptr [rbx + 0x38], 8"
        "mov dword ptr [rbx + 0x80], 0x210000" "mov dword ptr [rbx + 0x84], 0"
        "mov dword ptr [rbx + 0x90], 0x211000" "mov dword ptr [rbx + 0x94], 0"
        "mov dword ptr [rbx + 0xa0], 0x212000" "mov dword ptr [rbx + 0xa4], 0"
        "mov dword ptr [rbx + 0x44], 1" "mov dword ptr [rbx + 0x70], 0xf"
        // Header, data, answer.
        "mov qword ptr [0x210000], 0x213000" "mov dword ptr [0x210008], 16" "mov dword ptr [0x21000c], 0x10001"
        "mov qword ptr [0x210010], 0x214000" "mov dword ptr [0x210018], 512" "mov dword ptr [0x21001c], 0x20003"
        "mov qword ptr [0x210020], 0x213020" "mov dword ptr [0x210028], 1" "mov dword ptr [0x21002c], 2"
        "xor r12d, r12d"
        "mov dword ptr [rbp], 0" "mov qword ptr [rbp + 8], 0" "call 3f"
        "mov al, [0x214000]" "mov dx, 0x3f8" "out dx, al"
        "inc byte ptr [0x214000]" "mov dword ptr [0x21001c], 0x20001"
        "mov dword ptr [rbp], 1" "mov qword ptr [rbp + 8], 1" "call 3f"
        "mov qword ptr [rbp + 8], 2" "call 3f"
        "7: mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "6: jmp 6b"
        // One request, and its answer as a digit.
        "3: inc r12d" "mov [0x211002], r12w" "mov dword ptr [rbx + 0x50], 0"
        "4: pause" "cmp [0x212002], r12w" "jne 4b"
        "mov al, [rbp + 0x20]" "add al, '0'" "mov dx, 0x3f8" "out dx, al" "ret";

    /// Starts the second processor, in real mode at 0x1000, and waits for its word; `2`, then off.
    second:
        "lea rsi, [rip + 7f]" "mov edi, 0x1000" "mov ecx, 64" "rep movsb"
        "mov ebx, 0xfee00000" "mov dword ptr [rbx + 0xf0], 0x1ff"
        "mov dword ptr [rbx + 0x310], 0x01000000" "mov dword ptr [rbx + 0x300], 0x4500"
        "mov dword ptr [rbx + 0x310], 0x01000000" "mov dword ptr [rbx + 0x300], 0x4601"
        "2: pause" "cmp byte ptr [0x2000], 0x5a" "jne 2b"
        "mov dx, 0x3f8" "mov al, '2'" "out dx, al"
        "mov dx, 0x600" "mov al, 0x34" "out dx, al"
        "5: jmp 5b"
        ".code16"
        "7: xor ax, ax" "mov ds, ax" "mov byte ptr [0x2000], 0x5a" "cli" "8: hlt" "jmp 8b"
        ".code64";
}

//! Stage-2: what a child executes first, to have memory of its own.
//!
//! A static, position-dependent executable of a few kilobytes without libc. It receives a plan on the socket whose
//! number is its second argument and runs it. build.rs compiles it with plain `rustc`; it is embedded in the
//! library and handed to children as a sealed memfd.
#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]
#![allow(dead_code)]

#[path = "../../src/spawn/interp/mod.rs"]
mod interp;

use interp::{Interp, abi, syscall};

/// Room for a plan that comes in the message itself.
#[repr(C, align(4096))]
struct Arena([core::mem::MaybeUninit<u8>; abi::MAX_INLINE]);

static mut ARENA: Arena = Arena([core::mem::MaybeUninit::uninit(); abi::MAX_INLINE]);
static mut INTERP: Interp = Interp::new(-1);

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x0, sp",
    "bl {main}",
    "brk 1",
    main = sym main,
);

/// `stack` is what the kernel puts on a new program's stack: argc, then the argument pointers.
unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: this process has one thread, and the statics are used here alone. The host gives two arguments.
    unsafe {
        if *stack < 2 {
            syscall::exit(abi::EXIT_NO_PLAN);
        }
        let mut digits = *stack.add(2) as *const u8;
        let mut sock = 0_i32;
        while (*digits).is_ascii_digit() {
            sock = sock.wrapping_mul(10).wrapping_add(i32::from(*digits - b'0'));
            digits = digits.add(1);
        }
        let interp = &raw mut INTERP;
        *interp = Interp::new(sock);
        (*interp).receive_and_run((&raw mut ARENA).cast(), abi::MAX_INLINE)
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    syscall::exit(abi::EXIT_FAILED)
}

/// The compiler may call these three for larger copies; there is no libc to have them.
///
/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    let mut i = 0;
    while i < n {
        // SAFETY: both areas have `n` bytes; volatile keeps the compiler from making this a call to itself.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
        i += 1;
    }
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
    let mut i = 0;
    while i < n {
        // SAFETY: the area has `n` bytes; volatile as above.
        unsafe { to.add(i).write_volatile(byte as u8) };
        i += 1;
    }
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    let mut i = 0;
    while i < n {
        // SAFETY: both areas have `n` bytes; volatile as above.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        i += 1;
    }
    0
}

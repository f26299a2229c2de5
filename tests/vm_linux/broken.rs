//! What the emulated processor of the lane now and then does to a guest, and no other one can.
//!
//! QEMU's emulation of SVM has been seen to load flags into a guest that it never had: bits that are zero on every
//! processor, and those that make the next `iretq` fault. Neither the library nor KVM writes flags after the start of a
//! guest but what the processor gave them.

use std::io::Write;

/// Flags from here on are reserved, and always zero.
const RESERVED: u32 = 22;

/// The line of a guest's console that shows flags which no processor has.
pub(crate) fn processor(console: &str) -> Option<String> {
    let flags = |line: &str| {
        let word = line.split("EFLAGS: ").nth(1)?.split_whitespace().next()?;
        u64::from_str_radix(word, 16).ok()
    };
    console.lines().find(|line| flags(line).is_some_and(|flags| flags >> RESERVED != 0)).map(str::to_owned)
}

/// Past the harness's capture: nobody is to overlook it.
pub(crate) fn say(line: &str) {
    let thread = std::thread::current();
    let text = format!(
        "tried again: {}: the emulated processor was broken, it had flags that no processor has: {}\n",
        thread.name().unwrap_or("?"),
        line.trim()
    );
    // A lost message must not fail the test.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[test]
fn only_flags_that_no_processor_has_are_a_broken_one() {
    let line = |flags| format!("[    1.6] RSP: 0000:ffffffff82c03d58 EFLAGS: {flags}\n");
    let broken = line("040474b2");
    assert_eq!(processor(&format!("BUG\n{}{broken}", line("00010246"))).as_deref(), broken.lines().next());
    for whole in ["00000002", "00250ed7", "003fffff", "none", ""] {
        assert_eq!(processor(&format!("Oops\n{}", line(whole))), None);
    }
}

//! Landlock (`landlock(7)`).

use super::Interp;
use super::mounts::open_in_root;
use super::syscall::{self, nr, sys1, sys3, sys5};
use super::verify::status;

const AT_EMPTY_PATH: usize = 0x1000;
const RULE_PATH_BENEATH: usize = 1;
/// The rights that a file can have, and not only a directory: execute, write, read, truncate, ioctl.
const OF_FILES: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15;

/// `struct landlock_path_beneath_attr`, which is packed.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: i32,
}

impl Interp {
    /// Confines this process to the rights of the rules, whose paths are looked up inside the root.
    pub(super) unsafe fn landlock(&self, handled: u64, rules: u64, count: u64) -> isize {
        // Each rule has two words of the plan.
        let end = count.checked_mul(16).and_then(|len| len.checked_add(rules));
        if rules & 7 != 0 || end.is_none_or(|end| end > self.len as u64) {
            return -syscall::EBADMSG;
        }
        // SAFETY: live structures of the sizes given; the words lie inside the plan, which is aligned.
        unsafe {
            let set = sys3(nr::LANDLOCK_CREATE_RULESET, &raw const handled as usize, 8, 0);
            if set < 0 {
                return set;
            }
            let mut i = 0;
            while i < count {
                let rule = self.base.add((rules + 16 * i) as usize).cast::<u64>();
                let path = self.at(rule.read());
                let ret = if path.is_null() { -syscall::EBADMSG } else { add(set, path, rule.add(1).read()) };
                if ret < 0 {
                    return ret;
                }
                i += 1;
            }
            let ret = sys3(nr::LANDLOCK_RESTRICT_SELF, set as usize, 0, 0);
            sys1(nr::CLOSE, set as usize);
            ret
        }
    }
}

unsafe fn add(set: isize, path: *const u8, access: u64) -> isize {
    // SAFETY: a C string, a live structure, and descriptors of this process.
    unsafe {
        let fd = open_in_root(path);
        if fd < 0 {
            return fd;
        }
        let ret = match status(fd as usize, c"".as_ptr().cast(), AT_EMPTY_PATH) {
            Ok(found) => {
                let allowed = if found.is_dir() { access } else { access & OF_FILES };
                let rule = Beneath { allowed, parent: fd as i32 };
                let rule = &raw const rule as usize;
                sys5(nr::LANDLOCK_ADD_RULE, set as usize, RULE_PATH_BENEATH, rule, 0, 0)
            }
            Err(ret) => ret,
        };
        sys1(nr::CLOSE, fd as usize);
        ret
    }
}

//! Acting for others: lists of system calls that the host sends, done one list after the other.
//!
//! For what a thread of the host must not do itself, since it would change the whole host process: another root, another
//! owner of new files, another mount namespace. The host decides everything; here is nothing but the doing.

use core::mem::MaybeUninit;

use super::abi::{self, Record, act};
use super::socket;
use super::syscall::{self, nr, sys1, sys6};
use super::{Interp, SLOTS};

impl Interp {
    /// Does lists for ever. Descriptors that come with one go to the slots from `first` on, and are closed after it with
    /// those that it made.
    pub(super) unsafe fn act(&mut self, home: i32, first: usize) -> ! {
        // SAFETY: descriptors that the plan made, and that nothing uses any more.
        unsafe { self.close_slots(0, home) };
        self.slots[0] = home;
        self.send_record(&Record::new(abi::MARKER, self.pc, 0, 0), -1);
        loop {
            // SAFETY: the plan in the arena is not needed any more: its last op is this one.
            unsafe {
                let got = self.receive(self.arena, self.arena_len, first);
                if got <= 0 {
                    // The host has gone, or given this process up.
                    syscall::exit(0);
                }
                self.base = self.arena;
                self.len = got as usize;
                if !self.act_once(first) {
                    syscall::exit(abi::EXIT_FAILED);
                }
            }
        }
    }

    unsafe fn close_slots(&mut self, first: usize, but: i32) {
        let mut slot = first;
        while slot < SLOTS {
            if self.slots[slot] >= 0 && self.slots[slot] != but {
                // SAFETY: the caller has no use for it any more.
                unsafe { sys1(nr::CLOSE, self.slots[slot] as usize) };
            }
            self.slots[slot] = -1;
            slot += 1;
        }
    }

    /// Whether the list was a list, and was answered.
    unsafe fn act_once(&mut self, first: usize) -> bool {
        if self.len < size_of::<act::Head>() {
            return false;
        }
        let mut results = [MaybeUninit::<i64>::uninit(); act::MAX_STEPS];
        // SAFETY: the head says how many steps there are, and what part of the message goes back; both are checked to
        // lie in it.
        unsafe {
            let head = self.base.cast::<act::Head>().read();
            let count = head.steps as usize;
            let steps_end = size_of::<act::Head>() + count * size_of::<act::Step>();
            let out_end = head.out_at as usize + head.out_len as usize;
            if head.magic != act::MAGIC
                || count > act::MAX_STEPS
                || steps_end > self.len
                || out_end > self.len
            {
                return false;
            }
            let mut failed = false;
            let mut i = 0;
            while i < count {
                let step = self.base.add(size_of::<act::Head>()).cast::<act::Step>().add(i).read();
                let ret = if failed && step.flags & act::ALWAYS == 0 {
                    act::SKIPPED
                } else {
                    self.act_step(&step) as i64
                };
                if ret < 0 && step.flags & (act::ALWAYS | act::MAY_FAIL) == 0 {
                    failed = true;
                }
                results[i].write(ret);
                i += 1;
            }
            let fd =
                if head.send == act::NO_SLOT { -1 } else { self.slots[head.send as usize & (SLOTS - 1)] };
            // Before the answer: what the caller has by then would be in use otherwise, and could not be unmounted.
            self.close_slots(first, fd);
            let out = self.base.add(head.out_at as usize);
            let sent = socket::send_two(
                self.sock,
                results.as_ptr().cast(),
                count * 8,
                out,
                head.out_len as usize,
                fd,
            );
            if fd >= 0 {
                sys1(nr::CLOSE, fd as usize);
            }
            sent > 0
        }
    }

    unsafe fn act_step(&mut self, step: &act::Step) -> isize {
        let mut args = [0_usize; 6];
        let mut i = 0;
        while i < 6 {
            let value = step.args[i];
            args[i] = match step.kinds[i] {
                act::DATA if value as usize >= self.len => return -syscall::EINVAL,
                act::DATA => self.at(value) as usize,
                act::SLOT => self.slots[value as usize & (SLOTS - 1)] as usize,
                _ => value as usize,
            };
            i += 1;
        }
        if step.nr == act::POINT {
            if step.kinds[0] != act::DATA || step.args[0] as usize + 8 > self.len {
                return -syscall::EINVAL;
            }
            // SAFETY: eight bytes of the message, checked above.
            unsafe { (args[0] as *mut usize).write_unaligned(args[1]) };
            return 0;
        }
        // SAFETY: the host, whose process this is, vouches for the call.
        let ret = unsafe { sys6(step.nr as usize, args[0], args[1], args[2], args[3], args[4], args[5]) };
        if ret >= 0 && step.out != act::NO_SLOT as u16 {
            self.slots[step.out as usize & (SLOTS - 1)] = ret as i32;
        }
        ret
    }
}

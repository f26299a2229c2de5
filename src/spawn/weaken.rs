//! Safeguards taken out of a plan, one at a time: what the tests of known attacks (`tests/attacks`) compare with. Each
//! such test shows that the attack works without its safeguard, so that the test can fail.
//!
//! Compiled with the private feature `attacks` alone.

use super::interp::abi::{NO_SLOT, Op, code, on_error};
use super::plan::{At, Fd, Plan};

/// What is taken out of a plan, or put into it. For tests, and no part of the stable interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Weaken {
    /// Nothing is: the child stands still there until somebody reads from the FIFO `/hold` of the container. It gives an
    /// attacker all the time there is.
    Wait(Hold),
    /// The working directory is entered while descriptors of the host are open, and wherever it is.
    LateClose,
    /// The first descriptor that came with the plan is the program's standard input: a leak.
    Leak,
    /// A process that joins others, or sets itself up beside them, can be traced and looked at.
    Dumpable,
    /// Base mounts follow the links of the image.
    FollowLinks,
    /// The host's root lies over the new one until all mounts are made.
    LateDetach,
    /// A mount may cover what belongs to procfs and sysfs.
    AnyTarget,
    /// What is mounted, masked and written to is not checked to be what it is taken for.
    Unverified,
    /// The program keeps the host's session keyring.
    HostKeyring,
    /// The program has `CAP_NET_RAW` inheritable.
    Inheritable,
    /// The host's /sys is not made read-only.
    WritableSys,
}

/// A moment in the life of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hold {
    /// It has joined namespaces, and still is who the host made it.
    Joined,
    /// Its console comes next.
    Terminal,
    /// The caller's mounts, sysctls and masks come next.
    Settings,
    /// The program comes next.
    Program,
}

const PR_SET_DUMPABLE: u64 = libc::PR_SET_DUMPABLE as u64;
const HOLD: &str = "/hold";

impl Plan {
    pub(super) fn weaken(&mut self, what: Weaken) {
        match what {
            Weaken::Wait(hold) => self.wait_at(hold),
            Weaken::LateClose => {
                if let (Some(close), Some(enter)) =
                    (self.first(code::CLOSE_OTHERS), self.first(code::WORKING_DIR))
                {
                    self.ops_mut()[enter].code = code::CHDIR;
                    self.shift(close, enter);
                }
            }
            Weaken::Leak => {
                if let Some(close) = self.first(code::CLOSE_OTHERS) {
                    self.insert(close, "leak a descriptor", code::DUP_TO, [Fd::Slot(0).encode(), 0, 0, 0, 0]);
                }
            }
            Weaken::Dumpable => self.show(),
            Weaken::FollowLinks => {
                if let (Some(pivot), Some(follow)) =
                    (self.first(code::PIVOT_ROOT), self.find(code::MOUNT_SETATTR_PATH, "/"))
                {
                    self.shift(follow, pivot + 1);
                }
            }
            Weaken::LateDetach => {
                if let (Some(detach), Some(end)) = (self.last(code::DETACH_TOP), self.first(code::SETSID)) {
                    self.shift(detach, end - 1);
                }
            }
            Weaken::AnyTarget => {
                for op in self.ops_mut().iter_mut().filter(|op| op.code == code::ATTACH) {
                    op.args[3] = 1;
                }
            }
            Weaken::Unverified => self.trust(),
            Weaken::HostKeyring => {
                if let Some(at) = self.first(code::KEYRING) {
                    self.remove(at);
                }
            }
            Weaken::Inheritable => self.inherit(),
            Weaken::WritableSys => {
                if let Some(at) = self.find(code::MOUNT_SETATTR_PATH, "/sys") {
                    self.remove(at);
                }
            }
        }
    }

    fn wait_at(&mut self, hold: Hold) {
        let end = self.first(code::SETSID);
        let at = match hold {
            Hold::Joined => self.first(code::SET_IDS).or(end),
            Hold::Terminal => self.first(code::TERMINAL),
            Hold::Settings => self.last(code::DETACH_TOP).map(|at| at + 1),
            Hold::Program => self.first(code::EXEC),
        };
        let path = self.text(HOLD);
        if let Some(at) = at {
            let flags = u64::from(rustix::fs::OFlags::WRONLY.bits());
            self.insert(at, "wait for the test", code::OPEN, [path.into(), flags, 0, 0, 0]);
        }
    }

    /// Leaves the dumpable flag set, and sets it again where a change of ids has cleared it.
    fn show(&mut self) {
        for op in self.ops_mut().iter_mut() {
            if op.code == code::PRCTL && op.args[0] == PR_SET_DUMPABLE {
                op.args[1] = 1;
            }
        }
        let mut from = 0;
        while let Some(at) = (from..self.ops().len()).find(|i| self.ops()[*i].code == code::SET_IDS) {
            self.insert(at + 1, "show this process", code::PRCTL, [PR_SET_DUMPABLE, 1, 0, 0, 0]);
            from = at + 2;
        }
    }

    /// While all capabilities are held: later, without them, no more can be made inheritable.
    fn inherit(&mut self) {
        const NET_RAW: u64 = 1 << 13;
        let Some(bound) = self.first(code::BOUNDING_SET) else { return };
        let all = self.ops()[bound].args[0];
        for op in self.ops_mut().iter_mut().filter(|op| op.code == code::CAPS) {
            op.args[2] = NET_RAW;
        }
        self.insert(bound + 1, "make a capability inheritable", code::CAPS, [all, all, NET_RAW, 0, 0]);
    }

    fn trust(&mut self) {
        for op in self.ops_mut().iter_mut() {
            match op.code {
                code::ENTER_KERNEL => op.code = code::CHDIR,
                code::WRITE_FILE => op.args[3] = 0,
                code::MASK => op.args[2] = 0,
                code::TERMINAL => op.args[1] = 0,
                _ => {}
            }
        }
        while let Some(at) = self.first(code::CHECK_DEVICE) {
            self.remove(at);
        }
    }

    fn ops_mut(&mut self) -> &mut Vec<Op> {
        self.parts_mut().0
    }

    fn first(&self, code: u16) -> Option<usize> {
        self.ops().iter().position(|op| op.code == code)
    }

    fn last(&self, code: u16) -> Option<usize> {
        self.ops().iter().rposition(|op| op.code == code)
    }

    /// The first op of this kind whose first argument is that text.
    fn find(&self, code: u16, text: &str) -> Option<usize> {
        let is = |op: &Op| u32::try_from(op.args[0]).is_ok_and(|at| self.text_at(At(at)) == text);
        self.ops().iter().position(|op| op.code == code && is(op))
    }

    fn insert(&mut self, at: usize, what: &'static str, code: u16, args: [u64; 5]) {
        let (ops, steps) = self.parts_mut();
        ops.insert(at, Op { code, on_error: on_error::FAIL, out: NO_SLOT, reserved: 0, args });
        steps.insert(at, super::plan::Step { what, object: At::default() });
    }

    fn remove(&mut self, at: usize) {
        let (ops, steps) = self.parts_mut();
        ops.remove(at);
        steps.remove(at);
    }

    /// Takes an op out and puts it in again, so that it is number `to` then.
    fn shift(&mut self, from: usize, to: usize) {
        let (ops, steps) = self.parts_mut();
        let op = ops.remove(from);
        ops.insert(to, op);
        let step = steps.remove(from);
        steps.insert(to, step);
    }
}

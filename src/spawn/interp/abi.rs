//! The form of a plan and of the records that come back: what the host and the interpreter agree on.
//!
//! A plan is one position-independent block: [`Header`], data, then the ops. Ops name strings and structures by
//! their offset in the block. Both sides are built from the same sources, so there is no version to negotiate.

/// First word of a plan in a message.
pub(crate) const PLAN: u32 = 0x5350_4c4e;
/// First word of a message that brings a plan in a memfd: this word, then (at byte 8) the length; the memfd is the last descriptor.
pub(crate) const PLAN_IN_MEMFD: u32 = 0x5350_4c4d;
/// First word of a barrier message.
pub(crate) const GO: u32 = 0x5350_474f;
/// The longest plan that travels in a message; longer ones take a memfd.
pub(crate) const MAX_INLINE: usize = 64 * 1024;

/// In a descriptor argument: the rest is a slot number, not a descriptor.
pub(crate) const SLOT: u64 = 1 << 32;
/// In [`Op::out`]: the result is not kept.
pub(crate) const NO_SLOT: u8 = 0xff;

/// Exit status of a child that reported a failure. The host never shows it.
pub(crate) const EXIT_FAILED: usize = 127;
/// Exit status of a child whose host went away before the plan came.
pub(crate) const EXIT_NO_PLAN: usize = 126;

/// The head of a plan.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: u32,
    /// Number of ops.
    pub(crate) ops: u32,
    /// Length of the whole plan in bytes.
    pub(crate) len: u32,
    /// Offset of the first op, a multiple of 8.
    pub(crate) ops_at: u32,
}

impl Header {
    /// Whether it is the head of a whole plan of `size` bytes that ends in the byte `last`. With a 0 there, every
    /// string of the plan ends inside it.
    pub(crate) const fn is_whole(&self, size: usize, last: u8) -> bool {
        let ops_end = self.ops_at as u64 + self.ops as u64 * size_of::<Op>() as u64;
        self.magic == PLAN
            && self.len as usize == size
            && self.ops_at.is_multiple_of(8)
            && ops_end <= size as u64
            && last == 0
    }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Op {
    /// What to do: one of [`code`].
    pub(crate) code: u16,
    /// Which failures do not matter: one of [`on_error`].
    pub(crate) on_error: u8,
    /// The slot that keeps the result, or [`NO_SLOT`].
    pub(crate) out: u8,
    pub(crate) reserved: u32,
    pub(crate) args: [u64; 5],
}

/// Which failures of an op do not matter.
pub(crate) mod on_error {
    pub(crate) const FAIL: u8 = 0;
    pub(crate) const IGNORE_MISSING: u8 = 2;
    pub(crate) const IGNORE_EXISTING: u8 = 3;
}

/// A message from the child.
pub(crate) const RECORD: u32 = 0x5352_4543;
pub(crate) const FAILED: u32 = 1;
pub(crate) const MARKER: u32 = 2;
/// In [`Record::op`]: the failure came before the plan.
pub(crate) const NO_OP: u32 = u32::MAX;
/// With the pidfd of the clone; `value` is its pid in the pid namespace of the cloning process.
pub(crate) const SIBLING: u32 = 3;
/// With the seccomp notify descriptor.
pub(crate) const LISTENER: u32 = 4;

/// The plan has come to its NEXT_PLAN.
pub(crate) const PARKED: u32 = 5;
/// With a netlink socket of the network namespace.
pub(crate) const NETWORK: u32 = 6;

/// With the master of a terminal.
pub(crate) const TERMINAL: u32 = 7;

/// The file that holds the last output of a console: a head, then a ring of bytes.
pub(crate) mod ring {
    /// Where the number of bytes lies that were ever written (8 bytes). Byte `n` of all is at `DATA + n % size`.
    pub(crate) const TOTAL: u64 = 0;
    /// Where it says how the first process has ended (8 bytes): 0, or [`ENDED`] and the status of `wait(2)`.
    pub(crate) const END: u64 = 8;
    pub(crate) const ENDED: u64 = 1 << 32;
    pub(crate) const DATA: u64 = 64;
}

/// Lists of system calls for a child that acts for the host.
pub(crate) mod act {
    /// First word of a list.
    pub(crate) const MAGIC: u32 = 0x5350_4143;
    pub(crate) const MAX_STEPS: usize = 32;
    /// In [`Step::out`] and [`Head::send`]: none.
    pub(crate) const NO_SLOT: u32 = 0xffff;
    /// In the answer: a step that came after one that failed.
    pub(crate) const SKIPPED: i64 = i64::MIN;

    /// In [`Step::flags`]: done also after one that failed.
    pub(crate) const ALWAYS: u16 = 1;
    /// In [`Step::flags`]: the list goes on where it fails.
    pub(crate) const MAY_FAIL: u16 = 2;

    /// In [`Step::nr`], in place of a call: writes its second argument, an address, where its first one leads.
    pub(crate) const POINT: u32 = u32::MAX;

    /// In [`Step::kinds`]: the argument as it is; the address of that offset of the message; the descriptor in that slot.
    pub(crate) const NUMBER: u8 = 0;
    pub(crate) const DATA: u8 = 1;
    pub(crate) const SLOT: u8 = 2;

    /// The steps follow it, then data. The answer is a word for each step, then the part of the message that `out` names.
    #[derive(Clone, Copy, Debug)]
    #[repr(C)]
    pub(crate) struct Head {
        pub(crate) magic: u32,
        pub(crate) steps: u32,
        pub(crate) out_at: u32,
        pub(crate) out_len: u32,
        /// The slot whose descriptor goes with the answer.
        pub(crate) send: u32,
        pub(crate) reserved: u32,
    }

    #[derive(Clone, Copy, Debug)]
    #[repr(C)]
    pub(crate) struct Step {
        pub(crate) nr: u32,
        pub(crate) kinds: [u8; 6],
        pub(crate) flags: u16,
        /// The slot that keeps the result, which is a descriptor.
        pub(crate) out: u16,
        pub(crate) reserved: u16,
        pub(crate) args: [u64; 6],
    }
}

/// What the child says: 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Record {
    pub(crate) magic: u32,
    pub(crate) kind: u32,
    pub(crate) op: u32,
    pub(crate) errno: i32,
    pub(crate) value: u64,
    pub(crate) reserved: u64,
}

impl Record {
    pub(crate) const fn new(kind: u32, op: u32, errno: i32, value: u64) -> Self {
        Self { magic: RECORD, kind, op, errno, value, reserved: 0 }
    }
}

/// The op numbers. Arguments are given in order; `fd` is a descriptor or slot, `@x` the offset of a string or
/// structure, everything else a number.
pub(crate) mod code {
    /// uid, gid: real, effective and saved.
    pub(crate) const SET_IDS: u16 = 0x01;
    /// @gids, count
    pub(crate) const SET_GROUPS: u16 = 0x02;
    pub(crate) const CLEAR_AMBIENT: u16 = 0x03;
    /// option, arg2, arg3, arg4, arg5
    pub(crate) const PRCTL: u16 = 0x04;
    /// mask
    pub(crate) const UMASK: u16 = 0x05;
    /// @name, length
    pub(crate) const SET_HOSTNAME: u16 = 0x06;
    /// @name, length
    pub(crate) const SET_DOMAINNAME: u16 = 0x07;
    pub(crate) const LOOPBACK_UP: u16 = 0x08;
    /// fd, CLONE_NEW* kinds
    pub(crate) const SETNS: u16 = 0x09;
    /// CLONE_NEW* kinds
    pub(crate) const UNSHARE: u16 = 0x0a;
    pub(crate) const SETSID: u16 = 0x0b;
    /// the ignored signals: default dispositions, empty mask
    pub(crate) const RESET_SIGNALS: u16 = 0x0c;
    /// resource, soft, hard
    pub(crate) const RLIMIT: u16 = 0x0d;
    /// persona
    pub(crate) const PERSONALITY: u16 = 0x0e;
    /// the capabilities to keep, the last one of this kernel
    pub(crate) const BOUNDING_SET: u16 = 0x0f;
    /// effective, permitted, inheritable, ambient
    pub(crate) const CAPS: u16 = 0x10;
    /// @instructions, count, flags
    pub(crate) const SECCOMP: u16 = 0x11;
    /// clone flags, cgroup fd + 1 or 0, 1 to go on in a copy of the memory
    pub(crate) const CLONE_SIBLING: u16 = 0x12;
    /// first slot for the descriptors that come with the message
    pub(crate) const BARRIER: u16 = 0x13;
    pub(crate) const MARKER: u16 = 0x14;
    /// @paths, @argv, @envp: lists of offsets ended by 0
    pub(crate) const EXEC: u16 = 0x15;
    /// Reports PARKED, waits for another plan for as long as it takes, and runs that. The slots are those of its
    /// message.
    pub(crate) const NEXT_PLAN: u16 = 0x17;
    /// Makes a `NETLINK_ROUTE` socket and hands it to the host.
    pub(crate) const NETWORK_SOCKET: u16 = 0x18;
    /// first slot of the masters, their number, fd of a ring's file, its size, pidfd: keeps terminals until that process
    /// has ended, and does not come back. Sends MARKER first.
    pub(crate) const KEEP_TERMINALS: u16 = 0x19;
    /// Gives the process a session keyring of its own, without a name.
    pub(crate) const KEYRING: u16 = 0x1a;
    /// handled rights, @(path, rights) pairs, their number: Landlock, of the container's root
    pub(crate) const LANDLOCK: u16 = 0x1b;
    /// fd that goes to slot 0, first slot for descriptors that come with a list: closes all other slots, sends MARKER, does lists of system calls, and does not come back.
    pub(crate) const ACT: u16 = 0x1c;
    /// errno to fail with, or 0 to end without a word: fault injection in tests
    pub(crate) const FAULT: u16 = 0x16;

    /// @path, MS_* propagation flags
    pub(crate) const PROPAGATION: u16 = 0x40;
    /// dir fd, @path, flags
    pub(crate) const OPEN_TREE: u16 = 0x41;
    /// fd, @struct mount_attr, flags
    pub(crate) const MOUNT_SETATTR: u16 = 0x42;
    /// fd, @target: does not follow a link as last component
    pub(crate) const MOVE_MOUNT: u16 = 0x43;
    /// root mount fd: fchdir, then pivot_root(".", ".")
    pub(crate) const PIVOT_ROOT: u16 = 0x44;
    /// Unmounts, lazily, what was mounted last on the working directory, and goes to the root.
    pub(crate) const DETACH_TOP: u16 = 0x45;
    /// @source, @target, @type, flags, @data
    pub(crate) const MOUNT: u16 = 0x46;
    /// As MOUNT, on a directory directly below the root, made if missing.
    pub(crate) const MOUNT_TOP: u16 = 0x47;
    /// @path: a recursive bind of itself, read-only
    pub(crate) const READ_ONLY: u16 = 0x48;
    /// @path, @source, device: a file is hidden under `source`, which must be that device unless 0 is given, or under an
    /// empty file where there is no source; a directory under an empty read-only tmpfs
    pub(crate) const MASK: u16 = 0x49;
    /// @type
    pub(crate) const FSOPEN: u16 = 0x4a;
    /// fs fd, command, @key, @value
    pub(crate) const FSCONFIG: u16 = 0x4b;
    /// fs fd, MOUNT_ATTR_* flags; closes the fs fd
    pub(crate) const FSMOUNT: u16 = 0x4c;
    /// fd: fails with EROFS where the file system came up read-only
    pub(crate) const CHECK_WRITABLE: u16 = 0x4d;
    /// mount fd, @target, 1 directory or 0 file, 1 where procfs and sysfs are allowed below; closes the mount fd
    pub(crate) const ATTACH: u16 = 0x4e;
    /// @path, @struct mount_attr, flags
    pub(crate) const MOUNT_SETATTR_PATH: u16 = 0x4f;

    /// @path
    pub(crate) const CHDIR: u16 = 0x60;
    /// fd
    pub(crate) const FCHDIR: u16 = 0x61;
    /// dir fd: becomes the root, and the working directory
    pub(crate) const CHROOT: u16 = 0x70;
    /// @path, mode with type, device
    pub(crate) const MKNOD: u16 = 0x62;
    /// @target, @path
    pub(crate) const SYMLINK: u16 = 0x63;
    /// @path, mode
    pub(crate) const MKDIR: u16 = 0x64;
    /// @path, flags, mode
    pub(crate) const OPEN: u16 = 0x65;
    /// fd, target number
    pub(crate) const DUP_TO: u16 = 0x66;
    /// @path, @data, length, RESOLVE_* flags: an existing file, one write
    pub(crate) const WRITE_FILE: u16 = 0x67;
    /// @path, @data, length, mode: a new file
    pub(crate) const CREATE_FILE: u16 = 0x68;
    /// Closes every descriptor from 3 on but the socket, which closes on exec.
    pub(crate) const CLOSE_OTHERS: u16 = 0x69;
    /// Closes every descriptor but the socket and those in slots.
    pub(crate) const CLOSE_INHERITED: u16 = 0x6c;
    /// @target, 1 to make sure that what is bound is that terminal: makes one in /dev/pts, binds it to a new file
    /// `target`, sends TERMINAL
    pub(crate) const TERMINAL: u16 = 0x6d;
    /// @path, @data, length: a file of the root file system gets this content, if it is there and can be written
    pub(crate) const WRITE_OVER: u16 = 0x6e;
    /// @path, magic: chdir to the root of a file system of the kernel's, which it must be
    pub(crate) const ENTER_KERNEL: u16 = 0x6b;
    /// @path, device: fails with EXDEV unless it is that character device
    pub(crate) const CHECK_DEVICE: u16 = 0x6f;
    /// @path: chdir, and the place must be reachable from the root
    pub(crate) const WORKING_DIR: u16 = 0x6a;
}

//! The operations of a plan, typed: one method for each op of [`code`], each with what to say when it fails.

use rustix::mount::MountFlags;

use super::interp::abi::{code, on_error};
use super::plan::{At, Fd, Plan};
use crate::sys::mount::MountAttr;

/// Which failures of an op do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tolerate {
    Missing,
    Existing,
}

/// A classic mount, `mount(2)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mount<'a> {
    pub(crate) what: &'static str,
    pub(crate) source: &'a str,
    pub(crate) target: &'a str,
    /// Empty for a bind.
    pub(crate) fstype: &'a str,
    pub(crate) flags: MountFlags,
    pub(crate) data: &'a str,
}

/// What `FSCONFIG` does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FsConfig<'a> {
    Flag(&'a str),
    Text(&'a str, &'a str),
    Create,
}

/// What covers a masked file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaskFrom {
    /// The file `/dev/null`, which must be the null device.
    DevNull,
    /// An empty file made for it, where no null device can be trusted.
    Nothing,
}

/// Capability sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapMasks {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

impl Plan {
    pub(super) fn none(&mut self, what: &'static str, code: u16, args: [u64; 5]) {
        self.push(what, At::default(), code, args);
    }

    pub(super) fn on(&mut self, what: &'static str, object: At, code: u16, args: [u64; 5]) {
        self.push(what, object, code, args);
    }

    /// Changes what failures of the op added last do.
    pub(crate) fn tolerate(&mut self, rule: Tolerate) {
        let rule = match rule {
            Tolerate::Missing => on_error::IGNORE_MISSING,
            Tolerate::Existing => on_error::IGNORE_EXISTING,
        };
        if let Some(op) = self.last_op() {
            op.on_error = rule;
        }
    }

    fn free_slot_of(&mut self, fd: Fd) {
        if let Fd::Slot(slot) = fd {
            self.free_slot(slot);
        }
    }

    fn keep_result(&mut self) -> Fd {
        let slot = self.slot();
        if let Some(op) = self.last_op() {
            op.out = slot;
        }
        Fd::Slot(slot)
    }

    // --- identity -----------------------------------------------------------------------------------------

    pub(crate) fn set_ids(&mut self, what: &'static str, uid: u32, gid: u32) {
        self.none(what, code::SET_IDS, [u64::from(uid), u64::from(gid), 0, 0, 0]);
    }

    pub(crate) fn set_groups(&mut self, groups: &[u32]) {
        let bytes: Vec<u8> = groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
        let at = self.bytes(&bytes);
        self.none("set supplementary groups", code::SET_GROUPS, [at.into(), groups.len() as u64, 0, 0, 0]);
    }

    pub(crate) fn clear_ambient(&mut self) {
        self.none("clear ambient capabilities", code::CLEAR_AMBIENT, [0; 5]);
    }

    pub(crate) fn prctl(&mut self, what: &'static str, option: i32, value: u64) {
        self.none(what, code::PRCTL, [u64::from(option.cast_unsigned()), value, 0, 0, 0]);
    }

    pub(crate) fn umask(&mut self, mask: u32) {
        self.none("set umask", code::UMASK, [u64::from(mask), 0, 0, 0, 0]);
    }

    pub(crate) fn set_hostname(&mut self, name: &str) {
        let at = self.text(name);
        self.on("set hostname", at, code::SET_HOSTNAME, [at.into(), name.len() as u64, 0, 0, 0]);
    }

    pub(crate) fn set_domainname(&mut self, name: &str) {
        let at = self.text(name);
        self.on("set domain name", at, code::SET_DOMAINNAME, [at.into(), name.len() as u64, 0, 0, 0]);
    }

    pub(crate) fn loopback_up(&mut self) {
        self.none("bring up the loopback interface", code::LOOPBACK_UP, [0; 5]);
    }

    pub(crate) fn setns(&mut self, what: &'static str, fd: Fd, kinds: u64) {
        self.none(what, code::SETNS, [fd.encode(), kinds, 0, 0, 0]);
    }

    pub(crate) fn unshare(&mut self, what: &'static str, kinds: u64) {
        self.none(what, code::UNSHARE, [kinds, 0, 0, 0, 0]);
    }

    pub(crate) fn setsid(&mut self) {
        self.none("start a session", code::SETSID, [0; 5]);
    }

    pub(crate) fn reset_signals(&mut self) {
        self.none("reset signals", code::RESET_SIGNALS, [0; 5]);
    }

    pub(crate) fn rlimit(&mut self, name: &'static str, resource: u32, soft: u64, hard: u64) {
        let at = self.text(name);
        self.on("set resource limit", at, code::RLIMIT, [u64::from(resource), soft, hard, 0, 0]);
    }

    pub(crate) fn personality(&mut self, persona: u64) {
        self.none("set personality", code::PERSONALITY, [persona, 0, 0, 0, 0]);
    }

    pub(crate) fn bounding_set(&mut self, keep: u64, last: u32) {
        let args = [keep, u64::from(last), 0, 0, 0];
        self.none("drop capabilities from the bounding set", code::BOUNDING_SET, args);
    }

    pub(crate) fn caps(&mut self, c: CapMasks) {
        let args = [c.effective, c.permitted, c.inheritable, c.ambient, 0];
        self.none("set capabilities", code::CAPS, args);
    }

    /// `instructions`: `struct sock_filter`s, 8 bytes each.
    pub(crate) fn seccomp(&mut self, instructions: &[u8], flags: u64) {
        let at = self.bytes(instructions);
        let count = (instructions.len() / 8) as u64;
        self.none("install the seccomp filter", code::SECCOMP, [at.into(), count, flags, 0, 0]);
    }

    pub(crate) fn clone_sibling(&mut self, kinds: u64, cgroup: Option<Fd>, copy_memory: bool) {
        let cgroup = cgroup.map_or(u64::MAX, Fd::encode);
        let args = [kinds, cgroup, u64::from(copy_memory), 0, 0];
        self.none("clone the process", code::CLONE_SIBLING, args);
    }

    /// Waits for the host's word; descriptors that come with it lie in the slots from the one returned.
    pub(crate) fn barrier(&mut self, descriptors: u8) -> u8 {
        let first = self.slot();
        for _ in 1..descriptors {
            self.slot();
        }
        self.none("wait for the host", code::BARRIER, [u64::from(first), 0, 0, 0, 0]);
        first
    }

    pub(crate) fn marker(&mut self) {
        self.none("report", code::MARKER, [0; 5]);
    }

    pub(crate) fn exec<T: AsRef<[u8]>>(
        &mut self,
        program: &[u8],
        candidates: &[Vec<u8>],
        argv: &[T],
        envp: &[T],
    ) {
        let object = self.text(program);
        let paths = self.list(candidates);
        let argv = self.list(argv);
        let envp = self.list(envp);
        self.on("execute", object, code::EXEC, [paths.into(), argv.into(), envp.into(), 0, 0]);
    }

    // --- mounts -------------------------------------------------------------------------------------------

    pub(crate) fn propagation(&mut self, what: &'static str, path: &str, flags: u32) {
        let at = self.text(path);
        self.on(what, at, code::PROPAGATION, [at.into(), u64::from(flags), 0, 0, 0]);
    }

    pub(crate) fn open_tree(
        &mut self,
        what: &'static str,
        dir: Fd,
        path: impl AsRef<[u8]>,
        flags: u32,
    ) -> Fd {
        let at = self.text(path);
        self.on(what, at, code::OPEN_TREE, [dir.encode(), at.into(), u64::from(flags), 0, 0]);
        self.keep_result()
    }

    pub(crate) fn mount_setattr(&mut self, what: &'static str, mount: Fd, attr: &MountAttr, flags: u32) {
        let at = self.words(&[attr.set, attr.clear, attr.propagation, attr.userns_fd]);
        self.none(what, code::MOUNT_SETATTR, [mount.encode(), at.into(), u64::from(flags), 0, 0]);
    }

    pub(crate) fn mount_setattr_path(
        &mut self,
        what: &'static str,
        path: &str,
        attr: &MountAttr,
        flags: u32,
    ) {
        let at = self.words(&[attr.set, attr.clear, attr.propagation, attr.userns_fd]);
        let path = self.text(path);
        self.on(what, path, code::MOUNT_SETATTR_PATH, [path.into(), at.into(), u64::from(flags), 0, 0]);
    }

    pub(crate) fn move_mount(&mut self, what: &'static str, mount: Fd, target: &str) {
        let at = self.text(target);
        self.on(what, at, code::MOVE_MOUNT, [mount.encode(), at.into(), 0, 0, 0]);
    }

    pub(crate) fn pivot_root(&mut self, root: Fd) {
        self.none("pivot_root", code::PIVOT_ROOT, [root.encode(), 0, 0, 0, 0]);
    }

    /// Unmounts, lazily, what was mounted last on the working directory, and goes to the root.
    pub(crate) fn detach_top(&mut self, what: &'static str) {
        self.none(what, code::DETACH_TOP, [0; 5]);
    }

    fn mount_with(&mut self, op: u16, m: &Mount<'_>) {
        let opt = |plan: &mut Self, s: &str| if s.is_empty() { At::default() } else { plan.text(s) };
        let source = opt(self, m.source);
        let target = self.text(m.target);
        let fstype = opt(self, m.fstype);
        let data = opt(self, m.data);
        let args = [source.into(), target.into(), fstype.into(), u64::from(m.flags.bits()), data.into()];
        self.on(m.what, target, op, args);
    }

    pub(crate) fn mount(&mut self, m: &Mount<'_>) {
        self.mount_with(code::MOUNT, m);
    }

    /// As [`mount`](Self::mount), on a directory directly below the root, made if missing.
    pub(crate) fn mount_top(&mut self, m: &Mount<'_>) {
        self.mount_with(code::MOUNT_TOP, m);
    }

    /// Makes `path`, looked up from the working directory, which is `dir`, read-only with all below.
    pub(crate) fn read_only_path_in(&mut self, path: impl AsRef<[u8]>, dir: &str) {
        let (shown, at) = self.text_below(path, dir);
        self.on("make path read-only", shown, code::READ_ONLY, [at.into(), 0, 0, 0, 0]);
        self.tolerate(Tolerate::Missing);
    }

    pub(crate) fn fsopen(&mut self, what: &'static str, fstype: &str) -> Fd {
        let at = self.text(fstype);
        self.on(what, at, code::FSOPEN, [at.into(), 0, 0, 0, 0]);
        self.keep_result()
    }

    pub(crate) fn fsconfig(&mut self, what: &'static str, fs: Fd, config: FsConfig<'_>) {
        let (command, key, value) = match config {
            FsConfig::Flag(key) => (0, self.text(key), At::default()),
            FsConfig::Text(key, value) => {
                let key = self.text(key);
                (1, key, self.text(value))
            }
            FsConfig::Create => (6, At::default(), At::default()),
        };
        self.on(what, key, code::FSCONFIG, [fs.encode(), command, key.into(), value.into(), 0]);
    }

    pub(crate) fn fsmount(&mut self, what: &'static str, fs: Fd, attrs: u64) -> Fd {
        self.none(what, code::FSMOUNT, [fs.encode(), attrs, 0, 0, 0]);
        // The op closes `fs` and then stores its result.
        self.free_slot_of(fs);
        self.keep_result()
    }

    pub(crate) fn check_writable(&mut self, what: &'static str, mount: Fd) {
        self.none(what, code::CHECK_WRITABLE, [mount.encode(), 0, 0, 0, 0]);
    }

    /// Mounts `mount` on `target`, looked up inside the root and made if missing, and closes it.
    pub(crate) fn attach(
        &mut self,
        what: &'static str,
        mount: Fd,
        target: &[u8],
        is_dir: bool,
        kernel_files: bool,
    ) {
        let at = self.text(target);
        let args = [mount.encode(), at.into(), u64::from(is_dir), u64::from(kernel_files), 0];
        self.on(what, at, code::ATTACH, args);
        self.free_slot_of(mount);
    }

    // --- files --------------------------------------------------------------------------------------------

    pub(crate) fn fchdir(&mut self, what: &'static str, dir: Fd) {
        self.none(what, code::FCHDIR, [dir.encode(), 0, 0, 0, 0]);
    }

    pub(crate) fn chroot(&mut self, what: &'static str, dir: Fd) {
        self.none(what, code::CHROOT, [dir.encode(), 0, 0, 0, 0]);
    }

    pub(crate) fn chdir(&mut self, what: &'static str, path: &str) {
        let at = self.text(path);
        self.on(what, at, code::CHDIR, [at.into(), 0, 0, 0, 0]);
    }

    pub(crate) fn mknod(&mut self, what: &'static str, path: &str, mode: u32, device: u64) {
        let at = self.text(path);
        self.on(what, at, code::MKNOD, [at.into(), u64::from(mode), device, 0, 0]);
    }

    pub(crate) fn symlink(&mut self, target: &str, path: &str) {
        let to = self.text(target);
        let at = self.text(path);
        self.on("make link", at, code::SYMLINK, [to.into(), at.into(), 0, 0, 0]);
    }

    pub(crate) fn mkdir(&mut self, what: &'static str, path: &str, mode: u32) {
        let at = self.text(path);
        self.on(what, at, code::MKDIR, [at.into(), u64::from(mode), 0, 0, 0]);
    }

    pub(crate) fn open(&mut self, what: &'static str, path: &str, flags: u32) -> Fd {
        let at = self.text(path);
        self.on(what, at, code::OPEN, [at.into(), u64::from(flags), 0, 0, 0]);
        self.keep_result()
    }

    pub(crate) fn dup_to(&mut self, what: &'static str, from: Fd, to: u32) {
        self.none(what, code::DUP_TO, [from.encode(), u64::from(to), 0, 0, 0]);
    }

    pub(crate) fn create_file(&mut self, what: &'static str, path: &str, data: &[u8], mode: u32) {
        let at = self.text(path);
        let bytes = self.bytes(data);
        let args = [at.into(), bytes.into(), data.len() as u64, u64::from(mode), 0];
        self.on(what, at, code::CREATE_FILE, args);
    }

    /// Makes a terminal in the container's devpts and binds it to the new file `target`. The host gets its master.
    pub(crate) fn terminal(&mut self, target: &str) {
        let at = self.text(target);
        self.on("make a terminal", at, code::TERMINAL, [at.into(), 1, 0, 0, 0]);
    }

    /// Gives a file of the root file system this content, if it is there and can be written. No link is followed.
    pub(crate) fn write_over(&mut self, what: &'static str, path: &str, data: &[u8]) {
        let at = self.text(path);
        let bytes = self.bytes(data);
        self.on(what, at, code::WRITE_OVER, [at.into(), bytes.into(), data.len() as u64, 0, 0]);
    }

    /// Ends the plan: the child keeps the terminals whose masters came in `count` slots from `first` on.
    pub(crate) fn keep_terminals(&mut self, first: u8, count: u8, file: Fd, size: u64, until: Fd) {
        let args = [u64::from(first), u64::from(count), file.encode(), size, until.encode()];
        self.none("keep the terminals", code::KEEP_TERMINALS, args);
    }

    /// Ends the plan: the child waits for another one.
    pub(crate) fn park(&mut self) {
        self.none("wait for the next plan", code::NEXT_PLAN, [0; 5]);
    }

    /// Ends the plan: the child does lists of system calls; `home` is then in slot 0, and
    /// descriptors of a list lie in the slots from `first` on.
    pub(crate) fn act(&mut self, home: Fd, first: u8) {
        self.none("act for others", code::ACT, [home.encode(), first.into(), 0, 0, 0]);
    }

    /// Hands the host a socket that acts on the child's network namespace.
    pub(crate) fn network_socket(&mut self) {
        self.none("make a socket for the network interfaces", code::NETWORK_SOCKET, [0; 5]);
    }

    pub(crate) fn close_inherited(&mut self) {
        self.none("close inherited descriptors", code::CLOSE_INHERITED, [0; 5]);
    }

    pub(crate) fn close_others(&mut self) {
        self.none("close other descriptors", code::CLOSE_OTHERS, [0; 5]);
    }

    pub(crate) fn working_dir(&mut self, path: &[u8]) {
        let at = self.text(path);
        self.on("enter the working directory", at, code::WORKING_DIR, [at.into(), 0, 0, 0, 0]);
    }
}

impl From<At> for u64 {
    fn from(at: At) -> Self {
        Self::from(at.0)
    }
}

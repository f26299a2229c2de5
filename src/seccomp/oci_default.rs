//! The default policy of application containers: a list of allowed calls, wider with more capabilities.

use crate::caps::{CapSet, Capability};

use super::policy::{Action, ArgCompare, Compare, Policy};
use super::system::known;

const EPERM: Action = Action::Errno(libc::EPERM as u16);
const EINVAL: Action = Action::Errno(libc::EINVAL as u16);
const ENOSYS: Action = Action::Errno(libc::ENOSYS as u16);

/// Allowed whatever the capabilities: what ordinary programs use, and what the kernel itself guards well enough.
const ALLOWED: &[&str] = &[
    FILES,
    NAMES,
    XATTRS,
    DESCRIPTORS,
    MEMORY,
    PROCESSES,
    SIGNALS,
    CREDENTIALS,
    TIME,
    SCHEDULING,
    NETWORK,
    IPC,
    MACHINE,
];

const FILES: &str = "\
    cachestat close close_range copy_file_range creat fadvise64 fadvise64_64 arm_fadvise64_64 \
    fallocate fdatasync flock fsync ftruncate ftruncate64 getdents getdents64 _llseek lseek \
    memfd_create memfd_secret open openat openat2 pread64 preadv preadv2 pwrite64 pwritev \
    pwritev2 read readahead readv sendfile sendfile64 splice sync sync_file_range \
    sync_file_range2 arm_sync_file_range syncfs tee truncate truncate64 vmsplice write writev";

const NAMES: &str = "\
    access chdir chmod chown chown32 faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 \
    fchown fchown32 fchownat file_getattr file_setattr fstat fstat64 fstatat64 fstatfs fstatfs64 \
    futimesat getcwd lchown lchown32 link linkat listmount lstat lstat64 mkdir mkdirat mknod \
    mknodat name_to_handle_at newfstatat oldfstat oldlstat oldstat readlink readlinkat rename \
    renameat renameat2 rmdir stat stat64 statfs statfs64 statmount statx symlink symlinkat umask \
    unlink unlinkat utime utimensat utimensat_time64 utimes";

const XATTRS: &str = "\
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr \
    listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat";

const DESCRIPTORS: &str = "\
    dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
    epoll_wait epoll_wait_old eventfd eventfd2 fanotify_mark fcntl fcntl64 inotify_add_watch \
    inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents \
    io_pgetevents_time64 io_setup io_submit ioctl _newselect pidfd_open pidfd_send_signal pipe \
    pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 \
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64";

const MEMORY: &str = "\
    brk madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect \
    mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
    process_mrelease remap_file_pages";

const PROCESSES: &str = "\
    execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv \
    futex_wake get_robust_list get_thread_area getpgid getpgrp getpid getppid getpriority \
    getrlimit getrusage getsid gettid landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self prctl prlimit64 rseq rseq_slice_yield seccomp set_robust_list \
    set_thread_area set_tid_address setpgid setpriority setrlimit setsid ugetrlimit uprobe \
    uretprobe vfork wait4 waitid waitpid";

const SIGNALS: &str = "\
    alarm kill pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
    sigaction sigaltstack signal sigpending sigprocmask sigreturn sigsuspend tgkill tkill";

const CREDENTIALS: &str = "\
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 \
    getresgid getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid \
    setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 \
    setresuid setresuid32 setreuid setreuid32 setuid setuid32";

const TIME: &str = "\
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep \
    setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
    timer_settime timer_settime64 times";

const SCHEDULING: &str = "\
    getcpu ioprio_get ioprio_set nice sched_get_priority_max sched_get_priority_min \
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
    sched_setscheduler sched_yield";

/// `socketcall` hides its arguments behind a pointer, so on i386 the conditions on `socket` do not hold. Libraries
/// of i386 need it, so it stays allowed.
const NETWORK: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socket socketcall \
    socketpair";

const IPC: &str = "\
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
    semtimedop_time64 shmat shmctl shmdt shmget";

const MACHINE: &str = "\
    arch_prctl breakpoint cacheflush getrandom lsm_get_self_attr lsm_list_modules \
    lsm_set_self_attr modify_ldt olduname oldolduname set_tls get_tls sysinfo uname";

/// What each capability opens.
const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysPacct, "acct"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listns lookup_dcookie \
         mount mount_setattr move_mount open_tree open_tree_attr perf_event_open pivot_root \
         quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::Syslog, "syslog"),
    (Capability::Perfmon, "perf_event_open"),
    (Capability::Bpf, "bpf"),
];

/// Linux, Linux with a 2.6 version, both with 32-bit `uname`, and "which one is it".
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

/// `CLONE_NEW*` without `CLONE_NEWTIME`, whose bit is part of the exit signal in `clone`.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

const NETLINK_AUDIT: u32 = 9;

impl Policy {
    /// The allow list of application containers, for a container whose bounding set is `caps`.
    ///
    /// Calls that are not on it get EPERM; numbers that the tables do not know get ENOSYS, so that programs
    /// made for newer kernels fall back. Each capability opens the calls that it is for: `CAP_SYS_ADMIN` opens
    /// `mount`, `setns` and `unshare`, among others. Never opened: `kexec_load`, key rings, `io_uring`, `userfaultfd`,
    /// swap.
    ///
    /// Conditions on arguments:
    /// - `socket`: AF_VSOCK gets EPERM; the audit netlink gets EINVAL without `CAP_AUDIT_WRITE`. On i386 these two
    ///   can be passed through `socketcall`, whose arguments no filter can see. A policy with
    ///   [`deny_compat`](Self::deny_compat) has no such gap.
    /// - `personality`: only Linux, Linux with 32-bit or 2.6 version names, and the query.
    /// - `clone` without `CAP_SYS_ADMIN`: no new namespaces; `clone3`, whose flags no filter can see, gets ENOSYS.
    ///
    /// ```
    /// use stockade::caps::CapSet;
    /// use stockade::seccomp::{Filter, Policy};
    ///
    /// let filter = Filter::cached(&Policy::oci_default(CapSet::EMPTY))?;
    /// assert!(filter.len() < 512);
    /// # Ok::<(), stockade::Error>(())
    /// ```
    pub fn oci_default(caps: CapSet) -> Self {
        let mut policy = Self::new(EPERM).unknown(ENOSYS);

        // First match wins, so the conditions that deny stand before the rules that allow.
        policy.rules.push(known(EPERM, "socket").when(ArgCompare::low32(0, libc::AF_VSOCK as u32)));
        if !caps.contains(Capability::AuditWrite) {
            policy.rules.push(
                known(EINVAL, "socket")
                    .when(ArgCompare::low32(0, libc::AF_NETLINK as u32))
                    .when(ArgCompare::low32(2, NETLINK_AUDIT)),
            );
        }
        for persona in PERSONALITIES {
            policy.rules.push(known(Action::Allow, "personality").when(ArgCompare::low32(0, persona)));
        }
        if !caps.contains(Capability::SysAdmin) {
            let none = ArgCompare::new(0, Compare::MaskedEq(NEW_NAMESPACES), 0);
            policy.rules.push(known(Action::Allow, "clone").when(none));
            // Its flags are behind a pointer; with ENOSYS libraries fall back to clone.
            policy.rules.push(known(ENOSYS, "clone3"));
        }
        policy.rules.extend(ALLOWED.iter().map(|names| known(Action::Allow, names)));
        policy.rules.extend(
            BY_CAPABILITY
                .iter()
                .filter(|(cap, _)| caps.contains(*cap))
                .map(|(_, names)| known(Action::Allow, names)),
        );
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{Arch, Filter, Rule, Syscall, SyscallData};

    fn call(arch: Arch, name: &str, args: [u64; 6]) -> SyscallData {
        let nr = Syscall::new(name).unwrap().number(arch).unwrap();
        SyscallData { nr, arch: arch.audit_arch(), args, ..Default::default() }
    }

    fn names(rule: &Rule) -> Vec<&'static str> {
        rule.syscalls.iter().map(|s| s.name().unwrap()).collect()
    }

    #[test]
    fn every_name_of_the_lists_is_known_and_stands_once() {
        let mut seen = std::collections::HashSet::new();
        for name in ALLOWED.iter().flat_map(|names| names.split_whitespace()) {
            assert!(Syscall::new(name).is_ok(), "{name}");
            assert!(seen.insert(name), "{name} stands twice");
        }
        for name in BY_CAPABILITY.iter().flat_map(|(_, names)| names.split_whitespace()) {
            assert!(Syscall::new(name).is_ok(), "{name}");
            assert!(!seen.contains(name), "{name} needs no capability by the other list");
        }
    }

    #[test]
    fn capabilities_open_their_calls() {
        let native = Arch::native_family()[0];
        let nothing = Policy::oci_default(CapSet::EMPTY).compile().unwrap();
        for (cap, names) in BY_CAPABILITY {
            let with = Policy::oci_default(CapSet::of(&[*cap])).compile().unwrap();
            for name in names.split_whitespace() {
                if Syscall::new(name).unwrap().number(native).is_none() {
                    continue;
                }
                // An argument that asks for a new user namespace, for clone's sake.
                let c = call(native, name, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]);
                let closed = if name == "clone3" { ENOSYS } else { EPERM };
                assert_eq!(nothing.decide(&c), closed, "{name}");
                assert_eq!(with.decide(&c), Action::Allow, "{name} with {cap:?}");
            }
        }
    }

    #[test]
    fn arguments_are_filtered_even_with_rubbish_in_the_upper_half() {
        let filter = Policy::oci_default(CapSet::EMPTY).compile().unwrap();
        const UPPER: u64 = 0xbad_0000_0000;
        for arch in [Arch::native_family()[0]] {
            let check = |name, args: [u64; 6], expected| {
                assert_eq!(filter.decide(&call(arch, name, args)), expected, "{name} {args:x?}");
            };
            for upper in [0, UPPER] {
                check("socket", [40 | upper, 1, 0, 0, 0, 0], EPERM);
                check("socket", [2 | upper, 1, 0, 0, 0, 0], Action::Allow);
                check("socket", [16 | upper, 3, 9 | upper, 0, 0, 0], EINVAL);
                check("socket", [16 | upper, 3, 0, 0, 0, 0], Action::Allow);
                check("personality", [8 | upper, 0, 0, 0, 0, 0], Action::Allow);
                check("personality", [0x0040_0000 | upper, 0, 0, 0, 0, 0], EPERM);
                check("clone", [0x11 | upper, 0, 0, 0, 0, 0], Action::Allow);
                check("clone", [libc::CLONE_NEWUSER as u64 | 0x11 | upper, 0, 0, 0, 0, 0], EPERM);
            }
        }
        let audit = Policy::oci_default(CapSet::of(&[Capability::AuditWrite])).compile().unwrap();
        let c = call(Arch::native_family()[0], "socket", [16, 3, 9, 0, 0, 0]);
        assert_eq!(audit.decide(&c), Action::Allow);
    }

    #[test]
    fn calls_of_newer_kernels_are_not_there_and_left_out_ones_are_denied() {
        let policy = Policy::oci_default(CapSet::ALL);
        let filter = Filter::cached(&policy).unwrap();
        for arch in Arch::native_family() {
            let bit = call(*arch, "read", [0; 6]).nr & 0x4000_0000;
            for nr in [472, 600, 4000] {
                let c = SyscallData { nr: nr | bit, arch: arch.audit_arch(), ..Default::default() };
                assert_eq!(filter.decide(&c), ENOSYS, "{arch} {nr}");
            }
            for name in ["kexec_load", "keyctl", "io_uring_setup", "userfaultfd", "swapon", "nfsservctl"] {
                if Syscall::new(name).unwrap().number(*arch).is_some() {
                    assert_eq!(filter.decide(&call(*arch, name, [0; 6])), EPERM, "{arch} {name}");
                }
            }
        }
    }

    #[test]
    fn rules_that_deny_stand_before_those_that_allow() {
        let policy = Policy::oci_default(CapSet::EMPTY);
        let first = |name, action| {
            policy.rules.iter().position(|r| names(r).contains(&name) && r.action == action).unwrap()
        };
        assert!(first("socket", EPERM) < first("socket", Action::Allow));
    }
}

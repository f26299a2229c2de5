//! Filters in the running kernel. A filter stays on its thread for ever, so each case has a thread of its own;
//! cases that may end a process run in a copy of this test program.
#![allow(unsafe_code, clippy::print_stderr)]
#![cfg(target_arch = "x86_64")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use stockade::caps::CapSet;
use stockade::seccomp::{Action, Arch, ArgCompare, Compare, Filter, Policy, Rule};

const X32_BIT: i64 = 0x4000_0000;

/// Puts `filter` on the calling thread.
fn install(filter: &Filter) {
    rustix::thread::set_no_new_privs(true).unwrap();
    let len = u16::try_from(filter.len()).unwrap();
    let program = libc::sock_fprog { len, filter: filter.as_bytes().as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies `len` instructions of eight bytes; the filter holds as many.
    let ret = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program))
    };
    assert_eq!(ret, 0, "seccomp: {}", std::io::Error::last_os_error());
}

/// The result of a call of six numbers, or its errno.
fn call(nr: i64, args: [u64; 6]) -> Result<i64, i32> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the calls of these tests take no pointers, or null ones.
    let ret = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    if ret == -1 { Err(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { Ok(ret) }
}

fn on_a_thread(policy: &Policy, f: impl FnOnce() + Send) {
    let filter = policy.compile().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            install(&filter);
            f();
        });
    });
}

fn deny(errno: u16, name: &str) -> Rule {
    Rule::new(Action::Errno(errno), [name]).unwrap()
}

#[test]
fn errno_log_and_allow() {
    let log = Rule::new(Action::Log, ["getuid"]).unwrap();
    on_a_thread(&Policy::new(Action::Allow).rule(deny(77, "getppid")).rule(log), || {
        assert_eq!(call(libc::SYS_getppid, [0; 6]), Err(77));
        assert_eq!(call(libc::SYS_getpid, [0; 6]), Ok(i64::from(std::process::id())));
        assert_eq!(call(libc::SYS_getuid, [0; 6]), Ok(i64::from(rustix::process::geteuid().as_raw())));
    });
    assert!(call(libc::SYS_getppid, [0; 6]).is_ok(), "another thread's filter came here");
}

#[test]
fn conditions_on_64_bit_arguments() {
    let arg = |compare, value| ArgCompare::new(0, compare, value);
    let masked = Compare::MaskedEq(0xf000_0000_0000_0000);
    let policy = Policy::new(Action::Allow)
        .rule(deny(71, "close").when(arg(Compare::Eq, 0x1_0000_4000)))
        .rule(deny(72, "close").when(arg(masked, 0x3000_0000_0000_0000)))
        .rule(deny(73, "close").when(arg(Compare::Gt, 0x7000_0000_0000_4000)));
    // No such descriptor is open, so EBADF shows that the call ran.
    on_a_thread(&policy, || {
        for (fd, expected) in [
            (0x0_0000_4000, libc::EBADF),
            (0x1_0000_4000, 71),
            (0x1_0000_4001, libc::EBADF),
            (0x3000_0000_0000_4000, 72),
            (0x2000_0000_0000_4000, libc::EBADF),
            (0x7000_0000_0000_4000, libc::EBADF),
            (0x7000_0000_0000_4001, 73),
            (0x8000_0000_0000_4000, 73),
        ] {
            assert_eq!(call(libc::SYS_close, [fd, 0, 0, 0, 0, 0]), Err(expected), "{fd:#x}");
        }
    });
}

#[test]
fn x32_numbers_do_not_pass_rules_for_x86_64() {
    let policy = Policy::new(Action::Allow).arches([Arch::X86_64, Arch::X86]).rule(deny(77, "getpid"));
    on_a_thread(&policy, || {
        assert_eq!(call(libc::SYS_getpid, [0; 6]), Err(77));
        assert_eq!(call(libc::SYS_getpid | X32_BIT, [0; 6]), Err(libc::ENOSYS));
    });
}

#[test]
fn x32_numbers_meet_the_rules_for_x32() {
    let policy = Policy::new(Action::Allow).arches([Arch::X86_64, Arch::X32]).rule(deny(77, "ioctl"));
    on_a_thread(&policy, || {
        assert_eq!(call(libc::SYS_ioctl, [u64::MAX, 0, 0, 0, 0, 0]), Err(77));
        assert_eq!(call(514 | X32_BIT, [0; 6]), Err(77));
    });
}

#[test]
fn default_policy_of_system_containers() {
    on_a_thread(&Policy::system_default(), || {
        for nr in [libc::SYS_init_module, libc::SYS_delete_module, libc::SYS_kexec_load] {
            assert_eq!(call(nr, [0; 6]), Err(libc::ENOSYS), "{nr}");
        }
        assert_eq!(call(libc::SYS_umount2, [0, 1, 0, 0, 0, 0]), Err(libc::EACCES));
        // No path at the null address: the call ran, and failed for its own reason.
        let ran = call(libc::SYS_umount2, [0, 0, 0, 0, 0, 0]);
        assert!(matches!(ran, Err(libc::EFAULT | libc::EPERM)), "{ran:?}");
    });
}

#[test]
fn default_policy_of_application_containers() {
    on_a_thread(&Policy::oci_default(CapSet::EMPTY), || {
        assert_eq!(call(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), Err(libc::EPERM));
        assert_eq!(call(libc::SYS_clone3, [0; 6]), Err(libc::ENOSYS));
        assert_eq!(call(1023, [0; 6]), Err(libc::ENOSYS));
        assert_eq!(call(libc::SYS_keyctl, [0; 6]), Err(libc::EPERM));
        assert_eq!(call(libc::SYS_socket, [40 | 1 << 32, 1, 0, 0, 0, 0]), Err(libc::EPERM));
        assert_eq!(std::net::UdpSocket::bind("127.0.0.1:0").map(drop).map_err(|e| e.kind()), Ok(()));
        assert!(std::fs::read_to_string("/proc/self/status").unwrap().contains("Seccomp"));
        assert_eq!(std::thread::spawn(|| 5).join().unwrap(), 5);
        assert!(Command::new("true").status().unwrap().success());
    });
}

#[test]
fn a_program_of_thousands_of_instructions_installs() {
    let mut policy = Policy::new(Action::Allow).arches([Arch::X86_64]);
    for value in 0..900 {
        policy.rules.push(deny(77, "close").when(ArgCompare::new(0, Compare::Eq, 0x5000_0000 + value)));
    }
    on_a_thread(&policy, || {
        assert_eq!(call(libc::SYS_close, [0x5000_0000 + 899, 0, 0, 0, 0, 0]), Err(77));
        assert_eq!(call(libc::SYS_close, [0x5000_0000 + 900, 0, 0, 0, 0, 0]), Err(libc::EBADF));
    });
}

const CASE: &str = "STOCKADE_TEST_SECCOMP_CASE";

/// Runs `case` of [`in_a_copy`] in a copy of this program.
fn run_case(case: &str) -> ExitStatus {
    let mut copy = Command::new(std::env::current_exe().unwrap());
    copy.args(["--exact", "in_a_copy", "--nocapture"]).env(CASE, case).output().unwrap().status
}

/// getpid by the i386 gate.
fn getpid_i386() -> i64 {
    let ret: i64;
    // SAFETY: call 20 of i386 takes no arguments; the gate may clear r8 to r11.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") 20_i64 => ret,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    // The result is 32 bits wide.
    i64::from(ret as i32)
}

#[test]
fn in_a_copy() {
    let Ok(case) = std::env::var(CASE) else { return };
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none).unwrap();
    let pid = i64::from(std::process::id());
    match case.as_str() {
        "probe" => assert_eq!(getpid_i386(), pid),
        "errno" => {
            install(&Policy::new(Action::Allow).rule(deny(77, "getpid")).compile().unwrap());
            assert_eq!(getpid_i386(), -77);
        }
        "compat" => {
            install(&Policy::new(Action::Allow).deny_compat().compile().unwrap());
            assert_eq!(getpid_i386(), -i64::from(libc::ENOSYS));
            assert_eq!(call(libc::SYS_getpid, [0; 6]), Ok(pid));
        }
        "foreign" => {
            install(&Policy::new(Action::Allow).arches([Arch::X86_64]).compile().unwrap());
            getpid_i386();
        }
        "kill" => {
            let rule = Rule::new(Action::KillProcess, ["getppid"]).unwrap();
            install(&Policy::new(Action::Allow).rule(rule).compile().unwrap());
            let _ = call(libc::SYS_getppid, [0; 6]);
        }
        other => panic!("no case {other}"),
    }
}

#[test]
fn kill_process_ends_the_process() {
    assert_eq!(run_case("kill").signal(), Some(libc::SIGSYS));
}

#[test]
fn i386_calls_meet_the_rules_for_i386() {
    let probe = run_case("probe");
    if probe.signal().is_some() {
        support::skip(format!("this kernel has no i386 calls ({probe})"));
        return;
    }
    assert!(probe.success(), "{probe}");
    assert!(run_case("errno").success());
    assert!(run_case("compat").success());
    assert_eq!(run_case("foreign").signal(), Some(libc::SIGSYS));
}

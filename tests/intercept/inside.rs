//! What runs in a container: this program once more, told by its environment what to do.

use std::ffi::CString;
use std::io::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stockade::ExitStatus;
use stockade::container::Container;
use stockade::instance::{ExecOptions, Stdio};

pub(super) const CASE: &str = "STOCKADE_TEST_INSIDE";

/// Where the program lies inside.
pub(super) const PROGRAM: &str = "/test-program";

pub(super) const CHR: u64 = 0o020_666;
pub(super) const NULL: u64 = 0x103;

/// Runs a case in a container that has the program: what it wrote, line by line. `None`, loudly, where it does not run there.
#[track_caller]
pub(super) fn run(c: &Container, case: &str) -> Option<Vec<String>> {
    let options =
        ExecOptions::new([PROGRAM, "--exact", "inside::entry", "--nocapture"]).env(CASE, case).cwd("/work");
    let out = c.exec(options.stdout(Stdio::Piped).stderr(Stdio::Piped)).unwrap().output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if errors.contains("GLIBC_") {
        support::skip("this program needs a newer C library than the Debian fixture has");
        return None;
    }
    assert_eq!(out.status, ExitStatus::Exited(0), "{case}: {text}\n{errors}");
    Some(text.lines().filter_map(|line| line.split_once("> ").map(|(_, said)| said.to_owned())).collect())
}

#[allow(clippy::print_stdout)]
pub(super) fn say(text: impl std::fmt::Display) {
    println!("> {text}");
}

/// The result of a system call, or the name of its errno.
pub(super) fn call(nr: i64, args: [u64; 6]) -> String {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the cases give live pointers, or wrong ones on purpose, which the kernel refuses.
    let ret = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    if ret >= 0 { ret.to_string() } else { name(Error::last_os_error().raw_os_error().unwrap()) }
}

fn name(errno: i32) -> String {
    let known = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::EEXIST, "EEXIST"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::EBADF, "EBADF"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ELOOP, "ELOOP"),
        (libc::ENAMETOOLONG, "ENAMETOOLONG"),
        (libc::ENODEV, "ENODEV"),
        (libc::EBUSY, "EBUSY"),
    ];
    known.iter().find(|(n, _)| *n == errno).map_or_else(|| errno.to_string(), |(_, name)| (*name).to_owned())
}

pub(super) fn text(s: &str) -> CString {
    CString::new(s).unwrap()
}

pub(super) fn at(s: &CString) -> u64 {
    s.as_ptr() as u64
}

pub(super) fn mknod(path: &str, mode: u64, device: u64) -> String {
    call(libc::SYS_mknod, [at(&text(path)), mode, device, 0, 0, 0])
}

fn setxattr(nr: i64, path: &str, name: &str, value: &str, flags: u64) -> String {
    let (path, name, value) = (text(path), text(name), text(value));
    call(nr, [at(&path), at(&name), at(&value), value.as_bytes().len() as u64, flags, 0])
}

#[test]
fn entry() {
    let Some(case) = std::env::var_os(CASE) else { return };
    match case.to_str().unwrap() {
        "xattr" => xattr(),
        "sched" => sched(),
        "threads" => threads(),
        "listener" => listener(),
        "pointers" => pointers(),
        "races" => races(),
        "load" => load(),
        "caller" => caller(),
        "bpf" => bpf(),
        "sysinfo" => sysinfo(),
        "bench" => bench(),
        "abis" => abis(),
        "turns" => super::turns::turns(),
        other => super::inside_fuse::entry(other),
    }
}

fn xattr() {
    const OPAQUE: &str = "trusted.overlay.opaque";
    let (follow, nofollow) = (libc::SYS_setxattr, libc::SYS_lsetxattr);
    for dir in ["d", "theirs", "shut", "shut/deep"] {
        std::fs::create_dir(dir).unwrap();
    }
    std::os::unix::fs::chown("theirs", Some(7), Some(7)).unwrap();
    std::fs::write("f", "").unwrap();
    std::os::unix::fs::symlink("d", "l").unwrap();
    let both =
        |path: &str| (setxattr(follow, path, OPAQUE, "y", 0), setxattr(nofollow, path, OPAQUE, "y", 0));
    say(format_args!("{:?} {:?} {:?}", both("d"), both("theirs"), both("/work/l/.")));
    say(format_args!("{:?} {:?} {:?}", both("missing"), both("f"), both("/proc/1/root/work/d")));
    say(format_args!("{:?}", both("l")));
    say(setxattr(follow, "d", OPAQUE, "y", 1));
    say(format_args!(
        "{} {} {} {}",
        setxattr(follow, "d", OPAQUE, "x", 0),
        setxattr(follow, "d", OPAQUE, "yy", 0),
        setxattr(follow, "d", "trusted.other", "y", 0),
        setxattr(follow, "d", "user.some", "1", 0)
    ));
}

fn sched() {
    let set = |pid: i32, policy: i32, priority: i32| {
        let param = libc::sched_param { sched_priority: priority };
        let at = std::ptr::from_ref(&param) as u64;
        call(libc::SYS_sched_setscheduler, [pid as u64, policy as u64, at, 0, 0, 0])
    };
    let get = |pid: i32| call(libc::SYS_sched_getscheduler, [pid as u64, 0, 0, 0, 0, 0]);
    let rr = libc::SCHED_RR;
    say(format_args!("{} {}", set(0, rr, 5), get(0)));
    let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let pid = child.id() as i32;
    say(format_args!("{} {}", set(pid, rr, 5), get(pid)));
    std::thread::spawn(move || {
        let tid = call(libc::SYS_gettid, [0; 6]).parse().unwrap();
        say(format_args!("{} {}", set(0, rr, 6), get(0)));
        say(format_args!("{} {}", set(tid, libc::SCHED_FIFO, 6), get(tid)));
    })
    .join()
    .unwrap();
    say(format_args!(
        "{} {} {} {} {}",
        set(pid, rr, 100),
        set(pid, 99, 0),
        set(99_999, rr, 5),
        set(-1, rr, 5),
        call(libc::SYS_sched_setscheduler, [0, rr as u64, 8, 0, 0, 0])
    ));
    child.kill().unwrap();
    child.wait().unwrap();
    // As an ordinary user of the container: nobody's business.
    call(
        libc::SYS_sched_setscheduler,
        [0, 0, std::ptr::from_ref(&libc::sched_param { sched_priority: 0 }) as u64, 0, 0, 0],
    );
    std::thread::spawn(move || {
        say(call(libc::SYS_setresuid, [7, 7, 7, 0, 0, 0]));
        say(set(0, rr, 5));
    })
    .join()
    .unwrap();
}

fn threads() {
    let failed = AtomicUsize::new(0);
    let ok = |result: String| {
        if result != "0" {
            failed.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|s| {
        for n in 0..32 {
            let ok = &ok;
            s.spawn(move || {
                for i in 0..8 {
                    ok(mknod(&format!("/work/n{n}-{i}"), CHR, NULL));
                    let dir = format!("/work/d{n}-{i}");
                    std::fs::create_dir(&dir).unwrap();
                    ok(setxattr(libc::SYS_setxattr, &dir, "trusted.overlay.opaque", "y", 0));
                    let mut info = [0_u8; 112];
                    ok(call(libc::SYS_sysinfo, [info.as_mut_ptr() as u64, 0, 0, 0, 0, 0]));
                }
            });
        }
    });
    use std::os::unix::fs::MetadataExt;
    let made = std::fs::read_dir("/work").unwrap().flatten();
    let nodes = made.filter(|e| e.metadata().is_ok_and(|m| m.rdev() == NULL)).count();
    say(format_args!("{} {nodes}", failed.into_inner()));
}

fn listener() {
    let allow = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 }];
    let program = libc::sock_fprog { len: 1, filter: allow.as_ptr().cast_mut() };
    let program = std::ptr::from_ref(&program) as u64;
    say(format_args!(
        "{} {}",
        call(libc::SYS_seccomp, [1, 8, program, 0, 0, 0]),
        call(libc::SYS_seccomp, [1, 0, program, 0, 0, 0])
    ));
}

/// A page that ends where nothing is.
fn last_page() -> *mut u8 {
    // SAFETY: fresh anonymous pages, of which the second is given back.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let two = libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        libc::munmap(two.byte_add(4096), 4096);
        two.cast()
    }
}

fn pointers() {
    let page = last_page();
    // SAFETY: the whole page is ours.
    unsafe { page.write_bytes(b'a', 4096) };
    let end = page as u64 + 4096;
    let paths = [0, 1, 0xffff_ffff_ffff_0000, u64::MAX, 0x8000_0000_0000_0000, end, end - 1, page as u64];
    let results: Vec<String> =
        paths.iter().map(|p| call(libc::SYS_mknod, [*p, CHR, NULL, 0, 0, 0])).collect();
    say(results.join(" "));
    // One that begins on one page and ends on the next, and one that is as long as can be.
    let long = text(&format!("/work/{}", "x".repeat(4200)));
    say(call(libc::SYS_mknod, [at(&long), CHR, NULL, 0, 0, 0]));
    let deep = format!("/work/{}null", "./".repeat(2040));
    say(mknod(&deep, CHR, NULL));
    say(mknod("", CHR, NULL));
    let name = text("trusted.overlay.opaque");
    let value = text("y");
    say(call(libc::SYS_setxattr, [at(&value), at(&name), end, 1, 0, 0]));
    say(call(libc::SYS_setxattr, [end, at(&name), at(&value), 1, 0, 0]));
    say(format_args!(
        "{} {} {}",
        call(libc::SYS_sysinfo, [0; 6]),
        call(libc::SYS_sysinfo, [end - 8, 0, 0, 0, 0, 0]),
        call(libc::SYS_sysinfo, [u64::MAX, 0, 0, 0, 0, 0])
    ));
    say(call(libc::SYS_bpf, [5, end, 64, 0, 0, 0]));
    say(call(libc::SYS_mount, [end, end, end, 0, end, 0]));
    say(call(libc::SYS_mknodat, [9999, at(&text("null")), CHR, NULL, 0, 0]));
    say(call(libc::SYS_mknodat, [u64::MAX, at(&text("null")), CHR, NULL, 0, 0]));
}

/// Swaps what a path leads to while nodes are made there, and dies in the midst of calls.
fn races() {
    for dir in ["in", "in/a", "in/b"] {
        std::fs::create_dir(dir).unwrap();
    }
    let stop = AtomicUsize::new(0);
    let made = AtomicUsize::new(0);
    let path = std::sync::Mutex::new(());
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|s| {
        // A directory that is a link out of here every other moment.
        s.spawn(|| {
            while stop.load(Ordering::Relaxed) == 0 {
                let _ = std::fs::rename("in/a", "in/kept");
                let _ = std::os::unix::fs::symlink("/proc/1/root/dev", "in/a");
                let _ = std::fs::remove_file("in/a");
                let _ = std::fs::rename("in/kept", "in/a");
            }
        });
        // The string itself changes between two reads.
        let shared: Arc<[AtomicU64; 2]> = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let words = [*b"in/b/t1\0", *b"/dev/t1\0"].map(u64::from_ne_bytes);
        shared[0].store(words[0], Ordering::Relaxed);
        let flips = Arc::clone(&shared);
        let stop = &stop;
        s.spawn(move || {
            let mut n = 0;
            while stop.load(Ordering::Relaxed) == 0 {
                n += 1;
                flips[0].store(words[n % 2], Ordering::Relaxed);
            }
        });
        for n in 0..4 {
            let (made, path, shared) = (&made, &path, Arc::clone(&shared));
            s.spawn(move || {
                let mut i = 0;
                while Instant::now() < end {
                    i += 1;
                    let name = format!("in/a/n{n}-{i}");
                    if mknod(&name, CHR, NULL) == "0" {
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                    let _one = path.lock().unwrap();
                    call(libc::SYS_mknod, [shared.as_ptr() as u64, CHR, NULL, 0, 0, 0]);
                    let _ = std::fs::remove_file("in/b/t1");
                    let _ = std::fs::remove_file("/dev/t1");
                }
            });
        }
        // Callers that die while they wait.
        s.spawn(move || {
            while Instant::now() < end {
                let mut child = std::process::Command::new("sh")
                    .args(["-c", "i=0; while :; do i=$((i+1)); mknod /work/in/b/k$$-$i c 1 3; done"])
                    .stderr(std::process::Stdio::null())
                    .spawn()
                    .unwrap();
                std::thread::sleep(Duration::from_millis(7));
                child.kill().unwrap();
                child.wait().unwrap();
            }
            stop.store(1, Ordering::Relaxed);
        });
    });
    say(made.into_inner());
}

/// Makes calls for a second, and says how many, and how long the longest took in microseconds.
fn load() {
    let end = Instant::now() + Duration::from_secs(1);
    let (mut calls, mut longest) = (0, Duration::ZERO);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let node = format!("/work/{}", host.trim());
    while Instant::now() < end {
        let begun = Instant::now();
        let mut info = [0_u8; 112];
        let done = call(libc::SYS_sysinfo, [info.as_mut_ptr() as u64, 0, 0, 0, 0, 0]);
        let made = mknod(&node, CHR, 0x105);
        longest = longest.max(begun.elapsed());
        assert_eq!((done.as_str(), made.as_str()), ("0", "0"));
        std::fs::remove_file(&node).unwrap();
        calls += 2;
    }
    say(format_args!("{calls} {}", longest.as_micros()));
}

/// Calls until that fails, and says how.
fn caller() {
    let mut last = String::new();
    while last.is_empty() || last == "0" {
        let mut info = [0_u8; 112];
        let now = call(libc::SYS_sysinfo, [info.as_mut_ptr() as u64, 0, 0, 0, 0, 0]);
        if now != last {
            say(&now);
        }
        last = now;
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn sysinfo() {
    // SAFETY: a structure of plain numbers.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    say(call(libc::SYS_sysinfo, [std::ptr::from_mut(&mut info) as u64, 0, 0, 0, 0, 0]));
    say(format_args!("{} {} {}", info.uptime, info.totalram * u64::from(info.mem_unit), info.procs));
}

/// Loads a device program, and puts it on a cgroup of the container's own.
fn bpf() {
    use std::os::fd::AsRawFd;
    // r0 = 1; exit
    let program: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    // The same with a call of a helper: bpf_ktime_get_ns.
    let calling: [u64; 3] = [0x0000_0005_0000_0085, 0x0000_0001_0000_00b7, 0x95];
    let license = text("GPL");
    let load = |kind: u32, program: &[u64]| {
        let mut attr = [0_u8; 120];
        attr[..4].copy_from_slice(&kind.to_ne_bytes());
        attr[4..8].copy_from_slice(&(program.len() as u32).to_ne_bytes());
        attr[8..16].copy_from_slice(&(program.as_ptr() as u64).to_ne_bytes());
        attr[16..24].copy_from_slice(&at(&license).to_ne_bytes());
        call(libc::SYS_bpf, [5, attr.as_ptr() as u64, 120, 0, 0, 0])
    };
    let fd = load(15, &program);
    say(fd.parse::<u32>().map_or_else(|_| fd.clone(), |_| "loaded".to_owned()));
    say(format_args!("{} {}", load(15, &calling), load(1, &program)));
    let fd: u32 = fd.parse().unwrap_or(0);
    // SAFETY: a descriptor number.
    say(unsafe { libc::fcntl(fd as i32, libc::F_GETFD) });
    let change = |command: u64, cgroup: u32, flags: u32| {
        let attr = [cgroup, fd, 6, flags, 0];
        call(libc::SYS_bpf, [command, attr.as_ptr() as u64, 20, 0, 0, 0])
    };
    let _ = std::fs::create_dir("/sys/fs/cgroup/own");
    let (Ok(own), Ok(tmp)) = (std::fs::File::open("/sys/fs/cgroup/own"), std::fs::File::open("/tmp")) else {
        return say("no cgroup");
    };
    let own = own.as_raw_fd() as u32;
    let (on, off) = (change(8, own, 2), change(9, own, 0));
    say(format_args!("{on} {off} {} {}", change(9, own, 0), change(8, tmp.as_raw_fd() as u32, 2)));
    let _ = std::fs::remove_dir("/sys/fs/cgroup/own");
}

/// Calls through the other ABIs: real programs of 32 bits, and numbers with the bit of x32.
fn abis() {
    use std::os::unix::fs::PermissionsExt;
    let program = |name: &str, code: &[u8]| {
        std::fs::write(name, elf32(code)).unwrap();
        std::fs::set_permissions(name, std::fs::Permissions::from_mode(0o755)).unwrap();
        match std::process::Command::new(format!("./{name}")).status() {
            Ok(status) => status.code().map_or_else(|| status.to_string(), |code| code.to_string()),
            Err(e) => format!("{e}"),
        }
    };
    // mov eax, nr; mov ebx, a; mov ecx, b; mov edx, c; mov esi, d; mov edi, e; int 0x80
    let call32 = |nr: u32, args: [u32; 5]| {
        let codes = [0xb8, 0xbb, 0xb9, 0xba, 0xbe, 0xbf];
        let words = [nr].into_iter().chain(args);
        let moves = codes.into_iter().zip(words).flat_map(|(op, n)| [&[op][..], &n.to_le_bytes()].concat());
        moves.chain([0xcd, 0x80]).collect::<Vec<u8>>()
    };
    // neg eax; mov ebx, eax; mov eax, 1; int 0x80
    let exit_with_errno = [0xf7, 0xd8, 0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80];
    // mov ebx, [buffer + 52]; shr ebx, 8; mov eax, 1; int 0x80
    let unit =
        [&[0x8b, 0x1d][..], &(BUFFER + 52).to_le_bytes(), &[0xc1, 0xeb, 8, 0xb8, 1, 0, 0, 0, 0xcd, 0x80]];
    let refused = program(
        "refused32",
        &[call32(14, [PATH, 0o060_666, 0x800, 0, 0]), exit_with_errno.to_vec()].concat(),
    );
    let made =
        program("mknod32", &[call32(14, [PATH, 0o020_666, 0x103, 0, 0]), exit_with_errno.to_vec()].concat());
    let info = program("sysinfo32", &[call32(116, [BUFFER, 0, 0, 0, 0]), unit.concat()].concat());
    say(format_args!("{made} {refused} {info}"));
    use std::os::unix::fs::MetadataExt;
    say(std::fs::metadata("node32").map_or(0, |m| m.rdev()));
    const X32: i64 = 0x4000_0000;
    let path = text("nodex32");
    say(format_args!(
        "{} {}",
        call(libc::SYS_mknod | X32, [at(&path), CHR, NULL, 0, 0, 0]),
        call(libc::SYS_getpid | X32, [0; 6]) == std::process::id().to_string()
    ));
}

/// Where the program of 32 bits has the path `node32`, and room.
const PATH: u32 = 0x0804_8000 + 0x180;
const BUFFER: u32 = 0x0804_8000 + 0x200;

/// A static program of 32 bits with this code.
fn elf32(code: &[u8]) -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |n: u16| n.to_le_bytes();
    // Type, machine; then version, entry, program headers, section headers, flags.
    elf.extend([half(2), half(3)].concat());
    elf.extend([1, BASE + 84, 52, 0, 0].iter().flat_map(|n: &u32| n.to_le_bytes()));
    elf.extend([52, 32, 1, 40, 0, 0].iter().flat_map(|n: &u16| n.to_le_bytes()));
    // One segment, readable, writable, executable: type, offset, addresses, sizes, flags, alignment.
    elf.extend([1, 0, BASE, BASE, 0x300, 0x300, 7, 0x1000].iter().flat_map(|n: &u32| n.to_le_bytes()));
    elf.extend_from_slice(code);
    assert!(elf.len() <= 0x180);
    elf.resize(0x180, 0);
    elf.extend_from_slice(b"node32\0");
    elf.resize(0x300, 0);
    elf
}

/// The median of some intercepted calls and of some that are not, in nanoseconds.
fn bench() {
    let count = 2000;
    let median = |f: &mut dyn FnMut(usize)| {
        let mut times: Vec<u128> = (0..count)
            .map(|i| {
                let begun = Instant::now();
                f(i);
                begun.elapsed().as_nanos()
            })
            .collect();
        times.sort_unstable();
        times[count / 2]
    };
    let paths: Vec<CString> = (0..count).map(|i| text(&format!("/work/b{i}"))).collect();
    let made = median(&mut |i| {
        call(libc::SYS_mknod, [at(&paths[i]), CHR, NULL, 0, 0, 0]);
    });
    for i in 0..count {
        let _ = std::fs::remove_file(format!("/work/b{i}"));
    }
    let fifo = median(&mut |i| {
        call(libc::SYS_mknod, [at(&paths[i]), 0o010_666, 0, 0, 0, 0]);
    });
    for i in 0..count {
        let _ = std::fs::remove_file(format!("/work/b{i}"));
    }
    let ppid = {
        let begun = Instant::now();
        (0..1_000_000).for_each(|_| {
            call(libc::SYS_getppid, [0; 6]);
        });
        begun.elapsed().as_nanos() / 1_000_000
    };
    say(format_args!("{made} {fifo} {ppid}"));
}

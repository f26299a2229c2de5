//! What runs in a container that has `/dev/fuse`: see `inside`. Among it a FUSE file system that answers what it wants.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::inside::{CHR, NULL, at, call, mknod, say, text};

pub(super) fn entry(case: &str) {
    match case {
        "mount" => mount(),
        "filtered" => filtered(),
        "hung-mknod" => hung_memory(),
        "serve" => served(),
        "hung-path" => hung_path(),
        "hung-cwd" => hung_cwd(),
        other => panic!("{other}"),
    }
}

fn mount_call(source: u64, target: u64, kind: &str) -> String {
    call(libc::SYS_mount, [source, target, at(&text(kind)), libc::MS_NODEV, 0, 0])
}

/// Mounts at `/m` by the call itself.
fn mount() {
    let (source, target, missing) = (text("/work/image"), text("/m"), text("/no/such"));
    say(mount_call(at(&source), at(&target), "ext4"));
    say(mount_call(at(&source), at(&missing), "ext4"));
    say(mount_call(at(&text("")), at(&target), "ext4"));
    say(mount_call(at(&source), 8, "ext4"));
    say(mount_call(at(&text("-h")), at(&target), "ext4"));
}

/// Mounts under a filter more.
fn filtered() {
    let allow = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 }];
    let program = libc::sock_fprog { len: 1, filter: allow.as_ptr().cast_mut() };
    let arg = std::ptr::from_ref(&program) as u64;
    assert_eq!(call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0]), "0");
    assert_eq!(call(libc::SYS_seccomp, [1, 0, arg, 0, 0, 0]), "0");
    say(mount_call(at(&text("x")), at(&text("/m")), "leavefs"));
}

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const ACCESS: u32 = 34;

/// What the process that serves a file system is told.
const SERVE: &str = "STOCKADE_TEST_SERVE";

/// Has another process mount a FUSE file system that is one file or one directory. It leaves requests of the number `silent`
/// without an answer after `first` of them, and says so. Another process, as one that holds its own file system open and
/// waits for it can never end.
fn serve(target: &str, kind: u32, silent: u32, first: u32) {
    let mut server = std::process::Command::new(super::inside::PROGRAM);
    server.args(["--exact", "inside::entry", "--nocapture"]).env(super::inside::CASE, "serve");
    server.env(SERVE, format!("{target} {kind} {silent} {first}")).spawn().unwrap();
    let is_there = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(target);
    while !is_there() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn served() {
    let told = std::env::var(SERVE).unwrap();
    let (target, numbers) = told.split_once(' ').unwrap();
    let [kind, silent, first] =
        numbers.split(' ').map(|n| n.parse::<u32>().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode={kind:o},user_id=0,group_id=0,allow_other", device.as_raw_fd());
    let (name, target, data) = (text("fuse"), text(target), text(&data));
    let args = [at(&name), at(&target), at(&name), 0, at(&data), 0];
    assert_eq!(call(libc::SYS_mount, args), "0");
    let mut asked = 0;
    answer_all(device, kind, |opcode| {
        asked += u32::from(opcode == silent);
        opcode != silent || asked <= first
    });
}

/// `fuse(4)`.
fn answer_all(mut device: File, kind: u32, mut answers: impl FnMut(u32) -> bool) {
    let mut request = vec![0_u8; 1 << 20];
    loop {
        let n = device.read(&mut request).unwrap();
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let (opcode, unique) = (word(4), &request[8..16]);
        assert!(n >= 40);
        if !answers(opcode) {
            say(format_args!("asked {opcode}"));
            continue;
        }
        let mut body = Vec::new();
        let errno = match opcode {
            INIT => {
                body.extend([7_u32, 31, 4096, 0, 0, 4096].iter().flat_map(|w| w.to_ne_bytes()));
                body.resize(64, 0);
                0
            }
            GETATTR => {
                // An hour for the attributes; number and size of the file.
                body.extend([3600_u64, 0, 1, 4096].iter().flat_map(|w| w.to_ne_bytes()));
                body.resize(16 + 60, 0);
                body.extend([kind | 0o777, 1].iter().flat_map(|w| w.to_ne_bytes()));
                body.resize(104, 0);
                0
            }
            OPEN | OPENDIR => {
                body.resize(16, 0);
                0
            }
            ACCESS => 0,
            _ => -libc::ENOSYS,
        };
        let mut reply = (16 + body.len() as u32).to_ne_bytes().to_vec();
        reply.extend(errno.to_ne_bytes());
        reply.extend(unique);
        reply.extend(body);
        device.write_all(&reply).unwrap();
    }
}

/// Makes a call with an address in a file whose content never comes.
fn hung_memory() {
    std::fs::write("/file", "").unwrap();
    serve("/file", libc::S_IFREG, READ, 0);
    let file = File::open("/file").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4096);
    // SAFETY: a new mapping.
    let page = unsafe {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        libc::mmap(std::ptr::null_mut(), 4096, protection, flags, file.as_raw_fd(), 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    let page = page as u64;
    // The host's user is none of the file system's, so that the kernel asks nothing in its name: but it waits for what
    // another has asked for.
    // SAFETY: mapped above.
    std::thread::spawn(move || unsafe { (page as *const u8).read_volatile() });
    std::thread::sleep(Duration::from_millis(200));
    let all: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(move || say(call(libc::SYS_mknod, [page, CHR, NULL, 0, 0, 0]))))
        .collect();
    all.into_iter().for_each(|one| one.join().unwrap());
}

/// Makes a node in a directory where no name is ever found; beside it one elsewhere.
fn hung_path() {
    std::fs::create_dir("/dir").unwrap();
    serve("/dir", libc::S_IFDIR, LOOKUP, 0);
    std::thread::spawn(|| say(format_args!("hung {}", mknod("/dir/null", CHR, NULL))));
    std::thread::sleep(Duration::from_millis(200));
    for n in 0..20 {
        assert_eq!(mknod(&format!("/work/free-{n}"), CHR, NULL), "0");
    }
    say("free");
    std::process::exit(0);
}

/// Has something mounted from a working directory that nobody may enter any more.
fn hung_cwd() {
    std::fs::create_dir("/dir").unwrap();
    serve("/dir", libc::S_IFDIR, ACCESS, 1);
    std::env::set_current_dir("/dir").unwrap();
    say(mount_call(at(&text("x")), at(&text("/m")), "showfs"));
    std::process::exit(0);
}

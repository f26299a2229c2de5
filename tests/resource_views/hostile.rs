//! What root inside tries.

use super::{PATHS, in_limits, works};

/// Prints a line for each attempt: what it was, and how it went.
const ATTEMPTS: &str = r#"
import ctypes, errno, mmap, os, threading

def attempt(what, act):
    try:
        result = act()
        print(what, 'ok' if result is None else result)
    except OSError as e:
        print(what, errno.errorcode[e.errno])
    except ValueError as e:
        print(what, 'ValueError')

path = '/proc/meminfo'
fd = os.open(path, os.O_RDONLY)
whole = os.read(fd, 1 << 20)
attempt('middle', lambda: os.pread(fd, 10, 5) == whole[5:15])
attempt('end', lambda: len(os.pread(fd, 10, len(whole))))
attempt('far', lambda: len(os.pread(fd, 1 << 20, (1 << 63) - (1 << 21))))
attempt('huge', lambda: len(os.pread(fd, 64 << 20, 0)) == len(whole))
attempt('nothing', lambda: len(os.pread(fd, 0, 0)))
attempt('byte by byte', lambda: len(b''.join(os.pread(fd, 1, n) for n in range(len(whole)))) == len(whole))
for name, flags in [('write', os.O_WRONLY), ('both', os.O_RDWR), ('cut', os.O_WRONLY | os.O_TRUNC)]:
    attempt(name, lambda: os.open(path, flags))
attempt('truncate', lambda: os.truncate(path, 0))
attempt('chmod', lambda: os.chmod(path, 0o777))
attempt('chown', lambda: os.chown(path, 0, 0))
attempt('utime', lambda: os.utime(path))
attempt('unlink', lambda: os.unlink(path))
attempt('rename', lambda: os.rename(path, '/proc/x'))
attempt('setxattr', lambda: os.setxattr(path, 'user.x', b'1'))
attempt('getxattr', lambda: os.getxattr(path, 'user.x'))
attempt('listxattr', lambda: len(os.listxattr(path)))
attempt('shared map', lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ))
attempt('exec', lambda: os.execv(path, ['x']))
attempt('below', lambda: os.open(path + '/x', os.O_RDONLY))
attempt('seek', lambda: os.lseek(fd, 0, os.SEEK_END))
attempt('fsync', lambda: os.fsync(fd))
attempt('lock', lambda: os.lockf(fd, os.F_TEST, 0))
attempt('statvfs', lambda: os.statvfs(path).f_blocks)
import fcntl
attempt('ioctl', lambda: fcntl.ioctl(fd, 0x5401, b'\0' * 64))
import select
p = select.poll(); p.register(fd, select.POLLIN)
attempt('poll', lambda: len(p.poll(0)))
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags, data=None):
    if libc.mount(source, target, kind, flags, data) != 0:
        raise OSError(ctypes.get_errno(), 'mount')
attempt('remount', lambda: mount(b'none', path.encode(), None, 32))
attempt('fusectl', lambda: mount(b'none', b'/mnt', b'fusectl', 0))
attempt('/dev/fuse', lambda: os.open('/dev/fuse', os.O_RDWR))

import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
opened = []
def many():
    for n in range(3000):
        opened.append(os.open('/proc/stat', os.O_RDONLY))
attempt('many', many)
print('opened', len(opened))
for f in opened[:200]: os.read(f, 1 << 20)
for f in opened: os.close(f)
attempt('after', lambda: os.open('/proc/stat', os.O_RDONLY) > 0)

# Private pages of a file without a size: nothing is there to be seen, and whoever looks is told so.
pid = os.fork()
if pid == 0:
    m = mmap.mmap(os.open(path, os.O_RDONLY), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
    os._exit(m[0])
print('private map', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) < 0)

# Readers that are killed while they wait.
for n in range(50):
    pid = os.fork()
    if pid == 0:
        while True: open('/proc/stat').read()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
def read():
    for n in range(200): open('/proc/loadavg').read()
threads = [threading.Thread(target=read) for n in range(16)]
for t in threads: t.start()
for t in threads: t.join()
print('threads done')
"#;

#[test]
fn nothing_that_root_inside_tries_does_harm() {
    in_limits(|_, c| {
        let said = works(c, &format!("cat > /tmp/a.py <<'END'\n{ATTEMPTS}\nEND\npython3 /tmp/a.py"));
        let expected = [
            "middle True",
            "end 0",
            "far 0",
            "huge True",
            "nothing 0",
            "byte by byte True",
            "write EROFS",
            "both EROFS",
            "cut EROFS",
            "truncate EROFS",
            "chmod EROFS",
            "chown EROFS",
            "utime EROFS",
            "unlink EBUSY",
        ];
        let lines: Vec<&str> = said.lines().collect();
        for line in expected {
            assert!(lines.contains(&line), "{line}: {said}");
        }
        for (what, refusals) in [
            ("setxattr", &["EROFS", "EOPNOTSUPP"][..]),
            ("getxattr", &["EOPNOTSUPP", "ENODATA"]),
            ("shared map", &["ENODEV"]),
            ("exec", &["EACCES"]),
            ("below", &["ENOTDIR"]),
            ("ioctl", &["ENOTTY"]),
            ("remount", &["EPERM", "EACCES"]),
            ("fusectl", &["EPERM"]),
            ("/dev/fuse", &["ENOENT"]),
            ("many", &["ENFILE"]),
        ] {
            let found = lines.iter().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
            assert!(found.is_some_and(|found| refusals.contains(&found)), "{what}: {found:?} in {said}");
        }
        for line in ["opened 1023", "after True", "private map True", "threads done"] {
            assert!(lines.contains(&line), "{line}: {said}");
        }
        eprintln!("{} attempts", lines.len());
        // All is well with everybody else's.
        for path in PATHS {
            works(c, &format!("cat {path} > /dev/null"));
        }
    });
}

/// They inform and hide nothing: root inside may take them away from himself, and sees what is below.
#[test]
fn root_inside_can_unmount_them() {
    in_limits(|_, c| {
        let host = std::fs::read_to_string("/proc/meminfo").unwrap();
        let seen = works(c, "umount /proc/meminfo; cat /proc/meminfo");
        assert_eq!(super::meminfo(&seen, "MemTotal"), super::meminfo(&host, "MemTotal"));
        works(c, "cat /proc/stat > /dev/null");
    });
}

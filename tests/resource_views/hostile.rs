//! What root inside tries.

use super::{PATHS, in_limits, works};

const MAPS: &str = "STOCKADE_VIEWS_MAPS";

/// Prints a line for each attempt: what it was, and how it went.
const ATTEMPTS: &str = r#"
import errno, os, threading

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
attempt('/dev/fuse', lambda: os.open('/dev/fuse', os.O_RDWR))

opened = []
def many():
    for n in range(3000):
        opened.append(os.open('/proc/stat', os.O_RDONLY))
attempt('many', many)
print('opened', len(opened))
for f in opened[:200]: os.read(f, 1 << 20)
for f in opened: os.close(f)
attempt('after', lambda: os.open('/proc/stat', os.O_RDONLY) > 0)

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
        let said =
            works(c, &format!("cat > /tmp/a.py <<'END'\n{ATTEMPTS}\nEND\nulimit -n 4096; python3 /tmp/a.py"));
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
        ];
        let lines: Vec<&str> = said.lines().collect();
        for line in expected {
            assert!(lines.contains(&line), "{line}: {said}");
        }
        for (what, refusals) in [
            ("unlink", &["EBUSY", "EACCES", "EPERM"][..]),
            ("setxattr", &["EROFS"]),
            ("getxattr", &["ENOTSUP", "EOPNOTSUPP"]),
            ("exec", &["EACCES"]),
            ("below", &["ENOTDIR"]),
            ("ioctl", &["ENOTTY"]),
            ("/dev/fuse", &["ENOENT"]),
            ("many", &["ENFILE"]),
        ] {
            let found = lines.iter().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
            assert!(found.is_some_and(|found| refusals.contains(&found)), "{what}: {found:?} in {said}");
        }
        for line in ["opened 1023", "after True", "threads done"] {
            assert!(lines.contains(&line), "{line}: {said}");
        }
        eprintln!("{} attempts", lines.len());
        for script in ["mount -o remount,rw /proc/meminfo", "mount -t fusectl none /mnt"] {
            let (code, text) = super::rig::sh(c, script);
            assert_ne!(code, 0, "{script}: {text}");
        }
        // All is well with everybody else's.
        for path in PATHS {
            works(c, &format!("cat {path} > /dev/null"));
        }
    });
}

/// What the next test runs inside.
#[test]
fn maps() {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    if std::env::var_os(MAPS).is_none() {
        return;
    }
    let file = std::fs::File::open("/proc/meminfo").unwrap();
    // SAFETY: new mappings, at addresses that the kernel chooses; nobody else has them.
    let map = |flags| unsafe { mmap(std::ptr::null_mut(), 8192, ProtFlags::READ, flags, &file, 0) };
    println!("> shared {:?}", map(MapFlags::SHARED).err());
    let private = map(MapFlags::PRIVATE).unwrap().cast::<u8>();
    // SAFETY: the mapping has 8192 bytes; the text is in its first page.
    println!("> private {:?}", unsafe { std::slice::from_raw_parts(private, 8) } == b"MemTotal");
    println!("> past its end");
    // SAFETY: within the mapping. No page of the file is there: the kernel ends this process.
    let byte = unsafe { private.add(8000).read_volatile() };
    println!("> read {byte}");
}

#[test]
fn mapped_files_end_with_their_text() {
    use stockade::instance::{ExecOptions, Stdio};
    let Some(rig) = super::Rig::new() else { return };
    let Some(config) = super::debian("maps") else { return rig.end() };
    let program = stockade::container::Mount::bind(std::env::current_exe().unwrap(), "/test-program");
    let c = rig.run(config.mount(program).resource_views(stockade::container::ResourceViews::ALL));
    let run = ["/test-program", "--exact", "hostile::maps", "--nocapture"];
    let options = ExecOptions::new(run).env(MAPS, "1").stdout(Stdio::Piped).stderr(Stdio::Piped);
    let out = c.exec(options).unwrap().output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if errors.contains("GLIBC_") {
        support::skip("this program needs a newer C library than the Debian fixture has");
    } else {
        let said: Vec<&str> =
            text.lines().filter_map(|line| line.split_once("> ").map(|(_, said)| said)).collect();
        assert_eq!(said.len(), 3, "{text}{errors}");
        assert!(said[0].contains("code: 19"), "{text}");
        assert_eq!(said[1..], ["private true", "past its end"]);
        assert!(
            matches!(out.status, stockade::ExitStatus::Signaled { signal: libc::SIGBUS, .. }),
            "{text}{errors}"
        );
    }
    works(&c, "cat /proc/meminfo > /dev/null");
    super::end(c);
    rig.end();
}

/// They inform and hide nothing: root inside may take them away from himself, and sees what is below.
#[test]
fn root_inside_can_unmount_them() {
    in_limits(|_, c| {
        let host = std::fs::read_to_string("/proc/meminfo").unwrap();
        let seen = works(c, "umount /proc/meminfo; cat /proc/meminfo");
        assert_eq!(super::meminfo(&seen, "MemTotal"), super::meminfo(&host, "MemTotal"));
        works(c, "cat /proc/stat > /dev/null");

        // What a read takes, beside the machine's own file.
        let time = "python3 -c '
import time
for name in (\"meminfo\", \"stat\", \"uptime\"):
  begin = time.perf_counter()
  for n in range(500): open(\"/proc/\" + name).read()
  print(name, round((time.perf_counter() - begin) * 2000), \"us\")'";
        let own = works(c, time);
        works(c, "umount /proc/stat /proc/uptime");
        eprintln!("a read, with meminfo unmounted: {own:?}; with all unmounted: {:?}", works(c, time));
    });
}

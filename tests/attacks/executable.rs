//! The program that the host executes, as seen from inside.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use stockade::instance::ExecOptions;
use stockade::{Hold, Weaken};

use crate::inside::{HostFiles, found, release, say, task, victim};
use crate::rig::{Rig, end, sh};

/// The descriptor of this process for stage-2.
fn stage2() -> fs::File {
    let links = fs::read_dir("/proc/self/fd").unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> = links
        .filter(|path| {
            fs::read_link(path).is_ok_and(|t| t.to_string_lossy().contains("memfd:stockade-stage2"))
        })
        .collect();
    fs::File::open(found.pop().expect("the runtime has one")).unwrap()
}

fn content(mut file: &fs::File) -> Vec<u8> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The permission to be executed stays as it is.
const F_SEAL_EXEC: u32 = 0x20;

fn mode(file: &fs::File) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().unwrap().permissions().mode() & 0o777
}

/// **CVE-2019-5736** (runc). The image's program is a script whose interpreter is `/proc/self/exe`: the runtime's own
/// binary is executed inside, an attacker holds it by `/proc/PID/exe`, and writes to it when it has ended. Step: the
/// `execve` of the payload. Held by: what is executed is a sealed memfd, never a file of the host. There is no host
/// binary in any container that a weakened plan could show, so the comparison is with such a file: the same attacker
/// writes to one that it has a read-only descriptor of.
#[test]
fn cve_2019_5736_the_runtimes_program_cannot_be_overwritten() {
    let Some(rig) = Rig::new() else { return };
    let files = HostFiles::new();
    let program = files.path().join("runtime");
    fs::write(&program, "host's program").unwrap();
    let stage2 = stage2();
    let before = content(&stage2);
    assert!(before.starts_with(b"\x7fELF"));
    for privileged in [false, true] {
        let config = if privileged { victim("c").privileged() } else { victim("c") };
        let c = rig.run(config);
        // Step one of the attack: our program is executed as the image's.
        let script = "printf '#!/proc/self/exe\\n' > /bin/evil && chmod 755 /bin/evil";
        assert_eq!(sh(&c, script).0, 0);
        let mut ran = 0;
        for _ in 0..support::scaled(20) {
            ran += u32::from(c.exec(ExecOptions::new(["/bin/evil"])).unwrap().wait().is_ok());
        }
        // Step two, with more than an attacker could get by luck: a descriptor for it.
        let opened = stage2.as_fd().try_clone_to_owned().unwrap();
        let tried = found(c.exec(task("overwrite-stdin").stdin(opened)));
        assert!(tried.iter().any(|l| l.starts_with("target /memfd:stockade-stage2")), "{tried:?}");
        assert!(!tried.iter().any(|l| l.contains("true")), "{tried:?}");
        assert_eq!(content(&stage2), before);
        // Before Linux 6.3 there is no such seal, and root of the host may.
        let sealed = rustix::fs::fcntl_get_seals(&stage2).unwrap().bits() & F_SEAL_EXEC != 0;
        assert!(mode(&stage2) == 0o555 || (privileged && !sealed), "nor can it be made useless");
        // Held open for writing, nothing could be started from it.
        assert!(privileged || tried.iter().any(|l| l.starts_with("open Permission denied")), "{tried:?}");
        say(&format!("CVE-2019-5736: stage-2 executed as a script's interpreter {ran} times; {tried:?}"));
        // The same against a file of the host, which root of the host may write.
        let held = fs::File::open(&program).unwrap();
        let tried = found(c.exec(task("overwrite-stdin").stdin(held)));
        let overwritten = fs::read(&program).unwrap() != b"host's program";
        assert_eq!(overwritten, privileged, "{tried:?}");
        end(c);
    }
    files.assert_untouched(&["runtime"]);
    drop(stage2);
    drop(files);
    rig.end();
}

/// **CVE-2019-5736, the form of LXC**. The process that joins a container to run a command there is still the host's
/// program until it executes the command, and can be held by `/proc/PID/exe`. Step: between `setns` and `execve`. Held
/// twice: the joiner cannot be looked at, and its program is a sealed memfd. Without the first, the attacker gets hold of
/// the program, and the second holds; what a program without seals would come to is shown in the test above.
#[test]
fn cve_2019_5736_lxc_the_joiners_program_cannot_be_held_or_overwritten() {
    let Some(rig) = Rig::new() else { return };
    let stage2 = stage2();
    let before = content(&stage2);
    let c = rig.run(victim("c"));
    assert_eq!(sh(&c, "mkfifo -m 666 /hold").0, 0);
    let look = |weaken: &[Weaken]| {
        let watcher = c.exec(task("overwrite-exe-of-others")).unwrap();
        std::thread::scope(|s| {
            let watching = s.spawn(move || found(Ok(watcher)));
            std::thread::sleep(std::time::Duration::from_secs(1));
            let joining = s.spawn(|| {
                let mut options = ExecOptions::new(["true"]).weaken(Weaken::Wait(Hold::Joined));
                for w in weaken {
                    options = options.weaken(*w);
                }
                c.exec(options).unwrap().wait().unwrap()
            });
            std::thread::sleep(std::time::Duration::from_secs(1));
            release(&c);
            assert!(joining.join().unwrap().success());
            assert_eq!(sh(&c, "touch /stop").0, 0);
            let found = watching.join().unwrap();
            assert_eq!(sh(&c, "rm /stop").0, 0);
            found
        })
    };
    let held = look(&[]);
    assert!(held.contains(&"nothing to hold".to_owned()), "{held:?}");
    let open = look(&[Weaken::Dumpable]);
    assert!(open.iter().any(|l| l.starts_with("target /memfd:stockade-stage2")), "weakened: {open:?}");
    assert!(!open.iter().any(|l| l.contains("true")), "sealed all the same: {open:?}");
    assert_eq!(content(&stage2), before);
    end(c);
    drop(stage2);
    rig.end();
}

//! A second process that swaps directories and links for seconds, while commands run and archives are unpacked. Mounts
//! are in `mounts.rs`.

use std::fs;
use std::time::Instant;

use stockade::instance::{ExecOptions, Stdio};
use stockade::rootfs::Unpack;
use stockade::{ErrorKind, Weaken};

use crate::again;
use crate::host_files::archive;
use crate::inside::{HostFiles, SECRET, say, task, victim};
use crate::mounts::duration;
use crate::rig::{Rig, end, sh};

/// **Exec into a directory that is swapped** (the moment of CVE-2024-21626). The working directory of a command is at times
/// a directory, and at times a link to a descriptor of the joining process. Step: `chdir`. Held by: no such descriptor is
/// open then, and what was entered must lie below the root.
#[test]
fn a_working_directory_that_is_swapped_meanwhile() {
    let Some(rig) = Rig::new() else { return };
    let files = HostFiles::new();
    let c = rig.run(victim("c").privileged());
    let secret = files.secret();
    let climb = format!(
        "p=.; for i in 1 2 3 4 5 6 7 8 9 10; do cat $p{} 2>/dev/null && exit; p=$p/..; done; exit 1",
        secret.display()
    );
    // The cgroup's descriptor has one of the first numbers.
    assert_eq!(sh(&c, "mkdir /here; for n in 3 4 5 6 7 8; do ln -s /proc/self/fd/$n /link-$n; done").0, 0);
    let reached = |cwd: &str, weaken: Option<Weaken>| {
        let mut options = ExecOptions::new(["/bin/sh", "-c", &climb]).cwd(cwd).stdout(Stdio::Piped);
        if let Some(weaken) = weaken {
            options = options.weaken(weaken);
        }
        let out = c.exec(options).map(|p| p.output().unwrap());
        out.map(|out| String::from_utf8_lossy(&out.stdout).contains(SECRET))
    };
    // Which of them it is, told by the weakened plan.
    let links: Vec<String> = (3..9).map(|n| format!("/link-{n}")).collect();
    let link = links.iter().find(|link| matches!(reached(link, Some(Weaken::LateClose)), Ok(true)));
    let link = link.expect("weakened, one leads to the host");
    let swapping = c.exec(task(&format!("swap /here {link}"))).unwrap();
    let (mut rounds, mut refused) = (0, 0);
    let until = Instant::now() + duration();
    while Instant::now() < until {
        match reached("/here", None) {
            Ok(out) => assert!(!out, "the host's file was read"),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::InvalidConfig | ErrorKind::NotFound), "{e}");
                refused += 1;
            }
        }
        rounds += 1;
    }
    let mut weak = 0;
    let until = Instant::now() + std::time::Duration::from_secs(60);
    while !matches!(reached("/here", Some(Weaken::LateClose)), Ok(true)) {
        assert!(Instant::now() < until, "weakened, the host's file must be read: {weak} tried");
        weak += 1;
    }
    assert!(swapping.try_wait().unwrap().is_none(), "it still swaps");
    say(&format!(
        "exec into a swapped directory: {rounds} rounds, {refused} refused; weakened, after {weak}"
    ));
    drop(swapping);
    end(c);
    files.assert_untouched(&[]);
    drop(files);
    rig.end();
}

/// **Unpacking where somebody swaps directories**. The target of an archive belongs to a user who swaps a directory in it
/// with a link that leads out. Step: each member. Held by: members are made below directories that are held open, without
/// following links. The comparison makes them by their paths.
#[test]
fn an_archive_unpacked_where_directories_are_swapped() {
    const TEST: &str = "races::an_archive_unpacked_where_directories_are_swapped";
    if let Some(task) = again::role() {
        crate::attacker::run(&task);
        return;
    }
    let _serial = support::serial();
    let files = HostFiles::new();
    let place = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    let target = place.path().join("target");
    let names: Vec<String> = (0..64).map(|n| format!("dir/{n}")).collect();
    let mut members = vec![('5', "dir", "")];
    members.extend(names.iter().map(|name| ('0', name.as_str(), "")));
    let tar = archive(&members);
    fs::create_dir_all(target.join("dir")).unwrap();
    let swap = format!("replace {} {}", target.join("dir").display(), files.path().display());
    let quiet = std::process::Stdio::null;
    let swapping = again::command(&[], TEST, &swap).stdout(quiet()).stderr(quiet()).spawn().unwrap();
    let swapper = swapping.id();
    let swapping = Ends(swapping);
    let (mut rounds, mut refused) = (0, 0);
    let until = Instant::now() + duration();
    while Instant::now() < until {
        let into = Unpack::new().ids(stockade::rootfs::UnpackIds::AsIs);
        refused += usize::from(into.run(&*tar, &target).is_err());
        let _ = fs::remove_dir_all(&target);
        let _ = fs::create_dir(&target);
        rounds += 1;
    }
    files.assert_untouched(&[]);
    let mut weak = 0;
    let until = Instant::now() + std::time::Duration::from_secs(60);
    while fs::read_dir(files.path()).unwrap().count() == 1 {
        assert!(Instant::now() < until, "by paths, files must come to lie outside: {weak} tried");
        let _ = fs::create_dir_all(target.join("dir"));
        for name in &names {
            let _ = fs::write(target.join(name), "");
        }
        weak += 1;
    }
    drop(swapping);
    let mut kept = files.path().as_os_str().to_owned();
    kept.push(format!("-kept-{swapper}"));
    let _ = fs::remove_dir_all(kept);
    say(&format!("unpack beside a swap: {rounds} rounds, {refused} refused; by paths, {weak} were enough"));
}

/// A process that goes with its test, whatever comes of that.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

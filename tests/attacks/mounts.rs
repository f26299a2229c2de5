//! Images and volumes that lead mounts elsewhere: by links that are there, and by links that somebody puts there meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::libc;
use stockade::container::Mount;
use stockade::instance::StartOptions;
use stockade::{Error, Hold, Weaken};

use crate::inside::{HostFiles, Root, open_to_all, say, task, victim};
use crate::procfs::standing_still;
use crate::rig::{Rig, busybox, end, sh};

fn options(weaken: &[Weaken]) -> StartOptions {
    weaken.iter().fold(StartOptions::new(), |options, w| options.weaken(*w))
}

/// **CVE-2019-19921, CVE-2023-27561, CVE-2023-28642** (runc), and the first half of **CVE-2015-1335** (LXC). `/proc` of the
/// image is a link into a volume. procfs is mounted where it leads; then an accomplice in another container with the same
/// volume points it elsewhere, and what masks procfs, or writes sysctls and labels, works on files of the attacker's. In
/// the end procfs is there unmasked, or the program runs without its label. Step: the mount of procfs, and each path below
/// `/proc` later. Held by: while the base mounts are made the root's mount follows no links; and procfs is entered without
/// following one, and must be procfs.
#[test]
fn cve_2019_19921_cve_2023_27561_cve_2023_28642_proc_is_a_link() {
    let Some(rig) = Rig::new() else { return };
    let root = Root::new();
    fs::remove_dir(root.path().join("proc")).unwrap();
    for place in ["a/proc", "b/proc"] {
        fs::create_dir_all(root.path().join(place)).unwrap();
    }
    fs::write(root.path().join("b/proc/uptime"), "bait").unwrap();
    let accomplice = rig.run(busybox("accomplice").mount(Mount::bind(root.path(), "/vol").idmapped()));
    let point = |to: &str| assert_eq!(sh(&accomplice, &format!("ln -sfn {to}/proc /vol/proc")).0, 0);
    let try_it = |weaken: &[Weaken]| -> Result<String, Error> {
        point("a");
        let c =
            rig.runtime.create(root.container("c").masked_paths(["/proc/uptime"]).build().unwrap()).unwrap();
        let hold = weaken.contains(&Weaken::FollowLinks);
        let mut options = options(weaken);
        if hold {
            options = options.weaken(Weaken::Wait(Hold::Settings));
        }
        let started = std::thread::scope(|s| {
            let starting = s.spawn(|| c.start_with(options).map(drop));
            if hold {
                standing_still();
                point("b");
                root.release();
            }
            starting.join().unwrap()
        });
        point("a");
        let seen = started.map(|()| sh(&c, "cat /proc/uptime").1);
        end(c);
        seen
    };
    let e = try_it(&[]).unwrap_err();
    assert!(e.step() == "mount proc" && e.errno() == Some(libc::ELOOP), "{e}");
    let e = try_it(&[Weaken::FollowLinks]).unwrap_err();
    assert!(e.to_string().contains("enter a directory of the kernel `/proc`"), "{e}");
    let seen = try_it(&[Weaken::FollowLinks, Weaken::Unverified]).unwrap();
    assert!(seen.contains('.') && seen != "bait", "weakened, what is masked can be read: {seen}");
    end(accomplice);
    drop(root);
    rig.end();
}

/// **CVE-2019-16884** (runc). The image names `/proc` as a volume, or a place that a link of it leads there: what is
/// written to procfs, a label above all, goes into a file of the attacker's, and the program runs without it. Step: the
/// mount of the volume. Held by: no mount may cover procfs, whether it says so or a link does; and what is written to
/// procfs must be procfs.
#[test]
fn cve_2019_16884_a_volume_does_not_cover_procfs() {
    let Some(rig) = Rig::new() else { return };
    let root = Root::new();
    let volume = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    open_to_all(volume.path());
    let fake = volume.path().join("sys/kernel/msgmax");
    fs::create_dir_all(fake.parent().unwrap()).unwrap();
    fs::write(&fake, "bait").unwrap();
    for target in ["/proc", "/proc/", "/proc/sys", "/proc/self/attr", "//proc", "/./proc"] {
        let e = busybox("x").mount(Mount::bind(volume.path(), target)).build().unwrap_err();
        assert!(e.to_string().contains("mounts[0].target"), "{target}: {e}");
    }
    std::os::unix::fs::symlink("proc", root.path().join("volume")).unwrap();
    let try_it = |weaken: &[Weaken]| {
        let config = root.container("c").sysctl("kernel.msgmax", "4099");
        let config = config.mount(Mount::bind(volume.path(), "/volume").idmapped());
        let c = rig.runtime.create(config.build().unwrap()).unwrap();
        let started = c.start_with(options(weaken)).map(drop);
        end(c);
        (started, fs::read_to_string(&fake).unwrap())
    };
    let (started, found) = try_it(&[]);
    let e = started.unwrap_err();
    assert!(e.step() == "attach mount" && e.errno() == Some(libc::EXDEV) && found == "bait", "{e}");
    let (started, found) = try_it(&[Weaken::AnyTarget]);
    let e = started.unwrap_err();
    assert!(e.errno() == Some(libc::EXDEV) && e.to_string().contains("/proc") && found == "bait", "{e}");
    let (started, found) = try_it(&[Weaken::AnyTarget, Weaken::Unverified]);
    assert!(
        found.starts_with("4099"),
        "weakened, the kernel's setting goes to the attacker: {started:?} {found}"
    );
    drop((root, volume));
    rig.end();
}

/// A directory of the host into which everybody may write, so that permissions hold nothing.
fn open_files() -> HostFiles {
    let files = HostFiles::new();
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o777)).unwrap();
    files
}

/// **CVE-2021-30465, CVE-2024-45310** (runc), and the second half of **CVE-2015-1335** (LXC). The target of a mount lies
/// in a volume that another container shares, and leads through a link to the host: the mount, or the directory made for
/// it, comes about there. Step: look-up and making of the target. Held by: targets are looked up when the host's root is
/// not there any more, inside the container's root (`openat2`, `RESOLVE_IN_ROOT`), and mounted on by descriptor.
#[test]
fn cve_2021_30465_cve_2024_45310_cve_2015_1335_a_mount_target_leads_to_the_host() {
    let Some(rig) = Rig::new() else { return };
    let volume = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    open_to_all(volume.path());
    let mut tried = 0;
    for privileged in [false, true] {
        for link in [true, false] {
            let files = open_files();
            let up = if link { "../".repeat(9) } else { "/".to_owned() };
            let to = format!("{up}{}", files.path().strip_prefix("/").unwrap().display());
            let _ = fs::remove_file(volume.path().join("leads"));
            std::os::unix::fs::symlink(to, volume.path().join("leads")).unwrap();
            let start = |weaken: &[Weaken]| {
                let bind = Mount::bind(volume.path(), "/vol");
                let config = busybox("c").mount(bind).mount(Mount::tmpfs("/vol/leads/made/by/it"));
                let config = if privileged { config.privileged() } else { config };
                let c = rig.runtime.create(config.build().unwrap()).unwrap();
                let started = c.start_with(options(weaken)).map(drop);
                end(c);
                started
            };
            // Inside, the directories that the link names are not there: they are made there, or it is refused.
            let started = start(&[]);
            files.assert_untouched(&[]);
            tried += 1;
            if link {
                let weak = start(&[Weaken::LateDetach]);
                let made = files.path().join("made").exists();
                assert!(made, "weakened, directories are made on the host: {started:?} {weak:?}");
            }
        }
    }
    say(&format!("mount targets that lead to the host: {tried} tried"));
    drop(volume);
    rig.end();
}

/// The same with a link that is there only at times: a process in a container that shares the volume swaps it with a
/// directory as fast as it can, while containers start that mount below it. CVE-2021-30465 is about that moment.
#[test]
fn mount_targets_that_are_swapped_meanwhile() {
    let Some(rig) = Rig::new() else { return };
    let volume = tempfile::Builder::new().prefix("stockade-test-").tempdir().unwrap();
    open_to_all(volume.path());
    let files = open_files();
    fs::create_dir(volume.path().join("here")).unwrap();
    let to = format!("{}{}", "../".repeat(9), files.path().strip_prefix("/").unwrap().display());
    std::os::unix::fs::symlink(to, volume.path().join("there")).unwrap();
    let accomplice = rig.run(victim("accomplice").mount(Mount::bind(volume.path(), "/vol").idmapped()));
    let swapping = accomplice.exec(task("swap /vol/here /vol/there")).unwrap();
    let round = |n: usize, weaken: &[Weaken]| {
        let config = busybox("c").mount(Mount::bind(volume.path(), "/vol"));
        let config = config.mount(Mount::tmpfs(format!("/vol/here/made-{n}"))).privileged();
        let c = rig.runtime.create(config.build().unwrap()).unwrap();
        let started = c.start_with(options(weaken));
        let outcome = started.as_ref().map(drop).map_err(|e| e.errno());
        end(c);
        outcome
    };
    let (mut rounds, mut refused) = (0, 0);
    let until = Instant::now() + duration();
    while Instant::now() < until {
        refused += usize::from(round(rounds, &[]).is_err());
        rounds += 1;
    }
    files.assert_untouched(&[]);
    let mut weak = 0;
    let until = Instant::now() + Duration::from_secs(60);
    while fs::read_dir(files.path()).unwrap().count() == 1 {
        assert!(Instant::now() < until, "weakened, a directory must be made on the host: {weak} tried");
        let _ = round(rounds + weak, &[Weaken::LateDetach]);
        weak += 1;
    }
    assert!(swapping.try_wait().unwrap().is_none(), "it still swaps");
    say(&format!(
        "mounts below a swapped directory: {rounds} starts, {refused} refused; weakened, {weak} were enough"
    ));
    drop(swapping);
    end(accomplice);
    drop((volume, files));
    rig.end();
}

/// How long a race is run. The emulated machine has few rounds in it.
pub(crate) fn duration() -> Duration {
    Duration::from_secs(3)
}

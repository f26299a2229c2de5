//! The helper that does lists of system calls.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;

use crate::seccomp::hands::{Arg, Batch, Done, Hands, Identity};
use crate::spawn::{Helper, Stage2, Strategy};

const SECOND: Duration = Duration::from_secs(10);

/// Runs `test` with a helper of each kind, where there can be one.
fn with_helper(test: impl Fn(&mut Helper)) {
    if let Err(why) = support::privilege() {
        return support::skip(why);
    }
    let stage2 = Stage2::new().unwrap();
    for strategy in [Strategy::Exec(&stage2), Strategy::Fork] {
        test(&mut Helper::start(strategy).unwrap());
    }
}

#[test]
fn it_does_what_it_is_told_and_nothing_after_a_failure() {
    with_helper(|helper| {
        let mut batch = Batch::new(1);
        let (missing, here) = (batch.text(b"/missing"), batch.text(b"."));
        let room = batch.room(64);
        let given = batch.call(libc::SYS_fchdir, &[Arg::Slot(1)]);
        let cwd = batch.call(libc::SYS_getcwd, &[room, 64_u64.into()]);
        let may = batch.attempt(libc::SYS_chdir, &[missing]);
        let (opened, dir) = batch.open(libc::SYS_openat, &[libc::AT_FDCWD.into(), here, libc::O_PATH.into()]);
        let fails = batch.call(libc::SYS_chdir, &[missing]);
        let skipped = batch.call(libc::SYS_getpid, &[]);
        let always = batch.undo(libc::SYS_fchdir, &[crate::seccomp::hands::HOME]);
        batch.send_back(dir);
        let root = std::fs::File::open("/").unwrap();
        let done = helper.run(&batch, &[root.as_fd()], SECOND).unwrap();
        assert!(matches!(done.step(given), Some(Ok(0))));
        // The host's root is not in its mount namespace.
        assert!(
            matches!(done.step(cwd), Some(Ok(1..))) && done.out.starts_with(b"(unreachable)"),
            "{done:?}"
        );
        assert_eq!(done.step(may), Some(Err(Errno::NOENT)));
        assert!(matches!(done.step(opened), Some(Ok(3..))), "{done:?}");
        assert_eq!(done.step(fails), Some(Err(Errno::NOENT)));
        assert_eq!(done.step(skipped), None);
        assert_eq!(done.step(always), Some(Ok(0)));
        assert_eq!(done.up_to(fails), Err(Errno::NOENT));
        assert!(done.fd.is_some());
    });
}

#[test]
fn descriptors_do_not_add_up() {
    with_helper(|helper| {
        let fds = |helper: &Helper| std::fs::read_dir(format!("/proc/{}/fd", helper.pid())).unwrap().count();
        let before = fds(helper);
        let root = std::fs::File::open("/").unwrap();
        for _ in 0..100 {
            let mut batch = Batch::new(2);
            let here = batch.text(b".");
            batch.open(libc::SYS_openat, &[libc::AT_FDCWD.into(), here, libc::O_PATH.into()]);
            helper.run(&batch, &[root.as_fd(), root.as_fd()], SECOND).unwrap();
        }
        // It closes them after it has answered.
        support::until(SECOND, "the last ones are closed", || fds(helper) == before);
    });
}

#[test]
fn one_that_hangs_or_is_lost_is_of_no_more_use() {
    with_helper(|helper| {
        let mut batch = Batch::new(0);
        let long = batch.bytes(&[100_u64.to_ne_bytes(), 0_u64.to_ne_bytes()].concat());
        batch.call(libc::SYS_nanosleep, &[long, Arg::Number(0)]);
        assert_eq!(helper.run(&batch, &[], Duration::from_millis(20)).unwrap_err(), Errno::TIMEDOUT);
        assert_eq!(helper.run(&Batch::new(0), &[], SECOND).unwrap_err(), Errno::PIPE);
    });
    with_helper(|helper| {
        let mut batch = Batch::new(0);
        batch.undo(libc::SYS_fchdir, &[Arg::from(-1)]);
        assert_eq!(helper.run(&batch, &[], SECOND).unwrap_err(), Errno::IO);
    });
}

/// What it is, as it sees it: fsuid, fsgid, supplementary groups, effective capabilities.
fn looks(helper: &Helper) -> (u32, u32, Vec<u32>, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", helper.pid())).unwrap();
    let line = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let id = |key| line(key)[3].parse().unwrap();
    let groups = line("Groups:").iter().map(|g| g.parse().unwrap()).collect();
    (id("Uid:"), id("Gid:"), groups, u64::from_str_radix(&line("CapEff:")[0], 16).unwrap())
}

/// A list that asks for the user and group that count for files.
fn ask(helper: &mut Helper, identity: Option<&Identity>) -> Done {
    let mut batch = Batch::new(0);
    if let Some(identity) = identity {
        batch.act_as(identity.clone());
    }
    batch.call(libc::SYS_setfsuid, &[Arg::from(-1)]);
    batch.call(libc::SYS_setfsgid, &[Arg::from(-1)]);
    helper.run(&batch, &[], SECOND).unwrap()
}

#[test]
fn each_list_is_done_as_whom_it_says() {
    with_helper(|helper| {
        let chroot = 1 << 18;
        let first = Identity { fsuid: 1_000_007, fsgid: 1_000_008, groups: vec![3, 5], effective: chroot };
        let second = Identity { fsuid: 1_000_000, groups: Vec::new(), effective: 0, ..first.clone() };
        let all = helper.permitted();
        let mut lists = 0;
        // Each after each other, and after itself.
        for identity in
            [None, Some(&first), Some(&second), None, Some(&second), Some(&first), Some(&first), None, None]
        {
            let done = ask(helper, identity);
            let own = Identity::own(all);
            let Identity { fsuid, fsgid, groups, effective } = identity.unwrap_or(&own);
            assert_eq!(done.results, [Some(Ok((*fsuid).into())), Some(Ok((*fsgid).into()))]);
            assert_eq!(looks(helper), (*fsuid, *fsgid, groups.clone(), *effective));
            lists += 1;
        }
        // One that fails half way leaves it what it was to be, and the next one is right.
        let mut batch = Batch::new(0);
        let missing = batch.text(b"/missing");
        batch.act_as(first.clone());
        batch.call(libc::SYS_chdir, &[missing]);
        assert!(helper.run(&batch, &[], SECOND).unwrap().up_to(0).is_err());
        assert_eq!(ask(helper, None).results[0], Some(Ok(0)));
        assert_eq!(lists, 9);
    });
}

#[test]
fn one_that_cannot_be_whom_it_is_to_be_does_nothing_and_is_of_no_more_use() {
    // A group and a user that cannot be: the one is refused, of the other the kernel says nothing.
    let own = Identity::own(0);
    let refused = Identity { groups: vec![u32::MAX], ..own.clone() };
    let ignored = Identity { fsuid: u32::MAX, ..own };
    for (identity, nothing) in [(refused, true), (ignored, false)] {
        with_helper(|helper| {
            let mut batch = Batch::new(0);
            let name = batch.text(b"made");
            batch.act_as(Identity { effective: helper.permitted(), ..identity.clone() });
            batch.call(libc::SYS_mkdir, &[name, 0o700_u32.into()]);
            let made = std::path::PathBuf::from(format!("/proc/{}/root/made", helper.pid()));
            assert_eq!(helper.run(&batch, &[], SECOND).unwrap_err(), Errno::IO);
            assert!(!nothing || !made.exists());
            assert_eq!(helper.run(&Batch::new(0), &[], SECOND).unwrap_err(), Errno::PIPE);
        });
    }
}

//! Callers that change what they are from call to call: each call is made as what its caller is at the time.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use stockade::seccomp::{Interception, Nodes};

use super::calls::in_debian;
use super::inside::{self, CHR, NULL, call, mknod, say};

const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const MKNOD: u64 = 1 << 27;

#[test]
fn each_call_is_made_as_what_its_caller_is_then() {
    let expected = [
        "own 0 644 0:0",
        "group 0 644 0:5",
        "own again 0 644 0:0",
        "by a group 0 644 0:0",
        "without the group EACCES",
        "mask 0 600 0:0",
        "without the capability EPERM",
        "user 0 644 7:0",
        "user elsewhere EACCES",
        "own at last 0 644 0:0",
        "shut 0 644 0:0",
    ];
    for nodes in [Nodes::Plain, Nodes::Usable] {
        in_debian(&Interception::new().mknod(nodes), |c, _| {
            let Some(said) = inside::run(c, "turns") else { return };
            assert_eq!(said, expected, "{nodes:?}");
            eprintln!("{nodes:?}: {} callers", said.len());
        });
    }
}

/// Makes a node in `dir`, says how that went and whose it is, and removes it.
fn make(what: &str, dir: &str) {
    let path = format!("{dir}/{}", what.replace(' ', "-"));
    let result = mknod(&path, CHR, NULL);
    if result != "0" {
        return say(format_args!("{what} {result}"));
    }
    let meta = std::fs::symlink_metadata(&path).unwrap();
    say(format_args!("{what} 0 {:o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid()));
}

/// Uses all capabilities that it may use but these.
fn use_all_but(none: u64) {
    let mut header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    assert_eq!(
        call(libc::SYS_capget, [header.as_mut_ptr() as u64, data.as_mut_ptr() as u64, 0, 0, 0, 0]),
        "0"
    );
    (data[0], data[3]) = (data[1] & !(none as u32), data[4] & !((none >> 32) as u32));
    assert_eq!(call(libc::SYS_capset, [header.as_ptr() as u64, data.as_ptr() as u64, 0, 0, 0, 0]), "0");
}

fn groups(groups: &[u32]) {
    let args = [groups.len() as u64, groups.as_ptr() as u64, 0, 0, 0, 0];
    assert_eq!(call(libc::SYS_setgroups, args), "0");
}

fn number(nr: i64, n: u64) {
    call(nr, [n, 0, 0, 0, 0, 0]);
}

pub(super) fn turns() {
    for (dir, mode, owner) in [("all", 0o777, 0), ("theirs", 0o070, 7), ("own", 0o755, 0)] {
        std::fs::create_dir(dir).unwrap();
        std::os::unix::fs::chown(dir, Some(owner), Some(if owner == 0 { 0 } else { 9 })).unwrap();
        std::fs::set_permissions(dir, PermissionsExt::from_mode(mode)).unwrap();
    }
    let directories = DAC_OVERRIDE | DAC_READ_SEARCH;
    number(libc::SYS_umask, 0o022);
    make("own", "all");
    number(libc::SYS_setfsgid, 5);
    make("group", "all");
    number(libc::SYS_setfsgid, 0);
    make("own again", "all");
    groups(&[9]);
    use_all_but(directories);
    make("by a group", "theirs");
    use_all_but(0);
    groups(&[]);
    use_all_but(directories);
    make("without the group", "theirs");
    use_all_but(0);
    number(libc::SYS_umask, 0o077);
    make("mask", "all");
    number(libc::SYS_umask, 0o022);
    use_all_but(MKNOD);
    make("without the capability", "all");
    number(libc::SYS_setfsuid, 7);
    // That takes some away.
    use_all_but(directories);
    make("user", "all");
    make("user elsewhere", "own");
    number(libc::SYS_setfsuid, 0);
    use_all_but(0);
    make("own at last", "own");
    // A root that it cannot search but by a capability.
    std::fs::set_permissions("theirs", PermissionsExt::from_mode(0o000)).unwrap();
    assert_eq!(call(libc::SYS_chroot, [c"theirs".as_ptr() as u64, 0, 0, 0, 0, 0]), "0");
    make("shut", "");
}

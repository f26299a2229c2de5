//! Where ids, programs, or user namespaces are missing.

use stockade::ErrorKind;
use stockade::Rootfs;
use stockade::container::IdMapConfig;
use stockade::idmap::IdMap;

use crate::rig::*;

/// Everything that needs one id alone works.
fn has_one_id(rig: &Rig, own: u32) {
    let c = rig.run(rig.dir("x"));
    assert_eq!(c.info().unwrap().id_map, Some(IdMap::single(own.into(), own.into()).unwrap()));
    assert_eq!(sh(&c, "awk '{print $1, $2, $3}' /proc/self/uid_map"), format!("0 {own} 1"));
    assert_eq!(sh(&c, "cat /proc/self/setgroups; touch /new && rm /new; stat -c %u /etc"), "deny\n0");
    c.stop().unwrap();
    c.start().unwrap();
    end(c);
    let c = rig.run(rig.container("x", Rootfs::overlay([rig.dir.join("root")])));
    assert_eq!(sh(&c, "touch /etc/new && stat -c %u /etc/new"), "0");
    end(c);
}

#[test]
fn without_ids_or_programs_there_is_one_id() {
    let none = Around { delegated: false, ..WITH_RANGES };
    as_user("one_id::without_ids_or_programs_there_is_one_id", none, |rig| has_one_id(rig, UID));
}

#[test]
fn without_the_programs_there_is_one_id() {
    let hidden = Around { before: "mount --bind /dev/null /usr/bin/newgidmap", ..WITH_RANGES };
    as_user("one_id::without_the_programs_there_is_one_id", hidden, |rig| {
        has_one_id(rig, UID);
        let e = rig.refuses(rig.dir("x").idmap(whole_map()));
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        assert!(e.to_string().contains("newgidmap is not installed"), "{e}");
    });
}

#[test]
fn where_set_id_programs_have_no_effect_there_is_one_id() {
    let become_user = format!("{SETPRIV} --no-new-privs");
    let around = Around { become_user: &become_user, ..WITH_RANGES };
    as_user("one_id::where_set_id_programs_have_no_effect_there_is_one_id", around, |rig| {
        has_one_id(rig, UID);
        let e = rig.refuses(rig.dir("x").idmap(whole_map()));
        assert!(e.to_string().contains("no_new_privs"), "{e}");
    });
}

#[test]
fn one_id_when_asked_for() {
    as_user("one_id::one_id_when_asked_for", WITH_RANGES, |rig| {
        let c = rig.run(rig.dir("x").idmap(IdMapConfig::SingleUser));
        assert_eq!(c.info().unwrap().id_map, Some(single()));
        end(c);
    });
}

#[test]
fn root_of_a_namespace_with_one_id() {
    for unshare in ["unshare -r", "unshare -rm"] {
        let become_user = format!("{SETPRIV} {unshare}");
        let around = Around { become_user: &become_user, ..WITH_RANGES };
        as_user("one_id::root_of_a_namespace_with_one_id", around, |rig| {
            assert!(rustix::process::geteuid().is_root());
            has_one_id(rig, 0);
        });
    }
}

#[test]
fn a_sysctl_that_forbids_user_namespaces_is_named() {
    let become_user =
        format!("{SETPRIV} unshare -r sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"' sh");
    let around = Around { become_user: &become_user, ..WITH_RANGES };
    as_user("one_id::a_sysctl_that_forbids_user_namespaces_is_named", around, |rig| {
        let e = rig.refuses(rig.dir("x"));
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        assert!(e.to_string().contains("user.max_user_namespaces is 0"), "{e}");
    });
}

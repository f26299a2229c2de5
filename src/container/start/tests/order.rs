//! The rules of order. Each holds for every plan, whatever its golden file says.

use super::{Built, all};

/// The ops of one plan.
struct Ops<'a> {
    built: &'a Built,
    /// Name and arguments.
    lines: Vec<(&'a str, &'a str)>,
}

/// What changes the mounts or the files that the container sees.
const MOUNTS: [&str; 15] = [
    "propagation",
    "open_tree",
    "mount_setattr",
    "move_mount",
    "pivot_root",
    "detach_top",
    "mount",
    "mount_top",
    "read_only",
    "mask",
    "fsopen",
    "fsmount",
    "attach",
    "mknod",
    "symlink",
];

impl<'a> Ops<'a> {
    fn of(built: &'a Built) -> Self {
        let lines = built.text.lines().map(|line| {
            let line = line.trim_start().split_once(' ').unwrap().1;
            line.split_once(' ').unwrap_or((line, ""))
        });
        Self { built, lines: lines.collect() }
    }

    fn places(&self, name: &str, args: &str) -> Vec<usize> {
        let at = |(i, (n, a)): (usize, &(&str, &str))| (*n == name && a.contains(args)).then_some(i);
        self.lines.iter().enumerate().filter_map(at).collect()
    }

    fn first(&self, name: &str, args: &str) -> Option<usize> {
        self.places(name, args).first().copied()
    }

    fn last(&self, name: &str, args: &str) -> Option<usize> {
        self.places(name, args).last().copied()
    }

    #[track_caller]
    fn one(&self, name: &str) -> usize {
        let places = self.places(name, "");
        assert_eq!(places.len(), 1, "{}: {name}\n{}", self.built.name, self.built.text);
        places[0]
    }

    #[track_caller]
    fn before(&self, first: usize, second: usize) {
        assert!(
            first < second,
            "{}: {:?} has to come before {:?}\n{}",
            self.built.name,
            self.lines[first],
            self.lines[second],
            self.built.text
        );
    }

    fn last_mount(&self) -> usize {
        self.lines.iter().rposition(|(name, _)| MOUNTS.contains(name)).unwrap()
    }

    /// The payload's own ids, where they are not root's.
    fn user(&self) -> Option<usize> {
        let root = self.first("set_ids", "uid=0 gid=0");
        self.places("set_ids", "").into_iter().find(|i| Some(*i) != root)
    }
}

/// Runs the check on every plan, and wants it to have something to say of at least `min` of them.
#[track_caller]
fn each(min: usize, check: impl Fn(&Ops<'_>) -> Option<()>) {
    let all = all();
    let held = all.iter().filter(|built| check(&Ops::of(built)).is_some()).count();
    assert!(held >= min, "the rule was looked at in {held} plans");
}

#[test]
fn ids_change_after_all_mounts() {
    each(10, |ops| {
        ops.before(ops.last_mount(), ops.one("marker"));
        Some(())
    });
    each(1, |ops| {
        let user = ops.user()?;
        ops.before(ops.last_mount(), user);
        ops.before(ops.one("close_others"), user);
        Some(())
    });
}

#[test]
fn the_bounding_set_goes_before_the_ids_and_the_capabilities_after() {
    each(10, |ops| {
        ops.before(ops.one("bounding_set"), ops.one("caps"));
        Some(())
    });
    each(1, |ops| {
        let user = ops.user()?;
        ops.before(ops.one("bounding_set"), user);
        ops.before(user, ops.one("caps"));
        // PR_SET_KEEPCAPS: without it the ambient set could not be raised any more.
        ops.before(ops.first("prctl", "option=8 ")?, user);
        Some(())
    });
}

#[test]
fn a_filter_comes_where_it_can_still_be_installed_and_hinders_nothing() {
    const NO_NEW_PRIVS: &str = "option=38 ";
    each(1, |ops| {
        let set = ops.first("prctl", NO_NEW_PRIVS)?;
        assert!(ops.built.config.has_no_new_privs());
        ops.before(ops.one("caps"), ops.one("seccomp"));
        ops.before(set, ops.one("seccomp"));
        Some(())
    });
    each(9, |ops| {
        if ops.first("prctl", NO_NEW_PRIVS).is_some() {
            return None;
        }
        assert!(!ops.built.config.has_no_new_privs());
        // It takes CAP_SYS_ADMIN, which the capabilities below take away.
        ops.before(ops.one("seccomp"), ops.one("caps"));
        Some(())
    });
}

#[test]
fn nothing_of_the_host_is_open_once_the_payload_may_be_looked_at() {
    each(10, |ops| {
        ops.before(ops.one("marker"), ops.one("close_others"));
        ops.before(ops.one("close_others"), ops.one("exec"));
        ops.before(ops.last("dup_to", "")?, ops.one("close_others"));
        Some(())
    });
    each(2, |ops| {
        ops.before(ops.one("close_others"), ops.first("working_dir", "")?);
        Some(())
    });
}

#[test]
fn the_old_root_goes_after_what_needs_it() {
    each(10, |ops| {
        let pivoted = ops.one("pivot_root");
        let detached = ops.places("detach_top", "").into_iter().find(|at| *at > pivoted)?;
        ops.before(ops.last("mount_top", "")?, detached);
        for after_pivot in ["mount_top", "mount", "mknod", "symlink"] {
            if let Some(first) = ops.first(after_pivot, "") {
                ops.before(ops.one("pivot_root"), first);
            }
        }
        // With the old root over `/`, a link of the image with `..` in it could lead there.
        for follows_links in ["attach", "mask", "write_file"] {
            let inside = ops.places(follows_links, "").into_iter();
            let first = inside.filter(|at| *at > ops.one("pivot_root")).min();
            if let Some(first) = first.filter(|_| ops.built.config.rootfs() != &crate::Rootfs::Host) {
                ops.before(detached, first);
            }
        }
        ops.before(detached, ops.first("read_only", "")?);
        ops.before(detached, ops.one("setsid"));
        Some(())
    });
    // The scratch place of an overlay goes first, or the last one would take it and leave the host's root.
    each(1, |ops| {
        ops.first("fsopen", "overlay")?;
        let places = ops.places("detach_top", "");
        assert_eq!(places.len(), 2);
        ops.before(places[0], ops.one("pivot_root"));
        Some(())
    });
}

/// What is over the root while they are opened is gone before anything is looked up again; a mask covers them.
#[test]
fn resource_views_are_taken_from_a_mount_that_goes() {
    each(1, |ops| {
        let opened = ops.places("open_tree", "path=meminfo").first().copied()?;
        let (over, last) = (ops.last("move_mount", "to=/")?, ops.last("open_tree", "")?);
        let gone = ops.last("detach_top", "")?;
        let lookups = ["enter_kernel", "mask", "read_only"].map(|name| ops.places(name, ""));
        ops.before(over, opened);
        ops.before(last, gone);
        assert!(!lookups.concat().iter().any(|at| (over..gone).contains(at)), "{}", ops.built.text);
        ops.before(gone, ops.first("move_mount", "to=meminfo")?);
        ops.before(ops.last("move_mount", "")?, ops.first("mask", "")?);
        Some(())
    });
}

#[test]
fn the_mounts_are_private_before_the_first_change() {
    each(10, |ops| {
        let private = ops.first("propagation", "on=/ ")?;
        for change in ["move_mount", "mount", "mount_top", "attach"] {
            if let Some(first) = ops.first(change, "") {
                ops.before(private, first);
            }
        }
        Some(())
    });
}

#[test]
fn the_program_comes_last() {
    each(10, |ops| {
        assert_eq!(ops.one("exec"), ops.lines.len() - 1);
        ops.before(ops.one("reset_signals"), ops.one("marker"));
        Some(())
    });
}

#[test]
fn root_of_a_user_namespace_comes_first() {
    each(8, |ops| {
        let root = ops.first("set_ids", "uid=0 gid=0")?;
        // Joining, and clocks that stand once a process has ids, are all that may come before.
        let before = [
            "prctl",
            "setns",
            "clone_sibling",
            "barrier",
            "unshare",
            "enter_kernel",
            "write_file",
            "keyring",
        ];
        for (name, args) in &ops.lines[..root] {
            assert!(before.contains(name), "{}: {name} {args}", ops.built.name);
        }
        ops.before(root, ops.one("clear_ambient"));
        Some(())
    });
    each(2, |ops| {
        assert!(ops.built.config.is_privileged() != ops.first("set_ids", "uid=0").is_some());
        ops.built.config.is_privileged().then_some(())
    });
}

#[test]
fn modes_of_nodes_are_not_cut_by_a_mask() {
    each(10, |ops| {
        let zero = ops.first("umask", "mask=0")?;
        for name in ["mknod", "mkdir", "create_file"] {
            if let Some(first) = ops.first(name, "") {
                ops.before(zero, first);
            }
        }
        ops.before(ops.last_mount(), ops.last("umask", "mask=22")?);
        Some(())
    });
}

#[test]
fn namespaces_of_others_are_joined_by_a_process_that_hides_its_memory() {
    each(1, |ops| {
        let joins = ops.places("setns", "");
        let first = *joins.first()?;
        // PR_SET_DUMPABLE.
        assert_eq!(ops.first("prctl", "option=4 value=0"), Some(0));
        ops.before(0, first);
        // With the user namespace come the rights over the others.
        assert!(ops.lines[first].1.contains("kinds=0x10000000"), "{:?}", ops.lines[first]);
        let clone = ops.one("clone_sibling");
        ops.before(*joins.last()?, clone);
        assert_eq!(ops.one("barrier"), clone + 1, "limits are written before the sibling goes on");
        Some(())
    });
}

#[test]
fn what_is_relative_is_looked_up_from_a_verified_place() {
    let mut looked_at = 0;
    for built in all() {
        let ops = Ops::of(&built);
        let (mut verified, mut is_pivoted) = (false, false);
        for (name, args) in &ops.lines {
            match *name {
                "enter_kernel" => verified = true,
                "pivot_root" => is_pivoted = true,
                "chdir" | "fchdir" | "detach_top" => verified = false,
                "move_mount" if is_pivoted && !args.contains(" to=/") => assert!(verified, "{args}"),
                "mask" | "read_only" | "write_file" if !args.starts_with("path=/") => {
                    assert!(verified, "{}: {name} {args}\n{}", built.name, built.text);
                    looked_at += 1;
                }
                "mask" | "read_only" => assert!(
                    !args.starts_with("path=/proc") && !args.starts_with("path=/sys"),
                    "{}: {name} {args}",
                    built.name
                ),
                _ => {}
            }
        }
    }
    assert!(looked_at > 50, "{looked_at}");
}

#[test]
fn the_keyring_counts_for_the_hosts_user() {
    each(10, |ops| {
        let keyring = ops.one("keyring");
        match ops.first("set_ids", "") {
            Some(ids) => ops.before(keyring, ids),
            None => ops.before(keyring, ops.one("pivot_root")),
        }
        Some(())
    });
}

#[test]
fn each_bound_device_is_checked_at_once() {
    each(5, |ops| {
        let nodes = ["null", "zero", "full", "random", "urandom", "tty"];
        let bound = |node: &&str| ops.first("mount", &format!("target=/dev/{node} flags"));
        let bound: Vec<usize> = nodes.iter().filter_map(bound).collect();
        for at in &bound {
            assert_eq!(ops.lines[at + 1].0, "check_device", "{}", ops.built.text);
        }
        (bound.len() == nodes.len()).then_some(())
    });
}

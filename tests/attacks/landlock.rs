//! Landlock rules: in force for everybody inside, and for all that is executed.

use stockade::ErrorKind;
use stockade::container::{Container, ContainerBuilder};
use stockade::process::{FileAccess, Landlock};

use crate::inside::{HostFiles, say};
use crate::rig::{Rig, busybox, end, sh};

/// Everything can be read and executed; one directory and the null device can be written.
fn rules() -> Landlock {
    let null = FileAccess::READ.union(FileAccess::WRITE_FILE).union(FileAccess::TRUNCATE);
    Landlock::new().allow("/", FileAccess::RUN).allow("/tmp", FileAccess::ALL).allow("/dev/null", null)
}

fn denied(c: &Container) -> Vec<&'static str> {
    let tries = [
        "echo x > /etc/new",
        "echo x >> /etc/passwd",
        "rm /etc/passwd",
        "mkdir /new",
        "ln -s /x /etc/link",
        "mount -t tmpfs none /mnt",
        "sh -c 'sh -c \"echo x > /var/new\"'",
        // Out of the directory, and by a link in it.
        "echo x > /tmp/../etc/new",
        "ln -sf /etc/new /tmp/link && echo x > /tmp/link",
        "mv /tmp/file /etc/file",
    ];
    assert_eq!(sh(c, "echo y > /tmp/file && cat /tmp/file && echo z > /dev/null").1, "y");
    tries.into_iter().filter(|script| sh(c, script).0 != 0).collect()
}

/// **A program that has become root, or found a hole in another lock**, can do to files what the rules allow and no more;
/// neither can a command of exec, nor what these execute. Step: before the program. Held by: `landlock_restrict_self`,
/// while the rights to set it are there. The comparison is the same container without rules.
#[test]
fn landlock_rules_hold_for_root_and_for_what_is_executed() {
    let Some(rig) = Rig::new() else { return };
    let probe = rig.runtime.create(busybox("probe").landlock(rules()).build().unwrap()).unwrap();
    match probe.start() {
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            assert!(e.to_string().contains("Landlock") && e.way_out().is_some(), "{e}");
            end(probe);
            rig.end();
            return support::skip(e);
        }
        started => started.unwrap(),
    }
    end(probe);
    let mut held = 0;
    for privileged in [false, true] {
        for no_new_privs in [false, true] {
            let config = |name: &str| {
                let c = busybox(name);
                let c = if privileged { c.privileged() } else { c };
                if no_new_privs { c.no_new_privs() } else { c }
            };
            let c = rig.run(config("c").landlock(rules()));
            assert_eq!(denied(&c).len(), 10, "{:?}", denied(&c));
            held += 10;
            end(c);
            let c = rig.run(config("open"));
            assert!(denied(&c).len() <= 1, "without rules: {:?}", denied(&c));
            end(c);
        }
    }
    // The first process, too.
    let first: &dyn Fn(ContainerBuilder) -> i32 = &|config| {
        let c = rig.runtime.create(config.args(["sh", "-c", "echo x > /etc/new"]).build().unwrap()).unwrap();
        c.start().unwrap();
        let code = c.wait().unwrap().code().unwrap();
        c.delete().unwrap();
        code
    };
    assert_ne!(first(busybox("f").landlock(rules())), 0);
    assert_eq!(first(busybox("f")), 0);
    // A rule's path leads inside the root; one that is not there is an error.
    let files = HostFiles::new();
    let patch = crate::inside::Root::new();
    std::os::unix::fs::symlink(files.path(), patch.path().join("leads")).unwrap();
    let c = rig
        .runtime
        .create(patch.container("c").landlock(rules().allow("/leads", FileAccess::ALL)).build().unwrap());
    let c = c.unwrap();
    let e = c.start().unwrap_err();
    assert!(e.step() == "set the Landlock rules" && e.kind() == ErrorKind::InvalidConfig, "{e}");
    end(c);
    say(&format!("Landlock: {held} denied"));
    drop(patch);
    drop(files);
    rig.end();
}

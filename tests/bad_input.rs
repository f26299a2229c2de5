//! Bad input: each gets an error that says what is wrong where, and leaves nothing behind.

mod again;
mod refuse;
mod rig;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use refuse::{Patch, check, mount, says, with_own_mounts};
use rig::{Rig, busybox, end, sh};
use stockade::container::{Container, ContainerConfig, Mount};
use stockade::idmap::{IdMap, IdRange};
use stockade::instance::ExecOptions;
use stockade::process::User;
use stockade::{ErrorKind, InstanceId, Rootfs, Runtime};

use ErrorKind::{Exhausted, InvalidConfig, NotFound, PayloadNotExecutable, PayloadNotFound};

#[test]
fn root_file_systems_that_are_none() {
    let Some(rig) = Rig::new() else { return };
    let patch = Patch::new();
    patch.file("a-file", 0o644, "");
    patch.link("dangling", "nowhere");
    patch.file("plain/bin/true", 0o755, "");
    let dir = |path: PathBuf| {
        move || ContainerConfig::builder("x").rootfs(Rootfs::dir(path.clone())).args(["true"])
    };
    let step = "open the root file system";
    let exists = "must exist before the container starts";
    rig.refuses(&dir(patch.path("none")), &says(NotFound, step, "/none", libc::ENOENT, exists));
    rig.refuses(&dir(patch.path("dangling")), &says(NotFound, step, "/dangling", libc::ENOENT, exists));
    let no_dir = says(InvalidConfig, step, "/a-file", libc::ENOTDIR, "");
    rig.refuses(&dir(patch.path("a-file")), &no_dir);
    let layer = || ContainerConfig::builder("x").rootfs(Rootfs::overlay([patch.path("none")])).args(["true"]);
    rig.refuses(&layer, &says(NotFound, "open a layer", "/none", libc::ENOENT, exists));
    let fixture = support::fixture("busybox").unwrap();
    let upper = || {
        let rootfs = Rootfs::overlay([fixture.clone()]).upper(patch.path("none"));
        ContainerConfig::builder("x").rootfs(rootfs).args(["true"])
    };
    rig.refuses(
        &upper,
        &says(NotFound, "make the overlay's directories", "/none/upper", libc::ENOENT, "must exist"),
    );

    let e = ContainerConfig::builder("x").rootfs(Rootfs::dir("srv/x")).build().unwrap_err();
    assert!(e.to_string().contains("rootfs: `srv/x` is not an absolute path"), "{e}");
    let e = ContainerConfig::builder("x").rootfs(Rootfs::dir("/")).build().unwrap_err();
    assert!(e.to_string().contains("Rootfs::host()"), "{e}");
    drop(patch);
    rig.end();
}

/// The start of a program for another machine: s390x, big-endian.
fn foreign() -> Vec<u8> {
    let mut elf = vec![0_u8; 120];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x02\x01");
    elf[16..24].copy_from_slice(&[0, 2, 0, 22, 0, 0, 0, 1]);
    elf[39] = 64;
    elf[53] = 64;
    elf[55] = 56;
    elf[57] = 1;
    elf
}

#[test]
fn programs_that_cannot_run() {
    let Some(rig) = Rig::new() else { return };
    let patch = Patch::new();
    patch.file("bin/foreign", 0o755, foreign());
    patch.file("bin/text", 0o755, "echo no first line\n");
    patch.file("bin/empty", 0o755, "");
    patch.file("bin/closed", 0o644, "#!/bin/sh\n");
    patch.file("bin/orphan", 0o755, "#!/no/interpreter\n");
    patch.file("bin/astray", 0o755, "#!/etc/passwd\n");
    patch.file("bin/self", 0o755, "#!/bin/self\n");
    patch.link("bin/loop", "loop");
    let cases = [
        ("/no/such", PayloadNotFound, libc::ENOENT, "is not in the root file system"),
        ("no-such", PayloadNotFound, libc::ENOENT, "is not in the root file system"),
        ("/bin/../../../../no-such", PayloadNotFound, libc::ENOENT, "is not in the root file system"),
        ("orphan", PayloadNotFound, libc::ENOENT, "its interpreter (#!)"),
        ("/bin/foreign", PayloadNotExecutable, libc::ENOEXEC, "architecture"),
        ("foreign", PayloadNotExecutable, libc::ENOEXEC, "architecture"),
        ("text", PayloadNotExecutable, libc::ENOEXEC, "script without #!"),
        ("empty", PayloadNotExecutable, libc::ENOEXEC, "script without #!"),
        ("closed", PayloadNotExecutable, libc::EACCES, "execute permission"),
        ("astray", PayloadNotExecutable, libc::EACCES, "execute permission"),
        ("/etc", PayloadNotExecutable, libc::EACCES, "execute permission"),
        ("/etc/passwd/x", PayloadNotFound, libc::ENOENT, "is not in the root file system"),
        ("/bin/self", PayloadNotExecutable, libc::ELOOP, ""),
        ("/bin/loop", PayloadNotExecutable, libc::ELOOP, ""),
    ];
    let running = [rig.run(patch.container("run")), rig.run(patch.container("run-privileged").privileged())];
    for (program, kind, errno, hint) in cases {
        let expected = says(kind, "execute", program, errno, hint);
        rig.refuses(&|| patch.container("x").args([program, "argument"]), &expected);
        for c in &running {
            let e = c.exec(ExecOptions::new([program])).unwrap_err();
            check(&e, "exec", &expected);
        }
    }
    running.into_iter().for_each(end);
    drop(patch);
    rig.end();
}

#[test]
fn working_directories_that_are_none() {
    let Some(rig) = Rig::new() else { return };
    let patch = Patch::new();
    patch.link("out", "../../../../..");
    patch.link("abs", "/");
    patch.link("fd", "/proc/self/fd");
    let step = "enter the working directory";
    let running = [rig.run(patch.container("run")), rig.run(patch.container("run-privileged").privileged())];
    let refuse = |cwd: &str, kind: ErrorKind, errno: i32, hint: &str| {
        let expected = says(kind, step, cwd, errno, hint);
        rig.refuses(&|| patch.container("x").args(["true"]).cwd(cwd), &expected);
        for c in &running {
            check(&c.exec(ExecOptions::new(["true"]).cwd(cwd)).unwrap_err(), "exec", &expected);
        }
    };
    refuse("/none", NotFound, libc::ENOENT, "make the directory in the image");
    refuse("/etc/passwd", InvalidConfig, libc::ENOTDIR, "");
    // No descriptor of the host is reachable by its number: none is open any more.
    for fd in 0..40 {
        for dir in ["/proc/self/fd", "/fd", "/proc/1/fd", "/proc/thread-self/fd"] {
            let cwd = format!("{dir}/{fd}");
            for c in &running {
                let e = c.exec(ExecOptions::new(["true"]).cwd(&cwd)).unwrap_err();
                assert!(matches!(e.kind(), NotFound | InvalidConfig), "{cwd}: {e:?}");
                assert_eq!(e.what(), Some(&*cwd), "{e:?}");
            }
        }
    }
    // Links and dots stay inside.
    for cwd in ["/out/bin", "/abs/bin", "/../../bin", "/out/out/abs/bin/.."] {
        let c = rig.run(patch.container("x").cwd(cwd));
        let wanted = if cwd.ends_with("..") { "/" } else { "/bin" };
        assert_eq!(sh(&c, "readlink /proc/1/cwd").1, wanted, "{cwd}");
        end(c);
    }
    let e = busybox("x").cwd("bin").build().unwrap_err();
    assert!(e.to_string().contains("cwd: `bin` is not an absolute path"), "{e}");
    let e = running[0].exec(ExecOptions::new(["true"]).cwd("bin")).unwrap_err();
    assert_eq!((e.kind(), e.what()), (InvalidConfig, Some("bin")));
    running.into_iter().for_each(end);
    drop(patch);
    rig.end();
}

#[test]
fn ids_and_maps_that_do_not_fit() {
    let Some(rig) = Rig::new() else { return };
    for (user, field) in [(User::new(70_000, 0), "user.uid: "), (User::new(0, 65_536), "user.gid: ")] {
        let e = busybox("x").user(user).build().unwrap_err();
        assert!(e.kind() == InvalidConfig && e.to_string().contains(field), "{e}");
        assert!(e.to_string().contains("is not in the id map"), "{e}");
    }
    let c = rig.run(busybox("x"));
    let e = c.exec(ExecOptions::new(["id"]).user(User::new(70_000, 0))).unwrap_err();
    check(
        &e,
        "exec",
        &says(InvalidConfig, "become the user", "id", libc::EINVAL, "must be in the container's id map"),
    );
    let mut user = User::new(0, 0);
    user.groups = vec!["70000".parse().unwrap()];
    let e = c.exec(ExecOptions::new(["id"]).user(user)).unwrap_err();
    check(
        &e,
        "exec",
        &says(
            InvalidConfig,
            "set supplementary groups",
            "id",
            libc::EINVAL,
            "must be in the container's id map",
        ),
    );
    assert_eq!(sh(&c, "id -u").1, "0", "the container is as it was");
    end(c);

    let range = |inner, host, count| IdRange::new(inner, host, count);
    for bad in [
        vec![range(0, 1000, 10), range(5, 5000, 10)],
        vec![range(0, 1000, 10), range(20, 1005, 10)],
        vec![range(0, u32::MAX, 1)],
        vec![range(0, 1000, 0)],
        vec![range(u32::MAX - 2, 1000, 10)],
    ] {
        let e = IdMap::new(bad.clone(), vec![range(0, 1000, 10)]).unwrap_err();
        assert_eq!(e.kind(), InvalidConfig, "{bad:?}: {e}");
    }
    let no_root = IdMap::new(vec![range(1, 1000, 10)], vec![range(1, 1000, 10)]).unwrap();
    let e = busybox("x").idmap(no_root).build().unwrap_err();
    assert!(e.to_string().contains("idmap: has no user 0"), "{e}");
    rig.end();
}

#[test]
fn names_that_are_none() {
    let Some(rig) = Rig::new() else { return };
    let long = "x".repeat(64);
    for bad in [
        "", ".", "..", "...", "a/b/c/d", "/", "a/", "/a", "../x", "a/..", "a b", "-a", ".a", "a\0", "a\n",
        "ä", &long,
    ] {
        let e = busybox(bad).build().unwrap_err();
        assert!(e.kind() == InvalidConfig && e.to_string().contains("id: "), "{bad:?}: {e}");
        assert_eq!(bad.parse::<InstanceId>().unwrap_err().kind(), InvalidConfig, "{bad:?}");
    }
    let c = rig.run(busybox(&long[1..]));
    for bad in ["..", "a/b/c"] {
        assert!(bad.parse::<InstanceId>().is_err_and(|e| e.kind() == InvalidConfig) || bad == "a/b/c");
    }
    let e = rig.runtime.create(busybox(&long[1..]).build().unwrap()).unwrap_err();
    assert_eq!((e.kind(), e.op()), (ErrorKind::AlreadyExists, Some("create")), "{e}");
    end(c);
    for bad in ["", "-x", "x.", "a..b", "a_b c", &"x".repeat(65)] {
        let e = busybox("x").hostname(bad).build().unwrap_err();
        assert!(e.to_string().contains("hostname: "), "{bad}: {e}");
    }
    rig.end();
}

#[test]
fn more_than_fits() {
    let Some(rig) = Rig::new() else { return };
    // Arguments, or the environment, beyond what execve(2) takes.
    let big = "x".repeat(128 * 1024 - 100);
    let many = vec![big.clone(); 60];
    let args = || busybox("x").args(std::iter::once("echo").chain(many.iter().map(|s| &**s)));
    let long = says(InvalidConfig, "execute", "echo", libc::E2BIG, "too long together");
    rig.refuses(&args, &long);
    let env = || (0..60).fold(busybox("x").args(["echo"]), |c, n| c.env(format!("V{n}"), &big));
    rig.refuses(&env, &long);
    let c = rig.run(busybox("x"));
    let e = c.exec(ExecOptions::new(std::iter::once("echo").chain(many.iter().map(|s| &**s)))).unwrap_err();
    check(&e, "exec", &long);
    end(c);
    let e = busybox("x").args(["echo", &"x".repeat(1 << 20)]).build().unwrap_err();
    assert!(e.to_string().contains("args[1]: is longer"), "{e}");

    // 1 MiB of arguments is no problem, and neither are 200 mounts that need no descriptor of the host.
    let c = rig.run(
        busybox("x").args(["sh", "-c", "sleep 1000"].iter().copied().chain(many[..8].iter().map(|s| &**s))),
    );
    end(c);
    let c = rig.run((0..200).fold(busybox("x"), |c, n| c.mount(Mount::tmpfs(format!("/m/{n}")))));
    assert_eq!(sh(&c, "grep -c ' /m/' /proc/self/mountinfo").1, "200");
    end(c);
    let patch = Patch::new();
    let binds = || {
        let path = &patch.path(".");
        (0..130).fold(busybox("x"), |c, n| c.mount(Mount::bind(path, format!("/m/{n}"))))
    };
    let e = says(InvalidConfig, "mounts", "", 0, "bind one directory that holds the others");
    rig.refuses(&binds, &e);
    drop(patch);
    rig.end();
}

#[test]
fn kernel_parameters_that_are_not_there() {
    let Some(rig) = Rig::new() else { return };
    let none = || busybox("x").sysctl("net.ipv4.conf.nosuch.forwarding", "1");
    let path = "/proc/sys/net/ipv4/conf/nosuch/forwarding";
    rig.refuses(&none, &says(NotFound, "set sysctl", path, libc::ENOENT, "lack that file"));
    let bad = || busybox("x").sysctl("net.ipv4.ip_forward", "many");
    rig.refuses(&bad, &says(InvalidConfig, "set sysctl", "ip_forward", libc::EINVAL, "value"));
    let e = busybox("x").sysctl("kernel.panic", "1").build().unwrap_err();
    assert!(e.to_string().contains("sysctls: "), "{e}");
    rig.end();
}

#[test]
fn full_directories_of_the_runtime() {
    if !with_own_mounts("full_directories_of_the_runtime") {
        return;
    }
    for full in ["state", "run"] {
        let _serial = support::serial();
        let dirs = support::private_dirs();
        let (small, other) =
            if full == "state" { (dirs.state(), dirs.run()) } else { (dirs.run(), dirs.state()) };
        mount(&["-t", "tmpfs", "-o", "size=64k,mode=700", "none"], small);
        let (state, run) = if full == "state" { (small, other) } else { (other, small) };
        let rt = Runtime::builder().state_dir(state).run_dir(run).open().unwrap();
        let made = |name: &str| rt.create(busybox(name).build().unwrap());
        let warm = made("warm").unwrap();
        warm.start().unwrap();
        warm.stop().unwrap();
        warm.delete().unwrap();
        let leaks = dirs.leak_check();
        let c: Arc<Container> = made("before").unwrap();
        c.start().unwrap();
        let fresh = made("fresh").unwrap();
        let _ = fs::write(small.join("ballast"), vec![0; 1 << 20]);
        let space = "free space on its file system";
        let e = if full == "state" {
            made("x").unwrap_err()
        } else {
            let config = busybox("x").ephemeral().build().unwrap();
            rt.create(config).unwrap_err()
        };
        let file = if full == "state" { "/idmap.json" } else { "/instances/" };
        check(&e, "create", &says(Exhausted, "", file, libc::ENOSPC, space));
        // What runs can be stopped all the same.
        c.stop().unwrap();
        assert_eq!(c.wait().unwrap().shell_code(), Some(137));
        if full == "run" {
            for c in [&c, &fresh] {
                let e = c.start().unwrap_err();
                check(&e, "start", &says(Exhausted, "", "/instances/", libc::ENOSPC, space));
                assert!(!c.status().is_running());
            }
        }
        fresh.delete().unwrap();
        c.delete().unwrap();
        fs::remove_file(small.join("ballast")).unwrap();
        let after = made("after").unwrap();
        after.start().unwrap();
        after.stop().unwrap();
        after.delete().unwrap();
        drop((warm, c, fresh, after));
        leaks.assert_clean();
        rt.close();
        assert!(Command::new("umount").arg(small).status().unwrap().success());
    }
}

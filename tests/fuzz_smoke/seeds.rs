//! Makes the seeds anew, out of what the library and GNU tar write:
//!
//! ```sh
//! STOCKADE_PLAN_SEEDS=fuzz/seeds/plan cargo test --lib plans_are_as_written_down
//! cargo test --all-features --test fuzz_smoke -- --ignored write_seeds     # as root
//! ```

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use stockade::cgroup::Limits;
use stockade::container::{ContainerConfig, Mount};
use stockade::{Rootfs, Runtime};
use support::{require_fixture, require_root};

use super::seed_dir;
#[path = "../archives/build.rs"]
#[expect(dead_code, reason = "another test program uses the rest")]
mod build;
use build::{Head, Tar};

/// Plans that are kept: the smallest ones that have all kinds of operations between them.
const PLANS: [&str; 3] = ["mounts", "pod", "user-namespace"];

fn sh(dir: &Path, script: &str) {
    let status = Command::new("sh").args(["-euc", script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}");
}

#[test]
#[ignore = "writes fuzz/seeds anew"]
fn write_seeds() {
    require_root!();
    let root = require_fixture!("busybox");
    for target in ["archive", "notify", "policy", "record", "views"] {
        fs::remove_dir_all(seed_dir(target)).unwrap();
        fs::create_dir(seed_dir(target)).unwrap();
    }
    archives();
    hostile_archives();
    records(&root);
    policies();
    callers();
    plans();
    requests();
}

/// Requests of FUSE as Linux sends them.
fn requests() {
    let words = |words: &[u64]| words.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
    let request = |opcode: u32, node: u64, body: &[u8]| {
        let length = u32::try_from(40 + body.len()).unwrap();
        let head = [length.to_ne_bytes(), opcode.to_ne_bytes()].concat();
        [head, words(&[7, node, 0, 4711]), body.to_vec()].concat()
    };
    let init = request(26, 0, &[vec![7, 0, 0, 0, 45, 0, 0, 0, 0, 0, 2, 0], vec![0xff; 52]].concat());
    let lookup = request(1, 1, b"meminfo\0");
    let attributes = request(3, 2, &words(&[0, 0]));
    let open = request(14, 2, &words(&[0x8000]));
    let read = |from, size| request(15, 2, &words(&[1, from, size, 0, 0x8000]));
    let release = request(18, 2, &words(&[1, 0x8000, 0]));
    let others =
        [request(2, 2, &words(&[1])), request(22, 2, b"\0\0\0\0\0\0\0\0user.x\0"), request(17, 1, b"")]
            .concat();
    let parts = [read(0, 4096), read(1000, 131_072), read(1 << 40, 1)].concat();
    for (name, bytes) in [
        ("begin", [init, lookup.clone()].concat()),
        ("read", [&*attributes, &open, &parts, &release].concat()),
        ("twice", [&*open, &open, &read(2, 10), &read(0, 10)].concat()),
        ("others", [lookup, others].concat()),
        (
            "lookups",
            [b"stat\0".as_slice(), b"kcore\0", b"", b"a/b\0"].map(|name| request(1, 1, name)).concat(),
        ),
    ] {
        fs::write(seed_dir("views").join(name), bytes).unwrap();
    }
}

fn archives() {
    let dir = tempfile::tempdir().unwrap();
    let zoo = dir.path().join("zoo");
    fs::create_dir_all(zoo.join("d/empty")).unwrap();
    fs::write(zoo.join("d/file"), "content\n").unwrap();
    fs::hard_link(zoo.join("d/file"), zoo.join("twin")).unwrap();
    symlink("../outside/file", zoo.join("link")).unwrap();
    fs::set_permissions(zoo.join("d/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    sh(&zoo, "mkfifo pipe; mknod null c 1 3; mknod loop b 7 0");
    let long = "n".repeat(120);
    fs::write(zoo.join(&long), "").unwrap();
    let holes = "truncate -s 1M holes; printf a | dd of=holes conv=notrunc status=none
        printf b | dd of=holes bs=1 seek=500000 conv=notrunc status=none";
    sh(dir.path(), holes);
    let cap = "import os; os.setxattr('zoo/d/file', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))";
    assert!(Command::new("python3").args(["-c", cap]).current_dir(dir.path()).status().unwrap().success());
    let tar = "tar --numeric-owner --owner=0 --group=0 --mtime=@1700000000 --sort=name -b1";
    let out = seed_dir("archive");
    let out = out.display();
    sh(
        dir.path(),
        &format!(
            "
            # 10 KiB of end mark is no help: GNU tar pads to a record of one block.
            {tar} --format=pax --pax-option=delete=atime,delete=ctime --xattrs --xattrs-include='*' -C zoo -cf zoo.tar .
            cp zoo.tar {out}/pax.tar
            {tar} --format=gnu -C zoo -cf {out}/gnu.tar .
            {tar} --format=ustar -C zoo -cf {out}/ustar.tar d link pipe null
            {tar} --format=v7 -C zoo -cf {out}/v7.tar d/file link
            gzip -n9 < zoo.tar > {out}/gzip
            gzip -n9 < {out}/v7.tar > {out}/gzip-small
            zstd -q -19 --no-check < zoo.tar > {out}/zstd
            zstd -q -19 < {out}/v7.tar > {out}/zstd-small
            xz -9e < zoo.tar > {out}/xz
            xz -C none < {out}/v7.tar > {out}/xz-small
            {tar} -S --format=gnu -cf {out}/sparse-old.tar holes
            for v in 0.0 0.1 1.0; do
                {tar} -S --format=pax --pax-option=delete=atime,delete=ctime --sparse-version=$v -cf {out}/sparse-$v.tar holes
            done"
        ),
    );
}

fn hostile_archives() {
    let device = Head { path: b"a", kind: b'3', device: (1, 3), ..Head::default() };
    let bad: [(&str, Tar); 8] = [
        ("through-link", Tar::new().symlink("a", "../outside").file("a/file", "x")),
        ("up", Tar::new().file("../outside/file", "x")),
        ("hard-link-out", Tar::new().hard_link("a", "../outside/file")),
        ("link-of-link", Tar::new().symlink("a", "/dev/shm").hard_link("b", "a").file("b/c", "x")),
        ("below-file", Tar::new().file("a", "x").file("a/b", "x")),
        ("full-directory", Tar::new().dir("a").file("a/b", "x").symlink("a", "..")),
        ("global", Tar::new().add(Head { kind: b'g', ..Head::default() }, b"12 path=../\n").file("a", "x")),
        ("hard-link-to-device", Tar::new().add(device, b"").hard_link("b", "none")),
    ];
    for (name, tar) in bad {
        fs::write(seed_dir("archive").join(format!("bad-{name}.tar")), tar.end().bytes()).unwrap();
    }
    let again = Tar::new().file("a", "x").symlink("a", "b").dir("b").pax(&[("SCHILY.xattr.user.a", b"1\n")]);
    let again = again.file("b/c", "y").hard_link("b/d", "b/c").file("b/c", "z").end();
    fs::write(seed_dir("archive").join("again.tar"), again.bytes()).unwrap();
}

/// The files of a real runtime.
fn records(root: &Path) {
    let dirs = support::private_dirs();
    let out = seed_dir("record");
    let rt = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().unwrap();
    let config = ContainerConfig::builder("web")
        .rootfs(Rootfs::overlay([root]))
        .args(["sleep", "60"])
        .env("A", "b")
        .mount(Mount::tmpfs("/mnt"))
        .sysctl("kernel.shm_rmid_forced", "1");
    let web = rt.create(config.build().unwrap()).unwrap();
    let bare = ContainerConfig::builder("bare").privileged().rootfs(Rootfs::dir(root)).args(["true"]);
    let bare = rt.create(bare.limits(Limits::default()).build().unwrap()).unwrap();
    web.start().unwrap();
    let instances = |dir: &Path, name: &str| dir.join("instances/default").join(name);
    for (name, seed) in [("web", "container"), ("bare", "container-privileged")] {
        let text = fs::read_to_string(instances(dirs.state(), name).join("record.json")).unwrap();
        fs::write(out.join(seed), text.replace(root.to_str().unwrap(), "/srv/busybox")).unwrap();
    }
    let run = |name: &str| {
        let link = fs::read_link(instances(dirs.run(), "web/run.json")).unwrap();
        fs::write(out.join(name), link.as_os_str().as_encoded_bytes()).unwrap();
    };
    run("run");
    web.stop().unwrap();
    run("run-ended");
    fs::copy(dirs.state().join("idmap.json"), out.join("id-ranges")).unwrap();
    fs::copy(dirs.state().join("idmap.session"), out.join("session")).unwrap();
    for claim in fs::read_dir(dirs.run().join("idmap")).unwrap() {
        fs::write(out.join("claim"), claim.unwrap().file_name().as_encoded_bytes()).unwrap();
    }
    web.delete().unwrap();
    bare.delete().unwrap();
    rt.close();
    for (name, text) in [
        ("subid", "# made by hand\nroot:1000000:65536\n1000:100000:65536\nbob : 5 : 10\n"),
        ("passwd", "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n"),
        ("kernel-map", "         0     100000      65536\n     65536    1000000          1\n"),
        ("lxc-map", "u 0 100000 65536\ng 0 100000 65536\n"),
        ("instance", "project/web/snapshot-1"),
        ("newer", "{\"schema\":2,\"record\":{}}\n"),
    ] {
        fs::write(out.join(name), text).unwrap();
    }
}

/// Of the plans that `STOCKADE_PLAN_SEEDS` has put there a few are enough. And what children send.
fn policies() {
    use stockade::caps::CapSet;
    use stockade::seccomp::{Action, Arch, ArgCompare, Compare, Policy, Rule};
    let out = seed_dir("policy");
    let rule = |action, name: &str| Rule::new(action, [name]).unwrap();
    let masked = ArgCompare::new(0, Compare::MaskedEq(0x7e02_0000), 0);
    let range = [ArgCompare::new(1, Compare::Ge, 2), ArgCompare::new(1, Compare::Lt, 1 << 33)];
    let between = range.into_iter().fold(rule(Action::Trap, "ioctl"), Rule::when);
    let small = Policy::new(Action::Errno(1)).unknown(Action::Errno(38)).rule(rule(Action::Allow, "read"));
    for (name, policy) in [
        ("system", Policy::system_default()),
        ("native", Policy::system_default().deny_compat()),
        ("oci", Policy::oci_default(CapSet::EMPTY)),
        ("small", small),
        (
            "masked",
            Policy::new(Action::Allow).rule(rule(Action::Errno(1), "clone").when(masked)).rule(between),
        ),
        (
            "arm",
            Policy::new(Action::Log).arches([Arch::Aarch64, Arch::Arm]).rule(rule(Action::Notify, "mknodat")),
        ),
    ] {
        fs::write(out.join(name), serde_json::to_vec(&policy).unwrap()).unwrap();
    }
}

/// What is read of a caller: this process's own status, and the rest as programs give it.
fn callers() {
    let out = seed_dir("notify");
    let mut attr = [0_u8; 120];
    attr[0] = 15;
    attr[4] = 2;
    let words = |all: &[u64]| all.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    for (name, bytes) in [
        ("status", fs::read("/proc/self/status").unwrap()),
        ("mount-ext4", b"errors=remount-ro,noload,commit=5".to_vec()),
        ("mount-huge", b"uid=7,gid=0,size=2M,mode=700".to_vec()),
        ("bpf-load", attr.to_vec()),
        ("bpf-program", words(&[0x0000_0001_0000_00b7, 0x95])),
        ("bpf-wide", words(&[0x0000_0001_0000_0018, 0x85, 0x95])),
        ("path", b"/var/lib/image/dev/null".to_vec()),
        ("found", vec![0; 376]),
    ] {
        fs::write(out.join(name), bytes).unwrap();
    }
}

fn plans() {
    let dir = seed_dir("plan");
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.metadata().unwrap().size() > 0 && !PLANS.contains(&name.as_str()) {
            fs::remove_file(path).unwrap();
        }
    }
    let record = |kind: u32, op: u32, errno: i32| {
        let words = [0x5352_4543, kind, op, errno.cast_unsigned(), 0, 0, 0, 0];
        words.map(u32::to_ne_bytes).concat()
    };
    for (name, bytes) in [
        ("failed", record(1, 0x15, 2)),
        ("before-plan", record(1, u32::MAX, 13)),
        ("marker", record(2, 70, 0)),
    ] {
        fs::write(dir.join(format!("record-{name}")), bytes).unwrap();
    }
}

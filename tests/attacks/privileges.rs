//! Privileges that a container gets by the way it is set up.

use std::fs;
use std::path::PathBuf;

use stockade::Weaken;
use stockade::caps::CapabilitySets;
use stockade::container::{Container, Network};
use stockade::instance::{ExecOptions, Stdio};
use stockade::namespaces::{NamespaceKind, NamespaceSource};
use stockade::process::User;

use crate::inside::{HostFiles, attack, say, victim};
use crate::rig::{Rig, busybox, end, sh};

/// **CVE-2022-0492** (kernel; any runtime). A process that may mount cgroup v1, in a namespace of its own making, names a
/// program of the host as the release agent, which the kernel then runs as root of the host. Step: none of ours; what the
/// container may mount. Held by: the user namespace: the kernel lets only root of the host write there (Linux 5.17 looks
/// at the namespace, and before that the file's owner held), whatever namespaces are made inside. The comparison is a
/// privileged container, which has no user namespace: its root is root of the host, as `privileged` says.
#[test]
fn cve_2022_0492_the_release_agent_is_out_of_reach() {
    let Some(rig) = Rig::new() else { return };
    let files = HostFiles::new();
    let controllers = fs::read_to_string("/proc/cgroups").unwrap();
    // Hierarchies of version 1 that are there; a new one is not ours to make outside of the lane.
    let mut kinds: Vec<String> = controllers
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| {
            let words: Vec<&str> = l.split_whitespace().collect();
            (words.get(1)? != &"0").then(|| words[0].to_owned())
        })
        .collect();
    let lane = std::env::var_os("VM_LANE").is_some();
    if lane {
        kinds = vec![format!("none,name=stockade-{}", std::process::id())];
    }
    support::require!(!kinds.is_empty(), "no hierarchy of cgroup v1");
    let reach = |c: &Container, kind: &str| {
        let open = format!(
            "mkdir -p /mnt/v1 && mount -t cgroup -o {kind} none /mnt/v1 && : >> /mnt/v1/release_agent && echo reached"
        );
        let plain = sh(c, &open).1;
        let nested = sh(c, &format!("unshare -U -r -m -C sh -c '{open}'")).1;
        [plain, nested]
    };
    let c = rig.run(busybox("c"));
    for kind in &kinds {
        for said in reach(&c, kind) {
            assert!(!said.contains("reached"), "{kind}: {said}");
        }
    }
    end(c);
    let host = busybox("p").privileged().namespace(NamespaceKind::Cgroup, NamespaceSource::Host);
    let c = rig.run(host);
    if lane {
        // All of it: the kernel runs the attacker's program on the host.
        let agent = files.path().join("agent");
        let marker = files.path().join("marker");
        fs::write(&agent, format!("#!/bin/sh\nid -u > {}\n", marker.display())).unwrap();
        fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let script = format!(
            "mkdir -p /mnt/v1 && mount -t cgroup -o {} none /mnt/v1 && mkdir /mnt/v1/x && \
             echo 1 > /mnt/v1/x/notify_on_release && echo {} > /mnt/v1/release_agent && \
             sh -c 'echo $$ > /mnt/v1/x/cgroup.procs'",
            kinds[0],
            agent.display()
        );
        let (code, said) = sh(&c, &script);
        assert_eq!(code, 0, "{said}");
        support::until(std::time::Duration::from_secs(30), "the release agent runs", || marker.exists());
        sh(&c, "sleep 1; rmdir /mnt/v1/x; umount /mnt/v1");
        fs::remove_file(marker).unwrap();
        fs::remove_file(agent).unwrap();
    } else {
        assert!(reach(&c, &kinds[0])[0].contains("reached"), "weakened, root of the host can");
    }
    end(c);
    files.assert_untouched(&[]);
    say(&format!("CVE-2022-0492: {} kinds of hierarchy tried", kinds.len()));
    drop(files);
    rig.end();
}

fn status(c: &Container, options: ExecOptions) -> String {
    let out = c.exec(options.stdout(Stdio::Piped).stderr(Stdio::Piped)).unwrap().output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// **CVE-2022-24769** (moby, containerd), **CVE-2022-29162** (runc, by exec). Programs run with inheritable capabilities, so
/// that a file that has inheritable ones gives them to a user who should have none. Step: `capset` before the program. Held
/// by: the inheritable set is empty unless it is asked for, whatever the other sets are, of a start and an exec alike.
#[test]
fn cve_2022_24769_cve_2022_29162_no_capability_is_inheritable() {
    let Some(rig) = Rig::new() else { return };
    let user = || User::new(1000, 1000);
    let read = ["/gives/busybox", "grep", "Cap", "/proc/self/status"];
    let net_raw = "CapPrm:\t0000000000002000";
    let mut looked_at = 0;
    for caps in [None, Some(CapabilitySets::docker_default())] {
        let mut config = victim("c");
        if let Some(caps) = caps {
            config = config.capabilities(caps);
        }
        let c = rig.run(config);
        // The attacker has been root here, or it is in the image.
        assert_eq!(sh(&c, "mkdir /gives && cp /bin/busybox /gives/busybox").0, 0);
        assert_eq!(attack(&c, "give-capability /gives/busybox"), ["given yes"]);
        for options in [
            ExecOptions::new(read).user(user()),
            ExecOptions::new(read).user(user()).capabilities(CapabilitySets::none()),
        ] {
            let seen = status(&c, options);
            assert!(seen.contains("CapInh:\t0000000000000000"), "{seen}");
            assert!(seen.contains("CapPrm:\t0000000000000000"), "{seen}");
            looked_at += 1;
        }
        let first = fs::read_to_string(format!("/proc/{}/status", crate::inside::first_pid(&c))).unwrap();
        assert!(first.contains("CapInh:\t0000000000000000"), "{first}");
        let weak = status(&c, ExecOptions::new(read).user(user()).weaken(Weaken::Inheritable));
        assert!(weak.contains(net_raw), "weakened, the file gives the capability: {weak}");
        end(c);
    }
    say(&format!("CVE-2022-24769: {looked_at} commands looked at"));
    rig.end();
}

/// The cgroup2 directory of this process.
fn own_cgroup() -> PathBuf {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap();
    let top = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let top = top.into_iter().find(|dir| fs::exists(format!("{dir}/cgroup.procs")).unwrap());
    PathBuf::from(top.unwrap()).join(own)
}

/// **CVE-2023-25809** (runc, rootless). A container that cannot have a sysfs of its own gets the host's, and with it cgroups
/// that belong to the user who is root inside: it can change their limits and move processes. Step: the bind of `/sys`. Held
/// by: it is made read-only with all that is mounted below it.
#[test]
fn cve_2023_25809_the_hosts_cgroups_cannot_be_written() {
    let Some(rig) = Rig::new() else { return };
    let c = rig.run(busybox("c").network(Network::Host));
    let map = c.info().unwrap().id_map.unwrap();
    let root = map.host_root().unwrap().0.as_raw();
    let delegated = own_cgroup().join(format!("stockade-atk-{}", std::process::id()));
    fs::create_dir(&delegated).unwrap();
    std::os::unix::fs::chown(&delegated, Some(root), Some(root)).unwrap();
    let inside = delegated.join("taken");
    let take = format!("mkdir {}", inside.display());
    let (code, said) = sh(&c, &take);
    assert!(code != 0 && said.contains("Read-only file system") && !inside.exists(), "{said}");
    // Nor can it be made writable again.
    sh(&c, "mount -o remount,rw /sys; mount -o remount,bind,rw /sys; umount -l /sys");
    assert!(sh(&c, &take).0 != 0 && !inside.exists());
    end(c);
    let weak = rig.runtime.create(busybox("w").network(Network::Host).build().unwrap()).unwrap();
    weak.start_with(stockade::instance::StartOptions::new().weaken(Weaken::WritableSys)).unwrap();
    let map = weak.info().unwrap().id_map.unwrap();
    let root = map.host_root().unwrap().0.as_raw();
    std::os::unix::fs::chown(&delegated, Some(root), Some(root)).unwrap();
    let (_, said) = sh(&weak, &take);
    assert!(inside.exists(), "weakened, a cgroup of the host is made: {said}");
    fs::remove_dir(inside).unwrap();
    fs::remove_dir(delegated).unwrap();
    end(weak);
    rig.end();
}

/// **The host's session keyring** (`session-keyring(7)`). It goes along with fork and exec, and who has it may use its keys
/// whatever his ids: secrets of the host's user for a container's root. Step: none, which is the fault. Held by: a session
/// keyring of its own for each start and each exec.
#[test]
fn the_hosts_keys_are_not_in_the_containers_session() {
    const TEST: &str = "privileges::the_hosts_keys_are_not_in_the_containers_session";
    if crate::again::role().is_none() {
        // In a process of its own, whose session keyring has a secret in it.
        let _serial = support::serial();
        support::require_root!();
        support::require_fixture!("busybox");
        let out = crate::again::command(&[], TEST, "host").output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&out.stderr));
        return;
    }
    let Some(rig) = Rig::new() else { return };
    crate::attacker::store_key();
    let reads = ["key yes"];
    for privileged in [false, true] {
        let config = if privileged { victim("c").privileged() } else { victim("c") };
        let c = rig.run(config);
        assert_ne!(attack(&c, "read-key"), reads, "privileged: {privileged}");
        let weak = crate::inside::found(c.exec(crate::inside::task("read-key").weaken(Weaken::HostKeyring)));
        assert_eq!(weak, reads, "weakened, the host's key can be read (privileged: {privileged})");
        end(c);
    }
    let c = rig.run(victim("h").keyring(stockade::process::SessionKeyring::Host));
    assert_eq!(attack(&c, "read-key"), reads, "asked for");
    end(c);
    rig.end();
}

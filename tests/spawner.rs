//! The spawner thread: containers are the same, the host is the same, and it goes with its runtime.

use std::io::Read;

use stockade::container::{ContainerBuilder, ContainerConfig, Network};
use stockade::instance::{StartOptions, Stdio};
use stockade::namespaces::TimeOffset;
use stockade::{Rootfs, Runtime, SpawnStrategy};
use support::{HostSnapshot, require_fixture, require_root};

const LOOK: &str = "hostname; id; cut -d' ' -f4- /proc/self/mountinfo | sed 's/stockade-[^ ]*//'; ls -l /dev | cut -c1-11; \
     echo x > /dev/null; head -c 4 /dev/zero | wc -c; cat /proc/uptime | cut -d. -f1 | wc -l; ls /sys/class/net; \
     grep -E '^(Cap|NoNew|Seccomp|Sig(Ign|Blk))' /proc/self/status; ls /proc/self/fd | wc -l; ls /data 2>/dev/null; true";

fn look(rt: &Runtime, builder: ContainerBuilder) -> String {
    let c = rt.create(builder.ephemeral().args(["sh", "-c", LOOK]).build().unwrap()).unwrap();
    let pipes = c.start_with(StartOptions::new().stdout(Stdio::Piped)).unwrap();
    let mut text = String::new();
    std::fs::File::from(pipes.stdout.unwrap()).read_to_string(&mut text).unwrap();
    let status = c.wait().unwrap();
    assert!(status.success(), "{status}: {text}");
    c.delete().unwrap();
    // Ids, and minor numbers of file systems, differ from start to start.
    text.replace(|c: char| c.is_ascii_digit(), "#")
}

#[test]
fn containers_are_the_same_from_it() {
    let _serial = support::serial();
    require_root!();
    let root = require_fixture!("busybox");
    let before = HostSnapshot::take();
    for strategy in [SpawnStrategy::Exec, SpawnStrategy::Fork] {
        let dirs = support::private_dirs();
        let runtime =
            || Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).spawn_strategy(strategy);
        let configs = || {
            let dir = ContainerConfig::builder("same").rootfs(Rootfs::dir(&root));
            let overlay = ContainerConfig::builder("same").rootfs(Rootfs::overlay([&root]));
            let bind = stockade::container::Mount::bind("/etc/apt", "/data").read_only();
            let offset = TimeOffset::ahead(std::time::Duration::from_secs(1000)).unwrap();
            let offsets = stockade::namespaces::TimeOffsets { boottime: offset, ..Default::default() };
            [
                ("privileged", dir.clone().privileged()),
                ("user namespace", dir.clone()),
                ("overlay", overlay),
                ("mount", dir.clone().mount(bind)),
                ("time", dir.clone().time_offsets(offsets)),
                ("files of the host", ContainerConfig::builder("same").rootfs(Rootfs::host())),
                ("host network, privileged", dir.privileged().network(Network::Host)),
            ]
        };
        let rt = runtime().open().unwrap();
        let usual: Vec<String> = configs().into_iter().map(|(_, c)| look(&rt, c)).collect();
        rt.close();
        let rt = runtime().spawner_thread().open().unwrap();
        for ((what, config), usual) in configs().into_iter().zip(usual) {
            assert_eq!(look(&rt, config), usual, "{what}, {strategy:?}");
        }
        rt.prewarm(
            ContainerConfig::builder("t")
                .ephemeral()
                .rootfs(Rootfs::dir(&root))
                .read_only_root()
                .build()
                .unwrap(),
            2,
        )
        .unwrap();
        rt.close();
    }
    before.assert_unchanged();
}

#[test]
fn it_has_next_to_nothing_mounted() {
    let _serial = support::serial();
    require_root!();
    let dirs = support::private_dirs();
    let rt = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).spawner_thread().open().unwrap();
    let mounts = std::fs::read_dir("/proc/self/task").unwrap().flatten().find_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        (name.trim() == "stockade-spawn")
            .then(|| std::fs::read_to_string(task.path().join("mountinfo")).unwrap())
    });
    assert_eq!(mounts.unwrap().lines().count(), 4);
    rt.close();
}

//! How long a container's life takes, call by call: `cargo bench`.
//!
//! Needs root and the busybox root that `cargo xtask setup` makes. For figures beside other runtimes see
//! `cargo xtask bench-peers`: only ratios from one run mean anything on a shared machine.

use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use stockade::caps::CapabilitySets;
use stockade::container::{
    Container, ContainerBuilder, ContainerConfig, Network, Nic, ResourceViews, SeccompConfig,
};
use stockade::instance::ExecOptions;
use stockade::namespaces::{Namespace, NamespaceKind};
use stockade::{Rootfs, Runtime};

struct Bench {
    runtime: Runtime,
    root: std::path::PathBuf,
    _dirs: support::PrivateDirs,
}

impl Bench {
    /// `None`, loudly, where nothing can be measured.
    fn new() -> Option<Self> {
        if let Err(why) = support::privilege() {
            support::skip(why);
            return None;
        }
        let root = support::fixture("busybox").map_err(support::skip).ok()?;
        let dirs = support::private_dirs();
        let runtime = Runtime::builder().state_dir(dirs.state()).run_dir(dirs.run()).open().ok()?;
        Some(Self { runtime, root, _dirs: dirs })
    }

    fn config(&self) -> ContainerBuilder {
        ContainerConfig::builder("bench")
            .ephemeral()
            .rootfs(Rootfs::dir(&self.root))
            .read_only_root()
            .capabilities(CapabilitySets::oci_default())
            .seccomp(SeccompConfig::Unconfined)
            .args(["/bin/true"])
    }

    fn sleeping(&self) -> Arc<Container> {
        let config = self.config().args(["/bin/sleep", "1000"]).build().expect("valid");
        let c = self.runtime.create(config).expect("create");
        c.start().expect("start");
        c
    }

    /// Time from the call of `create` until the program runs, and until everything is gone.
    fn run(&self, config: &ContainerConfig) -> (Duration, Duration) {
        let begin = Instant::now();
        let c = self.runtime.create(config.clone()).expect("create");
        c.start().expect("start");
        let exec = begin.elapsed();
        let status = c.wait().expect("wait");
        c.delete().expect("delete");
        let gone = begin.elapsed();
        assert!(status.success(), "{status}");
        (exec, gone)
    }
}

/// The sum over `n` measurements, as criterion wants it.
fn sum(n: u64, mut one: impl FnMut() -> Duration) -> Duration {
    (0..n).map(|_| one()).sum()
}

/// Starts with network interfaces, on a host of the benchmark's own: the thread is in a network namespace of its own
/// meanwhile.
fn nics(c: &mut Criterion) {
    let Some(bench) = Bench::new() else { return };
    let host = Namespace::own(NamespaceKind::Net).expect("own network namespace");
    // SAFETY: a plain number; of this thread alone.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(unshared, 0, "needs CAP_SYS_ADMIN");
    for args in ["link add br0 type bridge", "link set br0 up"] {
        let mut ip = std::process::Command::new(bench.root.join("bin/busybox"));
        assert!(ip.arg("ip").args(args.split(' ')).status().expect("busybox").success());
    }
    let address = |nic: Nic| nic.address("10.77.0.2/24").gateway("10.77.0.1");
    let variants = [
        ("none", bench.config()),
        ("p2p", bench.config().nic(address(Nic::p2p()))),
        ("bridged", bench.config().nic(address(Nic::bridged("br0")))),
        ("two", bench.config().nic(address(Nic::bridged("br0"))).nic(Nic::p2p())),
    ];
    let mut group = c.benchmark_group("nic");
    for (name, config) in variants {
        let config = config.build().expect("valid");
        group.bench_function(BenchmarkId::new("to_exec", name), |b| {
            b.iter_custom(|n| sum(n, || bench.run(&config).0));
        });
        group.bench_function(BenchmarkId::new("to_gone", name), |b| {
            b.iter_custom(|n| sum(n, || bench.run(&config).1));
        });
    }
    let config = bench.config().args(["/bin/sleep", "1000"]).nic(address(Nic::bridged("br0")));
    let up = bench.runtime.create(config.build().expect("valid")).expect("create");
    up.start().expect("start");
    group.bench_function("interfaces", |b| b.iter(|| black_box(up.interfaces().expect("list"))));
    group.finish();
    up.stop().expect("stop");
    // SAFETY: a live descriptor of a network namespace.
    let back = unsafe { libc::setns(host.as_fd().as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(back, 0);
}

fn starts(c: &mut Criterion) {
    let Some(bench) = Bench::new() else { return };
    let variants: [(&str, ContainerConfig); 7] = [
        ("privileged", bench.config().privileged().without_loopback().build()),
        ("user_namespace", bench.config().without_loopback().build()),
        ("loopback", bench.config().build()),
        ("resource_views", bench.config().resource_views(ResourceViews::ALL).build()),
        ("host_network", bench.config().network(Network::Host).build()),
        ("seccomp_system", bench.config().seccomp(SeccompConfig::Default).build()),
        (
            "seccomp_oci",
            bench
                .config()
                .seccomp(stockade::seccomp::Policy::oci_default(CapabilitySets::oci_default().bounding))
                .no_new_privs()
                .build(),
        ),
    ]
    .map(|(name, config)| (name, config.expect("valid")));
    let mut group = c.benchmark_group("start");
    for (name, config) in &variants {
        group.bench_with_input(BenchmarkId::new("to_exec", name), config, |b, config| {
            b.iter_custom(|n| sum(n, || bench.run(config).0));
        });
        group.bench_with_input(BenchmarkId::new("to_gone", name), config, |b, config| {
            b.iter_custom(|n| sum(n, || bench.run(config).1));
        });
    }
}

/// Starts from a host whose heap is resident in 4 KiB pages: the size must not matter.
fn host_sizes(c: &mut Criterion) {
    let Some(bench) = Bench::new() else { return };
    let config = bench.config().without_loopback().build().expect("valid");
    let mut group = c.benchmark_group("host_mib");
    for mib in [0_usize, 256, 1024] {
        let heap = ballast(mib << 20);
        group.bench_with_input(BenchmarkId::new("to_gone", mib), &config, |b, config| {
            b.iter_custom(|n| sum(n, || bench.run(config).1));
        });
        black_box(&heap);
    }
}

fn ballast(bytes: usize) -> Vec<u8> {
    let mut heap = Vec::<u8>::with_capacity(bytes);
    if bytes > 0 {
        let start = heap.as_mut_ptr().map_addr(|a| a.next_multiple_of(4096));
        // SAFETY: advice about whole pages of an allocation that is ours.
        let advised = unsafe { libc::madvise(start.cast(), bytes - 4096, libc::MADV_NOHUGEPAGE) };
        assert_eq!(advised, 0, "madvise: {}", std::io::Error::last_os_error());
    }
    heap.resize(bytes, 1);
    heap
}

fn verbs(c: &mut Criterion) {
    let Some(bench) = Bench::new() else { return };
    let mut group = c.benchmark_group("verb");
    group.bench_function("create_and_delete_durable", |b| {
        let durable =
            ContainerConfig::builder("durable").rootfs(Rootfs::dir(&bench.root)).build().expect("valid");
        b.iter(|| bench.runtime.create(durable.clone()).expect("create").delete().expect("delete"));
    });
    group.bench_function("create_and_delete_ephemeral", |b| {
        let config = bench.config().build().expect("valid");
        b.iter(|| bench.runtime.create(config.clone()).expect("create").delete().expect("delete"));
    });
    let running = bench.sleeping();
    group.bench_function("exec", |b| {
        b.iter(|| {
            let process = running.exec(ExecOptions::new(["/bin/true"])).expect("exec");
            assert!(process.wait().expect("wait").success());
        });
    });
    group.bench_function("freeze_and_thaw", |b| {
        b.iter(|| {
            running.freeze().expect("freeze");
            running.unfreeze().expect("thaw");
        });
    });
    running.stop().expect("stop");
    group.bench_function("stop_and_delete", |b| {
        b.iter_custom(|n| {
            sum(n, || {
                let c = bench.sleeping();
                let begin = Instant::now();
                c.stop().expect("an ephemeral container is deleted with its stop");
                begin.elapsed()
            })
        });
    });
}

criterion_group! {
    name = life;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    targets = starts, nics, host_sizes, verbs
}
criterion_main!(life);

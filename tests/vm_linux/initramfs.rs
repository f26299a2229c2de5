//! A first root for the guest: busybox, a script, some modules; and the kernels that the lane has unpacked.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Loads its modules, says that it is there, and does what `do=` on the command line says. It waits before it ends where it
/// has said something: Linux 6.12 sends its output a little later.
const INIT: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
for m in $($B cat /mod/order); do $B insmod /mod/$m || echo "NO MODULE $m"; done
# Nothing, where it is not there.
for word in $($B cat /proc/cmdline); do case $word in do=*) what=${word#do=} ;; esac; done
echo "INIT cpus=$($B nproc) kib=$($B sed -n 's/MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) clock=$($B cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
case $what in
off) printf '\005' | $B dd of=/dev/port bs=1 seek=1539 2>/dev/null; $B poweroff -f ;;
reboot) $B reboot -f ;;
bare) for m in pvpanic-mmio pvpanic; do $B rmmod $m; done; echo c > /proc/sysrq-trigger ;;
panic) echo c > /proc/sysrq-trigger ;;
button) exec 3</dev/input/event0; echo LISTENING; $B dd of=/dev/null bs=24 count=1 <&3 2>/dev/null; echo PRESSED; $B sleep 1; $B poweroff -f ;;
count)
    (n=0; while :; do n=$((n + 1)); echo "COUNT $n"; $B usleep 20000; done) &
    while read -r line; do echo "ECHO $line"; [ "$line" = end ] && $B sleep 1 && $B poweroff -f; done ;;
esac
$B sleep 1000
"#;

/// A kernel in the lane's cache.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Its release.
    pub(crate) release: String,
    /// Uncompressed, an ELF file.
    pub(crate) vmlinux: PathBuf,
    pub(crate) bzimage: PathBuf,
    /// The directory of its modules.
    pub(crate) modules: PathBuf,
}

/// What the lane must have unpacked: they differ in what is built in, and 6.12 has its modules compressed.
const SERIES: [&str; 2] = ["6.12.", "6.1."];

/// The lane's kernels, the newest of each series.
pub(crate) fn kernels() -> Result<[Kernel; 2], String> {
    let cache = std::env::var_os("STOCKADE_GUESTS").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        Some(base?.join("stockade/vm"))
    });
    let mut found: Vec<Kernel> = Vec::new();
    let entries = cache.and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    for dir in entries.map(|e| e.path()).filter(|d| d.join("kernel").is_file()) {
        let bases = [dir.join("lib/modules"), dir.join("usr/lib/modules")];
        for modules in bases.iter().filter_map(|base| std::fs::read_dir(base).ok()?.flatten().next()) {
            let release = modules.file_name().to_string_lossy().into_owned();
            found.push(Kernel {
                vmlinux: dir.join("kernel"),
                bzimage: dir.join("boot").join(format!("vmlinuz-{release}")),
                modules: modules.path(),
                release,
            });
        }
    }
    found.sort_by(|a, b| b.release.cmp(&a.release));
    let newest = |series: &str| {
        let kernel = found.iter().find(|k| k.release.starts_with(series)).cloned();
        kernel.ok_or_else(|| {
            format!("needs a kernel {series}x that the lane has unpacked (cargo xtask vm --kernel)")
        })
    };
    let [new, old] = SERIES.map(newest);
    Ok([new?, old?])
}

/// The static busybox of the lane.
pub(crate) fn busybox() -> Option<PathBuf> {
    Some(PathBuf::from("/run/vm/busybox")).filter(|path| path.is_file())
}

/// Packs it with these modules, in this order: paths below the kernel's own, without a suffix. What is built in is no
/// module.
pub(crate) fn pack(kernel: &Kernel, busybox: &Path, modules: &[&str]) -> Vec<u8> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "mod", "proc", "sys"] {
        archive.entry(dir, 0o040_755, &[]);
    }
    archive.entry("bin/busybox", 0o100_755, &std::fs::read(busybox).unwrap());
    archive.entry("init", 0o100_755, INIT.as_bytes());
    let mut order = String::new();
    for module in modules {
        let path = kernel.modules.join("kernel").join(module);
        let plain = path.with_added_extension("ko");
        let xz = path.with_added_extension("ko.xz");
        let bytes = if plain.is_file() {
            std::fs::read(plain).unwrap()
        } else if !xz.is_file() {
            continue;
        } else {
            let out = Command::new(busybox).args(["xz", "-dc"]).arg(&xz).output().unwrap();
            assert!(out.status.success(), "{}", xz.display());
            out.stdout
        };
        let name = format!("{}.ko", module.rsplit('/').next().unwrap());
        archive.entry(&format!("mod/{name}"), 0o100_644, &bytes);
        order.push_str(&name);
        order.push('\n');
    }
    archive.entry("mod/order", 0o100_644, order.as_bytes());
    archive.entry("TRAILER!!!", 0, &[]);
    archive.bytes
}

/// A cpio archive in the `newc` format.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: usize, content: &[u8]) {
        self.entries += 1;
        let fields = [self.entries, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

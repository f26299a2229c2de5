//! The machine's kernel: Debian's, unpacked, with an initramfs that reaches the host's files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fixtures::at;
use crate::{Result, sh};

use super::cpio::Archive;
use super::tools::Tools;
use super::{apt, cache, modules};

/// The machine's first program, until the host's files are there.
const INIT: &str = include_str!("init.sh");
/// Raised when what is made from the packages changes.
const RECIPE: u32 = 1;
/// What the initramfs loads; the rest comes from the host's files.
const MODULES: &[&str] = &["virtio_pci", "9p", "9pnet_virtio", "overlay"];

/// A kernel in the cache.
#[derive(Debug)]
pub struct Kernel {
    /// What QEMU starts.
    pub image: PathBuf,
    pub initramfs: PathBuf,
    /// Its release, as uname(1) has it.
    pub release: String,
    /// `/lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// What a guest of the machine boots.
#[derive(Debug)]
pub struct Guest {
    pub release: String,
    /// `/lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// An ELF file, where the image could be unpacked.
    pub vmlinux: Vec<u8>,
    pub bzimage: Vec<u8>,
    pub initramfs: Vec<u8>,
}

impl Kernel {
    /// The kernel for a guest whose first root is busybox and `init`.
    pub fn guest(&self, init: &str, tools: &Tools) -> Result<Guest> {
        let image = &self.image;
        let bzimage = image.with_file_name("boot").join(format!("vmlinuz-{}", self.release));
        let busybox = tools.path("busybox")?;
        let mut archive = Archive::default();
        archive.dir("bin");
        archive.file("bin/busybox", &at(&busybox, fs::read(&busybox))?);
        archive.file("init", init.as_bytes());
        Ok(Guest {
            release: self.release.clone(),
            modules: self.modules.clone(),
            vmlinux: at(image, fs::read(image))?,
            bzimage: at(&bzimage, fs::read(&bzimage))?,
            initramfs: archive.finish(),
        })
    }
}

/// The newest kernel that `meta` stands for.
pub fn find(meta: &str, tools: &Tools) -> Result<Kernel> {
    let package = apt::field(meta, "Depends").and_then(|depends| {
        let mut words = depends.split([' ', ',']);
        let found = words.find(|word| word.starts_with("linux-image-")).map(str::to_owned);
        found.ok_or_else(|| format!("{meta} depends on no kernel: {depends}"))
    });
    let version = package
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|package| Ok(format!("{}-{RECIPE}", apt::field(package, "Version")?)));
    let dir = cache::made(meta, version, |dir| prepare(dir, &package?, tools))?;
    let (base, release) = modules_of(&dir)?;
    let modules = base.join("lib/modules").join(&release);
    Ok(Kernel { image: dir.join("kernel"), initramfs: dir.join("initramfs"), release, modules })
}

/// The directory whose `lib` has the modules, and the kernel's release.
fn modules_of(dir: &Path) -> Result<(PathBuf, String)> {
    let bases = [dir.to_owned(), dir.join("usr")];
    let found = bases.into_iter().find_map(|base| {
        let release = fs::read_dir(base.join("lib/modules")).ok()?.flatten().next()?.file_name();
        Some((base, release.into_string().ok()?))
    });
    found.ok_or_else(|| format!("no modules in {}", dir.display()))
}

fn prepare(dir: &Path, package: &str, tools: &Tools) -> Result {
    eprintln!("vm: fetching {package}");
    apt::unpack(package, dir)?;
    let (base, release) = modules_of(dir)?;
    sh::run(tools.command("busybox")?.args(["depmod", "-b"]).arg(&base).arg(&release))?;

    let packed = dir.join("boot").join(format!("vmlinuz-{release}"));
    let bytes = at(&packed, fs::read(&packed))?;
    // Uncompressed, it saves some seconds of emulation: QEMU enters it by its PVH note.
    let image = uncompressed(&bytes, tools).unwrap_or(bytes);
    at(dir, fs::write(dir.join("kernel"), image))?;

    let modules = base.join("lib/modules").join(&release);
    at(dir, fs::write(dir.join("initramfs"), initramfs(&modules, tools)?))
}

/// The ELF file in a kernel image, where its compression is known and its program is here.
fn uncompressed(image: &[u8], tools: &Tools) -> Option<Vec<u8>> {
    let zstd: (&[u8], &str, &[&str]) = (b"\x28\xb5\x2f\xfd", "zstd", &["-dcq"]);
    let xz: (&[u8], &str, &[&str]) = (b"\xfd7zXZ\0", "busybox", &["xz", "-dc"]);
    [zstd, xz].into_iter().find_map(|(magic, program, args)| {
        // The magic number may be in the code before the stream, too.
        let starts = image.windows(magic.len()).enumerate().filter(|(_, w)| *w == magic);
        starts.map(|(at, _)| at).find_map(|at| {
            let mut command = tools.command(program).ok()?;
            let elf = filtered(command.args(args), &image[at..]).ok()?;
            elf.starts_with(b"\x7fELF").then_some(elf)
        })
    })
}

/// What the program makes of the bytes. What follows the stream is not part of it, and no error.
fn filtered(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let shown = sh::shown(command);
    let failed = |e: std::io::Error| format!("`{shown}`: {e}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let stdin = child.stdin.take();
    std::thread::scope(|s| {
        s.spawn(move || {
            // It may have had enough before the end.
            let _ = stdin.map(|mut stdin| stdin.write_all(input));
        });
        child.wait_with_output().map(|out| out.stdout).map_err(failed)
    })
}

fn initramfs(modules: &Path, tools: &Tools) -> Result<Vec<u8>> {
    let text = |name: &str| {
        let path = modules.join(name);
        at(&path, fs::read_to_string(&path))
    };
    let order = modules::load_order(&text("modules.dep")?, &text("modules.builtin")?, MODULES)?;
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "m", "mod", "proc", "sys"] {
        archive.dir(dir);
    }
    let busybox = tools.path("busybox")?;
    archive.file("bin/busybox", &at(&busybox, fs::read(&busybox))?);
    archive.file("init", INIT.as_bytes());
    let mut names = String::new();
    for file in order {
        let path = modules.join(&file);
        let mut bytes = at(&path, fs::read(&path))?;
        let base = file.rsplit('/').next().unwrap_or(&file);
        if base.ends_with(".xz") {
            bytes = filtered(tools.command("busybox")?.args(["xz", "-dc"]), &bytes)?;
        }
        let name = base.trim_end_matches(".xz");
        archive.file(&format!("mod/{name}"), &bytes);
        names.push_str(name);
        names.push('\n');
    }
    archive.file("mod/order", names.as_bytes());
    Ok(archive.finish())
}

//! The initramfs of a guest with the agent: the agent, modules, and what it is to do.

use std::os::unix::ffi::OsStrExt;

use super::TOKEN;
use super::archive::Archive;
use super::modules::{self, Wanted};
use super::wire::{self, BOOT_FILE, Boot, Init, MODULES, RootDevice, VERSION};
use crate::error::{Error, Result};
use crate::vm::guest::{Guest, GuestInit, RootMode};

/// The agent's program.
static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-agent"));

/// The archive. It is made for each start: the token is in it.
pub(in crate::vm) fn initramfs(guest: &Guest, hostname: &str, token: [u8; TOKEN]) -> Result<Vec<u8>> {
    use Wanted::{May, Must};
    let mut wanted = vec![
        ("virtio_mmio", Must),
        ("vmw_vsock_virtio_transport", Must),
        ("virtio-rng", May),
        ("virtio_console", May),
        ("virtio_balloon", May),
        // Word of a panic, and the power button.
        ("pvpanic-mmio", May),
        ("button", May),
        ("evdev", May),
    ];
    let root = guest.root.as_ref();
    if let Some(root) = root {
        wanted.push(("virtio_blk", Must));
        // ext4 asks for it by the name of what it does, which only a program could find.
        wanted.push(("crc32c_generic", May));
        wanted.push((&root.filesystem, Must));
        if root.mode == RootMode::Overlay {
            wanted.push(("overlay", Must));
        }
    }
    let mut archive = Archive::default();
    archive.directory("dev");
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.program("init", AGENT);
    archive.directory(MODULES);
    let mut names = Vec::new();
    for (n, path) in modules::find(&guest.modules, &wanted)?.into_iter().enumerate() {
        let bytes = std::fs::read(&path)
            .map_err(|e| Error::io("read a module of the guest's kernel", e).path(&path))?;
        let base = path.file_name().unwrap_or_default().to_string_lossy();
        // Two directories may have files of one name.
        let name = format!("{n}-{base}");
        archive.secret(&format!("{MODULES}/{name}"), &bytes);
        names.push(name.into_bytes());
    }
    let bytes = |list: &[std::ffi::OsString]| list.iter().map(|s| s.as_bytes().to_vec()).collect();
    let boot = Boot {
        version: VERSION,
        token: token.to_vec(),
        root: root.map(|root| RootDevice {
            device: b"/dev/vda".to_vec(),
            filesystem: root.filesystem.as_bytes().to_vec(),
            mode: match root.mode {
                RootMode::ReadWrite => 0,
                RootMode::ReadOnly => 1,
                RootMode::Overlay => 2,
            },
        }),
        hostname: hostname.as_bytes().to_vec(),
        init: match &guest.init {
            GuestInit::Agent => Init::Agent,
            GuestInit::Image(args) => Init::Image(bytes(args)),
            GuestInit::Command(args) => Init::Command(bytes(args)),
        },
        env: bytes(&guest.env),
        modules: names,
    };
    // Without the length that a message has.
    archive.secret(BOOT_FILE, &wire::encode(&boot)[4..]);
    Ok(archive.finish())
}

//! Sealed in-memory files (`memfd_create(2)`).

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;

use super::raw::{last_errno, retry};

/// `MFD_EXEC` (Linux 6.3): says that the file will be executed; needed where `vm.memfd_noexec` is 1.
const MFD_EXEC: u32 = 0x10;

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// `F_SEAL_EXEC` (Linux 6.3): the permission to execute it stays as it is.
const F_SEAL_EXEC: SealFlags = SealFlags::from_bits_retain(0x20);

/// An executable file in memory that nobody, not even this process, can change any more.
pub(crate) fn sealed_executable(name: &str, image: &[u8]) -> Result<OwnedFd, Errno> {
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(name, base | MemfdFlags::from_bits_retain(MFD_EXEC)) {
        // Before 6.3 the flag is unknown and every memfd is executable.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, base)?,
        other => other?,
    };
    write_all(&fd, image)?;
    // A memfd is everybody's to write. Who holds this one open for that changes nothing in it, but keeps it from being
    // executed (ETXTBSY); and a program of a container that has itself as its interpreter (`#!/proc/self/exe`) gets at it.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o555))?;
    // A privileged container's root is its owner, and could make it useless for all later starts.
    match rustix::fs::fcntl_add_seals(&fd, SEALS | F_SEAL_EXEC) {
        // Before 6.3.
        Err(Errno::INVAL) => rustix::fs::fcntl_add_seals(&fd, SEALS)?,
        other => other?,
    }
    Ok(fd)
}

/// A file in memory with this content, sealed, for handing data that is too large for a message.
pub(crate) fn sealed_data(name: &str, data: &[u8]) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    write_all(&fd, data)?;
    rustix::fs::fcntl_add_seals(&fd, SEALS)?;
    Ok(fd)
}

fn write_all(fd: &OwnedFd, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        let n = retry(|| rustix::io::write(fd, data))?;
        if n == 0 {
            return Err(last_errno());
        }
        data = &data[n..];
    }
    Ok(())
}

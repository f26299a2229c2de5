//! What the fuzz target `vm` runs: kernel files, the agent's messages, and rings of devices.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::MemfdFlags;

use super::agent::wire::{self, Boot, Hello, Open, Reply};
use super::boot;
use super::devices::ConsoleRing;
use super::devices::virtio::rig::{FREE, Rig};
use super::devices::virtio::{Balloon, BalloonDevice, Block, Console, Keys, OpenDisk, Rng, Vsock, VsockHost};
use super::disk::Disk;

/// The first byte says what the others are. What was understood.
pub(crate) fn vm(bytes: &[u8]) -> Option<&'static str> {
    let (kind, rest) = bytes.split_first()?;
    match kind % 7 {
        0 => boot::usable(rest).then_some("kernel"),
        1 => message(rest).then_some("message"),
        2 => disk(rest).then_some("disk"),
        3 => {
            let host = Arc::new(VsockHost::new().ok()?);
            let _listener = host.listen(1000);
            let device = Vsock::new(3, host, None);
            script(&mut Rig::new(Box::new(device), 0), rest).then_some("vsock")
        }
        4 => script(&mut Rig::new(Box::new(Rng), 0), rest).then_some("rng"),
        5 => {
            let device = BalloonDevice::new(Arc::new(Balloon::new().ok()?));
            script(&mut Rig::new(Box::new(device), 0), rest).then_some("balloon")
        }
        _ => {
            let keys = Arc::new(Keys::new().ok()?);
            keys.write(b"some keys that were typed");
            let device = Console::new(keys, Arc::new(ConsoleRing::new(4096)));
            script(&mut Rig::new(Box::new(device), 0), rest).then_some("console")
        }
    }
}

/// What is read is written so that it is read the same.
fn message(bytes: &[u8]) -> bool {
    fn same<T: wire::Wire + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
        let Some(message) = wire::decode::<T>(bytes) else { return false };
        assert_eq!(wire::decode::<T>(&wire::encode(&message)[4..]), Some(message));
        true
    }
    [same::<Hello>(bytes), same::<Open>(bytes), same::<Reply>(bytes), same::<Boot>(bytes)].contains(&true)
}

fn disk(bytes: &[u8]) -> bool {
    const SIZE: u64 = 64 << 10;
    let file = rustix::fs::memfd_create("stockade-fuzz", MemfdFlags::CLOEXEC).expect("a memory file");
    rustix::fs::ftruncate(&file, SIZE).expect("a small file");
    let disk = Disk::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let disk = OpenDisk::open(&disk, 0).expect("it is there");
    let served = script(&mut Rig::new(Box::new(Block::new(disk, 0)), 0), bytes);
    let len = rustix::fs::fstat(&file).expect("it is open").st_size;
    assert_eq!(len.cast_unsigned(), SIZE, "the guest has changed the size of its disk");
    served
}

/// A driver's steps, 16 bytes each; says whether the device has given anything back.
fn script(rig: &mut Rig, bytes: &[u8]) -> bool {
    let queues = rig.device.queues().len();
    let mut served = false;
    for step in bytes.chunks_exact(16).take(512) {
        let half = |at: usize| u16::from_le_bytes([step[at], step[at + 1]]);
        let word = |at: usize| u32::from_le_bytes([step[at], step[at + 1], step[at + 2], step[at + 3]]);
        let queue = usize::from(step[1]) % queues;
        let done = match step[0] % 8 {
            0 => {
                rig.describe(queue, half(2) % 256, (word(4).into(), word(8), half(12), half(14)));
                Ok(None)
            }
            1 => {
                rig.put(FREE + u64::from(word(4) % 0x10_0000), &step[8..]);
                Ok(None)
            }
            2 => {
                rig.offer(queue, half(2));
                Ok(None)
            }
            3 => rig.ring_for(queue),
            4 => {
                rig.claim(queue, half(2));
                Ok(None)
            }
            5 => rig.poll().map(|_| None),
            6 => {
                let mut out = [0; 8];
                rig.device.read_config(u64::from(word(4)) << 8 | u64::from(step[2]), &mut out);
                rig.device.write_config(u64::from(word(4)), &step[8..]);
                Ok(None)
            }
            _ => {
                rig.device.reset();
                rig.device.activate(word(8).into());
                Ok(None)
            }
        };
        // A damaged ring: the device wants a reset.
        if done.is_err() {
            return served;
        }
        served |= !rig.used(queue).is_empty();
    }
    // Whatever was done, it can be told.
    let _ = rig.interrupted();
    let _ = rig.get(FREE, 16);
    served
}

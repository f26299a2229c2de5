//! Random bytes (virtio 1.2, section 5.4).

use std::io::Write;

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_queue::Error as QueueError;

use super::{VirtioDevice, Work};

/// The most for one buffer of the guest's: it asks again for more.
const MOST: usize = 4096;

/// Fills the guest's buffers from the host's generator.
#[derive(Debug)]
pub(in crate::vm) struct Rng;

impl VirtioDevice for Rng {
    fn name(&self) -> &'static str {
        "random number generator"
    }

    fn number(&self) -> u32 {
        4
    }

    fn queues(&self) -> &'static [u16] {
        &[64]
    }

    fn process(&mut self, queue: usize, work: &mut Work<'_>) -> Result<(), QueueError> {
        let memory = work.memory;
        while let Some(chain) = work.pop(queue)? {
            let head = chain.head_index();
            let written = match chain.writer::<()>(memory) {
                Ok(mut writer) => {
                    let mut bytes = [0_u8; MOST];
                    let wanted = writer.available_bytes().min(MOST);
                    // The kernel's generator is ready from early in the host's start on.
                    let got = getrandom(&mut bytes[..wanted], GetRandomFlags::empty()).unwrap_or(0);
                    writer.write(&bytes[..got]).unwrap_or(0)
                }
                // Buffers outside of memory, or in a circle: given back as they are.
                Err(_) => 0,
            };
            work.push(queue, head, written as u32)?;
        }
        work.notify(queue)
    }
}

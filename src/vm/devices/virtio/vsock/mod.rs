//! Sockets between host and guest (virtio 1.2, section 5.10), without vhost: each connection is a stream socket of this
//! process.
//!
//! | connection | how |
//! |---|---|
//! | of the host to the guest | [`VsockHost::connect`], or `CONNECT PORT` and a newline on the Unix socket, which says `OK` |
//! | of the guest to the host | [`VsockHost::listen`], else the Unix socket whose path ends in `_PORT` |
//!
//! What a connection holds is bounded by the credit that its other side was given; a guest that sends more is cut off.

mod connection;
mod host;
mod muxer;
mod packet;
mod socket;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(in crate::vm) use host::VsockHost;
use muxer::Muxer;
use rustix::event::epoll::EventFlags;
pub(in crate::vm) use socket::OpenSocket;
use virtio_queue::Error as QueueError;

use super::{VirtioDevice, Work, buffers};
use crate::error::Result;
use crate::vm::event_loop::Watcher;
use packet::{HEADER, MOST_DATA, Packet};

const RX: usize = 0;
const TX: usize = 1;
const QUEUE: u16 = 256;

/// The device.
#[derive(Debug)]
pub(in crate::vm) struct Vsock {
    muxer: Muxer,
    host: Arc<VsockHost>,
    /// Of one packet.
    data: Vec<u8>,
}

impl Vsock {
    pub(in crate::vm) fn new(cid: u32, host: Arc<VsockHost>, socket: Option<OpenSocket>) -> Self {
        let muxer = Muxer::new(u64::from(cid), Arc::clone(&host), socket);
        Self { muxer, host, data: vec![0; MOST_DATA] }
    }

    /// Sends what there is for the guest, as far as it has given buffers.
    fn flush(&mut self, work: &mut Work<'_>) -> Result<(), QueueError> {
        let memory = work.memory;
        let mut used = false;
        while self.muxer.has_something() {
            let Some(chain) = work.pop(RX)? else { break };
            let head = chain.head_index();
            let buffers = buffers::request(chain, memory, usize::from(QUEUE)).map(|r| r.wanted);
            let Some(mut buffers) = buffers.filter(|b| b.len() >= HEADER) else {
                work.push(RX, head, 0)?;
                used = true;
                continue;
            };
            let room = (buffers.len() - HEADER).min(MOST_DATA);
            match self.muxer.next(&mut self.data[..room]) {
                Some((packet, len)) => {
                    let header = buffers.take_front(HEADER).unwrap_or_default();
                    header.copy_from(&packet.bytes());
                    buffers.copy_from(&self.data[..len]);
                    self.host.to_guest.fetch_add(len as u64, Ordering::Relaxed);
                    work.push(RX, head, (HEADER + len) as u32)?;
                    used = true;
                }
                None => {
                    work.unpop(RX);
                    break;
                }
            }
        }
        if used { work.notify(RX) } else { Ok(()) }
    }

    /// Takes what the guest sends.
    fn receive(&mut self, work: &mut Work<'_>) -> Result<(), QueueError> {
        let memory = work.memory;
        while let Some(chain) = work.pop(TX)? {
            let head = chain.head_index();
            if let Some(request) = buffers::request(chain, memory, usize::from(QUEUE)) {
                let mut given = request.given;
                if let Some(header) = given.take::<HEADER>() {
                    let packet = Packet::parse(&header);
                    let len = packet.len as usize;
                    if len <= MOST_DATA && len <= given.len() {
                        given.copy_to(&mut self.data[..len]);
                        self.host.from_guest.fetch_add(len as u64, Ordering::Relaxed);
                        self.muxer.packet(&packet, &self.data[..len], &work.watcher);
                    } else {
                        self.muxer.garbage(&packet);
                    }
                }
            }
            work.push(TX, head, 0)?;
        }
        work.notify(TX)
    }
}

impl VirtioDevice for Vsock {
    fn name(&self) -> &'static str {
        "vsock"
    }

    fn number(&self) -> u32 {
        19
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE, QUEUE, 16]
    }

    fn begin(&mut self, watcher: &Watcher<'_>) -> Result<()> {
        self.muxer.begin(watcher)
    }

    fn ready(&mut self, token: u32, flags: EventFlags, work: &mut Work<'_>) -> Result<(), QueueError> {
        self.muxer.ready(token, flags, &work.watcher);
        self.flush(work)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let cid = self.muxer.guest().to_le_bytes();
        let from = usize::try_from(offset).ok().and_then(|at| cid.get(at..)).unwrap_or_default();
        for (to, byte) in data.iter_mut().zip(from) {
            *to = *byte;
        }
    }

    fn process(&mut self, queue: usize, work: &mut Work<'_>) -> Result<(), QueueError> {
        self.muxer.catch_up(&work.watcher);
        if queue == TX {
            self.receive(work)?;
        }
        self.flush(work)
    }

    fn reset(&mut self) {
        self.muxer.reset();
    }
}

//! One connection: a stream of the host's, and what is owed to the guest.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;

use super::host::Answer;
use super::packet::{NO_RECEIVE, NO_SEND, Packet, STREAM, op};

/// Bytes that we hold for a host that does not read: what the guest is told that it may send.
pub(super) const BUFFER: usize = 256 << 10;

#[derive(Debug)]
pub(super) enum Phase {
    /// We have asked the guest, or are about to.
    Asked(Who),
    Open,
    /// All was said; the guest has yet to agree.
    Closing,
}

/// Who gets to know whether the guest takes the connection.
#[derive(Debug)]
pub(super) enum Who {
    Caller(SyncSender<Answer>),
    /// One that came by the Unix socket, to which it is written.
    Socket,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
    pub(super) stream: UnixStream,
    pub(super) phase: Phase,
    /// In line to send something.
    pub(super) queued: bool,
    pub(super) readable: bool,
    /// The host's end was closed.
    pub(super) hung_up: bool,
    /// Nothing more comes from the host.
    host_done: bool,
    /// What the guest will not do any more.
    guest_done: u32,
    /// Of the host's data: what was sent, what the guest can hold and has passed on.
    sent: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
    /// Of the guest's data: what has come, what was passed on, and the count of that which the guest knows.
    received: u32,
    forwarded: u32,
    told: u32,
    pending: VecDeque<u8>,
    /// Packets without data that are to be sent.
    ask: bool,
    respond: bool,
    credit: bool,
    shutdown: u32,
    shutdown_sent: u32,
}

/// What comes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Go,
    /// It is over, and the guest is to be told.
    Reset,
}

impl Connection {
    pub(super) fn new(host_port: u32, guest_port: u32, stream: UnixStream, phase: Phase) -> Self {
        let ask = matches!(phase, Phase::Asked(_));
        Self {
            host_port,
            guest_port,
            stream,
            respond: !ask,
            ask,
            phase,
            queued: false,
            readable: true,
            hung_up: false,
            host_done: false,
            guest_done: 0,
            sent: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
            received: 0,
            forwarded: 0,
            told: 0,
            pending: VecDeque::new(),
            credit: false,
            shutdown: 0,
            shutdown_sent: 0,
        }
    }

    /// What every packet of the guest's says.
    pub(super) fn note(&mut self, packet: &Packet) {
        self.guest_buffer = packet.buffer;
        self.guest_forwarded = packet.forwarded;
    }

    /// The guest has taken the connection that it was asked for.
    pub(super) fn accepted(&mut self) -> Then {
        match std::mem::replace(&mut self.phase, Phase::Open) {
            Phase::Asked(Who::Caller(caller)) => {
                // A caller who has given up has closed the stream, too.
                let _ = caller.try_send(Answer::Open);
                Then::Go
            }
            Phase::Asked(Who::Socket) => {
                let text = format!("OK {}\n", self.host_port);
                self.pending.extend(text.as_bytes());
                // It is no data of the guest's.
                self.forwarded = self.forwarded.wrapping_sub(text.len() as u32);
                self.told = self.forwarded;
                self.forward()
            }
            _ => Then::Reset,
        }
    }

    /// The guest has refused, or ended it.
    pub(super) fn refused(self, why: Answer) {
        if let Phase::Asked(Who::Caller(caller)) = self.phase {
            let _ = caller.try_send(why);
        }
    }

    /// Data of the guest's.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Then {
        let open = matches!(self.phase, Phase::Open) && self.guest_done & NO_SEND == 0;
        // More than it was told that it may send.
        if !open || bytes.len() > BUFFER.saturating_sub(self.pending.len()) {
            return Then::Reset;
        }
        self.received = self.received.wrapping_add(bytes.len() as u32);
        self.pending.extend(bytes);
        self.forward()
    }

    /// Passes on what the host takes.
    pub(super) fn forward(&mut self) -> Then {
        while !self.pending.is_empty() {
            let (front, _) = self.pending.as_slices();
            match self.stream.write(front) {
                Ok(done) if done > 0 => {
                    self.pending.drain(..done);
                    self.forwarded = self.forwarded.wrapping_add(done as u32);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                _ => return Then::Reset,
            }
        }
        if self.pending.is_empty() && self.guest_done & NO_SEND != 0 {
            let _ = self.stream.shutdown(Shutdown::Write);
            if self.guest_done & NO_RECEIVE != 0 {
                return Then::Reset;
            }
        }
        // The guest may believe that there is little room.
        let unknown = self.received.wrapping_sub(self.told) as usize;
        if unknown >= BUFFER / 2 && self.forwarded != self.told {
            self.credit = true;
        }
        Then::Go
    }

    pub(super) fn want_credit(&mut self) {
        self.credit = true;
    }

    /// The guest will not do some things any more.
    pub(super) fn guest_shuts(&mut self, flags: u32) -> Then {
        self.guest_done |= flags & (NO_SEND | NO_RECEIVE);
        if matches!(self.phase, Phase::Closing) && self.guest_done == NO_SEND | NO_RECEIVE {
            return Then::Reset;
        }
        if self.guest_done & NO_RECEIVE != 0 {
            let _ = self.stream.shutdown(Shutdown::Read);
            self.readable = false;
        }
        self.forward()
    }

    fn room(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_buffer.saturating_sub(in_flight) as usize
    }

    /// Whether there may be something for the guest.
    pub(super) fn has_something(&self) -> bool {
        let data = matches!(self.phase, Phase::Open)
            && self.readable
            && !self.host_done
            && self.guest_done & NO_RECEIVE == 0
            && self.room() > 0;
        let control = self.ask || self.respond || self.credit;
        control || self.shutdown & !self.shutdown_sent != 0 || data
    }

    fn packet(&mut self, guest: u64, op: u16) -> Packet {
        self.told = self.forwarded;
        self.credit = false;
        Packet {
            from: super::packet::HOST,
            to: guest,
            from_port: self.host_port,
            to_port: self.guest_port,
            kind: STREAM,
            op,
            buffer: BUFFER as u32,
            forwarded: self.forwarded,
            ..Packet::default()
        }
    }

    /// The next packet for the guest, with its data in `out`: at most as much as that has room for.
    pub(super) fn next(&mut self, guest: u64, out: &mut [u8]) -> Option<(Packet, usize)> {
        if std::mem::take(&mut self.ask) {
            return Some((self.packet(guest, op::REQUEST), 0));
        }
        if std::mem::take(&mut self.respond) {
            return Some((self.packet(guest, op::RESPONSE), 0));
        }
        let most = out.len().min(self.room());
        let may = matches!(self.phase, Phase::Open) && self.guest_done & NO_RECEIVE == 0 && !self.host_done;
        while may && self.readable && most > 0 {
            match self.stream.read(&mut out[..most]) {
                Ok(0) => {
                    self.host_done = true;
                    self.shutdown |= NO_SEND;
                    break;
                }
                Ok(len) => {
                    self.sent = self.sent.wrapping_add(len as u32);
                    let packet = self.packet(guest, op::DATA);
                    return Some((Packet { len: len as u32, ..packet }, len));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => {
                    self.host_done = true;
                    self.shutdown |= NO_SEND | NO_RECEIVE;
                    break;
                }
            }
        }
        if self.host_done && self.hung_up {
            self.shutdown |= NO_SEND | NO_RECEIVE;
        }
        if self.shutdown & !self.shutdown_sent != 0 {
            self.shutdown_sent = self.shutdown;
            if self.shutdown == NO_SEND | NO_RECEIVE {
                self.phase = Phase::Closing;
            }
            let packet = self.packet(guest, op::SHUTDOWN);
            return Some((Packet { flags: self.shutdown_sent, ..packet }, 0));
        }
        self.credit.then(|| (self.packet(guest, op::CREDIT_UPDATE), 0))
    }

    /// The host has closed its end.
    pub(super) fn hang_up(&mut self) {
        self.hung_up = true;
        self.readable = true;
        if self.host_done {
            self.shutdown |= NO_SEND | NO_RECEIVE;
        }
    }
}

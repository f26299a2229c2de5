//! All connections of a machine.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::epoll::EventFlags;

use super::connection::{Connection, Phase, Then, Who};
use super::host::{Answer, VsockHost};
use super::packet::{HOST, Packet, STREAM, op};
use super::socket::{Greeting, OpenSocket};
use crate::error::Result;
use crate::vm::event_loop::Watcher;

/// The most connections, those that only begin or end included.
const MOST: usize = 1024;
/// The most resets that wait for the guest to make room; further ones are lost.
const MOST_RESETS: usize = 256;
/// Our own ports, which no program of the guest expects to be somebody.
const FIRST_PORT: u32 = 1 << 30;

/// Tokens: who wants something, who comes by the Unix socket, and from here on connections.
const INBOX: u32 = 0;
const SOCKET: u32 = 1;
const FIRST: u32 = 16;
/// More would run into the next device's.
const LAST: u32 = 1 << 30;

#[derive(Debug)]
pub(super) struct Muxer {
    guest: u64,
    host: Arc<VsockHost>,
    socket: Option<OpenSocket>,
    connections: BTreeMap<u32, Connection>,
    /// By the host's port and the guest's.
    by_ports: HashMap<(u32, u32), u32>,
    greetings: BTreeMap<u32, Greeting>,
    /// Connections that may have something to send, each once.
    line: VecDeque<u32>,
    resets: VecDeque<Packet>,
    next_token: u32,
    next_port: u32,
}

impl Muxer {
    pub(super) fn new(guest: u64, host: Arc<VsockHost>, socket: Option<OpenSocket>) -> Self {
        Self {
            guest,
            host,
            socket,
            connections: BTreeMap::new(),
            by_ports: HashMap::new(),
            greetings: BTreeMap::new(),
            line: VecDeque::new(),
            resets: VecDeque::new(),
            next_token: FIRST,
            next_port: FIRST_PORT,
        }
    }

    pub(super) fn guest(&self) -> u64 {
        self.guest
    }

    pub(super) fn begin(&mut self, watcher: &Watcher<'_>) -> Result<()> {
        // By edge: while the guest has no driver, nothing is done about them. See `catch_up`.
        let flags = EventFlags::IN | EventFlags::ET;
        watcher.add(&self.host.event, INBOX, flags)?;
        match &self.socket {
            Some(socket) => watcher.add(socket, SOCKET, flags),
            None => Ok(()),
        }
    }

    /// The guest's driver begins anew: nothing of before is left.
    pub(super) fn reset(&mut self) {
        self.connections.clear();
        self.by_ports.clear();
        self.greetings.clear();
        self.line.clear();
        self.resets.clear();
    }

    pub(super) fn has_something(&self) -> bool {
        !self.resets.is_empty() || !self.line.is_empty()
    }

    /// The next packet for the guest, in turn.
    pub(super) fn next(&mut self, out: &mut [u8]) -> Option<(Packet, usize)> {
        if let Some(reset) = self.resets.pop_front() {
            return Some((reset, 0));
        }
        while let Some(token) = self.line.pop_front() {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            connection.queued = false;
            let packet = connection.next(self.guest, out);
            self.enqueue(token);
            if packet.is_some() {
                return packet;
            }
        }
        None
    }

    fn enqueue(&mut self, token: u32) {
        if let Some(connection) = self.connections.get_mut(&token)
            && !connection.queued
            && connection.has_something()
        {
            connection.queued = true;
            self.line.push_back(token);
        }
    }

    fn push_reset(&mut self, packet: Packet) {
        if self.resets.len() < MOST_RESETS {
            self.resets.push_back(packet);
        }
    }

    /// A packet that can be nothing: whatever connection it is of ends.
    pub(super) fn garbage(&mut self, packet: &Packet) {
        if packet.from != self.guest {
            return;
        }
        self.forget(packet.to_port, packet.from_port);
        if packet.op != op::RESET {
            self.push_reset(packet.reset());
        }
    }

    fn forget(&mut self, host_port: u32, guest_port: u32) {
        if let Some(token) = self.by_ports.remove(&(host_port, guest_port))
            && let Some(connection) = self.connections.remove(&token)
        {
            connection.refused(Answer::Refused);
        }
    }

    /// A packet of the guest's, with its data.
    pub(super) fn packet(&mut self, packet: &Packet, data: &[u8], watcher: &Watcher<'_>) {
        if packet.kind != STREAM || packet.from != self.guest || packet.to != HOST {
            return self.garbage(packet);
        }
        let ports = (packet.to_port, packet.from_port);
        let token = self.by_ports.get(&ports).copied();
        let found = token.and_then(|token| Some((token, self.connections.get_mut(&token)?)));
        let Some((token, connection)) = found else {
            return match packet.op {
                op::REQUEST => self.request(packet, watcher),
                op::RESET => {}
                _ => self.push_reset(packet.reset()),
            };
        };
        connection.note(packet);
        let then = match packet.op {
            op::RESPONSE => connection.accepted(),
            op::DATA => connection.data(data),
            op::SHUTDOWN => connection.guest_shuts(packet.flags),
            op::CREDIT_UPDATE => Then::Go,
            op::CREDIT_REQUEST => {
                connection.want_credit();
                Then::Go
            }
            op::RESET => return self.forget(ports.0, ports.1),
            // A second request among them.
            _ => Then::Reset,
        };
        self.then(token, then);
    }

    fn then(&mut self, token: u32, then: Then) {
        if then == Then::Go {
            return self.enqueue(token);
        }
        let Some(connection) = self.connections.get(&token) else { return };
        let (host, guest) = (connection.host_port, connection.guest_port);
        self.forget(host, guest);
        self.push_reset(Packet {
            from: HOST,
            to: self.guest,
            from_port: host,
            to_port: guest,
            kind: STREAM,
            op: op::RESET,
            ..Packet::default()
        });
    }

    /// The guest wants a connection.
    fn request(&mut self, packet: &Packet, watcher: &Watcher<'_>) {
        let stream = match self.has_room() {
            true => self
                .host
                .take(packet.to_port)
                .or_else(|| self.socket.as_ref().and_then(|socket| socket.connect(packet.to_port))),
            false => None,
        };
        let made = stream
            .and_then(|stream| self.add(packet.to_port, packet.from_port, stream, Phase::Open, watcher));
        match made {
            Some(token) => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.note(packet);
                }
            }
            None => self.push_reset(packet.reset()),
        }
    }

    /// Whether one more can be had. Those to whose end the guest does not agree make room.
    fn has_room(&mut self) -> bool {
        if self.connections.len() + self.greetings.len() < MOST {
            return true;
        }
        let closing = self.connections.iter().find(|(_, c)| matches!(c.phase, Phase::Closing));
        let ports = closing.map(|(_, c)| (c.host_port, c.guest_port));
        match ports {
            Some((host, guest)) => {
                self.forget(host, guest);
                true
            }
            None => false,
        }
    }

    fn token(&mut self) -> u32 {
        loop {
            let token = self.next_token;
            self.next_token = if token >= LAST { FIRST } else { token + 1 };
            // There are a million times as many as can be in use.
            if !self.connections.contains_key(&token) && !self.greetings.contains_key(&token) {
                return token;
            }
        }
    }

    fn add(
        &mut self,
        host_port: u32,
        guest_port: u32,
        stream: UnixStream,
        phase: Phase,
        watcher: &Watcher<'_>,
    ) -> Option<u32> {
        stream.set_nonblocking(true).ok()?;
        let token = self.token();
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        watcher.add(&stream, token, flags).ok()?;
        self.keep(token, host_port, guest_port, stream, phase);
        Some(token)
    }

    fn keep(&mut self, token: u32, host_port: u32, guest_port: u32, stream: UnixStream, phase: Phase) {
        self.connections.insert(token, Connection::new(host_port, guest_port, stream, phase));
        self.by_ports.insert((host_port, guest_port), token);
        self.enqueue(token);
    }

    /// A port of ours that has no connection to that one of the guest's.
    fn port(&mut self, guest_port: u32) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).filter(|p| *p < u32::MAX).unwrap_or(FIRST_PORT);
            if !self.by_ports.contains_key(&(port, guest_port)) {
                return port;
            }
        }
    }

    /// A descriptor is ready.
    pub(super) fn ready(&mut self, token: u32, flags: EventFlags, watcher: &Watcher<'_>) {
        match token {
            INBOX | SOCKET => self.catch_up(watcher),
            _ if self.greetings.contains_key(&token) => self.greet(token),
            _ => {
                let Some(connection) = self.connections.get_mut(&token) else { return };
                if flags.contains(EventFlags::HUP) || flags.contains(EventFlags::ERR) {
                    connection.hang_up();
                }
                if flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
                    connection.readable = true;
                }
                let then = if flags.contains(EventFlags::OUT) { connection.forward() } else { Then::Go };
                self.then(token, then);
            }
        }
    }

    /// Takes those who have come, maybe before the guest had a driver.
    pub(super) fn catch_up(&mut self, watcher: &Watcher<'_>) {
        self.host.event.take();
        while let Some(wanted) = self.host.next_wanted() {
            if !self.has_room() {
                let _ = wanted.answer.try_send(Answer::Full);
                continue;
            }
            let phase = Phase::Asked(Who::Caller(wanted.answer));
            let port = self.port(wanted.port);
            self.add(port, wanted.port, wanted.stream, phase, watcher);
        }
        // More than can be are closed at once, so that this ends.
        for _ in 0..2 * MOST {
            let Some(stream) = self.socket.as_ref().and_then(OpenSocket::accept) else { return };
            if !self.has_room() {
                continue;
            }
            let token = self.token();
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            if watcher.add(&stream, token, flags).is_ok() {
                self.greetings.insert(token, Greeting::new(stream));
            }
        }
    }

    fn greet(&mut self, token: u32) {
        let Some(greeting) = self.greetings.get_mut(&token) else { return };
        match greeting.read() {
            // The rest is yet to come.
            Ok(None) => {}
            Ok(Some(guest_port)) => {
                if let Some(greeting) = self.greetings.remove(&token) {
                    let port = self.port(guest_port);
                    let phase = Phase::Asked(Who::Socket);
                    self.keep(token, port, guest_port, greeting.into_stream(), phase);
                }
            }
            Err(()) => drop(self.greetings.remove(&token)),
        }
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        self.host.close();
    }
}

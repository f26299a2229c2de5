//! Packets as a driver sends them, and as one sends them that means harm.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use super::connection::BUFFER;
use super::packet::{HOST, NO_RECEIVE, NO_SEND, STREAM, op};
use super::*;
use crate::error::ErrorKind;
use crate::op::Deadline;
use crate::vm::devices::virtio::rig::flag::{NEXT, WRITE};
use crate::vm::devices::virtio::rig::{FREE, Rig};

const CID: u64 = 7;
const BUFFERS: u16 = 64;
const BUFFER_BYTES: u64 = 4096;
const SEND: u64 = FREE + 0x10_0000;

struct Guest {
    rig: Rig,
    host: Arc<VsockHost>,
    /// The next buffer of ours that is free.
    given: u16,
}

impl Guest {
    fn new(socket: Option<OpenSocket>) -> Self {
        let host = Arc::new(VsockHost::new().unwrap());
        let rig = Rig::new(Box::new(Vsock::new(CID as u32, Arc::clone(&host), socket)), 0);
        let mut guest = Self { rig, host, given: 0 };
        (0..BUFFERS).for_each(|_| guest.give());
        guest
    }

    /// Gives a buffer.
    fn give(&mut self) {
        let n = self.given % BUFFERS;
        self.given += 1;
        self.rig.describe(RX, n, (FREE + u64::from(n) * BUFFER_BYTES, BUFFER_BYTES as u32, WRITE, 0));
        self.rig.offer(RX, n);
    }

    fn send_raw(&mut self, packet: &Packet, data: &[u8]) {
        self.rig.put(SEND, &packet.bytes());
        self.rig.put(SEND + 64, data);
        self.rig.describe(TX, 0, (SEND, HEADER as u32, if data.is_empty() { 0 } else { NEXT }, 1));
        self.rig.describe(TX, 1, (SEND + 64, data.len() as u32, 0, 0));
        self.rig.offer(TX, 0);
        self.rig.ring_for(TX).unwrap();
        assert_eq!(self.rig.used(TX), [(0, 0)]);
    }

    fn packet(op: u16, guest: u32, host: u32) -> Packet {
        Packet {
            from: CID,
            to: HOST,
            from_port: guest,
            to_port: host,
            kind: STREAM,
            op,
            buffer: 65536,
            ..Packet::default()
        }
    }

    fn send(&mut self, op: u16, guest: u32, host: u32, data: &[u8]) {
        let packet = Packet { len: data.len() as u32, ..Self::packet(op, guest, host) };
        self.send_raw(&packet, data);
    }

    /// What has come, with as much polling as there is something to be done.
    fn got(&mut self) -> Vec<(Packet, Vec<u8>)> {
        let mut all = Vec::new();
        loop {
            let ready = self.rig.poll().unwrap();
            let used = self.rig.used(RX);
            for (head, len) in &used {
                let bytes = self.rig.get(FREE + u64::from(*head) * BUFFER_BYTES, *len as usize);
                let packet = Packet::parse(bytes[..HEADER].try_into().unwrap());
                all.push((packet, bytes[HEADER..].to_vec()));
                self.give();
            }
            if ready == 0 && used.is_empty() {
                return all;
            }
            self.rig.ring_for(RX).unwrap();
        }
    }

    fn ops(&mut self) -> Vec<u16> {
        self.got().iter().map(|(p, _)| p.op).collect()
    }

    /// A connection that the guest has taken.
    fn connect(&mut self) -> (std::os::unix::net::UnixStream, u32) {
        let host = Arc::clone(&self.host);
        let caller =
            std::thread::spawn(move || host.connect(80, Deadline::after(Duration::from_secs(30)), None));
        let end = Instant::now() + Duration::from_secs(30);
        let asked = loop {
            if let Some((packet, _)) = self.got().pop() {
                break packet;
            }
            assert!(Instant::now() < end);
        };
        assert_eq!((asked.op, asked.to, asked.to_port, asked.from), (op::REQUEST, CID, 80, HOST));
        self.send(op::RESPONSE, 80, asked.from_port, &[]);
        let stream = caller.join().unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        (stream, asked.from_port)
    }
}

#[test]
fn the_host_connects_and_both_talk_and_hang_up() {
    let mut guest = Guest::new(None);
    let (mut stream, port) = guest.connect();
    guest.send(op::DATA, 80, port, b"hello");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    let long: Vec<u8> = (0..50_000_u32).map(|n| n as u8).collect();
    stream.write_all(&long).unwrap();
    let got = guest.got();
    assert!(got.iter().all(|(p, d)| p.op == op::DATA && p.len as usize == d.len() && p.forwarded == 5));
    assert_eq!(got.iter().flat_map(|(_, d)| d.clone()).collect::<Vec<u8>>(), long);
    // No more than the guest can hold.
    stream.write_all(&long).unwrap();
    let held: usize = guest.got().iter().map(|(_, d)| d.len()).sum();
    assert_eq!(held, 65536 - 50_000);
    guest.send_raw(&Packet { forwarded: 65536, ..Guest::packet(op::CREDIT_UPDATE, 80, port) }, &[]);
    assert_eq!(guest.got().iter().map(|(_, d)| d.len()).sum::<usize>(), 100_000 - 65536);
    drop(stream);
    let last = guest.got();
    assert_eq!((last.len(), last[0].0.op, last[0].0.flags), (1, op::SHUTDOWN, NO_SEND | NO_RECEIVE));
    guest.send(op::RESET, 80, port, &[]);
    guest.send(op::DATA, 80, port, b"x");
    assert_eq!(guest.ops(), [op::RESET]);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new(None);
    let (mut stream, port) = guest.connect();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let got = guest.got();
    assert_eq!((got[0].0.op, got[0].0.flags), (op::SHUTDOWN, NO_SEND));
    guest.send(op::DATA, 80, port, b"answer");
    guest.send_raw(&Packet { flags: NO_SEND, ..Guest::packet(op::SHUTDOWN, 80, port) }, &[]);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
    guest.send_raw(&Packet { flags: NO_SEND | NO_RECEIVE, ..Guest::packet(op::SHUTDOWN, 80, port) }, &[]);
    assert_eq!(guest.ops(), [op::RESET]);
}

#[test]
fn credit_comes_back_as_the_host_reads_and_a_flood_is_cut_off() {
    let mut guest = Guest::new(None);
    let (mut stream, port) = guest.connect();
    let piece = [7; 4096];
    let mut reader = vec![0; 4096];
    for _ in 0..100 {
        guest.send(op::DATA, 80, port, &piece);
        stream.read_exact(&mut reader).unwrap();
    }
    let updates: Vec<u32> = guest.got().iter().map(|(p, _)| p.forwarded).collect();
    assert!(!updates.is_empty() && updates.iter().all(|f| *f >= BUFFER as u32 / 2), "{updates:?}");
    guest.send(op::CREDIT_REQUEST, 80, port, &[]);
    let credit = guest.got();
    assert_eq!((credit[0].0.op, credit[0].0.forwarded), (op::CREDIT_UPDATE, 409_600));
    assert_eq!(credit[0].0.buffer as usize, BUFFER);
    // A host that does not read, and a guest that does not care.
    let mut sent = 0;
    while guest.ops() != [op::RESET] {
        guest.send(op::DATA, 80, port, &piece);
        sent += 1;
        assert!(sent < 1000);
    }
    assert!(sent >= BUFFER / 4096);
}

#[test]
fn the_guest_connects_to_who_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock");
    let mut guest = Guest::new(Some(OpenSocket::open(&path).unwrap()));
    let inside = guest.host.listen(1000);
    guest.send(op::REQUEST, 5, 1000, &[]);
    assert_eq!(guest.ops(), [op::RESPONSE]);
    guest.send(op::DATA, 5, 1000, b"abc");
    let mut bytes = [0; 3];
    inside.try_recv().unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"abc");
    let outside = UnixListener::bind(dir.path().join("vsock_99")).unwrap();
    guest.send(op::REQUEST, 5, 99, &[]);
    assert!(guest.ops().contains(&op::RESPONSE));
    outside.accept().unwrap().0.write_all(b"hi").unwrap();
    assert_eq!(guest.got()[0].1, b"hi");
    // Nobody, and the same once more.
    guest.send(op::REQUEST, 5, 98, &[]);
    guest.send(op::REQUEST, 5, 99, &[]);
    assert_eq!(guest.ops().iter().filter(|o| **o == op::RESET).count(), 2);
    drop(inside);
    guest.send(op::REQUEST, 6, 1000, &[]);
    assert_eq!(guest.ops(), [op::RESET]);
}

#[test]
fn the_unix_socket_leads_to_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock");
    // What a process has left that has died.
    drop(UnixListener::bind(&path).unwrap());
    let mut guest = Guest::new(Some(OpenSocket::open(&path).unwrap()));
    assert!(OpenSocket::open(&path).is_err());
    let connect = || std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut stream = connect();
    stream.write_all(b"CONN").unwrap();
    assert_eq!(guest.ops(), [0_u16; 0]);
    stream.write_all(b"ECT 22\nfirst").unwrap();
    let asked = guest.got();
    assert_eq!((asked[0].0.op, asked[0].0.to_port), (op::REQUEST, 22));
    let port = asked[0].0.from_port;
    guest.send(op::RESPONSE, 22, port, &[]);
    let got = guest.got();
    assert_eq!((got[0].0.op, &got[0].1[..]), (op::DATA, &b"first"[..]));
    guest.send(op::DATA, 22, port, b"second");
    let mut text = vec![0; format!("OK {port}\nsecond").len()];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), format!("OK {port}\nsecond"));
    for wrong in [&b"GET / HTTP/1.0\n"[..], b"CONNECT 4294967296\n", b"CONNECT -1\n", &[b'1'; 100], b"\xff\n"]
    {
        let mut stream = connect();
        stream.write_all(wrong).unwrap();
        assert_eq!(guest.ops(), [0_u16; 0], "{wrong:?}");
        // Closed: with unread bytes that is a reset.
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
    // One that is refused.
    let mut stream = connect();
    stream.write_all(b"CONNECT 23\n").unwrap();
    let port = guest.got()[0].0.from_port;
    guest.send(op::RESET, 23, port, &[]);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(guest);
    assert!(!path.exists());
}

#[test]
fn garbage_is_answered_with_resets_and_no_more_than_a_few() {
    let mut guest = Guest::new(None);
    let good = Guest::packet(op::DATA, 1, 2);
    for packet in [
        Packet { kind: 2, op: op::REQUEST, ..good },
        Packet { op: 0, ..good },
        Packet { op: 99, ..good },
        Packet { to: 9, op: op::REQUEST, ..good },
        Packet { len: u32::MAX, ..good },
        Packet { len: 1, ..good },
        Packet { op: op::RESPONSE, ..good },
        Packet { op: op::SHUTDOWN, flags: u32::MAX, ..good },
        good,
    ] {
        guest.send_raw(&packet, &[]);
        assert_eq!(guest.ops(), [op::RESET], "{packet:?}");
    }
    // Another's address has no answer, and neither has a reset.
    guest.send_raw(&Packet { from: 8, ..good }, &[]);
    guest.send_raw(&Packet { op: op::RESET, ..good }, &[]);
    assert_eq!(guest.ops(), [0_u16; 0]);
    // Chains that hold no header.
    guest.rig.describe(TX, 0, (SEND, 43, 0, 0));
    guest.rig.offer(TX, 0);
    guest.rig.describe(TX, 1, (SEND, 44, WRITE, 0));
    guest.rig.offer(TX, 1);
    guest.rig.ring_for(TX).unwrap();
    assert_eq!((guest.rig.used(TX).len(), guest.ops()), (2, vec![]));
    // A guest that takes nothing back: what waits for it is bounded.
    let mut flood = Guest::new(None);
    for n in 0..2000 {
        flood.send_raw(&Packet { from_port: n, ..good }, &[]);
    }
    let resets = flood.got().len();
    assert!((256..=256 + usize::from(BUFFERS)).contains(&resets), "{resets}");
    // Buffers that are too small are given back.
    let mut small = Guest::new(None);
    small.rig.used(RX);
    small.rig.describe(RX, 0, (FREE, 10, WRITE, 0));
    small.send_raw(&good, &[]);
    assert_eq!(small.rig.used(RX)[0], (0, 0));
}

#[test]
fn connections_have_a_limit_and_their_ends_make_room() {
    let mut guest = Guest::new(None);
    let inside = guest.host.listen(1);
    let mut streams = Vec::new();
    let mut refused = 0;
    for n in 0..1100 {
        guest.send(op::REQUEST, n, 1, &[]);
        refused += guest.ops().iter().filter(|o| **o == op::RESET).count();
        streams.extend(inside.try_recv());
    }
    assert_eq!((streams.len(), refused), (1024, 76));
    let full = guest.host.clone();
    let caller = std::thread::spawn(move || full.connect(1, Deadline::after(Duration::from_secs(30)), None));
    while !caller.is_finished() {
        guest.got();
    }
    assert_eq!(caller.join().unwrap().unwrap_err().kind(), ErrorKind::Exhausted);
    // Those that the host has closed, and whose end the guest does not agree to.
    streams.clear();
    guest.got();
    guest.send(op::REQUEST, 5000, 1, &[]);
    assert!(guest.ops().contains(&op::RESPONSE));
    guest.rig.device.reset();
    let e = guest.host.connect(1, Deadline::after(Duration::from_millis(30)), None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    let host = Arc::clone(&guest.host);
    drop(guest);
    assert_eq!(host.connect(1, Deadline::none(), None).unwrap_err().kind(), ErrorKind::InvalidState);
}

//! The header of a packet (virtio 1.2, section 5.10.6).

/// Bytes of it.
pub(super) const HEADER: usize = 44;
/// The host's address.
pub(super) const HOST: u64 = 2;
/// The only kind of socket that there is here.
pub(super) const STREAM: u16 = 1;
/// The most data of one packet, as Linux has it.
pub(super) const MOST_DATA: usize = 64 << 10;

/// What a packet is for.
pub(super) mod op {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const RESPONSE: u16 = 2;
    pub(in super::super) const RESET: u16 = 3;
    pub(in super::super) const SHUTDOWN: u16 = 4;
    pub(in super::super) const DATA: u16 = 5;
    pub(in super::super) const CREDIT_UPDATE: u16 = 6;
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a shutdown: what its sender will not do any more.
pub(super) const NO_RECEIVE: u32 = 1;
pub(super) const NO_SEND: u32 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) from_port: u32,
    pub(super) to_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Bytes that its sender can hold.
    pub(super) buffer: u32,
    /// Bytes that its sender has passed on, of all that it got.
    pub(super) forwarded: u32,
}

impl Packet {
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            from: long(0),
            to: long(8),
            from_port: word(16),
            to_port: word(20),
            len: word(24),
            kind: word(28) as u16,
            op: (word(28) >> 16) as u16,
            flags: word(32),
            buffer: word(36),
            forwarded: word(40),
        }
    }

    pub(super) fn bytes(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&self.from.to_le_bytes());
        out[8..16].copy_from_slice(&self.to.to_le_bytes());
        let kind = u32::from(self.kind) | u32::from(self.op) << 16;
        let words = [self.from_port, self.to_port, self.len, kind, self.flags, self.buffer, self.forwarded];
        for (to, word) in out[16..].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// The end of the connection that it would belong to.
    pub(super) fn reset(&self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            from_port: self.to_port,
            to_port: self.from_port,
            kind: self.kind,
            op: op::RESET,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_where_the_standard_has_them() {
        let mut bytes = [0; HEADER];
        bytes.iter_mut().zip(0..).for_each(|(b, n)| *b = n);
        let packet = Packet::parse(&bytes);
        assert_eq!((packet.to_port, packet.op, packet.kind), (0x1716_1514, 0x1f1e, 0x1d1c));
        assert_eq!(packet.bytes(), bytes);
        assert_eq!((packet.reset().from_port, packet.reset().op), (packet.to_port, op::RESET));
    }
}

//! The form of netlink messages (`netlink(7)`): building them, and taking apart what the kernel sends.

use rustix::io::Errno;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nlattr`.
const ATTR: usize = 4;
/// The kernel has no larger errno (`MAX_ERRNO`).
const MAX_ERRNO: i32 = 4095;
/// In an attribute's type: the flags above it.
const ATTR_TYPE: u16 = 0x3fff;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// In a reply: what was dumped changed meanwhile.
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A request under construction.
#[derive(Clone, Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// A message of this type; `body` is the structure that its attributes follow.
    pub(crate) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self(bytes).padded()
    }

    fn padded(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute. Its data is shorter than 64 KiB.
    pub(crate) fn attr(self, kind: u16, data: &[u8]) -> Self {
        self.nest(kind, data, |message| message)
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Adds a string with its final NUL.
    pub(crate) fn text(self, kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Adds an attribute that holds `body` and then what `inner` adds.
    pub(crate) fn nest(mut self, kind: u16, body: &[u8], inner: impl FnOnce(Self) -> Self) -> Self {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(body);
        let end = self.0.len();
        let mut all = inner(self.padded());
        // The padding after the last one does not count.
        let end = if all.0.len() == end.next_multiple_of(4) { end } else { all.0.len() };
        let len = u16::try_from(end - at).unwrap_or(u16::MAX);
        all.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        all
    }

    /// The message as it is sent.
    pub(super) fn finish(mut self, flags: u16, seq: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&seq.to_ne_bytes());
        self.0
    }
}

/// One message of those that the kernel sent together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) seq: u32,
    pub(super) body: &'a [u8],
}

/// Why the kernel did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) errno: Errno,
    /// In the kernel's words, where it says more (`NETLINK_EXT_ACK`).
    pub(crate) text: Option<String>,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { errno, text: None }
    }
}

/// Takes the first message off `bytes`; `None` at their end.
///
/// # Errors
/// `EBADMSG` where it is cut off or says that it is shorter than its head.
pub(super) fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Reply<'a>>, Errno> {
    let all = *bytes;
    if all.is_empty() {
        return Ok(None);
    }
    let len = number(all, 0).ok_or(Errno::BADMSG)? as usize;
    let message = all.get(..len).filter(|m| m.len() >= HEADER).ok_or(Errno::BADMSG)?;
    *bytes = all.get(len.next_multiple_of(4)..).unwrap_or_default();
    let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
    let seq = number(message, 8).unwrap_or_default();
    Ok(Some(Reply { kind: half(4), flags: half(6), seq, body: &message[HEADER..] }))
}

impl Reply<'_> {
    /// What an `NLMSG_ERROR` or the end of a dump says.
    pub(super) fn outcome(&self) -> Result<(), Refused> {
        // The end of a dump may come without a number.
        let code = match number(self.body, 0) {
            Some(code) => code.cast_signed(),
            None if self.kind == NLMSG_DONE => 0,
            None => return Err(Errno::BADMSG.into()),
        };
        if code >= 0 {
            return Ok(());
        }
        if code < -MAX_ERRNO {
            return Err(Errno::BADMSG.into());
        }
        let text = if self.flags & NLM_F_ACK_TLVS == 0 { None } else { self.explanation() };
        Err(Refused { errno: Errno::from_raw_os_error(-code), text })
    }

    fn explanation(&self) -> Option<String> {
        // After an error there is the head of the request, and the rest of it unless that was left out.
        let request = match self.kind {
            NLMSG_DONE => 0,
            _ if self.flags & NLM_F_CAPPED != 0 => HEADER,
            _ => (number(self.body, 4)? as usize).max(HEADER).checked_next_multiple_of(4)?,
        };
        let attrs = self.body.get(request.checked_add(4)?..)?;
        attributes(attrs).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, data)| text(data))
    }
}

/// The attributes in `bytes`: type and data. Ends at the first one that is cut off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & ATTR_TYPE;
        let data = bytes.get(ATTR..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

/// The 32-bit number at `at`.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A string up to its final NUL, for a message: control characters are none.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_has_the_form_that_the_kernel_takes() {
        let message = Message::new(16, NLM_F_CREATE, &[1, 2, 3, 4])
            .text(3, "ab")
            .nest(18, &[], |m| m.text(1, "veth").nest(2, &[9, 9], |m| m.number(4, 7)))
            .finish(NLM_F_ACK, 5);
        let mut rest = &message[..];
        let reply = next(&mut rest).unwrap().unwrap();
        assert_eq!((reply.kind, reply.flags, reply.seq), (16, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 5));
        assert!(rest.is_empty() && message.len().is_multiple_of(4));
        let attrs: Vec<_> = attributes(&reply.body[4..]).collect();
        assert_eq!(attrs[0], (3, &b"ab\0"[..]));
        let inner: Vec<_> = attributes(attrs[1].1).collect();
        assert_eq!(inner[0], (1, &b"veth\0"[..]));
        assert_eq!((inner[1].0, &inner[1].1[..2]), (2, &[9, 9][..]));
        assert_eq!(attributes(&inner[1].1[4..]).collect::<Vec<_>>(), [(4, &7_u32.to_ne_bytes()[..])]);
    }

    fn error(flags: u16, code: i32, rest: &[u8]) -> Vec<u8> {
        let mut body = code.to_ne_bytes().to_vec();
        body.extend_from_slice(rest);
        let mut bytes = (HEADER as u32 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&body);
        bytes
    }

    fn outcome(bytes: &[u8]) -> Result<(), Refused> {
        next(&mut &bytes[..]).unwrap().unwrap().outcome()
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let why = [15, 0, 1, 0].iter().chain(b"no such up\0").copied().collect::<Vec<u8>>();
        // The request is there in full, or but its head.
        let request = [20_u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4], [7; 4]].concat();
        for (flags, rest) in [(NLM_F_ACK_TLVS, &request[..]), (NLM_F_ACK_TLVS | NLM_F_CAPPED, &request[..16])]
        {
            let refused = outcome(&error(flags, -17, &[rest, &why].concat())).unwrap_err();
            assert_eq!(refused, Refused { errno: Errno::EXIST, text: Some("no such up".into()) });
        }
        assert_eq!(outcome(&error(0, -1, &[])).unwrap_err(), Errno::PERM.into());
        assert_eq!(outcome(&error(0, 0, &[])), Ok(()));
        assert_eq!(outcome(&error(0, i32::MIN, &[])).unwrap_err(), Errno::BADMSG.into());
    }

    #[test]
    fn what_is_cut_off_is_said_to_be() {
        let whole = error(0, 0, &[]);
        for len in 1..whole.len() {
            assert_eq!(next(&mut &whole[..len]), Err(Errno::BADMSG), "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..300), head in 0_u32..320, kind in 0_u16..40) {
            let mut framed = bytes.clone();
            if framed.len() >= 8 {
                framed[..4].copy_from_slice(&head.to_ne_bytes());
                framed[4..6].copy_from_slice(&kind.to_ne_bytes());
            }
            for bytes in [&bytes, &framed] {
                let mut rest = &bytes[..];
                while let Ok(Some(reply)) = next(&mut rest) {
                    let _ = reply.outcome();
                    prop_assert!(attributes(reply.body).map(|(_, data)| data.len()).sum::<usize>() <= bytes.len());
                    let _ = super::super::route::Link::decode(reply.body);
                    let _ = super::super::route::Address::decode(reply.body);
                    let _ = super::super::route::decode_nsid(reply.body);
                }
            }
        }
    }
}

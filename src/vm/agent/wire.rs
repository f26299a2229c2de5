//! What a host and the agent in its guest say to each other. This file is a part of both.
//!
//! ```text
//! agent (first process of the guest)                        host
//!   vsock to address 2, port 1000
//!   Hello: version, token, kernel   --------------------->  knows that it is there
//!   listens on port 1000
//!                            one connection for each thing:
//!                                                           Open: version, token, Request
//!   Request::State, Time, Freeze, Thaw, Shutdown  <-------
//!   one Reply                       --------------------->
//!
//!   Request::Stream (id, which)     <---------------------  for each stream that is wanted
//!   Reply::Done                     --------------------->  from here on the stream's own bytes
//!   Request::Exec (id, what)        <---------------------
//!   Reply::Started or Failed        --------------------->
//!   Signal                          <---------------------  as often as wanted
//!   Reply::Ended                    --------------------->  the end of the connection
//! ```
//!
//! A message is its length, a little-endian number of 32 bits, and its fields in order. A number is little-endian, a list
//! begins with its length. Whoever gets what cannot be ends the connection. The token is in the guest's initramfs, which
//! goes before a program of the guest's runs: the agent knows the host by it, and the host the agent.

use std::io::{self, Read, Write};

/// The version of all this. Another one is refused.
pub(crate) const VERSION: u32 = 1;
/// Where the agent reports, and where it listens. Only root can take such a port in the guest.
pub(crate) const PORT: u32 = 1000;
/// The most bytes of a message.
pub(crate) const MOST: usize = 1 << 20;
/// The file in the initramfs that says what the agent is to do.
pub(crate) const BOOT_FILE: &str = "stockade-boot";
/// The directory in the initramfs with the modules to load.
pub(crate) const MODULES: &str = "stockade-modules";

/// What goes over the wire.
pub(crate) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn unpack(from: &mut &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($ty:ty)*) => {$(
        impl Wire for $ty {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn unpack(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_le_bytes(*bytes))
            }
        }
    )*};
}

numbers!(u8 u32 u64 i32);

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|item| item.put(out));
    }

    fn unpack(from: &mut &[u8]) -> Option<Self> {
        // No item takes less than a byte, so a length that lies takes no memory.
        let len = u32::unpack(from)? as usize;
        if len > from.len() {
            return None;
        }
        (0..len).map(|_| T::unpack(from)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(self.is_some()).put(out);
        if let Some(item) = self {
            item.put(out);
        }
    }

    fn unpack(from: &mut &[u8]) -> Option<Self> {
        match u8::unpack(from)? {
            0 => Some(None),
            1 => T::unpack(from).map(Some),
            _ => None,
        }
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: $ty,)*
        }

        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }

            fn unpack(from: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: <$ty>::unpack(from)?,)* })
            }
        }
    )*};
}

macro_rules! choices {
    ($($(#[$doc:meta])* enum $name:ident {
        $($(#[$item_doc:meta])* $number:literal $item:ident $(($ty:ty))?,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$item_doc])* $item $(($ty))?,)*
        }

        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(choices!(@pattern $item value $($ty)?) => {
                        let number: u8 = $number;
                        number.put(out);
                        choices!(@put value out $($ty)?);
                    })*
                }
            }

            fn unpack(from: &mut &[u8]) -> Option<Self> {
                match u8::unpack(from)? {
                    $($number => Some(choices!(@take $item from $($ty)?)),)*
                    _ => None,
                }
            }
        }
    )*};
    (@pattern $item:ident $value:ident) => { Self::$item };
    (@pattern $item:ident $value:ident $ty:ty) => { Self::$item($value) };
    (@put $value:ident $out:ident) => {};
    (@put $value:ident $out:ident $ty:ty) => { $value.put($out) };
    (@take $item:ident $from:ident) => { Self::$item };
    (@take $item:ident $from:ident $ty:ty) => { Self::$item(<$ty>::unpack($from)?) };
}

messages! {
    /// What the agent says first.
    struct Hello {
        version: u32,
        token: Vec<u8>,
        /// The kernel's release.
        kernel: Vec<u8>,
    }

    /// What the host says first on each connection.
    struct Open {
        version: u32,
        token: Vec<u8>,
        request: Request,
    }

    /// A command.
    struct Exec {
        /// That of its streams.
        id: u64,
        args: Vec<Vec<u8>>,
        /// `NAME=VALUE`, on top of the agent's own.
        env: Vec<Vec<u8>>,
        cwd: Vec<u8>,
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        /// Which streams are there, by their bits: 1, 2, 4. The others are null.
        streams: u8,
    }

    /// A connection that is to be a stream of a command.
    struct Stream {
        id: u64,
        /// 0, 1, 2: standard input, output, error.
        which: u8,
    }

    /// Why something was not done.
    struct Failure {
        step: Vec<u8>,
        object: Vec<u8>,
        errno: i32,
    }

    /// How a command ended.
    struct Ended {
        /// Its exit code, where no signal ended it.
        code: i32,
        /// 0 where none did.
        signal: i32,
        core: u8,
    }

    /// An address of an interface.
    struct Address {
        interface: Vec<u8>,
        address: Vec<u8>,
        prefix: u8,
    }

    /// What the guest is like now.
    struct State {
        /// Bytes.
        memory_total: u64,
        memory_available: u64,
        swap_total: u64,
        swap_free: u64,
        /// Of all processors together, in nanoseconds since the boot.
        cpu_user: u64,
        cpu_system: u64,
        cpus: u32,
        /// In hundredths, of one minute.
        load: u32,
        processes: u32,
        /// Nanoseconds.
        uptime: u64,
        addresses: Vec<Address>,
        hostname: Vec<u8>,
    }

    /// Where the guest's root is.
    struct RootDevice {
        device: Vec<u8>,
        filesystem: Vec<u8>,
        /// 0: read and write. 1: read. 2: read, with changes above it in memory.
        mode: u8,
    }

    /// What the agent is to do at first.
    struct Boot {
        version: u32,
        token: Vec<u8>,
        root: Option<RootDevice>,
        hostname: Vec<u8>,
        init: Init,
        env: Vec<Vec<u8>>,
        /// Files in the directory of modules, in order.
        modules: Vec<Vec<u8>>,
    }
}

choices! {
    /// What the host wants.
    enum Request {
        1 Exec(Exec),
        2 Stream(Stream),
        3 State,
        /// Nanoseconds since 1970.
        4 Time(u64),
        /// The guest is to end.
        5 Shutdown,
        /// File systems on disks are not to be written, and are whole on their disks.
        6 Freeze,
        7 Thaw,
    }

    /// What the agent answers.
    enum Reply {
        1 Done,
        2 Failed(Failure),
        3 Started(u32),
        4 State(State),
        5 Ended(Ended),
    }

    /// What the host says while a command runs.
    enum Word {
        1 Signal(i32),
    }

    /// What the guest's first program is.
    enum Init {
        /// The agent alone.
        1 Agent,
        /// The image's, in place of the agent, which goes on beside it.
        2 Image(Vec<Vec<u8>>),
        /// A command, with whose end the guest ends.
        3 Command(Vec<Vec<u8>>),
    }
}

/// The bytes of a message, with its length.
pub(crate) fn encode(message: &impl Wire) -> Vec<u8> {
    let mut out = vec![0; 4];
    message.put(&mut out);
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_le_bytes());
    out
}

/// The message, if the bytes are one and nothing else.
pub(crate) fn decode<T: Wire>(mut bytes: &[u8]) -> Option<T> {
    let message = T::unpack(&mut bytes)?;
    bytes.is_empty().then_some(message)
}

pub(crate) fn send(mut to: impl Write, message: &impl Wire) -> io::Result<()> {
    to.write_all(&encode(message))
}

/// The next message.
///
/// # Errors
/// `InvalidData` for what is none; those of the reader.
pub(crate) fn receive<T: Wire>(mut from: impl Read) -> io::Result<T> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes)?;
    decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

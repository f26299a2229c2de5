//! Mutations of inputs, the same for the same number.

/// Values at which arithmetic goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    7,
    255,
    512,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Makes inputs out of others.
pub(crate) struct Mutator(u64);

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// splitmix64
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One of the seeds with one to four changes.
    pub(crate) fn one_of(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input, seeds);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len());
        match self.below(9) {
            0 => self.flip(input, at),
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.0 as u8;
                }
            }
            2 => input.truncate(at),
            3 => {
                // The end of another one.
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            4 => {
                let end = (at + self.below(64)).min(input.len());
                input.drain(at..end);
            }
            5 => {
                let end = (at + 1 + self.below(600)).min(input.len());
                let piece = input[at.min(end)..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            6 => self.word(input, at),
            7 => self.text_number(input, at),
            _ => self.header_field(input, at),
        }
    }

    fn flip(&mut self, input: &mut [u8], at: usize) {
        let bit = self.below(8);
        if let Some(byte) = input.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    /// A binary length, offset or count.
    fn word(&mut self, input: &mut [u8], at: usize) {
        let size = [2, 4, 8][self.below(3)];
        let at = at / size * size;
        let value = match self.below(3) {
            0 => self.next(),
            1 => self.below(2 * input.len()) as u64,
            _ => EDGES[self.below(EDGES.len())],
        };
        if let Some(field) = input.get_mut(at..at + size) {
            field.copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }

    /// The next number in digits, replaced by another one.
    fn text_number(&mut self, input: &mut Vec<u8>, at: usize) {
        let Some(start) = input.iter().skip(at).position(u8::is_ascii_digit).map(|n| at + n) else { return };
        let end = start + input[start..].iter().take_while(|b| b.is_ascii_digit()).count();
        let value = if self.below(2) == 0 {
            EDGES[self.below(EDGES.len())]
        } else {
            self.below(input.len() + 2) as u64
        };
        input.splice(start..end, value.to_string().into_bytes());
    }

    /// A field of a tar header: its size, type, name, link or magic.
    fn header_field(&mut self, input: &mut [u8], at: usize) {
        let block = at / 512 * 512;
        let Some(header) = input.get_mut(block..block + 512) else { return };
        match self.below(5) {
            0 => {
                let size = EDGES[self.below(EDGES.len())].min(0x1_ffff_ffff);
                header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
            }
            1 => header[156] = b"\x000123456789gxLKSVDMNX"[self.below(21)],
            2 => {
                let names: [&[u8]; 8] =
                    [b"../outside/file\0", b"/\0", b"a\0", b"a/b\0", b"d/file\0", b".\0", b"a/../b\0", b"\0"];
                let (name, field) = (names[self.below(8)], [0, 157, 345][self.below(3)]);
                header[field..field + name.len()].copy_from_slice(name);
            }
            3 => header[124..136].copy_from_slice(&[0x80, 0, 0, 0, self.0 as u8, 0, 0, 0, 0, 0, 0, 1]),
            _ => {
                let n = 257 + self.below(255);
                header[n] = self.0 as u8;
            }
        }
    }
}

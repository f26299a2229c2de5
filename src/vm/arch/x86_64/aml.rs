//! The few words of ACPI's machine language that a description of this machine needs (ACPI 6.5, chapter 20).

/// A name of up to four characters, filled up.
fn segment(name: &str) -> [u8; 4] {
    let mut out = [b'_'; 4];
    for (to, from) in out.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    out
}

/// A length that counts itself, before the body.
fn with_length(body: &[u8]) -> Vec<u8> {
    let mut out = if body.len() + 1 < 0x40 {
        vec![(body.len() + 1) as u8]
    } else if body.len() + 2 < 0x1000 {
        let len = body.len() + 2;
        vec![0x40 | (len & 0xf) as u8, (len >> 4) as u8]
    } else {
        let len = body.len() + 3;
        vec![0x80 | (len & 0xf) as u8, (len >> 4) as u8, (len >> 12) as u8]
    };
    out.extend_from_slice(body);
    out
}

fn op(code: &[u8], body: &[u8]) -> Vec<u8> {
    [code, &with_length(body)].concat()
}

pub(super) fn scope(path: &[u8], content: &[u8]) -> Vec<u8> {
    op(&[0x10], &[path, content].concat())
}

pub(super) fn device(name: &str, content: &[Vec<u8>]) -> Vec<u8> {
    op(&[0x5b, 0x82], &[&segment(name)[..], &content.concat()].concat())
}

/// A method with one argument.
pub(super) fn method(name: &str, content: &[u8]) -> Vec<u8> {
    op(&[0x14], &[&segment(name)[..], &[1], content].concat())
}

pub(super) fn name(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0x08][..], &segment(name), value].concat()
}

pub(super) fn integer(value: u32) -> Vec<u8> {
    match value {
        0 => vec![0x00],
        1 => vec![0x01],
        2..=0xff => vec![0x0a, value as u8],
        0x100..=0xffff => [&[0x0b][..], &(value as u16).to_le_bytes()].concat(),
        _ => [&[0x0c][..], &value.to_le_bytes()].concat(),
    }
}

pub(super) fn string(text: &str) -> Vec<u8> {
    [&[0x0d][..], text.as_bytes(), &[0]].concat()
}

/// An identifier such as `PNP0501`, in its packed form.
pub(super) fn eisa_id(id: &str) -> Vec<u8> {
    let b = id.as_bytes();
    let letter = |i: usize| u32::from(b[i].wrapping_sub(0x40)) & 0x1f;
    let product = u32::from_str_radix(&id[3..], 16).unwrap_or(0);
    let packed = letter(0) << 26 | letter(1) << 21 | letter(2) << 16 | product;
    [&[0x0c][..], &packed.swap_bytes().to_le_bytes()].concat()
}

pub(super) fn package(values: &[Vec<u8>]) -> Vec<u8> {
    op(&[0x12], &[&[values.len() as u8][..], &values.concat()].concat())
}

/// `Notify (PATH, VALUE)`.
pub(super) fn notify(path: &str, value: u32) -> Vec<u8> {
    [&[0x86][..], &segment(path), &integer(value)].concat()
}

/// The resources of a device, `_CRS`.
pub(super) fn resources(list: &[Vec<u8>]) -> Vec<u8> {
    let body = [&list.concat()[..], &[0x79, 0]].concat();
    let buffer = op(&[0x11], &[integer(body.len() as u32), body].concat());
    name("_CRS", &buffer)
}

pub(super) fn io_ports(base: u16, len: u8) -> Vec<u8> {
    let [lo, hi] = base.to_le_bytes();
    vec![0x47, 1, lo, hi, lo, hi, 1, len]
}

pub(super) fn memory(base: u32, len: u32) -> Vec<u8> {
    [&[0x86, 9, 0, 1][..], &base.to_le_bytes(), &len.to_le_bytes()].concat()
}

/// An interrupt that the device alone has: edge, active high.
pub(super) fn edge_interrupt(gsi: u32) -> Vec<u8> {
    [&[0x89, 6, 0, 0b011, 1][..], &gsi.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_packed_as_the_standard_does() {
        // EisaId ("PNP0501") is 0x0105D041 in the standard's own examples.
        assert_eq!(eisa_id("PNP0501"), [0x0c, 0x41, 0xd0, 0x05, 0x01]);
    }

    #[test]
    fn lengths_count_themselves() {
        assert_eq!(with_length(&[0; 62])[0], 63);
        assert_eq!(with_length(&[0; 63])[..2], [0x40 | 1, 4]);
        assert_eq!(with_length(&vec![0; 0x1000])[..3], [0x80 | 3, 0, 1]);
    }

    #[test]
    fn integers_are_short() {
        assert_eq!(integer(5), [0x0a, 5]);
        assert_eq!(integer(0x1234), [0x0b, 0x34, 0x12]);
    }
}

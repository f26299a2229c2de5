//! The ACPI tables: processors, interrupts, devices, and the ports that end the machine (ACPI 6.5).
//!
//! A hardware-reduced machine: no legacy timers, no legacy interrupt controller, events through an interrupt.

use super::{aml, layout};

/// Ports of what ends the machine.
pub(crate) mod ports {
    /// Sleep control: a write with the enable bit switches off.
    pub(crate) const SLEEP: u16 = 0x600;
    /// A write of [`RESET_VALUE`](super::RESET_VALUE) restarts.
    pub(crate) const RESET: u16 = 0x601;
    /// Sleep status, with the wake bit.
    pub(crate) const SLEEP_STATUS: u16 = 0x602;
    /// The exit code of the guest, written before it ends.
    pub(crate) const EXIT_CODE: u16 = 0x603;
    /// Where the guest tells of a panic, the interface of pvpanic.
    pub(crate) const PANIC: u16 = 0x505;
    /// The first serial port.
    pub(crate) const SERIAL: u16 = 0x3f8;
}

/// What the guest writes to the reset port.
pub(crate) const RESET_VALUE: u8 = 0x42;
/// The type of sleep that means off, `_S5`.
pub(crate) const SLEEP_OFF: u8 = 5;
/// The interrupt of the first serial port.
pub(crate) const SERIAL_GSI: u32 = 4;

/// A device with registers in memory, as the guest is told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MmioNode {
    pub(crate) base: u32,
    pub(crate) len: u32,
    pub(crate) gsi: u32,
}

/// All tables as they lie at [`layout::ACPI`], the root pointer first; `None` where they are too large.
pub(super) fn tables(vcpus: u8, nodes: &[MmioNode]) -> Option<Vec<u8>> {
    const RSDP: usize = 36;
    let at = |offset: usize| layout::ACPI + offset as u64;
    let mut out = vec![0; RSDP];
    let mut place = |table: Vec<u8>| {
        let here = at(out.len());
        out.extend_from_slice(&table);
        out.resize(out.len().next_multiple_of(16), 0);
        here
    };
    let dsdt = place(table(b"DSDT", 2, &dsdt(nodes)));
    let fadt = place(table(b"FACP", 6, &fadt(dsdt)));
    let madt = place(table(b"APIC", 5, &madt(vcpus)));
    let xsdt = place(table(b"XSDT", 1, &[fadt.to_le_bytes(), madt.to_le_bytes()].concat()));

    let mut rsdp = Vec::from(*b"RSD PTR \0STOCKD\x02");
    rsdp.extend_from_slice(&[0; 4]);
    rsdp.extend_from_slice(&(RSDP as u32).to_le_bytes());
    rsdp.extend_from_slice(&xsdt.to_le_bytes());
    rsdp.extend_from_slice(&[0; 4]);
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    out[..RSDP].copy_from_slice(&rsdp);
    (at(out.len()) <= layout::ACPI_END).then_some(out)
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, b| sum.wrapping_sub(*b))
}

fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::from(*signature);
    out.extend_from_slice(&((36 + body.len()) as u32).to_le_bytes());
    out.extend_from_slice(&[revision, 0]);
    out.extend_from_slice(b"STOCKDSTOCKADE\x01\0\0\0STKD\x01\0\0\0");
    out.extend_from_slice(body);
    out[9] = checksum(&out);
    out
}

fn dsdt(nodes: &[MmioNode]) -> Vec<u8> {
    let id = |id: &str| aml::name("_HID", &aml::eisa_id(id));
    let text_id = |id: &str| aml::name("_HID", &aml::string(id));
    let number = |n: u32| aml::name("_UID", &aml::integer(n));
    let mut content = vec![
        aml::device(
            "COM1",
            &[
                id("PNP0501"),
                number(0),
                aml::resources(&[aml::io_ports(ports::SERIAL, 8), aml::edge_interrupt(SERIAL_GSI)]),
            ],
        ),
        aml::device("PWRB", &[id("PNP0C0C"), number(0)]),
        aml::device(
            "GED_",
            &[
                text_id("ACPI0013"),
                number(0),
                aml::resources(&[aml::edge_interrupt(layout::EVENT_GSI)]),
                aml::method("_EVT", &aml::notify("PWRB", 0x80)),
            ],
        ),
        aml::device(
            "PEVT",
            &[
                text_id("QEMU0001"),
                number(0),
                aml::name("_STA", &aml::integer(0xf)),
                aml::resources(&[aml::io_ports(ports::PANIC, 1)]),
            ],
        ),
    ];
    for (n, node) in (0..).zip(nodes) {
        content.push(aml::device(
            &format!("V{n:03}"),
            &[
                text_id("LNRO0005"),
                number(n),
                aml::resources(&[aml::memory(node.base, node.len), aml::edge_interrupt(node.gsi)]),
            ],
        ));
    }
    let off = [SLEEP_OFF.into(), 0, 0, 0].map(aml::integer);
    [aml::scope(br"\_SB_", &content.concat()), aml::name("_S5", &aml::package(&off))].concat()
}

fn fadt(dsdt: u64) -> Vec<u8> {
    const LEN: usize = 276;
    let mut t = vec![0_u8; LEN];
    let mut put = |at: usize, bytes: &[u8]| t[at..at + bytes.len()].copy_from_slice(bytes);
    // An 8-bit register at a port.
    let port = |port: u16| [&[1, 8, 0, 1][..], &u64::from(port).to_le_bytes()].concat();
    put(40, &(dsdt as u32).to_le_bytes());
    // No VGA, no RTC of a PC; and no keyboard controller, which the guest then does not look for.
    put(109, &0x24_u16.to_le_bytes());
    let flags: u32 = 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4 | 1;
    put(112, &flags.to_le_bytes());
    put(116, &port(ports::RESET));
    put(128, &[RESET_VALUE]);
    put(131, &[5]);
    put(140, &dsdt.to_le_bytes());
    put(244, &port(ports::SLEEP));
    put(256, &port(ports::SLEEP_STATUS));
    t.split_off(36)
}

fn madt(vcpus: u8) -> Vec<u8> {
    let mut t = Vec::new();
    t.extend_from_slice(&layout::LAPIC.to_le_bytes());
    t.extend_from_slice(&0_u32.to_le_bytes());
    for cpu in 0..vcpus {
        t.extend_from_slice(&[0, 8, cpu, cpu, 1, 0, 0, 0]);
    }
    t.extend_from_slice(&[1, 12, vcpus, 0]);
    t.extend_from_slice(&layout::IOAPIC.to_le_bytes());
    t.extend_from_slice(&0_u32.to_le_bytes());
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_sums_up_to_zero_and_is_where_it_is_said_to_be() {
        let node = MmioNode { base: 0xd000_0000, len: 0x1000, gsi: 6 };
        let all = tables(32, &[node; 18]).unwrap();
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b));
        assert_eq!((&all[..8], sum(&all[..20]), sum(&all[..36])), (&b"RSD PTR "[..], 0, 0));
        let pointer =
            |at: usize| (u64::from_le_bytes(all[at..at + 8].try_into().unwrap()) - layout::ACPI) as usize;
        let table = |at: usize| {
            let len = u32::from_le_bytes(all[at + 4..at + 8].try_into().unwrap()) as usize;
            &all[at..at + len]
        };
        let xsdt = table(pointer(24));
        assert_eq!((&xsdt[..4], xsdt.len(), sum(xsdt)), (&b"XSDT"[..], 52, 0));
        let fadt_at = pointer(pointer(24) + 36);
        let (fadt, madt) = (table(fadt_at), table(pointer(pointer(24) + 44)));
        assert_eq!((&fadt[..4], fadt.len(), sum(fadt)), (&b"FACP"[..], 276, 0));
        assert_eq!((&madt[..4], madt.len(), sum(madt)), (&b"APIC"[..], 44 + 32 * 8 + 12, 0));
        let dsdt = table(pointer(fadt_at + 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
    }
}

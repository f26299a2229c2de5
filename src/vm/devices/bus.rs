//! Which device has which addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// A device with registers, at ports or in memory. Called by several processors at once.
pub(in crate::vm) trait BusDevice: Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// The guest reads `data.len()` bytes (1, 2, 4 or 8) from the register at `offset`. `data` is all ones: what is not
    /// changed reads so.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// The guest writes.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Devices by their addresses. Put together before the machine runs, and not changed after.
#[derive(Default)]
pub(in crate::vm) struct Bus {
    /// By the first address: the length, and who has it.
    ranges: BTreeMap<u64, (u64, Arc<dyn BusDevice>)>,
}

impl Bus {
    /// Gives `len` addresses to a device.
    pub(in crate::vm) fn add(&mut self, base: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<()> {
        let end = base.checked_add(len).filter(|_| len > 0);
        let end = end.ok_or_else(|| Error::invalid("device addresses", "are none"))?;
        if let Some((other, (_, holder))) = self.ranges.range(..end).next_back()
            && other + self.ranges[other].0 > base
        {
            return Err(Error::new(ErrorKind::InvalidConfig, "place a device")
                .object(format!("{} at {base:#x}", device.name()))
                .detail(format!("{} is there", holder.name())));
        }
        self.ranges.insert(base, (len, device));
        Ok(())
    }

    /// The device at an address, and the offset in it, if the whole access is its.
    fn find(&self, addr: u64, len: usize) -> Option<(&dyn BusDevice, u64)> {
        let (base, (size, device)) = self.ranges.range(..=addr).next_back()?;
        let offset = addr - base;
        (offset < *size && len as u64 <= size - offset).then(|| (device.as_ref(), offset))
    }

    /// Fills `data` from the device there. Where none is, it is all ones, as on a real bus.
    pub(in crate::vm) fn read(&self, addr: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.find(addr, data.len()) {
            device.read(offset, data);
        }
    }

    /// Writes to the device there, if one is.
    pub(in crate::vm) fn write(&self, addr: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(addr, data.len()) {
            device.write(offset, data);
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.ranges.iter().map(|(base, (len, device))| (base..base, len, device.name()));
        f.debug_list().entries(all).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl BusDevice for Echo {
        fn name(&self) -> &'static str {
            "echo"
        }

        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn accesses_go_to_whom_they_belong_wholly() {
        let mut bus = Bus::default();
        bus.add(0x100, 8, Arc::new(Echo)).unwrap();
        bus.add(0x108, 1, Arc::new(Echo)).unwrap();
        let read = |addr, len| {
            let mut data = vec![0; len];
            bus.read(addr, &mut data);
            data
        };
        assert_eq!(read(0x103, 2), [3, 3]);
        assert_eq!(read(0x107, 2), [0xff, 0xff], "over two devices");
        assert_eq!(read(0x109, 1), [0xff]);
        assert_eq!(read(0xff, 1), [0xff]);
        assert_eq!(read(u64::MAX, 8), [0xff; 8]);
        bus.write(u64::MAX, &[1]);
    }

    #[test]
    fn no_address_has_two_devices() {
        let mut bus = Bus::default();
        bus.add(0x100, 8, Arc::new(Echo)).unwrap();
        for (base, len) in [(0x100, 1), (0xff, 2), (0x107, 4), (0, 0x1000), (u64::MAX, 2), (0x200, 0)] {
            assert!(bus.add(base, len, Arc::new(Echo)).is_err(), "{base:#x} {len}");
        }
        bus.add(0xfe, 2, Arc::new(Echo)).unwrap();
    }
}

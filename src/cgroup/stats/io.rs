//! `io.stat`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::parse::{Text, name};
use crate::cgroup::DeviceNumber;

/// What a cgroup and its descendants did on a block device since the cgroup was made (`io.stat`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IoStats {
    /// Which device.
    pub device: DeviceNumber,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes discarded.
    pub discarded_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
    /// Discard operations.
    pub discards: u64,
    /// Device time, where the device has a cost model (`io.cost.qos`): used.
    pub cost_usage: Option<Duration>,
    /// Waited for a share of it.
    pub cost_wait: Option<Duration>,
    /// Used on credit.
    pub cost_debt: Option<Duration>,
    /// Delayed to pay the credit back.
    pub cost_delay: Option<Duration>,
    /// What this kernel tells besides, by its name: those of `io.latency` such as `avg_lat`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub other: BTreeMap<String, String>,
}

impl IoStats {
    fn parse(&mut self, text: &mut Text<'_>) {
        loop {
            text.take_all(|text| {
                text.take("rbytes=", &mut self.read_bytes);
                text.take("wbytes=", &mut self.written_bytes);
                text.take("rios=", &mut self.reads);
                text.take("wios=", &mut self.writes);
                text.take("dbytes=", &mut self.discarded_bytes);
                text.take("dios=", &mut self.discards);
                text.take("cost.usage=", &mut self.cost_usage);
                text.take("cost.wait=", &mut self.cost_wait);
                text.take("cost.indebt=", &mut self.cost_debt);
                text.take("cost.indelay=", &mut self.cost_delay);
            });
            let Some((key, value)) = text.pair() else { return };
            self.other.insert(name(key), name(value));
        }
    }
}

/// `MAJOR:MINOR KEY=VALUE ...`, one device on a line.
///
/// Before Linux 6.2 a device without figures has no line end, so a device begins where its number stands. Figures of
/// a device that the kernel calls `(unknown)` are left out.
pub(in crate::cgroup) fn parse(text: &[u8]) -> Vec<IoStats> {
    let mut all = Vec::new();
    let mut text = Text::new(text);
    while !text.is_empty() {
        if let Some(device) = text.value() {
            let mut stats = IoStats { device, ..IoStats::default() };
            stats.parse(&mut text);
            all.push(stats);
        } else {
            text.word();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_in_old_and_new_formats() {
        let text = b"254:0 254:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=3 dios=4\n\
            8:0 rbytes=1 cost.vrate=100.00 cost.usage=7 cost.wait=8 cost.indebt=9 cost.indelay=10 depth=max\n\
            (unknown) rbytes=99\n1:x rbytes=98\n";
        let got = parse(text);
        assert_eq!(got.iter().map(|d| d.device.to_string()).collect::<Vec<_>>(), ["254:0", "254:16", "8:0"]);
        assert_eq!(got[0].read_bytes, 0);
        let d = &got[1];
        assert_eq!((d.read_bytes, d.written_bytes, d.reads, d.writes), (4096, 8192, 1, 2));
        assert_eq!((d.discarded_bytes, d.discards, d.cost_usage), (3, 4, None));
        let d = &got[2];
        let us = |n| Some(Duration::from_micros(n));
        assert_eq!((d.cost_usage, d.cost_wait, d.cost_debt, d.cost_delay), (us(7), us(8), us(9), us(10)));
        assert_eq!((d.read_bytes, &*d.other["cost.vrate"], &*d.other["depth"]), (1, "100.00", "max"));
    }
}

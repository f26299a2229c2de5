//! `rdma.current`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::parse::{Text, name, number};

/// What a cgroup and its descendants use of an RDMA device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RdmaStats {
    /// The device, such as `mlx5_0`.
    pub device: String,
    /// Handles.
    pub hca_handles: u64,
    /// Objects.
    pub hca_objects: u64,
    /// What this kernel counts besides, by the kernel's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub other: BTreeMap<String, u64>,
}

/// One line for each device: `NAME hca_handle=2 hca_object=2000`.
pub(super) fn parse(text: &[u8]) -> Vec<RdmaStats> {
    let mut all = Vec::new();
    let mut text = Text::new(text);
    while !text.is_empty() {
        let device = text.word();
        if device.is_empty() {
            continue;
        }
        let mut stats = RdmaStats { device: name(device), ..RdmaStats::default() };
        stats.parse(&mut text);
        all.push(stats);
    }
    all
}

impl RdmaStats {
    fn parse(&mut self, text: &mut Text<'_>) {
        loop {
            text.take_all(|text| {
                text.take("hca_handle=", &mut self.hca_handles);
                text.take("hca_object=", &mut self.hca_objects);
            });
            let Some((key, value)) = text.pair() else { return };
            self.other.extend(number(value).map(|n| (name(key), n)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_their_counts() {
        let got =
            parse(b"mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max new=1\n\n");
        assert_eq!(got.len(), 2);
        assert_eq!((&*got[0].device, got[0].hca_handles, got[0].hca_objects), ("mlx4_0", 2, 2000));
        assert_eq!((&*got[1].device, got[1].hca_objects, got[1].other["new"]), ("ocrdma1", 0, 1));
    }
}

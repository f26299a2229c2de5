//! The io controller.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Controller;
use super::block::BlockDevice;
use super::limit::Limit;
use super::limits::{Limits, patch_fields};
use super::setting::{Files, Problems, Settings, lines, pair};
use crate::error::{Error, Result};

const NONE: &str = "rbps=max wbps=max riops=max wiops=max";

/// Limits for one block device. `None` leaves a limit as it is.
///
/// ```
/// use std::time::Duration;
/// use stockade::cgroup::IoLimits;
///
/// let slow = IoLimits::new().read_bytes_max(10 << 20).write_ops_max(100).latency(Duration::from_millis(20));
/// # let _ = slow;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct IoLimits {
    /// Share of the device (`io.weight`): 1 to 10,000, or [`IoWeight::Default`] for that of
    /// [`Limits::io_weight`](field@Limits::io_weight).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<IoWeight>,
    /// Bytes read in a second (`io.max`, `rbps`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes_max: Option<Limit>,
    /// Bytes written in a second (`io.max`, `wbps`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes_max: Option<Limit>,
    /// Reads in a second (`io.max`, `riops`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ops_max: Option<Limit>,
    /// Writes in a second (`io.max`, `wiops`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_ops_max: Option<Limit>,
    /// The time that its requests should take at most (`io.latency`, `target`): siblings are slowed where they do
    /// not. 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Duration>,
}

patch_fields!(IoLimits { weight, read_bytes_max, write_bytes_max, read_ops_max, write_ops_max, latency });

/// The share of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoWeight {
    /// That of all devices.
    Default,
    /// This one: 1 to 10,000.
    Value(u32),
}

impl From<u32> for IoWeight {
    fn from(n: u32) -> Self {
        Self::Value(n)
    }
}

impl IoLimits {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the share.
    #[must_use]
    pub fn weight(mut self, weight: impl Into<IoWeight>) -> Self {
        self.weight = Some(weight.into());
        self
    }

    /// Sets the bytes read in a second.
    #[must_use]
    pub fn read_bytes_max(mut self, max: impl Into<Limit>) -> Self {
        self.read_bytes_max = Some(max.into());
        self
    }

    /// Sets the bytes written in a second.
    #[must_use]
    pub fn write_bytes_max(mut self, max: impl Into<Limit>) -> Self {
        self.write_bytes_max = Some(max.into());
        self
    }

    /// Sets the reads in a second.
    #[must_use]
    pub fn read_ops_max(mut self, max: impl Into<Limit>) -> Self {
        self.read_ops_max = Some(max.into());
        self
    }

    /// Sets the writes in a second.
    #[must_use]
    pub fn write_ops_max(mut self, max: impl Into<Limit>) -> Self {
        self.write_ops_max = Some(max.into());
        self
    }

    /// Sets the time that a request should take at most.
    #[must_use]
    pub fn latency(mut self, target: Duration) -> Self {
        self.latency = Some(target);
        self
    }

    fn rates(&self) -> [(&'static str, &'static str, Option<Limit>); 4] {
        [
            ("rbps", "read_bytes_max", self.read_bytes_max),
            ("wbps", "write_bytes_max", self.write_bytes_max),
            ("riops", "read_ops_max", self.read_ops_max),
            ("wiops", "write_ops_max", self.write_ops_max),
        ]
    }
}

pub(super) fn problems(limits: &Limits, out: &mut Problems) {
    out.weight("io_weight", limits.io_weight);
    for (device, l) in &limits.io_devices {
        if let BlockDevice::Path(path) = device
            && (!path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0))
        {
            out.add(format!("io_devices[{}]", path.display()), "is not an absolute path");
        }
        if let Some(IoWeight::Value(n)) = l.weight {
            out.weight(format_args!("io_devices[{device}].weight"), Some(n));
        }
        for (key, name, value) in l.rates() {
            if value == Some(Limit::Value(0)) {
                out.add(
                    format!("io_devices[{device}].{name}"),
                    "0 would stop all I/O, and the kernel does not take it",
                );
            }
            let most = if key.ends_with("iops") { u64::from(u32::MAX) } else { i64::MAX as u64 };
            out.at_most(format_args!("io_devices[{device}].{name}"), value, most);
        }
        if l.latency.is_some_and(|t| t.as_micros() > u128::from(u64::MAX / 1000)) {
            out.add(format!("io_devices[{device}].latency"), "is longer than the kernel counts");
        }
    }
}

pub(super) fn settings(limits: &Limits, out: &mut Settings) -> Result<()> {
    let c = Controller::Io;
    if let Some(weight) = limits.io_weight {
        out.add_line(c, "io.weight", ("default", "100"), weight.to_string());
    }
    let mut seen = BTreeMap::new();
    for (device, l) in &limits.io_devices {
        let number = device.resolve()?;
        if let Some(other) = seen.insert(number, device) {
            let why = format!("is the same block device as `{other}`: {number}");
            return Err(Error::invalid("io_devices", why).object(device.to_string()));
        }
        let key = number.to_string();
        match l.weight {
            Some(IoWeight::Default) => {
                out.add_line(c, "io.weight", (&key, "default"), "default".to_owned());
            }
            Some(IoWeight::Value(n)) => out.add_line(c, "io.weight", (&key, "default"), n.to_string()),
            None => {}
        }
        let rates = l.rates().into_iter().filter_map(|(key, _, value)| Some(format!("{key}={}", value?)));
        let rates: Vec<String> = rates.collect();
        if !rates.is_empty() {
            out.add_line(c, "io.max", (&key, NONE), rates.join(" "));
        }
        if let Some(target) = l.latency {
            out.add_line(c, "io.latency", (&key, "target=0"), format!("target={}", target.as_micros()));
        }
    }
    Ok(())
}

pub(super) fn read(files: &dyn Files, limits: &mut Limits) -> Result<()> {
    let mut weights = Vec::new();
    for (key, rest) in lines(&files.get_optional("io.weight")?.unwrap_or_default()) {
        match (key, rest.trim().parse().ok()) {
            ("default", weight) => limits.io_weight = weight,
            (device, Some(weight)) => weights.push((device.to_owned(), IoWeight::Value(weight))),
            _ => {}
        }
    }
    let mut each = |text: &str, set: &dyn Fn(&mut IoLimits, &str)| {
        for (key, rest) in lines(text) {
            if let Ok(device @ BlockDevice::Number(_)) = key.parse() {
                set(limits.io_devices.entry(device).or_default(), rest);
            }
        }
    };
    for (device, weight) in weights {
        each(&format!("{device} x"), &|l, _| l.weight = Some(weight));
    }
    each(&files.get_optional("io.max")?.unwrap_or_default(), &|l, rest| {
        let value = |key| pair(rest, key).and_then(Limit::parse);
        l.read_bytes_max = value("rbps");
        l.write_bytes_max = value("wbps");
        l.read_ops_max = value("riops");
        l.write_ops_max = value("wiops");
    });
    each(&files.get_optional("io.latency")?.unwrap_or_default(), &|l, rest| {
        l.latency = pair(rest, "target").and_then(|t| t.parse().ok()).map(Duration::from_micros);
    });
    Ok(())
}

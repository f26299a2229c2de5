//! The dmem controller: memory of devices, such as graphics cards.

use serde::{Deserialize, Serialize};

use super::Controller;
use super::limit::Limit;
use super::limits::{Limits, patch_fields};
use super::setting::{Files, Problems, Settings, lines};
use crate::error::Result;

/// Limits for one region of device memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DmemLimits {
    /// Bytes that nobody else can push out (`dmem.min`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Limit>,
    /// Bytes that are pushed out last (`dmem.low`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<Limit>,
    /// Bytes at most (`dmem.max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Limit>,
}

patch_fields!(DmemLimits { min, low, max });

impl DmemLimits {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the bytes that nobody else can push out.
    #[must_use]
    pub fn min(mut self, bytes: impl Into<Limit>) -> Self {
        self.min = Some(bytes.into());
        self
    }

    /// Sets the bytes that are pushed out last.
    #[must_use]
    pub fn low(mut self, bytes: impl Into<Limit>) -> Self {
        self.low = Some(bytes.into());
        self
    }

    /// Sets the bytes at most.
    #[must_use]
    pub fn max(mut self, bytes: impl Into<Limit>) -> Self {
        self.max = Some(bytes.into());
        self
    }
}

pub(super) fn problems(limits: &Limits, out: &mut Problems) {
    for (region, l) in &limits.dmem {
        out.name("dmem", region);
        let field = |name: &str| format!("dmem[{region}].{name}");
        for (name, value) in [("min", l.min), ("low", l.low), ("max", l.max)] {
            out.bytes(field(name), value);
        }
        out.order((&field("min"), l.min), (&field("max"), l.max));
        out.order((&field("low"), l.low), (&field("max"), l.max));
    }
}

pub(super) fn settings(limits: &Limits, out: &mut Settings) {
    for (region, l) in &limits.dmem {
        for (file, none, value) in
            [("dmem.min", "0", l.min), ("dmem.low", "0", l.low), ("dmem.max", "max", l.max)]
        {
            if let Some(value) = value {
                out.add_line(Controller::Dmem, file, (region, none), value.to_string());
            }
        }
    }
}

pub(super) fn read(files: &dyn Files, limits: &mut Limits) -> Result<()> {
    let mut each = |file, set: fn(&mut DmemLimits, Option<Limit>)| -> Result<()> {
        for (region, rest) in lines(&files.get_optional(file)?.unwrap_or_default()) {
            set(limits.dmem.entry(region.to_owned()).or_default(), Limit::parse(rest));
        }
        Ok(())
    };
    each("dmem.min", |l, value| l.min = value)?;
    each("dmem.low", |l, value| l.low = value)?;
    each("dmem.max", |l, value| l.max = value)
}

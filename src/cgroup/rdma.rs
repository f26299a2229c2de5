//! The rdma controller.

use serde::{Deserialize, Serialize};

use super::Controller;
use super::limit::Limit;
use super::limits::{Limits, patch_fields};
use super::setting::{Files, Problems, Settings, lines, pair};
use crate::error::Result;

/// Limits for one RDMA device (`rdma.max`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RdmaLimits {
    /// Handles: open contexts of the device (`hca_handle`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hca_handles: Option<Limit>,
    /// Objects, such as queue pairs and memory regions (`hca_object`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hca_objects: Option<Limit>,
}

patch_fields!(RdmaLimits { hca_handles, hca_objects });

impl RdmaLimits {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of handles.
    #[must_use]
    pub fn hca_handles(mut self, max: impl Into<Limit>) -> Self {
        self.hca_handles = Some(max.into());
        self
    }

    /// Sets the number of objects.
    #[must_use]
    pub fn hca_objects(mut self, max: impl Into<Limit>) -> Self {
        self.hca_objects = Some(max.into());
        self
    }
}

pub(super) fn problems(limits: &Limits, out: &mut Problems) {
    for (device, l) in &limits.rdma {
        out.name("rdma", device);
        out.at_most(format_args!("rdma[{device}].hca_handles"), l.hca_handles, i32::MAX as u64);
        out.at_most(format_args!("rdma[{device}].hca_objects"), l.hca_objects, i32::MAX as u64);
    }
}

pub(super) fn settings(limits: &Limits, out: &mut Settings) {
    for (device, l) in &limits.rdma {
        let handles = l.hca_handles.map(|n| format!("hca_handle={n}"));
        let objects = l.hca_objects.map(|n| format!("hca_object={n}"));
        let words: Vec<String> = handles.into_iter().chain(objects).collect();
        if !words.is_empty() {
            let line = (device.as_str(), "hca_handle=max hca_object=max");
            out.add_line(Controller::Rdma, "rdma.max", line, words.join(" "));
        }
    }
}

pub(super) fn read(files: &dyn Files, limits: &mut Limits) -> Result<()> {
    for (device, rest) in lines(&files.get_optional("rdma.max")?.unwrap_or_default()) {
        let value = |key| pair(rest, key).and_then(Limit::parse);
        let found = RdmaLimits { hca_handles: value("hca_handle"), hca_objects: value("hca_object") };
        limits.rdma.insert(device.to_owned(), found);
    }
    Ok(())
}

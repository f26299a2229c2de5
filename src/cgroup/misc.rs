//! The misc controller: scalar resources of the host, such as the keys of encrypted virtual machines.

use super::Controller;
use super::limit::Limit;
use super::limits::Limits;
use super::setting::{Files, Problems, Settings, lines};
use crate::error::Result;

pub(super) fn problems(limits: &Limits, out: &mut Problems) {
    for (name, max) in &limits.misc {
        out.name("misc", name);
        out.bytes(format_args!("misc[{name}]"), Some(*max));
    }
}

pub(super) fn settings(limits: &Limits, out: &mut Settings) {
    for (name, max) in &limits.misc {
        out.add_line(Controller::Misc, "misc.max", (name, "max"), max.to_string());
    }
}

pub(super) fn read(files: &dyn Files, limits: &mut Limits) -> Result<()> {
    for (name, rest) in lines(&files.get_optional("misc.max")?.unwrap_or_default()) {
        if let Some(max) = Limit::parse(rest) {
            limits.misc.insert(name.to_owned(), max);
        }
    }
    Ok(())
}

//! What goes wrong, and the exit status that says so.

use std::io::Write;

use stockade::ErrorKind;

/// Our own failure: neither the command nor the container is to blame.
pub(crate) const OURS: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Why nothing ran, or what ran could not be seen to its end.
#[derive(Debug)]
pub(crate) enum Fail {
    /// The arguments make no sense; the text says which.
    Usage { text: String, command: &'static str },
    /// The library refuses.
    Library(stockade::Error),
    /// Anything else.
    Other(String),
}

impl Fail {
    /// The exit status, as shells and other container tools have it.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Library(e) => match e.kind() {
                ErrorKind::PayloadNotFound => NOT_FOUND,
                ErrorKind::PayloadNotExecutable => NOT_EXECUTABLE,
                _ => OURS,
            },
            Self::Usage { .. } | Self::Other(_) => OURS,
        }
    }

    /// Writes it to standard error. If that fails there is nobody to tell.
    pub(crate) fn tell(&self) {
        let mut err = std::io::stderr().lock();
        let _ = match self {
            Self::Usage { text, command } => {
                let space = if command.is_empty() { "" } else { " " };
                writeln!(
                    err,
                    "stockade: {text}\nstockade: `stockade{space}{command} --help` says what there is"
                )
            }
            Self::Library(e) => writeln!(err, "stockade: {}", chain(e)),
            Self::Other(text) => writeln!(err, "stockade: {text}"),
        };
    }
}

fn chain(e: &stockade::Error) -> String {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(s) = source {
        text.push_str(&format!(": {s}"));
        source = s.source();
    }
    text
}

impl From<stockade::Error> for Fail {
    fn from(e: stockade::Error) -> Self {
        Self::Library(e)
    }
}

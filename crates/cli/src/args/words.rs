//! Telling options, their values and plain words apart.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use crate::fail::Fail;

/// The words that are not read yet.
pub(super) struct Words<I> {
    pub(super) rest: I,
    /// The value of `--option=value` and `-ovalue`.
    attached: Option<OsString>,
    command: &'static str,
}

/// One word.
pub(super) enum Word {
    /// An option by its name, with its dashes.
    Option(String),
    Plain(OsString),
    /// `--`
    End,
}

impl<I: Iterator<Item = OsString>> Words<I> {
    pub(super) fn new(rest: I) -> Self {
        Self { rest, attached: None, command: "" }
    }

    /// The same words, as those of this command.
    pub(super) fn of(self, command: &'static str) -> Self {
        Self { command, ..self }
    }

    pub(super) fn usage(&self, text: impl Into<String>) -> Fail {
        Fail::Usage { text: text.into(), command: self.command }
    }

    pub(super) fn next(&mut self) -> Option<Word> {
        let word = self.rest.next()?;
        let bytes = word.as_bytes();
        let (name, value) = match bytes {
            b"--" => return Some(Word::End),
            [b'-', b'-', ..] => match bytes.iter().position(|b| *b == b'=') {
                Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
                None => (bytes, None),
            },
            [b'-', _, rest @ ..] => (&bytes[..2], (!rest.is_empty()).then_some(rest)),
            _ => return Some(Word::Plain(word)),
        };
        self.attached = value.map(|v| OsStr::from_bytes(v).to_owned());
        Some(Word::Option(shown(name)))
    }

    /// The value of the option just read.
    pub(super) fn value(&mut self, option: &str) -> Result<OsString, Fail> {
        let value = self.attached.take().or_else(|| self.rest.next());
        value.ok_or_else(|| self.usage(format!("{option} needs a value")))
    }

    pub(super) fn text(&mut self, option: &str) -> Result<String, Fail> {
        let value = self.value(option)?;
        value.into_string().map_err(|v| self.bad(option, &v, "is not UTF-8"))
    }

    pub(super) fn number<T: FromStr>(&mut self, option: &str) -> Result<T, Fail> {
        let text = self.text(option)?;
        text.parse().map_err(|_| self.bad(option, text.as_ref(), "is no number"))
    }

    pub(super) fn bad(&self, option: &str, value: &OsStr, why: &str) -> Fail {
        self.usage(format!("{option}: `{}` {why}", shown(value.as_bytes())))
    }

    /// Fails where an option that takes none has got a value.
    pub(super) fn no_value(&mut self, option: &str) -> Result<(), Fail> {
        match self.attached.take() {
            Some(_) => Err(self.usage(format!("{option} takes no value"))),
            None => Ok(()),
        }
    }

    pub(super) fn unknown<T>(&self, option: &str) -> Result<T, Fail> {
        Err(self.usage(format!("there is no option {option}")))
    }
}

/// Text from outside, fit for a message.
pub(super) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}

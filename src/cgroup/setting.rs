//! One write to one interface file, and what the controllers' files share.

use std::borrow::Cow;
use std::fmt;

use super::Controller;
use super::limit::Limit;
use crate::error::{Error, Result};

/// A cgroup's interface files; a mock in unit tests.
pub(super) trait Files {
    fn get(&self, name: &str) -> Result<String>;

    fn put(&self, name: &str, value: &str) -> Result<()>;

    /// The names of the files.
    fn names(&self) -> Result<Vec<String>>;

    /// The error for a file that is not there.
    fn lacks(&self, controller: Controller, name: &str) -> Error;

    /// `None` where the file is not there.
    fn get_optional(&self, name: &str) -> Result<Option<String>> {
        match self.get(name) {
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
            done => done.map(Some),
        }
    }
}

/// One write to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: Controller,
    pub(super) file: Cow<'static, str>,
    /// Of a file with a line for each device or resource, whose line it is, and what is written where there is none.
    pub(super) line: Option<(String, &'static str)>,
    pub(super) value: String,
}

impl Setting {
    /// What is written. The kernel takes no empty write.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match &self.line {
            Some((key, _)) => format!("{key} {}", self.value).into(),
            None if self.value.is_empty() => "\n".into(),
            None => self.value.as_str().into(),
        }
    }

    /// What `whole`, the content of the file, has in this place.
    pub(super) fn old_value(&self, whole: &str) -> String {
        match &self.line {
            Some((key, none)) => line(whole, key).unwrap_or(none).trim().to_owned(),
            // `root invalid (why)`
            None if self.file == "cpuset.cpus.partition" => first_word(whole).to_owned(),
            None => whole.trim().to_owned(),
        }
    }

    /// The same place with another value.
    pub(super) fn with_value(&self, value: String) -> Self {
        Self { value, ..self.clone() }
    }
}

/// Settings as they are collected.
#[derive(Debug, Default)]
pub(super) struct Settings(pub(super) Vec<Setting>);

impl Settings {
    pub(super) fn add(
        &mut self,
        controller: Controller,
        file: impl Into<Cow<'static, str>>,
        value: Option<impl ToString>,
    ) {
        if let Some(value) = value {
            self.0.push(Setting { controller, file: file.into(), line: None, value: value.to_string() });
        }
    }

    pub(super) fn add_line(
        &mut self,
        controller: Controller,
        file: impl Into<Cow<'static, str>>,
        (key, none): (&str, &'static str),
        value: String,
    ) {
        let line = Some((key.to_owned(), none));
        self.0.push(Setting { controller, file: file.into(), line, value });
    }
}

/// Mistakes as they are collected: field and reason.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<(String, String)>);

impl Problems {
    pub(super) fn add(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.0.push((field.into(), why.into()));
    }

    /// A size in bytes.
    pub(super) fn bytes(&mut self, field: impl fmt::Display, value: Option<Limit>) {
        self.at_most(field, value, i64::MAX as u64);
    }

    pub(super) fn at_most(&mut self, field: impl fmt::Display, value: Option<Limit>, most: u64) {
        if let Some(Limit::Value(n)) = value
            && n > most
        {
            self.add(field.to_string(), format!("{n} is above {most}, the most that the kernel takes"));
        }
    }

    pub(super) fn weight(&mut self, field: impl fmt::Display, value: Option<u32>) {
        if let Some(n) = value
            && !(1..=10_000).contains(&n)
        {
            self.add(field.to_string(), format!("{n} is not 1 to 10000"));
        }
    }

    /// `low` may not be above `high`, where both are numbers.
    pub(super) fn order(&mut self, low: (&str, Option<Limit>), high: (&str, Option<Limit>)) {
        if let (Some(Limit::Value(l)), Some(Limit::Value(h))) = (low.1, high.1)
            && l > h
        {
            self.add(low.0, format!("{l} is above {}, which is {h}", high.0));
        }
    }

    /// A word of a line.
    pub(super) fn name(&mut self, field: &str, name: &str) {
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let shown: String = name.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect();
            self.add(field, format!("`{shown}` is no name: it is empty or has white space"));
        }
    }
}

/// The rest of the line that begins with the word `key`.
fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' '))
}

pub(super) fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// The lines of a file with one for each device or resource: key and the rest.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|l| l.trim().split_once(' '))
}

/// The value of `key` in `KEY=VALUE KEY=VALUE`.
pub(super) fn pair<'a>(rest: &'a str, key: &str) -> Option<&'a str> {
    rest.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Reads a file with one limit.
pub(super) fn read_limit(files: &dyn Files, name: &str) -> Result<Option<Limit>> {
    Ok(files.get_optional(name)?.and_then(|t| Limit::parse(&t)))
}

//! Names and identities of instances.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest name, in bytes: a DNS label, since an instance's name becomes its host name.
pub(crate) const MAX_NAME: usize = 63;

/// The project of an instance that names none.
pub(crate) const DEFAULT_PROJECT: &str = "default";

/// A checked instance, project or snapshot name.
///
/// One to 63 ASCII letters, digits, `-`, `_` or `.`, beginning with a letter or digit. So a name is always one
/// plain path component: no `/`, never `.` or `..`.
///
/// ```
/// use stockade::InstanceName;
///
/// assert_eq!(InstanceName::new("web-1").unwrap().as_str(), "web-1");
/// for bad in ["", ".", "..", "a/b", "-x", "naïve", &"x".repeat(64)] {
///     assert!(InstanceName::new(bad).is_err(), "{bad}");
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName(String);

impl InstanceName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), naming the rule that it breaks.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let why = if name.is_empty() {
            "is empty"
        } else if name.len() > MAX_NAME {
            "is longer than 63 bytes"
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            "may hold only ASCII letters, digits, `-`, `_` and `.`"
        } else if !name.as_bytes()[0].is_ascii_alphanumeric() {
            "must begin with a letter or a digit"
        } else {
            return Ok(Self(name));
        };
        Err(Error::invalid("name", why).object(name.chars().take(80).collect::<String>()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InstanceName {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::new(s)
    }
}

impl TryFrom<String> for InstanceName {
    type Error = Error;

    fn try_from(s: String) -> Result<Self> {
        Self::new(s)
    }
}

impl From<InstanceName> for String {
    fn from(n: InstanceName) -> Self {
        n.0
    }
}

/// Which instance: a project, a name in it, and for a snapshot the snapshot's name.
///
/// Written `name`, `project/name`, or `project/name/snapshot`.
///
/// ```
/// use stockade::InstanceId;
///
/// let id: InstanceId = "web".parse().unwrap();
/// assert_eq!(id.to_string(), "default/web");
/// assert_eq!(id, "default/web".parse().unwrap());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId {
    /// The project; `default` where none was named.
    pub project: InstanceName,
    /// The instance's own name.
    pub name: InstanceName,
    /// The snapshot's name, where this is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<InstanceName>,
}

impl InstanceId {
    /// The instance `name` in the default project.
    ///
    /// # Errors
    /// As [`InstanceName::new`].
    pub fn new(name: impl Into<String>) -> Result<Self> {
        Self::in_project(DEFAULT_PROJECT, name)
    }

    /// The instance `name` in `project`.
    ///
    /// # Errors
    /// As [`InstanceName::new`].
    pub fn in_project(project: impl Into<String>, name: impl Into<String>) -> Result<Self> {
        Ok(Self { project: InstanceName::new(project)?, name: InstanceName::new(name)?, snapshot: None })
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.name)?;
        if let Some(s) = &self.snapshot {
            write!(f, "/{s}")?;
        }
        Ok(())
    }
}

impl FromStr for InstanceId {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let parts: Vec<&str> = s.split('/').collect();
        match parts[..] {
            [name] => Self::new(name),
            [project, name] => Self::in_project(project, name),
            [project, name, snapshot] => {
                Ok(Self { snapshot: Some(InstanceName::new(snapshot)?), ..Self::in_project(project, name)? })
            }
            _ => Err(Error::invalid("instance", "is not `project/name/snapshot`")
                .object(s.chars().take(200).collect::<String>())),
        }
    }
}

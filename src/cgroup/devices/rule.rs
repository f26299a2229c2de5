//! What is allowed: rules, their text form, and the policy that they make.

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::program;
use crate::error::{Error, Result};

/// The kernel's major numbers have 12 bits (`makedev(3)`).
const MAJOR_MAX: u32 = (1 << 12) - 1;
/// And its minor numbers 20.
const MINOR_MAX: u32 = (1 << 20) - 1;
/// Far more than anybody writes down, so that a policy of them compiles in milliseconds.
const RULES_MAX: usize = 1024;

/// Which kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceKind {
    /// Both kinds (`a`).
    All,
    /// Block devices (`b`).
    Block,
    /// Character devices (`c`).
    Char,
}

impl DeviceKind {
    fn letter(self) -> char {
        match self {
            Self::All => 'a',
            Self::Block => 'b',
            Self::Char => 'c',
        }
    }

    /// Whether a rule of this kind is about devices of `other`, one of the two.
    pub(super) fn covers(self, other: Self) -> bool {
        self == Self::All || self == other
    }
}

/// What is done with a device: at least one of reading, writing, and making its node.
///
/// ```
/// use stockade::cgroup::DeviceAccess;
///
/// let access: DeviceAccess = "rw".parse()?;
/// assert_eq!(access, DeviceAccess::READ.union(DeviceAccess::WRITE));
/// assert_eq!(DeviceAccess::ALL.to_string(), "rwm");
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceAccess(u8);

impl DeviceAccess {
    /// Making a node with `mknod(2)`.
    pub const MKNOD: Self = Self(1);
    /// Opening a node for reading.
    pub const READ: Self = Self(2);
    /// Opening a node for writing.
    pub const WRITE: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    const LETTERS: [(char, Self); 3] = [('r', Self::READ), ('w', Self::WRITE), ('m', Self::MKNOD)];

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As the kernel's `BPF_DEVCG_ACC_*`.
    pub(super) const fn bits(self) -> u8 {
        self.0
    }
}

impl fmt::Display for DeviceAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::LETTERS
            .iter()
            .filter(|(_, bit)| self.contains(*bit))
            .try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

impl FromStr for DeviceAccess {
    type Err = Error;

    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): empty, another letter than `r`, `w` and `m`, or one
    /// twice.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: &str| Error::invalid("device access", why).object(show(text));
        let mut bits = 0;
        for letter in text.chars() {
            let known = Self::LETTERS.iter().find(|(known, _)| *known == letter);
            let (_, bit) = known.ok_or_else(|| invalid("may hold only `r`, `w` and `m`"))?;
            if bits & bit.0 != 0 {
                return Err(invalid("has a letter twice"));
            }
            bits |= bit.0;
        }
        if bits == 0 {
            Err(invalid("is empty: it needs at least one of `r`, `w` and `m`"))
        } else {
            Ok(Self(bits))
        }
    }
}

/// Some devices, and what is done with them. In text `TYPE MAJOR:MINOR ACCESS` as in the kernel's `devices.allow` of
/// cgroup v1: the type `a`, `b` or `c`, each number decimal or `*` for any, the access of letters of `rwm`. `a` alone
/// is `a *:* rwm`.
///
/// ```
/// use stockade::cgroup::{DeviceAccess, DeviceKind, DeviceRule};
///
/// let rule: DeviceRule = "c 136:* rw".parse()?;
/// assert_eq!(rule.major(), Some(136));
/// assert_eq!(rule.minor(), None);
/// let same = DeviceRule::new(DeviceKind::Char, 136, None, "rw".parse()?)?;
/// assert_eq!(rule, same);
/// assert!("c 1:3 x".parse::<DeviceRule>().unwrap_err().to_string().contains("c 1:3 x"));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceRule {
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: DeviceAccess,
}

impl DeviceRule {
    /// Every access to every device.
    pub const ALL: Self = Self { kind: DeviceKind::All, major: None, minor: None, access: DeviceAccess::ALL };

    /// A rule of these parts; `None` for any number.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): a major number above 4,095 or a minor one above
    /// 1,048,575, which no device has.
    pub fn new(
        kind: DeviceKind,
        major: impl Into<Option<u32>>,
        minor: impl Into<Option<u32>>,
        access: DeviceAccess,
    ) -> Result<Self> {
        let rule = Self { kind, major: major.into(), minor: minor.into(), access };
        let invalid = |why: String| Err(Error::invalid("device rule", why).object(rule.to_string()));
        if rule.major.is_some_and(|n| n > MAJOR_MAX) {
            return invalid(format!("major numbers end at {MAJOR_MAX}"));
        }
        if rule.minor.is_some_and(|n| n > MINOR_MAX) {
            return invalid(format!("minor numbers end at {MINOR_MAX}"));
        }
        Ok(rule)
    }

    /// Which kind of device.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// The major number; `None` for any.
    pub fn major(&self) -> Option<u32> {
        self.major
    }

    /// The minor number; `None` for any.
    pub fn minor(&self) -> Option<u32> {
        self.minor
    }

    /// What is done with them.
    pub fn access(&self) -> DeviceAccess {
        self.access
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        write!(f, "{} {major}:{minor} {}", self.kind.letter(), self.access)
    }
}

impl FromStr for DeviceRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: String| Error::invalid("device rule", why).object(show(text));
        let mut fields = text.split_ascii_whitespace();
        let kind = match fields.next() {
            Some("a") => DeviceKind::All,
            Some("b") => DeviceKind::Block,
            Some("c") => DeviceKind::Char,
            Some(_) => return Err(invalid("its type is none of `a`, `b` and `c`".to_owned())),
            None => return Err(invalid("is empty".to_owned())),
        };
        let (numbers, access, rest) = (fields.next(), fields.next(), fields.next());
        let (numbers, access) = match (numbers, access, rest) {
            (None, None, None) if kind == DeviceKind::All => return Ok(Self::ALL),
            (Some(numbers), Some(access), None) => (numbers, access),
            _ => return Err(invalid("is not of the form `TYPE MAJOR:MINOR ACCESS`".to_owned())),
        };
        let (major, minor) = numbers
            .split_once(':')
            .ok_or_else(|| invalid("its numbers are not of the form `MAJOR:MINOR`".to_owned()))?;
        let major = number(major, MAJOR_MAX).map_err(|why| invalid(format!("its major number {why}")))?;
        let minor = number(minor, MINOR_MAX).map_err(|why| invalid(format!("its minor number {why}")))?;
        let access = access.parse::<DeviceAccess>();
        let access = access.map_err(|e| invalid("its access is none".to_owned()).with_source(e))?;
        Self::new(kind, major, minor, access)
    }
}

fn number(text: &str, max: u32) -> Result<Option<u32>, String> {
    if text == "*" {
        return Ok(None);
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("is neither decimal nor `*`".to_owned());
    }
    match text.parse() {
        Ok(n) if n <= max => Ok(Some(n)),
        _ => Err(format!("is above {max}")),
    }
}

/// A text for a message: short and on one line.
fn show(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Whether something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceVerdict {
    /// It may.
    Allow,
    /// It fails with `EPERM`.
    Deny,
}

impl DeviceVerdict {
    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Which device nodes the processes of a cgroup may open and make: a verdict to begin with, and rules after it.
///
/// Of several rules about the same access to the same device **the last one** counts, for each of reading, writing
/// and making by itself: after `allow c 1:5 rwm` and `deny c 1:5 w` the device may still be read. An access of two
/// kinds, such as opening for reading and writing, needs both. A rule may be there twice, or take back another.
///
/// In JSON `{"default":"deny","rules":["allow c 1:3 rwm"]}`.
///
/// ```
/// use stockade::cgroup::{DeviceAccess, DeviceKind, DevicePolicy};
///
/// let policy = DevicePolicy::deny_all().allow("c 1:* rwm".parse()?).deny("c 1:5 w".parse()?);
/// assert!(policy.allows(DeviceKind::Char, 1, 5, DeviceAccess::READ));
/// assert!(!policy.allows(DeviceKind::Char, 1, 5, DeviceAccess::ALL));
/// assert!(!policy.allows(DeviceKind::Block, 8, 0, DeviceAccess::READ));
/// # Ok::<(), stockade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicePolicy {
    default: DeviceVerdict,
    #[serde(default)]
    rules: Vec<Line>,
}

/// A rule with its verdict; in text the one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Line {
    pub(super) verdict: DeviceVerdict,
    pub(super) rule: DeviceRule,
}

impl DevicePolicy {
    fn new(default: DeviceVerdict) -> Self {
        Self { default, rules: Vec::new() }
    }

    /// Nothing is allowed that no rule allows.
    pub fn deny_all() -> Self {
        Self::new(DeviceVerdict::Deny)
    }

    /// All is allowed that no rule denies.
    pub fn allow_all() -> Self {
        Self::new(DeviceVerdict::Allow)
    }

    /// What a privileged container has unless told otherwise, as under LXC and Incus: any node may be made, and
    /// `null`, `zero`, `full`, `random`, `urandom`, `tty`, `console`, `ptmx`, all of `pts`, `fuse` and `net/tun` may
    /// be opened.
    pub fn standard() -> Self {
        use DeviceAccess as Access;
        use DeviceKind::{All, Char};
        const CHARS: [(u32, Option<u32>); 11] = [
            (1, Some(3)),
            (1, Some(5)),
            (1, Some(7)),
            (1, Some(8)),
            (1, Some(9)),
            (5, Some(0)),
            (5, Some(1)),
            (5, Some(2)),
            (10, Some(200)),
            (10, Some(229)),
            (136, None),
        ];
        let make = DeviceRule { kind: All, major: None, minor: None, access: Access::MKNOD };
        CHARS.iter().fold(Self::deny_all().allow(make), |policy, (major, minor)| {
            policy.allow(DeviceRule { kind: Char, major: Some(*major), minor: *minor, access: Access::ALL })
        })
    }

    /// Adds a rule that allows.
    #[must_use]
    pub fn allow(self, rule: DeviceRule) -> Self {
        self.rule(DeviceVerdict::Allow, rule)
    }

    /// Adds a rule that denies.
    #[must_use]
    pub fn deny(self, rule: DeviceRule) -> Self {
        self.rule(DeviceVerdict::Deny, rule)
    }

    /// Adds a rule.
    #[must_use]
    pub fn rule(mut self, verdict: DeviceVerdict, rule: DeviceRule) -> Self {
        self.rules.push(Line { verdict, rule });
        self
    }

    /// What counts where no rule does.
    pub fn default_verdict(&self) -> DeviceVerdict {
        self.default
    }

    /// The rules, the one that counts last.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = (DeviceVerdict, &DeviceRule)> {
        self.rules.iter().map(|line| (line.verdict, &line.rule))
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.rules
    }

    /// Whether all of `access` is allowed on a device; of [`DeviceKind::All`], on both devices of these numbers.
    pub fn allows(&self, kind: DeviceKind, major: u32, minor: u32, access: DeviceAccess) -> bool {
        let kinds: &[DeviceKind] = match &kind {
            DeviceKind::All => &[DeviceKind::Block, DeviceKind::Char],
            one => std::slice::from_ref(one),
        };
        kinds.iter().all(|kind| program::allowed(self, *kind, major, minor) & access.0 == access.0)
    }

    /// Checks that a program can be made of it.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): more than 1,024 rules, or so many that name one number and
    /// leave the other open, both ways round, that the program would be longer than 30,000 instructions.
    pub fn validate(&self) -> Result<()> {
        if self.rules.len() > RULES_MAX {
            let why = format!("has {} rules, of which {RULES_MAX} can be", self.rules.len());
            return Err(Error::invalid("device policy", why));
        }
        program::compile(self).map(drop)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verdict.word(), self.rule)
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(d)?;
        let (verdict, rule) = text.split_once(' ').unwrap_or((&text, ""));
        let verdict = match verdict {
            "allow" => DeviceVerdict::Allow,
            "deny" => DeviceVerdict::Deny,
            _ => {
                let why = format!("device rule `{}` begins with neither `allow` nor `deny`", show(&text));
                return Err(D::Error::custom(why));
            }
        };
        Ok(Self { verdict, rule: rule.parse().map_err(D::Error::custom)? })
    }
}

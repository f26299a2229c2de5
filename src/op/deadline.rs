//! The point in time at which a call gives up.

use std::time::{Duration, Instant};

/// When a call that waits must come back. Taken once at the public call and handed down, so that the steps of
/// one action share one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// `budget` from now. A budget too long for the clock is the same as none.
    pub(crate) fn after(budget: Duration) -> Self {
        Self(Instant::now().checked_add(budget))
    }

    /// Never gives up.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The earlier of this and `budget` from now: a step's own limit inside the whole action's.
    pub(crate) fn at_most(self, budget: Duration) -> Self {
        match (self.0, Self::after(budget).0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// What is left, zero once it has passed; `None` where there is no deadline.
    pub(crate) fn remaining(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Whether it has passed.
    pub(crate) fn expired(self) -> bool {
        self.remaining().is_some_and(|left| left.is_zero())
    }

    /// The instant itself, as the lower layers take it.
    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }
}

impl From<Option<Duration>> for Deadline {
    /// A timeout option of a public call: `None` waits for ever.
    fn from(budget: Option<Duration>) -> Self {
        budget.map_or(Self::none(), Self::after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_never_expires_and_has_no_remainder() {
        assert_eq!(Deadline::none().remaining(), None);
        assert!(!Deadline::none().expired());
        assert_eq!(Deadline::from(None), Deadline::none());
    }

    #[test]
    fn zero_is_expired_and_an_hour_is_not() {
        assert!(Deadline::after(Duration::ZERO).expired());
        let hour = Deadline::after(Duration::from_secs(3600));
        assert!(!hour.expired());
        assert!(hour.remaining().is_some_and(|d| d > Duration::from_secs(3500)));
    }

    #[test]
    fn a_budget_beyond_the_clock_is_none() {
        assert_eq!(Deadline::after(Duration::MAX), Deadline::none());
    }

    #[test]
    fn at_most_takes_the_earlier() {
        let hour = Deadline::after(Duration::from_secs(3600));
        assert!(hour.at_most(Duration::ZERO).expired());
        assert!(Deadline::none().at_most(Duration::ZERO).expired());
        assert_eq!(hour.at_most(Duration::MAX), hour);
    }
}

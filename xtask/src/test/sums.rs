//! What ran, what failed and what was skipped, on the host and in the lane.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A test by its program and its name in there.
pub type Name = (String, String);

/// The skipped tests of one place, with their reasons.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Skips(pub BTreeMap<Name, String>);

impl Skips {
    /// Reads what the tests noted in the file named by `STOCKADE_SKIP_LOG`: program, test and reason, by tabs.
    pub fn read(log: &Path) -> Self {
        Self::parse(&fs::read_to_string(log).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, '\t').map(str::to_owned);
            Some(((fields.next()?, fields.next()?), fields.next()?))
        });
        Self(fields.collect())
    }
}

/// What the test programs report, added up.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals {
    pub passed: usize,
    pub failed: usize,
    pub ignored: usize,
}

impl Totals {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; others change nothing.
    pub fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) =
                (words.next().and_then(|w| w.parse::<usize>().ok()), words.next())
            else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// One place where tests ran.
#[derive(Debug, Default)]
pub struct Place {
    pub totals: Totals,
    pub skips: Skips,
    /// Each test that reported success, whether it was skipped or not; empty where nobody read the names.
    pub ok: BTreeSet<Name>,
    /// What tests that ran once more said of it.
    pub again: Vec<String>,
}

impl Place {
    /// Tests that did what they are there for: the harness counts a skipped one as passed.
    fn passed(&self) -> usize {
        self.totals.passed.saturating_sub(self.skips.0.len())
    }

    /// Adds what ran in another machine of the same place.
    pub fn add(&mut self, other: Self) {
        self.totals.passed += other.totals.passed;
        self.totals.failed += other.totals.failed;
        self.totals.ignored += other.totals.ignored;
        self.skips.0.extend(other.skips.0);
        self.ok.extend(other.ok);
        self.again.extend(other.again);
    }

    fn ran(&self, test: &Name) -> bool {
        self.ok.contains(test) && !self.skips.0.contains_key(test)
    }

    fn line(&self) -> String {
        let skipped = self.skips.0.len();
        format!(
            "{} passed, {} failed, {skipped} skipped, {} ignored",
            self.passed(),
            self.totals.failed,
            self.totals.ignored
        )
    }
}

/// Both places, as far as tests ran there.
#[derive(Debug, Default)]
pub struct Sums {
    pub host: Option<Place>,
    pub lane: Option<Place>,
}

impl Sums {
    /// The tests that ran in no place.
    pub fn nowhere(&self) -> Vec<&Name> {
        let lane_ran = |test: &Name| self.lane.as_ref().is_some_and(|lane| lane.ran(test));
        match (&self.host, &self.lane) {
            (Some(host), _) => host.skips.0.keys().filter(|test| !lane_ran(test)).collect(),
            (None, Some(lane)) => lane.skips.0.keys().collect(),
            (None, None) => Vec::new(),
        }
    }

    /// All skips, then the sums; the last line is `N passed, N failed, N skipped`, where a test is skipped if it ran
    /// in no place.
    pub fn print(&self) {
        let nowhere: BTreeSet<&Name> = self.nowhere().into_iter().collect();
        let places = [("on the host", &self.host), ("in the lane", &self.lane)];
        for (at, place) in places.iter().filter_map(|(at, place)| Some((at, place.as_ref()?))) {
            for (test, reason) in &place.skips.0 {
                let so = if nowhere.contains(test) { "ran nowhere" } else { "ran in the other place" };
                println!("skipped {at}: {} {}: {reason} ({so})", test.0, test.1);
            }
            place.again.iter().for_each(|what| println!("{at}: {what}"));
        }
        let places: Vec<_> = places.iter().filter_map(|(at, place)| Some((at, place.as_ref()?))).collect();
        for (at, place) in &places {
            println!("{at}: {}", place.line());
        }
        let passed: usize = places.iter().map(|(_, place)| place.passed()).sum();
        let failed: usize = places.iter().map(|(_, place)| place.totals.failed).sum();
        println!("{passed} passed, {failed} failed, {} skipped", nowhere.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(skipped: &str, ok: &str) -> Place {
        let name = |test: &str| ("p".to_owned(), test.to_owned());
        let words = |text: &str| text.split_whitespace().map(name).collect::<BTreeSet<_>>();
        let skips = Skips(words(skipped).into_iter().map(|test| (test, "why".to_owned())).collect());
        let ok = words(ok);
        Place { totals: Totals { passed: ok.len(), ..Totals::default() }, skips, ok, again: Vec::new() }
    }

    #[test]
    fn reports_are_added_up() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
        );
        totals.add("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.add("test x ... ok. 9 passed");
        assert_eq!(totals, Totals { passed: 7, failed: 2, ignored: 1 });
    }

    #[test]
    fn skips_have_three_fields() {
        let skips = Skips::parse("p\ta::b\tno: x\ty\nbroken\np\ta::b\tagain\n");
        let expected = [(("p".to_owned(), "a::b".to_owned()), "again".to_owned())];
        assert_eq!(skips.0, expected.into_iter().collect());
    }

    #[test]
    fn what_was_skipped_here_must_have_run_there() {
        let nowhere = |host: Option<Place>, lane: Option<Place>| {
            let sums = Sums { host, lane };
            sums.nowhere().iter().map(|(_, test)| test.clone()).collect::<Vec<_>>()
        };
        let host = || Some(place("a b", "a b c"));
        assert_eq!(nowhere(host(), Some(place("", "a b"))), [""; 0]);
        assert_eq!(nowhere(host(), Some(place("c", "a b c"))), [""; 0]);
        assert_eq!(nowhere(host(), Some(place("b", "a b c"))), ["b"]);
        assert_eq!(nowhere(host(), Some(place("", "c"))), ["a", "b"]);
        assert_eq!(nowhere(host(), None), ["a", "b"]);
        assert_eq!(nowhere(None, Some(place("c", "c"))), ["c"]);
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        assert_eq!(place("a b", "a b c").passed(), 1);
    }
}

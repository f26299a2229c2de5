//! The figures as a table or as one JSON object.

use serde_json::{Map, Value, json};

use super::row::Row;

/// What is told of a row; times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    pub min: f64,
    pub p25: f64,
    pub median: f64,
    pub n: usize,
}

impl Figures {
    /// `None` without a time.
    pub fn of(times: &[f64]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        Some(Self {
            min: sorted[0],
            p25: sorted[last / 4],
            median: (sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0,
            n: sorted.len(),
        })
    }
}

/// The table for a person.
pub fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<16}{:>9}{:>9}{:>9}{:>6}   x min   p25  median\n",
        "microseconds", "min", "p25", "median", "n"
    );
    let figures = |name: &str| rows.iter().find(|r| r.name == name).and_then(|r| Figures::of(&r.times));
    for row in rows {
        let Some(f) = figures(row.name) else { continue };
        out += &format!("{:<16}{:>9.0}{:>9.0}{:>9.0}{:>6}", row.name, f.min, f.p25, f.median, f.n);
        if let Some(base) = figures(row.base) {
            let ratios = (f.min / base.min, f.p25 / base.p25, f.median / base.median);
            out += &format!("  {:6.2}{:6.2}{:8.2}  of {}", ratios.0, ratios.1, ratios.2, row.base);
        }
        out.push('\n');
    }
    out
}

/// The object for a program: `{"unit":"us","rows":{NAME:{"min":..,"p25":..,"median":..,"n":..}}}`.
pub fn json(rows: &[Row]) -> Value {
    let tenth = |us: f64| (us * 10.0).round() / 10.0;
    let mut found = Map::new();
    for row in rows {
        if let Some(f) = Figures::of(&row.times) {
            let value =
                json!({"min": tenth(f.min), "p25": tenth(f.p25), "median": tenth(f.median), "n": f.n});
            found.insert(row.name.to_owned(), value);
        }
    }
    json!({"unit": "us", "rows": found})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_known_times() {
        assert_eq!(Figures::of(&[]), None);
        let one = Figures { min: 3.0, p25: 3.0, median: 3.0, n: 1 };
        assert_eq!(Figures::of(&[3.0]), Some(one));
        let nine: Vec<f64> = (1..=9).rev().map(f64::from).collect();
        assert_eq!(Figures::of(&nine), Some(Figures { min: 1.0, p25: 3.0, median: 5.0, n: 9 }));
        assert_eq!(Figures::of(&[1.0, 2.0]).map(|f| f.median), Some(1.5));
    }
}

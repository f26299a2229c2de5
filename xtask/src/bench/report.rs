//! The figures as a table or as one JSON object.

use serde_json::{Map, Value, json};

use super::row::Times;

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

/// What was measured of one row.
pub struct Series {
    pub name: String,
    /// The one whose figures are the unit of this one's.
    pub base: String,
    pub times: Vec<Times>,
}

impl Series {
    fn total(&self) -> Option<Figures> {
        Figures::of(&self.times.iter().map(|times| times.total).collect::<Vec<_>>())
    }

    fn to_exec(&self) -> Option<Figures> {
        Figures::of(&self.times.iter().filter_map(|times| times.to_exec).collect::<Vec<_>>())
    }
}

/// The tables for a person and for a document: of the whole runs, and of the way to the payload's exec.
pub fn tables(series: &[Series]) -> String {
    let mut out = table("whole run, us", series, Series::total);
    let to_exec = table("to payload exec, us", series, Series::to_exec);
    if !to_exec.is_empty() {
        out += "\n";
        out += &to_exec;
    }
    out
}

fn table(title: &str, series: &[Series], figures: impl Fn(&Series) -> Option<Figures>) -> String {
    let mut lines = String::new();
    for row in series {
        let Some(f) = figures(row) else { continue };
        lines += &format!("| {} | {:.0} | {:.0} | {:.0} |", row.name, f.min, f.p25, f.median);
        let base = series.iter().find(|s| s.name == row.base && s.name != row.name).and_then(&figures);
        match base {
            Some(base) => {
                let ratios = (f.min / base.min, f.p25 / base.p25, f.median / base.median);
                lines += &format!(" {:.2} | {:.2} | {:.2} | {} |\n", ratios.0, ratios.1, ratios.2, row.base);
            }
            None => lines += " | | | |\n",
        }
    }
    if lines.is_empty() {
        return lines;
    }
    format!(
        "| {title} | min | p25 | median | x min | x p25 | x median | of |\n|---|---|---|---|---|---|---|---|\n{lines}"
    )
}

/// The object for a program: `{"unit":"us","rows":{NAME:{"min":..,"p25":..,"median":..,"n":..,"to_exec":{..}}}}`.
pub fn json(series: &[Series]) -> Value {
    let tenth = |us: f64| (us * 10.0).round() / 10.0;
    let object =
        |f: Figures| json!({"min": tenth(f.min), "p25": tenth(f.p25), "median": tenth(f.median), "n": f.n});
    let mut found = Map::new();
    for row in series {
        if let Some(total) = row.total() {
            let mut value = object(total);
            if let Some(to_exec) = row.to_exec() {
                value["to_exec"] = object(to_exec);
            }
            found.insert(row.name.clone(), value);
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

    #[test]
    fn tables_divide_by_the_unit() {
        let series = |name: &str, base: &str, total, to_exec| Series {
            name: name.to_owned(),
            base: base.to_owned(),
            times: vec![Times { total, to_exec }],
        };
        let rows = [
            series("floor", "floor", 2.0, Some(1.0)),
            series("ours", "floor", 3.0, Some(0.5)),
            series("cli", "floor", 4.0, None),
        ];
        let text = tables(&rows);
        for line in [
            "| floor | 2 | 2 | 2 | | | | |",
            "| ours | 3 | 3 | 3 | 1.50 | 1.50 | 1.50 | floor |",
            "| cli | 4 | 4 | 4 | 2.00 | 2.00 | 2.00 | floor |",
            "| ours | 0 | 0 | 0 | 0.50 | 0.50 | 0.50 | floor |",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(text.matches("| cli |").count(), 1);
        let object = json(&rows);
        assert_eq!(object["rows"]["ours"]["to_exec"]["min"], 0.5);
        assert!(object["rows"]["cli"].get("to_exec").is_none());
    }
}

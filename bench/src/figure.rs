//! What was measured: a row per thing measured, a list of values per peer.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Millis,
    Micros,
    MegabytesPerSecond,
    Bytes,
    Kib,
    Mib,
}

impl Unit {
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "µs",
            Self::MegabytesPerSecond => "MB/s",
            Self::Bytes => "B",
            Self::Kib => "KiB",
            Self::Mib => "MiB",
        }
    }

    /// How many times more `value` costs than `base`: below one is better, whatever the unit.
    pub fn cost_ratio(self, value: f64, base: f64) -> f64 {
        match self {
            Self::MegabytesPerSecond => base / value,
            _ => value / base,
        }
    }
}

#[derive(Debug)]
pub struct Row {
    /// `workload: what`, unique.
    pub name: String,
    pub unit: Unit,
    values: BTreeMap<&'static str, Vec<f64>>,
}

impl Row {
    pub fn values(&self, peer: &str) -> &[f64] {
        self.values.get(peer).map_or(&[], Vec::as_slice)
    }

    pub fn median(&self, peer: &str) -> Option<f64> {
        let mut values = self.values(peer).to_vec();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            even if even % 2 == 0 => Some((values[middle - 1] + values[middle]) / 2.0),
            _ => Some(values[middle]),
        }
    }

    /// The ratio of two peers' medians, as a cost.
    pub fn ratio(&self, peer: &str, base: &str) -> Option<f64> {
        let (value, base) = (self.median(peer)?, self.median(base)?);
        (value > 0.0 && base > 0.0).then(|| self.unit.cost_ratio(value, base))
    }
}

/// All rows, in the order in which they first came.
#[derive(Debug, Default)]
pub struct Figures {
    pub rows: Vec<Row>,
    /// What could not be measured, and why.
    pub gaps: Vec<String>,
}

impl Figures {
    pub fn record(&mut self, name: &str, unit: Unit, peer: &'static str, value: f64) {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name: name.to_owned(), unit, values: BTreeMap::new() });
            self.rows.len() - 1
        });
        self.rows[at].values.entry(peer).or_default().push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let mut figures = Figures::default();
        for value in [9.0, 1.0, 2.0] {
            figures.record("a", Unit::Micros, "x", value);
        }
        for value in [4.0, 2.0, 6.0, 100.0] {
            figures.record("a", Unit::Micros, "y", value);
        }
        let row = &figures.rows[0];
        assert_eq!(row.median("x"), Some(2.0));
        assert_eq!(row.median("y"), Some(5.0));
        assert_eq!(row.ratio("x", "y"), Some(0.4));
        assert_eq!(row.ratio("x", "z"), None);
    }

    #[test]
    fn twice_the_throughput_is_half_the_cost() {
        assert_eq!(Unit::MegabytesPerSecond.cost_ratio(200.0, 100.0), 0.5);
        assert_eq!(Unit::Seconds.cost_ratio(200.0, 100.0), 2.0);
    }
}

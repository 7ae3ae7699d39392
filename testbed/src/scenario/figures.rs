//! Figures of rounds, and the limits they must keep.

use std::collections::BTreeMap;

/// Figures of one round, by name. Milliseconds end in `_ms`.
#[derive(Debug, Clone, Default)]
pub struct Figures(BTreeMap<&'static str, f64>);

impl Figures {
    /// Notes one figure.
    pub fn set(&mut self, name: &'static str, value: f64) {
        self.0.insert(name, value);
    }

    /// One figure.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// All figures, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.0.iter().map(|(name, value)| (*name, *value))
    }
}

/// Which value of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Percentile {
    /// The middle one.
    P50,
    /// The one that 99 of 100 do not exceed; with fewer than 100 rounds, the greatest.
    P99,
}

/// A limit over all rounds.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Name of the figure.
    pub figure: &'static str,
    /// Which of the rounds' values is compared.
    pub percentile: Percentile,
    /// The limit.
    pub max: f64,
}

/// The figures of all rounds of a scenario.
#[derive(Debug, Default)]
pub struct Rounds(Vec<Figures>);

impl Rounds {
    /// One round alone.
    pub fn of(figures: &Figures) -> Rounds {
        Rounds(vec![figures.clone()])
    }

    /// Adds one round.
    pub fn push(&mut self, figures: Figures) {
        self.0.push(figures);
    }

    /// Number of rounds.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Names of all figures that any round has.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .0
            .iter()
            .flat_map(|f| f.iter().map(|(n, _)| n))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A percentile of a figure over the rounds.
    pub fn percentile(&self, figure: &str, percentile: Percentile) -> Option<f64> {
        let mut values: Vec<f64> = self.0.iter().filter_map(|f| f.get(figure)).collect();
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let index = match percentile {
            Percentile::P50 => last / 2,
            Percentile::P99 => (values.len() * 99).div_ceil(100) - 1,
        };
        values.get(index.min(last)).copied()
    }

    /// Bounds that are not kept, each as a sentence.
    pub fn violations(&self, bounds: &[Bound]) -> Vec<String> {
        bounds
            .iter()
            .filter_map(
                |bound| match self.percentile(bound.figure, bound.percentile) {
                    Some(value) if value <= bound.max => None,
                    Some(value) => Some(format!(
                        "{} {:?} is {value:.0}, the limit is {:.0}",
                        bound.figure, bound.percentile, bound.max
                    )),
                    None => Some(format!("{} was never measured", bound.figure)),
                },
            )
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(values: &[f64]) -> Rounds {
        let mut rounds = Rounds::default();
        for value in values {
            let mut figures = Figures::default();
            figures.set("gap_ms", *value);
            rounds.push(figures);
        }
        rounds
    }

    #[test]
    fn percentiles_of_few_rounds() {
        let few = rounds(&[3.0, 1.0, 2.0]);
        assert_eq!(few.percentile("gap_ms", Percentile::P50), Some(2.0));
        assert_eq!(few.percentile("gap_ms", Percentile::P99), Some(3.0));
        assert_eq!(few.percentile("other", Percentile::P99), None);
        let many: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(
            rounds(&many).percentile("gap_ms", Percentile::P99),
            Some(198.0)
        );
    }

    #[test]
    fn broken_and_unmeasured_bounds_are_reported() {
        let bound = |figure, max| Bound {
            figure,
            percentile: Percentile::P99,
            max,
        };
        let all = rounds(&[10.0, 30.0]);
        assert!(all.violations(&[bound("gap_ms", 30.0)]).is_empty());
        assert_eq!(
            all.violations(&[bound("gap_ms", 29.0), bound("x", 1.0)])
                .len(),
            2
        );
    }
}

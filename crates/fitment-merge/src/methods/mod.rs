//! Methods by name: one file each, and one line in [`METHODS`], from which help, README and explanations come.

mod driver;
mod magnitude_prune;
mod params;
mod site;
mod task_arithmetic;

pub(crate) use driver::merge;
pub use params::{Param, Params};
pub(crate) use site::{Core, Dense, Failure, Task};

use fitment_math::ndarray::Array2;

/// A way to make one update of several.
#[derive(Clone, Copy)]
pub struct Method {
    /// The value of `--method`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    /// What is computed of each target, with Δᵢ the update of adapter i without its weight wᵢ.
    pub formula: &'static str,
    /// Where the formula is from: paper, tool and version.
    pub source: &'static str,
    /// Why its results are not to be trusted, where the reference shows it.
    pub warning: Option<&'static str>,
    /// The parameters that it takes, in the order in which they are explained.
    pub params: &'static [Param],
    pub(crate) run: Run,
}

impl Method {
    /// Whether it works element by element on dense updates; else on the factors of low-rank ones.
    pub fn is_dense(&self) -> bool {
        matches!(self.run, Run::Dense(_))
    }
}

/// How a method is computed.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// From the factors of low-rank updates: gives factors. The dense matrix is never formed.
    Core(fn(&Core<'_>) -> Result<Factors, Failure>),
    /// Element by element of the dense updates, whatever their kind: gives a dense update.
    Dense(fn(&Dense<'_>) -> Result<Vec<f32>, Failure>),
}

/// `up` `[out, r]` and `down` `[r, in]` of a result.
pub(crate) type Factors = (Array2<f64>, Array2<f64>);

/// Every method beside the exact sum, which needs no name.
pub const METHODS: &[&Method] = &[&task_arithmetic::METHOD, &magnitude_prune::METHOD];

/// The method of that name.
pub fn method(name: &str) -> Option<&'static Method> {
    METHODS.iter().copied().find(|method| method.name == name)
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Method").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::METHODS;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_told_in_the_style_of_the_field() {
        let names: BTreeSet<&str> = METHODS.iter().map(|method| method.name).collect();
        assert_eq!(names.len(), METHODS.len());
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == ':';
        for method in METHODS {
            assert!(method.name.chars().all(is_plain), "{}", method.name);
            assert!(!method.formula.is_empty() && !method.source.is_empty(), "{}", method.name);
        }
    }
}

//! Weights by module: rules of patterns, the first that matches decides.

use crate::input::Input;
use crate::methods::Params;
use fitment_core::glob;
use fitment_core::model::Edit;
use std::collections::BTreeSet;

/// A number, or one that changes over the layers.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// The same everywhere.
    One(f64),
    /// Evenly spaced from the first layer to the last, straight lines between them; the first where a target is of no layer.
    Layers(Vec<f64>),
}

/// What holds for targets whose label matches.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightRule {
    /// Over labels: `*` is any run of characters, `?` any one.
    pub pattern: String,
    /// Only of this adapter, by its place in the list; of all when absent.
    pub adapter: Option<usize>,
    /// Multiplies the adapter's weight.
    pub weight: Option<Values>,
    /// In place of the method's; of all adapters only.
    pub density: Option<Values>,
    /// The same.
    pub lambda: Option<Values>,
}

/// Rules in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// The first that matches decides, of each number by itself.
    pub rules: Vec<WeightRule>,
}

impl Values {
    /// The value at a depth from 0 to 1.
    fn at(&self, depth: f64) -> f64 {
        match self {
            Values::One(value) => *value,
            Values::Layers(values) => {
                let last = values.len().saturating_sub(1);
                let place = depth * last as f64;
                let before = (place.floor() as usize).min(last);
                let after = (before + 1).min(last);
                let [a, b] = [before, after].map(|at| values.get(at).copied().unwrap_or(1.0));
                a + (b - a) * (place - before as f64)
            }
        }
    }

    /// The first that is no finite number; a list without numbers has none.
    fn fault(&self) -> Option<String> {
        match self {
            Values::One(value) => (!value.is_finite()).then(|| value.to_string()),
            Values::Layers(values) if values.is_empty() => Some("an empty list".to_owned()),
            Values::Layers(values) => values.iter().find(|value| !value.is_finite()).map(f64::to_string),
        }
    }
}

/// Rules with the depth of the model that they are asked about.
pub(crate) struct Schedule<'w> {
    weights: &'w Weights,
    /// Number of layers: one more than the last that is seen.
    layers: u64,
}

impl<'w> Schedule<'w> {
    pub(crate) fn new<'l>(weights: &'w Weights, labels: impl Iterator<Item = &'l str>) -> Self {
        Self { weights, layers: labels.filter_map(layer).max().map_or(0, |last| last.saturating_add(1)) }
    }

    fn depth(&self, label: &str) -> f64 {
        match layer(label) {
            Some(_) if self.layers == 1 => 1.0,
            Some(layer) => layer as f64 / (self.layers - 1).max(1) as f64,
            None => 0.0,
        }
    }

    fn find(
        &self,
        label: &str,
        adapter: Option<usize>,
        of: impl Fn(&'w WeightRule) -> Option<&'w Values>,
    ) -> Option<f64> {
        let applies = |rule: &&WeightRule| {
            let is_meant = match adapter {
                Some(adapter) => rule.adapter.is_none_or(|only| only == adapter),
                None => rule.adapter.is_none(),
            };
            is_meant && glob::matches(&rule.pattern, label)
        };
        let mut found = self.weights.rules.iter().filter(applies);
        found.find_map(of).map(|values| values.at(self.depth(label)))
    }

    /// What an adapter's weight is multiplied by.
    pub(crate) fn weight(&self, label: &str, adapter: usize) -> f64 {
        self.find(label, Some(adapter), |rule| rule.weight.as_ref()).unwrap_or(1.0)
    }

    /// The parameters for a target.
    pub(crate) fn params(&self, label: &str, params: &Params) -> Params {
        Params {
            density: self.find(label, None, |rule| rule.density.as_ref()).or(params.density),
            lambda: self.find(label, None, |rule| rule.lambda.as_ref()).or(params.lambda),
            ..*params
        }
    }
}

/// The number of the layer in a name: its first part that is all digits.
fn layer(label: &str) -> Option<u64> {
    label.split('.').find_map(|part| part.parse().ok())
}

impl Weights {
    /// What is wrong with the rules themselves, for so many adapters: a message for each.
    pub(crate) fn faults(&self, adapters: usize) -> Vec<String> {
        let mut faults = Vec::new();
        for WeightRule { pattern, adapter, weight, density, lambda } in &self.rules {
            if let Some(place) = adapter.filter(|place| *place >= adapters) {
                faults.push(format!("{pattern:?} is of adapter {}, there are {adapters}", place + 1));
            }
            if adapter.is_some() && (density.is_some() || lambda.is_some()) {
                faults.push(format!("{pattern:?}: density and lambda are not of one adapter"));
            }
            if weight.is_none() && density.is_none() && lambda.is_none() {
                faults.push(format!(
                    "{pattern:?} sets nothing: weight, density and lambda are what a rule sets"
                ));
            }
            for values in [weight, density, lambda].into_iter().flatten() {
                if let Some(found) = values.fault() {
                    faults.push(format!("{pattern:?} has {found}, a finite number is asked for"));
                }
            }
        }
        faults
    }

    /// Patterns that match no target: most likely mistyped.
    pub(crate) fn unmatched(&self, inputs: &[Input<'_>]) -> Vec<String> {
        let labels: BTreeSet<String> =
            inputs.iter().flat_map(|input| input.adapter.edits.iter().filter_map(Edit::label)).collect();
        let is_unmatched =
            |rule: &&WeightRule| !labels.iter().any(|label| glob::matches(&rule.pattern, label));
        self.rules.iter().filter(is_unmatched).map(|rule| rule.pattern.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Schedule, Values, WeightRule, Weights};
    use crate::methods::Params;

    fn rule(pattern: &str, adapter: Option<usize>, weight: Values) -> WeightRule {
        WeightRule { pattern: pattern.to_owned(), adapter, weight: Some(weight), density: None, lambda: None }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let weights = Weights {
            rules: vec![
                rule("*.mlp.*", Some(1), Values::One(0.25)),
                rule("*.mlp.*", None, Values::Layers(vec![0.0, 1.0, 0.0])),
                rule("*", None, Values::One(2.0)),
            ],
        };
        let labels = ["layers.0.mlp.up", "layers.4.mlp.up", "head"];
        let schedule = Schedule::new(&weights, labels.into_iter());
        let at = |label: &str, adapter| schedule.weight(label, adapter);
        assert_eq!(at("layers.3.mlp.up", 1), 0.25);
        assert_eq!([0, 1, 2, 4].map(|layer| at(&format!("layers.{layer}.mlp.up"), 0)), [0.0, 0.5, 1.0, 0.0]);
        assert_eq!((at("layers.1.attn.q", 0), at("head", 1)), (2.0, 2.0));
        let last = format!("layers.{}.mlp.up", u64::MAX);
        let schedule = Schedule::new(&weights, [&last[..], "layers.0.mlp.up"].into_iter());
        assert_eq!([&last[..], "layers.0.mlp.up"].map(|label| schedule.weight(label, 0)), [0.0, 0.0]);
        let none = Weights::default();
        assert_eq!(Schedule::new(&none, labels.into_iter()).weight("head", 0), 1.0);
    }

    #[test]
    fn a_density_is_of_all_adapters() {
        let mut first = rule("*.q", None, Values::One(1.0));
        first.density = Some(Values::One(0.3));
        let weights = Weights { rules: vec![first] };
        let schedule = Schedule::new(&weights, ["a.q"].into_iter());
        let params = Params { density: Some(0.9), ..Params::default() };
        assert_eq!(schedule.params("a.q", &params).density, Some(0.3));
        assert_eq!(schedule.params("a.k", &params).density, Some(0.9));
        let odd = Weights { rules: vec![rule("x", Some(2), Values::Layers(vec![]))] };
        assert_eq!(odd.faults(2).len(), 2);
    }
}

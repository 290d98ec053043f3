//! Factors of single experts, so that PEFT on transformers 5 loads them.
//!
//! It stacks the modules of all experts as they come, for every layer by the config's `r` and `lora_alpha` (peft 0.21.2,
//! `utils/transformers_weight_conversion.py`), and takes gate, up and down to be there: of one rank, of every expert. Else it refuses the
//! file, or drops factors in silence.

use super::alpha;
use super::draft::{Adapted, Kind};
use super::export::{Export, zeros};
use crate::loss::Loss;
use crate::pass::experts::{Part, WORDS, Words};
use crate::pass::pad::padded;
use crate::pass::stacks::{count, numbered};
use crate::pass::sum::rescaled;
use crate::peft::keys::PREFIX;
use fitment_core::tensor::{Dtype, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// A module of one expert.
struct Single {
    /// The experts that it is one of, `….experts.{e}`.
    experts: String,
    number: u64,
    words: &'static Words,
    part: Part,
}

impl Single {
    fn of(module: &str) -> Option<Self> {
        let (bundle, number) = numbered(module)?;
        let (experts, word) = bundle.rsplit_once('.').filter(|(experts, _)| experts.ends_with("{e}"))?;
        let (words, part) = WORDS.iter().find_map(|words| Some((words, words.part(word)?)))?;
        Some(Self { experts: experts.to_owned(), number, words, part })
    }
}

/// The experts of one layer, of which there are factors.
#[derive(Default)]
struct Layer {
    /// Which there are, by number.
    has: BTreeMap<u64, BTreeSet<Part>>,
}

impl Layer {
    /// The parts that each expert must have: all where there is a gate or an up.
    fn parts(&self) -> &'static [Part] {
        let has_inputs = self.has.values().flatten().any(|part| *part != Part::Down);
        if has_inputs { &Part::ALL } else { &[Part::Down] }
    }

    /// How many experts there are, where nothing says it: up to the last.
    fn least(&self) -> u64 {
        self.has.keys().next_back().map_or(0, |last| last.saturating_add(1))
    }
}

/// The layers of single experts among modules, by their experts and by what they call the parts.
fn layers<'m>(
    modules: impl Iterator<Item = &'m str>,
) -> BTreeMap<(String, &'static str), (&'static Words, Layer)> {
    let mut layers = BTreeMap::new();
    for single in modules.filter_map(Single::of) {
        let Single { experts, number, words, part } = single;
        let key = (experts, words.of(Part::Gate));
        let (_, layer) = layers.entry(key).or_insert_with(|| (words, Layer::default()));
        layer.has.entry(number).or_default().insert(part);
    }
    layers
}

/// Why PEFT on transformers 5 does not load modules of single experts of these ranks and scales, under a config with this `r` and this
/// `lora_alpha / r`, if it does not; see [`Export::even_experts`]. `experts` says how many there are of a bundle.
pub(super) fn unloadable(
    modules: &BTreeMap<String, (u64, f64)>,
    said: (u64, f64),
    experts: impl Fn(&str) -> Option<u64>,
) -> Option<&'static str> {
    let is_single = |module: &str| Single::of(module).is_some();
    if modules.iter().any(|(module, own)| *own != said && is_single(module)) {
        return Some(
            "experts have another rank or scale than r and lora_alpha / r, by which PEFT on transformers 5 stacks them",
        );
    }
    for ((bundle, _), (words, layer)) in layers(modules.keys().map(String::as_str)) {
        let count =
            layer.parts().first().and_then(|part| experts(&format!("{bundle}.{}.weight", words.of(*part))));
        let is_complete = |number: u64| {
            layer.has.get(&number).is_some_and(|has| layer.parts().iter().all(|part| has.contains(part)))
        };
        if !(0..count.unwrap_or(0).max(layer.least())).all(is_complete) {
            return Some(
                "an expert has no factors of its gate, up or down, and PEFT on transformers 5 loads none without them",
            );
        }
    }
    None
}

impl<'a> Export<'_, 'a> {
    /// Gives all single experts factors of one rank and one scale, and those that lack some factors of zeros: the function stays the same.
    pub(super) fn even_experts(&mut self) {
        let singles: Vec<String> =
            self.draft.modules.keys().filter(|module| Single::of(module).is_some()).cloned().collect();
        let adapted = |module: &String| self.draft.modules.get(module).copied();
        let all: Vec<Adapted> = singles.iter().filter_map(adapted).collect();
        let Some(rank) = all.iter().map(|adapted| adapted.rank).max().filter(|_| !self.dora) else { return };
        let scale = all.iter().map(|adapted| adapted.scale).find(|scale| *scale != 0.0).unwrap_or(0.0);
        let Some((alpha, rank)) = alpha::exact(scale, rank) else { return };
        let common = Adapted { alpha, rank, scale, kind: Kind::Linear };
        for module in &singles {
            if self.evened(module, common).is_none() {
                self.draft.lose(module, "lora", "the factors of its experts have no common rank and scale");
            }
        }
        for ((experts, _), (words, layer)) in layers(singles.iter().map(String::as_str)) {
            self.fill(&experts, words, &layer, common);
        }
        self.draft.experts = Some(common);
    }

    fn factor(&self, module: &str, part: &str) -> Option<Tensor<'a>> {
        self.draft.tensors.get(&format!("{PREFIX}{module}.{part}.weight")).cloned()
    }

    /// The factors of one module at the common rank and scale.
    fn evened(&mut self, module: &str, common: Adapted) -> Option<()> {
        let own = self.draft.modules.get(module).copied()?;
        if own == common {
            return Some(());
        }
        let (a, b) = (self.factor(module, "lora_A")?, self.factor(module, "lora_B")?);
        let (b, elements) = rescaled(&b, own.scale, common.scale)?;
        let (b, a) = padded(&b, &a, common.rank)?;
        let target = format!("{module}.weight");
        if elements > 0 {
            let (target, to) = (target.clone(), b.dtype());
            self.draft.losses.push(Loss::Rounded { target, to, elements });
        }
        if own.rank != common.rank {
            self.draft.losses.push(Loss::RankPadded { target, from: own.rank, to: common.rank });
        }
        self.draft.put(module, "lora_A.weight", a);
        self.draft.put(module, "lora_B.weight", b);
        self.draft.modules.insert(module.to_owned(), common);
        Some(())
    }

    /// Zeros for what a layer lacks.
    fn fill(&mut self, experts: &str, words: &Words, layer: &Layer, common: Adapted) {
        let module = |number: u64, part: Part| {
            format!("{}.{}", experts.replacen("{e}", &number.to_string(), 1), words.of(part))
        };
        let extents = |part: Part| -> Option<(u64, u64, Dtype)> {
            let (number, _) = layer.has.iter().find(|(_, has)| has.contains(&part))?;
            let module = module(*number, part);
            let (a, b) = (self.factor(&module, "lora_A")?, self.factor(&module, "lora_B")?);
            Some((*b.dims().first()?, *a.dims().get(1)?, a.dtype()))
        };
        let turned = |(rows, columns, dtype)| (columns, rows, dtype);
        let inputs =
            extents(Part::Gate).or_else(|| extents(Part::Up)).or_else(|| extents(Part::Down).map(turned));
        let down = extents(Part::Down).or_else(|| inputs.map(turned));
        let (Some(inputs), Some(down)) = (inputs, down) else { return };
        let (base, config) = (self.base, &self.adapter.base.config);
        let name = format!("{experts}.{}.weight", words.of(Part::Down));
        let count = count(&name, base, config).unwrap_or(0).max(layer.least());
        for part in layer.parts() {
            let (rows, columns, dtype) = if *part == Part::Down { down } else { inputs };
            let zeros = zeros(&[common.rank, columns], dtype).zip(zeros(&[rows, common.rank], dtype));
            let Some((a, b)) = zeros else { continue };
            for module in (0..count).map(|number| module(number, *part)) {
                if !self.draft.modules.contains_key(&module) {
                    // They share their bytes, however many there are.
                    self.draft.put(&module, "lora_A.weight", a.clone());
                    self.draft.put(&module, "lora_B.weight", b.clone());
                    self.draft.modules.insert(module, common);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unloadable;
    use std::collections::BTreeMap;

    fn modules(modules: &[(&str, u64)]) -> BTreeMap<String, (u64, f64)> {
        let name = |module: &str| format!("model.layers.0.mlp.experts.{module}_proj");
        modules.iter().map(|(module, rank)| (name(module), (*rank, 2.0))).collect()
    }

    #[test]
    fn experts_are_complete_and_of_one_rank() {
        let whole = [("0.gate", 2), ("0.up", 2), ("0.down", 2), ("1.gate", 2), ("1.up", 2), ("1.down", 2)];
        let of =
            |given: &[(&str, u64)], r, count: Option<u64>| unloadable(&modules(given), (r, 2.0), |_| count);
        assert_eq!(of(&whole, 2, Some(2)), None);
        assert_eq!(of(&whole, 2, None), None);
        assert!(of(&whole, 4, None).unwrap().contains("another rank"));
        assert!(of(&whole, 2, Some(3)).is_some() && of(&whole[..4], 2, None).is_some());
        assert!(of(&whole[3..], 2, None).is_some());
        assert_eq!(of(&[("0.down", 2), ("1.down", 2)], 2, Some(2)), None);
        assert!(of(&[("0.down", 2)], 2, Some(2)).is_some());
        assert!(unloadable(&modules(&whole), (2, 1.0), |_| None).is_some());
        assert_eq!(unloadable(&BTreeMap::from([("q_proj".to_owned(), (3, 1.0))]), (2, 2.0), |_| None), None);
    }
}

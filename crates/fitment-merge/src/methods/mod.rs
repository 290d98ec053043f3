//! Methods by name: one file each, and one line in [`METHODS`], from which help, README and explanations come.

mod breadcrumbs;
mod cart;
mod combine;
mod core_ties;
mod cores;
mod ctm;
mod dare;
mod dare_ties;
mod della;
mod draws;
mod driver;
mod each_factor;
mod elected;
mod iso;
mod karcher;
mod knots_ties;
mod magnitude_prune;
mod model_stock;
mod multislerp;
mod np_lora;
mod nuslerp;
mod params;
mod peft_factors;
mod ram;
mod ramplus_tl;
#[cfg(test)]
mod sample;
mod sce;
mod shares;
mod site;
mod slerp;
mod sparse;
mod stored;
mod svd_peft;
mod task_arithmetic;
mod ties;
mod tsv;
mod update;
mod updates;

pub(crate) use driver::merge;
pub use params::{Param, Params};
pub(crate) use site::{Core, Dense, Failure, Task};

pub(crate) use crate::factors::Factors;
use crate::input::{Input, Limit};
use fitment_core::model::Edit;
use shares::Shares;

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

    /// Whether it works on dense updates too, where there are no factors.
    pub fn takes_any(&self) -> bool {
        matches!(self.run, Run::Shares(_) | Run::Pair(_) | Run::Either(..) | Run::Dense(_))
    }

    /// The limit of the method where none is asked for.
    pub(crate) fn limit(&self, inputs: &[Input<'_>]) -> Option<Limit> {
        let Run::Best = self.run else { return None };
        let edits = inputs.iter().filter(|input| input.weight != 0.0).flat_map(|input| &input.adapter.edits);
        let rank = |edit: &Edit<'_>| if let Edit::Lora(lora) = edit { lora.rank() } else { 0 };
        edits.map(rank).max().filter(|rank| *rank > 0).map(Limit::Rank)
    }

    /// Whether a rank is part of the method, which gives no larger one; else its result is cut to the rank.
    pub fn is_ranked(&self) -> bool {
        matches!(self.run, Run::Ranked(_))
    }

    /// Whether its result has the largest rank of the adapters where no other is asked for; else as many as all together.
    pub fn has_largest_rank(&self) -> bool {
        matches!(self.run, Run::Ranked(_) | Run::EachFactor(_) | Run::Best)
    }
}

/// How a method is computed.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// From the factors of low-rank updates: gives factors. The dense matrix is never formed.
    Core(fn(&Core<'_>) -> Result<Factors, Failure>),
    /// The same, of the rank that it is told.
    Ranked(fn(&Core<'_>, usize) -> Result<Factors, Failure>),
    /// From the lengths of updates of any kind and the angles between them.
    Shares(Shares),
    /// The same of exactly two adapters.
    Pair(Shares),
    /// From factors where there are such, else element by element.
    Either(fn(&Core<'_>) -> Result<Factors, Failure>, Elementwise),
    /// Element by element of the dense updates, whatever their kind: gives a dense update.
    Dense(Elementwise),
    /// Element by element of each factor by itself.
    EachFactor(Elementwise),
    /// The exact sum, at the largest rank of the adapters where no limit is given.
    Best,
}

/// A rule for the elements of dense updates.
pub(crate) type Elementwise = fn(&Dense<'_>) -> Result<Vec<f32>, Failure>;

/// Every method beside the exact sum, which needs no name.
pub const METHODS: &[&Method] = &[
    &task_arithmetic::METHOD,
    &magnitude_prune::METHOD,
    &ties::PAPER,
    &ties::PEFT,
    &ties::MERGEKIT,
    &dare::PAPER,
    &dare::PEFT,
    &dare::MERGEKIT,
    &dare_ties::PAPER,
    &dare_ties::PEFT,
    &dare_ties::MERGEKIT,
    &della::ELECTED,
    &della::LINEAR,
    &breadcrumbs::SUM,
    &breadcrumbs::ELECTED,
    &sce::METHOD,
    &ram::METHOD,
    &ramplus_tl::METHOD,
    &svd_peft::METHOD,
    &peft_factors::LINEAR,
    &peft_factors::MAGNITUDE_PRUNE,
    &peft_factors::TIES,
    &peft_factors::DARE,
    &peft_factors::DARE_TIES,
    &tsv::METHOD,
    &cart::METHOD,
    &iso::ISO_C,
    &iso::ISO_CTS,
    &core_ties::METHOD,
    &knots_ties::METHOD,
    &ctm::SUM,
    &ctm::TIES,
    &np_lora::METHOD,
    &slerp::METHOD,
    &nuslerp::METHOD,
    &multislerp::METHOD,
    &karcher::METHOD,
    &model_stock::METHOD,
];

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
mod tests;

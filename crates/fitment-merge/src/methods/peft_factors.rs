//! PEFT's combination types that put factors together instead of updates, as files and programs made with them have it.

use super::{Dense, Failure, Method, Run, combine, dare, dare_ties, magnitude_prune, sparse, ties};

const WARNING: &str = "factors are merged apart, so the up of one adapter also meets the down of another: of random adapters the \
                       result is off by 0.7 of the exact sum and more; the merge without --method has no such cross terms, \
                       nor have the methods of updates";

pub(super) const LINEAR: Method = Method {
    name: "linear:peft",
    what: "weighted sums of the factors, for what was made that way: not the sum of the updates",
    formula: "(Σ √|cᵢ|·upᵢ) · (Σ sign(cᵢ)·√|cᵢ|·downᵢ), cᵢ = wᵢ·sᵢ; equal ranks",
    source: "PEFT 0.21.2 `linear`",
    warning: Some(WARNING),
    params: &[],
    run: Run::EachFactor(linear),
};

pub(super) const MAGNITUDE_PRUNE: Method = Method {
    name: "magnitude-prune-factors:peft",
    what: "magnitude-prune on each factor by itself",
    formula: "magnitude-prune of the upᵢ with weights √|cᵢ| · magnitude-prune of the downᵢ with weights sign(cᵢ)·√|cᵢ|, cᵢ = wᵢ·sᵢ; equal ranks",
    source: "PEFT 0.21.2 `magnitude_prune`",
    params: magnitude_prune::METHOD.params,
    run: Run::EachFactor(magnitude_prune::run),
    ..LINEAR
};

pub(super) const TIES: Method = Method {
    name: "ties-factors:peft",
    what: "ties:peft on each factor by itself",
    formula: "ties:peft of the upᵢ with weights √|cᵢ| · ties:peft of the downᵢ with weights sign(cᵢ)·√|cᵢ|, cᵢ = wᵢ·sᵢ; equal ranks",
    source: "PEFT 0.21.2 `ties`, majority_sign_method total",
    params: ties::PEFT.params,
    run: Run::EachFactor(ties::peft),
    ..LINEAR
};

pub(super) const DARE: Method = Method {
    name: "dare-linear-factors:peft",
    what: "dare:peft on each factor by itself; the draws are ours",
    formula: "dare:peft of the upᵢ with weights √|cᵢ| · dare:peft of the downᵢ with weights sign(cᵢ)·√|cᵢ|, cᵢ = wᵢ·sᵢ; equal ranks",
    source: "PEFT 0.21.2 `dare_linear`",
    params: dare::PEFT.params,
    run: Run::EachFactor(dare::run),
    ..LINEAR
};

pub(super) const DARE_TIES: Method = Method {
    name: "dare-ties-factors:peft",
    what: "dare-ties:peft on each factor by itself; the draws are ours",
    formula: "dare-ties:peft of the upᵢ with weights √|cᵢ| · dare-ties:peft of the downᵢ with weights sign(cᵢ)·√|cᵢ|, cᵢ = wᵢ·sᵢ; equal ranks",
    source: "PEFT 0.21.2 `dare_ties`, majority_sign_method total",
    params: dare_ties::PEFT.params,
    run: Run::EachFactor(dare_ties::run_peft),
    ..LINEAR
};

fn linear(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    Ok(combine::sum(&sparse::whole(dense), dense))
}

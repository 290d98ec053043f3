use super::{Method, Run};

pub(super) const METHOD: Method = Method {
    name: "svd:peft",
    what: "the weighted sum at the largest rank of the adapters, or the rank that is asked for",
    formula: "the nearest product of rank max rᵢ to Σ wᵢ·Δᵢ; --rank and --max-error choose another",
    source: "PEFT 0.21.2 `svd`, from the factors; since 0.21, as before it the scale counted twice. PEFT's `cat` is the merge without --method",
    warning: None,
    params: &[],
    run: Run::Best,
};

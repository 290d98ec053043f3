use super::cores::{Basis, Cores};
use super::{Core, Factors, Failure, Method, Param, Run};

pub(super) const METHOD: Method = Method {
    name: "np-lora",
    what: "the first update, and of the second what does not act on the inputs of the first: a style, then a subject",
    formula: "w₁Δ₁ + w₂Δ₂·(I − η·V₁·V₁ᵀ), V₁ the right singular vectors of Δ₁",
    source: "NP-LoRA 2025 (arXiv 2511.11051), known at second hand; its soft form with μ is η = μ/(1+μ)",
    warning: None,
    params: &[Param::Eta(ETA)],
    run: Run::Core(run),
};

const ETA: f64 = 1.0;

fn run(core: &Core<'_>) -> Result<Factors, Failure> {
    if core.weights.len() != 2 {
        let reason = format!("np-lora is of 2 adapters, {} named here", core.weights.len());
        return Err(Failure::Undefined(reason));
    }
    let cores = Cores::new(core, Basis::Any)?;
    let at = |adapter: usize| core.places.iter().position(|place| *place == adapter);
    let (Some(first), Some(second)) = (at(0), at(1)) else { return Ok(core.weighted()) };
    let (first, second) = (&cores.cores[first], &cores.cores[second]);
    let inputs = cores.svd(first)?.right;
    let shared = second.dot(&inputs).dot(&inputs.t());
    Ok(cores.factors(&(first + second - shared * core.params.eta.unwrap_or(ETA)), 1.0)?)
}

#[cfg(test)]
mod tests {
    use super::METHOD;
    use crate::methods::Params;
    use crate::methods::sample::{assert_near, dense, merged, three};
    use fitment_math::svd::thin_svd;

    #[test]
    fn it_is_the_dense_definition() {
        let tasks = &three()[..2];
        let updates = dense(tasks);
        let right = crate::methods::cores::columns(&thin_svd(updates[0].view()).unwrap().right, 2);
        for eta in [0.0, 0.3, 1.0] {
            let params = Params { eta: Some(eta), ..Params::default() };
            let expected = &updates[0] + &updates[1] - updates[1].dot(&right).dot(&right.t()) * eta;
            assert_near(&merged(&METHOD, tasks, &params), &expected, 1e-10);
        }
        // What the first does to its inputs stays as it is.
        let whole = merged(&METHOD, tasks, &Params::default());
        assert_near(&whole.dot(&right), &updates[0].dot(&right), 1e-10);
    }
}

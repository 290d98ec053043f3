use super::cores::{Basis, Cores};
use super::elected::elected;
use super::{Core, Factors, Failure, Method, Param, Run};
use fitment_math::ndarray::{Array2, ShapeError};

pub(super) const METHOD: Method = Method {
    name: "core-ties",
    what: "TIES on the small matrices of the updates in the singular bases of their factors",
    formula: "λ·U·ties(Uᵀ·wᵢΔᵢ·V)·Vᵀ, U, V the left singular vectors of [B₁ | …] and [A₁ᵀ | …] as stored, without their scales; \
              ties: of each matrix of n elements the ⌊density·n⌋+1 largest and all equal to the last, then the mean of those \
              with the sign of their sum",
    source: "Panariello et al. 2025, core space (arXiv 2509.17786) with the TIES of its code; a target by itself; it has no weights of adapters",
    warning: None,
    params: &[Param::Density(DENSITY), Param::Lambda(1.0)],
    run: Run::Core(run),
};

const DENSITY: f64 = 0.2;

fn run(core: &Core<'_>) -> Result<Factors, Failure> {
    let cores = Cores::new(core, Basis::Singular)?;
    let merged = ties(&cores.cores, core.params.density.unwrap_or(DENSITY));
    Ok(cores.factors(&merged, core.params.lambda.unwrap_or(1.0))?)
}

/// TIES of matrices of one shape, of which there is at least one.
pub(super) fn ties(cores: &[Array2<f64>], density: f64) -> Array2<f64> {
    let flat: Vec<Vec<f64>> = cores.iter().map(|core| core.iter().copied().collect()).collect();
    let dim = cores.first().map_or((0, 0), Array2::dim);
    let shaped: Result<Array2<f64>, ShapeError> = Array2::from_shape_vec(dim, elected(&flat, density));
    shaped.expect("as many elements as the matrices have")
}

#[cfg(test)]
mod tests {
    use super::METHOD;
    use crate::methods::sample::{assert_near, dense, integers, merged, random};
    use crate::methods::{Params, Task};

    #[test]
    fn the_numbers_are_those_of_the_research_code() {
        let quarter = [
            2.960359, -0.375714, 2.241144, -0.398315, 4.230159, -3.46803, 1.010337, 3.568687, -2.898185,
            -4.524366, 2.976646, 1.789253, 9.22905, -4.869643, 5.603122, -0.79164, 1.786919, 3.673167,
            -2.790916, -0.101017, 4.795973, -3.798451, -3.817972, 4.517437, 4.915663, -0.760005, 0.483521,
            4.522613, -2.630419, -0.777679,
        ];
        let half = [
            2.555308, 0.922348, 0.572827, -0.253934, 4.639048, -3.354276, 0.896786, 4.883913, -3.351209,
            -5.479163, 3.399388, 1.492395, 9.345825, -4.662191, 5.635208, -2.132502, 2.662562, 1.651488,
            -2.763671, 1.118223, 6.552078, -3.421533, -2.466815, 4.576456, 3.176444, -0.530733, 0.837891,
            5.193404, -2.908191, -1.613957,
        ];
        for (density, expected) in [(0.25, quarter), (0.5, half)] {
            let params = Params { density: Some(density), ..Params::default() };
            assert_near(&merged(&METHOD, &integers(), &params), &expected, 1e-6);
        }
    }

    #[test]
    fn the_bases_do_not_depend_on_scales_and_weights() {
        // A scale that one adapter keeps apart, and another has as its weight, means the same.
        let scaled = |scale, weight| random(5, (9, 3, 7), (scale, weight));
        let other = random(6, (9, 2, 7), (1.0, 1.0));
        let of = |task: Task| merged(&METHOD, &[task, other.clone()], &Params::default());
        assert_near(&of(scaled(4.0, 0.5)), &of(scaled(1.0, 2.0)), 1e-12);
    }

    #[test]
    fn one_update_kept_whole_is_itself() {
        let params = Params { density: Some(1.0), lambda: Some(-0.5), ..Params::default() };
        let task = random(5, (9, 3, 7), (4.0, 2.0));
        let expected = &dense(std::slice::from_ref(&task))[0] * -0.5;
        assert_near(&merged(&METHOD, &[task], &params), &expected, 1e-12);
    }
}

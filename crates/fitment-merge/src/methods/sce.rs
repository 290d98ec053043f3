use super::combine::{each, sign, sign_or_plus, visit, weighted};
use super::sparse::{Sparse, count, largest, whole};
use super::{Dense, Failure, Method, Param, Run};

pub(super) const METHOD: Method = Method {
    name: "sce",
    what: "elements that differ most between adapters; signs elected, mean of those that agree, weighted by their squares",
    formula: "Σ vᵢ·δᵢ / Σ vᵢ, both over the δᵢ with the sign of Σ δᵢ (0 is plus); δᵢ = wᵢ·Δᵢ at the ⌊density·n⌋ of the n positions of unequal δ that vary most, all of them at density 1; vᵢ the mean of δᵢ² by that of all adapters",
    source: "mergekit 0.1.5 `sce` with select_topk as density, in f64; it knows no weights wᵢ",
    warning: None,
    params: &[Param::Density(1.0)],
    run: Run::Dense(run),
};

fn run(dense: &Dense<'_>) -> Result<Vec<f32>, Failure> {
    let mut parts = whole(dense);
    let density = dense.params.density.unwrap_or(1.0);
    if density < 1.0 {
        let is_kept = varying(&parts, dense, density);
        parts.iter_mut().for_each(|part| part.is_kept.clone_from(&is_kept));
    }
    let mut squares = vec![0.0; parts.len()];
    visit(&parts, dense, |row| {
        for (square, delta) in squares.iter_mut().zip(weighted(&parts, row)) {
            *square += delta * delta;
        }
    });
    let total: f64 = squares.iter().sum();
    // Of nothing but zeros every adapter has the same share.
    let share = |square: &f64| if total > 0.0 { square / total } else { 1.0 / parts.len() as f64 };
    let shares: Vec<f64> = squares.iter().map(share).collect();
    Ok(each(&parts, dense, |row| {
        let elected = sign_or_plus(weighted(&parts, row).sum());
        let (mut sum, mut divisor) = (0.0, 0.0);
        for (delta, share) in weighted(&parts, row).zip(&shares).filter(|(delta, _)| sign(*delta) == elected)
        {
            sum += share * delta;
            divisor += share;
        }
        sum / f64::max(divisor, 1e-6)
    }))
}

/// The positions at which the updates vary most, a share of those at which they vary at all.
fn varying(parts: &[Sparse<'_>], dense: &Dense<'_>, density: f64) -> Vec<bool> {
    let adapters = parts.len() as f64;
    let mut variances = Vec::with_capacity(dense.elements());
    visit(parts, dense, |row| {
        let mean = weighted(parts, row).sum::<f64>() / adapters;
        let squares = weighted(parts, row).map(|delta| (delta - mean).powi(2));
        variances.push(squares.sum::<f64>() / adapters);
    });
    let differing = variances.iter().filter(|variance| **variance > 0.0).count();
    // Variances are not negative, and such have the order of their bits.
    largest(variances.len(), count(differing, density), |at| variances[at].to_bits())
}

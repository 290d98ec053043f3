//! How near the updates of two adapters are, from their factors alone.

use crate::analysis::{analyse, matrix};
use crate::error::Error;
use fitment_core::model::{Adapter, Edit, Lora, LoraForm};
use fitment_math::spectrum::principal_cosines;
use serde::Serialize;
use std::collections::BTreeMap;

/// Two adapters side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Targets that both change by a low-rank matrix.
    pub pairs: Vec<Pair>,
    /// Targets and sites that only the first has.
    pub only_first: Vec<String>,
    /// Those that only the second has.
    pub only_second: Vec<String>,
    /// Those that both change, of which one update is no low-rank matrix.
    pub not_compared: Vec<String>,
    /// `⟨ΔA, ΔB⟩ / (‖ΔA‖·‖ΔB‖)` over all pairs together; `None` where one side is 0.
    pub cosine: Option<f64>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The target.
    pub label: String,
    /// `⟨ΔA, ΔB⟩ / (‖ΔA‖·‖ΔB‖)`; `None` where one is 0.
    pub cosine: Option<f64>,
    /// `‖ΔA‖`.
    pub first_norm: f64,
    /// `‖ΔB‖`.
    pub second_norm: f64,
    /// Cosines of the principal angles between what the two updates can write (column spaces of `up`), descending.
    pub outputs: Vec<f64>,
    /// The same between what they read (row spaces of `down`).
    pub inputs: Vec<f64>,
    /// Ranks.
    pub ranks: [u64; 2],
    /// Multipliers.
    pub scales: [f64; 2],
}

/// Compares two adapters, target by target.
///
/// # Errors
/// As [`analyse`].
pub fn compare(first: &Adapter<'_>, second: &Adapter<'_>) -> Result<Comparison, Error> {
    let (of_first, of_second) = (by_label(first), by_label(second));
    let missing = |from: &BTreeMap<String, Vec<&Edit<'_>>>, of: &BTreeMap<String, Vec<&Edit<'_>>>| {
        of.keys().filter(|label| !from.contains_key(*label)).cloned().collect()
    };
    let (mut pairs, mut not_compared) = (Vec::new(), Vec::new());
    let (mut dot, mut squares) = (0.0, [0.0, 0.0]);
    for (label, edits) in &of_first {
        let Some(others) = of_second.get(label) else { continue };
        match (plain(edits), plain(others)) {
            (Some(a), Some(b)) if fits(a, b) => {
                let pair = pair(label, a, b)?;
                dot += pair.cosine.unwrap_or(0.0) * pair.first_norm * pair.second_norm;
                squares[0] += pair.first_norm * pair.first_norm;
                squares[1] += pair.second_norm * pair.second_norm;
                pairs.push(pair);
            }
            _ => not_compared.push(label.clone()),
        }
    }
    let whole = (squares[0] * squares[1]).sqrt();
    Ok(Comparison {
        only_first: missing(&of_second, &of_first),
        only_second: missing(&of_first, &of_second),
        cosine: (whole > 0.0).then(|| dot / whole),
        pairs,
        not_compared,
    })
}

fn by_label<'e, 'a>(adapter: &'e Adapter<'a>) -> BTreeMap<String, Vec<&'e Edit<'a>>> {
    let mut edits: BTreeMap<String, Vec<&'e Edit<'a>>> = BTreeMap::new();
    for edit in &adapter.edits {
        if let Some(label) = edit.label() {
            edits.entry(label).or_default().push(edit);
        }
    }
    edits
}

/// The only edit of a target, when it is one low-rank matrix on the whole of it.
fn plain<'e, 'a>(edits: &[&'e Edit<'a>]) -> Option<&'e Lora<'a>> {
    match edits {
        [Edit::Lora(lora)] => {
            let is_matrix = lora.form == LoraForm::Matrix && !lora.has_expert_axis() && lora.mid.is_none();
            (is_matrix && lora.target.slice.is_empty()).then_some(lora)
        }
        _ => None,
    }
}

fn fits(a: &Lora<'_>, b: &Lora<'_>) -> bool {
    a.transposed == b.transposed
        && a.up.dims().first() == b.up.dims().first()
        && a.down.dims().get(1) == b.down.dims().get(1)
        && a.rank() > 0
        && b.rank() > 0
}

/// `⟨s₁U₁D₁, s₂U₂D₂⟩ = s₁s₂ · Σ (U₁ᵀU₂) ∘ (D₁D₂ᵀ)`: no larger than the ranks.
fn pair(label: &str, a: &Lora<'_>, b: &Lora<'_>) -> Result<Pair, Error> {
    let norm = |lora: &Lora<'_>| Ok(analyse(&Edit::Lora(lora.clone()))?.norm.unwrap_or(0.0));
    let ups = [matrix(&a.up, "up", label)?, matrix(&b.up, "up", label)?];
    let downs = [matrix(&a.down, "down", label)?, matrix(&b.down, "down", label)?];
    let inner = (ups[0].t().dot(&ups[1]) * downs[0].dot(&downs[1].t())).sum() * a.scale * b.scale;
    let norms: [f64; 2] = [norm(a)?, norm(b)?];
    let whole = norms[0] * norms[1];
    let of = |source| Error::Math { label: label.to_owned(), source };
    Ok(Pair {
        label: label.to_owned(),
        cosine: (whole > 0.0).then(|| (inner / whole).clamp(-1.0, 1.0)),
        first_norm: norms[0],
        second_norm: norms[1],
        outputs: principal_cosines(ups[0].view(), ups[1].view()).map_err(of)?,
        inputs: principal_cosines(downs[0].t(), downs[1].t()).map_err(of)?,
        ranks: [a.rank(), b.rank()],
        scales: [a.scale, b.scale],
    })
}

//! Low-rank updates in small: `Δᵢ = L·Mᵢ·Rᵀ` with orthonormal `L` and `R` that all updates share.
//!
//! `L` spans the columns of `[B₁ | …]`, `R` those of `[A₁ᵀ | …]`, so `Mᵢ = LᵀΔᵢR` loses nothing, and has at most `Σ rᵢ` rows and
//! columns. Lengths, angles, singular values and vectors, ranks and sums of the `Mᵢ` are those of the updates (core space,
//! arXiv 2509.17786).

use super::{Core, Factors};
use fitment_math::ndarray::{Array2, ArrayView2, Axis, Slice, concatenate};
use fitment_math::svd::{Svd, orthonormal, thin_svd};
use fitment_math::{Error, ndarray};

/// Which of the many orthonormal bases.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Basis {
    /// Any, where the method gives the same in all.
    Any,
    /// The singular vectors of the stacked factors as they are stored: what is done element by element depends on it.
    Singular,
}

/// The updates of a target, times their weights.
pub(super) struct Cores {
    /// `[out, p]`.
    left: Array2<f64>,
    /// `[in, q]`.
    right: Array2<f64>,
    /// Of each task `[p, q]`.
    pub(super) cores: Vec<Array2<f64>>,
}

impl Cores {
    pub(super) fn new(core: &Core<'_>, basis: Basis) -> Result<Self, Error> {
        let basis = |stack: &Array2<f64>| match basis {
            Basis::Any => orthonormal(stack.view()),
            Basis::Singular => Ok(thin_svd(stack.view())?.left),
        };
        let ups: Vec<ArrayView2<'_, f64>> = core.tasks.iter().map(|task| task.up.view()).collect();
        let downs: Vec<ArrayView2<'_, f64>> = core.tasks.iter().map(|task| task.down.t()).collect();
        let (left, right) = (basis(&beside(&ups)?)?, basis(&beside(&downs)?)?);
        let small =
            |task: &super::Task| left.t().dot(&task.scaled_up(task.weight)).dot(&task.down.dot(&right));
        let cores = core.tasks.iter().map(small).collect();
        Ok(Self { left, right, cores })
    }

    /// `[p, q]`.
    pub(super) fn dim(&self) -> (usize, usize) {
        (self.left.ncols(), self.right.ncols())
    }

    /// `Σ Mᵢ`.
    pub(super) fn sum(&self) -> Array2<f64> {
        self.cores.iter().fold(Array2::zeros(self.dim()), |sum, core| sum + core)
    }

    /// The smaller side of the target.
    pub(super) fn side(&self) -> usize {
        self.left.nrows().min(self.right.nrows())
    }

    /// The decomposition of a core without the directions that are rounding.
    pub(super) fn svd(&self, core: &Array2<f64>) -> Result<Svd, Error> {
        without_rounding(thin_svd(core.view())?, self.left.nrows().max(self.right.nrows()))
    }

    /// `λ·L·U·diag(σ)·Vᵀ·Rᵀ` as factors, `√σ` on each side; at least one direction.
    pub(super) fn product(&self, svd: &Svd, lambda: f64) -> Factors {
        if svd.values.is_empty() {
            return (Array2::zeros((self.left.nrows(), 1)), Array2::zeros((1, self.right.nrows())));
        }
        let roots = Array2::from_shape_fn((1, svd.values.len()), |(_, of)| svd.values[of].sqrt());
        let up = self.left.dot(&(&svd.left * &roots)) * lambda;
        (up, self.right.dot(&(&svd.right * &roots)).reversed_axes())
    }

    /// `λ·L·M·Rᵀ` as factors.
    pub(super) fn factors(&self, core: &Array2<f64>, lambda: f64) -> Result<Factors, Error> {
        Ok(self.product(&self.svd(core)?, lambda))
    }
}

/// Matrices of equal height side by side.
pub(super) fn beside(parts: &[ArrayView2<'_, f64>]) -> Result<Array2<f64>, Error> {
    concatenate(Axis(1), parts).map_err(|_: ndarray::ShapeError| Error::NoFactors)
}

/// The first columns of a matrix.
pub(super) fn columns(matrix: &Array2<f64>, count: usize) -> Array2<f64> {
    matrix.slice_axis(Axis(1), Slice::from(..count)).to_owned()
}

/// The first `count` directions, or all.
pub(super) fn first(svd: &Svd, count: usize) -> Svd {
    let count = count.min(svd.values.len());
    Svd {
        left: columns(&svd.left, count),
        values: svd.values[..count].to_vec(),
        right: columns(&svd.right, count),
    }
}

/// Without the singular values up to `side·ε·σ₁`, which are rounding: the numerical rank as NumPy and torch count it.
fn without_rounding(svd: Svd, side: usize) -> Result<Svd, Error> {
    let floor = side as f64 * f64::EPSILON * svd.values.first().copied().unwrap_or(0.0);
    let rank = svd.values.iter().take_while(|value| **value > floor).count();
    Ok(first(&svd, rank))
}

/// Directions of several decompositions side by side.
pub(super) fn joined(parts: &[Svd]) -> Result<Svd, Error> {
    let of = |side: fn(&Svd) -> &Array2<f64>| {
        beside(&parts.iter().map(|part| side(part).view()).collect::<Vec<_>>())
    };
    let values = parts.iter().flat_map(|part| part.values.iter().copied()).collect();
    Ok(Svd { left: of(|part| &part.left)?, values, right: of(|part| &part.right)? })
}

/// The polar factor `P·Qᵀ` of `X = P·Σ·Qᵀ`: the nearest matrix with orthonormal columns. Directions in which the columns of
/// `X` depend on each other have none that is nearest, and stay 0.
pub(super) fn polar(matrix: &Array2<f64>) -> Result<Array2<f64>, Error> {
    if matrix.ncols() == 0 {
        return Ok(matrix.clone());
    }
    let svd = without_rounding(thin_svd(matrix.view())?, matrix.nrows().max(matrix.ncols()))?;
    Ok(svd.left.dot(&svd.right.t()))
}

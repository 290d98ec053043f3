//! Linear interventions as `z = h + U V h + c`, in f64.

use fitment_core::model::Intervention;
use fitment_core::tensor::Tensor;
use fitment_math::ndarray::{Array1, Array2, ArrayView2, Axis, concatenate};
use fitment_math::round::widened;

/// `z = h + up·down·h + shift` on states of one width. The rank may be 0.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    /// `[d, r]`, with the strength.
    pub(super) up: Array2<f64>,
    /// `[r, d]`.
    pub(super) down: Array2<f64>,
    /// `[d]`.
    pub(super) shift: Array1<f64>,
}

impl Affine {
    /// What an intervention without activation does, its strength times `weight`. `None` where the dtype of a tensor has no arithmetic,
    /// or its extents do not fit into memory.
    pub(super) fn of(edit: &Intervention<'_>, weight: f64, width: usize) -> Option<Self> {
        let matrix =
            |role: &Option<Tensor<'_>>| role.as_ref().map(matrix).map_or(Some(None), |m| m.map(Some));
        let (up, source, proj) = (matrix(&edit.up)?, matrix(&edit.source_weight)?, matrix(&edit.proj)?);
        let rank = up.as_ref().map_or(width, Array2::ncols);
        let up = up.unwrap_or_else(|| Array2::eye(width));
        let mut down = source.unwrap_or_else(|| Array2::zeros((rank, width)));
        let vector = |role: &Option<Tensor<'_>>, len: usize| match role {
            None => Some(Array1::zeros(len)),
            Some(tensor) => widened(tensor).map(Array1::from_vec),
        };
        let mut inner = vector(&edit.source_bias, rank)?;
        if edit.subtract {
            down -= &proj.unwrap_or_else(|| up.t().to_owned());
            inner -= &vector(&edit.proj_bias, rank)?;
        }
        let strength = edit.scale * weight;
        let shift = (up.dot(&inner) + vector(&edit.up_bias, width)?) * strength;
        let (up, down) = if down.iter().all(|number| *number == 0.0) {
            (Array2::zeros((width, 0)), Array2::zeros((0, width)))
        } else {
            (up * strength, down)
        };
        Some(Self { up, down, shift })
    }

    /// The same on a part of wider states, from `start` on.
    pub(super) fn inside(self, start: usize, width: usize) -> Self {
        let own = self.shift.len();
        let mut wide = Self {
            up: Array2::zeros((width, self.up.ncols())),
            down: Array2::zeros((self.up.ncols(), width)),
            shift: Array1::zeros(width),
        };
        for at in 0..own {
            wide.up.row_mut(start + at).assign(&self.up.row(at));
            wide.down.column_mut(start + at).assign(&self.down.column(at));
            wide.shift[start + at] = self.shift[at];
        }
        wide
    }

    /// The same on each of so many heads that stand one behind the other.
    pub(super) fn on_heads(&self, heads: usize) -> Self {
        let width = self.shift.len();
        let each = (0..heads).map(|head| self.clone().inside(head * width, heads * width));
        each.reduce(Self::plus).unwrap_or_else(|| self.clone())
    }

    /// Both changes of the same states.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            up: join(Axis(1), &self.up, &other.up),
            down: join(Axis(0), &self.down, &other.down),
            shift: self.shift + other.shift,
        }
    }

    pub(super) fn is_constant(&self) -> bool {
        self.up.ncols() == 0
    }

    pub(super) fn has_shift(&self) -> bool {
        self.shift.iter().any(|number| *number != 0.0)
    }
}

pub(super) fn join(axis: Axis, first: &Array2<f64>, second: &Array2<f64>) -> Array2<f64> {
    concatenate(axis, &[first.view(), second.view()]).expect("both are on states of one width")
}

/// `a · b`: sums from 0 over ascending indices, none fused, so that every machine gives the same bits.
pub(super) fn times(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut product = Array2::zeros((a.nrows(), b.ncols()));
    for (mut sums, factors) in product.outer_iter_mut().zip(a.outer_iter()) {
        for (factor, row) in factors.iter().zip(b.outer_iter()) {
            // A factor on part of the states is zero nearly everywhere.
            if *factor != 0.0 {
                sums.scaled_add(*factor, &row);
            }
        }
    }
    product
}

pub(super) fn matrix(tensor: &Tensor<'_>) -> Option<Array2<f64>> {
    let [rows, cols] = *tensor.dims() else { return None };
    let shape = (usize::try_from(rows).ok()?, usize::try_from(cols).ok()?);
    Array2::from_shape_vec(shape, widened(tensor)?).ok()
}

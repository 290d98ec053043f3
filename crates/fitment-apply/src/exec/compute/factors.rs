//! The factors of a low-rank step, decoded and oriented as the slice is stored.

use super::{Error, Pass};
use crate::part::Part;
use crate::plan::LowRank;
use fitment_core::model::LoraForm;
use fitment_core::tensor::Dtype;
use fitment_math::Wide;
use fitment_math::conv;
use fitment_math::lowrank::{Factor, Pair};
use fitment_math::ndarray::{Array2, ArrayView2, ArrayViewD, Axis, IxDyn, Slice};
use fitment_math::round::Element;
use fitment_math::round::decode;
use std::ops::Range;

/// Decoded numbers; f32 where it holds them exactly.
enum Numbers {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// `s·up·down` of one step: a product `left·right` of extents `[rows, columns]` for each expert, in the orientation in which
/// the tensor is stored.
pub struct Factors {
    up: Numbers,
    down: Numbers,
    experts: usize,
    out: usize,
    rank: usize,
    input: usize,
    transposed: bool,
    scale: f64,
}

impl Factors {
    /// Decodes the factors; `strength` multiplies the step's scale.
    pub(super) fn new(pass: &Pass<'_>, edit: &LowRank<'_>, strength: f64) -> Result<Self, Error> {
        let (up, down) = match edit.form {
            LoraForm::Conv => conv_matrices(pass, edit)?,
            LoraForm::Matrix | LoraForm::Stacked => (numbers(pass, &edit.up)?, numbers(pass, &edit.down)?),
        };
        let (experts, dims) = match (edit.form, edit.up.dims.as_slice()) {
            (LoraForm::Stacked, [experts, dims @ ..]) => (*experts, dims),
            (_, dims) => (1, dims),
        };
        let &[out, rank, ..] = dims else {
            return Err(pass.wrong("factors have other axes than the plan's".to_owned()));
        };
        let size = |dim: u64| usize::try_from(dim).unwrap_or(usize::MAX);
        let (experts, out, rank) = (size(experts), size(out), size(rank));
        let input = down.len() / (experts * rank).max(1);
        if up.len() != experts * out * rank || down.len() != experts * rank * input {
            return Err(pass.wrong("factors have other extents than the plan's".to_owned()));
        }
        let (transposed, scale) = (edit.transposed, strength * edit.scale);
        Ok(Self { up, down, experts, out, rank, input, transposed, scale })
    }

    /// How many products there are: of the rows of the slice, the first `rows` are the first one's, and so on.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Rows of one product.
    pub fn rows(&self) -> usize {
        if self.transposed { self.input } else { self.out }
    }

    /// Columns of one product.
    pub fn columns(&self) -> usize {
        if self.transposed { self.out } else { self.input }
    }

    /// Extent over which a product sums.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// `s·left` of one expert, `[rows.len(), rank]`, row-major, each number rounded by `narrow`.
    pub fn left<T>(&self, expert: usize, rows: Range<usize>, narrow: impl Fn(f64) -> T) -> Vec<T> {
        let pair = match self.transposed {
            false => self.up.matrix(expert, (self.out, self.rank)),
            true => turned(self.down.matrix(expert, (self.rank, self.input))),
        };
        let scale = self.scale;
        each(pair, rows, |number| narrow(number * scale))
    }

    /// `right` of one expert, `[rank, columns]`, row-major.
    pub fn right<T>(&self, expert: usize, narrow: impl Fn(f64) -> T) -> Vec<T> {
        let pair = match self.transposed {
            false => self.down.matrix(expert, (self.rank, self.input)),
            true => turned(self.up.matrix(expert, (self.out, self.rank))),
        };
        each(pair, 0..self.rank, narrow)
    }

    /// The factors of one expert.
    pub(super) fn pair(&self, expert: usize) -> Pair<'_> {
        let up = self.up.matrix(expert, (self.out, self.rank));
        let down = self.down.matrix(expert, (self.rank, self.input));
        match self.transposed {
            false => Pair::new(up, down, self.scale),
            true => Pair::new(turned(down), turned(up), self.scale),
        }
    }
}

impl Numbers {
    fn len(&self) -> usize {
        match self {
            Numbers::F32(values) => values.len(),
            Numbers::F64(values) => values.len(),
        }
    }

    /// The `index`th matrix of those extents.
    fn matrix(&self, index: usize, shape: (usize, usize)) -> Factor<'_> {
        let size = shape.0 * shape.1;
        let range = index * size..(index + 1) * size;
        let known = "extents were compared with the numbers";
        match self {
            Numbers::F32(values) => ArrayView2::from_shape(shape, &values[range]).expect(known).into(),
            Numbers::F64(values) => ArrayView2::from_shape(shape, &values[range]).expect(known).into(),
        }
    }
}

/// The numbers of some rows.
fn each<T>(factor: Factor<'_>, rows: Range<usize>, narrow: impl Fn(f64) -> T) -> Vec<T> {
    let rows = Slice::from(rows);
    match factor {
        Factor::F32(view) => {
            view.slice_axis(Axis(0), rows).iter().map(|number| narrow(f64::from(*number))).collect()
        }
        Factor::F64(view) => view.slice_axis(Axis(0), rows).iter().map(|number| narrow(*number)).collect(),
    }
}

fn turned(factor: Factor<'_>) -> Factor<'_> {
    match factor {
        Factor::F32(view) => Factor::F32(view.reversed_axes()),
        Factor::F64(view) => Factor::F64(view.reversed_axes()),
    }
}

fn numbers(pass: &Pass<'_>, part: &Part<'_>) -> Result<Numbers, Error> {
    match part.dtype {
        Dtype::F64 => decoded(pass, part).map(Numbers::F64),
        _ => decoded(pass, part).map(Numbers::F32),
    }
}

/// All elements of a part.
pub(super) fn decoded<T: Wide>(pass: &Pass<'_>, part: &Part<'_>) -> Result<Vec<T>, Error> {
    let element =
        Element::of(part.dtype).ok_or_else(|| pass.wrong(format!("{} has no arithmetic", part.dtype)))?;
    let mut values = vec![T::default(); part.elements()];
    decode(element, part.bytes, &mut values).map_err(|error| pass.arithmetic(error))?;
    Ok(values)
}

/// A convolution's factors as matrices; a core goes into `down`.
fn conv_matrices(pass: &Pass<'_>, edit: &LowRank<'_>) -> Result<(Numbers, Numbers), Error> {
    let (up, down): (Vec<f64>, Vec<f64>) = (decoded(pass, &edit.up)?, decoded(pass, &edit.down)?);
    let mid: Option<Vec<f64>> = edit.mid.as_ref().map(|mid| decoded(pass, mid)).transpose()?;
    let (up, down) = (view(pass, &edit.up, &up)?, view(pass, &edit.down, &down)?);
    let matrices = match (&edit.mid, &mid) {
        (Some(part), Some(mid)) => conv::matrices_with_mid(up, view(pass, part, mid)?, down),
        _ => conv::matrices(up, down),
    };
    let (up, down) = matrices.map_err(|error| pass.arithmetic(error))?;
    Ok((Numbers::F64(row_major(&up)), Numbers::F64(row_major(&down))))
}

fn view<'v>(pass: &Pass<'_>, part: &Part<'_>, values: &'v [f64]) -> Result<ArrayViewD<'v, f64>, Error> {
    let dims: Vec<usize> = part.dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(usize::MAX)).collect();
    ArrayViewD::from_shape(IxDyn(&dims), values).map_err(|error| pass.wrong(error.to_string()))
}

fn row_major(matrix: &Array2<f64>) -> Vec<f64> {
    matrix.iter().copied().collect()
}

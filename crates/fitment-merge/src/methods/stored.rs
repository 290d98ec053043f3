//! A dense result as an edit.

use super::Factors;
use super::driver::Done;
use super::updates::{LowRank, Updates};
use crate::error::Error;
use crate::exact::Fault;
use crate::factors::{self, inner_dims};
use crate::gather::Touch;
use crate::input::{Limit, Truncated};
use crate::room::Room;
use fitment_core::model::{Add, Edit, Lora, LoraForm, Origin, Target};
use fitment_core::tensor::{Dtype, Shape, ShapeFault, Tensor};
use fitment_math::ndarray::Array2;
use fitment_math::round::narrowed;
use fitment_math::svd::{self, Dense as Matrix, approximate_from};

/// Matrices of a target, one or one for each expert: low-rank where a limit asks for it, else the whole.
pub(super) fn of_matrices<'a>(
    touches: &[Touch<'a>],
    sums: Vec<Vec<f32>>,
    updates: &LowRank<'a>,
    (limit, room): (Option<Limit>, &'a dyn Room),
) -> Result<Done<'a>, Fault> {
    let dims = updates.matrices.first().map_or([0; 2], Updates::dims);
    if let Some(limit) = limit {
        let matrices: Vec<(Matrix<'_>, Array2<f32>)> = sums
            .iter()
            .zip(&updates.matrices)
            .map(|(sum, matrix)| (Matrix { columns: dims[1] as usize, numbers: sum }, matrix.start()))
            .collect();
        let back = |factors: &[Factors]| factors::edit(updates.like, factors);
        if let Some(done) = low_rank(target(touches)?, &matrices, limit, &back)? {
            return Ok(done);
        }
    }
    let (dims, sum) = as_stored(sums, dims, updates.like);
    Ok(Done { is_dense: true, ..whole(target(touches)?, sum, &dims, room)? })
}

/// A tensor: low-rank where a limit asks for it and it is a matrix, else the whole.
pub(super) fn of_tensor<'a>(
    touches: &[Touch<'a>],
    sum: Vec<f32>,
    dims: Vec<u64>,
    (limit, room): (Option<Limit>, &'a dyn Room),
) -> Result<Done<'a>, Fault> {
    let target = target(touches)?;
    // Vectors of experts are no matrix, though they stand in one tensor.
    let is_matrix = dims.len() == 2 && target.experts.is_none() && !sum.is_empty();
    if let Some(limit) = limit.filter(|_| is_matrix) {
        let columns = dims.last().map_or(1, |columns| *columns as usize);
        let start = Array2::zeros((0, columns));
        let back = |factors: &[Factors]| plain(target, factors.first()?);
        let matrix = Matrix { columns, numbers: &sum };
        if let Some(done) = low_rank(target, &[(matrix, start)], limit, &back)? {
            return Ok(done);
        }
    }
    Ok(Done { is_dense: is_matrix, ..whole(target, sum, &dims, room)? })
}

fn target<'t>(touches: &[Touch<'t>]) -> Result<&'t Target, Fault> {
    let target = touches.first().and_then(|touch| touch.edit.target());
    target.ok_or_else(|| Fault::exact("it has no target"))
}

/// A dense difference, put aside.
fn whole<'a>(target: &Target, sum: Vec<f32>, dims: &[u64], room: &'a dyn Room) -> Result<Done<'a>, Fault> {
    let mut bytes = Vec::with_capacity(sum.len() * 4);
    sum.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    drop(sum);
    let bytes = room.keep(bytes).map_err(|error| Fault::Failed(Error::Room(error)))?;
    let broken = |fault: ShapeFault| Fault::NotExact(fault.to_string());
    let value = Tensor::new(Dtype::F32, Shape::new(dims).map_err(broken)?, bytes).map_err(broken)?;
    let (target, origin) = (target.clone(), Origin::default());
    let edit = Add { target, scale: 1.0, value, exceptions: None, origin };
    Ok(Done { edits: vec![Edit::Add(edit)], ..Done::default() })
}

/// Each matrix at a smaller rank, as one edit. `None` where the error that is asked for takes factors as large as a matrix.
fn low_rank<'a>(
    target: &Target,
    matrices: &[(Matrix<'_>, Array2<f32>)],
    limit: Limit,
    back: &dyn Fn(&[Factors]) -> Option<Lora<'a>>,
) -> Result<Option<Done<'a>>, Fault> {
    let name = target.label();
    let failed = |source| Fault::Failed(Error::Math { target: name.clone(), source });
    let (mut all, mut side, mut largest) = (Vec::new(), 0, 0.0_f64);
    let (mut lost, mut squares) = (0.0, 0.0);
    for (matrix, start) in matrices {
        let rows = matrix.numbers.len() / matrix.columns.max(1);
        side = matrix.columns.min(rows);
        let limit = match limit {
            Limit::Rank(rank) => svd::Limit::Rank(usize::try_from(rank).unwrap_or(side).min(side)),
            Limit::Error(relative) => {
                let most = matrix.numbers.len().saturating_sub(1) / (rows + matrix.columns).max(1);
                svd::Limit::Error { relative, most }
            }
            Limit::Dynamic { .. } => {
                let reason = "a dynamic rank is one of low-rank updates: say --rank";
                return Err(Fault::Undefined(reason.to_owned()));
            }
        };
        let found = approximate_from(matrix, limit, start.view()).map_err(failed)?;
        let Some(found) = found else { return Ok(None) };
        let own = matrix.numbers.iter().fold(0.0, |sum, value| sum + f64::from(*value).powi(2));
        (lost, squares) = (lost + own * found.relative_error.powi(2), squares + own);
        largest = largest.max(found.largest_error);
        all.push((found.up.mapv(f64::from), found.down.mapv(f64::from), found.relative_error));
    }
    let relative_error = match &all[..] {
        [(_, _, only)] => *only,
        _ if squares > 0.0 => (lost / squares).sqrt(),
        _ => 0.0,
    };
    let factors: Vec<Factors> = all.into_iter().map(|(up, down, _)| (up, down)).collect();
    let mut edit = back(&factors).ok_or_else(Fault::factors_overflow)?;
    let errors = serde_json::json!({ "relative_error": relative_error, "largest_error": largest });
    edit.origin.extra.insert("approximation".to_owned(), errors);
    let (from, to) = (side as u64, edit.rank());
    let truncated = Truncated { target: name, from, to, relative_error };
    Ok(Some(Done { edits: vec![Edit::Lora(edit)], truncated: Some(truncated), ..Done::default() }))
}

/// A low-rank edit of a whole matrix.
fn plain<'a>(target: &Target, (up, down): &Factors) -> Option<Lora<'a>> {
    let stored = |factor: &Array2<f64>| {
        let dims = [factor.nrows() as u64, factor.ncols() as u64];
        narrowed(Dtype::F32, &dims, &factor.iter().copied().collect::<Vec<f64>>())
    };
    let (up, down) = stored(up).zip(stored(down))?;
    let (form, transposed, mid, magnitude) = (LoraForm::Matrix, false, None, None);
    let (target, origin) = (target.clone(), Origin::default());
    Some(Lora { target, form, transposed, scale: 1.0, up, down, mid, magnitude, origin })
}

/// Updates, one or one for each expert, in the axes of the stored tensor.
pub(super) fn as_stored(
    sums: Vec<Vec<f32>>,
    [rows, columns]: [u64; 2],
    like: &Lora<'_>,
) -> (Vec<u64>, Vec<f32>) {
    let own = match like.form {
        LoraForm::Conv => [&[rows], &inner_dims(like)[..]].concat(),
        LoraForm::Matrix | LoraForm::Stacked if like.transposed => vec![columns, rows],
        LoraForm::Matrix | LoraForm::Stacked => vec![rows, columns],
    };
    let turned = |sum: Vec<f32>| {
        let (rows, columns) = (rows as usize, columns as usize);
        let places = (0..columns).flat_map(move |column| (0..rows).map(move |row| row * columns + column));
        places.map(|place| sum[place]).collect::<Vec<f32>>()
    };
    let lead: Vec<u64> = like.has_expert_axis().then_some(sums.len() as u64).into_iter().collect();
    let mut sums = sums.into_iter().map(|sum| if like.transposed { turned(sum) } else { sum });
    let mut all = sums.next().unwrap_or_default();
    sums.for_each(|sum| all.extend(sum));
    ([lead, own].concat(), all)
}

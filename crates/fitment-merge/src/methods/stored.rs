//! A dense result as an edit.

use super::Factors;
use super::driver::{Done, lora};
use crate::error::Error;
use crate::exact::Fault;
use crate::gather::Touch;
use crate::input::{Limit, Truncated};
use crate::room::Room;
use fitment_core::model::{Add, Edit, Lora, LoraForm, Origin, Target};
use fitment_core::tensor::{Dtype, Shape, ShapeFault, Tensor};
use fitment_math::ndarray::Array2;
use fitment_math::round::{narrowed, widened};
use fitment_math::svd::{self, Dense as Matrix, approximate_from};

/// Low-rank where a limit asks for it and the update is a matrix, else the whole.
pub(super) fn stored<'a>(
    touches: &[Touch<'a>],
    sum: Vec<f32>,
    (dims, like): (Vec<u64>, Option<&'a Lora<'a>>),
    (limit, room): (Option<Limit>, &'a dyn Room),
) -> Result<Done<'a>, Fault> {
    let none = || Fault::exact("it has no target");
    let target = touches.first().and_then(|touch| touch.edit.target()).ok_or_else(none)?;
    // Vectors of experts are no matrix, though they stand in one tensor.
    let is_matrix = dims.len() == 2 && target.experts.is_none() && !sum.is_empty();
    let columns = dims.last().map_or(1, |columns| *columns as usize);
    if let Some(limit) = limit.filter(|_| is_matrix)
        && let Some(done) = low_rank(touches, (&sum, columns), (target, like), limit)?
    {
        return Ok(done);
    }
    let (dims, sum) = as_stored(sum, dims, like);
    let mut bytes = Vec::with_capacity(sum.len() * 4);
    sum.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    drop(sum);
    let bytes = room.keep(bytes).map_err(|error| Fault::Failed(Error::Room(error)))?;
    let broken = |fault: ShapeFault| Fault::NotExact(fault.to_string());
    let value = Tensor::new(Dtype::F32, Shape::new(&dims).map_err(broken)?, bytes).map_err(broken)?;
    let (target, origin) = (target.clone(), Origin::default());
    let edit = Add { target, scale: 1.0, value, exceptions: None, origin };
    Ok(Done { edits: vec![Edit::Add(edit)], is_dense: is_matrix, ..Done::default() })
}

/// `None` where the error that is asked for takes factors as large as the matrix.
fn low_rank<'a>(
    touches: &[Touch<'a>],
    (sum, columns): (&[f32], usize),
    (target, like): (&Target, Option<&Lora<'a>>),
    limit: Limit,
) -> Result<Option<Done<'a>>, Fault> {
    let rows = sum.len() / columns.max(1);
    let side = columns.min(rows);
    let limit = match limit {
        Limit::Rank(rank) => svd::Limit::Rank(usize::try_from(rank).unwrap_or(side).min(side)),
        Limit::Error(relative) => {
            svd::Limit::Error { relative, most: sum.len().saturating_sub(1) / (rows + columns).max(1) }
        }
        Limit::Dynamic { .. } => {
            let reason = "a dynamic rank is one of low-rank updates: say --rank";
            return Err(Fault::Undefined(reason.to_owned()));
        }
    };
    let name = target.label();
    let failed = |source| Fault::Failed(Error::Math { target: name.clone(), source });
    let matrix = Matrix { columns, numbers: sum };
    let found = approximate_from(&matrix, limit, start(touches, columns).view()).map_err(failed)?;
    let Some(found) = found else { return Ok(None) };
    let factors = (found.up.mapv(f64::from), found.down.mapv(f64::from));
    let edit = match like {
        Some(like) => lora(like, &factors),
        None => plain(target, &factors),
    };
    let mut edit = edit.ok_or_else(|| Fault::exact("the factors overflow"))?;
    let errors = serde_json::json!({
        "relative_error": found.relative_error,
        "largest_error": found.largest_error,
    });
    edit.origin.extra.insert("approximation".to_owned(), errors);
    let (from, to) = (side as u64, found.up.ncols() as u64);
    let truncated = Truncated { target: name, from, to, relative_error: found.relative_error };
    Ok(Some(Done { edits: vec![Edit::Lora(edit)], truncated: Some(truncated), ..Done::default() }))
}

/// The rows of all down factors, where the updates have such: the result lies near them. Each is brought near 1, as only its
/// direction counts.
fn start(touches: &[Touch<'_>], columns: usize) -> Array2<f32> {
    let mut rows: Vec<f32> = Vec::new();
    for touch in touches {
        let Edit::Lora(lora) = touch.edit else { continue };
        for row in widened(&lora.down).unwrap_or_default().chunks_exact(columns.max(1)) {
            let largest = row.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
            if largest > 0.0 {
                rows.extend(row.iter().map(|value| (value / largest) as f32));
            }
        }
    }
    let count = rows.len() / columns.max(1);
    Array2::from_shape_vec((count, columns), rows).unwrap_or_else(|_| Array2::zeros((0, columns)))
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

/// An update in the axes of the stored tensor.
fn as_stored(sum: Vec<f32>, dims: Vec<u64>, like: Option<&Lora<'_>>) -> (Vec<u64>, Vec<f32>) {
    let Some(like) = like else { return (dims, sum) };
    if like.transposed {
        let (rows, columns) = (dims[0] as usize, dims[1] as usize);
        let turned = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
        let turned = turned.map(|(row, column)| sum[row * columns + column]).collect();
        return (vec![dims[1], dims[0]], turned);
    }
    if like.form == LoraForm::Conv {
        let kernel = like.down.dims().get(1..).unwrap_or_default();
        return ([&dims[..1], kernel].concat(), sum);
    }
    (dims, sum)
}

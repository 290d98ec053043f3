//! Low-rank updates as matrices, and matrices as low-rank edits.

use crate::numbers::is_finite;
use fitment_core::model::{Lora, Origin};
use fitment_core::tensor::{Dtype, Tensor};
use fitment_math::ndarray::Array2;
use fitment_math::round::{narrowed, widened};

/// `up` `[out, r]` and `down` `[r, in·k…]`.
pub(crate) type Factors = (Array2<f64>, Array2<f64>);

/// The factors of each expert, or of the one, without the multiplier; a core goes into `down`. `None` for factors without
/// elements.
pub(crate) fn matrices(lora: &Lora<'_>) -> Option<Vec<Factors>> {
    let rank = usize::try_from(lora.rank()).ok().filter(|rank| *rank > 0)?;
    let experts = if lora.has_expert_axis() { usize::try_from(*lora.up.dims().first()?).ok()? } else { 1 };
    let up = widened(&lora.up)?;
    let down = match &lora.mid {
        None => widened(&lora.down)?,
        Some(mid) => with_core(mid, &lora.down, rank)?,
    };
    let (rows, columns) = (up.len() / experts.max(1) / rank, down.len() / experts.max(1) / rank);
    if rows == 0 || columns == 0 {
        return None;
    }
    let pair = |(up, down): (&[f64], &[f64])| {
        let up = Array2::from_shape_vec((rows, rank), up.to_vec()).ok()?;
        Some((up, Array2::from_shape_vec((rank, columns), down.to_vec()).ok()?))
    };
    up.chunks(rows * rank).zip(down.chunks(columns * rank)).map(pair).collect()
}

/// `Σ_q mid[p, q, k]·down[q, i]` as `[p, i, k]`: the same update without a core.
fn with_core(mid: &Tensor<'_>, down: &Tensor<'_>, rank: usize) -> Option<Vec<f64>> {
    let (mid, down) = (widened(mid)?, widened(down)?);
    let (kernel, inner) = (mid.len() / rank / rank, down.len() / rank);
    let mut all = vec![0.0; rank.checked_mul(inner)?.checked_mul(kernel)?];
    for (to, cores) in all.chunks_mut((inner * kernel).max(1)).zip(mid.chunks((rank * kernel).max(1))) {
        for (core, row) in cores.chunks(kernel.max(1)).zip(down.chunks(inner.max(1))) {
            for (to, value) in to.chunks_mut(kernel.max(1)).zip(row) {
                to.iter_mut().zip(core).for_each(|(to, core)| *to += core * value);
            }
        }
    }
    Some(all)
}

/// Extents of what a row of `down` reads: `[in, k…]`.
pub(crate) fn inner_dims(lora: &Lora<'_>) -> Vec<u64> {
    let lead = usize::from(lora.has_expert_axis());
    let own = lora.down.dims().get(lead + 1..).unwrap_or_default();
    match &lora.mid {
        None => own.to_vec(),
        Some(mid) => [own.get(..1).unwrap_or_default(), mid.dims().get(2..).unwrap_or_default()].concat(),
    }
}

/// The edit of the target and form of `like` with these factors, one pair for each expert, or the one: in F32, or F64 where
/// that is. Experts have the rank of the one that needs most. `None` where an element overflows.
pub(crate) fn edit<'a>(like: &Lora<'a>, factors: &[Factors]) -> Option<Lora<'a>> {
    let rank = factors.iter().map(|(up, _)| up.ncols()).max()?;
    let is_wide = [like.up.dtype(), like.down.dtype()].contains(&Dtype::F64);
    let dtype = if is_wide { Dtype::F64 } else { Dtype::F32 };
    let (mut ups, mut downs) = (Vec::new(), Vec::new());
    for (up, down) in factors {
        for row in up.rows() {
            ups.extend(row.iter().copied().chain(std::iter::repeat_n(0.0, rank - up.ncols())));
        }
        downs.extend(down.iter().copied());
        downs.extend(std::iter::repeat_n(0.0, (rank - down.nrows()) * down.ncols()));
    }
    let lead = usize::from(like.has_expert_axis());
    let mut up_dims = like.up.dims().to_vec();
    *up_dims.get_mut(lead + 1)? = rank as u64;
    let down_dims = [like.down.dims().get(..lead)?, &[rank as u64], &inner_dims(like)].concat();
    let (up, down) = narrowed(dtype, &up_dims, &ups).zip(narrowed(dtype, &down_dims, &downs))?;
    if !(is_finite(&up) && is_finite(&down)) {
        return None;
    }
    Some(Lora { up, down, mid: None, scale: 1.0, origin: Origin::default(), ..like.clone() })
}

#[cfg(test)]
mod tests {
    use super::{edit, inner_dims, matrices};
    use fitment_core::model::{Lora, LoraForm, Origin, Target, TensorName};
    use fitment_core::tensor::{Dtype, Tensor};
    use fitment_math::ndarray::Array2;
    use fitment_math::round::{narrowed, widened};

    fn tensor(dims: &[u64], seed: u64) -> Tensor<'static> {
        let count = dims.iter().product::<u64>();
        let values: Vec<f64> = (0..count).map(|at| ((at * 31 + seed * 7) % 13) as f64 - 6.0).collect();
        narrowed(Dtype::F32, dims, &values).unwrap()
    }

    fn lora(form: LoraForm, (up, down): (&[u64], &[u64]), mid: Option<&[u64]>) -> Lora<'static> {
        let (target, origin) = (Target::whole(TensorName::new("w").unwrap()), Origin::default());
        let mid = mid.map(|dims| tensor(dims, 3));
        let (up, down) = (tensor(up, 1), tensor(down, 2));
        Lora { target, form, transposed: false, scale: 2.0, up, down, mid, magnitude: None, origin }
    }

    #[test]
    fn a_core_goes_into_the_factor_that_reads() {
        let cored = lora(LoraForm::Conv, (&[4, 2, 1, 1], &[2, 3, 1, 1]), Some(&[2, 2, 3, 3]));
        let factors = matrices(&cored).unwrap();
        let [(up, down)] = &factors[..] else { panic!() };
        let found = up.dot(down);
        let read = |tensor: &Tensor<'_>| widened(tensor).unwrap();
        let (outer, core, inner) = (read(&cored.up), read(cored.mid.as_ref().unwrap()), read(&cored.down));
        // Δ[o, i, k] = Σ up[o, p]·mid[p, q, k]·down[q, i], by its definition.
        let wanted = Array2::from_shape_fn((4, 27), |(o, at)| {
            let (i, k) = (at / 9, at % 9);
            let term = |p: usize, q: usize| outer[o * 2 + p] * core[(p * 2 + q) * 9 + k] * inner[q * 3 + i];
            term(0, 0) + term(0, 1) + term(1, 0) + term(1, 1)
        });
        assert_eq!(found, wanted);
        let plain = edit(&cored, &factors).unwrap();
        assert!(plain.mid.is_none());
        assert_eq!((plain.up.dims(), plain.down.dims()), (&[4, 2, 1, 1][..], &[2, 3, 3, 3][..]));
        assert_eq!(inner_dims(&cored), inner_dims(&plain));
    }

    #[test]
    fn experts_are_padded_to_the_rank_of_one() {
        let stacked = lora(LoraForm::Stacked, (&[2, 3, 2], &[2, 2, 5]), None);
        let factors = matrices(&stacked).unwrap();
        let short = [factors[0].clone(), (Array2::ones((3, 1)), Array2::ones((1, 5)))];
        let padded = matrices(&edit(&stacked, &short).unwrap()).unwrap();
        assert_eq!(padded[0], factors[0]);
        assert_eq!(padded[1].0.dot(&padded[1].1), Array2::<f64>::ones((3, 5)));
        assert!(matrices(&lora(LoraForm::Stacked, (&[0, 3, 2], &[0, 2, 5]), None)).is_none());
        assert!(matrices(&lora(LoraForm::Matrix, (&[0, 2], &[2, 5]), None)).is_none());
    }
}

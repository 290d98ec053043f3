//! Interventions of several adapters: listed, and at one site and the same tokens one intervention where they are linear.
//!
//! A linear intervention is `h + s·(U(V h + b) + c)` with `V = W − P`, `b = b − p` of the stored roles (spec section 5.6). Of
//! two that act one after the other, the second sees what the first made: `U = [s₁U₁ | s₂U₂]`, `V = [V₁; V₂ + s₁V₂U₁V₁]`,
//! `b = [b₁; b₂ + s₁V₂(U₁b₁ + c₁)]`, `c = s₁c₁ + s₂c₂`. In a sum both see what was there before: `V = [V₁; V₂]`, `b = [b₁; b₂]`.
//! Averaging `U` and `W` apart is neither: `(U, W)` and `(UQ, QᵀW)` are one function for any orthogonal `Q`.

use super::Context;
use crate::culprit::Culprit;
use crate::gather::Gathered;
use crate::input::SiteRule;
use fitment_core::model::{Intervention, Overlap, Positions, Rounding};
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_math::ndarray::{Array1, Array2, Axis, concatenate};
use fitment_math::round::{narrowed, widened};
use std::collections::BTreeMap;

/// A linear intervention in one form.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// `[d, r]`; `r` may be 0.
    pub(crate) up: Array2<f64>,
    /// `[r, i]`.
    pub(crate) map: Array2<f64>,
    /// `[r]`.
    pub(crate) bias: Array1<f64>,
    /// `[d]`.
    pub(crate) constant: Array1<f64>,
    pub(crate) is_wide: bool,
}

impl Linear {
    /// `None` for an intervention with an activation, another place to read, or no `U` to project by.
    pub(crate) fn of(edit: &Intervention<'_>) -> Option<Self> {
        if edit.activation.is_some() || edit.input_site.is_some() {
            return None;
        }
        let matrix = |tensor: &Tensor<'_>| {
            let [rows, columns] = tensor.dims() else { return None };
            Array2::from_shape_vec((*rows as usize, *columns as usize), widened(tensor)?).ok()
        };
        let vector = |tensor: &Tensor<'_>| widened(tensor).map(Array1::from);
        let is_wide = edit.tensors().iter().any(|(_, tensor)| tensor.dtype() == Dtype::F64);
        let constant = edit.up_bias.as_ref().map(vector);
        let Some(up) = &edit.up else {
            // Without `U` only a constant has a small form.
            let constant = constant??;
            let width = constant.len();
            let is_constant = edit.tensors().len() == 1 && !edit.subtract;
            let (up, map) = (Array2::zeros((width, 0)), Array2::zeros((0, width)));
            return is_constant.then(|| Self { up, map, bias: Array1::zeros(0), constant, is_wide });
        };
        let up = matrix(up)?;
        let (width, rank) = up.dim();
        let mut map = match &edit.source_weight {
            Some(weight) => matrix(weight)?,
            None => Array2::zeros((rank, width)),
        };
        let mut bias = match &edit.source_bias {
            Some(bias) => vector(bias)?,
            None => Array1::zeros(rank),
        };
        if edit.subtract {
            map -= &match &edit.proj {
                Some(proj) => matrix(proj)?,
                None => up.t().to_owned(),
            };
            if let Some(proj_bias) = &edit.proj_bias {
                bias -= &vector(proj_bias)?;
            }
        }
        let constant = match constant {
            Some(constant) => constant?,
            None => Array1::zeros(width),
        };
        let mut linear = Self { up, map, bias, constant, is_wide };
        linear.up *= edit.scale;
        linear.constant *= edit.scale;
        Some(linear)
    }

    /// This one, then another.
    fn then(self, next: &Self, rule: SiteRule) -> Option<Self> {
        let (map, bias) = match rule {
            SiteRule::Sum => (next.map.clone(), next.bias.clone()),
            SiteRule::Sequential => {
                let seen = next.map.dot(&self.up);
                let map = &next.map + &seen.dot(&self.map);
                let bias = &next.bias + &seen.dot(&self.bias) + next.map.dot(&self.constant);
                (map, bias)
            }
        };
        Some(Self {
            up: concatenate(Axis(1), &[self.up.view(), next.up.view()]).ok()?,
            map: concatenate(Axis(0), &[self.map.view(), map.view()]).ok()?,
            bias: concatenate(Axis(0), &[self.bias.view(), bias.view()]).ok()?,
            constant: self.constant + &next.constant,
            is_wide: self.is_wide || next.is_wide,
        })
    }

    /// As an edit at the place of another, in F32, or F64 where that was.
    pub(crate) fn at<'a>(&self, place: &Intervention<'a>) -> Option<Intervention<'a>> {
        let dtype = if self.is_wide { Dtype::F64 } else { Dtype::F32 };
        let stored = |dims: &[usize], values: Vec<f64>| {
            let dims: Vec<u64> = dims.iter().map(|dim| *dim as u64).collect();
            narrowed(dtype, &dims, &values)
        };
        let numbers = |matrix: &Array2<f64>| matrix.iter().copied().collect::<Vec<f64>>();
        let mut edit = Intervention::at(place.site.clone(), place.positions.clone());
        (edit.component, edit.dims, edit.overlap) = (place.component.clone(), place.dims, place.overlap);
        edit.rounding = Rounding::F32;
        let (width, rank) = self.up.dim();
        if rank > 0 {
            edit.up = Some(stored(&[width, rank], numbers(&self.up))?);
            edit.source_weight = Some(stored(&[rank, self.map.ncols()], numbers(&self.map))?);
            edit.source_bias = Some(stored(&[rank], self.bias.to_vec())?);
        }
        if rank == 0 || self.constant.iter().any(|value| *value != 0.0) {
            edit.up_bias = Some(stored(&[width], self.constant.to_vec())?);
        }
        Some(edit)
    }
}

/// Component, site, part of the states: interventions with one of these meet.
fn place(edit: &Intervention<'_>) -> (String, Option<[u64; 2]>) {
    (edit.label(), edit.dims)
}

/// The part of an intervention that acts in some of its directions: these columns of `U`, and the rows of the rest.
fn part<'a>(edit: &Intervention<'a>, columns: &[u64]) -> Result<Intervention<'a>, String> {
    let Some(rank) = edit.up.as_ref().and_then(|up| up.dims().get(1).copied()) else {
        return Err("it has no directions to choose from".to_owned());
    };
    if let Some(beyond) = columns.iter().find(|column| **column >= rank) {
        return Err(format!("it has {rank} directions, from 0; there is no {beyond}"));
    }
    let along = |tensor: &Option<Tensor<'a>>, axis: usize| match tensor {
        None => Ok(None),
        Some(tensor) => {
            chosen(tensor, axis, columns).map(Some).ok_or_else(|| "its tensors do not fit".to_owned())
        }
    };
    let mut part = edit.clone();
    part.up = along(&edit.up, 1)?;
    part.source_weight = along(&edit.source_weight, 0)?;
    part.source_bias = along(&edit.source_bias, 0)?;
    part.proj = along(&edit.proj, 0)?;
    part.proj_bias = along(&edit.proj_bias, 0)?;
    Ok(part)
}

/// The slices of an axis at some places, bits unchanged.
fn chosen<'a>(tensor: &Tensor<'a>, axis: usize, places: &[u64]) -> Option<Tensor<'a>> {
    let size = tensor.dtype().bytes()?;
    let mut dims = tensor.dims().to_vec();
    let extent = usize::try_from(*dims.get(axis)?).ok()?;
    let inner = usize::try_from(dims.get(axis + 1..)?.iter().product::<u64>()).ok()?.checked_mul(size)?;
    dims[axis] = places.len() as u64;
    let mut bytes = Vec::new();
    for block in tensor.bytes().chunks_exact((extent * inner).max(1)) {
        for place in places {
            let at = usize::try_from(*place).ok()? * inner;
            bytes.extend_from_slice(block.get(at..at + inner)?);
        }
    }
    Tensor::owned(tensor.dtype(), Shape::new(&dims).ok()?, bytes).ok()
}

/// All interventions, in the order of the adapters; those of one place become one where that is exact.
pub(super) fn merge<'a>(
    context: &Context<'_, 'a>,
    gathered: &Gathered<'a>,
    culprits: &mut Vec<Culprit>,
    (rule, subspace): (SiteRule, Option<&[u64]>),
) -> Vec<Intervention<'a>> {
    let mut sites: BTreeMap<String, Vec<(usize, Intervention<'a>)>> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for (file, weight, edit) in &gathered.interventions {
        let label = edit.label();
        let part = match subspace {
            None => Ok((*edit).clone()),
            Some(columns) => part(edit, columns),
        };
        let mut scaled = match part {
            Ok(part) => part,
            Err(reason) => {
                let names = context.names(std::iter::once(*file));
                let hint = Some("--subspace names directions that every intervention has");
                culprits.push(Culprit::Apart { target: label, names, reason, hint });
                continue;
            }
        };
        scaled.scale *= weight;
        if !order.contains(&label) {
            order.push(label.clone());
        }
        sites.entry(label).or_default().push((*file, scaled));
    }
    let mut merged = Vec::new();
    for label in order {
        let Some(edits) = sites.remove(&label) else { continue };
        match site(&edits, rule) {
            Ok(edits) => merged.extend(edits),
            Err((reason, hint)) => culprits.push(Culprit::Apart {
                target: label,
                names: context.names(edits.iter().map(|(file, _)| *file)),
                reason,
                hint,
            }),
        }
    }
    merged
}

/// Why interventions do not go together, and the way out.
type Apart = (String, Option<&'static str>);

/// The interventions of one site.
fn site<'a>(edits: &[(usize, Intervention<'a>)], rule: SiteRule) -> Result<Vec<Intervention<'a>>, Apart> {
    let listed = || edits.iter().map(|(_, edit)| edit.clone()).collect();
    let is_one_file = edits.windows(2).all(|pair| pair[0].0 == pair[1].0);
    if is_one_file {
        return Ok(listed());
    }
    if edits.iter().any(|(_, edit)| edit.overlap != Overlap::Sequential) {
        let reason = "two adapters act at one site, one of them on the states as they were before either";
        return Err((reason.to_owned(), None));
    }
    let first = &edits[0].1;
    let is_one_place =
        |edit: &Intervention<'_>| place(edit) == place(first) && edit.positions == first.positions;
    let linear = || edits.iter().map(|(_, edit)| Linear::of(edit)).collect::<Option<Vec<_>>>();
    let is_alike = edits.iter().all(|(_, edit)| is_one_place(edit));
    match linear().filter(|_| is_alike) {
        Some(parts) => {
            let mut parts = parts.into_iter();
            let joined =
                parts.next().and_then(|first| parts.try_fold(first, |sum, next| sum.then(&next, rule)));
            let reason = "the interventions have other widths: they are for models of other sizes";
            let widths = || (reason.to_owned(), None);
            joined.and_then(|joined| joined.at(first)).map(|edit| vec![edit]).ok_or_else(widths)
        }
        None if rule == SiteRule::Sequential => Ok(listed()),
        None if are_apart(edits) => Ok(listed()),
        None => {
            let reason = "only linear interventions at the same tokens have a sum";
            Err((reason.to_owned(), Some("without --at-one-site sum they act one after the other")))
        }
    }
}

/// Whether no two of different adapters can act on one token: what is told is another part of the states, or the phase.
fn are_apart(edits: &[(usize, Intervention<'_>)]) -> bool {
    let apart = |a: &Intervention<'_>, b: &Intervention<'_>| {
        let dims = a.dims.zip(b.dims).is_some_and(|(a, b)| a[1] <= b[0] || b[1] <= a[0]);
        let Positions { phase: first, .. } = a.positions;
        let Positions { phase: second, .. } = b.positions;
        let is_one =
            |phase| matches!(phase, fitment_core::model::Phase::Prompt | fitment_core::model::Phase::Decode);
        dims || (first != second && is_one(first) && is_one(second))
    };
    edits.iter().enumerate().all(|(at, (file, edit))| {
        edits[at + 1..].iter().all(|(other, next)| file == other || apart(edit, next))
    })
}

#[cfg(test)]
mod tests {
    use super::{Linear, chosen, site};
    use crate::input::SiteRule;
    use fitment_core::model::{Intervention, Positions, Site, SiteComponent};
    use fitment_core::tensor::{Dtype, Shape, Tensor};
    use fitment_math::ndarray::Array1;

    fn tensor(dims: &[u64], seed: u64) -> Tensor<'static> {
        let count = dims.iter().product::<u64>();
        let value = |at: u64| ((at * 37 + seed * 101) % 23) as f64 / 11.0 - 1.0;
        let bytes: Vec<u8> = (0..count).flat_map(|at| value(at).to_le_bytes()).collect();
        Tensor::owned(Dtype::F64, Shape::new(dims).unwrap(), bytes).unwrap()
    }

    fn loreft(seed: u64, rank: u64, scale: f64) -> Intervention<'static> {
        let site = Site::Layer { layer: 3, component: SiteComponent::BlockOutput };
        let mut edit = Intervention::at(site, Positions::EVERYWHERE);
        edit.scale = scale;
        edit.subtract = true;
        edit.up = Some(tensor(&[5, rank], seed));
        edit.source_weight = Some(tensor(&[rank, 5], seed + 1));
        edit.source_bias = Some(tensor(&[rank], seed + 2));
        edit.up_bias = Some(tensor(&[5], seed + 3));
        edit
    }

    /// By the formula of the roles, not that of the linear form.
    fn act(edit: &Intervention<'_>, state: &Array1<f64>) -> Array1<f64> {
        let read =
            |tensor: &Option<Tensor<'_>>| fitment_math::round::widened(tensor.as_ref().unwrap()).unwrap();
        let rank = edit.rank().unwrap() as usize;
        let (up, weight) = (read(&edit.up), read(&edit.source_weight));
        let (bias, constant) = (read(&edit.source_bias), edit.up_bias.as_ref().map(|_| read(&edit.up_bias)));
        let inner = |of: usize| {
            let source: f64 = (0..5).map(|i| weight[of * 5 + i] * state[i]).sum::<f64>() + bias[of];
            let own: f64 = (0..5).map(|i| up[i * rank + of] * state[i]).sum();
            if edit.subtract { source - own } else { source }
        };
        let inner: Vec<f64> = (0..rank).map(inner).collect();
        let change = |i: usize| {
            let projected: f64 = (0..rank).map(|of| up[i * rank + of] * inner[of]).sum();
            projected + constant.as_ref().map_or(0.0, |constant| constant[i])
        };
        (0..5).map(|i| state[i] + edit.scale * change(i)).collect()
    }

    #[test]
    fn one_intervention_does_what_two_do() {
        let state = Array1::from(vec![0.3, -1.0, 2.0, 0.5, -0.25]);
        let edits = [(0, loreft(1, 2, 0.7)), (1, loreft(9, 3, -0.5))];
        let expected = [
            (SiteRule::Sequential, act(&edits[1].1, &act(&edits[0].1, &state))),
            (SiteRule::Sum, act(&edits[0].1, &state) + act(&edits[1].1, &state) - &state),
        ];
        for (rule, expected) in expected {
            let one = site(&edits, rule).unwrap();
            assert_eq!((one.len(), one[0].rank()), (1, Some(5)));
            let off =
                (act(&one[0], &state) - &expected).iter().fold(0.0_f64, |off, value| off.max(value.abs()));
            assert!(off < 1e-12, "{rule:?}: {off}");
        }
    }

    #[test]
    fn what_has_no_sum_is_refused_and_otherwise_listed() {
        let mut bent = loreft(4, 2, 1.0);
        bent.activation = Some(fitment_core::model::Activation::Gelu);
        bent.subtract = false;
        let edits = [(0, loreft(1, 2, 1.0)), (1, bent)];
        assert_eq!(site(&edits, SiteRule::Sequential).unwrap().len(), 2);
        assert!(site(&edits, SiteRule::Sum).unwrap_err().0.contains("only linear interventions"));
    }

    #[test]
    fn a_part_acts_in_the_directions_that_are_named() {
        let whole = tensor(&[2, 3], 5);
        let part = chosen(&whole, 1, &[2, 0]).unwrap();
        let numbers = |tensor: &Tensor<'_>| fitment_math::round::widened(tensor).unwrap();
        let (all, some) = (numbers(&whole), numbers(&part));
        assert_eq!(some, [all[2], all[0], all[5], all[3]]);
        let edit = loreft(1, 3, 1.0);
        let sum = |columns: &[u64]| {
            let linear = Linear::of(&super::part(&edit, columns).unwrap()).unwrap();
            linear.up.dot(&linear.map)
        };
        let off = (sum(&[0, 1, 2]) - sum(&[0, 2]) - sum(&[1]))
            .iter()
            .fold(0.0_f64, |off, value| off.max(value.abs()));
        assert!(off < 1e-12);
        assert!(super::part(&edit, &[3]).unwrap_err().contains("there is no 3"));
    }
}

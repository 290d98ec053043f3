//! The definitions of the model, element by element in f64: slow, dense, and written apart from the code under test.

use super::values_of;
use fitment_core::model::{Edit, Lora, LoraForm, Magnitude, NormOf, Target};
use fitment_core::tensor::Tensor;

/// A dense tensor.
#[derive(Clone, Debug)]
pub struct Dense {
    pub dims: Vec<usize>,
    pub values: Vec<f64>,
}

impl Dense {
    pub fn of(tensor: &Tensor<'_>) -> Self {
        let dims = tensor.dims().iter().map(|dim| *dim as usize).collect();
        Self { dims, values: values_of(tensor.dtype(), tensor.bytes()) }
    }

    fn expert(&self, expert: Option<usize>) -> Self {
        match expert {
            None => self.clone(),
            Some(expert) => {
                let len: usize = self.dims[1..].iter().product();
                let values = self.values[expert * len..(expert + 1) * len].to_vec();
                Self { dims: self.dims[1..].to_vec(), values }
            }
        }
    }

    fn at(&self, index: &[usize]) -> f64 {
        self.values[flat(&self.dims, index)]
    }
}

fn flat(dims: &[usize], index: &[usize]) -> usize {
    index.iter().zip(dims).fold(0, |at, (index, dim)| at * dim + index)
}

fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for dim in dims {
        all = all.into_iter().flat_map(|index| (0..*dim).map(move |i| [&index[..], &[i]].concat())).collect();
    }
    all
}

/// `W' = W + Σ wᵢ·(Fᵢ(W) − W)`, in f64.
pub fn apply(base: &Dense, files: &[(&[Edit<'_>], f64)], expert: Option<usize>) -> Dense {
    let mut result = base.clone();
    for (edits, weight) in files {
        let mut changed = base.clone();
        for edit in *edits {
            change(&mut changed, edit, expert);
        }
        for ((result, changed), base) in result.values.iter_mut().zip(&changed.values).zip(&base.values) {
            *result += weight * (changed - base);
        }
    }
    result
}

/// One edit of one tensor. Rows are not appended here.
pub fn change(tensor: &mut Dense, edit: &Edit<'_>, expert: Option<usize>) {
    let Some(target) = edit.target() else { return };
    let (dims, places) = slice(&tensor.dims, target);
    let w = Dense { values: places.iter().map(|at| tensor.values[*at]).collect(), dims };
    let new = match edit {
        Edit::Lora(lora) => low_rank(&w, lora, expert),
        Edit::Add(add) => {
            let delta = Dense::of(&add.value).expert(expert);
            let mut values: Vec<f64> =
                w.values.iter().zip(&delta.values).map(|(w, delta)| w + add.scale * delta).collect();
            if let Some(exceptions) = &add.exceptions {
                let positions = values_of(exceptions.index.dtype(), exceptions.index.bytes());
                for (at, value) in positions.iter().zip(Dense::of(&exceptions.value).values) {
                    values[*at as usize] = value;
                }
            }
            values
        }
        Edit::Set(set) => {
            let value = Dense::of(&set.value).expert(expert);
            match &set.rows {
                None => value.values,
                Some(rows) => {
                    let mut values = w.values.clone();
                    let row: usize = w.dims[1..].iter().product();
                    for (from, to) in values_of(rows.dtype(), rows.bytes()).iter().enumerate() {
                        let to = *to as usize;
                        values[to * row..(to + 1) * row]
                            .copy_from_slice(&value.values[from * row..(from + 1) * row]);
                    }
                    values
                }
            }
        }
        Edit::SparseSet(edit) => {
            let mut values = w.values.clone();
            let positions = values_of(edit.index.dtype(), edit.index.bytes());
            for (at, value) in positions.iter().zip(Dense::of(&edit.value).values) {
                values[*at as usize] = value;
            }
            values
        }
        Edit::SparseAdd(edit) => {
            let mut values = w.values.clone();
            let positions = values_of(edit.index.dtype(), edit.index.bytes());
            for (at, value) in positions.iter().zip(Dense::of(&edit.value).values) {
                values[*at as usize] += edit.scale * value;
            }
            values
        }
        Edit::Bits(_) => panic!("bits are compared with the tuned tensor itself"),
        Edit::Remove(_) | Edit::Config(_) | Edit::Intervention(_) => return,
    };
    for (at, value) in places.into_iter().zip(new) {
        tensor.values[at] = value;
    }
}

/// Extents of the slice and the flat position of each of its elements.
fn slice(dims: &[usize], target: &Target) -> (Vec<usize>, Vec<usize>) {
    let lists: Vec<Vec<usize>> = (0..dims.len())
        .map(|axis| match target.slice.iter().find(|part| part.axis as usize == axis) {
            None => (0..dims[axis]).collect(),
            Some(part) => {
                part.ranges.iter().flat_map(|range| range.indices().map(|index| index as usize)).collect()
            }
        })
        .collect();
    let extents: Vec<usize> = lists.iter().map(Vec::len).collect();
    let places = indices(&extents).into_iter().map(|index| {
        let stored: Vec<usize> = index.iter().zip(&lists).map(|(index, list)| list[*index]).collect();
        flat(dims, &stored)
    });
    (extents.clone(), places.collect())
}

fn low_rank(stored: &Dense, lora: &Lora<'_>, expert: Option<usize>) -> Vec<f64> {
    let up = Dense::of(&lora.up).expert(expert);
    let down = Dense::of(&lora.down).expert(expert);
    let mid = lora.mid.as_ref().map(Dense::of);
    // The shape in which `W` is read, and for each of its elements the stored one.
    let (shape, places): (Vec<usize>, Vec<usize>) = match (lora.form, lora.transposed) {
        (LoraForm::Matrix, false) => {
            let rest = stored.dims[1..].iter().product();
            (vec![stored.dims[0], rest], (0..stored.values.len()).collect())
        }
        (LoraForm::Matrix, true) => {
            let rest: usize = stored.dims[1..].iter().product();
            let rows = stored.dims[0];
            let places = indices(&[rest, rows]).into_iter().map(|index| index[1] * rest + index[0]);
            (vec![rest, rows], places.collect())
        }
        (LoraForm::Stacked, true) => {
            let [e, a, b] = stored.dims[..] else { panic!("three axes") };
            let places = indices(&[e, b, a]).into_iter().map(|i| flat(&[e, a, b], &[i[0], i[2], i[1]]));
            (vec![e, b, a], places.collect())
        }
        (LoraForm::Stacked | LoraForm::Conv, _) => (stored.dims.clone(), (0..stored.values.len()).collect()),
    };
    let old: Vec<f64> = places.iter().map(|at| stored.values[*at]).collect();
    let new: Vec<f64> = indices(&shape)
        .iter()
        .zip(&old)
        .map(|(index, w)| w + lora.scale * delta(lora.form, index, (&up, mid.as_ref(), &down)))
        .collect();
    let new = match &lora.magnitude {
        None => new,
        Some(magnitude) => scaled(&shape, magnitude, &old, new),
    };
    let mut result = stored.values.clone();
    for (at, value) in places.into_iter().zip(new) {
        result[at] = value;
    }
    result
}

fn delta(form: LoraForm, index: &[usize], (up, mid, down): (&Dense, Option<&Dense>, &Dense)) -> f64 {
    match (form, mid) {
        (LoraForm::Matrix, _) => {
            (0..down.dims[0]).map(|k| up.at(&[index[0], k]) * down.at(&[k, index[1]])).sum()
        }
        (LoraForm::Stacked, _) => {
            let e = index[0];
            (0..down.dims[1]).map(|k| up.at(&[e, index[1], k]) * down.at(&[e, k, index[2]])).sum()
        }
        (LoraForm::Conv, None) => {
            let rank = down.dims[0];
            let zeros = vec![0; index.len() - 2];
            let term = |k: usize| {
                let in_up = [&[index[0], k], &zeros[..]].concat();
                let in_down = [&[k], &index[1..]].concat();
                up.at(&in_up) * down.at(&in_down)
            };
            (0..rank).map(term).sum()
        }
        (LoraForm::Conv, Some(mid)) => {
            let zeros = vec![0; index.len() - 2];
            let mut sum = 0.0;
            for p in 0..mid.dims[0] {
                for q in 0..mid.dims[1] {
                    let in_up = [&[index[0], p], &zeros[..]].concat();
                    let in_mid = [&[p, q], &index[2..]].concat();
                    let in_down = [&[q, index[1]], &zeros[..]].concat();
                    sum += up.at(&in_up) * mid.at(&in_mid) * down.at(&in_down);
                }
            }
            sum
        }
    }
}

/// `m ∘ V/(‖·‖ + eps)`: the norm over every axis but the kept one.
fn scaled(shape: &[usize], magnitude: &Magnitude<'_>, old: &[f64], new: Vec<f64>) -> Vec<f64> {
    let axis = magnitude.axis as usize;
    let m = Dense::of(&magnitude.value).values;
    let of = match magnitude.norm_of {
        NormOf::Merged => &new,
        NormOf::Base => old,
    };
    let mut norms = vec![0.0f64; shape[axis]];
    for (index, value) in indices(shape).iter().zip(of) {
        norms[index[axis]] += value * value;
    }
    let factor = |kept: usize| m[kept] / (norms[kept].sqrt() + magnitude.eps);
    indices(shape).iter().zip(&new).map(|(index, value)| value * factor(index[axis])).collect()
}

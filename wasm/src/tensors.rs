//! Where the tensors of an adapter lie in its files.

use fitment_core::model::Edit;
use fitment_core::tensor::Tensor;
use serde::Serialize;

/// Files that stay where they are.
pub(crate) type Kept = [(String, &'static [u8])];

/// A part of a file.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Place<'f> {
    pub(crate) path: &'f str,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Where the bytes of a tensor lie; nothing for one that a reader made.
pub(crate) fn place<'f>(tensor: &Tensor<'_>, files: &'f Kept) -> Option<Place<'f>> {
    let bytes = tensor.bytes().as_ptr_range();
    let inside = |(path, file): &'f (String, &'static [u8])| {
        let whole = file.as_ptr_range();
        let is_inside = whole.start <= bytes.start && bytes.end <= whole.end;
        is_inside.then(|| {
            let start = bytes.start.addr() - whole.start.addr();
            Place { path, start, end: start + tensor.bytes().len() }
        })
    };
    files.iter().find_map(inside)
}

/// The edit with its tensors over other bytes, which lie one behind the other in the order of [`Edit::tensors`]. Nothing where
/// there are fewer or more of them.
pub(crate) fn moved<'b>(edit: &Edit<'static>, bytes: &'b [u8]) -> Option<Edit<'b>> {
    let mut edit: Edit<'b> = edit.clone();
    let mut rest = bytes;
    for tensor in tensors(&mut edit) {
        let (own, behind) = rest.split_at_checked(tensor.bytes().len())?;
        *tensor = Tensor::borrowed(tensor.dtype(), tensor.shape().clone(), own).ok()?;
        rest = behind;
    }
    rest.is_empty().then_some(edit)
}

/// The tensors of an edit in the order of [`Edit::tensors`], to be replaced.
fn tensors<'e, 'b>(edit: &'e mut Edit<'b>) -> Vec<&'e mut Tensor<'b>> {
    match edit {
        Edit::Lora(edit) => {
            let magnitude = edit.magnitude.as_mut().map(|magnitude| &mut magnitude.value);
            let middle = magnitude.into_iter().chain(&mut edit.mid);
            [&mut edit.down].into_iter().chain(middle).chain([&mut edit.up]).collect()
        }
        Edit::Set(edit) => edit.rows.iter_mut().chain([&mut edit.value]).collect(),
        Edit::Add(edit) => {
            let exceptions = edit.exceptions.iter_mut().flat_map(|some| [&mut some.index, &mut some.value]);
            exceptions.chain([&mut edit.value]).collect()
        }
        Edit::SparseSet(edit) => vec![&mut edit.index, &mut edit.value],
        Edit::SparseAdd(edit) => vec![&mut edit.index, &mut edit.value],
        Edit::Bits(edit) => vec![&mut edit.z],
        Edit::Intervention(edit) => {
            let parts = [
                &mut edit.proj,
                &mut edit.proj_bias,
                &mut edit.source_bias,
                &mut edit.source_weight,
                &mut edit.up,
                &mut edit.up_bias,
            ];
            parts.into_iter().flatten().collect()
        }
        Edit::Remove(_) | Edit::Config(_) => Vec::new(),
    }
}

//! Files that `torch.load(weights_only=True)` opens: a zip archive with a pickle of protocol 2 and one stored member for
//! each tensor, its data at multiples of 64 bytes as torch lays them. Same tensors, same bytes.

mod pickle;
mod zip;

use crate::pickle::{dtype_name, storage_class};
use crate::tensor::Order;
use fitment_core::Error;
use fitment_core::tensor::{Dtype, Tensor};
use std::collections::BTreeMap;
use std::io::Write;

/// A tensor to be saved.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    /// Its key.
    pub name: String,
    /// Its elements, in row-major order.
    pub tensor: Tensor<'a>,
    /// How they are to lie in the file: row-major, or column-major for a tensor with two axes.
    pub order: Order,
}

impl<'a> Item<'a> {
    /// A tensor that is saved as it lies.
    pub fn new(name: impl Into<String>, tensor: Tensor<'a>) -> Self {
        Self { name: name.into(), tensor, order: Order::RowMajor }
    }
}

/// A file, laid out and ready to be written.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    members: Vec<zip::Placed<'a>>,
    directory: Vec<u8>,
    len: u64,
}

impl<'a> Archive<'a> {
    /// Lays a dict of tensors out under the folder `stem`: what torch takes from the file's name, without its ending.
    /// Tensors that are the same in memory share a storage, as in the model that torch saves.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the stem is no name of a folder, a key is used twice, torch has no dtype of the kind
    /// (F4, F6), or column-major order is asked for a tensor that has not two axes.
    pub fn new(stem: &str, items: &[Item<'a>]) -> Result<Self, Error> {
        let invalid = |place: &str, message: &str| {
            Err(Error::Invalid { place: place.to_owned(), message: message.to_owned() })
        };
        if stem.is_empty()
            || stem == "."
            || stem == ".."
            || stem.len() > 255
            || stem.contains(['/', '\\', ':', '\0'])
        {
            return invalid(stem, "no name of an archive's folder");
        }
        let mut storages: Vec<Tensor<'a>> = Vec::new();
        let mut known = BTreeMap::new();
        let mut entries = BTreeMap::new();
        let mut saved = Vec::new();
        for item in items {
            if entries.insert(item.name.as_str(), ()).is_some() {
                return invalid(&item.name, "the name is used for two tensors");
            }
            let class = class(item.tensor.dtype());
            let Some(class) = class else { return invalid(&item.name, "torch has no such dtype") };
            let stored = match item.order {
                Order::RowMajor => Some(item.tensor.clone()),
                Order::ColumnMajor => item.tensor.transposed(),
                Order::Other => None,
            };
            let Some(stored) = stored else {
                return invalid(&item.name, "only a tensor with two axes can be stored column by column");
            };
            let bytes = stored.bytes();
            let place = (bytes.as_ptr() as usize, bytes.len(), item.tensor.dtype());
            // A transposed copy has an address of its own; an empty one has no address that means anything.
            let shared = known.get(&place).copied().filter(|_| !bytes.is_empty());
            let storage = shared.unwrap_or(storages.len());
            if shared.is_none() {
                known.insert(place, storage);
                storages.push(stored);
            }
            saved.push(pickle::Saved {
                name: &item.name,
                class,
                dims: item.tensor.dims(),
                column_major: item.order == Order::ColumnMajor,
                storage,
                byte_len: bytes_of(&item.tensor),
            });
        }
        let pickle = pickle::write(&saved);
        let mut members = vec![
            zip::Member::new("data.pkl", zip::Data::Owned(pickle)),
            zip::Member::new("byteorder", zip::Data::Owned(b"little".to_vec())),
        ];
        let numbered = storages.into_iter().enumerate();
        members.extend(
            numbered.map(|(number, tensor)| {
                zip::Member::new(format!("data/{number}"), zip::Data::Tensor(tensor))
            }),
        );
        members.push(zip::Member::new("version", zip::Data::Owned(b"3\n".to_vec())));
        Ok(zip::lay(stem, members))
    }

    /// How many bytes [`Archive::write_to`] writes.
    pub fn byte_len(&self) -> u64 {
        self.len
    }

    /// Writes the file in one pass.
    ///
    /// # Errors
    /// [`Error::Write`] when the sink fails.
    pub fn write_to(&self, out: &mut dyn Write) -> Result<(), Error> {
        let failed = |source| Error::Write { source };
        for member in &self.members {
            out.write_all(&member.head).map_err(failed)?;
            out.write_all(member.data.bytes()).map_err(failed)?;
        }
        out.write_all(&self.directory).map_err(failed)
    }
}

fn bytes_of(tensor: &Tensor<'_>) -> u64 {
    tensor.bytes().len() as u64
}

/// How torch names a dtype in a pickle.
#[derive(Clone, Copy, Debug)]
enum Class {
    /// By its storage class, and the size of an element.
    Typed(&'static str, u64),
    /// By itself, on an untyped storage.
    Untyped(&'static str),
}

fn class(dtype: Dtype) -> Option<Class> {
    let size = dtype.bytes()? as u64;
    storage_class(dtype)
        .map(|name| Class::Typed(name, size))
        .or_else(|| dtype_name(dtype).map(Class::Untyped))
}

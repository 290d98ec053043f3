use crate::error::{Error, Fault};
use crate::pickle::{Heap, Id};
use crate::tensor::View;
use crate::value::Value;
use crate::{archive, legacy, state, zip};
use fitment_core::tensor::Tensor;

/// A torch file, read as data: what [`TorchFile::root`] shows was made by no code of the file's.
#[derive(Clone, Debug)]
pub struct TorchFile<'a> {
    name: String,
    form: Form,
    heap: Heap<'a>,
    root: Id,
    len: u64,
}

/// How a file is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A zip archive (torch 1.6 and later).
    Zip {
        /// The folder inside it: mostly the file's name without its ending.
        stem: String,
    },
    /// Pickles one behind the other, then the storages (before 1.6).
    Legacy,
}

/// A tensor of a state dict.
#[derive(Clone, Debug)]
pub struct Named<'a> {
    /// Keys from the outermost dict on, with dots between them.
    pub name: String,
    /// Its elements in row-major order: borrowed from the file where they lie so, else copied.
    pub tensor: Tensor<'a>,
    /// How they lie in the file.
    pub view: View,
    /// In how many dicts and lists it lay: 1 in a flat dict.
    pub depth: usize,
}

/// A nested dict, laid flat.
#[derive(Clone, Debug, Default)]
pub struct StateDict<'a> {
    /// Every tensor, in the order of the dict.
    pub tensors: Vec<Named<'a>>,
    /// Names of all leaves that are no tensors, in the order of the dict.
    pub others: Vec<String>,
}

impl StateDict<'_> {
    /// The first tensor that lay deeper than in the outermost dict.
    pub fn nested(&self) -> Option<&str> {
        self.tensors.iter().find(|named| named.depth > 1).map(|named| named.name.as_str())
    }
}

/// Whether bytes begin like a file of torch's, in either form, or like any pickle of protocol 2 or later.
pub fn is_torch(bytes: &[u8]) -> bool {
    zip::is_zip(bytes) || is_pickle(bytes)
}

fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 0..=5, ..])
}

impl<'a> TorchFile<'a> {
    /// Reads a file of either form. Tensors borrow from its bytes. `name` is what errors call it.
    ///
    /// # Errors
    /// [`Fault::Unsafe`] when a pickle names what no weights need, whatever else is wrong with it; [`Fault::Kind`] for
    /// other kinds of files; the rest says what is malformed.
    pub fn read(name: &str, bytes: &'a [u8]) -> Result<Self, Error> {
        let file =
            |form, heap, root| Self { name: name.to_owned(), form, heap, root, len: bytes.len() as u64 };
        let read = if zip::is_zip(bytes) {
            archive::read(bytes).map(|(stem, heap, root)| file(Form::Zip { stem }, heap, root))
        } else if let Some(other) = other_kind(bytes) {
            Err(other)
        } else {
            legacy::read(bytes).map(|(heap, root)| file(Form::Legacy, heap, root)).map_err(
                |fault| match fault {
                    // Nothing at all of a pickle: better said so than as a fault of its first byte.
                    Fault::Pickle { .. } if !is_pickle(bytes) => no_torch(),
                    fault => fault,
                },
            )
        };
        read.map_err(|fault| Error { file: name.to_owned(), fault })
    }

    /// How the file is laid out.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// The value that was saved.
    pub fn root(&self) -> Value<'_, 'a> {
        Value::new(&self.heap, self.root)
    }

    /// The value as a state dict: tensors by dotted names.
    ///
    /// # Errors
    /// [`Fault::Names`] when it is no dict, or two tensors come to one name; [`Fault::Limit`].
    pub fn state_dict(&self) -> Result<StateDict<'a>, Error> {
        state::flatten(&self.heap, self.root, self.len)
            .map_err(|fault| Error { file: self.name.clone(), fault })
    }

    /// One tensor of the value, in row-major order.
    ///
    /// # Errors
    /// [`Fault::Limit`] when an expanded tensor takes far more than the file.
    pub fn tensor(&self, view: &View) -> Result<Tensor<'a>, Error> {
        let mut budget = state::Budget::new(self.len);
        budget.tensor(&self.heap, view, "").map_err(|fault| Error { file: self.name.clone(), fault })
    }
}

/// Files that often bear the names of torch's.
fn other_kind(bytes: &[u8]) -> Option<Fault> {
    let is_container = || {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        (u64::from_le_bytes(*len) <= rest.len() as u64 && rest.first() == Some(&b'{')).then_some(())
    };
    let (what, hint) = if bytes.is_empty() {
        ("an empty file", "fetch it again")
    } else if bytes.starts_with(b"version https://git-lfs") {
        ("a git-lfs pointer, not the file", "run `git lfs pull`")
    } else if is_container().is_some() {
        ("a safetensors file under another name", "give it a name that ends in .safetensors")
    } else if bytes.get(257..262) == Some(b"ustar") {
        (
            "a tar archive, as the first versions of torch wrote them",
            "load it with an old torch and save safetensors",
        )
    } else {
        return None;
    };
    Some(Fault::Kind { what: what.to_owned(), hint })
}

fn no_torch() -> Fault {
    let what = "neither a zip archive nor a pickle, so no torch file".to_owned();
    Fault::Kind { what, hint: "give the file that torch.save wrote, or the weights as safetensors" }
}

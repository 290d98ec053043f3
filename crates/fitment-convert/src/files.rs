use crate::error::Error;
use crate::loss::Loss;
use fitment_core::container::{Layout, write_container};
use fitment_core::model::SourceFile;
use fitment_core::tensor::{Bytes, Dtype, Shape, Tensor};
use fitment_torch::Archive;
use std::collections::BTreeMap;
use std::io::Write;

/// The files of an adapter, by path: what a reader sees of the world.
///
/// Paths are relative to the folder that the user named, with forward slashes. A single file is a set of one.
#[derive(Clone, Debug, Default)]
pub struct Files<'a> {
    files: BTreeMap<String, &'a [u8]>,
    are_headers: bool,
}

impl<'a> Files<'a> {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, of which the values of weights are not at hand: their bytes are zeros, and readers pass over what they say.
    #[must_use]
    pub fn headers(self) -> Self {
        Self { are_headers: true, ..self }
    }

    /// A tensor of one of the files, marked when its values are not at hand.
    pub(crate) fn marked(&self, tensor: Tensor<'a>) -> Tensor<'a> {
        if self.are_headers { tensor.unread() } else { tensor }
    }

    /// Adds a file; one of the same path is replaced.
    pub fn insert(&mut self, path: impl Into<String>, bytes: &'a [u8]) {
        self.files.insert(path.into(), bytes);
    }

    /// The bytes under a path.
    pub fn get(&self, path: &str) -> Option<&'a [u8]> {
        self.files.get(path).copied()
    }

    /// Every file, in order of its path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a [u8])> {
        self.files.iter().map(|(path, bytes)| (path.as_str(), *bytes))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

impl<'a, P: Into<String>> FromIterator<(P, &'a [u8])> for Files<'a> {
    fn from_iter<I: IntoIterator<Item = (P, &'a [u8])>>(files: I) -> Self {
        Self {
            files: files.into_iter().map(|(path, bytes)| (path.into(), bytes)).collect(),
            are_headers: false,
        }
    }
}

/// One file of a conversion's result.
#[derive(Clone, Debug)]
pub struct OutputFile<'a> {
    /// Path relative to the output folder, forward slashes. Formats of one file name it as the tool does.
    pub path: String,
    /// What stands in it.
    pub content: Content<'a>,
}

/// What stands in an output file. Weights stay where they lie until they are written.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// Plain bytes.
    Bytes(Bytes<'a>),
    /// Bytes that lie in several places, one behind the other.
    Pieces(Vec<Bytes<'a>>),
    /// A safetensors container, written in canonical order.
    Container {
        /// `__metadata__`.
        metadata: BTreeMap<String, String>,
        /// Tensors by name, each name once.
        tensors: Vec<(String, Tensor<'a>)>,
    },
    /// A PyTorch weight file, as `torch.save` lays it out.
    Torch(Archive<'a>),
}

impl OutputFile<'_> {
    /// Writes the file in one pass; a container is never held in memory as a whole.
    ///
    /// # Errors
    /// [`Error::Core`] when the sink fails, or when a container names a tensor twice.
    pub fn write_to(&self, out: &mut dyn Write) -> Result<(), Error> {
        let put = |bytes: &Bytes<'_>, out: &mut dyn Write| {
            out.write_all(bytes.as_slice()).map_err(|source| fitment_core::Error::Write { source })
        };
        match &self.content {
            Content::Bytes(bytes) => Ok(put(bytes, out)?),
            Content::Pieces(pieces) => Ok(pieces.iter().try_for_each(|piece| put(piece, out))?),
            Content::Container { metadata, tensors } => {
                let items = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
                Ok(write_container(metadata, items, out)?)
            }
            Content::Torch(archive) => Ok(archive.write_to(out)?),
        }
    }

    /// How many bytes [`OutputFile::write_to`] writes.
    pub fn byte_len(&self) -> u64 {
        match &self.content {
            Content::Bytes(bytes) => bytes.as_slice().len() as u64,
            Content::Pieces(pieces) => pieces.iter().map(|piece| piece.as_slice().len() as u64).sum(),
            Content::Container { metadata, tensors } => {
                let layout = Layout::canonical(
                    metadata.iter().map(|(key, text)| (key.as_str(), text.as_str())),
                    tensors.iter().map(|(name, t)| (name.clone(), t.dtype(), t.shape().clone())),
                );
                layout.head.len() as u64 + layout.data_len
            }
            Content::Torch(archive) => archive.byte_len(),
        }
    }
}

/// Bytes of a source as they are kept: U8 `[n]`; `None` for more than a shape can count.
pub(crate) fn kept_bytes(bytes: &[u8]) -> Option<Tensor<'_>> {
    Tensor::borrowed(Dtype::U8, Shape::new(&[bytes.len() as u64]).ok()?, bytes).ok()
}

/// The files beside those that were read: carried along where that is asked for and can be, else losses.
pub(crate) fn carried<'a>(files: &Files<'a>, read: &[&str], keep: bool) -> (Vec<SourceFile<'a>>, Vec<Loss>) {
    let (mut kept, mut losses) = (Vec::new(), Vec::new());
    for (other, data) in files.iter().filter(|(other, _)| !read.contains(other)) {
        match kept_bytes(data).filter(|_| keep && is_safe_path(other)) {
            Some(data) => kept.push(SourceFile { path: other.to_owned(), data }),
            None => losses.push(Loss::FileLeft { path: other.to_owned() }),
        }
    }
    (kept, losses)
}

/// Whether a path stays inside the folder it is written to, on every system: what a Fitment file may carry (spec section 8).
pub(crate) fn is_safe_path(path: &str) -> bool {
    let parts_safe = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    parts_safe && path.len() <= 1024 && !path.contains(['\\', ':']) && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::{Content, OutputFile};
    use fitment_core::tensor::{Dtype, Shape, Tensor};
    use std::collections::BTreeMap;

    #[test]
    fn length_is_known_before_writing() {
        let tensor = Tensor::owned(Dtype::F16, Shape::new(&[3]).unwrap(), vec![1, 2, 3, 4, 5, 6]).unwrap();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let content = Content::Container { metadata, tensors: vec![("a".to_owned(), tensor)] };
        let file = OutputFile { path: "x.safetensors".to_owned(), content };
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        assert_eq!(file.byte_len(), bytes.len() as u64);
    }
}

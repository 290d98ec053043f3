//! A file that is written while its digests are computed: as every digest has one length, everything has its place before.

use crate::check::Each;
use crate::container::Layout;
use crate::error::{Error, Result};
use crate::file::checked;
use crate::identity::{content_id, hex, tensor_digest};
use crate::json::to_canonical;
use crate::manifest::{self, Encoded};
use crate::model::{Adapter, Digest};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Takes bytes that belong at a place in the file, from any thread.
pub type PieceSink<'s> = &'s (dyn Fn(u64, &[u8]) -> std::io::Result<()> + Sync);

/// An adapter as it will be stored, but for its digests.
#[derive(Debug)]
pub struct Draft<'a> {
    encoded: Encoded<'a>,
    layout: Layout,
}

impl<'a> Draft<'a> {
    /// Gives everything its place. No tensor is looked at.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the adapter breaks a rule of the format.
    pub fn of(adapter: &Adapter<'a>) -> Result<Self> {
        let mut encoded = manifest::encode_undigested(adapter);
        encoded.manifest.id = content_id([], "");
        let none = hex(&Digest::default());
        encoded.manifest.tensors = encoded.tensors.keys().map(|name| (name.clone(), none.clone())).collect();
        let encoded = checked(encoded)?;
        let layout = layout(&encoded.text(), &encoded.tensors);
        Ok(Self { encoded, layout })
    }

    /// Bytes of the file.
    pub fn byte_len(&self) -> u64 {
        self.layout.head.len() as u64 + self.layout.data_len
    }

    /// Writes the same bytes as [`crate::write()`], tensor by tensor in the order of `each`, each digested on its way; the
    /// header at the end.
    ///
    /// # Errors
    /// [`Error::Write`] when the sink fails.
    pub fn write(&self, each: Each<'_>, sink: PieceSink<'_>) -> Result<()> {
        let failed = |source| Error::Write { source };
        let entries = &self.layout.entries;
        let first = self.layout.head.len() as u64;
        let done: Vec<OnceLock<std::io::Result<Digest>>> = entries.iter().map(|_| OnceLock::new()).collect();
        each(entries.len(), &|index| {
            let (Some(entry), Some(done)) = (entries.get(index), done.get(index)) else { return };
            let Some(tensor) = self.encoded.tensors.get(&entry.name) else { return };
            done.get_or_init(|| {
                sink(first + entry.start, tensor.bytes())?;
                Ok(tensor_digest(&entry.name, tensor.dtype(), tensor.shape(), tensor.bytes()))
            });
        });
        let mut digests: BTreeMap<String, Digest> = BTreeMap::new();
        for (entry, done) in entries.iter().zip(done) {
            if let Some(digest) = done.into_inner() {
                digests.insert(entry.name.clone(), digest.map_err(failed)?);
            }
        }
        let mut manifest = self.encoded.manifest.clone();
        manifest.id = manifest::content_id(&manifest.edits, &digests);
        manifest.tensors = digests.into_iter().map(|(name, digest)| (name, hex(&digest))).collect();
        sink(0, &layout(&to_canonical(&manifest), &self.encoded.tensors).head).map_err(failed)
    }
}

/// Where everything lies under a manifest of this text.
pub(crate) fn layout(text: &str, tensors: &BTreeMap<String, Tensor<'_>>) -> Layout {
    let tensors = tensors.iter().map(|(name, t)| (name.clone(), t.dtype(), t.shape().clone()));
    Layout::canonical([("fitment", text)], tensors)
}

#[cfg(test)]
mod tests {
    use super::Draft;
    use crate::check::Each;
    use crate::model::{Adapter, Add, Edit, Origin, Target, TensorName};
    use crate::tensor::{Dtype, Shape, Tensor};
    use std::sync::Mutex;

    fn adapter(value: u8) -> Adapter<'static> {
        let edit = |name: &str, dtype, len: u64| {
            let size = len as usize * dtype_size(dtype);
            let bytes: Vec<u8> = (0..size).map(|at| (at as u8 % 60) ^ value).collect();
            let value = Tensor::owned(dtype, Shape::new(&[len]).unwrap(), bytes).unwrap();
            let target = Target::whole(TensorName::new(name).unwrap());
            Edit::Add(Add { target, scale: 0.5, value, exceptions: None, origin: Origin::default() })
        };
        let edits = vec![edit("b", Dtype::BF16, 3), edit("a", Dtype::F32, 5), edit("c", Dtype::F32, 0)];
        Adapter { edits, ..Adapter::default() }
    }

    fn dtype_size(dtype: Dtype) -> usize {
        dtype.bytes().unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_a_file_that_is_written_in_one_pass() {
        let backwards: Each<'_> = &|count, call| (0..count).rev().for_each(call);
        for each in [&crate::check::in_order as Each<'_>, backwards] {
            let adapter = adapter(1);
            let draft = Draft::of(&adapter).unwrap();
            let file = Mutex::new(vec![0xff; draft.byte_len() as usize]);
            let sink = |at: u64, bytes: &[u8]| {
                file.lock().unwrap()[at as usize..][..bytes.len()].copy_from_slice(bytes);
                Ok(())
            };
            draft.write(each, &sink).unwrap();
            assert_eq!(file.into_inner().unwrap(), crate::to_bytes(&adapter).unwrap());
        }
    }

    #[test]
    fn a_sink_that_fails_is_an_error_and_a_breach_is_one_before() {
        let full = |_: u64, _: &[u8]| Err(std::io::ErrorKind::StorageFull.into());
        let error = Draft::of(&adapter(1)).unwrap().write(&crate::check::in_order, &full).unwrap_err();
        assert!(matches!(error, crate::Error::Write { .. }));
        let mut broken = adapter(1);
        let Edit::Add(add) = &mut broken.edits[0] else { panic!() };
        add.scale = f64::NAN;
        assert!(matches!(Draft::of(&broken), Err(crate::Error::Malformed { .. })));
    }
}

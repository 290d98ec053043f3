use super::Layout;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::io::Write;

/// One tensor to be stored.
pub type Item<'t, 'a> = (String, &'t Tensor<'a>);

/// Writes a container in the canonical form: same input, same bytes.
///
/// # Errors
/// [`Error::Write`] when the sink fails; [`Error::Invalid`] when a name comes twice.
pub fn write_container<'t, 'a: 't>(
    metadata: &BTreeMap<String, String>,
    tensors: impl IntoIterator<Item = Item<'t, 'a>>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut by_name = BTreeMap::new();
    for (name, tensor) in tensors {
        if by_name.insert(name.clone(), tensor).is_some() {
            let message = "the name is used for two tensors".to_owned();
            return Err(Error::Invalid { place: name, message });
        }
    }
    let layout = Layout::canonical(
        metadata.iter().map(|(key, text)| (key.as_str(), text.as_str())),
        by_name.iter().map(|(name, tensor)| (name.clone(), tensor.dtype(), tensor.shape().clone())),
    );
    let failed = |source| Error::Write { source };
    out.write_all(&layout.head).map_err(failed)?;
    for entry in &layout.entries {
        out.write_all(by_name[&entry.name].bytes()).map_err(failed)?;
    }
    Ok(())
}

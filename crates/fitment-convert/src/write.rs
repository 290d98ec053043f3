use crate::error::Error;
use crate::files::OutputFile;
use crate::formats::FormatId;
use crate::loss::Loss;
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use std::fmt;

/// What a caller knows beside the adapter.
#[derive(Clone, Copy, Default)]
pub struct WriteOptions<'o> {
    /// The base, for formats that store parts of it.
    pub base: Option<&'o dyn Checkpoint>,
}

impl fmt::Debug for WriteOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteOptions").field("base", &self.base.map(|base| base.tensors().len())).finish()
    }
}

/// An adapter in the form of a format.
#[derive(Clone, Debug)]
pub struct Written<'a> {
    /// Its files.
    pub files: Vec<OutputFile<'a>>,
    /// What the format cannot hold.
    pub losses: Vec<Loss>,
}

/// Lays an adapter out in a format. Nothing is left out in silence: see [`Written::losses`].
///
/// # Errors
/// [`Error`].
pub fn write<'a>(
    adapter: &Adapter<'a>,
    to: FormatId,
    options: &WriteOptions<'_>,
) -> Result<Written<'a>, Error> {
    let writer = to.format().write.ok_or(Error::NoSuchWay { format: to, verb: "written" })?;
    writer(adapter, options)
}

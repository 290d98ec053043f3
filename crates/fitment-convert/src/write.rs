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
    /// A narrower form of the format, for those who load no other.
    pub preset: Option<Preset>,
}

/// A narrower form of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Of PEFT's folders, the one that vLLM, SGLang, TGI, LoRAX and mistral.rs all load, and compute alike: LoRA of linear layers, one rank,
    /// `lora_alpha` equal to it, no patterns, no biases and no whole modules.
    Servable,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Servable];

    /// The value of `--preset`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Servable => "servable",
        }
    }

    /// Of which format it is a form.
    pub fn format(self) -> FormatId {
        match self {
            Self::Servable => FormatId::Peft,
        }
    }
}

impl<'o> WriteOptions<'o> {
    /// With a base, if there is one, and nothing else.
    pub fn on(base: Option<&'o dyn Checkpoint>) -> Self {
        Self { base, ..Self::default() }
    }
}

impl fmt::Debug for WriteOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteOptions")
            .field("base", &self.base.map(|base| base.tensors().len()))
            .field("preset", &self.preset)
            .finish()
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
    if let Some(preset) = options.preset.filter(|preset| preset.format() != to) {
        return Err(Error::Unsupported {
            what: format!("--preset {}", preset.name()),
            reason: format!("it is a form of {}, not of {to}", preset.format()),
            hint: format!("write it with --to {}", preset.format()),
        });
    }
    let writer = to.format().write.ok_or(Error::NoSuchWay { format: to, verb: "written" })?;
    writer(adapter, options)
}

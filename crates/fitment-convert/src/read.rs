use crate::error::Error;
use crate::files::Files;
use crate::formats::{self, Ask, FormatId};
use crate::loss::Loss;
use crate::pass::refit::{self, QkvRows};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::{Adapter, Finding};
use std::fmt;

/// What a caller knows beside the files.
#[derive(Clone, Copy, Default)]
pub struct ReadOptions<'o> {
    /// The format; detected when absent.
    pub from: Option<FormatId>,
    /// The base that the adapter was made for: decides names, orientation and tying, and binds the result.
    pub base: Option<&'o dyn Checkpoint>,
    /// The name to record for the base, instead of the one in the files.
    pub base_name: Option<&'o str>,
    /// Carry every other file of the folder along.
    pub keep_files: bool,
    /// Which adapter of a folder that holds several: the name of its sub-folder, `default` for the root.
    pub adapter_name: Option<&'o str>,
    /// What formats of interventions do not say: which tokens, such as `f7+l7`.
    pub positions: Option<&'o str>,
    /// The same for the activation: `none`, or a word of transformers.
    pub activation: Option<&'o str>,
    /// The same for the class, where the files fit several.
    pub formula: Option<&'o str>,
    /// Alpha of LoRA factors that are saved without a config: `32`, or `rs:32` for a rank-stabilised one.
    pub alpha: Option<&'o str>,
    /// How PEFT laid out factors of expert tensors, by the release that changed it: `0.17`, `0.19.0` or `0.19.1`.
    pub moe_layout: Option<&'o str>,
    /// In which order the columns of `lora_B` of experts stand: `rank-major` or `expert-major`.
    pub moe_b_layout: Option<&'o str>,
    /// Of a Fitment file, the values are not looked at: [`verify()`] does that, while something else is done.
    pub unverified: bool,
    /// Where the base has the adapter's linear layers fused with others, or apart: what is of them becomes what the base has.
    pub refit: bool,
    /// The adapter is read to be looked at, not to be written or applied: what only a base could tell is taken for the usual, and
    /// listed ([`Loss::AssumedToShow`]).
    pub to_look_at: bool,
    /// In which order a fused projection has the rows of queries, keys and values, where no config says it.
    pub qkv_rows: Option<QkvRows>,
}

impl ReadOptions<'_> {
    /// Whether something is said.
    pub fn says(&self, ask: Ask) -> bool {
        match ask {
            Ask::Positions => self.positions.is_some(),
            Ask::Activation => self.activation.is_some(),
            Ask::Formula => self.formula.is_some(),
            Ask::Alpha => self.alpha.is_some(),
            Ask::MoeLayout => self.moe_layout.is_some(),
            Ask::MoeBLayout => self.moe_b_layout.is_some(),
        }
    }
}

impl fmt::Debug for ReadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOptions")
            .field("from", &self.from)
            .field("base", &self.base.map(|base| base.tensors().len()))
            .field("base_name", &self.base_name)
            .field("keep_files", &self.keep_files)
            .field("adapter_name", &self.adapter_name)
            .field("positions", &self.positions)
            .field("activation", &self.activation)
            .field("formula", &self.formula)
            .field("alpha", &self.alpha)
            .field("moe_layout", &self.moe_layout)
            .field("moe_b_layout", &self.moe_b_layout)
            .field("unverified", &self.unverified)
            .field("refit", &self.refit)
            .field("to_look_at", &self.to_look_at)
            .field("qkv_rows", &self.qkv_rows)
            .finish()
    }
}

/// An adapter that was read.
#[derive(Clone, Debug)]
pub struct Converted<'a> {
    /// The adapter.
    pub adapter: Adapter<'a>,
    /// What was dropped or assumed.
    pub losses: Vec<Loss>,
    /// What its files bend without breaking: warnings and notes.
    pub findings: Vec<Finding>,
    /// The content id that a Fitment file records, held against its tensors and edits; `None` where it is to be computed: of
    /// other formats, and of what a base has bound anew.
    pub id: Option<String>,
}

/// Reads an adapter of any known format. Tensors borrow from the files.
///
/// # Errors
/// [`Error`]; [`Error::Option`] for one that decides nothing about this format.
pub fn read<'a>(files: &Files<'a>, options: &ReadOptions<'_>) -> Result<Converted<'a>, Error> {
    let id = match options.from {
        Some(id) => id,
        None => formats::detect(files)?,
    };
    let reader = id.format().read.ok_or(Error::NoSuchWay { format: id, verb: "read" })?;
    check_options(id, options)?;
    match (reader(files, options), options.base) {
        (Err(Error::Unmapped { culprits }), Some(base)) if options.refit => {
            let fitted = refit::read(reader, files, options, base, culprits);
            match fitted {
                Err(Error::Unmapped { culprits }) if id == FormatId::Fitment => {
                    refit::by_expert(reader, files, options, base).ok_or(Error::Unmapped { culprits })
                }
                fitted => fitted,
            }
        }
        (Ok(_), _) if options.qkv_rows.is_some() => Err(Error::Option {
            option: "--qkv-rows".to_owned(),
            reason: "decides nothing here: the base has every target as the adapter names it".to_owned(),
            hint: "leave it out".to_owned(),
        }),
        (result, _) => result,
    }
}

/// Looks at the values of a Fitment file that was read with [`ReadOptions::unverified`]: every digest, the content id, and whether the
/// weights are numbers.
///
/// # Errors
/// [`Error::Malformed`], as reading it would have given.
pub fn verify(files: &Files<'_>) -> Result<(), Error> {
    crate::fitment::verify(files)
}

/// Whether a format has a use for every option that says something.
///
/// # Errors
/// [`Error::Option`] for the first that would be passed over.
pub fn check_options(id: FormatId, options: &ReadOptions<'_>) -> Result<(), Error> {
    let useless = |ask: &&Ask| options.says(**ask) && !id.format().asks.contains(*ask);
    match Ask::ALL.iter().find(useless) {
        Some(ask) => Err(Error::no_use(*ask, &id.to_string(), "its files leave nothing of that open")),
        None => Ok(()),
    }
}

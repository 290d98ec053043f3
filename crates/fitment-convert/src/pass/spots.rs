//! Where a base has one of the matrices of a layer's experts: in a tensor of each expert, or in a stack of all.

use super::experts::{Part, WORDS, Words, all_of, bundle, parts};
use super::stacks::Stacks;
use crate::error::{Clash, Error};
use crate::names::{Creates, Fit, Want};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{AxisSlice, ExpertRange, IndexRange, LoraForm, Target, TensorName};

/// How the base stores experts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// Each by itself.
    Each(&'static Words),
    /// As transformers 5 has them in memory.
    Stacked,
}

/// What Mixtral and its kin call the block of their experts.
const SPARSE: &str = "block_sparse_moe";

/// All ways, in the order in which they are tried.
pub(crate) const FORMS: [Form; 3] = [Form::Each(&WORDS[0]), Form::Each(&WORDS[1]), Form::Stacked];

/// A matrix of the experts of a block.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    /// The module that the experts are in.
    block: String,
    part: Part,
}

impl Spot {
    pub(crate) fn new(block: &str, part: Part) -> Self {
        Self { block: block.to_owned(), part }
    }

    /// By the module of a bundle, `mlp.experts.{e}.gate_proj`.
    pub(crate) fn of_bundle(module: &str) -> Option<Self> {
        let (block, word) = module.rsplit_once(".experts.{e}.")?;
        let part = WORDS.iter().find_map(|words| words.part(word))?;
        Some(Self::new(block, part))
    }

    /// The way that is taken without a base.
    pub(crate) fn likely(&self) -> Form {
        let sparse = self.block.rsplit('.').next() == Some(SPARSE);
        Form::Each(if sparse { &WORDS[1] } else { &WORDS[0] })
    }

    /// The tensor that must be in the base.
    pub(crate) fn name(&self, form: Form) -> String {
        let block = &self.block;
        let word = match form {
            Form::Each(words) => return format!("{block}.experts.0.{}.weight", words.of(self.part)),
            Form::Stacked if self.part == Part::Down => "down_proj",
            Form::Stacked => "gate_up_proj",
        };
        // As transformers 5 calls such blocks.
        match block.strip_suffix(SPARSE).filter(|before| before.ends_with('.')) {
            Some(before) => format!("{before}mlp.experts.{word}"),
            None => format!("{block}.experts.{word}"),
        }
    }

    /// The tensor as it is looked for, of so many experts, outputs and inputs.
    pub(crate) fn want(&self, [_, out, input]: [u64; 3], form: Form) -> Want {
        let fit = match form {
            Form::Each(_) => Fit::Exact(vec![out, input]),
            Form::Stacked => Fit::Axes(3),
        };
        Want { name: self.name(form), fit, creates: Creates::Nothing, is_vocabulary: false }
    }

    /// Target, form and orientation of the edit on a tensor of this name, of so many experts, outputs and inputs.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where the base has other experts.
    pub(crate) fn target(
        &self,
        [experts, out, input]: [u64; 3],
        form: Form,
        (disk, base): (&str, Option<&dyn Checkpoint>),
    ) -> Result<(Target, LoraForm, bool), Error> {
        let clash = |target: String, expected: String, found: String| {
            Err(Error::Mismatch { culprits: vec![Clash { target, expected, found }] })
        };
        if let Form::Each(_) = form {
            let name = bundle(disk).unwrap_or_else(|| disk.to_owned());
            base.map_or(Ok(()), |base| all_of(&name, experts, base))?;
            let range = Some(ExpertRange { start: 0, end: experts });
            let target = Target { experts: range, ..Target::whole(TensorName::new(name)?) };
            return Ok((target, LoraForm::Matrix, false));
        }
        let target = Target::whole(TensorName::new(disk)?);
        let info = base.and_then(|base| base.tensors().get(disk));
        let dims = info.map(|info| info.shape.dims().to_vec()).unwrap_or_default();
        let stacks = Stacks::of(base.and_then(|base| base.config()));
        let all = parts(disk.rsplit('.').next().unwrap_or_default());
        let at = all.iter().position(|part| *part == self.part).unwrap_or(0) as u64;
        let rows = out.saturating_mul(all.len() as u64);
        let transposed = match dims[..] {
            [_, x, y] => stacks.is_stored_transposed(self.part == Part::Down, x, y),
            _ => false,
        };
        let wanted = if transposed { [experts, input, rows] } else { [experts, rows, input] };
        let (Some((start, end, step)), true) = (stacks.outputs(at, all.len() as u64, rows), dims == wanted)
        else {
            return clash(disk.to_owned(), format!("{wanted:?}"), format!("{dims:?}"));
        };
        let axis = if transposed { 2 } else { 1 };
        let slice = AxisSlice { axis, ranges: vec![IndexRange { start, end, step }] };
        let slice = if all.len() > 1 { vec![slice] } else { Vec::new() };
        Ok((Target { slice, ..target }, LoraForm::Stacked, transposed))
    }
}

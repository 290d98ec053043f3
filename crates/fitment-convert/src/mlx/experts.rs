//! LoRA on the experts of a layer, which MLX-LM holds as one stack for each of gate, up and down.

use super::folder::Unit;
use super::rules;
use crate::error::{Clash, Error};
use crate::names::{Fit, Want};
use crate::pass::experts::{Part, WORDS, Words, bundle, parts};
use crate::pass::permute::reshaped;
use crate::pass::stacks::{Stacks, text_model};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{AxisSlice, ExpertRange, IndexRange, LoraForm, Target, TensorName};
use fitment_core::tensor::Tensor;
use serde_json::{Map, Value};

/// What MLX-LM calls a block's experts; the second in models of [`OWN_NAME`].
const MODULES: [&str; 2] = ["switch_mlp", "experts"];

/// Models whose experts keep the name that they have in transformers.
const OWN_NAME: &[&str] = &["gpt_oss", "llama4", "llama4_text"];

/// Matrices of experts by MLX-LM's words.
const PARTS: [(&str, Part); 3] =
    [("gate_proj", Part::Gate), ("up_proj", Part::Up), ("down_proj", Part::Down)];

/// How the base stores experts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// Each by itself.
    Each(&'static Words),
    /// As transformers 5 has them in memory.
    Stacked,
}

/// All ways, in the order in which they are tried.
pub(super) const FORMS: [Form; 3] = [Form::Each(&WORDS[0]), Form::Each(&WORDS[1]), Form::Stacked];

/// Where a module of experts is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'m> {
    /// The block that the experts are in.
    block: &'m str,
    part: Part,
}

impl<'m> Place<'m> {
    /// The place of a module, by its path; `None` for what is no module of experts.
    pub(super) fn of(module: &'m str) -> Option<Self> {
        let (experts, word) = module.rsplit_once('.')?;
        let (block, name) = experts.rsplit_once('.')?;
        let (_, part) = PARTS.iter().find(|(known, _)| *known == word).filter(|_| MODULES.contains(&name))?;
        Some(Self { block, part: *part })
    }

    /// The way that is taken without a base.
    pub(super) fn likely(self) -> Form {
        let sparse = self.block.rsplit('.').next() == Some("block_sparse_moe");
        Form::Each(if sparse { &WORDS[1] } else { &WORDS[0] })
    }

    /// The tensor that must be in the base.
    pub(super) fn name(self, form: Form) -> String {
        match form {
            Form::Each(words) => format!("{}.experts.0.{}.weight", self.block, words.of(self.part)),
            Form::Stacked if self.part == Part::Down => format!("{}.experts.down_proj", self.block),
            Form::Stacked => format!("{}.experts.gate_up_proj", self.block),
        }
    }

    pub(super) fn want(self, unit: &Unit<'_>, form: Form) -> Want {
        let fit = match (form, extents(unit)) {
            (Form::Each(_), Some([_, out, input])) => Fit::Exact(vec![out, input]),
            (Form::Each(_), None) => Fit::Axes(2),
            (Form::Stacked, _) => Fit::Axes(3),
        };
        Want { name: self.name(form), fit, may_create: false, is_vocabulary: false }
    }

    /// Target, form and orientation of the edit on a tensor of this name.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where the base has other experts.
    pub(super) fn target(
        self,
        unit: &Unit<'_>,
        form: Form,
        (disk, base): (&str, Option<&dyn Checkpoint>),
    ) -> Result<(Target, LoraForm, bool), Error> {
        let [experts, out, input] = extents(unit).unwrap_or_default();
        let clash = |target: String, expected: String, found: String| {
            Err(Error::Mismatch { culprits: vec![Clash { target, expected, found }] })
        };
        if let Form::Each(_) = form {
            let name = bundle(disk).unwrap_or_else(|| disk.to_owned());
            let next = name.replacen("{e}", &experts.to_string(), 1);
            if base.is_some_and(|base| base.tensors().contains_key(&next)) {
                return clash(name, format!("{experts} experts"), "more".to_owned());
            }
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

/// Experts, outputs and inputs of a unit on experts.
pub(super) fn extents(unit: &Unit<'_>) -> Option<[u64; 3]> {
    let &[experts, out, _] = unit.b.as_ref()?.dims() else { return None };
    Some([experts, out, *unit.a.as_ref()?.dims().last()?])
}

/// Whether a unit is on experts, by its shapes.
pub(super) fn is_of_experts(unit: &Unit<'_>) -> bool {
    [&unit.a, &unit.b].into_iter().flatten().any(|tensor| tensor.dims().len() == 3)
}

/// `lora_a` as `[E, r, in]`: before October 2025 it was `[r·E, in]`.
pub(super) fn stacked_a<'a>(a: &Tensor<'a>, b: &Tensor<'a>) -> Option<Tensor<'a>> {
    let &[experts, _, rank] = b.dims() else { return None };
    match *a.dims() {
        [same, other, _] => (same == experts && other == rank).then(|| a.clone()),
        [rows, input] if Some(rows) == experts.checked_mul(rank) => reshaped(a, &[experts, rank, input]),
        _ => None,
    }
}

/// MLX-LM's module for a bundle, and the rule that is broken where there is none.
pub(super) fn module(bundle: &str, config: &Map<String, Value>) -> Option<String> {
    let (block, rest) = bundle.rsplit_once(".experts.{e}.")?;
    let word = rest.strip_suffix(".weight")?;
    let is = |words: &&Words| PARTS.iter().find(|(_, part)| words.of(*part) == word);
    let (own, _) = WORDS.iter().find_map(|words| is(&words))?;
    let kept = text_model(config).is_some_and(|model| OWN_NAME.contains(&model));
    Some(format!("{block}.{}.{own}", MODULES[usize::from(kept)]))
}

/// The refusal of a module of experts that is not known.
pub(super) fn unknown(module: &str) -> Error {
    Error::Unsupported {
        what: module.to_owned(),
        reason: "is LoRA on stacked experts that are not called switch_mlp".to_owned(),
        hint: rules::X_UNSUPPORTED.remedy.to_owned(),
    }
}

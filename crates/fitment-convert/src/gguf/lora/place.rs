//! From an edit to the tensor of GGUF that it changes, its factors turned to how they lie there.

use super::super::architectures::Experts;
use super::super::facts::Facts;
use super::EMBEDDING;
use super::read::rows;
use super::write::unfit;
use crate::error::Error;
use crate::pass::gather::gathered;
use crate::pass::sum::Product;
use crate::pass::whole::whole;
use crate::tying::find_tied;
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Edit, Lora, LoraForm, Phase, Target};
use std::borrow::Cow;

/// One edit's part of a tensor.
pub(super) struct Piece<'a> {
    /// The tensor without `.weight`.
    pub(super) stem: String,
    /// The edit's.
    pub(super) target: String,
    pub(super) product: Product<'a>,
    /// Of a stack of experts: the first that it is of.
    pub(super) first: Option<u64>,
}

/// Why there is none.
pub(super) enum Stop {
    /// It is left out.
    Loss(Cow<'static, str>),
    /// Nothing is written.
    Error(Error),
}

impl From<&'static str> for Stop {
    fn from(reason: &'static str) -> Self {
        Stop::Loss(reason.into())
    }
}

/// What decides.
pub(super) struct Placer<'p, 'a> {
    pub(super) adapter: &'p Adapter<'a>,
    pub(super) base: Option<&'p dyn Checkpoint>,
    pub(super) facts: Facts,
}

impl<'a> Placer<'_, 'a> {
    /// The part of the tensor that an edit changes.
    pub(super) fn piece(&self, edit: &Edit<'a>, tokens: &[u64]) -> Result<Piece<'a>, Stop> {
        let Edit::Lora(lora) = edit else {
            return Err(Stop::from("llama.cpp's LoRA holds low-rank changes of matrices"));
        };
        holds(lora, tokens)?;
        let target = lora.target.label();
        let architecture = self.facts.architecture;
        let Some(place) = architecture.place(lora.target.name.as_str()) else {
            return Err(Stop::Loss(format!("{} of llama.cpp has no such matrix", architecture.name).into()));
        };
        let stem = place.stem;
        if architecture.is_unapplied(&stem) {
            return Err(Stop::Error(Error::Unsupported {
                what: target,
                reason: format!(
                    "llama.cpp loads {stem} of {}, and passes over it in silence: it computes there without a look at adapters",
                    architecture.name
                ),
                hint: "`fitment apply` it, and convert the result with convert_hf_to_gguf.py".to_owned(),
            }));
        }
        if matches!(&*stem, EMBEDDING | "output") {
            self.check_tie(&lora.target, &stem)?;
        }
        let first = match (place.expert, lora.target.experts) {
            (None, None) => None,
            (Some(Experts::One(expert)), None) => Some(expert),
            (Some(Experts::Range), Some(range)) => Some(range.start),
            _ => return Err(Stop::from("its experts are no list of modules")),
        };
        let product = self.product(lora, &stem)?;
        Ok(Piece { stem, target, product, first })
    }

    /// Factors for the whole matrix `[out, in]`, its rows as GGUF has them.
    fn product(&self, lora: &Lora<'a>, stem: &str) -> Result<Product<'a>, Stop> {
        let misfit =
            || Stop::Error(unfit(&lora.target.label(), "its factors are no matrices of whole bytes"));
        let sliced = || Stop::from("it is of part of a tensor whose extents are not known");
        let dims = self.dims(&lora.target);
        let (mut up, mut down) = match lora.target.slice.is_empty() {
            true => (lora.up.clone(), lora.down.clone()),
            false => whole(lora, &dims.ok_or_else(sliced)?).ok_or_else(sliced)?,
        };
        let stored_transposed = self.facts.architecture.conv1d && stem.starts_with("blk.");
        if lora.transposed != stored_transposed {
            (up, down) = (down.transposed().ok_or_else(misfit)?, up.transposed().ok_or_else(misfit)?);
        }
        let axis = up.dims().len().saturating_sub(2);
        let count = up.dims().get(axis).copied().unwrap_or(0);
        if let Some(sources) = rows(&self.facts, stem, count).map_err(Stop::Error)? {
            let sources: Vec<Option<usize>> = sources.into_iter().map(Some).collect();
            up = gathered(&up, axis, &sources).ok_or_else(misfit)?;
        }
        Ok(Product { up, down, scale: lora.scale })
    }

    /// Extents of a target on disk.
    fn dims(&self, target: &Target) -> Option<Vec<u64>> {
        let name = target.base_names().next()?;
        let at_hand = || Some(self.base?.tensors().get(&name)?.shape.dims().to_vec());
        let recorded = || Some(self.adapter.base.find(None, &name)?.0.shape.as_ref()?.dims().to_vec());
        at_hand().or_else(recorded)
    }

    /// Whether embedding and output are two tensors.
    fn check_tie(&self, target: &Target, stem: &str) -> Result<(), Stop> {
        match (self.is_tied(target), stem) {
            (Some(false), _) => Ok(()),
            (Some(true), EMBEDDING) => Err(Stop::from(
                "the output of the base is tied to it, and llama.cpp would take the factors for those of the output, the wrong way round",
            )),
            (Some(true), _) => Err(Stop::from("the base has no output of its own: it is tied to the embedding")),
            (None, _) => Err(Stop::Error(Error::Ambiguous {
                what: target.label(),
                reason: "llama.cpp takes it only where embedding and output are two tensors, and nothing says whether they are".to_owned(),
                hint: "name the base with --base: a Hugging Face folder with its config.json, or a GGUF file".to_owned(),
            })),
        }
    }

    fn is_tied(&self, target: &Target) -> Option<bool> {
        let name = target.name.as_str();
        if let Some(base) = self.base {
            return Some(find_tied(base.tensors(), base.config()).iter().any(|tied| tied.holds(name)));
        }
        let recorded = &self.adapter.base.tied;
        if recorded.iter().any(|(owner, uses)| owner == &target.name || uses.contains(&target.name)) {
            return Some(true);
        }
        // A LoRA of llama.cpp that has them is of a base where they are two.
        let from_gguf = self.adapter.source.as_ref().is_some_and(|source| source.format == "gguf");
        self.facts.tied.or(from_gguf.then_some(false))
    }
}

/// Whether an edit is one that llama.cpp has.
fn holds(lora: &Lora<'_>, tokens: &[u64]) -> Result<(), Stop> {
    let Target { component, uses, when, .. } = &lora.target;
    if lora.magnitude.is_some() {
        return Err(Stop::from("llama.cpp has no DoRA"));
    }
    if lora.form != LoraForm::Matrix || lora.mid.is_some() {
        return Err(Stop::from("llama.cpp has LoRA on matrices only"));
    }
    if component.is_some() {
        return Err(Stop::from("a GGUF file is of a single model"));
    }
    if !uses.is_empty() {
        return Err(Stop::from("it is of one use of a tied tensor, and llama.cpp has one tensor for both"));
    }
    if !lora.up.dtype().is_weight() || !lora.down.dtype().is_weight() {
        return Err(Stop::from("its factors are no F32, F16 or BF16"));
    }
    let (phase, own) = match when {
        Some(when) => (when.phase, &when.after_tokens[..]),
        None => (Phase::EveryForward, &[][..]),
    };
    if phase != Phase::EveryForward
        || own != tokens
        || tokens.iter().any(|token| u32::try_from(*token).is_err())
    {
        return Err(Stop::from(
            "a GGUF file acts on every token, or all of it from one sequence of tokens on",
        ));
    }
    Ok(())
}

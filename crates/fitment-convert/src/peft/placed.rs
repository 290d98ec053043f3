//! Units on the tensors of a base: copies told from changes, and tied tensors taken apart where a change asks for it.
//!
//! What PEFT computes on a tied base, unmerged (checked against PEFT 0.21.2; its own merge differs in several cases):
//!
//! | in the file | reaches |
//! |---|---|
//! | LoRA on one of the tied modules | that use only |
//! | the same with `ensure_weight_tying` | both, once; the second copy is kept without effect |
//! | `modules_to_save` of one | that use only |
//! | the same with `ensure_weight_tying` | both |
//! | embedding saved by itself (resized, or targeted) | both: it is written into the shared parameter |
//! | token rows of the embedding | both, unless the head has rows of other tokens |
//! | token rows of the head alone | the head |
//! | the bias of a masked-LM head, under either name | both names |

use super::config::Config;
use super::rules;
use super::units::{Change, LoraKind, Reach, Unit};
use super::values::is_copy;
use crate::error::Error;
use crate::names::Names;
use crate::tying::{Tied, flag_scales_logits};
use fitment_core::Finding;
use fitment_core::checkpoint::{Checkpoint, CheckpointError, TensorInfo};
use fitment_core::model::{KeptTensor, Origin};
use fitment_core::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// A unit's place in the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Name on disk.
    pub(super) disk: String,
    /// The uses it reaches; empty for all.
    pub(super) uses: Vec<String>,
    /// The base lacks the tensor.
    pub(super) create: bool,
}

/// Units with their places, and what follows for the whole.
#[derive(Debug, Default)]
pub(super) struct Placed<'a> {
    pub(super) units: Vec<(Unit<'a>, Vec<Place>)>,
    /// Tied tensors come apart: `tie_word_embeddings` must become false.
    pub(super) unties: bool,
    /// Name on disk → names of its other uses, of the tied tensors that are touched.
    pub(super) tied: BTreeMap<String, Vec<String>>,
    /// Embeddings whose tied head changes with them, since the adapter's class has none.
    pub(super) headless: Vec<String>,
}

/// A base, and how the adapter's names lead into it.
pub(super) struct Ground<'b> {
    pub(super) config: &'b Config,
    pub(super) base: &'b dyn Checkpoint,
    pub(super) names: Names,
}

impl<'b> Ground<'b> {
    /// The base tensor that a name of the class is loaded from.
    pub(super) fn source(&self, name: &str) -> Option<(&str, &'b TensorInfo)> {
        let owner = || self.names.on_disk(&self.names.tied_with(name)?.owner);
        let disk = self.names.on_disk(name).or_else(owner)?;
        Some((disk, self.base.tensors().get(disk)?))
    }

    /// Members of a tie that are stored beside the owner with other content are no members: loaders do not tie them.
    pub(super) fn check_stored(&mut self, units: &[Unit<'_>]) -> Result<(), Error> {
        let touched = |tied: &Tied| units.iter().any(|unit| tied.holds(&unit.name));
        let mut groups = std::mem::take(&mut self.names.tied);
        for tied in groups.iter_mut().filter(|tied| touched(tied)) {
            let Some(owner) = self.names.on_disk(&tied.owner) else { continue };
            let owner_bytes = self.base.read(owner).map_err(Error::Base)?;
            let mut equal = Vec::new();
            for member in std::mem::take(&mut tied.stored) {
                let Some(disk) = self.names.on_disk(&member) else { continue };
                if self.base.read(disk).map_err(Error::Base)? == owner_bytes {
                    equal.push(member);
                }
            }
            tied.stored = equal;
        }
        groups.retain(|tied| !tied.stored.is_empty() || !tied.absent.is_empty());
        self.names.tied = groups;
        Ok(())
    }

    /// Moves what is a copy of the base, or adds nothing to what it lacks, out of the units.
    pub(super) fn drop_copies<'a>(
        &self,
        units: Vec<Unit<'a>>,
        kept: &mut Vec<KeptTensor<'a>>,
    ) -> Result<Vec<Unit<'a>>, Error> {
        let mut changes = Vec::with_capacity(units.len());
        for unit in units {
            // With `lora_bias` every module has a bias, one of zeros where the layer has none.
            if let (Change::Add { value, .. }, true, None) =
                (&unit.change, unit.change.adds_nothing(), self.source(&unit.name))
            {
                keep(&unit, value, kept);
                continue;
            }
            if let (Change::Whole { value, is_saved: false }, Some((disk, info))) =
                (&unit.change, self.source(&unit.name))
            {
                let same_shape = *value.shape() == info.shape;
                if same_shape && is_copy(value, info.dtype, &self.base.read(disk).map_err(Error::Base)?) {
                    keep(&unit, value, kept);
                    continue;
                }
            }
            changes.push(unit);
        }
        Ok(changes)
    }

    /// Whether the model of the adapter has a head over the vocabulary, of that name where it is known.
    pub(super) fn has_head(&self, head: Option<&str>, units: &[Unit<'_>]) -> bool {
        let touches = head.is_some_and(|head| units.iter().any(|unit| unit.name == head));
        let architecture = || self.base.config()?.get("architectures")?.get(0)?.as_str();
        let class = self.config.model_class.as_deref().or_else(architecture);
        let headless =
            ["Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"];
        touches
            || match self.config.task_type.as_deref() {
                Some("CAUSAL_LM" | "SEQ_2_SEQ_LM") => true,
                Some(_) => false,
                // `GPT2LMHeadModel` and its like end in the same word as models without a head.
                None => class.is_none_or(|class| {
                    let says_head = ["HeadModel", "HeadsModel"].iter().any(|end| class.ends_with(end));
                    says_head || !headless.iter().any(|end| class.ends_with(end))
                }),
            }
    }

    /// Finds the place of every unit.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for ties that cannot come apart, [`Error::Malformed`] for copies of one parameter that differ.
    pub(super) fn place<'a>(
        &self,
        mut units: Vec<Unit<'a>>,
        kept: &mut Vec<KeptTensor<'a>>,
    ) -> Result<Placed<'a>, Error> {
        for unit in &mut units {
            if self.names.tied_with(&unit.name).is_some_and(Tied::is_bias) {
                unit.reach = Reach::AllUses;
            }
        }
        for tied in &self.names.tied {
            refuse_unused(tied, &units)?;
            units = self.join_wholes(tied, units, kept)?;
            units = self.join_factors(tied, units, kept);
            units = join_rows(tied, units, kept);
        }
        let mut placed = Placed::default();
        let heads: BTreeSet<&str> = self
            .names
            .tied
            .iter()
            .filter(|tied| self.has_head(tied.head.as_deref(), &units))
            .map(|tied| tied.owner.as_str())
            .collect();
        for unit in units {
            let places = match self.names.tied_with(&unit.name) {
                Some(tied) => placed.tied_places(self, tied, &unit, heads.contains(tied.owner.as_str())),
                None => vec![self.plain_place(&unit)],
            };
            placed.units.push((unit, places));
        }
        if placed.unties && flag_scales_logits(self.base.config()) {
            return Err(Error::Unsupported {
                what: "tied embedding".to_owned(),
                reason: "the adapter changes one use of it, and in this model an untied head is also scaled otherwise, so no checkpoint holds the result".to_owned(),
                hint: "serve it unmerged with PEFT".to_owned(),
            });
        }
        if placed.unties {
            for tied in self.names.tied.iter().filter(|tied| tied.is_bias()) {
                placed.store_bias(self, tied)?;
            }
        }
        Ok(placed)
    }

    fn plain_place(&self, unit: &Unit<'_>) -> Place {
        match self.names.on_disk(&unit.name) {
            Some(disk) => Place { disk: disk.to_owned(), uses: Vec::new(), create: false },
            None => Place { disk: unit.name.clone(), uses: Vec::new(), create: true },
        }
    }

    /// One parameter may be saved under the names of several of its uses: equal values are one change.
    fn join_wholes<'a>(
        &self,
        tied: &Tied,
        units: Vec<Unit<'a>>,
        kept: &mut Vec<KeptTensor<'a>>,
    ) -> Result<Vec<Unit<'a>>, Error> {
        let together = |unit: &Unit<'_>| {
            let shared = unit.reach == Reach::AllUses || self.config.ensure_weight_tying;
            tied.holds(&unit.name) && shared && matches!(unit.change, Change::Whole { .. })
        };
        let Some(at) = units
            .iter()
            .position(|u| together(u) && u.name == tied.owner)
            .or(units.iter().position(together))
        else {
            return Ok(units);
        };
        let others = units.iter().filter(|unit| together(unit)).count() - 1;
        let (first, key) = (whole(&units[at]).cloned(), units[at].origin.keys.get("value").cloned());
        let mut joined = Vec::with_capacity(units.len());
        for (index, mut unit) in units.into_iter().enumerate() {
            if index == at {
                if others > 0 {
                    unit.reach = Reach::AllUses;
                }
            } else if together(&unit) {
                let same = whole(&unit).zip(first.as_ref()).is_some_and(|(a, b)| same_bits(a, b));
                if !same {
                    let place = unit.origin.keys.get("value").cloned().unwrap_or_default();
                    let message = format!(
                        "differs from {}, and both are one parameter of this base",
                        key.unwrap_or_default()
                    );
                    return Err(Error::Malformed {
                        findings: vec![Finding::new(&rules::P_TIED_COPIES, place, message)],
                    });
                }
                if let Some(value) = whole(&unit) {
                    keep(&unit, value, kept);
                }
                continue;
            }
            joined.push(unit);
        }
        Ok(joined)
    }

    /// With `ensure_weight_tying` the head's factors are the embedding's, transposed (a rule has checked it).
    fn join_factors<'a>(
        &self,
        tied: &Tied,
        units: Vec<Unit<'a>>,
        kept: &mut Vec<KeptTensor<'a>>,
    ) -> Vec<Unit<'a>> {
        let kind = |unit: &Unit<'_>| match unit.change {
            Change::Lora { kind, .. } if tied.holds(&unit.name) => Some(kind),
            _ => None,
        };
        let has_embedding = units.iter().any(|unit| kind(unit) == Some(LoraKind::Embedding));
        if !self.config.ensure_weight_tying || !has_embedding {
            return units;
        }
        let mut joined = Vec::with_capacity(units.len());
        for mut unit in units {
            match (kind(&unit), &unit.change) {
                (Some(LoraKind::Linear), Change::Lora { up, down, .. }) => {
                    for (role, tensor) in [("up", up), ("down", down)] {
                        if let Some(key) = unit.origin.keys.get(role) {
                            kept.push(KeptTensor { key: key.clone(), value: tensor.clone() });
                        }
                    }
                }
                (Some(LoraKind::Embedding), _) => {
                    unit.reach = Reach::AllUses;
                    joined.push(unit);
                }
                _ => joined.push(unit),
            }
        }
        joined
    }
}

/// Token rows of several uses: equal ones are one change, others stay with their use. Rows of the head alone are its own.
fn join_rows<'a>(tied: &Tied, units: Vec<Unit<'a>>, kept: &mut Vec<KeptTensor<'a>>) -> Vec<Unit<'a>> {
    let rows = |unit: &Unit<'a>| match &unit.change {
        Change::Rows { value, indices, .. } if tied.holds(&unit.name) => {
            Some((value.clone(), indices.clone()))
        }
        _ => None,
    };
    let found: Vec<(Tensor<'a>, Vec<u64>)> = units.iter().filter_map(rows).collect();
    let Some(first) = found.first() else { return units };
    let equal = found.iter().all(|other| other.1 == first.1 && same_bits(&other.0, &first.0));
    let mut is_first = true;
    let mut joined = Vec::with_capacity(units.len());
    for mut unit in units {
        if let Some((value, _)) = rows(&unit) {
            let alone = found.len() == 1;
            if equal && !alone && !std::mem::take(&mut is_first) {
                // In the order of the file: the rows as they were are restored from the config's indices.
                keep_rows(&unit, &value, kept);
                continue;
            }
            let of_head = tied.head.as_deref() == Some(unit.name.as_str());
            unit.reach = if equal && !(alone && of_head) { Reach::AllUses } else { Reach::ThisUse };
        }
        joined.push(unit);
    }
    joined
}

fn keep_rows<'a>(unit: &Unit<'a>, value: &Tensor<'a>, kept: &mut Vec<KeptTensor<'a>>) {
    let Change::Rows { indices, .. } = &unit.change else { return };
    let listed = super::tokens::as_listed(indices, value).unwrap_or_else(|| value.clone().into_owned());
    keep(unit, &listed, kept);
}

fn keep<'a>(unit: &Unit<'a>, value: &Tensor<'a>, kept: &mut Vec<KeptTensor<'a>>) {
    if let Some(key) = unit.origin.keys.get("value") {
        kept.push(KeptTensor { key: key.clone(), value: value.clone() });
    }
}

fn whole<'u, 'a>(unit: &'u Unit<'a>) -> Option<&'u Tensor<'a>> {
    match &unit.change {
        Change::Whole { value, .. } => Some(value),
        Change::Lora { .. } | Change::Add { .. } | Change::Rows { .. } => None,
    }
}

fn same_bits(a: &Tensor<'_>, b: &Tensor<'_>) -> bool {
    a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes() == b.bytes()
}

/// In encoder-decoder models `shared` is never called: what PEFT wraps around it does nothing unmerged, and everything merged.
fn refuse_unused(tied: &Tied, units: &[Unit<'_>]) -> Result<(), Error> {
    let is_shared = tied.owner.rsplit('.').nth(1) == Some("shared");
    let unused = |unit: &&Unit<'_>| {
        let wrapped = matches!(unit.change, Change::Lora { .. } | Change::Whole { is_saved: true, .. });
        is_shared && unit.name == tied.owner && wrapped
    };
    match units.iter().find(unused) {
        None => Ok(()),
        Some(unit) => Err(Error::Unsupported {
            what: unit.module.clone(),
            reason: "PEFT wraps this module, but encoder and decoder call their own: unmerged it does nothing, merged it changes all uses".to_owned(),
            hint: "target encoder.embed_tokens and decoder.embed_tokens when training".to_owned(),
        }),
    }
}

impl Placed<'_> {
    /// Untied, a head no longer finds its bias under the name that is stored: it is stored under the head's own as well.
    fn store_bias(&mut self, ground: &Ground<'_>, tied: &Tied) -> Result<(), Error> {
        let Some((disk, info)) = ground.source(&tied.owner) else { return Ok(()) };
        let at_owner = |unit: &Unit<'_>| tied.holds(&unit.name);
        let is_whole = |unit: &Unit<'_>| whole(unit).is_some();
        let mut own: Vec<Unit<'_>> =
            self.units.iter().map(|(unit, _)| unit).filter(|unit| at_owner(unit)).cloned().collect();
        if !own.iter().any(is_whole) {
            let bytes = ground.base.read(disk).map_err(Error::Base)?.into_owned();
            let value = Tensor::owned(info.dtype, info.shape.clone(), bytes).map_err(|fault| {
                Error::Base(CheckpointError {
                    name: disk.to_owned(),
                    reason: fault.to_string(),
                    source: None,
                })
            })?;
            own.push(Unit {
                name: tied.owner.clone(),
                module: String::new(),
                change: Change::Whole { value, is_saved: false },
                reach: Reach::AllUses,
                origin: Origin::default(),
            });
        }
        self.tied.remove(disk);
        for alias in &tied.absent {
            let place =
                |unit: &Unit<'_>| Place { disk: alias.clone(), uses: Vec::new(), create: is_whole(unit) };
            self.units.extend(own.iter().map(|unit| (unit.clone(), vec![place(unit)])));
        }
        Ok(())
    }

    /// The places of a unit on a tied tensor: at the owner for all that is loaded from it, at each member that is stored.
    fn tied_places(
        &mut self,
        ground: &Ground<'_>,
        tied: &Tied,
        unit: &Unit<'_>,
        has_head: bool,
    ) -> Vec<Place> {
        let Some(owner_disk) = ground.names.on_disk(&tied.owner) else {
            return vec![ground.plain_place(unit)];
        };
        let no_head = |name: &&String| has_head || tied.head.as_ref() != Some(*name);
        let owner_uses: Vec<&String> =
            [&tied.owner].into_iter().chain(&tied.absent).filter(no_head).collect();
        let stored: Vec<&String> = tied.stored.iter().filter(no_head).collect();
        let reached = |name: &String| unit.reach == Reach::AllUses || *name == unit.name;
        let at_owner: Vec<&String> = owner_uses.iter().copied().filter(|name| reached(name)).collect();
        let mut places = Vec::new();
        if at_owner.len() == owner_uses.len() {
            places.push(Place { disk: owner_disk.to_owned(), uses: Vec::new(), create: false });
        } else if !at_owner.is_empty() {
            let on_disk =
                |name: &String| if *name == tied.owner { owner_disk.to_owned() } else { name.clone() };
            let mut uses: Vec<String> = at_owner.into_iter().map(on_disk).collect();
            uses.sort();
            places.push(Place { disk: owner_disk.to_owned(), uses, create: false });
        }
        for member in stored.iter().filter(|name| reached(name)) {
            let disk = ground.names.on_disk(member).unwrap_or(member);
            places.push(Place { disk: disk.to_owned(), uses: Vec::new(), create: false });
        }
        let members = owner_uses.iter().chain(&stored).count();
        self.unties |= unit.reach == Reach::ThisUse && members > 1;
        if !tied.absent.is_empty() {
            self.tied.insert(owner_disk.to_owned(), tied.absent.clone());
        }
        if !has_head && tied.head.as_ref().is_some_and(|head| tied.absent.contains(head)) {
            self.headless.push(owner_disk.to_owned());
        }
        places
    }
}

//! Edits of any origin as PEFT's tensors. What PEFT cannot hold is left out and listed.

use super::draft::{Adapted, Draft, Kind};
use super::experts::is_of_parameter;
use super::{alpha, config};
use crate::error::Error;
use crate::files::{Content, OutputFile};
use crate::loss::Loss;
use crate::pass::experts::apart;
use crate::pass::one::one_each;
use crate::pass::pad::padded;
use crate::peft::folder::{CONFIG, WEIGHTS};
use crate::peft::tokens::as_listed;

use crate::tying::{UNTIED_EMBEDDINGS, is_head_module, is_vocabulary_module};
use crate::write::{WriteOptions, Written};
use fitment_core::Adapter;
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::{Add, ConfigEdit, ConfigValue, Edit, Lora, LoraForm, NormOf, Set, Target};
use fitment_core::tensor::{Bytes, Dtype, Shape, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// Makes a PEFT folder of an adapter.
pub(super) fn export<'a>(adapter: &Adapter<'a>, options: &WriteOptions<'_>) -> Result<Written<'a>, Error> {
    let mut draft = Draft::default();
    let edits = apart(&one_each(adapter, options.base, &mut draft.losses));
    let adapter = &Adapter { edits, ..adapter.clone() };
    let mut export = Export { adapter, base: options.base, draft, dora: has_dora(adapter) };
    // Factors first: what else there is of a module depends on whether it has them.
    export.parameters();
    for edit in &adapter.edits {
        if let (Edit::Lora(lora), None) = (edit, export.unaddressable(edit))
            && !is_of_parameter(lora)
        {
            export.lora(lora);
        }
    }
    export.even_experts();
    for edit in &adapter.edits {
        export.other(edit)?;
    }
    export.complete_biases();
    export.complete_saved()?;
    export.note_facts();
    let text = config::text(adapter, &export.draft, options);
    let draft = export.draft;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let files = vec![
        OutputFile {
            path: CONFIG.to_owned(),
            content: Content::Bytes(Bytes::Shared(text.into_bytes().into())),
        },
        OutputFile {
            path: WEIGHTS.to_owned(),
            content: Content::Container { metadata, tensors: draft.tensors.into_iter().collect() },
        },
    ];
    Ok(Written { files, losses: draft.losses })
}

fn has_dora(adapter: &Adapter<'_>) -> bool {
    adapter.edits.iter().any(|edit| matches!(edit, Edit::Lora(Lora { magnitude: Some(_), .. })))
}

const ATTENTION: &str = "PEFT adapts the `weight` of modules, and nn.MultiheadAttention only as a whole";

pub(super) struct Export<'e, 'a> {
    pub(super) adapter: &'e Adapter<'a>,
    pub(super) base: Option<&'e dyn Checkpoint>,
    pub(super) draft: Draft<'a>,
    pub(super) dora: bool,
}

impl<'a> Export<'_, 'a> {
    /// Why a target cannot be one of PEFT's at all.
    pub(super) fn unaddressable(&self, edit: &Edit<'_>) -> Option<&'static str> {
        let target = edit.target()?;
        let is_stack = matches!(edit, Edit::Lora(lora) if lora.form == LoraForm::Stacked);
        if target.component.is_some() {
            Some("PEFT folders hold an adapter of a single model")
        } else if target.experts.is_some() {
            Some("PEFT knows experts only as modules, and adapts them only by LoRA")
        } else if is_stack && !target.uses.is_empty() {
            Some("PEFT adapts a parameter in all its uses")
        } else if !target.slice.is_empty() && !is_stack {
            Some("PEFT adapts whole tensors, not slices of them")
        } else if target.when.is_some() {
            Some("PEFT's plain adapters act on every token, and this edit has a `when`")
        } else {
            None
        }
    }

    /// The names of the uses that an edit reaches; PEFT treats each use as a module of its own.
    fn uses(&self, target: &Target) -> Vec<String> {
        if !target.uses.is_empty() {
            return target.uses.iter().map(ToString::to_string).collect();
        }
        let others = self.adapter.base.tied.get(&target.name).into_iter().flatten();
        [&target.name].into_iter().chain(others).map(ToString::to_string).collect()
    }

    fn lora(&mut self, lora: &Lora<'a>) {
        for name in self.uses(&lora.target) {
            if let Err(reason) = self.lora_on(lora, &name) {
                self.draft.lose(&name, "lora", reason);
            }
        }
    }

    fn lora_on(&mut self, lora: &Lora<'a>, name: &str) -> Result<(), &'static str> {
        let module = name.strip_suffix(".weight").ok_or(ATTENTION)?;
        if self.draft.modules.contains_key(module) {
            return Err("PEFT holds one LoRA for each module, and this is a further one");
        }
        if self.is_inside_attention(module) {
            return Err(ATTENTION);
        }
        let kind = kind_of(lora, module)?;
        if self.dora != lora.magnitude.is_some() {
            return Err("PEFT's use_dora is for all modules, and only some have a magnitude");
        }
        if let Some(magnitude) = &lora.magnitude {
            let kept = u64::from(kind == Kind::Embedding);
            if magnitude.axis != kept || magnitude.norm_of != NormOf::Merged || magnitude.eps != 0.0 {
                return Err("PEFT's magnitude is over the outputs, by the norm of the merged weight");
            }
        }
        let rank = lora.rank();
        let (alpha, written) = alpha::exact(lora.scale, rank).ok_or("no alpha gives its scale")?;
        let (up, down) = padded(&lora.up, &lora.down, written).ok_or("its factors have no common rank")?;
        if written != rank {
            self.draft.losses.push(Loss::RankPadded { target: name.to_owned(), from: rank, to: written });
        }
        if kind == Kind::Embedding {
            let transposed = up.transposed().zip(down.transposed());
            let (a, b) = transposed.ok_or("its factors are no matrices")?;
            self.draft.put(module, "lora_embedding_A", a);
            self.draft.put(module, "lora_embedding_B", b);
        } else {
            self.draft.put(module, "lora_A.weight", down);
            self.draft.put(module, "lora_B.weight", up);
        }
        if let Some(magnitude) = &lora.magnitude {
            self.draft.put(module, "lora_magnitude_vector", magnitude.value.clone());
        }
        let adapted = Adapted { alpha, rank: written, scale: lora.scale, kind };
        self.draft.modules.insert(module.to_owned(), adapted);
        Ok(())
    }

    /// nn.MultiheadAttention never calls its `out_proj`: PEFT would load factors there and compute without them.
    fn is_inside_attention(&self, module: &str) -> bool {
        let Some(attention) = module.strip_suffix(".out_proj") else { return false };
        let in_proj = format!("{attention}.in_proj_weight");
        let in_base = self.base.is_some_and(|base| base.tensors().contains_key(&in_proj));
        let targets = self.adapter.edits.iter().filter_map(Edit::target);
        in_base || targets.into_iter().any(|target| target.name.as_str() == in_proj)
    }

    /// Everything but factors.
    fn other(&mut self, edit: &Edit<'a>) -> Result<(), Error> {
        if let (Some(reason), Some(target)) = (self.unaddressable(edit), edit.target()) {
            self.draft.lose(&target.label(), edit.kind(), reason);
            return Ok(());
        }
        match edit {
            Edit::Lora(_) => {}
            Edit::Set(set) if set.rows.is_some() => self.rows(set),
            Edit::Set(set) => self.whole(set),
            Edit::Add(add) => self.add(add),
            Edit::Remove(remove) => {
                self.draft.lose(&remove.target.label(), "remove", "PEFT removes no tensors");
            }
            Edit::SparseSet(_) | Edit::SparseAdd(_) | Edit::Bits(_) => {
                let label = edit.target().map(|target| target.label()).unwrap_or_default();
                self.draft.lose(
                    &label,
                    edit.kind(),
                    "PEFT's LoRA holds no changes of single elements or bits",
                );
            }
            Edit::Config(config) => self.config(config),
            Edit::Intervention(edit) => {
                let reason = "it acts on hidden states; with the base at hand (--base) what can be folded into weights is written";
                self.draft.lose(&edit.label(), "intervention", reason);
            }
        }
        Ok(())
    }

    fn add(&mut self, add: &Add<'a>) {
        for name in self.uses(&add.target) {
            if let Err(reason) = self.add_on(add, &name) {
                self.draft.lose(&name, "add", reason);
            }
        }
    }

    /// PEFT adds to the bias of a module with a LoRA, with the LoRA's own scale.
    fn add_on(&mut self, add: &Add<'a>, name: &str) -> Result<(), &'static str> {
        let module = name.strip_suffix(".bias").ok_or("PEFT holds dense updates of biases only")?;
        let adapted =
            self.draft.modules.get(module).ok_or("PEFT holds the update of a bias only beside a LoRA")?;
        let takes_bias = matches!(adapted.kind, Kind::Linear | Kind::Conv1d | Kind::Conv);
        if self.dora || !takes_bias || add.exceptions.is_some() || add.value.dims().len() != 1 {
            return Err("PEFT's lora_bias is for plain LoRA on linear modules and convolutions");
        }
        if adapted.scale.to_bits() != add.scale.to_bits() {
            return Err("PEFT scales the bias as the LoRA of its module, whose scale is another");
        }
        let lacks = |adapted: &Adapted| matches!(adapted.kind, Kind::Embedding | Kind::Parameter);
        if self.draft.adapted().any(|(_, adapted)| lacks(adapted)) {
            return Err("PEFT's lora_bias is for all modules, and embeddings and parameters cannot have it");
        }
        if !self.draft.biased.insert(module.to_owned()) {
            return Err("PEFT holds one update of each bias, and this is a further one");
        }
        self.draft.put(module, "lora_B.bias", add.value.clone());
        Ok(())
    }

    fn whole(&mut self, set: &Set<'a>) {
        if set.reshape {
            return self.draft.lose(
                &set.target.label(),
                "set",
                "PEFT saves modules in the shapes of the model's",
            );
        }
        for name in self.uses(&set.target) {
            let Some((module, param)) = name.rsplit_once('.') else {
                self.draft.lose(&name, "set", "PEFT saves modules, and this parameter is in none");
                continue;
            };
            if self.draft.modules.contains_key(module) {
                // Written into the wrapped module; as a saved one it could have no LoRA.
                self.draft.put(module, &format!("base_layer.{param}"), set.value.clone());
            } else {
                self.draft.put(module, param, set.value.clone());
            }
            match param {
                "bias" => self.draft.bias_only.insert(module.to_owned()),
                _ => self.draft.saved.insert(module.to_owned()),
            };
        }
    }

    fn rows(&mut self, set: &Set<'a>) {
        let label = set.target.name.to_string();
        let result = match &set.target.uses[..] {
            // PEFT spreads the rows of an embedding to its tied head.
            [] => self.rows_on(set, &label),
            [one] if *one != set.target.name || self.head_has_other_rows(set) => {
                self.rows_on(set, one.as_str())
            }
            _ => {
                Err("PEFT changes rows of an embedding in all its uses, unless the head has rows of its own")
            }
        };
        if let Err(reason) = result {
            self.draft.lose(&label, "set", reason);
        }
    }

    /// Rows of other numbers for another use of the same tensor keep PEFT from spreading these.
    fn head_has_other_rows(&self, set: &Set<'_>) -> bool {
        let other = |edit: &Edit<'_>| match edit {
            Edit::Set(other)
                if other.target.name == set.target.name && other.target.uses != set.target.uses =>
            {
                let numbers = |set: &Set<'_>| set.rows.as_ref().map(|rows| rows.bytes().to_vec());
                other.rows.is_some() && numbers(other) != numbers(set)
            }
            _ => false,
        };
        self.adapter.edits.iter().any(other)
    }

    fn rows_on(&mut self, set: &Set<'a>, name: &str) -> Result<(), &'static str> {
        let module = name.strip_suffix(".weight").ok_or("PEFT changes rows of the `weight` of modules")?;
        if self.draft.modules.contains_key(module) || self.draft.tokens.contains_key(module) {
            return Err("PEFT holds one set of rows for a module without LoRA");
        }
        let rows = set.rows.as_ref().ok_or("it has no row numbers")?;
        let numbers = rows.bytes().as_chunks::<8>().0.iter().map(|chunk| u64::from_le_bytes(*chunk));
        let indices: Vec<u64> = numbers.collect();
        let value = as_listed(&indices, &set.value).ok_or("its rows and their numbers do not fit")?;
        self.draft.put(module, "token_adapter.trainable_tokens_delta", value);
        self.draft.tokens.insert(module.to_owned(), indices);
        Ok(())
    }

    /// What PEFT does by itself needs no config edit; the rest has no place.
    fn config(&mut self, edit: &ConfigEdit) {
        let implied = match edit.value {
            // Unmerged, PEFT adapts each use by itself.
            ConfigValue::TieWordEmbeddings(tied) => !tied,
            ConfigValue::VocabSize(_) => self.draft.saved.iter().any(|module| is_vocabulary_module(module)),
            ConfigValue::MlpBias(_) | ConfigValue::AttentionBias(_) => false,
        };
        if edit.component.is_some() || !implied {
            self.draft.lose(edit.value.key(), "config", "PEFT edits no model configs");
        }
    }

    /// `lora_bias` is for all modules: those without one get zeros.
    fn complete_biases(&mut self) {
        if self.draft.biased.is_empty() {
            return;
        }
        let bare = self.draft.modules.keys().filter(|module| !self.draft.biased.contains(*module));
        for module in bare.cloned().collect::<Vec<_>>() {
            let up = self.draft.tensors.get(&format!("{}{module}.lora_B.weight", crate::peft::keys::PREFIX));
            let Some((out, dtype)) = up.and_then(|up| Some((*up.dims().first()?, up.dtype()))) else {
                continue;
            };
            if let Some(zeros) = zeros(&[out], dtype) {
                self.draft.put(&module, "lora_B.bias", zeros);
            }
        }
    }

    /// PEFT loads a saved module only whole: what the adapter does not set of it comes from the base.
    fn complete_saved(&mut self) -> Result<(), Error> {
        let both: BTreeSet<String> = self.draft.saved.intersection(&self.draft.bias_only).cloned().collect();
        self.draft.bias_only.retain(|module| !both.contains(module));
        let adapted = &self.draft.modules;
        self.draft.saved.retain(|module| !adapted.contains_key(module));
        let Some(base) = self.base else { return Ok(()) };
        for module in self.draft.saved.clone() {
            for (name, info) in base.tensors() {
                let param = name.strip_prefix(&module).and_then(|rest| rest.strip_prefix('.'));
                let Some(param) = param.filter(|param| !param.contains('.')) else { continue };
                let key = format!("{}{module}.{param}", crate::peft::keys::PREFIX);
                if self.draft.tensors.contains_key(&key) {
                    continue;
                }
                let bytes = base.read(name).map_err(Error::Base)?.into_owned();
                if let Ok(tensor) = Tensor::owned(info.dtype, info.shape.clone(), bytes) {
                    self.draft.put(&module, param, tensor);
                }
            }
        }
        Ok(())
    }

    fn note_facts(&mut self) {
        if let Some(first) = self.adapter.edits.iter().find_map(Edit::target) {
            self.draft.losses.push(Loss::AssumedNames { target: first.label() });
        }
        if self.adapter.base.is_bound() {
            self.draft.losses.push(Loss::FactsLeft { what: "digests of the base" });
        }
        if !self.adapter.about.is_empty() {
            self.draft.losses.push(Loss::FactsLeft { what: "title, description and licence" });
        }
        if self
            .adapter
            .source
            .as_ref()
            .is_some_and(|source| !source.files.is_empty() || !source.kept.is_empty())
        {
            self.draft.losses.push(Loss::FactsLeft { what: "files and tensors kept from the source" });
        }
    }
}

fn kind_of(lora: &Lora<'_>, module: &str) -> Result<Kind, &'static str> {
    if lora.mid.is_some() {
        return Err("PEFT's LoRA has no middle factor");
    }
    let last = module.rsplit('.').next().unwrap_or(module);
    let is_embedding =
        UNTIED_EMBEDDINGS.contains(&last) || (is_vocabulary_module(module) && !is_head_module(module));
    match (lora.form, is_embedding) {
        (LoraForm::Stacked, _) => Err("PEFT has LoRA on whole stacks of experts only"),
        (LoraForm::Conv, _) => Ok(Kind::Conv),
        (LoraForm::Matrix, true) if !lora.transposed => Ok(Kind::Embedding),
        (LoraForm::Matrix, _) if lora.transposed => Ok(Kind::Conv1d),
        (LoraForm::Matrix, _) => Ok(Kind::Linear),
    }
}

pub(super) fn zeros(dims: &[u64], dtype: Dtype) -> Option<Tensor<'static>> {
    let shape = Shape::new(dims).ok()?;
    let bytes = usize::try_from(shape.byte_len(dtype).ok()?).ok()?;
    Tensor::owned(dtype, shape, vec![0; bytes]).ok()
}

//! LoRA on stacks of experts, as `target_parameters`: by the layout of PEFT from 0.19.1 on.

use super::alpha;
use super::draft::{Adapted, Kind};
use super::export::Export;
use crate::loss::Loss;
use crate::pass::experts::each_summed;
use crate::pass::pad::{padded, padded_stack};
use crate::pass::permute::turned;
use crate::pass::sum::Product;
use crate::pass::whole::whole;
use crate::peft::keys::INNER;
use crate::peft::parameters::{self, Columns, place_in_class};
use fitment_core::model::{Edit, Lora, LoraForm};
use fitment_core::tensor::Tensor;
use std::collections::BTreeMap;

/// Modules whose weight transformers 5 has as a bare parameter.
const ROUTERS: &[&str] = &["gate", "router"];

/// Whether an edit becomes LoRA on a parameter.
pub(super) fn is_of_parameter(lora: &Lora<'_>) -> bool {
    let name = lora.target.name.as_str();
    let module = name.strip_suffix(".weight").and_then(|module| module.rsplit('.').next());
    let is_router = module.is_some_and(|module| ROUTERS.contains(&module));
    let is_plain = lora.form == LoraForm::Matrix && lora.magnitude.is_none() && !lora.transposed;
    lora.form == LoraForm::Stacked || (is_router && is_plain && lora.target.experts.is_none())
}

/// Factors as PEFT stores them, of one parameter.
struct Stored<'a> {
    adapted: Adapted,
    a: Tensor<'a>,
    b: Tensor<'a>,
}

impl<'a> Export<'_, 'a> {
    /// Puts what is on parameters into the draft: the innermost first, as the class has them.
    pub(super) fn parameters(&mut self) {
        let mut edits = BTreeMap::<String, Vec<&Lora<'a>>>::new();
        for edit in &self.adapter.edits {
            if let (Edit::Lora(lora), None) = (edit, self.unaddressable(edit))
                && is_of_parameter(lora)
            {
                edits.entry(lora.target.name.to_string()).or_default().push(lora);
            }
        }
        let mut modules = BTreeMap::<String, Vec<(String, Stored<'a>)>>::new();
        for (name, loras) in edits {
            match self.stored(&name, &loras) {
                Ok(stored) => {
                    let module = name.rsplit_once('.').map_or("", |(module, _)| module).to_owned();
                    modules.entry(module).or_default().push((name, stored));
                }
                Err(reason) => self.draft.lose(&name, "lora", reason),
            }
        }
        for (module, mut parameters) in modules {
            let word = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
            let is_known = parameters.iter().all(|(name, _)| place_in_class(&word(name)).is_some());
            if parameters.len() > 1 && !is_known {
                let reason = "PEFT nests the factors of one module's parameters in the order of its class, which is not known";
                parameters.iter().for_each(|(name, _)| self.draft.lose(name, "lora", reason));
                continue;
            }
            parameters.sort_by_key(|(name, _)| place_in_class(&word(name)));
            let count = parameters.len();
            for (at, (name, Stored { adapted, a, b })) in parameters.into_iter().enumerate() {
                let inner = format!(".{INNER}").repeat(count - 1 - at);
                let place = format!("{module}{inner}");
                self.draft.put(&place, "lora_A.weight", a);
                self.draft.put(&place, "lora_B.weight", b);
                self.draft.parameters.insert(name, adapted);
            }
        }
    }

    fn stored(&mut self, name: &str, loras: &[&Lora<'a>]) -> Result<Stored<'a>, &'static str> {
        const UNFIT: &str = "its factors do not fit together";
        if self.dora {
            return Err("PEFT's use_dora is for all modules, and parameters cannot have it");
        }
        if !name.contains('.') {
            return Err("PEFT wraps the module that a parameter is in, and this one is in none");
        }
        let first = loras.first().ok_or(UNFIT)?;
        if loras.iter().any(|lora| lora.transposed != first.transposed || lora.form != first.form) {
            return Err("its edits do not read the tensor the same way");
        }
        let mut product = self.product(name, loras)?;
        let rank = product.rank();
        let (alpha, written) = alpha::exact(product.scale, rank).ok_or("no alpha gives its scale")?;
        if written != rank {
            let padded = match first.form {
                LoraForm::Stacked => padded_stack(&product.up, &product.down, written),
                LoraForm::Matrix | LoraForm::Conv => padded(&product.up, &product.down, written),
            };
            (product.up, product.down) = padded.ok_or(UNFIT)?;
            self.draft.losses.push(Loss::RankPadded { target: name.to_owned(), from: rank, to: written });
        }
        let adapted = Adapted { alpha, rank: written, scale: product.scale, kind: Kind::Parameter };
        if first.form == LoraForm::Matrix {
            return Ok(Stored { adapted, a: product.down, b: product.up });
        }
        let (a, b) = match self.reads_inputs(first, product.up.dims())? {
            true => (product.down, product.up),
            false => (turned(&product.up).ok_or(UNFIT)?, turned(&product.down).ok_or(UNFIT)?),
        };
        let (a, b) = parameters::flat(&a, &b, Columns::RankMajor).ok_or(UNFIT)?;
        Ok(Stored { adapted, a, b })
    }

    /// The sum of the edits of one parameter, for all of it.
    fn product(&mut self, name: &str, loras: &[&Lora<'a>]) -> Result<Product<'a>, &'static str> {
        const UNFIT: &str = "its factors do not fit together";
        if let [one] = loras
            && one.target.slice.is_empty()
        {
            return Ok(Product { up: one.up.clone(), down: one.down.clone(), scale: one.scale });
        }
        let dims = self.dims(name);
        let mut products = Vec::with_capacity(loras.len());
        for lora in loras {
            let known = dims.clone().unwrap_or_default();
            if known.is_empty() && !lora.target.slice.is_empty() {
                return Err("it is of part of a tensor whose extents are not known");
            }
            let (up, down) = whole(lora, &known).ok_or("its slice does not fit the tensor")?;
            products.push(Product { up, down, scale: lora.scale });
        }
        let (product, rounded) = each_summed(&products).ok_or(UNFIT)?;
        if rounded > 0 {
            let (target, to) = (name.to_owned(), product.up.dtype());
            self.draft.losses.push(Loss::Rounded { target, to, elements: rounded });
        }
        Ok(product)
    }

    /// Extents of a tensor on disk.
    fn dims(&self, name: &str) -> Option<Vec<u64>> {
        let at_hand = || Some(self.base?.tensors().get(name)?.shape.dims().to_vec());
        let recorded = || Some(self.adapter.base.find(None, name)?.0.shape.as_ref()?.dims().to_vec());
        at_hand().or_else(recorded)
    }

    /// Whether PEFT's `A` is over the inputs.
    fn reads_inputs(&self, lora: &Lora<'_>, up: &[u64]) -> Result<bool, &'static str> {
        if !lora.transposed {
            return Ok(true);
        }
        let config = self.base.and_then(|base| base.config()).or(Some(&self.adapter.base.config));
        match config.and_then(parameters::reads_inputs) {
            // PEFT adds such a product without turning it.
            Some(_) if up.first() == Some(&1) => {
                Err("PEFT turns the only expert of a stack stored as [1, in, out]")
            }
            Some(reads) => Ok(reads),
            None => Err(
                "it is stored as [E, in, out], and which way round PEFT has it depends on the model: name the base with --base",
            ),
        }
    }
}

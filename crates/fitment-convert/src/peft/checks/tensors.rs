//! Factors of a module against each other.

use crate::finite;
use crate::peft::config::Refusal;
use crate::peft::contents::{Contents, Copies, Entry, Module};
use crate::peft::keys::Whole;
use crate::peft::units::primary;
use crate::peft::{rules, values};
use fitment_core::Finding;

/// Checks every module's tensors; also finds what the shapes show to be refused.
pub(in crate::peft) fn check_tensors(contents: &Contents<'_>) -> (Vec<Finding>, Option<Refusal>) {
    let mut checker = Checker::default();
    for (path, module) in &contents.modules {
        checker.module(path, module);
    }
    for path in contents.modules.keys().filter(|path| path.ends_with(".out_proj")) {
        checker.attention(path, contents);
    }
    for copies in contents.whole.values() {
        checker.whole(copies);
    }
    (checker.findings, checker.refusal)
}

#[derive(Default)]
struct Checker {
    findings: Vec<Finding>,
    refusal: Option<Refusal>,
}

impl Checker {
    fn report(&mut self, rule: &fitment_core::finding::Rule, key: &str, message: String) {
        self.findings.push(Finding::new(rule, key, message));
    }

    fn module(&mut self, path: &str, module: &Module<'_>) {
        if module.has_lora() && module.tokens.is_some() {
            self.report(
                &rules::P_KEY_TWICE,
                path,
                "has both a LoRA and token rows, which PEFT refuses".to_owned(),
            );
        }
        let faulty = module.entries().filter(|entry| !self.entry(entry)).count();
        let sound = faulty == 0;
        match (module.factors(), module.embedding_factors()) {
            (Some(_), Some(_)) => {
                self.report(
                    &rules::P_KEY_TWICE,
                    path,
                    "has the factors of a linear module and of an embedding".to_owned(),
                );
            }
            (Some(factors), None) if sound => self.linear(path, module, factors),
            (None, Some(factors)) if sound => self.embedding(module, factors),
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => self.incomplete(path, module),
        }
        self.values(module);
    }

    /// Zero extents and dtypes; gives whether the entry can be looked at further.
    fn entry(&mut self, entry: &Entry<'_>) -> bool {
        let tensor = &entry.tensor;
        if !tensor.dtype().is_weight() {
            let message = format!("is {}, expected F64, F32, F16 or BF16", tensor.dtype());
            self.report(&rules::P_DTYPE, &entry.key, message);
            return false;
        }
        if tensor.elements() == 0 {
            self.report(&rules::P_SHAPE, &entry.key, format!("has the empty shape {}", tensor.shape()));
            return false;
        }
        true
    }

    fn incomplete(&mut self, path: &str, module: &Module<'_>) {
        let present: Vec<&str> = module.entries().map(|entry| entry.key.as_str()).collect();
        let Some(first) = present.first().filter(|_| module.tokens.is_none()) else { return };
        let missing = match (&module.a, &module.b, &module.embedding_a, &module.embedding_b) {
            (Some(_), None, ..) => "lora_B",
            (None, Some(_), ..) => "lora_A",
            (_, _, Some(_), None) => "lora_embedding_B",
            (_, _, None, Some(_)) => "lora_embedding_A",
            _ => "both factors",
        };
        self.report(&rules::P_PAIR, first, format!("{path} lacks {missing}"));
    }

    fn linear(&mut self, path: &str, module: &Module<'_>, (a, b): (&Entry<'_>, &Entry<'_>)) {
        let (down, up) = (a.tensor.dims(), b.tensor.dims());
        let axes = down.len();
        let ends_in_ones = up.get(2..).unwrap_or_default().iter().all(|dim| *dim == 1);
        if !(2..=5).contains(&axes) || up.len() != axes || !ends_in_ones {
            let message = format!(
                "{} and lora_B {} are no factors: expected [r, in] and [out, r], or convolutions of such",
                a.tensor.shape(),
                b.tensor.shape()
            );
            self.report(&rules::P_SHAPE, &a.key, message);
            return;
        }
        let (rank, out) = (down[0], up[0]);
        if axes > 2 && up[1] < rank && rank.is_multiple_of(up[1]) {
            let reason =
                "in a convolution with groups, lora_A sees all inputs: no grouped weight holds the product";
            let hint = "serve it unmerged with PEFT, which refuses to merge it too";
            self.refusal.get_or_insert_with(|| Refusal::new(format!("{path} (groups > 1)"), reason, hint));
            return;
        }
        if up[1] != rank {
            let message = format!("has {rank} rows, lora_B {} columns: the ranks differ", up[1]);
            self.report(&rules::P_SHAPE, &a.key, message);
        }
        self.one_each(module.bias.as_ref(), out, "output");
        self.one_each(module.magnitude.as_ref(), out, "output");
    }

    fn embedding(&mut self, module: &Module<'_>, (a, b): (&Entry<'_>, &Entry<'_>)) {
        let (&[rank, _], &[dim, other]) = (a.tensor.dims(), b.tensor.dims()) else {
            let message = format!(
                "{} and lora_embedding_B {} are no factors: expected [r, vocab] and [dim, r]",
                a.tensor.shape(),
                b.tensor.shape()
            );
            return self.report(&rules::P_SHAPE, &a.key, message);
        };
        if rank != other {
            let message = format!("has {rank} rows, lora_embedding_B {other} columns: the ranks differ");
            self.report(&rules::P_SHAPE, &a.key, message);
        }
        self.one_each(module.magnitude.as_ref(), dim, "dimension");
    }

    fn one_each(&mut self, entry: Option<&Entry<'_>>, extent: u64, what: &str) {
        let Some(entry) = entry.filter(|entry| entry.tensor.elements() != extent) else { return };
        let message = format!("has the shape {}, the module has {extent} {what}s", entry.tensor.shape());
        self.report(&rules::P_SHAPE, &entry.key, message);
    }

    fn values(&mut self, module: &Module<'_>) {
        let factors = [&module.a, &module.b, &module.embedding_a, &module.embedding_b];
        let factors =
            factors.into_iter().flatten().filter_map(|entry| values::check_factor(&entry.key, &entry.tensor));
        self.findings.extend(factors);
        let others = [&module.bias, &module.tokens];
        let others =
            others.into_iter().flatten().filter_map(|entry| finite::check(&entry.key, &entry.tensor));
        self.findings.extend(others);
        let magnitude = module.magnitude.as_ref();
        self.findings.extend(magnitude.and_then(|entry| values::check_magnitude(&entry.key, &entry.tensor)));
    }

    /// An attention module has its own factors beside those of its output projection, and no bias of them.
    fn attention(&mut self, out_proj: &str, contents: &Contents<'_>) {
        let Some(projection) = contents.modules.get(out_proj).filter(|module| module.in_attention) else {
            return;
        };
        let path = out_proj.strip_suffix(".out_proj").unwrap_or(out_proj);
        let module = contents.modules.get(path);
        if module.is_none_or(|module| module.factors().is_none()) {
            let message = "nn.MultiheadAttention lacks lora_A or lora_B for in_proj_weight".to_owned();
            self.report(&rules::P_PAIR, path, message);
        }
        let has_bias = projection.bias.is_some() || module.is_some_and(|module| module.bias.is_some());
        if has_bias {
            let reason = "PEFT does not compute with lora_bias inside nn.MultiheadAttention as elsewhere";
            let hint = "serve it unmerged with PEFT";
            self.refusal.get_or_insert_with(|| Refusal::new(format!("{path} (lora_bias)"), reason, hint));
        }
    }

    fn whole(&mut self, copies: &Copies<'_>) {
        for entry in copies.values() {
            if self.entry(entry) {
                self.findings.extend(finite::check(&entry.key, &entry.tensor));
            }
        }
        let primary = primary(copies).and_then(|kind| copies.get(&kind));
        let others = copies.iter().filter(|(kind, _)| **kind != Whole::Original).map(|(_, entry)| entry);
        let Some(primary) = primary else { return };
        let differing = others.filter(|entry| {
            let (a, b) = (&entry.tensor, &primary.tensor);
            a.dtype() != b.dtype() || a.shape() != b.shape() || a.bytes() != b.bytes()
        });
        for entry in differing {
            let message = format!("is saved as {} too, with other values", primary.key);
            self.findings.push(Finding::new(&rules::P_KEY_TWICE, &entry.key, message));
        }
    }
}

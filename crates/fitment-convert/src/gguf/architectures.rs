//! What llama.cpp and transformers call the same tensors, in each architecture whose rows and names are known here.
//!
//! Names and orders are those of `gguf-py` 0.19 and of llama.cpp's converter (package llama-cpp-python 0.3.36), of the models in
//! transformers 5.23; what llama.cpp leaves unapplied is by the plain products in its `src/models`. A new architecture is one line.

use crate::pass::rows::RowOrder;

/// One value of `general.architecture`.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The value.
    pub(crate) name: &'static str,
    /// `model_type` of the models that llama.cpp takes for it.
    pub(crate) model_types: &'static [&'static str],
    /// What stands before the number of a block in transformers, such as `model.layers`.
    blocks: &'static str,
    /// Modules outside the blocks: GGUF's word, transformers' path.
    outer: &'static [Names],
    /// Modules of a block. Where two of transformers' are one here, the first is written.
    block: &'static [Names],
    /// Modules of each expert of a block, with `{e}` for its number; in GGUF all are one tensor.
    experts: &'static [Names],
    /// Which modules have their rows in another order.
    order: Order,
    /// Linear layers of a block are Conv1D in transformers: stored `[in, out]`.
    pub(crate) conv1d: bool,
    /// GGUF's words for what llama.cpp computes without a look at adapters.
    unapplied: &'static [&'static str],
    /// The output is always the embedding.
    always_tied: bool,
}

/// GGUF's word and transformers' path.
type Names = (&'static str, &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Same,
    /// `attn_q` and `attn_k`: [`RowOrder::HalvesInTurn`].
    Rotary,
    /// `attn_qkv`: [`RowOrder::PartsTogether`], a group for each head.
    ByHead,
    /// The same, a group for each head of keys.
    ByGroup,
}

/// Where a module of transformers lies in GGUF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The tensor without `.weight`, such as `blk.0.attn_q`.
    pub(crate) stem: String,
    /// The expert of a stacked tensor that it is.
    pub(crate) expert: Option<Experts>,
}

/// Which experts a name of transformers means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Experts {
    /// One.
    One(u64),
    /// Those that stand for `{e}`.
    Range,
}

/// The numbers of a model that decide about rows and stacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) heads: Option<u64>,
    pub(crate) key_heads: Option<u64>,
    /// Rows of one head.
    pub(crate) head_width: Option<u64>,
    pub(crate) experts: Option<u64>,
}

/// What may stand before the list of blocks, part by part.
const ROOTS: &[&str] = &["model", "language_model", "transformer", "gpt_neox"];

const LLAMA_OUTER: &[Names] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

macro_rules! llama_block {
    ($($more:expr),* $(,)?) => {
        &[
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("attn_norm", "input_layernorm"),
            $($more),*
        ]
    };
}

const QWEN_EXPERTS: &[Names] = &[
    ("ffn_gate_exps", "mlp.experts.{e}.gate_proj"),
    ("ffn_down_exps", "mlp.experts.{e}.down_proj"),
    ("ffn_up_exps", "mlp.experts.{e}.up_proj"),
];

const FFN_NORM: Names = ("ffn_norm", "post_attention_layernorm");
const QK_NORMS: [Names; 2] = [("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];
const GEMMA_NORMS: [Names; 3] = [
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Llama's line; others say where they differ.
const LLAMA: Architecture = Architecture {
    name: "llama",
    model_types: &["llama", "mistral", "mixtral"],
    blocks: "model.layers",
    outer: LLAMA_OUTER,
    block: llama_block![FFN_NORM, ("ffn_gate_inp", "block_sparse_moe.gate"), ("ffn_gate_inp", "mlp.gate")],
    experts: &[
        ("ffn_gate_exps", "block_sparse_moe.experts.{e}.w1"),
        ("ffn_down_exps", "block_sparse_moe.experts.{e}.w2"),
        ("ffn_up_exps", "block_sparse_moe.experts.{e}.w3"),
    ],
    order: Order::Rotary,
    conv1d: false,
    unapplied: &[],
    always_tied: false,
};

const QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_types: &["qwen2"],
    block: llama_block![FFN_NORM],
    experts: &[],
    order: Order::Same,
    ..LLAMA
};

/// Every architecture.
pub(crate) const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture { name: "smollm3", model_types: &["smollm3"], order: Order::Rotary, ..QWEN2 },
    Architecture { name: "granite", model_types: &["granite"], order: Order::Rotary, ..QWEN2 },
    QWEN2,
    Architecture {
        name: "qwen2moe",
        model_types: &["qwen2_moe"],
        block: llama_block![
            FFN_NORM,
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
            ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
            ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
            ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
        ],
        experts: QWEN_EXPERTS,
        ..QWEN2
    },
    Architecture {
        name: "qwen3",
        model_types: &["qwen3"],
        block: llama_block![FFN_NORM, QK_NORMS[0], QK_NORMS[1]],
        ..QWEN2
    },
    Architecture {
        name: "qwen3moe",
        model_types: &["qwen3_moe"],
        block: llama_block![FFN_NORM, QK_NORMS[0], QK_NORMS[1], ("ffn_gate_inp", "mlp.gate")],
        experts: QWEN_EXPERTS,
        ..QWEN2
    },
    Architecture { name: "gemma", model_types: &["gemma"], always_tied: true, ..QWEN2 },
    Architecture {
        name: "gemma2",
        model_types: &["gemma2"],
        block: llama_block![GEMMA_NORMS[0], GEMMA_NORMS[1], GEMMA_NORMS[2]],
        always_tied: true,
        ..QWEN2
    },
    Architecture {
        name: "gemma3",
        model_types: &["gemma3", "gemma3_text"],
        block: llama_block![GEMMA_NORMS[0], GEMMA_NORMS[1], GEMMA_NORMS[2], QK_NORMS[0], QK_NORMS[1]],
        ..QWEN2
    },
    Architecture {
        name: "phi2",
        model_types: &["phi"],
        outer: &[
            ("token_embd", "model.embed_tokens"),
            ("output_norm", "model.final_layernorm"),
            ("output", "lm_head"),
        ],
        block: &[
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.dense"),
            ("ffn_up", "mlp.fc1"),
            ("ffn_down", "mlp.fc2"),
            ("attn_norm", "input_layernorm"),
        ],
        ..QWEN2
    },
    Architecture {
        name: "phi3",
        model_types: &["phi3"],
        block: &[
            ("attn_qkv", "self_attn.qkv_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_up", "mlp.gate_up_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("attn_norm", "input_layernorm"),
            FFN_NORM,
        ],
        ..QWEN2
    },
    Architecture {
        name: "gpt2",
        model_types: &["gpt2"],
        blocks: "transformer.h",
        outer: &[
            ("token_embd", "transformer.wte"),
            ("position_embd", "transformer.wpe"),
            ("output_norm", "transformer.ln_f"),
            ("output", "lm_head"),
        ],
        block: &[
            ("attn_qkv", "attn.c_attn"),
            ("attn_output", "attn.c_proj"),
            ("ffn_up", "mlp.c_fc"),
            ("ffn_down", "mlp.c_proj"),
            ("attn_norm", "ln_1"),
            ("ffn_norm", "ln_2"),
        ],
        conv1d: true,
        ..QWEN2
    },
    Architecture {
        name: "gptneox",
        model_types: &["gpt_neox"],
        blocks: "gpt_neox.layers",
        outer: &[
            ("token_embd", "gpt_neox.embed_in"),
            ("output_norm", "gpt_neox.final_layer_norm"),
            ("output", "embed_out"),
        ],
        block: &[
            ("attn_qkv", "attention.query_key_value"),
            ("attn_output", "attention.dense"),
            ("ffn_up", "mlp.dense_h_to_4h"),
            ("ffn_down", "mlp.dense_4h_to_h"),
            ("attn_norm", "input_layernorm"),
            FFN_NORM,
        ],
        order: Order::ByHead,
        ..QWEN2
    },
    Architecture {
        name: "falcon",
        model_types: &["falcon"],
        blocks: "transformer.h",
        outer: &[
            ("token_embd", "transformer.word_embeddings"),
            ("output_norm", "transformer.ln_f"),
            ("output", "lm_head"),
        ],
        block: &[
            ("attn_qkv", "self_attention.query_key_value"),
            ("attn_output", "self_attention.dense"),
            ("ffn_up", "mlp.dense_h_to_4h"),
            ("ffn_down", "mlp.dense_4h_to_h"),
            ("attn_norm", "input_layernorm"),
            ("attn_norm", "ln_mlp"),
            ("attn_norm_2", "ln_attn"),
        ],
        order: Order::ByGroup,
        ..QWEN2
    },
    Architecture {
        name: "deepseek2",
        model_types: &["deepseek_v2", "deepseek_v3"],
        block: &[
            ("attn_q", "self_attn.q_proj"),
            ("attn_q_a", "self_attn.q_a_proj"),
            ("attn_q_b", "self_attn.q_b_proj"),
            ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
            ("attn_kv_b", "self_attn.kv_b_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
            ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
            ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
        ],
        experts: QWEN_EXPERTS,
        unapplied: &[
            "attn_q",
            "attn_q_a",
            "attn_q_b",
            "attn_kv_a_mqa",
            "attn_kv_b",
            "attn_k_b",
            "attn_v_b",
            "output",
        ],
        ..QWEN2
    },
];

impl Architecture {
    /// The line of a value of `general.architecture`.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|line| line.name == name)
    }

    /// The line of a `model_type`.
    pub(crate) fn of_model(model_type: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|line| line.model_types.contains(&model_type))
    }

    /// Where a weight of transformers lies, by its name on disk. An expert's may have `{e}` for the number.
    pub(crate) fn place(&self, name: &str) -> Option<Place> {
        let module = name.strip_suffix(".weight")?;
        let rest = without_root(module);
        if let Some((word, _)) = self.outer.iter().find(|(_, path)| without_root(path) == rest) {
            return Some(Place { stem: (*word).to_owned(), expert: None });
        }
        let list = without_root(self.blocks);
        let (number, inside) = rest.strip_prefix(list)?.strip_prefix('.')?.split_once('.')?;
        let stem = |word: &str| format!("blk.{}.{word}", plain_number(number).unwrap_or_default());
        plain_number(number)?;
        if let Some((word, _)) = self.block.iter().find(|(_, path)| *path == inside) {
            return Some(Place { stem: stem(word), expert: None });
        }
        self.experts.iter().find_map(|(word, path)| {
            let (before, after) = path.split_once("{e}")?;
            let number = inside.strip_prefix(before)?.strip_suffix(after)?;
            let expert = if number == "{e}" { Experts::Range } else { Experts::One(plain_number(number)?) };
            Some(Place { stem: stem(word), expert: Some(expert) })
        })
    }

    /// The module of transformers behind a tensor of GGUF without `.weight`: its path, with `{e}` for a stack of experts.
    pub(crate) fn module(&self, stem: &str) -> Option<String> {
        if let Some((_, path)) = self.outer.iter().find(|(word, _)| *word == stem) {
            return Some((*path).to_owned());
        }
        let (number, word) = stem.strip_prefix("blk.")?.split_once('.')?;
        let number = plain_number(number)?;
        let (_, path) = self.block.iter().chain(self.experts).find(|(known, _)| *known == word)?;
        Some(format!("{}.{number}.{path}", self.blocks))
    }

    /// Whether llama.cpp computes with a tensor without a look at adapters.
    pub(crate) fn is_unapplied(&self, stem: &str) -> bool {
        self.unapplied.contains(&word(stem))
    }

    /// Whether a base without a head of its own is the only one.
    pub(crate) fn is_always_tied(&self) -> bool {
        self.always_tied
    }

    /// How GGUF lists the rows of a tensor; `Ok(None)` for as transformers does.
    ///
    /// # Errors
    /// What number of the model is not known.
    pub(crate) fn order(&self, stem: &str, numbers: &Numbers) -> Result<Option<RowOrder>, &'static str> {
        let heads = || numbers.heads.filter(|heads| *heads > 0).ok_or("heads");
        let key_heads = || numbers.key_heads.filter(|heads| *heads > 0).ok_or("heads of keys");
        Ok(match (self.order, word(stem)) {
            (Order::Rotary, "attn_q") => Some(RowOrder::HalvesInTurn { heads: heads()? }),
            (Order::Rotary, "attn_k") => Some(RowOrder::HalvesInTurn { heads: key_heads()? }),
            (Order::ByHead, "attn_qkv") => Some(RowOrder::PartsTogether { groups: heads()?, queries: 1 }),
            (Order::ByGroup, "attn_qkv") => {
                let (heads, groups) = (heads()?, key_heads()?);
                Some(RowOrder::PartsTogether { groups, queries: heads / groups })
            }
            _ => None,
        })
    }
}

/// A tensor's word without its block.
fn word(stem: &str) -> &str {
    stem.rsplit('.').next().unwrap_or(stem)
}

/// A path without what wraps the list of blocks.
fn without_root(path: &str) -> &str {
    let mut rest = path;
    while let Some((part, behind)) = rest.split_once('.')
        && ROOTS.contains(&part)
    {
        rest = behind;
    }
    rest
}

/// A number as both sides write it: digits, no leading zero.
fn plain_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::{ARCHITECTURES, Architecture, Experts, Numbers, Place};
    use crate::pass::rows::RowOrder;
    use std::collections::BTreeSet;

    #[test]
    fn every_line_is_one_way_back_and_forth() {
        for line in ARCHITECTURES {
            let mut stems = BTreeSet::new();
            let inner = line.block.iter().chain(line.experts).map(|(word, _)| format!("blk.7.{word}"));
            for stem in line.outer.iter().map(|(word, _)| (*word).to_owned()).chain(inner) {
                let module = line.module(&stem).unwrap();
                let place = line.place(&format!("{module}.weight")).unwrap();
                assert_eq!(place.stem, stem, "{}", line.name);
                stems.insert(stem);
            }
            assert!(stems.len() > 5);
        }
        let types: Vec<&str> = ARCHITECTURES.iter().flat_map(|line| line.model_types).copied().collect();
        assert_eq!(types.iter().collect::<BTreeSet<_>>().len(), types.len());
    }

    #[test]
    fn wrappers_are_passed_and_other_towers_are_not() {
        let gemma = Architecture::named("gemma3").unwrap();
        let stem = |name: &str| gemma.place(name).map(|place| place.stem);
        for name in ["model.layers.3.mlp.up_proj", "language_model.model.layers.3.mlp.up_proj"] {
            assert_eq!(stem(&format!("{name}.weight")).as_deref(), Some("blk.3.ffn_up"));
        }
        assert_eq!(stem("model.vision_tower.encoder.layers.3.mlp.up_proj.weight"), None);
        assert_eq!(stem("model.layers.03.mlp.up_proj.weight"), None);
        let gpt2 = Architecture::of_model("gpt2").unwrap();
        assert_eq!(gpt2.place("h.0.attn.c_attn.weight").unwrap().stem, "blk.0.attn_qkv");
        assert_eq!(gpt2.place("wte.weight").unwrap().stem, "token_embd");
    }

    #[test]
    fn experts_have_a_number_or_stand_for_all() {
        let llama = Architecture::of_model("mixtral").unwrap();
        let place =
            |name: &str| llama.place(&format!("model.layers.1.block_sparse_moe.experts.{name}.weight"));
        let expert = |expert| Some(Place { stem: "blk.1.ffn_down_exps".to_owned(), expert: Some(expert) });
        assert_eq!(place("5.w2"), expert(Experts::One(5)));
        assert_eq!(place("{e}.w2"), expert(Experts::Range));
        assert_eq!(place("x.w2"), None);
    }

    #[test]
    fn orders_need_the_numbers_of_heads() {
        let numbers = Numbers { heads: Some(4), key_heads: Some(2), ..Numbers::default() };
        let order =
            |name: &str, stem: &str, numbers| Architecture::named(name).unwrap().order(stem, &numbers);
        let halves = |heads| Ok(Some(RowOrder::HalvesInTurn { heads }));
        assert_eq!(order("llama", "blk.0.attn_q", numbers), halves(4));
        assert_eq!(order("llama", "blk.0.attn_k", numbers), halves(2));
        assert_eq!(order("llama", "blk.0.attn_v", numbers), Ok(None));
        assert_eq!(order("qwen2", "blk.0.attn_q", Numbers::default()), Ok(None));
        assert_eq!(order("llama", "blk.0.attn_k", Numbers::default()), Err("heads of keys"));
        let parts = |groups, queries| Ok(Some(RowOrder::PartsTogether { groups, queries }));
        assert_eq!(order("falcon", "blk.0.attn_qkv", numbers), parts(2, 2));
        assert_eq!(order("gptneox", "blk.0.attn_qkv", numbers), parts(4, 1));
    }
}

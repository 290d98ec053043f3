//! The servers and their rules. A rule's `how` ends the sentence "NAME refuses WHAT: …".

use super::{Effect, Fact, Fix, Server, ServerRule};
use fitment_convert::FormatId;

/// Every server that `--for` knows.
pub const SERVERS: &[Server] = &[
    Server {
        name: "vllm",
        title: "vLLM",
        version: "0.33.0",
        takes: FormatId::Peft,
        source: "vllm/lora/peft_helper.py, lora_model.py, utils.py and config/lora.py of its source package",
        rules: VLLM,
    },
    Server {
        name: "sglang",
        title: "SGLang",
        version: "0.5.23",
        takes: FormatId::Peft,
        source: "sglang/srt/lora/lora.py, lora_config.py, lora_manager.py, mem_pool.py and utils.py of its package",
        rules: SGLANG,
    },
    Server {
        name: "tgi",
        title: "Text Generation Inference",
        version: "3",
        takes: FormatId::Peft,
        source: "its documentation and reports of its users; its source was not at hand",
        rules: TGI,
    },
    Server {
        name: "lorax",
        title: "LoRAX",
        version: "0.12",
        takes: FormatId::Peft,
        source: "its documentation and reports of its users; its source was not at hand",
        rules: TGI,
    },
    Server {
        name: "mistralrs",
        title: "mistral.rs",
        version: "of August 2026",
        takes: FormatId::Peft,
        source: "its documentation and what its reader of PEFT folders is known to refuse; its source was not at hand",
        rules: MISTRALRS,
    },
    Server {
        name: "llama.cpp",
        title: "llama.cpp",
        version: "of October 2026",
        takes: FormatId::Gguf,
        source: "convert_lora_to_gguf.py and llama-adapter.cpp at 0c1e570",
        rules: &[],
    },
    Server {
        name: "mlx",
        title: "MLX-LM",
        version: "0.32.2",
        takes: FormatId::Mlx,
        source: "mlx_lm/tuner/utils.py",
        rules: &[],
    },
    Server {
        name: "ollama",
        title: "Ollama",
        version: "with a GGUF adapter",
        takes: FormatId::Gguf,
        source: "the ADAPTER line of a Modelfile, which loads what llama.cpp does",
        rules: &[],
    },
];

/// The server of a name.
pub fn find(name: &str) -> Option<&'static Server> {
    SERVERS.iter().find(|server| server.name == name)
}

const fn refuses(fact: Fact, how: &'static str, fix: Fix) -> ServerRule {
    ServerRule { fact, effect: Effect::Refuses, how, fix }
}

const fn ignores(fact: Fact, how: &'static str, fix: Fix) -> ServerRule {
    ServerRule { fact, effect: Effect::Ignores, how, fix }
}

const fn misreads(fact: Fact, how: &'static str, fix: Fix) -> ServerRule {
    ServerRule { fact, effect: Effect::ComputesOtherwise, how, fix }
}

/// Initialisations that leave the base as it is.
const PLAIN_INITS: &[&str] = &["gaussian", "eva", "orthogonal", "mica"];

/// Initialisations that vLLM takes; the base that `lora_ga` trained on is changed only while it trains.
const VLLM_INITS: &[&str] = &["gaussian", "eva", "orthogonal", "mica", "lora_ga"];

const CONVERTED: Fix = Fix::Other(
    "convert it with PEFT's `path_initial_model_for_weight_conversion`, or serve the changed base",
);

/// Of methods that this version does not read.
const MERGED: Fix = Fix::Other("merge it with PEFT's `merge_and_unload`, and serve the result");

const PART_OF_THE_TIME: Fix = Fix::Other("no plain LoRA does the same: serve it where it is supported");

const TODAYS: Fix = Fix::Other("`fitment convert --to peft` writes them so");

const REPEATED: Fix = Fix::Other("repeat the layers in the base, and train or rename for that");

const SMALLER: Fix = Fix::Other("`fitment merge ADAPTER --rank R` makes the nearest of a smaller rank");

const VLLM: &[ServerRule] = &[
    refuses(Fact::OtherMethod, "it loads LoRA", MERGED),
    refuses(Fact::Field("use_dora"), "it does not support DoRA", Fix::Apply),
    refuses(Fact::Field("lora_bias"), "it does not support LoRA bias", Fix::Apply),
    refuses(Fact::Biases, "it does not support biases of the adapter", Fix::Apply),
    refuses(
        Fact::SavedModules(&["classifier", "score"]),
        "it takes no whole module but classifier and score",
        Fix::Apply,
    ),
    refuses(Fact::Init(VLLM_INITS), "such a start changes the base's weights", CONVERTED),
    refuses(Fact::Field("alora_invocation_tokens"), "it does not support Activated LoRA", PART_OF_THE_TIME),
    refuses(Fact::Field("layer_replication"), "it does not repeat layers", REPEATED),
    refuses(Fact::Field("use_bdlora"), "it does not support BD-LoRA", MERGED),
    refuses(Fact::Field("use_qalora"), "it does not support QALoRA", MERGED),
    refuses(Fact::OtherTensors, "it has no such weight", Fix::Apply),
    refuses(Fact::Convolutions, "it has LoRA of linear layers and embeddings", Fix::Apply),
    refuses(Fact::RankAbove(512), "its largest --max-lora-rank is 512", SMALLER),
    ServerRule {
        fact: Fact::RankSetting(16, &[1, 8, 16, 32, 64, 128, 256, 320, 512]),
        effect: Effect::NeedsSetting,
        how: "without it, ranks above 16 are refused",
        fix: Fix::Other("start the server with it"),
    },
    ServerRule {
        fact: Fact::StackedExperts,
        effect: Effect::NeedsSetting,
        how: "only models that it marks as having such experts load them",
        fix: Fix::Other(
            "`fitment convert --to peft --preset servable` writes each expert's matrices for the others",
        ),
    },
    misreads(Fact::OtherExperts, "it takes them for those of PEFT 0.19.1 and later", TODAYS),
];

const SGLANG: &[ServerRule] = &[
    refuses(Fact::OtherMethod, "it loads LoRA", MERGED),
    refuses(Fact::Field("use_dora"), "it does not support DoRA", Fix::Apply),
    refuses(Fact::PatternTargets, "it takes a list, \"all\" or \"all-linear\"", Fix::Servable),
    refuses(Fact::RanksDiffer, "its buffers have the config's rank for all modules", Fix::Servable),
    refuses(Fact::Field("lora_bias"), "a bias takes the place of lora_B in its buffers", Fix::Apply),
    refuses(Fact::Biases, "a bias takes the place of lora_B in its buffers", Fix::Apply),
    misreads(Fact::RsLora, "its scale is lora_alpha / r, always", Fix::Servable),
    misreads(
        Fact::Field("alpha_pattern"),
        "its scale is lora_alpha / r, the same for all modules",
        Fix::Servable,
    ),
    misreads(Fact::Init(PLAIN_INITS), "such a start changes the base's weights", CONVERTED),
    misreads(Fact::Field("alora_invocation_tokens"), "it adds the update at every token", PART_OF_THE_TIME),
    ignores(Fact::SavedModules(&[]), "whole modules are not loaded", Fix::Apply),
    ignores(Fact::Field("trainable_token_indices"), "rows of embeddings are not loaded", Fix::Apply),
    ignores(Fact::Convolutions, "it has LoRA of linear layers and embeddings", Fix::Apply),
];

const TGI: &[ServerRule] = &[
    refuses(Fact::OtherMethod, "it loads LoRA", MERGED),
    ignores(Fact::Field("use_dora"), "it reads lora_A and lora_B alone", Fix::Apply),
    misreads(
        Fact::Field("rank_pattern"),
        "its scale is that of the config's r for all modules",
        Fix::Servable,
    ),
    misreads(
        Fact::Field("alpha_pattern"),
        "its scale is that of the config's lora_alpha for all modules",
        Fix::Servable,
    ),
    misreads(Fact::Init(PLAIN_INITS), "such a start changes the base's weights", CONVERTED),
    misreads(Fact::Field("alora_invocation_tokens"), "it adds the update at every token", PART_OF_THE_TIME),
    ignores(Fact::Field("lora_bias"), "it reads lora_A and lora_B alone", Fix::Apply),
    ignores(Fact::Biases, "it reads lora_A and lora_B alone", Fix::Apply),
    ignores(Fact::SavedModules(&[]), "it reads lora_A and lora_B alone", Fix::Apply),
    ignores(Fact::Field("trainable_token_indices"), "it reads lora_A and lora_B alone", Fix::Apply),
    ignores(Fact::Embeddings, "it has LoRA of linear layers", Fix::Apply),
    ignores(Fact::StackedExperts, "it looks for the factors of each matrix", Fix::Servable),
    ignores(Fact::Convolutions, "it has LoRA of linear layers", Fix::Apply),
];

const MISTRALRS: &[ServerRule] = &[
    refuses(Fact::OtherMethod, "it loads LoRA", MERGED),
    refuses(Fact::Field("use_dora"), "it does not support DoRA", Fix::Apply),
    refuses(Fact::Field("lora_bias"), "it does not support biases of the adapter", Fix::Apply),
    refuses(Fact::Biases, "it does not support biases of the adapter", Fix::Apply),
    refuses(Fact::SavedModules(&[]), "it takes no whole modules", Fix::Apply),
    refuses(Fact::Field("alora_invocation_tokens"), "it does not support Activated LoRA", PART_OF_THE_TIME),
    refuses(Fact::Field("use_qalora"), "it does not support QALoRA", MERGED),
    refuses(Fact::Field("layer_replication"), "it does not repeat layers", REPEATED),
    refuses(Fact::Field("use_bdlora"), "it does not support BD-LoRA", MERGED),
    refuses(Fact::Field("arrow_config"), "it does not route between adapters", PART_OF_THE_TIME),
    refuses(Fact::Field("monteclora_config"), "it does not support MonteCLoRA", MERGED),
    refuses(Fact::Field("ensure_weight_tying"), "it does not tie adapters", Fix::Apply),
    refuses(Fact::Field("trainable_token_indices"), "it takes no rows of embeddings", Fix::Apply),
    refuses(Fact::Init(PLAIN_INITS), "such a start changes the base's weights", CONVERTED),
    refuses(Fact::Head, "it has no LoRA of the head", Fix::Apply),
    refuses(Fact::Convolutions, "a tensor that nothing uses is an error", Fix::Apply),
    refuses(Fact::OtherTensors, "a tensor that nothing uses is an error", Fix::Apply),
    refuses(Fact::RankAbove(256), "its largest rank is 256", SMALLER),
    misreads(Fact::OtherExperts, "it takes them for those of PEFT 0.19.1 and later", TODAYS),
    ignores(Fact::Embeddings, "it has no LoRA of embeddings", Fix::Apply),
];

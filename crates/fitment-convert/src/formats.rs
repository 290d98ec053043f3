use crate::error::Error;
use crate::files::Files;
use crate::pickles::torch_findings;
use crate::read::{Converted, ReadOptions};
use crate::write::{WriteOptions, Written};
use crate::{
    adapters, checkpoints, fastchat, fitment, gguf, litgpt, mlx, peft, pyreft, slime, tinker, torchtune, trl,
};
use fitment_core::finding::Rule;
use fitment_core::{Adapter, Finding};
use std::fmt;
use std::str::FromStr;

/// A format: its id is the tool's lower-case name, the value of `--from` and `--to`, and the name of its folder here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FormatId {
    /// The format of this project.
    Fitment,
    /// Hugging Face PEFT.
    Peft,
    /// pyreft.
    Pyreft,
    /// llama.cpp's container.
    Gguf,
    /// AdapterHub's library.
    Adapters,
    /// Sparse weight patches of TRL.
    Trl,
    /// FastChat's folders of differences.
    Fastchat,
    /// slime's disk deltas.
    Slime,
    /// MLX-LM.
    Mlx,
    /// torchtune's own form.
    Torchtune,
    /// litgpt.
    Litgpt,
    /// Tinker.
    Tinker,
}

/// One line of the table of formats.
pub struct Format {
    /// Its id.
    pub id: FormatId,
    /// The id as text.
    pub name: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// What of it is converted.
    pub what: &'static str,
    /// How it is recognised.
    pub looked_for: &'static str,
    /// Whether files are of this format.
    pub detect: fn(&Files<'_>) -> bool,
    /// Its reader.
    pub read: Option<Reader>,
    /// Its writer.
    pub write: Option<Writer>,
    /// What its files may not say, and an option does; any other such option is refused.
    pub asks: &'static [Ask],
    /// An adapter is one file, not a folder.
    pub is_one_file: bool,
    /// Its own rules; the format of this project has those of core.
    pub checks: Option<Checks>,
}

/// What an adapter does and its files may not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// On which tokens an intervention acts.
    Positions,
    /// Its activation.
    Activation,
    /// Its class.
    Formula,
    /// Alpha of LoRA factors beside it.
    Alpha,
    /// Over which axis of an expert tensor the first factor is.
    MoeLayout,
    /// In which order columns of an expert tensor's second factor stand.
    MoeBLayout,
}

impl Ask {
    /// All of them.
    pub const ALL: &[Ask] =
        &[Ask::Positions, Ask::Activation, Ask::Formula, Ask::Alpha, Ask::MoeLayout, Ask::MoeBLayout];

    /// The option of the command line that says it.
    pub fn option(self) -> &'static str {
        match self {
            Ask::Positions => "--positions",
            Ask::Activation => "--activation",
            Ask::Formula => "--formula",
            Ask::Alpha => "--alpha",
            Ask::MoeLayout => "--moe-layout",
            Ask::MoeBLayout => "--moe-b-layout",
        }
    }
}

/// What a format asks of its files.
#[derive(Clone, Copy)]
pub struct Checks {
    /// Every breach that the files show without a base.
    pub check: Checker,
    /// Every rule, in order of its code.
    pub rules: &'static [Rule],
    /// The rule that is broken by what this version does not read: nothing of such an adapter was understood.
    pub unsupported: &'static Rule,
}

/// Lists the breaches of files; the text names one adapter of a folder that holds several.
pub type Checker = fn(&Files<'_>, Option<&str>) -> Result<Vec<Finding>, Error>;

/// The reader of a format.
pub type Reader = for<'a> fn(&Files<'a>, &ReadOptions<'_>) -> Result<Converted<'a>, Error>;

/// The writer of a format.
pub type Writer = for<'a> fn(&Adapter<'a>, &WriteOptions<'_>) -> Result<Written<'a>, Error>;

/// Every format. The support table of the README and the help of the command line are made from it.
pub const FORMATS: &[Format] = &[
    Format {
        id: FormatId::Fitment,
        name: "fitment",
        title: "Fitment",
        what: "everything",
        looked_for: "a safetensors file whose metadata hold a manifest",
        detect: fitment::detect,
        read: Some(fitment::read),
        write: Some(fitment::write),
        asks: &[],
        is_one_file: true,
        checks: None,
    },
    Format {
        id: FormatId::Peft,
        name: "peft",
        title: "Hugging Face PEFT",
        what: "LoRA, rsLoRA and DoRA on linear, Conv1D, convolution, embedding and attention modules, LoRA on expert tensors; saved modules, biases, token rows",
        looked_for: "adapter_config.json beside adapter_model.safetensors or adapter_model.bin",
        detect: peft::detect,
        read: Some(peft::read),
        write: Some(peft::write),
        asks: &[Ask::MoeLayout, Ask::MoeBLayout],
        is_one_file: false,
        checks: Some(Checks {
            check: peft::check,
            rules: peft::rules::ALL,
            unsupported: &peft::rules::P_UNSUPPORTED,
        }),
    },
    Format {
        id: FormatId::Pyreft,
        name: "pyreft",
        title: "pyreft",
        what: "its six classes of interventions, saved folders and trainer checkpoints, with the LoRA, heads and weights saved beside; linear ones are written as LoReFT",
        looked_for: "files named intkey_….bin",
        detect: pyreft::detect,
        read: Some(pyreft::read),
        write: Some(pyreft::write),
        asks: &[Ask::Positions, Ask::Activation, Ask::Formula, Ask::Alpha],
        is_one_file: false,
        checks: Some(Checks {
            check: pyreft::check,
            rules: pyreft::rules::ALL,
            unsupported: &pyreft::rules::R_UNSUPPORTED,
        }),
    },
    Format {
        id: FormatId::Gguf,
        name: "gguf",
        title: "GGUF (llama.cpp, repeng)",
        what: "LoRA of the Llama, Mistral, Qwen 2 and 3, Gemma, Phi, GPT-2, NeoX and Falcon families, also of their experts; control vectors",
        looked_for: "one file that begins with GGUF",
        detect: gguf::detect,
        read: Some(gguf::read),
        write: Some(gguf::write),
        asks: &[],
        is_one_file: true,
        checks: Some(Checks {
            check: gguf::check,
            rules: gguf::rules::ALL,
            unsupported: &gguf::rules::G_ARCHITECTURE,
        }),
    },
    Format {
        id: FormatId::Adapters,
        name: "adapters",
        title: "AdapterHub adapters",
        what: "ReFT (LoReFT, NoReFT, DiReFT); bottleneck adapters and LoRA, written only as they came",
        looked_for: "adapter_config.json of that library, beside adapter.safetensors or pytorch_adapter.bin",
        detect: adapters::detect,
        read: Some(adapters::read),
        write: Some(adapters::write),
        asks: &[Ask::Formula],
        is_one_file: false,
        checks: Some(Checks {
            check: adapters::check,
            rules: adapters::rules::ALL,
            unsupported: &adapters::rules::H_UNSUPPORTED,
        }),
    },
    Format {
        id: FormatId::Trl,
        name: "trl",
        title: "TRL sparse patches",
        what: "new elements of parameters, in all layouts of its pull requests but nvCOMP; `sparse_set` and whole `set` are written",
        looked_for: "one safetensors file that says sparse_weight_patch, or of NAME.indices and NAME.values",
        detect: trl::detect,
        read: Some(trl::read),
        write: Some(trl::write),
        asks: &[],
        is_one_file: true,
        checks: Some(Checks {
            check: trl::check,
            rules: trl::rules::ALL,
            unsupported: &trl::rules::L_ENCODING,
        }),
    },
    Format {
        id: FormatId::Fastchat,
        name: "fastchat",
        title: "FastChat deltas (Vicuna, LLaVA)",
        what: "folders of tuned − base in F16, also with grown or new tensors; `add` is written",
        looked_for: "`--from fastchat` only: its folders look like any checkpoint",
        detect: fastchat::detect,
        read: Some(fastchat::read),
        write: Some(fastchat::write),
        asks: &[],
        is_one_file: false,
        checks: Some(Checks {
            check: fastchat::check,
            rules: fastchat::rules::ALL,
            unsupported: &fastchat::rules::F_DTYPE,
        }),
    },
    Format {
        id: FormatId::Slime,
        name: "slime",
        title: "slime disk deltas",
        what: "versions of all encodings and checksums, on their base; of adapters what puts bytes into whole tensors",
        looked_for: "model.safetensors.index.json whose metadata say delta_encoding",
        detect: slime::detect,
        read: Some(slime::read),
        write: Some(slime::write),
        asks: &[],
        is_one_file: false,
        checks: Some(Checks {
            check: slime::check,
            rules: slime::rules::ALL,
            unsupported: &slime::rules::S_UNSUPPORTED,
        }),
    },
    Format {
        id: FormatId::Mlx,
        name: "mlx",
        title: "MLX-LM adapters",
        what: "LoRA and DoRA of linear layers, LoRA of embeddings and experts, whole weights (`full`)",
        looked_for: "adapters.safetensors, or adapter_config.json with fine_tune_type or lora_parameters",
        detect: mlx::detect,
        read: Some(mlx::read),
        write: Some(mlx::write),
        asks: &[],
        is_one_file: false,
        checks: Some(Checks {
            check: mlx::check,
            rules: mlx::rules::ALL,
            unsupported: &mlx::rules::X_UNSUPPORTED,
        }),
    },
    Format {
        id: FormatId::Torchtune,
        name: "torchtune",
        title: "torchtune",
        what: "LoRA and DoRA of the Llama, Mistral, Gemma, Qwen 2 and Phi 3 families in torchtune's own form, rows of q and k put in order",
        looked_for: "adapter_model.pt or adapter_N.pt without weights of PEFT beside it",
        detect: torchtune::detect,
        read: Some(torchtune::read),
        write: None,
        asks: &[Ask::Alpha],
        is_one_file: false,
        checks: Some(Checks {
            check: torchtune::check,
            rules: torchtune::rules::ALL,
            unsupported: &torchtune::rules::U_UNSUPPORTED,
        }),
    },
    Format {
        id: FormatId::Litgpt,
        name: "litgpt",
        title: "litgpt",
        what: "LoRA of the Llama, Gemma, Qwen, Mixtral, Phi, Pythia and Falcon families, fused queries, keys and values taken apart",
        looked_for: "lit_model.pth.lora",
        detect: litgpt::detect,
        read: Some(litgpt::read),
        write: None,
        asks: &[],
        is_one_file: false,
        checks: Some(Checks {
            check: litgpt::check,
            rules: litgpt::rules::ALL,
            unsupported: &litgpt::rules::I_UNSUPPORTED,
        }),
    },
    Format {
        id: FormatId::Tinker,
        name: "tinker",
        title: "Tinker",
        what: "LoRA by Tinker's own names: heads, attention, linear attention, experts one by one or stacked, with what they share",
        looked_for: "adapter_model.safetensors with unembed_tokens, experts.w1 and the like among its keys",
        detect: tinker::detect,
        read: Some(tinker::read),
        write: None,
        asks: &[],
        is_one_file: false,
        checks: Some(Checks {
            check: tinker::check,
            rules: tinker::rules::ALL,
            unsupported: &tinker::rules::K_UNSUPPORTED,
        }),
    },
];

impl FormatId {
    /// The line of the table.
    pub fn format(self) -> &'static Format {
        FORMATS.iter().find(|format| format.id == self).expect("every id has its line, as a test shows")
    }
}

impl fmt::Display for FormatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format().name)
    }
}

/// A text that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no format {name:?}; there are {}", known())]
pub struct NoSuchFormat {
    /// The text.
    pub name: String,
}

fn known() -> String {
    FORMATS.iter().map(|format| format.name).collect::<Vec<_>>().join(", ")
}

impl FromStr for FormatId {
    type Err = NoSuchFormat;

    fn from_str(name: &str) -> Result<Self, NoSuchFormat> {
        let found = FORMATS.iter().find(|format| format.name == name);
        found.map(|format| format.id).ok_or_else(|| NoSuchFormat { name: name.to_owned() })
    }
}

/// The format that files are of.
///
/// # Errors
/// [`Error::NotDetected`] when none fits, [`Error::Unsupported`] when it is a checkpoint of a training under way, or
/// [`Error::Malformed`] when there is a torch file that would run code among them;
/// [`Error::SeveralFormats`] when more than one fits.
pub fn detect(files: &Files<'_>) -> Result<FormatId, Error> {
    let fits: Vec<FormatId> =
        FORMATS.iter().filter(|format| (format.detect)(files)).map(|format| format.id).collect();
    match fits[..] {
        [one] => Ok(one),
        // Its files have PEFT's names, and are told by their keys.
        [FormatId::Peft, FormatId::Tinker] => Ok(FormatId::Tinker),
        [] => {
            let findings = torch_findings(files).unwrap_or_default();
            if findings.iter().any(|finding| finding.code == fitment_torch::rules::T_UNSAFE.code) {
                return Err(Error::Malformed { findings });
            }
            if let Some(refusal) = checkpoints::refusal(files) {
                return Err(refusal);
            }
            Err(Error::NotDetected { looked_for: format!("there is no file of {}", known()) })
        }
        _ => Err(Error::SeveralFormats { formats: fits }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, FORMATS, Files, FormatId, detect};

    #[test]
    fn every_id_has_its_line_and_its_name_reads_back() {
        for id in [
            FormatId::Fitment,
            FormatId::Peft,
            FormatId::Pyreft,
            FormatId::Gguf,
            FormatId::Adapters,
            FormatId::Trl,
            FormatId::Fastchat,
            FormatId::Slime,
            FormatId::Mlx,
            FormatId::Torchtune,
            FormatId::Litgpt,
            FormatId::Tinker,
        ] {
            assert_eq!(id.to_string().parse::<FormatId>(), Ok(id));
        }
        assert_eq!(FORMATS.len(), 12);
        assert_eq!(
            "pft".parse::<FormatId>().unwrap_err().to_string(),
            "no format \"pft\"; there are fitment, peft, pyreft, gguf, adapters, trl, fastchat, slime, mlx, torchtune, litgpt, tinker"
        );
    }

    #[test]
    fn unknown_files_are_not_detected() {
        let files: Files<'_> = [("notes.txt", &b"hello"[..])].into_iter().collect();
        assert!(matches!(detect(&files), Err(Error::NotDetected { .. })));
    }
}

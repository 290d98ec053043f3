//! Goes on from a prompt: a base checkpoint, with adapters of any format beside it, unmerged.
//!
//! ```text
//! cargo run -p fitment-tests --features candle --example generate -- BASE "PROMPT" [ADAPTER[:WEIGHT]…]
//! ```
//!
//! BASE is a Llama: a Hugging Face folder or a GGUF file, also a quantised one.

mod llama;

use anyhow::{Context, Result, anyhow};
use candle_core::quantized::gguf_file;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use candle_core::{DType, Device, Tensor};
use fitment_apply::Input;
use fitment_candle::hooks::Interventions;
use fitment_candle::unmerged::Adapters;
use fitment_convert::{ReadOptions, read};
use fitment_core::checkpoint::Checkpoint;
use fitment_io::{Access, AdapterFiles, CheckpointDir};
pub use llama::{Cache, Llama, likeliest};
use std::path::Path;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{PreTokenizerWrapper, Tokenizer};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (base, prompt) = arguments.next().zip(arguments.next()).context("BASE and PROMPT are missing")?;
    let adapters: Vec<(String, f64)> = arguments.map(|argument| weighted(&argument)).collect();
    let device = Device::cuda_if_available(0)?;
    let text = go_on(Path::new(&base), &adapters, &prompt, 32, &device)?;
    #[expect(clippy::print_stdout, reason = "a program")]
    {
        println!("{text}");
    }
    Ok(())
}

/// PATH, or PATH:WEIGHT.
fn weighted(argument: &str) -> (String, f64) {
    let parts = argument.rsplit_once(':').and_then(|(path, weight)| Some((path, weight.parse().ok()?)));
    parts.map_or((argument.to_owned(), 1.0), |(path, weight)| (path.to_owned(), weight))
}

/// What the model says behind the prompt, greedily.
pub fn go_on(
    base: &Path,
    adapters: &[(String, f64)],
    prompt: &str,
    most: usize,
    device: &Device,
) -> Result<String> {
    let checkpoint = CheckpointDir::open(base, Access::Map)?;
    let tokenizer = tokenizer(base)?;

    // Adapters of any format become Fitment's model of them.
    let files = adapters
        .iter()
        .map(|(path, _)| AdapterFiles::load(Path::new(path)))
        .collect::<Result<Vec<_>, _>>()?;
    let options = ReadOptions { base: Some(&checkpoint), ..ReadOptions::default() };
    let converted =
        files.iter().map(|files| read(&files.iter().collect(), &options)).collect::<Result<Vec<_>, _>>()?;
    let inputs: Vec<Input<'_>> = converted
        .iter()
        .zip(adapters)
        .map(|(converted, (path, weight))| Input {
            adapter: &converted.adapter,
            weight: *weight,
            name: path.clone(),
        })
        .collect();

    // Weight edits go beside the layers, interventions to the hooks.
    let mut beside = Adapters::load(&inputs, &checkpoint, device)?;
    let hook = Interventions::new(&inputs);
    let model = Llama::load(&checkpoint, &mut beside, device, DType::F32)?;
    beside.check_all_taken()?;

    let mut ids = tokenizer.encode(prompt, true).map_err(|error| anyhow!("{error}"))?.get_ids().to_vec();
    let end = checkpoint.config().and_then(|config| config.get("eos_token_id")?.as_u64());
    let (mut said, mut cache) = (Vec::new(), Cache::default());
    for step in 0..most {
        let mask = vec![vec![true; ids.len()]];
        match step {
            0 => hook.prompt(&mask)?,
            _ => hook.step(&[true])?,
        }
        let logits = model.forward(&Tensor::new(vec![ids], device)?, &mask, &mut cache, &hook)?;
        if step == 0 {
            hook.check_all_met()?;
        }
        let next = likeliest(&logits)?[0];
        if end == Some(u64::from(next)) {
            break;
        }
        said.push(next);
        ids = vec![next];
    }
    tokenizer.decode(&said, true).map_err(|error| anyhow!("{error}"))
}

/// The tokenizer of a folder or of a GGUF file.
pub fn tokenizer(base: &Path) -> Result<Tokenizer> {
    if base.is_dir() {
        return Tokenizer::from_file(base.join("tokenizer.json")).map_err(|error| anyhow!("{error}"));
    }
    let content = gguf_file::Content::read(&mut std::fs::File::open(base)?)?;
    let mut tokenizer = Tokenizer::from_gguf(&content)?;
    // candle puts a space in front of the text also where the file says that there is none.
    let spaced = content.metadata.get("tokenizer.ggml.add_space_prefix");
    if let (Some(gguf_file::Value::Bool(false)), Some(PreTokenizerWrapper::ByteLevel(level))) =
        (spaced, tokenizer.get_pre_tokenizer())
    {
        let level = ByteLevel::new(false, level.trim_offsets, level.use_regex);
        tokenizer.with_pre_tokenizer(Some(level));
    }
    Ok(tokenizer)
}

//! A Llama with adapters beside its weights and hooks at its sites.

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, IndexOp, Tensor};
use candle_nn::{Embedding, Linear, Module, ops};
use fitment_candle::hooks::{Hook, Point};
use fitment_candle::unmerged::{AdaptedEmbedding, AdaptedLinear, AdaptedVector, Adapters};
use fitment_core::checkpoint::Checkpoint;
use fitment_core::model::SiteComponent;
use fitment_math::round::{Element, decode};
use serde_json::{Map, Value};

/// The numbers of a Llama's config that its forward pass needs.
#[derive(Clone, Debug)]
struct Config {
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f64,
    theta: f64,
    tied: bool,
}

impl Config {
    fn of(config: &Map<String, Value>) -> Result<Self> {
        let number = |key: &str| {
            config.get(key).and_then(Value::as_u64).with_context(|| format!("the config has no {key}"))
        };
        let rope = config.get("rope_parameters").unwrap_or(&Value::Null);
        let scaled = |value: &Value| {
            !matches!(value["rope_type"].as_str().or(value["type"].as_str()), None | Some("default"))
        };
        let scaling = config.get("rope_scaling").unwrap_or(&Value::Null);
        ensure!(!scaled(rope) && !scaled(scaling), "positions of this kind are not part of this example");
        let (heads, hidden) = (number("num_attention_heads")?, number("hidden_size")?);
        let real = |value: Option<&Value>, otherwise: f64| value.and_then(Value::as_f64).unwrap_or(otherwise);
        Ok(Self {
            layers: number("num_hidden_layers")? as usize,
            heads: heads as usize,
            kv_heads: number("num_key_value_heads").unwrap_or(heads) as usize,
            head_dim: number("head_dim").unwrap_or(hidden / heads.max(1)) as usize,
            eps: real(
                config.get("rms_norm_eps").or(config.get("llama.attention.layer_norm_rms_epsilon")),
                1e-6,
            ),
            theta: real(
                rope.get("rope_theta").or(config.get("rope_theta")).or(config.get("llama.rope.freq_base")),
                10_000.0,
            ),
            tied: config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

/// Tokens in front, for each layer: keys and values, `[batch, kv_heads, seq, head_dim]`.
#[derive(Debug, Default)]
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    /// Which of them are tokens, by row.
    mask: Vec<Vec<bool>>,
}

struct Block {
    number: u64,
    before_attention: AdaptedVector,
    query: AdaptedLinear,
    key: AdaptedLinear,
    value: AdaptedLinear,
    joined: AdaptedLinear,
    before_mlp: AdaptedVector,
    gate: AdaptedLinear,
    up: AdaptedLinear,
    down: AdaptedLinear,
}

/// The model.
pub struct Llama {
    config: Config,
    embedding: AdaptedEmbedding,
    blocks: Vec<Block>,
    norm: AdaptedVector,
    head: AdaptedLinear,
}

/// A tensor of the checkpoint on the device.
fn tensor(base: &dyn Checkpoint, name: &str, (device, dtype): (&Device, DType)) -> Result<Tensor> {
    let info = base.tensors().get(name).with_context(|| format!("the checkpoint has no {name}"))?;
    let element = Element::of(info.dtype).with_context(|| format!("{name} is {}", info.dtype))?;
    let bytes = base.read(name)?;
    let mut numbers = vec![0_f32; bytes.len() / element.size()];
    decode(element, &bytes, &mut numbers)?;
    let dims: Vec<usize> = info.shape.dims().iter().map(|dim| *dim as usize).collect();
    Ok(Tensor::from_vec(numbers, dims, device)?.to_dtype(dtype)?)
}

impl Llama {
    /// Loads the model. Every weight is given to `adapters`, which put beside it what they have for it.
    pub fn load(
        base: &dyn Checkpoint,
        adapters: &mut Adapters,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let config = Config::of(base.config().context("the checkpoint has no config")?)?;
        let get = |name: &str| tensor(base, name, (device, dtype));
        let linear = |adapters: &mut Adapters, name: &str| -> Result<AdaptedLinear> {
            let bias = format!("{name}.bias");
            let bias = base.tensors().contains_key(&bias).then(|| get(&bias)).transpose()?;
            Ok(adapters.linear(name, Linear::new(get(&format!("{name}.weight"))?, bias))?)
        };
        let vector =
            |adapters: &mut Adapters, name: &str| Ok::<_, anyhow::Error>(adapters.vector(name, &get(name)?)?);
        let words = get("model.embed_tokens.weight")?;
        let width = words.dim(1)?;
        let embedding = adapters.embedding("model.embed_tokens", Embedding::new(words.clone(), width))?;
        let mut blocks = Vec::new();
        for number in 0..config.layers {
            let name = |part: &str| format!("model.layers.{number}.{part}");
            blocks.push(Block {
                number: number as u64,
                before_attention: vector(adapters, &name("input_layernorm.weight"))?,
                query: linear(adapters, &name("self_attn.q_proj"))?,
                key: linear(adapters, &name("self_attn.k_proj"))?,
                value: linear(adapters, &name("self_attn.v_proj"))?,
                joined: linear(adapters, &name("self_attn.o_proj"))?,
                before_mlp: vector(adapters, &name("post_attention_layernorm.weight"))?,
                gate: linear(adapters, &name("mlp.gate_proj"))?,
                up: linear(adapters, &name("mlp.up_proj"))?,
                down: linear(adapters, &name("mlp.down_proj"))?,
            });
        }
        let norm = vector(adapters, "model.norm.weight")?;
        let head = match config.tied {
            true => adapters.tied_head("lm_head", "model.embed_tokens", Linear::new(words, None))?,
            false => linear(adapters, "lm_head")?,
        };
        Ok(Self { config, embedding, blocks, norm, head })
    }

    /// The logits of every token, `[batch, seq, vocab]`, f32. `mask` is false for padding, which may stand in front of a row.
    pub fn forward(
        &self,
        ids: &Tensor,
        mask: &[Vec<bool>],
        cache: &mut Cache,
        hook: &dyn Hook,
    ) -> Result<Tensor> {
        let batch = ids.dim(0)?;
        cache.mask.resize(batch, Vec::new());
        let before = cache.mask.first().map_or(0, Vec::len);
        for (known, mask) in cache.mask.iter_mut().zip(mask) {
            known.extend(mask);
        }
        let mut x = self.embedding.forward(ids)?;
        let turn = self.rotation(&cache.mask, before, &x)?;
        let hidden = attention_mask(&cache.mask, before, &x)?;
        for (number, block) in self.blocks.iter().enumerate() {
            let kept = cache.layers.get(number).cloned();
            let (next, keys_and_values) = self.block(block, x, (&turn, &hidden, kept), hook)?;
            x = next;
            match cache.layers.get_mut(number) {
                Some(kept) => *kept = keys_and_values,
                None => cache.layers.push(keys_and_values),
            }
        }
        let x = self.normed(&x, &self.norm)?;
        Ok(self.head.forward(&x)?.to_dtype(DType::F32)?)
    }

    fn block(
        &self,
        block: &Block,
        x: Tensor,
        (turn, hidden, kept): (&(Tensor, Tensor), &Tensor, Option<(Tensor, Tensor)>),
        hook: &dyn Hook,
    ) -> Result<(Tensor, (Tensor, Tensor))> {
        let site = |component, module: &str, states| {
            let module = match module {
                "" => format!("model.layers.{}", block.number),
                module => format!("model.layers.{}.{module}", block.number),
            };
            let ending = match component {
                SiteComponent::BlockInput
                | SiteComponent::AttentionInput
                | SiteComponent::MlpInput
                | SiteComponent::AttentionValueOutput => "input",
                _ => "output",
            };
            hook.states(
                Point { layer: block.number, component, module: &format!("{module}.{ending}") },
                states,
            )
        };
        let x = site(SiteComponent::BlockInput, "", x)?;
        let inner =
            site(SiteComponent::AttentionInput, "self_attn", self.normed(&x, &block.before_attention)?)?;
        let query = site(SiteComponent::QueryOutput, "self_attn.q_proj", block.query.forward(&inner)?)?;
        let key = site(SiteComponent::KeyOutput, "self_attn.k_proj", block.key.forward(&inner)?)?;
        let value = site(SiteComponent::ValueOutput, "self_attn.v_proj", block.value.forward(&inner)?)?;
        let (mixed, kept) = self.attend((query, key, value), (turn, hidden, kept))?;
        let mixed = site(SiteComponent::AttentionValueOutput, "self_attn.o_proj", mixed)?;
        let joined = site(SiteComponent::AttentionOutput, "self_attn", block.joined.forward(&mixed)?)?;
        let x = (x + joined)?;
        let inner = site(SiteComponent::MlpInput, "mlp", self.normed(&x, &block.before_mlp)?)?;
        let active = ops::silu(&block.gate.forward(&inner)?)?;
        let active = site(SiteComponent::MlpActivation, "mlp.act_fn", active)?;
        let made = block.down.forward(&(active * block.up.forward(&inner)?)?)?;
        let made = site(SiteComponent::MlpOutput, "mlp", made)?;
        let x = site(SiteComponent::BlockOutput, "", (x + made)?)?;
        Ok((x, kept))
    }

    /// Scaled dot-product attention; queries, keys and values are `[batch, seq, heads · head_dim]`.
    fn attend(
        &self,
        (query, key, value): (Tensor, Tensor, Tensor),
        (turn, hidden, kept): (&(Tensor, Tensor), &Tensor, Option<(Tensor, Tensor)>),
    ) -> Result<(Tensor, (Tensor, Tensor))> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let (batch, seq, _) = query.dims3()?;
        let split = |states: Tensor, heads: usize| -> Result<Tensor> {
            Ok(states.reshape((batch, seq, heads, head_dim))?.transpose(1, 2)?.contiguous()?)
        };
        let query = rotated(&split(query, heads)?, turn)?;
        let (mut key, mut value) = (rotated(&split(key, kv_heads)?, turn)?, split(value, kv_heads)?);
        if let Some((keys, values)) = kept {
            (key, value) = (Tensor::cat(&[keys, key], 2)?, Tensor::cat(&[values, value], 2)?);
        }
        let shared = |states: &Tensor| -> Result<Tensor> {
            let all = states.dim(2)?;
            let states = states.unsqueeze(2)?.expand((batch, kv_heads, heads / kv_heads, all, head_dim))?;
            Ok(states.reshape((batch, heads, all, head_dim))?)
        };
        let scores = (query.matmul(&shared(&key)?.t()?.contiguous()?)? / (head_dim as f64).sqrt())?;
        let scores = scores.to_dtype(DType::F32)?.broadcast_add(hidden)?;
        let shares = ops::softmax_last_dim(&scores)?.to_dtype(value.dtype())?;
        let mixed =
            shares.matmul(&shared(&value)?)?.transpose(1, 2)?.reshape((batch, seq, heads * head_dim))?;
        Ok((mixed, (key, value)))
    }

    fn normed(&self, x: &Tensor, weight: &AdaptedVector) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = wide.broadcast_div(&(mean + self.config.eps)?.sqrt()?)?.to_dtype(x.dtype())?;
        let weight = weight.meeting(x, x.rank() - 1)?.context("a norm has a weight")?;
        Ok(normed.broadcast_mul(&weight)?)
    }

    /// Cosines and sines, `[batch, 1, seq, head_dim]`, of the columns from `from` on.
    fn rotation(&self, mask: &[Vec<bool>], from: usize, like: &Tensor) -> Result<(Tensor, Tensor)> {
        let half = self.config.head_dim / 2;
        let mut angles = Vec::new();
        for row in mask {
            for column in from..row.len() {
                let place = row[..=column].iter().filter(|token| **token).count().saturating_sub(1);
                let angle =
                    |at: usize| place as f32 * self.config.theta.powf(-(at as f64) / half as f64) as f32;
                angles.extend((0..2 * half).map(|at| angle(at % half)));
            }
        }
        let seq = mask.first().map_or(0, |row| row.len() - from);
        let angles = Tensor::from_vec(angles, (mask.len(), 1, seq, 2 * half), like.device())?;
        Ok((angles.cos()?.to_dtype(like.dtype())?, angles.sin()?.to_dtype(like.dtype())?))
    }
}

/// `x·cos + (−x₂, x₁)·sin`, `x₁` and `x₂` being the halves of each head.
fn rotated(states: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    let half = states.dim(D::Minus1)? / 2;
    let (first, second) = (states.narrow(D::Minus1, 0, half)?, states.narrow(D::Minus1, half, half)?);
    let turned = Tensor::cat(&[second.neg()?, first], D::Minus1)?;
    Ok((states.broadcast_mul(cos)? + turned.broadcast_mul(sin)?)?)
}

/// `[batch, 1, seq, all]`: 0 for what a token sees, and a very small number for the rest.
fn attention_mask(mask: &[Vec<bool>], from: usize, like: &Tensor) -> Result<Tensor> {
    let all = mask.first().map_or(0, Vec::len);
    let mut numbers = Vec::new();
    for row in mask {
        for column in from..all {
            numbers.extend((0..all).map(|at| if at <= column && row[at] { 0.0 } else { f32::MIN }));
        }
    }
    Ok(Tensor::from_vec(numbers, (mask.len(), 1, all - from, all), like.device())?)
}

/// The most likely next token of each row, of logits `[batch, seq, vocab]`.
pub fn likeliest(logits: &Tensor) -> Result<Vec<u32>> {
    let last = logits.dim(1)? - 1;
    Ok(logits.i((.., last, ..))?.argmax(D::Minus1)?.to_vec1()?)
}

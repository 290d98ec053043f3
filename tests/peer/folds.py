"""Folds interventions into tiny random models of twelve architectures, for tests/peers.rs.

Arguments: the program, a scratch folder. For each site: random linear interventions act by hooks on the unmodified model, and the
same adapter goes through `fitment apply` and `fitment convert --to peft`. Prints one JSON object a line: {"case", "apply", "peft"}, each the largest
difference of the outputs, or the reason of a refusal.
"""
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures/fold"))

import torch
import transformers as t
from make import EVERYWHERE, write
from peft import PeftModel

t.logging.set_verbosity_error()
t.utils.logging.disable_progress_bar()

PROGRAM, ROOM = sys.argv[1], Path(sys.argv[2])
DIMS = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=32, max_position_embeddings=64)
GQA = dict(**DIMS, intermediate_size=24, num_key_value_heads=2)
OPT = dict(**DIMS, ffn_dim=24, word_embed_proj_dim=16)
GPT2 = dict(n_embd=16, n_layer=2, n_head=4, vocab_size=32, n_positions=64)
MODELS = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**GQA)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**GQA)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**GQA, head_dim=4)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**GQA)),
    "gemma": lambda: t.GemmaForCausalLM(t.GemmaConfig(**GQA, head_dim=4)),
    "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**GQA, head_dim=4)),
    "phi": lambda: t.PhiForCausalLM(t.PhiConfig(**DIMS, intermediate_size=24)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**GQA, pad_token_id=0)),
    "opt": lambda: t.OPTForCausalLM(t.OPTConfig(**OPT)),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT2)),
    "gpt_neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**DIMS, intermediate_size=24)),
    "bert": lambda: t.BertModel(t.BertConfig(**DIMS, intermediate_size=24)),
}
A = "self_attn."
LLAMA = dict(layer="model.layers.1", attn="self_attn", mlp="mlp", q=A + "q_proj", k=A + "k_proj", v=A + "v_proj", o=A + "o_proj")
HEADS = [[head * 12 + part * 4 + at for head in range(4) for at in range(4)] for part in range(3)]
THIRDS = [list(range(16 * part, 16 * part + 16)) for part in range(3)]
GROUPS = [list(range(16)), list(range(16, 24)), list(range(24, 32))]
PLACES = {kind: LLAMA for kind in ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2")} | {
    "phi": {**LLAMA, "o": A + "dense"},
    "phi3": {**LLAMA, "fused": (A + "qkv_proj", GROUPS)},
    "opt": {**LLAMA, "layer": "model.decoder.layers.1", "o": A + "out_proj", "mlp_in": "fc1", "mlp_out": "fc2"},
    "gpt2": dict(layer="transformer.h.1", attn="attn", mlp="mlp", o="attn.c_proj", fused=("attn.c_attn", THIRDS)),
    "gpt_neox": dict(
        layer="gpt_neox.layers.1", attn="attention", mlp="mlp", o="attention.dense", fused=("attention.query_key_value", HEADS)
    ),
    "bert": dict(
        layer="encoder.layer.1",
        q="attention.self.query",
        k="attention.self.key",
        v="attention.self.value",
        o="attention.output.dense",
        mlp_in="intermediate.dense",
    ),
}
LINEAR = ["mlp_output", "attention_output", "query_output", "key_output", "value_output", "attention_value_output", "mlp_input"]
LINEAR += ["attention_input", "head_query_output", "head_key_output", "head_attention_value_output"]
CONSTANT = ["block_output", "block_input"]


def hook(model, kind, component, change):
    """Sets the hook of a site; `change` gets states whose last axis is that of the intervention."""
    place, plain = PLACES[kind], component.replace("head_", "")
    heads = 1
    if component.startswith("head_"):
        heads = 2 if plain in ("key_output", "value_output") and "num_key_value_heads" in GQA and kind in ("phi3", *LLAMAS) else 4
    module = lambda name: model.get_submodule(f"{place['layer']}.{name}" if name else place["layer"])

    def cut(states):
        return change(states.unflatten(-1, (heads, -1))).flatten(-2) if heads > 1 else change(states)

    def before(module, args, kwargs):
        if args:
            return (cut(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": cut(kwargs["hidden_states"])}

    def behind(module, args, out):
        return (cut(out[0]), *out[1:]) if isinstance(out, tuple) else cut(out)

    def part(module, args, out):
        out = out.clone()
        out[..., indices] = cut(out[..., indices])
        return out

    if plain in ("query_output", "key_output", "value_output"):
        if "fused" in place:
            name, parts = place["fused"]
            indices = parts["qkv".index(plain[0])]
            return module(name).register_forward_hook(part)
        return module(place[plain[0]]).register_forward_hook(behind)
    name = {
        "mlp_input": place.get("mlp_in") or place.get("mlp"),
        "mlp_output": place.get("mlp_out") or place.get("mlp"),
        "attention_input": place.get("attn"),
        "attention_output": place.get("attn"),
        "attention_value_output": place["o"],
    }.get(plain, "")
    if name is None:
        return None
    if plain in ("mlp_input", "attention_input", "attention_value_output", "block_input"):
        return module(name).register_forward_pre_hook(before, with_kwargs=True)
    return module(name).register_forward_hook(behind)


LLAMAS = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2")
IDS = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 3]])


def outputs(model):
    with torch.no_grad():
        out = model(IDS)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def program(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().split("\n")[-2]


def case(kind, model, component, constant):
    width = []
    probe = hook(model, kind, component, lambda states: (width.append(states.shape[-1]), states)[1])
    if probe is None:
        return
    outputs(model)
    probe.remove()
    width = width[0]
    random = lambda *shape: torch.randn(*shape) * 0.4
    up, down, inner, shift, scale = random(width, 3), random(3, width), random(3), random(width), 1.25
    site = {"site": {"component": component, "layer": 1}, "positions": EVERYWHERE, "scale": scale}
    result = {"case": f"{kind} {component}"}
    # Without its constant part, what a layer without bias cannot take is folded all the same.
    for what, biased in (("apply", True), ("apply_linear", False), ("peft", True)):
        if constant and what == "apply_linear":
            continue
        roles = {"up.bias": shift} if constant else {"up": up, "source.weight": down}
        if biased and not constant:
            roles |= {"up.bias": shift, "source.bias": inner}
        add = lambda h: h + scale * shift
        full = lambda h: h + scale * ((h @ down.T + inner * biased) @ up.T + shift * biased)
        handle = hook(model, kind, component, add if constant else full)
        expected = outputs(model)
        handle.remove()
        adapter, out = ROOM / "a.fitment.safetensors", ROOM / "out"
        write(adapter, [(site, roles)])
        shutil.rmtree(out, ignore_errors=True)
        if what == "peft":
            refused = program("convert", adapter, "--to", "peft", "--base", ROOM / kind, "-o", out)
        else:
            refused = program("apply", ROOM / kind, adapter, "-o", out)
        if refused:
            result[what] = refused
            continue
        base = type(model).from_pretrained(ROOM / kind if what == "peft" else out, dtype=torch.float32)
        folded = PeftModel.from_pretrained(base, out) if what == "peft" else base
        result[what] = (outputs(folded.eval()) - expected).abs().max().item()
    print(json.dumps(result), flush=True)


def main():
    torch.manual_seed(0)
    for kind, make in MODELS.items():
        model = make().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(ROOM / kind)
        for component in LINEAR + CONSTANT:
            case(kind, model, component, component in CONSTANT)


main()

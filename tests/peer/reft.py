"""python reft.py FOLDER...: opens pyreft folders with pyreft and prints how far each is from `io.safetensors` beside it.

pyreft 0.1.0 makes what it loads bf16, whatever the file holds: the module is made f32 again and given the file's own tensors, so
that what is compared is the folder and not that rounding.
"""

import logging
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

import pyreft  # noqa: E402

logging.disable(logging.WARNING)


def model():
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=40,
            max_position_embeddings=64, tie_word_embeddings=False,
        )  # fmt: skip
    )


for folder in map(pathlib.Path, sys.argv[1:]):
    reft = pyreft.ReftModel.load(str(folder), model())
    expected = load_file(folder.with_suffix(".safetensors"))
    far = 0.0
    for key, intervention in reft.interventions.items():
        before, after = expected[f"{key}/before"].float(), expected[f"{key}/after"].float()
        state = torch.load(folder / f"intkey_{key}.bin", weights_only=True)
        intervention.learned_source = intervention.learned_source.float()
        intervention.load_state_dict(state)
        with torch.no_grad():
            found = intervention.eval()(before)
        far = max(far, ((found - after).abs().max() / after.abs().max()).item())
    print(folder.name, f"{far:.3e}")

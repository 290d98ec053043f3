"""How far a model with an adapter of PEFT is from the merged checkpoint: python same_output.py BASE ADAPTER MERGED."""
import os
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")

import torch
import transformers
from peft import PeftModel

transformers.logging.set_verbosity_error()


def main():
    base, adapter, merged = sys.argv[1:]
    load = lambda folder: transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain, wanted = load(base), load(merged)
    tokens = torch.arange(1, 17).reshape(1, 16) % plain.config.vocab_size
    with torch.no_grad():
        before, wanted = plain(tokens).logits, wanted(tokens).logits
        found = PeftModel.from_pretrained(plain, adapter).eval()(tokens).logits
    change = (wanted - before).abs().max().item()
    print((found - wanted).abs().max().item() / change)


main()

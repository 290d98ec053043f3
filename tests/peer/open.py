"""Opens what Fitment wrote with the original tools, for tests/peers.rs.

Reads one JSON object a line: {"case": folder of fixtures/peft, "merged": checkpoint, "adapter": PEFT folder or null}.
Prints one JSON object a line: {"case", "merged": error relative to the unmerged PEFT model's output, "adapter": the same for our
PEFT folder on the base, or null}. Where no class gives an output of the wanted shape, the reasons stand instead of the number.
"""
import json
import os
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

transformers.logging.set_verbosity_error()


def classes(folder, labels):
    """The class that the config names, the bare model, one with a head: whichever gives an output of the wanted shape."""
    config = json.load(open(f"{folder}/config.json"))
    for name in config.get("architectures") or []:
        if hasattr(transformers, name):
            yield getattr(transformers, name), {}
    yield transformers.AutoModel, {}
    yield transformers.AutoModelForCausalLM, {}
    yield transformers.AutoModelForSequenceClassification, {"num_labels": labels}


def first(output):
    for name in ("logits", "last_hidden_state"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    return output[0]


def error(model, inputs, wanted):
    with torch.no_grad():
        found = first(model.eval()(**inputs))
    if found.shape != wanted.shape:
        return None
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def best(folder, inputs, wanted, wrap):
    errors, refusals = [], []
    for cls, options in classes(folder, wanted.shape[-1]):
        try:
            model = wrap(cls.from_pretrained(folder, dtype=torch.float32, **options))
            found = error(model, inputs, wanted)
        # A class that this architecture does not have, or whose modules the adapter does not name.
        except Exception as refusal:
            refusals.append(f"{cls.__name__}: {refusal}")
            continue
        if found is not None:
            errors.append(found)
            if found < 1e-5:
                break
    return min(errors) if errors else refusals


def main():
    for line in sys.stdin:
        job = json.loads(line)
        io = load_file(f"{job['case']}/io.safetensors")
        inputs = {key.removeprefix("input."): value for key, value in io.items() if key.startswith("input.")}
        wanted = io["output.unmerged"]
        result = {"case": job["case"], "merged": best(job["merged"], inputs, wanted, lambda model: model), "adapter": None}
        if job["adapter"]:
            wrap = lambda model: PeftModel.from_pretrained(model, job["adapter"])
            result["adapter"] = best(f"{job['case']}/base", inputs, wanted, wrap)
        print(json.dumps(result), flush=True)


main()

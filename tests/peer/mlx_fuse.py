"""Opens adapters that Fitment wrote for MLX-LM with mlx-lm itself, and fuses them, for tests/peers.rs.

Arguments: folders with `base`, `mlx` and `merged` in them. Prints one JSON object a line: {"case", "modules", "difference"}: how many
modules took the adapter, and the largest difference between a fused weight and the merged one, relative to its tensor's largest.
"""
import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

WORDS = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def on_disk(name, tensor):
    """Mixtral's experts, which mlx-lm stacks on loading, as the checkpoint has them."""
    block, found, rest = name.partition(".switch_mlp.")
    if not found:
        return [(name, tensor)]
    return [(f"{block}.experts.{e}.{WORDS[rest.split('.')[0]]}.weight", tensor[e]) for e in range(tensor.shape[0])]


for folder in map(Path, sys.argv[1:]):
    model, _ = load_model(folder / "base")
    model = load_adapters(model, str(folder / "mlx"))
    fused = [(path, module.fuse()) for path, module in model.named_modules() if hasattr(module, "fuse")]
    model.update_modules(tree_unflatten(fused))
    ours = {}
    for file in (folder / "merged").glob("*.safetensors"):
        ours.update(mx.load(str(file)))
    difference = 0.0
    for name, theirs in (pair for name, tensor in tree_flatten(model.parameters()) for pair in on_disk(name, tensor)):
        wanted, theirs = ours[name].astype(mx.float32), theirs.astype(mx.float32)
        difference = max(difference, (mx.abs(wanted - theirs).max() / mx.abs(wanted).max()).item())
    print(json.dumps({"case": folder.name, "modules": len(fused), "difference": difference}))

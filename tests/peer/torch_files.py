"""Opens torch files that Fitment wrote, for tests/peers.rs: FOLDER with NAME.bin and the same tensors in NAME.safetensors,
and in `adapter/` a PEFT folder whose weights are adapter_model.bin. Prints how many tensors were compared, bit for bit.
"""
import pathlib
import sys

import torch
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import load_file


def bits(tensor):
    return (tensor.stride(), tensor.dtype, tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


folder = pathlib.Path(sys.argv[1])
pairs = [(torch.load(path, weights_only=True), path.with_suffix(".safetensors")) for path in sorted(folder.glob("*.bin"))]
pairs.append((load_peft_weights(str(folder / "adapter"), device="cpu"), folder / "adapter.safetensors"))
count = 0
for ours, path in pairs:
    wanted = load_file(path)
    assert ours.keys() == wanted.keys(), path
    for name, tensor in ours.items():
        assert bits(tensor) == bits(wanted[name]), f"{path}: {name}"
        count += 1
print(count)

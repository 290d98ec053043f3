"""What adapters 1.3.0 itself computes with folders: python adapters_states.py FIXTURES FOLDERS.

For each folder of FOLDERS, the case of that name in FIXTURES has the states that are asked for. Prints the largest relative error of each."""

import importlib.util
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

fixtures, folders = map(pathlib.Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location("make", fixtures / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

for folder in sorted(folders.iterdir()):
    facts = json.loads((fixtures / folder.name / "case.json").read_text())
    wanted = load_file(fixtures / folder.name / "states.safetensors")
    torch.manual_seed(7)
    model = make.AutoAdapterModel.from_config(make.CONFIGS[facts["model"]]())
    model.load_adapter(str(folder), with_head=False, set_active=True)
    if any(tensor.dtype == torch.bfloat16 for tensor in wanted.values()):
        model.to(torch.bfloat16)
    found, failed = make.states(model.eval())
    assert found.keys() == wanted.keys() and not failed, folder.name
    error = max(((found[key] - wanted[key]).abs().max() / wanted[key].abs().max()).item() for key in wanted)
    print(folder.name, error)

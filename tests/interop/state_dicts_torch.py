#!/usr/bin/env python3
"""Takes state dicts of PyTorch's ResNet-18, LSTM and Transformer to Retape and back.

usage: tests/interop/state_dicts_torch.py

Needs PyTorch, torchvision and safetensors. Every tensor must come back with the same bits under the same name, load with strict=True, and give the same
results. Prints the largest difference of results, relative to their largest, and fails above 1e-4.
"""
import pathlib
import subprocess
import sys
import tempfile

import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
torch.manual_seed(1)


def trained_resnet():
    model = torchvision.models.resnet18()
    model.train()
    with torch.no_grad():
        for _ in range(3):  # so that running moments are somebody's
            model(torch.randn(4, 3, 64, 64))
    return model


modules = {
    "resnet18": (trained_resnet(), {"x": torch.randn(2, 3, 64, 64)}),
    "lstm": (nn.LSTM(16, 24, 2, bidirectional=True, proj_size=8), {"x": torch.randn(5, 3, 16)}),
    "transformer": (nn.Transformer(32, 4, 2, 2, 64, batch_first=True), {"x": torch.randn(3, 5, 32), "y": torch.randn(3, 4, 32)}),
}


def result_of(module, inputs):
    with torch.no_grad():
        y = module.eval()(*inputs.values())
    return y[0] if isinstance(y, tuple) else y


def main():
    subprocess.run([ROOT / "run", "build", "state_dicts"], check=True)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, (module, inputs) in modules.items():
            state, given, back = (f"{folder}/{part}.safetensors" for part in ("state", "inputs", "back"))
            save_file(module.state_dict(), state)
            save_file(inputs, given)
            subprocess.run([ROOT / "build/release/bin/state_dicts", name, state, given, back], check=True)
            returned = load_file(back)
            result = returned.pop("result")
            before = module.state_dict()
            changed = [key for key in before if key not in returned or before[key].dtype != returned[key].dtype or not torch.equal(before[key], returned[key])]
            if changed or len(returned) != len(before):
                sys.exit(f"{name}: {changed or set(returned) - set(before)} did not come back as sent")
            module.load_state_dict(returned, strict=True)
            expected = result_of(module, inputs)
            difference = ((result - expected).abs().max() / expected.abs().max()).item()
            print(f"{name}: {len(before)} tensors came back unchanged; results differ by {difference:.1e}")
            worst = max(worst, difference)
    if not worst <= 1e-4:
        sys.exit("results differ too much")


main()

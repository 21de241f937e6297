#!/usr/bin/env python3
"""Takes a trained GPT's weights to PyTorch and a PyTorch model's weights back, and compares logits.

usage: tests/interop/lm_torch.py RUN_FOLDER [PROMPT]

RUN_FOLDER is what `./run train` has made. Needs PyTorch and NumPy. Prints the largest difference each way and fails above 1e-4.
"""
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy
import torch
from torch import nn
from torch.nn import functional

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = {"F32": numpy.float32, "F64": numpy.float64, "I64": numpy.int64}


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, start = json.loads(data[8 : 8 + length]), 8 + length
    return {
        name: torch.from_numpy(numpy.frombuffer(data[start + e["data_offsets"][0] : start + e["data_offsets"][1]], DTYPES[e["dtype"]]).reshape(e["shape"]).copy())
        for name, e in header.items()
        if name != "__metadata__"
    }


def write_safetensors(path, tensors):
    header, at, blobs = {}, 0, []
    for name, tensor in tensors.items():
        blob = tensor.detach().contiguous().float().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


class LayerNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return functional.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for t in self.c_attn(x).split(width, dim=2))
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        hidden = torch.ones(length, length).triu(1).bool()
        y = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.c_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        return self.c_proj(functional.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = LayerNorm(width), Attention(width, heads), LayerNorm(width), Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, vocab, block, layers, heads, width):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab, width),
                "wpe": nn.Embedding(block, width),
                "h": nn.ModuleList(Block(width, heads) for _ in range(layers)),
                "ln_f": LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids):
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    run = pathlib.Path(sys.argv[1]).resolve()
    prompt = sys.argv[2] if len(sys.argv) > 2 else "the "
    checkpoints = sorted(run.glob("*/model.safetensors"), key=lambda p: p.stat().st_mtime)
    if not checkpoints:
        sys.exit(f"{run} holds no checkpoint")
    weights = read_safetensors(checkpoints[-1])
    config = json.loads((run / "config.json").read_text())
    heads = config["heads"] if "heads" in config else config["model"]["heads"]
    vocab, width = weights["transformer.wte.weight"].shape
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer.h."))
    model = Gpt(vocab, weights["transformer.wpe.weight"].shape[0], layers, heads, width).eval()

    worst = 0.0
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        def retape(*arguments):
            out = pathlib.Path(folder) / "logits.safetensors"
            subprocess.run([ROOT / "run", "logits", "lm", "--from", run, "--prompt", prompt, "--out", out, *arguments], check=True)
            return read_safetensors(out)

        model.load_state_dict(weights)
        ours = retape()
        difference = (model(ours["ids"]) - ours["logits"]).abs().max().item()
        print(f"Retape's weights in PyTorch: logits differ by at most {difference:.2e}")
        worst = max(worst, difference)

        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
        other = pathlib.Path(folder) / "torch.safetensors"
        write_safetensors(other, model.state_dict())
        ours = retape("--weights", other)
        difference = (model(ours["ids"]) - ours["logits"]).abs().max().item()
        print(f"PyTorch's weights in Retape: logits differ by at most {difference:.2e}")
        worst = max(worst, difference)
    sys.exit(0 if worst < 1e-4 else 1)


if __name__ == "__main__":
    main()

"""Writes layers_recurrent.safetensors, which tests/nn/rnn_test.cpp compares with: recurrent layers and cells of PyTorch 2.15 in f64. Run with
PyTorch, NumPy and safetensors; building and testing need none of them.

Inputs and parameters are sin(0.7 i + k). The loss is the sum of all results, each times sin(0.7 i + 1, 2, 3).
Entries: CASE.x, CASE.h_0, CASE.c_0, CASE.lengths, CASE.p.NAME; CASE.output, CASE.h_n, CASE.c_n; CASE.d.x, ..., CASE.d.p.NAME.
"""

import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

torch.set_default_dtype(torch.float64)
out = {}


def wave(shape, k):
    n = int(torch.tensor(shape).prod()) if shape else 1
    return torch.sin(0.7 * torch.arange(n) + k).reshape(shape)


def start(case, module, **inputs):
    for i, (name, p) in enumerate(module.named_parameters()):
        p.data = 0.8 * wave(p.shape, 0.3 * (i + 1))
        out[f"{case}.p.{name}"] = p.detach().clone()
    for name, t in inputs.items():
        out[f"{case}.{name}"] = t.clone()
        if t.is_floating_point():
            t.requires_grad_()


def finish(case, module, inputs, results):
    loss = sum((y * wave(y.shape, k + 1)).sum() for k, y in enumerate(results.values()))
    loss.backward()
    for name, y in results.items():
        out[f"{case}.{name}"] = y.detach()
    for name, t in inputs.items():
        if t.is_floating_point():
            out[f"{case}.d.{name}"] = t.grad
    for name, p in module.named_parameters():
        out[f"{case}.d.p.{name}"] = p.grad


def layer(case, kind, x, lengths=None, state=False, **options):
    module = kind(x[-1], 4, **options)
    first = options.get("batch_first", False)
    directions = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    batch = () if len(x) == 2 else (x[0 if first else 1],)
    inputs = {"x": wave(x, 0.2)}
    if state:
        inputs["h_0"] = wave((directions, *batch, options.get("proj_size", 0) or 4), 0.4)
        if kind is nn.LSTM:
            inputs["c_0"] = wave((directions, *batch, 4), 0.6)
    if lengths:
        inputs["lengths"] = torch.tensor(lengths)
    start(case, module, **inputs)
    hx = (inputs["h_0"], inputs["c_0"]) if "c_0" in inputs else inputs.get("h_0")
    given = inputs["x"]
    if lengths:
        given = pack_padded_sequence(given, inputs["lengths"], batch_first=first, enforce_sorted=False)
    output, last = module(given, hx)
    if lengths:
        output, _ = pad_packed_sequence(output, batch_first=first, total_length=x[1 if first else 0])
    results = {"output": output}
    if kind is nn.LSTM:
        results["h_n"], results["c_n"] = last
    else:
        results["h_n"] = last
    finish(case, module, inputs, results)


def cell(case, kind, state=True, **options):
    module = kind(3, 4, **options)
    inputs = {"x": wave((2, 3), 0.2)}
    if state:
        inputs["h_0"] = wave((2, 4), 0.4)
        if kind is nn.LSTMCell:
            inputs["c_0"] = wave((2, 4), 0.6)
    start(case, module, **inputs)
    hx = (inputs["h_0"], inputs["c_0"]) if "c_0" in inputs else inputs.get("h_0")
    result = module(inputs["x"], hx)
    finish(case, module, inputs, {"h_n": result[0], "c_n": result[1]} if kind is nn.LSTMCell else {"h_n": result})


both = dict(num_layers=2, bidirectional=True)
layer("rnn_tanh", nn.RNN, (2, 5, 3), state=True, batch_first=True, **both)
layer("rnn_relu", nn.RNN, (5, 2, 3), nonlinearity="relu", bias=False)
layer("rnn_lengths", nn.RNN, (5, 3, 3), lengths=[3, 5, 1], nonlinearity="relu", **both)
layer("lstm", nn.LSTM, (5, 2, 3), **both)
layer("lstm_lengths", nn.LSTM, (3, 5, 3), lengths=[3, 5, 1], state=True, batch_first=True, **both)
layer("lstm_unbatched", nn.LSTM, (4, 3), state=True, bias=False)
layer("lstm_proj", nn.LSTM, (5, 2, 3), state=True, proj_size=2, **both)
layer("lstm_proj_lengths", nn.LSTM, (4, 3, 3), lengths=[2, 1, 4], proj_size=3, **both)
layer("gru", nn.GRU, (2, 5, 3), batch_first=True, **both)
layer("gru_lengths", nn.GRU, (5, 3, 3), lengths=[3, 5, 1], state=True, **both)
layer("gru_unbatched", nn.GRU, (4, 3), state=True, bias=False)
cell("rnn_cell", nn.RNNCell)
cell("rnn_cell_relu", nn.RNNCell, nonlinearity="relu", bias=False)
cell("lstm_cell", nn.LSTMCell)
cell("lstm_cell_start", nn.LSTMCell, state=False)
cell("gru_cell", nn.GRUCell)

save_file({k: v.detach().contiguous() for k, v in out.items()}, pathlib.Path(__file__).parent / "layers_recurrent.safetensors")

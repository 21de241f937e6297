"""Writes layers_others.safetensors, which tests/nn/activation_test.cpp and tests/nn/embedding_bag_test.cpp compare with: PyTorch 2.15's activations and other layers
in f64, with their gradients. Entries as in make_layers_losses.py. Run with PyTorch and safetensors; building and testing need neither.
"""

import pathlib

import torch
import torch.nn.functional as F

from layer_cases import case, integers, save, wave

x = 3 * wave(4, 3, k=0.1)
for name in ("relu relu6 selu mish softsign tanhshrink logsigmoid hardswish silu gelu sigmoid tanh elu celu leaky_relu hardtanh hardshrink softshrink "
             "softplus rrelu").split():
    case(name, getattr(F, name), dict(input=x))
for name, options in dict(elu=dict(alpha=0.6), celu=dict(alpha=0.75), leaky_relu=dict(negative_slope=-0.3), hardtanh=dict(min_val=-0.5, max_val=2.0),
                          hardshrink=dict(lambd=1.2), softshrink=dict(lambd=1.2), softplus=dict(beta=3.0, threshold=4.0)).items():
    case(name + "_options", lambda input, name=name, options=options: getattr(F, name)(input, **options), dict(input=x))
kinks = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0])
for name in "relu relu6 selu hardswish elu celu leaky_relu hardtanh hardshrink softshrink".split():
    case(name + "_kinks", getattr(F, name), dict(input=kinks))


def hardsigmoid(input):  # PyTorch's 1 / 6 has the digits of a float
    return torch.where(input <= -3, 0.0, torch.where(input >= 3, 1.0, input / 6 + 0.5))


case("hardsigmoid", hardsigmoid, dict(input=x))
case("hardsigmoid_kinks", hardsigmoid, dict(input=kinks))
case("threshold", lambda x: F.threshold(x, 0.4, -7.0), dict(x=x))
case("glu", lambda x: F.glu(x, 0), dict(x=x))
case("softmin", lambda x: F.softmin(x, 1), dict(x=x))
case("softmax2d", torch.nn.Softmax2d(), dict(input=wave(2, 3, 2, 2)))
case("prelu", F.prelu, dict(input=wave(2, 3, 2), weight=torch.tensor([0.3, -0.2, 0.7])))
case("prelu_one", F.prelu, dict(input=x, weight=torch.tensor([0.3])))
case("bilinear", F.bilinear, dict(input1=wave(2, 2, 3), input2=wave(2, 2, 4, k=1), weight=wave(5, 3, 4, k=2), bias=wave(5, k=3)))


def gated(act):  # Shazeer 2020
    return lambda x, gw, gb, uw, ub, dw, db: (act(x @ gw.T + gb) * (x @ uw.T + ub)) @ dw.T + db


weights = dict(x=wave(2, 2, 3), gw=wave(5, 3, k=1), gb=wave(5, k=2), uw=wave(5, 3, k=3), ub=wave(5, k=4), dw=wave(3, 5, k=5), db=wave(3, k=6))
case("swiglu", gated(F.silu), weights)
case("geglu", gated(F.gelu), weights)
case("reglu", gated(F.relu), weights)

table, ids, offsets = wave(6, 3, k=0.3), integers([1, 4, 4, 0, 2, 5, 2, 1, 3]), integers([0, 3, 3, 7])
for mode in ("sum", "mean", "max"):
    case(f"embedding_bag_{mode}", lambda w, i, o: F.embedding_bag(i, w, o, mode=mode), dict(w=table), dict(i=ids, o=offsets))
    case(f"embedding_bag_{mode}_padding", lambda w, i, o: F.embedding_bag(i, w, o, mode=mode, padding_idx=4), dict(w=table), dict(i=ids, o=offsets))
    case(f"embedding_bag_{mode}_rows", lambda w, i: F.embedding_bag(i, w, mode=mode), dict(w=table), dict(i=ids.reshape(3, 3)))
case("embedding_bag_weights", lambda w, s, i, o: F.embedding_bag(i, w, o, mode="sum", per_sample_weights=s, include_last_offset=True), dict(w=table, s=wave(9, k=2)),
     dict(i=ids, o=integers([0, 2, 5, 9])))


def experts(x, gate, up, up_bias, down, down_bias):  # token by token
    p = torch.softmax(x @ gate.T, 1)
    rows = []
    for n in range(len(x)):
        best, chosen = p[n].topk(2)
        rows.append(sum(w / best.sum() * (F.gelu(x[n] @ up[e] + up_bias[e]) @ down[e] + down_bias[e]) for w, e in zip(best, chosen)))
    return torch.stack(rows)


case("experts", experts, dict(x=wave(5, 3), gate=2 * wave(4, 3, k=1), up=wave(4, 3, 6, k=2), up_bias=wave(4, 6, k=3), down=wave(4, 6, 3, k=4), down_bias=wave(4, 3, k=5)))

save(pathlib.Path(__file__).parent / "layers_others.safetensors")

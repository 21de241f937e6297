"""What make_layers_losses.py and make_layers_others.py share: a function, its inputs, its result and gradients, all in f64."""

import math

import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
out = {}


def wave(*shape, k=0.0):
    return torch.sin(0.7 * torch.arange(math.prod(shape)) + k).reshape(shape)


def integers(values, *shape):
    return torch.tensor(values, dtype=torch.int64).reshape(shape or (-1,))


def case(name, f, x, k={}):
    x = {n: v.clone().requires_grad_() for n, v in x.items()}
    y = f(**x, **k)
    grads = torch.autograd.grad((y * wave(*y.shape, k=0.5)).sum(), list(x.values()))
    out.update({f"{name}.x.{n}": v for n, v in x.items()})
    out.update({f"{name}.k.{n}": v for n, v in k.items()})
    out.update({f"{name}.d.{n}": v for n, v in zip(x, grads)})
    out[f"{name}.y"] = y


def save(path):
    save_file({k: v.detach().clone().contiguous() for k, v in out.items()}, path)

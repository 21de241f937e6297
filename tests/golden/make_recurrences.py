"""Writes recurrences.safetensors, which tests/nn/recurrences_test.cpp compares with: linear_recurrence, selective_scan and gated_linear_attention written out step by
step from their definitions, in NumPy's f64. Gradients come from steps along the imaginary axis, which are exact to the last bits. Entries as in layer_cases.py.
Run with NumPy and safetensors; building and testing need neither.
"""

import math
import pathlib

import numpy as np
from safetensors.numpy import save_file


def wave(*shape, k=0.0):
    return np.sin(0.7 * np.arange(math.prod(shape)) + k).reshape(shape)


def linear_recurrence(a, b, initial, reverse=False, times=lambda x, y: x * y):
    a, h, states = np.broadcast_to(a, b.shape), initial, [None] * b.shape[1]
    for t in reversed(range(b.shape[1])) if reverse else range(b.shape[1]):
        h = states[t] = times(a[:, t], h) + b[:, t]
    return np.stack(states, 1)


def times_pairs(x, y):
    return np.stack([x[..., 0] * y[..., 0] - x[..., 1] * y[..., 1], x[..., 0] * y[..., 1] + x[..., 1] * y[..., 0]], -1)


def selective_scan(u, delta, A, B, C, D, z, delta_bias, initial):  # Gu & Dao 2023
    h, y, dt = initial, [], np.log1p(np.exp(delta + delta_bias))
    of_channel = np.arange(u.shape[2]) * B.shape[2] // u.shape[2]
    for t in range(u.shape[1]):
        h = np.exp(dt[:, t, :, None] * A) * h + dt[:, t, :, None] * B[:, t, of_channel] * u[:, t, :, None]
        y.append((C[:, t, of_channel] * h).sum(-1) + D * u[:, t])
    return np.stack(y, 1) * z / (1 + np.exp(-z))


def gated_linear_attention(q, k, v, g, initial, scale):  # Yang et al. 2023
    S, y = initial, []
    for t in range(q.shape[1]):
        decay = np.exp(g[:, t])
        S = (decay[..., None, None] if g.ndim == 3 else decay[..., None]) * S + k[:, t, :, :, None] * v[:, t, :, None, :]
        y.append(scale * np.einsum("bhk,bhkv->bhv", q[:, t], S))
    return np.stack(y, 1)


entries = {}


def case(name, f, x):
    y = f(**x)
    entries[f"{name}.y"] = y
    for n, v in x.items():
        d = np.empty_like(v)
        for i in np.ndindex(v.shape):
            moved = v.astype(complex)
            moved[i] += 1e-30j
            d[i] = (f(**{**x, n: moved}).imag * wave(*y.shape, k=0.5)).sum() / 1e-30
        entries[f"{name}.x.{n}"], entries[f"{name}.d.{n}"] = v, d


start = wave(2, 3, k=2)
case("linear", linear_recurrence, dict(a=wave(2, 7, 3), b=wave(2, 7, 3, k=1), initial=start))
case("linear_reverse", lambda **x: linear_recurrence(**x, reverse=True), dict(a=wave(3), b=wave(2, 7, 3, k=1), initial=start))
case("linear_complex", lambda **x: linear_recurrence(**x, times=times_pairs), dict(a=0.7 * wave(3, 2), b=wave(2, 7, 3, 2, k=1), initial=wave(2, 3, 2, k=2)))
case("selective_scan", selective_scan, dict(u=wave(2, 7, 4), delta=wave(2, 7, 4, k=1) - 1, A=-1.1 - wave(4, 3, k=2), B=wave(2, 7, 2, 3, k=3),
                                            C=wave(2, 7, 2, 3, k=4), D=wave(4, k=0.5), z=2 * wave(2, 7, 4, k=1.5), delta_bias=wave(4, k=2.5),
                                            initial=wave(2, 4, 3, k=3.5)))
heads = dict(q=wave(2, 7, 2, 3), k=wave(2, 7, 2, 3, k=1), v=wave(2, 7, 2, 4, k=2), initial=wave(2, 2, 3, 4, k=4))
case("attention_heads", lambda **x: gated_linear_attention(**x, scale=0.6), dict(heads, g=-1 - wave(2, 7, 2, k=3)))
case("attention_features", lambda **x: gated_linear_attention(**x, scale=3**-0.5), dict(heads, g=-1 - wave(2, 7, 2, 3, k=3)))

save_file({key: np.ascontiguousarray(x) for key, x in entries.items()}, pathlib.Path(__file__).parent / "recurrences.safetensors")

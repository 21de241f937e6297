"""Writes mixers_attention.safetensors, which tests/nn/mixers_attention_test.cpp compares with: layers of linear and relative attention, causal, written out from
their papers in NumPy's f64, position by position. Parameters are those of `waved` in tests/nn/golden.h: entry i of state_dict() is wave(..., k = 0.3 (i + 1)).
Run with NumPy and safetensors; building and testing need neither.
"""

import math
import pathlib

import numpy as np
from safetensors.numpy import save_file

B, T, C, H = 2, 11, 8, 2
D = C // H


def wave(*shape, k=0.0):
    return np.sin(0.7 * np.arange(math.prod(shape)) + k).reshape(shape)


def parameters(**shapes):
    return {name: wave(*shape, k=0.3 * (i + 1)) for i, (name, shape) in enumerate(shapes.items())}


def projections(bias=True):
    shapes = {}
    for name in "qkvo":
        shapes[f"{name}"] = (C, C)
        if bias:
            shapes[f"{name}_bias"] = (C,)
    return shapes


def heads(p, name, x):  # (T, C) to (H, T, D)
    y = x @ p[name].T + p.get(f"{name}_bias", 0)
    return y.reshape(len(x), H, D).transpose(1, 0, 2)


def attention(p, x, of_head, before_o=lambda y: y):
    """of_head(q, k, v, h) for each head of each sequence gives (T, D)."""
    ys = []
    for sequence in x:
        q, k, v = (heads(p, name, sequence) for name in "qkv")
        y = np.concatenate([of_head(q[h], k[h], v[h], h) for h in range(H)], 1)
        ys.append(before_o(y) @ p["o"].T + p.get("o_bias", 0))
    return np.stack(ys)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def recurrent(phi, eps):  # Katharopoulos et al. 2020, equations 18 to 20
    def of_head(q, k, v, h):
        S, Z, y = 0, 0, []
        for t in range(T):
            S, Z = S + np.outer(phi(k[t], t), v[t]), Z + phi(k[t], t)
            y.append(phi(q[t], t) @ S / (phi(q[t], t) @ Z + eps))
        return np.stack(y)

    return of_head


def elu_plus_one(x, t):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def efficient(q, k, v, h):  # Shen et al. 2018, with the positions so far
    return np.stack([softmax(q[t]) @ (softmax(k[: t + 1], 0).T @ v[: t + 1]) for t in range(T)])


def cosformer(x, t):
    r, angle = np.maximum(x, 0), math.pi * t / (2 * 16)
    return np.concatenate([r * math.cos(angle), r * math.sin(angle)])


def norm_attention(q, k, v, h):
    S, y = 0, []
    for t in range(T):
        S = S + np.outer(elu_plus_one(k[t], t), v[t])
        y.append(elu_plus_one(q[t], t) @ S)
    return np.stack(y)


def diag_attention(q, k, v, h):
    y = []
    for t in range(T):
        seen = slice(t // 4 * 4, t + 1)
        y.append(softmax(k[seen] @ q[t] / math.sqrt(D)) @ v[seen])
    return np.stack(y)


def flash(p, x, e=12, s=4, c=4):  # Hua et al. 2022, divided by the chunk's size as in FLASH-pytorch
    ys = []
    for sequence in x:
        z = sequence @ p["in"].T + p["in_bias"]
        z = z / (1 + np.exp(-z))
        u, v, base = z[:, :e], z[:, e : 2 * e], z[:, 2 * e :]
        q, lin_q, k, lin_k = (base * p["gamma"][i] + p["beta"][i] for i in range(4))
        y = np.zeros((T, e))
        for t in range(T):
            first = t // c * c
            for j in range(first, t + 1):
                y[t] += max(0, q[t] @ k[j] / c + p["distances"][j - t + c - 1]) ** 2 * v[j]
            y[t] += lin_q[t] @ (lin_k[:first].T @ v[:first]) / c
        ys.append((u * y) @ p["o"].T + p["o_bias"])
    return np.stack(ys)


def shaw(p, most=3):
    def of_head(q, k, v, h):
        y = []
        for t in range(T):
            kinds = np.clip(np.arange(t + 1) - t, -most, most) + most
            weights = softmax((k[: t + 1] + p["relative_keys"][kinds]) @ q[t] / math.sqrt(D))
            y.append(weights @ (v[: t + 1] + p["relative_values"][kinds]))
        return np.stack(y)

    return of_head


def xl(p, mem_len=5):
    def of_head(q, k, v, h):
        y = []
        for t in range(T):
            seen = np.arange(max(0, t - mem_len), t + 1)
            angles = np.outer(t - seen, 10000.0 ** (-np.arange(0, C, 2) / C))
            r = (np.concatenate([np.sin(angles), np.cos(angles)], 1) @ p["r"].T)[:, h * D : (h + 1) * D]
            weights = softmax((k[seen] @ (q[t] + p["of_content"][h]) + r @ (q[t] + p["of_distance"][h])) / math.sqrt(D))
            y.append(weights @ v[seen])
        return np.stack(y)

    return of_head


def favor(p):  # Choromanski et al. 2021, lemma 1
    w = p["projection"]

    def phi(x, t):
        x = x / D**0.25
        return np.exp(w @ x - x @ x / 2) / math.sqrt(len(w))

    return recurrent(phi, 0)


x = wave(B, T, C, k=0.2)
p = parameters(**projections())
entries = {
    "linear": attention(p, x, recurrent(elu_plus_one, 1e-6)),
    "efficient": attention(p, x, efficient),
    "cosformer": attention(p, x, recurrent(cosformer, 1e-6)),
    "diag": attention(p, x, diag_attention),
}
p = parameters(**projections(), norm=(C,))
entries["norm"] = attention(p, x, norm_attention, lambda y: y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5) * p["norm"])
p = parameters(**projections(), projection=(6, D))
entries["favor"] = attention(p, x, favor(p))
p = parameters(**{"in": (28, C), "in_bias": (28,)}, gamma=(4, 4), beta=(4, 4), distances=(7,), o=(C, 12), o_bias=(C,))
entries["flash"] = flash(p, x)
p = parameters(**projections(), relative_keys=(7, D), relative_values=(7, D))
entries["shaw"] = attention(p, x, shaw(p))
p = parameters(**projections(bias=False), r=(C, C), of_content=(H, D), of_distance=(H, D))
entries["xl"] = attention(p, x, xl(p))

save_file({key: np.ascontiguousarray(y) for key, y in entries.items()}, pathlib.Path(__file__).parent / "mixers_attention.safetensors")

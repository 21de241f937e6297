"""Writes mixers_recurrent.safetensors, which tests/nn/ssm_test.cpp compares with: layers with a state, written out position by position from their papers and
their authors' code, in NumPy's f64. Gradients come from steps along the imaginary axis, which are exact to the last bits. A case has its input
(case.x), result (case.y), parameters (case.p.NAME) and the gradients of the sum of y * wave(0.5) (case.d.x, case.d.p.NAME).
Run with NumPy and safetensors; building and testing need neither.
"""

import math
import pathlib

import numpy as np
from safetensors.numpy import save_file


def wave(*shape, k=0.0):
    return np.sin(0.7 * np.arange(math.prod(shape)) + k).reshape(shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.log1p(np.exp(x))


def linear(p, name, x):
    y = x @ p[name + ".weight"].T
    return y + p[name + ".bias"] if name + ".bias" in p else y


def causal_conv(p, name, x):
    weight, width = p[name + ".weight"][:, 0], p[name + ".weight"].shape[2]
    padded = np.concatenate([np.zeros((x.shape[0], width - 1, x.shape[2])), x], 1)
    y = sum(weight[:, k] * padded[:, k : k + x.shape[1]] for k in range(width))
    return y + p[name + ".bias"] if name + ".bias" in p else y


def mamba(p, x):  # Gu & Dao 2023, algorithm 2 and figure 3
    d_inner, d_state = p["A_log"].shape
    u, z = np.split(linear(p, "in_proj", x), 2, -1)
    u = silu(causal_conv(p, "conv1d", u))
    dt, B, C = np.split(u @ p["x_proj.weight"].T, [p["dt_proj.weight"].shape[1], p["dt_proj.weight"].shape[1] + d_state], -1)
    dt = softplus(linear(p, "dt_proj", dt))
    h, y = 0, []
    for t in range(x.shape[1]):
        h = np.exp(dt[:, t, :, None] * -np.exp(p["A_log"])) * h + dt[:, t, :, None] * B[:, t, None] * u[:, t, :, None]
        y.append((h * C[:, t, None]).sum(-1) + p["D"] * u[:, t])
    return linear(p, "out_proj", np.stack(y, 1) * silu(z))


def normalized(x, groups=1, eps=1e-5):  # by the root of the mean square
    g = x.reshape(*x.shape[:-1], groups, -1)
    return (g / np.sqrt((g**2).mean(-1, keepdims=True) + eps)).reshape(x.shape)


def mamba2(p, x, P, G, norm_before_gate=False, limit=None):  # Dao & Gu 2024, listing 2 and figure 6, its recurrence position by position
    H, d_conv_in, d_inner = p["A_log"].size, p["conv1d.weight"].shape[0], p["out_proj.weight"].shape[1]
    d = H * P
    N, rest = (d_conv_in - d) // (2 * G), d_inner - d
    z0, x0, z, xBC, dt = np.split(linear(p, "in_proj", x), np.cumsum([rest, rest, d, d_conv_in]), -1)
    u, B, C = np.split(silu(causal_conv(p, "conv1d", xBC)), [d, d + G * N], -1)
    dt = softplus(dt + p["dt_bias"])
    if limit:
        dt = np.where(dt.real < limit[0], limit[0], np.where(dt.real > limit[1], limit[1], dt))
    D, h, y, of_head = (p["D"].reshape(H, P) if p["D"].size == d else p["D"][:, None]), 0, [], np.arange(H) * G // H
    for t in range(x.shape[1]):
        u_t = u[:, t].reshape(-1, H, P)
        B_t, C_t = (m[:, t].reshape(-1, G, N)[:, of_head] for m in (B, C))
        h = np.exp(dt[:, t] * -np.exp(p["A_log"]))[..., None, None] * h + dt[:, t, :, None, None] * u_t[..., None] * B_t[:, :, None]
        y.append(((h * C_t[:, :, None]).sum(-1) + D * u_t).reshape(-1, d))
    y = np.stack(y, 1)
    if "norm.weight" not in p:
        y = y * silu(z)
    elif norm_before_gate:
        y = normalized(y, G) * p["norm.weight"] * silu(z)
    else:
        y = normalized(y * silu(z), G) * p["norm.weight"]
    return linear(p, "out_proj", np.concatenate([silu(z0) * x0, y], -1))


def retention(p, x, H, rms):  # Sun et al. 2023, equations 5 to 8, the parallel form; angles and rotation as in torchscale
    B, T, C = x.shape
    K, V = C // H, p["v_proj.weight"].shape[0] // H
    angle = np.arange(T)[:, None] * np.repeat(10000.0 ** -np.linspace(0, 1, K // 2), 2)

    def rotated(t):
        turned = np.stack([-t[..., 1::2], t[..., ::2]], -1).reshape(t.shape)
        return t * np.cos(angle) + turned * np.sin(angle)

    q, k, v = (linear(p, n + "_proj", x).reshape(B, T, H, -1).transpose(0, 2, 1, 3) for n in "qkv")
    gamma = 1 - 2.0 ** (-5 - np.arange(H))
    n_m = np.arange(T)[:, None] - np.arange(T)
    D = np.where(n_m >= 0, gamma[:, None, None] ** np.maximum(n_m, 0), 0)
    y = ((rotated(q) @ rotated(k * K**-0.5).swapaxes(-1, -2)) * D) @ v
    if not rms:
        y = y - y.mean(-1, keepdims=True)
    y = normalized(y, eps=1e-6).transpose(0, 2, 1, 3).reshape(B, T, H * V)
    return linear(p, "out_proj", silu(linear(p, "g_proj", x)) * y)


def gla(p, x, H, kv, normalizer=16, floor=None, feature_map=lambda x: x, gate=silu, norm="g_norm_swish_gate"):  # Yang et al. 2023, section 4.4, and fla's options
    B, T, _ = x.shape

    def projected(n):
        y = linear(p, n + "_proj", x)
        return silu(causal_conv(p, n + "_conv1d", y)) if n + "_conv1d.weight" in p else y

    def of_heads(t):
        return np.repeat(t.reshape(B, T, kv, -1), H // kv, 2)

    q, k, v = projected("q").reshape(B, T, H, -1), of_heads(projected("k")), of_heads(projected("v"))
    q, k = feature_map(q), feature_map(k)
    g = np.log(sigmoid(linear(p, "gk_proj.1", linear(p, "gk_proj.0", x)))) / normalizer
    if floor is not None:
        g = np.where(g.real < floor, floor, g)
    g, S, y = of_heads(g), 0, []
    for t in range(T):
        S = np.exp(g[:, t])[..., None] * S + k[:, t, :, :, None] * v[:, t, :, None, :]
        y.append(q.shape[-1] ** -0.5 * np.einsum("bhk,bhkv->bhv", q[:, t], S))
    y = normalized(np.stack(y, 1))
    y = (y * p[norm + ".weight"] if norm + ".weight" in p else y).reshape(B, T, -1)
    return linear(p, "o_proj", y * gate(linear(p, "g_proj", x)) if "g_proj.weight" in p else y)


def before(x):  # each position's place taken by the one before
    return np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], 1)


def mixed(p, name, x):
    m = p["time_mix_" + name]
    return linear(p, name, x * m + before(x) * (1 - m))


def rwkv(p, x):  # Peng et al. 2023, equations 11 to 18
    k, v, r = mixed(p, "key", x), mixed(p, "value", x), sigmoid(mixed(p, "receptance", x))
    keeps, n, d, y = np.exp(-np.exp(p["time_decay"])), 0, 0, []
    for t in range(x.shape[1]):
        now, enters = np.exp(p["time_first"] + k[:, t]), np.exp(k[:, t])
        y.append((n + now * v[:, t]) / (d + now))
        n, d = keeps * n + enters * v[:, t], keeps * d + enters
    return linear(p, "output", r * np.stack(y, 1))


def rwkv_feed_forward(p, x):  # equations 11, 12 and 17 of its channel mixing
    k = mixed(p, "key", x)
    return sigmoid(mixed(p, "receptance", x)) * linear(p, "value", np.where(k.real > 0, k, 0) ** 2)


def log_space(log_coefficients, log_values):  # Feng et al. 2024, appendix B: Heinsen's scan, from a state of 0
    sums = np.cumsum(log_coefficients, 1)
    return np.exp(sums) * np.cumsum(np.exp(log_values - sums), 1)


def log_g(x):
    return np.where(x.real >= 0, np.log(x + 0.5 + (x.real < 0)), -softplus(-x))


def min_gru(p, x):  # its listing 6
    hidden, gate = np.split(linear(p, "to_hidden_and_gate", x), 2, -1)
    h = log_space(-softplus(gate), -softplus(-gate) + log_g(hidden))
    return linear(p, "to_out", h) if "to_out.weight" in p else h


def min_lstm(p, x):  # its listing 8
    hidden, f, i = np.split(linear(p, "to_hidden_and_f_i_gate", x), 3, -1)
    difference = softplus(-f) - softplus(-i)
    h = log_space(-softplus(difference), -softplus(-difference) + log_g(hidden))
    return linear(p, "to_out", h) if "to_out.weight" in p else h


entries = {}


def case(name, f, shapes, x):
    """Parameters are waves of about the size that layers have: within 1 / sqrt(inputs)."""
    p = {n: wave(*s, k=0.3 * i) / (math.sqrt(s[-1]) if len(s) > 1 else 1) for i, (n, s) in enumerate(shapes.items())}
    y = f(p, x)
    entries[f"{name}.x"], entries[f"{name}.y"] = x, y
    for n, v in [("x", x)] + [("p." + n, v) for n, v in p.items()]:
        d = np.empty_like(v)
        for i in np.ndindex(v.shape):
            moved = v.astype(complex)
            moved[i] += 1e-30j
            moved_y = f(p, moved) if n == "x" else f({**p, n[2:]: moved}, x)
            d[i] = (moved_y.imag * wave(*y.shape, k=0.5)).sum() / 1e-30
        entries[f"{name}.d.{n}"] = d
        if n != "x":
            entries[f"{name}.{n}"] = v


def mamba_shapes(d, inner, state, rank, conv, bias, conv_bias):
    shapes = {"A_log": (inner, state), "D": (inner,), "in_proj.weight": (2 * inner, d), "conv1d.weight": (inner, 1, conv), "x_proj.weight": (rank + 2 * state, inner),
              "dt_proj.weight": (inner, rank), "dt_proj.bias": (inner,), "out_proj.weight": (d, inner)}
    if bias:
        shapes |= {"in_proj.bias": (2 * inner,), "out_proj.bias": (d,)}
    return shapes | ({"conv1d.bias": (inner,)} if conv_bias else {})


case("mamba", mamba, mamba_shapes(4, 8, 3, 1, 4, bias=False, conv_bias=True), wave(2, 6, 4))
case("mamba_options", mamba, mamba_shapes(3, 9, 2, 2, 2, bias=True, conv_bias=False), wave(2, 5, 3))


def mamba2_shapes(d, inner, ssm, heads, groups, state, conv, D, norm, bias, conv_bias):
    wide = ssm + 2 * groups * state
    shapes = {"dt_bias": (heads,), "A_log": (heads,), "D": (D,), "in_proj.weight": (2 * inner + 2 * groups * state + heads, d), "conv1d.weight": (wide, 1, conv),
              "out_proj.weight": (d, inner)}
    if norm:
        shapes |= {"norm.weight": (ssm,)}
    if bias:
        shapes |= {"in_proj.bias": (2 * inner + 2 * groups * state + heads,), "out_proj.bias": (d,)}
    return shapes | ({"conv1d.bias": (wide,)} if conv_bias else {})


case("mamba2", lambda p, x: mamba2(p, x, 2, 1), mamba2_shapes(4, 8, 8, 4, 1, 3, 4, 4, norm=True, bias=False, conv_bias=True), wave(2, 6, 4))
case("mamba2_groups", lambda p, x: mamba2(p, x, 2, 2, norm_before_gate=True, limit=(0.3, 0.9)),
     mamba2_shapes(4, 12, 8, 4, 2, 2, 2, 8, norm=True, bias=True, conv_bias=False), wave(2, 5, 4))
case("mamba2_plain", lambda p, x: mamba2(p, x, 4, 1), mamba2_shapes(4, 4, 4, 1, 1, 2, 3, 1, norm=False, bias=False, conv_bias=True), wave(2, 5, 4))


def retention_shapes(d, value):
    return {"q_proj.weight": (d, d), "k_proj.weight": (d, d), "v_proj.weight": (value, d), "g_proj.weight": (value, d), "out_proj.weight": (d, value)}


case("retention", lambda p, x: retention(p, x, 2, rms=False), retention_shapes(8, 16), wave(2, 6, 8))
case("retention_rms", lambda p, x: retention(p, x, 3, rms=True), retention_shapes(6, 6), wave(2, 5, 6))


def gla_shapes(d, K, V, H, kv, rank, conv=0, conv_bias=False, gate=True, norm="g_norm_swish_gate"):
    k, v = K // H * kv, V // H * kv
    shapes = {"q_proj.weight": (K, d), "k_proj.weight": (k, d), "v_proj.weight": (v, d), "gk_proj.0.weight": (rank, d), "gk_proj.1.weight": (k, rank), "gk_proj.1.bias": (k,),
              "o_proj.weight": (d, V)}
    if norm:
        shapes |= {norm + ".weight": (V // H,)}
    if gate:
        shapes |= {"g_proj.weight": (V, d)}
    for n, channels in ("q", K), ("k", k), ("v", v):
        shapes |= {n + "_conv1d.weight": (channels, 1, conv)} if conv else {}
        shapes |= {n + "_conv1d.bias": (channels,)} if conv_bias else {}
    return shapes


case("gla", lambda p, x: gla(p, x, 2, 2), gla_shapes(8, 4, 8, 2, 2, 16), wave(2, 6, 8))
case("gla_options", lambda p, x: gla(p, x, 4, 2, normalizer=4, floor=-0.2, feature_map=silu, gate=sigmoid, norm="g_norm"),
     gla_shapes(4, 8, 8, 4, 2, 3, conv=3, conv_bias=True, norm="g_norm"), wave(2, 5, 4))
case("gla_plain", lambda p, x: gla(p, x, 1, 1, norm="g_norm"), gla_shapes(4, 2, 4, 1, 1, 16, gate=False, norm=None), wave(2, 5, 4))

mixes = {"time_mix_" + n: (1, 1, 4) for n in ("key", "value", "receptance")}
case("rwkv", rwkv, {"time_decay": (4,), "time_first": (4,)} | mixes | {n + ".weight": (4, 4) for n in ("key", "value", "receptance", "output")}, wave(2, 6, 4))
case("rwkv_wide", rwkv, {"time_decay": (6,), "time_first": (6,)} | mixes | {n + ".weight": (6, 4) for n in ("key", "value", "receptance")} | {"output.weight": (4, 6)},
     wave(2, 5, 4))
mixes.pop("time_mix_value")
case("rwkv_feed_forward", rwkv_feed_forward, mixes | {"key.weight": (5, 4), "receptance.weight": (4, 4), "value.weight": (4, 5)}, wave(2, 6, 4))
case("min_gru", min_gru, {"to_hidden_and_gate.weight": (8, 4)}, wave(2, 6, 4))
case("min_gru_wide", min_gru, {"to_hidden_and_gate.weight": (12, 4), "to_out.weight": (4, 6)}, wave(2, 6, 4))
case("min_lstm", min_lstm, {"to_hidden_and_f_i_gate.weight": (12, 4)}, wave(2, 6, 4))
case("min_lstm_projected", min_lstm, {"to_hidden_and_f_i_gate.weight": (12, 4), "to_out.weight": (4, 4)}, wave(2, 6, 4))

save_file({key: np.ascontiguousarray(x) for key, x in entries.items()}, pathlib.Path(__file__).parent / "mixers_recurrent.safetensors")

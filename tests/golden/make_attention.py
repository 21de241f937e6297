"""Writes attention.safetensors and rope.safetensors, which tests/nn/attention_options_test.cpp compares with: attention with windows, capped scores, biases and
packed sequences, layers of Llama and Qwen 3, and the rotary frequencies, ALiBi slopes and T5 buckets of transformers.
Run with PyTorch and transformers; building and testing need neither. Entries as in layer_cases.py.
"""

import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig, Qwen3Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention
from transformers.models.t5.modeling_t5 import T5Attention

from layer_cases import case, integers, out, save, wave

folder = pathlib.Path(__file__).parent
softmax = F.softmax
F.softmax = lambda x, dim, dtype=None: softmax(x, dim)  # transformers' would round to f32


def distances(queries, keys):
    return torch.arange(keys) - torch.arange(queries).unsqueeze(1)


def attend(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def heads(count, kv, queries, keys, batch=1):
    return dict(q=2 * wave(batch, count, queries, 4), k=2 * wave(batch, kv, keys, 4, k=1), v=wave(batch, kv, keys, 3, k=2))


d = distances(70, 70)
case("window", lambda q, k, v: attend(q, k, v, (d >= -5) & (d <= 2)), heads(4, 2, 70, 70))
case("sinks", lambda q, k, v: attend(q, k, v, ((d >= -5) | (torch.arange(70) < 2)) & (d <= 0)), heads(2, 2, 70, 70))


class Gemma2:
    num_key_value_groups, training, head_dim = 2, False, 4


def capped(q, k, v):
    mask = torch.zeros(1, 1, 9, 9).masked_fill(distances(9, 9) > 0, -math.inf)
    return eager_attention_forward(Gemma2, q, k, v, mask, scaling=0.5, softcap=1.5)[0].transpose(1, 2)


case("capped", capped, heads(4, 2, 9, 9))


def alibi(q, k, v):  # bloom's differs by a number a row, which softmax does not see
    bias = build_alibi_tensor(torch.ones(1, 9), 6, torch.float64).reshape(1, 6, 1, 9)
    return attend(q, k, v, bias.masked_fill(distances(9, 9) > 0, -math.inf))


case("alibi", alibi, heads(6, 3, 9, 9))


def buckets(d, bidirectional, num_buckets, max_distance):
    return T5Attention._relative_position_bucket(d, bidirectional, num_buckets, max_distance)


def t5(bidirectional):
    def f(q, k, v, table):
        bias = F.embedding(buckets(distances(40, 44), bidirectional, 12, 30), table).permute(2, 0, 1)
        return attend(q, k, v, bias if bidirectional else bias.masked_fill(distances(40, 44) > 0, -math.inf))

    return f


for bidirectional in (True, False):
    case("t5" if bidirectional else "t5_causal", t5(bidirectional), dict(heads(2, 2, 40, 44), table=wave(12, 2, k=3)))


def packed(q, k, v, begin_q, begin_k):
    parts = []
    for a, b, c, d in zip(begin_q[:-1], begin_q[1:], begin_k[:-1], begin_k[1:]):
        x = (q[a:b].transpose(0, 1), k[c:d].transpose(0, 1), v[c:d].transpose(0, 1))
        parts.append(F.scaled_dot_product_attention(*x, is_causal=True, enable_gqa=True).transpose(0, 1))
    return torch.cat(parts)


case("packed", packed, dict(q=wave(90, 4, 4), k=wave(93, 2, 4, k=1), v=wave(93, 2, 3, k=2)),
     dict(begin_q=integers([0, 7, 77, 77, 90]), begin_k=integers([0, 5, 77, 80, 93])))


def rotation(positions, dim, base):
    angle = torch.outer(torch.arange(positions).double(), base ** (-torch.arange(0, dim, 2).double() / dim))
    return torch.cat((angle, angle), -1).cos()[None], torch.cat((angle, angle), -1).sin()[None]


def layer(name, kind, config, **more):
    config = config(hidden_size=12, num_attention_heads=4, num_key_value_heads=2, head_dim=6, attn_implementation="eager", **more)
    module = kind(config, 0)
    if hasattr(module, "q_norm"):  # transformers' would round to f32
        module.q_norm, module.k_norm = torch.nn.RMSNorm(6, eps=1e-6), torch.nn.RMSNorm(6, eps=1e-6)
    constants = {n: 0.5 * wave(*p.shape, k=0.3 * (i + 1)) for i, (n, p) in enumerate(module.named_parameters())}
    mask = torch.zeros(1, 1, 7, 7).masked_fill(distances(7, 7) > 0, -math.inf)

    def f(x, **weights):
        return torch.func.functional_call(module, weights, (x,), dict(position_embeddings=rotation(7, 6, 500.0), attention_mask=mask))[0]

    case(name, f, dict(x=wave(2, 7, 12)), constants)


layer("llama", LlamaAttention, LlamaConfig, attention_bias=True)
layer("qwen3", Qwen3Attention, Qwen3Config, rms_norm_eps=1e-6)
save(folder / "attention.safetensors")

# ---- tables ----------------------------------------------------------------------------------------------------------

tables = {}
ropes = {
    "linear": dict(rope_type="linear", factor=4.0),
    "dynamic": dict(rope_type="dynamic", factor=2.0),
    "yarn": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
    "yarn_fractions": dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=64, beta_fast=8.0, beta_slow=2.0, truncate=False, mscale=1.0,
                           mscale_all_dim=0.7),
    "yarn_factor": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, attention_factor=1.25),
    "llama3": dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    "partial": dict(rope_type="linear", factor=2.0, partial_rotary_factor=0.5),
}
for name, parameters in ropes.items():
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, head_dim=32, max_position_embeddings=64, rope_parameters=dict(rope_theta=500.0, **parameters))
    for length in (16, 100):
        cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float32), torch.arange(length)[None])
        half = cos.shape[-1] // 2
        tables[f"{name}.{length}.cos"], tables[f"{name}.{length}.sin"] = cos[0, -8:, :half], sin[0, -8:, :half]
for count in range(1, 21):
    tables[f"slopes.{count}"] = build_alibi_tensor(torch.ones(1, 2), count, torch.float32)[:, 0, 1]
for bidirectional in (True, False):
    for num, most in ((32, 128), (8, 20)):
        tables[f"buckets.{int(bidirectional)}.{num}"] = buckets(torch.arange(-300, 301), bidirectional, num, most).to(torch.int16)
tables = {k: v.to(torch.int64) if v.dtype == torch.int16 else v for k, v in tables.items()}
save_file({k: v.contiguous() for k, v in tables.items()}, folder / "rope.safetensors")

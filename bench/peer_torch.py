"""The peer's side of `bench --peer`: reads a work and its numbers a line, repeats it, and answers with the median seconds.

It is run as `peer_torch.py THREADS DEVICE`; every tensor is made on the device. A work that does not fit its memory is answered with
"out of memory", one for which this Python lacks a package with "missing: " and what, one that fails otherwise with what was raised. `peer_torch.py THREADS cpu --fresh STEPS NUMBERS` takes training steps and answers with the bytes by which the resident memory grew to its peak.
"""
import math
import os
import statistics
import sys
import time
import traceback

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width, bias=False)
        self.ln_2 = nn.LayerNorm(width, bias=False)
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.c_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x, past=None):
        b, t, c = x.shape
        q, k, v = (p.view(b, t, self.heads, c // self.heads).transpose(1, 2) for p in self.c_attn(self.ln_1(x)).split(c, -1))
        if past is not None:  # keys and values of the positions before, in buffers of the whole length
            keys, values, start = past
            keys[:, :, start : start + t] = k
            values[:, :, start : start + t] = v
            k, v = keys[:, :, : start + t], values[:, :, : start + t]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        x = x + self.c_proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class Gpt(nn.Module):
    def __init__(self, vocab, layers, heads, width, block):
        super().__init__()
        self.heads = heads
        self.wte = nn.Embedding(vocab, width)
        self.wpe = nn.Embedding(block, width)
        self.h = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width, bias=False)
        for p in self.parameters():  # as Retape's: with larger weights the softmax's small probabilities are denormal, and slow
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, ids, pasts=None, start=0):
        x = self.wte(ids) + self.wpe.weight[start : start + ids.size(1)]
        for i, block in enumerate(self.h):
            x = block(x, None if pasts is None else (*pasts[i], start))
        return self.ln_f(x) @ self.wte.weight.T

    def loss(self, ids, targets):
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())


class GptStep:
    def __init__(self, vocab, layers, heads, width, block, batch, amp=False, compiled=False):
        self.model = Gpt(vocab, layers, heads, width, block)
        self.loss = torch.compile(self.model.loss, dynamic=False) if compiled else self.model.loss
        self.amp = amp
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
        self.ids = torch.randint(vocab, (batch, block))
        self.targets = torch.randint(vocab, (batch, block))

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.ids.device.type, torch.bfloat16, enabled=self.amp):
            loss = self.loss(self.ids, self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


class MaeBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, 1e-6)
        self.norm2 = nn.LayerNorm(width, 1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Mae(nn.Module):
    """He et al. 2022, as in their code: patches are embedded, then most of them left out; mask tokens are in the decoder only."""

    def __init__(self, side, patch, width, depth, heads, decoder_width, decoder_depth, decoder_heads, mask_percent):
        super().__init__()
        self.patch, self.patches = patch, (side // patch) ** 2
        self.keep = self.patches * (100 - mask_percent) // 100
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.register_buffer("positions", torch.randn(1, self.patches + 1, width))
        self.register_buffer("decoder_positions", torch.randn(1, self.patches + 1, decoder_width))
        self.blocks = nn.ModuleList([MaeBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, 1e-6)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.decoder_blocks = nn.ModuleList([MaeBlock(decoder_width, decoder_heads) for _ in range(decoder_depth)])
        self.decoder_norm = nn.LayerNorm(decoder_width, 1e-6)
        self.pred = nn.Linear(decoder_width, patch * patch * 3)

    def loss(self, images):
        x = self.embed(images).flatten(2).transpose(1, 2) + self.positions[:, 1:]
        b, n, c = x.shape
        order = torch.rand(b, n).argsort(1)
        restore = order.argsort(1)
        x = x.gather(1, order[:, : self.keep, None].expand(-1, -1, c))
        mask = torch.ones(b, n)
        mask[:, : self.keep] = 0
        mask = mask.gather(1, restore)
        x = torch.cat([(self.cls + self.positions[:, :1]).expand(b, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        tokens = torch.cat([x[:, 1:], self.mask_token.expand(b, n - self.keep, -1)], 1)
        tokens = tokens.gather(1, restore[:, :, None].expand(-1, -1, x.size(2)))
        x = torch.cat([x[:, :1], tokens], 1) + self.decoder_positions
        for block in self.decoder_blocks:
            x = block(x)
        pred = self.pred(self.decoder_norm(x))[:, 1:]
        p, s = self.patch, images.size(2) // self.patch
        target = images.view(b, 3, s, p, s, p).permute(0, 2, 4, 3, 5, 1).reshape(b, n, p * p * 3)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        losses = (pred - target).square().mean(-1)
        return losses.mean() if self.keep == n else (losses * mask).sum() / mask.sum()


class MaeStep:
    def __init__(self, batch, side, *sizes):
        self.model = Mae(side, *sizes)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
        self.images = torch.randn(batch, 3, side, side)

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.model.loss(self.images).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


class ResNetBlock(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        else:
            self.downsample = nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(y.add_(self.downsample(x)), inplace=True)


def resnet18():
    """torchvision's, in its in-place form."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width in (64, 128, 256, 512):
        layers += [ResNetBlock(inputs, width, 1 if width == 64 else 2), ResNetBlock(width, width, 1)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class ResNetStep:
    """In the layout in which it is faster."""

    def __init__(self, batch, side):
        images = torch.randn(batch, 3, side, side)
        self.labels = torch.randint(1000, (batch,))
        made = []
        for layout in (torch.contiguous_format, torch.channels_last):
            model = resnet18().to(memory_format=layout)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
            self.model, self.optimizer, self.images = model, optimizer, images.contiguous(memory_format=layout)
            made.append((min(seconds_of(self.run_and_wait) for _ in range(6)), model, optimizer, self.images))
        _, self.model, self.optimizer, self.images = min(made, key=lambda each: each[0])

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()

    def run_and_wait(self):
        self.run()
        synchronize()


class Generation:
    def __init__(self, count, vocab, layers, heads, width, block, _):
        self.count = count
        self.model = Gpt(vocab, layers, heads, width, block)
        self.shape = (1, heads, block, width // heads)

    @torch.inference_mode()
    def run(self):
        pasts = [(torch.empty(self.shape), torch.empty(self.shape)) for _ in self.model.h]
        token = torch.zeros((1, 1), dtype=torch.long)
        for i in range(self.count):
            logits = self.model(token, pasts, i)[:, -1] / 0.8
            token = torch.multinomial(logits.softmax(-1), 1)


class Translator(nn.Module):
    """The Transformer of 2017 with norms first, and one table of token vectors."""

    def __init__(self, vocab, layers, width, heads, feed_forward):
        super().__init__()
        sizes = dict(d_model=width, nhead=heads, dim_feedforward=feed_forward, batch_first=True, norm_first=True)
        self.embedding = nn.Embedding(vocab, width, padding_idx=0)
        self.dropout = nn.Dropout(0.1)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**sizes), layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**sizes), layers, nn.LayerNorm(width))
        nn.init.normal_(self.embedding.weight, 0, width**-0.5)
        angles = torch.arange(1024)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        self.positions = torch.stack((angles.sin(), angles.cos()), -1).flatten(1)
        self.heads = heads

    def embed(self, ids, first=0):
        x = self.embedding(ids) * self.embedding.embedding_dim**0.5
        return self.dropout(x + self.positions[first : first + ids.size(1)])

    def encode(self, source):
        return self.encoder(self.embed(source), src_key_padding_mask=source == 0)

    def loss(self, source, target):
        length = target.size(1) - 1
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.decoder(self.embed(target[:, :-1]), self.encode(source), causal, memory_key_padding_mask=source == 0, tgt_is_causal=True)
        logits = x @ self.embedding.weight.T
        return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0, label_smoothing=0.1)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def memories(self, memory):
        """Keys and values of the encoder's result, for every layer."""
        all = []
        for layer in self.decoder.layers:
            a = layer.multihead_attn
            w, b = a.in_proj_weight.chunk(3), a.in_proj_bias.chunk(3)
            all.append([self.split(F.linear(memory, w[i], b[i])).contiguous() for i in (1, 2)])
        return all

    def step(self, tokens, position, caches, memories, mask):
        """The next token's logits for (N, 1) tokens; caches are (N, heads, capacity, size), written at `position`."""
        x = self.embed(tokens, position)
        for layer, (keys, values), (mk, mv) in zip(self.decoder.layers, caches, memories):
            a, h = layer.self_attn, layer.norm1(x)
            q, k, v = (self.split(y) for y in F.linear(h, a.in_proj_weight, a.in_proj_bias).chunk(3, -1))
            keys[:, :, position : position + 1] = k
            values[:, :, position : position + 1] = v
            y = F.scaled_dot_product_attention(q, keys[:, :, : position + 1], values[:, :, : position + 1])
            x = x + a.out_proj(y.transpose(1, 2).flatten(2))
            a, h = layer.multihead_attn, layer.norm2(x)
            width = h.size(-1)
            q = self.split(F.linear(h, a.in_proj_weight[:width], a.in_proj_bias[:width]))
            y = F.scaled_dot_product_attention(q, mk, mv, mask)
            x = x + a.out_proj(y.transpose(1, 2).flatten(2))
            x = x + layer.linear2(F.relu(layer.linear1(layer.norm3(x))))
        return self.decoder.norm(x[:, 0]) @ self.embedding.weight.T


class TranslationStep:
    def __init__(self, vocab, layers, width, heads, feed_forward, sentences, source, target):
        self.model = Translator(vocab, layers, width, heads, feed_forward)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
        self.source = torch.randint(4, vocab, (sentences, source))
        self.target = torch.randint(4, vocab, (sentences, target + 1))

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.model.loss(self.source, self.target).backward()
        self.optimizer.step()


class BeamDecoding:
    """Beam search with cached keys and values; hypotheses never end, as on the other side."""

    def __init__(self, vocab, layers, width, heads, feed_forward, sentences, source, target, beam=4):
        self.model = Translator(vocab, layers, width, heads, feed_forward).eval()
        self.source = torch.randint(4, vocab, (sentences, source))
        self.length, self.beam, self.layers = target, beam, layers
        self.shape = (heads, target, width // heads)

    @torch.inference_mode()
    def run(self):
        n, beam = self.source.size(0), self.beam
        memories = self.model.memories(self.model.encode(self.source))
        mask = (self.source != 0)[:, None, None]
        caches = [[torch.empty(n, *self.shape) for _ in range(2)] for _ in range(self.layers)]
        tokens, scores = torch.ones((n, 1), dtype=torch.long), torch.zeros(n, 1)
        found = torch.empty((n, 0), dtype=torch.long)
        for position in range(self.length):
            log_p = self.model.step(tokens, position, caches, memories, mask).log_softmax(-1)
            log_p[:, :2] = -torch.inf
            vocab, width = log_p.size(1), scores.size(1)
            scores, chosen = (scores[:, :, None] + log_p.view(n, width, vocab)).flatten(1).topk(beam)
            rows = (torch.arange(n)[:, None] * width + chosen // vocab).flatten()
            tokens = (chosen % vocab).view(-1, 1)
            found = torch.cat((found[rows], tokens), 1)
            caches = [[x.index_select(0, rows) for x in pair] for pair in caches]
            if width == 1:
                memories = [[x.index_select(0, rows) for x in pair] for pair in memories]
                mask = mask.index_select(0, rows)


class Chain:
    def __init__(self, recorded):
        self.x = torch.full((4,), 0.5)
        self.w = torch.ones(4, requires_grad=bool(recorded))

    def run(self):
        h = self.x
        for _ in range(1000):
            h = h * self.w
        if h.requires_grad:
            h.sum().backward()


class ForwardBackward:
    def __init__(self, f, *inputs):
        self.f = f
        self.inputs = inputs
        for x in inputs:
            if x.is_floating_point():
                x.requires_grad_()
        self.dy = torch.randn_like(f(*inputs))

    def run(self):
        for x in self.inputs:
            x.grad = None
        self.f(*self.inputs).backward(self.dy)


def row_op(name, rows):
    x, weight, bias = torch.randn(int(rows), 768), torch.ones(768), torch.zeros(768)
    return {
        "gelu": lambda: ForwardBackward(F.gelu, x),
        "softmax": lambda: ForwardBackward(lambda x: F.softmax(x, -1), x),
        "layer_norm": lambda: ForwardBackward(lambda x, w, b: F.layer_norm(x, (768,), w, b), x, weight, bias),
        "rms_norm": lambda: ForwardBackward(lambda x, w: F.rms_norm(x, (768,), w, 1e-5), x, weight),
        "dropout": lambda: ForwardBackward(lambda x: F.dropout(x, 0.1), x),
    }[name]()


def image_op(name):
    image = lambda size: torch.randn(16, 64, size, size).contiguous(memory_format=torch.channels_last)
    return {
        "transposed": lambda: ForwardBackward(
            lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1), image(28), torch.randn(64, 64, 4, 4)
        ),
        "max_pool": lambda: ForwardBackward(lambda x: F.max_pool2d(x, 3, 2, 1), image(56)),
        "avg_pool": lambda: ForwardBackward(lambda x: F.avg_pool2d(x, 2), image(56)),
        "bilinear": lambda: ForwardBackward(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), image(56)),
        "nearest": lambda: ForwardBackward(lambda x: F.interpolate(x, scale_factor=2), image(56)),
        "grid_sample": lambda: ForwardBackward(
            lambda x, theta: F.grid_sample(x, F.affine_grid(0.5 * theta, x.shape, align_corners=False), align_corners=False),
            image(56),
            torch.randn(16, 2, 3),
        ),
        # faster with the channels in planes
        "bicubic": lambda: ForwardBackward(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), torch.randn(16, 64, 56, 56)),
    }[name]()


def conv1d_depthwise(dtype):
    of = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    return ForwardBackward(lambda x, w: F.conv1d(x, w, padding=3, groups=512)[..., :512], torch.randn(4, 512, 512, dtype=of), torch.randn(512, 1, 4, dtype=of))


def conv(batch, channels, side, groups):
    x = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    return ForwardBackward(lambda x, w: F.conv2d(x, w, padding=1, groups=groups), x, torch.randn(channels, channels // groups, 3, 3))


class Missing(Exception):
    """What this Python lacks for a work."""


def region_op(name):
    try:
        from torchvision import ops
    except ImportError as error:
        raise Missing(f"torchvision cannot be imported: {error}") from error
    if name == "deform_conv2d":
        image = lambda channels: torch.randn(4, channels, 56, 56)
        return ForwardBackward(
            lambda x, offset, w, mask: ops.deform_conv2d(x, offset, w, padding=1, mask=mask), image(64), image(18), torch.randn(64, 64, 3, 3), image(9)
        )
    corner, size = torch.rand(512, 2) * 40, 4 + torch.rand(512, 2) * 24
    boxes = torch.cat([torch.arange(2.0).repeat_interleave(256)[:, None], corner, corner + size], 1)
    return ForwardBackward(lambda x: ops.roi_align(x, boxes, 7, sampling_ratio=2), torch.randn(2, 256, 50, 68))


def cross_entropy(rows, classes):
    return ForwardBackward(F.cross_entropy, torch.randn(rows, classes), torch.randint(classes, (rows,)))


def ctc(frames, sequences, classes, length):
    targets = torch.randint(1, classes, (sequences, length))
    sizes = [torch.full((sequences,), n) for n in (frames, length)]
    return ForwardBackward(lambda x: F.ctc_loss(F.log_softmax(x, 2), targets, *sizes), torch.randn(frames, sequences, classes))


def info_nce(batch, width):
    target = torch.arange(batch)
    return ForwardBackward(lambda q, k: F.cross_entropy(F.normalize(q) / 0.1 @ F.normalize(k).T, target), torch.randn(batch, width), torch.randn(batch, width))


class Rle(nn.Module):
    def __init__(self):
        super().__init__()
        net = lambda *last: nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(), nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, 2), *last)
        self.s = nn.ModuleList(net(nn.Tanh()) for _ in range(6))
        self.t = nn.ModuleList(net() for _ in range(6))
        self.register_buffer("masks", torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 3))

    def forward(self, pred, sigma, target):
        error = (pred - target) / sigma
        z = error.reshape(-1, 2)
        log_det = z.new_zeros(len(z))
        for mask, s, t in reversed(list(zip(self.masks, self.s, self.t))):
            same = mask * z
            scale, shift = s(same) * (1 - mask), t(same) * (1 - mask)
            z = (1 - mask) * (z - shift) * torch.exp(-scale) + same
            log_det = log_det - scale.sum(1)
        log_flow = (log_det - (z * z).sum(1) / 2 - math.log(2 * math.pi)).reshape(*pred.shape[:2], 1)
        return (torch.log(sigma) - log_flow + torch.log(2 * sigma) + error.abs()).sum() / len(pred)


def rle(batch, points):
    shape = (batch, points, 2)
    return ForwardBackward(Rle(), torch.randn(shape), torch.rand(shape) / 2 + 0.5, torch.randn(shape))


def pointwise_loss(logits, rows, columns):
    target = torch.rand(rows, columns)
    f = F.binary_cross_entropy_with_logits if logits else F.smooth_l1_loss
    return ForwardBackward(lambda x: f(x, target), torch.randn(rows, columns))


def attention(*shape, dtype=torch.float32):
    q, k, v = (torch.randn(shape, dtype=dtype) for _ in range(3))
    return ForwardBackward(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)


def attention_option(option, batch, heads, length, dim):
    distance = torch.arange(length).unsqueeze(1) - torch.arange(length)
    if option == "alibi":
        slopes = 2 ** (-8 * torch.arange(1, heads + 1) / heads)
        mask = (-slopes.view(-1, 1, 1) * distance).masked_fill_(distance < 0, -math.inf)
    else:
        mask = None if option == "grouped" else (distance >= 0) & (distance < 512)
    kv = (batch, 2 if option == "grouped" else heads, length, dim)
    inputs = torch.randn(batch, heads, length, dim), torch.randn(kv), torch.randn(kv)
    return ForwardBackward(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=option == "grouped"), *inputs
    )


def linear_recurrence(batch, steps, channels):
    def run(a, b):
        h, states = torch.zeros(batch, channels), []
        for factor, x in zip(a.unbind(1), b.unbind(1)):
            h = factor * h + x
            states.append(h)
        return torch.stack(states, 1)

    return ForwardBackward(run, torch.rand(batch, steps, channels), torch.randn(batch, steps, channels))


def scan(u, delta, A, B, C):
    """The reference of Gu & Dao 2023, with slices that do not make their gradients quadratic in the length."""
    powers = torch.exp(delta.unsqueeze(-1) * A)
    inputs = (delta * u).unsqueeze(-1) * B.unsqueeze(2)
    h, y = torch.zeros_like(powers[:, 0]), []
    for power, x, c in zip(powers.unbind(1), inputs.unbind(1), C.unbind(1)):
        h = power * h + x
        y.append((h @ c.unsqueeze(-1)).squeeze(-1))
    return torch.stack(y, 1)


def scan_inputs(batch, steps, channels, size):
    shape = (batch, steps, channels)
    return (torch.randn(shape), 0.001 + 0.1 * torch.rand(shape), -1 - 15 * torch.rand(channels, size), torch.randn(batch, steps, size), torch.randn(batch, steps, size))


def selective_scan_forward(*sizes):
    inputs = scan_inputs(*sizes)
    return Forward(lambda: scan(*inputs))


def gated_linear_attention(of_features, batch, steps, heads, keys, values):
    """In chunks of 64, as Dao & Gu 2024 write it in PyTorch; with a decay of features, k is divided by it, which a stronger one would not survive."""
    chunk = 64
    later = torch.ones(chunk, chunk).tril().bool()

    def chunks(x):  # (B, T, H, ...) to (B, H, chunks, 64, ...)
        return x.unflatten(1, (-1, chunk)).movedim(3, 1)

    def run(q, k, v, g):
        q, k, v, g = chunks(q) * keys**-0.5, chunks(k), chunks(v), chunks(g).cumsum(3)
        if of_features:
            scores = ((q * g.exp()) @ (k * (-g).exp()).transpose(-1, -2)).masked_fill(~later, 0)
        else:
            decay = (g.unsqueeze(-1) - g.unsqueeze(-2)).masked_fill(~later, -math.inf).exp()
            scores = (q @ k.transpose(-1, -2)) * decay
            g = g.unsqueeze(-1)
        end = g[:, :, :, -1:]
        added = (k * (end - g).exp()).transpose(-1, -2) @ v  # (B, H, chunks, K, V)
        total = end.squeeze(3).cumsum(2).movedim(3, 2)  # (B, H, K or 1, chunks)
        before = F.pad(total, (1, 0))[..., :-1]
        past = torch.ones(total.size(-1), total.size(-1)).tril(-1).bool()
        between = (before.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~past, -math.inf).exp()
        if of_features:
            states = (between @ added.movedim(3, 2)).movedim(2, 3)
        else:
            states = (between.squeeze(2) @ added.flatten(3)).view_as(added)
        y = scores @ v + (q * g.exp()) @ states
        return y.movedim(1, 3).flatten(1, 2)

    shape = (batch, steps, heads)
    g = -0.1 * torch.rand(*shape, keys) if of_features else -0.1 * torch.rand(shape)
    return ForwardBackward(run, torch.randn(*shape, keys), torch.randn(*shape, keys), torch.randn(*shape, values), g)


def linear_attention(batch, steps, width, heads):
    """Katharopoulos et al. 2020, causal, in chunks of 64: nothing of the size of all states of all steps is made."""
    chunk = 64
    q_proj, k_proj, v_proj, o_proj = (torch.nn.Linear(width, width) for _ in range(4))

    def split(x):  # (B, T, C) to (B, H, chunks, 64, D)
        return x.view(batch, steps // chunk, chunk, heads, width // heads).movedim(3, 1)

    def run(x):
        q, k, v = F.elu(split(q_proj(x))) + 1, F.elu(split(k_proj(x))) + 1, F.pad(split(v_proj(x)), (0, 1), value=1)
        states = F.pad((k.transpose(-1, -2) @ v).cumsum(2)[:, :, :-1], (0, 0, 0, 0, 1, 0))
        y = (q @ k.transpose(-1, -2)).tril() @ v + q @ states
        y = y[..., :-1] / (y[..., -1:] + 1e-6)
        return o_proj(y.movedim(1, 3).reshape(batch, steps, width))

    return ForwardBackward(run, torch.randn(batch, steps, width))


class Norm:
    """Each layer in the layout in which it is faster."""

    def __init__(self, name, n, channels, side):
        channels = int(channels)
        self.module = nn.BatchNorm2d(channels) if name == "BatchNorm2d" else nn.GroupNorm(8, channels)
        layouts = (torch.contiguous_format, torch.channels_last)
        x = torch.randn(int(n), channels, int(side), int(side))
        pairs = [[torch.randn_like(x).contiguous(memory_format=layout) for _ in range(2)] for layout in layouts]
        self.x, self.dy = min(pairs, key=self.seconds_of)

    def step(self, x, dy):
        self.module.zero_grad(set_to_none=True)
        x.requires_grad_().grad = None
        self.module(x).backward(dy)

    def seconds_of(self, pair):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            self.step(*pair)
            synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    def run(self):
        self.step(self.x, self.dy)


class Recurrent:
    def __init__(self, name, steps, batch, inputs, units):
        self.module = getattr(nn, name)(int(inputs), int(units), num_layers=2)
        self.x = torch.randn(int(steps), int(batch), int(inputs), requires_grad=True)
        self.dy = torch.randn(int(steps), int(batch), int(units))

    def run(self):
        self.module.zero_grad(set_to_none=True)
        self.x.grad = None
        self.module(self.x)[0].backward(self.dy)


def gpt_amp(how, *sizes):
    return GptStep(*map(int, sizes), amp=True, compiled={"eager": False, "compiled": True}[how])


class Forward:
    def __init__(self, f):
        self.f = f

    @torch.no_grad()
    def run(self):
        self.f()


def copy(elements):
    x = torch.randn(elements)
    y = torch.empty_like(x)
    return Forward(lambda: y.copy_(x))


def elementwise(rows, columns, dtype):
    x = torch.randn(int(rows), int(columns), dtype=getattr(torch, dtype))
    return Forward(lambda: F.gelu(x * 2 + 1))


def rows_of(name, rows, columns, dtype):
    dtype, columns = getattr(torch, dtype), int(columns)
    x = torch.randn(int(rows), columns, dtype=dtype)
    if name == "softmax":
        return ForwardBackward(lambda x: F.softmax(x, -1), x)
    weight, bias = torch.ones(columns, dtype=dtype), torch.zeros(columns, dtype=dtype)
    return ForwardBackward(lambda x, w, b: F.layer_norm(x, (columns,), w, b), x, weight, bias)


class Issue:
    """Only the time in which the host hands a chain of multiplications of 4 floats to the device, an op."""

    def __init__(self, count):
        self.count = count
        self.x = torch.full((4,), 0.5)
        self.w = torch.ones(4, requires_grad=True)

    def seconds(self, _):
        def once():
            h = self.x
            synchronize()
            start = time.perf_counter()
            for _ in range(self.count):
                h = h * self.w
            return (time.perf_counter() - start) / self.count

        return statistics.median(once() for _ in range(20))

    def run(self):
        self.seconds(0)


class AdamW:
    def __init__(self, form, count, elements):
        parameters = [torch.randn(int(elements), requires_grad=True) for _ in range(int(count))]
        for p in parameters:
            p.grad = torch.randn_like(p)
        self.optimizer = torch.optim.AdamW(parameters, **{form: True})

    def run(self):
        self.optimizer.step()


def make(line):
    name, *words = line.split()
    if name == "row_op":
        return row_op(*words)
    of_words = {"image_op": image_op, "region_op": region_op, "adamw": AdamW, "gpt_amp": gpt_amp, "elementwise": elementwise, "rows": rows_of, "recurrent": Recurrent, "norm": Norm, "conv1d_depthwise": conv1d_depthwise}
    if name in of_words:
        return of_words[name](*words)
    makers = {
        "chain": Chain,
        "conv": conv,
        "cross_entropy": cross_entropy,
        "ctc": ctc,
        "info_nce": info_nce,
        "rle": rle,
        "pointwise_loss": pointwise_loss,
        "attention": attention,
        "attention_alibi": lambda *shape: attention_option("alibi", *shape),
        "attention_window": lambda *shape: attention_option("window", *shape),
        "attention_grouped": lambda *shape: attention_option("grouped", *shape),
        "linear_recurrence": linear_recurrence,
        "selective_scan": lambda *sizes: ForwardBackward(scan, *scan_inputs(*sizes)),
        "selective_scan_forward": selective_scan_forward,
        "gated_linear_attention": gated_linear_attention,
        "linear_attention": linear_attention,
        "attention_bf16": lambda *shape: attention(*shape, dtype=torch.bfloat16),
        "gpt": GptStep,
        "generate": Generation,
        "translation": TranslationStep,
        "beam_decoding": BeamDecoding,
        "mae": MaeStep,
        "resnet18": ResNetStep,
        "copy": copy,
        "issue": Issue,
    }
    return makers[name](*map(int, words))


def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def synchronize():
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def seconds_on_cpu(work, at_least):
    times = []
    while sum(times) < at_least or not times:
        times.append(seconds_of(work.run))
    return statistics.median(times)


def seconds_on_device(work, at_least):
    """As Retape's side does it: five batches, each of so many repetitions that they last for long enough, and one wait a batch."""

    def batch(count):
        for _ in range(count):
            work.run()
        synchronize()

    batch(1)
    count = max(1, math.ceil(at_least / 5 / max(seconds_of(lambda: batch(1)), 1e-9)))
    return statistics.median(seconds_of(lambda: batch(count)) / count for _ in range(5 if at_least else 1))


def answer(work, at_least):
    if hasattr(work, "seconds"):
        return work.seconds(at_least)
    return seconds_on_cpu(work, at_least) if device.type == "cpu" else seconds_on_device(work, at_least)


def serve(out):
    name = " on " + torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    print("PyTorch", torch.__version__ + name, file=out, flush=True)
    current = work = None
    for line in sys.stdin:
        at_least, line = line.split(maxsplit=1)
        try:
            if line != current:
                current, work = None, None  # frees the one before
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                with device:  # while it is made only: such a context costs every later call
                    work = make(line)
                work.run()
                work.run()
                current = line
            said = answer(work, float(at_least))
        except torch.OutOfMemoryError:
            said = "out of memory"
        except Missing as lack:
            said = f"missing: {lack}"
        except Exception as error:  # the next work may do better
            traceback.print_exc()
            said = "raised " + type(error).__name__
        if isinstance(said, str):
            current = work = None
        if device.type == "cuda":  # the other side's turn on the same card
            try:
                synchronize()
                torch.cuda.empty_cache()
            except Exception:
                traceback.print_exc()
        print(said, file=out, flush=True)


def main():
    # What libraries print is no answer.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[1]))
    if sys.argv[3:4] == ["--fresh"]:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # forgets the peak so far
        before = resident("VmRSS:")
        step = GptStep(*map(int, sys.argv[5:]))
        for _ in range(int(sys.argv[4])):
            step.run()
        print(resident("VmHWM:") - before, file=out, flush=True)
    else:
        serve(out)


if __name__ == "__main__":
    device = torch.device(sys.argv[2])
    main()

"""The peer's side of `bench --peer`: reads a work's name a line, runs it, and prints the median milliseconds of a step."""
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.c_out = nn.Linear(4 * width, width, bias=False)

    def attend(self, q, k, v):
        if hasattr(F, "scaled_dot_product_attention"):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        length = q.size(-2)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (p.view(b, t, self.heads, c // self.heads).transpose(1, 2) for p in self.c_attn(self.ln_1(x)).split(c, -1))
        x = x + self.c_proj(self.attend(q, k, v).transpose(1, 2).reshape(b, t, c))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class Gpt(nn.Module):
    def __init__(self, vocab, layers, heads, width, block):
        super().__init__()
        self.wte = nn.Embedding(vocab, width)
        self.wpe = nn.Embedding(block, width)
        self.h = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)

    def forward(self, ids, targets):
        x = self.ln_f(self.h(self.wte(ids) + self.wpe.weight[: ids.size(1)]))
        return F.cross_entropy((x @ self.wte.weight.T).flatten(0, 1), targets.flatten())


class GptStep:
    def __init__(self, vocab, layers, heads, width, block, batch):
        self.model = Gpt(vocab, layers, heads, width, block)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, foreach=True)
        self.ids = torch.randint(vocab, (batch, block))
        self.targets = torch.randint(vocab, (batch, block))

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.model(self.ids, self.targets).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


class Chain:
    def __init__(self):
        self.x = torch.full((4,), 0.5)
        self.w = torch.ones(4, requires_grad=True)

    def run(self):
        h = self.x
        for _ in range(1000):
            h = h * self.w
        h.sum().backward()


def main():
    torch.set_num_threads(int(sys.argv[1]))
    works = {}
    print("torch", torch.__version__, flush=True)
    for line in sys.stdin:
        name, steps, *numbers = line.split()
        if line not in works:
            works[line] = Chain() if name == "chain" else GptStep(*map(int, numbers))
            works[line].run()
        times = []
        for _ in range(int(steps)):
            start = time.perf_counter()
            works[line].run()
            times.append(time.perf_counter() - start)
        print(statistics.median(times) * 1000, flush=True)


main()

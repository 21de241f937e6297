"""Beam search of the translation trainer beside PyTorch's, in turn: the same model, the same sentences, the same batches.

    translate_peers.py PROGRAM RUN SOURCE [--threads N] [--beam N] [--rounds N]

PROGRAM is Retape's translate, RUN a run of it that is done, SOURCE a text file with a sentence a line. PyTorch's side reads the run's own
files (tokenizer.json by Hugging Face's tokenizers), keeps keys and values, reorders them with the hypotheses, and drops sentences whose
search has ended. Times are of translating alone, without loading.
"""
import argparse
import json
import math
import re
import statistics
import struct
import subprocess
import time

import torch
from tokenizers import Tokenizer

from peer_torch import Translator

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("run")
parser.add_argument("source")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--beam", type=int, default=4)
parser.add_argument("--rounds", type=int, default=3)
options = parser.parse_args()
torch.set_num_threads(options.threads)
PAD, BEGIN, END = 0, 1, 2


def safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    return {
        name: torch.frombuffer(data, dtype=torch.float32, offset=e["data_offsets"][0], count=math.prod(e["shape"])).view(e["shape"])
        for name, e in header.items()
    }


config = json.load(open(options.run + "/config.json"))
tokenizer = Tokenizer.from_file(options.run + "/tokenizer.json")
model = Translator(config["vocab"], config["layers"], config["width"], config["heads"], config["feed_forward"])
model.load_state_dict(safetensors(options.run + "/averaged.safetensors"))
model.eval()


def score(log_p, tokens, penalty=0.6):
    return log_p / ((5 + tokens) / 6) ** penalty


@torch.inference_mode()
def beam_search(source, beam):
    """The best ids of each row of `source` (N, S)."""
    count = source.size(0)
    longest = [int((row != PAD).sum()) + 50 for row in source]
    memories = model.memories(model.encode(source))
    mask = (source != PAD)[:, None, None]
    head = model.embedding.embedding_dim // model.heads
    caches = [[torch.empty(count, model.heads, max(longest) + 1, head) for _ in range(2)] for _ in model.decoder.layers]
    running = [(i, [(0.0, [])], []) for i in range(count)]  # sentence, open and ended hypotheses
    results = [None] * count
    tokens = torch.full((count, 1), BEGIN)
    position = 0
    while running:
        log_p = model.step(tokens, position, caches, memories, mask).log_softmax(-1)
        log_p[:, :2] = -math.inf
        rows, first = [], 0
        width = max(len(hypotheses) for _, hypotheses, _ in running)
        if all(len(hypotheses) == width for _, hypotheses, _ in running):
            before = torch.tensor([[p for p, _ in hypotheses] for _, hypotheses, _ in running])
            top = (log_p.view(len(running), width, -1) + before[:, :, None]).flatten(1).topk(2 * beam)
            tops = list(zip(top.values.tolist(), top.indices.tolist()))
        else:
            tops = []
            for _, hypotheses, _ in running:
                before = torch.tensor([p for p, _ in hypotheses])
                top = (log_p[first : first + len(hypotheses)] + before[:, None]).flatten().topk(2 * beam)
                tops.append((top.values.tolist(), top.indices.tolist()))
                first += len(hypotheses)
            first = 0
        vocab, still, last = log_p.size(1), [], []
        for (i, hypotheses, ended), (values, indices) in zip(running, tops):
            following, parents = [], []
            for p, index in zip(values, indices):
                ids, token = hypotheses[index // vocab][1], index % vocab
                if token == END:
                    ended.append((score(p, len(ids) + 1), ids))
                elif len(ids) + 1 == longest[i]:
                    ended.append((score(p, len(ids) + 1), ids + [token]))
                elif len(following) < beam:
                    following.append((p, ids + [token]))
                    parents.append(first + index // vocab)
            first += len(hypotheses)
            ended.sort(key=lambda h: -h[0])
            del ended[beam:]
            if not following or len(ended) == beam and ended[-1][0] >= score(following[0][0], longest[i]):
                results[i] = ended[0][1]
            else:
                still.append((i, following, ended))
                rows += parents
                last += [ids[-1] for _, ids in following]
        running = still
        position += 1
        if running:
            tokens, chosen = torch.tensor(last)[:, None], torch.tensor(rows)
            caches = [[x.index_select(0, chosen) for x in pair] for pair in caches]
            memories = [[x.index_select(0, chosen) for x in pair] for pair in memories]
            mask = mask.index_select(0, chosen)
    return results


def translate(lines, beam, places=4096):
    ids = [tokenizer.encode(line, add_special_tokens=False).ids + [END] for line in lines]
    order = sorted(range(len(lines)), key=lambda i: -len(ids[i]))
    found = [""] * len(lines)
    while order:
        longest = len(ids[order[0]])
        batch, order = order[: max(1, places // longest)], order[max(1, places // longest) :]
        source = torch.full((len(batch), longest), PAD)
        for row, i in enumerate(batch):
            source[row, : len(ids[i])] = torch.tensor(ids[i])
        for i, best in zip(batch, beam_search(source, beam)):
            found[i] = tokenizer.decode(best)
    return found


def retape():
    command = [options.program, "evaluate", "--from", options.run, "--source", options.source, "--target", options.source]
    command += ["--beam", str(options.beam), "--threads", str(options.threads), "--out", options.run + "/found.txt"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(re.search(r"sentences in ([\d.]+) s", said).group(1))


lines = open(options.source, encoding="utf-8").read().splitlines()
times = {"Retape": [], "PyTorch": []}
for _ in range(options.rounds):
    times["Retape"].append(retape())
    start = time.perf_counter()
    found = translate(lines, options.beam)
    times["PyTorch"].append(time.perf_counter() - start)
ours = open(options.run + "/found.txt", encoding="utf-8").read().splitlines()
same = sum(a == b for a, b in zip(ours, found))
medians = {name: statistics.median(seconds) for name, seconds in times.items()}
print(f"beam {options.beam}, {len(lines)} sentences, {options.threads} threads, medians of {options.rounds} rounds in turn")
print("  ".join(f"{name} {seconds:.2f} s" for name, seconds in medians.items()), f" ratio {medians['PyTorch'] / medians['Retape']:.2f}")
print(f"{same} translations are the same on both sides")

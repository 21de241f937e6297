"""Words a second and quality of the word2vec trainer beside gensim and fastText, one after the other in one run.

    word2vec_peers.py PROGRAM FOLDER [--sets FOLDER] [--threads N] [--epochs N] [--seeds N]

PROGRAM is Retape's word2vec. All read the letters of Debian's dict-gcide and train skip-gram with 100 dimensions, window 5, 5 negatives,
sample 1e-4 and min-count 5. A rate is words of the corpus times epochs by the seconds of training, without counting words, which each
program reports by itself. Quality is Spearman's correlation on WS-353, MEN and SimLex-999, where --sets has those files.
"""
import argparse
import gzip
import os
import re
import subprocess
import time

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("folder")
parser.add_argument("--sets")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--seeds", type=int, default=1)
options = parser.parse_args()
dictionary = "/usr/share/dictd/gcide.dict.dz"
os.makedirs(options.folder, exist_ok=True)
corpus = os.path.join(options.folder, "gcide.txt")
with gzip.open(dictionary) as source, open(corpus, "wb") as out:
    words = re.sub(rb"[^a-z]+", b" ", source.read().lower()).split()
    # gensim takes lines, which it cuts at 10,000 words; the others see the same lines.
    for at in range(0, len(words), 1000):
        out.write(b" ".join(words[at : at + 1000]) + b"\n")


def quality(vectors):
    if not options.sets:
        return ""
    text = subprocess.run([options.program, "evaluate", "--from", vectors, "--sets", options.sets], capture_output=True, text=True, check=True).stdout
    scores = dict(re.findall(r"EN-(WS-353-ALL|MEN-TR-3k|SIMLEX-999)\.txt .*Spearman (\S+)", text))
    return "  ".join(f"{name} {scores[key]}" for name, key in (("WS-353", "WS-353-ALL"), ("MEN", "MEN-TR-3k"), ("SimLex", "SIMLEX-999")))


def report(name, seed, count, seconds, vectors):
    print(f"{name:10} seed {seed}  {count / seconds / 1e6:6.3f} M words/s  {quality(vectors)}", flush=True)


def retape(seed):
    run = os.path.join(options.folder, f"retape-{seed}-{os.getpid()}")
    arguments = ["--data", corpus, "--out", run, "--sample", "1e-4", "--epochs", str(options.epochs), "--threads", str(options.threads),
                 "--seed", str(seed), "--map-words", "0", "--save-every", "1000000", "--quiet"]
    subprocess.run([options.program, "train", *arguments], check=True)
    with open(os.path.join(run, "metrics.csv")) as file:
        seconds = float(file.read().split("\n")[-2].split(",")[-1])
    with open(os.path.join(run, "vocab.txt")) as file:
        count = sum(int(line.split()[1]) for line in file)
    report("retape", seed, count * options.epochs, seconds, os.path.join(run, "vectors.txt"))


def gensim(seed):
    from gensim.models import Word2Vec

    model = Word2Vec(vector_size=100, window=5, negative=5, sample=1e-4, min_count=5, sg=1, workers=options.threads, seed=seed)
    model.build_vocab(corpus_file=corpus)
    start = time.monotonic()
    model.train(corpus_file=corpus, total_words=model.corpus_total_words, total_examples=model.corpus_count, epochs=options.epochs)
    seconds = time.monotonic() - start
    vectors = os.path.join(options.folder, "gensim.txt")
    model.wv.save_word2vec_format(vectors)
    report("gensim", seed, sum(model.wv.get_vecattr(w, "count") for w in model.wv.index_to_key) * options.epochs, seconds, vectors)


def fasttext(seed):
    import fasttext as library

    start = time.monotonic()
    # Without subwords, as word2vec; its sample is `t`.
    model = library.train_unsupervised(corpus, model="skipgram", dim=100, ws=5, neg=5, t=1e-4, minCount=5, epoch=options.epochs, lr=0.025,
                                       maxn=0, thread=options.threads, verbose=0)
    seconds = time.monotonic() - start
    start = time.monotonic()
    library.train_unsupervised(corpus, model="skipgram", dim=100, minCount=5, epoch=0, maxn=0, thread=options.threads, verbose=0)
    seconds -= time.monotonic() - start  # reading and counting
    vectors = os.path.join(options.folder, "fasttext.txt")
    words, counts = model.get_words(include_freq=True)
    kept = [(w, n) for w, n in zip(words, counts) if w != "</s>"]
    with open(vectors, "w") as file:
        file.write(f"{len(kept)} 100\n")
        for word, _ in kept:
            file.write(word + " " + " ".join(f"{x:.6g}" for x in model.get_word_vector(word)) + "\n")
    report("fastText", seed, int(sum(n for _, n in kept)) * options.epochs, seconds, vectors)


for seed in range(1, options.seeds + 1):
    retape(seed)
    gensim(seed)
    fasttext(seed)

#!/usr/bin/env bash
# The word2vec trainer as its user sees it: files of a run, formats, exact resume, questions, and one clear line for bad input.
#     word2vec_test.sh PROGRAM SCRATCH CASE
set -euo pipefail
word2vec=$1 work=$2/$3 case=$3
rm -rf "$work"
mkdir -p "$work"
cd "$work"
# Ten groups of words; the words of a line come from one group.
awk 'BEGIN { srand(1); for (i = 0; i < 3000; ++i) { g = int(rand() * 10); line = ""; for (k = 0; k < 10; ++k) line = line "g" g "w" int(rand() * 8) " "; print line } }' >text.txt
small=(--data text.txt --dim 16 --epochs 2 --sample 0 --step-words 5500 --threads 1 --map-words 20)

fail() { echo "FAILED: $*"; exit 1; }
refuses() {  # STATUS TEXT COMMAND...: fails with this status and exactly one line that has the text
  local status=0 output
  output=$("${@:3}" 2>&1 >/dev/null) || status=$?
  [[ $status == "$1" ]] || fail "${*:3} exited with $status instead of $1: $output"
  [[ $output == *"$2"* && $(grep -vc '^reading ' <<<"$output") == 1 ]] || fail "${*:3} said: $output; expected one line with: $2"
}

case $case in
files)
  "$word2vec" train "${small[@]}" --out run 2>err.txt >out.txt
  for f in config.json vocab.txt metrics.csv loss.svg map.svg vectors.txt vectors.bin vectors.safetensors checkpoint-12/model.safetensors; do
    [[ -s run/$f ]] || fail "run/$f is missing"
  done
  [[ ! -e run/corpus.bin ]] || fail "corpus.bin is left"
  [[ $(head -n 1 run/metrics.csv) == step,train_loss,lr,words_per_s,seconds ]] || fail "metrics.csv has another header"
  [[ $(wc -l <run/vocab.txt) == 80 && $(awk '{ s += $2 } END { print s }' run/vocab.txt) == 30000 ]] || fail "vocab.txt: $(head -n 3 run/vocab.txt)"
  [[ $(head -n 1 run/vectors.txt) == "80 16" && $(wc -l <run/vectors.txt) == 81 ]] || fail "vectors.txt: $(head -n 1 run/vectors.txt)"
  [[ $(head -c 6 run/vectors.bin) == "80 16" ]] || fail "vectors.bin begins with $(head -c 6 run/vectors.bin)"
  grep -q '80 different ones' err.txt || fail "it says: $(cat err.txt)"
  [[ $(grep -c '>g[0-9]w[0-9]<' run/map.svg) == 20 ]] || fail "the map lacks a word"
  # All seven other words of a group are nearest, whatever the vectors are read from.
  for from in run run/checkpoint-12 run/vectors.txt run/vectors.bin; do
    "$word2vec" query --from $from --nearest g3w1 --count 7 >near.txt
    [[ $(grep -c ' g3w' near.txt) == 7 ]] || fail "near g3w1 from $from: $(cat near.txt)"
  done
  "$word2vec" query --from run --analogy g1w1 g1w2 g4w1 --count 3 | grep -q ' g4w' || fail "no word of group 4 completes the analogy"
  # Questions: pairs of a group are similar, others are not.
  mkdir sets
  printf 'g1w1\tg1w2\t9\ng2w1 g2w3 8\ng1w1 g5w1 1\nG3W1 g4w1 2\ng1w1 nowhere 5\n' >sets/pairs.txt
  printf ': groups\ng1w1 g2w1 nowhere g1w1\ng1w1 g1w2 g4w1 g4w1\n' >sets/analogies.txt
  echo 'This folder is a test.' >sets/README.txt
  "$word2vec" evaluate --from run --sets sets >scores.txt 2>err.txt
  grep -Eq 'pairs.txt +4/5 +Spearman (1|0.[89])' scores.txt || fail "scores: $(cat scores.txt)"
  grep -Eq 'analogies.txt: groups +1/2 +accuracy 0.0%' scores.txt || fail "scores: $(cat scores.txt)"
  grep -q 'README.txt holds neither' err.txt || fail "it says: $(cat err.txt)"
  "$word2vec" map --from run --out other.svg --words 10 && grep -q '<svg' other.svg || fail "no map"
  ;;
ways)
  # Every combination learns the groups.
  for way in "--model skipgram --loss hs" "--model cbow --loss ns --lr 0.2" "--model cbow --loss hs --lr 0.2" "--threads 2" "--batch 16"; do
    "$word2vec" train "${small[@]}" --epochs 3 $way --out "run $way" --quiet
    "$word2vec" query --from "run $way" --nearest g3w1 --count 7 >near.txt
    [[ $(grep -c ' g3w' near.txt) -ge 6 ]] || fail "with $way near g3w1: $(cat near.txt)"
  done
  for way in "--lr 0.025" "--optimizer adagrad --lr 0.1" "--optimizer sparse_adam --lr 0.01" "--loss hs" "--recompute pointwise"; do
    "$word2vec" train "${small[@]}" --path tape --batch 64 $way --out "tape $way" --quiet
    "$word2vec" query --from "tape $way" --nearest g3w1 --count 7 >near.txt
    [[ $(grep -c ' g3w' near.txt) -ge 5 ]] || fail "on the tape with $way near g3w1: $(cat near.txt)"
  done
  # A batch is the same on both paths.
  "$word2vec" train "${small[@]}" --batch 64 --out fast --quiet
  "$word2vec" train "${small[@]}" --batch 64 --path tape --out tape --quiet
  paste fast/vectors.txt tape/vectors.txt | awk 'NR > 1 { for (k = 2; k <= 17; ++k) { d = $k - $(k + 17); if (d > 1e-4 || d < -1e-4) { print; exit 1 } } }' ||
    fail "the paths differ"
  cmp "tape --lr 0.025/vectors.bin" "tape --recompute pointwise/vectors.bin" || fail "recomputation changes the vectors"
  # Phrases: two words that only stand together become one.
  awk '{ print $0 (NR % 3 ? "" : " new york") }' text.txt >phrases.txt
  "$word2vec" train "${small[@]}" --data phrases.txt --phrases 1 --phrase-threshold 20 --epochs 1 --out phrases --quiet
  grep -q '^new_york 1000$' phrases/vocab.txt || fail "no phrase: $(head phrases/vocab.txt)"
  ! grep -Eq '^(new|york) ' phrases/vocab.txt || fail "the phrase's words stand alone, too"
  # Letters only, from a compressed file; what min-count leaves out.
  printf 'One two, TWO three-three three.\n' | gzip >text.gz
  "$word2vec" train --data text.gz --letters --min-count 2 --epochs 1 --map-words 0 --out letters --quiet
  [[ $(cat letters/vocab.txt) == $'three 3\ntwo 2' ]] || fail "vocab.txt: $(cat letters/vocab.txt)"
  ;;
resume)
  for path in "fast" "tape --optimizer adagrad"; do
    "$word2vec" train "${small[@]}" --path $path --save-every 5 --keep 9 --out "whole $path" --quiet
    cp -r "whole $path" "part $path"
    rm -r "part $path/checkpoint-12" "part $path/checkpoint-10"
    "$word2vec" train --resume "part $path" --quiet --threads 1
    for f in vectors.bin checkpoint-12/model.safetensors checkpoint-12/optimizer.safetensors; do
      cmp "whole $path/$f" "part $path/$f" || fail "$f differs after a resume with --path $path"
    done
    cmp <(cut -d, -f1-3 "whole $path/metrics.csv") <(cut -d, -f1-3 "part $path/metrics.csv") || fail "metrics differ after a resume"
  done
  "$word2vec" train --resume "whole fast" --epochs 3 --quiet --threads 1
  [[ -d "whole fast/checkpoint-18" ]] || fail "more epochs made: $(ls "whole fast")"
  refuses 1 '--dim 8 does not fit the run' "$word2vec" train --resume "whole fast" --dim 8
  head -n 1000 text.txt >half.txt
  refuses 1 'has other words than' "$word2vec" train --resume "whole fast" --epochs 4 --data half.txt
  ;;
cuda)  # with a program that has a CUDA device, which may be emulated: few words
  head -n 60 text.txt >few.txt
  tiny=("${small[@]}" --data few.txt --dim 8 --epochs 1 --step-words 200 --map-words 0 --quiet)
  for path in fast tape; do
    "$word2vec" train "${tiny[@]}" --path $path --batch 16 --out cuda-$path --device cuda 2>err.txt || {
      grep -q 'error: --device cuda: ' err.txt || fail "it said: $(cat err.txt)"
      echo "skipped: $(cat err.txt)"
      exit 77
    }
    "$word2vec" train "${tiny[@]}" --path $path --batch 16 --out cpu-$path --device cpu
    paste cpu-$path/vectors.txt cuda-$path/vectors.txt |
      awk 'NR > 1 { for (k = 2; k <= 9; ++k) { d = $k - $(k + 9); if (d > 1e-5 || d < -1e-5) { print; exit 1 } } }' || fail "the vectors differ"
    [[ $(grep -c . cuda-$path/vectors.txt) -gt 50 ]] || fail "there are few words: $(wc -l cuda-$path/vectors.txt)"
  done
  "$word2vec" train --resume cuda-fast --epochs 2 --threads 1 --quiet
  "$word2vec" train --resume cpu-fast --epochs 2 --threads 1 --quiet
  paste cpu-fast/vectors.txt cuda-fast/vectors.txt |
    awk 'NR > 1 { for (k = 2; k <= 9; ++k) { d = $k - $(k + 9); if (d > 1e-5 || d < -1e-5) { print; exit 1 } } }' || fail "the vectors differ"
  ;;
bad_input)
  refuses 1 '--data is missing' "$word2vec" train
  : >empty.txt
  refuses 1 'has no word' "$word2vec" train --data empty.txt --out run
  [[ ! -e run ]] || fail "a folder is left"
  echo 'a b c d a' >rare.txt
  refuses 1 'has 5 words, but 0 of them' "$word2vec" train --data rare.txt
  refuses 1 'No such file' "$word2vec" train --data nowhere.txt
  gzip -c text.txt | head -c 2000 >cut.gz
  refuses 1 'cut.gz' "$word2vec" train --data cut.gz
  printf 'ab \xff\xfe ab a\xffb\xc2\xa0ab cd cd' >invalid.txt
  "$word2vec" train --data invalid.txt --min-count 1 --epochs 1 --map-words 0 --out invalid 2>err.txt >out.txt
  grep -q '^2 words are not UTF-8' err.txt && [[ $(cat invalid/vocab.txt) == $'ab 3\ncd 2' ]] || fail "it says: $(cat err.txt); $(cat invalid/vocab.txt)"
  refuses 1 '--amp bf16' "$word2vec" train "${small[@]}" --amp bf16
  refuses 1 '--recompute sqrt: the fast path' "$word2vec" train "${small[@]}" --recompute sqrt
  refuses 1 '--optimizer adagrad: the fast path' "$word2vec" train "${small[@]}" --optimizer adagrad
  refuses 1 '--dim 0 is not valid' "$word2vec" train "${small[@]}" --dim 0
  refuses 2 'MODEL' "$word2vec" train "${small[@]}" --model MODEL
  printf '2 3\nab 1 2 3\ncd 4 5' >bad.txt
  refuses 1 'ends in a vector' "$word2vec" query --from bad.txt --nearest ab
  printf '2 3\nab 1 2 3\ncd 4 5\n' >bad.txt
  refuses 1 'the vector of "cd" has not 3 numbers' "$word2vec" query --from bad.txt --nearest ab
  printf '200000 300\nab' >bad.bin
  refuses 1 '200000 words of 300 dims do not fit' "$word2vec" query --from bad.bin --nearest ab
  printf '2 2\nab 1 2\ncd 2 1\n' >good.txt
  refuses 1 '"ef" is not among the 2 words' "$word2vec" query --from good.txt --nearest ef
  refuses 1 'give --nearest WORD or --analogy' "$word2vec" query --from good.txt
  refuses 1 'there is no folder "nowhere"' "$word2vec" evaluate --from good.txt --sets nowhere
  mkdir nothing
  refuses 1 'has no file of analogies' "$word2vec" evaluate --from good.txt --sets nothing
  # A limit of 8 KiB a file stands for a full disk: the checkpoint before is intact and the run goes on.
  "$word2vec" train "${small[@]}" --epochs 1 --out full --quiet
  (ulimit -f 8 && trap '' XFSZ && refuses 1 'checkpoint-6 is intact' "$word2vec" train --resume full --epochs 2 --quiet)
  [[ -d full/checkpoint-6 && $(ls -A full | grep -c tmp) == 0 ]] || fail "a failed save did harm: $(ls -A full)"
  "$word2vec" train --resume full --epochs 2 --quiet
  [[ -d full/checkpoint-12 ]] || fail "the run did not go on after the failure"
  ;;
esac

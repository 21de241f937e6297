#!/usr/bin/env bash
# The translation trainer as its user sees it: files of a run, exact resume, translations, and one clear line for bad input.
#     translate_test.sh PROGRAM SCRATCH CASE
set -euo pipefail
translate=$1 work=$2/$3 case=$3
rm -rf "$work"
mkdir -p "$work"
cd "$work"
# Sentences of 2 to 6 of twelve words, and the same in a language that has other words and puts them the other way round.
awk 'BEGIN { srand(1); split("one two three four five six seven eight nine ten eleven twelve", en); split("eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf", de)
  for (i = 0; i < 1200; ++i) { a = b = ""; for (k = 2 + int(rand() * 5); k > 0; --k) { w = 1 + int(rand() * 12); a = a (a == "" ? "" : " ") en[w]; b = de[w] (b == "" ? "" : " ") b }
    print a >"text.en"; print b >"text.de" } }'
small=(--source text.en --target text.de --vocab-size 330 --layers 1 --width 32 --heads 2 --feed-forward 64 --dropout 0 --tokens 400 --warmup 40 --lr-factor 1
       --steps 30 --eval-every 15 --threads 1 --average 2 --keep 2)

fail() { echo "FAILED: $*"; exit 1; }
refuses() {  # STATUS TEXT COMMAND...: fails with this status and exactly one line that has the text
  local status=0 output
  output=$("${@:3}" 2>&1 >/dev/null) || status=$?
  [[ $status == "$1" ]] || fail "${*:3} exited with $status instead of $1: $output"
  [[ $output == *"$2"* && $(wc -l <<<"$output") == 1 ]] || fail "${*:3} said: $output; expected one line with: $2"
}
bleu() { sed -n 's/^BLEU = \([0-9]*\).*/\1/p'; }

case $case in
files)
  head -n 60 text.en | gzip >valid.en.gz
  head -n 60 text.de >valid.de
  "$translate" train "${small[@]}" --source-valid valid.en.gz --target-valid valid.de --vocab-size 400 --steps 1000 --eval-every 100 --out run >out.txt 2>err.txt
  for f in config.json tokenizer.json metrics.csv loss.svg bleu.svg averaged.safetensors checkpoint-900/optimizer.safetensors checkpoint-1000/model.safetensors; do
    [[ -s run/$f ]] || fail "run/$f is missing"
  done
  ls run/events.out.tfevents.* >/dev/null || fail "there are no events"
  [[ $(head -n 1 run/metrics.csv) == step,train_loss,val_loss,val_bleu,lr,waited,tokens_per_s,seconds ]] || fail "metrics.csv has another header"
  grep -q '1200 pairs of sentences (0 left out), vocabulary of [34][0-9][0-9], ' err.txt || fail "it says: $(cat err.txt)"
  # It has learned the words and their order; so says everybody who counts.
  "$translate" evaluate --from run --source valid.en.gz --target valid.de --out found.de >scores.txt
  [[ $(bleu <scores.txt) -ge 60 ]] || fail "scores: $(cat scores.txt)"
  grep -q '^nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp$' scores.txt || fail "scores: $(cat scores.txt)"
  awk -F, '$1 == 1000 && $4 < 60 { print; exit 1 }' run/metrics.csv || fail "BLEU of the validation part is low"
  "$translate" translate --from run --input valid.en.gz --out again.de
  cmp found.de again.de || fail "translate and evaluate differ"
  [[ $(wc -l <found.de) == 60 ]] || fail "there are $(wc -l <found.de) lines"
  # From standard input, and an empty line is one.
  { head -n 1 text.en; echo; sed -n 2p text.en; } | "$translate" translate --from run --beam 1 >some.de
  [[ $(wc -l <some.de) == 3 && -z $(sed -n 2p some.de) ]] || fail "three lines became: $(cat some.de)"
  "$translate" evaluate --from run/checkpoint-900 --source text.en --target text.de --beam 1 --length-penalty 0 --tokens 300 | grep -q '^1200 sentences' || fail "no scores"
  "$translate" attention --from run --sentence "two three four" --out attention.svg >words.txt
  [[ $(wc -l <words.txt) == 1 && $(grep -c '<rect' attention.svg) -ge 14 ]] || fail "the map has too few cells"
  grep -q '>two</text>' attention.svg || fail "the map does not say two"
  "$translate" attention --from run --sentence "two three four" --translation "vier drei zwei" --layer 1 --out attention.svg
  grep -q '> drei</text>' attention.svg || fail "the map does not have the translation"
  ;;
ways)
  for way in "--norm post" "--bpe metaspace --vocab-size 100" "--amp bf16" "--clip 1 --workers 0" "--recompute sqrt" "--recompute pointwise" "--memory-budget 1GiB"; do
    "$translate" train "${small[@]}" $way --out "run $way" --quiet
    [[ -s "run $way/averaged.safetensors" ]] || fail "nothing came of $way"
  done
  "$translate" train "${small[@]}" --out plain --quiet
  for way in "--recompute sqrt" "--recompute pointwise" "--memory-budget 1GiB"; do
    cmp plain/averaged.safetensors "run $way/averaged.safetensors" || fail "$way changes the weights"
  done
  grep -q '"▁' "run --bpe metaspace --vocab-size 100/tokenizer.json" || fail "tokenizer.json is of another kind"
  ;;
resume)
  "$translate" train "${small[@]}" --dropout 0.1 --out whole --quiet
  "$translate" train "${small[@]}" --dropout 0.1 --steps 15 --out part --quiet --average 1
  "$translate" train --resume part --steps 30 --average 2 --threads 1 --quiet
  for f in averaged.safetensors checkpoint-30/model.safetensors checkpoint-30/optimizer.safetensors; do
    cmp whole/$f part/$f || fail "$f differs after a resume"
  done
  cmp <(cut -d, -f1-5 whole/metrics.csv) <(cut -d, -f1-5 part/metrics.csv) || fail "metrics differ after a resume"
  refuses 1 '--width 16 does not fit the run' "$translate" train --resume whole --width 16
  ;;
cuda)  # with a program that has a CUDA device, which may be emulated: few steps
  head -n 40 text.en >few.en
  head -n 40 text.de >few.de
  tiny=("${small[@]}" --source few.en --target few.de --vocab-size 300 --width 16 --feed-forward 16 --tokens 60 --steps 3 --eval-every 3 --average 1 --quiet)
  "$translate" train "${tiny[@]}" --out cuda --device cuda 2>err.txt || {
    grep -q 'error: --device cuda: ' err.txt || fail "it said: $(cat err.txt)"
    echo "skipped: $(cat err.txt)"
    exit 77
  }
  "$translate" train "${tiny[@]}" --out cpu --device cpu
  paste -d, cuda/metrics.csv cpu/metrics.csv | awk -F, '$1 == 3 { d = $3 - $11; if (d > 1e-4 || d < -1e-4 || $3 == "") { print; exit 1 } n = 1 } END { exit !n }' ||
    fail "the losses differ: $(cat cuda/metrics.csv cpu/metrics.csv)"
  head -n 2 few.en >two.en
  for device in cuda cpu; do "$translate" translate --from cpu --input two.en --beam 2 --device $device >$device.de; done
  cmp cuda.de cpu.de || fail "translations differ: $(cat cuda.de cpu.de)"
  ;;
bad_input)
  refuses 1 '--source is missing' "$translate" train
  refuses 1 'No such file' "$translate" train --source nowhere.en --target text.de
  head -n 7 text.en >seven.en
  refuses 1 'seven.en has 7 lines, text.de has 1200' "$translate" train --source seven.en --target text.de
  : >empty
  refuses 1 'are empty' "$translate" train --source empty --target empty
  gzip -c text.en | head -c 500 >cut.gz
  refuses 1 'cut.gz' "$translate" train --source cut.gz --target text.de
  printf 'one\ntw\xffo\n' >invalid.en
  refuses 1 'invalid.en: line 2 is not UTF-8' "$translate" train --source invalid.en --target text.de
  refuses 1 '--width 30 is no multiple of --heads 4' "$translate" train "${small[@]}" --width 30 --heads 4
  refuses 1 '--average 3 needs as many checkpoints, but --keep 2' "$translate" train "${small[@]}" --average 3
  refuses 1 'belong together' "$translate" train "${small[@]}" --source-valid seven.en
  refuses 1 'vocab_size' "$translate" train "${small[@]}" --vocab-size 100
  refuses 1 'does not fit a batch of 5' "$translate" train "${small[@]}" --tokens 5
  refuses 1 'none has 1 to 1 tokens' "$translate" train "${small[@]}" --max-length 1
  [[ -z $(ls | grep -vE '^(text|seven|invalid)\.(en|de)$|^empty$|^cut.gz$') ]] || fail "something is left: $(ls)"
  "$translate" train "${small[@]}" --steps 15 --average 1 --out run --quiet
  refuses 1 'seven.en has 7; line by line' "$translate" evaluate --from run --source text.en --target seven.en
  refuses 1 'nowhere' "$translate" translate --from nowhere --input text.en
  refuses 1 '--layer 2: the model has 1' "$translate" attention --from run --sentence one --layer 2 --out a.svg
  cp -r run other
  "$translate" train "${small[@]}" --vocab-size 310 --steps 15 --average 1 --out less --quiet
  cp less/tokenizer.json other/tokenizer.json
  refuses 1 'tokenizer.json has 310 tokens, but config.json says 330' "$translate" translate --from other --input text.en
  refuses 1 'tokenizer.json has 310 tokens, but config.json says 330' "$translate" train --resume other --steps 30
  # A limit of 40 KiB a file stands for a full disk: the checkpoint before is intact and the run goes on.
  (ulimit -f 40 && trap '' XFSZ && refuses 1 'checkpoint-15 is intact' "$translate" train --resume run --steps 30 --quiet --threads 1)
  [[ -d run/checkpoint-15 && $(ls -A run | grep -c tmp) == 0 ]] || fail "a failed save did harm: $(ls -A run)"
  "$translate" train --resume run --steps 30 --quiet --threads 1
  [[ -d run/checkpoint-30 ]] || fail "the run did not go on after the failure"
  ;;
esac

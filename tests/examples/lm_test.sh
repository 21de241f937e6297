#!/usr/bin/env bash
# The language models' trainer as its user sees it: files of a run, exact resume, Ctrl-C, sampling, and one clear line for bad input.
#     lm_test.sh PROGRAM SCRATCH CASE
set -euo pipefail
lm=$1 work=$2/$3 case=$3 here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work"
mkdir -p "$work"
cd "$work"
for i in $(seq 200); do echo "line $i: the quick brown fox jumps over the lazy dog"; done >text.txt
small=(--data text.txt --layers 1 --heads 2 --width 16 --block 16 --batch 4 --warmup 2 --dropout 0.1 --threads 2)

fail() { echo "FAILED: $*"; exit 1; }
refuses() {  # STATUS TEXT COMMAND...: fails with this status and exactly one line that has the text
  local status=0 output
  output=$("${@:3}" 2>&1 >/dev/null) || status=$?
  [[ $status == "$1" ]] || fail "${*:3} exited with $status instead of $1: $output"
  [[ $output == *"$2"* && $(wc -l <<<"$output") == 1 ]] || fail "${*:3} said: $output; expected one line with: $2"
}

case $case in
files)
  "$lm" train "${small[@]}" --steps 20 --eval-every 10 --out run >out.txt 2>err.txt
  for f in config.json tokenizer.json metrics.csv loss.svg samples.txt checkpoint-20/model.safetensors checkpoint-20/optimizer.safetensors checkpoint-20/state.json; do
    [[ -s run/$f ]] || fail "run/$f is missing"
  done
  [[ -s $(ls run/events.out.tfevents.*) ]] || fail "TensorBoard's events are missing"
  [[ $(wc -c <run/samples.txt) -gt 500 ]] || fail "the sample is short: $(cat run/samples.txt)"
  [[ $(head -n 1 run/metrics.csv) == step,train_loss,val_loss,lr,memory_mib,tokens_per_s,seconds ]] || fail "metrics.csv has another header"
  grep -q '^20,[0-9.]*,[0-9.]*,' run/metrics.csv || fail "no row for step 20 with both losses"
  grep -q 'run folder: run' out.txt || fail "the run folder is not printed"
  grep -q 'step 20/20' err.txt || fail "no progress is printed"
  grep -q 'transformer.h.0.attn.c_attn.weight' run/checkpoint-20/model.safetensors || fail "weights have other names"
  [[ -z $("$lm" train "${small[@]}" --steps 2 --out quiet --quiet 2>&1) ]] || fail "--quiet prints"
  ;;
resume)
  "$lm" train "${small[@]}" --steps 20 --eval-every 10 --out whole --quiet
  cp -r whole part
  rm -r part/checkpoint-20
  "$lm" train --resume part --quiet
  cmp whole/checkpoint-20/model.safetensors part/checkpoint-20/model.safetensors || fail "weights differ after a resume"
  cmp whole/checkpoint-20/optimizer.safetensors part/checkpoint-20/optimizer.safetensors || fail "optimizer state differs after a resume"
  cmp <(cut -d, -f1-4 whole/metrics.csv) <(cut -d, -f1-4 part/metrics.csv) || fail "metrics differ after a resume"
  ;;
kill)
  # Saves dominate: one a step, of about as long as the step.
  settings=("${small[@]}" --steps 40 --eval-every 1 --keep 3)
  seconds_of() { local begin=$EPOCHREALTIME; "$@" || fail "$* exited with $?"; awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'; }
  "$lm" train "${settings[@]}" --steps 1 --out cold --quiet
  one=$(seconds_of "$lm" train "${settings[@]}" --steps 1 --out one --quiet)
  all=$(seconds_of "$lm" train "${settings[@]}" --out whole --quiet)
  files() { (cd "$1" && sha256sum checkpoint-*/*.safetensors tokenizer.json && ls -A | grep -v tfevents && cut -d, -f1-4 metrics.csv); }
  files whole >whole.txt
  [[ $(grep -c '^checkpoint-' < <(ls whole)) == 3 ]] || fail "--keep 3 left: $(ls whole)"
  choose_arguments() {
    if [[ ! -d part ]]; then arguments=("${settings[@]}" --out part)
    elif [[ ! -f part/config.json ]]; then arguments=("${settings[@]}" --resume part)
    else arguments=(--resume part)
    fi
  }
  # At first it is killed while it begins, later while it trains and saves, after about one step; it gets a little longer each
  # time, so that it ends on a machine that has become slower, too. A run that ended before it was killed often gives way to another.
  kills=0
  for ((i = 1; kills < 20; ++i)); do
    choose_arguments
    seconds=$(awk -v i=$i -v one="$one" -v all="$all" 'BEGIN {
      step = (all - one) / 39
      print 1.01 ^ i * (i < 12 ? one * i / 12 : one + (step > 0.001 ? step : 0.001) * (i * 7 % 10) * 0.25) }')
    if { timeout -s KILL "$seconds" "$lm" train "${arguments[@]}" --quiet >killed.txt 2>&1; } 2>/dev/null; then
      cmp whole.txt <(files part) || fail "after $kills kills the run differs: $(diff whole.txt <(files part))"
      rm -r part
      i=0
    else
      [[ ! -s killed.txt ]] || fail "a resumed run said: $(cat killed.txt)"
      kills=$((kills + 1))
    fi
  done
  choose_arguments
  "$lm" train "${arguments[@]}" --quiet
  cmp whole.txt <(files part) || fail "after $kills kills the run differs: $(diff whole.txt <(files part))"
  # Killed before the first checkpoint: it begins again, with its settings or, if it has none, with those given.
  mkdir begun empty other
  cp whole/config.json whole/tokenizer.json begun/
  touch begun/.retape-1-1.tmp other/notes.txt
  printf 'step,train_loss' >begun/metrics.csv
  "$lm" train --resume begun >out.txt 2>err.txt
  grep -q "^begun has no checkpoint; starting from the beginning with the run's own settings" err.txt || fail "it says: $(cat err.txt)"
  files begun >begun.txt
  cmp whole.txt begun.txt || fail "a run that began again differs: $(diff whole.txt begun.txt)"
  refuses 1 'give --data and its settings again' "$lm" train --resume empty
  refuses 1 'it is no run' "$lm" train --resume other
  "$lm" train --resume empty "${settings[@]}" >out.txt 2>err.txt
  grep -q 'with the settings given' err.txt || fail "it says: $(cat err.txt)"
  cmp whole.txt <(files empty) || fail "a run in an empty folder differs"
  "$lm" train --resume part --steps 41 --keep 1 --quiet
  [[ $(ls -d part/checkpoint-*) == part/checkpoint-41 ]] || fail "--keep 1 left: $(ls part)"
  refuses 1 '--keep 0' "$lm" train --resume part --steps 42 --keep 0
  ;;
amp)
  for type in bf16 f16; do
    "$lm" train "${small[@]}" --amp $type --steps 20 --eval-every 10 --out $type --quiet
    grep -q "\"amp\": \"$type\"" $type/config.json || fail "config.json lacks the precision"
    cp -r $type part-$type
    rm -r part-$type/checkpoint-20
    "$lm" train --resume part-$type --quiet
    for f in model.safetensors optimizer.safetensors; do
      cmp $type/checkpoint-20/$f part-$type/checkpoint-20/$f || fail "$f differs after a resume in $type"
    done
    cmp <(grep -v seconds $type/checkpoint-20/state.json) <(grep -v seconds part-$type/checkpoint-20/state.json) || fail "state.json differs after a resume in $type"
    grep -q F32 $type/checkpoint-20/model.safetensors || fail "weights are not f32"
    ! grep -q F16 $type/checkpoint-20/optimizer.safetensors || fail "the optimizer's state is not f32"
  done
  ! grep -q scaler bf16/checkpoint-20/state.json || fail "bf16 needs no scaler"
  grep -q '"_growth_tracker": 20' f16/checkpoint-20/state.json || fail "the state of the scaler is not in state.json"
  "$lm" train "${small[@]}" --steps 20 --eval-every 10 --out none --quiet
  for type in bf16 f16; do
    ! cmp -s none/checkpoint-20/model.safetensors $type/checkpoint-20/model.safetensors || fail "--amp $type changed nothing"
    paste -d, <(cut -d, -f3 none/metrics.csv | tail -n 1) <(cut -d, -f3 $type/metrics.csv | tail -n 1) |
      awk -F, '{ d = $1 - $2; exit !(d < 0.02 && d > -0.02) }' || fail "--amp $type trains differently: $(tail -qn 1 none/metrics.csv $type/metrics.csv)"
    "$lm" train "${small[@]}" --layers 2 --width 96 --heads 3 --block 48 --steps 8 --amp $type --out $type-1 --quiet --threads 1
    "$lm" train "${small[@]}" --layers 2 --width 96 --heads 3 --block 48 --steps 8 --amp $type --out $type-3 --quiet --threads 3
    cmp $type-1/checkpoint-8/model.safetensors $type-3/checkpoint-8/model.safetensors || fail "weights in $type differ between 1 and 3 threads"
  done
  refuses 1 '--amp bf16 does not fit the run' "$lm" train --resume f16 --amp bf16
  refuses 2 'f64' "$lm" train "${small[@]}" --amp f64
  sed -i 's/"scale"/"size"/' f16/checkpoint-20/state.json
  refuses 1 'size' "$lm" train --resume f16 --steps 22
  ;;
cuda)  # with a program that has a CUDA device, which may be emulated: few tokens
  head -n 40 text.txt >few.txt
  tiny=("${small[@]}" --data few.txt --block 8 --batch 2 --sample-tokens 3 --quiet)
  "$lm" train "${tiny[@]}" --steps 4 --eval-every 2 --out cuda --device cuda 2>err.txt || {
    grep -q 'error: --device cuda: ' err.txt || fail "it said: $(cat err.txt)"
    echo "skipped: $(cat err.txt)"
    exit 77
  }
  "$lm" train "${tiny[@]}" --steps 4 --eval-every 2 --out cpu --device cpu
  paste -d, cpu/metrics.csv cuda/metrics.csv | awk -F, 'NR > 1 && (($2 - $9) ^ 2 > 1e-6 || ($3 - $10) ^ 2 > 1e-6) { exit 1 }' ||
    fail "losses differ: $(paste cpu/metrics.csv cuda/metrics.csv)"
  cmp cpu/samples.txt cuda/samples.txt || fail "samples differ"
  grep -q '"device": "cuda:0"' cuda/config.json || fail "config.json does not name the device"
  cp cuda/checkpoint-4/model.safetensors whole.safetensors
  "$lm" train --resume cuda/checkpoint-2 --sample-tokens 0 --quiet
  cmp whole.safetensors cuda/checkpoint-4/model.safetensors || fail "a resumed run has other weights"
  "$lm" train --resume cuda --steps 5 --device cpu --quiet
  for device in cpu cuda:0; do
    "$lm" sample --from cuda --device $device --prompt line --tokens 2 >sample.$device
    "$lm" logits --from cuda --device $device --prompt line --out logits.$device
  done
  cmp sample.cpu sample.cuda:0 || fail "samples differ"
  "$lm" train "${tiny[@]}" --steps 1 --amp f16 --accumulate 2 --recompute sqrt --memory-budget 1MiB --sample-tokens 0 --out all
  grep -q '"device": "cuda:0"' all/config.json || fail "the device is there and was not taken"
  refuses 1 'device cuda:120 is not there' "$lm" train "${tiny[@]}" --steps 2 --out no --device cuda:120
  refuses 1 'on cuda:0' "$lm" train "${tiny[@]}" --steps 2 --out no --device cuda --memory-budget 10KB
  # Other mixers lose as much there as on the CPU.
  for mixer in window performer efficient flash retnet rwkv gla mamba mamba2 s4 s4d s5 mingru lstm; do
    flags=(--data few.txt --layers 1 --width 16 --block 8 --batch 2 --warmup 2 --steps 2 --eval-every 2 --sample-tokens 3 --mixer $mixer --quiet)
    for device in cpu cuda; do "$lm" train "${flags[@]}" --device $device --out $mixer-$device; done
    paste -d, $mixer-cpu/metrics.csv $mixer-cuda/metrics.csv | awk -F, 'NR > 1 && (($2 - $9) ^ 2 > 1e-6 || ($3 - $10) ^ 2 > 1e-6) { exit 1 }' ||
      fail "$mixer: losses differ: $(paste $mixer-cpu/metrics.csv $mixer-cuda/metrics.csv)"
  done
  ;;
threads)
  # Sizes at which matrix products are cut for threads, sums have several chunks, and 16 threads find work.
  for n in 1 2 3 8 16; do
    "$lm" train "${small[@]}" --layers 2 --width 96 --heads 3 --block 48 --steps 50 --out "run$n" --quiet --threads $n
    sha256sum <"run$n/checkpoint-50/model.safetensors" >"run$n.sha256"
    cmp run1.sha256 "run$n.sha256" || fail "weights after 50 steps differ between 1 and $n threads"
  done
  ;;
memory)
  # Whatever is dropped and computed again, the weights are the same, also when the way changes at a resume.
  deep=("${small[@]}" --layers 6 --width 64 --block 32 --steps 12 --eval-every 6 --quiet)
  "$lm" train "${deep[@]}" --out none
  for how in sqrt pointwise every:2 every:100; do
    "$lm" train "${deep[@]}" --out "$how" --recompute $how
    cmp none/checkpoint-12/model.safetensors "$how/checkpoint-12/model.safetensors" || fail "weights differ with --recompute $how"
  done
  "$lm" train "${deep[@]}" --out tight --memory-budget 7MiB
  cmp none/checkpoint-12/model.safetensors tight/checkpoint-12/model.safetensors || fail "weights differ with a memory budget"
  rm -r tight/checkpoint-12
  "$lm" train --resume tight --quiet --memory-budget 0 --recompute sqrt
  cmp none/checkpoint-12/model.safetensors tight/checkpoint-12/model.safetensors || fail "weights differ after a resume with another budget"
  refuses 1 "memory budget: " "$lm" train "${deep[@]}" --out small --memory-budget 4MiB
  ;;
interrupt)
  set -m  # without job control a shell makes its background programs ignore Ctrl-C
  "$lm" train "${small[@]}" --steps 1000000 --out run >out.txt 2>&1 &
  pid=$!
  for i in $(seq 200); do [[ -f run/metrics.csv && $(wc -l <run/metrics.csv) -gt 1 ]] && break; sleep 0.1; done
  kill -INT $pid
  wait $pid || fail "the interrupted trainer exited with $?: $(cat out.txt)"
  ls -d run/checkpoint-* >/dev/null || fail "no checkpoint after an interrupt"
  grep -q -- '--resume run' out.txt || fail "it does not say how to go on"
  step=$(ls -d run/checkpoint-* | sed 's/.*-//' | sort -n | tail -n 1)
  "$lm" train --resume run --steps $((step + 3)) --quiet
  [[ -d run/checkpoint-$((step + 3)) ]] || fail "the run did not go on"
  ;;
sample)
  "$lm" train "${small[@]}" --steps 5 --out run --quiet
  "$lm" sample --from run --prompt "the quick" --tokens 30 --seed 3 >a.txt
  "$lm" sample --from run/checkpoint-5 --prompt "the quick" --tokens 30 --seed 3 >b.txt
  cmp a.txt b.txt || fail "the same seed gives other text"
  [[ $(head -c 9 a.txt) == "the quick" && $(wc -m <a.txt) == 40 ]] || fail "the sample is not prompt and 30 characters: $(cat a.txt)"
  "$lm" sample --from run --prompt "the" --tokens 30 --temperature 0 --seed 1 >a.txt
  "$lm" sample --from run --prompt "the" --tokens 30 --top-k 1 --seed 2 >b.txt
  cmp a.txt b.txt || fail "temperature 0 and top-k 1 differ"
  refuses 1 'U+00E9' "$lm" sample --from run --prompt "é"
  refuses 1 'nowhere' "$lm" sample --from nowhere
  "$lm" train "${small[@]}" --steps 3 --weights run/checkpoint-5/model.safetensors --out warm --quiet
  refuses 1 'wte.weight' "$lm" train "${small[@]}" --width 32 --steps 3 --weights run/checkpoint-5/model.safetensors --out other
  ;;
bpe)
  # A vocabulary of the 256 bytes and three merges, made here.
  mkdir vocab
  perl -CSD -e '
    my $next = 256;
    my @tokens = map { ($_ > 32 && $_ < 127) || ($_ > 160 && $_ != 173) ? chr($_) : chr($next++) } 0 .. 255;
    push @tokens, "th", "the", "\x{120}the", "<|endoftext|>";
    open my $json, ">", "vocab/vocab.json";
    print $json "{", join(",", map { my $t = $tokens[$_]; $t =~ s/(["\\])/\\$1/g; "\"$t\":$_" } 0 .. $#tokens), "}";
    open my $merges, ">", "vocab/merges.txt";
    print $merges "#version: 0.2\nt h\nth e\n\x{120} the\n";'
  bpe=(--tokenizer gpt2 --vocab vocab)
  "$lm" train "${small[@]}" "${bpe[@]}" --steps 4 --eval-every 2 --out whole --quiet
  grep -q '"tokenizer": "gpt2"' whole/config.json && grep -q '"vocab": 260' whole/config.json || fail "config.json lacks tokenizer and vocabulary"
  cp -r whole part
  rm -r part/checkpoint-4
  mv vocab vocab.gone # a run has its own copy
  "$lm" train --resume part --quiet
  cmp whole/checkpoint-4/model.safetensors part/checkpoint-4/model.safetensors || fail "weights differ after a resume"
  "$lm" sample --from whole --prompt "the é" --tokens 5 >sample.txt
  [[ $(head -c 6 sample.txt) == "the é" ]] || fail "the sample does not begin with the prompt: $(cat sample.txt)"
  mv vocab.gone vocab
  "$lm" tokenize --data text.txt "${bpe[@]}" --out tokens >out.txt
  grep -q 'vocabulary of 260' out.txt || fail "tokenize says: $(cat out.txt)"
  "$lm" train "${small[@]}" --data tokens/tokens.bin --steps 4 --eval-every 2 --out mapped --quiet
  cmp whole/checkpoint-4/model.safetensors mapped/checkpoint-4/model.safetensors || fail "text and its tokens train differently"
  tail -c +33 tokens/tokens.bin >bare.bin
  "$lm" train "${small[@]}" --data bare.bin --data-format u16 "${bpe[@]}" --steps 4 --eval-every 2 --out bare --quiet
  cmp whole/checkpoint-4/model.safetensors bare/checkpoint-4/model.safetensors || fail "ids without a header train differently"
  rm -r bare/checkpoint-4
  "$lm" train --resume bare --quiet
  cmp whole/checkpoint-4/model.safetensors bare/checkpoint-4/model.safetensors || fail "a resumed run reads ids differently"
  "$lm" tokenize --data text.txt --out characters --quiet
  "$lm" train "${small[@]}" --data characters/tokens.bin --steps 2 --out char --quiet
  grep -q '"tokenizer": "char"' char/config.json || fail "the tokenizer beside the tokens was not taken"
  refuses 1 '--tokenizer gpt2 needs --vocab' "$lm" train "${small[@]}" --tokenizer gpt2
  refuses 1 'does not fit' "$lm" train "${small[@]}" --tokenizer char --vocab vocab
  refuses 1 'vocabulary of 260' "$lm" train "${small[@]}" --data tokens/tokens.bin --vocab characters
  refuses 1 'no tokenizer.json beside it' "$lm" train "${small[@]}" --data bare.bin --data-format u16
  refuses 1 'exclude each other' "$lm" train --resume whole --vocab vocab
  refuses 1 '--tokenizer char does not fit the run' "$lm" train --resume whole --tokenizer char
  refuses 2 'words' "$lm" train "${small[@]}" --tokenizer words
  refuses 1 'header' "$lm" train "${small[@]}" --vocab vocab --data-format tokens
  ;;
mixers)
  # Every mixer trains, goes on after a checkpoint, and writes from its state.
  "$lm" train --help >help.txt
  names=$(sed -n '/--mixer /,/--positions/p' help.txt | grep -o '{[a-z0-9,]*}' | head -n 1 | tr -d '{}' | tr ',' ' ')
  for mixer in attention window sparse linear performer efficient cosformer gau flash transnormer retnet rwkv gla mamba mamba2 s4 s4d s5 lru mingru minlstm lstm gru rnn; do
    [[ " $names " == *" $mixer "* ]] || fail "--help lacks the mixer $mixer: $names"
    flags=(--data text.txt --layers 2 --width 16 --block 16 --batch 4 --warmup 2 --dropout 0.1 --threads 2 --sample-tokens 0 --mixer "$mixer")
    "$lm" train "${flags[@]}" --steps 4 --eval-every 2 --out "$mixer" --quiet
    cp -r "$mixer" part
    rm -r part/checkpoint-4
    "$lm" train --resume part --quiet
    cmp "$mixer/checkpoint-4/model.safetensors" part/checkpoint-4/model.safetensors || fail "$mixer: weights differ after a resume"
    rm -r part
    "$lm" sample --from "$mixer" --prompt "line" --tokens 20 --seed 3 >a.txt  # more than --block, in steps
    "$lm" sample --from "$mixer" --prompt "line" --tokens 20 --seed 3 >b.txt
    cmp a.txt b.txt || fail "$mixer: the same seed gives other text"
    [[ $(wc -m <a.txt) == 25 ]] || fail "$mixer: the sample is not prompt and 20 characters: $(cat a.txt)"
  done
  for positions in learned sinusoidal rope alibi t5 none; do
    "$lm" train "${small[@]}" --positions $positions --steps 1 --sample-tokens 20 --out p-$positions --quiet
  done
  "$lm" train "${small[@]}" --mlp swiglu --kv-heads 1 --steps 1 --sample-tokens 0 --out swiglu --quiet
  grep -q 'h.0.mlp.gate_proj.weight' swiglu/checkpoint-1/model.safetensors || fail "--mlp swiglu has no gate"
  refuses 1 '--heads is not for --mixer lstm' "$lm" train "${small[@]}" --mixer lstm
  refuses 1 '--window is not for --mixer attention' "$lm" train "${small[@]}" --window 5
  refuses 1 '--positions rope is for attention; --mixer mamba has none' "$lm" train --data text.txt --mixer mamba --positions rope
  refuses 1 '--mlp own is not for --mixer attention' "$lm" train "${small[@]}" --mlp own
  refuses 1 '--heads 2 is no multiple of --kv-heads 3' "$lm" train "${small[@]}" --kv-heads 3
  refuses 2 'mixer' "$lm" train "${small[@]}" --mixer none
  refuses 1 'strided' "$lm" train "${small[@]}" --mixer sparse --window 100 --chunk 64
  # A run from before there were mixers goes on as one with attention.
  "$lm" train "${small[@]}" --steps 4 --eval-every 2 --out old --quiet
  cp old/checkpoint-4/model.safetensors whole.safetensors
  rm -r old/checkpoint-4
  sed -i '/"mixer"\|"positions"\|"mlp"\|"window"\|"kv_heads"\|"state"\|"chunk"\|"hugging_face"/d' old/config.json
  sed -i -z 's/,\n}/\n}/' old/config.json
  "$lm" train --resume old --quiet
  cmp whole.safetensors old/checkpoint-4/model.safetensors || fail "an old run goes on differently"
  ;;
transformers)  # weights as transformers saves them
  golden=$here/../golden
  printf 'abcdefghijklmnopqrs%.0s' $(seq 200) >letters.txt  # 19 letters
  for model in gpt2_a llama_a mamba_a; do
    flags=(--data letters.txt --weights "$golden/$model" --block 8 --batch 2 --steps 4 --eval-every 2 --sample-tokens 8 --threads 2 --quiet)
    "$lm" train "${flags[@]}" --out $model
    cp -r $model part
    rm -r part/checkpoint-4
    "$lm" train --resume part --quiet
    cmp $model/checkpoint-4/model.safetensors part/checkpoint-4/model.safetensors || fail "$model: weights differ after a resume"
    rm -r part
    "$lm" sample --from $model --prompt abc --tokens 5 --temperature 0 >a.txt
    [[ $(wc -m <a.txt) -ge 8 ]] || fail "$model: no sample: $(cat a.txt)"
  done
  # With a tokenizer beside the weights the folder can be sampled from, and trained with its vocabulary.
  cp -r "$golden/llama_a" own
  cp llama_a/tokenizer.json own/
  "$lm" sample --from own --prompt abc --tokens 5 --temperature 0 >/dev/null || fail "a folder of transformers cannot be sampled from"
  "$lm" train --data letters.txt --weights own --block 8 --batch 2 --steps 1 --sample-tokens 0 --out with-own --quiet
  cmp own/tokenizer.json with-own/tokenizer.json || fail "the tokenizer beside the weights was not used"
  refuses 1 '--layers does not go with --weights FOLDER' "$lm" train --data letters.txt --weights "$golden/gpt2_a" --layers 2
  refuses 1 'vocabulary of 23, but the tokenizer one of' "$lm" train "${small[@]:0:2}" --weights "$golden/gpt2_a"
  refuses 1 '--block 32 does not fit the model of' "$lm" train --data letters.txt --weights "$golden/gpt2_a" --block 32
  sed -i 's/"hidden_size": 16/"hidden_size": 32/' own/config.json
  refuses 1 '"hidden_size" is 32, but model.embed_tokens.weight of shape [23, 16] says 16' "$lm" train --data letters.txt --weights own
  ;;
compare)
  "$lm" ngram --data text.txt --order 3 >ngram.txt
  [[ $(wc -l <ngram.txt) == 5 ]] || fail "ngram printed: $(cat ngram.txt)"
  awk 'NR > 3 && $3 >= before { exit 1 } NR > 2 { before = $3 }' ngram.txt || fail "longer n-grams are no better: $(cat ngram.txt)"
  flags=(--data text.txt --mixers attention,mingru --parameters 20000 --layers 1 --heads 2 --block 16 --batch 2 --steps 10 --contexts 8,20 --order 3 --threads 2)
  "$lm" compare "${flags[@]}" --out both --quiet >out.txt
  for f in table.md table.csv loss.svg attention/metrics.csv mingru/checkpoint-10/model.safetensors; do
    [[ -s both/$f ]] || fail "both/$f is missing"
  done
  [[ $(head -n 1 both/table.csv) == mixer,width,parameters,validation_loss,tokens_per_s,memory_mib,ms_at_8,ms_at_20 ]] || fail "table.csv: $(cat both/table.csv)"
  awk -F, 'NR > 2 && ($3 < 12000 || $3 > 28000 || $4 <= 0 || $5 <= 0 || $6 <= 0 || $7 <= 0 || $8 <= 0) { exit 1 }' both/table.csv || fail "table.csv: $(cat both/table.csv)"
  [[ $(wc -l <both/table.csv) == 4 && $(cut -d, -f1 both/table.csv | tail -n 2 | xargs) == "attention mingru" ]] || fail "table.csv: $(cat both/table.csv)"
  cp both/table.csv before.csv
  rm -r both/mingru
  "$lm" compare "${flags[@]}" --out both --quiet >out.txt  # attention is there
  cmp <(cut -d, -f1-4 before.csv) <(cut -d, -f1-4 both/table.csv) || fail "a comparison that goes on differs"
  refuses 1 'both/attention was trained with "steps" 10, not 11; name another folder with --out' "$lm" compare "${flags[@]}" --steps 11 --out both
  refuses 1 '--contexts 8,x is not valid' "$lm" compare "${flags[@]}" --contexts 8,x --out other
  refuses 1 '--mixer tower is not valid' "$lm" compare "${flags[@]}" --mixers tower --out other
  ;;
bad_input)
  refuses 1 "--recompute each is not valid; expected none, sqrt, pointwise, or every:N" "$lm" train "${small[@]}" --recompute each
  refuses 1 "--recompute every:0 is not valid" "$lm" train "${small[@]}" --recompute every:0
  : >empty.txt
  printf 'short' >short.txt
  printf '\xff\xfe' >binary.txt
  refuses 1 'empty.txt is empty' "$lm" train "${small[@]}" --data empty.txt
  refuses 1 'missing.txt' "$lm" train "${small[@]}" --data missing.txt
  refuses 1 '5' "$lm" train "${small[@]}" --data short.txt
  refuses 1 'UTF-8' "$lm" train "${small[@]}" --data binary.txt
  refuses 1 '--width 15 is no multiple of --heads 2' "$lm" train "${small[@]}" --width 15
  refuses 1 '--steps -1' "$lm" train "${small[@]}" --steps -1
  refuses 1 '--dropout 1' "$lm" train "${small[@]}" --dropout 1
  refuses 2 '--nonsense' "$lm" train "${small[@]}" --nonsense
  refuses 2 'steps' "$lm" train "${small[@]}" --steps many
  "$lm" train "${small[@]}" --steps 5 --out run --quiet
  refuses 1 'run' "$lm" train "${small[@]}" --steps 5 --out run
  refuses 1 '--layers 3 does not fit' "$lm" train --resume run --layers 3
  refuses 1 'exclude each other' "$lm" train --resume run --out elsewhere
  "$lm" train "${small[@]}" --width 32 --steps 5 --out wide --quiet
  cp wide/checkpoint-5/model.safetensors run/checkpoint-5/
  refuses 1 'wte.weight' "$lm" train --resume run --steps 9
  head -c 100 wide/checkpoint-5/model.safetensors >wide/cut && mv wide/cut wide/checkpoint-5/model.safetensors
  refuses 1 'model.safetensors' "$lm" train --resume wide --steps 9
  echo '{' >wide/config.json
  refuses 1 'config.json' "$lm" sample --from wide
  refuses 1 'gpu' "$lm" train "${small[@]}" --out no --device gpu
  refuses 1 '--device meta' "$lm" sample --from run --device meta
  "$lm" train --help >help.txt
  for flag in data data-format tokenizer vocab mixer positions mlp kv-heads window state chunk layers heads width block batch accumulate steps lr min-lr warmup beta1 beta2 weight-decay clip dropout seed amp recompute memory-budget sample-tokens device threads eval-every out resume weights quiet keep; do
    grep -q -- "--$flag" help.txt || fail "--help lacks --$flag"
  done
  ;;
full_disk)
  "$lm" train "${small[@]}" --steps 10 --eval-every 5 --out run --quiet
  (ulimit -f 8 && trap '' XFSZ && refuses 1 'checkpoint-10 is intact' "$lm" train --resume run --steps 20 --quiet) # a limit of 8 KiB a file stands for a full disk
  [[ -d run/checkpoint-10 && $(ls -A run | grep -c tmp) == 0 ]] || fail "a failed save did harm: $(ls -A run)"
  (ulimit -f 8 && trap '' XFSZ && refuses 1 'no checkpoint was saved before' "$lm" train "${small[@]}" --steps 10 --eval-every 5 --out first --quiet)
  "$lm" train --resume run --steps 12 --quiet
  [[ -d run/checkpoint-12 ]] || fail "the run did not go on after the failure"
  ;;
real_data)
  text=${RETAPE_DATA:+$RETAPE_DATA/tinyshakespeare/input.txt}
  if [[ -z $text || ! -f $text ]]; then
    echo "skipped: RETAPE_DATA does not name a folder with tinyshakespeare/input.txt"
    exit 77
  fi
  "$lm" train --data "$text" --steps 100 --out run --quiet --threads 2
  loss=$(tail -n 1 run/metrics.csv | cut -d, -f3)
  awk -v loss="$loss" 'BEGIN { exit !(loss > 1 && loss < 2.8) }' || fail "validation loss after 100 steps is $loss; expected below 2.8 (guessing by frequency gives 3.3)"
  ;;
*) fail "no case $case" ;;
esac

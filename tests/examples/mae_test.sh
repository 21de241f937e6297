#!/usr/bin/env bash
# The MAE trainer as its user sees it: files of a run, exact resume, classifiers made of it, pictures, and one clear line for bad input.
#     mae_test.sh PROGRAM SCRATCH CASE
set -euo pipefail
mae=$1 work=$2/$3 case=$3 here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work"
mkdir -p "$work"
cd "$work"
. "$here/images.sh"
images data
small=(--data data --patch 2 --dim 16 --depth 2 --heads 2 --decoder-dim 8 --decoder-depth 1 --decoder-heads 2 --batch 16 --epochs 4 --warmup 5 --eval-every 12
  --augment none --threads 2)
few=(--batch 16 --warmup 5 --eval-every 12 --augment none --threads 2)

case $case in
files)
  "$mae" train "${small[@]}" --lr 0.01 --epochs 20 --out run >out.txt 2>err.txt
  for f in config.json metrics.csv loss.svg reconstructions.png checkpoint-120/model.safetensors checkpoint-120/optimizer.safetensors checkpoint-120/state.json; do
    [[ -s run/$f ]] || fail "run/$f is missing"
  done
  [[ $(head -n 1 run/metrics.csv) == step,train_loss,val_loss,lr,waiting,images_per_s,seconds ]] || fail "metrics.csv has another header"
  grep -q '4 of 16 patches are seen' err.txt || fail "it says: $(cat err.txt)"
  awk -F, 'NR == 2 { first = $2 } END { exit !($2 < 0.9 * first && $3 > 0) }' run/metrics.csv || fail "nothing is learned: $(cat run/metrics.csv)"
  "$mae" evaluate --from run >evaluated.txt
  loss=$(tail -n 1 run/metrics.csv | awk -F, '{ printf "%.4f", $3 }')
  [[ $(cat evaluated.txt) == "loss $loss, 33 images" ]] || fail "evaluate says $(cat evaluated.txt), the run $loss"
  "$mae" reconstruct --from run --out first.png --count 8 && cmp first.png run/reconstructions.png || fail "reconstruct draws something else"
  "$mae" reconstruct --from run --out files.png --mask-ratio 0.5 "$golden/rgb.png" "$golden/gray.jpeg"
  [[ $(head -c 4 files.png | tail -c 3) == PNG ]] || fail "files.png is no PNG"
  # Classifiers of it; all labels are easy, also for a linear one.
  "$mae" finetune --from run --labels 30 --epochs 60 --lr 0.005 "${few[@]}" --out tuned >out.txt 2>err.txt
  grep -q '30 images (10 classes, 8 x 8 x 1)' err.txt || fail "it says: $(cat err.txt)"
  tail -n 1 tuned/metrics.csv | awk -F, '{ exit !($4 > 0.9) }' || fail "finetune's last row is $(tail -n 1 tuned/metrics.csv)"
  "$mae" probe --from run/checkpoint-120 --epochs 20 --lr 0.02 "${few[@]}" --out probed --quiet
  tail -n 1 probed/metrics.csv | awk -F, '{ exit !($4 > 0.9) }' || fail "probe's last row is $(tail -n 1 probed/metrics.csv)"
  "$mae" evaluate --from tuned --confusion confusion.svg | grep -q '^accuracy ' || fail "no accuracy"
  # The probe has changed nothing but the last layer.
  "$mae" finetune --from run --lr 0 --min-lr 0 --epochs 1 "${few[@]}" --out ours --quiet
  "$mae" probe --from run --lr 0 --min-lr 0 --epochs 1 "${few[@]}" --out still --quiet
  "$mae" probe --from run --epochs 1 "${few[@]}" --out moved --quiet
  cmp ours/checkpoint-6/model.safetensors still/checkpoint-6/model.safetensors || fail "the probe begins elsewhere"
  differing=$({ cmp -l still/checkpoint-6/model.safetensors moved/checkpoint-6/model.safetensors || true; } | wc -l)
  ((differing > 100 && differing <= 4 * (16 * 10 + 10))) || fail "$differing bytes differ after a probe, whose last layer has 170 numbers"
  "$mae" predict --from probed --top 1 "$golden/gray.png" | grep -Eq 'gray.png: [0-9] [0-9.]+%$' || fail "no prediction"
  # Hugging Face's form and back is the same encoder.
  "$mae" export --from run --out exported
  "$mae" finetune --from exported --data data --lr 0 --min-lr 0 --epochs 1 "${few[@]}" --mean "$(sed -n 's/.*"mean": "\(.*\)".*/\1/p' run/config.json)" --out theirs --quiet
  cmp ours/checkpoint-6/model.safetensors theirs/checkpoint-6/model.safetensors || fail "the encoder is another one"
  "$mae" time --mask-ratios 0,0.75 --image-size 8 --channels 1 --dim 8 --depth 1 --heads 2 --decoder-dim 8 --decoder-depth 1 --decoder-heads 2 --batch 2 --steps 3 >time.txt
  [[ $(grep -Ec '^ +0(.75)? +[0-9.]+ +[0-9]+ +[0-9.]+ +[0-9.]+x$' time.txt) == 2 ]] || fail "time says: $(cat time.txt)"
  ;;
resume)
  "$mae" train "${small[@]}" --augment resized-crop,flip --workers 2 --out whole --quiet
  cp -r whole part
  rm -r part/checkpoint-24
  "$mae" train --resume part --workers 0 --recompute sqrt --quiet
  for f in checkpoint-24/model.safetensors checkpoint-24/optimizer.safetensors reconstructions.png; do
    cmp whole/$f part/$f || fail "$f differs after a resume"
  done
  cmp <(cut -d, -f1-4 whole/metrics.csv) <(cut -d, -f1-4 part/metrics.csv) || fail "metrics differ after a resume"
  for verb in finetune probe; do
    "$mae" $verb --from whole --epochs 4 "${few[@]}" --out $verb --quiet
    cp -r $verb $verb-part
    rm -r $verb-part/checkpoint-24
    "$mae" $verb --resume $verb-part --quiet
    cmp $verb/checkpoint-24/model.safetensors $verb-part/checkpoint-24/model.safetensors || fail "weights differ after a resumed $verb"
    cmp <(cut -d, -f1-5 $verb/metrics.csv) <(cut -d, -f1-5 $verb-part/metrics.csv) || fail "metrics differ after a resumed $verb"
  done
  ;;
cuda)  # with a program that has a CUDA device, which may be emulated: few images
  tiny=("${small[@]}" --dim 8 --depth 1 --batch 8 --epochs 1 --eval-every 2 --pictures 1 --quiet)
  idx data train 24 1
  idx data t10k 6 2
  "$mae" train "${tiny[@]}" --out cuda --device cuda 2>err.txt || {
    grep -q 'error: --device cuda: ' err.txt || fail "it said: $(cat err.txt)"
    echo "skipped: $(cat err.txt)"
    exit 77
  }
  "$mae" train "${tiny[@]}" --out cpu --device cpu
  paste -d, cpu/metrics.csv cuda/metrics.csv | awk -F, 'NR > 1 && (($2 - $9) ^ 2 > 1e-6 || ($3 - $10) ^ 2 > 1e-6) { exit 1 }' ||
    fail "losses differ: $(paste cpu/metrics.csv cuda/metrics.csv)"
  cp cuda/checkpoint-3/model.safetensors whole.safetensors
  "$mae" train --resume cuda/checkpoint-2 --quiet
  cmp whole.safetensors cuda/checkpoint-3/model.safetensors || fail "a resumed run has other weights"
  for verb in finetune probe; do
    for device in cpu cuda; do "$mae" $verb --from cpu --batch 8 --epochs 1 --augment none --device $device --out $verb-$device --quiet; done
    paste -d, $verb-cpu/metrics.csv $verb-cuda/metrics.csv | awk -F, 'NR > 1 && ($3 - $11) ^ 2 > 1e-6 { exit 1 }' || fail "losses of $verb differ"
  done
  "$mae" train "${tiny[@]}" --amp bf16 --recompute sqrt --memory-budget 2MiB --out all
  ;;
bad_input)
  refuses 1 '--data is missing' "$mae" train
  refuses 1 '--from is missing' "$mae" finetune
  refuses 1 '--mask-ratio 1 is not valid; it must be below 1' "$mae" train "${small[@]}" --mask-ratio 1
  refuses 1 '--mask-ratio 0.95 hides all of 16 patches' "$mae" train "${small[@]}" --mask-ratio 0.95
  refuses 1 '--decoder-dim 6 is no multiple of 4' "$mae" train "${small[@]}" --decoder-dim 6
  refuses 1 '--dim 18 is no multiple of 4' "$mae" train "${small[@]}" --dim 18
  refuses 1 '--patch 3 does not divide images of 8 x 8' "$mae" train "${small[@]}" --patch 3 --out run
  [[ ! -e run ]] || fail "a folder is left"
  "$mae" train "${small[@]}" --epochs 2 --out run --quiet
  "$mae" finetune --from run --epochs 2 "${few[@]}" --out tuned --quiet
  refuses 1 'has a classifier, not a masked autoencoder' "$mae" reconstruct --from tuned
  refuses 1 'has a classifier, not a masked autoencoder' "$mae" finetune --from tuned
  refuses 1 'has a masked autoencoder, which knows no classes' "$mae" predict --from run "$golden/gray.png"
  refuses 1 'nothing.png' "$mae" reconstruct --from run nothing.png
  head -c 300 "$golden/rgb.jpeg" >cut.jpeg
  refuses 1 'cut.jpeg' "$mae" reconstruct --from run "$golden/rgb.png" cut.jpeg
  [[ ! -e reconstructions.png ]] || fail "a picture is left"
  mkdir weights && echo '{"model_type": "vit_mae"}' >weights/config.json && head -c 100 run/checkpoint-12/model.safetensors >weights/model.safetensors
  refuses 1 'weights/model.safetensors' "$mae" train "${small[@]}" --init weights
  refuses 1 'weights/model.safetensors' "$mae" finetune --from weights --data data
  (ulimit -f 8 && trap '' XFSZ && refuses 1 'checkpoint-12 is intact' "$mae" train --resume run --epochs 4 --quiet)
  [[ -d run/checkpoint-12 && $(ls -A run | grep -c tmp) == 0 ]] || fail "a failed save did harm: $(ls -A run)"
  (ulimit -f 8 && trap '' XFSZ && refuses 1 'no checkpoint was saved before' "$mae" finetune --from run --epochs 2 "${few[@]}" --out first --quiet)
  "$mae" train --resume run --epochs 4 --quiet
  [[ -d run/checkpoint-24 ]] || fail "the run did not go on after the failure"
  ;;
*) fail "no case $case" ;;
esac

#!/usr/bin/env bash
# The ViT trainer as its user sees it: files of a run, exact resume, other data, weights that come and go, and one clear line for bad input.
#     vit_test.sh PROGRAM SCRATCH CASE
set -euo pipefail
vit=$1 work=$2/$3 case=$3 here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work"
mkdir -p "$work"
cd "$work"
. "$here/images.sh"
images data
small=(--data data --patch 4 --dim 16 --depth 2 --heads 2 --batch 16 --epochs 4 --warmup 5 --eval-every 12 --augment none --threads 2)

case $case in
files)
  "$vit" train "${small[@]}" --lr 0.01 --epochs 20 --out run >out.txt 2>err.txt
  for f in config.json classes.txt metrics.csv loss.svg accuracy.svg confusion.svg checkpoint-120/model.safetensors checkpoint-120/optimizer.safetensors checkpoint-120/state.json; do
    [[ -s run/$f ]] || fail "run/$f is missing"
  done
  [[ -s $(ls run/events.out.tfevents.*) ]] || fail "TensorBoard's events are missing"
  [[ $(head -n 1 run/metrics.csv) == step,train_loss,val_loss,val_accuracy,lr,waiting,images_per_s,seconds ]] || fail "metrics.csv has another header"
  grep -q '96 images (10 classes, 8 x 8 x 1)' err.txt || fail "it says: $(cat err.txt)"
  grep -q 'run folder: run' out.txt || fail "the run folder is not printed"
  tail -n 1 run/metrics.csv | awk -F, '{ exit !($1 == 120 && $4 > 0.95 && $6 >= 0 && $6 <= 1) }' || fail "the last row is $(tail -n 1 run/metrics.csv)"
  [[ $(grep -o '<title>' run/confusion.svg | wc -l) == 100 ]] || fail "confusion.svg has not 100 cells"
  # The same numbers again from the checkpoint, and the places where they stand.
  "$vit" evaluate --from run --confusion confusion.svg --threads 2 >evaluated.txt
  accuracy=$(tail -n 1 run/metrics.csv | awk -F, '{ printf "%.2f", 100 * $4 }')
  grep -q "^accuracy $accuracy%, loss [0-9.]*, 33 images" evaluated.txt || fail "evaluate says $(cat evaluated.txt), the run $accuracy"
  [[ $(grep -c ' (1*[0-9] of 11)' evaluated.txt) == 3 ]] || fail "evaluate says: $(cat evaluated.txt)"
  cmp <(sed 's/^.*bold.*$//' confusion.svg) <(sed 's/^.*bold.*$//' run/confusion.svg) || fail "confusion.svg differs"
  "$vit" predict --from run/checkpoint-120 --top 2 "$golden/gray.png" "$golden/rgb.jpeg" >predicted.txt
  grep -Eq 'gray.png: [0-9] [0-9.]+%, [0-9] [0-9.]+%$' predicted.txt && [[ $(wc -l <predicted.txt) == 2 ]] || fail "predict says: $(cat predicted.txt)"
  [[ -z $("$vit" train "${small[@]}" --epochs 1 --out quiet --quiet 2>&1) ]] || fail "--quiet prints"
  ;;
resume)
  # Everything that is drawn, with workers and without.
  drawn=(--augment crop:1,flip,jitter,randaugment,erasing --mixup 0.8 --cutmix 1 --label-smoothing 0.1 --dropout 0.1 --labels 50 --eval-every 6)
  "$vit" train "${small[@]}" "${drawn[@]}" --workers 3 --out whole --quiet
  cp -r whole part
  rm -r part/checkpoint-12
  "$vit" train --resume part --workers 0 --recompute every:1 --quiet
  for f in checkpoint-12/model.safetensors checkpoint-12/optimizer.safetensors confusion.svg; do
    cmp <(sed 's/>whole: />part: /' "whole/$f") "part/$f" || fail "$f differs after a resume"
  done
  cmp <(cut -d, -f1-5 whole/metrics.csv) <(cut -d, -f1-5 part/metrics.csv) || fail "metrics differ after a resume"
  grep -q '^12,[0-9.]*,[0-9.]*,[0-9.]*,' whole/metrics.csv || fail "no row for step 12"
  # Other labels for another seed, the same for the same.
  for seed in 1 2; do "$vit" train "${small[@]}" --labels 17 --seed $seed --epochs 1 --out seed$seed --quiet; done
  "$vit" train "${small[@]}" --labels 17 --seed 1 --epochs 1 --workers 0 --out again --quiet
  cmp seed1/checkpoint-1/model.safetensors again/checkpoint-1/model.safetensors || fail "the same seed gives another run"
  ;;
data)
  # PNG and JPEG of several sizes, in folders.
  folders classes
  "$vit" train "${small[@]}" --data classes --image-size 8 --batch 4 --epochs 2 --augment resized-crop,flip,jitter,randaugment --out folders 2>err.txt >out.txt
  grep -q '6 images (2 classes, 8 x 8 x 3)' err.txt || fail "it says: $(cat err.txt)"
  [[ $(cat folders/classes.txt) == $'grey\nred' ]] || fail "classes.txt has: $(cat folders/classes.txt)"
  refuses 1 'give --image-size' "$vit" train "${small[@]}" --data classes --batch 6 --patch 1
  # A broken image is named, or left out and counted.
  head -c 60 "$golden/rgb.png" >classes/train/red/broken.png
  refuses 1 'broken.png' "$vit" train "${small[@]}" --data classes --image-size 8 --batch 7 --out broken
  "$vit" train "${small[@]}" --data classes --image-size 8 --batch 4 --epochs 1 --skip-broken --out left 2>err.txt >out.txt
  grep -q '6 images (2 classes, 8 x 8 x 3), 1 that cannot be read left out' err.txt || fail "it says: $(cat err.txt)"
  cifar cifar
  "$vit" train "${small[@]}" --data cifar --patch 16 --batch 2 --epochs 1 --mean 0.5,0.4,0.3 --std 0.2 --out cifar-run 2>err.txt >out.txt
  refuses 1 'has other classes than folders was trained on: 10 and 2' "$vit" evaluate --from folders --data cifar
  grep -q '4 images (10 classes, 32 x 32 x 3)' err.txt || fail "it says: $(cat err.txt)"
  grep -q '"mean": "0.5,0.4,0.3"' cifar-run/config.json || fail "config.json has another mean"
  ;;
weights)
  # To Hugging Face's form and back, which changes nothing but the run around it.
  "$vit" train "${small[@]}" --pool cls --out run --quiet
  "$vit" export --from run --out exported
  grep -q 'vit.encoder.layer.1.attention.attention.query.weight' exported/model.safetensors || fail "weights have other names"
  "$vit" train "${small[@]}" --init exported --pool cls --lr 0 --min-lr 0 --out again --quiet
  "$vit" evaluate --from run >run.txt
  "$vit" evaluate --from again >again.txt
  cmp run.txt again.txt || fail "other weights were read: $(cat run.txt again.txt)"
  # Other sizes come from the file; another number of classes gets a new last layer.
  folders classes
  refuses 1 'takes images of 8 x 8 with 1 channels, but those of' "$vit" train "${small[@]}" --data classes --image-size 8 --init exported
  refuses 1 'reads the mean of all patches' "$vit" export --from "$("$vit" train "${small[@]}" --epochs 1 --out mean >/dev/null 2>&1; echo mean)" --out no
  ;;
resnet)
  resnet=(--data data --model resnet18 --batch 16 --warmup 2 --threads 2)
  "$vit" train "${resnet[@]}" --epochs 3 --lr 0.001 --augment none --eval-every 6 --out run 2>err.txt >out.txt
  grep -q ' 11175370 parameters' err.txt || fail "it says: $(cat err.txt)"
  tail -n 1 run/metrics.csv | awk -F, '{ exit !($1 == 18 && $4 > 0.8) }' || fail "the last row is $(tail -n 1 run/metrics.csv)"
  grep -aq 'layer4.1.bn2.num_batches_tracked' run/checkpoint-18/model.safetensors || fail "weights have other names than torchvision's"
  cp -r run part
  rm -r part/checkpoint-18
  "$vit" train --resume part --recompute every:1 --quiet
  cmp run/checkpoint-18/model.safetensors part/checkpoint-18/model.safetensors || fail "a resumed run has other weights"
  accuracy=$(tail -n 1 run/metrics.csv | awk -F, '{ printf "%.2f", 100 * $4 }')
  "$vit" evaluate --from run >evaluated.txt
  grep -q "^accuracy $accuracy%" evaluated.txt || fail "evaluate says $(cat evaluated.txt), the run $accuracy"
  "$vit" predict --from run --top 1 "$golden/gray.png" | grep -q 'gray.png: ' || fail "predict says nothing"
  "$vit" train "${resnet[@]}" --epochs 1 --labels 16 --out usual --quiet
  grep -q '"augment": "crop:1,flip,erasing"' usual/config.json || fail "images are not augmented as usual for a ResNet"
  refuses 1 '--depth is about a ViT, and --model resnet18 has nothing of the kind' "$vit" train "${resnet[@]}" --depth 3
  refuses 1 '--positions is about a ViT' "$vit" train "${resnet[@]}" --positions learned
  refuses 1 '--init is about a ViT' "$vit" train "${resnet[@]}" --init run
  refuses 1 'has a resnet18, which is not exported' "$vit" export --from run --out no
  refuses 1 'every:0' "$vit" train "${resnet[@]}" --recompute every:0
  ;;
cuda)  # with a program that has a CUDA device, which may be emulated: few images
  tiny=("${small[@]}" --dim 8 --depth 1 --batch 8 --labels 24 --epochs 1 --mixup 0.5 --augment flip --eval-every 2 --quiet)
  idx data t10k 6 2
  "$vit" train "${tiny[@]}" --out cuda --device cuda 2>err.txt || {
    grep -q 'error: --device cuda: ' err.txt || fail "it said: $(cat err.txt)"
    echo "skipped: $(cat err.txt)"
    exit 77
  }
  "$vit" train "${tiny[@]}" --out cpu --device cpu
  paste -d, cpu/metrics.csv cuda/metrics.csv | awk -F, 'NR > 1 && (($2 - $10) ^ 2 > 1e-6 || ($3 - $11) ^ 2 > 1e-6) { exit 1 }' ||
    fail "losses differ: $(paste cpu/metrics.csv cuda/metrics.csv)"
  grep -q '"device": "cuda:0"' cuda/config.json || fail "config.json does not name the device"
  cp cuda/checkpoint-3/model.safetensors whole.safetensors
  "$vit" train --resume cuda/checkpoint-2 --quiet
  cmp whole.safetensors cuda/checkpoint-3/model.safetensors || fail "a resumed run has other weights"
  for device in cpu cuda:0; do "$vit" evaluate --from cuda --device $device | head -n 1 >evaluated.$device; done
  cmp evaluated.cpu evaluated.cuda:0 || fail "evaluations differ"
  "$vit" train "${tiny[@]}" --amp f16 --recompute pointwise --memory-budget 2MiB --out all
  ;;
bad_input)
  refuses 1 '--data is missing' "$vit" train
  refuses 1 'nowhere' "$vit" train --data nowhere --out run
  [[ ! -e run ]] || fail "a folder is left"
  while IFS='|' read -r flags text; do
    # shellcheck disable=SC2086
    refuses 1 "$text" "$vit" train "${small[@]}" $flags --out run
  done <<'END'
--patch 3|--patch 3 does not divide images of 8 x 8
--heads 3|--dim 16 is no multiple of --heads 3
--augment blur|"blur" is not known
--augment erasing:2|"erasing:2" is not valid; the number must be from 0 to 1
--augment crop,resized-crop|exclude each other
--labels 97|--labels 97 is not possible; there are 96 images
--mean 1,2|--mean 1,2 has 2 numbers, but images have 1 channels
--mean x|--mean x is not valid
--std 0|must be above 0
--batch 0|--batch 0 is not valid
--recompute never|--recompute never
--min-lr 1|--min-lr 1 is above --lr
END
  refuses 2 'POOL' "$vit" train "${small[@]}" --pool POOL
  # Damaged files are named.
  cp -r data cut && gzip cut/train-images-idx3-ubyte && truncate -s 1000 cut/train-images-idx3-ubyte.gz
  refuses 1 'train-images-idx3-ubyte.gz' "$vit" train "${small[@]}" --data cut
  cp -r data short && truncate -s 3000 short/train-images-idx3-ubyte
  refuses 1 'train-images-idx3-ubyte' "$vit" train "${small[@]}" --data short
  cp -r data odd && cp data/t10k-labels-idx1-ubyte odd/train-labels-idx1-ubyte
  refuses 1 'train-' "$vit" train "${small[@]}" --data odd
  # A disk that is full (a limit of 8 KiB a file stands for it): the checkpoint before is intact and the run goes on.
  "$vit" train "${small[@]}" --epochs 2 --out run --quiet
  (ulimit -f 8 && trap '' XFSZ && refuses 1 'checkpoint-12 is intact' "$vit" train --resume run --epochs 4 --quiet)
  [[ -d run/checkpoint-12 && $(ls -A run | grep -c tmp) == 0 ]] || fail "a failed save did harm: $(ls -A run)"
  # A checkpoint of another model, and other images than the run's.
  "$vit" train "${small[@]}" --dim 8 --epochs 1 --out other --quiet
  cp -r run mixed && cp other/checkpoint-6/model.safetensors mixed/checkpoint-12/
  refuses 1 'shape' "$vit" train --resume mixed --epochs 4
  refuses 1 'shape' "$vit" evaluate --from mixed
  cifar cifar
  refuses 1 'has other images than the run began with' "$vit" train --resume run --epochs 4 --data cifar
  refuses 1 'cifar has images of 32 x 32 x 3, but the model takes 8 x 8 x 1' "$vit" evaluate --from run --data cifar
  refuses 1 'shirt.png' "$vit" predict --from run shirt.png
  refuses 1 'there is no folder' "$vit" evaluate --from no-run
  "$vit" train --resume run --epochs 4 --quiet
  [[ -d run/checkpoint-24 ]] || fail "the run did not go on after the failure"
  ;;
*) fail "no case $case" ;;
esac

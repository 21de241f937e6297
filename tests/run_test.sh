#!/usr/bin/env bash
# The script `run` as its user types it, in a tree whose build is played by stubs: which program a command comes to, with which arguments.
#     run_test.sh SOURCE SCRATCH
set -euo pipefail
source=$1 work=$2
rm -rf "$work"
mkdir -p "$work/tree/build/release/bin" "$work/bin"
cp "$source/run" "$source/CMakePresets.json" "$work/tree/"
cd "$work/tree"

command -v dpkg >/dev/null || { echo "skipped: run asks dpkg what is installed"; exit 77; }
fail() { echo "FAILED: $*"; exit 1; }
for name in lm mae vit word2vec; do
  mkdir -p "examples/$name" && touch "examples/$name/$name.cpp"
done
mkdir -p examples/common examples/custom_op && touch examples/custom_op/{custom_op.cpp,CMakeLists.txt}
for name in lm gpt mae vit word2vec; do
  printf '#!/bin/sh\necho "%s: $*"\n' $name >build/release/bin/$name
  chmod +x build/release/bin/$name
done
# cmake configures and builds nothing, and says which targets it was asked for.
printf '#!/bin/sh\necho "$*" >>%q\n' "$work/cmake.txt" >"$work/bin/cmake"
chmod +x "$work/bin/cmake"
export PATH=$work/bin:$PATH

for name in lm gpt mae vit word2vec; do
  [[ $(./run sample $name --device cpu 2>err.txt) == "$name: sample --device cpu" ]] || fail "./run sample $name: $(cat err.txt)"
done
grep -q -- '--target lm$' "$work/cmake.txt" || fail "lm was not built: $(cat "$work/cmake.txt")"
! grep -q -- '--target gpt' "$work/cmake.txt" || fail "there is no target gpt: $(cat "$work/cmake.txt")"
[[ $(./run train --data text.txt --device cpu 2>err.txt) == "gpt: train --data text.txt --device cpu" ]] || fail "./run train: $(cat err.txt)"
for wrong in tower custom_op common; do
  status=0
  ./run train $wrong >out.txt 2>err.txt || status=$?
  [[ $status == 2 ]] && grep -q "there is no example \"$wrong\"" err.txt || fail "./run train $wrong: $status $(cat out.txt err.txt)"
done

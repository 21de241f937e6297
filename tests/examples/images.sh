# Small data for the tests of the trainers for images, and what those tests share. To be sourced in an empty folder.
golden=$(cd "$(dirname "${BASH_SOURCE[0]}")/../io/golden" && pwd)

fail() { echo "FAILED: $*"; exit 1; }
refuses() {  # STATUS TEXT COMMAND...: fails with this status and exactly one line that has the text
  local status=0 output
  output=$("${@:3}" 2>&1 >/dev/null) || status=$?
  [[ $status == "$1" ]] || fail "${*:3} exited with $status instead of $1: $output"
  [[ $output == *"$2"* && $(wc -l <<<"$output") == 1 ]] || fail "${*:3} said: $output; expected one line with: $2"
}

# IDX files of 8 x 8 pixels: each of three classes has a bright bar in another place, with noise.
idx() {  # FOLDER PREFIX COUNT SEED
  mkdir -p "$1"
  printf "$(awk -v n="$3" -v seed="$4" 'BEGIN { srand(seed); printf "\\x00\\x00\\x08\\x03\\x00\\x00\\x%02x\\x%02x\\x00\\x00\\x00\\x08\\x00\\x00\\x00\\x08", n / 256, n % 256
    for (i = 0; i < n; ++i) for (y = 0; y < 8; ++y) for (x = 0; x < 8; ++x) { c = i % 3
      bright = (c == 0 && y < 3) || (c == 1 && y > 4) || (c == 2 && y == 4)
      printf "\\x%02x", (bright ? 150 : 10) + int(rand() * 90) } }')" >"$1/$2-images-idx3-ubyte"
  printf "$(awk -v n="$3" 'BEGIN { printf "\\x00\\x00\\x08\\x01\\x00\\x00\\x%02x\\x%02x", n / 256, n % 256; for (i = 0; i < n; ++i) printf "\\x%02x", i % 3 }')" >"$1/$2-labels-idx1-ubyte"
}
images() {  # FOLDER
  idx "$1" train 96 1
  idx "$1" t10k 33 2
}
# CIFAR's binary format: a label and 32 x 32 pixels of three colours, four images a part.
cifar() {  # FOLDER
  local part i
  mkdir -p "$1"
  for part in data_batch_1 test_batch; do
    for i in 0 1 2 3; do printf "\\x0$i"; head -c 3072 /dev/zero | tr '\0' "$i"; done >"$1/$part.bin"
  done
}
# A folder of classes whose images, PNG and JPEG, have several sizes.
folders() {  # FOLDER
  local part
  for part in train val; do
    mkdir -p "$1/$part/grey" "$1/$part/red"
    cp "$golden"/gray.png "$golden"/gray.jpeg "$golden"/gray16.png "$1/$part/grey"
    cp "$golden"/rgb.png "$golden"/rgb.jpeg "$golden"/progressive.jpeg "$1/$part/red"
  done
}

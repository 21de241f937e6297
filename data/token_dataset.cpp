#include <retape/data/token_dataset.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace retape {
namespace {

const char* name_of(Split split) { return split == Split::train ? "training" : "validation"; }

void check_batch(int64_t batch) {
  if (batch < 1) throw Error(fmt::format("token_dataset: a batch of {} blocks is not possible; it must be at least 1", batch));
}

uint64_t bits_of(const Philox& random, int lane) { return uint64_t(random.x[lane]) << 32 | random.x[lane + 1]; }

// Where a random permutation of [0, n) puts i: a Feistel network over the next power of four, walked until it is inside [0, n)
// (Black & Rogaway 2002). Nothing is stored, however large n is.
uint64_t shuffled(uint64_t i, uint64_t n, uint64_t key) {
  const int half = std::max(1, (int(std::bit_width(n - 1)) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = i >> half, right = i & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t mixed = left ^ (Philox(key, right << 3 | round).x[0] & mask);
      left = right, right = mixed;
    }
    i = left << half | right;
  } while (i >= n);
  return i;
}

// Row b holds the tokens from starts[b] on.
template <class Start> TokenBatch make_batch(const int32_t* tokens, int64_t rows, int64_t columns, const Start& start) {
  TokenBatch out{empty({rows, columns}, {DType::i64}), empty({rows, columns}, {DType::i64})};
  int64_t* x = out.x.mutable_data<int64_t>();
  int64_t* y = out.y.mutable_data<int64_t>();
  for (int64_t b = 0; b < rows; ++b) {
    const int32_t* from = tokens + start(b);
    std::copy_n(from, columns, x + b * columns);
    std::copy_n(from + 1, columns, y + b * columns);
  }
  return out;
}

}  // namespace

TokenDataset::TokenDataset(const std::vector<int64_t>& tokens, const Options& options) : options_(options), state_{options.seed, 0} {
  if (options.block < 1) throw Error(fmt::format("token_dataset: block {} is not valid; it must be at least 1", options.block));
  if (!(options.val_fraction >= 0 && options.val_fraction < 1))
    throw Error(fmt::format("token_dataset: val_fraction {} is not valid; it must be at least 0 and below 1", options.val_fraction));
  const int64_t n = int64_t(tokens.size());
  train_ = int64_t(double(n) * (1 - options.val_fraction));
  for (const Split split : {Split::train, Split::val}) {
    const int64_t part = split == Split::train ? train_ : n - train_;
    if (part <= options.block && !(split == Split::val && options.val_fraction == 0))
      throw Error(fmt::format(
          "token_dataset: the {} part has {} of {} tokens, too few for one block and the token after it, {}; use a longer text or a smaller block",
          name_of(split), part, n, uint64_t(options.block) + 1));
  }
  tokens_.reserve(tokens.size());
  for (const int64_t token : tokens) {
    if (token < 0 || token > INT32_MAX)
      throw Error(fmt::format("token_dataset: token {} at {} is out of range; expected 0 <= token < 2^31", token, tokens_.size()));
    tokens_.push_back(int32_t(token));
  }
}

TokenBatch TokenDataset::sample(int64_t batch, Split split) {
  check_batch(batch);
  const int64_t room = size(split) - options_.block;  // a block can begin at 0 ... room - 1
  if (room < 1) throw Error(fmt::format("token_dataset: there is no {} part to sample from", name_of(split)));
  const uint64_t blocks = uint64_t(std::max<int64_t>(1, room / options_.block));
  const uint64_t phases = uint64_t(room) - (blocks - 1) * uint64_t(options_.block);
  const RandomState state = state_;
  state_.offset += uint64_t(batch);
  return make_batch(tokens_.data() + begin_of(split), batch, options_.block, [&](int64_t b) {
    const uint64_t i = state.offset + uint64_t(b), epoch = i / blocks;
    const Philox random(state.seed, epoch);
    const uint64_t phase = bits_of(random, 0) % phases;
    return int64_t(phase + shuffled(i % blocks, blocks, bits_of(random, 2)) * uint64_t(options_.block));
  });
}

int64_t TokenDataset::batches(int64_t batch, Split split) const {
  check_batch(batch);
  const int64_t targets = std::max<int64_t>(size(split) - 1, 0), blocks = targets / options_.block;
  return blocks / batch + (blocks % batch != 0) + (targets % options_.block != 0);
}
TokenBatch TokenDataset::batch(int64_t i, int64_t batch, Split split) const {
  const int64_t count = batches(batch, split);
  if (i < 0 || i >= count)
    throw Error(fmt::format("token_dataset: there is no batch {} of the {} part; expected 0 <= batch < {}", i, name_of(split), count));
  const int64_t targets = size(split) - 1, blocks = targets / options_.block, first = i * batch;
  const int32_t* from = tokens_.data() + begin_of(split);
  if (first >= blocks) return make_batch(from, 1, targets % options_.block, [&](int64_t) { return blocks * options_.block; });
  return make_batch(from, std::min(batch, blocks - first), options_.block, [&](int64_t b) { return (first + b) * options_.block; });
}

}  // namespace retape

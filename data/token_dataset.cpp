#include <retape/data/token_dataset.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/data/shuffle.h>

namespace retape {
namespace {

const char* name_of(Split split) { return split == Split::train ? "training" : "validation"; }

void check_batch(int64_t batch) {
  if (batch < 1) throw Error(fmt::format("token_dataset: a batch of {} blocks is not possible; it must be at least 1", batch));
}

uint64_t bits_of(const Philox& random, int lane) { return uint64_t(random.x[lane]) << 32 | random.x[lane + 1]; }

template <class T> void fill(const T* tokens, const std::vector<int64_t>& starts, int64_t columns, int64_t* x, int64_t* y) {
  for (const int64_t start : starts) {
    std::copy_n(tokens + start, columns, x);
    std::copy_n(tokens + start + 1, columns, y);
    x += columns, y += columns;
  }
}

}  // namespace

TokenDataset::Tokens TokenDataset::own(const std::vector<int64_t>& tokens) {
  struct Owner final : Object {
    std::vector<uint32_t> tokens;
    void destroy() noexcept override { delete this; }
  };
  const auto owner = Ref<Owner>::adopt(new Owner);
  owner->tokens.reserve(tokens.size());
  for (const int64_t token : tokens) {
    if (token < 0 || token > INT32_MAX)
      throw Error(fmt::format("token_dataset: token {} at {} is out of range; expected 0 <= token < 2^31", token, owner->tokens.size()));
    owner->tokens.push_back(uint32_t(token));
  }
  return {Ref<Object>::share(owner.get()), reinterpret_cast<const std::byte*>(owner->tokens.data()), 4, int64_t(tokens.size())};
}

TokenDataset::TokenDataset(const std::vector<int64_t>& tokens, const Options& options) : TokenDataset(own(tokens), options) {}
TokenDataset::TokenDataset(const TokenFile& file, const Options& options)
    : TokenDataset(Tokens{file.owner(), file.data(), file.bytes_per_token(), file.size()}, options) {}
TokenDataset::TokenDataset(Tokens tokens, const Options& options) : options_(options), tokens_(std::move(tokens)), state_{options.seed, 0} {
  if (options.block < 1) throw Error(fmt::format("token_dataset: block {} is not valid; it must be at least 1", options.block));
  if (!(options.val_fraction >= 0 && options.val_fraction < 1))
    throw Error(fmt::format("token_dataset: val_fraction {} is not valid; it must be at least 0 and below 1", options.val_fraction));
  const int64_t n = tokens_.count;
  train_ = int64_t(double(n) * (1 - options.val_fraction));
  for (const Split split : {Split::train, Split::val}) {
    const int64_t part = split == Split::train ? train_ : n - train_;
    if (part <= options.block && !(split == Split::val && options.val_fraction == 0))
      throw Error(fmt::format(
          "token_dataset: the {} part has {} of {} tokens, too few for one block and the token after it, {}; use a longer text or a smaller block",
          name_of(split), part, n, uint64_t(options.block) + 1));
  }
}

// Row b holds the tokens from starts[b] on.
TokenBatch TokenDataset::make_batch(const std::vector<int64_t>& starts, int64_t columns) const {
  const Shape shape{int64_t(starts.size()), columns};
  TokenBatch out{empty(shape, {DType::i64}), empty(shape, {DType::i64})};
  int64_t *x = out.x.mutable_data<int64_t>(), *y = out.y.mutable_data<int64_t>();
  if (tokens_.width == 2) fill(reinterpret_cast<const uint16_t*>(tokens_.data), starts, columns, x, y);
  else fill(reinterpret_cast<const uint32_t*>(tokens_.data), starts, columns, x, y);
  return out;
}

TokenBatch TokenDataset::sample(int64_t batch, Split split) {
  check_batch(batch);
  const int64_t room = size(split) - options_.block;  // a block can begin at 0 ... room - 1
  if (room < 1) throw Error(fmt::format("token_dataset: there is no {} part to sample from", name_of(split)));
  const uint64_t blocks = uint64_t(std::max<int64_t>(1, room / options_.block));
  const uint64_t phases = uint64_t(room) - (blocks - 1) * uint64_t(options_.block);
  const RandomState state = state_;
  state_.offset += uint64_t(batch);
  std::vector<int64_t> starts;
  for (int64_t b = 0; b < batch; ++b) {
    const uint64_t i = state.offset + uint64_t(b), epoch = i / blocks;
    const Philox random(state.seed, epoch);
    const uint64_t phase = bits_of(random, 0) % phases, block = shuffled(i % blocks, blocks, bits_of(random, 2));
    starts.push_back(begin_of(split) + int64_t(phase + block * uint64_t(options_.block)));
  }
  return make_batch(starts, options_.block);
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
  if (first >= blocks) return make_batch({begin_of(split) + blocks * options_.block}, targets % options_.block);
  std::vector<int64_t> starts;
  for (int64_t b = first; b < std::min(first + batch, blocks); ++b) starts.push_back(begin_of(split) + b * options_.block);
  return make_batch(starts, options_.block);
}

}  // namespace retape

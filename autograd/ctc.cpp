#include <retape/autograd/ctc.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include <retape/autograd/binary.h>
#include <retape/autograd/check.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape {
namespace {

struct CtcBackward {
  static constexpr auto name = "ctc_loss_backward";
  int64_t blank;
  bool zero_infinity;
  Tensor forward(const Tensor& dlosses, const Tensor& log_probs, const Tensor& targets, const Tensor& places, const Tensor& losses,
                 const Tensor& alpha) {
    const Tensor d = contiguous(dlosses), in = contiguous(log_probs);
    Tensor out = empty_like(in);
    RETAPE_DISPATCH(in.device(), ctc_backward(d, in, targets, places, losses, alpha, blank, zero_infinity, out));
    return out;
  }
  void backward(const Tensor&, Grads&) { throw Error("ctc_loss: second derivatives are not provided"); }
};
struct Ctc {  // of f32 and f64: losses (N), and log alpha (N, T, most) for backward
  static constexpr auto name = "ctc_loss";
  static constexpr auto precision = Precision::full;
  static constexpr int differentiable = 1;
  int64_t blank, most;
  bool zero_infinity;
  Saved log_probs = {}, targets = {}, places = {}, losses = {}, alpha = {};
  std::array<Tensor, 2> forward(const Tensor& x, const Tensor& labels, const Tensor& where) {
    const Tensor in = contiguous(x);
    Tensor all = empty({x.shape()[1]}, x.options()), rows = empty({x.shape()[1], x.shape()[0], most}, x.options());
    RETAPE_DISPATCH(x.device(), ctc(in, labels, where, blank, all, rows));
    log_probs = save(x), targets = save(labels), places = save(where), losses = save(all), alpha = save(rows);
    return {all, rows};
  }
  void backward(const Tensor& dlosses, Grads& dx) {
    dx.set(0, record(CtcBackward{blank, zero_infinity}, dlosses, *log_probs, *targets, *places, *losses, *alpha));
  }
};

void check_integers(const char* what, const Tensor& x) {
  if (!x) throw Error(fmt::format("ctc_loss: {} are an undefined tensor", what));
  if (x.dtype() != DType::i64 && x.dtype() != DType::i32)
    throw Error(fmt::format("ctc_loss: {} have dtype {}; they must be i64 or i32", what, name_of(x.dtype())));
}
// The lengths, each in [0, most]; on meta all are `most`.
std::vector<int64_t> read_lengths(const char* what, const Tensor& lengths, int64_t sequences, int64_t most) {
  check_integers(what, lengths);
  if (lengths.numel() != sequences || lengths.dim() > 1)
    throw Error(fmt::format("ctc_loss: {} have shape {}; there are {} sequences", what, lengths.shape().str(), sequences));
  if (lengths.device().is_meta()) return std::vector<int64_t>(size_t(sequences), most);
  auto all = lengths.to_vector<int64_t>();
  for (size_t i = 0; i < all.size(); ++i)
    if (all[i] < 0 || all[i] > most)
      throw Error(fmt::format("ctc_loss: {}: {} of sequence {} is out of range; expected 0 to {}", what, all[i], i, most));
  return all;
}

}  // namespace

Tensor ctc_loss(const Tensor& log_probs, const Tensor& targets, const Tensor& input_lengths, const Tensor& target_lengths,
                CTCLossOptions options) {
  if (autocasting())
    return under_autocast(
        Ctc::precision, [&](const Tensor& x) { return ctc_loss(x, targets, input_lengths, target_lengths, options); }, log_probs);
  if (!log_probs) throw Error("ctc_loss: log_probs are an undefined tensor");
  if (!is_floating(log_probs.dtype()))
    throw Error(fmt::format("ctc_loss: log_probs have dtype {}; they must be floating", name_of(log_probs.dtype())));
  check_integers("targets", targets);
  if (log_probs.dim() != 2 && log_probs.dim() != 3)
    throw Error(fmt::format("ctc_loss: log_probs have shape {}; they must be (T, N, C) or (T, C)", log_probs.shape().str()));
  if (options.reduction == Reduction::batchmean) throw Error("ctc_loss: reduction batchmean is not valid; it must be none, mean or sum");
  const bool batched = log_probs.dim() == 3;
  const Tensor wide = cast(log_probs, log_probs.dtype() == DType::f64 ? DType::f64 : DType::f32), x = batched ? wide : unsqueeze(wide, 1);
  const int64_t frames = x.shape()[0], sequences = x.shape()[1], classes = x.shape()[2];
  if (options.blank < 0 || options.blank >= classes)
    throw Error(fmt::format("ctc_loss: blank {} is out of range; expected 0 <= blank < {}", options.blank, classes));
  const bool rows = batched && targets.dim() == 2;
  if (rows ? targets.shape()[0] != sequences : targets.dim() != 1)
    throw Error(fmt::format("ctc_loss: targets of shape {} do not fit log_probs of shape {}; they must be {}", targets.shape().str(),
                            log_probs.shape().str(), batched ? fmt::format("({}, S), or all labels in one dim", sequences) : "(S)"));
  const auto steps = read_lengths("input_lengths", input_lengths, sequences, frames);
  const auto lengths = read_lengths("target_lengths", target_lengths, sequences,
                                    targets.device().is_meta() && !rows && sequences ? targets.numel() / sequences : targets.shape()[-1]);
  std::vector<int64_t> places;
  int64_t longest = 0, total = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    places.insert(places.end(), {rows ? int64_t(i) * targets.shape()[1] : total, lengths[i], steps[i]});
    total += lengths[i];
    longest = std::max(longest, lengths[i]);
  }
  if (!rows && !targets.device().is_meta() && total != targets.numel())
    throw Error(fmt::format("ctc_loss: there are {} targets, but target_lengths add up to {}", targets.numel(), total));
  const auto [raw, alpha] = record(Ctc{options.blank, 2 * longest + 1, options.zero_infinity}, x,
                                   contiguous(cast(to(targets, x.device()), DType::i64)), to(tensor(places, {sequences, 3}), x.device()));
  Tensor losses = options.zero_infinity ? where(eq(raw, INFINITY), 0, raw) : raw;
  if (options.reduction == Reduction::mean) {
    std::vector<double> divisors;
    for (const int64_t n : lengths) divisors.push_back(double(std::max<int64_t>(n, 1)));
    losses = mean(losses / to(cast(tensor(divisors), losses.dtype()), losses.device()));
  } else if (options.reduction == Reduction::sum) {
    losses = sum(losses);
  } else if (!batched) {
    losses = reshape(losses, {});
  }
  return cast(losses, log_probs.dtype());
}

}  // namespace retape

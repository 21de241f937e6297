#include <retape/nn/growing_tensor.h>

#include <fmt/format.h>

#include <algorithm>

#include <retape/autograd/check.h>
#include <retape/autograd/index.h>
#include <retape/autograd/rearrange.h>
#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>

namespace retape::nn {

GrowingTensor::GrowingTensor(const GrowingTensor& o) : dim_(o.dim_), begin_(o.begin_), buffer_(o.buffer_), all_(o.all_) {
  if (!buffer_) return;
  const NoGrad off;
  buffer_ = clone(buffer_);
  see(begin_, length());
}
void GrowingTensor::see(int64_t begin, int64_t length) {
  begin_ = begin;
  all_ = narrow(buffer_, dim_, begin, length);
}
void GrowingTensor::move_to(int64_t room) {
  const int64_t n = length();
  Shape shape = all_.shape();
  shape[dim_] = std::max(room, n);
  buffer_ = empty(shape, all_.options());
  if (n > 0) copy_into(all_, narrow(buffer_, dim_, 0, n));
  see(0, n);
}

GrowingTensor GrowingTensor::with(const Tensor& x, int64_t room) const {
  check_defined("GrowingTensor", x);
  if (dim_ < 0 || dim_ >= x.dim()) throw Error(fmt::format("GrowingTensor: {} has no dim {} to grow along", x.shape().str(), dim_));
  const int64_t before = length(), more = x.shape()[dim_], end = before + more;
  GrowingTensor next(dim_);
  if (ctx.recording || (!buffer_ && before == 0 && room == 0)) {
    next.all_ = before > 0 ? cat({all_, x}, dim_) : x;
    return next;
  }
  Shape fits = all_ ? all_.shape() : x.shape();
  fits[dim_] = more;
  if (!(x.shape() == fits) || (all_ && !(x.device() == all_.device())))
    throw Error(fmt::format("GrowingTensor: {} on {} does not go on from {} on {}; it must be {} there", x.shape().str(), x.device().str(),
                            all_.shape().str(), all_.device().str(), fits.str()));
  const NoGrad off;
  next.buffer_ = buffer_, next.all_ = all_, next.begin_ = begin_;
  const DType dtype = all_ ? promote(all_.dtype(), x.dtype()) : x.dtype();
  if (!buffer_ || buffer_.dtype() != dtype || begin_ + end > this->room()) {
    next.all_ = all_ ? cast(all_, dtype) : narrow(x, dim_, 0, 0);
    next.move_to(std::max(end, room > 0 ? room : std::max<int64_t>(16, 2 * end)));
  }
  copy_into(x, narrow(next.buffer_, dim_, next.begin_ + before, more));
  next.see(next.begin_, end);
  return next;
}

void GrowingTensor::keep(int64_t last, int64_t first) {
  const int64_t head = std::min(first, length()), excess = length() - head - last;
  if (excess <= 0) return;
  if (!buffer_) {
    const Tensor tail = narrow(all_, dim_, head + excess, last);
    all_ = head > 0 ? cat({narrow(all_, dim_, 0, head), tail}, dim_) : tail;
    return;
  }
  const NoGrad off;
  if (head > 0) {  // onto positions that are forgotten
    const Tensor from = narrow(all_, dim_, 0, head);
    copy_into(excess < head ? clone(from) : from, narrow(all_, dim_, excess, head));
  }
  see(begin_ + excess, head + last);
}
void GrowingTensor::clear() {
  if (buffer_) see(0, 0);
  else all_ = {};
}
void GrowingTensor::select(const Tensor& rows, int64_t room) {
  if (!all_) return;
  const NoGrad off;
  if (buffer_ && begin_ == 0 && this->room() == room) {  // rows are copied whole
    buffer_ = index_select(buffer_, 0, rows);
    see(0, length());
  } else {
    all_ = index_select(all_, 0, rows);
    move_to(room);
  }
}
void GrowingTensor::shrink(int64_t room) {
  if (this->room() <= std::max(room, length())) return;
  const NoGrad off;
  move_to(room);
}

}  // namespace retape::nn

// Going through the windows of images, or through the places of images and the windows around them. For CPU kernel files.
#pragma once
#include <retape/core/kernel.h>
#include <retape/core/windows.h>

namespace retape::RETAPE_LEVEL {
namespace {

constexpr int64_t block = 64;  // channels

// What make(d, i) gives for every place of every dim, made once: it takes divisions.
template <class V> class PerPlace {
 public:
  template <class Make>
  RETAPE_INLINE PerPlace(const int64_t (&size)[3], const Make& make)
      : all_(size[0] + size[1] + size[2]), start_{0, size[0], size[0] + size[1]} {
    for (int d = 0; d < 3; ++d)
      for (int64_t i = 0; i < size[d]; ++i) all_[start_[d] + i] = make(d, i);
  }
  RETAPE_INLINE const V& at(int d, int64_t i) const { return all_[start_[d] + i]; }

 private:
  Scratch<V> all_;
  int64_t start_[3];
};

// Calls f(n, place, row) for all places of images whose dims of space have these sizes; row counts all of them.
template <class F> RETAPE_INLINE void for_places(int64_t batch, const int64_t (&size)[3], int64_t work, const F& f) {
  const int64_t places = size[0] * size[1] * size[2];
  parallel_for(batch * places, row_grain(work), [&](int64_t begin, int64_t end) {
    int64_t n = begin / places, p[3] = {begin / (size[1] * size[2]) % size[0], begin / size[2] % size[1], begin % size[2]};
    for (int64_t r = begin; r < end; ++r) {
      f(n, p, r);
      if (++p[2] < size[2]) continue;
      p[2] = 0;
      if (++p[1] < size[1]) continue;
      p[1] = 0;
      if (++p[0] < size[0]) continue;
      p[0] = 0, ++n;
    }
  });
}

// The windows of an image, looked at from a window and from a place.
class Windows {
 public:
  RETAPE_INLINE explicit Windows(const WindowArgs& window)
      : w(window),
        inside_(w.out,
                [&](int d, int64_t o) {
                  return Inside{elements_inside(w, d, o), place(w, d, o, 0)};
                }),
        around_(w.in, [&](int d, int64_t i) { return windows_around(w, d, i); }),
        size_{window_size(w, 0), window_size(w, 1), window_size(w, 2)},
        step_{step_of(w, 0), step_of(w, 1), step_of(w, 2)} {}
  // Calls f(place, element) for every element of window o that is inside the image.
  template <class F> RETAPE_INLINE void elements(const int64_t (&o)[3], const F& f) const {
    const Inside &a = inside_.at(0, o[0]), &b = inside_.at(1, o[1]), &c = inside_.at(2, o[2]);
    for (int64_t i = a.element.begin; i < a.element.end; ++i)
      for (int64_t j = b.element.begin; j < b.element.end; ++j)
        for (int64_t k = c.element.begin; k < c.element.end; ++k)
          f(((a.first + i * step_[0]) * w.in[1] + b.first + j * step_[1]) * w.in[2] + c.first + k * step_[2],
            (i * size_[1] + j) * size_[2] + k);
  }
  // Calls f(window, o, element) for every window that place p is in, as that element.
  template <class F> RETAPE_INLINE void around(const int64_t (&p)[3], const F& f) const {
    const Range a = around_.at(0, p[0]), b = around_.at(1, p[1]), c = around_.at(2, p[2]);
    int64_t o[3], e[3];
    for (o[0] = a.begin; o[0] < a.end; ++o[0]) {
      if (!element(0, o[0], p[0], e[0])) continue;
      for (o[1] = b.begin; o[1] < b.end; ++o[1]) {
        if (!element(1, o[1], p[1], e[1])) continue;
        for (o[2] = c.begin; o[2] < c.end; ++o[2])
          if (element(2, o[2], p[2], e[2])) f((o[0] * w.out[1] + o[1]) * w.out[2] + o[2], o, (e[0] * size_[1] + e[1]) * size_[2] + e[2]);
      }
    }
  }

 private:
  struct Inside {
    Range element;
    int64_t first;  // the place of element 0
  };
  RETAPE_INLINE bool element(int d, int64_t o, int64_t p, int64_t& e) const {
    const int64_t distance = p - inside_.at(d, o).first;
    e = step_[d] == 1 ? distance : distance / step_[d];
    return e * step_[d] == distance;
  }
  const WindowArgs& w;
  PerPlace<Inside> inside_;
  PerPlace<Range> around_;
  int64_t size_[3], step_[3];
};

// Calls f(first channel, how many) for blocks of channels; the number is a constant of the type for whole ones.
struct WholeBlock {
  RETAPE_INLINE constexpr operator int64_t() const { return block; }
};
template <class F> RETAPE_INLINE void for_blocks(int64_t channels, const F& f) {
  int64_t from = 0;
  for (; from + block <= channels; from += block) f(from, WholeBlock{});
  if (from < channels) f(from, channels - from);
}

}  // namespace
}  // namespace retape::RETAPE_LEVEL

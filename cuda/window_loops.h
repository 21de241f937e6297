// Going through the windows of images, or through the windows around a place. For kernel files, after cuda/launch.h.
#pragma once
#include <retape/core/windows.h>
#include <retape/cuda/places.h>

namespace retape::cuda {

// Calls f(place, element) for every element of window o that is inside the image.
template <class F> __device__ __forceinline__ void for_elements(const WindowArgs& w, const int64_t (&o)[3], const F& f) {
  const Range a = elements_inside(w, 0, o[0]), b = elements_inside(w, 1, o[1]), c = elements_inside(w, 2, o[2]);
  for (int64_t i = a.begin; i < a.end; ++i)
    for (int64_t j = b.begin; j < b.end; ++j)
      for (int64_t k = c.begin; k < c.end; ++k)
        f((place(w, 0, o[0], i) * w.in[1] + place(w, 1, o[1], j)) * w.in[2] + place(w, 2, o[2], k), number_of(w, i, j, k));
}
// Which element of window o place p is, if it is one.
__device__ __forceinline__ int64_t element_of(const WindowArgs& w, const int64_t (&o)[3], const int64_t (&p)[3]) {
  int64_t e[3];
  for (int d = 0; d < 3; ++d) e[d] = (p[d] - place(w, d, o[d], 0)) / step_of(w, d);
  return number_of(w, e[0], e[1], e[2]);
}
// Calls f(o) for every window that place p is in.
template <class F> __device__ __forceinline__ void for_windows_around(const WindowArgs& w, const int64_t (&p)[3], const F& f) {
  const Range a = windows_around(w, 0, p[0]), b = windows_around(w, 1, p[1]), c = windows_around(w, 2, p[2]);
  for (int64_t i = a.begin; i < a.end; ++i)
    for (int64_t j = b.begin; j < b.end; ++j)
      for (int64_t k = c.begin; k < c.end; ++k) {
        const int64_t o[3] = {i, j, k};
        if (has_place(w, 0, i, p[0]) && has_place(w, 1, j, p[1]) && has_place(w, 2, k, p[2])) f(o);
      }
}

}  // namespace retape::cuda

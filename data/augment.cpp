// The functions without chance: moving pixels, colours, conversion.
#include <retape/data/augment.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include <retape/core/error.h>

namespace retape::transforms {
namespace {

// An image is contiguous planes (channels, height, width).
struct Size {
  int64_t channels, height, width;
  int64_t plane() const { return height * width; }
};

std::string shown(const Tensor& image) {
  return image ? fmt::format("{} {}", name_of(image.dtype()), image.shape().str()) : "an undefined tensor";
}
Size check_image(const char* op, const Tensor& image, bool float_too) {
  if (!image || image.dim() != 3 || image.numel() == 0 || !image.device().is_cpu() ||
      !(image.dtype() == DType::u8 || (float_too && image.dtype() == DType::f32)))
    throw Error(fmt::format("{}: {} is no image; expected u8{} (channels, height, width) on the CPU, not empty", op, shown(image),
                            float_too ? " or f32" : ""));
  if (!image.is_contiguous()) throw Error(fmt::format("{}: the image is not contiguous; contiguous() makes it so", op));
  return {image.size(0), image.size(1), image.size(2)};
}
Size check_color(const char* op, const Tensor& image) {
  const Size s = check_image(op, image, false);
  if (s.channels != 1 && s.channels != 3)
    throw Error(fmt::format("{}: {} has {} channels; expected 1, gray, or 3, RGB", op, shown(image), s.channels));
  return s;
}
void check_factor(const char* op, double factor) {
  if (!(factor >= 0 && std::isfinite(factor))) throw Error(fmt::format("{}: factor {} is not valid; it must be at least 0", op, factor));
}
Tensor image_like(const Tensor& image, int64_t height, int64_t width) { return empty({image.size(0), height, width}, {image.dtype()}); }

// Calls f(in, out) with typed pointers.
template <class F> void with_type(const Tensor& in, const Tensor& out, const F& f) {
  if (in.dtype() == DType::u8) f(in.data<uint8_t>(), out.mutable_data<uint8_t>());
  else f(in.data<float>(), out.mutable_data<float>());
}
// The nearest value of T.
template <class T> T stored(float x) {
  if constexpr (std::is_same_v<T, float>) return x;
  else return T(std::clamp(x, 0.f, 255.f) + 0.5f);
}
template <class T> T fill_value(const char* op, double fill) {
  if constexpr (std::is_same_v<T, uint8_t>)
    if (!(fill >= 0 && fill <= 255)) throw Error(fmt::format("{}: fill {} does not fit u8; expected 0 to 255", op, fill));
  return T(fill);
}

// ---- resize ---------------------------------------------------------------------------------------------------------

// Output element i is the sum of weight[i taps + t] times input element begin[i] + t.
struct Filter {
  int taps = 0;
  std::vector<int64_t> begin;
  std::vector<float> weight;
};

double kernel(InterpolationMode interpolation, double x) {
  x = std::abs(x);
  if (interpolation == InterpolationMode::bilinear) return std::max(0., 1 - x);
  constexpr double a = -0.5;  // as in Pillow
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

Filter make_filter(int64_t in, int64_t out, InterpolationMode interpolation) {
  Filter f;
  const double scale = double(in) / double(out);
  if (interpolation == InterpolationMode::nearest) {
    f.taps = 1;
    f.weight.assign(size_t(out), 1.f);
    for (int64_t i = 0; i < out; ++i) f.begin.push_back(std::min(int64_t(float(i) * float(scale)), in - 1));
    return f;
  }
  const double stretch = std::max(scale, 1.), support = (interpolation == InterpolationMode::bilinear ? 1 : 2) * stretch;
  f.taps = int(std::min<int64_t>(2 * int64_t(std::ceil(support)) + 1, in));
  f.weight.assign(size_t(out) * size_t(f.taps), 0.f);
  std::vector<double> w(static_cast<size_t>(f.taps));
  for (int64_t i = 0; i < out; ++i) {
    const double center = scale * (double(i) + 0.5);
    const int64_t begin = std::max<int64_t>(int64_t(center - support + 0.5), 0);
    const int64_t count = std::min(std::min<int64_t>(int64_t(center + support + 0.5), in) - begin, int64_t(f.taps));
    double total = 0;
    for (int64_t t = 0; t < count; ++t) total += w[size_t(t)] = kernel(interpolation, (double(begin + t) - center + 0.5) / stretch);
    // Places inside the input for all taps; those that the kernel does not reach have weight 0.
    const int64_t place = std::min(begin, in - f.taps);
    for (int64_t t = 0; t < count; ++t) f.weight[size_t(i * f.taps + begin - place + t)] = total != 0 ? float(w[size_t(t)] / total) : 0;
    f.begin.push_back(place);
  }
  return f;
}

// out (places, width) = filter over the rows of in (rows, width), rounded to what T holds. Rows are added as a whole, which vectorises.
template <class T> void filter_rows(const float* in, const Filter& f, int64_t width, float* out) {
  for (size_t i = 0; i < f.begin.size(); ++i, out += width) {
    std::fill_n(out, width, 0.f);
    for (int t = 0; t < f.taps; ++t) {
      const float w = f.weight[i * size_t(f.taps) + size_t(t)];
      const float* from = in + (f.begin[i] + t) * width;
      if (w == 0) continue;
      for (int64_t x = 0; x < width; ++x) out[x] += w * from[x];
    }
    for (int64_t x = 0; x < width; ++x) out[x] = float(stored<T>(out[x]));
  }
}
template <class From, class To> void transpose_plane(const From* in, int64_t rows, int64_t columns, To* out) {
  for (int64_t x = 0; x < columns; ++x)
    for (int64_t y = 0; y < rows; ++y) out[x * rows + y] = To(in[y * columns + x]);
}

}  // namespace

Tensor resize(const Tensor& image, int64_t height, int64_t width, InterpolationMode interpolation) {
  const Size s = check_image("resize", image, true);
  if (height < 1 || width < 1) throw Error(fmt::format("resize: {} x {} is no size; each side must be at least 1", height, width));
  const Tensor out = image_like(image, height, width);
  const Filter rows = make_filter(s.height, height, interpolation), columns = make_filter(s.width, width, interpolation);
  // A row is filtered as a column: turned, filtered, turned back.
  std::vector<float> turned(size_t(s.plane())), narrow(size_t(width * s.height)), between(size_t(width * s.height)),
      last(size_t(width * height));
  with_type(image, out, [&](const auto* from, auto* to) {
    using T = std::remove_reference_t<decltype(*to)>;
    for (int64_t c = 0; c < s.channels; ++c) {
      transpose_plane(from + c * s.plane(), s.height, s.width, turned.data());
      filter_rows<T>(turned.data(), columns, s.height, narrow.data());
      transpose_plane(narrow.data(), width, s.height, between.data());
      filter_rows<T>(between.data(), rows, width, last.data());
      std::transform(last.begin(), last.end(), to + c * height * width, [](float x) { return T(x); });
    }
  });
  return out;
}
Tensor resize(const Tensor& image, int64_t size, InterpolationMode interpolation) {
  const Size s = check_image("resize", image, true);
  if (size < 1) throw Error(fmt::format("resize: {} is no size; it must be at least 1", size));
  const auto longer = [&](int64_t longer, int64_t shorter) { return int64_t(double(size) * double(longer) / double(shorter)); };
  if (s.height <= s.width) return resize(image, size, longer(s.width, s.height), interpolation);
  return resize(image, longer(s.height, s.width), size, interpolation);
}

// ---- moving pixels --------------------------------------------------------------------------------------------------

Tensor pad(const Tensor& image, int64_t left, int64_t top, int64_t right, int64_t bottom, double fill) {
  const Size s = check_image("pad", image, true);
  for (const int64_t n : {left, top, right, bottom})
    if (n < 0) throw Error(fmt::format("pad: padding {} is not valid; it must be at least 0", n));
  const int64_t height = top + s.height + bottom, width = left + s.width + right;
  const Tensor out = image_like(image, height, width);
  with_type(image, out, [&](const auto* from, auto* to) {
    using T = std::remove_reference_t<decltype(*to)>;
    std::fill_n(to, out.numel(), fill_value<T>("pad", fill));
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t y = 0; y < s.height; ++y)
        std::copy_n(from + (c * s.height + y) * s.width, s.width, to + (c * height + top + y) * width + left);
  });
  return out;
}

Tensor crop(const Tensor& image, int64_t top, int64_t left, int64_t height, int64_t width) {
  const Size s = check_image("crop", image, true);
  if (top < 0 || left < 0 || height < 1 || width < 1 || height > s.height - top || width > s.width - left)
    throw Error(
        fmt::format("crop: {} x {} pixels at ({}, {}) do not lie in an image of {} x {}", height, width, top, left, s.height, s.width));
  const Tensor out = image_like(image, height, width);
  with_type(image, out, [&](const auto* from, auto* to) {
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t y = 0; y < height; ++y)
        std::copy_n(from + (c * s.height + top + y) * s.width + left, width, to + (c * height + y) * width);
  });
  return out;
}

Tensor center_crop(const Tensor& image, int64_t height, int64_t width) {
  const Size s = check_image("center_crop", image, true);
  if (height > s.height || width > s.width) {
    const int64_t rows = std::max<int64_t>(height - s.height, 0), columns = std::max<int64_t>(width - s.width, 0);
    return center_crop(pad(image, columns / 2, rows / 2, (columns + 1) / 2, (rows + 1) / 2), height, width);
  }
  return crop(image, std::lrint(double(s.height - height) / 2), std::lrint(double(s.width - width) / 2), height, width);
}

Tensor horizontal_flip(const Tensor& image) {
  const Size s = check_image("horizontal_flip", image, true);
  const Tensor out = image_like(image, s.height, s.width);
  with_type(image, out, [&](const auto* from, auto* to) {
    for (int64_t row = 0; row < s.channels * s.height; ++row)
      std::reverse_copy(from + row * s.width, from + (row + 1) * s.width, to + row * s.width);
  });
  return out;
}

Tensor affine(const Tensor& image, const AffineOptions& o) {
  const Size s = check_image("affine", image, false);
  if (!(o.scale > 0)) throw Error(fmt::format("affine: scale {} is not valid; it must be above 0", o.scale));
  if (o.interpolation == InterpolationMode::bicubic) throw Error("affine: bicubic interpolation is not supported; use nearest or bilinear");
  const auto fill = fill_value<uint8_t>("affine", o.fill);
  constexpr double degree = std::numbers::pi / 180;
  const double angle = o.angle * degree, shear_x = o.shear_x * degree, shear_y = o.shear_y * degree;
  // out = T C R S(shear) scale C^-1 in; what is needed here is where an output pixel comes from.
  const double a = std::cos(angle - shear_y) / std::cos(shear_y), c = std::sin(angle - shear_y) / std::cos(shear_y);
  const double b = -a * std::tan(shear_x) - std::sin(angle), d = -c * std::tan(shear_x) + std::cos(angle);
  double m[6] = {d / o.scale, -b / o.scale, 0, -c / o.scale, a / o.scale, 0};
  const double center_x = o.about_corner ? -0.5 * double(s.width) : 0, center_y = o.about_corner ? -0.5 * double(s.height) : 0;
  for (int row = 0; row < 2; ++row) {
    double* r = m + 3 * row;
    r[2] = r[0] * (-center_x - o.translate_x) + r[1] * (-center_y - o.translate_y) + (row == 0 ? center_x : center_y);
  }

  // Floats, in PyTorch's order, so that a place halfway between two pixels goes to the same one.
  const auto half_width = float(0.5 * double(s.width)), half_height = float(0.5 * double(s.height));
  float t[6];
  for (int i = 0; i < 6; ++i) t[i] = float(m[i]) / (i < 3 ? half_width : half_height);
  const Tensor out = image_like(image, s.height, s.width);
  const uint8_t* from = image.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  const int64_t plane = s.plane();
  const auto inside = [&](int64_t y, int64_t x) { return y >= 0 && y < s.height && x >= 0 && x < s.width; };
  for (int64_t y = 0; y < s.height; ++y)
    for (int64_t x = 0; x < s.width; ++x) {
      const float base_x = float(x) - half_width + 0.5f, base_y = float(y) - half_height + 0.5f;
      const float grid_x = base_x * t[0] + base_y * t[1] + t[2], grid_y = base_x * t[3] + base_y * t[4] + t[5];
      // Far outside is as good as further outside, and fits an integer.
      const float from_x = std::clamp(((grid_x + 1) * float(s.width) - 1) / 2, -2.f, float(s.width) + 1);
      const float from_y = std::clamp(((grid_y + 1) * float(s.height) - 1) / 2, -2.f, float(s.height) + 1);
      uint8_t* const pixel = to + y * s.width + x;
      if (o.interpolation == InterpolationMode::nearest) {
        const int64_t nx = std::lrintf(from_x), ny = std::lrintf(from_y);
        const bool is_inside = inside(ny, nx);
        for (int64_t ch = 0; ch < s.channels; ++ch) pixel[ch * plane] = is_inside ? from[ch * plane + ny * s.width + nx] : fill;
        continue;
      }
      const float floor_x = std::floor(from_x), floor_y = std::floor(from_y), wx = from_x - floor_x, wy = from_y - floor_y;
      const auto x0 = int64_t(floor_x), y0 = int64_t(floor_y);
      const float weights[4] = {(1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy};
      for (int64_t ch = 0; ch < s.channels; ++ch) {
        float value = 0;
        for (int k = 0; k < 4; ++k) {
          const int64_t xk = x0 + k % 2, yk = y0 + k / 2;
          value += weights[k] * float(inside(yk, xk) ? from[ch * plane + yk * s.width + xk] : fill);
        }
        pixel[ch * plane] = uint8_t(std::lrintf(value));
      }
    }
  return out;
}

// ---- colours --------------------------------------------------------------------------------------------------------

namespace {

// The gray of a pixel, as torchvision rounds it: down.
uint8_t gray_of(float r, float g, float b) { return uint8_t(0.2989f * r + 0.587f * g + 0.114f * b); }

// u8 as torchvision's _blend: cut to the range, then rounded down.
uint8_t blend(float x, float other, double factor) {
  return uint8_t(std::clamp(float(factor) * x + float(1 - factor) * other, 0.f, 255.f));
}

// Replaces each sample by table[channel][sample].
Tensor look_up(const Tensor& image, const Size& s, const std::vector<std::array<uint8_t, 256>>& tables) {
  const Tensor out = image_like(image, s.height, s.width);
  const uint8_t* from = image.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  for (int64_t c = 0; c < s.channels; ++c) {
    const auto& table = tables[tables.size() == 1 ? 0 : size_t(c)];
    for (int64_t i = c * s.plane(); i < (c + 1) * s.plane(); ++i) to[i] = table[from[i]];
  }
  return out;
}
template <class F> Tensor each_sample(const Tensor& image, const Size& s, const F& f) {
  std::vector<std::array<uint8_t, 256>> table(1);
  for (int v = 0; v < 256; ++v) table[0][size_t(v)] = f(v);
  return look_up(image, s, table);
}

}  // namespace

Tensor adjust_brightness(const Tensor& image, double factor) {
  check_factor("adjust_brightness", factor);
  return each_sample(image, check_color("adjust_brightness", image), [&](int v) { return blend(float(v), 0, factor); });
}

Tensor adjust_contrast(const Tensor& image, double factor) {
  check_factor("adjust_contrast", factor);
  const Size s = check_color("adjust_contrast", image);
  const uint8_t* p = image.data<uint8_t>();
  const int64_t n = s.plane();
  int64_t sum = 0;
  if (s.channels == 1)
    for (int64_t i = 0; i < n; ++i) sum += p[i];
  else
    for (int64_t i = 0; i < n; ++i) sum += gray_of(p[i], p[n + i], p[2 * n + i]);
  const auto mean = float(double(sum) / double(n));
  return each_sample(image, s, [&](int v) { return blend(float(v), mean, factor); });
}

Tensor adjust_saturation(const Tensor& image, double factor) {
  check_factor("adjust_saturation", factor);
  const Size s = check_color("adjust_saturation", image);
  const Tensor out = image_like(image, s.height, s.width);
  const uint8_t* p = image.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  const int64_t n = s.plane();
  if (s.channels == 1) std::copy_n(p, n, to);
  else
    for (int64_t i = 0; i < n; ++i) {
      const uint8_t gray = gray_of(p[i], p[n + i], p[2 * n + i]);
      for (int64_t c = 0; c < 3; ++c) to[c * n + i] = blend(p[c * n + i], gray, factor);
    }
  return out;
}

Tensor adjust_sharpness(const Tensor& image, double factor) {
  check_factor("adjust_sharpness", factor);
  const Size s = check_color("adjust_sharpness", image);
  // The border is blended with itself, but an image of no more than a border stays.
  const bool stays = s.height <= 2 || s.width <= 2;
  const Tensor out = each_sample(image, s, [&](int v) { return stays ? uint8_t(v) : blend(float(v), float(v), factor); });
  const uint8_t* from = image.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  const int64_t w = s.width;
  for (int64_t c = 0; c < s.channels; ++c)
    for (int64_t y = 1; y < s.height - 1; ++y) {
      const uint8_t* p = from + (c * s.height + y) * w;
      uint8_t* q = to + (c * s.height + y) * w;
      for (int64_t x = 1; x < w - 1; ++x) {
        int sum = 4 * p[x];
        for (int64_t dy = -w; dy <= w; dy += w) sum += p[x + dy - 1] + p[x + dy] + p[x + dy + 1];
        q[x] = blend(p[x], std::nearbyintf(float(sum) / 13), factor);
      }
    }
  return out;
}

Tensor adjust_hue(const Tensor& image, double factor) {
  const Size s = check_color("adjust_hue", image);
  if (!(factor >= -0.5 && factor <= 0.5)) throw Error(fmt::format("adjust_hue: factor {} is not valid; expected -0.5 to 0.5", factor));
  const Tensor out = image_like(image, s.height, s.width);
  const uint8_t* p = image.data<uint8_t>();
  uint8_t* to = out.mutable_data<uint8_t>();
  const int64_t n = s.plane();
  if (s.channels == 1) {
    std::copy_n(p, n, to);
    return out;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float r = p[i] / 255.f, g = p[n + i] / 255.f, b = p[2 * n + i] / 255.f;
    const float most = std::max({r, g, b}), least = std::min({r, g, b}), chroma = most - least;
    const float saturation = chroma / (chroma == 0 ? 1 : most), divisor = chroma == 0 ? 1 : chroma;
    const float from_r = (most - r) / divisor, from_g = (most - g) / divisor, from_b = (most - b) / divisor;
    const float sector = most == r ? from_b - from_g : most == g ? 2 + from_r - from_b : 4 + from_g - from_r;
    const float turn = sector / 6 + 1;
    float hue = turn - float(int(turn)) + float(factor);
    hue += hue < 0 ? 1.f : hue >= 1 ? -1.f : 0.f;
    const float place = hue * 6, whole = float(int(place)), f = place - whole;
    const auto unit = [](float v) { return std::clamp(v, 0.f, 1.f); };
    const float v = most, low = unit(v * (1 - saturation)), falling = unit(v * (1 - saturation * f)),
                rising = unit(v * (1 - saturation * (1 - f)));
    const float rgb[6][3] = {{v, rising, low}, {falling, v, low}, {low, v, rising}, {low, falling, v}, {rising, low, v}, {v, low, falling}};
    const float* turned = rgb[int(whole) % 6];
    for (int64_t c = 0; c < 3; ++c) to[c * n + i] = uint8_t(turned[c] * 255.999f);
  }
  return out;
}

Tensor posterize(const Tensor& image, int bits) {
  const Size s = check_color("posterize", image);
  if (bits < 0 || bits > 8) throw Error(fmt::format("posterize: {} bits are not possible; expected 0 to 8", bits));
  return each_sample(image, s, [&](int v) { return uint8_t(v & (0xff00 >> bits)); });
}
Tensor solarize(const Tensor& image, double threshold) {
  return each_sample(image, check_color("solarize", image), [&](int v) { return uint8_t(v >= threshold ? 255 - v : v); });
}

Tensor autocontrast(const Tensor& image) {
  const Size s = check_color("autocontrast", image);
  std::vector<std::array<uint8_t, 256>> tables(static_cast<size_t>(s.channels));
  for (int64_t c = 0; c < s.channels; ++c) {
    const uint8_t* p = image.data<uint8_t>() + c * s.plane();
    const auto [least, most] = std::minmax_element(p, p + s.plane());
    const float low = *least == *most ? 0 : *least, scale = *least == *most ? 1 : 255.f / float(*most - *least);
    for (int v = 0; v < 256; ++v) tables[size_t(c)][size_t(v)] = uint8_t(std::clamp((float(v) - low) * scale, 0.f, 255.f));
  }
  return look_up(image, s, tables);
}

Tensor equalize(const Tensor& image) {
  const Size s = check_color("equalize", image);
  std::vector<std::array<uint8_t, 256>> tables(static_cast<size_t>(s.channels));
  for (int64_t c = 0; c < s.channels; ++c) {
    const uint8_t* p = image.data<uint8_t>() + c * s.plane();
    int64_t count[256] = {}, last = 0, before = 0;
    for (int64_t i = 0; i < s.plane(); ++i) ++count[p[i]];
    for (const int64_t n : count)
      if (n) last = n;
    const int64_t step = (s.plane() - last) / 255;
    for (size_t v = 0; v < 256; ++v) {
      tables[size_t(c)][v] = step == 0 ? uint8_t(v) : uint8_t(std::min<int64_t>((before + step / 2) / step, 255));
      before += count[v];
    }
  }
  return look_up(image, s, tables);
}

// ---- numbers --------------------------------------------------------------------------------------------------------

Tensor to_float(const Tensor& image) {
  check_image("to_float", image, true);
  const Tensor out = empty(image.shape());
  float* to = out.mutable_data<float>();
  if (image.dtype() == DType::f32) std::copy_n(image.data<float>(), image.numel(), to);
  else std::transform(image.data<uint8_t>(), image.data<uint8_t>() + image.numel(), to, [](uint8_t v) { return float(v) / 255.f; });
  return out;
}

Tensor normalize(const Tensor& image, const std::vector<double>& mean, const std::vector<double>& std) {
  const Size s = check_image("normalize", image, true);
  if (image.dtype() != DType::f32)
    throw Error(fmt::format("normalize: the image is {}; expected f32, which to_float() makes", shown(image)));
  if (int64_t(mean.size()) != s.channels || int64_t(std.size()) != s.channels)
    throw Error(fmt::format("normalize: {} means and {} stds do not fit {} channels; expected one of each a channel", mean.size(),
                            std.size(), s.channels));
  const Tensor out = image_like(image, s.height, s.width);
  const float* from = image.data<float>();
  float* to = out.mutable_data<float>();
  for (int64_t c = 0; c < s.channels; ++c) {
    const auto m = float(mean[size_t(c)]), d = float(std[size_t(c)]);
    if (d == 0) throw Error(fmt::format("normalize: std {} of channel {} is not valid; it must not be 0", d, c));
    for (int64_t i = c * s.plane(); i < (c + 1) * s.plane(); ++i) to[i] = (from[i] - m) / d;
  }
  return out;
}

}  // namespace retape::transforms

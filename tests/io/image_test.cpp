// IDX, CIFAR, PNG and JPEG files. The ones in golden/ are written by make_images.py; what they hold stands there.

#include <zlib.h>

#include <array>

#include <retape/io/cifar.h>
#include <retape/io/file.h>
#include <retape/io/idx.h>
#include <retape/io/image.h>

#include "../catch.h"
#include "../temporary.h"

using namespace retape;
using namespace retape::testing;

namespace {

const std::filesystem::path golden = RETAPE_GOLDEN;

std::string gzipped(const std::string& text) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&z, uLong(text.size())), '\0');
  z.next_in = reinterpret_cast<unsigned char*>(const_cast<char*>(text.data()));
  z.avail_in = unsigned(text.size());
  z.next_out = reinterpret_cast<unsigned char*>(out.data());
  z.avail_out = unsigned(out.size());
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}
std::string idx(std::string_view sizes_and_data, char type = '\x08', char dims = 1) {
  return std::string("\0\0", 2) + type + dims + std::string(sizes_and_data);
}
std::string bytes(std::initializer_list<int> values) {
  std::string out;
  for (const int v : values) out += char(v);
  return out;
}

// The images in golden/: what make_images.py calls sample().
constexpr int64_t width = 6, height = 5;
int sample(int64_t c, int64_t y, int64_t x) { return int(c * 80 + y * 40 + x * 13) % 256; }
template <class F> Tensor image_of(int64_t channels, const F& f, int64_t h = height, int64_t w = width) {
  const Tensor out = empty({channels, h, w}, {DType::u8});
  uint8_t* p = out.mutable_data<uint8_t>();
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t y = 0; y < h; ++y)
      for (int64_t x = 0; x < w; ++x) *p++ = uint8_t(f(c, y, x));
  return out;
}
Tensor samples(int64_t channels) { return image_of(channels, sample); }
int luma(int r, int g, int b) { return int(0.299 * r + 0.587 * g + 0.114 * b + 0.5); }
int largest_difference(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<int64_t>(), y = b.to_vector<int64_t>();
  REQUIRE(a.shape() == b.shape());
  int64_t largest = 0;
  for (size_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::abs(x[i] - y[i]));
  return int(largest);
}

}  // namespace

TEST_CASE("IDX files of every type are read, plain and compressed", "[io][image]") {
  const auto counts = [](double first, DType dtype) { return arange(first, first + 6, 1, {dtype}); };
  struct Row {
    const char* name;
    DType dtype;
  };
  for (const auto& [name, dtype] : std::vector<Row>{{"u8", DType::u8},
                                                    {"gzip", DType::u8},
                                                    {"i8", DType::i32},
                                                    {"i16", DType::i32},
                                                    {"i32", DType::i32},
                                                    {"f32", DType::f32},
                                                    {"f64", DType::f64}}) {
    INFO(name);
    CHECK(same_bits(read_idx(golden / (std::string(name) + ".idx")), reshape(counts(dtype == DType::u8 ? 0 : -2, dtype), {2, 3})));
  }
  CHECK(decode_idx(idx(bytes({0, 0, 0, 0}))).shape() == Shape{0});
  CHECK(decode_idx(idx(bytes({7}), '\x08', 0)).item() == 7);
  // gzip members are one content.
  const std::string content = idx(bytes({0, 0, 0, 3, 1, 2, 3}));
  CHECK(same_bits(decode_idx(gzipped(content.substr(0, 6)) + gzipped(content.substr(6))), decode_idx(content)));
}

TEST_CASE("IDX files that are damaged are refused with what was expected", "[io][image]") {
  const std::string whole = idx(bytes({0, 0, 0, 3, 1, 2, 3})), compressed = gzipped(whole);
  struct Row {
    std::string content;
    const char* message;
  };
  for (const auto& [content, message] : std::vector<Row>{
           {"", "not an IDX file: it begins with \"\""},
           {"PNG and more", "not an IDX file: it begins with \"PNG \""},
           {idx("", '\x07'), "type 0x07 is not known"},
           {idx("", '\x08', 9), "an array of 9 dims is not supported; at most 8"},
           {idx(bytes({0, 0, 0, 2, 0, 0}), '\x08', 2), "the header is cut off: it says 2 dims, but has 1"},
           {whole.substr(0, whole.size() - 1), "the header says [3] of u8, 3 bytes, but has only 2; it is cut off"},
           {whole + "x", "the header says [3] of u8, 3 bytes, but more follow"},
           {idx(bytes({255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}), '\x0e', 3), "more than a file of 16 bytes can hold"},
           {gzipped(idx(bytes({127, 0, 0, 0}))), "more than a file of"},
           {compressed.substr(0, compressed.size() - 9), "the gzip data is cut off: its end is missing"},
           {compressed.substr(0, compressed.size() - 1), "the gzip data is cut off: its end is missing after 11 bytes"},
           {compressed + "x", "1 bytes follow the end of the gzip data"},
           {gzipped(whole + "x"), "3 bytes, but more follow"},
       }) {
    INFO(message);
    CHECK_THAT(error_of([&, &content = content] { decode_idx(content, "f.idx"); }), ContainsSubstring(std::string("read_idx: f.idx: ")));
    CHECK_THAT(error_of([&, &content = content] { decode_idx(content, "f.idx"); }), ContainsSubstring(message));
  }
  std::string wrong = compressed;
  wrong[wrong.size() - 6] = char(wrong[wrong.size() - 6] ^ 1);  // of the CRC
  CHECK_THAT(error_of([&] { decode_idx(wrong); }),
             ContainsSubstring("the gzip data is damaged after 11 bytes of content: incorrect data check"));
  CHECK_THAT(error_of([] { read_idx("/none.idx"); }), ContainsSubstring("/none.idx: No such file"));
}

TEST_CASE("CIFAR's records are labels and planes", "[io][image]") {
  std::string ten, hundred;
  for (int i = 0; i < 3; ++i) {
    const std::string pixels(3072, char(50 * i + 1));
    ten += char(9 - i) + pixels;
    hundred += bytes({19 - i, 99 - i}) + pixels;
  }
  for (const std::string& content : {ten, gzipped(ten)}) {
    const CifarImages read = decode_cifar(content);
    CHECK(read.images.shape() == Shape{3, 3, 32, 32});
    CHECK(same_bits(read.labels, tensor<int64_t>({9, 8, 7})));
    CHECK_FALSE(read.coarse_labels);
    CHECK(amin(read.images.at({2})).item<int>() == 101);
    CHECK(amax(read.images.at({2})).item<int>() == 101);
  }
  const CifarImages read = decode_cifar(hundred, 100);
  CHECK(same_bits(read.labels, tensor<int64_t>({99, 98, 97})));
  CHECK(same_bits(read.coarse_labels, tensor<int64_t>({19, 18, 17})));
  CHECK(amax(read.images.at({1})).item<int>() == 51);

  CHECK_THAT(error_of([&] { decode_cifar(ten.substr(1), 10, "b.bin"); }),
             ContainsSubstring("read_cifar: b.bin: 9218 bytes are not a whole number of CIFAR-10's records of 3073 bytes"));
  CHECK_THAT(error_of([&] { decode_cifar(""); }), ContainsSubstring("0 bytes are not a whole number"));
  CHECK_THAT(error_of([&] { decode_cifar(ten, 20); }), ContainsSubstring("there is no CIFAR-20"));
  ten[3073] = 10;
  CHECK_THAT(error_of([&] { decode_cifar(ten); }), ContainsSubstring("record 1 has label 10; expected 0 <= label < 10"));
  hundred[0] = 20;
  CHECK_THAT(error_of([&] { decode_cifar(hundred, 100); }), ContainsSubstring("record 0 has coarse label 20"));
}

TEST_CASE("PNGs of every kind give their samples", "[io][image]") {
  const auto place = [](int64_t y, int64_t x) { return (y * width + x) % 16; };
  const auto color = [&](int64_t c, int64_t y, int64_t x) { return sample(c, 0, place(y, x)); };
  struct Row {
    const char* name;
    Tensor expected;
  };
  for (const auto& [name, expected] : std::vector<Row>{
           {"gray", samples(1)},
           {"gray_alpha", samples(2)},
           {"rgb", samples(3)},
           {"rgb_alpha", samples(4)},
           {"interlaced", samples(3)},
           {"gray16", samples(1)},
           {"rgb16", samples(3)},
           {"gray1", image_of(1, [](int64_t, int64_t y, int64_t x) { return (y * width + x) % 2 * 255; })},
           {"gray4", image_of(1, [&](int64_t, int64_t y, int64_t x) { return place(y, x) * 17; })},
           {"palette", image_of(3, color)},
           {"palette_alpha", image_of(4,
                                      [&](int64_t c, int64_t y, int64_t x) {
                                        const int64_t i = place(y, x);
                                        return c < 3 ? color(c, y, x) : i == 1 ? 0 : i == 2 ? 100 : 255;
                                      })},
           {"rgb_transparent",
            image_of(4, [](int64_t c, int64_t y, int64_t x) { return c < 3              ? sample(c, y, x)
                                                                     : y == 1 && x == 2 ? 0
                                                                                        : 255; })},
       }) {
    INFO(name);
    CHECK(same_bits(read_image(golden / (std::string(name) + ".png")), expected));
  }
}

TEST_CASE("an image is read with the channels that are asked for", "[io][image]") {
  const auto read = [](const char* name, ImageReadMode mode) { return read_image(golden / name, {.mode = mode}); };
  const auto gray = [](int64_t, int64_t y, int64_t x) { return luma(sample(0, y, x), sample(1, y, x), sample(2, y, x)); };
  CHECK(same_bits(read("rgb.png", ImageReadMode::gray), image_of(1, gray)));
  CHECK(same_bits(read("rgb_alpha.png", ImageReadMode::gray), image_of(1, gray)));
  CHECK(same_bits(read("rgb_alpha.png", ImageReadMode::gray_alpha),
                  image_of(2, [&](int64_t c, int64_t y, int64_t x) { return c == 0 ? gray(0, y, x) : sample(3, y, x); })));
  CHECK(same_bits(read("rgb_alpha.png", ImageReadMode::rgb), samples(3)));
  CHECK(same_bits(read("rgb.png", ImageReadMode::rgb_alpha),
                  image_of(4, [](int64_t c, int64_t y, int64_t x) { return c < 3 ? sample(c, y, x) : 255; })));
  CHECK(same_bits(read("gray.png", ImageReadMode::rgb), image_of(3, [](int64_t, int64_t y, int64_t x) { return sample(0, y, x); })));
  CHECK(same_bits(read("gray_alpha.png", ImageReadMode::rgb_alpha),
                  image_of(4, [](int64_t c, int64_t y, int64_t x) { return sample(c == 3, y, x); })));
  CHECK(read("gray.jpeg", ImageReadMode::unchanged).size(0) == 1);
  CHECK(read("rgb.jpeg", ImageReadMode::unchanged).size(0) == 3);
  for (const char* name : {"gray.jpeg", "rgb.jpeg", "progressive.jpeg", "cmyk.jpeg"}) {
    INFO(name);
    for (int channels = 1; channels <= 4; ++channels) CHECK(read(name, ImageReadMode(channels)).shape() == Shape{channels, 20, 24});
    CHECK(amin(slice(read(name, ImageReadMode::rgb_alpha), 0, 3, 4)).item<int>() == 255);
  }
}

TEST_CASE("JPEGs come near what was written", "[io][image]") {
  const Tensor rgb = image_of(
      3, [](int64_t c, int64_t y, int64_t x) { return c == 0   ? 8 * x
                                                      : c == 1 ? 8 * y
                                                               : 128; }, 20, 24);
  CHECK(largest_difference(read_image(golden / "rgb.jpeg"), rgb) <= 4);
  CHECK(largest_difference(read_image(golden / "progressive.jpeg"), rgb) <= 20);  // with a quarter of the colours
  const Tensor gray = image_of(
      1, [](int64_t, int64_t y, int64_t x) { return luma(int(8 * x), int(8 * y), 128); }, 20, 24);
  CHECK(largest_difference(read_image(golden / "gray.jpeg"), gray) <= 3);
  CHECK(largest_difference(read_image(golden / "rgb.jpeg", {.mode = ImageReadMode::gray}), gray) <= 3);
  const Tensor ink = image_of(
      3, [](int64_t c, int64_t y, int64_t x) { return (c == 0   ? 8 * x
                                                       : c == 1 ? 8 * y
                                                                : 128) *
                                                      200 / 255; }, 20, 24);
  CHECK(largest_difference(read_image(golden / "cmyk.jpeg"), ink) <= 4);
  // torchvision 0.29's decode_image gives the same: rows 3 and 17 of columns 5 and 20.
  const Tensor x = read_image(golden / "rgb.jpeg");
  CHECK(x.at({Slice(), 3, 5}).to_vector<int>() == std::vector<int>{40, 25, 130});
  CHECK(x.at({Slice(), 17, 20}).to_vector<int>() == std::vector<int>{160, 135, 128});
}

TEST_CASE("a PNG that was written comes back", "[io][image]") {
  const TemporaryFolder folder;
  for (int64_t channels = 1; channels <= 4; ++channels) {
    const Tensor image = samples(channels);
    write_png(folder / "a.png", image);
    CHECK(same_bits(read_image(folder / "a.png"), image));
    CHECK(same_bits(decode_image(encode_png(flip(image, {2}), 0)), flip(image, {2})));
  }
  const Tensor turned = movedim(samples(3), 2, 1);  // not contiguous
  CHECK(same_bits(decode_image(encode_png(turned)), turned));
  CHECK(encode_png(zeros({1, 64, 64}, {DType::u8}), 9).size() < encode_png(zeros({1, 64, 64}, {DType::u8}), 0).size());
  CHECK(folder.files() == std::vector<std::string>{"a.png"});

  const std::string before = read_file(folder / "a.png");
  CHECK_THAT(error_of([&] {
               write_png(folder / "a.png", zeros({3, 4, 4}));
             }),
             ContainsSubstring("write_png: f32 [3, 4, 4] is no image; expected u8 (channels, height, width) with 1 to 4 channels"));
  CHECK_THAT(error_of([&] { encode_png(zeros({5, 4, 4}, {DType::u8})); }), ContainsSubstring("u8 [5, 4, 4] is no image"));
  CHECK_THAT(error_of([&] { encode_png(zeros({3, 0, 4}, {DType::u8})); }), ContainsSubstring("u8 [3, 0, 4] is no image"));
  CHECK_THAT(error_of([&] { encode_png(zeros({4, 4}, {DType::u8})); }), ContainsSubstring("u8 [4, 4] is no image"));
  CHECK_THAT(error_of([&] { encode_png({}); }), ContainsSubstring("an undefined tensor is no image"));
  CHECK_THAT(error_of([&] { encode_png(samples(1), 10); }), ContainsSubstring("compression_level 10 is not valid; expected 0 to 9"));
  CHECK(read_file(folder / "a.png") == before);
}

TEST_CASE("images that end early are refused, wherever they end", "[io][image]") {
  for (const char* name : {"rgb.png", "interlaced.png", "palette_alpha.png", "rgb.jpeg", "progressive.jpeg", "gray.jpeg"}) {
    const std::string whole = read_file(golden / name);
    for (size_t n = 0; n < whole.size(); ++n) {
      INFO(name << " " << n);
      CHECK_THAT(error_of([&] { decode_image(whole.substr(0, n), {}, "cut"); }), ContainsSubstring("read_image: cut: "));
    }
    // What follows the end does not matter.
    CHECK(same_bits(decode_image(whole + "more"), decode_image(whole)));
  }
  const std::string png = read_file(golden / "rgb.png"), jpeg = read_file(golden / "rgb.jpeg");
  CHECK_THAT(error_of([&] { decode_image(png.substr(0, png.size() - 20)); }),
             ContainsSubstring("damaged PNG: it is cut off: 106 more bytes expected, but 102 are left"));
  CHECK_THAT(error_of([&] { decode_image(jpeg.substr(0, jpeg.size() - 20)); }),
             ContainsSubstring("damaged JPEG: Premature end of JPEG file"));
  CHECK_THAT(error_of([&] { decode_image("GIF89a and so on", {}, "a.gif"); }),
             ContainsSubstring("read_image: a.gif: neither PNG nor JPEG: it begins with \"GIF89a a\""));
  CHECK_THAT(error_of([&] { read_image("/none.png"); }), ContainsSubstring("/none.png: No such file"));
}

TEST_CASE("damaged images are refused or read, and nothing else happens", "[io][image]") {
  int refused = 0, read = 0;
  for (auto& entry : std::filesystem::directory_iterator(golden)) {
    const auto ending = entry.path().extension();
    if (ending != ".png" && ending != ".jpeg" && ending != ".idx") continue;
    const std::string whole = read_file(entry.path());
    for (size_t n = 0; n < whole.size(); ++n)
      for (const int change : {1, 255}) {
        std::string damaged = whole;
        damaged[n] = char(damaged[n] ^ change);
        try {
          const Tensor x = ending == ".idx" ? decode_idx(damaged) : decode_image(damaged, {.max_pixels = 1 << 16});
          CHECK(x.numel() <= 1 << 18);
          ++read;
        } catch (const Error&) {
          ++refused;
        }
      }
  }
  CHECK(refused > 1000);
  CHECK(read > 100);
}

TEST_CASE("a size that no file of this length can have takes no memory", "[io][image]") {
  std::string png = encode_png(samples(3));
  const auto say = [&](std::string_view sizes) {
    png.replace(16, 8, sizes);
    const auto crc = uint32_t(crc32_z(0, reinterpret_cast<const Bytef*>(png.data()) + 12, 17));
    png.replace(29, 4, bytes({int(crc >> 24), int(crc >> 16), int(crc >> 8), int(crc)}));
  };
  say(bytes({0, 0, 0x20, 0, 0, 0, 0x20, 0}));
  CHECK_THAT(error_of([&] { decode_image(png); }), ContainsSubstring("cannot hold 8192 x 8192 pixels; is it cut off?"));
  // One row of 2^30 pixels.
  say(bytes({0x40, 0, 0, 0, 0, 0, 0, 1}));
  CHECK_THAT(error_of([&] { decode_image(png); }), ContainsSubstring("1073741824 x 1 pixels are too many"));
  CHECK_THAT(error_of([&] { decode_image(png, {.max_pixels = int64_t{1} << 40}); }),
             ContainsSubstring("cannot hold 1073741824 x 1 pixels"));
  say(bytes({0x7f, 255, 255, 255, 0x7f, 255, 255, 255}));
  CHECK_THAT(error_of([&] { decode_image(png); }),
             ContainsSubstring("2147483647 x 2147483647 pixels are too many; at most 134217728 are read (max_pixels)"));
  CHECK_THAT(error_of([&] { read_image(golden / "rgb.jpeg", {.max_pixels = 479}); }),
             ContainsSubstring("24 x 20 pixels are too many; at most 479"));
  CHECK(read_image(golden / "rgb.jpeg", {.max_pixels = 480}).numel() == 3 * 480);
}

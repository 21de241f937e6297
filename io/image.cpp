#include <retape/io/image.h>

// libjpeg's header needs FILE and size_t.
#include <cstdio>

#include <fmt/format.h>
#include <jpeglib.h>
#include <png.h>

#include <jerror.h>

#include <csetjmp>
#include <cstring>
#include <memory>
#include <vector>

#include <retape/autograd/tape.h>
#include <retape/autograd/views.h>
#include <retape/io/file.h>
#include <retape/io/quote.h>

// libpng and libjpeg leave by longjmp, which runs no destructors: each of their calls stands in a function with no objects of its own,
// between setjmp and the return of whether it went well. What they allocate belongs to an object of the caller.

namespace retape {
namespace {

using Bytes = std::unique_ptr<uint8_t[]>;

[[noreturn]] void fail(std::string_view file, const std::string& what) { throw Error(fmt::format("read_image: {}: {}", file, what)); }

void check_size(std::string_view file, int64_t width, int64_t height, int64_t max_pixels) {
  int64_t pixels;
  if (__builtin_mul_overflow(width, height, &pixels) || pixels > max_pixels)
    fail(file, fmt::format("{} x {} pixels are too many; at most {} are read (max_pixels)", width, height, max_pixels));
}

int channels_of(ImageReadMode mode, int unchanged) { return mode == ImageReadMode::unchanged ? unchanged : int(mode); }

// Rows of pixels with 1 to 4 samples each, to (channels, height, width).
Tensor to_planes(const uint8_t* pixels, int from, int to, int64_t height, int64_t width) {
  const Tensor out = empty({to, height, width}, {DType::u8});
  const int64_t n = height * width;
  uint8_t* const planes = out.mutable_data<uint8_t>();
  const bool from_color = from >= 3, to_color = to >= 3, to_alpha = to % 2 == 0;
  const auto copy_plane = [&](int channel, uint8_t* plane) {
    for (int64_t i = 0; i < n; ++i) plane[i] = pixels[i * from + channel];
  };
  if (from_color && !to_color)
    for (int64_t i = 0; i < n; ++i) {
      const uint8_t* p = pixels + i * from;
      planes[i] = uint8_t((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16);
    }
  else
    for (int c = 0; c < (to_color ? 3 : 1); ++c) copy_plane(from_color ? c : 0, planes + c * n);
  if (to_alpha) {
    uint8_t* const alpha = planes + (to - 1) * n;
    if (from % 2 == 0) copy_plane(from - 1, alpha);
    else std::memset(alpha, 255, size_t(n));
  }
  return out;
}

// ---- PNG ------------------------------------------------------------------------------------------------------------

constexpr std::string_view png_magic = "\x89PNG\r\n\x1a\n";

struct PngReader {
  std::string_view rest;
  png_structp png = nullptr;
  png_infop info = nullptr;
  png_uint_32 width = 0, height = 0;
  int bits = 0, channels = 0;
  char message[256] = "";
  explicit PngReader(std::string_view bytes) : rest(bytes) {}
  PngReader(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

void png_failed(png_structp png, png_const_charp message) {
  auto& reader = *static_cast<PngReader*>(png_get_error_ptr(png));
  std::snprintf(reader.message, sizeof reader.message, "%s", message);
  png_longjmp(png, 1);
}
void png_warned(png_structp, png_const_charp) {}
void png_take(png_structp png, png_bytep to, size_t n) {
  auto& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
  if (n > reader.rest.size()) {
    char message[100];
    std::snprintf(message, sizeof message, "it is cut off: %zu more bytes expected, but %zu are left", n, reader.rest.size());
    png_error(png, message);
  }
  std::memcpy(to, reader.rest.data(), n);
  reader.rest.remove_prefix(n);
}

bool begin_png(PngReader& r) {
  r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, png_failed, png_warned);
  if (!r.png || setjmp(png_jmpbuf(r.png))) return false;
  r.info = png_create_info_struct(r.png);
  if (!r.info) return false;
  png_set_user_limits(r.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
  png_set_chunk_malloc_max(r.png, png_alloc_size_t{8} << 20);
  png_set_read_fn(r.png, &r, png_take);
#ifdef RETAPE_FUZZ
  png_set_crc_action(r.png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
  png_set_option(r.png, PNG_IGNORE_ADLER32, PNG_OPTION_ON);
#endif
  png_read_info(r.png, r.info);
  r.width = png_get_image_width(r.png, r.info);
  r.height = png_get_image_height(r.png, r.info);
  r.bits = png_get_bit_depth(r.png, r.info) * png_get_channels(r.png, r.info);
  return true;
}
// Takes memory for a row, so that the sizes have to be checked before.
bool prepare_png(PngReader& r) {
  if (setjmp(png_jmpbuf(r.png))) return false;
  png_set_strip_16(r.png);
  png_set_expand(r.png);  // palettes, fewer than 8 bits, transparent colours
  png_set_interlace_handling(r.png);
  png_read_update_info(r.png, r.info);
  r.channels = png_get_channels(r.png, r.info);
  return true;
}
bool finish_png(PngReader& r, png_bytepp rows) {
  if (setjmp(png_jmpbuf(r.png))) return false;
  png_read_image(r.png, rows);
  png_read_end(r.png, nullptr);
  return true;
}

Tensor decode_png(std::string_view bytes, const ImageReadOptions& options, std::string_view file) {
  PngReader reader(bytes);
  const auto damaged = [&] { fail(file, fmt::format("damaged PNG: {}", reader.message[0] ? reader.message : "libpng has no memory")); };
  if (!begin_png(reader)) damaged();
  const int64_t width = reader.width, height = reader.height;
  check_size(file, width, height, options.max_pixels);
  // Deflate makes a byte of at most 1032 bytes.
  if (double(height) * double(width) * reader.bits / 8 / 1032 > double(bytes.size()))
    fail(file, fmt::format("damaged PNG: {} bytes cannot hold {} x {} pixels; is it cut off?", bytes.size(), width, height));
  if (!prepare_png(reader)) damaged();
  const size_t row = size_t(width) * size_t(reader.channels);
  const Bytes pixels(new uint8_t[size_t(height) * row]);
  std::vector<png_bytep> rows(static_cast<size_t>(height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = pixels.get() + y * row;
  if (!finish_png(reader, rows.data())) damaged();
  return to_planes(pixels.get(), reader.channels, channels_of(options.mode, reader.channels), height, width);
}

struct PngWriter {
  std::string out;
  png_structp png = nullptr;
  png_infop info = nullptr;
  char message[256] = "";
  PngWriter() = default;
  PngWriter(const PngWriter&) = delete;
  ~PngWriter() { png_destroy_write_struct(&png, &info); }
};

void png_write_failed(png_structp png, png_const_charp message) {
  auto& writer = *static_cast<PngWriter*>(png_get_error_ptr(png));
  std::snprintf(writer.message, sizeof writer.message, "%s", message);
  png_longjmp(png, 1);
}
bool append(std::string& to, const void* data, size_t n) {
  try {
    to.append(static_cast<const char*>(data), n);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}
void png_give(png_structp png, png_bytep data, size_t n) {
  if (!append(static_cast<PngWriter*>(png_get_io_ptr(png))->out, data, n)) png_error(png, "out of memory");
}
void png_flushed(png_structp) {}

bool write_png(PngWriter& w, png_uint_32 width, png_uint_32 height, int channels, int level, png_bytepp rows) {
  constexpr int color_types[] = {PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA, PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA};
  w.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &w, png_write_failed, png_warned);
  if (!w.png || setjmp(png_jmpbuf(w.png))) return false;
  w.info = png_create_info_struct(w.png);
  if (!w.info) return false;
  png_set_user_limits(w.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
  png_set_write_fn(w.png, &w, png_give, png_flushed);
  png_set_compression_level(w.png, level);
  png_set_IHDR(w.png, w.info, width, height, 8, color_types[channels - 1], PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  png_write_info(w.png, w.info);
  png_write_image(w.png, rows);
  png_write_end(w.png, nullptr);
  return true;
}

// ---- JPEG -----------------------------------------------------------------------------------------------------------

constexpr std::string_view jpeg_magic = "\xff\xd8\xff";
// Each scan of a progressive image works through all of it again: a small file could take hours.
constexpr int most_scans = 500;

struct JpegReader {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr error{};
  jpeg_progress_mgr progress{};
  std::jmp_buf leave{};
  char message[JMSG_LENGTH_MAX] = "";
  JpegReader() = default;
  JpegReader(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&jpeg); }
};

[[noreturn]] void jpeg_failed(j_common_ptr jpeg) {
  auto& reader = *static_cast<JpegReader*>(jpeg->client_data);
  jpeg->err->format_message(jpeg, reader.message);
  std::longjmp(reader.leave, 1);
}
void jpeg_warned(j_common_ptr jpeg, int level) {
  if (level >= 0) return;         // no warning, only news
  switch (jpeg->err->msg_code) {  // these leave the pixels as they are
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_ADOBE_XFORM:
    case JWRN_JFIF_MAJOR: return;
    default: jpeg_failed(jpeg);
  }
}
void jpeg_progressed(j_common_ptr jpeg) {
  if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number <= most_scans) return;
  auto& reader = *static_cast<JpegReader*>(jpeg->client_data);
  std::snprintf(reader.message, sizeof reader.message, "it has more than %d scans", most_scans);
  std::longjmp(reader.leave, 1);
}

bool begin_jpeg(JpegReader& r, std::string_view bytes) {
  r.jpeg.err = jpeg_std_error(&r.error);
  r.error.error_exit = jpeg_failed;
  r.error.emit_message = jpeg_warned;
  r.jpeg.client_data = &r;
  if (setjmp(r.leave)) return false;
  jpeg_create_decompress(&r.jpeg);
  r.progress.progress_monitor = jpeg_progressed;
  r.jpeg.progress = &r.progress;
  jpeg_mem_src(&r.jpeg, reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
  jpeg_read_header(&r.jpeg, TRUE);
  return true;
}
bool finish_jpeg(JpegReader& r, uint8_t* pixels) {
  if (setjmp(r.leave)) return false;
  jpeg_start_decompress(&r.jpeg);
  while (r.jpeg.output_scanline < r.jpeg.output_height) {
    JSAMPROW row = pixels + size_t(r.jpeg.output_scanline) * r.jpeg.output_width * size_t(r.jpeg.output_components);
    jpeg_read_scanlines(&r.jpeg, &row, 1);
  }
  jpeg_finish_decompress(&r.jpeg);
  return true;
}

Tensor decode_jpeg(std::string_view bytes, const ImageReadOptions& options, std::string_view file) {
  JpegReader reader;
  const auto damaged = [&] { fail(file, fmt::format("damaged JPEG: {}", reader.message)); };
  if (!begin_jpeg(reader, bytes)) damaged();
  jpeg_decompress_struct& jpeg = reader.jpeg;
  const int64_t width = jpeg.image_width, height = jpeg.image_height;
  check_size(file, width, height, options.max_pixels);
  const bool cmyk = jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK;
  const int to = channels_of(options.mode, jpeg.jpeg_color_space == JCS_GRAYSCALE ? 1 : 3);
  if (jpeg.jpeg_color_space == JCS_UNKNOWN)
    fail(file, fmt::format("a JPEG of {} channels is not supported; expected gray, RGB, YCbCr, CMYK or YCCK", jpeg.num_components));
  const int from = cmyk ? 4 : to <= 2 || jpeg.jpeg_color_space == JCS_GRAYSCALE ? 1 : 3;
  jpeg.out_color_space = cmyk ? JCS_CMYK : from == 1 ? JCS_GRAYSCALE : JCS_RGB;
  const int64_t n = width * height;
  const Bytes pixels(new uint8_t[size_t(n * from)]);
  if (!finish_jpeg(reader, pixels.get())) damaged();
  if (!cmyk) return to_planes(pixels.get(), from, to, height, width);
  for (int64_t i = 0; i < n; ++i) {  // in place: 3 samples for 4
    const unsigned black = pixels[size_t(4 * i + 3)];
    for (int64_t c = 0; c < 3; ++c) pixels[size_t(3 * i + c)] = uint8_t((black * pixels[size_t(4 * i + c)] + 127) / 255);
  }
  return to_planes(pixels.get(), 3, to, height, width);
}

}  // namespace

Tensor decode_image(std::string_view bytes, const ImageReadOptions& options, std::string_view file) {
  if (bytes.starts_with(png_magic)) return decode_png(bytes, options, file);
  if (bytes.starts_with(jpeg_magic)) return decode_jpeg(bytes, options, file);
  fail(file, fmt::format("neither PNG nor JPEG: it begins with {}", in_quotes(bytes.substr(0, 8))));
}
Tensor read_image(const std::filesystem::path& path, const ImageReadOptions& options) {
  return decode_image(read_file(path), options, path.string());
}

std::string encode_png(const Tensor& image, int compression_level) {
  const NoGrad off;
  if (!image || image.dtype() != DType::u8 || image.dim() != 3 || image.size(0) < 1 || image.size(0) > 4 || image.numel() == 0 ||
      image.device().is_meta())
    throw Error(fmt::format("write_png: {} is no image; expected u8 (channels, height, width) with 1 to 4 channels",
                            !image ? "an undefined tensor" : fmt::format("{} {}", name_of(image.dtype()), image.shape().str())));
  if (compression_level < 0 || compression_level > 9)
    throw Error(fmt::format("write_png: compression_level {} is not valid; expected 0 to 9", compression_level));
  const int64_t channels = image.size(0), height = image.size(1), width = image.size(2);
  if (width > PNG_UINT_31_MAX || height > PNG_UINT_31_MAX)
    throw Error(fmt::format("write_png: {} x {} pixels are too many for a PNG; each side must be below 2^31", width, height));
  const Tensor pixels = contiguous(movedim(to(image, Device::cpu()), 0, 2));
  std::vector<png_bytep> rows(static_cast<size_t>(height));
  for (int64_t y = 0; y < height; ++y) rows[size_t(y)] = const_cast<png_bytep>(pixels.data<uint8_t>() + y * width * channels);
  PngWriter writer;
  if (!write_png(writer, png_uint_32(width), png_uint_32(height), int(channels), compression_level, rows.data()))
    throw Error(fmt::format("write_png: {}", writer.message[0] ? writer.message : "libpng has no memory"));
  return std::move(writer.out);
}
void write_png(const std::filesystem::path& path, const Tensor& image, int compression_level) {
  write_file_atomically(path, encode_png(image, compression_level));
}

}  // namespace retape

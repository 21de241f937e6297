#include "data.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

namespace retape::vision {
using examples::OnResume;
using transforms::Transform;

examples::Setting& declare(examples::Settings& settings, DataOptions& o, bool labels) {
  auto& data =
      settings
          .add(
              "--data", o.data,
              "folder of images: Fashion-MNIST's or MNIST's IDX files, CIFAR's binary files, or train/CLASS/*.png and *.jpg beside val/ or test/",
              OnResume::replace)
          .path();
  settings.add("--image-size", o.image_size, "height and width of what the model gets; 0: those of the data").at_least(0).at_most(4096);
  settings.add(
      "--augment", o.augment,
      "what is done to training images, as a list: crop[:PIXELS] pads and crops, resized-crop[:LEAST AREA], flip, jitter[:STRENGTH], "
      "randaugment[:MAGNITUDE], erasing[:PROBABILITY]; or none");
  settings.add("--mean", o.mean, "of pixels between 0 and 1, one number or one a channel; if not given, that of the training images");
  settings.add("--std", o.std, "their standard deviation");
  settings.add("--workers", o.workers, "threads that load and augment ahead; 0: the trainer's own does", OnResume::replace)
      .at_least(0)
      .at_most(256);
  settings.add("--skip-broken", o.skip_broken, "leave out files that cannot be read, and say how many, instead of ending with an error");
  if (!labels) return data;
  settings.add("--labels", o.labels, "train on so many images only, of each class as many, chosen by the seed; 0: all").at_least(0);
  settings.add("--mixup", o.mixup, "blends pairs of images; alpha of the Beta distribution; 0: off").at_least(0);
  settings.add("--cutmix", o.cutmix, "pastes a part of another image; beside --mixup each batch gets either; 0: off").at_least(0);
  return data;
}

// ---- augmentation ---------------------------------------------------------------------------------------------------

namespace {

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return {};
  return value;
}
std::vector<std::string> parts(const std::string& text) {
  std::vector<std::string> all;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    all.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return all;
}

struct Augmentation {
  const char* name;
  double usual, least, most;
};
constexpr Augmentation known[] = {{"crop", 0, 0, 1024},  {"resized-crop", 0.2, 0.01, 1}, {"flip", 0.5, 0, 1},
                                  {"jitter", 0.4, 0, 1}, {"randaugment", 9, 0, 30},      {"erasing", 0.25, 0, 1}};

// To size x size, or as it is.
Tensor fitted(const Tensor& image, int64_t size, bool resize) {
  if (image.size(1) == size && image.size(2) == size) return image;
  if (!resize)
    throw Error(fmt::format("the image is {} x {}, but the first one is {} x {}; give --image-size to bring them to one size",
                            image.size(1), image.size(2), size, size));
  return transforms::center_crop(transforms::resize(image, size), size, size);
}

}  // namespace

Transform parse_augment(const std::string& text, int64_t size, bool resize) {
  std::optional<double> strength[std::size(known)];
  if (!text.empty() && text != "none")
    for (const std::string& part : parts(text)) {
      const size_t colon = part.find(':');
      const std::string name = part.substr(0, colon);
      const auto* found = std::find_if(std::begin(known), std::end(known), [&](auto& k) { return name == k.name; });
      if (found == std::end(known))
        throw Error(
            fmt::format("--augment: \"{}\" is not known; it may be crop, resized-crop, flip, jitter, randaugment or erasing", name));
      double value = found->usual == 0 ? std::max<double>(1, std::round(double(size) / 14)) : found->usual;
      if (colon != std::string::npos) {
        const auto given = number(std::string_view(part).substr(colon + 1));
        if (!given || !(*given >= found->least && *given <= found->most))
          throw Error(fmt::format("--augment: \"{}\" is not valid; the number must be from {} to {}", part, found->least, found->most));
        value = *given;
      }
      strength[found - known] = value;
    }
  const auto& [crop, resized, flip, jitter, randaugment, erasing] = strength;
  if (crop && resized) throw Error("--augment: crop and resized-crop exclude each other");
  std::vector<Transform> all;
  if (resized) all.push_back(transforms::RandomResizedCrop{.height = size, .width = size, .scale = {*resized, 1}});
  else all.push_back([=](const Tensor& image, SampleRandom&) { return fitted(image, size, resize); });
  if (crop) all.push_back(transforms::RandomCrop{.height = size, .width = size, .padding = int64_t(*crop)});
  if (flip) all.push_back(transforms::RandomHorizontalFlip{*flip});
  if (jitter) all.push_back(transforms::ColorJitter{*jitter, *jitter, *jitter, *jitter / 4});
  if (randaugment) all.push_back(transforms::RandAugment{.magnitude = int(*randaugment)});
  if (erasing) all.push_back(transforms::RandomErasing{.p = *erasing});
  return transforms::compose(std::move(all));
}

std::vector<double> parse_channels(const std::string& flag, const std::string& text, int64_t channels) {
  std::vector<double> values;
  for (const std::string& part : parts(text)) {
    const auto value = number(part);
    if (!value) throw Error(fmt::format("{} {} is not valid; expected a number, or one a channel as in 0.5,0.4,0.3", flag, text));
    values.push_back(*value);
  }
  if (values.size() == 1) values.resize(size_t(channels), values[0]);
  if (int64_t(values.size()) != channels)
    throw Error(fmt::format("{} {} has {} numbers, but images have {} channels", flag, text, values.size(), channels));
  return values;
}

Transform plain_transform(int64_t size, bool resize, const std::vector<double>& mean, const std::vector<double>& std) {
  return [=](const Tensor& image, SampleRandom&) {
    return transforms::normalize(transforms::to_float(fitted(image, size, resize)), mean, std);
  };
}

// ---- the data -------------------------------------------------------------------------------------------------------

std::vector<int64_t> stratified(const ImageDataset& data, int64_t count, uint64_t seed) {
  if (count > data.size()) throw Error(fmt::format("--labels {} is not possible; there are {} images", count, data.size()));
  std::vector<int64_t> order(size_t(data.size()));
  for (size_t i = 0; i < order.size(); ++i) order[i] = int64_t(i);
  SampleRandom random(seed, 0, SampleRandom::Of::batch);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[size_t(random.integer(int64_t(i)))]);
  // How many of each class: as many of one as of another, until a class has no more.
  std::vector<int64_t> there(size_t(data.classes())), wanted(there.size());
  for (const int64_t i : order) ++there[size_t(data.label(i))];
  for (int64_t left = count; left > 0;)
    for (size_t c = 0; c < there.size() && left > 0; ++c)
      if (wanted[c] < there[c]) ++wanted[c], --left;
  std::vector<int64_t> chosen;
  for (const int64_t i : order)
    if (wanted[size_t(data.label(i))]-- > 0) chosen.push_back(i);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

namespace {

ImageFolderOptions folder_options(const DataOptions& o) { return {.skip_broken = o.skip_broken}; }

// Mean and std of the channels, of up to 5000 images from all over the part, as texts of four decimals.
std::pair<std::string, std::string> statistics(const ImageDataset& data, int64_t channels) {
  const int64_t step = std::max<int64_t>(1, data.size() / 5000);
  const auto n = size_t(channels);
  std::vector<double> sum(n), squares(n), count(n);
  for (int64_t i = 0; i < data.size(); i += step) {
    const Tensor image = contiguous(data.image(i));
    const int64_t pixels = image.size(1) * image.size(2);
    const uint8_t* p = image.data<uint8_t>();
    for (size_t c = 0; c < std::min(n, size_t(image.size(0))); ++c) {
      int64_t s = 0, q = 0;
      for (int64_t k = 0; k < pixels; ++k) {
        const int64_t v = p[int64_t(c) * pixels + k];
        s += v, q += v * v;
      }
      sum[c] += double(s), squares[c] += double(q), count[c] += double(pixels);
    }
  }
  std::string means, stds;
  for (size_t c = 0; c < sum.size(); ++c) {
    const double mean = sum[c] / count[c], variance = squares[c] / count[c] - mean * mean;
    means += fmt::format("{}{:.4f}", c ? "," : "", mean / 255);
    stds += fmt::format("{}{:.4f}", c ? "," : "", std::max(std::sqrt(std::max(variance, 0.0)) / 255, 1e-3));
  }
  return {means, stds};
}

}  // namespace

Images::Images(DataOptions& o, uint64_t seed)
    : options_(o),
      seed_(seed),
      train_(ImageDataset::open(o.data, Split::train, folder_options(o))),
      val_(ImageDataset::open(o.data, Split::val, folder_options(o))) {
  const Tensor first = train_.image(0);
  channels_ = first.size(0), size_ = o.image_size;
  if (size_ == 0 && first.size(1) != first.size(2))
    throw Error(fmt::format("{} is {} x {}, but the model takes squares; give --image-size", train_.name(0), first.size(1), first.size(2)));
  if (size_ == 0) size_ = first.size(1);
  if (o.labels) subset_ = stratified(train_, o.labels, seed);
  if (o.mean.empty() || o.std.empty()) {
    const auto [mean, std] = statistics(train_, channels_);
    if (o.mean.empty()) o.mean = mean;
    if (o.std.empty()) o.std = std;
  }
  mean_ = parse_channels("--mean", o.mean, channels_), std_ = parse_channels("--std", o.std, channels_);
  for (const double s : std_)
    if (!(s > 0)) throw Error(fmt::format("--std {} is not valid; it must be above 0", o.std));
  plain_ = plain_transform(size_, o.image_size > 0, mean_, std_);
  augmented_ =
      transforms::compose({parse_augment(o.augment, size_, o.image_size > 0), transforms::ToFloat{}, transforms::Normalize{mean_, std_}});
  options_ = o;
}

BatchSampler Images::sampler(int64_t batch) const {
  return BatchSampler(count(), {.batch_size = batch, .shuffle = true, .drop_last = count() >= batch, .seed = seed_});
}

std::unique_ptr<DataLoader<Batch>> Images::loader(int64_t batch) const {
  const auto make = [=, this, sampler = sampler(batch)](int64_t i) -> Batch {
    const NoGrad off;
    SampledBatch some = sampler.batch(i);
    if (!subset_.empty())
      for (int64_t& index : some.indices) index = subset_[size_t(index)];
    auto [images, labels] = make_image_batch(train_, some, augmented_, seed_);
    if (options_.mixup == 0 && options_.cutmix == 0) return {images, labels};
    SampleRandom random(seed_, i, SampleRandom::Of::batch);
    const bool cut = options_.mixup == 0 || (options_.cutmix > 0 && random.chance(0.5));
    const auto mixed = cut ? transforms::cutmix(images, labels, train_.classes(), random, options_.cutmix)
                           : transforms::mixup(images, labels, train_.classes(), random, options_.mixup);
    return {mixed.images, mixed.targets};
  };
  return std::make_unique<DataLoader<Batch>>(make, DataLoaderOptions{.num_workers = int(options_.workers), .seed = seed_});
}

std::unique_ptr<DataLoader<ImageBatch>> Images::validation(int64_t batch) const {
  const BatchSampler sampler(val_.size(), {.batch_size = batch});
  const auto make = [this, sampler](int64_t i) { return make_image_batch(val_, sampler.batch(i), plain_); };
  return std::make_unique<DataLoader<ImageBatch>>(
      make, DataLoaderOptions{.num_workers = int(options_.workers), .batches = sampler.batches_per_epoch()});
}

Tensor Images::to_pixels(const Tensor& images) const {
  const Shape each{channels_, 1, 1};
  const Tensor x = images * cast(tensor(std_, each), images.dtype()) + cast(tensor(mean_, each), images.dtype());
  return cast(clamp(floor(x * 255 + 0.5), 0, 255), DType::u8);
}

}  // namespace retape::vision

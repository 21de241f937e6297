// Which pixels a unit of a network sees.
#pragma once
#include <type_traits>
#include <vector>

#include <retape/autograd/reach.h>
#include <retape/autograd/views.h>
#include <retape/nn/module.h>

namespace retape::nn {

/// Unit i of an output sees, in a dim of space, the pixels from offset + i * stride on, `size` of them.
struct ReceptiveField {
  struct Dim {
    int64_t size = 0;    ///< the most that a unit sees; pixels in the padding count
    double stride = 0;   ///< pixels from one unit to the next; not whole where an image grows on its way
    int64_t offset = 0;  ///< the first pixel of unit 0, negative where it begins in the padding
    bool operator==(const Dim&) const = default;
  };
  std::vector<Dim> dims;  ///< one a dim of space of the input

  /// What was recorded from the input to the output lives as long as this does; on meta it takes no memory.
  ///
  /// The pixels inside of the image that a unit (its place, a number for each of the output's dims of space) sees: the smallest intervals around
  /// all of them. Throws Error for a place that is not in the output.
  std::vector<Interval> of(const std::vector<int64_t>& unit) const;

 private:
  friend ReceptiveField field_between(const Tensor& y, const Tensor& x);
  Tensor x_, y_;
};

/// Of an output that was recorded from x, a leaf that wants its gradient; see receptive_field().
ReceptiveField field_between(const Tensor& y, const Tensor& x);

/// The receptive field of the units (N, C, space) that model(input) gives, for an input (N, C, space); what the ops say about themselves is followed
/// from the output to the input, so that size and values of the image do not matter but for ops that see all of it: mean over space,
/// attention, an output without dims of space. A Module is run in evaluation mode, in which batch norm mixes nothing; its units in the middle of a
/// network are those of a function that ends there. Throws Error for other dims of space in the output than in the input or none.
/// Araujo et al., "Computing receptive fields of convolutional neural networks", Distill 2019.
template <class Model> ReceptiveField receptive_field(Model&& model, const Tensor& input) {
  const Tensor x = input.detach().set_requires_grad();
  const Scoped<bool> recording(ctx.recording, true);
  if constexpr (std::is_base_of_v<Module, std::remove_cvref_t<Model>>) {
    const ModeScope evaluating(model, false);
    return field_between(model(x), x);
  } else {
    return field_between(model(x), x);
  }
}

}  // namespace retape::nn

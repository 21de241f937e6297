// Tensors and shapes in fmt: fmt::format("{}", x). Apart from the other headers, since only this one includes fmt.
#pragma once
#include <fmt/format.h>

#include <retape/core/tensor.h>

template <> struct fmt::formatter<retape::Tensor> : fmt::formatter<std::string_view> {
  template <class Context> auto format(const retape::Tensor& x, Context& context) const {
    return fmt::formatter<std::string_view>::format(retape::to_string(x), context);
  }
};
template <> struct fmt::formatter<retape::Shape> : fmt::formatter<std::string_view> {
  template <class Context> auto format(const retape::Shape& x, Context& context) const {
    return fmt::formatter<std::string_view>::format(x.str(), context);
  }
};

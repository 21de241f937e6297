#include <retape/nn/sequential.h>

namespace retape::nn {

void AnyModule::cannot_clone(const Module& m) {
  throw Error(m.type_name() + ": cannot be cloned, because one of its fields cannot be copied");
}

Module& Sequential::operator[](size_t index) const {
  if (index >= layers.size())
    throw Error("Sequential: there is no module " + std::to_string(index) + " among " + std::to_string(layers.size()));
  return layers[index].module();
}
void Sequential::wrong_type(size_t index) const {
  throw Error("Sequential: module " + std::to_string(index) + " is a " + (*this)[index].type_name());
}
Tensor Sequential::forward(Tensor x) const {
  for (auto& layer : layers) x = layer(x);
  return x;
}
void Sequential::fields(Visitor& v) {
  for (size_t i = 0; i < layers.size(); ++i) detail::visit_field(v, std::to_string(i), layers[i]);
}

}  // namespace retape::nn

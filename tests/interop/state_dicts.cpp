// Loads a state dict into a module, runs it, and saves the module's state dict: state_dicts_torch.py has the other side.
//
//     state_dicts resnet18|lstm|transformer STATE.safetensors INPUTS.safetensors OUT.safetensors
//
// OUT gets the state dict, and the module's result for the inputs as "result".
#include <cstdio>

#include <retape/retape.h>

using namespace retape;

namespace {

Tensor named(const NamedTensors& all, const std::string& name) {
  for (auto& [key, value] : all)
    if (key == name) return value;
  throw Error("the inputs have no tensor named " + name);
}
template <class M, class F> void convert(M&& module, char** files, F&& run) {
  module.load_state_dict(SafeTensors::open(files[0]).tensors());
  const NamedTensors inputs = SafeTensors::open(files[1]).tensors();
  module.eval();
  const NoGrad off;
  const Tensor result = run(module, inputs);
  NamedTensors out = module.state_dict();
  out.emplace_back("result", result);
  save_safetensors(files[2], out);
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string what = argc == 5 ? argv[1] : "";
  if (what == "resnet18") {
    convert(nn::ResNet(nn::resnet18()), argv + 2, [](auto& m, auto& in) { return m(named(in, "x")); });
  } else if (what == "lstm") {
    convert(nn::LSTM(16, 24, {.num_layers = 2, .bidirectional = true, .proj_size = 8}), argv + 2,
            [](auto& m, auto& in) { return m(named(in, "x")).first; });
  } else if (what == "transformer") {
    nn::TransformerOptions options;
    options.dim_feedforward = 64, options.num_encoder_layers = 2, options.num_decoder_layers = 2, options.batch_first = true;
    convert(nn::Transformer(32, 4, options), argv + 2, [](auto& m, auto& in) { return m(named(in, "x"), named(in, "y")); });
  } else {
    std::fprintf(stderr, "usage: state_dicts resnet18|lstm|transformer STATE.safetensors INPUTS.safetensors OUT.safetensors\n");
    return 2;
  }
} catch (const Error& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}

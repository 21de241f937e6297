#include <retape/nn/sequence_mixer.h>

namespace retape::nn {

void AnySequenceMixer::wrong_state(const Module& m) {
  throw Error(m.type_name() + ": step() got the state of another layer; each layer needs a state of its own");
}

}  // namespace retape::nn

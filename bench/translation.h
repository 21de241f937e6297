// The translation trainer's works: a training step and beam search, on random sentences.
#pragma once
#include "works.h"

namespace retape::bench {

Work translation_step();
Work beam_decoding();

}  // namespace retape::bench

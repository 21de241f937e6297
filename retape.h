// Retape: everything a program needs. See README.md for a first model.
#pragma once
#include <retape/autograd/backward.h>
#include <retape/autograd/checkpoint.h>
#include <retape/autograd/gradcheck.h>
#include <retape/autograd/ops.h>
#include <retape/autograd/tape.h>
#include <retape/core/random.h>
#include <retape/core/tensor.h>
#include <retape/data/bpe_tokenizer.h>
#include <retape/data/char_tokenizer.h>
#include <retape/data/token_dataset.h>
#include <retape/io/safetensors.h>
#include <retape/nn/nn.h>
#include <retape/optim/adamw.h>
#include <retape/optim/clip.h>
#include <retape/optim/schedule.h>
#include <retape/optim/sgd.h>

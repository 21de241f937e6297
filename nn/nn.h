// Modules, layers, losses and initialisers.
#pragma once
#include <retape/nn/activation.h>
#include <retape/nn/attention.h>
#include <retape/nn/dropout.h>
#include <retape/nn/embedding.h>
#include <retape/nn/estimate_memory.h>
#include <retape/nn/init.h>
#include <retape/nn/kv_cache.h>
#include <retape/nn/layer_norm.h>
#include <retape/nn/linear.h>
#include <retape/nn/loss.h>
#include <retape/nn/module.h>
#include <retape/nn/rms_norm.h>
#include <retape/nn/rope.h>
#include <retape/nn/sequential.h>
#include <retape/nn/transformer.h>
#include <retape/nn/word2vec.h>

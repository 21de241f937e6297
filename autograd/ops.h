// Every op of the library, a header a stem: autograd/softmax.h declares what autograd/softmax.cpp defines and core/softmax.cpp computes.
#pragma once
#include <retape/autograd/attention.h>
#include <retape/autograd/binary.h>
#include <retape/autograd/cross_entropy.h>
#include <retape/autograd/dropout.h>
#include <retape/autograd/einsum.h>
#include <retape/autograd/fft.h>
#include <retape/autograd/index.h>
#include <retape/autograd/layer_norm.h>
#include <retape/autograd/linalg.h>
#include <retape/autograd/matmul.h>
#include <retape/autograd/reduce.h>
#include <retape/autograd/rms_norm.h>
#include <retape/autograd/rope.h>
#include <retape/autograd/softmax.h>
#include <retape/autograd/unary.h>
#include <retape/autograd/views.h>

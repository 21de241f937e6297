// What the tape tells memory budgets about its values, and asks of them. Private to autograd's sources.
#pragma once
#include <retape/autograd/memory_budget.h>
#include <retape/autograd/node.h>

namespace retape::detail {

/// The tape holds the bytes of a value that `source` can make again; under a budget it may lose them. Views: their base's storage.
void keep(Storage& s, DType dtype, Node& source);
inline void keep(const Tensor& t, Node& source) { keep(*t->storage, t.dtype(), source); }
/// The value has been used.
void touch(Storage& s);
/// Are the bytes in a file, or rounded?
bool is_away(const Storage& s);
/// Brings such bytes back. False if they are nowhere, so that only a replay can make them.
bool bring_back(Storage& s);
/// Nobody will ask for the value again.
void forget_place(Storage& s);
double seconds_now();

}  // namespace retape::detail

// What the binding files share: addresses, and the graph as Python describes it.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#include "kernels.h"

namespace graphkit {
namespace {

using Address = uintptr_t;
using GraphTuple = std::tuple<int, int64_t, int64_t, int64_t, int64_t, Address, Address, Address>;

template <class T = void>
T *at(Address a) {
  return reinterpret_cast<T *>(a);
}

Graph graph_of(const GraphTuple &t) {
  return {std::get<0>(t), std::get<1>(t), std::get<2>(t), std::get<3>(t), std::get<4>(t),
          at(std::get<5>(t)), at(std::get<6>(t)), at(std::get<7>(t))};
}

// nanobind turns std::out_of_range into IndexError. A key fault's position is the number of rows.
void check(const Fault &fault) {
  if (fault.kind == Fault::none) return;
  const std::string value = std::to_string(fault.value), place = std::to_string(fault.position);
  if (fault.kind == Fault::key)
    throw std::out_of_range("row " + value + " of a graph of " + place + " rows");
  if (fault.kind == Fault::col || fault.kind == Fault::eid)
    throw std::out_of_range(std::string(fault.kind == Fault::col ? "col" : "eid") + " at entry " +
                            place + " is " + value + ", out of range");
  throw std::out_of_range("rowptr: row " + place + " reaches " + value +
                          ", wanted non-decreasing values up to the number of entries");
}

}  // namespace
}  // namespace graphkit

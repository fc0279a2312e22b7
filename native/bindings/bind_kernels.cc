// bind_kernels.cc: one kernel of one instruction set at a time, for the tests of the kernels.
//
// Kernels trust the sizes that they are given; here Python gives the arrays, so each shape is
// checked before a kernel sees it. Nothing but tests calls these functions.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/kernels.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T, size_t N>
using Input = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Output = nb::ndarray<nb::numpy, T>;

template <typename T>
Output<T> ToNumpy(std::vector<T>&& values, std::initializer_list<size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return Output<T>(kept->data(), shape, owner);
}

const earshot::Kernels& Find(const std::string& isa) {
  const earshot::Kernels* table = earshot::kernels_for(isa.c_str());
  if (table == nullptr) throw nb::value_error(("no instruction set '" + isa + "' here").c_str());
  return *table;
}

std::string Text(const std::vector<size_t>& shape) {
  std::string out;
  for (const size_t size : shape) out += (out.empty() ? "" : ", ") + std::to_string(size);
  return "(" + out + ")";
}

template <typename Array>
void Require(const char* name, const Array& array, const std::vector<size_t>& expected) {
  std::vector<size_t> shape;
  for (size_t i = 0; i < array.ndim(); ++i) shape.push_back(array.shape(i));
  if (shape != expected) {
    throw nb::value_error((std::string("kernel: ") + name + " has shape " + Text(shape) + "; it must have " +
                           Text(expected) + ".").c_str());
  }
}

template <typename Array>
void Require(const char* name, const std::optional<Array>& array, const std::vector<size_t>& expected) {
  if (array.has_value()) Require(name, *array, expected);
}

void RequireSize(const char* name, size_t size, size_t multiple, size_t limit) {
  if (size < 1 || size > limit || size % multiple != 0) {
    throw nb::value_error((std::string("kernel: ") + name + " is " + std::to_string(size) + "; it must be in 1.." +
                           std::to_string(limit) + " and a multiple of " + std::to_string(multiple) + ".").c_str());
  }
}

const float* DataOrNull(const std::optional<Input<float, 1>>& array) {
  return array.has_value() ? array->data() : nullptr;
}

constexpr size_t kMaxSize = size_t{1} << 24;
size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

}  // namespace

void bind_kernels(nb::module_& m) {
  m.def("_test_linear_f32", [](const std::string& isa, Input<float, 3> w,
                               std::optional<Input<float, 1>> bias, size_t M, Input<float, 2> x,
                               std::optional<Input<float, 2>> add_to) {
    const size_t T = x.shape(0), K = x.shape(1);
    RequireSize("M", M, 1, kMaxSize);
    RequireSize("K", K, 1, kMaxSize);
    Require("w", w, {RoundUp(M, 16) / 16, K, 16});
    Require("bias", bias, {M});
    Require("add_to", add_to, {T, M});
    std::vector<float> y(T * M);
    if (add_to) y.assign(add_to->data(), add_to->data() + T * M);
    Find(isa).linear_f32(w.data(), DataOrNull(bias), M, K, x.data(), K, T, y.data(), M,
                         add_to.has_value());
    return ToNumpy(std::move(y), {T, M});
  }, "isa"_a, "w"_a, "bias"_a.none(), "M"_a, "x"_a, "add_to"_a.none() = nb::none());
  m.def("_test_linear_i8", [](const std::string& isa, Input<int8_t, 4> tiles,
                              Input<float, 1> scale, Input<int32_t, 1> rowsum,
                              std::optional<Input<float, 1>> bias, size_t M, size_t K,
                              Input<int8_t, 2> xq, Input<float, 1> xscale,
                              std::optional<Input<float, 2>> add_to) {
    const size_t T = xq.shape(0);
    RequireSize("M", M, 1, kMaxSize);
    RequireSize("K", K, 1, kMaxSize);
    const size_t Mp = RoundUp(M, 16), Kp = RoundUp(K, 64);
    Require("tiles", tiles, {Mp / 16, Kp / 4, 16, 4});
    Require("scale", scale, {Mp});
    Require("rowsum", rowsum, {Mp});
    Require("bias", bias, {M});
    Require("xq", xq, {T, Kp});
    Require("xscale", xscale, {T});
    Require("add_to", add_to, {T, M});
    std::vector<float> y(T * M);
    if (add_to) y.assign(add_to->data(), add_to->data() + T * M);
    Find(isa).linear_i8(tiles.data(), scale.data(), rowsum.data(), DataOrNull(bias), M, K,
                        xq.data(), xscale.data(), T, y.data(), M, add_to.has_value());
    return ToNumpy(std::move(y), {T, M});
  }, "isa"_a, "tiles"_a, "scale"_a, "rowsum"_a, "bias"_a.none(), "M"_a, "K"_a, "xq"_a, "xscale"_a,
     "add_to"_a.none() = nb::none());
  m.def("_test_linear_packed", [](const std::string& isa, std::optional<Input<uint64_t, 2>> masks, size_t block_columns,
                                  std::optional<Input<int8_t, 1>> levels, Input<uint16_t, 1> scale,
                                  Input<int32_t, 1> rowsum, Input<uint8_t, 2> vectors,
                                  std::optional<Input<float, 1>> bias, size_t M, size_t K,
                                  Input<int8_t, 2> xq, Input<float, 1> xscale,
                                  std::optional<Input<float, 2>> add_to) {
    const size_t T = xq.shape(0);
    RequireSize("M", M, 1, kMaxSize);
    RequireSize("K", K, 1, kMaxSize);
    const size_t Mp = RoundUp(M, 16), Kp = RoundUp(K, 64);
    if (block_columns != 1 && block_columns != 4) throw nb::value_error("kernel: a block has 1 or 4 columns.");
    const size_t words = RoundUp(Kp / block_columns, 64) / 64, per_vector = levels ? 8 : 4;
    Require("masks", masks, {Mp / 16, words});
    Require("levels", levels, {16});
    Require("scale", scale, {Mp});
    Require("rowsum", rowsum, {Mp});
    size_t count = 0;
    for (size_t block = 0; block < Mp / 16; ++block) {
      size_t stored = masks ? 0 : Kp;
      for (size_t i = 0; masks && i < words; ++i) {
        for (uint64_t left = masks->data()[block * words + i]; left != 0; left &= left - 1) stored += block_columns;
      }
      if (stored > Kp) throw nb::value_error("kernel: a mask has bits beyond the padded columns.");
      count += (stored + per_vector - 1) / per_vector;
    }
    Require("vectors", vectors, {count, 64});
    Require("bias", bias, {M});
    Require("xq", xq, {T, Kp});
    Require("xscale", xscale, {T});
    Require("add_to", add_to, {T, M});
    const earshot::PackedWeights w{M, K, block_columns, masks ? masks->data() : nullptr,
                                   levels ? levels->data() : nullptr, scale.data(), rowsum.data(), vectors.data(),
                                   vectors.data() + 64 * count};
    std::vector<float> y(T * M);
    if (add_to) y.assign(add_to->data(), add_to->data() + T * M);
    std::vector<uint8_t> scratch(earshot::packed_scratch_bytes(K, T));
    Find(isa).linear_packed(&w, DataOrNull(bias), xq.data(), xscale.data(), T, y.data(), M, add_to.has_value(),
                            scratch.data());
    return ToNumpy(std::move(y), {T, M});
  }, "isa"_a, "masks"_a.none(), "block_columns"_a, "levels"_a.none(), "scale"_a, "rowsum"_a, "vectors"_a,
     "bias"_a.none(), "M"_a, "K"_a, "xq"_a, "xscale"_a, "add_to"_a.none() = nb::none());
  m.def("_test_quantize", [](const std::string& isa, Input<float, 1> x) {
    const size_t K = x.shape(0), Kp = RoundUp(K, 64);
    RequireSize("K", K, 1, kMaxSize);
    std::vector<int8_t> q(Kp, 99);
    const float scale = Find(isa).quantize_s8(x.data(), K, Kp, q.data());
    return std::make_tuple(ToNumpy(std::move(q), {Kp}), scale);
  });
  m.def("_test_lstm_gates", [](const std::string& isa, Input<float, 1> pre, Input<float, 1> c) {
    const size_t H = c.shape(0);
    RequireSize("the number of units", H, 16, kMaxSize);
    Require("pre", pre, {4 * H});
    std::vector<float> state(c.data(), c.data() + H), h(H);
    Find(isa).lstm_gates(pre.data(), H, state.data(), h.data());
    return std::make_tuple(ToNumpy(std::move(state), {H}), ToNumpy(std::move(h), {H}));
  });
  m.def("_test_elementwise", [](const std::string& isa, const std::string& name, Input<float, 1> x,
                                float shift) {
    const earshot::Kernels& table = Find(isa);
    const size_t n = x.shape(0);
    RequireSize("the number of values", n, 1, kMaxSize);
    std::vector<float> y(x.data(), x.data() + n);
    if (name == "tanh") table.tanh_f32(y.data(), n);
    else if (name == "sigmoid") table.sigmoid_f32(y.data(), n);
    else if (name == "log_softmax") table.log_softmax_f32(y.data(), n);
    else if (name == "exp_shift") table.exp_shift_f32(y.data(), n, shift);
    else if (name == "log_sum_exp") y.assign(1, table.log_sum_exp_f32(x.data(), n));
    else throw nb::value_error(("no kernel '" + name + "'").c_str());
    const size_t size = y.size();
    return ToNumpy(std::move(y), {size});
  }, "isa"_a, "name"_a, "x"_a, "shift"_a = 0.0f);
}

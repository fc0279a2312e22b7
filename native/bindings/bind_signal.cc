// bind_signal.cc: instruction sets, features, the transducer loss and alignment counts for Python.
//
// Functions whose names begin with _test_ run one kernel of one instruction set for the tests.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "align.h"
#include "fbank.h"
#include "kernels/kernels.h"
#include "transducer_loss.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T, size_t N>
using Input = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <size_t N>
using InPlace = nb::ndarray<float, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Output = nb::ndarray<nb::numpy, T>;

template <typename T>
Output<T> ToNumpy(std::vector<T>&& values, std::initializer_list<size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return Output<T>(kept->data(), shape, owner);
}

void RequireFinite(const char* where, const float* samples, size_t n) {
  const size_t bad = earshot::FirstNonFinite(samples, n);
  if (bad < n) {
    throw nb::value_error((std::string(where) + ": sample " + std::to_string(bad) + " is " +
                           std::to_string(samples[bad]) +
                           "; samples must be finite. Repair or drop the recording.")
                              .c_str());
  }
}

Output<float> TakeAll(earshot::Fbank& fbank) {
  const size_t frames = fbank.NumFramesReady();
  std::vector<float> values(frames * fbank.num_bins());
  fbank.TakeFrames(values.data(), frames);
  return ToNumpy(std::move(values), {frames, fbank.num_bins()});
}

double Loss(InPlace<3> logits, Input<int32_t, 1> labels, int32_t blank, bool one_symbol_per_frame,
            double fastemit_lambda) {
  const size_t T = logits.shape(0), width = logits.shape(1), V = logits.shape(2);
  const size_t U = labels.shape(0);
  if (T < 1 || width != U + 1) {
    throw nb::value_error(("transducer_loss: logits have shape (" + std::to_string(T) + ", " +
                           std::to_string(width) + ", " + std::to_string(V) + ") for " +
                           std::to_string(U) +
                           " labels; they must be (frames >= 1, labels + 1, symbols).")
                              .c_str());
  }
  if (blank < 0 || static_cast<size_t>(blank) >= V) {
    throw nb::value_error(("transducer_loss: blank is " + std::to_string(blank) +
                           "; it must lie in 0.." + std::to_string(V) + " - 1.")
                              .c_str());
  }
  for (size_t u = 0; u < U; ++u) {
    const int32_t label = labels.data()[u];
    if (label < 0 || static_cast<size_t>(label) >= V || label == blank) {
      throw nb::value_error(("transducer_loss: label " + std::to_string(u) + " is " +
                             std::to_string(label) + "; it must lie in 0.." + std::to_string(V) +
                             " - 1 and not be blank (" + std::to_string(blank) + ").")
                                .c_str());
    }
  }
  earshot::TransducerLossOptions options;
  options.blank = blank;
  options.one_symbol_per_frame = one_symbol_per_frame;
  options.fastemit_lambda = fastemit_lambda;
  float* z = logits.data();
  const int32_t* y = labels.data();
  const nb::gil_scoped_release release;
  return earshot::TransducerLoss(z, T, U, V, y, options, earshot::kernels());
}

const earshot::Kernels& Find(const std::string& isa) {
  const earshot::Kernels* table = earshot::kernels_for(isa.c_str());
  if (table == nullptr) throw nb::value_error(("no instruction set '" + isa + "' here").c_str());
  return *table;
}

const float* DataOrNull(const std::optional<Input<float, 1>>& array) {
  return array.has_value() ? array->data() : nullptr;
}

void bind_kernel_tests(nb::module_& m) {
  m.def("_test_linear_f32", [](const std::string& isa, Input<float, 3> w,
                               std::optional<Input<float, 1>> bias, size_t M, Input<float, 2> x,
                               std::optional<Input<float, 2>> add_to) {
    const size_t T = x.shape(0), K = x.shape(1);
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
    std::vector<float> y(T * M);
    if (add_to) y.assign(add_to->data(), add_to->data() + T * M);
    Find(isa).linear_i8(tiles.data(), scale.data(), rowsum.data(), DataOrNull(bias), M, K,
                        xq.data(), xscale.data(), T, y.data(), M, add_to.has_value());
    return ToNumpy(std::move(y), {T, M});
  }, "isa"_a, "tiles"_a, "scale"_a, "rowsum"_a, "bias"_a.none(), "M"_a, "K"_a, "xq"_a, "xscale"_a,
     "add_to"_a.none() = nb::none());
  m.def("_test_quantize", [](const std::string& isa, Input<float, 1> x) {
    const size_t K = x.shape(0), Kp = (K + 63) / 64 * 64;
    std::vector<int8_t> q(Kp, 99);
    const float scale = Find(isa).quantize_s8(x.data(), K, Kp, q.data());
    return std::make_tuple(ToNumpy(std::move(q), {Kp}), scale);
  });
  m.def("_test_lstm_gates", [](const std::string& isa, Input<float, 1> pre, Input<float, 1> c) {
    const size_t H = c.shape(0);
    std::vector<float> state(c.data(), c.data() + H), h(H);
    Find(isa).lstm_gates(pre.data(), H, state.data(), h.data());
    return std::make_tuple(ToNumpy(std::move(state), {H}), ToNumpy(std::move(h), {H}));
  });
  m.def("_test_elementwise", [](const std::string& isa, const std::string& name, Input<float, 1> x,
                                float shift) {
    const earshot::Kernels& table = Find(isa);
    const size_t n = x.shape(0);
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

}  // namespace

void bind_signal(nb::module_& m) {
  earshot::kernels();  // an impossible EARSHOT_ISA fails here, at import

  m.def("isa", [] { return std::string(earshot::kernels().isa); },
        "Name of the instruction set in use.");
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const char* const* isa = earshot::available_isas(); *isa != nullptr; ++isa) {
      names.emplace_back(*isa);
    }
    return names;
  }, "Instruction sets that this CPU and this build have, fastest first.");

  nb::class_<earshot::Fbank>(m, "Fbank", "Streaming log mel filterbank features of 16 kHz audio.")
      .def(nb::init<size_t>(), "num_bins"_a = 80)
      .def_prop_ro("num_bins", &earshot::Fbank::num_bins)
      .def("accept_waveform", [](earshot::Fbank& self, Input<float, 1> samples) {
        RequireFinite("Fbank.accept_waveform", samples.data(), samples.shape(0));
        const float* data = samples.data();
        const size_t n = samples.shape(0);
        self.AcceptWaveform(data, n);
      }, "samples"_a)
      .def("input_finished", &earshot::Fbank::InputFinished)
      .def("frames", &TakeAll, "Frames finished since the last call, (T, num_bins).")
      .def("reset", &earshot::Fbank::Reset);

  m.def("fbank", [](Input<float, 1> samples, size_t num_bins) {
    RequireFinite("fbank", samples.data(), samples.shape(0));
    earshot::Fbank fbank(num_bins);
    const float* data = samples.data();
    const size_t n = samples.shape(0);
    {
      const nb::gil_scoped_release release;
      fbank.AcceptWaveform(data, n);
      fbank.InputFinished();
    }
    return TakeAll(fbank);
  }, "samples"_a, "num_bins"_a = 80, "Features of a whole recording, (T, num_bins).");

  m.def("transducer_loss", &Loss, "logits"_a.noconvert(), "labels"_a, "blank"_a = 0,
        "one_symbol_per_frame"_a = false, "fastemit_lambda"_a = 0.0,
        "Negative log likelihood of one utterance in nats; overwrites the logits with its gradient.");

  m.def("align_counts", [](Input<int32_t, 1> ref, Input<int32_t, 1> hyp) {
    const int32_t *r = ref.data(), *h = hyp.data();
    const size_t n = ref.shape(0), k = hyp.shape(0);
    earshot::AlignmentCounts counts;
    {
      const nb::gil_scoped_release release;
      counts = earshot::AlignCounts(r, n, h, k);
    }
    return std::make_tuple(counts.hits, counts.substitutions, counts.deletions, counts.insertions);
  }, "ref"_a, "hyp"_a, "Hits, substitutions, deletions and insertions of the best alignment.");

  bind_kernel_tests(m);
}

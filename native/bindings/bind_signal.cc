// bind_signal.cc: instruction sets, features, the transducer loss and alignment counts for Python.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "align.h"
#include "fbank.h"
#include "kernels/kernels.h"
#include "lstm_gradient.h"
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

// Ends of consecutive stretches of `size` tokens: they never fall, and the last is `size`.
void RequireEnds(const char* caller, const char* name, const int64_t* ends, size_t n, size_t size) {
  int64_t before = 0;
  for (size_t i = 0; i < n; before = ends[i++]) {
    if (ends[i] < before || static_cast<uint64_t>(ends[i]) > size) {
      throw nb::value_error((std::string(caller) + ": `" + name + "[" + std::to_string(i) + "]` is " +
                             std::to_string(ends[i]) + "; it must lie between " + std::to_string(before) +
                             " and " + std::to_string(size) + ". Give the running total of lengths.").c_str());
    }
  }
  if (static_cast<uint64_t>(before) != size) {
    throw nb::value_error((std::string(caller) + ": `" + name + "` goes to " + std::to_string(before) + " of " +
                           std::to_string(size) + " tokens; the last must be all. Give the running total of "
                           "lengths.").c_str());
  }
}

Output<float> TakeAll(earshot::Fbank& fbank) {
  const size_t frames = fbank.NumFramesReady();
  std::vector<float> values(frames * fbank.num_bins());
  fbank.TakeFrames(values.data(), frames);
  return ToNumpy(std::move(values), {frames, fbank.num_bins()});
}

// Labels are copied: the caller's memory may change between the check and the use.
std::vector<int32_t> CheckedLabels(const Input<int32_t, 1>& labels, size_t T, size_t width, size_t V, int32_t blank) {
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
  std::vector<int32_t> checked(labels.data(), labels.data() + U);
  for (size_t u = 0; u < U; ++u) {
    const int32_t label = checked[u];
    if (label < 0 || static_cast<size_t>(label) >= V || label == blank) {
      throw nb::value_error(("transducer_loss: label " + std::to_string(u) + " is " +
                             std::to_string(label) + "; it must lie in 0.." + std::to_string(V) +
                             " - 1 and not be blank (" + std::to_string(blank) + ").")
                                .c_str());
    }
  }
  return checked;
}

double Loss(InPlace<3> logits, Input<int32_t, 1> labels, int32_t blank, bool one_symbol_per_frame,
            double fastemit_lambda) {
  const size_t T = logits.shape(0), width = logits.shape(1), V = logits.shape(2);
  const std::vector<int32_t> checked = CheckedLabels(labels, T, width, V, blank);
  const earshot::TransducerLossOptions options{blank, one_symbol_per_frame, fastemit_lambda};
  float* z = logits.data();
  const nb::gil_scoped_release release;
  return earshot::TransducerLoss(z, T, checked.size(), V, checked.data(), options, earshot::kernels());
}

void RequireShape(bool right, const char* where) {
  if (!right) {
    throw nb::value_error((std::string(where) + ": the arrays' shapes do not belong together, or one is empty; they must be as "
                           "lstm_gradient.h and transducer_loss.h say.").c_str());
  }
}

// Does an array of `rows` have room for `frames` times `width`? Neither is 0 then.
bool Holds(size_t rows, size_t frames, size_t width) { return frames > 0 && width > 0 && frames <= rows / width; }

template <size_t N>
using Bf16 = nb::ndarray<int16_t, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

template <typename Array>
uint16_t* Bits(const Array& array) {
  return reinterpret_cast<uint16_t*>(array.data());
}

double LossBf16(Bf16<2> logits, Input<float, 1> bias, Input<int32_t, 1> labels, size_t frames, InPlace<1> d_bias,
                int32_t blank, bool one_symbol_per_frame, double fastemit_lambda) {
  const size_t V = logits.shape(1), width = labels.shape(0) + 1;
  RequireShape(bias.shape(0) == V && d_bias.shape(0) == V && Holds(logits.shape(0), frames, width), "transducer_loss_bf16");
  const std::vector<int32_t> checked = CheckedLabels(labels, frames, width, V, blank);
  const earshot::TransducerLossOptions options{blank, one_symbol_per_frame, fastemit_lambda};
  const nb::gil_scoped_release release;
  std::fill(Bits(logits) + frames * width * V, Bits(logits) + logits.shape(0) * V, uint16_t{0});
  return earshot::TransducerLoss(Bits(logits), bias.data(), frames, checked.size(), V, checked.data(), options,
                                 earshot::kernels(), d_bias.data());
}

void JoinTanh(Input<float, 2> encoded, Input<float, 2> predicted, Bf16<2> joint) {
  const size_t T = encoded.shape(0), width = predicted.shape(0), J = encoded.shape(1);
  RequireShape(J > 0 && predicted.shape(1) == J && joint.shape(1) == J && Holds(joint.shape(0), T, width), "join_tanh");
  const nb::gil_scoped_release release;
  earshot::JoinTanh(encoded.data(), predicted.data(), T, width - 1, J, earshot::kernels(), Bits(joint));
  std::fill(Bits(joint) + T * width * J, Bits(joint) + joint.shape(0) * J, uint16_t{0});
}

void JoinTanhBackward(Bf16<2> d_joint, Bf16<2> joint, InPlace<2> d_encoded, InPlace<2> d_predicted) {
  const size_t T = d_encoded.shape(0), width = d_predicted.shape(0), J = d_encoded.shape(1);
  RequireShape(J > 0 && d_predicted.shape(1) == J && joint.shape(1) == J && d_joint.shape(1) == J &&
                   Holds(joint.shape(0), T, width) && Holds(d_joint.shape(0), T, width),
               "join_tanh_backward");
  const nb::gil_scoped_release release;
  earshot::JoinTanhBackward(Bits(d_joint), Bits(joint), T, width - 1, J, d_encoded.data(), d_predicted.data());
}

earshot::LstmShape ShapeOf(const nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>& cells) {
  return {cells.shape(0), cells.shape(1), cells.shape(2)};
}

void Gates(InPlace<3> gates, Input<float, 1> bias, Input<float, 2> c0, InPlace<3> cells, InPlace<3> cell_tanh) {
  const earshot::LstmShape s = ShapeOf(cells);
  RequireShape(cells.size() > 0 && gates.shape(0) == s.frames && gates.shape(1) == s.batch && gates.shape(2) == 4 * s.hidden &&
                   bias.shape(0) == 4 * s.hidden && c0.shape(0) == s.batch && c0.shape(1) == s.hidden &&
                   cell_tanh.shape(0) == s.frames && cell_tanh.shape(1) == s.batch && cell_tanh.shape(2) == s.hidden,
               "lstm_gates");
  const nb::gil_scoped_release release;
  earshot::LstmGates(s, bias.data(), c0.data(), gates.data(), cells.data(), cell_tanh.data(), earshot::kernels());
}

void BackwardFrame(size_t t, Input<float, 3> gates, InPlace<3> cells, Input<float, 3> cell_tanh, Input<float, 2> c0,
                   Input<float, 3> d_output, std::optional<Input<int16_t, 2>> recurrent, InPlace<2> d_cell, Bf16<3> d_gates) {
  const earshot::LstmShape s = ShapeOf(cells);
  const auto frames = [&](const auto& a, size_t width) {
    return a.shape(0) == s.frames && a.shape(1) == s.batch && a.shape(2) == width;
  };
  const auto rows = [&](const auto& a) { return a.shape(0) == s.batch && a.shape(1) == s.hidden; };
  RequireShape(cells.size() > 0 && t < s.frames && frames(gates, 4 * s.hidden) && frames(cell_tanh, s.hidden) && frames(d_output, s.hidden) &&
                   frames(d_gates, 4 * s.hidden) && rows(c0) && rows(d_cell) && (!recurrent || rows(*recurrent)),
               "lstm_backward_frame");
  const uint16_t* from_next = recurrent ? reinterpret_cast<const uint16_t*>(recurrent->data()) : nullptr;
  earshot::LstmBackwardFrame(s, t, gates.data(), cells.data(), cell_tanh.data(), c0.data(), d_output.data(), from_next,
                             d_cell.data(), Bits(d_gates));
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

  m.def("transducer_loss_bf16", &LossBf16, "logits"_a.noconvert(), "bias"_a, "labels"_a, "frames"_a, "d_bias"_a.noconvert(),
        "blank"_a = 0, "one_symbol_per_frame"_a = false, "fastemit_lambda"_a = 0.0,
        "The same of logits (rows, symbols) in bfloat16, passed as int16, without their bias; rows beyond the lattice "
        "become 0, and d_bias gets the bias's gradient added.");
  m.def("join_tanh", &JoinTanh, "encoded"_a, "predicted"_a, "joint"_a.noconvert(),
        "tanh(encoded[t] + predicted[u]) into the first rows of joint, bfloat16 as int16; the others become 0.");
  m.def("join_tanh_backward", &JoinTanhBackward, "d_joint"_a.noconvert(), "joint"_a.noconvert(), "d_encoded"_a.noconvert(),
        "d_predicted"_a.noconvert(), "The gradient of join_tanh.");
  m.def("lstm_gates", &Gates, "gates"_a.noconvert(), "bias"_a, "c0"_a, "cells"_a.noconvert(), "cell_tanh"_a.noconvert(),
        "Activations and cells of an LSTM layer from the sums of its products; all arrays float32.");
  m.def("lstm_backward_frame", &BackwardFrame, "t"_a, "gates"_a, "cells"_a.noconvert(), "cell_tanh"_a, "c0"_a, "d_output"_a,
        "recurrent"_a.noconvert().none(), "d_cell"_a.noconvert(), "d_gates"_a.noconvert(),
        "One frame of an LSTM layer's backward pass; bfloat16 arrays are passed as int16.");

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

  m.def("align_batch", [](Input<int32_t, 1> ref, Input<int64_t, 1> ref_ends, Input<int32_t, 1> hyp,
                          Input<int64_t, 1> hyp_ends) {
    const size_t n = ref_ends.shape(0);
    if (hyp_ends.shape(0) != n) {
      throw nb::value_error(("align_batch: " + std::to_string(n) + " references and " +
                             std::to_string(hyp_ends.shape(0)) + " hypotheses; there must be as many. "
                             "Give both ends for every utterance.").c_str());
    }
    RequireEnds("align_batch", "ref_ends", ref_ends.data(), n, ref.shape(0));
    RequireEnds("align_batch", "hyp_ends", hyp_ends.data(), n, hyp.shape(0));
    std::vector<int32_t> counts(4 * n), pairs, rows;
    {
      const nb::gil_scoped_release release;
      std::vector<earshot::AlignmentError> errors;
      for (size_t i = 0; i < n; ++i) {
        const int64_t r = i ? ref_ends.data()[i - 1] : 0, h = i ? hyp_ends.data()[i - 1] : 0;
        const size_t before = errors.size();
        const earshot::AlignmentCounts found = earshot::AlignErrors(
            ref.data() + r, static_cast<size_t>(ref_ends.data()[i] - r), hyp.data() + h,
            static_cast<size_t>(hyp_ends.data()[i] - h), &errors);
        counts[4 * i] = static_cast<int32_t>(found.hits);
        counts[4 * i + 1] = static_cast<int32_t>(found.substitutions);
        counts[4 * i + 2] = static_cast<int32_t>(found.deletions);
        counts[4 * i + 3] = static_cast<int32_t>(found.insertions);
        rows.insert(rows.end(), errors.size() - before, static_cast<int32_t>(i));
      }
      pairs.reserve(2 * errors.size());
      for (const earshot::AlignmentError& error : errors) pairs.push_back(error.ref), pairs.push_back(error.hyp);
    }
    const size_t num_errors = rows.size();
    return std::make_tuple(ToNumpy(std::move(counts), {n, 4}), ToNumpy(std::move(rows), {num_errors}),
                           ToNumpy(std::move(pairs), {num_errors, 2}));
  }, "ref"_a, "ref_ends"_a, "hyp"_a, "hyp_ends"_a,
  "Counts (n, 4) as align_counts; the row of every error; its tokens (e, 2), -1 where there is none.");

  m.def("edit_distances", [](Input<int32_t, 1> tokens, Input<int64_t, 1> ends) {
    const size_t n = ends.shape(0);
    RequireEnds("edit_distances", "ends", ends.data(), n, tokens.shape(0));
    std::vector<int32_t> distances(n * n);
    {
      const nb::gil_scoped_release release;
      earshot::EditDistances(tokens.data(), ends.data(), n, distances.data());
    }
    return ToNumpy(std::move(distances), {n, n});
  }, "tokens"_a, "ends"_a, "Errors (n, n) of each sequence of tokens against each.");
}

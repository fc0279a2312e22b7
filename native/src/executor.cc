// executor.cc: the ops of docs/formats/ear.md over many streams at once.
//
// Products that do not depend on earlier frames run over all frames of all
// streams in one go, so weights are read once. Only the recurrent product of an
// LSTM goes frame by frame, there over all streams. Row counts differ from
// stream to stream, so the frames of a call lie one stream after another.
#include "executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"
#include "phrases.h"

namespace earshot {
namespace {

// Sum of n values in 16 fixed lanes: the compiler may vectorise it, and the
// order depends on n alone.
template <typename Term>
float LaneSum(size_t n, Term term) {
  float lane[16] = {};
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (size_t j = 0; j < 16; ++j) lane[j] += term(i + j);
  }
  for (size_t j = 0; i < n; ++i, ++j) lane[j] += term(i);
  for (size_t width = 8; width > 0; width /= 2) {
    for (size_t j = 0; j < width; ++j) lane[j] += lane[j + width];
  }
  return lane[0];
}

// The largest of n values, none of which is NaN or it does not count; in lanes, for the compiler.
float Highest(const float* x, size_t n) {
  float lane[16];
  std::fill(lane, lane + 16, -HUGE_VALF);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (size_t j = 0; j < 16; ++j) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
  }
  for (; i < n; ++i) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
  return *std::max_element(lane, lane + 16);
}

}  // namespace

GraphState::GraphState(std::shared_ptr<const Graph> graph)
    : graph_(std::move(graph)), floats_(graph_->state_floats(), 0.0f), counters_(graph_->state_counters(), 0) {}

void AttentionTrace::Clear(size_t frames) {
  begin.assign(frames + 1, 0);
  entry.clear();
  weight.clear();
  queries.assign(frames * query_width, 0.0f);
}

void AttentionTrace::Erase(size_t frame, size_t frames) {
  const int32_t first = begin[frame], items = begin[frame + frames] - first;
  entry.erase(entry.begin() + first, entry.begin() + first + items);
  weight.erase(weight.begin() + first, weight.begin() + first + items);
  const auto gone = begin.begin() + static_cast<std::ptrdiff_t>(frame);
  begin.erase(gone, gone + static_cast<std::ptrdiff_t>(frames));
  const auto asked = queries.begin() + static_cast<std::ptrdiff_t>(frame * query_width);
  queries.erase(asked, asked + static_cast<std::ptrdiff_t>(frames * query_width));
  for (size_t i = frame; i < begin.size(); ++i) begin[i] -= items;
}

void GraphState::Reset() {
  std::fill(floats_.begin(), floats_.end(), 0.0f);
  std::fill(counters_.begin(), counters_.end(), 0);
}

Executor::Executor(std::shared_ptr<const Graph> graph)
    : graph_(std::move(graph)),
      values_(graph_->values().size()),
      data_(graph_->values().size()),
      ids_(graph_->values().size()),
      id_data_(graph_->values().size()),
      rows_(graph_->clocks().size()),
      rows_known_(graph_->clocks().size()) {}

// Grows and never shrinks: after the largest call there are no allocations.
float* Executor::Buffer(std::vector<float>* buffer, size_t size) {
  if (buffer->size() < size) buffer->resize(size);
  return buffer->data();
}

const float* Executor::output(size_t output, size_t item) const {
  const int value = graph_->outputs()[output];
  const Value& v = graph_->value(value);
  return data_[static_cast<size_t>(value)] + rows_[static_cast<size_t>(v.clock)].offset[item] * v.width;
}

size_t Executor::output_frames(size_t output, size_t item) const {
  return rows_[static_cast<size_t>(graph_->value(graph_->outputs()[output]).clock)].frames(item);
}

void Executor::Step(const Item* items, size_t count) {
  items_ = items;
  count_ = count;
  std::fill(rows_known_.begin(), rows_known_.end(), char{0});
  Rows& input_rows = rows_[0];
  input_rows.offset.resize(count + 1);
  input_rows.offset[0] = 0;
  for (size_t b = 0; b < count; ++b) {
    if (graph_->HasState() && items[b].state == nullptr) throw std::logic_error("a graph with a state was run without one");
    input_rows.offset[b + 1] = input_rows.offset[b] + items[b].frames;
  }
  rows_known_[0] = 1;
  for (size_t i = 0; i < graph_->inputs().size(); ++i) {
    const size_t value = static_cast<size_t>(graph_->inputs()[i]);
    const Value& v = graph_->values()[value];
    if (v.ids) {
      // Copied even for one stream: the caller's memory may change between the check and the look-up.
      std::vector<int32_t>& ids = ids_[value];
      if (ids.size() < input_rows.total()) ids.resize(input_rows.total());
      for (size_t b = 0; b < count; ++b) {
        if (items[b].frames > 0) std::memcpy(ids.data() + input_rows.offset[b], items[b].inputs[i], items[b].frames * sizeof(int32_t));
      }
      id_data_[value] = ids.data();
      for (size_t t = 0; t < input_rows.total(); ++t) {
        const int32_t id = id_data_[value][t];
        if (id >= 0 && static_cast<size_t>(id) >= graph_->id_limit()) {
          throw std::invalid_argument("y: id " + std::to_string(id) + " at position " + std::to_string(t) +
                                      "; ids must be below " + std::to_string(graph_->id_limit()) + ".");
        }
      }
    } else if (count == 1) {
      data_[value] = static_cast<const float*>(items[0].inputs[i]);
    } else {
      float* to = Buffer(&values_[value], input_rows.total() * v.width);
      for (size_t b = 0; b < count; ++b) {
        if (items[b].frames > 0) {
          std::memcpy(to + input_rows.offset[b] * v.width, items[b].inputs[i], items[b].frames * v.width * sizeof(float));
        }
      }
      data_[value] = to;
    }
  }
  for (const Node& node : graph_->nodes()) {
    const Value& in = graph_->value(node.in[0]);
    const Value& out = graph_->value(node.out);
    const Rows& in_rows = rows_[static_cast<size_t>(in.clock)];
    Rows& out_rows = rows_[static_cast<size_t>(out.clock)];
    if (!rows_known_[static_cast<size_t>(out.clock)]) {
      rows_known_[static_cast<size_t>(out.clock)] = 1;
      out_rows.offset.resize(count + 1);
      out_rows.offset[0] = 0;
      for (size_t b = 0; b < count; ++b) {
        size_t frames = in_rows.frames(b);
        if (node.op == Op::kStack) {
          frames += static_cast<size_t>(items[b].state->counters()[static_cast<size_t>(node.counter)]);
          frames = items[b].flush ? (frames + node.factor - 1) / node.factor : frames / node.factor;
        } else {
          frames = frames > node.History() ? frames - node.History() : 0;
        }
        out_rows.offset[b + 1] = out_rows.offset[b] + frames;
      }
    }
    float* to = Buffer(&values_[static_cast<size_t>(node.out)], out_rows.total() * out.width);
    data_[static_cast<size_t>(node.out)] = to;
    if (node.when >= 0) {
      RunGated(node, in_rows);
    } else {
      const float* a = in.ids ? nullptr : data_[static_cast<size_t>(node.in[0])];
      const float* b = node.in[1] >= 0 ? data_[static_cast<size_t>(node.in[1])] : nullptr;
      eval_ids_ = in.ids ? id_data_[static_cast<size_t>(node.in[0])] : nullptr;
      Eval(node, in_rows, out_rows, a, b, to);
    }
  }
}

// Gathers the frames whose gate is open, runs the op on those alone, and puts
// the results back: its state then moves on open frames only, by construction.
void Executor::RunGated(const Node& node, const Rows& rows) {
  const float* gate = data_[static_cast<size_t>(node.when)];
  const bool ids = node.op == Op::kEmbedding;
  const size_t in_width = node.in_width, out_width = node.out_width;
  const float* a = ids ? nullptr : data_[static_cast<size_t>(node.in[0])];
  const float* b = node.in[1] >= 0 ? data_[static_cast<size_t>(node.in[1])] : nullptr;
  active_.clear();
  active_rows_.offset.resize(count_ + 1);
  active_rows_.offset[0] = 0;
  for (size_t item = 0; item < count_; ++item) {
    for (size_t t = rows.offset[item]; t < rows.offset[item + 1]; ++t) {
      if (!(gate[t] < 0.5f)) active_.push_back(t);
    }
    active_rows_.offset[item + 1] = active_.size();
  }
  const size_t n = active_.size();
  if (ids) {
    if (gate_ids_.size() < n) gate_ids_.resize(n);
    for (size_t i = 0; i < n; ++i) gate_ids_[i] = id_data_[static_cast<size_t>(node.in[0])][active_[i]];
    eval_ids_ = gate_ids_.data();
  } else {
    Buffer(&gate_in_a_, n * in_width);
    for (size_t i = 0; i < n; ++i) std::memcpy(&gate_in_a_[i * in_width], a + active_[i] * in_width, in_width * sizeof(float));
    if (b != nullptr) {
      Buffer(&gate_in_b_, n * in_width);
      for (size_t i = 0; i < n; ++i) std::memcpy(&gate_in_b_[i * in_width], b + active_[i] * in_width, in_width * sizeof(float));
    }
  }
  float* results = Buffer(&gate_out_, n * out_width);
  Eval(node, active_rows_, active_rows_, gate_in_a_.data(), b != nullptr ? gate_in_b_.data() : nullptr, results);
  float* out = values_[static_cast<size_t>(node.out)].data();
  for (size_t item = 0; item < count_; ++item) {
    float* held = node.skipped == Skipped::kHold ? items_[item].state->floats() + node.hold_offset : nullptr;
    size_t i = active_rows_.offset[item];
    for (size_t t = rows.offset[item]; t < rows.offset[item + 1]; ++t) {
      const float* from = nullptr;  // zeros
      if (i < active_rows_.offset[item + 1] && active_[i] == t) {
        from = results + i++ * out_width;
        if (held != nullptr) std::memcpy(held, from, out_width * sizeof(float));
      } else if (held != nullptr) {
        from = held;
      } else if (node.skipped == Skipped::kPass) {
        from = a + t * in_width;
      }
      if (from != nullptr) {
        std::memcpy(out + t * out_width, from, out_width * sizeof(float));
      } else {
        std::memset(out + t * out_width, 0, out_width * sizeof(float));
      }
    }
  }
}

void Executor::Eval(const Node& node, const Rows& in_rows, const Rows& out_rows, const float* a, const float* b,
                    float* out) {
  const Kernels& kernel = kernels();
  const size_t frames = out_rows.total(), width = node.out_width;
  switch (node.op) {
    case Op::kNormalize:
      for (size_t t = 0; t < frames; ++t) {
        for (size_t i = 0; i < width; ++i) out[t * width + i] = (a[t * width + i] - node.mean[i]) * node.gain[i];
      }
      break;
    case Op::kStack:
      EvalStack(node, in_rows, out_rows, a, out);
      break;
    case Op::kLinear:
      Linear(node.weight, node.bias, a, node.in_width, frames, out, width, false);
      break;
    case Op::kLstm:
      EvalLstm(node, in_rows, a, out);
      break;
    case Op::kLayerNorm:
      for (size_t t = 0; t < frames; ++t) {
        const float* x = a + t * width;
        float* y = out + t * width;
        const float mean = LaneSum(width, [x](size_t i) { return x[i]; }) / static_cast<float>(width);
        const float variance =
            LaneSum(width, [x, mean](size_t i) { return (x[i] - mean) * (x[i] - mean); }) / static_cast<float>(width);
        const float scale = 1.0f / std::sqrt(variance + node.eps);
        for (size_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * scale * node.gain[i] + node.bias[i];
      }
      break;
    case Op::kRmsNorm:
      for (size_t t = 0; t < frames; ++t) {
        const float* x = a + t * width;
        float* y = out + t * width;
        const float power = LaneSum(width, [x](size_t i) { return x[i] * x[i]; }) / static_cast<float>(width);
        const float scale = 1.0f / std::sqrt(power + node.eps);
        for (size_t i = 0; i < width; ++i) y[i] = x[i] * scale * node.gain[i];
      }
      break;
    case Op::kEmbedding:
      EvalEmbedding(node, in_rows, out);
      break;
    case Op::kConv1d:
      EvalConv(node, in_rows, out_rows, a, out);
      break;
    case Op::kPhraseAttention:
      EvalPhraseAttention(node, in_rows, a, out);
      break;
    case Op::kCausalAttention:
      EvalAttention(node, in_rows, a, out);
      break;
    case Op::kAdd:
      for (size_t i = 0; i < frames * width; ++i) out[i] = a[i] + b[i];
      break;
    case Op::kRelu:
      for (size_t i = 0; i < frames * width; ++i) out[i] = a[i] > 0.0f ? a[i] : 0.0f;
      break;
    case Op::kTanh:
    case Op::kSigmoid:
    case Op::kLogSoftmax: {
      if (frames > 0) std::memcpy(out, a, frames * width * sizeof(float));
      const auto apply = node.op == Op::kTanh ? kernel.tanh_f32
                         : node.op == Op::kSigmoid ? kernel.sigmoid_f32 : kernel.log_softmax_f32;
      // Vector by vector: a value's place in a kernel's vector then depends on
      // nothing but its place in its frame.
      for (size_t t = 0; t < frames; ++t) apply(out + t * width, width);
      break;
    }
  }
}

void Executor::Linear(const Matrix& matrix, const float* bias, const float* x, size_t ldx, size_t frames, float* y,
                      size_t ldy, bool accumulate) {
  if (frames == 0) return;
  const Kernels& kernel = kernels();
  if (matrix.f32 != nullptr) {
    kernel.linear_f32(matrix.f32, bias, matrix.rows, matrix.columns, x, ldx, frames, y, ldy, accumulate);
    return;
  }
  const size_t padded = matrix.padded_columns;
  if (quantised_.size() < frames * padded) quantised_.resize(frames * padded);
  if (scales_.size() < frames) scales_.resize(frames);
  for (size_t t = 0; t < frames; ++t) {
    scales_[t] = kernel.quantize_s8(x + t * ldx, matrix.columns, padded, quantised_.data() + t * padded);
  }
  if (matrix.tiles == nullptr) {
    const size_t needed = packed_scratch_bytes(matrix.columns, frames);
    if (gathered_.size() < needed) gathered_.resize(needed);
    kernel.linear_packed(&matrix.packed, bias, quantised_.data(), scales_.data(), frames, y, ldy, accumulate,
                         gathered_.data());
    return;
  }
  kernel.linear_i8(matrix.tiles, matrix.scale, matrix.rowsum, bias, matrix.rows, matrix.columns, quantised_.data(),
                   scales_.data(), frames, y, ldy, accumulate);
}

void Executor::EvalLstm(const Node& node, const Rows& rows, const float* x, float* out) {
  const Kernels& kernel = kernels();
  const size_t H = node.hidden, gates = 4 * H;
  if (node.weight_h.rows == 0) return EvalJoinedLstm(node, rows, x, out);
  float* pre = Buffer(&pre_, rows.total() * gates);
  Linear(node.weight, node.bias, x, node.in_width, rows.total(), pre, gates, false);
  if (count_ == 1) {
    float* h = State(node, 0);
    float* c = h + H;
    for (size_t t = 0; t < rows.total(); ++t) {
      Linear(node.weight_h, nullptr, h, H, 1, pre + t * gates, gates, true);
      kernel.lstm_gates(pre + t * gates, H, c, h);
      std::memcpy(out + t * H, h, H * sizeof(float));
    }
    return;
  }
  size_t longest = 0;
  for (size_t item = 0; item < count_; ++item) longest = std::max(longest, rows.frames(item));
  float* step = Buffer(&step_, count_ * gates);
  float* hidden = Buffer(&hidden_, count_ * H);
  for (size_t t = 0; t < longest; ++t) {
    size_t n = 0;
    for (size_t item = 0; item < count_; ++item) {
      if (t >= rows.frames(item)) continue;
      std::memcpy(hidden + n * H, State(node, item), H * sizeof(float));
      std::memcpy(step + n * gates, pre + (rows.offset[item] + t) * gates, gates * sizeof(float));
      ++n;
    }
    Linear(node.weight_h, nullptr, hidden, H, n, step, gates, true);
    n = 0;
    for (size_t item = 0; item < count_; ++item) {
      if (t >= rows.frames(item)) continue;
      float* h = State(node, item);
      kernel.lstm_gates(step + n * gates, H, h + H, h);
      std::memcpy(out + (rows.offset[item] + t) * H, h, H * sizeof(float));
      ++n;
    }
  }
}

// One matrix for [x, h]: a frame of a stream is one product, and all streams share it.
void Executor::EvalJoinedLstm(const Node& node, const Rows& rows, const float* x, float* out) {
  const Kernels& kernel = kernels();
  const size_t H = node.hidden, gates = 4 * H, width = node.in_width;
  size_t longest = 0;
  for (size_t item = 0; item < count_; ++item) longest = std::max(longest, rows.frames(item));
  float* joined = Buffer(&hidden_, count_ * (width + H));
  float* pre = Buffer(&pre_, count_ * gates);
  for (size_t t = 0; t < longest; ++t) {
    size_t n = 0;
    for (size_t item = 0; item < count_; ++item) {
      if (t >= rows.frames(item)) continue;
      float* to = joined + n++ * (width + H);
      std::memcpy(to, x + (rows.offset[item] + t) * width, width * sizeof(float));
      std::memcpy(to + width, State(node, item), H * sizeof(float));
    }
    Linear(node.weight, node.bias, joined, width + H, n, pre, gates, false);
    n = 0;
    for (size_t item = 0; item < count_; ++item) {
      if (t >= rows.frames(item)) continue;
      float* h = State(node, item);
      kernel.lstm_gates(pre + n++ * gates, H, h + H, h);
      std::memcpy(out + (rows.offset[item] + t) * H, h, H * sizeof(float));
    }
  }
}

void Executor::EvalStack(const Node& node, const Rows& in_rows, const Rows& out_rows, const float* x, float* out) {
  const size_t width = node.in_width, joined = node.out_width;
  if (node.factor == 1) {
    if (in_rows.total() > 0) std::memcpy(out, x, in_rows.total() * width * sizeof(float));
    return;
  }
  for (size_t item = 0; item < count_; ++item) {
    float* kept = State(node, item);
    int32_t& counter = items_[item].state->counters()[static_cast<size_t>(node.counter)];
    const size_t waiting = static_cast<size_t>(counter);
    const size_t frames = in_rows.frames(item), made = out_rows.frames(item);
    const float* from = x + in_rows.offset[item] * width;
    float* to = out + out_rows.offset[item] * joined;
    // Frame i of [waiting ; new], the last one again beyond the end.
    const auto frame = [&](size_t i) {
      i = std::min(i, waiting + frames - 1);
      return i < waiting ? kept + i * width : from + (i - waiting) * width;
    };
    for (size_t i = 0; i < made * node.factor; ++i) std::memcpy(to + i * width, frame(i), width * sizeof(float));
    const size_t used = std::min(made * node.factor, waiting + frames);
    const size_t left = waiting + frames - used;
    // What stays moves to the front; when nothing was made it is in place already.
    for (size_t i = 0; i < left; ++i) std::memmove(kept + i * width, frame(used + i), width * sizeof(float));
    counter = static_cast<int32_t>(left);
  }
}

void Executor::EvalConv(const Node& node, const Rows& in_rows, const Rows& out_rows, const float* x, float* out) {
  const size_t width = node.in_width, made_width = node.out_width, history = node.History();
  for (size_t item = 0; item < count_; ++item) {
    const size_t frames = in_rows.frames(item), made = out_rows.frames(item);
    const float* from = x + in_rows.offset[item] * width;
    float* to = out + out_rows.offset[item] * made_width;
    if (node.causal && history > 0) {
      float* kept = State(node, item);
      float* joined = Buffer(&window_, (history + frames) * width);
      std::memcpy(joined, kept, history * width * sizeof(float));
      if (frames > 0) std::memcpy(joined + history * width, from, frames * width * sizeof(float));
      std::memcpy(kept, joined + frames * width, history * width * sizeof(float));
      from = joined;
    }
    if (node.depthwise) {
      for (size_t t = 0; t < made; ++t) {
        float* y = to + t * made_width;
        for (size_t w = 0; w < width; ++w) y[w] = node.bias != nullptr ? node.bias[w] : 0.0f;
        for (size_t k = 0; k < node.kernel; ++k) {
          const float* tap = from + (t + k * node.dilation) * width;
          for (size_t w = 0; w < width; ++w) y[w] += node.table[w * node.kernel + k] * tap[w];
        }
      }
    } else if (node.dilation == 1 || node.kernel == 1) {
      // The taps of a frame lie one after another: windows overlap, nothing is copied.
      Linear(node.weight, node.bias, from, width, made, to, made_width, false);
    } else {
      const size_t columns = node.weight.columns;
      float* taps = Buffer(&step_, made * columns);
      for (size_t t = 0; t < made; ++t) {
        for (size_t k = 0; k < node.kernel; ++k) {
          std::memcpy(taps + t * columns + k * width, from + (t + k * node.dilation) * width, width * sizeof(float));
        }
      }
      Linear(node.weight, node.bias, taps, columns, made, to, made_width, false);
    }
  }
}

// Softmax over the entries of the list and the no-bias entry, whose value is 0, head by head; the result
// is the sum of the entries' values by their weights.
//
// Keys are read block by block for several frames at once, and only entries that can still count
// are written down. Which those are, in the end, depends on the frame alone: so do all bits.
void Executor::EvalPhraseAttention(const Node& node, const Rows& rows, const float* x, float* out) {
  constexpr size_t kFrames = 16, kEntries = 512;
  const Kernels& kernel = kernels();
  const size_t heads = node.heads, keys = node.in_width, width = node.out_width;
  const size_t key_width = keys / heads, value_width = width / heads, padded = (keys + 63) / 64 * 64;
  const float scale = 1.0f / std::sqrt(static_cast<float>(key_width));
  if (rows.total() > 0) std::memset(out, 0, rows.total() * width * sizeof(float));
  for (size_t item = 0; item < count_; ++item) {
    const PhraseList* list = items_[item].phrases;
    const PhraseMemory* memory = list != nullptr ? list->Find(node.keys) : nullptr;
    AttentionTrace* trace = items_[item].trace;
    if (trace != nullptr && trace->query_width > 0) {
      trace->queries.insert(trace->queries.end(), x + rows.offset[item] * keys, x + rows.offset[item + 1] * keys);
    }
    if (memory == nullptr || memory->key_width != keys || memory->value_width != width) {
      for (size_t t = 0; trace != nullptr && t < rows.frames(item); ++t) trace->begin.push_back(trace->begin.back());
      continue;
    }
    for (size_t first = rows.offset[item]; first < rows.offset[item + 1]; first += kFrames) {
      const size_t frames = std::min(kFrames, rows.offset[item + 1] - first), asked = frames * heads;
      // One query a frame and head, zero where other heads are: then all heads share a matrix.
      float* queries = Buffer(&queries_, asked * keys);
      std::memset(queries, 0, asked * keys * sizeof(float));
      float* scores = Buffer(&scores_, asked * kEntries);
      float* highest = Buffer(&highest_, asked);
      float* no_bias = Buffer(&no_bias_, asked);
      if (near_.size() < asked) near_.resize(asked);
      if (!node.exact && quantised_.size() < asked * padded) quantised_.resize(asked * padded);
      if (scales_.size() < asked) scales_.resize(asked);
      for (size_t q = 0; q < asked; ++q) {
        const size_t at = q % heads * key_width;
        float* query = queries + q * keys + at;
        const float* from = x + (first + q / heads) * keys + at;
        for (size_t k = 0; k < key_width; ++k) query[k] = from[k] * scale;
        const float* none = node.no_bias_key + at;
        highest[q] = no_bias[q] = LaneSum(key_width, [query, none](size_t k) { return query[k] * none[k]; });
        near_[q].clear();
        if (!node.exact) scales_[q] = kernel.quantize_s8(queries + q * keys, keys, padded, quantised_.data() + q * padded);
      }
      // Entries that are seen: one stretch, or two of which the second comes behind the first.
      std::pair<size_t, size_t> seen[2] = {{0, memory->entries}, {0, 0}};
      if (node.next_only) {
        seen[0] = list->Following(-1);
        if (items_[item].last_piece >= 0) seen[1] = list->Following(items_[item].last_piece);
      }
      for (const auto& [begin, end] : seen) for (size_t entry = begin / 16 * 16; entry < end; entry += kEntries) {
        const size_t count = std::min(kEntries, end - entry);
        if (node.exact) {
          kernel.linear_f32(memory->exact_keys.data() + entry * keys, nullptr, count, keys, queries, keys, asked, scores, kEntries, false);
        } else {
          kernel.linear_i8(memory->tiles.data() + entry * padded, memory->key_scale.data() + entry, memory->rowsum.data() + entry,
                           nullptr, count, keys, quantised_.data(), scales_.data(), asked, scores, kEntries, false);
        }
        for (size_t q = 0; q < asked; ++q) {
          const float* row = scores + q * kEntries;
          // Blocks of which nothing comes near are passed over: nearly all.
          float best = highest[q];
          for (size_t at = entry < begin ? begin - entry : 0; at < count; at += 32) {
            const size_t to = std::min(at + 32, count);
            const float most = Highest(row + at, to - at);
            if (!(most > best - kAttentionReach)) continue;
            best = std::max(best, most);
            for (size_t i = at; i < to; ++i) {
              if (row[i] > best - kAttentionReach) near_[q].push_back({static_cast<int32_t>(entry + i), row[i]});
            }
          }
          highest[q] = best;
        }
      }
      for (size_t t = 0; t < frames; ++t) {
        seen_.clear();
        for (size_t head = 0; head < heads; ++head) {
          const size_t q = t * heads + head;
          float total = std::exp(no_bias[q] - highest[q]);
          size_t kept = 0;
          for (const Near& near : near_[q]) {
            if (!(near.score > highest[q] - kAttentionReach)) continue;  // written down before a higher one came
            const float share = std::exp(near.score - highest[q]);
            total += share;
            near_[q][kept++] = {near.entry, share};
          }
          near_[q].resize(kept);
          float* y = out + (first + t) * width + head * value_width;
          for (const Near& near : near_[q]) {
            const float weight = near.score / total;
            const size_t from = static_cast<size_t>(near.entry) * width + head * value_width;
            if (node.exact) {
              for (size_t k = 0; k < value_width; ++k) y[k] += weight * memory->exact_values[from + k];
            } else {
              const float unit = weight * memory->value_scale[static_cast<size_t>(near.entry)];
              for (size_t k = 0; k < value_width; ++k) y[k] += unit * static_cast<float>(memory->values[from + k]);
            }
            if (trace != nullptr) seen_.push_back({near.entry, weight / static_cast<float>(heads)});
          }
        }
        if (trace == nullptr) continue;
        std::stable_sort(seen_.begin(), seen_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        for (size_t i = 0; i < seen_.size(); ++i) {
          if (i > 0 && seen_[i].first == seen_[i - 1].first) {
            trace->weight.back() += seen_[i].second;
          } else {
            trace->entry.push_back(seen_[i].first);
            trace->weight.push_back(seen_[i].second);
          }
        }
        trace->begin.push_back(static_cast<int32_t>(trace->entry.size()));
      }
    }
  }
}

// Each frame looks at itself and at up to `window - 1` frames before it, oldest first, so that the
// order of sums does not depend on how frames are cut into calls.
//
// Keys and values of earlier frames lie in a ring of R = window - 1 rows of [key, value]. The counter
// says how many were put there, up to 2 R - 1, from where it goes back to R: below R it is also the
// number of rows that are filled, and modulo R it is always the row that comes next.
void Executor::EvalAttention(const Node& node, const Rows& rows, const float* x, float* out) {
  const size_t width = node.out_width, head_width = width / node.heads, ring = node.window - 1;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_width));
  float* share = Buffer(&share_, node.window);
  for (size_t item = 0; item < count_; ++item) {
    float* kept = ring > 0 ? State(node, item) : nullptr;
    int32_t none = 0;
    int32_t& seen = ring > 0 ? items_[item].state->counters()[static_cast<size_t>(node.counter)] : none;
    for (size_t t = rows.offset[item]; t < rows.offset[item + 1]; ++t) {
      const float* query = x + t * 3 * width;
      const float* fresh = query + width;  // key, then value
      float* y = out + t * width;
      const size_t count = static_cast<size_t>(seen);
      const size_t past = std::min(count, ring);
      // Row i of what is seen, 0 the oldest, `past` the frame itself.
      const auto row = [&](size_t i) { return i == past ? fresh : kept + (count - past + i) % ring * 2 * width; };
      for (size_t head = 0; head < node.heads; ++head) {
        const size_t at = head * head_width;
        const float* q = query + at;
        float highest = -HUGE_VALF;
        for (size_t i = 0; i <= past; ++i) {
          const float* key = row(i) + at;
          share[i] = scale * LaneSum(head_width, [q, key](size_t k) { return q[k] * key[k]; }) +
                     node.table[head * node.window + past - i];
          highest = std::max(highest, share[i]);
        }
        float total = 0.0f;
        for (size_t i = 0; i <= past; ++i) {
          share[i] = std::exp(share[i] - highest);
          total += share[i];
        }
        for (size_t k = 0; k < head_width; ++k) y[at + k] = 0.0f;
        for (size_t i = 0; i <= past; ++i) {
          const float weight = share[i] / total;
          const float* value = row(i) + width + at;
          for (size_t k = 0; k < head_width; ++k) y[at + k] += weight * value[k];
        }
      }
      if (ring > 0) {
        std::memcpy(kept + count % ring * 2 * width, fresh, 2 * width * sizeof(float));
        seen = static_cast<int32_t>(count + 1 < 2 * ring ? count + 1 : ring);
      }
    }
  }
}

void Executor::EvalEmbedding(const Node& node, const Rows& rows, float* out) {
  const size_t width = node.out_width;
  for (size_t t = 0; t < rows.total(); ++t) {
    const int32_t id = eval_ids_[t];
    if (id < 0) {
      std::memset(out + t * width, 0, width * sizeof(float));
    } else if (node.table == nullptr && node.weight.tiles == nullptr) {  // 4 bits: 8 by 8, see i4_r16x4
      const size_t row = static_cast<size_t>(id);
      const PackedWeights& table = node.weight.packed;
      const uint8_t* first = table.vectors + row / 16 * node.weight.padded_columns * 8 + row % 16 * 4;
      const uint32_t bits = uint32_t{table.scale[row]} << 16;
      float scale;
      std::memcpy(&scale, &bits, sizeof scale);
      for (size_t k = 0; k < width; ++k) {
        const uint8_t pair = first[k / 8 * 64 + k % 4];
        out[t * width + k] = scale * static_cast<float>(table.levels[k % 8 < 4 ? pair & 15 : pair >> 4]);
      }
    } else if (node.table == nullptr) {  // int8: a row's values lie 4 by 4, one group a tile
      const size_t row = static_cast<size_t>(id);
      const size_t tiles_per_block = node.weight.padded_columns / 4;
      const int8_t* first = node.weight.tiles + (row / 16 * tiles_per_block) * 64 + row % 16 * 4;
      for (size_t k = 0; k < width; ++k) {
        out[t * width + k] = node.weight.scale[row] * static_cast<float>(first[k / 4 * 64 + k % 4]);
      }
    } else {
      std::memcpy(out + t * width, node.table + static_cast<size_t>(id) * width, width * sizeof(float));
    }
  }
}

}  // namespace earshot

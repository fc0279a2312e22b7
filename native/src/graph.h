// graph.h: a network as data: checked nodes in order, bound to the tensors of a file.
//
// Knows the ops of docs/formats/ear.md, section 4, their attributes, widths and
// state sizes. Holds no activations and runs nothing: see executor.h. A Graph
// never changes after it is built, so any number of threads may share one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "json.h"
#include "kernels/kernels.h"
#include "model_file.h"

namespace earshot {

enum class Op : uint8_t {
  kNormalize, kStack, kLinear, kLstm, kLayerNorm, kRmsNorm, kEmbedding, kConv1d, kAdd,
  kRelu, kTanh, kSigmoid, kLogSoftmax, kCausalAttention, kPhraseAttention,
};

enum class Skipped : uint8_t { kZero, kHold, kPass };

// A matrix as the kernels want it: f32_r16 has `f32`, i8_r16x4 `tiles`, `scale` and `rowsum`, and the
// codecs of version 2 `packed`.
struct Matrix {
  size_t rows = 0;         // M
  size_t columns = 0;      // K
  size_t padded_columns = 0;  // Kp, not for f32
  const float* f32 = nullptr;
  const int8_t* tiles = nullptr;
  const float* scale = nullptr;
  const int32_t* rowsum = nullptr;
  PackedWeights packed = {};
};

struct Node {
  Op op = Op::kAdd;
  int in[2] = {-1, -1};  // values
  int out = -1;
  int when = -1;         // value, or -1
  Skipped skipped = Skipped::kZero;
  size_t in_width = 0;   // of in[0]; 0 for ids
  size_t out_width = 0;

  size_t factor = 1;               // stack
  size_t hidden = 0;               // lstm
  size_t kernel = 1, dilation = 1;  // conv1d
  bool causal = false, depthwise = false;
  size_t heads = 1, window = 1;    // attentions; the window of causal_attention
  float eps = 0;
  Matrix weight, weight_h;         // an lstm without weight_h: `weight` is for [x, h]
  const float* bias = nullptr;     // also beta
  const float* gain = nullptr;     // inv_std, gamma
  const float* mean = nullptr;
  const float* table = nullptr;    // embedding, the depthwise weight, or biases of distances
  size_t table_rows = 0;
  // phrase_attention: outputs of the graph `bias`.
  std::string keys, values;
  bool exact = false;              // keys and values in float
  bool next_only = false;          // sees what begins a phrase or follows the last piece
  const float* no_bias_key = nullptr;

  // Into GraphState: floats of the op itself, its last result (`hold`), its counter.
  size_t state_offset = 0, state_size = 0;
  size_t hold_offset = 0;
  int counter = -1;                // frames waiting in a stack, or seen by an attention (see executor.cc)

  size_t History() const { return (kernel - 1) * dilation; }  // conv1d: frames before the newest
};

struct Value {
  std::string name;
  size_t width = 0;
  bool ids = false;
  int clock = 0;  // values with the same clock have the same number of frames
};

// How a value's frames follow from the graph's inputs: `factor` frames joined into
// one, or `lost` frames dropped at the start of each call by a valid convolution.
struct ClockStep {
  size_t factor = 1, lost = 0;
  bool operator==(const ClockStep& o) const { return factor == o.factor && lost == o.lost; }
};
using Clock = std::vector<ClockStep>;

class Graph {
 public:
  static constexpr size_t kMaxNodes = 1024;
  static constexpr size_t kMaxWidth = 131071;
  static constexpr size_t kMaxHeads = 64, kMaxWindow = 1024;  // of an attention
  static constexpr size_t kMaxTotalWidth = size_t{1} << 20;   // floats per frame of all values
  static constexpr size_t kMaxStateFloats = size_t{1} << 24;  // 64 MiB

  // Checks and binds `json`; throws ModelFileError. `input_width` is that of an
  // input `x`, or 0 if it has to follow from the tensors.
  Graph(std::shared_ptr<const ModelFile> file, std::string name, JsonValue json, size_t input_width);

  const std::string& name() const { return name_; }
  const std::vector<int>& inputs() const { return inputs_; }    // values
  const std::vector<int>& outputs() const { return outputs_; }
  const std::vector<Value>& values() const { return values_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<Clock>& clocks() const { return clocks_; }
  size_t state_floats() const { return state_floats_; }
  size_t state_counters() const { return state_counters_; }
  bool HasState() const { return state_floats_ + state_counters_ > 0; }
  // Ids that every embedding of the graph has a row for; SIZE_MAX without embeddings.
  size_t id_limit() const { return id_limit_; }
  // -1 if there is none of that name.
  int FindInput(std::string_view name) const;
  int FindOutput(std::string_view name) const;
  const Value& value(int index) const { return values_[static_cast<size_t>(index)]; }
  const ModelFile& file() const { return *file_; }

 private:
  friend class GraphBuilder;
  std::shared_ptr<const ModelFile> file_;
  std::string name_;
  std::vector<Value> values_;
  std::vector<Node> nodes_;
  std::vector<int> inputs_, outputs_;
  std::vector<Clock> clocks_;
  size_t state_floats_ = 0, state_counters_ = 0;
  size_t id_limit_ = SIZE_MAX;
};

const char* OpName(Op op);

}  // namespace earshot

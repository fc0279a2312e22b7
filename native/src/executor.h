// executor.h: runs a Graph over frames of one or many streams.
//
// Knows how each op turns frames into frames and what it carries from call to
// call; knows nothing of audio, text or search. All that outlives a call is in
// GraphState: an Executor holds scratch memory only, so one executor can serve
// any number of streams, one call at a time.
//
// The result of a frame never depends on how frames are cut into calls, nor on
// which other streams share the call: bits included.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "graph.h"

namespace earshot {

// What a stream carries through a graph. Copyable: a copy is a fork.
class GraphState {
 public:
  explicit GraphState(std::shared_ptr<const Graph> graph);
  void Reset();
  const std::shared_ptr<const Graph>& graph() const { return graph_; }
  float* floats() { return floats_.data(); }
  const std::vector<float>& values() const { return floats_; }
  std::vector<int32_t>& counters() { return counters_; }
  const std::vector<int32_t>& counters() const { return counters_; }
  size_t size_bytes() const { return floats_.size() * sizeof(float) + counters_.size() * sizeof(int32_t); }

 private:
  std::shared_ptr<const Graph> graph_;
  std::vector<float> floats_;
  std::vector<int32_t> counters_;
};

class PhraseList;

// What attention looked at: of each frame the entries that were read, ascending, with their weights averaged over heads.
// What is missing to 1 went to no-bias.
struct AttentionTrace {
  std::vector<int32_t> begin{0};  // of each frame, in the others; one more at the end
  std::vector<int32_t> entry;
  std::vector<float> weight;
  size_t query_width = 0;         // 0: queries are not kept
  std::vector<float> queries;     // of each frame, what the entries' keys are compared with
  size_t num_frames() const { return begin.size() - 1; }
  // Rows of `frames` frames of which nothing is known.
  void Clear(size_t frames);
  void Erase(size_t frame, size_t frames);
};

class Executor {
 public:
  // Entries with a score this far below the highest one have the weight 0.
  static constexpr float kAttentionReach = 12.0f;

  // One stream's part of a call.
  struct Item {
    const void* const* inputs = nullptr;  // one per graph input: float[frames * width], or int32 ids
    size_t frames = 0;
    bool flush = false;            // the input ends here: stacks fill their last frame
    GraphState* state = nullptr;   // of this graph; may be null if the graph has none
    const PhraseList* phrases = nullptr;  // what a phrase_attention looks at; null: an empty list
    int32_t last_piece = -1;              // what entries must follow where it sees the next ones only
    AttentionTrace* trace = nullptr;      // gets what it asked and looked at; may be null
  };

  explicit Executor(std::shared_ptr<const Graph> graph);

  // Throws std::invalid_argument for an id that an embedding has no row for.
  void Step(const Item* items, size_t count);

  // Results of the last Step, until the next: frames of `item`, row-major.
  const float* output(size_t output, size_t item) const;
  size_t output_frames(size_t output, size_t item) const;
  const Graph& graph() const { return *graph_; }

 private:
  // Frames of all items of a call, one item after another.
  struct Rows {
    std::vector<size_t> offset;  // items + 1 entries
    size_t total() const { return offset.back(); }
    size_t frames(size_t item) const { return offset[item + 1] - offset[item]; }
  };

  void RunGated(const Node& node, const Rows& rows);
  void Eval(const Node& node, const Rows& in_rows, const Rows& out_rows, const float* a, const float* b, float* out);
  void Linear(const Matrix& matrix, const float* bias, const float* x, size_t ldx, size_t frames, float* y,
              size_t ldy, bool accumulate);
  void EvalLstm(const Node& node, const Rows& rows, const float* x, float* out);
  void EvalJoinedLstm(const Node& node, const Rows& rows, const float* x, float* out);
  void EvalStack(const Node& node, const Rows& in_rows, const Rows& out_rows, const float* x, float* out);
  void EvalConv(const Node& node, const Rows& in_rows, const Rows& out_rows, const float* x, float* out);
  void EvalAttention(const Node& node, const Rows& rows, const float* x, float* out);
  void EvalEmbedding(const Node& node, const Rows& rows, float* out);
  void EvalPhraseAttention(const Node& node, const Rows& rows, const float* x, float* out);
  float* State(const Node& node, size_t item) { return items_[item].state->floats() + node.state_offset; }
  float* Buffer(std::vector<float>* buffer, size_t size);

  std::shared_ptr<const Graph> graph_;
  const Item* items_ = nullptr;
  size_t count_ = 0;
  std::vector<std::vector<float>> values_;     // one per value
  std::vector<const float*> data_;             // where each value lies in this call
  std::vector<std::vector<int32_t>> ids_;      // one per value; only inputs `y` use theirs
  std::vector<const int32_t*> id_data_;
  std::vector<Rows> rows_;                     // one per clock
  std::vector<char> rows_known_;
  Rows active_rows_;
  std::vector<size_t> active_;
  std::vector<float> gate_in_a_, gate_in_b_, gate_out_;
  std::vector<int32_t> gate_ids_;
  const int32_t* eval_ids_ = nullptr;
  std::vector<float> pre_, step_, hidden_, window_, share_;
  std::vector<int8_t> quantised_;
  std::vector<uint8_t> gathered_;
  std::vector<float> scales_;
  // phrase_attention: of a frame and head the entries that may count, and of a block of frames queries and scores.
  struct Near {
    int32_t entry;
    float score;
  };
  std::vector<std::vector<Near>> near_;
  std::vector<float> queries_, scores_, highest_, no_bias_;
  std::vector<std::pair<int32_t, float>> seen_;
};

}  // namespace earshot

// search.h: transducer search over encoder frames: greedy and modified beam.
//
// Knows predictor, joiner, scores and token histories; knows nothing of audio or
// words. One Search serves any number of streams: what a stream carries is in
// its SearchState, what a call needs is in a SearchScratch.
//
// Both methods are one rule. In each frame the `max_active_paths` best paths are
// kept, some of which have left the frame. A path that has not takes blank (and
// leaves the frame) or a piece (and stays, unless that was the last piece that
// `max_symbols_per_frame` allows: such a piece leaves the frame by itself). This
// repeats until all kept paths have left. Paths that have left and carry equal
// pieces become one whose probability is their sum. With one active path this
// is greedy search; with one symbol per frame it is frame-synchronous.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "executor.h"
#include "model.h"

namespace earshot {

struct SearchConfig {
  static constexpr size_t kMaxActivePaths = 64;
  size_t max_active_paths = 1;       // 1 is greedy search
  size_t max_symbols_per_frame = 0;  // 0: the model's
  float blank_penalty = 0;           // taken off the logit of blank
};

// Pieces of one path with the frame and the log-probability of each.
struct TokenPath {
  std::vector<int32_t> tokens;
  std::vector<int32_t> frames;
  std::vector<float> log_probs;
};

// Histories of all paths of a stream, sharing what they have in common. Nodes
// are counted references: a path that is dropped takes its own part with it.
class TokenTree {
 public:
  static constexpr int32_t kRoot = -1;
  int32_t Add(int32_t parent, int32_t token, int32_t frame, float log_prob);  // with one reference
  void Ref(int32_t node);
  void Unref(int32_t node);
  int32_t Parent(int32_t node) const { return nodes_[static_cast<size_t>(node)].parent; }
  // Same pieces? Both must have the same number.
  bool SamePieces(int32_t a, int32_t b) const;
  // Appends what lies between `node` and the settled part, oldest first.
  void Append(int32_t node, TokenPath* path) const;
  // Makes `node` part of the settled part; its ancestors may go.
  void Settle(int32_t node);
  size_t size() const { return nodes_.size() - free_.size(); }
  void Clear();

 private:
  struct Node {
    int32_t parent, token, frame;
    float log_prob;
    int32_t references;
    bool settled;
  };
  std::vector<Node> nodes_;
  std::vector<int32_t> free_;
};

constexpr size_t kMaxContext = 8;

struct Hypothesis {
  double score = 0;             // log of the summed probability
  int32_t node = TokenTree::kRoot;
  size_t length = 0;            // pieces
  uint64_t hash = 0;            // of the pieces
  std::array<int32_t, kMaxContext> context{};  // the last `context_size` ids, the newest last
  std::shared_ptr<const std::vector<float>> predictor_out;  // null: not computed yet
  std::shared_ptr<GraphState> predictor_state;  // stateful: before `context` is taken in; never changed once shared
  bool left = true;             // has left the current frame
};

struct SearchState {
  std::vector<Hypothesis> paths;  // best first; empty before the first frame
  TokenTree tree;
  TokenPath settled;              // what all paths share and nothing can change
  size_t num_frames = 0;
  void Reset();
};

// Buffers of one call at a time.
class SearchScratch {
 public:
  explicit SearchScratch(const Model& model);

 private:
  friend class Search;
  struct Row {
    size_t stream;
    size_t path;
  };
  struct Candidate {
    double score;
    double part;       // the larger of two merged scores: it decides which history stays
    size_t path;
    int32_t token;     // -1: none
    float log_prob;
    bool left;
  };
  struct ContextHash {
    size_t operator()(const std::array<int32_t, kMaxContext>& context) const;
  };
  Executor predictor_, joiner_;
  std::unordered_map<std::array<int32_t, kMaxContext>, std::shared_ptr<const std::vector<float>>, ContextHash> cache_;
  std::vector<Row> rows_;
  std::vector<float> encoder_rows_, predictor_rows_, log_probs_;
  std::vector<Candidate> candidates_;
  std::vector<std::pair<float, int32_t>> best_;
  std::vector<Hypothesis> next_;
  std::vector<Hypothesis*> waiting_;
  std::vector<Executor::Item> items_;
  std::vector<std::array<const void*, 1>> item_inputs_;
};

class Search {
 public:
  // Throws std::invalid_argument for a setting out of range.
  Search(std::shared_ptr<const Model> model, const SearchConfig& config);

  // Advances each of `count` streams over its encoder frames (frames[i] rows of width J).
  void Decode(SearchState* const* states, const float* const* encoder_out, const size_t* frames, size_t count,
              SearchScratch* scratch) const;

  // The best path so far. `score` is its log-probability, summed over alignments.
  TokenPath Best(const SearchState& state, double* score) const;

  const SearchConfig& config() const { return config_; }

 private:
  void Start(SearchState* state) const;
  void ComputePredictors(SearchState* const* states, SearchScratch* scratch) const;
  void ComputeLogProbs(SearchState* const* states, const float* const* encoder_out, size_t frame,
                       SearchScratch* scratch) const;
  void Advance(SearchState* state, const float* log_probs, size_t symbols, SearchScratch* scratch) const;
  void SettleShared(SearchState* state) const;

  std::shared_ptr<const Model> model_;
  std::shared_ptr<const Graph> predictor_, joiner_;
  SearchConfig config_;
  SearchSettings settings_;
  size_t vocabulary_, width_;
  size_t encoder_input_, predictor_input_, logits_, predictor_out_;  // positions in the graphs' lists
};

}  // namespace earshot

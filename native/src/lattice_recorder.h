// lattice_recorder.h: what a search keeps of the paths that it gives up: the arcs of a word lattice.
//
// Knows words as pieces, when they were said, and scores; knows nothing of networks, nor of how a
// search chooses. The search tells it when a word starts; it remembers how each word before came
// about. docs/concepts/lattices.md derives what arcs weigh.
//
// A hypothesis of a search that records is all ways of saying words that end in the same pieces.
// Its `entries` are these ways: each says at which node its unfinished word began, and what the best
// path by that way scores. A node is the end of a hypothesis's word, made when a word follows. It
// holds its arcs as absolute scores; what an arc weighs is its arrival less the score of the node
// that it left, so that the best arc into a node continues a best path and others fall behind it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "scorer.h"
#include "token_tree.h"

namespace earshot {

struct LatticeConfig {
  static constexpr size_t kMaxEntries = 32;      // of one hypothesis
  static constexpr size_t kStatefulContext = 4;  // pieces; see `context_size`
  size_t max_active_paths = 32;  // of a search that records
  // How many last pieces must agree before two hypotheses become one. 0: what the predictor sees, or
  // kStatefulContext if it sees everything, which then approximates.
  size_t context_size = 0;
  float beam = 16;               // nats; arcs whose best path is further behind the best are left out
  size_t max_arcs = 20000;       // narrows the beam until they are so few, but for the best path
};

// One way in which a hypothesis came into its unfinished word.
struct WordEntry {
  int32_t node = 0;         // where the word begins
  double score = 0;         // of the best path this way, summed over alignments of its last word
  double prior = 0;         // the part of `score` that is not acoustic
  History history;          // holds a reference
  int32_t start_frame = 0;  // of the word's first piece
  int32_t last_frame = 0;   // of its last so far
};

// What a hypothesis of a search that records carries.
struct LatticePath {
  std::vector<WordEntry> entries;  // best first; empty if nothing is recorded
  std::vector<int32_t> word;       // pieces of the unfinished word; empty before the first
  std::array<int32_t, kMaxContext> recent{};  // last pieces, the newest last
  uint64_t key = 0;                // of what must agree for two hypotheses to become one
  int32_t node = -1;               // where its next word begins; -1: none has
};

// A lattice for others to read. States go up along arcs; arcs are sorted by `src`.
struct LatticeArcs {
  std::vector<int32_t> src, dst, word, start_frame, end_frame;
  std::vector<float> acoustic, prior;
  std::vector<std::vector<int32_t>> words;  // pieces; none: nothing was said
};

class LatticeRecorder {
 public:
  static constexpr int32_t kStart = 0;  // the node where every path begins

  explicit LatticeRecorder(const LatticeConfig& config);
  void Clear();

  // The node that the word after `path` would begin at, if there is one that can be used again; -1
  // if Depart would make one.
  int32_t Reusable(const LatticePath& path);
  // A word follows `path`, whose first piece has `log_prob`; `reusable` is what Reusable said of the
  // path in this frame. Returns the node between.
  int32_t Depart(LatticePath* path, int32_t reusable, double log_prob);

  // Forgets what is far behind or leads nowhere. To be called now and then with all paths.
  void Collect(const std::vector<LatticePath*>& paths);
  // The lattice of these paths, best path first, all ending here.
  LatticeArcs Arcs(const std::vector<const LatticePath*>& paths) const;

  const LatticeConfig& config() const { return config_; }
  size_t num_arcs() const { return num_arcs_; }

 private:
  struct Arc {
    int32_t src, word;
    int32_t start_frame, end_frame;
    double departure;  // score when the likeliest next word began, with that word's first piece
    double prior;
  };
  struct Node {
    std::vector<Arc> arcs;   // that enter
    int32_t lead = -1;       // `src` of the best
    int32_t place = 0;       // in order_
    double departure = 0;    // of the best arc
    double score = 0;        // of the best path to here
    double prior = 0;
  };
  const Node& node(int32_t index) const { return nodes_[static_cast<size_t>(index)]; }
  bool LeadsTo(int32_t from, int32_t to);
  void MoveBehind(int32_t from, int32_t to);
  int32_t WordId(const std::vector<int32_t>& pieces);
  // How far each arc's best path is behind the best: one row a node, like its arcs.
  std::vector<std::vector<double>> Behind(const std::vector<double>& ends) const;
  std::vector<double> Ends(const std::vector<const LatticePath*>& paths) const;

  LatticeConfig config_;
  std::vector<Node> nodes_;
  std::vector<int32_t> order_;  // nodes, each after all that lead to it
  std::vector<std::vector<int32_t>> words_;
  std::unordered_map<uint64_t, std::vector<int32_t>> word_ids_;  // by hash of the pieces
  size_t num_arcs_ = 0;
  size_t collect_at_ = 0;    // arcs
  std::vector<int32_t> stack_, seen_;
};

}  // namespace earshot

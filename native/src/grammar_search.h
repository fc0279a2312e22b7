// grammar_search.h: the likeliest sentences of a word graph, frame by frame.
//
// Knows scores, histories and which pieces a word graph allows; knows nothing of
// networks or audio. docs/concepts/grammar-search.md derives the recursion.
//
// A hypothesis is a history of pieces; no two in the beam are equal. In each
// frame it takes blank and stays, or takes one piece that the graph allows. Two
// models score it side by side: the transducer (probability of the history,
// summed over alignments) and CTC (the same for its own alignments, split by
// whether they end in blank). What stays and what arrives with equal pieces
// becomes one hypothesis whose probabilities are the sums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hotwords.h"
#include "model.h"
#include "scorer.h"
#include "token_tree.h"
#include "word_graph.h"

namespace earshot {

struct GrammarConfig {
  size_t max_active_paths = 8;  // 1..64
  float beam = 100;             // nats, > 0: paths further behind the best are dropped
  float ctc_weight = 0.5;       // 0..1: the share of CTC in the rank
  float blank_penalty = 0;      // taken off the transducer's logit of blank
  float ctc_blank_penalty = 0;  // taken off CTC's log-probability of blank
  float language_weight = 0;    // 0..2: share of the internal language model that is taken off
  float word_penalty = 0;       // nats, taken off the rank by every piece that starts a word
};

struct GrammarHypothesis {
  History history;
  PredictorContext context;
  const GrammarState* state = nullptr;
  double alpha = 0;             // transducer
  double ctc_blank = 0;         // CTC, alignments that end in blank,
  double ctc_piece = 0;         // and in a piece
  double ctc = 0;               // both
  double prior = 0;             // weights of the graph, word penalties, hotwords
  int32_t hotword = Hotwords::kRoot;
  double rank = 0;
};

struct GrammarSearchState {
  std::shared_ptr<const WordGraph> graph;  // null: no search
  std::shared_ptr<const Hotwords> hotwords;  // null: none
  std::shared_ptr<const PhraseList> phrases;  // as in SearchState
  std::shared_ptr<GrammarStates> states;   // where the hypotheses' states live
  std::vector<GrammarHypothesis> paths;    // best first; empty before the first frame
  TokenTree tree;
  TokenPath settled;
  double best_ctc = 0;                     // sum of the best CTC log-probability of each frame
  size_t num_frames = 0;
  void Reset();                            // graph and hotwords stay
};

class GrammarSearchScratch {
  friend class GrammarSearch;
  struct Candidate {
    double rank;
    size_t path;
    const GrammarArc* arc;      // null: it stays
    const GrammarState* state;
    double prior;
  };
  struct Stay {
    double alpha, ctc_blank, ctc_piece, ctc, rank;
    size_t parent;    // the hypothesis with one piece less, if it is in the beam
    bool moved;       // the arriving part is the larger one: pieces came as it says
  };
  std::vector<Stay> stays_;
  std::vector<double> shifts_;
  std::vector<Candidate> best_;
  std::vector<GrammarHypothesis> next_;
  std::vector<const History*> histories_;
};

// One complete sentence.
struct GrammarPath {
  TokenPath path;
  double score = 0;             // rank, with the weight of ending here
  double alpha = 0, ctc = 0, prior = 0;
};

class GrammarSearch {
 public:
  static constexpr size_t kMaxPaths = 8;  // of a result

  // `scorer` must outlive the search; `scorer_blank_penalty` is what it takes
  // off. Throws std::invalid_argument for a setting out of range.
  GrammarSearch(const Model& model, const Scorer* scorer, float scorer_blank_penalty, const GrammarConfig& config);

  // Throws std::invalid_argument if the graph's words are not made of the model's pieces.
  void CheckGraph(const WordGraph& graph) const;

  // To be called before some frames are searched. Starts, and moves to younger states of the graph.
  void Begin(GrammarSearchState* state) const;
  void Request(GrammarSearchState* state, const float* encoder_row, ScorerScratch* scorer) const;
  // One frame; `rows` answers what Request asked for. `ctc`: log-probabilities, or null.
  void Advance(GrammarSearchState* state, const float* const* rows, const float* ctc, GrammarSearchScratch* scratch) const;
  void Settle(GrammarSearchState* state, GrammarSearchScratch* scratch) const;

  // Complete sentences of the beam, best first, at most kMaxPaths. `can_continue`:
  // the best of them is also the beginning of a longer one.
  std::vector<GrammarPath> Best(const GrammarSearchState& state, bool* can_continue) const;

  const GrammarConfig& config() const { return config_; }

 private:
  double Rank(double alpha, double ctc, double prior) const;

  const Scorer* scorer_;
  GrammarConfig config_;
  SearchSettings settings_;
  std::vector<std::string> pieces_;
  std::vector<double> piece_cost_;  // word penalty of each piece
  float extra_blank_penalty_;       // beyond the scorer's
};

}  // namespace earshot

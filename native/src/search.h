// search.h: transducer search over encoder frames: greedy and modified beam.
//
// Knows scores and token histories; knows nothing of networks, audio or words.
// One Search serves any number of streams: what a stream carries is in its
// SearchState, what a call needs is in a SearchScratch.
//
// Both methods are one rule. In each frame the `max_active_paths` best paths are
// kept, some of which have left the frame. A path that has not takes blank (and
// leaves the frame) or a piece (and stays, unless that was the last piece that
// `max_symbols_per_frame` allows: such a piece leaves the frame by itself). This
// repeats until all kept paths have left. Paths that have left and carry equal
// pieces become one whose probability is their sum. With one active path this
// is greedy search; with one symbol per frame it is frame-synchronous. Where there is a prior
// (prior.h), paths are ranked by their probability and the prior of their pieces together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "model.h"
#include "prior.h"
#include "scorer.h"
#include "token_tree.h"

namespace earshot {

struct SearchConfig {
  static constexpr size_t kMaxActivePaths = 64;
  size_t max_active_paths = 1;       // 1 is greedy search
  size_t max_symbols_per_frame = 0;  // 0: the model's
  float blank_penalty = 0;           // taken off the logit of blank
};

struct Hypothesis {
  double score = 0;             // log of the summed probability: what was heard, without the prior
  PriorState prior;             // follows from the history alone
  History history;
  PredictorContext context;
  bool left = true;             // has left the current frame
};

struct SearchState {
  std::vector<Hypothesis> paths;  // best first; empty before the first frame
  TokenTree tree;
  TokenPath settled;              // what all paths share and nothing can change
  size_t num_frames = 0;
  std::shared_ptr<const Prior> prior;  // null: none
  std::shared_ptr<const PhraseList> phrases;  // that the network attends to; null: none
  void Reset();                   // prior and phrases stay
};

// Buffers of one call at a time.
class SearchScratch {
  friend class Search;
  struct Candidate {
    double score;
    double part;       // the larger of two merged scores: it decides which history stays
    double prior;
    size_t path;
    int32_t token;     // -1: none
    float log_prob;
    bool left;
  };
  // A piece that a path may take, by its log-probability and what it adds to the prior.
  struct Piece {
    double rank;
    int32_t token;
    PriorState prior;
  };
  std::vector<const float*> rows_;  // one per path; null if it has left
  std::vector<Candidate> candidates_;
  std::vector<std::pair<float, int32_t>> best_;
  std::vector<Piece> ranked_;
  std::vector<Hypothesis> next_;
  std::vector<const History*> histories_;
};

// A frame is BeginFrame, then rounds of Request, scoring and Advance until
// Request asks for nothing, then EndFrame.
class Search {
 public:
  // `scorer` must outlive the search. Throws std::invalid_argument for a setting out of range.
  Search(const Model& model, const Scorer* scorer, const SearchConfig& config);

  void BeginFrame(SearchState* state) const;
  // Asks for the row of every path that is still in the frame.
  void Request(SearchState* state, const float* encoder_row, ScorerScratch* scorer) const;
  // Round `symbols` of a frame; `rows` begins with the answers to Request. Returns how many they are.
  size_t Advance(SearchState* state, const float* const* rows, size_t symbols, SearchScratch* scratch) const;
  void EndFrame(SearchState* state) const { ++state->num_frames; }
  // To be called now and then: keeps the tree small.
  void Settle(SearchState* state, SearchScratch* scratch) const;

  // The best path so far. `score` is its log-probability, summed over alignments. At the `end` of
  // the recording the prior is that of a whole text.
  TokenPath Best(const SearchState& state, bool end, double* score, PriorState* prior) const;

  const SearchConfig& config() const { return config_; }

 private:
  // The best pieces that a path may take, where there is a prior: best first, into scratch->best_. Those that
  // cannot reach `floor` with all else are left out.
  void RankPieces(const Prior& prior, const Hypothesis& path, const float* row, double floor, SearchScratch* scratch) const;

  const Scorer* scorer_;
  SearchConfig config_;
  SearchSettings settings_;
};

// A network with absurd weights can make NaN; as minus infinity it loses, and
// sorting stays well defined.
double Sane(double score);
// The same for one log-probability: within these bounds no sum of ranks goes wrong, and no sound
// network comes near them.
double Bounded(double log_prob);
// log(exp(a) + exp(b))
double LogAdd(double a, double b);

}  // namespace earshot

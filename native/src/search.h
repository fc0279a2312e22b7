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
//
// What was heard in another way than by pieces can be put in (Insert): a phrase continues what the paths were
// when it began.
//
// A search that records a lattice (SearchState::lattice) makes more paths one: those that the
// predictor cannot tell apart and that are within the same word. The likelier goes on, the other
// stays as an arc (lattice_recorder.h). It thereby follows far more histories with as many paths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "lattice_recorder.h"
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
  LatticeConfig lattice;             // for streams that record one
};

struct Hypothesis {
  double score = 0;             // log of the summed probability; of a search that records, the prior is in it
  PriorState prior;             // follows from the history alone
  History history;
  PredictorContext context;
  bool left = true;             // has left the current frame
  LatticePath lattice;          // `history` and `score` are then of its first entry
  // Of the last phrase that was put in: its last frame, -1 if there is none; and nats that it was put above the others.
  int32_t inserted_until = -1;
  double inserted_gain = 0;
};

// A phrase to be put in.
struct InsertedPhrase {
  std::vector<int32_t> pieces, frames;  // of each piece: when it was said
  size_t start = 0;                     // frame in which the phrase began
  double gain = 0;                      // nats that it is to be above what it takes the place of; > 0
  float log_prob = 0;                   // of each piece
};

// The best paths before a frame.
struct Snapshot {
  size_t frame = 0;
  std::vector<Hypothesis> paths;
  double best = 0;  // rank of the first
};

struct SearchState {
  std::vector<Hypothesis> paths;  // best first; empty before the first frame
  TokenTree tree;
  TokenPath settled;              // what all paths share and nothing can change
  size_t num_frames = 0;
  std::unique_ptr<LatticeRecorder> lattice;  // null: none is recorded
  std::shared_ptr<const Prior> prior;        // null: none
  std::shared_ptr<const PhraseList> phrases; // that the network attends to; null: none
  std::deque<Snapshot> snapshots;            // of frames in which a phrase may have begun, oldest first
  void Reset();                              // prior and phrases stay
  // What paths are ranked by: log-probability and prior together.
  double Rank(const Hypothesis& path) const { return lattice != nullptr ? path.score : path.score + path.prior.total(); }
  // The log-probability alone.
  double Acoustic(const Hypothesis& path) const { return Rank(path) - path.prior.total(); }
};

// Buffers of one call at a time.
class SearchScratch {
  friend class Search;
  struct Candidate {
    double score;
    double part;       // the larger of two merged scores: it decides which history stays
    double prior;      // beside the score; 0 in a search that records
    size_t path;
    int32_t token;     // -1: none
    float log_prob;
    bool left;
    double gain = 0;         // what the piece adds to the prior
    uint64_t state = 0;      // hash of the prior's state after it, in a search that records
    size_t merged = SIZE_MAX;  // index into merged_; none: it comes from `path` alone
  };
  // One entry of a path to be, and where it comes from. A node below kNewNode is still to be made, by
  // path kNewNode - node.
  struct Arriving {
    int32_t node;
    double score, part, prior;  // the prior is in the score
    size_t path, entry;
    int32_t token;
    float log_prob;
  };
  // Candidates that have become one, in a search that records a lattice.
  struct Merged {
    std::vector<Arriving> entries;
    std::vector<std::pair<size_t, double>> departures;  // paths that a word follows, and what its piece scores
    size_t stays = SIZE_MAX;                           // path that takes blank, if one does
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
  std::vector<float> reach_;
  std::vector<Hypothesis> next_;
  std::vector<const History*> histories_;
  std::vector<Merged> merged_;
  size_t num_merged_ = 0;
  std::vector<std::pair<uint64_t, size_t>> keys_;
  std::vector<int32_t> reusable_;  // nodes, one a path
  std::vector<bool> departed_;
  std::vector<LatticePath*> lattice_paths_;
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
  void EndFrame(SearchState* state, SearchScratch* scratch) const;
  // Between BeginFrame and the first Request: keeps the best paths as they are before this frame,
  void Remember(SearchState* state) const;
  // forgets them for the frames before `frame`,
  void Forget(SearchState* state, size_t frame) const;
  // and puts phrases in that end in this frame, as if they had been said after what was remembered. `scorer` must be
  // free.
  void Insert(SearchState* state, const std::vector<InsertedPhrase>& phrases, ScorerScratch* scorer) const;
  // To be called now and then: keeps the tree small.
  void Settle(SearchState* state, SearchScratch* scratch) const;

  // The best path so far. `score` is its log-probability, summed over alignments. At the `end` of
  // the recording the prior is that of a whole text.
  TokenPath Best(const SearchState& state, bool end, double* score, PriorState* prior) const;
  // What has been recorded, as if the paths ended here; `state` must record. At the `end` the prior is that
  // of whole texts.
  LatticeArcs Lattice(const SearchState& state, bool end) const;
  // The recorder of a new stream.
  std::unique_ptr<LatticeRecorder> MakeRecorder() const;

  const SearchConfig& config() const { return config_; }

 private:
  size_t MaxPaths(const SearchState& state) const {
    return state.lattice == nullptr ? config_.max_active_paths : config_.lattice.max_active_paths;
  }
  // Makes candidates with equal histories one.
  void MergeEqual(const SearchState& state, size_t kept, SearchScratch* scratch) const;

  // The same in a search that records, for candidates with equal keys.
  void Recombine(const SearchState& state, SearchScratch* scratch) const;
  uint64_t Key(const LatticePath& path) const;
  uint64_t KeyWith(const LatticePath& path, int32_t token) const;
  bool StartsWordAfter(const LatticePath& path, int32_t token) const {
    return path.word.empty() || starts_word_[static_cast<size_t>(token)];
  }
  // Gives the candidate its row of merged_.
  SearchScratch::Merged* MergedOf(const SearchState& state, SearchScratch::Candidate* candidate, SearchScratch* scratch) const;
  // The paths of the next round, from candidates that are left.
  void Follow(SearchState* state, SearchScratch* scratch) const;
  void FollowRecording(SearchState* state, SearchScratch* scratch) const;
  // The best pieces that a path may take, where there is a prior: the `most` best, best first, into
  // scratch->ranked_ and scratch->best_. Those that cannot reach `floor` with all else are left out.
  void RankPieces(const SearchState& state, const Hypothesis& path, const float* row, double floor, size_t most,
                  SearchScratch* scratch) const;

  Hypothesis Inserted(SearchState* state, const Hypothesis& before, const InsertedPhrase& phrase, double rank,
                      ScorerScratch* scorer) const;
  static void Release(TokenTree* tree, const Hypothesis& path);
  // Lets the recorder forget what no path needs.
  void Collect(SearchState* state, SearchScratch* scratch) const;

  const Scorer* scorer_;
  SearchConfig config_;
  SearchSettings settings_;
  std::vector<bool> starts_word_;  // by piece
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

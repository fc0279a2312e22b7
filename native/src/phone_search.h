// phone_search.h: the likeliest sentences of a word graph of phones, by CTC over phones.
//
// Knows phones' log-probabilities, histories and which phones a word graph
// allows; knows nothing of networks or audio. docs/concepts/grammar-search.md
// derives the recursion.
//
// A hypothesis is a history of phones; no two in the beam are equal. In each
// frame it stays, by blank or by its last phone, or takes one phone that the
// graph allows. What stays and what arrives with equal phones becomes one
// hypothesis whose probabilities are the sums. Words are found again from the
// phones of what is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "model.h"
#include "token_tree.h"
#include "word_graph.h"

namespace earshot {

struct PhoneConfig {
  static constexpr size_t kMaxActivePaths = 1024;
  // Nats behind free sounds at which no sentence is being said any more, and the paths that are followed then. Of commands
  // that were understood, in noise too, none was ever more than 75 behind (docs/log.md).
  static constexpr double kHopeless = 100;
  static constexpr size_t kHopelessPaths = 64;
  size_t max_active_paths = 512;  // 1..kMaxActivePaths
  float beam = 16;                // nats, > 0: paths further behind the best are dropped
  float blank_penalty = 0;        // taken off the log-probability of blank
  float word_penalty = 0;         // nats, taken off the rank by every word
  // 0..100: how much the transducer's and CTC's scores of the pieces of a complete sentence count beside its phones.
  float transducer_weight = 0;
  float piece_ctc_weight = 0;
  // 0..1: how much the second pass counts in the phones' log-probabilities once an utterance is over, where the model has one.
  float second_pass_share = 0.5f;
};

struct PhoneHypothesis {
  History history;
  uint64_t before = 0;                  // hash of the history without its last phone
  const GrammarState* state = nullptr;
  double blank = 0;                     // alignments that end in blank,
  double phone = 0;                     // and in a phone
  double total = 0;                     // both
  double prior = 0;                     // weights of the graph, word penalties
  double rank = 0;
};

struct PhoneSearchState {
  std::shared_ptr<const WordGraph> graph;  // null: no search
  std::shared_ptr<GrammarStates> states;   // where the hypotheses' states live
  std::vector<PhoneHypothesis> paths;      // best first; empty before the first frame
  TokenTree tree;
  TokenPath settled;
  size_t settled_at = 0;                   // frames when that was last looked for
  double best_sum = 0;                     // of the best log-probability of each frame
  double blank_sum = 0;                    // of the blank's
  size_t num_frames = 0;
  void Reset();                            // the graph stays
};

class PhoneSearchScratch {
  friend class PhoneSearch;
  struct Stay {
    double blank, phone, total, rank;
    size_t parent;       // the hypothesis with one phone less, if it is in the beam
    size_t child, next;  // the first with one phone more; the next of the same parent
    bool moved;          // the arriving part is the larger one: phones came as it says
  };
  struct Candidate {
    double rank;         // or what it cannot exceed
    size_t order;        // decides between equal ranks
    size_t path;
    size_t arc;          // kNone: it stays
    double total;
  };
  struct Kept {
    Candidate candidate;
    const GrammarState* state;
    double prior;
  };
  // Small, as many are moved: what decides about a Kept, and its place.
  struct Place {
    double rank;
    size_t order;
    size_t kept;
  };
  std::vector<double> row_;
  std::vector<size_t> by_hash_;   // positions of the paths, twice as many slots at least
  std::vector<Stay> stays_;
  std::vector<size_t> merged_;    // of each phone: the last path whose arc with it leads into the beam
  std::vector<Candidate> candidates_;
  std::vector<Kept> kept_;
  std::vector<Place> best_;
  std::vector<double> ranks_;
  std::vector<PhoneHypothesis> next_;
  std::vector<const History*> histories_;
};

// One complete sentence.
struct PhonePath {
  std::vector<int32_t> words;
  std::vector<int32_t> ends;    // of each word: the phones up to its end
  TokenPath path;               // phones, of its likeliest pronunciation
  double phones = 0;            // log-probability, all pronunciations in the beam together
  double prior = 0;
};

class PhoneSearch {
 public:
  static constexpr size_t kMaxPaths = 32;      // of a result
  static constexpr size_t kMaxAlike = 8;       // sentences of one history
  static constexpr size_t kMaxHistories = 64;  // whose words are looked for

  // Throws std::invalid_argument for a setting out of range.
  PhoneSearch(const Model& model, const PhoneConfig& config);

  // Throws std::invalid_argument if the graph is not of the model's phones.
  void CheckGraph(const WordGraph& graph) const;

  // To be called before some frames are searched. Starts, and moves to younger states of the graph.
  void Begin(PhoneSearchState* state) const;
  // One frame of log-probabilities: blank and the phones.
  void Advance(PhoneSearchState* state, const float* log_probs, PhoneSearchScratch* scratch) const;
  // To be called after some frames: keeps the tree small.
  void Settle(PhoneSearchState* state, PhoneSearchScratch* scratch) const;

  // Complete sentences of the beam, best first by phones and prior, at most kMaxPaths; those that
  // sound alike are all there. `can_continue`: the best of them is also the beginning of a longer one.
  std::vector<PhonePath> Best(const PhoneSearchState& state, bool* can_continue) const;

  const PhoneConfig& config() const { return config_; }

 private:
  PhoneConfig config_;
  size_t num_phones_;
  int32_t word_cost_;  // in units of the graph's weights
};

}  // namespace earshot

// forced_score.h: how well given sentences explain all that was heard: transducer and CTC.
//
// Knows pieces, the joiner's answers and CTC's log-probabilities of frames that
// it keeps; knows nothing of beams or of where sentences come from. Scores are
// sums over all alignments, of the transducer those with at most one piece a
// frame. What was computed for a sentence is kept with the frames: more frames
// cost only themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "model.h"
#include "scorer.h"

namespace earshot {

struct ForcedScore {
  double transducer = 0;
  double ctc = 0;
  double language = 0;  // of the internal language model; 0 if that is not computed
};

// What a stream keeps.
class ForcedState {
 public:
  // Log-probability that no CTC path can exceed; 0 without CTC.
  double best_ctc() const { return best_ctc_; }
  // False once there were more frames than are kept: no sentence can be scored then.
  bool complete() const { return complete_; }
  void Reset() {
    auto kept = std::move(phrases);
    *this = {};
    phrases = std::move(kept);
  }
  std::shared_ptr<const PhraseList> phrases;  // as in SearchState

 private:
  friend class ForcedScorer;
  struct Sentence {
    std::vector<PredictorContext> contexts;  // after each number of pieces
    std::vector<double> alpha;               // transducer, likewise
    std::vector<double> ctc_blank, ctc_piece;
    double language = 0;
    size_t frames = 0;                       // that are in these
  };
  std::vector<float> encoded_, ctc_;
  size_t frames_ = 0;
  double best_ctc_ = 0;
  bool complete_ = true;
  std::map<std::vector<int32_t>, Sentence> sentences_;
};

class ForcedScorer {
 public:
  static constexpr size_t kMaxFrames = 60 * 1000 / Model::kFrameMs;

  // `scorer` must outlive this. `ctc_blank_penalty` is taken off CTC's log-probability of blank.
  ForcedScorer(const Model& model, const Scorer* scorer, float ctc_blank_penalty);

  // Takes frames: rows of the joiner's width, and of CTC log-probabilities or null.
  void Keep(ForcedState* state, const float* encoded, const float* ctc, size_t frames) const;
  // Scores of some sentences, each a row of pieces, over all frames. `state` must be complete.
  std::vector<ForcedScore> Score(ForcedState* state, const std::vector<std::vector<int32_t>>& sentences,
                                 ScorerScratch* scratch) const;

 private:
  using Sentence = ForcedState::Sentence;
  void Begin(const std::vector<std::pair<const std::vector<int32_t>*, Sentence*>>& fresh, const PhraseList* phrases,
             ScorerScratch* scratch) const;
  void AdvanceTransducer(Sentence* sentence, const std::vector<int32_t>& pieces, const float* const* rows) const;
  void AdvanceCtc(Sentence* sentence, const std::vector<int32_t>& pieces, const float* log_probs) const;

  const Scorer* scorer_;
  SearchSettings settings_;
  float ctc_blank_penalty_;
};

}  // namespace earshot

// forced_score.cc: see forced_score.h.
#include "forced_score.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "search.h"

namespace earshot {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr size_t kMaxRows = 512;        // asked for at once
constexpr size_t kMaxSentences = 64;    // remembered beside those asked for

}  // namespace

ForcedScorer::ForcedScorer(const Model& model, const Scorer* scorer, float ctc_blank_penalty)
    : scorer_(scorer), settings_(model.search()), ctc_blank_penalty_(ctc_blank_penalty) {}

void ForcedScorer::Keep(ForcedState* state, const float* encoded, const float* ctc, size_t frames) const {
  if (!state->complete_) return;
  if (state->frames_ + frames > kMaxFrames) {
    state->Reset();
    state->complete_ = false;
    return;
  }
  state->frames_ += frames;
  state->encoded_.insert(state->encoded_.end(), encoded, encoded + frames * scorer_->width());
  if (ctc == nullptr) return;
  const size_t width = scorer_->vocabulary();
  const size_t from = state->ctc_.size();
  state->ctc_.insert(state->ctc_.end(), ctc, ctc + frames * width);
  for (size_t at = from; at < state->ctc_.size(); at += width) {
    float* row = state->ctc_.data() + at;
    row[settings_.blank_id] -= ctc_blank_penalty_;
    state->best_ctc_ += Bounded(*std::max_element(row, row + width));
  }
}

std::vector<ForcedScore> ForcedScorer::Score(ForcedState* state, const std::vector<std::vector<int32_t>>& sentences,
                                             ScorerScratch* scratch) const {
  std::vector<Sentence*> all;
  std::vector<std::pair<const std::vector<int32_t>*, Sentence*>> fresh, open;
  size_t frame = state->frames_;
  for (const std::vector<int32_t>& pieces : sentences) {
    const auto [found, is_new] = state->sentences_.try_emplace(pieces);
    Sentence* sentence = &found->second;
    const bool twice = std::find(all.begin(), all.end(), sentence) != all.end();
    all.push_back(sentence);
    if (twice) continue;
    if (is_new) fresh.emplace_back(&found->first, sentence);
    if (sentence->frames < state->frames_) open.emplace_back(&found->first, sentence);
    frame = std::min(frame, sentence->frames);
  }
  Begin(fresh, state->phrases.get(), scratch);
  // As many frames at once as make a good batch; in each, every sentence that lacks it.
  while (frame < state->frames_) {
    scratch->Clear();
    size_t end = frame;
    for (; end < state->frames_ && (end == frame || scratch->size() < kMaxRows); ++end) {
      for (const auto& [pieces, sentence] : open) {
        if (sentence->frames > end) continue;
        for (PredictorContext& context : sentence->contexts) {
          scratch->Request(&context, state->encoded_.data() + end * scorer_->width());
        }
      }
    }
    scorer_->Score(scratch);
    const float* const* rows = scratch->rows();
    for (; frame < end; ++frame) {
      for (const auto& [pieces, sentence] : open) {
        if (sentence->frames > frame) continue;
        AdvanceTransducer(sentence, *pieces, rows);
        rows += sentence->contexts.size();
        if (!state->ctc_.empty()) AdvanceCtc(sentence, *pieces, state->ctc_.data() + frame * scorer_->vocabulary());
        ++sentence->frames;
      }
    }
  }
  std::vector<ForcedScore> out;
  for (const Sentence* sentence : all) {
    // Too few frames for the pieces: impossible, but a number.
    const double ctc = LogAdd(sentence->ctc_blank.back(), sentence->ctc_piece.back());
    out.push_back({std::max(sentence->alpha.back(), -1e6), state->ctc_.empty() ? 0 : std::max(ctc, -1e6), sentence->language});
  }
  if (state->sentences_.size() > kMaxSentences + all.size()) {
    for (auto it = state->sentences_.begin(); it != state->sentences_.end();) {
      it = std::find(all.begin(), all.end(), &it->second) == all.end() ? state->sentences_.erase(it) : std::next(it);
    }
  }
  return out;
}

// Predictions after every number of pieces: those of one number together, as a stateful predictor
// needs the one before.
void ForcedScorer::Begin(const std::vector<std::pair<const std::vector<int32_t>*, Sentence*>>& fresh, const PhraseList* phrases,
                         ScorerScratch* scratch) const {
  for (const auto& [pieces, sentence] : fresh) {
    const size_t places = pieces->size() + 1;
    sentence->contexts.reserve(places);
    sentence->alpha.assign(places, kMinusInfinity);
    sentence->alpha[0] = 0;
    sentence->ctc_piece.assign(places, kMinusInfinity);
    sentence->ctc_blank = sentence->alpha;
  }
  for (size_t said = 0;; ++said) {
    scratch->Clear();
    for (const auto& [pieces, sentence] : fresh) {
      if (said > pieces->size()) continue;
      sentence->contexts.push_back(said == 0 ? scorer_->Start(phrases) : sentence->contexts.back());
      if (said > 0) scorer_->Extend(&sentence->contexts.back(), (*pieces)[said - 1]);
      scratch->Request(&sentence->contexts.back(), nullptr);
    }
    if (scratch->size() == 0) break;
    scorer_->Predict(scratch);
    for (const auto& [pieces, sentence] : fresh) {
      if (said >= pieces->size()) continue;
      sentence->language += sentence->contexts.back().out->LanguageScore((*pieces)[said]);
    }
  }
}

void ForcedScorer::AdvanceTransducer(Sentence* sentence, const std::vector<int32_t>& pieces, const float* const* rows) const {
  std::vector<double>& alpha = sentence->alpha;
  for (size_t u = alpha.size(); u-- > 0;) {
    alpha[u] += Bounded(rows[u][settings_.blank_id]);
    if (u > 0) alpha[u] = LogAdd(alpha[u], alpha[u - 1] + Bounded(rows[u - 1][pieces[u - 1]]));
  }
}

void ForcedScorer::AdvanceCtc(Sentence* sentence, const std::vector<int32_t>& pieces, const float* log_probs) const {
  std::vector<double>& blank = sentence->ctc_blank;
  std::vector<double>& piece = sentence->ctc_piece;
  for (size_t u = blank.size(); u-- > 0;) {
    const double both = LogAdd(blank[u], piece[u]);
    if (u > 0) {
      const double said = Bounded(log_probs[pieces[u - 1]]);
      // After the same piece there must have been a blank.
      const bool repeats = u > 1 && pieces[u - 1] == pieces[u - 2];
      const double before = repeats ? blank[u - 1] : LogAdd(blank[u - 1], piece[u - 1]);
      piece[u] = LogAdd(piece[u], before) + said;
    }
    blank[u] = both + Bounded(log_probs[settings_.blank_id]);
  }
}

}  // namespace earshot

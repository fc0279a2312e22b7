// scorer.h: log-probabilities of pieces after a history in a frame: predictor and joiner.
//
// Knows the two networks and when two histories look the same to them; knows
// nothing of beams. What searches ask for in one frame is computed together and
// once: rows of histories that the predictor cannot tell apart are one row.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "executor.h"
#include "model.h"

namespace earshot {

class PhraseList;

constexpr size_t kMaxContext = 8;

// What the predictor makes of a history.
struct Prediction {
  std::vector<float> out;
  // Internal language model: log-probabilities of the next piece without sound; empty if not asked
  // for. Blank and the unknown piece have 0.
  std::vector<float> language;
  // Of one piece, at least -20: a piece that the network finds impossible is not lifted above all
  // others where this is taken off. 0 if not asked for.
  double LanguageScore(int32_t piece) const {
    return language.empty() ? 0 : std::max(language[static_cast<size_t>(piece)], -20.0f);
  }
};

// A history as the predictor sees it. Made by Scorer; copies share what is computed.
struct PredictorContext {
  std::array<int32_t, kMaxContext> ids{};  // the last `context_size` ids, the newest last
  std::shared_ptr<const Prediction> out;  // null: not computed yet
  const PhraseList* phrases = nullptr;  // biasing; whoever starts a context keeps the list alive
  std::shared_ptr<GraphState> state;  // stateful: before `ids` is taken in; never changed once shared
};

// Requests of one frame, their answers, and buffers. Serves one call at a time.
class ScorerScratch {
 public:
  explicit ScorerScratch(const Model& model);

  void Clear() { requests_.clear(); }
  // `context` must stay where it is until Score has run; it gets its `out`.
  void Request(PredictorContext* context, const float* encoder_row) { requests_.push_back({context, encoder_row}); }
  size_t size() const { return requests_.size(); }
  // After Score: one per request, each `pieces` wide, until the next Score.
  const float* const* rows() const { return answers_.data(); }

 private:
  friend class Scorer;
  struct Question {
    PredictorContext* context;
    const float* encoder_row;
  };
  // What the predictor sees, and with which list.
  struct ContextKey {
    std::array<int32_t, kMaxContext> ids;
    uint64_t list;  // serial; 0: none
    explicit ContextKey(const PredictorContext& context);
    bool operator==(const ContextKey& other) const { return ids == other.ids && list == other.list; }
  };
  struct ContextHash {
    size_t operator()(const ContextKey& key) const;
  };
  Executor predictor_, joiner_;
  std::unique_ptr<Executor> label_;  // graph `bias_label`, if there is one
  std::unordered_map<ContextKey, std::shared_ptr<const Prediction>, ContextHash> cache_;
  std::vector<Question> requests_;
  std::vector<size_t> row_of_;      // one per request
  std::vector<size_t> distinct_;    // the first request of each row
  std::vector<const float*> answers_;
  std::vector<float> encoder_rows_, predictor_rows_, log_probs_;
  std::vector<PredictorContext*> waiting_, late_;
  std::vector<Executor::Item> items_;
  std::vector<std::array<const void*, 1>> item_inputs_;
};

class Scorer {
 public:
  // `blank_penalty` is taken off the logit of blank. `language`: compute the internal language model
  // of every history, as the joiner's answer to an encoder that says nothing (Meng et al. 2021).
  Scorer(std::shared_ptr<const Model> model, float blank_penalty, bool language);

  // `phrases` may be null; it must outlive the context and all that are made from it.
  PredictorContext Start(const PhraseList* phrases = nullptr) const;
  // Takes one more piece in.
  void Extend(PredictorContext* context, int32_t piece) const;
  // Answers all requests. The unknown piece gets minus infinity: it is never put out.
  void Score(ScorerScratch* scratch) const;
  // Gives the contexts of all requests their `out`, and answers nothing.
  void Predict(ScorerScratch* scratch) const;

  size_t vocabulary() const { return vocabulary_; }
  size_t width() const { return width_; }  // of an encoder row

 private:
  // Logits of `rows` pairs of an encoder row and a predictor row, until the joiner's next step.
  // Adds what lists of phrases say to the outputs of contexts that have one.
  void AddLabelBias(ScorerScratch* scratch, const std::vector<std::shared_ptr<Prediction>>& fresh) const;
  const float* Join(ScorerScratch* scratch, const float* encoder_rows, const float* predictor_rows, size_t rows) const;

  std::shared_ptr<const Graph> predictor_, joiner_, label_;
  size_t predictor_bias_ = 0;  // position in the outputs of `label_`
  SearchSettings settings_;
  float blank_penalty_;
  bool language_;
  size_t vocabulary_, width_;
  size_t encoder_input_, predictor_input_, logits_, predictor_out_;  // positions in the graphs' lists
};

}  // namespace earshot

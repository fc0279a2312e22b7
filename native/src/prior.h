// prior.h: what speaks for a history before anything is heard: hotwords and a language model.
//
// Knows pieces, hotwords, n-grams and the network's own language model; knows nothing of
// sound, beams or lattices. A search asks for each hypothesis what one more piece adds. All that is
// added depends on the pieces alone: histories that are equal have equal states and
// scores, however they came about.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hotwords.h"
#include "model.h"
#include "ngram.h"
#include "phrase_sounds.h"
#include "scorer.h"

namespace earshot {

// How much each part counts.
struct PriorConfig {
  float weight = 0;           // of the language model, 0..10
  float internal_weight = 0;  // 0..10: what is taken off of the network's own language model
  float bonus = 0;            // nats, -100..100, for every symbol of the language model
};

// Of one hypothesis. Two with equal `node`, `context` and `word` are continued alike.
struct PriorState {
  int32_t node = Hotwords::kRoot;
  NgramState context;                    // of the language model
  uint32_t word = Ngram::kHashStart;     // what there is of a word that is not scored yet, of a model of words
  uint32_t word_pieces = 0;
  double hotwords = 0;                   // nats, with what is lent for phrases that are only begun
  double language = 0;                   // nats: language model, bonus, less the internal one
  double total() const { return hotwords + language; }
};

// What a prior is made of; all of it may be absent.
struct PriorParts {
  std::shared_ptr<const Hotwords> hotwords;
  std::shared_ptr<const Ngram> ngram;
  PriorConfig config;
  std::shared_ptr<const PhraseSounds> sounds = nullptr;  // of the hotwords
  // The language model that the model's own file carries, with the weights recommended there.
  static PriorParts Own(std::shared_ptr<const Model> model);
};

// Immutable; streams and searches share it.
class Prior {
 public:
  // Null if there is nothing that could count. Throws std::invalid_argument for a setting out of range, or
  // hotwords or a language model of other pieces.
  static std::shared_ptr<const Prior> Create(const Model& model, const PriorParts& parts);

  PriorState Start() const;
  // The state after one more piece. `network`: what the network makes of the history before.
  PriorState Extend(const PriorState& state, int32_t piece, const Prediction& network) const;
  // What the piece can bring no more than, beside the internal language model's part.
  double MostGain(const PriorState& state, int32_t piece) const {
    // Log-probabilities are at most 0, but a back-off weight may be above it: of one step they sum to a probability
    // in any sound model, and in another this is only where the search stops looking.
    const double language = ngram_ != nullptr ? std::max(0.0f, config_.bonus) : 0;
    return hotwords_ != nullptr ? language + hotwords_->MostGain(state.node, piece) : language;
  }
  // What any piece can bring no more than.
  double MostGain(const PriorState& state) const {
    const double language = ngram_ != nullptr ? std::max(0.0f, config_.bonus) : 0;
    return hotwords_ != nullptr ? language + hotwords_->MostGain(state.node) : language;
  }
  // By how much less than that, told more slowly: in a phrase that has begun.
  double LessGain(const PriorState& state, int32_t piece) const {
    if (hotwords_ == nullptr || state.node == Hotwords::kRoot) return 0;
    return hotwords_->MostGain(state.node) - hotwords_->CloserGain(state.node, piece);
  }
  // What is taken off for the internal language model.
  double Internal(int32_t piece, const Prediction& network) const {
    return config_.internal_weight > 0 ? double{config_.internal_weight} * network.LanguageScore(piece) : 0;
  }
  // Log-probabilities of all pieces without that, nearly: in float.
  void WithoutInternal(const float* row, const Prediction& network, size_t count, float* out) const {
    const auto weight = static_cast<float>(config_.internal_weight);
    if (weight <= 0 || network.language.empty()) {
      std::copy(row, row + count, out);
      return;
    }
    for (size_t v = 0; v < count; ++v) out[v] = row[v] - weight * std::max(network.language[v], -20.0f);
  }
  // The state at the end of a text: begun phrases are given back, the last word and the end are scored.
  PriorState End(const PriorState& state) const;

  const std::shared_ptr<const Hotwords>& hotwords() const { return hotwords_; }
  // How the hotwords sound; null: nobody says, or the model hears no phones.
  const PhraseSounds* sounds() const { return sounds_.get(); }
  // Does it ask for Prediction::language?
  bool asks_network() const { return config_.internal_weight > 0; }

 private:
  Prior(const Model& model, const PriorParts& parts);
  void EndWord(PriorState* state) const;

  std::shared_ptr<const Hotwords> hotwords_;
  std::shared_ptr<const Ngram> ngram_;
  PriorConfig config_;
  std::shared_ptr<const PhraseSounds> sounds_;
  std::vector<std::string> spellings_;  // of each piece without U+2581; of a model of words
  std::vector<uint8_t> starts_word_;
};

}  // namespace earshot

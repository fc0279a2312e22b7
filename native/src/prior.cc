// prior.cc: see prior.h.
#include "prior.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "transcript.h"

namespace earshot {

PriorParts PriorParts::Own(std::shared_ptr<const Model> model) {
  PriorParts parts;
  parts.ngram = Ngram::Find(std::move(model));
  if (parts.ngram != nullptr) parts.config = {parts.ngram->weight(), parts.ngram->internal_weight(), parts.ngram->bonus()};
  return parts;
}

std::shared_ptr<const Prior> Prior::Create(const Model& model, const PriorParts& parts) {
  std::shared_ptr<const Prior> prior(new Prior(model, parts));
  const bool counts = prior->hotwords_ != nullptr || prior->ngram_ != nullptr || prior->config_.internal_weight > 0;
  return counts ? prior : nullptr;
}

Prior::Prior(const Model& model, const PriorParts& parts) : hotwords_(parts.hotwords), ngram_(parts.ngram), config_(parts.config), sounds_(parts.sounds) {
  const auto check = [](const char* name, float value, float low, float high) {
    if (!(value >= low && value <= high)) {
      throw std::invalid_argument(std::string("search: ") + name + " is " + std::to_string(value) + "; it must be in " +
                                  std::to_string(static_cast<int>(low)) + ".." + std::to_string(static_cast<int>(high)) + ".");
    }
  };
  check("lm_weight", config_.weight, 0, 10);
  check("internal_lm_weight", config_.internal_weight, 0, 10);
  check("lm_bonus", config_.bonus, -100, 100);
  const size_t pieces = model.pieces().size();
  const auto of_other_pieces = [&](const char* what, size_t count) {
    if (count == pieces) return;
    throw std::invalid_argument(std::string(what) + ": it was made for " + std::to_string(count) + " pieces and the model has " +
                                std::to_string(pieces) + ". Make it for this model.");
  };
  if (hotwords_ != nullptr) of_other_pieces("hotwords", hotwords_->vocabulary());
  if (sounds_ != nullptr && sounds_->num_phones() != model.phones().size()) {
    throw std::invalid_argument("hotwords: they sound in " + std::to_string(sounds_->num_phones()) + " phones and the model has " +
                                std::to_string(model.phones().size()) + ". Make them for this model.");
  }
  if (sounds_ != nullptr) of_other_pieces("hotwords", sounds_->vocabulary());
  // A model of words goes by their spelling: any pieces will do.
  if (ngram_ != nullptr && !ngram_->of_words()) of_other_pieces("language model", ngram_->num_pieces());
  if (ngram_ != nullptr && config_.weight == 0 && config_.bonus == 0) ngram_ = nullptr;
  if (ngram_ == nullptr || !ngram_->of_words()) return;
  for (const std::string& piece : model.pieces()) {
    starts_word_.push_back(StartsWord(piece));
    spellings_.push_back(StartsWord(piece) ? piece.substr(3) : piece);
  }
}

PriorState Prior::Start() const {
  PriorState state;
  if (ngram_ != nullptr) {
    state.context = ngram_->Start();
  } else {
    state.context.nodes.fill(NgramState::kNone);
  }
  return state;
}

void Prior::EndWord(PriorState* state) const {
  if (state->word_pieces == 0) return;
  const int32_t word = ngram_->FindWord(state->word);
  double score = ngram_->Step(&state->context, word);
  if (word == Ngram::kUnknown) score += double{ngram_->unknown_piece()} * state->word_pieces;
  state->language += config_.weight * score + config_.bonus;
  state->word = Ngram::kHashStart;
  state->word_pieces = 0;
}

PriorState Prior::Extend(const PriorState& state, int32_t piece, const Prediction& network) const {
  PriorState next = state;
  if (hotwords_ != nullptr) next.node = hotwords_->Step(state.node, piece, &next.hotwords);
  if (ngram_ != nullptr) {
    if (!ngram_->of_words()) {
      next.language += config_.weight * ngram_->Step(&next.context, piece) + config_.bonus;
    } else {
      const auto p = static_cast<size_t>(piece);
      if (starts_word_[p]) EndWord(&next);
      next.word = Ngram::ExtendHash(next.word, spellings_[p]);
      ++next.word_pieces;
    }
  }
  next.language -= Internal(piece, network);
  return next;
}

PriorState Prior::End(const PriorState& state) const {
  PriorState last = state;
  if (hotwords_ != nullptr) {
    last.hotwords += hotwords_->End(state.node);
    last.node = Hotwords::kRoot;
  }
  if (ngram_ != nullptr) {
    if (ngram_->of_words()) EndWord(&last);
    // That nothing is said is no sentence, and silence must not be talked into one.
    const bool said = ngram_->order() == 1 || last.context.nodes[0] != Ngram::kBoundary;
    if (said) last.language += config_.weight * ngram_->Score(last.context, Ngram::kBoundary);
  }
  return last;
}

}  // namespace earshot

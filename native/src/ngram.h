// ngram.h: a back-off language model in the flat table that a model file carries.
//
// Knows symbols and contexts; knows nothing of what a symbol is: word pieces, or words by
// the hash of their spelling. Nothing is unpacked: lookups read the file's sections
// (docs/formats/ear.md, section 9).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "model.h"

namespace earshot {

// The longest known contexts of every length: node i stands for the last i + 1 symbols.
struct NgramState {
  static constexpr size_t kMaxOrder = 6;
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  std::array<uint32_t, kMaxOrder - 1> nodes;
};

class Ngram {
 public:
  static constexpr int32_t kUnknown = 0;   // a word that is not in the list
  static constexpr int32_t kBoundary = 1;  // beginning or end of a sentence

  // Null if the file has no language model. Throws ModelFileError for one that is not as the format says.
  static std::shared_ptr<const Ngram> Find(std::shared_ptr<const Model> model);

  bool of_words() const { return of_words_; }
  size_t order() const { return orders_.size(); }
  size_t vocabulary() const { return orders_[0].count; }
  size_t num_ngrams() const;
  // Pieces that the model which it was made for has; of a model of pieces the vocabulary.
  size_t num_pieces() const { return num_pieces_; }
  // Nats, as the file recommends them; see PriorConfig.
  float weight() const { return weight_; }
  float internal_weight() const { return internal_weight_; }
  float bonus() const { return bonus_; }
  // Natural log, for each piece of a word that is not in the list; 0 of a model of pieces.
  float unknown_piece() const { return unknown_piece_; }

  NgramState Start() const;
  // Natural log of the probability of a symbol, 0..vocabulary() - 1, and the state after it.
  double Step(NgramState* state, int32_t symbol) const;
  // The same without the new state.
  double Score(const NgramState& state, int32_t symbol) const;
  // Of a word by the hash of its spelling, which starts with kHashStart; kUnknown if it is not in the list.
  int32_t FindWord(uint32_t hash) const;
  static constexpr uint32_t kHashStart = 2166136261u;
  static uint32_t ExtendHash(uint32_t hash, std::string_view bytes);

 private:
  struct Order {
    size_t count = 0;
    const uint8_t* symbols = nullptr;     // u16 each; null for single symbols
    const uint8_t* log_probs = nullptr;   // codes
    const uint8_t* backoffs = nullptr;    // codes; null of the highest order
    const uint8_t* children = nullptr;    // where each one's continuations begin; null likewise
    bool narrow = false;                  // `children` are u16 each, not u32
    const float* log_prob_levels = nullptr;
    const float* backoff_levels = nullptr;

    uint32_t FirstChild(size_t node) const;  // also of `count`: where the last one's end
  };
  explicit Ngram(std::shared_ptr<const Model> model) : model_(std::move(model)) {}
  void Read(JsonValue json);
  uint32_t Child(size_t order, uint32_t node, int32_t symbol) const;  // kNone: there is none

  std::shared_ptr<const Model> model_;
  bool of_words_ = false;
  size_t num_pieces_ = 0;
  float weight_ = 0, internal_weight_ = 0, bonus_ = 0, unknown_piece_ = 0;
  std::vector<Order> orders_;
  const uint32_t* words_ = nullptr;  // hashes, ascending, from symbol 2 on
};

}  // namespace earshot

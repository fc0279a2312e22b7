// speller.h: words into word pieces, by the pieces' scores.
//
// Knows pieces, scores and UTF-8 bytes; knows nothing of phrases' meaning, case or
// punctuation. Finds what SentencePiece's unigram model finds (Kudo 2018), and the next
// best ways to spell the same text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model.h"

namespace earshot {

struct Spelling {
  std::vector<int32_t> pieces;
  double score = 0;  // sum of the pieces' scores
};

// Buffers of one call at a time.
class SpellScratch {
  friend class Speller;
  struct Way {
    double score;
    int32_t piece;
    uint16_t from;  // byte where the piece begins
    uint16_t rank;  // which of the ways that end there
  };
  std::vector<uint16_t> text_;    // classes of the bytes
  std::vector<Way> ways_;         // of each byte, those that end before it, best first
  std::vector<uint16_t> counts_;  // how many they are
};

class Speller {
 public:
  static constexpr size_t kMaxWays = 16;
  static constexpr size_t kMaxBytes = 1024;  // of a text

  // `scores` has one for each piece; the first three pieces are reserved and spell nothing.
  // Throws std::invalid_argument if there are not as many scores as pieces, or one is not finite.
  Speller(const std::vector<std::string>& pieces, const std::vector<float>& scores);

  // With the scores of the SentencePiece model that the file carries as `tokenizer`. Throws
  // std::invalid_argument if there is none, it is no unigram model, or its pieces are not the model's.
  static std::unique_ptr<Speller> Of(const Model& model);

  // Up to `ways` spellings of words separated by single blanks, best first; of equal ones that
  // with the longer last piece. None if some character is in no piece, or the text is empty or
  // longer than kMaxBytes.
  std::vector<Spelling> Spell(std::string_view text, size_t ways, SpellScratch* scratch) const;

  size_t size() const { return starts_word_.size(); }
  // Of each piece: does it begin a word?
  const std::vector<uint8_t>& starts_word() const { return starts_word_; }
  // Of each piece, how many bytes of a word it spells.
  const std::vector<int32_t>& letters() const { return letters_; }

 private:
  std::vector<float> scores_;
  std::vector<uint8_t> starts_word_;
  std::vector<int32_t> letters_;
  // A trie over bytes. Those that no piece has are of class 0, U+2581 is one class of its own.
  std::vector<uint16_t> class_of_;
  size_t num_classes_ = 2;
  std::vector<int32_t> next_;   // [node, class]; 0: none, as nothing leads back to the root
  std::vector<int32_t> piece_;  // that ends at a node; -1: none
};

}  // namespace earshot

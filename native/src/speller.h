// speller.h: words into word pieces, by the pieces' scores.
//
// Knows pieces, scores and UTF-8 bytes; knows nothing of phrases' meaning, case or
// punctuation. Finds what SentencePiece's unigram model finds (Kudo 2018), and the next
// best ways to spell the same text, which it does without a dependency and in
// about a microsecond a word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace earshot {

struct Spelling {
  std::vector<int32_t> pieces;
  double score = 0;  // sum of the pieces' scores
};

class Speller {
 public:
  static constexpr size_t kMaxWays = 16;
  static constexpr size_t kMaxBytes = 1024;  // of a text

  // `scores` has one for each piece; the first three pieces are reserved and spell nothing.
  // Throws std::invalid_argument if there are not as many scores as pieces, or one is not finite.
  Speller(const std::vector<std::string>& pieces, const std::vector<float>& scores);

  // Up to `ways` spellings of words separated by single blanks, best first; of equal ones that
  // with the shorter last piece. None if some character is in no piece, or the text is empty or
  // longer than kMaxBytes.
  std::vector<Spelling> Spell(std::string_view text, size_t ways) const;

  size_t size() const { return starts_word_.size(); }
  // Of each piece: does it begin a word?
  const std::vector<uint8_t>& starts_word() const { return starts_word_; }

 private:
  std::vector<std::string> pieces_;  // what the keys of `ids_` point into
  std::vector<float> scores_;
  std::vector<uint8_t> starts_word_;
  std::unordered_map<std::string_view, int32_t> ids_;
  size_t longest_ = 0;               // bytes
};

}  // namespace earshot

// hotwords.h: phrases that are to be heard more readily, as a trie of word pieces.
//
// Knows pieces, which of them begin words, and what phrases are worth; knows nothing of
// networks or of how phrases are spelled. docs/concepts/biasing.md derives the rule:
//
// Pieces are read from left to right. At the beginning of each word, the longest phrase
// that begins there and ends where a word ends counts, once, and reading goes on behind it. While a
// phrase is only begun, a share of what it is worth is lent in advance; what does not
// become a phrase is given back. So a text is worth exactly the sum of its phrases,
// and two equal texts are worth the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace earshot {

class Hotwords {
 public:
  static constexpr int32_t kRoot = 0;
  static constexpr size_t kMaxPieces = size_t{1} << 24;  // of all phrases together
  static constexpr float kMaxBoost = 1000;               // nats, of a phrase
  // Boosts are whole multiples of this: their sums are exact.
  static constexpr double kUnit = 1.0 / 4096;

  // Phrases as rows of pieces: `pieces` from `begin[i]` to `begin[i + 1]`, worth `boost[i]` nats, 0..kMaxBoost. Of
  // equal phrases the highest boost counts; one of 0 is as if it were not there. `starts_word`: of each piece of the model. Throws
  // std::invalid_argument for a phrase without pieces, one whose first piece begins no word,
  // a piece that there is not, or a boost out of range.
  static std::shared_ptr<const Hotwords> Create(const std::vector<int32_t>& pieces, const std::vector<int32_t>& begin,
                                                const std::vector<float>& boost, const std::vector<uint8_t>& starts_word);

  // The node after one more piece; adds what it brings or takes to `score`.
  int32_t Step(int32_t node, int32_t piece, double* score) const;
  // What changes if nothing follows.
  double End(int32_t node) const { return end_[static_cast<size_t>(node)]; }
  // No piece can bring more than this from a node,
  double MostGain(int32_t node) const { return most_gain_[static_cast<size_t>(node)]; }
  // and this one no more than that.
  double MostGain(int32_t node, int32_t piece) const {
    if (node != kRoot) return MostGain(node);
    const int32_t arc = root_arcs_[static_cast<size_t>(piece)];
    return arc < 0 ? 0 : lent_[static_cast<size_t>(arc)];
  }
  // The same told from its arcs, more slowly: a phrase that has begun goes on with few pieces, all others give it back.
  double CloserGain(int32_t node, int32_t piece) const {
    const int32_t arc = Arc(node, piece);
    if (arc < 0) return node == kRoot ? 0 : most_failed_[static_cast<size_t>(node)];
    return lent_[static_cast<size_t>(arc)] - lent_[static_cast<size_t>(node)];
  }
  // What a whole text is worth.
  double Score(const int32_t* pieces, size_t count) const;

  size_t vocabulary() const { return starts_word_.size(); }
  size_t num_nodes() const { return lent_.size(); }
  size_t size_bytes() const;

 private:
  Hotwords() = default;
  int32_t Arc(int32_t node, int32_t piece) const;  // -1: none
  void AddFailures();

  std::vector<uint8_t> starts_word_;
  std::vector<int32_t> root_arcs_;     // of each piece
  // Of each node; children lie together, in the order of their pieces.
  std::vector<int32_t> first_child_;   // one more than nodes
  std::vector<int32_t> piece_, parent_;
  std::vector<int32_t> failure_;       // where reading goes on if no arc fits,
  std::vector<double> banked_;         // and what has been earned for good by then
  std::vector<double> worth_;          // of the phrase that ends here; below 0: none does
  std::vector<double> lent_;
  std::vector<double> end_, most_gain_, most_failed_;
};

}  // namespace earshot

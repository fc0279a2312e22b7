// speller.cc: see speller.h. Dynamic programming over bytes; the ways to spell what lies
// before a byte are kept best first.
#include "speller.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "transcript.h"

namespace earshot {
namespace {

constexpr size_t kReserved = 3;
constexpr std::string_view kWordStart = "\xE2\x96\x81";  // U+2581

struct Way {
  double score;
  int32_t piece;
  uint16_t from;  // byte where the piece begins
  uint16_t rank;  // which of the ways that end there
};

}  // namespace

Speller::Speller(const std::vector<std::string>& pieces, const std::vector<float>& scores) : pieces_(pieces), scores_(scores) {
  if (scores.size() != pieces.size()) {
    throw std::invalid_argument("speller: " + std::to_string(pieces.size()) + " pieces and " + std::to_string(scores.size()) +
                                " scores; there must be one score for each piece.");
  }
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (!std::isfinite(scores_[i])) {
      throw std::invalid_argument("speller: the score of piece " + std::to_string(i) + " is not finite; it must be a number.");
    }
    starts_word_.push_back(StartsWord(pieces_[i]));
    if (i < kReserved || pieces_[i].empty()) continue;
    ids_.emplace(pieces_[i], static_cast<int32_t>(i));
    longest_ = std::max(longest_, pieces_[i].size());
  }
}

std::vector<Spelling> Speller::Spell(std::string_view text, size_t ways) const {
  std::vector<Spelling> out;
  if (text.empty() || text.size() > kMaxBytes || ways == 0) return out;
  ways = std::min(ways, kMaxWays);
  std::string spelled(kWordStart);
  for (const char c : text) {
    if (c == ' ') {
      spelled += kWordStart;
    } else {
      spelled += c;
    }
  }
  const std::string_view all = spelled;
  std::vector<std::vector<Way>> ends(all.size() + 1);
  ends[0].push_back({0, -1, 0, 0});
  for (size_t end = 1; end <= all.size(); ++end) {
    std::vector<Way>& here = ends[end];
    for (size_t length = 1; length <= std::min(longest_, end); ++length) {
      const size_t from = end - length;
      if (ends[from].empty()) continue;
      const auto found = ids_.find(all.substr(from, length));
      if (found == ids_.end()) continue;
      for (size_t rank = 0; rank < ends[from].size(); ++rank) {
        const double score = ends[from][rank].score + scores_[static_cast<size_t>(found->second)];
        if (here.size() == ways && !(score > here.back().score)) break;
        if (here.size() == ways) here.pop_back();
        auto at = here.end();
        while (at != here.begin() && score > std::prev(at)->score) --at;
        here.insert(at, {score, found->second, static_cast<uint16_t>(from), static_cast<uint16_t>(rank)});
      }
    }
  }
  for (size_t rank = 0; rank < ends.back().size(); ++rank) {
    Spelling spelling;
    spelling.score = ends.back()[rank].score;
    size_t at = all.size(), way = rank;
    while (at > 0) {
      const Way& last = ends[at][way];
      spelling.pieces.push_back(last.piece);
      at = last.from;
      way = last.rank;
    }
    std::reverse(spelling.pieces.begin(), spelling.pieces.end());
    out.push_back(std::move(spelling));
  }
  return out;
}

}  // namespace earshot

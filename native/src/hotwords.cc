// hotwords.cc: see hotwords.h. Nodes are numbered breadth first, so that the failure arc of a
// node leads to one with a lower number.
#include "hotwords.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace earshot {
namespace {

double Rounded(double nats) { return std::round(nats / Hotwords::kUnit) * Hotwords::kUnit; }

}  // namespace

std::shared_ptr<const Hotwords> Hotwords::Create(const std::vector<int32_t>& pieces, const std::vector<int32_t>& begin,
                                                 const std::vector<float>& boost, const std::vector<uint8_t>& starts_word) {
  const size_t count = boost.size();
  if (begin.size() != count + 1 || begin.front() != 0 || static_cast<size_t>(begin.back()) != pieces.size()) {
    throw std::invalid_argument("hotwords: the phrases' pieces and boosts do not belong together; give a row of pieces for each boost.");
  }
  if (pieces.size() > kMaxPieces) {
    throw std::invalid_argument("hotwords: " + std::to_string(pieces.size()) + " pieces; at most " + std::to_string(kMaxPieces) +
                                " are allowed. Use fewer phrases.");
  }
  for (size_t i = 0; i < count; ++i) {
    const auto where = [i] { return "hotwords: phrase " + std::to_string(i); };
    if (begin[i] >= begin[i + 1]) throw std::invalid_argument(where() + " has no pieces; it must have one at least.");
    for (int32_t at = begin[i]; at < begin[i + 1]; ++at) {
      const int32_t piece = pieces[static_cast<size_t>(at)];
      if (piece < 0 || static_cast<size_t>(piece) >= starts_word.size()) {
        throw std::invalid_argument(where() + " has piece " + std::to_string(piece) + "; the model has 0.." +
                                    std::to_string(starts_word.size() - 1) + ".");
      }
      if (at == begin[i] && !starts_word[static_cast<size_t>(piece)]) {
        throw std::invalid_argument(where() + " begins with piece " + std::to_string(piece) + ", which begins no word.");
      }
    }
    if (!(boost[i] >= 0 && boost[i] <= kMaxBoost)) {
      throw std::invalid_argument(where() + " is worth " + std::to_string(boost[i]) + " nats; it must be in 0.." +
                                  std::to_string(static_cast<int>(kMaxBoost)) + ".");
    }
  }

  std::shared_ptr<Hotwords> out(new Hotwords);
  out->starts_word_ = starts_word;
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < count; ++i) {
    if (Rounded(boost[i]) > 0) order.push_back(i);
  }
  const auto row = [&](uint32_t i) { return pieces.data() + begin[i]; };
  const auto length = [&](uint32_t i) { return static_cast<size_t>(begin[i + 1] - begin[i]); };
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return std::lexicographical_compare(row(a), row(a) + length(a), row(b), row(b) + length(b));
  });

  // A node is a range of the sorted phrases that share its pieces.
  struct Range {
    uint32_t from, to;
    size_t depth;
  };
  std::vector<Range> ranges{{0, static_cast<uint32_t>(order.size()), 0}};
  out->piece_.push_back(-1);
  out->parent_.push_back(-1);
  for (size_t node = 0; node < ranges.size(); ++node) {
    const Range range = ranges[node];
    out->first_child_.push_back(static_cast<int32_t>(ranges.size()));
    double worth = -1;
    double lent = 0;
    uint32_t at = range.from;
    for (; at < range.to && length(order[at]) == range.depth; ++at) worth = std::max(worth, Rounded(boost[order[at]]));
    for (uint32_t i = range.from; i < range.to; ++i) {
      const uint32_t phrase = order[i];
      lent = std::max(lent, double{boost[phrase]} * static_cast<double>(range.depth) / static_cast<double>(length(phrase)));
    }
    out->worth_.push_back(worth);
    out->lent_.push_back(Rounded(lent));
    while (at < range.to) {
      const int32_t piece = row(order[at])[range.depth];
      uint32_t end = at + 1;
      while (end < range.to && row(order[end])[range.depth] == piece) ++end;
      ranges.push_back({at, end, range.depth + 1});
      out->piece_.push_back(piece);
      out->parent_.push_back(static_cast<int32_t>(node));
      at = end;
    }
  }
  out->first_child_.push_back(static_cast<int32_t>(ranges.size()));
  out->root_arcs_.assign(starts_word.size(), -1);
  for (int32_t child = out->first_child_[0]; child < out->first_child_[1]; ++child) {
    out->root_arcs_[static_cast<size_t>(out->piece_[static_cast<size_t>(child)])] = child;
  }
  out->AddFailures();
  return out;
}

// Where a node fails, the beginning of its pieces is settled: a phrase at its front counts, or its first word
// is no phrase. What remains is read again from the root. For a child that is one step of where its
// parent fails, or of the root if a phrase ends in the parent and the child begins a word.
void Hotwords::AddFailures() {
  const size_t nodes = lent_.size();
  failure_.assign(nodes, kRoot);
  banked_.assign(nodes, 0);
  end_.assign(nodes, 0);
  most_gain_.assign(nodes, 0);
  most_failed_.assign(nodes, 0);
  for (size_t node = 1; node < nodes; ++node) {
    const auto parent = static_cast<size_t>(parent_[node]);
    const int32_t piece = piece_[node];
    double banked = 0;
    int32_t at = kRoot;
    if (parent != kRoot) {
      if (worth_[parent] >= 0 && starts_word_[static_cast<size_t>(piece)]) {
        banked = worth_[parent];
      } else {
        banked = banked_[parent];
        at = failure_[parent];
      }
      // As Step, without what is lent: nodes with lower numbers are done.
      while (true) {
        const int32_t next = Arc(at, piece);
        if (next >= 0 || at == kRoot) {
          at = std::max(next, kRoot);
          break;
        }
        const auto from = static_cast<size_t>(at);
        if (worth_[from] >= 0 && starts_word_[static_cast<size_t>(piece)]) {
          banked += worth_[from];
          at = kRoot;
        } else {
          banked += banked_[from];
          at = failure_[from];
        }
      }
    }
    failure_[node] = at;
    banked_[node] = banked;
    // Never less than what reading otherwise is worth so far.
    lent_[node] = std::max({lent_[node], worth_[node], banked + lent_[static_cast<size_t>(at)]});
    const double closed = worth_[node] >= 0 ? worth_[node]
                                            : banked + lent_[static_cast<size_t>(at)] + end_[static_cast<size_t>(at)];
    end_[node] = closed - lent_[node];
  }
  // What any piece can bring: an arc of the node, or what failing leads to.
  for (size_t node = 0; node < nodes; ++node) {
    double most = 0;
    for (int32_t child = first_child_[node]; child < first_child_[node + 1]; ++child) {
      most = std::max(most, lent_[static_cast<size_t>(child)] - lent_[node]);
    }
    if (node != kRoot) {
      const auto at = static_cast<size_t>(failure_[node]);
      double failed = banked_[node] + lent_[at] + most_gain_[at] - lent_[node];
      if (worth_[node] >= 0) failed = std::max(failed, worth_[node] + most_gain_[kRoot] - lent_[node]);
      most_failed_[node] = failed;
      most = std::max(most, failed);
    }
    most_gain_[node] = most;
  }
}

int32_t Hotwords::Arc(int32_t node, int32_t piece) const {
  if (node == kRoot) return root_arcs_[static_cast<size_t>(piece)];
  const auto first = piece_.begin() + first_child_[static_cast<size_t>(node)];
  const auto last = piece_.begin() + first_child_[static_cast<size_t>(node) + 1];
  const auto found = std::lower_bound(first, last, piece);
  return found != last && *found == piece ? static_cast<int32_t>(found - piece_.begin()) : -1;
}

int32_t Hotwords::Step(int32_t node, int32_t piece, double* score) const {
  const bool starts = starts_word_[static_cast<size_t>(piece)] != 0;
  double gain = -lent_[static_cast<size_t>(node)];
  while (true) {
    const int32_t next = Arc(node, piece);
    if (next >= 0 || node == kRoot) {
      node = std::max(next, kRoot);
      break;
    }
    const auto from = static_cast<size_t>(node);
    if (starts && worth_[from] >= 0) {
      gain += worth_[from];
      node = kRoot;
    } else {
      gain += banked_[from];
      node = failure_[from];
    }
  }
  *score += gain + lent_[static_cast<size_t>(node)];
  return node;
}

double Hotwords::Score(const int32_t* pieces, size_t count) const {
  int32_t node = kRoot;
  double score = 0;
  for (size_t i = 0; i < count; ++i) node = Step(node, pieces[i], &score);
  return score + End(node);
}

size_t Hotwords::size_bytes() const {
  const size_t ids = root_arcs_.size() + first_child_.size() + piece_.size() + parent_.size() + failure_.size();
  const size_t scores = banked_.size() + worth_.size() + lent_.size() + end_.size() + most_gain_.size() + most_failed_.size();
  return starts_word_.size() + ids * sizeof(int32_t) + scores * sizeof(double);
}

}  // namespace earshot

// token_tree.cc: see token_tree.h.
#include "token_tree.h"

#include <algorithm>

namespace earshot {

uint64_t ExtendHash(uint64_t hash, int32_t id) {
  hash = (hash ^ (static_cast<uint64_t>(id) + 0x9E3779B97F4A7C15u)) * 0xBF58476D1CE4E5B9u;
  return hash ^ (hash >> 29);
}

History TokenTree::Extend(const History& history, int32_t token, int32_t frame, float log_prob) {
  int32_t index;
  if (free_.empty()) {
    index = static_cast<int32_t>(nodes_.size());
    nodes_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  nodes_[static_cast<size_t>(index)] = {history.node, token, frame, log_prob, 1, false};
  Ref(history.node);
  return {index, token, history.length + 1, ExtendHash(history.hash, token)};
}

void TokenTree::Ref(int32_t index) {
  if (index != History::kRoot) ++nodes_[static_cast<size_t>(index)].references;
}

void TokenTree::Unref(int32_t index) {
  while (index != History::kRoot && --nodes_[static_cast<size_t>(index)].references == 0) {
    free_.push_back(index);
    index = node(index).parent;
  }
}

bool TokenTree::SamePieces(int32_t a, int32_t b) const {
  while (a != b) {
    if (a == History::kRoot || b == History::kRoot) return false;
    const Node& x = node(a);
    const Node& y = node(b);
    if (x.token != y.token || x.settled || y.settled) return false;
    a = x.parent;
    b = y.parent;
  }
  return true;
}

bool TokenTree::Same(const History& a, const History& b) const {
  return a.length == b.length && a.hash == b.hash && SamePieces(a.node, b.node);
}

bool TokenTree::Extends(const History& longer, const History& shorter) const {
  return longer.length == shorter.length + 1 && longer.hash == ExtendHash(shorter.hash, longer.last) &&
         SamePieces(node(longer.node).parent, shorter.node);
}

void TokenTree::Append(const History& history, TokenPath* path) const {
  const size_t from = path->tokens.size();
  for (int32_t index = history.node; index != History::kRoot && !node(index).settled; index = node(index).parent) {
    path->tokens.push_back(node(index).token);
    path->frames.push_back(node(index).frame);
    path->log_probs.push_back(node(index).log_prob);
  }
  const auto turn = [from](auto* values) {
    std::reverse(values->begin() + static_cast<std::ptrdiff_t>(from), values->end());
  };
  turn(&path->tokens);
  turn(&path->frames);
  turn(&path->log_probs);
}

void TokenTree::SettleShared(const History* const* histories, size_t count, TokenPath* settled) {
  if (count == 0) return;
  History shared = *histories[0];
  for (size_t i = 1; i < count; ++i) {
    int32_t other = histories[i]->node;
    size_t other_length = histories[i]->length;
    while (shared.node != other) {
      if (shared.length >= other_length) {
        shared.node = node(shared.node).parent;
        --shared.length;
      } else {
        other = node(other).parent;
        --other_length;
      }
    }
  }
  Append(shared, settled);
  if (shared.node == History::kRoot) return;
  Node& last = nodes_[static_cast<size_t>(shared.node)];
  if (last.settled) return;
  last.settled = true;
  const int32_t parent = last.parent;
  last.parent = History::kRoot;
  Unref(parent);
}

void TokenTree::Clear() {
  nodes_.clear();
  free_.clear();
}

}  // namespace earshot

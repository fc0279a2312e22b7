// token_tree.h: the pieces of many hypotheses, sharing what they have in common.
//
// Knows pieces, frames and which histories are equal; knows nothing of scores
// that decide between them, nor of what a piece spells.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace earshot {

// Pieces of one path with the frame and the log-probability of each.
struct TokenPath {
  std::vector<int32_t> tokens;
  std::vector<int32_t> frames;
  std::vector<float> log_probs;
};

// All pieces of one hypothesis: a node of the tree, and what makes two of them
// quick to compare.
struct History {
  static constexpr int32_t kRoot = -1;
  int32_t node = kRoot;
  int32_t last = -1;    // piece; -1 if there is none
  size_t length = 0;    // pieces
  uint64_t hash = 0;    // of the pieces
};

// Mixes one more id into a hash.
uint64_t ExtendHash(uint64_t hash, int32_t id);

// Nodes are counted references: a history that is dropped takes its own part
// with it.
class TokenTree {
 public:
  // `history` and one piece more, with one reference.
  History Extend(const History& history, int32_t token, int32_t frame, float log_prob);
  void Ref(const History& history) { Ref(history.node); }
  void Unref(const History& history) { Unref(history.node); }
  bool Same(const History& a, const History& b) const;
  // The frame of the last piece; -1 if there is none.
  int32_t LastFrame(const History& history) const { return history.node == History::kRoot ? -1 : node(history.node).frame; }
  // Is `longer` the pieces of `shorter` and one more?
  bool Extends(const History& longer, const History& shorter) const;
  // Appends what lies between `history` and the settled part, oldest first.
  void Append(const History& history, TokenPath* path) const;
  // What all of `count` histories share cannot change any more: it moves to the
  // end of `settled`, and the tree keeps only what is still open.
  void SettleShared(const History* const* histories, size_t count, TokenPath* settled);
  void Clear();

 private:
  struct Node {
    int32_t parent, token, frame;
    float log_prob;
    int32_t references;
    bool settled;
  };
  const Node& node(int32_t index) const { return nodes_[static_cast<size_t>(index)]; }
  void Ref(int32_t index);
  void Unref(int32_t index);
  // Same pieces? Both must have the same number.
  bool SamePieces(int32_t a, int32_t b) const;
  std::vector<Node> nodes_;
  std::vector<int32_t> free_;
};

}  // namespace earshot

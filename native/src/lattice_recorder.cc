// lattice_recorder.cc: see lattice_recorder.h.
#include "lattice_recorder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "search.h"

namespace earshot {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr size_t kCollectArcs = 1024;  // fewer are not worth a look

uint64_t HashOf(const std::vector<int32_t>& pieces) {
  uint64_t hash = 0;
  for (const int32_t piece : pieces) hash = ExtendHash(hash, piece);
  return hash;
}

}  // namespace

LatticeRecorder::LatticeRecorder(const LatticeConfig& config) : config_(config) { Clear(); }

void LatticeRecorder::Clear() {
  nodes_.clear();
  nodes_.emplace_back();  // kStart
  order_.assign(1, kStart);
  words_.clear();
  word_ids_.clear();
  num_arcs_ = 0;
  collect_at_ = kCollectArcs;
}

// Is there a path? All nodes on one lie between the two in the order.
bool LatticeRecorder::LeadsTo(int32_t from, int32_t to) {
  stack_.assign(1, to);
  seen_.clear();
  while (!stack_.empty()) {
    const int32_t at = stack_.back();
    stack_.pop_back();
    if (at == from) return true;
    if (node(at).place < node(from).place || std::find(seen_.begin(), seen_.end(), at) != seen_.end()) continue;
    seen_.push_back(at);
    for (const Arc& arc : node(at).arcs) stack_.push_back(arc.src);
  }
  return false;
}

// Makes room in the order for an arc from `to` into `from`, which must not lead to it: what `from`
// leads to moves behind `to`, with `from`.
void LatticeRecorder::MoveBehind(int32_t from, int32_t to) {
  const auto first = static_cast<size_t>(node(from).place), last = static_cast<size_t>(node(to).place);
  std::vector<int32_t>& moves = seen_;
  moves.assign(1, from);
  size_t put = first;
  for (size_t at = first + 1; at <= last; ++at) {
    const int32_t n = order_[at];
    const std::vector<Arc>& arcs = node(n).arcs;
    const bool follows = std::any_of(arcs.begin(), arcs.end(), [&](const Arc& arc) {
      return node(arc.src).place >= static_cast<int32_t>(first) && std::find(moves.begin(), moves.end(), arc.src) != moves.end();
    });
    if (follows) {
      moves.push_back(n);
    } else {
      order_[put++] = n;
    }
  }
  std::copy(moves.begin(), moves.end(), order_.begin() + static_cast<std::ptrdiff_t>(put));
  for (size_t at = first; at <= last; ++at) nodes_[static_cast<size_t>(order_[at])].place = static_cast<int32_t>(at);
}

int32_t LatticeRecorder::Reusable(const LatticePath& path) {
  if (path.word.empty()) return kStart;
  if (path.node < 0 || node(path.node).lead != path.entries.front().node) return -1;
  const std::vector<Arc>& arcs = node(path.node).arcs;
  for (const WordEntry& entry : path.entries) {
    const bool known = std::any_of(arcs.begin(), arcs.end(), [&](const Arc& arc) { return arc.src == entry.node; });
    // What came to say the same words by way of this very node ("no no no") needs another.
    if (!known && LeadsTo(path.node, entry.node)) return -1;
  }
  return path.node;
}

int32_t LatticeRecorder::Depart(LatticePath* path, int32_t reusable, double log_prob) {
  int32_t index = reusable;
  if (index == kStart) return kStart;
  if (index < 0) {
    index = static_cast<int32_t>(nodes_.size());
    nodes_.emplace_back();
    nodes_.back().lead = path->entries.front().node;
    nodes_.back().departure = -kInfinity;
    nodes_.back().place = static_cast<int32_t>(order_.size());
    order_.push_back(index);
    path->node = index;
  }
  const int32_t word = WordId(path->word);
  Node& node = nodes_[static_cast<size_t>(index)];
  for (const WordEntry& entry : path->entries) {
    const Arc arc{entry.node, word, entry.start_frame, entry.last_frame + 1, entry.score + log_prob, entry.prior};
    const auto known = std::find_if(node.arcs.begin(), node.arcs.end(), [&](const Arc& a) { return a.src == arc.src; });
    if (known == node.arcs.end()) {
      // What another path's departure in this frame has made a detour of must wait for a new node.
      if (LeadsTo(index, arc.src)) continue;
      if (this->node(arc.src).place > node.place) MoveBehind(index, arc.src);
      node.arcs.push_back(arc);
      ++num_arcs_;
    } else if (arc.departure > known->departure) {
      *known = arc;
    }
  }
  const WordEntry& best = path->entries.front();
  if (best.score + log_prob > node.departure) {
    node.departure = best.score + log_prob;
    node.score = best.score;
    node.prior = best.prior;
  }
  return index;
}

int32_t LatticeRecorder::WordId(const std::vector<int32_t>& pieces) {
  std::vector<int32_t>& ids = word_ids_[HashOf(pieces)];
  for (const int32_t id : ids) {
    if (words_[static_cast<size_t>(id)] == pieces) return id;
  }
  ids.push_back(static_cast<int32_t>(words_.size()));
  words_.push_back(pieces);
  return ids.back();
}

// How far the best end of each node is behind the best of all.
std::vector<double> LatticeRecorder::Ends(const std::vector<const LatticePath*>& paths) const {
  std::vector<double> ends(nodes_.size(), kInfinity);
  double best = -kInfinity;
  for (const LatticePath* path : paths) best = std::max(best, path->entries.front().score);
  for (const LatticePath* path : paths) {
    for (const WordEntry& entry : path->entries) {
      double& end = ends[static_cast<size_t>(entry.node)];
      end = std::min(end, best - entry.score);
    }
  }
  return ends;
}

std::vector<std::vector<double>> LatticeRecorder::Behind(const std::vector<double>& ends) const {
  std::vector<double> behind = ends;
  std::vector<std::vector<double>> rows(nodes_.size());
  for (size_t i = order_.size(); i-- > 0;) {
    const auto n = static_cast<size_t>(order_[i]);
    for (const Arc& arc : nodes_[n].arcs) {
      rows[n].push_back(behind[n] + nodes_[n].departure - arc.departure);
      double& before = behind[static_cast<size_t>(arc.src)];
      before = std::min(before, rows[n].back());
    }
  }
  return rows;
}

void LatticeRecorder::Collect(const std::vector<LatticePath*>& paths) {
  if (num_arcs_ < collect_at_ || paths.empty()) return;
  const std::vector<const LatticePath*> ends(paths.begin(), paths.end());
  const std::vector<std::vector<double>> behind = Behind(Ends(ends));
  double beam = config_.beam;
  std::vector<double> all;
  for (const auto& row : behind) {
    for (const double x : row) {
      if (x <= beam) all.push_back(x);
    }
  }
  // Room for as many again before the next look.
  const size_t most = std::max<size_t>(config_.max_arcs / 2, 1);
  if (all.size() > most) {
    std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(most), all.end());
    beam = all[most];
  }
  std::vector<int32_t> place(nodes_.size(), -1);
  const auto keep = [&](int32_t n) { place[static_cast<size_t>(n)] = 0; };
  keep(kStart);
  for (const LatticePath* path : paths) {
    if (path->node >= 0) keep(path->node);
    for (const WordEntry& entry : path->entries) keep(entry.node);
  }
  num_arcs_ = 0;
  for (size_t i = order_.size(); i-- > 0;) {
    const auto n = static_cast<size_t>(order_[i]);
    if (place[n] < 0) continue;
    std::vector<Arc>& arcs = nodes_[n].arcs;
    size_t kept = 0;
    for (size_t a = 0; a < arcs.size(); ++a) {
      // The best arc into a node that stays must stay, and a node that a path may still leave is
      // not behind anything yet.
      if (behind[n][a] > beam && arcs[a].src != nodes_[n].lead) continue;
      keep(arcs[a].src);
      arcs[kept++] = arcs[a];
    }
    arcs.resize(kept);
    num_arcs_ += kept;
  }
  // Nodes and words close ranks.
  std::vector<Node> nodes;
  for (size_t n = 0; n < nodes_.size(); ++n) {
    if (place[n] < 0) continue;
    place[n] = static_cast<int32_t>(nodes.size());
    nodes.push_back(std::move(nodes_[n]));
  }
  nodes_ = std::move(nodes);
  size_t kept = 0;
  for (const int32_t n : order_) {
    if (place[static_cast<size_t>(n)] < 0) continue;
    order_[kept] = place[static_cast<size_t>(n)];
    nodes_[static_cast<size_t>(order_[kept])].place = static_cast<int32_t>(kept);
    ++kept;
  }
  order_.resize(kept);
  const std::vector<std::vector<int32_t>> words = std::move(words_);
  words_.clear();
  word_ids_.clear();
  const auto moved = [&](int32_t n) { return n < 0 ? n : place[static_cast<size_t>(n)]; };
  for (Node& n : nodes_) {
    n.lead = moved(n.lead);
    for (Arc& arc : n.arcs) {
      arc.src = moved(arc.src);
      arc.word = WordId(words[static_cast<size_t>(arc.word)]);
    }
  }
  for (LatticePath* path : paths) {
    path->node = moved(path->node);
    for (WordEntry& entry : path->entries) entry.node = moved(entry.node);
  }
  collect_at_ = std::max({kCollectArcs, 2 * num_arcs_});
}

LatticeArcs LatticeRecorder::Arcs(const std::vector<const LatticePath*>& paths) const {
  LatticeArcs out;
  if (paths.empty()) {
    out.words.emplace_back();
    for (auto* column : {&out.src, &out.word, &out.start_frame, &out.end_frame}) column->push_back(0);
    out.dst.push_back(1);
    out.acoustic.push_back(0);
    out.prior.push_back(0);
    return out;
  }
  struct Row {
    int32_t src, dst, start_frame, end_frame;
    double score, prior, behind;
    const std::vector<int32_t>* word;
  };
  std::vector<Row> rows;
  const std::vector<double> ends = Ends(paths);
  const std::vector<std::vector<double>> behind = Behind(ends);
  const auto last = static_cast<int32_t>(nodes_.size());
  for (const int32_t n : order_) {
    const Node& to = node(n);
    for (size_t a = 0; a < to.arcs.size(); ++a) {
      const Arc& arc = to.arcs[a];
      const Node& from = node(arc.src);
      const double arrival = to.score + (arc.departure - to.departure);
      rows.push_back({arc.src, n, arc.start_frame, arc.end_frame, arrival - from.score, arc.prior - from.prior,
                      behind[static_cast<size_t>(n)][a], &words_[static_cast<size_t>(arc.word)]});
    }
  }
  double best = -kInfinity;
  for (const LatticePath* path : paths) best = std::max(best, path->entries.front().score);
  for (const LatticePath* path : paths) {
    for (const WordEntry& entry : path->entries) {
      const bool nothing = path->word.empty();
      const Node& from = node(entry.node);
      rows.push_back({entry.node, last, nothing ? 0 : entry.start_frame, nothing ? 0 : entry.last_frame + 1,
                      entry.score - from.score, entry.prior - from.prior, best - entry.score, &path->word});
    }
  }
  double beam = config_.beam;
  std::vector<double> all;
  for (const Row& row : rows) {
    if (row.behind <= beam) all.push_back(row.behind);
  }
  if (all.size() > config_.max_arcs) {
    std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(config_.max_arcs), all.end());
    beam = std::nextafter(all[config_.max_arcs], -kInfinity);
  }
  std::vector<int32_t> place(nodes_.size() + 1, -1);
  for (const Row& row : rows) {
    if (row.behind <= std::max(beam, 0.0)) place[static_cast<size_t>(row.src)] = 0;
  }
  int32_t states = 0;
  for (const int32_t n : order_) {
    if (place[static_cast<size_t>(n)] == 0) place[static_cast<size_t>(n)] = states++;
  }
  place[static_cast<size_t>(last)] = states;
  const auto left_out = [&](const Row& row) { return !(row.behind <= std::max(beam, 0.0)); };
  rows.erase(std::remove_if(rows.begin(), rows.end(), left_out), rows.end());
  std::stable_sort(rows.begin(), rows.end(), [&](const Row& a, const Row& b) {
    return place[static_cast<size_t>(a.src)] < place[static_cast<size_t>(b.src)];
  });
  std::unordered_map<uint64_t, std::vector<int32_t>> ids;
  for (const Row& row : rows) {
    out.src.push_back(place[static_cast<size_t>(row.src)]);
    out.dst.push_back(place[static_cast<size_t>(row.dst)]);
    out.start_frame.push_back(row.start_frame);
    out.end_frame.push_back(row.end_frame);
    out.acoustic.push_back(static_cast<float>(row.score - row.prior));
    out.prior.push_back(static_cast<float>(row.prior));
    int32_t word = -1;
    std::vector<int32_t>& same = ids[HashOf(*row.word)];
    for (const int32_t id : same) {
      if (out.words[static_cast<size_t>(id)] == *row.word) word = id;
    }
    if (word < 0) {
      word = static_cast<int32_t>(out.words.size());
      same.push_back(word);
      out.words.push_back(*row.word);
    }
    out.word.push_back(word);
  }
  return out;
}

}  // namespace earshot

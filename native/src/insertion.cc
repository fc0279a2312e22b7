// insertion.cc: phrases that are put into a search (search.h), and the paths that they may follow.
#include <algorithm>
#include <cmath>
#include <vector>

#include "search.h"

namespace earshot {
namespace {

constexpr size_t kRemembered = 4;  // paths of a frame

}  // namespace

void Search::Release(TokenTree* tree, const Hypothesis& path) {
  tree->Unref(path.history);
  for (const WordEntry& entry : path.lattice.entries) tree->Unref(entry.history);
}

void Search::Remember(SearchState* state) const {
  state->snapshots.emplace_back();
  Snapshot& snapshot = state->snapshots.back();
  snapshot.frame = state->num_frames;
  snapshot.best = state->Rank(state->paths.front());
  const size_t count = std::min(kRemembered, state->paths.size());
  snapshot.paths.assign(state->paths.begin(), state->paths.begin() + static_cast<std::ptrdiff_t>(count));
  for (const Hypothesis& path : snapshot.paths) {
    state->tree.Ref(path.history);
    for (const WordEntry& entry : path.lattice.entries) state->tree.Ref(entry.history);
  }
}

void Search::Forget(SearchState* state, size_t frame) const {
  while (!state->snapshots.empty() && state->snapshots.front().frame < frame) {
    for (const Hypothesis& path : state->snapshots.front().paths) Release(&state->tree, path);
    state->snapshots.pop_front();
  }
}

Hypothesis Search::Inserted(SearchState* state, const Hypothesis& before, const InsertedPhrase& phrase, double rank,
                            ScorerScratch* scorer) const {
  const bool recording = state->lattice != nullptr;
  const bool predicts = settings_.stateful || (state->prior != nullptr && state->prior->asks_network());
  static const Prediction kNothing;
  Hypothesis path = before;
  path.left = false;
  path.inserted_until = static_cast<int32_t>(state->num_frames);
  const double from = state->Rank(before);
  LatticePath& lattice = path.lattice;
  lattice.node = -1;
  bool own = false;  // whether `path.history` has a reference of its own
  for (size_t i = 0; i < phrase.pieces.size(); ++i) {
    const int32_t piece = phrase.pieces[i], frame = phrase.frames[i];
    if (predicts && path.context.out == nullptr) {
      scorer->Clear();
      scorer->Request(&path.context, nullptr);
      scorer_->Predict(scorer);
    }
    if (recording && StartsWordAfter(lattice, piece)) {
      const int32_t node = state->lattice->Depart(&lattice, state->lattice->Reusable(lattice), 0);
      lattice.word.clear();
      lattice.entries.assign(1, {});
      lattice.entries.front().node = node;
      lattice.entries.front().start_frame = frame;
      lattice.node = -1;
    }
    if (state->prior != nullptr) path.prior = state->prior->Extend(path.prior, piece, predicts ? *path.context.out : kNothing);
    scorer_->Extend(&path.context, piece);
    const History history = state->tree.Extend(path.history, piece, frame, phrase.log_prob);
    if (own) state->tree.Unref(path.history);
    path.history = history;
    own = true;
    if (!recording) continue;
    lattice.word.push_back(piece);
    std::copy(lattice.recent.begin() + 1, lattice.recent.end(), lattice.recent.begin());
    lattice.recent.back() = piece;
    WordEntry& entry = lattice.entries.front();
    entry.last_frame = frame;
    entry.score = from + (rank - from) * static_cast<double>(i + 1) / static_cast<double>(phrase.pieces.size());
    entry.prior = path.prior.total();
  }
  path.score = recording ? rank : rank - path.prior.total();
  if (recording) {
    lattice.key = Key(lattice);
    lattice.entries.front().history = path.history;
    state->tree.Ref(path.history);
  }
  return path;
}

void Search::Insert(SearchState* state, const std::vector<InsertedPhrase>& phrases, ScorerScratch* scorer) const {
  std::vector<Hypothesis>& paths = state->paths;
  std::vector<Hypothesis> made;
  for (const InsertedPhrase& phrase : phrases) {
    const auto snapshot = std::find_if(state->snapshots.begin(), state->snapshots.end(),
                                       [&](const Snapshot& s) { return s.frame == phrase.start; });
    if (snapshot == state->snapshots.end()) continue;
    // What the best path would be without phrases that were put in for the same sound.
    double base = -1e300;
    for (const Hypothesis& path : paths) {
      const bool rivals = path.inserted_until >= static_cast<int32_t>(phrase.start);
      base = std::max(base, state->Rank(path) - (rivals ? path.inserted_gain : 0));
    }
    for (const Hypothesis& before : snapshot->paths) {
      const double gain = phrase.gain + state->Rank(before) - snapshot->best;
      if (!(gain > 0) || !std::isfinite(base + gain)) continue;
      made.push_back(Inserted(state, before, phrase, base + gain, scorer));
      made.back().inserted_gain = gain;
    }
  }
  if (made.empty()) return;
  for (Hypothesis& path : made) {
    const auto same = std::find_if(paths.begin(), paths.end(), [&](const Hypothesis& other) {
      return state->tree.Same(other.history, path.history);
    });
    if (same == paths.end()) {
      paths.push_back(std::move(path));
    } else if (state->Rank(path) > state->Rank(*same)) {
      Release(&state->tree, *same);
      *same = std::move(path);
    } else {
      Release(&state->tree, path);
    }
  }
  std::stable_sort(paths.begin(), paths.end(), [&](const Hypothesis& a, const Hypothesis& b) { return state->Rank(a) > state->Rank(b); });
  while (paths.size() > MaxPaths(*state)) {
    Release(&state->tree, paths.back());
    paths.pop_back();
  }
}

// Paths of the past are compared with those of now as far as they were behind the best of their time.
void Search::Collect(SearchState* state, SearchScratch* scratch) const {
  std::vector<LatticePath*>& held = scratch->lattice_paths_;
  held.clear();
  for (Hypothesis& path : state->paths) held.push_back(&path.lattice);
  std::deque<LatticePath> shifted;
  for (const Snapshot& snapshot : state->snapshots) {
    const double shift = state->paths.front().score - snapshot.best;
    for (const Hypothesis& path : snapshot.paths) {
      shifted.push_back(path.lattice);
      for (WordEntry& entry : shifted.back().entries) entry.score += shift;
      held.push_back(&shifted.back());
    }
  }
  state->lattice->Collect(held);
  auto from = shifted.begin();
  for (Snapshot& snapshot : state->snapshots) {
    for (Hypothesis& path : snapshot.paths) {
      path.lattice.node = from->node;
      for (size_t e = 0; e < path.lattice.entries.size(); ++e) path.lattice.entries[e].node = from->entries[e].node;
      ++from;
    }
  }
}

}  // namespace earshot

// search.cc: see search.h for the rule. Order decides between equal scores: the
// path that came first, blank before pieces, low ids before high ones.
#include "search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "transcript.h"

namespace earshot {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr int32_t kNewNode = -2;
constexpr double kNegligible = 40;  // nats: what is so much less likely does not change a sum

// What tells two states of a prior apart that are not continued alike.
uint64_t HashOf(const PriorState& state) {
  uint64_t hash = ExtendHash(0, state.node);
  for (const uint32_t node : state.context.nodes) hash = ExtendHash(hash, static_cast<int32_t>(node));
  hash = ExtendHash(hash, static_cast<int32_t>(state.word));
  return ExtendHash(hash, static_cast<int32_t>(state.word_pieces));
}

}  // namespace

double Sane(double score) { return std::isnan(score) ? kMinusInfinity : score; }

double Bounded(double log_prob) { return log_prob > -1e4 ? std::min(log_prob, 1e4) : -1e4; }

double LogAdd(double a, double b) {
  if (a < b) std::swap(a, b);
  if (b == kMinusInfinity || b < a - kNegligible) return a;
  return a + std::log1p(std::exp(b - a));
}

void SearchState::Reset() {
  paths.clear();
  tree.Clear();
  settled = {};
  num_frames = 0;
  snapshots.clear();
  if (lattice != nullptr) lattice->Clear();
}

Search::Search(const Model& model, const Scorer* scorer, const SearchConfig& config)
    : scorer_(scorer), config_(config), settings_(model.search()) {
  if (config_.max_symbols_per_frame == 0) config_.max_symbols_per_frame = settings_.max_symbols_per_frame;
  if (config_.max_active_paths < 1 || config_.max_active_paths > SearchConfig::kMaxActivePaths) {
    throw std::invalid_argument("search: max_active_paths is " + std::to_string(config_.max_active_paths) +
                                "; it must be in 1.." + std::to_string(SearchConfig::kMaxActivePaths) + ".");
  }
  if (config_.max_symbols_per_frame > 100) {
    throw std::invalid_argument("search: max_symbols_per_frame is " + std::to_string(config_.max_symbols_per_frame) +
                                "; it must be in 0..100, where 0 means the model's.");
  }
  LatticeConfig& lattice = config_.lattice;
  if (lattice.max_active_paths < 1 || lattice.max_active_paths > SearchConfig::kMaxActivePaths) {
    throw std::invalid_argument("search: lattice_paths is " + std::to_string(lattice.max_active_paths) + "; it must be in 1.." +
                                std::to_string(SearchConfig::kMaxActivePaths) + ".");
  }
  if (!(lattice.beam >= 0 && lattice.beam <= 1000)) {
    throw std::invalid_argument("search: lattice_beam is " + std::to_string(lattice.beam) + "; it must be in 0..1000.");
  }
  if (lattice.max_arcs < 1 || lattice.max_arcs > 1000000) {
    throw std::invalid_argument("search: lattice_arcs is " + std::to_string(lattice.max_arcs) + "; it must be in 1..1000000.");
  }
  const size_t least = settings_.stateful ? 1 : settings_.context_size;
  if (lattice.context_size == 0) lattice.context_size = settings_.stateful ? LatticeConfig::kStatefulContext : least;
  if (lattice.context_size < least || lattice.context_size > kMaxContext) {
    throw std::invalid_argument("search: lattice_context is " + std::to_string(lattice.context_size) + "; it must be in " +
                                std::to_string(least) + ".." + std::to_string(kMaxContext) +
                                " for this model, or 0 for what its predictor sees.");
  }
  for (const std::string& piece : model.pieces()) starts_word_.push_back(StartsWord(piece));
}

void Search::BeginFrame(SearchState* state) const {
  if (state->paths.empty()) {
    state->paths.emplace_back();
    state->paths.back().context = scorer_->Start(state->phrases.get());
    if (state->prior != nullptr) state->paths.back().prior = state->prior->Start();
    if (state->lattice != nullptr) {
      LatticePath& path = state->paths.back().lattice;
      path.entries.emplace_back();
      path.recent.fill(-1);
      path.key = Key(path);
    }
  }
  for (Hypothesis& path : state->paths) path.left = false;
}

void Search::Request(SearchState* state, const float* encoder_row, ScorerScratch* scorer) const {
  for (Hypothesis& path : state->paths) {
    if (!path.left) scorer->Request(&path.context, encoder_row);
  }
}

void Search::RankPieces(const SearchState& state, const Hypothesis& path, const float* row, double floor, size_t most,
                        SearchScratch* scratch) const {
  const Prior& prior = *state.prior;
  const Prediction& network = *path.context.out;
  const double before = path.prior.total(), rank = state.Rank(path);
  auto& ranked = scratch->ranked_;
  ranked.clear();
  // Nearly all pieces are out of reach, which a look in float tells.
  constexpr double kRounding = 1e-3;
  scratch->reach_.resize(scorer_->vocabulary());
  prior.WithoutInternal(row, network, scorer_->vocabulary(), scratch->reach_.data());
  const double most_gain = prior.MostGain(path.prior) + kRounding;
  // With more symbols a frame, paths that fill the beam may turn out to be the same and leave room: a closer look at who
  // is below all of them would shut out who gets in then.
  const bool distinct = config_.max_symbols_per_frame == 1;
  double enough = floor - rank - most_gain;
  if (std::isnan(enough)) enough = kMinusInfinity;  // of a path that is not likely at all
  for (size_t v = 0; v < scorer_->vocabulary(); ++v) {
    if (!(scratch->reach_[v] >= enough)) continue;
    if (v == static_cast<size_t>(settings_.blank_id) || v == static_cast<size_t>(settings_.unk_id)) continue;
    if (std::isnan(row[v])) continue;
    const auto token = static_cast<int32_t>(v);
    const double bound = row[v] - prior.Internal(token, network) + prior.MostGain(path.prior, token);
    const auto too_low = [&](double rank_at_most) {
      return rank + rank_at_most < floor || (ranked.size() == most && !(rank_at_most > ranked.back().rank));
    };
    if (too_low(bound)) continue;
    if (distinct && too_low(bound - prior.LessGain(path.prior, token) + kRounding)) continue;
    SearchScratch::Piece piece{0, token, prior.Extend(path.prior, token, network)};
    piece.rank = row[v] + (piece.prior.total() - before);
    if (ranked.size() == most && !(piece.rank > ranked.back().rank)) continue;
    if (ranked.size() == most) ranked.pop_back();
    auto at = ranked.end();
    while (at != ranked.begin() && piece.rank > std::prev(at)->rank) --at;
    ranked.insert(at, piece);
    if (ranked.size() == most) enough = std::max(enough, ranked.back().rank - most_gain);
  }
  for (const SearchScratch::Piece& piece : ranked) scratch->best_.emplace_back(row[piece.token], piece.token);
}

// Every path still in the frame takes blank or a piece; if there is none, nothing changes.
size_t Search::Advance(SearchState* state, const float* const* rows, size_t symbols, SearchScratch* scratch) const {
  const bool recording = state->lattice != nullptr;
  const size_t most = MaxPaths(*state);
  const size_t vocabulary = scorer_->vocabulary();
  const bool last = symbols + 1 >= config_.max_symbols_per_frame;
  std::vector<Hypothesis>& paths = state->paths;
  auto& candidates = scratch->candidates_;
  candidates.clear();
  // A lattice subtracts scores: none may be infinite.
  const auto bounded = [recording](float log_prob) { return recording ? static_cast<float>(Bounded(log_prob)) : log_prob; };

  // Histories as they are: paths that left before, then those that take blank.
  // They come first and keep their order, so candidate i is path i.
  size_t num_rows = 0;
  scratch->rows_.assign(paths.size(), nullptr);
  for (size_t p = 0; p < paths.size(); ++p) {
    double score = paths[p].score;
    float log_prob = 0;
    if (!paths[p].left) {
      scratch->rows_[p] = rows[num_rows++];
      log_prob = bounded(scratch->rows_[p][settings_.blank_id]);
      score = Sane(score + log_prob);
    }
    SearchScratch::Candidate candidate{score, score, recording ? 0 : paths[p].prior.total(), p, -1, log_prob, true};
    if (recording && state->prior != nullptr) candidate.state = HashOf(paths[p].prior);
    candidates.push_back(candidate);
  }
  if (num_rows == 0) return 0;
  const size_t kept = candidates.size();
  const Prior* prior = state->prior.get();
  // These fill the beam: what ranks below all of them cannot get in.
  double floor = kMinusInfinity;
  if (prior != nullptr && kept == most) {
    floor = -kMinusInfinity;
    for (const auto& c : candidates) floor = std::min(floor, c.score + c.prior);
  }

  for (size_t p = 0; p < paths.size(); ++p) {
    if (paths[p].left) continue;
    const float* row = scratch->rows_[p];
    // The best `most` pieces, best first, lower ids first among equals.
    auto& best = scratch->best_;
    best.clear();
    if (prior != nullptr) RankPieces(*state, paths[p], row, floor, most, scratch);
    for (size_t v = 0; prior == nullptr && v < vocabulary; ++v) {
      if (v == static_cast<size_t>(settings_.blank_id) || v == static_cast<size_t>(settings_.unk_id)) continue;
      if (best.size() == most && !(row[v] > best.back().first)) continue;
      if (std::isnan(row[v])) continue;
      if (best.size() == most) best.pop_back();
      size_t at = best.size();
      while (at > 0 && row[v] > best[at - 1].first) --at;
      best.insert(best.begin() + static_cast<std::ptrdiff_t>(at), {row[v], static_cast<int32_t>(v)});
    }
    if (last) {
      // A piece further down still counts if it ends in the history of another
      // path, because the two then add up.
      for (const Hypothesis& other : paths) {
        const int32_t token = other.history.last;
        if (recording ? token < 0 || KeyWith(paths[p].lattice, token) != other.lattice.key
                      : !state->tree.Extends(other.history, paths[p].history)) {
          continue;
        }
        const bool listed = std::any_of(best.begin(), best.end(), [token](const auto& b) { return b.second == token; });
        if (!listed) best.push_back({row[token], token});
      }
    }
    for (size_t b = 0; b < best.size(); ++b) {
      const int32_t token = best[b].second;
      const float log_prob = bounded(best[b].first);
      SearchScratch::Candidate candidate{0, 0, 0, p, token, log_prob, last};
      if (prior != nullptr) {
        const bool known = b < scratch->ranked_.size();
        const PriorState after = known ? scratch->ranked_[b].prior : prior->Extend(paths[p].prior, token, *paths[p].context.out);
        candidate.gain = after.total() - paths[p].prior.total();
        if (recording) candidate.state = HashOf(after);
        if (!recording) candidate.prior = after.total();
      }
      candidate.score = Sane(paths[p].score + log_prob + (recording ? candidate.gain : 0));
      candidate.part = candidate.score;
      candidates.push_back(candidate);
    }
  }

  if (recording) {
    Recombine(*state, scratch);
  } else {
    MergeEqual(*state, kept, scratch);
  }
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(), [](const auto& c) { return c.path == SIZE_MAX; }),
                   candidates.end());
  std::stable_sort(candidates.begin(), candidates.end(), 
                   [](const auto& a, const auto& b) { return a.score + a.prior > b.score + b.prior; });
  if (candidates.size() > most) candidates.resize(most);

  scratch->next_.clear();
  if (recording) {
    FollowRecording(state, scratch);
  } else {
    Follow(state, scratch);
  }
  for (const Hypothesis& path : paths) Release(&state->tree, path);
  paths.swap(scratch->next_);
  scratch->next_.clear();
  return num_rows;
}

// Merges paths that have left with equal pieces. Only pairs with a history
// that stays as it is can be equal.
void Search::MergeEqual(const SearchState& state, size_t kept, SearchScratch* scratch) const {
  auto& candidates = scratch->candidates_;
  const std::vector<Hypothesis>& paths = state.paths;
  const auto equal = [&](const SearchScratch::Candidate& a, const SearchScratch::Candidate& b) {  // a has no token
    const History& x = paths[a.path].history;
    const History& y = paths[b.path].history;
    if (b.token < 0) return state.tree.Same(x, y);
    return x.last == b.token && state.tree.Extends(x, y);
  };
  for (size_t i = 1; i < candidates.size(); ++i) {
    SearchScratch::Candidate& b = candidates[i];
    if (!b.left) continue;
    for (size_t j = 0; j < std::min(i, kept); ++j) {
      SearchScratch::Candidate& a = candidates[j];
      if (a.path == SIZE_MAX || !equal({0, 0, 0, j, -1, 0, true}, b)) continue;
      const double sum = LogAdd(a.score, b.score);
      if (b.part > a.part) {  // the likelier of the two says when the pieces came
        a.path = b.path;
        a.token = b.token;
        a.log_prob = b.log_prob;
        a.part = b.part;
      }
      a.score = sum;
      b.path = SIZE_MAX;
      break;
    }
  }
}

uint64_t Search::Key(const LatticePath& path) const {
  // The prior's state is told apart by the candidates, see Recombine.
  uint64_t key = 0;
  for (size_t i = kMaxContext - config_.lattice.context_size; i < kMaxContext; ++i) key = ExtendHash(key, path.recent[i]);
  for (const int32_t piece : path.word) key = ExtendHash(key, piece);
  return key;
}

uint64_t Search::KeyWith(const LatticePath& path, int32_t token) const {
  uint64_t key = 0;
  for (size_t i = kMaxContext - config_.lattice.context_size + 1; i < kMaxContext; ++i) key = ExtendHash(key, path.recent[i]);
  key = ExtendHash(key, token);
  if (!StartsWordAfter(path, token)) {
    for (const int32_t piece : path.word) key = ExtendHash(key, piece);
  }
  return ExtendHash(key, token);
}

SearchScratch::Merged* Search::MergedOf(const SearchState& state, SearchScratch::Candidate* candidate, SearchScratch* scratch) const {
  SearchScratch::Candidate& c = *candidate;
  if (c.merged != SIZE_MAX) return &scratch->merged_[c.merged];
  c.merged = scratch->num_merged_++;
  if (scratch->merged_.size() < scratch->num_merged_) scratch->merged_.emplace_back();
  SearchScratch::Merged& merged = scratch->merged_[c.merged];
  merged.entries.clear();
  merged.departures.clear();
  merged.stays = SIZE_MAX;
  const LatticePath& from = state.paths[c.path].lattice;
  if (c.token >= 0 && StartsWordAfter(from, c.token)) {
    const int32_t node = scratch->reusable_[c.path];
    merged.entries.push_back({node >= 0 ? node : kNewNode - static_cast<int32_t>(c.path), c.score, c.score,
                              from.entries.front().prior + c.gain, c.path, 0, c.token, c.log_prob});
    merged.departures.push_back({c.path, c.log_prob + c.gain});
    return &merged;
  }
  for (size_t e = 0; e < from.entries.size(); ++e) {
    const double score = from.entries[e].score + c.log_prob + c.gain;
    merged.entries.push_back({from.entries[e].node, score, score, from.entries[e].prior + c.gain, c.path, e, c.token, c.log_prob});
  }
  if (c.token < 0) merged.stays = c.path;
  return &merged;
}

void Search::Recombine(const SearchState& state, SearchScratch* scratch) const {
  auto& candidates = scratch->candidates_;
  const std::vector<Hypothesis>& paths = state.paths;
  scratch->num_merged_ = 0;
  scratch->reusable_.assign(paths.size(), -1);
  for (size_t p = 0; p < paths.size(); ++p) {
    if (!paths[p].left) scratch->reusable_[p] = state.lattice->Reusable(paths[p].lattice);
  }
  auto& keys = scratch->keys_;
  keys.clear();
  for (size_t i = 0; i < candidates.size(); ++i) {
    const SearchScratch::Candidate& c = candidates[i];
    const LatticePath& path = paths[c.path].lattice;
    const uint64_t key = c.token < 0 ? path.key : KeyWith(path, c.token);
    // Two words of the state's hash: what the predictor sees must agree, and what the prior goes on from.
    const uint64_t state_key = ExtendHash(ExtendHash(key, static_cast<int32_t>(c.state)), static_cast<int32_t>(c.state >> 32));
    keys.push_back({ExtendHash(state_key, c.left ? 1 : 0), i});
  }
  std::sort(keys.begin(), keys.end());
  for (size_t k = 1, first = 0; k < keys.size(); ++k) {
    if (keys[k].first != keys[first].first) {
      first = k;
      continue;
    }
    SearchScratch::Candidate& a = candidates[keys[first].second];
    SearchScratch::Candidate& b = candidates[keys[k].second];
    MergedOf(state, &a, scratch);
    MergedOf(state, &b, scratch);
    SearchScratch::Merged& into = scratch->merged_[a.merged];
    const SearchScratch::Merged& from = scratch->merged_[b.merged];
    for (const SearchScratch::Arriving& arriving : from.entries) {
      const auto same = std::find_if(into.entries.begin(), into.entries.end(), [&](const SearchScratch::Arriving& known) {
        return known.node == arriving.node;
      });
      if (same == into.entries.end()) {
        into.entries.push_back(arriving);
        continue;
      }
      // The same words, aligned in another way: probabilities add up, and the likelier says when.
      const double sum = LogAdd(same->score, arriving.score);
      if (arriving.part > same->part) *same = arriving;
      same->score = sum;
    }
    into.departures.insert(into.departures.end(), from.departures.begin(), from.departures.end());
    if (into.stays == SIZE_MAX) into.stays = from.stays;
    a.score = kMinusInfinity;
    for (const SearchScratch::Arriving& arriving : into.entries) a.score = std::max(a.score, arriving.score);
    b.path = SIZE_MAX;
  }
}

void Search::Follow(SearchState* state, SearchScratch* scratch) const {
  auto& next = scratch->next_;
  for (const SearchScratch::Candidate& c : scratch->candidates_) {
    const Hypothesis& from = state->paths[c.path];
    next.push_back(from);
    Hypothesis& path = next.back();
    path.score = c.score;
    path.left = c.left;
    if (c.token < 0) {
      state->tree.Ref(path.history);
      continue;
    }
    if (state->prior != nullptr) path.prior = state->prior->Extend(from.prior, c.token, *from.context.out);
    path.history = state->tree.Extend(from.history, c.token, static_cast<int32_t>(state->num_frames), c.log_prob);
    scorer_->Extend(&path.context, c.token);
  }
}

void Search::FollowRecording(SearchState* state, SearchScratch* scratch) const {
  using Arriving = SearchScratch::Arriving;
  std::vector<Hypothesis>& paths = state->paths;
  // First the nodes: a path that stays must know what began after it in this frame.
  std::vector<int32_t>& nodes = scratch->reusable_;
  scratch->departed_.assign(paths.size(), false);
  for (SearchScratch::Candidate& c : scratch->candidates_) {
    for (const auto& [p, gain] : MergedOf(*state, &c, scratch)->departures) {
      if (scratch->departed_[p]) continue;
      scratch->departed_[p] = true;
      nodes[p] = state->lattice->Depart(&paths[p].lattice, nodes[p], gain);
    }
  }
  const auto frame = static_cast<int32_t>(state->num_frames);
  for (const SearchScratch::Candidate& c : scratch->candidates_) {
    SearchScratch::Merged& merged = scratch->merged_[c.merged];
    std::vector<Arriving>& entries = merged.entries;
    std::stable_sort(entries.begin(), entries.end(), [](const Arriving& a, const Arriving& b) { return a.score > b.score; });
    const double worst = entries.front().score - config_.lattice.beam;
    while (entries.size() > LatticeConfig::kMaxEntries || (entries.size() > 1 && entries.back().score < worst)) entries.pop_back();

    const Arriving& best = entries.front();
    const Hypothesis& from = paths[best.path];
    scratch->next_.emplace_back();
    Hypothesis& path = scratch->next_.back();
    path.score = best.score;
    path.left = c.left;
    path.context = from.context;
    path.prior = from.prior;
    path.inserted_until = from.inserted_until;
    path.inserted_gain = from.inserted_gain;
    path.lattice.word = from.lattice.word;
    path.lattice.recent = from.lattice.recent;
    path.lattice.key = from.lattice.key;
    if (best.token >= 0) {
      if (state->prior != nullptr) path.prior = state->prior->Extend(from.prior, best.token, *from.context.out);
      scorer_->Extend(&path.context, best.token);
      if (StartsWordAfter(from.lattice, best.token)) path.lattice.word.clear();
      path.lattice.word.push_back(best.token);
      std::copy(path.lattice.recent.begin() + 1, path.lattice.recent.end(), path.lattice.recent.begin());
      path.lattice.recent.back() = best.token;
      path.lattice.key = Key(path.lattice);
    }
    if (merged.stays != SIZE_MAX) path.lattice.node = paths[merged.stays].lattice.node;
    for (const Arriving& arriving : entries) {
      const Hypothesis& source = paths[arriving.path];
      WordEntry entry = source.lattice.entries[arriving.entry];
      entry.node = arriving.node <= kNewNode ? nodes[arriving.path] : arriving.node;
      entry.score = arriving.score;
      entry.prior = arriving.prior;
      if (arriving.token < 0) {
        state->tree.Ref(entry.history);
      } else {
        if (StartsWordAfter(source.lattice, arriving.token)) entry.start_frame = frame;
        entry.last_frame = frame;
        entry.history = state->tree.Extend(entry.history, arriving.token, frame, arriving.log_prob);
      }
      path.lattice.entries.push_back(entry);
    }
    // Ways that were merged may have had other words before, and so another prior up to here.
    path.prior.language += best.prior - path.prior.total();
    path.history = path.lattice.entries.front().history;
    state->tree.Ref(path.history);
  }
}

// What the recorder forgets depends on when it is asked: in the same frames however the audio was cut.
void Search::EndFrame(SearchState* state, SearchScratch* scratch) const {
  constexpr size_t kFrames = 16;
  ++state->num_frames;
  if (state->lattice != nullptr && state->num_frames % kFrames == 0) Collect(state, scratch);
}

void Search::Settle(SearchState* state, SearchScratch* scratch) const {
  scratch->histories_.clear();
  const auto hold = [scratch](const Hypothesis& path) {
    scratch->histories_.push_back(&path.history);
    for (const WordEntry& entry : path.lattice.entries) scratch->histories_.push_back(&entry.history);
  };
  for (const Hypothesis& path : state->paths) hold(path);
  for (const Snapshot& snapshot : state->snapshots) {
    for (const Hypothesis& path : snapshot.paths) hold(path);
  }
  state->tree.SettleShared(scratch->histories_.data(), scratch->histories_.size(), &state->settled);
}

TokenPath Search::Best(const SearchState& state, bool end, double* score, PriorState* prior) const {
  TokenPath path = state.settled;
  *score = 0;
  *prior = {};
  if (state.paths.empty()) return path;
  const Hypothesis* best = &state.paths[0];
  *prior = best->prior;
  if (end && state.prior != nullptr) {
    double highest = kMinusInfinity;
    for (const Hypothesis& other : state.paths) {
      const PriorState whole = state.prior->End(other.prior);
      const double rank = state.Acoustic(other) + whole.total();
      if (&other != &state.paths[0] && !(rank > highest)) continue;
      highest = rank;
      best = &other;
      *prior = whole;
    }
  }
  state.tree.Append(best->history, &path);
  *score = state.Acoustic(*best);
  return path;
}

LatticeArcs Search::Lattice(const SearchState& state, bool end) const {
  std::vector<LatticePath> ended;
  std::vector<const LatticePath*> paths;
  if (end && state.prior != nullptr) {
    for (const Hypothesis& path : state.paths) {
      const double gain = state.prior->End(path.prior).total() - path.prior.total();
      ended.push_back(path.lattice);
      for (WordEntry& entry : ended.back().entries) {
        entry.score += gain;
        entry.prior += gain;
      }
    }
    std::stable_sort(ended.begin(), ended.end(), [](const LatticePath& a, const LatticePath& b) {
      return a.entries.front().score > b.entries.front().score;
    });
    for (const LatticePath& path : ended) paths.push_back(&path);
  } else {
    for (const Hypothesis& path : state.paths) paths.push_back(&path.lattice);
  }
  return state.lattice->Arcs(paths);
}

std::unique_ptr<LatticeRecorder> Search::MakeRecorder() const { return std::make_unique<LatticeRecorder>(config_.lattice); }

}  // namespace earshot

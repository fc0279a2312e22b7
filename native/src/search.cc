// search.cc: see search.h for the rule. Order decides between equal scores: the
// path that came first, blank before pieces, low ids before high ones.
#include "search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace earshot {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

}  // namespace

double Sane(double score) { return std::isnan(score) ? kMinusInfinity : score; }

double Bounded(double log_prob) { return log_prob > -1e4 ? std::min(log_prob, 1e4) : -1e4; }

double LogAdd(double a, double b) {
  if (a < b) std::swap(a, b);
  return b == kMinusInfinity ? a : a + std::log1p(std::exp(b - a));
}

void SearchState::Reset() {
  paths.clear();
  tree.Clear();
  settled = {};
  num_frames = 0;
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
}

void Search::BeginFrame(SearchState* state) const {
  if (state->paths.empty()) {
    state->paths.emplace_back();
    state->paths.back().context = scorer_->Start(state->phrases.get());
    if (state->prior != nullptr) state->paths.back().prior = state->prior->Start();
  }
  for (Hypothesis& path : state->paths) path.left = false;
}

void Search::Request(SearchState* state, const float* encoder_row, ScorerScratch* scorer) const {
  for (Hypothesis& path : state->paths) {
    if (!path.left) scorer->Request(&path.context, encoder_row);
  }
}

void Search::RankPieces(const Prior& prior, const Hypothesis& path, const float* row, double floor,
                        SearchScratch* scratch) const {
  const size_t most = config_.max_active_paths;
  const Prediction& network = *path.context.out;
  const double before = path.prior.total();
  const double most_gain = prior.MostGain(path.prior);
  auto& ranked = scratch->ranked_;
  ranked.clear();
  for (size_t v = 0; v < scorer_->vocabulary(); ++v) {
    if (v == static_cast<size_t>(settings_.blank_id) || v == static_cast<size_t>(settings_.unk_id)) continue;
    if (std::isnan(row[v])) continue;
    const auto token = static_cast<int32_t>(v);
    const double bound = row[v] - prior.Internal(token, network) + most_gain;
    if (path.score + before + bound < floor || (ranked.size() == most && !(bound > ranked.back().rank))) continue;
    SearchScratch::Piece piece{0, token, prior.Extend(path.prior, token, network)};
    piece.rank = row[v] + (piece.prior.total() - before);
    if (ranked.size() == most && !(piece.rank > ranked.back().rank)) continue;
    if (ranked.size() == most) ranked.pop_back();
    auto at = ranked.end();
    while (at != ranked.begin() && piece.rank > std::prev(at)->rank) --at;
    ranked.insert(at, piece);
  }
  for (const SearchScratch::Piece& piece : ranked) scratch->best_.emplace_back(row[piece.token], piece.token);
}

// Every path still in the frame takes blank or a piece; if there is none, nothing changes.
size_t Search::Advance(SearchState* state, const float* const* rows, size_t symbols, SearchScratch* scratch) const {
  const size_t most = config_.max_active_paths;
  const size_t vocabulary = scorer_->vocabulary();
  const bool last = symbols + 1 >= config_.max_symbols_per_frame;
  std::vector<Hypothesis>& paths = state->paths;
  auto& candidates = scratch->candidates_;
  candidates.clear();

  // Histories as they are: paths that left before, then those that take blank.
  // They come first and keep their order, so candidate i is path i.
  size_t num_rows = 0;
  scratch->rows_.assign(paths.size(), nullptr);
  for (size_t p = 0; p < paths.size(); ++p) {
    double score = paths[p].score;
    if (!paths[p].left) {
      scratch->rows_[p] = rows[num_rows++];
      score = Sane(score + scratch->rows_[p][settings_.blank_id]);
    }
    candidates.push_back({score, score, paths[p].prior.total(), p, -1, 0, true});
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
    if (prior != nullptr) RankPieces(*prior, paths[p], row, floor, scratch);
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
        if (!state->tree.Extends(other.history, paths[p].history)) continue;
        const int32_t token = other.history.last;
        const bool listed = std::any_of(best.begin(), best.end(), [token](const auto& b) { return b.second == token; });
        if (!listed) best.push_back({row[token], token});
      }
    }
    for (const auto& [log_prob, token] : best) {
      const double score = Sane(paths[p].score + log_prob);
      const double total = prior == nullptr ? 0 : prior->Extend(paths[p].prior, token, *paths[p].context.out).total();
      candidates.push_back({score, score, total, p, token, log_prob, last});
    }
  }

  // Merge paths that have left with equal pieces. Only pairs with a history
  // that stays as it is can be equal.
  const auto equal = [&](const SearchScratch::Candidate& a, const SearchScratch::Candidate& b) {  // a has no token
    const History& x = paths[a.path].history;
    const History& y = paths[b.path].history;
    if (b.token < 0) return state->tree.Same(x, y);
    return x.last == b.token && state->tree.Extends(x, y);
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
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(), [](const auto& c) { return c.path == SIZE_MAX; }),
                   candidates.end());
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const auto& a, const auto& b) { return a.score + a.prior > b.score + b.prior; });
  if (candidates.size() > most) candidates.resize(most);

  auto& next = scratch->next_;
  next.clear();
  for (const SearchScratch::Candidate& c : candidates) {
    const Hypothesis& from = paths[c.path];
    next.push_back(from);
    Hypothesis& path = next.back();
    path.score = c.score;
    path.left = c.left;
    if (c.token < 0) {
      state->tree.Ref(path.history);
      continue;
    }
    if (prior != nullptr) path.prior = prior->Extend(from.prior, c.token, *from.context.out);
    path.history = state->tree.Extend(from.history, c.token, static_cast<int32_t>(state->num_frames), c.log_prob);
    scorer_->Extend(&path.context, c.token);
  }
  for (const Hypothesis& path : paths) state->tree.Unref(path.history);
  paths.swap(next);
  next.clear();
  return num_rows;
}

void Search::Settle(SearchState* state, SearchScratch* scratch) const {
  scratch->histories_.clear();
  for (const Hypothesis& path : state->paths) scratch->histories_.push_back(&path.history);
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
      if (&other != &state.paths[0] && !(other.score + whole.total() > highest)) continue;
      highest = other.score + whole.total();
      best = &other;
      *prior = whole;
    }
  }
  state.tree.Append(best->history, &path);
  *score = best->score;
  return path;
}

}  // namespace earshot

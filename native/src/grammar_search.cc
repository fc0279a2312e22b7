// grammar_search.cc: see grammar_search.h. Order decides between equal ranks:
// the path that came first, blank before pieces, low ids before high ones.
#include "grammar_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "search.h"
#include "transcript.h"

namespace earshot {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

}  // namespace

void GrammarSearchState::Reset() {
  states = nullptr;
  paths.clear();
  tree.Clear();
  settled = {};
  best_ctc = 0;
  num_frames = 0;
}

GrammarSearch::GrammarSearch(const Model& model, const Scorer* scorer, float scorer_blank_penalty, const GrammarConfig& config)
    : scorer_(scorer), config_(config), settings_(model.search()), pieces_(model.pieces()) {
  if (config_.max_active_paths < 1 || config_.max_active_paths > SearchConfig::kMaxActivePaths) {
    throw std::invalid_argument("search: grammar_paths is " + std::to_string(config_.max_active_paths) + "; it must be in 1.." +
                                std::to_string(SearchConfig::kMaxActivePaths) + ".");
  }
  if (!(config_.beam > 0)) {
    throw std::invalid_argument("search: grammar_beam is " + std::to_string(config_.beam) + "; it must be above 0.");
  }
  if (!(config_.ctc_weight >= 0 && config_.ctc_weight <= 1)) {
    throw std::invalid_argument("search: ctc_weight is " + std::to_string(config_.ctc_weight) + "; it must be in 0..1.");
  }
  const auto check = [](const char* name, float value) {
    if (!(std::abs(value) <= 100)) {
      throw std::invalid_argument(std::string("search: ") + name + " is " + std::to_string(value) + "; it must be in -100..100.");
    }
  };
  check("grammar_blank_penalty", config_.blank_penalty);
  check("ctc_blank_penalty", config_.ctc_blank_penalty);
  check("word_penalty", config_.word_penalty);
  if (!(config_.language_weight >= 0 && config_.language_weight <= 2)) {
    throw std::invalid_argument("search: language_weight is " + std::to_string(config_.language_weight) + "; it must be in 0..2.");
  }
  if (model.FindGraph("ctc") == nullptr) config_.ctc_weight = 0;
  extra_blank_penalty_ = config_.blank_penalty - scorer_blank_penalty;
  piece_cost_.reserve(pieces_.size());
  for (const std::string& piece : pieces_) piece_cost_.push_back(StartsWord(piece) ? double{config_.word_penalty} : 0.0);
}

void GrammarSearch::CheckGraph(const WordGraph& graph) const {
  if (graph.vocabulary() != pieces_.size()) {
    throw std::invalid_argument("word_graph: it was made for " + std::to_string(graph.vocabulary()) + " pieces and the model has " +
                                std::to_string(pieces_.size()) + ". Make it with the model's own tokenizer.");
  }
  for (size_t word = 0; word < graph.num_words(); ++word) {
    for (size_t i = 0; i < graph.word_length(word); ++i) {
      const std::string& piece = pieces_[static_cast<size_t>(graph.word_pieces(word)[i])];
      if (StartsWord(piece) == (i == 0)) continue;
      throw std::invalid_argument("word_graph: piece " + std::to_string(i) + " of a word is '" + piece + "', which " +
                                  (i == 0 ? "starts no word" : "starts another word") +
                                  ". Spell each word by itself with the model's own tokenizer.");
    }
  }
}

double GrammarSearch::Rank(double alpha, double ctc, double prior) const {
  const double weight = config_.ctc_weight;
  // CTC can find a history impossible, which must not count where CTC does not.
  return weight > 0 ? (1 - weight) * alpha + weight * ctc + prior : alpha + prior;
}

void GrammarSearch::Begin(GrammarSearchState* state) const {
  const std::shared_ptr<GrammarStates> states = state->graph->States(0);
  if (state->states != states) {
    for (GrammarHypothesis& path : state->paths) path.state = states->Adopt(*path.state, state->states.get());
    state->states = states;
  }
  if (!state->paths.empty()) return;
  GrammarHypothesis path;
  path.context = scorer_->Start(state->phrases.get());
  path.state = states->Start(&path.prior);
  path.ctc_piece = kMinusInfinity;
  path.rank = path.prior;
  state->paths.push_back(std::move(path));
}

void GrammarSearch::Request(GrammarSearchState* state, const float* encoder_row, ScorerScratch* scorer) const {
  for (GrammarHypothesis& path : state->paths) scorer->Request(&path.context, encoder_row);
}

void GrammarSearch::Advance(GrammarSearchState* state, const float* const* rows, const float* ctc,
                            GrammarSearchScratch* scratch) const {
  constexpr size_t kNone = std::numeric_limits<size_t>::max();
  using Candidate = GrammarSearchScratch::Candidate;
  std::vector<GrammarHypothesis>& paths = state->paths;
  const size_t count = paths.size();
  const auto blank = static_cast<size_t>(settings_.blank_id);

  // Another penalty on blank than the scorer's moves all scores of a row alike.
  auto& shifts = scratch->shifts_;
  shifts.assign(count, 0);
  if (extra_blank_penalty_ != 0) {
    for (size_t p = 0; p < count; ++p) {
      const double before = Bounded(rows[p][blank]);
      shifts[p] = std::log(-std::expm1(std::min(before, 0.0)) + std::exp(before - extra_blank_penalty_));
    }
  }
  const auto log_prob = [&](size_t p, int32_t piece) {
    return Bounded(rows[p][static_cast<size_t>(piece)] - shifts[p]);
  };
  const auto ctc_log_prob = [&](int32_t piece) {
    return Bounded(ctc[static_cast<size_t>(piece)] - (piece == settings_.blank_id ? config_.ctc_blank_penalty : 0));
  };
  // CTC of path p and one piece: after the same piece there must have been a blank.
  const auto ctc_with = [&](size_t p, int32_t piece) {
    if (ctc == nullptr) return 0.0;
    return (piece == paths[p].history.last ? paths[p].ctc_blank : paths[p].ctc) + ctc_log_prob(piece);
  };

  // What stays, with what arrives at the same pieces.
  auto& stays = scratch->stays_;
  stays.resize(count);
  for (size_t p = 0; p < count; ++p) {
    const GrammarHypothesis& path = paths[p];
    GrammarSearchScratch::Stay& stay = stays[p];
    stay.alpha = path.alpha + Bounded(rows[p][blank] - extra_blank_penalty_ - shifts[p]);
    if (ctc != nullptr) {
      stay.ctc_blank = path.ctc + ctc_log_prob(settings_.blank_id);
      stay.ctc_piece = path.history.length > 0 ? path.ctc_piece + ctc_log_prob(path.history.last) : kMinusInfinity;
    } else {
      stay.ctc_blank = 0;
      stay.ctc_piece = kMinusInfinity;
    }
    stay.parent = kNone;
    stay.moved = false;
    for (size_t q = 0; q < count; ++q) {
      if (!state->tree.Extends(path.history, paths[q].history)) continue;
      const double arriving = paths[q].alpha + log_prob(q, path.history.last);
      stay.parent = q;
      stay.moved = arriving > stay.alpha;
      stay.alpha = LogAdd(stay.alpha, arriving);
      if (ctc != nullptr) stay.ctc_piece = LogAdd(stay.ctc_piece, ctc_with(q, path.history.last));
      break;
    }
    stay.ctc = LogAdd(stay.ctc_blank, stay.ctc_piece);
    stay.rank = Rank(stay.alpha, stay.ctc, path.prior);
  }

  // The best of all, sorted. Weights of the graph are <= 0: a rank without the
  // weight of its arc bounds the rank, and states are made only where that matters.
  auto& best = scratch->best_;
  best.clear();
  const size_t most = config_.max_active_paths;
  const auto too_low = [&](double rank) {
    return best.size() == most ? !(rank > best.back().rank) : !(rank > kMinusInfinity);
  };
  const auto insert = [&](const Candidate& candidate) {
    if (best.size() == most) best.pop_back();
    size_t at = best.size();
    while (at > 0 && candidate.rank > best[at - 1].rank) --at;
    best.insert(best.begin() + static_cast<std::ptrdiff_t>(at), candidate);
  };
  for (size_t p = 0; p < count; ++p) {
    if (!too_low(stays[p].rank)) insert({stays[p].rank, p, nullptr, paths[p].state, paths[p].prior});
  }
  for (size_t p = 0; p < count; ++p) {
    size_t num_arcs;
    const GrammarArc* arcs = state->states->Arcs(*paths[p].state, &num_arcs);
    for (size_t a = 0; a < num_arcs; ++a) {
      const int32_t piece = arcs[a].symbol;
      const double alpha = paths[p].alpha + log_prob(p, piece);
      const double with = ctc_with(p, piece);
      double bound = paths[p].prior - piece_cost_[static_cast<size_t>(piece)];
      if (config_.language_weight > 0) {
        // The graph says what may follow: what the network has learnt about that would count twice.
        bound -= double{config_.language_weight} * paths[p].context.out->LanguageScore(piece);
      }
      if (state->hotwords != nullptr) state->hotwords->Step(paths[p].hotword, piece, &bound);
      if (too_low(Rank(alpha, with, bound))) continue;
      bool merged = false;
      for (size_t q = 0; q < count; ++q) merged = merged || (stays[q].parent == p && paths[q].history.last == piece);
      if (merged) continue;
      const GrammarState* to = state->states->Follow(*paths[p].state, a);
      const double prior = bound + arcs[a].weight * GrammarStates::kWeightUnit;
      const double rank = Rank(alpha, with, prior);
      if (!too_low(rank)) insert({rank, p, &arcs[a], to, prior});
    }
  }
  while (best.size() > 1 && best.back().rank < best.front().rank - config_.beam) best.pop_back();
  // A complete sentence is not lost to longer ones that may never end.
  if (std::none_of(best.begin(), best.end(), [](const Candidate& c) { return c.state->final; })) {
    double highest = kMinusInfinity;
    size_t complete = kNone;
    for (size_t p = 0; p < count; ++p) {
      if (!paths[p].state->final) continue;
      double rank = stays[p].rank + paths[p].state->final_weight * GrammarStates::kWeightUnit;
      if (state->hotwords != nullptr) rank += state->hotwords->End(paths[p].hotword);
      if (rank > highest) {
        highest = rank;
        complete = p;
      }
    }
    if (complete != kNone) best.push_back({stays[complete].rank, complete, nullptr, paths[complete].state, paths[complete].prior});
  }

  auto& next = scratch->next_;
  next.clear();
  for (const Candidate& candidate : best) {
    const size_t p = candidate.path;
    next.push_back(paths[p]);
    GrammarHypothesis& path = next.back();
    path.state = candidate.state;
    path.prior = candidate.prior;
    path.rank = candidate.rank;
    size_t parent = p;
    int32_t piece = path.history.last;
    if (candidate.arc == nullptr) {
      const GrammarSearchScratch::Stay& stay = stays[p];
      path.alpha = stay.alpha;
      path.ctc_blank = stay.ctc_blank;
      path.ctc_piece = stay.ctc_piece;
      path.ctc = stay.ctc;
      if (!stay.moved) {
        state->tree.Ref(path.history);
        continue;
      }
      parent = stay.parent;
    } else {
      piece = candidate.arc->symbol;
      path.alpha = paths[p].alpha + log_prob(p, piece);
      path.ctc_blank = ctc != nullptr ? kMinusInfinity : 0;
      path.ctc_piece = ctc != nullptr ? ctc_with(p, piece) : kMinusInfinity;
      path.ctc = ctc_with(p, piece);
      if (state->hotwords != nullptr) {
        double counted = 0;
        path.hotword = state->hotwords->Step(paths[p].hotword, piece, &counted);
      }
      scorer_->Extend(&path.context, piece);
    }
    path.history = state->tree.Extend(paths[parent].history, piece, static_cast<int32_t>(state->num_frames),
                                      static_cast<float>(log_prob(parent, piece)));
  }
  for (const GrammarHypothesis& path : paths) state->tree.Unref(path.history);
  paths.swap(next);
  next.clear();

  if (ctc != nullptr) {
    double highest = ctc_log_prob(0);
    for (size_t v = 1; v < pieces_.size(); ++v) highest = std::max(highest, ctc_log_prob(static_cast<int32_t>(v)));
    state->best_ctc += highest;
  }
  ++state->num_frames;
}

void GrammarSearch::Settle(GrammarSearchState* state, GrammarSearchScratch* scratch) const {
  scratch->histories_.clear();
  for (const GrammarHypothesis& path : state->paths) scratch->histories_.push_back(&path.history);
  state->tree.SettleShared(scratch->histories_.data(), scratch->histories_.size(), &state->settled);
}

std::vector<GrammarPath> GrammarSearch::Best(const GrammarSearchState& state, bool* can_continue) const {
  struct Complete {
    const GrammarHypothesis* path;
    double score, prior;
  };
  std::vector<Complete> complete;
  for (const GrammarHypothesis& path : state.paths) {
    if (!path.state->final) continue;
    double prior = path.prior + path.state->final_weight * GrammarStates::kWeightUnit;
    if (state.hotwords != nullptr) prior += state.hotwords->End(path.hotword);
    complete.push_back({&path, Rank(path.alpha, path.ctc, prior), prior});
  }
  std::stable_sort(complete.begin(), complete.end(), [](const Complete& a, const Complete& b) { return a.score > b.score; });
  if (complete.size() > kMaxPaths) complete.resize(kMaxPaths);
  std::vector<GrammarPath> out;
  for (const Complete& c : complete) {
    out.push_back({state.settled, c.score, c.path->alpha, c.path->ctc, c.prior});
    state.tree.Append(c.path->history, &out.back().path);
  }
  size_t num_arcs = 0;
  if (!complete.empty()) state.states->Arcs(*complete.front().path->state, &num_arcs);
  *can_continue = num_arcs > 0;
  return out;
}

}  // namespace earshot

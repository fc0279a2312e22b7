// phone_search.cc: see phone_search.h. Order decides between equal ranks: what
// stays before what is new, the path that came first, low phones before high ones.
#include "phone_search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

#include "search.h"

namespace earshot {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr size_t kNone = std::numeric_limits<size_t>::max();

}  // namespace

void PhoneSearchState::Reset() {
  states = nullptr;
  paths.clear();
  tree.Clear();
  settled = {};
  settled_at = 0;
  best_sum = 0;
  blank_sum = 0;
  num_frames = 0;
}

PhoneSearch::PhoneSearch(const Model& model, const PhoneConfig& config) : config_(config), num_phones_(model.phones().size()) {
  if (config_.max_active_paths < 1 || config_.max_active_paths > PhoneConfig::kMaxActivePaths) {
    throw std::invalid_argument("search: phone_paths is " + std::to_string(config_.max_active_paths) + "; it must be in 1.." +
                                std::to_string(PhoneConfig::kMaxActivePaths) + ".");
  }
  if (!(config_.beam > 0)) {
    throw std::invalid_argument("search: phone_beam is " + std::to_string(config_.beam) + "; it must be above 0.");
  }
  const auto check = [](const char* name, float value, float lowest) {
    if (!(value >= lowest && value <= 100)) {
      throw std::invalid_argument(std::string("search: ") + name + " is " + std::to_string(value) + "; it must be in " +
                                  std::to_string(static_cast<int>(lowest)) + "..100.");
    }
  };
  check("phone_blank_penalty", config_.blank_penalty, -100);
  check("word_penalty", config_.word_penalty, -100);
  check("transducer_weight", config_.transducer_weight, 0);
  check("piece_ctc_weight", config_.piece_ctc_weight, 0);
  if (!(config_.second_pass_share >= 0 && config_.second_pass_share <= 1)) {
    throw std::invalid_argument("search: second_pass_share is " + std::to_string(config_.second_pass_share) + "; it must be in 0..1.");
  }
  word_cost_ = static_cast<int32_t>(std::lround(double{config_.word_penalty} / GrammarStates::kWeightUnit));
}

void PhoneSearch::CheckGraph(const WordGraph& graph) const {
  if (graph.num_phones() != num_phones_) {
    throw std::invalid_argument("word_graph: it was made for " + std::to_string(graph.num_phones()) + " phones and the model has " +
                                std::to_string(num_phones_) + ". Make it with the model's own phones.");
  }
}

void PhoneSearch::Begin(PhoneSearchState* state) const {
  const std::shared_ptr<GrammarStates> states = state->graph->States(word_cost_);
  if (state->states != states) {
    for (PhoneHypothesis& path : state->paths) path.state = states->Adopt(*path.state, state->states.get());
    state->states = states;
  }
  if (!state->paths.empty()) return;
  PhoneHypothesis path;
  path.state = states->Start(&path.prior);
  path.phone = kMinusInfinity;
  path.rank = path.prior;
  state->paths.push_back(std::move(path));
}

void PhoneSearch::Advance(PhoneSearchState* state, const float* log_probs, PhoneSearchScratch* scratch) const {
  using Candidate = PhoneSearchScratch::Candidate;
  using Kept = PhoneSearchScratch::Kept;
  std::vector<PhoneHypothesis>& paths = state->paths;
  const size_t count = paths.size();

  auto& row = scratch->row_;
  row.resize(num_phones_ + 1);
  for (size_t v = 0; v <= num_phones_; ++v) row[v] = Bounded(log_probs[v] - (v == 0 ? config_.blank_penalty : 0));
  state->best_sum += *std::max_element(row.begin(), row.end());
  state->blank_sum += row[0];
  // Path p and one phone: after the same phone there must have been a blank.
  const auto with = [&](size_t p, int32_t phone) {
    return (phone == paths[p].history.last ? paths[p].blank : paths[p].total) + row[static_cast<size_t>(phone)];
  };

  auto& by_hash = scratch->by_hash_;
  size_t slots = 4;
  while (slots < 2 * count) slots *= 2;
  by_hash.assign(slots, kNone);
  const auto slot = [&](uint64_t hash) { return static_cast<size_t>(hash) & (slots - 1); };
  for (size_t p = 0; p < count; ++p) {
    size_t at = slot(paths[p].history.hash);
    while (by_hash[at] != kNone) at = (at + 1) & (slots - 1);
    by_hash[at] = p;
  }

  // What stays, with what arrives at the same phones.
  auto& stays = scratch->stays_;
  stays.resize(count);
  for (auto& stay : stays) stay.child = stay.next = stay.parent = kNone;
  double highest = kMinusInfinity;
  for (size_t p = 0; p < count; ++p) {
    const PhoneHypothesis& path = paths[p];
    PhoneSearchScratch::Stay& stay = stays[p];
    stay.blank = path.total + row[0];
    stay.phone = kMinusInfinity;
    stay.moved = false;
    if (path.history.length > 0) {
      stay.phone = path.phone + row[static_cast<size_t>(path.history.last)];
      for (size_t at = slot(path.before); by_hash[at] != kNone; at = (at + 1) & (slots - 1)) {
        const size_t q = by_hash[at];
        if (!state->tree.Extends(path.history, paths[q].history)) continue;
        const double arriving = with(q, path.history.last);
        // More than what stays, which is at least its larger part and at most twice that.
        const double larger = std::max(stay.blank, stay.phone);
        stay.moved = arriving > larger && (arriving > larger + 1 || arriving > LogAdd(stay.blank, stay.phone));
        stay.phone = LogAdd(stay.phone, arriving);
        stay.parent = q;
        stay.next = stays[q].child;
        stays[q].child = p;
        break;
      }
    }
    stay.total = LogAdd(stay.blank, stay.phone);
    stay.rank = stay.total + path.prior;
    highest = std::max(highest, stay.rank);
  }

  // All that could be kept. What an arc that nobody went leads to is not known yet, but its
  // weight is bounded: states are made only where that matters.
  auto& candidates = scratch->candidates_;
  candidates.clear();
  for (size_t p = 0; p < count; ++p) {
    if (stays[p].rank > kMinusInfinity) candidates.push_back({stays[p].rank, p, p, kNone, stays[p].total});
  }
  // What stays may fill the beam: what ranks below all of that cannot get in. Where even the best path is far behind free
  // sounds, no sentence is being said, and few paths are enough to say so.
  const bool hopeless = state->best_sum - paths.front().total > PhoneConfig::kHopeless;
  const size_t most = hopeless ? std::min(config_.max_active_paths, PhoneConfig::kHopelessPaths) : config_.max_active_paths;
  double floor = kMinusInfinity;
  if (candidates.size() >= most) {
    auto& ranks = scratch->ranks_;
    ranks.clear();
    for (const Candidate& candidate : candidates) ranks.push_back(candidate.rank);
    const auto last = ranks.begin() + static_cast<std::ptrdiff_t>(most - 1);
    std::nth_element(ranks.begin(), last, ranks.end(), std::greater<double>());
    floor = *last;
  }
  auto& merged = scratch->merged_;
  merged.assign(num_phones_ + 1, kNone);
  size_t order = count;
  const double most_weight = state->states->HighestWeight();
  const double likeliest = *std::max_element(row.begin() + 1, row.end());
  const auto too_low = [&](double bound) { return !(bound > floor) || bound < highest - config_.beam; };
  for (size_t p = 0; p < count; ++p) {
    if (too_low(paths[p].total + likeliest + paths[p].prior + most_weight)) continue;  // as in most frames, which are blank
    for (size_t child = stays[p].child; child != kNone; child = stays[child].next) {
      merged[static_cast<size_t>(paths[child].history.last)] = p;
    }
    size_t num_arcs;
    const GrammarArc* arcs = state->states->Arcs(*paths[p].state, &num_arcs);
    for (size_t a = 0; a < num_arcs; ++a, ++order) {
      const double total = with(p, arcs[a].symbol);
      const double bound = total + paths[p].prior + most_weight;
      if (too_low(bound) || merged[static_cast<size_t>(arcs[a].symbol)] == p) continue;
      candidates.push_back({bound, order, p, a, total});
    }
  }
  const auto better = [](const auto& a, const auto& b) { return a.rank != b.rank ? a.rank > b.rank : a.order < b.order; };

  // Those of the highest rank. `best` is a heap with the worst on top. Candidates are put in order only as far as they
  // are looked at.
  auto& all = scratch->kept_;
  auto& best = scratch->best_;
  all.clear();
  best.clear();
  size_t in_order = 0;
  for (size_t c = 0; c < candidates.size(); ++c) {
    if (c == in_order) {
      const size_t step = std::min(candidates.size() - c, std::max<size_t>(most, 64));
      const auto from = candidates.begin() + static_cast<std::ptrdiff_t>(c), to = from + static_cast<std::ptrdiff_t>(step);
      if (to != candidates.end()) std::nth_element(from, to - 1, candidates.end(), better);
      std::sort(from, to, better);
      in_order += step;
    }
    const Candidate& candidate = candidates[c];
    const bool full = best.size() == most;
    if (candidate.rank < highest - config_.beam || (full && !better(candidate, best.front()))) break;
    const PhoneHypothesis& path = paths[candidate.path];
    Kept kept{candidate, path.state, path.prior};
    if (candidate.arc != kNone) {
      size_t num_arcs;
      kept.state = state->states->Follow(*path.state, candidate.arc);
      kept.prior += state->states->Arcs(*path.state, &num_arcs)[candidate.arc].weight * GrammarStates::kWeightUnit;
      kept.candidate.rank = candidate.total + kept.prior;
      highest = std::max(highest, kept.candidate.rank);
    }
    PhoneSearchScratch::Place place{kept.candidate.rank, candidate.order, all.size()};
    if (full) {
      if (!better(place, best.front())) continue;
      std::pop_heap(best.begin(), best.end(), better);
      place.kept = best.back().kept;
      best.pop_back();
      all[place.kept] = kept;
    } else {
      all.push_back(kept);
    }
    best.push_back(place);
    std::push_heap(best.begin(), best.end(), better);
  }
  std::sort(best.begin(), best.end(), better);
  while (best.size() > 1 && best.back().rank < best.front().rank - config_.beam) best.pop_back();
  // A complete sentence is not lost to longer ones that may never end.
  if (std::none_of(best.begin(), best.end(), [&](const auto& place) { return all[place.kept].state->final; })) {
    double highest_end = kMinusInfinity;
    size_t complete = kNone;
    for (size_t p = 0; p < count; ++p) {
      if (!paths[p].state->final) continue;
      const double rank = stays[p].rank + paths[p].state->final_weight * GrammarStates::kWeightUnit;
      if (rank > highest_end) {
        highest_end = rank;
        complete = p;
      }
    }
    if (complete != kNone) {
      best.push_back({stays[complete].rank, complete, all.size()});
      all.push_back({{stays[complete].rank, complete, complete, kNone, stays[complete].total}, paths[complete].state, paths[complete].prior});
    }
  }

  auto& next = scratch->next_;
  next.clear();
  const auto frame = static_cast<int32_t>(state->num_frames);
  for (const PhoneSearchScratch::Place& place : best) {
    const Kept& kept = all[place.kept];
    const size_t p = kept.candidate.path;
    PhoneHypothesis path = paths[p];
    path.state = kept.state;
    path.prior = kept.prior;
    path.rank = kept.candidate.rank;
    path.total = kept.candidate.total;
    size_t parent = p;
    int32_t phone = path.history.last;
    if (kept.candidate.arc == kNone) {
      path.blank = stays[p].blank;
      path.phone = stays[p].phone;
      parent = stays[p].parent;
    } else {
      size_t num_arcs;
      phone = state->states->Arcs(*paths[p].state, &num_arcs)[kept.candidate.arc].symbol;
      path.blank = kMinusInfinity;
      path.phone = path.total;
      path.before = paths[p].history.hash;
    }
    if (kept.candidate.arc == kNone && !stays[p].moved) {
      state->tree.Ref(path.history);
    } else {
      const auto log_prob = static_cast<float>(row[static_cast<size_t>(phone)]);
      path.history = state->tree.Extend(paths[parent].history, phone, frame, log_prob);
    }
    next.push_back(path);
  }
  for (const PhoneHypothesis& path : paths) state->tree.Unref(path.history);
  paths.swap(next);
  next.clear();
  ++state->num_frames;
}

void PhoneSearch::Settle(PhoneSearchState* state, PhoneSearchScratch* scratch) const {
  constexpr size_t kFrames = 16;  // what all paths share hardly grows from frame to frame
  if (state->num_frames < state->settled_at + kFrames) return;
  state->settled_at = state->num_frames;
  scratch->histories_.clear();
  for (const PhoneHypothesis& path : state->paths) scratch->histories_.push_back(&path.history);
  state->tree.SettleShared(scratch->histories_.data(), scratch->histories_.size(), &state->settled);
}

std::vector<PhonePath> PhoneSearch::Best(const PhoneSearchState& state, bool* can_continue) const {
  struct Complete {
    const PhoneHypothesis* path;
    double rank;
  };
  std::vector<Complete> complete;
  for (const PhoneHypothesis& path : state.paths) {
    if (path.state->final) complete.push_back({&path, path.rank + path.state->final_weight * GrammarStates::kWeightUnit});
  }
  std::stable_sort(complete.begin(), complete.end(), [](const Complete& a, const Complete& b) { return a.rank > b.rank; });
  if (complete.size() > kMaxHistories) complete.resize(kMaxHistories);
  std::vector<PhonePath> out;
  std::map<std::vector<int32_t>, size_t> by_words;
  for (const Complete& c : complete) {
    TokenPath path = state.settled;
    state.tree.Append(c.path->history, &path);
    for (GrammarStates::Sentence& sentence : state.states->Sentences(path.tokens.data(), path.tokens.size(), kMaxAlike)) {
      const auto [found, fresh] = by_words.try_emplace(sentence.words, out.size());
      if (fresh) {
        out.push_back({std::move(sentence.words), std::move(sentence.ends), path, c.path->total, sentence.weight});
      } else {
        PhonePath& other = out[found->second];  // the same words, pronounced otherwise
        other.phones = LogAdd(other.phones, c.path->total);
      }
    }
  }
  std::stable_sort(out.begin(), out.end(), [](const PhonePath& a, const PhonePath& b) {
    return a.phones + a.prior > b.phones + b.prior;
  });
  if (out.size() > kMaxPaths) out.resize(kMaxPaths);
  size_t num_arcs = 0;
  if (!complete.empty()) state.states->Arcs(*complete.front().path->state, &num_arcs);
  *can_continue = num_arcs > 0;
  return out;
}

}  // namespace earshot

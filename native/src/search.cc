// search.cc: see search.h for the rule. Order decides between equal scores: the
// path that came first, blank before pieces, low ids before high ones.
#include "search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace earshot {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr size_t kCacheBytes = size_t{1} << 20;

uint64_t ExtendHash(uint64_t hash, int32_t token) {
  hash = (hash ^ (static_cast<uint64_t>(token) + 0x9E3779B97F4A7C15u)) * 0xBF58476D1CE4E5B9u;
  return hash ^ (hash >> 29);
}

// A network with absurd weights can make NaN; as minus infinity it loses, and
// sorting stays well defined.
double Sane(double score) { return std::isnan(score) ? kMinusInfinity : score; }

double LogAdd(double a, double b) {
  if (a < b) std::swap(a, b);
  return b == kMinusInfinity ? a : a + std::log1p(std::exp(b - a));
}

}  // namespace

int32_t TokenTree::Add(int32_t parent, int32_t token, int32_t frame, float log_prob) {
  int32_t index;
  if (free_.empty()) {
    index = static_cast<int32_t>(nodes_.size());
    nodes_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  nodes_[static_cast<size_t>(index)] = {parent, token, frame, log_prob, 1, false};
  Ref(parent);
  return index;
}

void TokenTree::Ref(int32_t node) {
  if (node != kRoot) ++nodes_[static_cast<size_t>(node)].references;
}

void TokenTree::Unref(int32_t node) {
  while (node != kRoot && --nodes_[static_cast<size_t>(node)].references == 0) {
    free_.push_back(node);
    node = nodes_[static_cast<size_t>(node)].parent;
  }
}

bool TokenTree::SamePieces(int32_t a, int32_t b) const {
  while (a != b) {
    if (a == kRoot || b == kRoot) return false;
    const Node& x = nodes_[static_cast<size_t>(a)];
    const Node& y = nodes_[static_cast<size_t>(b)];
    if (x.token != y.token || x.settled || y.settled) return false;
    a = x.parent;
    b = y.parent;
  }
  return true;
}

void TokenTree::Append(int32_t node, TokenPath* path) const {
  const size_t from = path->tokens.size();
  for (; node != kRoot && !nodes_[static_cast<size_t>(node)].settled; node = Parent(node)) {
    const Node& n = nodes_[static_cast<size_t>(node)];
    path->tokens.push_back(n.token);
    path->frames.push_back(n.frame);
    path->log_probs.push_back(n.log_prob);
  }
  const auto turn = [from](auto* values) {
    std::reverse(values->begin() + static_cast<std::ptrdiff_t>(from), values->end());
  };
  turn(&path->tokens);
  turn(&path->frames);
  turn(&path->log_probs);
}

void TokenTree::Settle(int32_t node) {
  if (node == kRoot) return;
  Node& n = nodes_[static_cast<size_t>(node)];
  if (n.settled) return;
  n.settled = true;
  const int32_t parent = n.parent;
  n.parent = kRoot;
  Unref(parent);
}

void TokenTree::Clear() {
  nodes_.clear();
  free_.clear();
}

void SearchState::Reset() {
  paths.clear();
  tree.Clear();
  settled = {};
  num_frames = 0;
}

size_t SearchScratch::ContextHash::operator()(const std::array<int32_t, kMaxContext>& context) const {
  uint64_t hash = 0;
  for (const int32_t id : context) hash = ExtendHash(hash, id);
  return static_cast<size_t>(hash);
}

SearchScratch::SearchScratch(const Model& model)
    : predictor_(model.FindGraph("predictor")), joiner_(model.FindGraph("joiner")) {}

Search::Search(std::shared_ptr<const Model> model, const SearchConfig& config)
    : model_(std::move(model)), config_(config) {
  model_->RequireRecogniser();
  settings_ = model_->search();
  predictor_ = model_->FindGraph("predictor");
  joiner_ = model_->FindGraph("joiner");
  vocabulary_ = model_->pieces().size();
  encoder_input_ = static_cast<size_t>(joiner_->FindInput("encoder_out"));
  predictor_input_ = static_cast<size_t>(joiner_->FindInput("predictor_out"));
  logits_ = static_cast<size_t>(joiner_->FindOutput("logits"));
  predictor_out_ = static_cast<size_t>(predictor_->FindOutput("predictor_out"));
  width_ = joiner_->value(joiner_->inputs()[encoder_input_]).width;
  if (config_.max_symbols_per_frame == 0) config_.max_symbols_per_frame = settings_.max_symbols_per_frame;
  if (config_.max_active_paths < 1 || config_.max_active_paths > SearchConfig::kMaxActivePaths) {
    throw std::invalid_argument("search: max_active_paths is " + std::to_string(config_.max_active_paths) +
                                "; it must be in 1.." + std::to_string(SearchConfig::kMaxActivePaths) + ".");
  }
  if (config_.max_symbols_per_frame > 100) {
    throw std::invalid_argument("search: max_symbols_per_frame is " + std::to_string(config_.max_symbols_per_frame) +
                                "; it must be in 0..100, where 0 means the model's.");
  }
  if (!std::isfinite(config_.blank_penalty)) {
    throw std::invalid_argument("search: blank_penalty is not finite; it must be a number.");
  }
}

void Search::Start(SearchState* state) const {
  Hypothesis path;
  path.context.fill(-1);
  path.context[kMaxContext - 1] = settings_.blank_id;
  if (settings_.stateful) path.predictor_state = std::make_shared<GraphState>(predictor_);
  state->paths.push_back(std::move(path));
}

void Search::Decode(SearchState* const* states, const float* const* encoder_out, const size_t* frames, size_t count,
                    SearchScratch* scratch) const {
  size_t longest = 0;
  for (size_t i = 0; i < count; ++i) {
    if (states[i]->paths.empty()) Start(states[i]);
    longest = std::max(longest, frames[i]);
  }
  for (size_t frame = 0; frame < longest; ++frame) {
    for (size_t i = 0; i < count; ++i) {
      if (frame >= frames[i]) continue;
      for (Hypothesis& path : states[i]->paths) path.left = false;
    }
    for (size_t symbols = 0;; ++symbols) {
      scratch->rows_.clear();
      for (size_t i = 0; i < count; ++i) {
        for (size_t p = 0; p < states[i]->paths.size(); ++p) {
          if (!states[i]->paths[p].left) scratch->rows_.push_back({i, p});
        }
      }
      if (scratch->rows_.empty()) break;
      ComputePredictors(states, scratch);
      ComputeLogProbs(states, encoder_out, frame, scratch);
      for (size_t row = 0; row < scratch->rows_.size();) {
        const size_t i = scratch->rows_[row].stream;
        const size_t first = row;
        while (row < scratch->rows_.size() && scratch->rows_[row].stream == i) ++row;
        Advance(states[i], scratch->log_probs_.data() + first * vocabulary_, symbols, scratch);
      }
    }
    for (size_t i = 0; i < count; ++i) {
      if (frame < frames[i]) ++states[i]->num_frames;
    }
  }
  for (size_t i = 0; i < count; ++i) SettleShared(states[i]);
}

// Predictor outputs of the rows' paths that lack one, in one batch.
void Search::ComputePredictors(SearchState* const* states, SearchScratch* scratch) const {
  auto& waiting = scratch->waiting_;
  waiting.clear();
  for (const SearchScratch::Row& row : scratch->rows_) {
    Hypothesis& path = states[row.stream]->paths[row.path];
    if (path.predictor_out != nullptr) continue;
    if (!settings_.stateful) {
      const auto found = scratch->cache_.find(path.context);
      if (found != scratch->cache_.end()) {
        path.predictor_out = found->second;
        continue;
      }
    }
    waiting.push_back(&path);
  }
  if (waiting.empty()) return;
  const size_t ids = settings_.stateful ? 1 : settings_.context_size;
  scratch->items_.resize(waiting.size());
  scratch->item_inputs_.resize(waiting.size());
  for (size_t i = 0; i < waiting.size(); ++i) {
    Hypothesis& path = *waiting[i];
    Executor::Item item;
    if (settings_.stateful) {
      // Shared with other paths: the copy is what moves.
      path.predictor_state = std::make_shared<GraphState>(*path.predictor_state);
      item.state = path.predictor_state.get();
    }
    scratch->item_inputs_[i] = {path.context.data() + kMaxContext - ids};
    item.inputs = scratch->item_inputs_[i].data();
    item.frames = ids;
    scratch->items_[i] = item;
  }
  scratch->predictor_.Step(scratch->items_.data(), waiting.size());
  if (scratch->cache_.size() * width_ * sizeof(float) > kCacheBytes) scratch->cache_.clear();
  for (size_t i = 0; i < waiting.size(); ++i) {
    const float* out = scratch->predictor_.output(predictor_out_, i);
    auto value = std::make_shared<const std::vector<float>>(out, out + width_);
    if (!settings_.stateful) scratch->cache_[waiting[i]->context] = value;
    waiting[i]->predictor_out = std::move(value);
  }
}

void Search::ComputeLogProbs(SearchState* const* states, const float* const* encoder_out, size_t frame,
                             SearchScratch* scratch) const {
  const size_t rows = scratch->rows_.size();
  const auto grow = [](std::vector<float>* buffer, size_t size) {
    if (buffer->size() < size) buffer->resize(size);
  };
  grow(&scratch->encoder_rows_, rows * width_);
  grow(&scratch->predictor_rows_, rows * width_);
  grow(&scratch->log_probs_, rows * vocabulary_);
  for (size_t r = 0; r < rows; ++r) {
    const SearchScratch::Row& row = scratch->rows_[r];
    const float* encoded = encoder_out[row.stream] + frame * width_;
    std::copy(encoded, encoded + width_, scratch->encoder_rows_.begin() + static_cast<std::ptrdiff_t>(r * width_));
    const std::vector<float>& predicted = *states[row.stream]->paths[row.path].predictor_out;
    std::copy(predicted.begin(), predicted.end(), scratch->predictor_rows_.begin() + static_cast<std::ptrdiff_t>(r * width_));
  }
  const void* inputs[2];
  inputs[encoder_input_] = scratch->encoder_rows_.data();
  inputs[predictor_input_] = scratch->predictor_rows_.data();
  Executor::Item item;
  item.inputs = inputs;
  item.frames = rows;
  scratch->joiner_.Step(&item, 1);
  const float* logits = scratch->joiner_.output(logits_, 0);
  std::copy(logits, logits + rows * vocabulary_, scratch->log_probs_.begin());
  for (size_t r = 0; r < rows; ++r) {
    float* row = scratch->log_probs_.data() + r * vocabulary_;
    row[settings_.blank_id] -= config_.blank_penalty;
    kernels().log_softmax_f32(row, vocabulary_);
    row[settings_.unk_id] = -std::numeric_limits<float>::infinity();  // never put out
  }
}

// One round of one stream: every path still in the frame takes blank or a piece.
void Search::Advance(SearchState* state, const float* log_probs, size_t symbols, SearchScratch* scratch) const {
  const size_t most = config_.max_active_paths;
  const bool last = symbols + 1 >= config_.max_symbols_per_frame;
  std::vector<Hypothesis>& paths = state->paths;
  auto& candidates = scratch->candidates_;
  candidates.clear();

  // Histories as they are: paths that left before, then those that take blank.
  // They come first and keep their order, so candidate i is path i.
  const float* row = log_probs;
  for (size_t p = 0; p < paths.size(); ++p) {
    double score = paths[p].score;
    if (!paths[p].left) {
      score = Sane(score + row[settings_.blank_id]);
      row += vocabulary_;
    }
    candidates.push_back({score, score, p, -1, 0, true});
  }
  const size_t kept = candidates.size();

  row = log_probs;
  for (size_t p = 0; p < paths.size(); ++p) {
    if (paths[p].left) continue;
    // The best `most` pieces, best first, lower ids first among equals.
    auto& best = scratch->best_;
    best.clear();
    for (size_t v = 0; v < vocabulary_; ++v) {
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
        if (other.length != paths[p].length + 1) continue;
        const int32_t token = other.context[kMaxContext - 1];
        const bool listed = std::any_of(best.begin(), best.end(), [token](const auto& b) { return b.second == token; });
        if (!listed && token != settings_.blank_id && other.hash == ExtendHash(paths[p].hash, token)) {
          best.push_back({row[token], token});
        }
      }
    }
    for (const auto& [log_prob, token] : best) {
      const double score = Sane(paths[p].score + log_prob);
      candidates.push_back({score, score, p, token, log_prob, last});
    }
    row += vocabulary_;
  }

  // Merge paths that have left with equal pieces. Only pairs with a history
  // that stays as it is can be equal.
  const auto length = [&](const SearchScratch::Candidate& c) { return paths[c.path].length + (c.token >= 0 ? 1 : 0); };
  const auto equal = [&](const SearchScratch::Candidate& a, const SearchScratch::Candidate& b) {  // a has no token
    if (length(a) != length(b)) return false;
    const Hypothesis& x = paths[a.path];
    const Hypothesis& y = paths[b.path];
    if (b.token < 0) return x.hash == y.hash && state->tree.SamePieces(x.node, y.node);
    if (x.hash != ExtendHash(y.hash, b.token) || x.context[kMaxContext - 1] != b.token || x.node == TokenTree::kRoot) {
      return false;
    }
    return state->tree.SamePieces(state->tree.Parent(x.node), y.node);
  };
  for (size_t i = 1; i < candidates.size(); ++i) {
    SearchScratch::Candidate& b = candidates[i];
    if (!b.left) continue;
    for (size_t j = 0; j < std::min(i, kept); ++j) {
      SearchScratch::Candidate& a = candidates[j];
      if (a.path == SIZE_MAX || !equal({0, 0, j, -1, 0, true}, b)) continue;
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
  std::stable_sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
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
      state->tree.Ref(path.node);
      continue;
    }
    path.node = state->tree.Add(from.node, c.token, static_cast<int32_t>(state->num_frames), c.log_prob);
    path.length = from.length + 1;
    path.hash = ExtendHash(from.hash, c.token);
    if (settings_.stateful) {
      path.context[kMaxContext - 1] = c.token;
    } else {
      const size_t first = kMaxContext - settings_.context_size;
      std::copy(path.context.begin() + static_cast<std::ptrdiff_t>(first) + 1, path.context.end(),
                path.context.begin() + static_cast<std::ptrdiff_t>(first));
      path.context[kMaxContext - 1] = c.token;
    }
    path.predictor_out = nullptr;
  }
  for (const Hypothesis& path : paths) state->tree.Unref(path.node);
  paths.swap(next);
  next.clear();
}

// What all paths share cannot change any more: it moves to a plain list, and
// the tree keeps only what is still open.
void Search::SettleShared(SearchState* state) const {
  if (state->paths.empty()) return;
  int32_t shared = state->paths[0].node;
  size_t length = state->paths[0].length;
  for (size_t p = 1; p < state->paths.size(); ++p) {
    int32_t other = state->paths[p].node;
    size_t other_length = state->paths[p].length;
    while (shared != other) {
      if (length >= other_length) {
        shared = state->tree.Parent(shared);
        --length;
      } else {
        other = state->tree.Parent(other);
        --other_length;
      }
    }
  }
  state->tree.Append(shared, &state->settled);
  state->tree.Settle(shared);
}

TokenPath Search::Best(const SearchState& state, double* score) const {
  TokenPath path = state.settled;
  *score = 0;
  if (!state.paths.empty()) {
    state.tree.Append(state.paths[0].node, &path);
    *score = state.paths[0].score;
  }
  return path;
}

}  // namespace earshot

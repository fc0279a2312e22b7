// ngram.cc: see ngram.h. Every n-gram is a node below the n-gram without its last symbol; the
// continuations of a node lie together, in the order of their symbols.
#include "ngram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

namespace earshot {
namespace {

constexpr size_t kLevels = 256;

template <typename T>
T At(const uint8_t* values, size_t i) {
  T value;
  std::memcpy(&value, values + sizeof(T) * i, sizeof(T));
  return value;
}

uint16_t SymbolAt(const uint8_t* symbols, size_t i) { return At<uint16_t>(symbols, i); }

}  // namespace

std::shared_ptr<const Ngram> Ngram::Find(std::shared_ptr<const Model> model) {
  const JsonValue json = model->file().header().Find("lm");
  if (!json) return nullptr;
  std::shared_ptr<Ngram> ngram(new Ngram(std::move(model)));
  ngram->Read(json);
  return ngram;
}

uint32_t Ngram::Order::FirstChild(size_t node) const {
  return narrow ? At<uint16_t>(children, node) : At<uint32_t>(children, node);
}

void Ngram::Read(JsonValue json) {
  const ModelFile& file = model_->file();
  if (json.kind() != JsonKind::kObject) file.Bad("`lm` is not an object");
  for (JsonValue v = json.first(); v; v = v.next()) {
    bool known = false;
    for (const char* key : {"unit", "order", "pieces", "weight", "internal_weight", "bonus", "unknown_piece"}) {
      known = known || v.key() == key;
    }
    if (!known) file.Bad("`lm` has the unknown key " + Quoted(v.key()));
  }
  const JsonValue unit = json.Find("unit");
  if (!unit || (unit.string() != "piece" && unit.string() != "word")) file.Bad("`lm.unit` is not \"piece\" or \"word\"");
  of_words_ = unit.string() == "word";
  const auto whole = [&](const char* key, int64_t low, int64_t high) {
    const JsonValue v = json.Find(key);
    if (!v || v.kind() != JsonKind::kNumber || !v.IsInteger() || v.integer() < low || v.integer() > high) {
      file.Bad(std::string("`lm.") + key + "` is not a whole number in " + std::to_string(low) + ".." + std::to_string(high));
    }
    return static_cast<size_t>(v.integer());
  };
  const auto number = [&](const char* key, double low, double high) {
    const JsonValue v = json.Find(key);
    if (!v || v.kind() != JsonKind::kNumber || !(v.number() >= low && v.number() <= high)) {
      file.Bad(std::string("`lm.") + key + "` is not a number in " + std::to_string(static_cast<int>(low)) + ".." +
               std::to_string(static_cast<int>(high)));
    }
    return static_cast<float>(v.number());
  };
  orders_.resize(whole("order", 1, NgramState::kMaxOrder));
  num_pieces_ = whole("pieces", 3, 65536);
  weight_ = number("weight", 0, 10);
  internal_weight_ = number("internal_weight", 0, 10);
  bonus_ = number("bonus", -100, 100);
  unknown_piece_ = number("unknown_piece", -100, 0);

  const auto find = [&](const std::string& name, Codec codec) -> const Tensor& {
    const Tensor* tensor = file.Find("lm." + name);
    if (tensor == nullptr) file.Bad("the header has `lm` but there is no tensor 'lm." + name + "'");
    if (tensor->codec != codec) file.Bad("tensor 'lm." + name + "' is not of codec " + CodecName(codec));
    return *tensor;
  };
  const auto expect = [&](const Tensor& tensor, size_t bytes) {
    if (tensor.bytes != bytes) {
      file.Bad("tensor '" + tensor.name + "' has " + std::to_string(tensor.bytes) + " bytes; it must have " + std::to_string(bytes));
    }
  };
  const Tensor& levels = find("levels", Codec::kF32);
  const size_t rows = 2 * orders_.size() - 1;
  expect(levels, rows * kLevels * sizeof(float));
  for (size_t i = 0; i < rows * kLevels; ++i) {
    const float value = levels.f32()[i];
    const bool log_prob = i < orders_.size() * kLevels;
    if (!(std::abs(value) <= 1000) || (log_prob && value > 0)) {
      file.Bad("tensor 'lm.levels' has at " + std::to_string(i) + (log_prob ? " no log-probability in -1000..0" : " no number in -1000..1000"));
    }
  }
  for (size_t k = 0; k < orders_.size(); ++k) {
    Order& order = orders_[k];
    const std::string name = "." + std::to_string(k + 1);
    const Tensor& log_probs = find("log_probs" + name, Codec::kU8);
    order.count = log_probs.bytes;
    order.log_probs = log_probs.data;
    order.log_prob_levels = levels.f32() + k * kLevels;
    if (k > 0) {
      const Tensor& symbols = find("symbols" + name, Codec::kU8);
      expect(symbols, 2 * order.count);
      order.symbols = symbols.data;
    }
    if (k + 1 < orders_.size()) {
      const Tensor& backoffs = find("backoffs" + name, Codec::kU8);
      expect(backoffs, order.count);
      order.backoffs = backoffs.data;
      order.backoff_levels = levels.f32() + (orders_.size() + k) * kLevels;
      const Tensor& children = find("children" + name, Codec::kU8);
      order.narrow = children.bytes == 2 * (order.count + 1);
      if (!order.narrow) expect(children, 4 * (order.count + 1));
      order.children = children.data;
    }
  }
  if (vocabulary() < 2 || vocabulary() > 65536) file.Bad("tensor 'lm.log_probs.1' does not have 2..65536 bytes, one a symbol");
  if (!of_words_ && vocabulary() != num_pieces_) file.Bad("tensor 'lm.log_probs.1' does not have `lm.pieces` bytes, one a piece");
  for (size_t k = 0; k + 1 < orders_.size(); ++k) {
    const Order& order = orders_[k];
    const Order& longer = orders_[k + 1];
    const std::string name = "tensor 'lm.children." + std::to_string(k + 1) + "' ";
    if (order.FirstChild(0) != 0 || order.FirstChild(order.count) != longer.count) {
      file.Bad(name + "does not divide all n-grams of " + std::to_string(k + 2) + " symbols");
    }
    for (size_t node = 0; node < order.count; ++node) {
      const uint32_t first = order.FirstChild(node), last = order.FirstChild(node + 1);
      if (first > last || last > longer.count) file.Bad(name + "is not ascending at " + std::to_string(node));
      for (uint32_t child = first; child < last; ++child) {
        const uint16_t symbol = SymbolAt(longer.symbols, child);
        if (symbol >= vocabulary() || (child > first && symbol <= SymbolAt(longer.symbols, child - 1))) {
          file.Bad("tensor 'lm.symbols." + std::to_string(k + 2) + "' has at " + std::to_string(child) +
                   " a symbol out of range, or not above the one before it");
        }
      }
    }
  }
  if (of_words_) {
    const Tensor& words = find("words", Codec::kU8);
    expect(words, 4 * (vocabulary() - 2));
    words_ = reinterpret_cast<const uint32_t*>(words.data);
    for (size_t i = 1; i + 2 < vocabulary(); ++i) {
      if (words_[i] <= words_[i - 1]) file.Bad("tensor 'lm.words' is not ascending at " + std::to_string(i));
    }
  }
}

size_t Ngram::num_ngrams() const {
  size_t sum = 0;
  for (const Order& order : orders_) sum += order.count;
  return sum;
}

NgramState Ngram::Start() const {
  NgramState state;
  state.nodes.fill(NgramState::kNone);
  if (order() > 1) state.nodes[0] = kBoundary;
  return state;
}

// `order` counts from 0: the child of a node of orders_[order] is one of orders_[order + 1].
uint32_t Ngram::Child(size_t order, uint32_t node, int32_t symbol) const {
  uint32_t low = orders_[order].FirstChild(node), high = orders_[order].FirstChild(node + 1);
  const uint32_t end = high;
  const uint8_t* symbols = orders_[order + 1].symbols;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (SymbolAt(symbols, middle) < symbol) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < end && SymbolAt(symbols, low) == symbol ? low : NgramState::kNone;
}

double Ngram::Score(const NgramState& state, int32_t symbol) const {
  double backoff = 0;
  for (size_t k = order(); k-- > 1;) {
    const uint32_t context = state.nodes[k - 1];
    if (context == NgramState::kNone) continue;
    const uint32_t child = Child(k - 1, context, symbol);
    if (child != NgramState::kNone) return backoff + orders_[k].log_prob_levels[orders_[k].log_probs[child]];
    backoff += orders_[k - 1].backoff_levels[orders_[k - 1].backoffs[context]];
  }
  return backoff + orders_[0].log_prob_levels[orders_[0].log_probs[symbol]];
}

double Ngram::Step(NgramState* state, int32_t symbol) const {
  const double score = Score(*state, symbol);
  for (size_t k = order() - 1; k-- > 1;) {
    const uint32_t context = state->nodes[k - 1];
    state->nodes[k] = context == NgramState::kNone ? NgramState::kNone : Child(k - 1, context, symbol);
  }
  if (order() > 1) state->nodes[0] = static_cast<uint32_t>(symbol);
  return score;
}

int32_t Ngram::FindWord(uint32_t hash) const {
  const uint32_t* end = words_ + vocabulary() - 2;
  const uint32_t* found = std::lower_bound(words_, end, hash);
  return found != end && *found == hash ? static_cast<int32_t>(found - words_) + 2 : kUnknown;
}

uint32_t Ngram::ExtendHash(uint32_t hash, std::string_view bytes) {
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;  // FNV-1a
  return hash;
}

}  // namespace earshot

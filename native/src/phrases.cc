// phrases.cc: see phrases.h. Lists of thousands of phrases share most of their entries with the list
// before, so what is kept is an entry as it will lie in memory, and laying out copies.
#include "phrases.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "kernels/kernels.h"
#include "token_tree.h"

namespace earshot {
namespace {

constexpr size_t kTogether = 256;  // entries in a step of the graph

size_t Padded(size_t n, size_t to) { return (n + to - 1) / to * to; }

}  // namespace

size_t PhraseMemory::size_bytes() const {
  return tiles.size() + values.size() +
         sizeof(float) * (key_scale.size() + exact_keys.size() + value_scale.size() + exact_values.size()) +
         sizeof(int32_t) * rowsum.size();
}

float PhraseMemory::Dot(size_t entry, size_t first, size_t count, const float* query) const {
  const size_t block = entry / 16, row = entry % 16;
  float sum = 0;
  if (tiles.empty()) {
    const float* keys = exact_keys.data() + (block * key_width + first) * 16 + row;
    for (size_t k = 0; k < count; ++k) sum += keys[k * 16] * query[k];
    return sum;
  }
  const int8_t* keys = tiles.data() + block * Padded(key_width, 64) * 16 + row * 4;
  for (size_t k = first; k < first + count; ++k) sum += static_cast<float>(keys[k / 4 * 64 + k % 4]) * query[k - first];
  return sum * key_scale[entry];
}

const PhraseMemory* PhraseList::Find(std::string_view keys) const {
  for (const auto& [name, memory] : memories_) {
    if (name == keys) return &memory;
  }
  return nullptr;
}

std::pair<size_t, size_t> PhraseList::Following(int32_t piece) const {
  const auto at = static_cast<size_t>(piece + 1);
  if (piece < -1 || at + 1 >= following_.size()) return {0, 0};
  return {static_cast<size_t>(following_[at]), static_cast<size_t>(following_[at + 1])};
}

size_t PhraseList::size_bytes() const {
  size_t bytes = sizeof(int32_t) * (begin_.size() + entries_of_.size());
  for (const auto& [name, memory] : memories_) bytes += memory.size_bytes();
  return bytes;
}

size_t PhraseEncoder::WindowHash::operator()(const Window& window) const {
  uint64_t hash = 0;
  for (const int32_t id : window) hash = ExtendHash(hash, id);
  return static_cast<size_t>(hash);
}

PhraseEncoder::PhraseEncoder(std::shared_ptr<const Model> model)
    : model_(std::move(model)),
      graph_(model_->FindGraph("bias")),
      before_(model_->bias_before()),
      after_(model_->bias_after()),
      phones_(model_->bias_phones()),
      window_(before_ + 1 + after_ + phones_),
      executor_(graph_ != nullptr ? graph_
                                  : throw std::invalid_argument("phrases: the model '" + model_->name() +
                                                                "' has no graph \"bias\"; only a model with trained biasing attends to a list.")) {
  for (const char* name : {"bias_audio", "bias_label"}) {
    const auto graph = model_->FindGraph(name);
    if (graph == nullptr) continue;
    for (const Node& node : graph->nodes()) {
      if (node.op != Op::kPhraseAttention) continue;
      Kind kind;
      kind.name = node.keys;
      kind.keys = static_cast<size_t>(graph_->FindOutput(node.keys));
      kind.values = static_cast<size_t>(graph_->FindOutput(node.values));
      kind.key_width = node.in_width;
      kind.value_width = node.out_width;
      kind.exact = node.exact;
      kind.at = entry_bytes_;
      entry_bytes_ += kind.exact ? sizeof(float) * (kind.key_width + kind.value_width)
                                 : 2 * sizeof(float) + Padded(kind.key_width, 64) + Padded(kind.value_width, 64);
      kinds_.push_back(std::move(kind));
    }
  }
}

size_t PhraseEncoder::num_kept() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return kept_.size();
}

void PhraseEncoder::Check(const PhraseRows& rows) const {
  const auto ascending = [](const std::vector<int32_t>& values) { return std::is_sorted(values.begin(), values.end()); };
  if (rows.begin.empty() || rows.begin.front() != 0 || static_cast<size_t>(rows.begin.back()) != rows.pieces.size() ||
      !ascending(rows.begin)) {
    throw std::invalid_argument("phrases: `begin` must go from 0 up to the number of pieces, " + std::to_string(rows.pieces.size()) + ".");
  }
  if (rows.pieces.size() > PhraseList::kMaxPieces) {
    throw std::invalid_argument("phrases: they have " + std::to_string(rows.pieces.size()) + " pieces; at most " +
                                std::to_string(PhraseList::kMaxPieces) + " are allowed. Give fewer phrases.");
  }
  const SearchSettings& search = model_->search();
  for (const int32_t piece : rows.pieces) {
    if (piece < 0 || static_cast<size_t>(piece) >= model_->pieces().size() || piece == search.blank_id || piece == search.unk_id) {
      throw std::invalid_argument("phrases: the id " + std::to_string(piece) + " is no piece that phrases can have; ids must be below " +
                                  std::to_string(model_->pieces().size()) + ", and neither blank nor unknown.");
    }
  }
  if (phones_ == 0 || rows.ends.empty()) return;
  if (rows.ends.size() != rows.pieces.size() || !ascending(rows.ends) || rows.ends.front() < 0 ||
      static_cast<size_t>(rows.ends.back()) != rows.phones.size()) {
    throw std::invalid_argument("phrases: `ends` must rise to the number of phones, " + std::to_string(rows.phones.size()) +
                                ", with one for each of " + std::to_string(rows.pieces.size()) + " pieces. Give running totals.");
  }
  for (const int32_t phone : rows.phones) {
    if (phone < 1 || static_cast<size_t>(phone) > model_->phones().size()) {
      throw std::invalid_argument("phrases: " + std::to_string(phone) + " is no phone; they must be in 1.." +
                                  std::to_string(model_->phones().size()) + ". Give columns of the graph `phones`.");
    }
  }
}

std::vector<PhraseEncoder::Window> PhraseEncoder::WindowsOf(const PhraseRows& rows) const {
  std::vector<Window> windows(rows.pieces.size());
  const auto first_phone = static_cast<int32_t>(model_->pieces().size());
  for (size_t i = 0; i + 1 < rows.begin.size(); ++i) {
    const int32_t first = rows.begin[i], last = rows.begin[i + 1];
    const bool said = phones_ > 0 && !rows.ends.empty();
    const int32_t silent = said && first > 0 ? rows.ends[static_cast<size_t>(first) - 1] : 0;  // phones of other phrases
    for (int32_t at = first; at < last; ++at) {
      Window& window = windows[static_cast<size_t>(at)];
      window.fill(-1);
      const size_t reach = before_ + 1 + after_;
      for (size_t k = 0; k < reach; ++k) {
        const int32_t from = at + static_cast<int32_t>(k) - static_cast<int32_t>(before_);
        if (from >= first && from < last) window[k] = rows.pieces[static_cast<size_t>(from)];
      }
      if (!said) continue;
      const int32_t end = rows.ends[static_cast<size_t>(at)];
      for (size_t k = 0; k < phones_; ++k) {
        const int32_t from = end + static_cast<int32_t>(k) - static_cast<int32_t>(phones_);
        if (from >= silent) window[reach + k] = first_phone + rows.phones[static_cast<size_t>(from)];
      }
    }
  }
  return windows;
}

std::shared_ptr<const PhraseList> PhraseEncoder::Encode(const PhraseRows& rows, float weight) const {
  Check(rows);
  if (!(weight >= 0 && weight <= PhraseList::kMaxWeight)) {
    throw std::invalid_argument("phrases: the weight is " + std::to_string(weight) + "; it must be in 0.." +
                                std::to_string(static_cast<int>(PhraseList::kMaxWeight)) + ".");
  }
  if (rows.pieces.empty() || weight == 0) return nullptr;

  const std::vector<Window> every = WindowsOf(rows);
  std::vector<Window> windows = every;
  // By the piece before, so that all that may follow a piece lies together.
  const size_t previous = before_ - 1;
  const auto earlier = [previous](const Window& a, const Window& b) {
    return a[previous] != b[previous] ? a[previous] < b[previous] : a < b;
  };
  std::sort(windows.begin(), windows.end(), earlier);
  windows.erase(std::unique(windows.begin(), windows.end()), windows.end());

  static std::atomic<uint64_t> serials{0};
  std::shared_ptr<PhraseList> list(new PhraseList);
  list->model_ = model_;
  list->weight_ = weight;
  list->serial_ = ++serials;
  list->num_entries_ = windows.size();
  list->begin_ = rows.begin;
  list->entries_of_.reserve(every.size());
  for (const Window& window : every) {
    list->entries_of_.push_back(static_cast<int32_t>(std::lower_bound(windows.begin(), windows.end(), window, earlier) - windows.begin()));
  }
  list->following_.reserve(model_->pieces().size() + 2);
  size_t entry = 0;
  for (int32_t piece = -1; piece < static_cast<int32_t>(model_->pieces().size()); ++piece) {
    while (entry < windows.size() && windows[entry][previous] < piece) ++entry;
    list->following_.push_back(static_cast<int32_t>(entry));
  }
  list->following_.push_back(static_cast<int32_t>(windows.size()));
  const std::lock_guard<std::mutex> lock(mutex_);
  if (kept_.size() > kKeptEntries) {
    kept_.clear();
    bytes_.clear();
  }
  EncodeMissing(windows);
  for (const Kind& kind : kinds_) {
    list->memories_.emplace_back(kind.name, PhraseMemory{});
    Lay(windows, kind, &list->memories_.back().second);
  }
  return list;
}

void PhraseEncoder::EncodeMissing(const std::vector<Window>& windows) const {
  std::vector<const Window*> missing;
  for (const Window& window : windows) {
    if (kept_.find(window) == kept_.end()) missing.push_back(&window);
  }
  std::vector<Executor::Item> items;
  std::vector<const void*> inputs;
  for (size_t first = 0; first < missing.size(); first += kTogether) {
    const size_t count = std::min(kTogether, missing.size() - first);
    items.assign(count, {});
    inputs.resize(count);
    for (size_t i = 0; i < count; ++i) {
      inputs[i] = missing[first + i]->data();
      items[i].inputs = &inputs[i];
      items[i].frames = window_;
    }
    executor_.Step(items.data(), count);
    for (size_t i = 0; i < count; ++i) {
      const size_t index = kept_.size();
      bytes_.resize((index + 1) * entry_bytes_);
      for (const Kind& kind : kinds_) {
        Keep(executor_.output(kind.keys, i), executor_.output(kind.values, i), kind, bytes_.data() + index * entry_bytes_ + kind.at);
      }
      kept_.emplace(*missing[first + i], index);
    }
  }
}

// An exact entry is [keys][values]; else [key scale][value scale][keys][values], int8.
void PhraseEncoder::Keep(const float* keys, const float* values, const Kind& kind, uint8_t* to) const {
  if (kind.exact) {
    std::memcpy(to, keys, kind.key_width * sizeof(float));
    std::memcpy(to + kind.key_width * sizeof(float), values, kind.value_width * sizeof(float));
    return;
  }
  const size_t padded = Padded(kind.key_width, 64);
  auto* codes = reinterpret_cast<int8_t*>(to + 2 * sizeof(float));
  const float scales[2] = {
      kernels().quantize_s8(keys, kind.key_width, padded, codes),
      kernels().quantize_s8(values, kind.value_width, Padded(kind.value_width, 64), codes + padded),
  };
  std::memcpy(to, scales, sizeof scales);
}

void PhraseEncoder::Lay(const std::vector<Window>& windows, const Kind& kind, PhraseMemory* memory) const {
  const size_t count = windows.size(), rows = Padded(count, 16), columns = Padded(kind.key_width, 64);
  memory->entries = count;
  memory->key_width = kind.key_width;
  memory->value_width = kind.value_width;
  if (kind.exact) {
    memory->exact_keys.assign(rows * kind.key_width, 0.0f);
    memory->exact_values.resize(count * kind.value_width);
  } else {
    memory->tiles.assign(rows * columns, 0);
    memory->key_scale.assign(rows, 0.0f);
    memory->rowsum.assign(rows, 0);
    memory->values.resize(count * kind.value_width);
    memory->value_scale.resize(count);
  }
  for (size_t row = 0; row < count; ++row) {
    const uint8_t* from = bytes_.data() + kept_.find(windows[row])->second * entry_bytes_ + kind.at;
    if (kind.exact) {
      const auto* floats = reinterpret_cast<const float*>(from);
      float* block = memory->exact_keys.data() + row / 16 * kind.key_width * 16 + row % 16;
      for (size_t k = 0; k < kind.key_width; ++k) block[k * 16] = floats[k];
      std::memcpy(memory->exact_values.data() + row * kind.value_width, floats + kind.key_width, kind.value_width * sizeof(float));
      continue;
    }
    float scales[2];
    std::memcpy(scales, from, sizeof scales);
    const auto* codes = reinterpret_cast<const int8_t*>(from + sizeof scales);
    const size_t padded = Padded(kind.key_width, 64);
    int8_t* tile = memory->tiles.data() + row / 16 * columns * 16 + row % 16 * 4;
    int32_t sum = 0;
    for (size_t k = 0; k < kind.key_width; ++k) sum += codes[k];
    for (size_t k = 0; k < padded; k += 4) std::memcpy(tile + k / 4 * 64, codes + k, 4);
    memory->key_scale[row] = scales[0];
    memory->rowsum[row] = 128 * sum;
    memory->value_scale[row] = scales[1];
    std::memcpy(memory->values.data() + row * kind.value_width, codes + padded, kind.value_width);
  }
}

}  // namespace earshot

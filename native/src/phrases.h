// phrases.h: a list of phrases as trained biasing sees it: entries with keys and values.
//
// Knows the graph `bias`, which turns transitions between word pieces into vectors,
// and how those are laid out for attention; knows nothing of streams, text or search.
//
// An entry is a piece of a phrase with its neighbours and its sound (docs/formats/ear.md, section 10). Entries that
// several phrases share are there once, in the order of the piece before and then of all ids: a list
// acts by the set of its phrases, however it is sorted, to the last bit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "executor.h"
#include "graph.h"
#include "model.h"

namespace earshot {

// Keys and values of the entries of a list, for one `phrase_attention`.
struct PhraseMemory {
  size_t entries = 0;
  size_t key_width = 0, value_width = 0;  // of all heads together
  // Keys as a matrix with one row an entry: i8_r16x4, or f32_r16 where the attention is exact.
  std::vector<int8_t> tiles;
  std::vector<float> key_scale;
  std::vector<int32_t> rowsum;
  std::vector<float> exact_keys;
  // Values: int8 with a scale an entry, or float.
  std::vector<int8_t> values;
  std::vector<float> value_scale;
  std::vector<float> exact_values;
  size_t size_bytes() const;
  // Of the key of an entry, `count` numbers from `first` on, times `query`.
  float Dot(size_t entry, size_t first, size_t count, const float* query) const;
};

// Phrases, one after the other, and how they are said.
struct PhraseRows {
  std::vector<int32_t> pieces;
  std::vector<int32_t> begin{0};  // of each phrase, its first piece; one more. A phrase may be empty and then counts nothing
  std::vector<int32_t> phones;    // of all phrases: columns of the graph `phones`, 1 and up
  std::vector<int32_t> ends;      // of each piece, how many of `phones` there are up to its end; empty: nobody knows
};

// Immutable; any number of streams share it.
class PhraseList {
 public:
  static constexpr size_t kMaxPieces = size_t{1} << 22;  // of all phrases together
  static constexpr float kMaxWeight = 10;

  size_t num_phrases() const { return begin_.size() - 1; }
  size_t num_entries() const { return num_entries_; }
  // Entries of phrase i are entries_of()[begin()[i]] to entries_of()[begin()[i + 1]], one a piece.
  const std::vector<int32_t>& begin() const { return begin_; }
  const std::vector<int32_t>& entries_of() const { return entries_of_; }
  // The entries, from first to behind the last, whose piece before is `piece`; -1: those that begin a phrase.
  std::pair<size_t, size_t> Following(int32_t piece) const;
  // Null for an attention that reads other keys than the list was encoded for.
  const PhraseMemory* Find(std::string_view keys) const;
  // What the vectors that attention gives are multiplied by before they are added.
  float weight() const { return weight_; }
  // Unlike that of any other list of this process.
  uint64_t serial() const { return serial_; }
  const Model& model() const { return *model_; }
  size_t size_bytes() const;

 private:
  friend class PhraseEncoder;
  PhraseList() = default;
  std::shared_ptr<const Model> model_;
  size_t num_entries_ = 0;
  std::vector<int32_t> begin_, entries_of_;
  std::vector<int32_t> following_;  // first entry behind no piece, behind each piece, and the end
  std::vector<std::pair<std::string, PhraseMemory>> memories_;  // by the name of their keys
  float weight_ = 1;
  uint64_t serial_ = 0;
};

// Encodes lists for one model. Entries once encoded are kept, up to a bound: a list that changes in
// one phrase costs that phrase. Calls take turns by a lock.
class PhraseEncoder {
 public:
  static constexpr size_t kKeptEntries = size_t{1} << 16;

  // Throws std::invalid_argument if the model has no trained biasing.
  explicit PhraseEncoder(std::shared_ptr<const Model> model);

  // Null if there are no entries, or `weight` is 0: such a list changes nothing. Throws std::invalid_argument for a
  // piece or phone that there is not, blank or the unknown one, rows that are none, too many pieces, or a weight
  // out of 0..kMaxWeight.
  std::shared_ptr<const PhraseList> Encode(const PhraseRows& rows, float weight) const;
  size_t num_kept() const;

 private:
  static constexpr size_t kMaxWindow = 2 * Model::kMaxBiasReach + 1 + Model::kMaxBiasPhones;
  using Window = std::array<int32_t, kMaxWindow>;  // ids of an entry's pieces and phones; -1 beyond
  struct WindowHash {
    size_t operator()(const Window& window) const;
  };
  // One `phrase_attention`: which outputs of the graph it reads.
  struct Kind {
    std::string name;
    size_t keys, values;  // positions in the graph's outputs
    size_t key_width, value_width;
    bool exact;
    size_t at;            // bytes into a kept entry
  };
  void Check(const PhraseRows& rows) const;
  std::vector<Window> WindowsOf(const PhraseRows& rows) const;  // of each piece
  void EncodeMissing(const std::vector<Window>& windows) const;
  void Keep(const float* keys, const float* values, const Kind& kind, uint8_t* to) const;
  void Lay(const std::vector<Window>& windows, const Kind& kind, PhraseMemory* memory) const;

  std::shared_ptr<const Model> model_;
  std::shared_ptr<const Graph> graph_;
  size_t before_, after_, phones_, window_;
  std::vector<Kind> kinds_;
  size_t entry_bytes_ = 0;
  mutable std::mutex mutex_;
  mutable Executor executor_;
  mutable std::unordered_map<Window, size_t, WindowHash> kept_;  // to an index into `bytes_`
  mutable std::vector<uint8_t> bytes_;
};

}  // namespace earshot

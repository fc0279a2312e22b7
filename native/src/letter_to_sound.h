// letter_to_sound.h: the likeliest phones of a word, by a beam search over its letters.
//
// Knows a back-off n-gram model of units (a letter with the phones that it stands for) as a tree of
// contexts; knows nothing of files, words or phones' names. data/letter_to_sound.py reads the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace earshot {

// Node 0 is the empty context; the children of a node lie together, ascending by unit.
struct UnitContexts {
  std::vector<int32_t> first;    // of each node, its first child; one more than nodes
  std::vector<uint16_t> units;   // of each node, the unit that ends its context
  std::vector<int32_t> suffix;   // of each node, the context without its first unit
  std::vector<int32_t> state;    // of each node, itself or the longest suffix that has children
  std::vector<float> log_prob;   // nats
  std::vector<float> backoff;    // nats
  std::vector<std::string> phones;  // of each unit, a byte each
  std::vector<int32_t> letters;  // of each letter, and of the end, its first unit; one more
  int32_t start = 0;             // the context of a word's beginning
};

struct Pronunciation {
  std::string phones;
  double score = 0;  // log p(letters, phones), nats
};

// Buffers of one search at a time, and what earlier ones looked up.
class LetterToSoundScratch {
  friend class LetterToSound;
  struct Option {
    double gain;
    int32_t state;
    uint16_t unit;
  };
  struct Hypothesis {
    double score;
    int32_t node;
    int32_t trail;   // its last unit that is said; -1: nothing is said yet
    uint32_t length;  // of its phones
    uint32_t order;  // decides between equal scores
    uint64_t hash;   // of its phones
  };
  struct Trail {
    int32_t before;
    uint16_t unit;
  };
  std::unordered_map<int64_t, std::vector<Option>> options_;
  std::vector<uint8_t> seen_;
  std::vector<Trail> trails_;
  std::vector<Hypothesis> beam_, longer_;
  std::vector<int32_t> slots_;
};

class LetterToSound {
 public:
  static constexpr size_t kWidth = 24;     // hypotheses kept after each letter
  static constexpr double kDepth = 8.0;    // nats below the best one that a hypothesis may be
  static constexpr size_t kMaxLooked = size_t{1} << 15;  // contexts whose options are kept from search to search

  // Throws std::invalid_argument where the arrays do not fit each other.
  explicit LetterToSound(UnitContexts contexts);

  // The likeliest pronunciations, best first, at most `count`; none that is silent. `letters` has
  // numbers of letters. Throws std::invalid_argument for one that the model does not have.
  std::vector<Pronunciation> Best(std::string_view letters, size_t count, LetterToSoundScratch* scratch) const;

 private:
  const std::vector<LetterToSoundScratch::Option>& Options(int32_t node, size_t letter, LetterToSoundScratch* scratch) const;
  void Extend(size_t letter, LetterToSoundScratch* scratch) const;
  std::string Phones(int32_t trail, const LetterToSoundScratch& scratch) const;

  UnitContexts contexts_;
  size_t num_letters_;  // without the end
};

}  // namespace earshot

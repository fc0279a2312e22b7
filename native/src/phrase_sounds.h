// phrase_sounds.h: hotwords as a trie of phones, and which of them has just been said.
//
// Knows phones' log-probabilities and what phrases are worth; knows nothing of word pieces' scores, beams
// or how words are pronounced. docs/concepts/biasing.md derives the rule (word spotting by CTC, after Andrusenko et
// al. 2024, "Fast context-biasing for CTC and transducer ASR models with CTC-based word spotter", by phones):
//
// A path may begin in any frame and follows the phones of a phrase as CTC does, likeliest alignment
// first. Its score is what it loses on the likeliest phone or blank of each frame. A phrase is said when its
// last phone is reached with less lost than it is worth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace earshot {

// Phrases and the ways to say them, in rows that begin where the one before ends.
struct PhraseSoundTable {
  std::string phones;                  // of all ways: columns of log-probabilities, a byte each
  std::vector<uint32_t> begin{0};      // of each way, its first phone; one more
  std::vector<uint8_t> word_phones;    // of all ways, how many phones each word has
  std::vector<uint32_t> words{0};      // of each way, its first word; one more
  std::vector<uint32_t> phrase;        // of each way, ascending
  std::vector<float> a_phone;          // of each phrase: nats a phone that it may lose
  std::vector<uint32_t> given;         // of each phrase: its place in the list that it is of
  std::vector<int32_t> pieces;         // how the phrases are spelled
  std::vector<uint32_t> spelled{0};    // of each phrase, its first piece; one more
};

// What else may speak for a phrase: trained attention (docs/concepts/trained-biasing.md). A phrase may lose `a_phone` +
// `share` * (`even` + e) a phone, where e <= 0 is the mean over its pieces of log(attention's weight for it).
struct PhraseEvidence {
  float share = 0;  // 0: none
  float even = 0;   // at -e = `even` it changes nothing
};

// A phrase that has just been said.
struct SpottedPhrase {
  size_t way = 0;         // of the table
  size_t start = 0;       // frame of its first phone; the last one is in this frame
  double gain = 0;        // what it is worth at most, all evidence for it, less what it lost: > 0
  double lost = 0;        // nats, <= 0
};

class PhraseSounds;

// Who is on the way through the trie.
struct SpotterToken {
  int32_t node;
  float phone, blank;   // nats lost by the best alignment that ends in the phone, and in blanks after it
  int32_t phone_start, blank_start;
  int32_t last_phone;   // frame of the phone that the blanks come after
};

// What a stream carries. Frames are those of its search.
class SpotterState {
 public:
  void Reset();
  // The first frame that a phrase may still begin in; `frame` if none has begun.
  size_t Oldest(size_t frame) const;
  // Has one begun in `frame`?
  bool Began(size_t frame) const;

 private:
  friend class PhraseSounds;
  struct Said {
    size_t way, start, frame;
    double gain;
  };
  std::vector<SpotterToken> tokens_;
  int32_t oldest_ = 0, newest_ = -1;  // first frames of what is on the way; nothing is where oldest_ is larger
  std::vector<Said> said_;
  std::vector<float> rows_;   // log-probabilities of the frames from first_ on
  size_t first_ = 0;
};

// Buffers of one call at a time.
class SpotterScratch {
  friend class PhraseSounds;
  std::vector<float> lost_;
  std::vector<SpotterToken> next_;
  std::vector<int32_t> slots_;    // of each node: its place in next_
  std::vector<uint32_t> epochs_;  // when that was written
  uint32_t epoch_ = 0;
};

class PhraseSounds {
 public:
  static constexpr size_t kMinPhones = 3;    // what is shorter is said all the time
  static constexpr size_t kMaxPhones = 96;
  static constexpr size_t kMaxFrames = 125;  // that a phrase may last
  static constexpr size_t kMaxPause = 25;    // frames between two of its phones
  static constexpr size_t kMaxTokens = 256;  // on the way at once; 96 find fewer rare words in long sentences
  static constexpr float kSlack = 5;         // nats that a beginning may lose beyond what its phones are worth

  // `cost`: nats that every phrase must be ahead. Ways with too few or too many phones, and phrases worth nothing, are
  // left out. Null if none is left. `starts_word`: of each piece of the model. Throws std::invalid_argument for a
  // phone that is not in 1..num_phones, a piece that there is not, parts that do not add up, or a number out of range.
  static std::shared_ptr<const PhraseSounds> Create(PhraseSoundTable table, size_t num_phones, float cost,
                                                    std::vector<uint8_t> starts_word, PhraseEvidence evidence = {});

  // One frame: blank, then the phones. Frames that are not known to be heard begin with NaN. Appends to `found` what
  // has just been said, at most once for each way and time.
  void Advance(SpotterState* state, size_t frame, const float* log_probs, SpotterScratch* scratch,
               std::vector<SpottedPhrase>* found) const;
  // The pieces of what has just been found in `frame`, and when each was said: those of a word lie evenly between
  // its first phone and its last.
  void Spell(const SpotterState& state, const SpottedPhrase& phrase, size_t frame, std::vector<int32_t>* pieces,
             std::vector<int32_t>* frames) const;

  // The gain of a phrase at the evidence e <= 0; without any if it is not known, NaN.
  double GainAt(const SpottedPhrase& phrase, double e) const;
  // The evidence at which it gains nothing.
  double LeastEvidence(const SpottedPhrase& phrase) const {
    return -phrase.gain / (double{evidence_.share} * static_cast<double>(PhonesOf(phrase.way).size()));
  }
  // Where the phrase is in the list that it is of.
  size_t PlaceOf(const SpottedPhrase& phrase) const { return table_.given[table_.phrase[phrase.way]]; }
  bool wants_evidence() const { return evidence_.share > 0; }

  size_t num_phones() const { return num_phones_; }
  size_t num_ways() const { return order_.size(); }  // that can be found
  size_t vocabulary() const { return starts_word_.size(); }
  size_t num_nodes() const { return phone_.size(); }

 private:
  PhraseSounds() = default;
  std::string_view PhonesOf(size_t way) const {
    return std::string_view(table_.phones).substr(table_.begin[way], table_.begin[way + 1] - table_.begin[way]);
  }
  // The frame of each phone.
  std::vector<int32_t> Align(const SpotterState& state, const SpottedPhrase& phrase, size_t frame) const;
  void Say(SpotterState* state, size_t frame, const SpotterToken& token, std::vector<SpottedPhrase>* found) const;

  PhraseSoundTable table_;
  PhraseEvidence evidence_;
  std::vector<uint8_t> starts_word_;
  std::vector<uint32_t> order_;      // ways, in the order of their phones
  std::vector<float> worth_;         // of each, in that order
  size_t num_phones_ = 0;
  // Of each node; node 0 is the root, and children lie together.
  std::vector<int32_t> first_child_;  // one more than nodes
  std::vector<uint8_t> phone_;
  std::vector<float> floor_;          // who has lost more gives up
  std::vector<int32_t> first_end_, last_end_;  // places in order_ of the ways that end here
};

}  // namespace earshot

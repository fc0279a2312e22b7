// word_graph.h: which sentences may be said: a recursive network of words, and the
// deterministic network of word pieces, or of phones, that it becomes while it is searched.
//
// Knows words as rows of piece ids and, in a graph of phones, as one or several
// rows of phone ids too, and which symbol (piece or phone) may follow which;
// knows nothing of sounds, scores or spelling. Nothing is unfolded before it is
// needed: a set of sentences is as large as its network, not as its list.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace earshot {

class GrammarStates;

// A flat recursive transition network. An arc of node n is one of
//   kWord     says word `label` and goes on at `dest`,
//   kEpsilon  goes on at `dest`,
//   kCall     goes through the sub-network that starts at node `label`, up to a
//             final node of it, and then goes on at `dest`,
//   kTag      as kEpsilon; `label` means something to others.
// A final node ends the sentence, or returns from a sub-network.
class WordGraph {
 public:
  enum class ArcKind : uint8_t { kWord, kEpsilon, kCall, kTag };
  static constexpr size_t kMaxDepth = 16;        // of calls in calls
  static constexpr size_t kMaxWordPieces = 1000;
  static constexpr float kLowestWeight = -1000;  // nats

  struct Arrays {
    std::vector<int32_t> arc_begin;   // nodes + 1 entries: arcs of node n are arc_begin[n]..arc_begin[n + 1]
    std::vector<uint8_t> arc_kind;
    std::vector<int32_t> arc_label;
    std::vector<int32_t> arc_dest;
    std::vector<float> arc_weight;    // nats, <= 0
    std::vector<uint8_t> final;       // one per node
    int32_t start = 0;
    std::vector<int32_t> piece_begin; // words + 1 entries
    std::vector<int32_t> piece_ids;
    // Of a graph of phones; else empty.
    std::vector<int32_t> spelling_begin;  // words + 1 entries: pronunciations of each word
    std::vector<int32_t> phone_begin;     // pronunciations + 1 entries
    std::vector<int32_t> phone_ids;
  };

  // `phones`: how many there are, ids 1..phones; 0 makes a graph of pieces.
  // Throws std::invalid_argument if an index is out of range, a word has no
  // pieces or phones, the network calls itself, has a loop without words or no sentence.
  static std::shared_ptr<const WordGraph> Create(Arrays arrays, size_t vocabulary, size_t phones = 0);

  // What the searches of this graph share that take `word_cost` (in units of
  // GrammarStates::kWeightUnit) off for each word. When it has grown large this
  // is a new one, and the old one goes with its last user.
  std::shared_ptr<GrammarStates> States(int32_t word_cost) const;

  // Where a history of symbols leads.
  struct Position {
    std::vector<int32_t> next;  // symbols that may follow, sorted
    bool final = false;         // the sentence may end here
    double weight = 0;          // of the best way here, nats
    double final_weight = 0;    // of the best sentence that ends here
  };
  // False if no sentence begins so.
  bool Walk(const int32_t* symbols, size_t count, Position* position) const;

  // Of the graph and of what its searches share.
  size_t size_bytes() const;

  size_t vocabulary() const { return vocabulary_; }
  size_t num_phones() const { return num_phones_; }  // 0: a graph of pieces
  size_t num_words() const { return words_.size(); }
  // Pieces of one word. In a graph of pieces equal words are one, and in no particular order.
  const int32_t* word_pieces(size_t word) const { return words_.row(word); }
  size_t word_length(size_t word) const { return words_.length(word); }

 private:
  friend class GrammarStates;
  struct Arc {
    ArcKind kind;
    int32_t label;
    int32_t dest;
    int32_t weight;   // in units of kWeightUnit
  };
  // Rows of ids, one behind the other.
  struct Rows {
    std::vector<int32_t> begin = {0}, ids;
    size_t size() const { return begin.size() - 1; }
    const int32_t* row(size_t i) const { return ids.data() + begin[i]; }
    size_t length(size_t i) const { return static_cast<size_t>(begin[i + 1] - begin[i]); }
  };
  WordGraph() = default;
  void CheckCalls() const;
  void CheckLoops(const std::vector<char>& nullable) const;
  std::vector<char> Finishing(bool without_words) const;
  void FindInner();
  void SortSpellings(const Rows& rows, std::vector<int32_t>* rank);
  size_t num_nodes() const { return final_.size(); }
  size_t num_symbols() const { return num_phones_ > 0 ? num_phones_ + 1 : vocabulary_; }
  // Calls visit(spelling) for each way to say a word.
  template <typename Visit>
  void EachSpelling(int32_t word, Visit visit) const {
    if (num_phones_ == 0) return visit(word);
    const auto w = static_cast<size_t>(word);
    for (size_t i = 0; i < said_.length(w); ++i) visit(said_.row(w)[i]);
  }

  std::vector<int32_t> arc_begin_;
  std::vector<Arc> arcs_;
  std::vector<uint8_t> final_;
  std::vector<char> useful_;          // a final node can be reached
  std::vector<char> inner_;           // one arc leads here and nothing else
  int32_t start_ = 0;
  Rows words_;      // pieces
  Rows spellings_;  // distinct rows of symbols in their order; of pieces: one for each word
  Rows said_;       // of a graph of phones: the spellings of each word
  size_t vocabulary_ = 0, num_phones_ = 0;
  size_t view_bytes_ = 0;  // at most, of all views together
  mutable std::mutex mutex_;
  mutable std::map<int32_t, std::shared_ptr<GrammarStates>> states_;  // by the cost of a word
};

struct GrammarState;

// A symbol that may come next. `to` is null until somebody went there.
struct GrammarArc {
  int32_t symbol = 0;
  int32_t weight = 0;                             // valid once `to` is set
  std::atomic<const GrammarState*> to{nullptr};
};

// All places of the network that one history of symbols can be in, each with
// what its best way there costs more than the best way of all.
struct GrammarState {
  struct Place {
    uint32_t view;         // in a node: its words, sorted by their spelling,
    uint32_t low, high;    // of which these are still possible,
    uint32_t depth;        // after so many symbols of them
    int32_t stack;         // where to go on when the sub-network ends
    int32_t best;          // weight of the best of these words
    int32_t weight;        // with `best`: a word pays from its first symbol on
  };
  std::vector<Place> places;
  bool final = false;      // the sentence may end here,
  int32_t final_weight = 0;  // at this cost
  mutable std::atomic<const GrammarArc*> arcs{nullptr};  // sorted by symbol; null until asked for
  mutable size_t num_arcs = 0;                           // valid once `arcs` is set
  mutable std::unique_ptr<GrammarArc[]> owner;
};

// The deterministic network, as far as it has been walked. States stay where
// they are and are shared by all searches; calls from many threads are safe.
class GrammarStates {
 public:
  // Weights are whole multiples of this, so that sums are exact in any order.
  static constexpr double kWeightUnit = 1.0 / 4096;

  // `graph` must live as long. Every word costs `word_cost` units more than the graph says; it may be below 0.
  GrammarStates(const WordGraph& graph, int32_t word_cost) : graph_(graph), word_cost_(word_cost) {}

  // `weight`: what even the best sentence costs, nats.
  const GrammarState* Start(double* weight);
  // No arc has a weight above this: weights are <= 0 but for a word's negative cost.
  double HighestWeight() const { return word_cost_ < 0 ? -word_cost_ * kWeightUnit : 0; }
  // The symbols that may follow.
  const GrammarArc* Arcs(const GrammarState& state, size_t* count);
  // The state after arc `index` of `state`. Throws std::invalid_argument if it
  // would have more places than a search can bear.
  const GrammarState* Follow(const GrammarState& state, size_t index);
  // The same state as `state`, which belongs to `from`.
  const GrammarState* Adopt(const GrammarState& state, GrammarStates* from);
  // A complete sentence that some symbols spell.
  struct Sentence {
    std::vector<int32_t> words;
    std::vector<int32_t> ends;  // for each, the symbols up to its end
    double weight = 0;          // of the best way to say it
  };
  // All sentences that exactly these symbols spell, the best `most` of them, best first.
  std::vector<Sentence> Sentences(const int32_t* symbols, size_t count, size_t most);
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  // What can be done in a node, and in the inner nodes that silent arcs lead to
  // from there. All views together are no larger than the graph.
  struct View {
    struct Entry {
      int32_t spelling;
      int32_t word;
      int32_t dest;
      int32_t weight;
    };
    struct Call {
      int32_t start, dest, weight;
    };
    struct Jump {
      int32_t dest, weight;
    };
    int32_t node;
    std::vector<Entry> entries;   // sorted by spelling
    std::vector<Call> calls;
    std::vector<Jump> jumps;      // silent arcs to nodes with views of their own
    bool weighted = false;  // some entry
    bool final = false;
    int32_t final_weight = 0;
  };
  struct Frame {
    int32_t parent;   // -1: the sentence ends
    int32_t node;
  };
  struct Open {       // of a search for the cheapest ways
    int32_t weight, node, stack;
    bool operator<(const Open& other) const { return weight < other.weight; }
  };
  // A place without reference to this object's numbering.
  struct Portable {
    GrammarState::Place place;
    int32_t node;
    std::vector<int32_t> returns;
  };

  uint32_t ViewOf(int32_t node);
  int32_t Push(int32_t parent, int32_t node);
  // Adds what can be reached from `open_` to `state`.
  void Close(GrammarState* state);
  // Takes the best weight off all, and returns it beside the state.
  const GrammarState* Intern(GrammarState&& state, int32_t* weight);
  int32_t SymbolAt(const View::Entry& entry, uint32_t depth) const;
  // Of the entries from `low` to `high`, which are sorted, those with `symbol` at `depth`.
  void Narrow(const View& view, uint32_t depth, int32_t symbol, uint32_t* low, uint32_t* high) const;
  // Of the words of a view from `low` to `high`, of which there must be one.
  static int32_t BestOf(const View& view, uint32_t low, uint32_t high);
  size_t LengthOf(const View::Entry& entry) const { return graph_.spellings_.length(static_cast<size_t>(entry.spelling)); }
  std::vector<Portable> Export(const GrammarState& state);

  const WordGraph& graph_;
  const int32_t word_cost_;
  std::mutex mutex_;
  std::atomic<size_t> bytes_{0};
  std::deque<GrammarState> states_;
  std::unordered_multimap<uint64_t, const GrammarState*> by_hash_;
  std::deque<View> views_;
  std::unordered_map<int32_t, uint32_t> view_of_;
  std::vector<Frame> frames_;
  std::unordered_map<uint64_t, int32_t> frame_of_;
  const GrammarState* start_ = nullptr;
  int32_t start_weight_ = 0;
  // Scratch of the call that holds the lock.
  std::vector<Open> open_;
  std::unordered_set<uint64_t> closed_;
  std::vector<char> marked_;
};

}  // namespace earshot

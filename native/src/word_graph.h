// word_graph.h: which sentences may be said: a recursive network of words, and the
// deterministic network of word pieces that it becomes while it is searched.
//
// Knows words as rows of piece ids and which piece may follow which; knows
// nothing of sounds, scores or spelling. Nothing is unfolded before it is
// needed: a set of sentences is as large as its network, not as its list.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
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
  };

  // Throws std::invalid_argument if an index is out of range, a word has no
  // pieces, the network calls itself, has a loop without words or no sentence.
  static std::shared_ptr<const WordGraph> Create(Arrays arrays, size_t vocabulary);

  // What the searches of this graph share. When it has grown large this is a
  // new one, and the old one goes with its last user.
  std::shared_ptr<GrammarStates> States() const;

  // Where a history of pieces leads.
  struct Position {
    std::vector<int32_t> next;  // pieces that may follow, sorted
    bool final = false;         // the sentence may end here
    double weight = 0;          // of the best way here, nats
    double final_weight = 0;    // of the best sentence that ends here
  };
  // False if no sentence begins so.
  bool Walk(const int32_t* pieces, size_t count, Position* position) const;

  // Of the graph and of what its searches share.
  size_t size_bytes() const;

  size_t vocabulary() const { return vocabulary_; }
  size_t num_words() const { return word_begin_.size() - 1; }
  // Pieces of one word, in no particular order of words; equal words are one.
  const int32_t* word_pieces(size_t word) const { return word_pieces_.data() + word_begin_[word]; }
  size_t word_length(size_t word) const { return static_cast<size_t>(word_begin_[word + 1] - word_begin_[word]); }

 private:
  friend class GrammarStates;
  struct Arc {
    ArcKind kind;
    int32_t label;    // kWord: the word's rank
    int32_t dest;
    int32_t weight;   // in units of kWeightUnit
  };
  WordGraph() = default;
  void CheckCalls() const;
  void CheckLoops(const std::vector<char>& nullable) const;
  std::vector<char> Finishing(bool without_words) const;
  void FindInner();
  void SortWords(const Arrays& arrays, std::vector<int32_t>* rank);
  size_t num_nodes() const { return final_.size(); }

  std::vector<int32_t> arc_begin_;
  std::vector<Arc> arcs_;
  std::vector<uint8_t> final_;
  std::vector<char> useful_;          // a final node can be reached
  std::vector<char> inner_;           // one arc leads here and nothing else
  int32_t start_ = 0;
  std::vector<int32_t> word_begin_, word_pieces_;  // distinct words in the order of their pieces
  size_t vocabulary_ = 0;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<GrammarStates> states_;
};

struct GrammarState;

// A piece that may come next. `to` is null until somebody went there.
struct GrammarArc {
  int32_t piece = 0;
  int32_t weight = 0;                             // valid once `to` is set
  std::atomic<const GrammarState*> to{nullptr};
};

// All places of the network that one history of pieces can be in, each with
// what its best way there costs more than the best way of all.
struct GrammarState {
  struct Place {
    uint32_t view;         // in a node: its words, sorted by their pieces,
    uint32_t low, high;    // of which these are still possible,
    uint32_t depth;        // after so many pieces of them
    int32_t stack;         // where to go on when the sub-network ends
    int32_t best;          // weight of the best of these words
    int32_t weight;        // with `best`: a word pays from its first piece on
  };
  std::vector<Place> places;
  bool final = false;      // the sentence may end here,
  int32_t final_weight = 0;  // at this cost
  mutable std::atomic<const GrammarArc*> arcs{nullptr};  // sorted by piece; null until asked for
  mutable size_t num_arcs = 0;                           // valid once `arcs` is set
  mutable std::unique_ptr<GrammarArc[]> owner;
};

// The deterministic network, as far as it has been walked. States stay where
// they are and are shared by all searches; calls from many threads are safe.
class GrammarStates {
 public:
  // Weights are whole multiples of this, so that sums are exact in any order.
  static constexpr double kWeightUnit = 1.0 / 4096;

  // `graph` must live as long.
  explicit GrammarStates(const WordGraph& graph) : graph_(graph) {}

  // `weight`: what even the best sentence costs, nats.
  const GrammarState* Start(double* weight);
  // The pieces that may follow.
  const GrammarArc* Arcs(const GrammarState& state, size_t* count);
  // The state after arc `index` of `state`. Throws std::invalid_argument if it
  // would have more places than a search can bear.
  const GrammarState* Follow(const GrammarState& state, size_t index);
  // The same state as `state`, which belongs to `from`.
  const GrammarState* Adopt(const GrammarState& state, GrammarStates* from);
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  // What can be done in a node, and in the inner nodes that silent arcs lead to
  // from there. All views together are no larger than the graph.
  struct View {
    struct Entry {
      int32_t word;        // rank
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
    std::vector<Entry> entries;   // sorted by word
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
  int32_t PieceAt(const View::Entry& entry, uint32_t depth) const;
  // Of the words of a view from `low` to `high`, of which there must be one.
  static int32_t BestOf(const View& view, uint32_t low, uint32_t high);
  size_t LengthOf(const View::Entry& entry) const { return graph_.word_length(static_cast<size_t>(entry.word)); }
  std::vector<Portable> Export(const GrammarState& state);

  const WordGraph& graph_;
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

// word_graph.cc: see word_graph.h.
#include "word_graph.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "token_tree.h"

namespace earshot {
namespace {

// Beyond this, and the size of the views, WordGraph::States begins anew.
constexpr size_t kMaxBytes = size_t{16} << 20;
// Searches of one graph that charge words differently: more are forgotten together.
constexpr size_t kMaxCosts = 8;
// A state of more places would take seconds to make; only a network that is
// ambiguous at every level of its calls has one.
constexpr size_t kMaxPlaces = size_t{1} << 20;
// Ways that wait to be looked at: calls in calls make them faster than places.
constexpr size_t kMaxOpen = 2 * kMaxPlaces;
// Positions in rows of arcs, of which a call is in two, are 32 bits.
constexpr size_t kMaxSize = size_t{1} << 30;
// Sums of weights stop here: far below what any sound could make up for.
constexpr int32_t kLowest = -(1 << 30);
constexpr int32_t kUnknownPiece = 2;  // the format fixes it, as it does blank: 0

int32_t AddWeights(int32_t a, int32_t b) { return std::max(a + b, kLowest); }

[[noreturn]] void Bad(const std::string& problem) { throw std::invalid_argument("word graph: " + problem); }

std::string Number(size_t n) { return std::to_string(n); }
std::string Number(int32_t n) { return std::to_string(n); }

uint64_t Pair(int32_t a, int32_t b) {
  return static_cast<uint64_t>(static_cast<uint32_t>(a)) << 32 | static_cast<uint32_t>(b);
}

// `begin` must be the first entries of rows that fill `size` entries.
void CheckRows(const std::vector<int32_t>& begin, size_t size, const char* name, const char* of) {
  if (begin.empty() || begin.front() != 0 || begin.back() < 0 || static_cast<size_t>(begin.back()) != size) {
    Bad(std::string(name) + " does not go from 0 to " + Number(size) + ", the number of " + of + "; make it so.");
  }
  for (size_t i = 1; i < begin.size(); ++i) {
    if (begin[i] < begin[i - 1]) {
      Bad(std::string(name) + " falls from " + Number(begin[i - 1]) + " to " + Number(begin[i]) + " at " + Number(i) +
          "; it must not fall.");
    }
  }
}

// The rows of words or pronunciations: 1..kMaxWordPieces ids each, of 1..last without `unknown`.
void CheckSpellings(const std::vector<int32_t>& begin, const std::vector<int32_t>& ids, const char* of, const char* name,
                    const char* unit, size_t last, int32_t unknown) {
  for (size_t i = 1; i < begin.size(); ++i) {
    const auto length = static_cast<size_t>(begin[i] - begin[i - 1]);
    if (length < 1 || length > WordGraph::kMaxWordPieces) {
      Bad(std::string(of) + " " + Number(i - 1) + " has " + Number(length) + " " + unit + "; it must have 1.." +
          Number(WordGraph::kMaxWordPieces) + ".");
    }
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 1 && static_cast<size_t>(ids[i]) <= last && ids[i] != unknown) continue;
    Bad(std::string(name) + " has " + Number(ids[i]) + " at " + Number(i) + "; ids must be in 1.." + Number(last) +
        (unknown > 0 ? " without " + Number(unknown) + ", the unknown piece. Spell words with the model's tokenizer."
                     : ". Spell words in the model's phones."));
  }
}

}  // namespace

std::shared_ptr<const WordGraph> WordGraph::Create(Arrays arrays, size_t vocabulary, size_t phones) {
  const size_t nodes = arrays.final.size();
  const size_t arcs = arrays.arc_kind.size();
  if (vocabulary < 3) Bad("the vocabulary has " + Number(vocabulary) + " pieces; it must have at least 3.");
  if (nodes == 0 || nodes + 1 != arrays.arc_begin.size()) {
    Bad("final has " + Number(nodes) + " entries and arc_begin " + Number(arrays.arc_begin.size()) +
        "; they must have one per node, and one per node and one more.");
  }
  if (arrays.arc_label.size() != arcs || arrays.arc_dest.size() != arcs || arrays.arc_weight.size() != arcs) {
    Bad("arc_kind, arc_label, arc_dest and arc_weight have " + Number(arcs) + ", " + Number(arrays.arc_label.size()) + ", " +
        Number(arrays.arc_dest.size()) + " and " + Number(arrays.arc_weight.size()) + " entries; all must have one per arc.");
  }
  if (nodes >= kMaxSize || arcs >= kMaxSize) {
    Bad("there are " + Number(nodes) + " nodes and " + Number(arcs) + " arcs; there must be fewer than " + Number(kMaxSize) + " of each.");
  }
  CheckRows(arrays.arc_begin, arcs, "arc_begin", "arcs");
  CheckRows(arrays.piece_begin, arrays.piece_ids.size(), "piece_begin", "piece_ids");
  const size_t words = arrays.piece_begin.size() - 1;
  CheckSpellings(arrays.piece_begin, arrays.piece_ids, "word", "piece_ids", "pieces", vocabulary - 1, kUnknownPiece);
  if (phones == 0 && !(arrays.spelling_begin.empty() && arrays.phone_begin.empty() && arrays.phone_ids.empty())) {
    Bad("words are spelled in phones, of which there are none; say how many the model has.");
  }
  if (phones > 0) {
    if (phones >= kMaxSize) Bad("there are " + Number(phones) + " phones; there must be fewer than " + Number(kMaxSize) + ".");
    CheckRows(arrays.phone_begin, arrays.phone_ids.size(), "phone_begin", "phone_ids");
    CheckRows(arrays.spelling_begin, arrays.phone_begin.size() - 1, "spelling_begin", "pronunciations");
    if (arrays.spelling_begin.size() != words + 1) {
      Bad("spelling_begin has " + Number(arrays.spelling_begin.size()) + " entries for " + Number(words) +
          " words; it must have one per word and one more.");
    }
    for (size_t w = 0; w < words; ++w) {
      if (arrays.spelling_begin[w] == arrays.spelling_begin[w + 1]) {
        Bad("word " + Number(w) + " has no pronunciation; it must have at least one.");
      }
    }
    CheckSpellings(arrays.phone_begin, arrays.phone_ids, "pronunciation", "phone_ids", "phones", phones, 0);
  }
  const auto is_node = [nodes](int32_t node) { return node >= 0 && static_cast<size_t>(node) < nodes; };
  if (!is_node(arrays.start)) {
    Bad("start is node " + Number(arrays.start) + "; there are " + Number(nodes) + " nodes.");
  }

  std::shared_ptr<WordGraph> graph(new WordGraph());
  graph->vocabulary_ = vocabulary;
  graph->num_phones_ = phones;
  graph->start_ = arrays.start;
  Rows pieces;
  pieces.begin = std::move(arrays.piece_begin);
  pieces.ids = std::move(arrays.piece_ids);
  std::vector<int32_t> rank;
  if (phones > 0) {
    Rows rows;
    rows.begin = std::move(arrays.phone_begin);
    rows.ids = std::move(arrays.phone_ids);
    graph->words_ = std::move(pieces);
    graph->SortSpellings(rows, &rank);
    graph->said_.begin = std::move(arrays.spelling_begin);
    graph->said_.ids = std::move(rank);
  } else {
    graph->SortSpellings(pieces, &rank);
    graph->words_ = graph->spellings_;
  }
  graph->arcs_.resize(arcs);
  for (size_t a = 0; a < arcs; ++a) {
    if (arrays.arc_kind[a] > static_cast<uint8_t>(ArcKind::kTag)) {
      Bad("arc " + Number(a) + " is of kind " + Number(size_t{arrays.arc_kind[a]}) + "; kinds are 0..3.");
    }
    const auto kind = static_cast<ArcKind>(arrays.arc_kind[a]);
    int32_t label = arrays.arc_label[a];
    const float weight = arrays.arc_weight[a];
    if (!is_node(arrays.arc_dest[a])) {
      Bad("arc " + Number(a) + " goes to node " + Number(arrays.arc_dest[a]) + "; there are " + Number(nodes) + " nodes.");
    }
    if (kind == ArcKind::kCall && !is_node(label)) {
      Bad("arc " + Number(a) + " calls node " + Number(label) + "; there are " + Number(nodes) + " nodes.");
    }
    if (kind == ArcKind::kWord) {
      if (label < 0 || static_cast<size_t>(label) >= words) {
        Bad("arc " + Number(a) + " says word " + Number(label) + "; there are " + Number(words) + " words.");
      }
      if (phones == 0) label = rank[static_cast<size_t>(label)];
    }
    if (!(weight <= 0 && weight >= kLowestWeight)) {
      Bad("arc " + Number(a) + " has the weight " + std::to_string(weight) + "; it must be in " +
          std::to_string(static_cast<int>(kLowestWeight)) + "..0. Leave out what can never be said.");
    }
    if (kind == ArcKind::kWord) {
      graph->EachSpelling(label, [&](int32_t) { graph->view_bytes_ += sizeof(Arc); });
    } else {
      graph->view_bytes_ += sizeof(Arc);
    }
    graph->arcs_[a] = {kind, label, arrays.arc_dest[a], static_cast<int32_t>(std::lround(weight / GrammarStates::kWeightUnit))};
  }
  graph->arc_begin_ = std::move(arrays.arc_begin);
  graph->final_ = std::move(arrays.final);
  graph->CheckCalls();
  graph->CheckLoops(graph->Finishing(true));
  graph->useful_ = graph->Finishing(false);
  graph->FindInner();
  if (graph->useful_[static_cast<size_t>(graph->start_)] == 0) {
    Bad("no final node can be reached from node " + Number(graph->start_) + ", the start; there must be a sentence.");
  }
  double weight;
  graph->States(0)->Start(&weight);  // with too many ways to begin it throws here, not while decoding
  return graph;
}

std::shared_ptr<GrammarStates> WordGraph::States(int32_t word_cost) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (states_.size() >= kMaxCosts && states_.count(word_cost) == 0) states_.clear();
  std::shared_ptr<GrammarStates>& states = states_[word_cost];
  if (states == nullptr || states->bytes() > kMaxBytes + view_bytes_) states = std::make_shared<GrammarStates>(*this, word_cost);
  return states;
}

bool WordGraph::Walk(const int32_t* symbols, size_t count, Position* position) const {
  const std::shared_ptr<GrammarStates> states = States(0);
  const GrammarState* state = states->Start(&position->weight);
  size_t num_arcs;
  const GrammarArc* arcs = states->Arcs(*state, &num_arcs);
  for (size_t i = 0; i < count; ++i) {
    const GrammarArc* arc = std::lower_bound(arcs, arcs + num_arcs, symbols[i],
                                             [](const GrammarArc& a, int32_t symbol) { return a.symbol < symbol; });
    if (arc == arcs + num_arcs || arc->symbol != symbols[i]) return false;
    state = states->Follow(*state, static_cast<size_t>(arc - arcs));
    position->weight += arc->weight * GrammarStates::kWeightUnit;
    arcs = states->Arcs(*state, &num_arcs);
  }
  for (size_t a = 0; a < num_arcs; ++a) position->next.push_back(arcs[a].symbol);
  position->final = state->final;
  position->final_weight = position->weight + state->final_weight * GrammarStates::kWeightUnit;
  return true;
}

size_t WordGraph::size_bytes() const {
  size_t bytes = arcs_.size() * sizeof(Arc) + num_nodes() * (sizeof(int32_t) + 2);
  for (const Rows* rows : {&words_, &spellings_, &said_}) bytes += (rows->begin.size() + rows->ids.size()) * sizeof(int32_t);
  return bytes + States(0)->bytes();
}

// Orders rows of symbols; equal ones become one.
void WordGraph::SortSpellings(const Rows& rows, std::vector<int32_t>* rank) {
  const auto begin = [&](int32_t i) { return rows.row(static_cast<size_t>(i)); };
  const auto end = [&](int32_t i) { return begin(i) + rows.length(static_cast<size_t>(i)); };
  std::vector<int32_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return std::lexicographical_compare(begin(a), end(a), begin(b), end(b));
  });
  rank->resize(rows.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t row = order[i];
    if (i == 0 || !std::equal(begin(row), end(row), begin(order[i - 1]), end(order[i - 1]))) {
      spellings_.ids.insert(spellings_.ids.end(), begin(row), end(row));
      spellings_.begin.push_back(static_cast<int32_t>(spellings_.ids.size()));
    }
    (*rank)[static_cast<size_t>(row)] = static_cast<int32_t>(spellings_.size()) - 1;
  }
}

// Strongly connected parts of the network in which a call is an arc to the
// sub-network too (Tarjan): a call inside such a part comes back to itself.
// Parts are complete in the order of what they need, so depths follow at once.
void WordGraph::CheckCalls() const {
  constexpr int32_t kNone = -1;
  const size_t nodes = num_nodes();
  std::vector<int32_t> number(nodes, kNone), low(nodes, kNone), part(nodes, kNone), depth(nodes, 0);
  std::vector<int32_t> stack;
  struct Visit {
    int32_t node;
    int32_t arc;
    bool callee;  // of `arc`: the destination is done
  };
  std::vector<Visit> visits;
  int32_t next_number = 0, next_part = 0;
  const auto at = [](std::vector<int32_t>& v, int32_t n) -> int32_t& { return v[static_cast<size_t>(n)]; };
  const auto enter = [&](int32_t node) {
    at(number, node) = at(low, node) = next_number++;
    stack.push_back(node);
    visits.push_back({node, arc_begin_[static_cast<size_t>(node)], false});
  };
  for (size_t root = 0; root < nodes; ++root) {
    if (number[root] != kNone) continue;
    enter(static_cast<int32_t>(root));
    while (!visits.empty()) {
      Visit& visit = visits.back();
      const int32_t node = visit.node;
      if (visit.arc < arc_begin_[static_cast<size_t>(node) + 1]) {
        const Arc& arc = arcs_[static_cast<size_t>(visit.arc)];
        const int32_t to = visit.callee ? arc.label : arc.dest;
        if (arc.kind == ArcKind::kCall && !visit.callee) {
          visit.callee = true;
        } else {
          visit.callee = false;
          ++visit.arc;
        }
        if (at(number, to) == kNone) {
          enter(to);
        } else if (at(part, to) == kNone) {
          at(low, node) = std::min(at(low, node), at(number, to));
        }
        continue;
      }
      visits.pop_back();
      if (!visits.empty()) at(low, visits.back().node) = std::min(at(low, visits.back().node), at(low, node));
      if (at(low, node) != at(number, node)) continue;
      size_t first = stack.size();
      do {
        at(part, stack[--first]) = next_part;
      } while (stack[first] != node);
      int32_t deepest = 0;
      for (size_t i = first; i < stack.size(); ++i) {
        const auto member = static_cast<size_t>(stack[i]);
        for (int32_t a = arc_begin_[member]; a < arc_begin_[member + 1]; ++a) {
          const Arc& arc = arcs_[static_cast<size_t>(a)];
          deepest = std::max(deepest, at(depth, arc.dest));
          if (arc.kind != ArcKind::kCall) continue;
          if (at(part, arc.label) == next_part) {
            Bad("arc " + Number(a) + " calls node " + Number(arc.label) + ", from where the same arc can be reached; a "
                "network must not call itself.");
          }
          deepest = std::max(deepest, at(depth, arc.label) + 1);
        }
      }
      if (static_cast<size_t>(deepest) > kMaxDepth) {
        Bad("from node " + Number(node) + " calls are nested " + Number(deepest) + " deep; at most " + Number(kMaxDepth) +
            " are allowed. Put the inner networks in place of their calls.");
      }
      for (size_t i = first; i < stack.size(); ++i) at(depth, stack[i]) = deepest;
      stack.resize(first);
      ++next_part;
    }
  }
}

// Whether each node can come to a final node of its own network. Backwards from
// the final nodes: a call counts once both its parts do.
std::vector<char> WordGraph::Finishing(bool without_words) const {
  const size_t nodes = num_nodes();
  // For each node the arcs that wait for it, and where they start.
  std::vector<int32_t> begin(nodes + 1, 0), waiting, source(arcs_.size());
  const auto counts = [&](const Arc& arc) { return !(without_words && arc.kind == ArcKind::kWord); };
  const auto each = [&](auto&& visit) {
    for (size_t n = 0; n < nodes; ++n) {
      for (int32_t a = arc_begin_[n]; a < arc_begin_[n + 1]; ++a) {
        const Arc& arc = arcs_[static_cast<size_t>(a)];
        if (!counts(arc)) continue;
        source[static_cast<size_t>(a)] = static_cast<int32_t>(n);
        visit(arc.dest, a);
        if (arc.kind == ArcKind::kCall && arc.label != arc.dest) visit(arc.label, a);
      }
    }
  };
  each([&](int32_t node, int32_t) { ++begin[static_cast<size_t>(node) + 1]; });
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  waiting.resize(static_cast<size_t>(begin.back()));
  std::vector<int32_t> fill(begin.begin(), begin.end() - 1);
  each([&](int32_t node, int32_t a) { waiting[static_cast<size_t>(fill[static_cast<size_t>(node)]++)] = a; });

  std::vector<char> marked(nodes, 0);
  std::vector<int32_t> todo;
  const auto mark = [&](int32_t node) {
    if (marked[static_cast<size_t>(node)] != 0) return;
    marked[static_cast<size_t>(node)] = 1;
    todo.push_back(node);
  };
  for (size_t n = 0; n < nodes; ++n) {
    if (final_[n] != 0) mark(static_cast<int32_t>(n));
  }
  while (!todo.empty()) {
    const auto node = static_cast<size_t>(todo.back());
    todo.pop_back();
    for (int32_t i = begin[node]; i < begin[node + 1]; ++i) {
      const int32_t a = waiting[static_cast<size_t>(i)];
      const Arc& arc = arcs_[static_cast<size_t>(a)];
      if (marked[static_cast<size_t>(arc.dest)] == 0) continue;
      if (arc.kind == ArcKind::kCall && marked[static_cast<size_t>(arc.label)] == 0) continue;
      mark(source[static_cast<size_t>(a)]);
    }
  }
  return marked;
}

void WordGraph::FindInner() {
  std::vector<char> arriving(num_nodes(), 0);  // 2: more than one
  const auto arrive = [&](int32_t node, int n) {
    char& count = arriving[static_cast<size_t>(node)];
    count = static_cast<char>(std::min(count + n, 2));
  };
  arrive(start_, 2);
  for (const Arc& arc : arcs_) {
    arrive(arc.dest, 1);
    if (arc.kind == ArcKind::kCall) arrive(arc.label, 2);
  }
  inner_.resize(num_nodes());
  for (size_t n = 0; n < inner_.size(); ++n) inner_[n] = arriving[n] == 1;
}

// Refuses a loop of arcs that say nothing: takes nodes away that none of these
// leads to; what cannot be taken away is on such a loop or behind one.
void WordGraph::CheckLoops(const std::vector<char>& nullable) const {
  const size_t nodes = num_nodes();
  const auto silent = [&](const Arc& arc) {
    return arc.kind == ArcKind::kEpsilon || arc.kind == ArcKind::kTag ||
           (arc.kind == ArcKind::kCall && nullable[static_cast<size_t>(arc.label)] != 0);
  };
  std::vector<int32_t> arriving(nodes, 0), todo;
  for (const Arc& arc : arcs_) {
    if (silent(arc)) ++arriving[static_cast<size_t>(arc.dest)];
  }
  for (size_t n = 0; n < nodes; ++n) {
    if (arriving[n] == 0) todo.push_back(static_cast<int32_t>(n));
  }
  for (size_t i = 0; i < todo.size(); ++i) {
    const auto node = static_cast<size_t>(todo[i]);
    for (int32_t a = arc_begin_[node]; a < arc_begin_[node + 1]; ++a) {
      const Arc& arc = arcs_[static_cast<size_t>(a)];
      if (silent(arc) && --arriving[static_cast<size_t>(arc.dest)] == 0) todo.push_back(arc.dest);
    }
  }
  if (todo.size() == nodes) return;
  const auto left = std::find_if(arriving.begin(), arriving.end(), [](int32_t n) { return n > 0; });
  Bad("node " + Number(static_cast<size_t>(left - arriving.begin())) +
      " is on a loop without words, or behind one; every loop must say a word.");
}

// --- states -----------------------------------------------------------------

int32_t GrammarStates::SymbolAt(const View::Entry& entry, uint32_t depth) const {
  return graph_.spellings_.row(static_cast<size_t>(entry.spelling))[depth];
}

void GrammarStates::Narrow(const View& view, uint32_t depth, int32_t symbol, uint32_t* low, uint32_t* high) const {
  const auto first = view.entries.begin();
  const auto from = std::partition_point(first + *low, first + *high, [&](const View::Entry& entry) {
    return SymbolAt(entry, depth) < symbol;
  });
  const auto to = std::partition_point(from, first + *high, [&](const View::Entry& entry) {
    return SymbolAt(entry, depth) == symbol;
  });
  *low = static_cast<uint32_t>(from - first);
  *high = static_cast<uint32_t>(to - first);
}

int32_t GrammarStates::BestOf(const View& view, uint32_t low, uint32_t high) {
  int32_t best = 0;
  if (!view.weighted) return best;
  best = view.entries[low].weight;
  for (uint32_t i = low + 1; i < high; ++i) best = std::max(best, view.entries[i].weight);
  return best;
}

int32_t GrammarStates::Push(int32_t parent, int32_t node) {
  const auto [found, fresh] = frame_of_.try_emplace(Pair(parent, node), static_cast<int32_t>(frames_.size()));
  if (fresh) {
    frames_.push_back({parent, node});
    bytes_ += 64;
  }
  return found->second;
}

uint32_t GrammarStates::ViewOf(int32_t node) {
  const auto [found, fresh] = view_of_.try_emplace(node, static_cast<uint32_t>(views_.size()));
  if (!fresh) return found->second;
  views_.emplace_back();
  View& view = views_.back();
  view.node = node;
  std::vector<Open> open = {{0, node, -1}};
  while (!open.empty()) {
    const Open from = open.back();
    open.pop_back();
    const auto n = static_cast<size_t>(from.node);
    if (graph_.final_[n] != 0) {
      view.final_weight = view.final ? std::max(view.final_weight, from.weight) : from.weight;
      view.final = true;
    }
    for (int32_t a = graph_.arc_begin_[n]; a < graph_.arc_begin_[n + 1]; ++a) {
      const WordGraph::Arc& arc = graph_.arcs_[static_cast<size_t>(a)];
      if (graph_.useful_[static_cast<size_t>(arc.dest)] == 0) continue;
      const int32_t weight = AddWeights(from.weight, arc.weight);
      switch (arc.kind) {
        case WordGraph::ArcKind::kWord:
          graph_.EachSpelling(arc.label, [&](int32_t spelling) { view.entries.push_back({spelling, arc.label, arc.dest, weight}); });
          view.weighted = view.weighted || weight != 0;
          break;
        case WordGraph::ArcKind::kCall:
          if (graph_.useful_[static_cast<size_t>(arc.label)] != 0) view.calls.push_back({arc.label, arc.dest, weight});
          break;
        case WordGraph::ArcKind::kEpsilon:
        case WordGraph::ArcKind::kTag:
          if (graph_.inner_[static_cast<size_t>(arc.dest)] != 0) {
            open.push_back({weight, arc.dest, -1});
          } else {
            view.jumps.push_back({arc.dest, weight});
          }
          break;
      }
    }
  }
  std::sort(view.entries.begin(), view.entries.end(), [](const View::Entry& a, const View::Entry& b) {
    if (a.spelling != b.spelling) return a.spelling < b.spelling;
    if (a.word != b.word) return a.word < b.word;
    if (a.dest != b.dest) return a.dest < b.dest;
    return a.weight > b.weight;
  });
  view.entries.erase(std::unique(view.entries.begin(), view.entries.end(),
                                 [](const View::Entry& a, const View::Entry& b) {
                                   return a.spelling == b.spelling && a.word == b.word && a.dest == b.dest;
                                 }),
                     view.entries.end());
  view.entries.shrink_to_fit();
  bytes_ += sizeof(View) + 64 + view.entries.size() * sizeof(View::Entry) + view.calls.size() * sizeof(View::Call) +
            view.jumps.size() * sizeof(View::Jump);
  return found->second;
}

void GrammarStates::Close(GrammarState* state) {
  closed_.clear();
  if (closed_.bucket_count() > 4096) closed_ = {};  // clearing costs as much as the largest state so far
  std::make_heap(open_.begin(), open_.end());
  while (!open_.empty()) {
    std::pop_heap(open_.begin(), open_.end());
    const Open from = open_.back();
    open_.pop_back();
    if (!closed_.insert(Pair(from.node, from.stack)).second) continue;
    if (closed_.size() + state->places.size() > kMaxPlaces || open_.size() > kMaxOpen) {
      open_.clear();
      Bad("after some words there are more than " + Number(kMaxPlaces) + " ways to go on; calls must not multiply so.");
    }
    const uint32_t index = ViewOf(from.node);
    const View& view = views_[index];
    if (!view.entries.empty()) {
      const auto size = static_cast<uint32_t>(view.entries.size());
      const int32_t best = BestOf(view, 0, size);
      state->places.push_back({index, 0, size, 0, from.stack, best, AddWeights(from.weight, best - word_cost_)});
    }
    if (view.final) {
      const int32_t weight = AddWeights(from.weight, view.final_weight);
      if (from.stack >= 0) {
        const Frame frame = frames_[static_cast<size_t>(from.stack)];
        open_.push_back({weight, frame.node, frame.parent});
        std::push_heap(open_.begin(), open_.end());
      } else if (!state->final || weight > state->final_weight) {
        state->final = true;
        state->final_weight = weight;
      }
    }
    for (const View::Jump& jump : view.jumps) {
      open_.push_back({AddWeights(from.weight, jump.weight), jump.dest, from.stack});
      std::push_heap(open_.begin(), open_.end());
    }
    for (const View::Call& call : view.calls) {
      open_.push_back({AddWeights(from.weight, call.weight), call.start, Push(from.stack, call.dest)});
      std::push_heap(open_.begin(), open_.end());
    }
  }
}

const GrammarState* GrammarStates::Intern(GrammarState&& state, int32_t* weight) {
  using Place = GrammarState::Place;
  const auto key = [](const Place& p) { return std::make_tuple(p.view, p.low, p.high, p.depth, p.stack); };
  auto& places = state.places;
  std::sort(places.begin(), places.end(), [&](const Place& a, const Place& b) {
    const auto x = key(a), y = key(b);
    return x != y ? x < y : a.weight > b.weight;
  });
  places.erase(std::unique(places.begin(), places.end(), [&](const Place& a, const Place& b) { return key(a) == key(b); }),
               places.end());
  int32_t best = state.final ? state.final_weight : std::numeric_limits<int32_t>::min();
  for (const Place& place : places) best = std::max(best, place.weight);
  uint64_t hash = ExtendHash(0, state.final ? 1 : 0);
  if (state.final) hash = ExtendHash(hash, state.final_weight -= best);
  for (Place& place : places) {
    place.weight -= best;
    for (const uint32_t part : {place.view, place.low, place.high, place.depth, static_cast<uint32_t>(place.stack),
                                static_cast<uint32_t>(place.weight)}) {
      hash = ExtendHash(hash, static_cast<int32_t>(part));
    }
  }
  *weight = best;
  const auto [first, last] = by_hash_.equal_range(hash);
  for (auto it = first; it != last; ++it) {
    const GrammarState& other = *it->second;
    if (other.final == state.final && other.final_weight == state.final_weight && other.places.size() == places.size() &&
        std::equal(places.begin(), places.end(), other.places.begin(),
                   [&](const Place& a, const Place& b) { return key(a) == key(b) && a.weight == b.weight; })) {
      return &other;
    }
  }
  GrammarState& kept = states_.emplace_back();
  kept.final = state.final;
  kept.final_weight = state.final_weight;
  kept.places.assign(places.begin(), places.end());  // no spare room
  by_hash_.emplace(hash, &kept);
  bytes_ += sizeof(GrammarState) + 48 + kept.places.size() * sizeof(Place);
  return &kept;
}

const GrammarState* GrammarStates::Start(double* weight) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (start_ == nullptr) {
    GrammarState state;
    open_ = {{0, graph_.start_, -1}};
    Close(&state);
    start_ = Intern(std::move(state), &start_weight_);
  }
  *weight = start_weight_ * kWeightUnit;
  return start_;
}

const GrammarArc* GrammarStates::Arcs(const GrammarState& state, size_t* count) {
  const GrammarArc* arcs = state.arcs.load(std::memory_order_acquire);
  if (arcs == nullptr) {
    const std::lock_guard<std::mutex> lock(mutex_);
    arcs = state.arcs.load(std::memory_order_relaxed);
    if (arcs == nullptr) {
      marked_.assign(graph_.num_symbols(), 0);
      size_t n = 0;
      for (const GrammarState::Place& place : state.places) {
        const View& view = views_[place.view];
        for (uint32_t at = place.low; at < place.high;) {
          const int32_t symbol = SymbolAt(view.entries[at], place.depth);
          if (std::exchange(marked_[static_cast<size_t>(symbol)], 1) == 0) ++n;
          // To the first entry of another symbol: strides that double, then halving.
          uint32_t stride = 1;
          while (place.high - at > stride && SymbolAt(view.entries[at + stride], place.depth) == symbol) {
            at += stride;
            stride *= 2;
          }
          const auto first = view.entries.begin() + at;
          const auto last = view.entries.begin() + std::min(at + stride, place.high);
          at = static_cast<uint32_t>(std::partition_point(first, last, [&](const View::Entry& entry) {
                                       return SymbolAt(entry, place.depth) == symbol;
                                     }) - view.entries.begin());
        }
      }
      state.owner = std::make_unique<GrammarArc[]>(std::max<size_t>(n, 1));
      state.num_arcs = n;
      size_t filled = 0;
      for (size_t symbol = 0; symbol < marked_.size(); ++symbol) {
        if (marked_[symbol] != 0) state.owner[filled++].symbol = static_cast<int32_t>(symbol);
      }
      bytes_ += std::max<size_t>(n, 1) * sizeof(GrammarArc);
      arcs = state.owner.get();
      state.arcs.store(arcs, std::memory_order_release);
    }
  }
  *count = state.num_arcs;
  return arcs;
}

const GrammarState* GrammarStates::Follow(const GrammarState& state, size_t index) {
  size_t count;
  const GrammarState* to = Arcs(state, &count)[index].to.load(std::memory_order_acquire);
  if (to != nullptr) return to;
  const std::lock_guard<std::mutex> lock(mutex_);
  GrammarArc& arc = state.owner[index];
  to = arc.to.load(std::memory_order_relaxed);
  if (to != nullptr) return to;
  GrammarState next;
  open_.clear();
  for (const GrammarState::Place& place : state.places) {
    const View& view = views_[place.view];
    uint32_t low = place.low, high = place.high;
    Narrow(view, place.depth, arc.symbol, &low, &high);
    for (; low < high; ++low) {  // words that end here are the first: a word is less than its continuations
      const View::Entry& entry = view.entries[low];
      if (LengthOf(entry) > place.depth + 1) break;
      open_.push_back({AddWeights(place.weight, entry.weight - place.best), entry.dest, place.stack});
    }
    if (low < high) {
      const int32_t best = BestOf(view, low, high);
      next.places.push_back({place.view, low, high, place.depth + 1, place.stack, best, AddWeights(place.weight, best - place.best)});
    }
  }
  Close(&next);
  to = Intern(std::move(next), &arc.weight);
  arc.to.store(to, std::memory_order_release);
  return to;
}

// Word by word instead of symbol by symbol. All ways to say some words lead to one state, so that of
// the sentences that are in one state after as many symbols only the best can become the best.
std::vector<GrammarStates::Sentence> GrammarStates::Sentences(const int32_t* symbols, size_t count, size_t most) {
  struct Way {
    int32_t weight;
    std::vector<int32_t> words, ends;
  };
  struct Reached {
    const GrammarState* state;
    std::vector<Way> ways;
  };
  // Order must not depend on that of the places, which other streams have a part in.
  const auto keep_best = [most](std::vector<Way>* ways) {
    std::sort(ways->begin(), ways->end(), [](const Way& a, const Way& b) {
      return std::tie(b.weight, a.words, a.ends) < std::tie(a.weight, b.words, b.ends);
    });
    ways->erase(std::unique(ways->begin(), ways->end(), [](const Way& a, const Way& b) { return a.words == b.words; }), ways->end());
    if (ways->size() > most) ways->resize(most);
  };
  double start_weight;
  const GrammarState* start = Start(&start_weight);
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::vector<Reached>> after(count + 1);
  after[0].push_back({start, {Way{0, {}, {}}}});
  std::map<std::pair<size_t, int32_t>, std::vector<Open>> said;  // by where a word ends, and the word
  for (size_t at = 0; at < count; ++at) {
    for (Reached& here : after[at]) {
      keep_best(&here.ways);
      said.clear();
      for (const GrammarState::Place& place : here.state->places) {
        const View& view = views_[place.view];
        uint32_t low = place.low, high = place.high;
        for (size_t end = at; end < count && low < high; ++end) {
          const auto depth = static_cast<uint32_t>(end - at);
          Narrow(view, depth, symbols[end], &low, &high);
          for (; low < high && LengthOf(view.entries[low]) == depth + 1; ++low) {
            const View::Entry& entry = view.entries[low];
            said[{end + 1, entry.word}].push_back({AddWeights(place.weight, entry.weight - place.best), entry.dest, place.stack});
          }
        }
      }
      for (auto& [what, open] : said) {
        const auto [end, word] = what;
        GrammarState next;
        open_ = std::move(open);
        Close(&next);
        if (end == count ? !next.final : next.places.empty()) continue;
        int32_t weight;
        const GrammarState* state = Intern(std::move(next), &weight);
        std::vector<Reached>& there = after[end];
        auto found = std::find_if(there.begin(), there.end(), [&](const Reached& r) { return r.state == state; });
        if (found == there.end()) found = there.insert(there.end(), {state, {}});
        for (const Way& way : here.ways) {
          found->ways.push_back({AddWeights(way.weight, weight), way.words, way.ends});
          found->ways.back().words.push_back(word);
          found->ways.back().ends.push_back(static_cast<int32_t>(end));
        }
      }
    }
  }
  std::vector<Way> complete;
  for (Reached& here : after[count]) {
    if (!here.state->final) continue;
    for (Way& way : here.ways) {
      way.weight = AddWeights(way.weight, here.state->final_weight);
      complete.push_back(std::move(way));
    }
  }
  keep_best(&complete);
  std::vector<Sentence> out;
  for (Way& way : complete) {
    out.push_back({std::move(way.words), std::move(way.ends), start_weight + way.weight * kWeightUnit});
  }
  return out;
}

std::vector<GrammarStates::Portable> GrammarStates::Export(const GrammarState& state) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Portable> out;
  out.reserve(state.places.size());
  for (const GrammarState::Place& place : state.places) {
    out.push_back({place, views_[place.view].node, {}});
    for (int32_t frame = place.stack; frame >= 0; frame = frames_[static_cast<size_t>(frame)].parent) {
      out.back().returns.push_back(frames_[static_cast<size_t>(frame)].node);
    }
  }
  return out;
}

const GrammarState* GrammarStates::Adopt(const GrammarState& state, GrammarStates* from) {
  if (from == this) return &state;
  const std::vector<Portable> portable = from->Export(state);
  const std::lock_guard<std::mutex> lock(mutex_);
  GrammarState copy;
  copy.final = state.final;
  copy.final_weight = state.final_weight;
  for (const Portable& p : portable) {
    GrammarState::Place place = p.place;
    place.view = ViewOf(p.node);
    place.stack = -1;
    for (auto node = p.returns.rbegin(); node != p.returns.rend(); ++node) place.stack = Push(place.stack, *node);
    copy.places.push_back(place);
  }
  int32_t weight;  // 0: it was taken off before
  return Intern(std::move(copy), &weight);
}

}  // namespace earshot

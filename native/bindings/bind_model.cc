// bind_model.cc: model files, graphs and recognisers for Python.
//
// Arrays are checked here, because messages name what Python sees; everything
// else is checked where it is used. The interpreter lock is released while the
// engine computes.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "biasing.h"
#include "executor.h"
#include "model.h"
#include "model_file.h"
#include "phrases.h"
#include "recognizer.h"
#include "speller.h"
#include "word_graph.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using FloatArray = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using IdArray = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;

PyObject* model_file_error = nullptr;

nb::object ToNumpy(std::vector<float>&& values, const std::vector<size_t>& shape) {
  auto* kept = new std::vector<float>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, float>(kept->data(), shape.size(), shape.data(), owner));
}

// Text from a file header is UTF-8: the reader checked it.
nb::str Text(std::string_view text) { return nb::str(text.data(), text.size()); }

class PyModel {
 public:
  explicit PyModel(const std::string& path) : model_(earshot::Model::Open(path)) {}
  const earshot::Model& model() const { return *model_; }
  const std::shared_ptr<const earshot::Model>& shared() const { return model_; }

 private:
  std::shared_ptr<const earshot::Model> model_;
};

// The same file seen as a container; a type of its own, because Python sees two.
class PyModelFile : public PyModel {
 public:
  using PyModel::PyModel;
  const earshot::Tensor& Get(const std::string& name) const {
    const earshot::Tensor* tensor = model().file().Find(name);
    if (tensor == nullptr) throw nb::key_error(("no tensor " + earshot::Quoted(name)).c_str());
    return *tensor;
  }
};

nb::object ToNumpyIds(std::vector<int32_t>&& values) {
  auto* kept = new std::vector<int32_t>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<int32_t>*>(p); });
  const size_t shape[1] = {kept->size()};
  return nb::cast(nb::ndarray<nb::numpy, int32_t>(kept->data(), 1, shape, owner));
}

class PyPhraseList {
 public:
  explicit PyPhraseList(std::shared_ptr<const earshot::PhraseList> list) : list_(std::move(list)) {}
  const std::shared_ptr<const earshot::PhraseList>& shared() const { return list_; }

 private:
  std::shared_ptr<const earshot::PhraseList> list_;
};

class PyGraphState {
 public:
  explicit PyGraphState(std::shared_ptr<const earshot::Graph> graph) : state(std::move(graph)) {}
  PyGraphState& operator=(const PyGraphState&) = delete;
  earshot::GraphState state;

  // Whoever touches `state` holds this. It never waits: the calls of one state have an order, and
  // a thread that comes in between has mistaken it for its own.
  std::unique_lock<std::mutex> Lock() const {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {
      throw nb::value_error(("graph '" + state.graph()->name() +
                             "': the state is in use by another call; give each thread its own copy().").c_str());
    }
    return lock;
  }
  PyGraphState* Copy() const {
    const auto lock = Lock();
    return new PyGraphState(*this);
  }
  void Reset() {
    const auto lock = Lock();
    state.Reset();
  }

  nb::dict Tensors() const {
    const auto lock = Lock();
    nb::dict out;
    const earshot::Graph& graph = *state.graph();
    const float* floats = state.values().data();
    const auto put = [&](const earshot::Node& node, const char* what, size_t offset, std::vector<size_t> shape) {
      size_t n = 1;
      for (const size_t s : shape) n *= s;
      const std::string name = graph.value(node.out).name + "." + what;
      out[Text(name)] = ToNumpy(std::vector<float>(floats + offset, floats + offset + n), shape);
    };
    for (const earshot::Node& node : graph.nodes()) {
      if (node.op == earshot::Op::kLstm) {
        put(node, "h", node.state_offset, {node.hidden});
        put(node, "c", node.state_offset + node.hidden, {node.hidden});
      } else if (node.op == earshot::Op::kCausalAttention && node.counter >= 0) {
        const size_t ring = node.window - 1;
        const size_t seen = static_cast<size_t>(state.counters()[static_cast<size_t>(node.counter)]);
        put(node, "keys_values", node.state_offset, {std::min(seen, ring), 2, node.out_width});
      } else if (node.counter >= 0) {
        put(node, "frames", node.state_offset,
            {static_cast<size_t>(state.counters()[static_cast<size_t>(node.counter)]), node.in_width});
      } else if (node.state_size > 0) {
        put(node, "frames", node.state_offset, {node.state_size / node.in_width, node.in_width});
      }
      if (node.when >= 0 && node.skipped == earshot::Skipped::kHold) put(node, "last", node.hold_offset, {node.out_width});
    }
    return out;
  }

 private:
  PyGraphState(const PyGraphState& other) : state(other.state) {}  // `other` is locked
  mutable std::mutex mutex_;
};

// Python values of one stream's inputs, kept alive while the engine reads them.
struct Inputs {
  std::vector<FloatArray> vectors;
  std::vector<IdArray> ids;
  std::vector<const void*> pointers;
  size_t frames = 0;
};

class PyGraph {
 public:
  explicit PyGraph(std::shared_ptr<const earshot::Graph> graph) : graph_(std::move(graph)) {}
  const earshot::Graph& graph() const { return *graph_; }
  const std::shared_ptr<const earshot::Graph>& shared() const { return graph_; }

  nb::dict Step(nb::handle x, PyGraphState* state, bool flush, const PyPhraseList* phrases, int32_t last_piece) {
    nb::list results = StepMany({x}, {state}, {flush}, phrases != nullptr ? phrases->shared().get() : nullptr, last_piece);
    return nb::cast<nb::dict>(results[0]);
  }

  nb::list StepBatch(const nb::list& xs, const nb::list& states, const nb::object& flush) {
    const size_t n = nb::len(xs);
    if (nb::len(states) != n) {
      throw nb::value_error(("step_batch: " + std::to_string(n) + " inputs and " + std::to_string(nb::len(states)) +
                             " states; there must be as many of both.").c_str());
    }
    // Both lists may be emptied while the lock is released, and by the code behind `flush`: what is
    // in them is kept from here on.
    std::vector<nb::object> kept;
    std::vector<nb::handle> inputs;
    std::vector<PyGraphState*> native;
    for (size_t i = 0; i < n; ++i) {
      kept.push_back(nb::borrow(xs[i]));
      inputs.push_back(kept.back());
      kept.push_back(nb::borrow(states[i]));
      native.push_back(nb::cast<PyGraphState*>(kept.back()));
      for (size_t j = 0; j < i; ++j) {
        if (native[j] == native[i]) throw nb::value_error("step_batch: a state is in the list twice; each must be there once.");
      }
    }
    std::vector<bool> flushes;
    for (size_t i = 0; i < n; ++i) {
      flushes.push_back(nb::isinstance<nb::bool_>(flush) ? nb::cast<bool>(flush) : nb::cast<bool>(flush[i]));
    }
    return StepMany(inputs, native, flushes);
  }

 private:
  void Read(nb::handle value, Inputs* out) const {
    const std::string where = "graph '" + graph_->name() + "'";
    const size_t count = graph_->inputs().size();
    const bool named = nb::isinstance<nb::dict>(value);
    if (!named && count != 1) {
      throw nb::value_error((where + ": it has " + std::to_string(count) + " inputs; give a dict of arrays.").c_str());
    }
    if (named && nb::len(nb::borrow<nb::dict>(value)) != count) {
      throw nb::value_error((where + ": " + std::to_string(nb::len(nb::borrow<nb::dict>(value))) + " inputs given; it has " +
                             std::to_string(count) + ".").c_str());
    }
    out->pointers.resize(count);
    for (size_t i = 0; i < count; ++i) {
      const earshot::Value& v = graph_->value(graph_->inputs()[i]);
      nb::object item;
      if (!named) {
        item = nb::borrow(value);
      } else {
        const nb::dict dict = nb::borrow<nb::dict>(value);
        if (!dict.contains(Text(v.name))) throw nb::value_error((where + ": the input '" + v.name + "' is missing.").c_str());
        item = dict[Text(v.name)];
      }
      size_t frames = 0;
      if (v.ids) {
        IdArray array;
        if (!nb::try_cast<IdArray>(item, array) || array.ndim() != 1) {
          throw nb::value_error((where + ": input '" + v.name + "' must be an int32 array of shape (frames,).").c_str());
        }
        frames = array.shape(0);
        out->ids.push_back(array);
        out->pointers[i] = array.data();
      } else {
        FloatArray array;
        if (!nb::try_cast<FloatArray>(item, array) || array.ndim() != 2 || array.shape(1) != v.width) {
          throw nb::value_error((where + ": input '" + v.name + "' must be a float32 array of shape (frames, " +
                                 std::to_string(v.width) + ").").c_str());
        }
        frames = array.shape(0);
        out->vectors.push_back(array);
        out->pointers[i] = array.data();
      }
      if (i > 0 && frames != out->frames) {
        throw nb::value_error((where + ": input '" + v.name + "' has " + std::to_string(frames) + " frames, others have " +
                               std::to_string(out->frames) + "; all must have as many.").c_str());
      }
      out->frames = frames;
    }
  }

  nb::list StepMany(const std::vector<nb::handle>& xs, const std::vector<PyGraphState*>& states, const std::vector<bool>& flush,
                    const earshot::PhraseList* phrases = nullptr, int32_t last_piece = -1) {
    const size_t n = xs.size();
    std::vector<Inputs> inputs(n);
    std::vector<earshot::Executor::Item> items(n);
    std::vector<std::unique_ptr<earshot::GraphState>> fresh(n);
    for (size_t i = 0; i < n; ++i) {
      Read(xs[i], &inputs[i]);
      items[i].inputs = inputs[i].pointers.data();
      items[i].frames = inputs[i].frames;
      items[i].flush = flush[i];
      items[i].phrases = phrases;
      items[i].last_piece = last_piece;
      if (states[i] == nullptr) {
        fresh[i] = std::make_unique<earshot::GraphState>(graph_);
        items[i].state = fresh[i].get();
      } else if (states[i]->state.graph() != graph_) {
        throw nb::value_error(("graph '" + graph_->name() + "': the state belongs to another graph; take one from its initial_state().").c_str());
      } else {
        items[i].state = &states[i]->state;
      }
    }
    std::vector<std::unique_lock<std::mutex>> locks;
    for (const PyGraphState* state : states) {
      if (state != nullptr) locks.push_back(state->Lock());
    }
    std::unique_ptr<earshot::Executor> executor;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!pool_.empty()) {
        executor = std::move(pool_.back());
        pool_.pop_back();
      }
    }
    if (executor == nullptr) executor = std::make_unique<earshot::Executor>(graph_);
    {
      const nb::gil_scoped_release release;
      executor->Step(items.data(), n);
    }
    locks.clear();
    nb::list results;
    for (size_t i = 0; i < n; ++i) {
      nb::dict result;
      for (size_t o = 0; o < graph_->outputs().size(); ++o) {
        const earshot::Value& v = graph_->value(graph_->outputs()[o]);
        const size_t frames = executor->output_frames(o, i);
        const float* data = executor->output(o, i);
        result[Text(v.name)] = ToNumpy(std::vector<float>(data, data + frames * v.width), {frames, v.width});
      }
      results.append(result);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    pool_.push_back(std::move(executor));
    return results;
  }

  std::shared_ptr<const earshot::Graph> graph_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<earshot::Executor>> pool_;
};

using ByteArray = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IndexArray = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using WeightArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

class PyWordGraph {
 public:
  PyWordGraph(const IndexArray& arc_begin, const ByteArray& arc_kind, const IndexArray& arc_label, const IndexArray& arc_dest,
              const WeightArray& arc_weight, const ByteArray& final, int32_t start, const IndexArray& piece_begin,
              const IndexArray& piece_ids, size_t vocabulary, const std::optional<IndexArray>& spelling_begin,
              const std::optional<IndexArray>& phone_begin, const std::optional<IndexArray>& phone_ids, size_t phones) {
    const auto copy = [](const auto& array, auto* out) { out->assign(array.data(), array.data() + array.shape(0)); };
    earshot::WordGraph::Arrays arrays;
    copy(arc_begin, &arrays.arc_begin);
    copy(arc_kind, &arrays.arc_kind);
    copy(arc_label, &arrays.arc_label);
    copy(arc_dest, &arrays.arc_dest);
    copy(arc_weight, &arrays.arc_weight);
    copy(final, &arrays.final);
    arrays.start = start;
    copy(piece_begin, &arrays.piece_begin);
    copy(piece_ids, &arrays.piece_ids);
    if (spelling_begin) copy(*spelling_begin, &arrays.spelling_begin);
    if (phone_begin) copy(*phone_begin, &arrays.phone_begin);
    if (phone_ids) copy(*phone_ids, &arrays.phone_ids);
    const nb::gil_scoped_release release;
    graph_ = earshot::WordGraph::Create(std::move(arrays), vocabulary, phones);
  }
  const std::shared_ptr<const earshot::WordGraph>& shared() const { return graph_; }

 private:
  std::shared_ptr<const earshot::WordGraph> graph_;
};

class PyPhraseEncoder {
 public:
  explicit PyPhraseEncoder(const PyModel& model) : encoder_(std::make_unique<earshot::PhraseEncoder>(model.shared())) {}
  // None if the list changes nothing.
  nb::object Encode(const earshot::PhraseRows& rows, float weight) const {
    std::shared_ptr<const earshot::PhraseList> list;
    {
      const nb::gil_scoped_release release;
      list = encoder_->Encode(rows, weight);
    }
    return list == nullptr ? nb::none() : nb::cast(PyPhraseList(std::move(list)));
  }
  const earshot::PhraseEncoder& encoder() const { return *encoder_; }

 private:
  std::unique_ptr<earshot::PhraseEncoder> encoder_;
};

class PyStream {
 public:
  explicit PyStream(std::unique_ptr<earshot::Stream> stream) : stream_(std::move(stream)) {}
  earshot::Stream& stream() const { return *stream_; }

 private:
  std::unique_ptr<earshot::Stream> stream_;
};

class PyRecognizer {
 public:
  PyRecognizer(const PyModel& model, const std::string& method, size_t max_active_paths, size_t max_symbols_per_frame,
               float blank_penalty, const PyWordGraph* word_graph, size_t grammar_paths, float grammar_beam, float ctc_weight,
               float grammar_blank_penalty, float ctc_blank_penalty, float language_weight, float word_penalty, size_t phone_paths,
               float phone_beam, float phone_blank_penalty, float transducer_weight, float piece_ctc_weight, float second_pass_share,
               size_t lattice_paths, float lattice_beam, size_t lattice_arcs, size_t lattice_context, const PyHotwords* hotwords, const PyNgram* lm,
               float lm_weight, float internal_lm_weight, float lm_bonus) {
    earshot::SearchConfig config;
    if (method != "greedy_search" && method != "modified_beam_search") {
      throw nb::value_error(("Recognizer: method is '" + method + "'; it must be 'greedy_search' or 'modified_beam_search'.").c_str());
    }
    config.max_active_paths = method == "greedy_search" ? 1 : max_active_paths;
    config.max_symbols_per_frame = max_symbols_per_frame;
    config.blank_penalty = blank_penalty;
    config.lattice.max_active_paths = lattice_paths;
    config.lattice.beam = lattice_beam;
    config.lattice.max_arcs = lattice_arcs;
    config.lattice.context_size = lattice_context;
    earshot::GrammarConfig grammar;
    grammar.max_active_paths = grammar_paths;
    grammar.beam = grammar_beam;
    grammar.ctc_weight = ctc_weight;
    grammar.blank_penalty = grammar_blank_penalty;
    grammar.ctc_blank_penalty = ctc_blank_penalty;
    grammar.language_weight = language_weight;
    grammar.word_penalty = word_penalty;
    earshot::PhoneConfig phones;
    phones.max_active_paths = phone_paths;
    phones.beam = phone_beam;
    phones.blank_penalty = phone_blank_penalty;
    phones.word_penalty = word_penalty;
    phones.transducer_weight = transducer_weight;
    phones.piece_ctc_weight = piece_ctc_weight;
    phones.second_pass_share = second_pass_share;
    recognizer_ = earshot::Recognizer::Create(model.shared(), config, grammar, phones,
                                              word_graph != nullptr ? word_graph->shared() : nullptr,
                                              {hotwords != nullptr ? hotwords->shared : nullptr, lm != nullptr ? lm->shared : nullptr,
                                               {lm_weight, internal_lm_weight, lm_bonus},
                                               hotwords != nullptr ? hotwords->sounds : nullptr});
  }
  PyStream* CreateStream(const PyWordGraph* word_graph, bool lattice) const {
    return new PyStream(word_graph != nullptr ? recognizer_->CreateStream(word_graph->shared(), lattice)
                                              : recognizer_->CreateStream(lattice));
  }
  void DecodeStreams(const nb::list& streams) const {
    // The list may be emptied while the lock is released; its streams are kept until the end.
    std::vector<nb::object> kept;
    std::vector<earshot::Stream*> native;
    for (const nb::handle stream : streams) {
      kept.push_back(nb::borrow(stream));
      native.push_back(&nb::cast<PyStream&>(stream).stream());
    }
    const nb::gil_scoped_release release;
    recognizer_->DecodeStreams(native.data(), native.size());
  }
  // Rows of numbers, one per stream; `Frame` of _native.pyi says what they mean.
  nb::object DecodeFrames(const nb::list& streams, const std::vector<size_t>& hold) const {
    const size_t count = nb::len(streams);
    if (hold.size() != count) {
      throw nb::value_error(("decode_frames: " + std::to_string(count) + " streams and " + std::to_string(hold.size()) +
                             " values of `hold`; there must be one for each.").c_str());
    }
    std::vector<nb::object> kept;
    std::vector<earshot::Stream*> native;
    for (const nb::handle stream : streams) {
      kept.push_back(nb::borrow(stream));
      native.push_back(&nb::cast<PyStream&>(stream).stream());
    }
    std::vector<earshot::FrameEvidence> evidence(count);
    {
      const nb::gil_scoped_release release;
      recognizer_->DecodeFrames(native.data(), hold.data(), count, evidence.data());
    }
    nb::list out;
    for (const earshot::FrameEvidence& frame : evidence) {
      if (!frame.stepped) {
        out.append(nb::none());
        continue;
      }
      nb::object endpoint = nb::none();
      if (frame.has_endpoint) endpoint = nb::make_tuple(frame.endpoint[0], frame.endpoint[1], frame.endpoint[2], frame.endpoint[3]);
      out.append(nb::make_tuple(frame.searched, frame.level, endpoint, frame.pieces, frame.settled, frame.trailing, frame.expected_trailing,
                                frame.changed));
    }
    return out;
  }
  const earshot::Recognizer& recognizer() const { return *recognizer_; }

 private:
  std::shared_ptr<const earshot::Recognizer> recognizer_;
};

template <typename T>
nb::list ToList(const std::vector<T>& values) {
  nb::list out;
  for (const T& value : values) out.append(value);
  return out;
}

nb::list Words(const earshot::Transcript& transcript) {
  nb::list words;
  for (const earshot::Word& word : transcript.words) {
    nb::dict item;
    item["word"] = Text(word.text);
    item["start_frame"] = word.start_frame;
    item["end_frame"] = word.end_frame;
    item["confidence"] = word.confidence;
    words.append(item);
  }
  return words;
}

template <typename T>
nb::object Column(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  const size_t size = kept->size();
  return nb::cast(nb::ndarray<nb::numpy, T>(kept->data(), 1, &size, owner));
}

nb::object Lattice(const PyStream& self, bool ended) {
  if (!self.stream().HasLattice()) return nb::none();
  const auto read = [&] {
    const nb::gil_scoped_release release;
    return self.stream().Lattice(ended);
  };
  earshot::LatticeArcs arcs = read();
  nb::list words;
  for (const std::vector<int32_t>& word : arcs.words) {
    words.append(Text(earshot::SpelledBy(word.data(), word.size(), self.stream().recognizer().model())));
  }
  nb::dict out;
  out["src"] = Column(std::move(arcs.src));
  out["dst"] = Column(std::move(arcs.dst));
  out["word"] = Column(std::move(arcs.word));
  out["start_frame"] = Column(std::move(arcs.start_frame));
  out["end_frame"] = Column(std::move(arcs.end_frame));
  out["acoustic"] = Column(std::move(arcs.acoustic));
  out["prior"] = Column(std::move(arcs.prior));
  out["words"] = words;
  return out;
}

nb::object Walk(const PyWordGraph& self, const IndexArray& symbols) {
  earshot::WordGraph::Position position;
  const auto walk = [&] {
    const nb::gil_scoped_release release;
    return self.shared()->Walk(symbols.data(), symbols.shape(0), &position);
  };
  if (!walk()) return nb::none();
  nb::dict out;
  out["next"] = ToList(position.next);
  out["final"] = position.final;
  out["weight"] = position.weight;
  out["final_weight"] = position.final_weight;
  return out;
}

nb::object CommandResult(const PyStream& self, bool ended) {
  if (!self.stream().HasGraph()) return nb::none();
  const auto read = [&] {
    const nb::gil_scoped_release release;
    return self.stream().Commands(ended);
  };
  const earshot::CommandResult result = read();
  nb::list paths;
  for (const earshot::CommandResult::Path& path : result.paths) {
    nb::dict item;
    item["words"] = Words(path.transcript);
    item["tokens"] = ToList(path.transcript.path.tokens);
    item["frames"] = ToList(path.transcript.path.frames);
    item["score"] = path.transcript.score;
    item["pieces"] = ToList(path.pieces);
    item["transducer"] = path.transducer;
    item["ctc"] = path.ctc;
    item["phones"] = path.phones;
    item["prior"] = path.prior;
    paths.append(item);
  }
  nb::dict out;
  out["paths"] = paths;
  out["free_transducer"] = result.free_transducer;
  out["free_ctc"] = result.free_ctc;
  out["free_phones"] = result.free_phones;
  out["silent_phones"] = result.silent_phones;
  out["rescored"] = result.rescored;
  out["num_frames"] = result.num_frames;
  out["alive"] = result.alive;
  out["can_continue"] = result.can_continue;
  return out;
}

nb::object Attention(const PyStream& self) {
  earshot::AttentionTrace trace;
  const auto list = self.stream().Attention(&trace);
  if (list == nullptr) return nb::none();
  const size_t count = trace.weight.size();
  nb::dict out;
  out["begin"] = ToNumpyIds(std::move(trace.begin));
  out["entry"] = ToNumpyIds(std::move(trace.entry));
  out["weight"] = ToNumpy(std::move(trace.weight), {count});
  out["phrases"] = PyPhraseList(list);
  return out;
}

nb::dict Result(const PyStream& self, bool ended) {
  earshot::PriorState prior;
  const auto read = [&] {
    const nb::gil_scoped_release release;
    return self.stream().Result(ended, &prior);
  };
  const earshot::Transcript transcript = read();
  const std::vector<std::string>& names = self.stream().recognizer().model().pieces();
  nb::list pieces;
  for (const int32_t token : transcript.path.tokens) pieces.append(Text(names[static_cast<size_t>(token)]));
  nb::dict out;
  out["text"] = Text(transcript.text);
  out["words"] = Words(transcript);
  out["tokens"] = ToList(transcript.path.tokens);
  out["pieces"] = pieces;
  out["frames"] = ToList(transcript.path.frames);
  out["log_probs"] = ToList(transcript.path.log_probs);
  out["num_frames"] = transcript.num_frames;
  out["score"] = transcript.score;
  out["settled_words"] = transcript.settled_words;
  out["hotwords"] = prior.hotwords;
  out["language"] = prior.language;
  return out;
}

nb::list Candidates(const PyStream& self) {
  const auto read = [&] {
    const nb::gil_scoped_release release;
    return self.stream().Candidates();
  };
  nb::list out;
  for (const earshot::Stream::Candidate& candidate : read()) {
    nb::dict item;
    item["tokens"] = ToList(candidate.path.tokens);
    item["frames"] = ToList(candidate.path.frames);
    item["score"] = candidate.score;
    item["hotwords"] = candidate.prior.hotwords;
    item["language"] = candidate.prior.language;
    item["hotword_node"] = candidate.prior.node;
    nb::list nodes;
    for (const uint32_t node : candidate.prior.context.nodes) nodes.append(node);
    item["language_state"] = nodes;
    out.append(item);
  }
  return out;
}

nb::list Alternatives(const PyStream& self, bool ended) {
  const auto read = [&] {
    const nb::gil_scoped_release release;
    return self.stream().Alternatives(ended);
  };
  nb::list out;
  for (const earshot::Stream::Alternative& alternative : read()) {
    out.append(nb::make_tuple(Text(alternative.text), alternative.probability));
  }
  return out;
}

nb::object GrammarEnd(const PyStream& self) {
  if (!self.stream().HasGraph()) return nb::none();
  const auto read = [&] {
    const nb::gil_scoped_release release;
    return self.stream().End();
  };
  const earshot::GrammarEnd end = read();
  return nb::make_tuple(end.alive, end.complete, end.closed, end.gap, end.symbols);
}

}  // namespace

std::shared_ptr<const earshot::Model> NativeModel(nb::handle model) { return nb::cast<const PyModel&>(model).shared(); }

void bind_model(nb::module_& m) {
  model_file_error = PyErr_NewExceptionWithDoc(
      "earshot._native.ModelFileError",
      "A file is no sound model file. Has .path, .problem and .remedy; reads `<path>: <problem>. <remedy>.`",
      PyExc_Exception, nullptr);
  m.attr("ModelFileError") = nb::borrow(model_file_error);
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const earshot::ModelFileError& error) {
      nb::object type = nb::borrow(model_file_error);
      // A path may be in any encoding; the rest is UTF-8.
      const auto text = [](const std::string& s) {
        return nb::steal<nb::object>(PyUnicode_DecodeUTF8(s.data(), static_cast<Py_ssize_t>(s.size()), "surrogateescape"));
      };
      nb::object value = type(text(error.what()));
      value.attr("path") = text(error.path());
      value.attr("problem") = text(error.problem());
      value.attr("remedy") = text(error.remedy());
      PyErr_SetObject(type.ptr(), value.ptr());
    }
  });

  nb::class_<PyModelFile>(m, "ModelFile", "An opened `.ear` file; opening it checks everything.")
      .def(nb::init<const std::string&>(), "path"_a, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("header_json", [](const PyModelFile& self) { return Text(self.model().file().header_text()); })
      .def_prop_ro("size", [](const PyModelFile& self) { return self.model().file().size(); })
      .def_prop_ro("version", [](const PyModelFile& self) { return self.model().file().version(); })
      .def_prop_ro("tensor_names", [](const PyModelFile& self) {
        nb::list out;
        for (const earshot::Tensor& tensor : self.model().file().tensors()) out.append(Text(tensor.name));
        return out;
      })
      .def("tensor_bytes", [](const PyModelFile& self, const std::string& name) {
        const earshot::Tensor& tensor = self.Get(name);
        return nb::bytes(tensor.data, tensor.bytes);
      }, "name"_a)
      .def("dequantise", [](const PyModelFile& self, const std::string& name) {
        const earshot::Tensor& tensor = self.Get(name);
        return ToNumpy(tensor.Dequantise(), tensor.shape);
      }, "name"_a);

  nb::class_<PyGraphState>(m, "GraphState", "What a stream carries through a graph.")
      .def("copy", &PyGraphState::Copy, nb::rv_policy::take_ownership)
      .def("reset", &PyGraphState::Reset)
      .def("tensors", &PyGraphState::Tensors)
      .def_prop_ro("size_bytes", [](const PyGraphState& self) { return self.state.size_bytes(); });

  nb::class_<PyGraph>(m, "Graph", "A network of a model, run frame by frame with an explicit state.")
      .def_prop_ro("name", [](const PyGraph& self) { return Text(self.graph().name()); })
      .def_prop_ro("inputs", [](const PyGraph& self) {
        nb::list out;
        for (const int v : self.graph().inputs()) out.append(Text(self.graph().value(v).name));
        return out;
      })
      .def_prop_ro("outputs", [](const PyGraph& self) {
        nb::list out;
        for (const int v : self.graph().outputs()) out.append(Text(self.graph().value(v).name));
        return out;
      })
      .def_prop_ro("widths", [](const PyGraph& self) {
        nb::dict out;  // of all values but ids
        for (const earshot::Value& v : self.graph().values()) {
          if (!v.ids) out[Text(v.name)] = v.width;
        }
        return out;
      })
      .def("initial_state", [](const PyGraph& self) { return new PyGraphState(self.shared()); }, nb::rv_policy::take_ownership)
      .def("step", &PyGraph::Step, "x"_a, "state"_a.none() = nb::none(), "flush"_a = false, nb::kw_only(),
           "phrases"_a.none() = nb::none(), "last_piece"_a = -1)
      .def("step_batch", &PyGraph::StepBatch, "xs"_a, "states"_a, nb::kw_only(), "flush"_a = false);

  nb::class_<PyModel>(m, "Model", "A model file with its graphs bound.")
      .def(nb::init<const std::string&>(), "path"_a, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("name", [](const PyModel& self) { return Text(self.model().name()); })
      .def_prop_ro("graph_names", [](const PyModel& self) {
        nb::list out;
        for (const auto& graph : self.model().graphs()) out.append(Text(graph->name()));
        return out;
      })
      .def_prop_ro("num_bins", [](const PyModel& self) { return self.model().num_bins(); })
      .def_prop_ro("sample_rate_hz", [](const PyModel&) { return int{earshot::Model::kSampleRateHz}; })
      .def_prop_ro("frame_ms", [](const PyModel&) { return int{earshot::Model::kFrameMs}; })
      .def_prop_ro("pieces", [](const PyModel& self) {
        nb::list out;
        for (const std::string& piece : self.model().pieces()) out.append(Text(piece));
        return out;
      })
      .def_prop_ro("bias_phones", [](const PyModel& self) { return self.shared()->bias_phones(); })
      .def_prop_ro("phones", [](const PyModel& self) {
        nb::list out;
        for (const std::string& phone : self.model().phones()) out.append(Text(phone));
        return out;
      })
      .def_prop_ro("header_json", [](const PyModel& self) { return Text(self.model().file().header_text()); })
      .def_prop_ro("search", [](const PyModel& self) -> nb::object {
        if (!self.model().has_search()) return nb::none();
        const earshot::SearchSettings& settings = self.model().search();
        nb::dict out;
        out["blank_id"] = settings.blank_id;
        out["unk_id"] = settings.unk_id;
        out["predictor"] = settings.stateful ? "stateful" : "stateless";
        out["context_size"] = settings.context_size;
        out["max_symbols_per_frame"] = settings.max_symbols_per_frame;
        return out;
      })
      .def("graph", [](const PyModel& self, const std::string& name) {
        auto graph = self.model().FindGraph(name);
        if (graph == nullptr) throw nb::key_error(("no graph " + earshot::Quoted(name)).c_str());
        return new PyGraph(std::move(graph));
      }, "name"_a, nb::rv_policy::take_ownership);

  nb::class_<PyPhraseList>(m, "PhraseList", "Phrases that a network with trained biasing attends to.")
      .def_prop_ro("num_phrases", [](const PyPhraseList& self) { return self.shared()->num_phrases(); })
      .def_prop_ro("num_entries", [](const PyPhraseList& self) { return self.shared()->num_entries(); })
      .def_prop_ro("serial", [](const PyPhraseList& self) { return self.shared()->serial(); })
      .def_prop_ro("weight", [](const PyPhraseList& self) { return self.shared()->weight(); })
      .def_prop_ro("size_bytes", [](const PyPhraseList& self) { return self.shared()->size_bytes(); })
      .def_prop_ro("begin", [](const PyPhraseList& self) { return ToNumpyIds(std::vector<int32_t>(self.shared()->begin())); })
      .def_prop_ro("entries", [](const PyPhraseList& self) { return ToNumpyIds(std::vector<int32_t>(self.shared()->entries_of())); });

  nb::class_<PyPhraseEncoder>(m, "PhraseEncoder", "Encodes lists of phrases for the graphs of one model.")
      .def(nb::init<const PyModel&>(), "model"_a)
      .def("encode", &PyPhraseEncoder::Encode, "rows"_a, nb::kw_only(), "weight"_a = 1.0f)
      .def_prop_ro("num_kept", [](const PyPhraseEncoder& self) { return self.encoder().num_kept(); });

  nb::class_<PyStream>(m, "Stream", "One recording in progress.")
      .def("accept_waveform", [](PyStream& self, nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu> samples) {
        const float* data = samples.data();
        const size_t count = samples.shape(0);
        const nb::gil_scoped_release release;
        self.stream().AcceptWaveform(data, count);
      }, "samples"_a)
      .def("input_finished", [](PyStream& self) {
        const nb::gil_scoped_release release;
        self.stream().InputFinished();
      })
      .def("set_hotwords", [](PyStream& self, const PyHotwords* hotwords) {
        self.stream().SetHotwords(hotwords != nullptr ? hotwords->shared : nullptr, hotwords != nullptr ? hotwords->sounds : nullptr);
      }, "hotwords"_a.none())
      .def("is_ready", [](PyStream& self) {
        const nb::gil_scoped_release release;
        return self.stream().IsReady();
      })
      .def("reset", [](PyStream& self) {
        const nb::gil_scoped_release release;
        self.stream().Reset();
      })
      .def("reset_search", [](PyStream& self) {
        const nb::gil_scoped_release release;
        self.stream().ResetSearch();
      })
      .def("restart_encoder", [](PyStream& self, bool from_held) {
        const nb::gil_scoped_release release;
        return self.stream().RestartEncoder(from_held);
      }, nb::kw_only(), "from_held"_a)
      .def("grammar_end", &GrammarEnd)
      .def("alternatives", &Alternatives, nb::kw_only(), "ended"_a = false)
      .def("set_phrases", [](PyStream& self, const PyPhraseList* phrases) {
        self.stream().SetPhrases(phrases != nullptr ? phrases->shared() : nullptr);
      }, "phrases"_a.none())
      .def("keep_attention", [](PyStream& self, bool keep) { self.stream().KeepAttention(keep); }, "keep"_a)
      .def("attention", &Attention)
      .def("result", &Result, nb::kw_only(), "ended"_a = false)
      .def("candidates", &Candidates)
      .def("command_result", &CommandResult, nb::kw_only(), "ended"_a = false)
      .def("lattice", &Lattice, nb::kw_only(), "ended"_a = false);

  nb::class_<PyWordGraph>(m, "WordGraph", "Which sentences may be said; shared by any number of streams.")
      .def(nb::init<const IndexArray&, const ByteArray&, const IndexArray&, const IndexArray&, const WeightArray&, const ByteArray&,
                    int32_t, const IndexArray&, const IndexArray&, size_t, const std::optional<IndexArray>&,
                    const std::optional<IndexArray>&, const std::optional<IndexArray>&, size_t>(),
           "arc_begin"_a, "arc_kind"_a, "arc_label"_a, "arc_dest"_a, "arc_weight"_a, "final"_a, "start"_a, "piece_begin"_a,
           "piece_ids"_a, nb::kw_only(), "vocabulary"_a, "spelling_begin"_a.none() = nb::none(), "phone_begin"_a.none() = nb::none(),
           "phone_ids"_a.none() = nb::none(), "phones"_a = 0)
      .def("walk", &Walk, "symbols"_a)
      .def_prop_ro("size_bytes", [](const PyWordGraph& self) { return self.shared()->size_bytes(); });

  nb::class_<PyRecognizer>(m, "Recognizer", "Decodes any number of streams over one model.")
      .def(nb::init<const PyModel&, const std::string&, size_t, size_t, float, const PyWordGraph*, size_t, float, float, float,
                    float, float, float, size_t, float, float, float, float, float, size_t, float, size_t, size_t,
                    const PyHotwords*, const PyNgram*, float, float, float>(),
           "model"_a, "method"_a = "greedy_search", nb::kw_only(), "max_active_paths"_a = 4, "max_symbols_per_frame"_a = 0,
           "blank_penalty"_a = 0.0f, "word_graph"_a.none() = nb::none(), "grammar_paths"_a = 8, "grammar_beam"_a = 100.0f,
           "ctc_weight"_a = 0.5f, "grammar_blank_penalty"_a = 0.0f, "ctc_blank_penalty"_a = 0.0f, "language_weight"_a = 0.0f,
           "word_penalty"_a = 0.0f, "phone_paths"_a = 512, "phone_beam"_a = 16.0f, "phone_blank_penalty"_a = 0.0f,
           "transducer_weight"_a = 0.0f, "piece_ctc_weight"_a = 0.0f, "second_pass_share"_a = 0.5f,
           "lattice_paths"_a = 32, "lattice_beam"_a = 16.0f,
           "lattice_arcs"_a = 20000, "lattice_context"_a = 0, "hotwords"_a.none() = nb::none(), "lm"_a.none() = nb::none(),
           "lm_weight"_a = 0.0f, "internal_lm_weight"_a = 0.0f, "lm_bonus"_a = 0.0f)
      .def("create_stream", &PyRecognizer::CreateStream, nb::kw_only(), "word_graph"_a.none() = nb::none(), "lattice"_a = false,
           nb::rv_policy::take_ownership)
      .def("decode_streams", &PyRecognizer::DecodeStreams, "streams"_a)
      .def("decode_frames", &PyRecognizer::DecodeFrames, "streams"_a, "hold"_a);
}

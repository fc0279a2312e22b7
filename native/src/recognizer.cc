// recognizer.cc: blocks of frames from many streams through encoder and search.
#include "recognizer.h"

#include <algorithm>
#include <array>
#include <functional>
#include <stdexcept>

namespace earshot {
namespace {

// Frames of 10 ms per stream and step: 16 encoder frames share each reading of
// the weights, and more would not make it faster.
constexpr size_t kBlockFrames = 16 * Model::kSubsampling;
// Streams per step. Bounds the scratch memory however many streams there are.
constexpr size_t kBlockStreams = 32;

}  // namespace

struct Recognizer::Scratch {
  explicit Scratch(const Model& model) : encoder(model.FindGraph("encoder")), scorer(model) {
    if (auto graph = model.FindGraph("ctc")) ctc = std::make_unique<Executor>(std::move(graph));
    if (auto graph = model.FindGraph("phones")) phones = std::make_unique<Executor>(std::move(graph));
    if (auto graph = model.FindGraph("bias_audio")) bias = std::make_unique<Executor>(std::move(graph));
  }
  // A stream's part of a block.
  struct Part {
    Stream* stream;
    const float* encoded;   // rows of the joiner's width
    const float* ctc;       // rows of log-probabilities; null: none
    const float* phones;
    size_t frames;
    size_t first_row;       // in the current round
  };
  Executor encoder;
  std::unique_ptr<Executor> ctc, phones, bias;
  std::vector<float> biased;  // encoder rows of the parts with a list
  ScorerScratch scorer;
  SearchScratch search;
  GrammarSearchScratch grammar_search;
  PhoneSearchScratch phone_search;
  std::vector<float> features;
  std::vector<std::array<const void*, 1>> inputs;
  std::vector<Executor::Item> items;
  std::vector<Part> parts;
};

void Recognizer::ScratchDeleter::operator()(Scratch* scratch) const { delete scratch; }

Stream::Stream(std::shared_ptr<const Recognizer> recognizer, std::shared_ptr<const WordGraph> graph)
    : recognizer_(std::move(recognizer)),
      fbank_(recognizer_->model_->num_bins()),
      encoder_state_(recognizer_->encoder_),
      next_prior_(recognizer_->prior_) {
  UseHotwords();
  if (recognizer_->bias_audio_ != nullptr) bias_state_ = std::make_unique<GraphState>(recognizer_->bias_audio_);
  if (graph != nullptr && graph->num_phones() > 0) {
    phones_.graph = std::move(graph);
  } else {
    commands_.graph = std::move(graph);
  }
}

void Stream::AcceptWaveform(const float* samples, size_t count) {
  const size_t bad = FirstNonFinite(samples, count);
  if (bad < count) {
    throw std::invalid_argument("accept_waveform: sample " + std::to_string(bad) + " is " + std::to_string(samples[bad]) +
                                "; samples must be finite. Repair or drop the recording.");
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (finished_) {
    throw std::logic_error("accept_waveform: the input was finished before; a finished stream takes no audio. Call reset() first.");
  }
  fbank_.AcceptWaveform(samples, count);
}

void Stream::InputFinished() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (finished_) return;
  finished_ = true;
  fbank_.InputFinished();
}

bool Stream::Ready() const {
  return fbank_.NumFramesReady() >= Model::kSubsampling || (finished_ && !flushed_);
}

bool Stream::IsReady() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return Ready();
}

Transcript Stream::Result() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  double score = 0;
  PriorState prior;
  TokenPath path = recognizer_->search_.Best(search_, flushed_, &score, &prior);
  return MakeTranscript(std::move(path), *recognizer_->model_, search_.num_frames, score);
}

PriorState Stream::PriorScore() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  double score = 0;
  PriorState prior;
  recognizer_->search_.Best(search_, flushed_, &score, &prior);
  return prior;
}

std::vector<Stream::Candidate> Stream::Candidates() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Candidate> out;
  for (const Hypothesis& path : search_.paths) {
    out.push_back({search_.settled, path.score, path.prior});
    search_.tree.Append(path.history, &out.back().path);
    if (flushed_ && search_.prior != nullptr) out.back().prior = search_.prior->End(path.prior);
  }
  std::stable_sort(out.begin(), out.end(), [](const Candidate& a, const Candidate& b) {
    return a.score + a.prior.total() > b.score + b.prior.total();
  });
  return out;
}

void Stream::SetHotwords(std::shared_ptr<const Hotwords> hotwords) {
  PriorParts parts = recognizer_->prior_parts_;
  parts.hotwords = std::move(hotwords);
  auto prior = Prior::Create(*recognizer_->model_, parts);
  const std::lock_guard<std::mutex> lock(mutex_);
  next_prior_ = std::move(prior);
  if (search_.num_frames == 0) UseHotwords();
}

void Stream::UseHotwords() {
  search_.prior = next_prior_;
  commands_.hotwords = next_prior_ != nullptr ? next_prior_->hotwords() : nullptr;
}

CommandResult Stream::Commands() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  CommandResult out = phones_.graph != nullptr ? PhoneCommands() : PieceCommands();
  if (!search_.paths.empty()) out.free_transducer = search_.paths.front().score;
  // With a prior the likeliest by sound alone need not be the first.
  for (const Hypothesis& path : search_.paths) out.free_transducer = std::max(out.free_transducer, path.score);
  return out;
}

CommandResult Stream::PieceCommands() const {
  CommandResult out;
  for (GrammarPath& path : recognizer_->grammar_search_.Best(commands_, &out.can_continue)) {
    out.paths.push_back({MakeTranscript(std::move(path.path), *recognizer_->model_, commands_.num_frames, path.score),
                         {}, path.alpha, path.ctc, 0, path.prior});
    out.paths.back().pieces = out.paths.back().transcript.path.tokens;
  }
  out.free_ctc = commands_.best_ctc;
  out.num_frames = commands_.num_frames;
  out.alive = commands_.num_frames == 0 || !commands_.paths.empty();
  return out;
}

CommandResult Stream::PhoneCommands() const {
  const Model& model = *recognizer_->model_;
  const WordGraph& graph = *phones_.graph;
  CommandResult out;
  out.num_frames = phones_.num_frames;
  for (PhonePath& path : recognizer_->phone_search_.Best(phones_, &out.can_continue)) {
    std::vector<WordEnd> words;
    std::vector<int32_t> pieces;
    for (size_t i = 0; i < path.words.size(); ++i) {
      const auto word = static_cast<size_t>(path.words[i]);
      const int32_t* spelled = graph.word_pieces(word);
      const size_t length = graph.word_length(word);
      words.push_back({SpelledBy(spelled, length, model), static_cast<size_t>(path.ends[i])});
      pieces.insert(pieces.end(), spelled, spelled + length);
    }
    // By phones words are found in the end, and so are hotwords.
    if (commands_.hotwords != nullptr) path.prior += commands_.hotwords->Score(pieces.data(), pieces.size());
    out.paths.push_back({MakeTranscript(std::move(path.path), words, out.num_frames, path.phones + path.prior), std::move(pieces),
                         0, 0, path.phones, path.prior});
  }
  std::stable_sort(out.paths.begin(), out.paths.end(), [](const CommandResult::Path& a, const CommandResult::Path& b) {
    return a.transcript.score > b.transcript.score;
  });
  out.rescored = forced_.complete();
  if (out.rescored && !out.paths.empty()) Rescore(&out);
  if (out.paths.size() > GrammarSearch::kMaxPaths) out.paths.resize(GrammarSearch::kMaxPaths);
  out.free_ctc = forced_.best_ctc();
  out.free_phones = phones_.best_sum;
  out.alive = out.num_frames == 0 || !phones_.paths.empty();
  return out;
}

void Stream::Rescore(CommandResult* result) const {
  const PhoneConfig& config = recognizer_->phone_search_.config();
  std::vector<std::vector<int32_t>> sentences;
  for (const CommandResult::Path& path : result->paths) sentences.push_back(path.pieces);
  Recognizer::ScratchPointer scratch = recognizer_->TakeScratch();
  const std::vector<ForcedScore> scores = recognizer_->forced_scorer_.Score(&forced_, sentences, &scratch->scorer);
  recognizer_->GiveScratch(std::move(scratch));
  for (size_t i = 0; i < scores.size(); ++i) {
    CommandResult::Path& path = result->paths[i];
    path.transducer = scores[i].transducer;
    path.ctc = scores[i].ctc;
    path.prior -= config.transducer_weight * recognizer_->language_weight_ * scores[i].language;
    path.transcript.score = path.phones + config.transducer_weight * path.transducer + config.piece_ctc_weight * path.ctc + path.prior;
  }
  std::stable_sort(result->paths.begin(), result->paths.end(), [](const CommandResult::Path& a, const CommandResult::Path& b) {
    return a.transcript.score > b.transcript.score;
  });
}

void Stream::SetPhrases(std::shared_ptr<const PhraseList> phrases) {
  if (phrases != nullptr && &phrases->model() != recognizer_->model_.get()) {
    throw std::invalid_argument("phrases: they were encoded for another model; encode them with the recogniser of the stream.");
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  next_phrases_ = std::move(phrases);
  if (search_.num_frames == 0) UsePhrases();
}

void Stream::KeepAttention(bool keep) {
  const std::lock_guard<std::mutex> lock(mutex_);
  keep_next_ = keep;
  if (search_.num_frames == 0) UsePhrases();
}

void Stream::UsePhrases() {
  search_.phrases = commands_.phrases = forced_.phrases = next_phrases_;
  if (bias_state_ != nullptr) bias_state_->Reset();
  trace_.Clear();
  keep_attention_ = keep_next_;
}

std::shared_ptr<const PhraseList> Stream::Attention(AttentionTrace* trace) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!keep_attention_) return nullptr;
  *trace = trace_;
  return search_.phrases;
}

void Stream::Reset() {
  const std::lock_guard<std::mutex> lock(mutex_);
  fbank_.Reset();
  encoder_state_.Reset();
  search_.Reset();
  commands_.Reset();
  phones_.Reset();
  forced_.Reset();
  UseHotwords();
  UsePhrases();
  finished_ = flushed_ = false;
}

Recognizer::Recognizer(std::shared_ptr<const Model> model, const SearchConfig& config, const GrammarConfig& grammar,
                       const PhoneConfig& phones, std::shared_ptr<const WordGraph> graph, const PriorParts& prior)
    : model_(std::move(model)),
      scorer_(model_, config.blank_penalty, grammar.language_weight > 0 || prior.config.internal_weight > 0),
      search_(*model_, &scorer_, config),
      grammar_search_(*model_, &scorer_, config.blank_penalty, grammar),
      phone_search_(*model_, phones),
      forced_scorer_(*model_, &scorer_, grammar.ctc_blank_penalty),
      language_weight_(grammar.language_weight),
      graph_(std::move(graph)),
      prior_parts_(prior),
      prior_(Prior::Create(*model_, prior)) {
  encoder_ = model_->FindGraph("encoder");
  encoder_out_ = static_cast<size_t>(encoder_->FindOutput("encoder_out"));
  const auto find = [&](const char* name) {
    Head head;
    head.graph = model_->FindGraph(name);
    if (head.graph != nullptr) {
      hidden_ = static_cast<size_t>(encoder_->FindOutput("hidden"));
      head.log_probs = static_cast<size_t>(head.graph->FindOutput("log_probs"));
    }
    return head;
  };
  bias_audio_ = model_->FindGraph("bias_audio");
  if (bias_audio_ != nullptr) {
    hidden_ = static_cast<size_t>(encoder_->FindOutput("hidden"));
    encoder_bias_ = static_cast<size_t>(bias_audio_->FindOutput("encoder_bias"));
  }
  ctc_ = find("ctc");
  phones_ = find("phones");
  if (graph_ != nullptr) CheckGraph(*graph_);
}

void Recognizer::CheckGraph(const WordGraph& graph) const {
  grammar_search_.CheckGraph(graph);
  if (graph.num_phones() > 0) phone_search_.CheckGraph(graph);
}

std::shared_ptr<const Recognizer> Recognizer::Create(std::shared_ptr<const Model> model, const SearchConfig& config,
                                                     const GrammarConfig& grammar, const PhoneConfig& phones,
                                                     std::shared_ptr<const WordGraph> graph, const PriorParts& prior) {
  return std::shared_ptr<const Recognizer>(new Recognizer(std::move(model), config, grammar, phones, std::move(graph), prior));
}

std::unique_ptr<Stream> Recognizer::CreateStream(std::shared_ptr<const WordGraph> graph) const {
  if (graph != nullptr && graph != graph_) CheckGraph(*graph);
  return std::make_unique<Stream>(shared_from_this(), std::move(graph));
}

void Recognizer::DecodeStreams(Stream* const* streams, size_t count) const {
  std::vector<Stream*> order(streams, streams + count);
  std::sort(order.begin(), order.end(), std::less<Stream*>());
  if (std::adjacent_find(order.begin(), order.end()) != order.end()) {
    throw std::invalid_argument("decode_streams: a stream is in the list twice; each must be there once.");
  }
  for (const Stream* stream : order) {
    if (stream->recognizer_.get() != this) {
      throw std::invalid_argument("decode_streams: a stream belongs to another recogniser; decode it with the one that made it.");
    }
  }
  // In the order of their addresses, so two calls with common streams cannot
  // each hold what the other waits for.
  std::vector<std::unique_lock<std::mutex>> locks;
  locks.reserve(count);
  for (Stream* stream : order) locks.emplace_back(stream->mutex_);

  ScratchPointer scratch = TakeScratch();
  for (size_t from = 0; from < count; from += kBlockStreams) {
    while (DecodeBlock(streams + from, std::min(kBlockStreams, count - from), scratch.get())) {
    }
  }
  GiveScratch(std::move(scratch));
}

Recognizer::ScratchPointer Recognizer::TakeScratch() const {
  {
    const std::lock_guard<std::mutex> lock(pool_mutex_);
    if (!pool_.empty()) {
      ScratchPointer scratch = std::move(pool_.back());
      pool_.pop_back();
      return scratch;
    }
  }
  return ScratchPointer(new Scratch(*model_));
}

void Recognizer::GiveScratch(ScratchPointer scratch) const {
  const std::lock_guard<std::mutex> lock(pool_mutex_);
  pool_.push_back(std::move(scratch));
}

bool Recognizer::DecodeBlock(Stream* const* streams, size_t count, Scratch* scratch) const {
  const size_t bins = model_->num_bins();
  Scratch& s = *scratch;
  s.features.resize(kBlockStreams * kBlockFrames * bins);
  s.items.clear();
  s.parts.clear();
  s.inputs.resize(count);
  for (size_t i = 0; i < count; ++i) {
    Stream& stream = *streams[i];
    if (!stream.Ready()) continue;
    float* features = s.features.data() + i * kBlockFrames * bins;
    Executor::Item item;
    // Whole encoder frames only, until the end: nothing then waits inside the
    // encoder, and IsReady can tell from the features alone.
    const size_t ready = stream.fbank_.NumFramesReady();
    item.frames = stream.fbank_.TakeFrames(
        features, std::min(kBlockFrames, stream.finished_ ? ready : ready / Model::kSubsampling * Model::kSubsampling));
    if (stream.finished_ && stream.fbank_.NumFramesReady() == 0) item.flush = stream.flushed_ = true;
    s.inputs[i] = {features};
    item.inputs = s.inputs[i].data();
    item.state = &stream.encoder_state_;
    s.items.push_back(item);
    s.parts.push_back({&stream, nullptr, nullptr, nullptr, 0, 0});
  }
  if (s.items.empty()) return false;
  s.encoder.Step(s.items.data(), s.items.size());
  for (size_t i = 0; i < s.parts.size(); ++i) {
    s.parts[i].encoded = s.encoder.output(encoder_out_, i);
    s.parts[i].frames = s.encoder.output_frames(encoder_out_, i);
  }
  if (bias_audio_ != nullptr) AddAudioBias(scratch);
  ComputeHeads(scratch);
  SearchBlock(scratch);
  return true;
}

// Streams without a list keep the encoder's rows as they are.
void Recognizer::AddAudioBias(Scratch* scratch) const {
  Scratch& s = *scratch;
  const size_t width = scorer_.width();
  size_t rows = 0;
  s.items.clear();
  for (size_t i = 0; i < s.parts.size(); ++i) {
    Stream& stream = *s.parts[i].stream;
    if (stream.search_.phrases == nullptr) continue;
    s.inputs[s.items.size()] = {s.encoder.output(hidden_, i)};
    Executor::Item item;
    item.inputs = s.inputs[s.items.size()].data();
    item.frames = s.parts[i].frames;
    item.state = stream.bias_state_.get();
    item.phrases = stream.search_.phrases.get();
    item.trace = stream.keep_attention_ ? &stream.trace_ : nullptr;
    s.items.push_back(item);
    rows += s.parts[i].frames;
  }
  if (s.items.empty()) return;
  s.bias->Step(s.items.data(), s.items.size());
  if (s.biased.size() < rows * width) s.biased.resize(rows * width);
  float* to = s.biased.data();
  size_t item = 0;
  for (Scratch::Part& part : s.parts) {
    const auto& phrases = part.stream->search_.phrases;
    if (phrases == nullptr) continue;
    const float* added = s.bias->output(encoder_bias_, item++);
    for (size_t k = 0; k < part.frames * width; ++k) to[k] = part.encoded[k] + phrases->weight() * added[k];
    part.encoded = to;
    to += part.frames * width;
  }
}

// Log-probabilities for the streams that search a graph: of pieces, or of phones.
void Recognizer::ComputeHeads(Scratch* scratch) const {
  Scratch& s = *scratch;
  const auto compute = [&](const Head& head, Executor* executor, const float* Scratch::Part::*rows, auto wanted) {
    s.items.clear();
    for (size_t i = 0; i < s.parts.size(); ++i) {
      if (!wanted(*s.parts[i].stream)) continue;
      s.inputs[s.items.size()] = {s.encoder.output(hidden_, i)};
      s.items.emplace_back();
      s.items.back().inputs = s.inputs[s.items.size() - 1].data();
      s.items.back().frames = s.parts[i].frames;
    }
    if (s.items.empty()) return;
    executor->Step(s.items.data(), s.items.size());
    size_t item = 0;
    for (Scratch::Part& part : s.parts) {
      if (wanted(*part.stream)) part.*rows = executor->output(head.log_probs, item++);
    }
  };
  if (ctc_.graph != nullptr) {
    compute(ctc_, s.ctc.get(), &Scratch::Part::ctc, [](const Stream& stream) {
      return stream.commands_.graph != nullptr || (stream.phones_.graph != nullptr && stream.forced_.complete());
    });
  }
  if (phones_.graph != nullptr) {
    compute(phones_, s.phones.get(), &Scratch::Part::phones, [](const Stream& stream) { return stream.phones_.graph != nullptr; });
  }
}

// Both searches go through the frames together, so that one batch scores what
// all hypotheses of all streams ask for.
void Recognizer::SearchBlock(Scratch* scratch) const {
  Scratch& s = *scratch;
  size_t longest = 0;
  for (const Scratch::Part& part : s.parts) {
    if (part.stream->commands_.graph != nullptr) grammar_search_.Begin(&part.stream->commands_);
    longest = std::max(longest, part.frames);
  }
  for (size_t frame = 0; frame < longest; ++frame) {
    for (const Scratch::Part& part : s.parts) {
      if (frame < part.frames) search_.BeginFrame(&part.stream->search_);
    }
    for (size_t round = 0;; ++round) {
      s.scorer.Clear();
      for (Scratch::Part& part : s.parts) {
        part.first_row = s.scorer.size();
        if (frame >= part.frames) continue;
        const float* encoded = part.encoded + frame * scorer_.width();
        search_.Request(&part.stream->search_, encoded, &s.scorer);
        if (round == 0 && part.stream->commands_.graph != nullptr) grammar_search_.Request(&part.stream->commands_, encoded, &s.scorer);
      }
      if (s.scorer.size() == 0) break;
      scorer_.Score(&s.scorer);
      for (const Scratch::Part& part : s.parts) {
        if (frame >= part.frames) continue;
        const float* const* rows = s.scorer.rows() + part.first_row;
        rows += search_.Advance(&part.stream->search_, rows, round, &s.search);
        if (round > 0 || part.stream->commands_.graph == nullptr) continue;
        const float* ctc = part.ctc != nullptr ? part.ctc + frame * scorer_.vocabulary() : nullptr;
        grammar_search_.Advance(&part.stream->commands_, rows, ctc, &s.grammar_search);
      }
    }
    for (const Scratch::Part& part : s.parts) {
      if (frame < part.frames) search_.EndFrame(&part.stream->search_);
    }
  }
  for (const Scratch::Part& part : s.parts) {
    search_.Settle(&part.stream->search_, &s.search);
    if (part.stream->commands_.graph != nullptr) grammar_search_.Settle(&part.stream->commands_, &s.grammar_search);
    if (part.phones == nullptr || part.frames == 0) continue;
    SearchPhones(part.stream, part.phones, part.frames, &s.phone_search);
    forced_scorer_.Keep(&part.stream->forced_, part.encoded, part.ctc, part.frames);
  }
}

void Recognizer::SearchPhones(Stream* stream, const float* log_probs, size_t frames, PhoneSearchScratch* scratch) const {
  phone_search_.Begin(&stream->phones_);
  const size_t width = model_->phones().size() + 1;
  for (size_t frame = 0; frame < frames; ++frame) phone_search_.Advance(&stream->phones_, log_probs + frame * width, scratch);
  phone_search_.Settle(&stream->phones_, scratch);
}

}  // namespace earshot

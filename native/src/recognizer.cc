// recognizer.cc: blocks of frames from many streams through encoder and search.
#include "recognizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace earshot {
namespace {

// Frames of 10 ms per stream and step: 16 encoder frames share each reading of
// the weights, and more would not make it faster.
constexpr size_t kBlockFrames = 16 * Model::kSubsampling;
// Streams per step. Bounds the scratch memory however many streams there are.
constexpr size_t kBlockStreams = 32;

}  // namespace

FrameQueue::Rows FrameQueue::at(size_t frame) const {
  const size_t row = first_ + frame;
  const auto of = [row](const std::vector<float>& rows, size_t width) { return rows.empty() ? nullptr : rows.data() + row * width; };
  return {of(encoded_, widths_.encoded), of(hidden_, widths_.hidden), of(ctc_, widths_.ctc), of(phones_, widths_.phones),
          of(level_, 1), of(features_, widths_.features)};
}

void FrameQueue::Append(const Rows& rows, size_t frames, size_t num_features, const Widths& widths) {
  widths_ = widths;
  const size_t before = size();
  const auto drop = [&](std::vector<float>* from, size_t width) {
    from->erase(from->begin(), from->begin() + static_cast<std::ptrdiff_t>(std::min(first_ * width, from->size())));
  };
  const auto append = [&](std::vector<float>* to, const float* from, size_t width) {
    drop(to, width);
    if (from == nullptr && to->empty()) return;
    constexpr float kAbsent = std::numeric_limits<float>::quiet_NaN();
    to->resize(before * width, kAbsent);
    if (from == nullptr) {
      to->resize((before + frames) * width, kAbsent);
    } else {
      to->insert(to->end(), from, from + frames * width);
    }
  };
  append(&encoded_, rows.encoded, widths.encoded);
  append(&hidden_, rows.hidden, widths.hidden);
  append(&ctc_, rows.ctc, widths.ctc);
  append(&phones_, rows.phones, widths.phones);
  append(&level_, rows.level, 1);
  drop(&features_, widths.features);
  features_.insert(features_.end(), rows.features, rows.features + num_features);
  first_ = 0;
}

void FrameQueue::Drop(size_t frames) { first_ += std::min(frames, size()); }

void FrameQueue::GiveBack(size_t frame, std::vector<float>* features) {
  if (frame >= size()) return;
  const size_t row = first_ + frame;
  features->insert(features->begin(), features_.begin() + static_cast<std::ptrdiff_t>(row * widths_.features), features_.end());
  const auto cut = [row](std::vector<float>* rows, size_t width) { rows->resize(std::min(rows->size(), row * width)); };
  cut(&encoded_, widths_.encoded);
  cut(&hidden_, widths_.hidden);
  cut(&ctc_, widths_.ctc);
  cut(&phones_, widths_.phones);
  cut(&level_, 1);
  cut(&features_, widths_.features);
}

void FrameQueue::Clear() {
  for (std::vector<float>* rows : {&encoded_, &hidden_, &ctc_, &phones_, &level_, &features_}) rows->clear();
  first_ = 0;
}

void WholeUtterance::Clear() {
  num_frames_ = 0;
  hidden_.clear();
  phones_.clear();
}

void WholeUtterance::Keep(size_t before, const float* hidden, size_t hidden_width, const float* phones, size_t phones_width,
                          size_t frames) {
  if (before != num_frames_) return;  // it began too late, or became too long
  if (before + frames > kMaxFrames) return Clear();
  hidden_.insert(hidden_.end(), hidden, hidden + frames * hidden_width);
  phones_.insert(phones_.end(), phones, phones + frames * phones_width);
  num_frames_ += frames;
}

struct Recognizer::Scratch {
  explicit Scratch(const Model& model) : encoder(model.FindGraph("encoder")), scorer(model) {
    if (auto graph = model.FindGraph("ctc")) ctc = std::make_unique<Executor>(std::move(graph));
    if (auto graph = model.FindGraph("phones")) phones = std::make_unique<Executor>(std::move(graph));
    if (auto graph = model.FindGraph("second_pass")) second_pass = std::make_unique<Executor>(std::move(graph));
    if (auto graph = model.FindGraph("endpoint")) endpoint = std::make_unique<Executor>(std::move(graph));
    if (auto graph = model.FindGraph("bias_audio")) bias = std::make_unique<Executor>(std::move(graph));
  }
  // A stream's part of a block.
  struct Part {
    Stream* stream;
    const float* encoded;   // rows of the joiner's width
    const float* ctc;       // rows of log-probabilities; null: none
    const float* phones;
    const float* hidden;    // as `ctc`
    const float* level;     // one number per frame
    const float* features;  // that the frames came from: so many numbers
    size_t num_features;
    size_t frames;
    size_t first_row;       // in the current round
  };
  Executor encoder;
  std::unique_ptr<Executor> ctc, phones, second_pass, endpoint, bias;
  std::vector<float> turned, mixed;  // frames of an utterance from the last to the first; its phones by both passes
  std::vector<float> biased;  // encoder rows of the parts with a list
  ScorerScratch scorer;
  SearchScratch search;
  GrammarSearchScratch grammar_search;
  PhoneSearchScratch phone_search;
  SpotterScratch spotter;
  std::vector<SpottedPhrase> spotted;
  std::vector<InsertedPhrase> inserted;
  std::vector<float> features, levels;
  std::vector<Stream*> hungry;
  std::vector<std::array<const void*, 1>> inputs;
  std::vector<Executor::Item> items;
  std::vector<Part> parts;
};

void Recognizer::ScratchDeleter::operator()(Scratch* scratch) const { delete scratch; }

Stream::Stream(std::shared_ptr<const Recognizer> recognizer, std::shared_ptr<const WordGraph> graph, bool lattice)
    : recognizer_(std::move(recognizer)),
      fbank_(recognizer_->model_->num_bins()),
      encoder_state_(recognizer_->encoder_),
      next_prior_(recognizer_->prior_) {
  if (recognizer_->endpoint_.graph != nullptr) endpoint_state_ = std::make_unique<GraphState>(recognizer_->endpoint_.graph);
  if (lattice) search_.lattice = recognizer_->search_.MakeRecorder();
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
  return queue_.size() > held_ || NumFeaturesReady() >= Model::kSubsampling || (finished_ && !flushed_);
}

size_t Stream::NumFeaturesReady() const { return again_.size() / fbank_.num_bins() + fbank_.NumFramesReady(); }

size_t Stream::TakeFeatures(float* out, size_t max_frames) {
  const size_t bins = fbank_.num_bins();
  const size_t first = std::min(max_frames, again_.size() / bins);
  std::copy(again_.begin(), again_.begin() + static_cast<std::ptrdiff_t>(first * bins), out);
  again_.erase(again_.begin(), again_.begin() + static_cast<std::ptrdiff_t>(first * bins));
  return first + fbank_.TakeFrames(out + first * bins, max_frames - first);
}

bool Stream::IsReady() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return Ready();
}

Transcript Stream::Result(bool ended, PriorState* prior) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  double score = 0;
  PriorState unused;
  TokenPath path = recognizer_->search_.Best(search_, flushed_ || ended, &score, prior != nullptr ? prior : &unused);
  Transcript out = MakeTranscript(std::move(path), *recognizer_->model_, search_.num_frames, score);
  out.settled_words = WholeWords(search_.settled.tokens, *recognizer_->model_);
  return out;
}

std::vector<Stream::Alternative> Stream::Alternatives(bool ended) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::pair<double, const Hypothesis*>> ranked;
  const bool whole = (ended || flushed_) && search_.prior != nullptr;
  for (const Hypothesis& path : search_.paths) {
    const double prior = whole ? search_.prior->End(path.prior).total() : path.prior.total();
    ranked.emplace_back(search_.Acoustic(path) + prior, &path);
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Alternative> out;
  double total = 0;
  for (const auto& [rank, hypothesis] : ranked) {
    TokenPath path = search_.settled;
    search_.tree.Append(hypothesis->history, &path);
    const double share = std::exp(rank - ranked.front().first);
    total += share;
    out.push_back({MakeTranscript(std::move(path), *recognizer_->model_, search_.num_frames, rank).text, share});
  }
  for (Alternative& alternative : out) alternative.probability /= total;
  return out;
}

LatticeArcs Stream::Lattice(bool ended) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return recognizer_->search_.Lattice(search_, flushed_ || ended);
}

std::vector<Stream::Candidate> Stream::Candidates() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Candidate> out;
  for (const Hypothesis& path : search_.paths) {
    out.push_back({search_.settled, search_.Acoustic(path), path.prior});
    search_.tree.Append(path.history, &out.back().path);
    if (flushed_ && search_.prior != nullptr) out.back().prior = search_.prior->End(path.prior);
  }
  std::stable_sort(out.begin(), out.end(), [](const Candidate& a, const Candidate& b) {
    return a.score + a.prior.total() > b.score + b.prior.total();
  });
  return out;
}

void Stream::SetHotwords(std::shared_ptr<const Hotwords> hotwords, std::shared_ptr<const PhraseSounds> sounds) {
  PriorParts parts = recognizer_->prior_parts_;
  parts.hotwords = std::move(hotwords);
  parts.sounds = std::move(sounds);
  auto prior = Prior::Create(*recognizer_->model_, parts);
  const std::lock_guard<std::mutex> lock(mutex_);
  next_prior_ = std::move(prior);
  if (search_.num_frames > 0) return;
  const bool traced = Traces();
  UseHotwords();
  UsePhrases(traced);
}

void Stream::UseHotwords() {
  search_.prior = next_prior_;
  commands_.hotwords = next_prior_ != nullptr ? next_prior_->hotwords() : nullptr;
  spotter_.Reset();
}

CommandResult Stream::Commands(bool ended) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  CommandResult out = phones_.graph != nullptr ? PhoneCommands(ended) : PieceCommands();
  if (!search_.paths.empty()) out.free_transducer = search_.Acoustic(search_.paths.front());
  // With a prior the likeliest by sound alone need not be the first.
  for (const Hypothesis& path : search_.paths) out.free_transducer = std::max(out.free_transducer, search_.Acoustic(path));
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

CommandResult Stream::PhoneCommands(bool ended) const {
  const Model& model = *recognizer_->model_;
  const WordGraph& graph = *phones_.graph;
  CommandResult out;
  out.num_frames = phones_.num_frames;
  PhoneSearchState again;
  const PhoneSearchState& searched = ended && SearchAgain(&again) ? again : phones_;
  for (PhonePath& path : recognizer_->phone_search_.Best(searched, &out.can_continue)) {
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
  out.free_phones = searched.best_sum;
  out.silent_phones = searched.blank_sum;
  out.alive = out.num_frames == 0 || !phones_.paths.empty();
  return out;
}

bool Stream::SearchAgain(PhoneSearchState* state) const {
  const Recognizer& r = *recognizer_;
  const float share = r.phone_search_.config().second_pass_share;
  const size_t frames = phones_.num_frames, width = r.widths_.phones, hidden = r.widths_.hidden;
  if (r.second_pass_.graph == nullptr || share == 0 || !whole_.Has(frames)) return false;
  Recognizer::ScratchPointer scratch = r.TakeScratch();
  std::vector<float>& turned = scratch->turned;
  turned.resize(frames * hidden);
  for (size_t t = 0; t < frames; ++t) {
    std::copy_n(whole_.hidden().data() + t * hidden, hidden, turned.data() + (frames - 1 - t) * hidden);
  }
  GraphState fresh(r.second_pass_.graph);
  const void* const input = turned.data();
  Executor::Item item;
  item.inputs = &input;
  item.frames = frames;
  item.state = &fresh;
  scratch->second_pass->Step(&item, 1);
  const float* rows = scratch->second_pass->output(r.second_pass_.log_probs, 0);
  std::vector<float>& mixed = scratch->mixed;
  mixed = whole_.phones();
  for (size_t t = 0; t < frames; ++t) {
    float* to = mixed.data() + t * width;
    const float* second = rows + (frames - 1 - t) * width;
    for (size_t v = 0; v < width; ++v) to[v] += share * (second[v] - to[v]);
  }
  state->graph = phones_.graph;
  r.SearchPhones(state, mixed.data(), frames, &scratch->phone_search);
  r.GiveScratch(std::move(scratch));
  return true;
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

GrammarEnd Stream::End() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  GrammarEnd out;
  // Of the paths, best first: their share of the beam, and what state they are in.
  const auto add = [&out](const auto& paths, GrammarStates* states) {
    double total = 0;
    for (const auto& path : paths) {
      const double share = std::exp(path.rank - paths.front().rank);
      total += share;
      if (!path.state->final) continue;
      size_t arcs = 0;
      states->Arcs(*path.state, &arcs);
      out.complete += share;
      if (arcs == 0) out.closed += share;
    }
    if (total > 0) {
      out.complete /= total;
      out.closed /= total;
    }
  };
  if (phones_.graph != nullptr) {
    out.alive = phones_.num_frames == 0 || !phones_.paths.empty();
    if (phones_.paths.empty()) return out;
    add(phones_.paths, phones_.states.get());
    out.gap = phones_.best_sum - phones_.paths.front().total;
    out.symbols = phones_.paths.front().history.length;
  } else {
    out.alive = commands_.num_frames == 0 || !commands_.paths.empty();
    if (commands_.paths.empty()) return out;
    add(commands_.paths, commands_.states.get());
    if (!search_.paths.empty()) out.gap = search_.Acoustic(search_.paths.front()) - commands_.paths.front().alpha;
    out.symbols = commands_.paths.front().history.length;
  }
  return out;
}

void Stream::ResetSearch() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool traced = Traces() && trace_.num_frames() >= queue_.size();
  if (traced) {  // what waits was looked at already
    trace_.Erase(0, trace_.num_frames() - queue_.size());
    trace_known_ -= std::min(trace_known_, search_.num_frames);
    trace_first_ = 0;
  }
  search_.Reset();
  commands_.Reset();
  phones_.Reset();
  whole_.Clear();
  forced_.Reset();
  if (endpoint_state_ != nullptr) endpoint_state_->Reset();
  UseHotwords();
  UsePhrases(traced);
  best_hash_ = 0;
}

size_t Stream::RestartEncoder(bool from_held) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const size_t stay = from_held ? 0 : held_;
  const size_t come_again = held_ - stay;
  if (queue_.size() > stay) flushed_ = false;
  ForgetWaiting(stay, queue_.size() - stay);
  queue_.GiveBack(stay, &again_);
  held_ = stay;
  encoder_state_.Reset();
  if (bias_state_ != nullptr) bias_state_->Reset();
  if (endpoint_state_ != nullptr) endpoint_state_->Reset();
  return come_again;
}

void Stream::SetPhrases(std::shared_ptr<const PhraseList> phrases) {
  if (phrases != nullptr && &phrases->model() != recognizer_->model_.get()) {
    throw std::invalid_argument("phrases: they were encoded for another model; encode them with the recogniser of the stream.");
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  next_phrases_ = std::move(phrases);
  if (search_.num_frames == 0) UsePhrases(Traces());
}

void Stream::KeepAttention(bool keep) {
  const std::lock_guard<std::mutex> lock(mutex_);
  keep_next_ = keep;
  if (search_.num_frames == 0) UsePhrases(Traces());
}

// For a search that begins. What attention has heard stays, as what the encoder has; a list that begins begins anew.
void Stream::UsePhrases(bool traced) {
  if (list_ == nullptr && bias_state_ != nullptr) bias_state_->Reset();
  const bool same = traced && list_ == next_phrases_;
  list_ = next_phrases_;
  const auto added = Weighs() ? nullptr : list_;
  if (added != search_.phrases) {  // nothing that began with the other may go on
    search_.Reset();
    commands_.Reset();
    forced_.Reset();
  }
  search_.phrases = commands_.phrases = forced_.phrases = added;
  const bool kept = keep_attention_ || !keep_next_;
  keep_attention_ = keep_next_;
  const size_t query_width = Weighs() ? recognizer_->attention_->in_width : 0;
  if (same && kept && query_width == trace_.query_width) return;
  trace_.query_width = query_width;
  trace_.Clear(queue_.size());
  trace_first_ = 0;
  trace_known_ = queue_.size();
}

bool Stream::Weighs() const {
  return Spots() && list_ != nullptr && recognizer_->attention_ != nullptr && search_.prior->sounds()->wants_evidence();
}

double Stream::EvidenceFor(size_t phrase, const std::vector<int32_t>& frames, double least) const {
  // Frames around a piece in which attention may find it, none that is not heard yet; and a weight that is none.
  constexpr int32_t kEarly = 2, kLate = 5;
  constexpr double kLeast = 1e-4;
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  if (!Weighs() || phrase >= list_->num_phrases()) return kUnknown;
  const Node& attention = *recognizer_->attention_;
  const PhraseMemory* memory = list_->Find(attention.keys);
  const auto first = static_cast<size_t>(list_->begin()[phrase]), count = static_cast<size_t>(list_->begin()[phrase + 1]) - first;
  if (memory == nullptr || count != frames.size() || count == 0) return kUnknown;
  const auto oldest = static_cast<int32_t>(std::max(trace_first_, trace_known_)), row = static_cast<int32_t>(trace_first_);
  const int32_t now = std::min(static_cast<int32_t>(search_.num_frames), row + static_cast<int32_t>(trace_.num_frames()) - 1);
  if (std::max(0, frames.front() - kEarly) < oldest) return kUnknown;
  const size_t width = attention.in_width / attention.heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  const auto weight_in = [&](int32_t at, size_t entry) {
    const float* query = trace_.queries.data() + static_cast<size_t>(at - row) * attention.in_width;
    double sum = 0;
    for (size_t from = 0; from < attention.in_width; from += width) {
      const float none = std::inner_product(query + from, query + from + width, attention.no_bias_key + from, 0.0f);
      sum += 1.0 / (1.0 + std::exp(double{scale} * (none - memory->Dot(entry, from, width, query + from))));
    }
    return sum / static_cast<double>(attention.heads);
  };
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    double most = 0;
    for (int32_t at = std::max(0, frames[i] - kEarly); at <= std::min(now, frames[i] + kLate); ++at) {
      most = std::max(most, weight_in(at, static_cast<size_t>(list_->entries_of()[first + i])));
    }
    sum += std::log(std::min(1.0, most + kLeast));
    if (sum <= least * static_cast<double>(count)) break;  // the others can only take away
  }
  return sum / static_cast<double>(count);
}

void Stream::ForgetAttention() {
  constexpr size_t kKept = 2 * PhraseSounds::kMaxFrames;
  if (keep_attention_ || trace_.num_frames() <= 2 * kKept) return;
  const size_t gone = trace_.num_frames() - kKept;
  trace_.Erase(0, gone);
  trace_first_ += gone;
}

void Stream::AlignTrace() {
  const size_t known = search_.num_frames + queue_.size();
  if (trace_first_ + trace_.num_frames() == known) return;
  trace_.Clear(known);  // it was not kept until now
  trace_first_ = 0;
  trace_known_ = known;
}

void Stream::ForgetWaiting(size_t from, size_t frames) {
  if (!Traces() || trace_first_ + trace_.num_frames() != search_.num_frames + queue_.size()) return;
  trace_.Erase(trace_.num_frames() - queue_.size() + from, frames);
  const size_t gone = search_.num_frames + from;  // the first of them
  if (trace_known_ > gone) trace_known_ -= std::min(frames, trace_known_ - gone);
}

std::shared_ptr<const PhraseList> Stream::Attention(AttentionTrace* trace) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!keep_attention_) return nullptr;
  *trace = trace_;
  trace->queries.clear();
  return list_;
}

void Stream::Reset() {
  const std::lock_guard<std::mutex> lock(mutex_);
  fbank_.Reset();
  encoder_state_.Reset();
  if (bias_state_ != nullptr) bias_state_->Reset();
  if (endpoint_state_ != nullptr) endpoint_state_->Reset();
  queue_.Clear();
  again_.clear();
  held_ = 0;
  best_hash_ = 0;
  search_.Reset();
  commands_.Reset();
  phones_.Reset();
  whole_.Clear();
  forced_.Reset();
  UseHotwords();
  UsePhrases(false);
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
    for (const Node& node : bias_audio_->nodes()) {
      if (node.op == Op::kPhraseAttention) attention_ = &node;
    }
  }
  ctc_ = find("ctc");
  phones_ = find("phones");
  second_pass_ = find("second_pass");
  endpoint_ = find("endpoint");
  widths_.encoded = scorer_.width();
  widths_.features = Model::kSubsampling * model_->num_bins();
  if (ctc_.graph != nullptr) widths_.ctc = model_->pieces().size();
  if (phones_.graph != nullptr) widths_.phones = model_->phones().size() + 1;
  if (endpoint_.graph != nullptr || second_pass_.graph != nullptr) widths_.hidden = encoder_->value(encoder_->outputs()[hidden_]).width;
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

std::unique_ptr<Stream> Recognizer::CreateStream(std::shared_ptr<const WordGraph> graph, bool lattice) const {
  if (graph != nullptr && graph != graph_) CheckGraph(*graph);
  return std::make_unique<Stream>(shared_from_this(), std::move(graph), lattice);
}

// Checks a list of streams and takes their locks.
std::vector<std::unique_lock<std::mutex>> Recognizer::Lock(Stream* const* streams, size_t count) const {
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
  return locks;
}

void Recognizer::DecodeStreams(Stream* const* streams, size_t count) const {
  const auto locks = Lock(streams, count);
  ScratchPointer scratch = TakeScratch();
  for (size_t from = 0; from < count; from += kBlockStreams) {
    while (DecodeBlock(streams + from, std::min(kBlockStreams, count - from), scratch.get())) {
    }
  }
  GiveScratch(std::move(scratch));
}

void Recognizer::DecodeFrames(Stream* const* streams, const size_t* hold, size_t count, FrameEvidence* evidence) const {
  const auto locks = Lock(streams, count);
  ScratchPointer scratch = TakeScratch();
  for (size_t from = 0; from < count; from += kBlockStreams) {
    const size_t here = std::min(kBlockStreams, count - from);
    FillQueues(streams + from, here, scratch.get());
    StepFrames(streams + from, hold + from, here, evidence + from, scratch.get());
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
  // What was decoded frame by frame may have left frames behind: they come first.
  scratch->parts.clear();
  for (size_t i = 0; i < count; ++i) {
    const FrameQueue& queue = streams[i]->queue_;
    if (queue.size() == 0) continue;
    const FrameQueue::Rows rows = queue.at(0);
    scratch->parts.push_back({streams[i], rows.encoded, rows.ctc, rows.phones, rows.hidden, rows.level, nullptr, 0, queue.size(), 0});
  }
  if (!scratch->parts.empty()) {
    SearchBlock(scratch);
    for (const Scratch::Part& part : scratch->parts) {
      part.stream->queue_.Clear();
      part.stream->held_ = 0;
    }
  }
  if (!EncodeBlock(streams, count, scratch)) return false;
  SearchBlock(scratch);
  return true;
}

// The next block of frames of the streams that have any, through the encoder and its heads; what
// `parts` says holds until the next block.
bool Recognizer::EncodeBlock(Stream* const* streams, size_t count, Scratch* scratch) const {
  const size_t bins = model_->num_bins();
  Scratch& s = *scratch;
  s.features.resize(kBlockStreams * kBlockFrames * bins);
  s.levels.resize(kBlockStreams * kBlockFrames / Model::kSubsampling);
  s.items.clear();
  s.parts.clear();
  s.inputs.resize(count);
  for (size_t i = 0; i < count; ++i) {
    Stream& stream = *streams[i];
    if (!stream.Ready()) continue;
    float* levels = s.levels.data() + i * kBlockFrames / Model::kSubsampling;
    float* features = s.features.data() + i * kBlockFrames * bins;
    Executor::Item item;
    // Whole encoder frames only, until the end: nothing then waits inside the
    // encoder, and IsReady can tell from the features alone.
    const size_t ready = stream.NumFeaturesReady();
    item.frames = stream.TakeFeatures(
        features, std::min(kBlockFrames, stream.finished_ ? ready : ready / Model::kSubsampling * Model::kSubsampling));
    if (stream.finished_ && stream.NumFeaturesReady() == 0) item.flush = stream.flushed_ = true;
    s.inputs[i] = {features};
    item.inputs = s.inputs[i].data();
    item.state = &stream.encoder_state_;
    s.items.push_back(item);
    for (size_t from = 0; from < item.frames; from += Model::kSubsampling) {
      const size_t numbers = std::min<size_t>(Model::kSubsampling, item.frames - from) * bins;
      const float* first = features + from * bins;
      levels[from / Model::kSubsampling] = std::accumulate(first, first + numbers, 0.0f) / static_cast<float>(numbers);
    }
    s.parts.push_back({&stream, nullptr, nullptr, nullptr, nullptr, levels, features, item.frames * bins, 0, 0});
  }
  if (s.items.empty()) return false;
  s.encoder.Step(s.items.data(), s.items.size());
  for (size_t i = 0; i < s.parts.size(); ++i) {
    s.parts[i].encoded = s.encoder.output(encoder_out_, i);
    s.parts[i].frames = s.encoder.output_frames(encoder_out_, i);
    if (widths_.hidden > 0) s.parts[i].hidden = s.encoder.output(hidden_, i);
  }
  if (bias_audio_ != nullptr) AddAudioBias(scratch);
  ComputeHeads(scratch);
  return true;
}

// Encodes for the streams that have no frame waiting.
void Recognizer::FillQueues(Stream* const* streams, size_t count, Scratch* scratch) const {
  scratch->hungry.clear();
  for (size_t i = 0; i < count; ++i) {
    if (streams[i]->queue_.size() == streams[i]->held_) scratch->hungry.push_back(streams[i]);
  }
  if (scratch->hungry.empty() || !EncodeBlock(scratch->hungry.data(), scratch->hungry.size(), scratch)) return;
  for (const Scratch::Part& part : scratch->parts) {
    part.stream->queue_.Append({part.encoded, part.hidden, part.ctc, part.phones, part.level, part.features}, part.frames,
                               part.num_features, widths_);
  }
}

// The next frame of every queue: held back, or searched after those that are held.
void Recognizer::StepFrames(Stream* const* streams, const size_t* hold, size_t count, FrameEvidence* evidence,
                            Scratch* scratch) const {
  Scratch& s = *scratch;
  s.parts.clear();
  s.items.clear();
  s.inputs.resize(count);
  for (size_t i = 0; i < count; ++i) {
    Stream& stream = *streams[i];
    evidence[i] = {};
    if (stream.queue_.size() == stream.held_) continue;
    const FrameQueue::Rows now = stream.queue_.at(stream.held_);
    evidence[i].stepped = true;
    evidence[i].level = *now.level;
    if (stream.endpoint_state_ != nullptr) {
      s.inputs[s.items.size()] = {now.hidden};
      s.items.emplace_back();
      s.items.back().inputs = s.inputs[s.items.size() - 1].data();
      s.items.back().frames = 1;
      s.items.back().state = stream.endpoint_state_.get();
    }
    if (hold[i] == 0) {
      const FrameQueue::Rows rows = stream.queue_.at(0);
      evidence[i].searched = stream.held_ + 1;
      s.parts.push_back({&stream, rows.encoded, rows.ctc, rows.phones, rows.hidden, rows.level, nullptr, 0, stream.held_ + 1, 0});
    } else if (++stream.held_ > hold[i]) {
      stream.ForgetWaiting(0, stream.held_ - hold[i]);
      stream.queue_.Drop(stream.held_ - hold[i]);
      stream.held_ = hold[i];
    }
  }
  if (!s.items.empty()) s.endpoint->Step(s.items.data(), s.items.size());
  if (!s.parts.empty()) SearchBlock(scratch);
  for (size_t i = 0, item = 0; i < count; ++i) {
    Stream& stream = *streams[i];
    FrameEvidence& out = evidence[i];
    if (!out.stepped) continue;
    if (stream.endpoint_state_ != nullptr) {
      const float* row = s.endpoint->output(endpoint_.log_probs, item++);
      std::copy(row, row + Model::kEndpointClasses, out.endpoint.begin());
      out.has_endpoint = true;
    }
    if (hold[i] > 0) continue;
    stream.queue_.Drop(out.searched);
    stream.held_ = 0;
    const std::vector<Hypothesis>& paths = stream.search_.paths;
    const auto frames = static_cast<int32_t>(stream.search_.num_frames);
    double total = 0;
    for (const Hypothesis& path : paths) {
      const double share = std::exp(stream.search_.Rank(path) - stream.search_.Rank(paths.front()));
      total += share;
      out.expected_trailing += share * (frames - 1 - stream.search_.tree.LastFrame(path.history));
    }
    out.pieces = paths.front().history.length;
    out.settled = stream.search_.settled.tokens.size();
    out.trailing = static_cast<size_t>(frames - 1 - stream.search_.tree.LastFrame(paths.front().history));
    out.expected_trailing /= total;
    // A network with absurd weights may have no likely path.
    if (!std::isfinite(out.expected_trailing)) out.expected_trailing = static_cast<double>(out.trailing);
    out.changed = paths.front().history.hash != stream.best_hash_;
    stream.best_hash_ = paths.front().history.hash;
  }
}

// Streams without a list keep the encoder's rows as they are.
void Recognizer::AddAudioBias(Scratch* scratch) const {
  Scratch& s = *scratch;
  const size_t width = scorer_.width();
  size_t rows = 0;
  s.items.clear();
  for (size_t i = 0; i < s.parts.size(); ++i) {
    Stream& stream = *s.parts[i].stream;
    if (stream.list_ == nullptr) continue;
    s.inputs[s.items.size()] = {s.encoder.output(hidden_, i)};
    Executor::Item item;
    item.inputs = s.inputs[s.items.size()].data();
    item.frames = s.parts[i].frames;
    item.state = stream.bias_state_.get();
    if (!stream.Weighs() || stream.keep_attention_) item.phrases = stream.list_.get();
    if (stream.Traces()) {
      stream.AlignTrace();
      item.trace = &stream.trace_;
    }
    s.items.push_back(item);
    rows += s.parts[i].frames;
  }
  if (s.items.empty()) return;
  s.bias->Step(s.items.data(), s.items.size());
  if (s.biased.size() < rows * width) s.biased.resize(rows * width);
  float* to = s.biased.data();
  size_t item = 0;
  for (Scratch::Part& part : s.parts) {
    if (part.stream->list_ == nullptr) continue;
    const float* added = s.bias->output(encoder_bias_, item++);
    const auto& phrases = part.stream->search_.phrases;
    if (phrases == nullptr) continue;
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
      return stream.commands_.graph != nullptr || stream.phones_.graph != nullptr;
    });
  }
  if (phones_.graph != nullptr) {
    compute(phones_, s.phones.get(), &Scratch::Part::phones, [](const Stream& stream) {
      return stream.phones_.graph != nullptr || stream.Spots();
    });
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
      if (frame >= part.frames) continue;
      search_.BeginFrame(&part.stream->search_);
      if (part.stream->Spots() && part.phones != nullptr) SpotPhrases(part.stream, part.phones + frame * widths_.phones, scratch);
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
      if (frame < part.frames) search_.EndFrame(&part.stream->search_, &s.search);
    }
  }
  for (const Scratch::Part& part : s.parts) {
    part.stream->ForgetAttention();
    search_.Settle(&part.stream->search_, &s.search);
    if (part.stream->commands_.graph != nullptr) grammar_search_.Settle(&part.stream->commands_, &s.grammar_search);
    if (part.stream->phones_.graph == nullptr || part.phones == nullptr || part.frames == 0) continue;
    if (second_pass_.graph != nullptr) {
      const size_t before = part.stream->phones_.num_frames;
      part.stream->whole_.Keep(before, part.hidden, widths_.hidden, part.phones, widths_.phones, part.frames);
    }
    SearchPhones(&part.stream->phones_, part.phones, part.frames, &s.phone_search);
    forced_scorer_.Keep(&part.stream->forced_, part.encoded, part.ctc, part.frames);
  }
}

void Recognizer::SpotPhrases(Stream* stream, const float* log_probs, Scratch* scratch) const {
  constexpr size_t kMost = 4;  // at a time
  const PhraseSounds& sounds = *stream->search_.prior->sounds();
  SearchState* search = &stream->search_;
  const size_t frame = search->num_frames;
  std::vector<SpottedPhrase>& spotted = scratch->spotted;
  spotted.clear();
  sounds.Advance(&stream->spotter_, frame, log_probs, &scratch->spotter, &spotted);
  if (stream->spotter_.Began(frame)) search_.Remember(search);
  const auto most = [](auto* phrases) {
    std::stable_sort(phrases->begin(), phrases->end(), [](const auto& a, const auto& b) { return a.gain > b.gain; });
    if (phrases->size() > kMost) phrases->resize(kMost);
  };
  if (!sounds.wants_evidence()) most(&spotted);  // as they are: the others need not be spelled
  scratch->inserted.clear();
  for (const SpottedPhrase& phrase : spotted) {
    InsertedPhrase inserted;
    inserted.start = phrase.start;
    sounds.Spell(stream->spotter_, phrase, frame, &inserted.pieces, &inserted.frames);
    inserted.gain = phrase.gain;
    if (sounds.wants_evidence()) {
      const double least = sounds.LeastEvidence(phrase);
      inserted.gain = sounds.GainAt(phrase, stream->EvidenceFor(sounds.PlaceOf(phrase), inserted.frames, least));
    }
    if (!(inserted.gain > 0)) continue;
    inserted.log_prob = static_cast<float>(phrase.lost / static_cast<double>(inserted.pieces.size()));
    scratch->inserted.push_back(std::move(inserted));
  }
  most(&scratch->inserted);
  if (!scratch->inserted.empty()) search_.Insert(search, scratch->inserted, &scratch->scorer);
  search_.Forget(search, stream->spotter_.Oldest(frame + 1));
}

void Recognizer::SearchPhones(PhoneSearchState* state, const float* log_probs, size_t frames, PhoneSearchScratch* scratch) const {
  phone_search_.Begin(state);
  for (size_t frame = 0; frame < frames; ++frame) phone_search_.Advance(state, log_probs + frame * widths_.phones, scratch);
  phone_search_.Settle(state, scratch);
}

}  // namespace earshot

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
  explicit Scratch(const Model& model) : encoder(model.FindGraph("encoder")), search(model) {}
  Executor encoder;
  SearchScratch search;
  std::vector<float> features;
  std::vector<std::array<const void*, 1>> inputs;
  std::vector<Executor::Item> items;
  std::vector<SearchState*> states;
  std::vector<const float*> encoded;
  std::vector<size_t> frames;
};

void Recognizer::ScratchDeleter::operator()(Scratch* scratch) const { delete scratch; }

Stream::Stream(std::shared_ptr<const Recognizer> recognizer)
    : recognizer_(std::move(recognizer)),
      fbank_(recognizer_->model_->num_bins()),
      encoder_state_(recognizer_->encoder_) {}

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
  TokenPath path = recognizer_->search_.Best(search_, &score);
  return MakeTranscript(std::move(path), *recognizer_->model_, search_.num_frames, score);
}

void Stream::Reset() {
  const std::lock_guard<std::mutex> lock(mutex_);
  fbank_.Reset();
  encoder_state_.Reset();
  search_.Reset();
  finished_ = flushed_ = false;
}

Recognizer::Recognizer(std::shared_ptr<const Model> model, const SearchConfig& config)
    : model_(std::move(model)), search_(model_, config) {
  encoder_ = model_->FindGraph("encoder");
  encoder_out_ = static_cast<size_t>(encoder_->FindOutput("encoder_out"));
}

std::shared_ptr<const Recognizer> Recognizer::Create(std::shared_ptr<const Model> model, const SearchConfig& config) {
  return std::shared_ptr<const Recognizer>(new Recognizer(std::move(model), config));
}

std::unique_ptr<Stream> Recognizer::CreateStream() const { return std::make_unique<Stream>(shared_from_this()); }

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

  ScratchPointer scratch;
  {
    const std::lock_guard<std::mutex> lock(pool_mutex_);
    if (!pool_.empty()) {
      scratch = std::move(pool_.back());
      pool_.pop_back();
    }
  }
  if (scratch == nullptr) scratch.reset(new Scratch(*model_));
  for (size_t from = 0; from < count; from += kBlockStreams) {
    while (DecodeBlock(streams + from, std::min(kBlockStreams, count - from), scratch.get())) {
    }
  }
  const std::lock_guard<std::mutex> lock(pool_mutex_);
  pool_.push_back(std::move(scratch));
}

bool Recognizer::DecodeBlock(Stream* const* streams, size_t count, Scratch* scratch) const {
  const size_t bins = model_->num_bins();
  Scratch& s = *scratch;
  s.features.resize(kBlockStreams * kBlockFrames * bins);
  s.items.clear();
  s.states.clear();
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
    s.states.push_back(&stream.search_);
  }
  if (s.items.empty()) return false;
  s.encoder.Step(s.items.data(), s.items.size());
  s.encoded.resize(s.items.size());
  s.frames.resize(s.items.size());
  for (size_t i = 0; i < s.items.size(); ++i) {
    s.encoded[i] = s.encoder.output(encoder_out_, i);
    s.frames[i] = s.encoder.output_frames(encoder_out_, i);
  }
  search_.Decode(s.states.data(), s.encoded.data(), s.frames.data(), s.items.size(), &s.search);
  return true;
}

}  // namespace earshot

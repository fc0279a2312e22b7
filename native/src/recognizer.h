// recognizer.h: audio in, transcripts out: features, encoder and search joined up.
//
// Knows streams and how to decode many of them together; knows nothing of files
// of audio, sample rates other than 16 kHz, or the end of utterances.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "executor.h"
#include "fbank.h"
#include "model.h"
#include "search.h"
#include "transcript.h"

namespace earshot {

class Recognizer;

// One recording in progress. Calls on one stream take turns by a lock, so a
// result may be read while another thread decodes.
class Stream {
 public:
  explicit Stream(std::shared_ptr<const Recognizer> recognizer);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // 16 kHz mono samples, nominally in [-1, 1]. Throws std::invalid_argument for
  // one that is not finite (nothing is taken then), std::logic_error after
  // InputFinished.
  void AcceptWaveform(const float* samples, size_t count);
  // No more audio comes: the next decode takes what is left.
  void InputFinished();
  // True if decoding would make progress.
  bool IsReady() const;
  // What has been decoded so far; also in the middle of a recording.
  Transcript Result() const;
  // As good as new: neither text nor acoustic state of the recording stays.
  void Reset();
  const Recognizer& recognizer() const { return *recognizer_; }

 private:
  friend class Recognizer;
  bool Ready() const;

  std::shared_ptr<const Recognizer> recognizer_;
  mutable std::mutex mutex_;
  Fbank fbank_;
  GraphState encoder_state_;
  SearchState search_;
  bool finished_ = false;
  bool flushed_ = false;
};

class Recognizer : public std::enable_shared_from_this<Recognizer> {
 public:
  // Throws ModelFileError if the file is no recogniser, std::invalid_argument for
  // a setting out of range.
  static std::shared_ptr<const Recognizer> Create(std::shared_ptr<const Model> model, const SearchConfig& config);

  std::unique_ptr<Stream> CreateStream() const;

  // Decodes all that is ready, over all streams together. No stream may be in
  // the list twice, all must be of this recogniser: else std::invalid_argument.
  void DecodeStreams(Stream* const* streams, size_t count) const;

  const Model& model() const { return *model_; }
  const SearchConfig& config() const { return search_.config(); }

 private:
  friend class Stream;
  // Scratch memory of one decoding thread.
  struct Scratch;
  struct ScratchDeleter {
    void operator()(Scratch* scratch) const;
  };
  using ScratchPointer = std::unique_ptr<Scratch, ScratchDeleter>;

  Recognizer(std::shared_ptr<const Model> model, const SearchConfig& config);
  bool DecodeBlock(Stream* const* streams, size_t count, Scratch* scratch) const;

  std::shared_ptr<const Model> model_;
  std::shared_ptr<const Graph> encoder_;
  size_t encoder_out_;
  Search search_;
  mutable std::mutex pool_mutex_;
  mutable std::vector<ScratchPointer> pool_;
};

}  // namespace earshot

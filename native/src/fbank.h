// fbank.h: log mel filterbank features of 16 kHz audio, as Kaldi defines them.
//
// The one place where features are computed, for training and recognition alike. Settings are
// those of docs/formats/ear.md section 2: 25 ms Povey windows every 10 ms, mean of the window removed,
// pre-emphasis 0.97, 20 Hz to 7600 Hz, snip_edges false, no dither. Samples are taken as they are
// (nominally in [-1, 1]); values are natural logs, not below log(FLT_EPSILON).
#ifndef EARSHOT_FBANK_H_
#define EARSHOT_FBANK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace earshot {

constexpr int kSampleRateHz = 16000;

// Index of the first sample that is infinite or not a number, or n.
size_t FirstNonFinite(const float* samples, size_t n);

// Streaming features. Frames come out as soon as their last sample is known; only samples that a
// later frame needs are kept, so memory does not grow as long as frames are taken. How the audio is
// cut into calls changes no bit of the frames. Samples must be finite (see FirstNonFinite).
class Fbank {
 public:
  explicit Fbank(size_t num_bins = 80);  // 1..256, else std::invalid_argument
  ~Fbank();
  Fbank(const Fbank&) = delete;
  Fbank& operator=(const Fbank&) = delete;

  size_t num_bins() const;

  // Throws std::logic_error after InputFinished.
  void AcceptWaveform(const float* samples, size_t n);

  // Adds the frames whose windows reach over the end; beyond it the audio is mirrored. N samples give
  // (N + 80) / 160 frames in all.
  void InputFinished();

  // Back to the beginning of a new recording.
  void Reset();

  // Frames computed and not yet taken.
  size_t NumFramesReady() const;
  // Moves up to max_frames of them, oldest first, to out[][num_bins]; returns how many.
  size_t TakeFrames(float* out, size_t max_frames);

 private:
  struct Tables;
  void ComputeReadyFrames();
  void ComputeFrames(const float* samples, int64_t frames);

  std::shared_ptr<const Tables> tables_;
  std::vector<float> samples_;  // audio from absolute sample first_kept_ on
  int64_t first_kept_ = 0;
  int64_t num_samples_ = 0;  // accepted since the beginning
  int64_t num_frames_ = 0;   // computed since the beginning
  bool finished_ = false;
  std::vector<float> ready_;  // frames, from taken_ on not yet taken
  size_t taken_ = 0;
};

}  // namespace earshot

#endif  // EARSHOT_FBANK_H_

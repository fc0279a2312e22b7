// fbank.cc: see fbank.h. Everything from the samples to the logarithm runs in double (kernels/): spectra
// of speech span 9 decades, and a float transform would lose the weak bins next to strong ones.

#include "fbank.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace earshot {
namespace {

constexpr size_t kFftSize = 2 * kFbankPoints;
constexpr float kLowHz = 20.0f;
constexpr float kHighHz = kSampleRateHz / 2.0f - 400.0f;
constexpr double kPi = 3.14159265358979323846;
// The window of frame t is centred on t * 160 + 80.
constexpr int64_t kFirstWindowStart =
    static_cast<int64_t>(kFbankShift / 2) - static_cast<int64_t>(kFbankWindow / 2);
// Audio is buffered in pieces of this size, so that one long call needs no long buffer.
constexpr size_t kPieceSamples = 16000;

// In float, and the triangles below too: that is how Kaldi rounds them. The weight at the foot of a
// triangle is a small difference of large numbers, and next to the cut-off of a lossy codec, where
// neighbouring FFT bins differ by 60 dB, its rounding shows in the log energy.
float Mel(float hz) { return 1127.0f * std::log(1.0f + hz / 700.0f); }

int64_t WindowStart(int64_t frame) {
  return frame * static_cast<int64_t>(kFbankShift) + kFirstWindowStart;
}

int64_t MirroredIndex(int64_t index, int64_t length) {
  while (index < 0 || index >= length) {
    index = index < 0 ? -index - 1 : 2 * length - 1 - index;
  }
  return index;
}

// What a thread computes in, whatever the number of its streams.
double* Scratch() {
  struct Space {
    alignas(32) double values[kFbankScratch];
  };
  static thread_local const std::unique_ptr<Space> space(new Space);
  return space->values;
}

}  // namespace

size_t FirstNonFinite(const float* samples, size_t n) {
  // All of them before any by itself: a loop that may end early is not vectorised. Zero times a
  // finite number is zero of either sign.
  uint32_t any = 0;
  for (size_t i = 0; i < n; ++i) {
    const float zero = samples[i] * 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &zero, sizeof bits);
    any |= bits & 0x7FFFFFFFu;
  }
  if (any == 0) return n;
  size_t first = 0;
  while (first < n && std::isfinite(samples[first])) ++first;  // others may write meanwhile
  return first;
}

struct Fbank::Tables {
  double window[kFbankWindow];
  double cosine[kFbankPoints], sine[kFbankPoints];
  double split_cosine[kFbankPoints], split_sine[kFbankPoints];
  std::vector<size_t> first, end;
  std::vector<double> weights;
  FbankTables view;

  explicit Tables(size_t bins) {
    for (size_t i = 0; i < kFbankWindow; ++i) {
      const double hann = 0.5 - 0.5 * std::cos(2.0 * kPi * i / (kFbankWindow - 1));
      window[i] = std::pow(hann, 0.85);
    }
    for (size_t k = 0; k < kFbankPoints; ++k) {
      cosine[k] = std::cos(2.0 * kPi * k / kFbankPoints);
      sine[k] = -std::sin(2.0 * kPi * k / kFbankPoints);
      split_cosine[k] = std::cos(2.0 * kPi * k / kFftSize);
      split_sine[k] = -std::sin(2.0 * kPi * k / kFftSize);
    }
    const float low = Mel(kLowHz);
    const float spacing = (Mel(kHighHz) - low) / static_cast<float>(bins + 1);
    for (size_t b = 0; b < bins; ++b) {
      const float left = low + static_cast<float>(b) * spacing;
      const float centre = low + static_cast<float>(b + 1) * spacing;
      const float right = low + static_cast<float>(b + 2) * spacing;
      first.push_back(0);
      end.push_back(0);
      for (size_t k = 0; k < kFbankPoints; ++k) {
        const float mel = Mel(static_cast<float>(kSampleRateHz) / kFftSize * k);
        if (mel <= left || mel >= right) continue;
        if (end[b] == 0) first[b] = k;
        end[b] = k + 1;
        const float weight =
            mel <= centre ? (mel - left) / (centre - left) : (right - mel) / (right - centre);
        weights.push_back(static_cast<double>(weight));
      }
    }
    view = {bins,       window,       cosine,     sine,           split_cosine,
            split_sine, first.data(), end.data(), weights.data()};
  }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;

  static std::shared_ptr<const Tables> For(size_t bins) {
    static std::mutex mutex;
    static std::map<size_t, std::shared_ptr<const Tables>> made;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<const Tables>& tables = made[bins];
    if (tables == nullptr) tables = std::make_shared<const Tables>(bins);
    return tables;
  }
};

Fbank::Fbank(size_t num_bins) {
  if (num_bins < 1 || num_bins > 256) {
    throw std::invalid_argument("Fbank: num_bins is " + std::to_string(num_bins) +
                                "; it must lie in 1..256.");
  }
  tables_ = Tables::For(num_bins);
}

Fbank::~Fbank() = default;

size_t Fbank::num_bins() const { return tables_->view.bins; }

void Fbank::AcceptWaveform(const float* samples, size_t n) {
  if (finished_) {
    throw std::logic_error(
        "Fbank: audio after input_finished; call reset first to begin a new recording.");
  }
  while (n > 0) {
    const size_t piece = std::min(n, kPieceSamples);
    samples_.insert(samples_.end(), samples, samples + piece);
    num_samples_ += static_cast<int64_t>(piece);
    samples += piece;
    n -= piece;
    ComputeReadyFrames();
  }
}

void Fbank::InputFinished() {
  if (finished_) return;
  finished_ = true;
  ComputeReadyFrames();
  samples_.clear();
  first_kept_ = num_samples_;
}

void Fbank::Reset() {
  samples_.clear();
  ready_.clear();
  taken_ = 0;
  first_kept_ = num_samples_ = num_frames_ = 0;
  finished_ = false;
}

size_t Fbank::NumFramesReady() const { return (ready_.size() - taken_) / num_bins(); }

size_t Fbank::TakeFrames(float* out, size_t max_frames) {
  const size_t frames = std::min(max_frames, NumFramesReady());
  const size_t values = frames * num_bins();
  if (values > 0) std::memcpy(out, ready_.data() + taken_, values * sizeof(float));
  taken_ += values;
  if (taken_ == ready_.size()) {
    ready_.clear();
    taken_ = 0;
  } else if (taken_ > ready_.size() / 2) {
    ready_.erase(ready_.begin(), ready_.begin() + static_cast<std::ptrdiff_t>(taken_));
    taken_ = 0;
  }
  return frames;
}

void Fbank::ComputeReadyFrames() {
  const int64_t length = kFbankWindow, shift = kFbankShift;
  const int64_t frames_at_end = (num_samples_ + shift / 2) / shift;
  while (true) {
    const int64_t start = WindowStart(num_frames_);
    const bool heard = start + length <= num_samples_;
    if (start >= 0 && heard) {
      ComputeFrames(samples_.data() + (start - first_kept_), (num_samples_ - length - start) / shift + 1);
    } else if (finished_ ? num_frames_ < frames_at_end : heard) {
      float mirrored[kFbankWindow];
      for (int64_t i = 0; i < length; ++i) {
        mirrored[i] =
            samples_[static_cast<size_t>(MirroredIndex(start + i, num_samples_) - first_kept_)];
      }
      ComputeFrames(mirrored, 1);
    } else {
      break;
    }
  }
  // At the end the last window reaches at most 200 samples beyond the audio, so what it mirrors lies
  // after the start of the next window, or in the first 280 samples of a recording shorter than that.
  const int64_t needed = std::min(std::max<int64_t>(0, WindowStart(num_frames_)), num_samples_);
  samples_.erase(samples_.begin(), samples_.begin() + (needed - first_kept_));
  first_kept_ = needed;
}

void Fbank::ComputeFrames(const float* samples, int64_t frames) {
  const Kernels& kernel = kernels();  // may throw, as may the memory: nothing is half done then
  double* const scratch = Scratch();
  const size_t before = ready_.size();
  ready_.resize(before + static_cast<size_t>(frames) * num_bins());
  kernel.fbank(&tables_->view, samples, static_cast<size_t>(frames), scratch, ready_.data() + before);
  num_frames_ += frames;
}

}  // namespace earshot

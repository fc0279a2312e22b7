// fbank.cc: see fbank.h. Everything between the samples and the logarithm runs in double: spectra of
// speech span 9 decades, and a float transform would lose the weak bins next to strong ones.

#include "fbank.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

namespace earshot {
namespace {

constexpr size_t kFftSize = 512;
constexpr size_t kHalf = kFftSize / 2;  // complex points of the packed transform
constexpr double kPreemphasis = 0.97;
constexpr float kLowHz = 20.0f;
constexpr float kHighHz = kSampleRateHz / 2.0f - 400.0f;
constexpr double kPi = 3.14159265358979323846;
// The window of frame t is centred on t * 160 + 80.
constexpr int64_t kFirstWindowStart =
    static_cast<int64_t>(kFrameShiftSamples / 2) - static_cast<int64_t>(kFrameLengthSamples / 2);
// Audio is buffered in pieces of this size, so that one long call needs no long buffer.
constexpr size_t kPieceSamples = 16000;

// In float, and the triangles below too: that is how Kaldi rounds them. The weight at the foot of a
// triangle is a small difference of large numbers, and next to the cut-off of a lossy codec, where
// neighbouring FFT bins differ by 60 dB, its rounding shows in the log energy.
float Mel(float hz) { return 1127.0f * std::log(1.0f + hz / 700.0f); }

int64_t WindowStart(int64_t frame) {
  return frame * static_cast<int64_t>(kFrameShiftSamples) + kFirstWindowStart;
}

int64_t MirroredIndex(int64_t index, int64_t length) {
  while (index < 0 || index >= length) {
    index = index < 0 ? -index - 1 : 2 * length - 1 - index;
  }
  return index;
}

}  // namespace

size_t FirstNonFinite(const float* samples, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if (!std::isfinite(samples[i])) return i;
  }
  return n;
}

struct Fbank::Tables {
  size_t num_bins;
  double window[kFrameLengthSamples];
  double cosine[kHalf], sine[kHalf];            // e^(-2 pi i k / 256)
  double split_cosine[kHalf], split_sine[kHalf];  // e^(-2 pi i k / 512)
  struct Band {
    size_t first;               // FFT bin of weights[0]
    std::vector<double> weights;
  };
  std::vector<Band> bands;

  explicit Tables(size_t bins) : num_bins(bins) {
    for (size_t i = 0; i < kFrameLengthSamples; ++i) {
      const double hann = 0.5 - 0.5 * std::cos(2.0 * kPi * i / (kFrameLengthSamples - 1));
      window[i] = std::pow(hann, 0.85);
    }
    for (size_t k = 0; k < kHalf; ++k) {
      cosine[k] = std::cos(2.0 * kPi * k / kHalf);
      sine[k] = -std::sin(2.0 * kPi * k / kHalf);
      split_cosine[k] = std::cos(2.0 * kPi * k / kFftSize);
      split_sine[k] = -std::sin(2.0 * kPi * k / kFftSize);
    }
    const float low = Mel(kLowHz);
    const float spacing = (Mel(kHighHz) - low) / static_cast<float>(bins + 1);
    for (size_t b = 0; b < bins; ++b) {
      const float left = low + static_cast<float>(b) * spacing;
      const float centre = low + static_cast<float>(b + 1) * spacing;
      const float right = low + static_cast<float>(b + 2) * spacing;
      Band band{0, {}};
      for (size_t k = 0; k < kHalf; ++k) {
        const float mel = Mel(static_cast<float>(kSampleRateHz) / kFftSize * k);
        if (mel <= left || mel >= right) continue;
        if (band.weights.empty()) band.first = k;
        const float weight =
            mel <= centre ? (mel - left) / (centre - left) : (right - mel) / (right - centre);
        band.weights.push_back(static_cast<double>(weight));
      }
      bands.push_back(std::move(band));
    }
  }

  static std::shared_ptr<const Tables> For(size_t bins) {
    static std::mutex mutex;
    static std::map<size_t, std::shared_ptr<const Tables>> made;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<const Tables>& tables = made[bins];
    if (tables == nullptr) tables = std::make_shared<const Tables>(bins);
    return tables;
  }
};

struct Fbank::Scratch {
  double frame[kFftSize];
  double re[2][kHalf], im[2][kHalf];
  double power[kHalf];

  // One stage of the radix-4 Stockham transform: `stride` interleaved transforms of length
  // 4 * quarter become 4 * stride of length quarter.
  static void Stage(const Tables& tables, size_t quarter, size_t stride, const double* __restrict xr,
                    const double* __restrict xi, double* __restrict yr, double* __restrict yi) {
    for (size_t p = 0; p < quarter; ++p) {
      const double c1 = tables.cosine[p * stride], s1 = tables.sine[p * stride];
      const double c2 = tables.cosine[2 * p * stride], s2 = tables.sine[2 * p * stride];
      const double c3 = tables.cosine[3 * p * stride], s3 = tables.sine[3 * p * stride];
      const double *ar = xr + p * stride, *ai = xi + p * stride;
      const size_t leap = quarter * stride;
      double *zr = yr + 4 * p * stride, *zi = yi + 4 * p * stride;
      for (size_t q = 0; q < stride; ++q) {
        const double sum_r = ar[q] + ar[q + 2 * leap], sum_i = ai[q] + ai[q + 2 * leap];
        const double gap_r = ar[q] - ar[q + 2 * leap], gap_i = ai[q] - ai[q + 2 * leap];
        const double odd_sum_r = ar[q + leap] + ar[q + 3 * leap];
        const double odd_sum_i = ai[q + leap] + ai[q + 3 * leap];
        // -i times the gap of the odd pair.
        const double odd_gap_r = ai[q + leap] - ai[q + 3 * leap];
        const double odd_gap_i = ar[q + 3 * leap] - ar[q + leap];
        const double b1_r = gap_r + odd_gap_r, b1_i = gap_i + odd_gap_i;
        const double b2_r = sum_r - odd_sum_r, b2_i = sum_i - odd_sum_i;
        const double b3_r = gap_r - odd_gap_r, b3_i = gap_i - odd_gap_i;
        zr[q] = sum_r + odd_sum_r;
        zi[q] = sum_i + odd_sum_i;
        zr[q + stride] = b1_r * c1 - b1_i * s1;
        zi[q + stride] = b1_r * s1 + b1_i * c1;
        zr[q + 2 * stride] = b2_r * c2 - b2_i * s2;
        zi[q + 2 * stride] = b2_r * s2 + b2_i * c2;
        zr[q + 3 * stride] = b3_r * c3 - b3_i * s3;
        zi[q + 3 * stride] = b3_r * s3 + b3_i * c3;
      }
    }
  }

  // |FFT(frame)|^2 of bins 0..255. Even and odd samples form one complex sequence of half the length;
  // its spectrum Z splits into theirs: E[k] = (Z[k] + conj Z[-k]) / 2, O[k] = (Z[k] - conj Z[-k]) / 2i,
  // and X[k] = E[k] + e^(-2 pi i k / 512) O[k].
  void PowerSpectrum(const Tables& tables) {
    for (size_t i = 0; i < kHalf; ++i) {
      re[0][i] = frame[2 * i];
      im[0][i] = frame[2 * i + 1];
    }
    Stage(tables, 64, 1, re[0], im[0], re[1], im[1]);
    Stage(tables, 16, 4, re[1], im[1], re[0], im[0]);
    Stage(tables, 4, 16, re[0], im[0], re[1], im[1]);
    Stage(tables, 1, 64, re[1], im[1], re[0], im[0]);
    for (size_t k = 0; k < kHalf; ++k) {
      const size_t mirrored = (kHalf - k) % kHalf;
      const double even_r = 0.5 * (re[0][k] + re[0][mirrored]);
      const double even_i = 0.5 * (im[0][k] - im[0][mirrored]);
      const double odd_r = 0.5 * (im[0][k] + im[0][mirrored]);
      const double odd_i = 0.5 * (re[0][mirrored] - re[0][k]);
      const double c = tables.split_cosine[k], s = tables.split_sine[k];
      const double r = even_r + odd_r * c - odd_i * s;
      const double i = even_i + odd_r * s + odd_i * c;
      power[k] = r * r + i * i;
    }
  }
};

Fbank::Fbank(size_t num_bins) {
  if (num_bins < 1 || num_bins > 256) {
    throw std::invalid_argument("Fbank: num_bins is " + std::to_string(num_bins) +
                                "; it must lie in 1..256.");
  }
  tables_ = Tables::For(num_bins);
  scratch_ = std::make_unique<Scratch>();
}

Fbank::~Fbank() = default;

size_t Fbank::num_bins() const { return tables_->num_bins; }

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
  const int64_t shift = kFrameShiftSamples, length = kFrameLengthSamples;
  const int64_t frames_at_end = (num_samples_ + shift / 2) / shift;
  while (finished_ ? num_frames_ < frames_at_end
                   : WindowStart(num_frames_) + length <= num_samples_) {
    ComputeFrame(WindowStart(num_frames_));
    ++num_frames_;
  }
  // At the end the last window reaches at most 200 samples beyond the audio, so what it mirrors lies
  // after the start of the next window, or in the first 280 samples of a recording shorter than that.
  const int64_t needed = std::min(std::max<int64_t>(0, WindowStart(num_frames_)), num_samples_);
  samples_.erase(samples_.begin(), samples_.begin() + (needed - first_kept_));
  first_kept_ = needed;
}

void Fbank::ComputeFrame(int64_t first_sample) {
  const int64_t length = kFrameLengthSamples;
  double* frame = scratch_->frame;
  if (first_sample >= 0 && first_sample + length <= num_samples_) {
    const float* source = samples_.data() + (first_sample - first_kept_);
    for (int64_t i = 0; i < length; ++i) frame[i] = source[i];
  } else {
    for (int64_t i = 0; i < length; ++i) {
      frame[i] = samples_[static_cast<size_t>(MirroredIndex(first_sample + i, num_samples_) -
                                              first_kept_)];
    }
  }
  double mean = 0.0;
  for (int64_t i = 0; i < length; ++i) mean += frame[i];
  mean /= static_cast<double>(length);
  for (int64_t i = 0; i < length; ++i) frame[i] -= mean;
  const Tables& tables = *tables_;
  for (int64_t i = length - 1; i > 0; --i) {
    frame[i] = (frame[i] - kPreemphasis * frame[i - 1]) * tables.window[i];
  }
  frame[0] = (frame[0] - kPreemphasis * frame[0]) * tables.window[0];
  std::fill(frame + length, frame + kFftSize, 0.0);
  scratch_->PowerSpectrum(tables);
  for (const Tables::Band& band : tables.bands) {
    double energy = 0.0;
    for (size_t k = 0; k < band.weights.size(); ++k) {
      energy += band.weights[k] * scratch_->power[band.first + k];
    }
    ready_.push_back(
        static_cast<float>(std::log(std::max(energy, static_cast<double>(FLT_EPSILON)))));
  }
}

}  // namespace earshot

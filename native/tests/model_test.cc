// model_test.cc: the reader, graphs, search and C functions without Python.
//
// Builds a small recogniser in memory, so it runs on any device and under any
// sanitizer: damage of every kind, chunks and streams that must change no bit.
// What the numbers should be is tested from Python, against numpy.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "earshot.h"
#include "executor.h"
#include "model.h"
#include "recognizer.h"

#define CHECK(condition)                                                         \
  do {                                                                           \
    if (!(condition)) {                                                          \
      std::fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                              \
    }                                                                            \
  } while (false)

namespace {

using earshot::Crc32;
using Bytes = std::vector<uint8_t>;

uint32_t seed = 1;
float Next() {  // in [-1, 1)
  seed = seed * 1664525u + 1013904223u;
  return static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
}

size_t Align(size_t n, size_t to) { return (n + to - 1) / to * to; }

void Append(Bytes* out, const void* data, size_t size) {
  const auto* p = static_cast<const uint8_t*>(data);
  out->insert(out->end(), p, p + size);
}

// Tensors of random values and the header that lists them.
class Builder {
 public:
  void Vector(const std::string& name, size_t n, float value, float spread) {
    Bytes section;
    for (size_t i = 0; i < n; ++i) {
      const float x = value + spread * Next();
      Append(&section, &x, 4);
    }
    Add(name, "f32", "[" + std::to_string(n) + "]", std::move(section));
  }
  void Table(const std::string& name, size_t rows, size_t columns) {
    Bytes section;
    for (size_t i = 0; i < rows * columns; ++i) {
      const float x = Next();
      Append(&section, &x, 4);
    }
    Add(name, "f32", "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]", std::move(section));
  }
  void Packed(const std::string& name, size_t M, size_t K, float spread) {
    std::vector<float> w(Align(M, 16) * K);
    for (size_t m = 0; m < M; ++m) {
      for (size_t k = 0; k < K; ++k) w[(m / 16 * K + k) * 16 + m % 16] = spread * Next();
    }
    Bytes section;
    Append(&section, w.data(), w.size() * 4);
    Add(name, "f32_r16", "[" + std::to_string(M) + ", " + std::to_string(K) + "]", std::move(section));
  }
  void Int8(const std::string& name, size_t M, size_t K, float scale) {
    const size_t Mp = Align(M, 16), Kp = Align(K, 64);
    Bytes tiles(Mp * Kp);
    std::vector<float> scales(Mp);
    std::vector<int32_t> sums(Mp);
    for (size_t m = 0; m < M; ++m) {
      scales[m] = scale;
      for (size_t k = 0; k < K; ++k) {
        const int q = static_cast<int>(127 * Next());
        tiles[(m / 16 * (Kp / 4) + k / 4) * 64 + m % 16 * 4 + k % 4] = static_cast<uint8_t>(q);
        sums[m] += 128 * q;
      }
    }
    Append(&tiles, scales.data(), Mp * 4);
    Append(&tiles, sums.data(), Mp * 4);
    Add(name, "i8_r16x4", "[" + std::to_string(M) + ", " + std::to_string(K) + "]", std::move(tiles));
  }
  // `head`: the header's other members.
  Bytes Build(const std::string& head) const {
    std::string header;
    std::vector<size_t> offsets(sections_.size());
    for (int round = 0; round < 4; ++round) {  // offsets depend on the header's size and it on theirs
      header = "{" + head + ", \"tensors\": [";
      for (size_t i = 0; i < sections_.size(); ++i) {
        header += (i > 0 ? ", " : "") + entries_[i] + ", \"offset\": " + std::to_string(offsets[i]) + ", \"bytes\": " +
                  std::to_string(sections_[i].size()) + ", \"crc32\": " +
                  std::to_string(Crc32(0, sections_[i].data(), sections_[i].size())) + "}";
      }
      header += "]}";
      size_t at = 32 + header.size();
      for (size_t i = 0; i < sections_.size(); ++i) {
        offsets[i] = Align(at, 64);
        at = offsets[i] + sections_[i].size();
      }
    }
    Bytes out(32);
    Append(&out, header.data(), header.size());
    for (const Bytes& section : sections_) {
      out.resize(Align(out.size(), 64));
      Append(&out, section.data(), section.size());
    }
    out.resize(Align(out.size(), 64));
    std::memcpy(out.data(), "\x89" "EAR\r\n\x1a\n", 8);
    const uint32_t words[] = {1, static_cast<uint32_t>(header.size()), static_cast<uint32_t>(out.size()), 0};
    for (size_t i = 0; i < 16; ++i) out[8 + i] = static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
    const uint32_t check = Crc32(Crc32(0, out.data(), 24), header.data(), header.size());
    for (size_t i = 0; i < 4; ++i) out[24 + i] = static_cast<uint8_t>(check >> (8 * i));
    return out;
  }

 private:
  void Add(const std::string& name, const char* codec, const std::string& shape, Bytes section) {
    entries_.push_back("{\"name\": \"" + name + "\", \"codec\": \"" + codec + "\", \"shape\": " + shape);
    sections_.push_back(std::move(section));
  }
  std::vector<std::string> entries_;
  std::vector<Bytes> sections_;
};

constexpr char kFeatures[] =
    "\"features\": {\"type\": \"kaldi_fbank\", \"sample_rate_hz\": 16000, \"num_bins\": 8, \"frame_length_ms\": 25, "
    "\"frame_shift_ms\": 10, \"low_freq_hz\": 20, \"high_freq_hz\": -400, \"preemphasis\": 0.97, \"window\": \"povey\", "
    "\"snip_edges\": false, \"dither\": 0}";

void Replace(std::string* text, const std::string& from, const std::string& to) {
  const size_t at = text->find(from);
  CHECK(at != std::string::npos);
  text->replace(at, from.size(), to);
}

// `uneven`: the predictor's output is narrower than the encoder's, and the joiner makes up for it.
Bytes Recogniser(bool uneven = false) {
  seed = 1;
  Builder b;
  b.Vector("mean", 8, -8, 0);
  b.Vector("inv", 8, 0.5f, 0);
  b.Int8("in", 16, 32, 0.01f);
  b.Int8("wx", 64, 16, 0.01f);
  b.Packed("wh", 64, 16, 0.4f);
  b.Vector("lb", 64, 0, 0.5f);
  b.Packed("gate", 1, 16, 1);
  b.Table("dw", 16, 3);
  b.Packed("enc", 5, 16, 1);
  b.Table("table", 6, 4);
  b.Packed("conv", 4, 8, 1);
  b.Packed("pred", 5, 4, 1);
  b.Int8("join", 6, 5, 0.02f);
  b.Vector("jb", 6, 0, 1);
  std::string head =
      "\"name\": \"tiny\", " + std::string(kFeatures) +
      ", \"search\": {\"blank_id\": 0, \"unk_id\": 2, \"predictor\": \"stateless\", \"context_size\": 2, "
      "\"max_symbols_per_frame\": 1}, \"pieces\": [\"<blk>\", \"<sos/eos>\", \"<unk>\", \"\xE2\x96\x81" "a\", \"b\", "
      "\"\xE2\x96\x81" "c\"], \"graphs\": {"
      "\"encoder\": {\"inputs\": [\"x\"], \"outputs\": [\"encoder_out\"], \"nodes\": ["
      "{\"op\": \"normalize\", \"in\": [\"x\"], \"out\": \"n\", \"tensors\": {\"mean\": \"mean\", \"inv_std\": \"inv\"}}, "
      "{\"op\": \"stack\", \"in\": [\"n\"], \"out\": \"s\", \"factor\": 4}, "
      "{\"op\": \"linear\", \"in\": [\"s\"], \"out\": \"h\", \"tensors\": {\"weight\": \"in\"}}, "
      "{\"op\": \"lstm\", \"in\": [\"h\"], \"out\": \"l\", \"hidden\": 16, \"tensors\": {\"weight_x\": \"wx\", "
      "\"weight_h\": \"wh\", \"bias\": \"lb\"}}, "
      "{\"op\": \"linear\", \"in\": [\"l\"], \"out\": \"g\", \"tensors\": {\"weight\": \"gate\"}}, "
      "{\"op\": \"conv1d\", \"in\": [\"l\"], \"out\": \"c\", \"kernel\": 3, \"dilation\": 2, \"padding\": \"causal\", "
      "\"when\": \"g\", \"skipped\": \"hold\", \"tensors\": {\"weight\": \"dw\"}}, "
      "{\"op\": \"linear\", \"in\": [\"c\"], \"out\": \"encoder_out\", \"tensors\": {\"weight\": \"enc\"}}]}, "
      "\"predictor\": {\"inputs\": [\"y\"], \"outputs\": [\"predictor_out\"], \"nodes\": ["
      "{\"op\": \"embedding\", \"in\": [\"y\"], \"out\": \"e\", \"tensors\": {\"table\": \"table\"}}, "
      "{\"op\": \"conv1d\", \"in\": [\"e\"], \"out\": \"c\", \"kernel\": 2, \"dilation\": 1, \"padding\": \"valid\", "
      "\"tensors\": {\"weight\": \"conv\"}}, "
      "{\"op\": \"linear\", \"in\": [\"c\"], \"out\": \"predictor_out\", \"tensors\": {\"weight\": \"pred\"}}]}, "
      "\"joiner\": {\"inputs\": [\"encoder_out\", \"predictor_out\"], \"outputs\": [\"logits\"], \"nodes\": ["
      "{\"op\": \"add\", \"in\": [\"encoder_out\", \"predictor_out\"], \"out\": \"s\"}, "
      "{\"op\": \"tanh\", \"in\": [\"s\"], \"out\": \"t\"}, "
      "{\"op\": \"linear\", \"in\": [\"t\"], \"out\": \"logits\", \"tensors\": {\"weight\": \"join\", \"bias\": \"jb\"}}]}}";
  if (uneven) {
    Replace(&head, ", {\"op\": \"linear\", \"in\": [\"c\"], \"out\": \"predictor_out\", \"tensors\": {\"weight\": \"pred\"}}", "");
    Replace(&head, "\"out\": \"c\", \"kernel\": 2", "\"out\": \"predictor_out\", \"kernel\": 2");
    Replace(&head, "{\"op\": \"add\", \"in\": [\"encoder_out\", \"predictor_out\"]",
            "{\"op\": \"linear\", \"in\": [\"predictor_out\"], \"out\": \"wide\", \"tensors\": {\"weight\": \"pred\"}}, "
            "{\"op\": \"add\", \"in\": [\"encoder_out\", \"wide\"]");
  }
  return b.Build(head);
}

std::shared_ptr<const earshot::Model> Open(const Bytes& bytes) {
  return earshot::Model::FromFile(earshot::ModelFile::FromBytes("test.ear", bytes.data(), bytes.size()));
}

bool Refused(const Bytes& bytes) {
  try {
    Open(bytes);
    return false;
  } catch (const earshot::ModelFileError& error) {
    return !error.problem().empty() && !error.remedy().empty();
  }
}

void TestChecksum() {
  CHECK(Crc32(0, "123456789", 9) == 0xCBF43926u);
  CHECK(Crc32(Crc32(0, "1234", 4), "56789", 5) == 0xCBF43926u);
  CHECK(Crc32(0, "", 0) == 0);
}

void TestDamage() {
  const Bytes sound = Recogniser();
  Open(sound);
  for (size_t n = 0; n < sound.size(); ++n) CHECK(Refused(Bytes(sound.begin(), sound.begin() + static_cast<std::ptrdiff_t>(n))));
  for (size_t i = 0; i < sound.size(); ++i) {
    for (const int mask : {1 << (i % 8), 255}) {
      Bytes damaged = sound;
      damaged[i] ^= static_cast<uint8_t>(mask);
      CHECK(Refused(damaged));
    }
  }
}

void TestWidths() {
  try {
    Open(Recogniser(true));
    CHECK(false);
  } catch (const earshot::ModelFileError& error) {
    CHECK(error.problem().find("`predictor_out` of width 4; it must be 5") != std::string::npos);
  }
}

void TestChunksAndStreams() {
  const auto model = Open(Recogniser());
  const auto graph = model->FindGraph("encoder");
  const size_t frames = 61, width = 5;
  std::vector<float> x(frames * 8);
  for (float& v : x) v = 4 * Next() - 8;
  earshot::Executor executor(graph);
  const auto run = [&](const std::vector<size_t>& cuts) {
    earshot::GraphState state(graph);
    std::vector<float> out;
    size_t at = 0;
    for (size_t i = 0; i <= cuts.size(); ++i) {
      const size_t to = i < cuts.size() ? cuts[i] : frames;
      const void* input = x.data() + at * 8;
      earshot::Executor::Item item;
      item.inputs = &input;
      item.frames = to - at;
      item.flush = i == cuts.size();
      item.state = &state;
      executor.Step(&item, 1);
      out.insert(out.end(), executor.output(0, 0), executor.output(0, 0) + executor.output_frames(0, 0) * width);
      at = to;
    }
    return out;
  };
  const std::vector<float> whole = run({});
  CHECK(whole.size() == 16 * width);
  std::vector<size_t> all;
  for (size_t i = 1; i < frames; ++i) all.push_back(i);
  CHECK(run(all) == whole);
  CHECK(run({5, 5, 17, 40}) == whole);

  earshot::GraphState one(graph), two(graph), three(graph);
  earshot::GraphState* states[] = {&one, &two, &three};
  const void* inputs[] = {x.data(), x.data(), x.data()};
  const size_t lengths[] = {frames, 7, 30};
  earshot::Executor::Item items[3];
  for (size_t i = 0; i < 3; ++i) {
    items[i].inputs = &inputs[i];
    items[i].frames = lengths[i];
    items[i].flush = i == 0;
    items[i].state = states[i];
  }
  executor.Step(items, 3);
  for (size_t i = 0; i < 3; ++i) {
    const size_t made = executor.output_frames(0, i);
    CHECK(made == (i == 0 ? 16 : lengths[i] / 4));
    CHECK(std::memcmp(executor.output(0, i), whole.data(), made * width * sizeof(float)) == 0);
  }
}

void TestRecogniser() {
  const auto model = Open(Recogniser());
  std::vector<float> samples(24000);
  for (float& v : samples) v = 0.3f * Next();
  for (const size_t paths : {1, 4}) {
    for (const size_t symbols : {1, 3}) {
      earshot::SearchConfig config;
      config.max_active_paths = paths;
      config.max_symbols_per_frame = symbols;
      const auto recognizer = earshot::Recognizer::Create(model, config);
      const auto decode = [&](size_t chunk) {
        const auto stream = recognizer->CreateStream();
        earshot::Stream* const streams[] = {stream.get()};
        for (size_t at = 0; at < samples.size(); at += chunk) {
          stream->AcceptWaveform(samples.data() + at, std::min(chunk, samples.size() - at));
          recognizer->DecodeStreams(streams, 1);
        }
        stream->InputFinished();
        recognizer->DecodeStreams(streams, 1);
        return earshot::ToJson(stream->Result());
      };
      const std::string whole = decode(samples.size());
      CHECK(whole.find("\"num_frames\": 38") != std::string::npos);
      CHECK(decode(777) == whole);
      CHECK(decode(160) == whole);
    }
  }
}

void TestCFunctions(const char* path) {
  const Bytes bytes = Recogniser();
  std::FILE* file = std::fopen(path, "wb");
  CHECK(file != nullptr);
  CHECK(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  std::fclose(file);
  earshot_model* model = earshot_model_open(path);
  CHECK(model != nullptr);
  std::remove(path);
  CHECK(earshot_model_open(path) == nullptr);
  CHECK(std::strstr(earshot_last_error(), path) != nullptr);
  earshot_recognizer* recognizer = earshot_recognizer_create(model, nullptr);
  earshot_stream* stream = earshot_stream_create(recognizer);
  earshot_model_free(model);
  earshot_recognizer_free(recognizer);
  std::vector<float> samples(8000);
  for (float& v : samples) v = 0.3f * Next();
  CHECK(earshot_stream_accept_waveform(stream, samples.data(), samples.size()) == EARSHOT_OK);
  CHECK(earshot_stream_input_finished(stream) == EARSHOT_OK);
  CHECK(earshot_stream_decode(stream) == EARSHOT_OK);
  earshot_result* result = earshot_stream_result(stream);
  CHECK(result != nullptr && result->json != nullptr);
  CHECK(std::fabs(result->decoded_s - 13 * 0.04) < 1e-9);
  earshot_result_free(result);
  samples[3] = NAN;
  CHECK(earshot_stream_reset(stream) == EARSHOT_OK);
  CHECK(earshot_stream_accept_waveform(stream, samples.data(), samples.size()) == EARSHOT_ERROR_ARGUMENT);
  earshot_stream_free(stream);
}

}  // namespace

int main(int, char** argv) {
  TestChecksum();
  TestDamage();
  TestWidths();
  TestChunksAndStreams();
  TestRecogniser();
  TestCFunctions((std::string(argv[0]) + ".ear").c_str());
  std::puts("model_test: all good");
  return 0;
}

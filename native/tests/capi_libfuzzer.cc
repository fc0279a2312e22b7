// capi_libfuzzer.cc: a libFuzzer target that opens bytes as a model through the C API.
//
// What opens hears a little noise, so that the engine runs whatever graphs the
// file describes. The mutator makes sizes, offsets and checksums right again in
// most of its inputs: without that, hardly one in a million would get past them.
// Needs clang; CONTRIBUTING.md has the commands.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "ear_mutations.h"
#include "earshot.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "capi_libfuzzer: %s (last error: %s)\n", what, earshot_last_error());
  std::abort();
}

// A file in memory, written anew for every input: the C API opens paths.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("input.ear", 0)), path_("/proc/self/fd/" + std::to_string(fd_)) {
    if (fd_ < 0) Fail("no memory file");
  }
  const char* Hold(const uint8_t* data, size_t size) {
    if (ftruncate(fd_, 0) != 0) Fail("ftruncate");
    for (size_t at = 0; at < size;) {
      const ssize_t wrote = pwrite(fd_, data + at, size - at, static_cast<off_t>(at));
      if (wrote <= 0) Fail("pwrite");
      at += static_cast<size_t>(wrote);
    }
    return path_.c_str();
  }

 private:
  int fd_;
  std::string path_;
};

// Two chunks of noise through a recogniser, as a program in C would.
void Hear(const earshot_model* model) {
  static const std::vector<float> samples = [] {
    std::vector<float> noise(3000);
    uint32_t state = 1;
    for (float& x : noise) {
      state = state * 1664525u + 1013904223u;
      x = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
    }
    return noise;
  }();
  earshot_config config;
  earshot_config_init(&config);
  for (const int32_t paths : {1, 4}) {
    config.max_active_paths = paths;
    earshot_recognizer* recognizer = earshot_recognizer_create(model, &config);
    if (recognizer == nullptr) {
      if (*earshot_last_error() == 0) Fail("no recognizer and no error");
      return;  // a model without the graphs of a recogniser
    }
    earshot_stream* stream = earshot_stream_create(recognizer);
    if (stream == nullptr) Fail("no stream");
    if (earshot_stream_accept_waveform(stream, samples.data(), 1000) != EARSHOT_OK) Fail("first chunk");
    if (earshot_stream_decode(stream) != EARSHOT_OK) Fail("decoding");
    if (earshot_stream_accept_waveform(stream, samples.data() + 1000, samples.size() - 1000) != EARSHOT_OK) Fail("second chunk");
    if (earshot_stream_input_finished(stream) != EARSHOT_OK) Fail("end of input");
    if (earshot_stream_decode(stream) != EARSHOT_OK) Fail("decoding the rest");
    earshot_result* result = earshot_stream_result(stream);
    if (result == nullptr) Fail("no result");
    earshot_result_free(result);
    if (earshot_stream_reset(stream) != EARSHOT_OK) Fail("reset");
    earshot_stream_free(stream);
    earshot_recognizer_free(recognizer);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile file;
  earshot_model* model = earshot_model_open(file.Hold(data, size));
  if (model == nullptr) {
    if (std::strstr(earshot_last_error(), ": ") == nullptr) Fail("refused without a problem and a remedy");
    return 0;
  }
  Hear(model);
  earshot_model_free(model);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  using namespace earshot::fuzz;
  Random random(seed);
  if (random.Below(8) == 0) return LLVMFuzzerMutate(data, size, max_size);
  Bytes out;
  try {
    Parts parts = TakeApart(data, size);
    if (random.Below(4) == 0) {
      // libFuzzer's own ideas, guided by what it saw compared, for the header alone.
      const size_t length = parts.header.size();
      parts.header.resize(length + 64, ' ');
      parts.header.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(parts.header.data()), length, length + 64));
    } else {
      MutateParts(&parts, &random);
    }
    out = Join(std::move(parts));
  } catch (const std::exception&) {  // not sound: only its header check can be made right
    if (size < 32) return LLVMFuzzerMutate(data, size, max_size);
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size < 32) return size;
    uint32_t header = 0;
    for (int i = 3; i >= 0; --i) header = header << 8 | data[12 + i];
    if (header > size - 32) PutU32(data + 12, header = static_cast<uint32_t>(size - 32));
    PutU32(data + 16, static_cast<uint32_t>(size));
    PutU32(data + 20, 0);
    PutU32(data + 24, earshot::Crc32(earshot::Crc32(0, data, 24), data + 32, header));
    return size;
  }
  if (out.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::copy(out.begin(), out.end(), data);
  return out.size();
}

// capi.cc: the C functions of earshot.h over the C++ classes. No exception
// leaves; what it said is kept for earshot_last_error.
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "earshot.h"
#include "recognizer.h"

struct earshot_model {
  std::shared_ptr<const earshot::Model> model;
};
struct earshot_recognizer {
  std::shared_ptr<const earshot::Recognizer> recognizer;
};
struct earshot_stream {
  std::unique_ptr<earshot::Stream> stream;
};

namespace {

// The struct that C sees and the memory behind its pointers.
struct OwnedResult : earshot_result {
  earshot::Transcript transcript;
  std::vector<earshot_word> word_list;
  std::string json_text;
};

constexpr double kFrameSeconds = earshot::Model::kFrameMs / 1000.0;

std::string& LastError() {
  thread_local std::string text;
  return text;
}

earshot_status Fail(earshot_status status, const char* what) {
  try {
    LastError() = what;
  } catch (...) {  // no memory even for the message
  }
  return status;
}

// Runs `body`; turns what it throws into a status.
template <typename Body>
earshot_status Guard(Body body) {
  try {
    body();
    return EARSHOT_OK;
  } catch (const earshot::ModelFileError& error) {
    return Fail(EARSHOT_ERROR_MODEL, error.what());
  } catch (const std::bad_alloc&) {
    return Fail(EARSHOT_ERROR_MEMORY, "out of memory");
  } catch (const std::invalid_argument& error) {
    return Fail(EARSHOT_ERROR_ARGUMENT, error.what());
  } catch (const std::logic_error& error) {
    return Fail(EARSHOT_ERROR_STATE, error.what());
  } catch (const std::exception& error) {
    return Fail(EARSHOT_ERROR_OTHER, error.what());
  } catch (...) {
    return Fail(EARSHOT_ERROR_OTHER, "an unknown error");
  }
}

void Require(const void* pointer, const char* what) {
  if (pointer == nullptr) throw std::invalid_argument(std::string(what) + " is NULL; it must be given.");
}

}  // namespace

extern "C" {

const char* earshot_version(void) { return EARSHOT_VERSION; }

const char* earshot_last_error(void) { return LastError().c_str(); }

earshot_model* earshot_model_open(const char* path) {
  std::unique_ptr<earshot_model> out;
  Guard([&] {
    Require(path, "path");
    out = std::make_unique<earshot_model>();
    out->model = earshot::Model::Open(path);
  });
  return out != nullptr && out->model != nullptr ? out.release() : nullptr;
}

void earshot_model_free(earshot_model* model) { delete model; }

const char* earshot_model_name(const earshot_model* model) { return model == nullptr ? "" : model->model->name().c_str(); }

int32_t earshot_model_sample_rate_hz(const earshot_model* model) {
  return model == nullptr ? 0 : earshot::Model::kSampleRateHz;
}

void earshot_config_init(earshot_config* config) {
  if (config == nullptr) return;
  config->max_active_paths = 4;
  config->max_symbols_per_frame = 0;
  config->blank_penalty = 0;
  config->without_language_model = 0;
}

earshot_recognizer* earshot_recognizer_create(const earshot_model* model, const earshot_config* config) {
  std::unique_ptr<earshot_recognizer> out;
  Guard([&] {
    Require(model, "model");
    earshot_config defaults;
    earshot_config_init(&defaults);
    if (config == nullptr) config = &defaults;
    if (config->max_active_paths < 1 || config->max_symbols_per_frame < 0 || (config->without_language_model != 0 && config->without_language_model != 1)) {
      throw std::invalid_argument(
          "config: max_active_paths must be in 1..64, max_symbols_per_frame in 0..100 and without_language_model 0 or 1. Call earshot_config_init first.");
    }
    earshot::SearchConfig native;
    native.max_active_paths = static_cast<size_t>(config->max_active_paths);
    native.max_symbols_per_frame = static_cast<size_t>(config->max_symbols_per_frame);
    native.blank_penalty = config->blank_penalty;
    out = std::make_unique<earshot_recognizer>();
    const auto prior = config->without_language_model == 0 ? earshot::PriorParts::Own(model->model) : earshot::PriorParts();
    out->recognizer = earshot::Recognizer::Create(model->model, native, {}, {}, nullptr, prior);
  });
  return out != nullptr && out->recognizer != nullptr ? out.release() : nullptr;
}

void earshot_recognizer_free(earshot_recognizer* recognizer) { delete recognizer; }

earshot_stream* earshot_stream_create(const earshot_recognizer* recognizer) {
  std::unique_ptr<earshot_stream> out;
  Guard([&] {
    Require(recognizer, "recognizer");
    out = std::make_unique<earshot_stream>();
    out->stream = recognizer->recognizer->CreateStream();
  });
  return out != nullptr && out->stream != nullptr ? out.release() : nullptr;
}

void earshot_stream_free(earshot_stream* stream) { delete stream; }

earshot_status earshot_stream_accept_waveform(earshot_stream* stream, const float* samples, size_t count) {
  return Guard([&] {
    Require(stream, "stream");
    if (count > 0) Require(samples, "samples");
    stream->stream->AcceptWaveform(samples, count);
  });
}

earshot_status earshot_stream_input_finished(earshot_stream* stream) {
  return Guard([&] {
    Require(stream, "stream");
    stream->stream->InputFinished();
  });
}

int earshot_stream_is_ready(const earshot_stream* stream) {
  bool ready = false;
  Guard([&] {
    Require(stream, "stream");
    ready = stream->stream->IsReady();
  });
  return ready ? 1 : 0;
}

earshot_status earshot_stream_decode(earshot_stream* stream) { return earshot_decode_streams(&stream, 1); }

earshot_status earshot_decode_streams(earshot_stream* const* streams, size_t count) {
  return Guard([&] {
    if (count == 0) return;
    Require(streams, "streams");
    std::vector<earshot::Stream*> native;
    native.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      Require(streams[i], "a stream");
      native.push_back(streams[i]->stream.get());
    }
    native[0]->recognizer().DecodeStreams(native.data(), count);
  });
}

earshot_result* earshot_stream_result(const earshot_stream* stream) {
  std::unique_ptr<OwnedResult> out;
  const earshot_status status = Guard([&] {
    Require(stream, "stream");
    out = std::make_unique<OwnedResult>();
    out->transcript = stream->stream->Result();
    out->json_text = earshot::ToJson(out->transcript);
    out->word_list.reserve(out->transcript.words.size());
    for (const earshot::Word& word : out->transcript.words) {
      out->word_list.push_back({word.text.c_str(), word.start_frame * kFrameSeconds, word.end_frame * kFrameSeconds, word.confidence});
    }
    out->text = out->transcript.text.c_str();
    out->words = out->word_list.data();
    out->num_words = out->word_list.size();
    out->decoded_s = static_cast<double>(out->transcript.num_frames) * kFrameSeconds;
    out->score = out->transcript.score;
    out->json = out->json_text.c_str();
  });
  return status == EARSHOT_OK ? out.release() : nullptr;
}

void earshot_result_free(earshot_result* result) { delete static_cast<OwnedResult*>(result); }

earshot_status earshot_stream_reset(earshot_stream* stream) {
  return Guard([&] {
    Require(stream, "stream");
    stream->stream->Reset();
  });
}

}  // extern "C"

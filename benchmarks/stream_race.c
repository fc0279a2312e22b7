/* stream_race.c: a recogniser over clips, fed in chunks as a microphone would; what it cost.
 *
 * One program for two engines, so that nothing but the engine differs: with -DWITH_SHERPA it is
 * compiled against the C API that the sherpa-onnx wheel carries, without it against earshot.h.
 *
 * Usage: stream_race METHOD CHUNK_SAMPLES CLIPS MODEL.ear
 *        stream_race METHOD CHUNK_SAMPLES CLIPS ENCODER DECODER JOINER TOKENS
 * METHOD is greedy_search or modified_beam_search. CLIPS holds, for each clip, a 32-bit count and that many
 * 16-bit samples at 16 kHz, all of this machine's byte order. Prints the text of every clip on a line,
 * the first as soon as it is there, and at last a JSON object: CPU seconds from the first sample to the last
 * text, and the peak of resident memory. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_CHUNK 16000
#define FAIL(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

#ifdef WITH_SHERPA
#include "sherpa-onnx/c-api/c-api.h"

static const SherpaOnnxOnlineRecognizer* recognizer;
static const SherpaOnnxOnlineStream* stream;

static void load(const char* method, char** model, int count) {
  SherpaOnnxOnlineRecognizerConfig config;
  if (count != 4) FAIL("sherpa-onnx takes encoder, decoder, joiner and tokens; %d files were named", count);
  memset(&config, 0, sizeof config);
  config.feat_config.sample_rate = 16000;
  config.feat_config.feature_dim = 80;
  config.model_config.transducer.encoder = model[0];
  config.model_config.transducer.decoder = model[1];
  config.model_config.transducer.joiner = model[2];
  config.model_config.tokens = model[3];
  config.model_config.num_threads = 1;
  config.model_config.provider = "cpu";
  config.model_config.model_type = "lstm"; /* without it the encoder is loaded twice */
  config.decoding_method = method;
  config.max_active_paths = 4;
  recognizer = SherpaOnnxCreateOnlineRecognizer(&config);
  if (!recognizer) FAIL("sherpa-onnx: the model cannot be loaded");
}

static void begin(void) { stream = SherpaOnnxCreateOnlineStream(recognizer); }

static void decode(void) {
  while (SherpaOnnxIsOnlineStreamReady(recognizer, stream)) SherpaOnnxDecodeOnlineStream(recognizer, stream);
}

static void feed(const float* samples, int count) {
  SherpaOnnxOnlineStreamAcceptWaveform(stream, 16000, samples, count);
  decode();
}

static void end(void) {
  SherpaOnnxOnlineStreamInputFinished(stream);
  decode();
  const SherpaOnnxOnlineRecognizerResult* result = SherpaOnnxGetOnlineStreamResult(recognizer, stream);
  puts(result->text);
  SherpaOnnxDestroyOnlineRecognizerResult(result);
  SherpaOnnxDestroyOnlineStream(stream);
}
#else
#include "earshot.h"

static earshot_recognizer* recognizer;
static earshot_stream* stream;

static void load(const char* method, char** model, int count) {
  earshot_config config;
  if (count != 1) FAIL("earshot takes one model file; %d were named", count);
  earshot_config_init(&config);
  config.max_active_paths = strcmp(method, "greedy_search") ? 4 : 1;
  config.without_language_model = 1; /* the other engine has none */
  earshot_model* opened = earshot_model_open(model[0]);
  recognizer = opened ? earshot_recognizer_create(opened, &config) : NULL;
  if (!recognizer) FAIL("%s", earshot_last_error());
}

static void begin(void) {
  stream = earshot_stream_create(recognizer);
  if (!stream) FAIL("%s", earshot_last_error());
}

static void feed(const float* samples, int count) {
  if (earshot_stream_accept_waveform(stream, samples, (size_t)count) || earshot_stream_decode(stream))
    FAIL("%s", earshot_last_error());
}

static void end(void) {
  if (earshot_stream_input_finished(stream) || earshot_stream_decode(stream)) FAIL("%s", earshot_last_error());
  earshot_result* result = earshot_stream_result(stream);
  if (!result) FAIL("%s", earshot_last_error());
  puts(result->text);
  earshot_result_free(result);
  earshot_stream_free(stream);
}
#endif

static double cpu_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static long peak_kib(void) {
  char line[256];
  long kib = -1;
  FILE* status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status)) {
    if (!strncmp(line, "VmHWM:", 6)) kib = atol(line + 6);
  }
  if (status) fclose(status);
  return kib;
}

int main(int argc, char** argv) {
  static int16_t pcm[MAX_CHUNK];
  static float samples[MAX_CHUNK];
  if (argc < 5) FAIL("usage: stream_race METHOD CHUNK_SAMPLES CLIPS MODEL...");
  const uint32_t chunk = (uint32_t)atoi(argv[2]);
  if (chunk < 1 || chunk > MAX_CHUNK) FAIL("CHUNK_SAMPLES is %s; it must be in 1..%d", argv[2], MAX_CHUNK);
  FILE* clips = fopen(argv[3], "rb");
  if (!clips) FAIL("%s: cannot be opened", argv[3]);
  load(argv[1], argv + 4, argc - 4);
  const double start = cpu_s();
  for (uint32_t left; fread(&left, sizeof left, 1, clips) == 1;) {
    begin();
    while (left > 0) {
      const uint32_t want = left < chunk ? left : chunk;
      if (fread(pcm, sizeof *pcm, want, clips) != want) FAIL("%s: ends within a clip", argv[3]);
      for (uint32_t i = 0; i < want; ++i) samples[i] = (float)pcm[i] / 32768.0f;
      feed(samples, (int)want);
      left -= want;
    }
    end();
    fflush(stdout);
  }
  printf("{\"cpu_s\": %.6f, \"peak_kib\": %ld}\n", cpu_s() - start, peak_kib());
  fclose(clips);
  return 0;
}

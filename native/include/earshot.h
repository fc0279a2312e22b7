/* earshot.h: speech recognition on the device, in C.
 *
 *   earshot_model* model = earshot_model_open("assistant-en.ear");
 *   earshot_recognizer* recognizer = earshot_recognizer_create(model, NULL);
 *   earshot_stream* stream = earshot_stream_create(recognizer);
 *   earshot_stream_accept_waveform(stream, samples, count);   // as often as audio comes
 *   earshot_stream_decode(stream);
 *   earshot_result* result = earshot_stream_result(stream);   // partial results too
 *   ... earshot_stream_input_finished(stream), decode, result ...
 *   earshot_result_free(result); earshot_stream_free(stream); ... in any order
 *
 * Functions that return a pointer return NULL when they fail, the others an
 * earshot_status; earshot_last_error() then says what happened and what to do.
 * All text is UTF-8. A model and a recognizer may be used by many threads at
 * once; calls on one stream take turns. Every free function accepts NULL.
 */
#ifndef EARSHOT_H_
#define EARSHOT_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(EARSHOT_BUILDING_LIBRARY)
#define EARSHOT_API __declspec(dllexport)
#else
#define EARSHOT_API
#endif
#else
#define EARSHOT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum earshot_status {
  EARSHOT_OK = 0,
  EARSHOT_ERROR_MODEL = 1,    /* the file is no sound model, or not one of a recognizer */
  EARSHOT_ERROR_ARGUMENT = 2, /* a value that the function does not take, such as a NaN sample */
  EARSHOT_ERROR_STATE = 3,    /* not now, such as audio after the end of the input */
  EARSHOT_ERROR_MEMORY = 4,
  EARSHOT_ERROR_OTHER = 5
} earshot_status;

typedef struct earshot_model earshot_model;
typedef struct earshot_recognizer earshot_recognizer;
typedef struct earshot_stream earshot_stream;

typedef struct earshot_config {
  int32_t max_active_paths;      /* 1: greedy search; 2..64: modified beam search */
  int32_t max_symbols_per_frame; /* 0: as the model says */
  float blank_penalty;           /* taken off the logit of blank */
  int32_t without_language_model; /* 1: without the one that the model's file may carry; 0: with it */
} earshot_config;

typedef struct earshot_word {
  const char* word;
  double start_s; /* seconds from the beginning of the stream */
  double end_s;
  float confidence; /* 0..1 */
} earshot_word;

typedef struct earshot_result {
  const char* text;
  const earshot_word* words;
  size_t num_words;
  double decoded_s; /* how much audio the result covers */
  double score;     /* log-probability */
  const char* json; /* all of it and the pieces, as one JSON object */
} earshot_result;

EARSHOT_API const char* earshot_version(void);
/* Of the calling thread's last call that failed; "" before. Valid until its next one. */
EARSHOT_API const char* earshot_last_error(void);

EARSHOT_API earshot_model* earshot_model_open(const char* path);
EARSHOT_API void earshot_model_free(earshot_model* model);
EARSHOT_API const char* earshot_model_name(const earshot_model* model);
EARSHOT_API int32_t earshot_model_sample_rate_hz(const earshot_model* model);

/* A beam of four paths, as in Python, with the model's settings. */
EARSHOT_API void earshot_config_init(earshot_config* config);
/* `config` may be NULL: what earshot_config_init gives. */
EARSHOT_API earshot_recognizer* earshot_recognizer_create(const earshot_model* model,
                                                          const earshot_config* config);
EARSHOT_API void earshot_recognizer_free(earshot_recognizer* recognizer);

EARSHOT_API earshot_stream* earshot_stream_create(const earshot_recognizer* recognizer);
EARSHOT_API void earshot_stream_free(earshot_stream* stream);
/* Mono samples at the model's rate, nominally in [-1, 1]. */
EARSHOT_API earshot_status earshot_stream_accept_waveform(earshot_stream* stream,
                                                          const float* samples, size_t count);
EARSHOT_API earshot_status earshot_stream_input_finished(earshot_stream* stream);
/* 1 if decoding would make progress, else 0. */
EARSHOT_API int earshot_stream_is_ready(const earshot_stream* stream);
EARSHOT_API earshot_status earshot_stream_decode(earshot_stream* stream);
/* Many streams of one recognizer together: the weights are read once for all of them. */
EARSHOT_API earshot_status earshot_decode_streams(earshot_stream* const* streams, size_t count);
EARSHOT_API earshot_result* earshot_stream_result(const earshot_stream* stream);
EARSHOT_API void earshot_result_free(earshot_result* result);
/* Back to the beginning: neither text nor acoustic state of the recording stays. */
EARSHOT_API earshot_status earshot_stream_reset(earshot_stream* stream);

#ifdef __cplusplus
}
#endif

#endif /* EARSHOT_H_ */

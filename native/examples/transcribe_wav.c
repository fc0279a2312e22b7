/* transcribe_wav.c: prints the words of a 16 kHz, 16-bit, mono PCM WAV file.
 * Usage: transcribe_wav MODEL.ear FILE.wav [--json] */
#include <stdio.h>
#include <string.h>

#include "earshot.h"

static unsigned u32(const unsigned char* p) { return p[0] | p[1] << 8 | p[2] << 16 | (unsigned)p[3] << 24; }

/* Leaves the file at its samples and returns how many bytes of them follow; 0 if it is not such a file. */
static unsigned find_samples(FILE* file) {
  unsigned char head[16];
  int pcm = 0;
  if (fread(head, 1, 12, file) != 12 || memcmp(head, "RIFF", 4) || memcmp(head + 8, "WAVE", 4)) return 0;
  while (fread(head, 1, 8, file) == 8) {
    unsigned size = u32(head + 4), used = 0;
    if (!memcmp(head, "data", 4)) return pcm ? size : 0;
    if (!memcmp(head, "fmt ", 4) && (used = 16) && fread(head, 1, 16, file) == 16)
      pcm = u32(head) == 0x00010001 && u32(head + 4) == 16000 && head[14] == 16; /* PCM, 1 channel */
    if (size < used || fseek(file, (long)(size - used + size % 2), SEEK_CUR)) return 0;
  }
  return 0;
}

static int failed(void) { return fprintf(stderr, "%s\n", earshot_last_error()), 1; }

int main(int argc, char** argv) {
  unsigned char bytes[8000];
  float samples[4000];
  if (argc < 3) return fprintf(stderr, "usage: transcribe_wav MODEL.ear FILE.wav [--json]\n"), 2;
  FILE* file = fopen(argv[2], "rb");
  unsigned left = file ? find_samples(file) : 0;
  if (!left) return fprintf(stderr, "%s: not a 16 kHz, 16-bit, mono PCM WAV file with samples.\n", argv[2]), 1;
  earshot_model* model = earshot_model_open(argv[1]);
  earshot_recognizer* recognizer = model ? earshot_recognizer_create(model, NULL) : NULL;
  earshot_stream* stream = recognizer ? earshot_stream_create(recognizer) : NULL;
  if (!stream) return failed();
  for (size_t got; left && (got = fread(bytes, 1, left < sizeof bytes ? left : sizeof bytes, file)) > 1; left -= got) {
    for (size_t i = 0; i < got / 2; ++i) samples[i] = (float)(short)(bytes[2 * i] | bytes[2 * i + 1] << 8) / 32768.0f;
    if (earshot_stream_accept_waveform(stream, samples, got / 2) || earshot_stream_decode(stream)) return failed();
  }
  if (earshot_stream_input_finished(stream) || earshot_stream_decode(stream)) return failed();
  earshot_result* result = earshot_stream_result(stream);
  if (!result) return failed();
  puts(argc > 3 && !strcmp(argv[3], "--json") ? result->json : result->text);
  earshot_result_free(result), earshot_stream_free(stream), earshot_recognizer_free(recognizer), earshot_model_free(model), fclose(file);
  return 0;
}

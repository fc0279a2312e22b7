// model_fuzz.cc: opens mutants of a model file and runs one step of those that open.
//
// Usage: model_fuzz FILE.ear [mutants, default 20000] [seed, default 1]
//
// Half of the mutants are damaged as they are, mostly caught by a checksum. The
// other half have sizes, offsets and checksums made right again after names,
// numbers and weights were changed, so the checks behind the checksums and the
// engine itself get their share. Made to be built with sanitizers; any exception
// but ModelFileError, and any message without a problem and a remedy, is a bug.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "ear_mutations.h"
#include "executor.h"
#include "model.h"
#include "recognizer.h"
#include "speller.h"

namespace {

using namespace earshot::fuzz;
void Run(const std::shared_ptr<const earshot::Model>& model, Random* random) {
  for (const auto& graph : model->graphs()) {
    const size_t frames = 9;
    std::vector<std::vector<float>> vectors;
    std::vector<std::vector<int32_t>> ids;
    std::vector<const void*> inputs;
    for (const int input : graph->inputs()) {
      const earshot::Value& value = graph->value(input);
      if (value.ids) {
        ids.emplace_back(frames);
        for (int32_t& id : ids.back()) id = static_cast<int32_t>(random->Below(std::min<size_t>(graph->id_limit(), 1000) + 1)) - 1;
        inputs.push_back(ids.back().data());
      } else {
        vectors.emplace_back(frames * value.width);
        for (float& x : vectors.back()) x = static_cast<float>(random->Below(2001)) / 100.0f - 10.0f;
        inputs.push_back(vectors.back().data());
      }
    }
    earshot::Executor executor(graph);
    earshot::GraphState one(graph), two(graph);
    earshot::Executor::Item items[2];
    for (size_t i = 0; i < 2; ++i) {
      items[i].inputs = inputs.data();
      items[i].frames = frames - 4 * i;
      items[i].flush = i == 1;
      items[i].state = i == 0 ? &one : &two;
    }
    executor.Step(items, 1);
    executor.Step(items, 2);
  }
  if (model->FindGraph("encoder") == nullptr || model->FindGraph("predictor") == nullptr || model->FindGraph("joiner") == nullptr) return;
  earshot::SearchConfig config;
  config.max_active_paths = 1 + random->Below(5);
  // A language model and a tokenizer are used, or refused with an error.
  earshot::PriorParts prior;
  try {
    prior = earshot::PriorParts::Own(model);
  } catch (const earshot::ModelFileError&) {
  }
  try {
    const auto speller = earshot::Speller::Of(*model);
    earshot::SpellScratch scratch;
    speller->Spell("turn on the light", 4, &scratch);
  } catch (const std::invalid_argument&) {
  }
  std::shared_ptr<const earshot::Recognizer> recognizer;
  try {
    recognizer = earshot::Recognizer::Create(model, config, {}, {}, nullptr, prior);
  } catch (const std::invalid_argument&) {  // of other pieces
    recognizer = earshot::Recognizer::Create(model, config);
  }
  const auto stream = recognizer->CreateStream();
  std::vector<float> samples(3000);
  for (float& x : samples) x = static_cast<float>(random->Below(2001)) / 1000.0f - 1.0f;
  stream->AcceptWaveform(samples.data(), samples.size());
  stream->InputFinished();
  earshot::Stream* const streams[] = {stream.get()};
  recognizer->DecodeStreams(streams, 1);
  earshot::ToJson(stream->Result());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: model_fuzz FILE.ear [mutants] [seed]\n");
    return 2;
  }
  const size_t mutants = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 20000;
  Random random(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  std::ifstream stream(argv[1], std::ios::binary);
  const Bytes original((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  const Parts parts = TakeApart(original.data(), original.size());
  const Bytes joined = Join(parts);
  Run(earshot::Model::FromFile(earshot::ModelFile::FromBytes("the file itself", joined.data(), joined.size())), &random);

  size_t opened = 0;
  for (size_t i = 0; i < mutants; ++i) {
    Bytes bytes;
    if (i % 2 == 0) {
      bytes = original;
      MutateRaw(&bytes, &random);
    } else {
      Parts mutant = parts;
      MutateParts(&mutant, &random);
      bytes = Join(std::move(mutant));
    }
    std::shared_ptr<const earshot::Model> model;
    try {
      model = earshot::Model::FromFile(earshot::ModelFile::FromBytes("mutant", bytes.data(), bytes.size()));
    } catch (const earshot::ModelFileError& error) {
      if (error.problem().empty() || error.remedy().empty()) {
        std::fprintf(stderr, "mutant %zu: an error without problem or remedy\n", i);
        return 1;
      }
      continue;
    }
    ++opened;
    Run(model, &random);
  }
  std::printf("%zu mutants: %zu refused, %zu opened and ran\n", mutants, mutants - opened, opened);
  return 0;
}

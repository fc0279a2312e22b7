// model.h: an opened `.ear` file with its graphs bound and its recogniser roles checked.
//
// Knows the header beyond the container: features, search settings, pieces, and
// which graphs a recogniser needs (docs/formats/ear.md, sections 2 and 4).
// Immutable after Open; share it freely between threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "graph.h"
#include "model_file.h"

namespace earshot {

struct SearchSettings {
  int32_t blank_id = 0;
  int32_t unk_id = 2;
  bool stateful = false;       // predictor
  size_t context_size = 2;     // ids that a stateless predictor sees
  size_t max_symbols_per_frame = 1;
};

class Model {
 public:
  // Outputs of graph `endpoint`: speech, silence before it, a pause in it, silence after it.
  static constexpr size_t kEndpointClasses = 4;
  // Feature frames per encoder frame, and milliseconds of both.
  static constexpr size_t kSubsampling = 4;
  static constexpr int kFrameMs = 40;
  static constexpr int kSampleRateHz = 16000;
  // Pieces that an entry of trained biasing may know before its own (at least one), and behind it.
  static constexpr size_t kMaxBiasReach = 4;
  static constexpr size_t kMaxBiasPhones = 8;    // that it may know
  static constexpr size_t kMaxBiasWidth = 4096;  // of its keys and values

  // Opens and checks everything; throws ModelFileError.
  static std::shared_ptr<const Model> Open(const std::string& path);
  static std::shared_ptr<const Model> FromFile(std::shared_ptr<const ModelFile> file);

  const ModelFile& file() const { return *file_; }
  const std::string& name() const { return name_; }
  size_t num_bins() const { return num_bins_; }        // 0 if the file has no `features`
  bool has_search() const { return has_search_; }
  const SearchSettings& search() const { return search_; }
  const std::vector<std::string>& pieces() const { return pieces_; }
  // What the columns of graph `phones` mean, from column 1 on; column 0 is blank. Empty without the graph.
  const std::vector<std::string>& phones() const { return phones_; }
  // Pieces around its own that an entry of a list of phrases knows; of a model with the graph `bias`.
  size_t bias_before() const { return bias_before_; }
  size_t bias_after() const { return bias_after_; }
  size_t bias_phones() const { return bias_phones_; }  // that it knows, up to the end of its own piece
  const std::vector<std::shared_ptr<const Graph>>& graphs() const { return graphs_; }
  std::shared_ptr<const Graph> FindGraph(std::string_view name) const;  // null if there is none
  // Throws ModelFileError unless encoder, predictor and joiner are there.
  void RequireRecogniser() const;

 private:
  explicit Model(std::shared_ptr<const ModelFile> file) : file_(std::move(file)) {}
  void Read();
  void ReadFeatures(JsonValue json);
  void ReadSearch(JsonValue json);
  void ReadPhones(JsonValue json);
  void ReadBias(JsonValue json);
  void CheckRoles() const;
  void CheckBias() const;

  std::shared_ptr<const ModelFile> file_;
  std::string name_;
  size_t num_bins_ = 0;
  bool has_search_ = false;
  SearchSettings search_;
  std::vector<std::string> pieces_, phones_;
  bool has_bias_ = false;
  size_t bias_before_ = 0, bias_after_ = 0, bias_phones_ = 0;
  std::vector<std::shared_ptr<const Graph>> graphs_;
};

}  // namespace earshot

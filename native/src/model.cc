// model.cc: header keys beyond the container, and the roles of graphs.
#include "model.h"

#include <algorithm>

namespace earshot {
namespace {

constexpr size_t kMaxPieces = 65536;
constexpr size_t kMaxPhones = 1024;
constexpr size_t kMaxGraphs = 64;

std::string Size(size_t n) { return std::to_string(n); }

bool IsRecogniserGraph(std::string_view name) {
  return name == "encoder" || name == "predictor" || name == "joiner" || name == "ctc" || name == "phones" ||
         name == "second_pass" || name == "endpoint" || name == "bias" || name == "bias_audio" || name == "bias_label";
}

}  // namespace

std::shared_ptr<const Model> Model::Open(const std::string& path) { return FromFile(ModelFile::Open(path)); }

std::shared_ptr<const Model> Model::FromFile(std::shared_ptr<const ModelFile> file) {
  std::shared_ptr<Model> model(new Model(std::move(file)));
  model->Read();
  return model;
}

std::shared_ptr<const Graph> Model::FindGraph(std::string_view name) const {
  for (const auto& graph : graphs_) {
    if (graph->name() == name) return graph;
  }
  return nullptr;
}

void Model::Read() {
  const JsonValue header = file_->header();
  const JsonValue name = header.Find("name");
  if (!name || name.kind() != JsonKind::kString || name.string().size() > ModelFile::kMaxNameBytes) {
    file_->Bad("the header has no `name` of at most " + Size(ModelFile::kMaxNameBytes) + " bytes");
  }
  name_ = name.string();
  if (const JsonValue metadata = header.Find("metadata")) {
    if (metadata.kind() != JsonKind::kObject) file_->Bad("`metadata` is not an object");
    for (JsonValue v = metadata.first(); v; v = v.next()) {
      if (v.kind() != JsonKind::kString) file_->Bad("`metadata` has the key " + Quoted(v.key()) + ", which is not a string");
    }
  }
  const JsonValue graphs = header.Find("graphs");
  if (!graphs || graphs.kind() != JsonKind::kObject) file_->Bad("the header has no object `graphs`");
  if (graphs.size() > kMaxGraphs) file_->Bad("the header has " + Size(graphs.size()) + " graphs; at most " + Size(kMaxGraphs) + " are allowed");
  bool recogniser = false;
  for (JsonValue v = graphs.first(); v; v = v.next()) recogniser = recogniser || IsRecogniserGraph(v.key());
  for (const char* key : {"features", "search", "pieces"}) {
    if (recogniser && !header.Find(key)) file_->Bad(std::string("the header has the graphs of a recogniser but no `") + key + "`");
  }
  if (const JsonValue features = header.Find("features")) ReadFeatures(features);
  if (const JsonValue pieces = header.Find("pieces")) {
    if (pieces.kind() != JsonKind::kArray || pieces.size() > kMaxPieces) {
      file_->Bad("`pieces` is not a list of at most " + Size(kMaxPieces) + " strings");
    }
    pieces_.reserve(pieces.size());
    for (JsonValue v = pieces.first(); v; v = v.next()) {
      if (v.kind() != JsonKind::kString) file_->Bad("`pieces` has at " + Size(pieces_.size()) + " something that is not a string");
      pieces_.emplace_back(v.string());
    }
  }
  if (const JsonValue search = header.Find("search")) ReadSearch(search);
  if (const JsonValue phones = header.Find("phones")) ReadPhones(phones);
  if (const JsonValue bias = header.Find("bias")) ReadBias(bias);
  for (JsonValue v = graphs.first(); v; v = v.next()) {
    if (v.key().empty() || v.key().size() > ModelFile::kMaxNameBytes) {
      file_->Bad("a graph has a name that is not 1.." + Size(ModelFile::kMaxNameBytes) + " bytes");
    }
    graphs_.push_back(std::make_shared<const Graph>(file_, std::string(v.key()), v,
                                                    v.key() == "encoder" ? num_bins_ : 0));
  }
  CheckRoles();
  CheckBias();
}

void Model::ReadFeatures(JsonValue json) {
  if (json.kind() != JsonKind::kObject) file_->Bad("`features` is not an object");
  struct Fixed {
    const char* key;
    double number;
    const char* text;  // instead of the number
  };
  static constexpr Fixed kFixed[] = {
      {"type", 0, "kaldi_fbank"}, {"sample_rate_hz", 16000, nullptr}, {"frame_length_ms", 25, nullptr},
      {"frame_shift_ms", 10, nullptr}, {"low_freq_hz", 20, nullptr}, {"high_freq_hz", -400, nullptr},
      {"preemphasis", 0.97, nullptr}, {"window", 0, "povey"}, {"dither", 0, nullptr},
  };
  for (JsonValue v = json.first(); v; v = v.next()) {
    bool known = v.key() == "num_bins" || v.key() == "snip_edges";
    for (const Fixed& fixed : kFixed) known = known || v.key() == fixed.key;
    if (!known) file_->Bad("`features` has the unknown key " + Quoted(v.key()));
  }
  for (const Fixed& fixed : kFixed) {
    const JsonValue v = json.Find(fixed.key);
    const bool good = v && (fixed.text != nullptr ? v.kind() == JsonKind::kString && v.string() == fixed.text
                                                  : v.kind() == JsonKind::kNumber && v.number() == fixed.number);
    if (!good) {
      std::string value = fixed.text != nullptr ? JsonQuote(fixed.text) : std::to_string(fixed.number);
      if (fixed.text == nullptr) {
        value.erase(value.find_last_not_of('0') + 1);
        if (value.back() == '.') value.pop_back();
      }
      file_->Bad(std::string("`features.") + fixed.key + "` is not " + value + ", the only value of version 1");
    }
  }
  const JsonValue snip = json.Find("snip_edges");
  if (!snip || snip.kind() != JsonKind::kBool || snip.boolean()) {
    file_->Bad("`features.snip_edges` is not false, the only value of version 1");
  }
  const JsonValue bins = json.Find("num_bins");
  if (!bins || bins.kind() != JsonKind::kNumber || !bins.IsInteger() || bins.integer() < 1 || bins.integer() > 256) {
    file_->Bad("`features.num_bins` is not a whole number in 1..256");
  }
  num_bins_ = static_cast<size_t>(bins.integer());
}

void Model::ReadSearch(JsonValue json) {
  if (json.kind() != JsonKind::kObject) file_->Bad("`search` is not an object");
  for (JsonValue v = json.first(); v; v = v.next()) {
    if (v.key() != "blank_id" && v.key() != "unk_id" && v.key() != "predictor" && v.key() != "context_size" &&
        v.key() != "max_symbols_per_frame") {
      file_->Bad("`search` has the unknown key " + Quoted(v.key()));
    }
  }
  const auto integer = [&](const char* key, int64_t low, int64_t high) {
    const JsonValue v = json.Find(key);
    if (!v || v.kind() != JsonKind::kNumber || !v.IsInteger() || v.integer() < low || v.integer() > high) {
      file_->Bad(std::string("`search.") + key + "` is not a whole number in " + std::to_string(low) + ".." + std::to_string(high));
    }
    return v.integer();
  };
  // Without pieces no range of ids is right; the message then says 0..-1.
  const int64_t last = static_cast<int64_t>(pieces_.size()) - 1;
  search_.blank_id = static_cast<int32_t>(integer("blank_id", 0, 0));
  search_.unk_id = static_cast<int32_t>(integer("unk_id", 2, 2));
  if (last < 2) file_->Bad("`pieces` has " + Size(pieces_.size()) + " strings; the ids of `search` need at least 3");
  const JsonValue predictor = json.Find("predictor");
  if (!predictor || (predictor.string() != "stateless" && predictor.string() != "stateful")) {
    file_->Bad("`search.predictor` is not \"stateless\" or \"stateful\"");
  }
  search_.stateful = predictor.string() == "stateful";
  search_.context_size = static_cast<size_t>(integer("context_size", 1, search_.stateful ? 1 : 8));
  search_.max_symbols_per_frame = static_cast<size_t>(integer("max_symbols_per_frame", 1, 100));
  has_search_ = true;
}

void Model::ReadPhones(JsonValue json) {
  if (json.kind() != JsonKind::kArray || json.size() < 1 || json.size() > kMaxPhones) {
    file_->Bad("`phones` is not a list of 1.." + Size(kMaxPhones) + " strings");
  }
  phones_.reserve(json.size());
  for (JsonValue v = json.first(); v; v = v.next()) {
    const std::string at = std::to_string(phones_.size());
    if (v.kind() != JsonKind::kString || v.string().empty() || v.string().size() > ModelFile::kMaxNameBytes) {
      file_->Bad("`phones` has at " + at + " something that is not a string of 1.." + Size(ModelFile::kMaxNameBytes) + " bytes");
    }
    if (std::find(phones_.begin(), phones_.end(), v.string()) != phones_.end()) {
      file_->Bad("`phones` has " + Quoted(v.string()) + " twice, again at " + at);
    }
    phones_.emplace_back(v.string());
  }
}

void Model::ReadBias(JsonValue json) {
  if (json.kind() != JsonKind::kObject) file_->Bad("`bias` is not an object");
  for (JsonValue v = json.first(); v; v = v.next()) {
    if (v.key() != "before" && v.key() != "after" && v.key() != "phones") file_->Bad("`bias` has the unknown key " + Quoted(v.key()));
  }
  const auto reach = [&](const char* key, int64_t least, size_t most) {
    const JsonValue v = json.Find(key);
    if (!v || v.kind() != JsonKind::kNumber || !v.IsInteger() || v.integer() < least || v.integer() > static_cast<int64_t>(most)) {
      file_->Bad(std::string("`bias.") + key + "` is not a whole number in " + std::to_string(least) + ".." + Size(most));
    }
    return static_cast<size_t>(v.integer());
  };
  bias_before_ = reach("before", 1, kMaxBiasReach);
  bias_after_ = reach("after", 0, kMaxBiasReach);
  if (json.Find("phones")) bias_phones_ = reach("phones", 0, kMaxBiasPhones);
  has_bias_ = true;
}

// The graphs of trained biasing, and what attention reads from one in the others.
void Model::CheckBias() const {
  const auto bad = [&](const Graph& graph, const std::string& problem) {
    file_->Bad("graph " + Quoted(graph.name()) + " " + problem);
  };
  const auto bias = FindGraph("bias");
  for (const auto& graph : graphs_) {
    const bool asks = graph->name() == "bias_audio" || graph->name() == "bias_label";
    if (asks && bias == nullptr) bad(*graph, "needs a graph \"bias\", which there is not");
    size_t lookups = 0;
    for (const Node& node : graph->nodes()) {
      if (node.op != Op::kPhraseAttention) continue;
      ++lookups;
      if (node.next_only && graph->name() != "bias_label") bad(*graph, "has `entries` \"next\"; only \"bias_label\" knows what comes next");
      if (!asks) bad(*graph, "has a phrase_attention; only \"bias_audio\" and \"bias_label\" may");
      const auto reads = [&](const std::string& name, size_t width, const char* role) {
        const int found = bias->FindOutput(name);
        if (found < 0) bad(*graph, "reads " + Quoted(name) + ", which graph \"bias\" does not put out");
        const Value& value = bias->value(bias->outputs()[static_cast<size_t>(found)]);
        if (value.width != width) {
          bad(*graph, "reads " + Quoted(name) + " of width " + Size(value.width) + " as `" + role + "`; it must be " + Size(width));
        }
        if (width > kMaxBiasWidth || width % node.heads != 0) {
          bad(*graph, std::string("has `") + role + "` of width " + Size(width) + "; it must be a multiple of `heads` " +
                          Size(node.heads) + " and at most " + Size(kMaxBiasWidth));
        }
      };
      reads(node.keys, node.in_width, "keys");
      reads(node.values, node.out_width, "values");
    }
    if (asks && lookups != 1) bad(*graph, "has " + Size(lookups) + " nodes phrase_attention; it must have one");
  }
  if (bias == nullptr) {
    if (has_bias_) file_->Bad("the header has `bias` but no graph \"bias\"");
    return;
  }
  if (!has_bias_) bad(*bias, "has no object `bias` in the header that says how many pieces an entry knows");
  if (bias_phones_ > 0 && phones_.empty()) file_->Bad("`bias.phones` is above 0, but the model has no `phones`");
  const size_t window = bias_before_ + 1 + bias_after_ + bias_phones_;
  const Clock expected = window > 1 ? Clock{{1, window - 1}} : Clock{};
  if (bias->inputs().size() != 1 || bias->FindInput("y") < 0) bad(*bias, "does not have exactly the inputs `y`");
  if (bias->HasState()) bad(*bias, "has a state");
  for (const int value : bias->outputs()) {
    if (bias->clocks()[static_cast<size_t>(bias->value(value).clock)] != expected) {
      bad(*bias, "does not make one frame of `" + bias->value(value).name + "` from " + Size(window) + " ids");
    }
  }
  const size_t ids = pieces_.size() + (bias_phones_ > 0 ? phones_.size() + 1 : 0);
  if (bias->id_limit() < ids) {
    bad(*bias, "has an embedding of " + Size(bias->id_limit()) + " rows for " + Size(pieces_.size()) + " pieces" +
                   (bias_phones_ > 0 ? " and " + Size(phones_.size()) + " phones, which come behind one row of their own" : ""));
  }
  const auto encoder = FindGraph("encoder"), joiner = FindGraph("joiner");
  if (encoder == nullptr || joiner == nullptr || FindGraph("predictor") == nullptr) {
    bad(*bias, "needs the graphs \"encoder\", \"predictor\" and \"joiner\"");
  }
  const auto adds = [&](const Graph& graph, const char* input, size_t input_width, const char* output, const char* joined) {
    if (graph.inputs().size() != 1 || graph.FindInput(input) < 0) bad(graph, std::string("does not have exactly the inputs `") + input + "`");
    const Value& in = graph.value(graph.inputs()[0]);
    if (in.width != input_width) bad(graph, "has `" + in.name + "` of width " + Size(in.width) + "; it must be " + Size(input_width));
    const int found = graph.FindOutput(output);
    if (found < 0) bad(graph, std::string("has no output `") + output + "`");
    const Value& out = graph.value(graph.outputs()[static_cast<size_t>(found)]);
    const size_t width = joiner->value(joiner->inputs()[static_cast<size_t>(joiner->FindInput(joined))]).width;
    if (out.width != width) {
      bad(graph, "has `" + out.name + "` of width " + Size(out.width) + "; it must be " + Size(width) + ", as `" + joined + "`");
    }
    if (!graph.clocks()[static_cast<size_t>(out.clock)].empty()) bad(graph, "does not keep the number of frames");
    return width;
  };
  const auto audio = FindGraph("bias_audio"), label = FindGraph("bias_label");
  if (audio == nullptr) bad(*bias, "needs a graph \"bias_audio\", which there is not");
  const int hidden = encoder->FindOutput("hidden");
  if (hidden < 0) bad(*audio, "reads `hidden`, which graph \"encoder\" does not put out");
  const size_t width = adds(*audio, "hidden", encoder->value(encoder->outputs()[static_cast<size_t>(hidden)]).width, "encoder_bias", "encoder_out");
  if (label != nullptr) {
    adds(*label, "predictor_out", width, "predictor_bias", "predictor_out");
    if (label->HasState()) bad(*label, "has a state");
  }
}

void Model::RequireRecogniser() const {
  for (const char* name : {"encoder", "predictor", "joiner"}) {
    if (FindGraph(name) == nullptr) {
      file_->Fail(std::string("the file has no graph `") + name + "`, which speech recognition needs",
                  "Give the model of a recogniser");
    }
  }
}

void Model::CheckRoles() const {
  const auto bad = [&](const Graph& graph, const std::string& problem) {
    file_->Bad("graph " + Quoted(graph.name()) + " " + problem);
  };
  const auto only_inputs = [&](const Graph& graph, std::initializer_list<const char*> names) {
    bool good = graph.inputs().size() == names.size();
    for (const char* name : names) good = good && graph.FindInput(name) >= 0;
    if (!good) {
      std::string list;
      for (const char* name : names) list += std::string(list.empty() ? "`" : ", `") + name + "`";
      bad(graph, "does not have exactly the inputs " + list);
    }
  };
  const auto output = [&](const Graph& graph, const char* name) -> const Value& {
    const int index = graph.FindOutput(name);
    if (index < 0) bad(graph, std::string("has no output `") + name + "`");
    return graph.value(graph.outputs()[static_cast<size_t>(index)]);
  };
  const auto input = [&](const Graph& graph, const char* name) -> const Value& {
    return graph.value(graph.inputs()[static_cast<size_t>(graph.FindInput(name))]);
  };
  const auto width = [&](const Graph& graph, const Value& value, size_t expected, const char* of) {
    if (value.width != expected) {
      bad(graph, "has `" + value.name + "` of width " + Size(value.width) + "; it must be " + Size(expected) + ", " + of);
    }
  };
  const auto encoder = FindGraph("encoder"), predictor = FindGraph("predictor"), joiner = FindGraph("joiner"),
             ctc = FindGraph("ctc"), phones = FindGraph("phones"), second_pass = FindGraph("second_pass"),
             endpoint = FindGraph("endpoint");
  if (encoder) {
    only_inputs(*encoder, {"x"});
    output(*encoder, "encoder_out");
    const Clock four = {{kSubsampling, 0}};
    for (const int value : encoder->outputs()) {
      if (encoder->clocks()[static_cast<size_t>(encoder->value(value).clock)] != four) {
        bad(*encoder, "does not join " + Size(kSubsampling) + " frames into one frame of `" + encoder->value(value).name + "`");
      }
    }
  }
  if (predictor) {
    only_inputs(*predictor, {"y"});
    const Value& out = output(*predictor, "predictor_out");
    const size_t lost = search_.context_size - 1;  // context_size is 1 if stateful
    const Clock expected = lost > 0 ? Clock{{1, lost}} : Clock{};
    if (predictor->clocks()[static_cast<size_t>(out.clock)] != expected) {
      bad(*predictor, "does not make one frame of `predictor_out` from " + Size(search_.context_size) + " ids");
    }
    if (!search_.stateful && predictor->HasState()) bad(*predictor, "has a state; `search.predictor` is \"stateless\"");
    if (predictor->id_limit() < pieces_.size()) {
      bad(*predictor, "has an embedding of " + Size(predictor->id_limit()) + " rows for " + Size(pieces_.size()) + " pieces");
    }
  }
  if (joiner) {
    only_inputs(*joiner, {"encoder_out", "predictor_out"});
    const Value& logits = output(*joiner, "logits");
    width(*joiner, logits, pieces_.size(), "the number of pieces");
    if (!joiner->clocks()[static_cast<size_t>(logits.clock)].empty()) bad(*joiner, "does not keep the number of frames");
    if (joiner->HasState()) bad(*joiner, "has a state");
    // The search keeps one width for the rows of both.
    width(*joiner, input(*joiner, "predictor_out"), input(*joiner, "encoder_out").width, "as `encoder_out`");
    if (encoder) width(*encoder, output(*encoder, "encoder_out"), input(*joiner, "encoder_out").width, "as in the joiner");
    if (predictor) width(*predictor, output(*predictor, "predictor_out"), input(*joiner, "predictor_out").width, "as in the joiner");
  }
  // A head over frames of `hidden` that says log-probabilities.
  const auto head = [&](const Graph& graph, size_t outputs, const char* of) {
    only_inputs(graph, {"hidden"});
    const Value& out = output(graph, "log_probs");
    width(graph, out, outputs, of);
    if (!graph.clocks()[static_cast<size_t>(out.clock)].empty()) bad(graph, "does not keep the number of frames");
    if (encoder) {
      if (encoder->FindOutput("hidden") < 0) bad(graph, "reads `hidden`, which graph \"encoder\" does not put out");
      width(graph, input(graph, "hidden"), output(*encoder, "hidden").width, "as in the encoder");
    }
  };
  if (ctc) head(*ctc, pieces_.size(), "the number of pieces");
  if (!phones && !phones_.empty()) file_->Bad("the header has `phones` but no graph \"phones\"");
  if (phones && phones_.empty()) bad(*phones, "has no list `phones` in the header that names its outputs");
  if (phones) head(*phones, phones_.size() + 1, "blank and the number of phones");
  if (second_pass && phones_.empty()) bad(*second_pass, "has no list `phones` in the header that names its outputs");
  if (second_pass) head(*second_pass, phones_.size() + 1, "blank and the number of phones");
  if (endpoint) head(*endpoint, kEndpointClasses, "speech, silence before it, a pause in it, silence after it");
}

}  // namespace earshot

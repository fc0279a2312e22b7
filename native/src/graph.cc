// graph.cc: from the JSON of a graph to checked nodes.
//
// Three passes: names (single assignment, known ops and attributes, tensors of
// the right codec), widths (solved both ways along the nodes until nothing
// changes, because a joiner's inputs get theirs from the layer behind the sum),
// and what can only be said once all widths are known (tensor sizes, state).
#include "graph.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <unordered_map>

namespace earshot {
namespace {

struct Role {
  const char* name;
  bool optional;
};

struct OpInfo {
  Op op;
  const char* name;
  size_t inputs;
  std::vector<const char*> attributes;
  std::vector<Role> roles;
};

const std::vector<OpInfo>& Ops() {
  static const std::vector<OpInfo> ops = {
      {Op::kNormalize, "normalize", 1, {}, {{"mean", false}, {"inv_std", false}}},
      {Op::kStack, "stack", 1, {"factor"}, {}},
      {Op::kLinear, "linear", 1, {}, {{"weight", false}, {"bias", true}}},
      {Op::kLstm, "lstm", 1, {"hidden"},
       {{"weight_x", true}, {"weight_h", true}, {"weight", true}, {"bias", false}}},
      {Op::kLayerNorm, "layer_norm", 1, {"eps"}, {{"gamma", false}, {"beta", false}}},
      {Op::kRmsNorm, "rms_norm", 1, {"eps"}, {{"gamma", false}}},
      {Op::kEmbedding, "embedding", 1, {}, {{"table", false}}},
      {Op::kConv1d, "conv1d", 1, {"kernel", "dilation", "padding"}, {{"weight", false}, {"bias", true}}},
      {Op::kAdd, "add", 2, {}, {}},
      {Op::kRelu, "relu", 1, {}, {}},
      {Op::kTanh, "tanh", 1, {}, {}},
      {Op::kSigmoid, "sigmoid", 1, {}, {}},
      {Op::kLogSoftmax, "log_softmax", 1, {}, {}},
      {Op::kCausalAttention, "causal_attention", 1, {"heads", "window"}, {{"distance", false}}},
      {Op::kPhraseAttention, "phrase_attention", 1, {"heads", "keys", "values", "entries", "precision"}, {{"no_bias_key", false}}},
  };
  return ops;
}

bool SameWidth(Op op) {
  switch (op) {
    case Op::kNormalize: case Op::kLayerNorm: case Op::kRmsNorm: case Op::kAdd: case Op::kRelu:
    case Op::kTanh: case Op::kSigmoid: case Op::kLogSoftmax:
      return true;
    default:
      return false;
  }
}

// The parts of a matrix in any codec that kernels take, which the reader has checked.
Matrix MatrixOf(const Tensor& tensor) {
  Matrix matrix;
  matrix.rows = tensor.shape[0];
  matrix.columns = tensor.shape[1];
  if (tensor.codec == Codec::kF32R16) {
    matrix.f32 = tensor.f32();
    return matrix;
  }
  matrix.padded_columns = (matrix.columns + 63) / 64 * 64;
  if (tensor.codec == Codec::kI8R16x4) {
    const size_t Mp = (matrix.rows + 15) / 16 * 16;
    matrix.tiles = reinterpret_cast<const int8_t*>(tensor.data);
    matrix.scale = reinterpret_cast<const float*>(tensor.data + Mp * matrix.padded_columns);
    matrix.rowsum = reinterpret_cast<const int32_t*>(tensor.data + Mp * matrix.padded_columns + 4 * Mp);
    return matrix;
  }
  const PackedLayout at(tensor.codec, matrix.rows, matrix.columns);
  PackedWeights& packed = matrix.packed;
  packed.rows = matrix.rows;
  packed.columns = matrix.columns;
  packed.block_columns = at.block_columns;
  if (at.mask_words > 0) packed.masks = reinterpret_cast<const uint64_t*>(tensor.data + at.masks);
  if (at.per_vector == 8) packed.levels = reinterpret_cast<const int8_t*>(tensor.data);
  packed.scale = reinterpret_cast<const uint16_t*>(tensor.data + at.scales);
  packed.rowsum = tensor.row_sums.data();
  packed.vectors = tensor.data + at.vectors;
  packed.end = tensor.data + tensor.bytes;
  return matrix;
}

bool IsMatrix(Codec codec) {
  return codec == Codec::kF32R16 || codec == Codec::kI8R16x4 || IsPacked(codec);
}

constexpr char kMatrixCodecs[] = "f32_r16, i8_r16x4 or a packed codec of version 2";

}  // namespace

const char* OpName(Op op) {
  for (const OpInfo& info : Ops()) {
    if (info.op == op) return info.name;
  }
  return "?";
}

class GraphBuilder {
 public:
  GraphBuilder(Graph* graph, JsonValue json, size_t input_width)
      : g_(*graph), file_(*graph->file_), json_(json), input_width_(input_width) {}

  void Run() {
    who_ = "graph " + Quoted(g_.name_);
    if (json_.kind() != JsonKind::kObject) Bad(std::string(" is ") + JsonKindName(json_.kind()) + "; it must be an object");
    for (JsonValue v = json_.first(); v; v = v.next()) {
      if (v.key() != "inputs" && v.key() != "outputs" && v.key() != "nodes") {
        Bad(" has the unknown key " + Quoted(v.key()));
      }
    }
    g_.clocks_.push_back({});
    ReadInputs();
    ReadNodes();
    ReadOutputs();
    SolveWidths();
    FinishNodes();
  }

 private:
  [[noreturn]] void Bad(const std::string& problem) const { file_.Bad(who_ + problem); }

  JsonValue List(const char* key, size_t most) const {
    const JsonValue list = json_.Find(key);
    if (!list || list.kind() != JsonKind::kArray) Bad(std::string(" has no list `") + key + "`");
    if (list.size() > most) {
      Bad(std::string(" has ") + std::to_string(list.size()) + " " + key + "; at most " +
          std::to_string(most) + " are allowed");
    }
    return list;
  }

  std::string Name(JsonValue value, const char* what) const {
    if (!value || value.kind() != JsonKind::kString || value.string().empty() ||
        value.string().size() > ModelFile::kMaxNameBytes) {
      Bad(std::string(" has ") + what + " that is not a name of 1.." +
          std::to_string(ModelFile::kMaxNameBytes) + " bytes");
    }
    return std::string(value.string());
  }

  int Define(const std::string& name, bool ids) {
    const int index = static_cast<int>(g_.values_.size());
    if (!by_name_.emplace(name, index).second) Bad(" defines the value " + Quoted(name) + " twice");
    Value value;
    value.name = name;
    value.ids = ids;
    g_.values_.push_back(std::move(value));
    return index;
  }

  int Known(const std::string& name) const {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) Bad(" reads " + Quoted(name) + ", which nothing above defines");
    return found->second;
  }

  void ReadInputs() {
    const JsonValue list = List("inputs", 64);
    if (list.size() == 0) Bad(" has no inputs");
    for (JsonValue v = list.first(); v; v = v.next()) {
      const std::string name = Name(v, "an input");
      const int index = Define(name, name == "y");
      if (name == "x") g_.values_.back().width = input_width_;
      g_.inputs_.push_back(index);
    }
  }

  void ReadOutputs() {
    const JsonValue list = List("outputs", 64);
    if (list.size() == 0) Bad(" has no outputs");
    for (JsonValue v = list.first(); v; v = v.next()) {
      const std::string name = Name(v, "an output");
      const auto found = by_name_.find(name);
      if (found == by_name_.end()) Bad(" has the output " + Quoted(name) + ", which no node defines");
      if (g_.value(found->second).ids) Bad(" has the output " + Quoted(name) + ", which is a sequence of ids");
      if (std::find(g_.outputs_.begin(), g_.outputs_.end(), found->second) != g_.outputs_.end()) {
        Bad(" has the output " + Quoted(name) + " twice");
      }
      g_.outputs_.push_back(found->second);
    }
  }

  void ReadNodes() {
    const JsonValue list = List("nodes", Graph::kMaxNodes);
    g_.nodes_.reserve(list.size());
    const std::string graph = who_;
    for (JsonValue v = list.first(); v; v = v.next()) {
      who_ = graph + ", node " + std::to_string(g_.nodes_.size());
      length_start_.push_back(lengths_.size());
      ReadNode(v);
    }
    length_start_.push_back(lengths_.size());
    who_ = graph;
  }

  size_t Integer(JsonValue node, const char* key, size_t low, size_t high) const {
    const JsonValue value = node.Find(key);
    if (!value || value.kind() != JsonKind::kNumber || !value.IsInteger() ||
        value.integer() < static_cast<int64_t>(low) || value.integer() > static_cast<int64_t>(high)) {
      Bad(std::string(" has no `") + key + "` that is a whole number in " + std::to_string(low) + ".." +
          std::to_string(high));
    }
    return static_cast<size_t>(value.integer());
  }

  void ReadNode(JsonValue json) {
    if (json.kind() != JsonKind::kObject) Bad(std::string(" is ") + JsonKindName(json.kind()) + "; it must be an object");
    const JsonValue op = json.Find("op");
    if (!op || op.kind() != JsonKind::kString) Bad(" has no `op` that is a string");
    const OpInfo* info = nullptr;
    for (const OpInfo& candidate : Ops()) {
      if (op.string() == candidate.name) info = &candidate;
    }
    if (info == nullptr) {
      file_.Fail(who_ + " has the unknown op " + Quoted(op.string()),
                 "Update earshot, or export the model for version 1");
    }
    who_ += std::string(" (") + info->name + ")";
    Node node;
    node.op = info->op;
    if ((node.op == Op::kCausalAttention || node.op == Op::kPhraseAttention) && file_.version() < 3) {
      Bad(" needs version 3; the file says version " + std::to_string(file_.version()));
    }
    for (JsonValue v = json.first(); v; v = v.next()) {
      const std::string_view key = v.key();
      bool known = key == "op" || key == "in" || key == "out" || key == "tensors" || key == "when" || key == "skipped";
      for (const char* attribute : info->attributes) known = known || key == attribute;
      if (!known) Bad(" has the unknown key " + Quoted(key));
    }

    const JsonValue in = json.Find("in");
    if (!in || in.kind() != JsonKind::kArray || in.size() != info->inputs) {
      Bad(" has no list `in` of " + std::to_string(info->inputs) + " values");
    }
    size_t i = 0;
    for (JsonValue v = in.first(); v; v = v.next(), ++i) {
      node.in[i] = Known(Name(v, "an input"));
      const bool ids = g_.value(node.in[i]).ids;
      if (ids != (node.op == Op::kEmbedding)) {
        Bad(ids ? " reads ids; only `embedding` does" : " reads vectors; `embedding` reads ids, from an input named `y`");
      }
    }
    int clock = g_.value(node.in[0]).clock;
    if (info->inputs == 2 && g_.value(node.in[1]).clock != clock) {
      Bad(" reads two values that do not have the same number of frames");
    }

    ReadAttributes(json, &node);
    ReadTensors(json.Find("tensors"), *info, &node);

    const bool keeps = !(node.op == Op::kStack && node.factor > 1) &&
                       !(node.op == Op::kConv1d && !node.causal && node.History() > 0);
    if (const JsonValue when = json.Find("when")) {
      if (!keeps) Bad(" has `when`, but it does not keep the number of frames");
      node.when = Known(Name(when, "a `when`"));
      if (g_.value(node.when).ids) Bad(" has a `when` that is a sequence of ids");
      if (g_.value(node.when).clock != clock) Bad(" has a `when` that does not have the same number of frames");
    }
    if (const JsonValue skipped = json.Find("skipped")) {
      if (node.when < 0) Bad(" has `skipped` without `when`");
      const std::string_view text = skipped.string();
      if (text == "zero") {
        node.skipped = Skipped::kZero;
      } else if (text == "hold") {
        node.skipped = Skipped::kHold;
      } else if (text == "pass") {
        node.skipped = Skipped::kPass;
        if (node.op == Op::kEmbedding) Bad(" has `skipped` \"pass\", but its input is not a vector");
      } else {
        Bad(" has a `skipped` that is not \"zero\", \"hold\" or \"pass\"");
      }
    }
    if (!keeps) clock = NextClock(clock, node);
    // Last, so that a node cannot read itself.
    node.out = Define(Name(json.Find("out"), "an `out`"), false);
    g_.values_.back().clock = clock;
    g_.nodes_.push_back(node);
  }

  // Stacks in a row count as one: 2 then 2 gives as many frames as 4 at every call.
  int NextClock(int from, const Node& node) {
    Clock clock = g_.clocks_[static_cast<size_t>(from)];
    if (node.op == Op::kStack) {
      if (!clock.empty() && clock.back().factor > 1) {
        clock.back().factor *= node.factor;
        if (clock.back().factor > 65536) Bad(" joins more than 65536 frames into one");
      } else {
        clock.push_back({node.factor, 0});
      }
    } else if (!clock.empty() && clock.back().lost > 0) {
      clock.back().lost += node.History();
    } else {
      clock.push_back({1, node.History()});
    }
    for (size_t i = 0; i < g_.clocks_.size(); ++i) {
      if (g_.clocks_[i] == clock) return static_cast<int>(i);
    }
    g_.clocks_.push_back(std::move(clock));
    return static_cast<int>(g_.clocks_.size()) - 1;
  }

  void ReadAttributes(JsonValue json, Node* node) const {
    switch (node->op) {
      case Op::kStack:
        node->factor = Integer(json, "factor", 1, 16);
        break;
      case Op::kLstm:
        node->hidden = Integer(json, "hidden", 16, Graph::kMaxWidth);
        if (node->hidden % 16 != 0) Bad(" has `hidden` " + std::to_string(node->hidden) + "; it must be a multiple of 16");
        break;
      case Op::kLayerNorm:
      case Op::kRmsNorm: {
        const JsonValue eps = json.Find("eps");
        if (!eps || eps.kind() != JsonKind::kNumber) Bad(" has no `eps` that is a number");
        node->eps = eps.number() < 3e38 ? static_cast<float>(eps.number()) : HUGE_VALF;
        if (!(node->eps > 0) || std::isinf(node->eps)) Bad(" has an `eps` that is not above 0 as float32");
        break;
      }
      case Op::kConv1d: {
        node->kernel = Integer(json, "kernel", 1, 64);
        node->dilation = Integer(json, "dilation", 1, 64);
        const JsonValue padding = json.Find("padding");
        if (!padding || (padding.string() != "causal" && padding.string() != "valid")) {
          Bad(" has no `padding` that is \"causal\" or \"valid\"");
        }
        node->causal = padding.string() == "causal";
        break;
      }
      case Op::kCausalAttention:
        node->heads = Integer(json, "heads", 1, Graph::kMaxHeads);
        node->window = Integer(json, "window", 1, Graph::kMaxWindow);
        break;
      case Op::kPhraseAttention: {
        node->heads = Integer(json, "heads", 1, Graph::kMaxHeads);
        node->keys = Name(json.Find("keys"), "`keys`");
        node->values = Name(json.Find("values"), "`values`");
        const JsonValue precision = json.Find("precision");
        if (!precision || precision.kind() != JsonKind::kString || (precision.string() != "i8" && precision.string() != "f32")) {
          Bad(" has no `precision` that is \"i8\" or \"f32\"");
        }
        node->exact = precision.string() == "f32";
        const JsonValue entries = json.Find("entries");
        if (!entries || entries.kind() != JsonKind::kString || (entries.string() != "all" && entries.string() != "next")) {
          Bad(" has no `entries` that is \"all\" or \"next\"");
        }
        node->next_only = entries.string() == "next";
        break;
      }
      default:
        break;
    }
  }

  void ReadTensors(JsonValue json, const OpInfo& info, Node* node) const {
    if (!json && info.roles.empty()) return;
    if (!json || json.kind() != JsonKind::kObject) Bad(" has no object `tensors`");
    for (JsonValue v = json.first(); v; v = v.next()) {
      const Role* role = nullptr;
      for (const Role& candidate : info.roles) {
        if (v.key() == candidate.name) role = &candidate;
      }
      if (role == nullptr) Bad(" has the unknown tensor role " + Quoted(v.key()));
      const Tensor* tensor = v.kind() == JsonKind::kString ? file_.Find(v.string()) : nullptr;
      if (tensor == nullptr) {
        Bad(std::string(" has the `") + role->name + "` " + (v.kind() == JsonKind::kString ? Quoted(v.string()) : JsonKindName(v.kind())) +
            ", which is not a tensor of the file");
      }
      Bind(role->name, *tensor, node);
    }
    if (node->op == Op::kLstm) {
      const bool joined = static_cast<bool>(json.Find("weight"));
      if (joined && file_.version() < 2) Bad(" has a `weight` for [x, h], which version 1 does not have");
      for (const char* role : {"weight_x", "weight_h"}) {
        if (!json.Find(role) && !joined) Bad(std::string(" has no tensor `") + role + "`");
        if (json.Find(role) && joined) Bad(std::string(" has both `weight` and `") + role + "`");
      }
    }
    for (const Role& role : info.roles) {
      if (!role.optional && !json.Find(role.name)) Bad(std::string(" has no tensor `") + role.name + "`");
    }
  }

  void Bind(std::string_view role, const Tensor& tensor, Node* node) const {
    const auto need = [&](bool good, const char* codecs) {
      if (!good) {
        Bad(" has the `" + std::string(role) + "` " + Quoted(tensor.name) + " in codec " +
            CodecName(tensor.codec) + "; it must be " + codecs);
      }
    };
    const bool depthwise = node->op == Op::kConv1d && tensor.codec == Codec::kF32 && tensor.shape.size() == 2;
    if (role == "table" && (tensor.codec == Codec::kI8R16x4 || tensor.codec == Codec::kI4R16x4)) {
      node->weight = MatrixOf(tensor);
      node->table_rows = node->weight.rows;
      Remember(role, node->weight.columns);
      return;
    }
    if (role == "distance") {
      need(tensor.codec == Codec::kF32 && tensor.shape.size() == 2, "f32 with 2 dimensions");
      if (tensor.shape[0] != node->heads || tensor.shape[1] != node->window) {
        Bad(" has a `distance` of " + std::to_string(tensor.shape[0]) + " x " + std::to_string(tensor.shape[1]) +
            "; it must be `heads` " + std::to_string(node->heads) + " x `window` " + std::to_string(node->window));
      }
      node->table = tensor.f32();
      return;
    }
    if (role == "table" || (role == "weight" && depthwise)) {
      need(tensor.codec == Codec::kF32 && tensor.shape.size() == 2,
           role == "table" ? "i8_r16x4, i4_r16x4, or f32 with 2 dimensions" : "f32 with 2 dimensions");
      node->table = tensor.f32();
      node->table_rows = tensor.shape[0];
      Remember(role, tensor.shape[1]);
      if (role == "weight") {
        node->depthwise = true;
        if (tensor.shape[1] != node->kernel) {
          Bad(" has a weight with " + std::to_string(tensor.shape[1]) + " taps; `kernel` is " + std::to_string(node->kernel));
        }
      }
      return;
    }
    if (role == "weight" || role == "weight_x" || role == "weight_h") {
      need(IsMatrix(tensor.codec), kMatrixCodecs);
      (role == "weight_h" ? node->weight_h : node->weight) = MatrixOf(tensor);
      return;
    }
    need(tensor.codec == Codec::kF32 && tensor.shape.size() == 1, "f32 with 1 dimension");
    Remember(role, tensor.shape[0]);
    if (role == "no_bias_key") {
      node->no_bias_key = tensor.f32();
    } else if (role == "bias" || role == "beta") {
      node->bias = tensor.f32();
    } else if (role == "mean") {
      node->mean = tensor.f32();
    } else {
      node->gain = tensor.f32();
    }
  }

  // Lengths of vectors, checked against the widths in FinishNodes. By position,
  // since the node is not in the graph yet.
  void Remember(std::string_view role, size_t length) const {
    lengths_.push_back({g_.nodes_.size(), std::string(role), length});
  }

  // Sets a width, or checks it. True if it was not known before.
  bool Set(int value, size_t width) {
    Value& v = g_.values_[static_cast<size_t>(value)];
    if (width == 0) return false;
    if (width > Graph::kMaxWidth) {
      Bad(": the value " + Quoted(v.name) + " has the width " + std::to_string(width) + "; at most " +
          std::to_string(Graph::kMaxWidth) + " is allowed");
    }
    if (v.width == width) return false;
    if (v.width != 0) {
      Bad(": the value " + Quoted(v.name) + " has the width " + std::to_string(v.width) + " but must have " +
          std::to_string(width));
    }
    v.width = width;
    return true;
  }

  bool Propagate(size_t index) {
    const Node& node = g_.nodes_[index];
    const auto width = [&](int value) { return g_.value(value).width; };
    bool changed = false;
    const auto set = [&](int value, size_t w) { changed = Set(value, w) || changed; };
    if (node.when >= 0) set(node.when, 1);
    if (node.when >= 0 && node.skipped == Skipped::kPass) {
      set(node.out, width(node.in[0]));
      set(node.in[0], width(node.out));
    }
    for (size_t i = length_start_[index]; i < length_start_[index + 1]; ++i) {
      const Length& length = lengths_[i];
      if (length.role == "mean" || length.role == "inv_std" || length.role == "gamma" || length.role == "beta" ||
          length.role == "no_bias_key") {
        set(node.in[0], length.length);
      } else if (length.role == "table") {
        set(node.out, length.length);
      }
    }
    if (SameWidth(node.op)) {
      set(node.out, width(node.in[0]));
      set(node.in[0], width(node.out));
      if (node.in[1] >= 0) {
        set(node.in[1], width(node.out));
        set(node.out, width(node.in[1]));
      }
    }
    switch (node.op) {
      case Op::kLinear:
        set(node.in[0], node.weight.columns);
        set(node.out, node.weight.rows);
        break;
      case Op::kLstm:
        if (node.weight_h.rows == 0 && node.weight.columns <= node.hidden) {
          Bad(": node " + std::to_string(index) + " (lstm) has a `weight` with " + std::to_string(node.weight.columns) +
              " columns; it must have more than `hidden` " + std::to_string(node.hidden));
        }
        set(node.in[0], node.weight.columns - (node.weight_h.rows == 0 ? node.hidden : 0));
        set(node.out, node.hidden);
        break;
      case Op::kConv1d:
        if (node.depthwise) {
          set(node.in[0], node.table_rows);
          set(node.out, node.table_rows);
        } else {
          if (node.weight.columns % node.kernel != 0) {
            Bad(": node " + std::to_string(index) + " (conv1d) has a weight with " + std::to_string(node.weight.columns) +
                " columns; that must be a multiple of `kernel` " + std::to_string(node.kernel));
          }
          set(node.in[0], node.weight.columns / node.kernel);
          set(node.out, node.weight.rows);
        }
        break;
      case Op::kStack: {
        set(node.out, width(node.in[0]) * node.factor);
        const size_t out = width(node.out);
        if (out % node.factor != 0) {
          Bad(": node " + std::to_string(index) + " (stack) gives the width " + std::to_string(out) +
              "; that must be a multiple of `factor` " + std::to_string(node.factor));
        }
        set(node.in[0], out / node.factor);
        break;
      }
      case Op::kCausalAttention: {  // reads queries, keys and values side by side
        set(node.in[0], width(node.out) * 3);
        const size_t in = width(node.in[0]);
        if (in % (3 * node.heads) != 0) {
          Bad(": node " + std::to_string(index) + " (causal_attention) reads the width " + std::to_string(in) +
              "; that must be a multiple of 3 times `heads` " + std::to_string(node.heads));
        }
        set(node.out, in / 3);
        break;
      }
      default:
        break;
    }
    return changed;
  }

  void SolveWidths() {
    bool changed = true;
    while (changed) {  // every round fixes at least one width, so at most as many rounds as values
      changed = false;
      for (size_t i = 0; i < g_.nodes_.size(); ++i) changed = Propagate(i) || changed;
      // Backwards too: chains that solve from the end then need two rounds, not one per node.
      for (size_t i = g_.nodes_.size(); changed && i-- > 0;) changed = Propagate(i) || changed;
    }
    size_t total = 0;
    for (const Value& value : g_.values_) {
      if (value.ids) continue;
      if (value.width == 0) Bad(": the width of the value " + Quoted(value.name) + " does not follow from any tensor");
      total += value.width;
    }
    if (total > Graph::kMaxTotalWidth) {
      Bad(" has values of " + std::to_string(total) + " numbers per frame together; at most " +
          std::to_string(Graph::kMaxTotalWidth) + " are allowed");
    }
  }

  void FinishNodes() {
    for (const Length& length : lengths_) {
      const Node& node = g_.nodes_[length.node];
      size_t expected = length.length;
      if (length.role == "bias") expected = node.op == Op::kLstm ? 4 * node.hidden : g_.value(node.out).width;
      if (length.length != expected) {
        Bad(", node " + std::to_string(length.node) + " (" + OpName(node.op) + ") has a `" + length.role + "` of " +
            std::to_string(length.length) + " values; it must have " + std::to_string(expected));
      }
    }
    for (size_t i = 0; i < g_.nodes_.size(); ++i) {
      Node& node = g_.nodes_[i];
      node.in_width = g_.value(node.in[0]).width;
      node.out_width = g_.value(node.out).width;
      if (node.op == Op::kLstm) {
        const auto check = [&](const char* role, const Matrix& matrix, size_t columns) {
          if (matrix.rows != 4 * node.hidden || matrix.columns != columns) {
            Bad(", node " + std::to_string(i) + " (lstm) has a `" + role + "` of " + std::to_string(matrix.rows) + " x " +
                std::to_string(matrix.columns) + "; it must be " + std::to_string(4 * node.hidden) + " x " + std::to_string(columns));
          }
        };
        if (node.weight_h.rows == 0) {
          check("weight", node.weight, node.in_width + node.hidden);
        } else {
          check("weight_x", node.weight, node.in_width);
          check("weight_h", node.weight_h, node.hidden);
        }
        node.state_size = 2 * node.hidden;
      } else if (node.op == Op::kStack && node.factor > 1) {
        node.state_size = (node.factor - 1) * node.in_width;
        node.counter = static_cast<int>(g_.state_counters_++);
      } else if (node.op == Op::kConv1d && node.causal) {
        node.state_size = node.History() * node.in_width;
      } else if (node.op == Op::kCausalAttention && node.window > 1) {
        node.state_size = (node.window - 1) * 2 * node.out_width;
        node.counter = static_cast<int>(g_.state_counters_++);
      } else if (node.op == Op::kEmbedding) {
        g_.id_limit_ = std::min(g_.id_limit_, node.table_rows);
      }
      node.state_offset = g_.state_floats_;
      g_.state_floats_ += node.state_size;
      if (node.when >= 0 && node.skipped == Skipped::kHold) {
        node.hold_offset = g_.state_floats_;
        g_.state_floats_ += node.out_width;
      }
      if (g_.state_floats_ > Graph::kMaxStateFloats) {
        Bad(" has a state of more than " + std::to_string(Graph::kMaxStateFloats) + " numbers");
      }
    }
  }

  struct Length {
    size_t node;
    std::string role;
    size_t length;
  };

  Graph& g_;
  const ModelFile& file_;
  JsonValue json_;
  size_t input_width_;
  std::string who_;
  std::unordered_map<std::string, int> by_name_;
  mutable std::vector<Length> lengths_;
  std::vector<size_t> length_start_;  // of each node, in lengths_; one more at the end
};

Graph::Graph(std::shared_ptr<const ModelFile> file, std::string name, JsonValue json, size_t input_width)
    : file_(std::move(file)), name_(std::move(name)) {
  GraphBuilder(this, json, input_width).Run();
}

int Graph::FindInput(std::string_view name) const {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (value(inputs_[i]).name == name) return static_cast<int>(i);
  }
  return -1;
}

int Graph::FindOutput(std::string_view name) const {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (value(outputs_[i]).name == name) return static_cast<int>(i);
  }
  return -1;
}

}  // namespace earshot

// scorer.cc: see scorer.h.
#include "scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/kernels.h"
#include "phrases.h"
#include "token_tree.h"

namespace earshot {
namespace {

constexpr size_t kCacheBytes = size_t{1} << 20;

void Grow(std::vector<float>* buffer, size_t size) {
  if (buffer->size() < size) buffer->resize(size);
}

}  // namespace

ScorerScratch::ContextKey::ContextKey(const PredictorContext& context)
    : ids(context.ids), list(context.phrases != nullptr ? context.phrases->serial() : 0) {}

size_t ScorerScratch::ContextHash::operator()(const ContextKey& key) const {
  uint64_t hash = key.list;
  for (const int32_t id : key.ids) hash = ExtendHash(hash, id);
  return static_cast<size_t>(hash);
}

ScorerScratch::ScorerScratch(const Model& model)
    : predictor_(model.FindGraph("predictor")), joiner_(model.FindGraph("joiner")) {
  if (auto graph = model.FindGraph("bias_label")) label_ = std::make_unique<Executor>(std::move(graph));
}

Scorer::Scorer(std::shared_ptr<const Model> model, float blank_penalty, bool language)
    : blank_penalty_(blank_penalty), language_(language) {
  model->RequireRecogniser();
  settings_ = model->search();
  predictor_ = model->FindGraph("predictor");
  joiner_ = model->FindGraph("joiner");
  label_ = model->FindGraph("bias_label");
  if (label_ != nullptr) predictor_bias_ = static_cast<size_t>(label_->FindOutput("predictor_bias"));
  vocabulary_ = model->pieces().size();
  encoder_input_ = static_cast<size_t>(joiner_->FindInput("encoder_out"));
  predictor_input_ = static_cast<size_t>(joiner_->FindInput("predictor_out"));
  logits_ = static_cast<size_t>(joiner_->FindOutput("logits"));
  predictor_out_ = static_cast<size_t>(predictor_->FindOutput("predictor_out"));
  width_ = joiner_->value(joiner_->inputs()[encoder_input_]).width;
  if (!std::isfinite(blank_penalty)) {
    throw std::invalid_argument("search: blank_penalty is not finite; it must be a number.");
  }
}

PredictorContext Scorer::Start(const PhraseList* phrases) const {
  PredictorContext context;
  context.phrases = phrases;
  context.ids.fill(-1);
  context.ids[kMaxContext - 1] = settings_.blank_id;
  if (settings_.stateful) context.state = std::make_shared<GraphState>(predictor_);
  return context;
}

void Scorer::Extend(PredictorContext* context, int32_t piece) const {
  if (!settings_.stateful) {
    const auto first = context->ids.end() - static_cast<std::ptrdiff_t>(settings_.context_size);
    std::copy(first + 1, context->ids.end(), first);
  }
  context->ids[kMaxContext - 1] = piece;
  context->out = nullptr;
}

void Scorer::Score(ScorerScratch* scratch) const {
  Predict(scratch);
  const size_t count = scratch->requests_.size();
  scratch->row_of_.resize(count);
  scratch->answers_.resize(count);
  scratch->distinct_.clear();
  for (size_t i = 0; i < count; ++i) {
    // Requests of one frame of one stream follow each other; equal contexts share `out`.
    const ScorerScratch::Question& question = scratch->requests_[i];
    size_t row = scratch->distinct_.size();
    for (size_t r = row; r-- > 0;) {
      const ScorerScratch::Question& other = scratch->requests_[scratch->distinct_[r]];
      if (other.encoder_row != question.encoder_row) break;
      if (other.context->out == question.context->out) {
        row = r;
        break;
      }
    }
    if (row == scratch->distinct_.size()) scratch->distinct_.push_back(i);
    scratch->row_of_[i] = row;
  }
  const size_t rows = scratch->distinct_.size();
  Grow(&scratch->encoder_rows_, rows * width_);
  Grow(&scratch->predictor_rows_, rows * width_);
  Grow(&scratch->log_probs_, rows * vocabulary_);
  for (size_t r = 0; r < rows; ++r) {
    const ScorerScratch::Question& question = scratch->requests_[scratch->distinct_[r]];
    std::copy(question.encoder_row, question.encoder_row + width_, scratch->encoder_rows_.data() + r * width_);
    std::copy(question.context->out->out.begin(), question.context->out->out.end(), scratch->predictor_rows_.data() + r * width_);
  }
  const float* logits = Join(scratch, scratch->encoder_rows_.data(), scratch->predictor_rows_.data(), rows);
  std::copy(logits, logits + rows * vocabulary_, scratch->log_probs_.begin());
  for (size_t r = 0; r < rows; ++r) {
    float* row = scratch->log_probs_.data() + r * vocabulary_;
    row[settings_.blank_id] -= blank_penalty_;
    kernels().log_softmax_f32(row, vocabulary_);
    row[settings_.unk_id] = -std::numeric_limits<float>::infinity();
  }
  for (size_t i = 0; i < count; ++i) {
    scratch->answers_[i] = scratch->log_probs_.data() + scratch->row_of_[i] * vocabulary_;
  }
}

const float* Scorer::Join(ScorerScratch* scratch, const float* encoder_rows, const float* predictor_rows, size_t rows) const {
  const void* inputs[2];
  inputs[encoder_input_] = encoder_rows;
  inputs[predictor_input_] = predictor_rows;
  Executor::Item item;
  item.inputs = inputs;
  item.frames = rows;
  scratch->joiner_.Step(&item, 1);
  return scratch->joiner_.output(logits_, 0);
}

// Predictor outputs of the contexts that lack one, in one batch.
void Scorer::Predict(ScorerScratch* scratch) const {
  auto& waiting = scratch->waiting_;
  auto& late = scratch->late_;  // the same ids as a context that waits
  waiting.clear();
  late.clear();
  const size_t floats = width_ + (language_ ? vocabulary_ : 0);
  if (scratch->cache_.size() * floats * sizeof(float) > kCacheBytes) scratch->cache_.clear();
  for (const ScorerScratch::Question& question : scratch->requests_) {
    PredictorContext& context = *question.context;
    if (context.out != nullptr) continue;
    if (settings_.stateful) {
      waiting.push_back(&context);
      continue;
    }
    const auto [found, fresh] = scratch->cache_.try_emplace(ScorerScratch::ContextKey(context));
    if (fresh) {
      waiting.push_back(&context);
    } else if (found->second == nullptr) {
      late.push_back(&context);
    } else {
      context.out = found->second;
    }
  }
  if (waiting.empty()) return;
  const size_t ids = settings_.stateful ? 1 : settings_.context_size;
  scratch->items_.resize(waiting.size());
  scratch->item_inputs_.resize(waiting.size());
  for (size_t i = 0; i < waiting.size(); ++i) {
    PredictorContext& context = *waiting[i];
    Executor::Item item;
    if (settings_.stateful) {
      // Shared with other paths: the copy is what moves.
      context.state = std::make_shared<GraphState>(*context.state);
      item.state = context.state.get();
    }
    scratch->item_inputs_[i] = {context.ids.data() + kMaxContext - ids};
    item.inputs = scratch->item_inputs_[i].data();
    item.frames = ids;
    scratch->items_[i] = item;
  }
  scratch->predictor_.Step(scratch->items_.data(), waiting.size());
  const std::vector<float> silence(language_ ? width_ : 0);
  std::vector<std::shared_ptr<Prediction>> made;
  for (size_t i = 0; i < waiting.size(); ++i) {
    const float* out = scratch->predictor_.output(predictor_out_, i);
    auto prediction = std::make_shared<Prediction>();
    prediction->out.assign(out, out + width_);
    if (language_) {
      const float* logits = Join(scratch, silence.data(), prediction->out.data(), 1);
      std::vector<float>& language = prediction->language;
      language.assign(logits, logits + vocabulary_);
      const auto blank = static_cast<size_t>(settings_.blank_id), unk = static_cast<size_t>(settings_.unk_id);
      language[blank] = language[unk] = -std::numeric_limits<float>::infinity();
      kernels().log_softmax_f32(language.data(), vocabulary_);
      language[blank] = language[unk] = 0;
    }
    made.push_back(std::move(prediction));
  }
  if (label_ != nullptr) AddLabelBias(scratch, made);
  for (size_t i = 0; i < waiting.size(); ++i) {
    waiting[i]->out = std::move(made[i]);
    if (!settings_.stateful) scratch->cache_[ScorerScratch::ContextKey(*waiting[i])] = waiting[i]->out;
  }
  for (PredictorContext* context : late) context->out = scratch->cache_[ScorerScratch::ContextKey(*context)];
}

// The internal language model stays as it is: it stands for what the network believes by itself.
void Scorer::AddLabelBias(ScorerScratch* scratch, const std::vector<std::shared_ptr<Prediction>>& fresh) const {
  scratch->items_.clear();
  scratch->item_inputs_.resize(fresh.size());
  std::vector<Prediction*> biased;
  for (size_t i = 0; i < fresh.size(); ++i) {
    const PredictorContext& context = *scratch->waiting_[i];
    if (context.phrases == nullptr) continue;
    scratch->item_inputs_[biased.size()] = {fresh[i]->out.data()};
    Executor::Item item;
    item.inputs = scratch->item_inputs_[biased.size()].data();
    item.frames = 1;
    item.phrases = context.phrases;
    item.last_piece = context.ids[kMaxContext - 1];
    scratch->items_.push_back(item);
    biased.push_back(fresh[i].get());
  }
  if (biased.empty()) return;
  scratch->label_->Step(scratch->items_.data(), biased.size());
  for (size_t i = 0; i < biased.size(); ++i) {
    const float* added = scratch->label_->output(predictor_bias_, i);
    const float weight = scratch->items_[i].phrases->weight();
    for (size_t k = 0; k < width_; ++k) biased[i]->out[k] += weight * added[k];
  }
}

}  // namespace earshot

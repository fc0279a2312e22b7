// recognizer.h: audio in, transcripts out: features, encoder and search joined up.
//
// Knows streams and how to decode many of them together; knows nothing of files
// of audio, sample rates other than 16 kHz, or the end of utterances.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "executor.h"
#include "fbank.h"
#include "forced_score.h"
#include "grammar_search.h"
#include "model.h"
#include "phone_search.h"
#include "phrases.h"
#include "prior.h"
#include "scorer.h"
#include "search.h"
#include "transcript.h"
#include "word_graph.h"

namespace earshot {

class Recognizer;

// What the search of a word graph has found so far.
struct CommandResult {
  struct Path {
    Transcript transcript;
    std::vector<int32_t> pieces;  // of its words
    double transducer = 0, ctc = 0, phones = 0, prior = 0;  // its `score` is made of these
  };
  std::vector<Path> paths;      // complete sentences, best first, at most GrammarSearch::kMaxPaths
  double free_transducer = 0;   // log-probability of the best path of the free search
  double free_ctc = 0;          // no path can have more; 0, as all of CTC, if there is none
  double free_phones = 0;       // the same of phones
  double silent_phones = 0;     // what no phone at all scores, as `phones` of a path
  bool rescored = true;         // false: by phones alone; pieces score no speech as long as this
  size_t num_frames = 0;
  bool alive = false;           // some sentence can still be completed
  bool can_continue = false;    // the best sentence is also the beginning of another
};

// What the end of an utterance is decided from, as of one encoder frame.
struct FrameEvidence {
  bool stepped = false;       // false: no frame was ready, and nothing else here counts
  size_t searched = 0;        // frames that went through the search in this step; 0 if they are held
  float level = 0;            // mean of the frame's log-mel energies, nats
  bool has_endpoint = false;  // the model has the graph `endpoint`:
  std::array<float, Model::kEndpointClasses> endpoint{};  // its log-probabilities
  // Of the free search, 0 while frames are held:
  size_t pieces = 0;          // of the best path
  size_t settled = 0;         // of its pieces, what all paths share and nothing can change
  size_t trailing = 0;        // frames since its last piece; all that were searched if it has none
  double expected_trailing = 0;  // the same over all paths, weighted by their probabilities
  bool changed = false;       // the best path has other pieces than a frame before
};

// Whether the sentences of the graph may end where the search is.
struct GrammarEnd {
  bool alive = false;         // some sentence can still be completed
  double complete = 0;        // probability, among what the beam holds, that a sentence is complete,
  double closed = 0;          // and that it is so and none goes on
  double gap = 0;             // nats that the best path, complete or not, lies behind free sounds or pieces
  size_t symbols = 0;         // of that path: pieces or phones
};

// Encoder frames that were computed and not yet searched, and the features that they came from: the
// search can stop at any of them, and the encoder can start anew from any of them.
class FrameQueue {
 public:
  // Numbers per frame; 0 where the model has no such rows.
  struct Widths {
    size_t encoded = 0, hidden = 0, ctc = 0, phones = 0, features = 0;
  };
  struct Rows {
    const float* encoded = nullptr;
    const float* hidden = nullptr;
    const float* ctc = nullptr;
    const float* phones = nullptr;
    const float* level = nullptr;
    const float* features = nullptr;
  };
  size_t size() const { return level_.size() - first_; }
  Rows at(size_t frame) const;
  // `ctc` and `phones` may be null; frames that lack what others of the queue have begin with NaN there.
  // The features of the last frame may be fewer than of others: `num_features` are there in all.
  void Append(const Rows& rows, size_t frames, size_t num_features, const Widths& widths);
  void Drop(size_t frames);
  // Puts the features of the frames from `frame` on in front of `features`, and forgets these frames.
  void GiveBack(size_t frame, std::vector<float>* features);
  void Clear();

 private:
  Widths widths_;
  size_t first_ = 0;
  std::vector<float> encoded_, hidden_, ctc_, phones_, level_, features_;
};

// The frames of one utterance from its first on, for the second pass, which reads them from the last to the first.
class WholeUtterance {
 public:
  static constexpr size_t kMaxFrames = 625;  // 25 s: no command takes longer, even when it is played slower
  void Clear();
  // The next frames; `before` were there before them.
  void Keep(size_t before, const float* hidden, size_t hidden_width, const float* phones, size_t phones_width, size_t frames);
  // Whether it has all of so many frames.
  bool Has(size_t frames) const { return frames > 0 && frames == num_frames_; }
  const std::vector<float>& hidden() const { return hidden_; }
  const std::vector<float>& phones() const { return phones_; }

 private:
  size_t num_frames_ = 0;
  std::vector<float> hidden_, phones_;
};

// One recording in progress. Calls on one stream take turns by a lock, so a
// result may be read while another thread decodes.
class Stream {
 public:
  // `graph` may be null: then there is the free search only, and it may record a lattice.
  Stream(std::shared_ptr<const Recognizer> recognizer, std::shared_ptr<const WordGraph> graph, bool lattice = false);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // 16 kHz mono samples, nominally in [-1, 1]. Throws std::invalid_argument for
  // one that is not finite (nothing is taken then), std::logic_error after
  // InputFinished.
  void AcceptWaveform(const float* samples, size_t count);
  // No more audio comes: the next decode takes what is left.
  void InputFinished();
  // True if decoding would make progress.
  bool IsReady() const;
  // What has been decoded so far; also in the middle of a recording.
  // `ended`: what was said is over, though more audio may come: the language model counts its end. `prior`, if
  // not null, gets what the best path is made of beside `Transcript::score`: hotwords and language model.
  Transcript Result(bool ended = false, PriorState* prior = nullptr) const;
  bool HasLattice() const { return search_.lattice != nullptr; }
  // The lattice of what has been decoded so far; it must be recorded.
  LatticeArcs Lattice(bool ended = false) const;
  bool HasGraph() const { return commands_.graph != nullptr || phones_.graph != nullptr; }
  // The texts of the paths that the search holds, best first, with their shares of its probability.
  struct Alternative {
    std::string text;
    double probability = 0;
  };
  std::vector<Alternative> Alternatives(bool ended = false) const;
  // The same for the sentences of the graph, which there must be. `ended`: what was said is over, so that the second
  // pass is heard, where the model has one and the utterance is not too long for a command.
  CommandResult Commands(bool ended = false) const;
  // Whether the sentences of the graph, which there must be, may end here.
  GrammarEnd End() const;
  // The text starts clean; the acoustic state goes on, and frames not yet searched stay.
  void ResetSearch();
  // The acoustic state starts clean, from the first frame that is held, or behind those that are.
  // Returns how many frames come again.
  size_t RestartEncoder(bool from_held);
  // Every hypothesis of the beam, best first by score and prior together.
  struct Candidate {
    TokenPath path;
    double score = 0;  // log-probability, without the prior
    PriorState prior;
  };
  std::vector<Candidate> Candidates() const;
  // Other hotwords, or none, from the next recording on: at once if nothing was decoded since the last
  // reset. `sounds`: how they sound, for a model that hears phones; may be null. Throws std::invalid_argument if they are
  // of other pieces or phones.
  void SetHotwords(std::shared_ptr<const Hotwords> hotwords, std::shared_ptr<const PhraseSounds> sounds = nullptr);
  // Another list for the network to attend to, or none, from the next recording on: at once if nothing was decoded
  // since the last reset. Throws std::invalid_argument if it was encoded for another model than this Model object.
  void SetPhrases(std::shared_ptr<const PhraseList> phrases);
  // Keeps what is looked at from the next recording on, or no longer; see Attention.
  void KeepAttention(bool keep);
  // What the frames decoded so far looked at, and the list: null where nothing was kept.
  std::shared_ptr<const PhraseList> Attention(AttentionTrace* trace) const;
  // As good as new: neither text nor acoustic state of the recording stays.
  void Reset();
  const Recognizer& recognizer() const { return *recognizer_; }

 private:
  friend class Recognizer;
  bool Ready() const;
  bool Spots() const { return search_.prior != nullptr && search_.prior->sounds() != nullptr; }
  // Does attention speak for and against what it spots?
  // Nothing is added to what the network hears then.
  bool Weighs() const;
  bool Traces() const { return list_ != nullptr && (keep_attention_ || Weighs()); }
  // Mean log weight that attention gives a phrase of the list whose pieces were said in these frames, beside no-bias
  // alone; NaN if not known. Once it cannot be above `least` it may be anything up to that.
  double EvidenceFor(size_t phrase, const std::vector<int32_t>& frames, double least) const;
  void ForgetAttention();
  void AlignTrace();
  void ForgetWaiting(size_t from, size_t frames);  // of the frames in queue_
  size_t NumFeaturesReady() const;
  size_t TakeFeatures(float* out, size_t max_frames);
  CommandResult PieceCommands() const;
  CommandResult PhoneCommands(bool ended) const;
  // The search by phones once more, with the second pass; false where there is none.
  bool SearchAgain(PhoneSearchState* state) const;
  void Rescore(CommandResult* result) const;
  void UseHotwords();
  void UsePhrases(bool traced);

  std::shared_ptr<const Recognizer> recognizer_;
  mutable std::mutex mutex_;
  Fbank fbank_;
  GraphState encoder_state_;
  std::unique_ptr<GraphState> endpoint_state_;  // null: the model has no such graph
  FrameQueue queue_;
  std::vector<float> again_;     // features that come before those of `fbank_`
  size_t held_ = 0;              // frames at the front of the queue that wait for speech to begin
  uint64_t best_hash_ = 0;       // of the best path when evidence was last asked for
  SearchState search_;
  GrammarSearchState commands_;  // of a graph of pieces
  PhoneSearchState phones_;      // of a graph of phones
  WholeUtterance whole_;         // of that search
  SpotterState spotter_;         // of hotwords by their sounds
  mutable ForcedState forced_;   // likewise: remembers what results asked for
  std::shared_ptr<const earshot::Prior> next_prior_;  // of the next recording
  std::shared_ptr<const PhraseList> list_, next_phrases_;  // of this recording and of the next
  std::unique_ptr<GraphState> bias_state_;          // null: the model has no trained biasing
  AttentionTrace trace_;
  // It has a row for every frame from trace_first_ on that was searched, then for every one that waits in queue_; of
  // frames before trace_known_ it knows nothing, their rows are empty.
  size_t trace_first_ = 0, trace_known_ = 0;
  bool keep_attention_ = false, keep_next_ = false;
  bool finished_ = false;
  bool flushed_ = false;
};

class Recognizer : public std::enable_shared_from_this<Recognizer> {
 public:
  // Throws ModelFileError if the file is no recogniser, std::invalid_argument for
  // a setting out of range or a graph, hotwords or language model of other pieces. `graph` may be null. The language
  // model is for the free search; hotwords are for all searches.
  static std::shared_ptr<const Recognizer> Create(std::shared_ptr<const Model> model, const SearchConfig& config,
                                                  const GrammarConfig& grammar = {}, const PhoneConfig& phones = {},
                                                  std::shared_ptr<const WordGraph> graph = nullptr,
                                                  const PriorParts& prior = {});

  std::unique_ptr<Stream> CreateStream(bool lattice = false) const { return CreateStream(graph_, lattice); }
  // For a graph of its own; throws std::invalid_argument if it is of other pieces.
  std::unique_ptr<Stream> CreateStream(std::shared_ptr<const WordGraph> graph, bool lattice = false) const;

  // Decodes all that is ready, over all streams together. No stream may be in
  // the list twice, all must be of this recogniser: else std::invalid_argument.
  void DecodeStreams(Stream* const* streams, size_t count) const;

  // One frame of every stream that has one ready. Where `hold[i]` is 0 it is searched, after the
  // frames that are held; else it is held back, and of those held the last `hold[i]` are kept.
  // `hold` and `evidence` have `count` entries. Streams as for DecodeStreams.
  void DecodeFrames(Stream* const* streams, const size_t* hold, size_t count, FrameEvidence* evidence) const;

  const Model& model() const { return *model_; }
  const SearchConfig& config() const { return search_.config(); }

 private:
  friend class Stream;
  // Scratch memory of one decoding thread.
  struct Scratch;
  struct ScratchDeleter {
    void operator()(Scratch* scratch) const;
  };
  using ScratchPointer = std::unique_ptr<Scratch, ScratchDeleter>;
  ScratchPointer TakeScratch() const;
  void GiveScratch(ScratchPointer scratch) const;

  // A network over `hidden` that says log-probabilities.
  struct Head {
    std::shared_ptr<const Graph> graph;  // null: the model has none
    size_t log_probs = 0;                // position in the graph's outputs
  };

  Recognizer(std::shared_ptr<const Model> model, const SearchConfig& config, const GrammarConfig& grammar,
             const PhoneConfig& phones, std::shared_ptr<const WordGraph> graph, const PriorParts& prior);
  void CheckGraph(const WordGraph& graph) const;
  std::vector<std::unique_lock<std::mutex>> Lock(Stream* const* streams, size_t count) const;
  bool DecodeBlock(Stream* const* streams, size_t count, Scratch* scratch) const;
  bool EncodeBlock(Stream* const* streams, size_t count, Scratch* scratch) const;
  void FillQueues(Stream* const* streams, size_t count, Scratch* scratch) const;
  void StepFrames(Stream* const* streams, const size_t* hold, size_t count, FrameEvidence* evidence, Scratch* scratch) const;
  void ComputeHeads(Scratch* scratch) const;
  void AddAudioBias(Scratch* scratch) const;
  void SearchBlock(Scratch* scratch) const;
  // Puts in what hotwords are said in a frame.
  void SpotPhrases(Stream* stream, const float* log_probs, Scratch* scratch) const;
  void SearchPhones(PhoneSearchState* state, const float* log_probs, size_t frames, PhoneSearchScratch* scratch) const;

  std::shared_ptr<const Model> model_;
  std::shared_ptr<const Graph> encoder_;
  Head ctc_, phones_, second_pass_, endpoint_;
  std::shared_ptr<const Graph> bias_audio_;  // null: no trained biasing
  size_t encoder_bias_ = 0;                  // position in its outputs
  const Node* attention_ = nullptr;          // in it
  FrameQueue::Widths widths_;
  size_t encoder_out_, hidden_ = 0;  // positions in the encoder's outputs
  Scorer scorer_;
  Search search_;
  GrammarSearch grammar_search_;
  PhoneSearch phone_search_;
  ForcedScorer forced_scorer_;
  float language_weight_;
  std::shared_ptr<const WordGraph> graph_;
  PriorParts prior_parts_;
  std::shared_ptr<const Prior> prior_;  // of streams that ask for nothing else; null: none
  mutable std::mutex pool_mutex_;
  mutable std::vector<ScratchPointer> pool_;
};

}  // namespace earshot

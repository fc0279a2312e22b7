// recognizer.h: audio in, transcripts out: features, encoder and search joined up.
//
// Knows streams and how to decode many of them together; knows nothing of files
// of audio, sample rates other than 16 kHz, or the end of utterances.
#pragma once

#include <cstddef>
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
  bool rescored = true;         // false: by phones alone; pieces score no speech as long as this
  size_t num_frames = 0;
  bool alive = false;           // some sentence can still be completed
  bool can_continue = false;    // the best sentence is also the beginning of another
};

// One recording in progress. Calls on one stream take turns by a lock, so a
// result may be read while another thread decodes.
class Stream {
 public:
  // `graph` may be null: then there is the free search only.
  Stream(std::shared_ptr<const Recognizer> recognizer, std::shared_ptr<const WordGraph> graph);
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
  Transcript Result() const;
  bool HasGraph() const { return commands_.graph != nullptr || phones_.graph != nullptr; }
  // The same for the sentences of the graph, which there must be.
  CommandResult Commands() const;
  // What the best path is made of beside `Transcript::score`: hotwords and language model.
  PriorState PriorScore() const;
  // Every hypothesis of the beam, best first by score and prior together.
  struct Candidate {
    TokenPath path;
    double score = 0;  // log-probability, without the prior
    PriorState prior;
  };
  std::vector<Candidate> Candidates() const;
  // Other hotwords, or none, from the next recording on: at once if nothing was decoded since the last
  // reset. Throws std::invalid_argument if they are of other pieces.
  void SetHotwords(std::shared_ptr<const Hotwords> hotwords);
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
  CommandResult PieceCommands() const;
  CommandResult PhoneCommands() const;
  void Rescore(CommandResult* result) const;
  void UseHotwords();
  void UsePhrases();

  std::shared_ptr<const Recognizer> recognizer_;
  mutable std::mutex mutex_;
  Fbank fbank_;
  GraphState encoder_state_;
  SearchState search_;
  GrammarSearchState commands_;  // of a graph of pieces
  PhoneSearchState phones_;      // of a graph of phones
  mutable ForcedState forced_;   // likewise: remembers what results asked for
  std::shared_ptr<const earshot::Prior> next_prior_;  // of the next recording
  std::shared_ptr<const PhraseList> next_phrases_;  // of the next recording; those of this one are in `search_`
  std::unique_ptr<GraphState> bias_state_;          // null: the model has no trained biasing
  AttentionTrace trace_;
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

  std::unique_ptr<Stream> CreateStream() const { return CreateStream(graph_); }
  // For a graph of its own; throws std::invalid_argument if it is of other pieces.
  std::unique_ptr<Stream> CreateStream(std::shared_ptr<const WordGraph> graph) const;

  // Decodes all that is ready, over all streams together. No stream may be in
  // the list twice, all must be of this recogniser: else std::invalid_argument.
  void DecodeStreams(Stream* const* streams, size_t count) const;

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
  bool DecodeBlock(Stream* const* streams, size_t count, Scratch* scratch) const;
  void ComputeHeads(Scratch* scratch) const;
  void AddAudioBias(Scratch* scratch) const;
  void SearchBlock(Scratch* scratch) const;
  void SearchPhones(Stream* stream, const float* log_probs, size_t frames, PhoneSearchScratch* scratch) const;

  std::shared_ptr<const Model> model_;
  std::shared_ptr<const Graph> encoder_;
  Head ctc_, phones_;
  std::shared_ptr<const Graph> bias_audio_;  // null: no trained biasing
  size_t encoder_bias_ = 0;                  // position in its outputs
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

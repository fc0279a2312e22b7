"""What the compiled engine offers to Python; `native/bindings` defines it."""

from collections.abc import Sequence
from typing import Any, TypedDict, overload

import numpy as np
import numpy.typing as npt

_F32 = npt.NDArray[np.float32]
_I32 = npt.NDArray[np.int32]
_I64 = npt.NDArray[np.int64]
_Bf16 = npt.NDArray[np.int16]  # the bits of bfloat16, which numpy lacks

__version__: str

def isa() -> str: ...
def available_isas() -> list[str]: ...

class Fbank:
    def __init__(self, num_bins: int = 80) -> None: ...
    def accept_waveform(self, samples: _F32) -> None: ...
    def input_finished(self) -> None: ...
    def frames(self) -> _F32: ...
    def reset(self) -> None: ...

def fbank(samples: _F32, num_bins: int = 80) -> _F32: ...
def transducer_loss(
    logits: _F32,
    labels: _I32,
    blank: int = 0,
    one_symbol_per_frame: bool = False,
    fastemit_lambda: float = 0.0,
) -> float: ...
def transducer_loss_bf16(
    logits: _Bf16,
    bias: _F32,
    labels: _I32,
    frames: int,
    d_bias: _F32,
    blank: int = 0,
    one_symbol_per_frame: bool = False,
    fastemit_lambda: float = 0.0,
) -> float: ...
def join_tanh(encoded: _F32, predicted: _F32, joint: _Bf16) -> None: ...
def join_tanh_backward(
    d_joint: _Bf16, joint: _Bf16, d_encoded: _F32, d_predicted: _F32
) -> None: ...
def lstm_gates(gates: _F32, bias: _F32, c0: _F32, cells: _F32, cell_tanh: _F32) -> None: ...
def lstm_backward_frame(
    t: int,
    gates: _F32,
    cells: _F32,
    cell_tanh: _F32,
    c0: _F32,
    d_output: _F32,
    recurrent: _Bf16 | None,
    d_cell: _F32,
    d_gates: _Bf16,
) -> None: ...
def align_counts(ref: _I32, hyp: _I32) -> tuple[int, int, int, int]: ...
def align_batch(
    ref: _I32, ref_ends: _I64, hyp: _I32, hyp_ends: _I64
) -> tuple[_I32, _I32, _I32]: ...
def edit_distances(
    tokens: _I32, ends: _I64
) -> _I32: ...  # (N, N) of N sequences; `ends` is where each ends in `tokens`

class ModelFileError(Exception):
    path: str
    problem: str
    remedy: str

class ModelFile:
    def __init__(self, path: str) -> None: ...
    @property
    def header_json(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def tensor_names(self) -> list[str]: ...
    def tensor_bytes(self, name: str) -> bytes: ...
    def dequantise(self, name: str) -> _F32: ...

class GraphState:
    def copy(self) -> GraphState: ...
    def reset(self) -> None: ...
    def tensors(self) -> dict[str, _F32]: ...
    @property
    def size_bytes(self) -> int: ...

class Graph:
    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> list[str]: ...
    @property
    def outputs(self) -> list[str]: ...
    @property
    def widths(self) -> dict[str, int]: ...
    def initial_state(self) -> GraphState: ...
    def step(
        self,
        x: _F32 | _I32 | dict[str, _F32 | _I32],
        state: GraphState | None = None,
        flush: bool = False,
        *,
        phrases: PhraseList | None = None,
        last_piece: int = -1,
    ) -> dict[str, _F32]: ...
    def step_batch(
        self,
        xs: Sequence[_F32 | _I32 | dict[str, _F32 | _I32]],
        states: list[GraphState],
        *,
        flush: bool | list[bool] = False,
    ) -> list[dict[str, _F32]]: ...

class SearchSettings(TypedDict):
    blank_id: int
    unk_id: int
    predictor: str
    context_size: int
    max_symbols_per_frame: int

class Model:
    def __init__(self, path: str) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def graph_names(self) -> list[str]: ...
    @property
    def num_bins(self) -> int: ...
    @property
    def sample_rate_hz(self) -> int: ...
    @property
    def frame_ms(self) -> int: ...
    @property
    def pieces(self) -> list[str]: ...
    @property
    def phones(self) -> list[str]: ...
    @property
    def bias_phones(self) -> int: ...  # that an entry of trained biasing knows
    @property
    def header_json(self) -> str: ...
    @property
    def search(self) -> SearchSettings | None: ...
    def graph(self, name: str) -> Graph: ...

class WordResult(TypedDict):
    word: str
    start_frame: int
    end_frame: int
    confidence: float

class StreamResult(TypedDict):
    tokens: list[int]
    pieces: list[str]
    frames: list[int]
    log_probs: list[float]
    text: str
    words: list[WordResult]
    num_frames: int
    score: float
    settled_words: int
    hotwords: float
    language: float

class Candidate(TypedDict):
    tokens: list[int]
    frames: list[int]
    score: float
    hotwords: float
    language: float
    hotword_node: int
    language_state: list[int]

class CommandPath(TypedDict):
    words: list[WordResult]
    tokens: list[int]
    frames: list[int]
    score: float
    pieces: list[int]
    transducer: float
    ctc: float
    phones: float
    prior: float

class CommandResult(TypedDict):
    paths: list[CommandPath]
    free_transducer: float
    free_ctc: float
    free_phones: float
    silent_phones: float
    rescored: bool
    num_frames: int
    alive: bool
    can_continue: bool

class WordGraphPosition(TypedDict):
    next: list[int]
    final: bool
    weight: float
    final_weight: float

class WordGraph:
    def __init__(
        self,
        arc_begin: _I32,
        arc_kind: npt.NDArray[np.uint8],
        arc_label: _I32,
        arc_dest: _I32,
        arc_weight: _F32,
        final: npt.NDArray[np.uint8],
        start: int,
        piece_begin: _I32,
        piece_ids: _I32,
        *,
        vocabulary: int,
        spelling_begin: _I32 | None = None,
        phone_begin: _I32 | None = None,
        phone_ids: _I32 | None = None,
        phones: int = 0,
    ) -> None: ...
    def walk(self, symbols: _I32) -> WordGraphPosition | None: ...
    @property
    def size_bytes(self) -> int: ...

# Of one encoder frame: frames searched in this step (0: it is held back), mean log-mel energy, log
# probabilities of the graph `endpoint` (speech, silence before, pause, silence after) where the
# model has one; then of the free search: pieces of the best path and how
# many of them are settled, frames since its last piece, the
# same averaged over all paths, and whether the best path has other pieces than a frame before.
Frame = tuple[int, float, tuple[float, float, float, float] | None, int, int, int, float, bool]
# Some sentence can still be completed; share of the beam in which one is complete, and in which it
# is so and none goes on; nats of the best path behind free sounds or pieces; its phones or pieces.
GrammarEnd = tuple[bool, float, float, float, int]

class LatticeArcs(TypedDict):
    src: _I32
    dst: _I32
    word: _I32
    start_frame: _I32
    end_frame: _I32
    acoustic: _F32
    prior: _F32
    words: list[str]

class Speller:
    def __init__(self, pieces: list[str], scores: list[float]) -> None: ...
    @staticmethod
    def of(model: Model) -> Speller: ...
    def spell(self, text: str, ways: int = 1) -> list[tuple[list[int], float]]: ...

class LetterToSound:
    def __init__(
        self,
        *,
        first: _I32,
        units: npt.NDArray[np.uint16],
        suffix: _I32,
        state: _I32,
        log_prob: _F32,
        backoff: _F32,
        phones: list[bytes],
        letters: _I32,
        start: int,
    ) -> None: ...
    def best(self, letters: bytes, count: int) -> list[tuple[bytes, float]]: ...

class PhraseRows:
    pieces: list[int]  # of all phrases
    begin: list[int]  # first piece of each phrase, and their number at the end
    phones: list[int]  # of all phrases, 1 and up
    ends: list[int]  # of each piece, phones up to its end; none: nobody can say them
    @overload
    def __init__(self, pieces: _I32, begin: _I32, phones: _I32, ends: _I32) -> None: ...
    @overload
    def __init__(self, pieces: _I32, begin: _I32) -> None: ...

class PhraseCompiler:
    def __init__(self, speller: Speller, num_phones: int) -> None: ...
    @staticmethod
    def plain(phrases: list[Any], upper: bool = False) -> list[str | None]: ...
    def add(self, word: str, ways: list[bytes]) -> None: ...
    def rows(self, phrases: list[str]) -> PhraseRows: ...
    def trim(self) -> None: ...
    def compile(
        self,
        phrases: list[str],
        scores: list[float],
        *,
        piece_share: float = 1.0,
        sound_share: float = 0.0,
        sound_cost: float = 0.0,
        evidence: tuple[float, float] = (0.0, 0.0),
    ) -> tuple[Hotwords | None, list[int], list[str]]: ...

class Hotwords:
    @staticmethod
    def of_pieces(
        phrases: list[list[int]], boosts: list[float], starts_word: list[int]
    ) -> Hotwords: ...
    def walk(self, pieces: _I32) -> list[float]: ...
    def spot(self, log_probs: _F32) -> list[tuple[int, int, float, list[int], list[int]]]: ...
    @property
    def num_nodes(self) -> int: ...
    @property
    def num_sounds(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...

class Ngram:
    @staticmethod
    def find(model: Model) -> Ngram | None: ...
    def scores(self, symbols: _I32, end: bool = True) -> tuple[list[float], list[int]]: ...
    def find_word(self, word: str) -> int: ...
    @property
    def of_words(self) -> bool: ...
    @property
    def order(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def num_ngrams(self) -> int: ...
    @property
    def num_pieces(self) -> int: ...
    @property
    def weight(self) -> float: ...
    @property
    def internal_weight(self) -> float: ...
    @property
    def bonus(self) -> float: ...
    @property
    def unknown_piece(self) -> float: ...

class PhraseList:
    num_phrases: int
    num_entries: int
    weight: float
    serial: int
    size_bytes: int
    begin: _I32
    entries: _I32

class PhraseEncoder:
    num_kept: int
    def __init__(self, model: Model) -> None: ...
    def encode(self, rows: PhraseRows, *, weight: float = 1.0) -> PhraseList | None: ...

class Attention(TypedDict):
    begin: _I32
    entry: _I32
    weight: _F32
    phrases: PhraseList

class Stream:
    def accept_waveform(self, samples: _F32) -> None: ...
    def input_finished(self) -> None: ...
    def is_ready(self) -> bool: ...
    def reset(self) -> None: ...
    def reset_search(self) -> None: ...
    def restart_encoder(self, *, from_held: bool) -> int: ...  # frames that come again
    def alternatives(
        self, *, ended: bool = False
    ) -> list[tuple[str, float]]: ...  # texts and their shares of the beam
    def grammar_end(self) -> GrammarEnd | None: ...
    def result(self, *, ended: bool = False) -> StreamResult: ...
    def candidates(self) -> list[Candidate]: ...
    def set_hotwords(self, hotwords: Hotwords | None) -> None: ...
    def set_phrases(self, phrases: PhraseList | None) -> None: ...
    def keep_attention(self, keep: bool) -> None: ...
    def attention(self) -> Attention | None: ...
    def command_result(self, *, ended: bool = False) -> CommandResult | None: ...
    def lattice(self, *, ended: bool = False) -> LatticeArcs | None: ...

class Recognizer:
    def __init__(
        self,
        model: Model,
        method: str = "greedy_search",
        *,
        max_active_paths: int = 4,
        max_symbols_per_frame: int = 0,
        blank_penalty: float = 0.0,
        word_graph: WordGraph | None = None,
        grammar_paths: int = 8,
        grammar_beam: float = 100.0,
        ctc_weight: float = 0.5,
        grammar_blank_penalty: float = 0.0,
        ctc_blank_penalty: float = 0.0,
        language_weight: float = 0.0,
        word_penalty: float = 0.0,
        phone_paths: int = 512,
        phone_beam: float = 16.0,
        phone_blank_penalty: float = 0.0,
        transducer_weight: float = 0.0,
        piece_ctc_weight: float = 0.0,
        second_pass_share: float = 0.5,
        lattice_paths: int = 32,
        lattice_beam: float = 16.0,
        lattice_arcs: int = 20000,
        lattice_context: int = 0,
        hotwords: Hotwords | None = None,
        lm: Ngram | None = None,
        lm_weight: float = 0.0,
        internal_lm_weight: float = 0.0,
        lm_bonus: float = 0.0,
    ) -> None: ...
    def create_stream(
        self, *, word_graph: WordGraph | None = None, lattice: bool = False
    ) -> Stream: ...
    def decode_streams(self, streams: list[Stream]) -> None: ...
    def decode_frames(self, streams: list[Stream], hold: list[int]) -> list[Frame | None]: ...

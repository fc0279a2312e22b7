"""Trained biasing in the engine: as in torch, the same in any chunks, nothing without lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot import ConfigError, Recognizer, _native
from earshot.compress.export import export_transducer, read_transducer, transducer_config
from earshot.core.events import Final
from earshot.data.pronunciation import Lexicon
from earshot.data.tokenizer import Tokenizer
from earshot.decode.attention import attention_map
from earshot.decode.biasing import HotwordCompiler
from earshot.modelfile.reader import ModelFile
from earshot.models.biasing import BiasConfig, phrase_windows
from earshot.models.encoder import EncoderConfig
from earshot.models.predictor import PredictorConfig
from earshot.models.transducer import Transducer, TransducerConfig
from earshot.train.alignment import sounds_of
from earshot.train.phrases import ListConfig, PhraseSampler
from earshot.train.pieces import TokenizerConfig, train_pieces

RATE = 16_000
RNG = np.random.default_rng(3)
CLIP = (np.repeat(RNG.uniform(0, 0.3, 20), RATE // 10) * RNG.normal(0, 1, 2 * RATE)).astype(
    np.float32
)
PHRASES = ["anna", "call anna", "otto", "bob miller", "anna miller", "nan", "tom", "zoe otto"]
SENTENCES = ["call anna", "bob miller is home", "tell otto", "zoe and tom call anna", "nan tom"]


@pytest.fixture(scope="module")
def tokenizer() -> sentencepiece.SentencePieceProcessor:
    sentences = SENTENCES * 20 + ["abcdefghijklmnopqrstuvwxyz"]
    pieces = train_pieces(sentences, TokenizerConfig(vocab_size=48))
    return sentencepiece.SentencePieceProcessor(model_proto=pieces)


@pytest.fixture(scope="module", params=["stateless", "lstm"])
def model(
    request: pytest.FixtureRequest, tokenizer: sentencepiece.SentencePieceProcessor
) -> Transducer:
    torch.manual_seed(5)
    made = Transducer(
        TransducerConfig(
            vocab_size=tokenizer.vocab_size(),
            joiner_width=24,
            encoder=EncoderConfig(num_bins=20, hidden=32, layers=1),
            predictor=PredictorConfig(type=request.param, width=16),
            bias=BiasConfig(
                query="audio_and_label", width=12, hidden=24, key_width=8, value_width=12,
                audio_context=3,
            ),
        )
    ).eval()  # fmt: skip
    for name, parameter in made.named_parameters():
        if name.startswith(("joiner", "encoder_out")):
            parameter.data *= 6  # so that frames differ in what they put out
        if name.startswith(("bias.audio.out", "bias.label.out")):
            parameter.data *= 12  # and lists in what they change
    made.joiner.bias.data[0] += 2.0
    return made


def written(
    model: Transducer, tokenizer: sentencepiece.SentencePieceProcessor, path: Path, codec: str
) -> Path:
    export_transducer(
        model,
        path,
        name="biased",
        pieces=[tokenizer.id_to_piece(i) for i in range(tokenizer.vocab_size())],
        tokenizer=tokenizer.serialized_model_proto(),
        codec=codec,  # type: ignore[arg-type]
    )
    return path


@pytest.fixture(scope="module")
def exact(
    model: Transducer,
    tokenizer: sentencepiece.SentencePieceProcessor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return written(model, tokenizer, tmp_path_factory.mktemp("exact") / "m.ear", "f32_r16")


@pytest.fixture(scope="module")
def coarse(
    model: Transducer,
    tokenizer: sentencepiece.SentencePieceProcessor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return written(model, tokenizer, tmp_path_factory.mktemp("coarse") / "m.ear", "i8_r16x4")


@pytest.fixture(scope="module", params=["f32_r16", "i8_r16x4"])
def path(request: pytest.FixtureRequest, exact: Path, coarse: Path) -> Path:
    return exact if request.param == "f32_r16" else coarse


def rows_of(
    tokenizer: sentencepiece.SentencePieceProcessor, phrases: list[str]
) -> _native.PhraseRows:
    rows = [tokenizer.encode(phrase) for phrase in phrases]
    begin = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return _native.PhraseRows(np.array([i for row in rows for i in row], np.int32), begin)


def encoded(
    path: Path, tokenizer: sentencepiece.SentencePieceProcessor, phrases: list[str]
) -> tuple[_native.Model, _native.PhraseList]:
    native = _native.Model(str(path))
    found = _native.PhraseEncoder(native).encode(rows_of(tokenizer, phrases))
    assert found is not None
    return native, found


def windows_of(
    model: Transducer, tokenizer: sentencepiece.SentencePieceProcessor, phrases: list[str]
) -> torch.Tensor:
    """Entries as the engine orders them: by the piece before, then by all ids."""
    bias = model.bias
    assert bias is not None
    windows = {w for p in phrases for w in phrase_windows(tokenizer.encode(p), bias.config)}
    return torch.tensor(sorted(windows, key=lambda w: (w[bias.config.before - 1], w)))


def entries_of(
    model: Transducer, tokenizer: sentencepiece.SentencePieceProcessor, phrases: list[str]
) -> torch.Tensor:
    bias = model.bias
    assert bias is not None
    return bias.encode(windows_of(model, tokenizer, phrases))


# --- against torch --------------------------------------------------------------------------


@torch.no_grad()
def test_the_engine_adds_what_torch_adds(
    model: Transducer, exact: Path, tokenizer: sentencepiece.SentencePieceProcessor
) -> None:
    native, phrases = encoded(exact, tokenizer, PHRASES)
    bias = model.bias
    assert bias is not None and bias.label is not None
    entries = entries_of(model, tokenizer, PHRASES)
    assert phrases.num_entries == len(entries)
    hidden, predicted = torch.randn(1, 40, 32), torch.randn(1, 9, 24)
    got = native.graph("bias_audio").step(hidden[0].numpy(), phrases=phrases)["encoder_bias"]
    want = bias.look_up_audio(hidden, entries).added[0].numpy()
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-4)
    table = windows_of(model, tokenizer, PHRASES)
    last = torch.tensor([[0, *tokenizer.encode("call anna miller")[:8]]])
    predicted = predicted[:, : last.shape[1]]
    want = bias.look_up_label(predicted, entries, table, last).added[0].numpy()
    for frame, piece in enumerate(last[0].tolist()):
        got = native.graph("bias_label").step(
            predicted[0, frame : frame + 1].numpy(), phrases=phrases, last_piece=piece
        )["predictor_bias"][0]
        np.testing.assert_allclose(got, want[frame], atol=1e-4)


@torch.no_grad()
def test_int8_lists_are_near(
    model: Transducer, coarse: Path, tokenizer: sentencepiece.SentencePieceProcessor
) -> None:
    native, phrases = encoded(coarse, tokenizer, PHRASES)
    bias = model.bias
    assert bias is not None
    hidden = torch.randn(1, 60, 32)
    got = native.graph("bias_audio").step(hidden[0].numpy(), phrases=phrases)["encoder_bias"]
    want = bias.look_up_audio(hidden, entries_of(model, tokenizer, PHRASES)).added[0].numpy()
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.99


@torch.no_grad()
def test_weights_that_streams_keep_are_those_of_torch(
    model: Transducer, exact: Path, tokenizer: sentencepiece.SentencePieceProcessor
) -> None:
    native, phrases = encoded(exact, tokenizer, PHRASES)
    recognizer = _native.Recognizer(native)
    stream = recognizer.create_stream()
    stream.keep_attention(True)
    stream.set_phrases(phrases)
    stream.accept_waveform(CLIP)
    stream.input_finished()
    recognizer.decode_streams([stream])
    found = stream.attention()
    assert found is not None
    frames = len(found["begin"]) - 1
    table = np.zeros((frames, phrases.num_entries + 1))
    for t in range(frames):
        span = slice(found["begin"][t], found["begin"][t + 1])
        table[t, found["entry"][span]] = found["weight"][span]
    table[:, -1] = 1 - table.sum(axis=1)
    hidden = native.graph("encoder").step(_native.fbank(CLIP, 20), flush=True)["hidden"]
    bias = model.bias
    assert bias is not None
    looked = bias.look_up_audio(
        torch.from_numpy(hidden)[None], entries_of(model, tokenizer, PHRASES)
    )
    np.testing.assert_allclose(table, looked.log_weights[0].exp().mean(dim=1).numpy(), atol=1e-4)


# --- entries that know how they sound ---------------------------------------------------------


@pytest.fixture(scope="module")
def sounding(
    tokenizer: sentencepiece.SentencePieceProcessor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Transducer, Path]:
    torch.manual_seed(6)
    config = TransducerConfig(
        vocab_size=48, joiner_width=24, phones=True,
        encoder=EncoderConfig(num_bins=20, hidden=32, layers=1),
        predictor=PredictorConfig(type="stateless", width=16),
        bias=BiasConfig(
            query="audio_and_label", before=1, phones=3, width=12, hidden=24, key_width=8,
            value_width=12,
        ),
    )  # fmt: skip
    made = Transducer(config).eval()
    assert made.bias is not None
    made.bias.audio.out.weight.data *= 12
    folder = tmp_path_factory.mktemp("sounding")
    return made, written(made, tokenizer, folder / "m.ear", "f32_r16")


@torch.no_grad()
def test_sounds_are_those_that_were_trained_with(
    sounding: tuple[Transducer, Path], tokenizer: sentencepiece.SentencePieceProcessor
) -> None:
    """From text to what is added: compiler and encoder of the engine against sampler and torch."""
    model, path = sounding
    bias = model.bias
    assert bias is not None
    own = Tokenizer(tokenizer.serialized_model_proto())
    phrases = [*PHRASES, "zzxq anna", "bob"]
    sampler = PhraseSampler(own, bias.config, ListConfig(), rare=[], texts=[])
    windows = {w for phrase in phrases for w in sampler.windows(phrase)}
    assert any(i >= 48 for window in windows for i in window[2:])
    table = torch.tensor(sorted(windows, key=lambda w: (w[0], w)))
    native = _native.Model(str(path))
    compiled = HotwordCompiler(native).compile(phrases)
    assert compiled.attended is not None and compiled.attended.num_entries == len(table)
    hidden = torch.randn(1, 20, 32)
    graph = native.graph("bias_audio")
    got = graph.step(hidden[0].numpy(), phrases=compiled.attended)["encoder_bias"]
    want = bias.look_up_audio(hidden, bias.encode(table)).added[0].numpy()
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert transducer_config(ModelFile(path)).bias == bias.config


def test_letters_lie_on_phones_as_in_training(
    sounding: tuple[Transducer, Path], tokenizer: sentencepiece.SentencePieceProcessor
) -> None:
    own, lexicon = Tokenizer(tokenizer.serialized_model_proto()), Lexicon.load()
    compiler = _native.PhraseCompiler(_native.Speller.of(_native.Model(str(sounding[1]))), 39)
    for word in ("a", "anna", "miller", "through", "queue", "strengths", "psychology", "o'neill"):
        compiler.add(word, [bytes(lexicon.pronounce(word)[0])])
        rows, want = compiler.rows([word]), sounds_of(word, own, lexicon)
        assert (rows.pieces, rows.phones, rows.ends) == tuple(map(list, (
            want.pieces, want.phones, want.ends
        )))  # fmt: skip
    unsaid = compiler.rows(["zoe"])
    assert unsaid.pieces and unsaid.phones == [] and set(unsaid.ends) == {0}


def test_sounds_that_cannot_be(sounding: tuple[Transducer, Path]) -> None:
    encoder = _native.PhraseEncoder(_native.Model(str(sounding[1])))

    def encode(phones: list[int], ends: list[int]) -> object:
        rows = [np.array(row, np.int32) for row in ([5, 6], [0, 2], phones, ends)]
        return encoder.encode(_native.PhraseRows(*rows))

    assert encode([1, 39], [1, 2]) is not None
    for phones, ends in (([1], [1]), ([1, 2], [2, 1]), ([1, 2], [-1, 2]), ([1, 2], [1, 3])):
        with pytest.raises(ValueError, match="`ends` must rise to the number of phones"):
            encode(phones, ends)
    for phone in (0, 40, -1):
        with pytest.raises(ValueError, match=f"{phone} is no phone; they must be in 1..39"):
            encode([phone, 1], [1, 2])


# --- streams --------------------------------------------------------------------------------


def heard(stream: object) -> object:
    """All that a stream says, scores included."""
    return stream._native.result()  # type: ignore[attr-defined]


def decoded(
    recognizer: Recognizer, hotwords: list[str] | None, cuts: Sequence[int] = (), **how: object
) -> object:
    stream = recognizer.create_stream(hotwords=hotwords, hotwords_score=0.0, **how)  # type: ignore[arg-type]
    for chunk in np.split(CLIP, list(cuts)):
        stream.accept_waveform(RATE, chunk)
        if len(cuts):
            stream.decode()
    stream.input_finished()
    stream.decode()
    return heard(stream)


@pytest.fixture(scope="module")
def recognizer(path: Path) -> Recognizer:
    return Recognizer.load(path)


def test_a_list_changes_what_is_heard(recognizer: Recognizer) -> None:
    """Guards the tests below: equal results must not be equal because lists do nothing."""
    assert decoded(recognizer, PHRASES) != decoded(recognizer, None)
    assert decoded(recognizer, PHRASES) != decoded(recognizer, PHRASES[:2])


def test_without_a_list_nothing_changes_by_a_single_bit(
    recognizer: Recognizer,
    model: Transducer,
    path: Path,
    tmp_path: Path,
    tokenizer: sentencepiece.SentencePieceProcessor,
) -> None:
    """The model without its biasing graphs says the same, score and all."""
    import dataclasses

    plain = Transducer(dataclasses.replace(model.config, bias=BiasConfig())).eval()
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("bias.")}
    )
    codec = "f32_r16" if "exact" in str(path) else "i8_r16x4"
    bare = Recognizer.load(written(plain, tokenizer, tmp_path / "bare.ear", codec))
    nothing = decoded(bare, None)
    assert decoded(recognizer, None) == nothing
    assert decoded(recognizer, []) == nothing
    weightless = Recognizer.load(path, attention_weight=0.0)
    assert decoded(weightless, PHRASES) == nothing


def test_the_order_of_the_list_and_repetitions_do_not_matter_at_all(recognizer: Recognizer) -> None:
    whole = decoded(recognizer, PHRASES)
    assert decoded(recognizer, PHRASES[::-1]) == whole
    assert decoded(recognizer, PHRASES + PHRASES[2:5]) == whole


@given(cuts=st.lists(st.integers(0, len(CLIP)), max_size=6).map(sorted))
@settings(max_examples=15)
def test_any_chunking_gives_the_same_bits(recognizer: Recognizer, cuts: list[int]) -> None:
    assert decoded(recognizer, PHRASES, cuts) == decoded(recognizer, PHRASES)


def test_attention_does_not_depend_on_chunks_either(recognizer: Recognizer) -> None:
    maps = []
    for cuts in ([], [300, 7000, 7001, 15000]):
        stream = recognizer.create_stream(hotwords=PHRASES, keep_attention=True)
        for chunk in np.split(CLIP, cuts):
            stream.accept_waveform(RATE, chunk)
            stream.decode()
        stream.input_finished()
        stream.decode()
        maps.append(stream.attention())
    one, other = maps
    assert one is not None and other is not None
    assert one.phrases == other.phrases
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.no_bias, other.no_bias)


def test_streams_with_different_lists_in_one_batch_do_not_meet(recognizer: Recognizer) -> None:
    lists = [PHRASES, None, PHRASES[:1], ["zoe otto", "tom"], []]
    streams = [recognizer.create_stream(hotwords=x, hotwords_score=0.0) for x in lists]
    for part in np.array_split(CLIP, 3):
        for stream in streams:
            stream.accept_waveform(RATE, part)
        recognizer.decode_streams(streams)
    for stream in streams:
        stream.input_finished()
    recognizer.decode_streams(streams)
    for stream, hotwords in zip(streams, lists, strict=True):
        assert heard(stream) == decoded(recognizer, hotwords)


def test_reset_forgets_the_sound_and_keeps_the_list(recognizer: Recognizer) -> None:
    stream = recognizer.create_stream(hotwords=PHRASES, hotwords_score=0.0)
    for _ in range(2):
        stream.accept_waveform(RATE, CLIP)
        stream.input_finished()
        stream.decode()
        assert heard(stream) == decoded(recognizer, PHRASES)
        stream.reset()


def test_a_new_list_waits_for_the_next_utterance(recognizer: Recognizer) -> None:
    stream = recognizer.create_stream(hotwords=PHRASES, hotwords_score=0.0)
    stream.accept_waveform(RATE, CLIP[:RATE])
    stream.decode()
    stream.set_hotwords(["tom"], score=0.0)
    stream.accept_waveform(RATE, CLIP[RATE:])
    stream.input_finished()
    stream.decode()
    assert heard(stream) == decoded(recognizer, PHRASES)
    stream.reset()
    stream.accept_waveform(RATE, CLIP)
    stream.input_finished()
    stream.decode()
    assert heard(stream) == decoded(recognizer, ["tom"])


# --- attention as a witness -----------------------------------------------------------------


@pytest.fixture(scope="module")
def witness(sounding: tuple[Transducer, Path]) -> Recognizer:
    return Recognizer.load(sounding[1])


def spotted(recognizer: Recognizer, cuts: Sequence[int] = (), *, keep: bool = False) -> object:
    stream = recognizer.create_stream(hotwords=PHRASES, hotwords_score=1.0, keep_attention=keep)
    long = np.tile(CLIP, 12)  # longer than what is remembered of attention
    for chunk in np.split(long, list(cuts)):
        stream.accept_waveform(RATE, chunk)
        stream.decode()
    stream.input_finished()
    stream.decode()
    return heard(stream)


def test_what_is_spotted_depends_on_what_attention_says(
    witness: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed = spotted(witness)
    monkeypatch.setattr("earshot.decode.biasing.EVIDENCE_EVEN", 0.0)
    assert spotted(witness) != believed


def test_attention_that_does_not_know_sounds_is_no_witness(
    sounding: tuple[Transducer, Path],
    tokenizer: sentencepiece.SentencePieceProcessor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dataclasses

    bias = dataclasses.replace(sounding[0].config.bias, phones=0)
    made = Transducer(dataclasses.replace(sounding[0].config, bias=bias)).eval()
    plain = Recognizer.load(written(made, tokenizer, tmp_path / "plain.ear", "f32_r16"))
    believed = spotted(plain)
    monkeypatch.setattr("earshot.decode.biasing.EVIDENCE_EVEN", 0.0)
    assert spotted(plain) == believed


def test_a_witness_adds_nothing_of_its_own(
    witness: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earshot.decode.biasing.PIECE_SHARE", 0.0)
    monkeypatch.setattr("earshot.decode.biasing.EVIDENCE_EVEN", 0.0)

    def decode(**options: object) -> object:
        stream = witness.create_stream(**options)
        stream.accept_waveform(RATE, CLIP)
        stream.input_finished()
        stream.decode()
        return heard(stream)

    # Worth next to nothing, no phrase is spotted; attention alone changes what is heard.
    assert decode(hotwords=PHRASES, hotwords_score=0.001) == decode()
    assert decode(hotwords=PHRASES, hotwords_score=0.0) != decode()


def test_a_witness_says_the_same_in_any_chunks(witness: Recognizer) -> None:
    once = spotted(witness)
    assert spotted(witness, [777, 20_000, 100_001, 300_000]) == once
    assert spotted(witness, keep=True) == once


def test_a_witness_is_not_confused_by_a_long_silence(sounding: tuple[Transducer, Path]) -> None:
    """Frames that nobody searches are looked at too; they must not shift what was seen when."""
    recognizer = Recognizer.load(
        sounding[1], attention_weight=1e-6, hotwords=PHRASES, hotwords_score=1.0
    )
    heard_after = []
    for silence_s in (2, 40):
        stream = recognizer.create_event_stream()
        stream.accept_waveform(RATE, np.concatenate([np.zeros(silence_s * RATE), np.tile(CLIP, 2)]))
        events = list(recognizer.decode_event_streams([stream])[0])
        stream.input_finished()
        events += recognizer.decode_event_streams([stream])[0]
        heard_after.append([e.text for e in events if isinstance(e, Final)])
    assert heard_after[0] == heard_after[1] and any(heard_after[0])


def test_a_list_that_comes_while_nobody_speaks_is_asked_about_from_the_first_word(
    sounding: tuple[Transducer, Path],
) -> None:
    """What waits unsearched when the list comes is not known to attention, and is dropped."""
    recognizer = Recognizer.load(sounding[1], hotwords_score=1.0)
    heard_after = []
    for before_s in (0.0, 0.5, 2.0):
        stream = recognizer.create_event_stream()
        stream.accept_waveform(RATE, np.zeros(round(before_s * RATE)))
        recognizer.decode_event_streams([stream])
        stream.set_hotwords(PHRASES)
        stream.accept_waveform(RATE, np.zeros(round((6 - before_s) * RATE)))
        events = list(recognizer.decode_event_streams([stream])[0])
        stream.accept_waveform(RATE, np.tile(CLIP, 2))
        events += recognizer.decode_event_streams([stream])[0]
        stream.input_finished()
        events += recognizer.decode_event_streams([stream])[0]
        heard_after.append([e.text for e in events if isinstance(e, Final)])
    assert heard_after.count(heard_after[0]) == 3 and any(heard_after[0])


@pytest.mark.parametrize("weight", [1e-6, 3.0])
@pytest.mark.parametrize("again", ["reset_search", "restart_encoder"])
def test_what_begins_anew_does_not_depend_on_chunks(
    sounding: tuple[Transducer, Path], weight: float, again: str
) -> None:
    """With frames of the encoder that wait, how many of them the chunks decide."""
    recognizer = Recognizer.load(sounding[1], attention_weight=weight)
    audio = np.tile(CLIP, 3)
    found = []
    for chunk in (640, 1000, 9000, len(audio)):
        native = recognizer.create_stream(hotwords=PHRASES, hotwords_score=1.0)._native
        fed = 0

        def step(hold: int, chunk: int = chunk, native: _native.Stream = native) -> bool:
            nonlocal fed
            while recognizer._engine.decode_frames([native], [hold])[0] is None:
                if fed >= len(audio):
                    return False
                native.accept_waveform(audio[fed : fed + chunk])
                fed += chunk
                if fed >= len(audio):
                    native.input_finished()
            return True

        for _ in range(21):
            step(0 if again == "reset_search" else 3)
        if again == "reset_search":
            native.reset_search()
        else:
            native.restart_encoder(from_held=True)
        while step(0):
            pass
        result = native.result()
        found.append((result["score"], [word["word"] for word in result["words"]]))
    assert found.count(found[0]) == len(found) and found[0][1]


def test_the_most_that_evidence_can_say_is_what_spotting_allows(
    sounding: tuple[Transducer, Path],
) -> None:
    """By hand: a phone that is sure in every frame loses nothing, so a gain is all worth."""
    speller = _native.Speller.of(_native.Model(str(sounding[1])))
    compiler = _native.PhraseCompiler(speller, 39)
    compiler.add("anna", [bytes([2, 5, 2])])
    log_probs = np.full((9, 40), -20.0, np.float32)
    for frame, phone in enumerate([0, 2, 0, 5, 0, 2, 0, 0, 0]):
        log_probs[frame, phone] = 0.0
    for evidence, most in (((0.0, 0.0), 0.0), ((0.5, 4.0), 2.0)):
        made, _, unknown = compiler.compile(
            ["anna"], [1.5], sound_share=1.0, sound_cost=1.0, evidence=evidence
        )
        assert made is not None and not unknown
        ((frame, start, gain, _, _),) = made.spot(log_probs)
        assert (frame, start) == (5, 1) and gain == pytest.approx(3 * (1.5 + most) - 1.0)
    with pytest.raises(ValueError, match="share of evidence"):
        compiler.compile(["anna"], [1.5], sound_share=1.0, evidence=(-1.0, 0.0))


def test_weights_out_of_range_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"attention_weight is 11.0; it must lie in 0..10"):
        Recognizer.load(path, hotwords=PHRASES, attention_weight=11.0)


# --- lists ----------------------------------------------------------------------------------


def test_entries_once_encoded_are_kept(
    path: Path, tokenizer: sentencepiece.SentencePieceProcessor
) -> None:
    native = _native.Model(str(path))
    encoder = _native.PhraseEncoder(native)
    first = encoder.encode(rows_of(tokenizer, PHRASES[:4]))
    assert first is not None and encoder.num_kept == first.num_entries
    again = encoder.encode(rows_of(tokenizer, PHRASES[:4]))
    assert again is not None and encoder.num_kept == first.num_entries
    fresh = _native.PhraseEncoder(native).encode(rows_of(tokenizer, PHRASES[:4]))
    hidden = RNG.normal(0, 1, (5, 32)).astype(np.float32)
    results = [
        native.graph("bias_audio").step(hidden, phrases=x)["encoder_bias"]
        for x in (first, again, fresh)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_lists_that_cannot_be(path: Path, tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    encoder = _native.PhraseEncoder(_native.Model(str(path)))

    def encode(pieces: list[int], begin: list[int], weight: float = 1.0) -> object:
        rows = _native.PhraseRows(np.array(pieces, np.int32), np.array(begin, np.int32))
        return encoder.encode(rows, weight=weight)

    assert encode([], [0, 0, 0]) is None
    assert encode([5, 6], [0, 2], weight=0.0) is None
    for pieces in ([-1], [48], [0], [2]):
        with pytest.raises(ValueError, match="is no piece that phrases can have"):
            encode(pieces, [0, 1])
    for begin in ([], [0], [1, 1], [0, 2], [0, 1, 0, 1]):
        with pytest.raises(ValueError, match="must go from 0 up to the number of pieces"):
            encode([5], begin)
    with pytest.raises(ValueError, match=r"the weight is 10.5\d*; it must be in 0..10"):
        encode([5], [0, 1], weight=10.5)
    with pytest.raises(ValueError, match="the weight is nan"):
        encode([5], [0, 1], weight=float("nan"))
    other = _native.Recognizer(_native.Model(str(path))).create_stream()
    with pytest.raises(ValueError, match="encoded for another model"):
        other.set_phrases(encode([5], [0, 1]))  # type: ignore[arg-type]


def test_what_is_trained_further_is_what_was_written(exact: Path, model: Transducer) -> None:
    config = transducer_config(ModelFile(exact))
    assert config.bias == model.config.bias
    again = read_transducer(exact, config)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(
            again.state_dict()[name], value, rtol=1e-6, atol=1e-6, msg=name
        ) if ("bias_hh" not in name and "bias_ih" not in name) else None


# --- the map --------------------------------------------------------------------------------


class _List:
    """Two phrases over three entries, of which they share one."""

    num_phrases, num_entries = 3, 3
    begin = np.array([0, 2, 4, 4], np.int32)
    entries = np.array([0, 1, 0, 2], np.int32)


def test_a_map_sums_entries_by_phrase() -> None:
    found = {
        "begin": np.array([0, 2, 2, 3], np.int32),
        "entry": np.array([0, 1, 2], np.int32),
        "weight": np.array([0.25, 0.5, 0.75], np.float32),
        "phrases": _List(),
    }
    result = attention_map(found, ["anna", "otto", ""], frame_s=0.04)  # type: ignore[arg-type]
    assert result.phrases == ("otto", "anna")  # more in all, though less at once
    np.testing.assert_allclose(result.weights, [[0.25, 0, 0.75], [0.75, 0, 0]])
    np.testing.assert_allclose(result.no_bias, [0.25, 1, 0.25])
    with pytest.raises(ValueError, match="1 texts for 3 phrases"):
        attention_map(found, ["anna"], frame_s=0.04)  # type: ignore[arg-type]

"""Chooses the thresholds of both end-pointers on labelled audio, and draws what they cost.

Every clip is heard once, by a stream that never ends an utterance; what it saw of each frame is
kept, and any setting is then judged by replaying the decisions, which are pure functions of that.
Knows nothing of networks or of where clips come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from earshot.core.errors import ConfigError
from earshot.decode.endpoint import (
    TINY_S,
    EndpointConfig,
    EndpointDetector,
    EndpointRule,
    Evidence,
    OperatingPoint,
    Sentence,
    Verdict,
)

if TYPE_CHECKING:
    from earshot.session.recognizer import Recognizer

__all__ = [
    "EndpointFigures",
    "Outcome",
    "Trace",
    "TracedClip",
    "endless",
    "evaluate",
    "record_traces",
    "replay",
    "trade_off",
    "tune",
]

_Array = npt.NDArray[np.float64]
_TOGETHER = 16
# From which values each threshold is chosen. A coarse grid, because finer ones fit the clips.
_SECONDS = (0.12, 0.16, 0.2, 0.24, 0.28, 0.32, 0.36, 0.4, 0.44, 0.48, 0.56, 0.64, 0.8, 1.0, 1.2)
_GRIDS: dict[str, tuple[float, ...]] = {
    "end_probability": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99),
    "min_pause_s": (0.0, 0.04, 0.08, *_SECONDS[:11]),
    "pause_s": _SECONDS[2:],
    "number_pause_s": (0.0, *_SECONDS),
    "closed_pause_s": (0.08, *_SECONDS[:12]),
    "complete_pause_s": _SECONDS,
    "open_pause_s": (*_SECONDS[6:], 1.6, 2.0),
}
_GRAMMAR_ONLY = ("closed_pause_s", "complete_pause_s", "open_pause_s")
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class TracedClip:
    """A clip to hear.

    Args:
        id: Its name.
        samples: Shape (N,), 16 kHz: one utterance with at least a second of silence behind it.
        end_s: When its speech ends; None where more would follow, so that any end is too early.
    """

    id: str
    samples: npt.NDArray[np.float32]
    end_s: float | None


@dataclass(slots=True)
class Trace:
    """What a stream saw of a clip's utterance, frame by frame.

    Args:
        id: Of the clip.
        end_s: As in `TracedClip`.
        duration_s: Of the clip.
        times_s: When each frame's decision could be made.
        frames: The evidence.
        texts: The free words as of each frame.
    """

    id: str
    end_s: float | None
    duration_s: float
    times_s: list[float] = field(default_factory=list)
    frames: list[Evidence] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What two end-pointers do with a trace.

    Args:
        final_s: When the final one fires; None if it does not within the clip.
        speculations: When each speculation is made.
        withdrawn: How many of them are cancelled.
        standing_s: When the one was made that the final finds open; None if none is.
    """

    final_s: float | None
    speculations: tuple[float, ...]
    withdrawn: int
    standing_s: float | None


@dataclass(frozen=True, slots=True)
class EndpointFigures:
    """What a setting costs over many clips.

    Args:
        clips: How many utterances were heard.
        cut_off: Share of them that the final end-point cuts off.
        missed: Share that it does not end within the clip.
        latency_s: Median from the end of speech to the final end-point, of those not cut off.
        latency_p90_s: The same of the slowest tenth.
        speculative_s: Median from the end of speech to the speculation that stands at the final,
            or to the final where none does.
        lead_s: Median by which a standing speculation comes before its final.
        withdrawn: Share of speculations that are cancelled.
    """

    clips: int
    cut_off: float
    missed: float
    latency_s: float
    latency_p90_s: float
    speculative_s: float
    lead_s: float
    withdrawn: float

    def as_dict(self) -> dict[str, float | int]:
        """JSON-ready, rounded to a tenth of a millisecond or percent."""
        return {
            name: value if isinstance(value, int) else round(value, 4)
            for name, value in (
                (name, getattr(self, name)) for name in EndpointFigures.__dataclass_fields__
            )
        }


def endless(config: EndpointConfig) -> EndpointConfig:
    """A configuration whose utterances end with the input only.

    Args:
        config: What else is as it says.

    Returns:
        A copy.
    """
    never = EndpointRule(
        must_contain_nonsilence=True, min_trailing_silence_s=3600.0, min_utterance_s=3600.0
    )
    point = OperatingPoint(
        pause_s=60.0,
        closed_pause_s=60.0,
        complete_pause_s=60.0,
        open_pause_s=60.0,
        number_pause_s=60.0,
        min_pause_s=60.0,
        end_probability=2.0,
    )
    return replace(
        config,
        rule1=never,
        rule2=never,
        rule3=never,
        speculative=point,
        final=point,
        speculation=False,
        use_rules_only=False,
    )


def record_traces(
    recognizer: Recognizer,
    clips: Iterable[TracedClip],
    *,
    config: EndpointConfig | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Trace]:
    """Hear clips and keep what was seen of their frames.

    Args:
        recognizer: With or without commands.
        clips: One utterance each.
        config: How speech is told from silence; None takes the recogniser's own.
        progress: Called with the number of clips heard.

    Returns:
        One trace for each clip; it has no frames where no utterance was found.
    """
    watching = endless(config or recognizer.endpoint_config())
    traces: list[Trace] = []
    for batch in _batches(clips):
        streams, fresh = [], []
        for clip in batch:
            stream = recognizer.create_event_stream(endpoint=watching)
            trace = Trace(clip.id, clip.end_s, len(clip.samples) / 16_000)

            def keep(
                utterance: int, t_s: float, evidence: Evidence, text: str, trace: Trace = trace
            ) -> None:
                if utterance == 1:
                    trace.times_s.append(t_s)
                    trace.frames.append(evidence)
                    trace.texts.append(text)

            stream.observer = keep
            stream.accept_waveform(16_000, clip.samples)
            stream.input_finished()
            streams.append(stream)
            fresh.append(trace)
        recognizer.decode_event_streams(streams)
        traces += fresh
        progress(len(traces))
    return traces


def _batches(clips: Iterable[TracedClip]) -> Iterator[list[TracedClip]]:
    batch: list[TracedClip] = []
    for clip in clips:
        batch.append(clip)
        if len(batch) == _TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def replay(trace: Trace, config: EndpointConfig) -> Outcome:
    """What the end-pointers of a configuration do with a trace.

    Args:
        trace: From `record_traces`.
        config: Thresholds.

    Returns:
        The outcome; a speculation counts as withdrawn where words or speech come after it.
    """
    detector = EndpointDetector(config)
    made: list[float] = []
    withdrawn = 0
    said = ""
    for t_s, evidence, text in zip(trace.times_s, trace.frames, trace.texts, strict=True):
        if detector.speculating and evidence.changed and text != said:
            detector.withdraw()
            withdrawn += 1
        was_open = detector.speculating
        verdict = detector.update(evidence)
        if verdict is Verdict.SPECULATE:
            made.append(t_s)
            said = text
        elif verdict in (Verdict.SPEECH_RESUMED, Verdict.TIMEOUT):
            withdrawn += 1
        elif verdict in (Verdict.END, Verdict.TOO_LONG):
            return Outcome(t_s, tuple(made), withdrawn, made[-1] if was_open else None)
    return Outcome(None, tuple(made), withdrawn, made[-1] if detector.speculating else None)


def evaluate(traces: Sequence[Trace], config: EndpointConfig) -> EndpointFigures:
    """What a configuration costs.

    Args:
        traces: Those without frames are left out.
        config: Thresholds.

    Returns:
        The figures; latencies are NaN where nothing was ended in time.
    """
    cut, missed, latencies, speculative, leads = 0, 0, [], [], []
    made = withdrawn = heard = 0
    for trace in traces:
        if not trace.frames:
            continue
        heard += 1
        outcome = replay(trace, config)
        made += len(outcome.speculations)
        withdrawn += outcome.withdrawn
        if outcome.final_s is None:
            missed += trace.end_s is not None
        elif trace.end_s is None or outcome.final_s < trace.end_s:
            cut += 1
        else:
            latencies.append(outcome.final_s - trace.end_s)
            first = outcome.standing_s if outcome.standing_s is not None else outcome.final_s
            speculative.append(first - trace.end_s)
            if outcome.standing_s is not None:
                leads.append(outcome.final_s - outcome.standing_s)
    return EndpointFigures(
        clips=heard,
        cut_off=cut / max(heard, 1),
        missed=missed / max(heard, 1),
        latency_s=_quantile(latencies, 0.5),
        latency_p90_s=_quantile(latencies, 0.9),
        speculative_s=_quantile(speculative, 0.5),
        lead_s=_quantile(leads, 0.5),
        withdrawn=withdrawn / max(made, 1),
    )


def _quantile(values: Sequence[float] | _Array, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("nan")


@dataclass(frozen=True, slots=True)
class _Table:
    """Many traces in arrays of F frames, for deciding all of them at once.

    The same decisions as those of `EndpointDetector`, for the final end-pointer alone; tests hold
    the two together.
    """

    first: npt.NDArray[np.int64]  # (N + 1,) frames of trace n are first[n]..first[n + 1]
    times_s: _Array
    pause_s: _Array
    rule_s: _Array
    utterance_s: _Array
    end_probability: _Array  # -1 without a head
    nonsilence: npt.NDArray[np.bool_]
    numeric: npt.NDArray[np.bool_]
    sentence: npt.NDArray[np.int64]
    end_s: _Array  # (N,) infinite where any end is too early

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> _Table:
        frames = [evidence for trace in traces for evidence in trace.frames]
        order = list(Sentence)
        return cls(
            first=np.cumsum([0, *(len(trace.frames) for trace in traces)]),
            times_s=np.array([t for trace in traces for t in trace.times_s]),
            pause_s=np.array([e.pause_s for e in frames]) + TINY_S,
            rule_s=np.array([e.rule_s for e in frames]) + TINY_S,
            utterance_s=np.array([e.utterance_s for e in frames]) + TINY_S,
            end_probability=np.array(
                [-1.0 if e.end_probability is None else e.end_probability for e in frames]
            ),
            nonsilence=np.array([e.nonsilence for e in frames]),
            numeric=np.array([e.numeric for e in frames]),
            sentence=np.array([order.index(e.sentence) for e in frames]),
            end_s=np.array([np.inf if t.end_s is None else t.end_s for t in traces]),
        )

    def final_s(self, config: EndpointConfig) -> _Array:
        """When each trace is ended, (N,); NaN where it is not."""
        over = np.zeros(len(self.times_s), np.bool_)
        point, pause = config.final, self.pause_s
        is_open, complete, closed = (
            self.sentence == list(Sentence).index(each)
            for each in (Sentence.OPEN, Sentence.COMPLETE, Sentence.CLOSED)
        )
        sure = (self.end_probability >= point.end_probability) & (pause >= point.min_pause_s)
        enough = sure | (pause >= point.pause_s) | (complete & (pause >= point.complete_pause_s))
        enough &= ~(self.numeric & ~closed & (pause < point.number_pause_s))
        enough |= closed & (pause >= point.closed_pause_s)
        enough = np.where(is_open, pause >= point.open_pause_s, enough)
        over |= enough & self.nonsilence
        waits = is_open & (self.rule_s - TINY_S < point.open_pause_s)
        for rule in (config.rule1, config.rule2, config.rule3):
            holds = (self.rule_s >= rule.min_trailing_silence_s) & (
                self.utterance_s >= rule.min_utterance_s
            )
            if rule.must_contain_nonsilence:
                holds &= self.nonsilence
            over |= holds if rule is config.rule3 else holds & ~waits
        out = np.full(len(self.end_s), np.nan)
        for n, (start, stop) in enumerate(pairwise(self.first.tolist())):
            fired = np.flatnonzero(over[start:stop])
            if len(fired):
                out[n] = self.times_s[start + fired[0]]
        return out


def tune(
    traces: Sequence[Trace],
    config: EndpointConfig,
    *,
    max_cut_off: float = 0.02,
    max_withdrawn: float = 0.05,
    progress: Callable[[float, float], None] = lambda *_: None,
) -> EndpointConfig:
    """The quickest thresholds that keep within two limits.

    One threshold after the other is moved over a coarse grid, twice round: first the final
    end-pointer's, then the speculative one's.

    Args:
        traces: Of labelled audio that nothing is reported on.
        config: Where to start; what is no threshold stays.
        max_cut_off: Share of utterances that the final end-point may cut off, 0..1.
        max_withdrawn: Share of speculations that may be withdrawn, 0..1.
        progress: Called with (done, total).

    Returns:
        The configuration.

    Raises:
        ConfigError: There are fewer than 20 utterances to go by.
    """
    heard = [trace for trace in traces if trace.frames]
    if len(heard) < 20:
        raise ConfigError(
            f"endpoint tune: {len(heard)} utterances were heard in {len(traces)} clips; at least "
            "20 are needed. Give more clips, of speech that the model understands."
        )
    with_grammar = any(e.sentence.value != "none" for trace in heard for e in trace.frames)
    with_head = any(e.end_probability is not None for trace in heard for e in trace.frames)
    names = [
        name
        for name in _GRIDS
        if (with_grammar or name not in _GRAMMAR_ONLY)
        and (with_head or name not in ("end_probability", "min_pause_s"))
    ]
    done, total = 0, 2 * _ROUNDS * len(names)

    def descend(
        start: EndpointConfig, which: str, cost: Callable[[EndpointConfig], float]
    ) -> EndpointConfig:
        nonlocal done
        best = start
        least = cost(best)
        for round_number in range(_ROUNDS):
            before = best
            for name in names:
                for value in _GRIDS[name]:
                    point = replace(getattr(best, which), **{name: value})
                    if point == getattr(best, which):
                        continue
                    changes: dict[str, Any] = {which: point}
                    other = replace(best, **changes)
                    price = cost(other)
                    if price < least - 1e-9:
                        best, least = other, price
                done += 1
                progress(done, total)
            if best == before:  # nothing is left to gain
                done += (_ROUNDS - 1 - round_number) * len(names)
                break
        return best

    table = _Table.of(heard)

    def final_cost(setting: EndpointConfig) -> float:
        late = table.final_s(setting) - table.end_s
        in_time = late[late >= 0]  # NaN is neither: it was never ended
        if len(in_time) == 0:
            return 1e3
        cut_off = float(np.mean(late < 0))
        over = max(0.0, cut_off - max_cut_off) + float(np.mean(np.isnan(late)))
        # The last term settles what the clips leave open: for the more patient.
        return (
            _quantile(in_time, 0.5)
            + 0.3 * _quantile(in_time, 0.9)
            + 40 * over
            - 1e-4 * setting.final.pause_s
        )

    def speculative_cost(setting: EndpointConfig) -> float:
        figures = evaluate(until_final, setting)
        over = max(0.0, figures.withdrawn - max_withdrawn)
        return figures.speculative_s + 40 * over - 1e-4 * setting.speculative.pause_s

    quiet = replace(config, speculation=False, use_rules_only=False)
    tuned = descend(quiet, "final", final_cost)
    # What comes behind the final decides nothing more.
    until_final = [_until(trace, at) for trace, at in zip(heard, table.final_s(tuned), strict=True)]
    return descend(replace(tuned, speculation=True), "speculative", speculative_cost)


def _until(trace: Trace, final_s: float) -> Trace:
    count = sum(not t_s > final_s for t_s in trace.times_s)
    return replace(
        trace,
        times_s=trace.times_s[:count],
        frames=trace.frames[:count],
        texts=trace.texts[:count],
    )


def trade_off(
    traces: Sequence[Trace], config: EndpointConfig, *, rules_only: bool = False
) -> list[tuple[float, EndpointFigures]]:
    """How cut-offs and latency go with how patient the final end-pointer is.

    Args:
        traces: Labelled audio.
        config: The setting in the middle.
        rules_only: Move rule 2 instead, with nothing else in force.

    Returns:
        Factor on all pauses, or trailing silence of rule 2 in seconds; and the figures.
    """
    rows = []
    if rules_only:
        for silence_s in (0.12, 0.2, 0.28, 0.36, 0.44, 0.52, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.6):
            rule = replace(config.rule2, min_trailing_silence_s=silence_s)
            setting = replace(
                config,
                rule2=rule,
                use_rules_only=True,
                use_head=False,
                use_grammar=False,
                speculation=False,
            )
            rows.append((silence_s, evaluate(traces, setting)))
        return rows
    for factor in (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.6, 2.0):
        setting = replace(config, final=scaled(config.final, factor), speculation=False)
        rows.append((factor, evaluate(traces, setting)))
    return rows


def scaled(point: OperatingPoint, factor: float) -> OperatingPoint:
    """An operating point that is more patient, or less.

    Args:
        point: The one in the middle.
        factor: On all pauses; doubts of the head are multiplied by its inverse.

    Returns:
        The other point.
    """
    pauses = {
        name: min(60.0, getattr(point, name) * factor)
        for name in OperatingPoint.__dataclass_fields__
        if name != "end_probability"
    }
    doubt = min(1.0, (1 - point.end_probability) / factor)
    asked = point.end_probability if point.end_probability > 1 else max(0.02, 1 - doubt)
    return replace(point, **pauses, end_probability=asked)

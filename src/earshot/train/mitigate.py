"""Mends what an audit found: a model is fine-tuned on the cohorts that it fails, in many ways.

The one that mends them without hurting the others is taken. Every model of the sweep has a folder
of its own with its figures, and one that is there is not made again, so the same command goes on
where it was stopped. Some speakers are trained on, others stop runs and choose, and the rest
evaluate and do nothing else. Knows nothing of how an audit is made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict, cast

import safetensors.torch
import sentencepiece
import torch
from lhotse import CutSet
from torch import Tensor

from earshot.compress.config import CompressConfig, QuantiseConfig
from earshot.compress.export import (
    export_transducer,
    file_grids,
    read_transducer,
    transducer_config,
)
from earshot.compress.quantisation import fit_grids
from earshot.compress.updates import LimitedChange
from earshot.compress.weights import list_weights
from earshot.core.errors import ConfigError
from earshot.core.utterance import Utterance
from earshot.data.atomic import replaced_file
from earshot.data.pronunciation import Lexicon
from earshot.data.scoring import Estimate, WordCounts
from earshot.data.text import normalise
from earshot.modelfile.codecs import is_sparse
from earshot.modelfile.diff import compare_models
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import stored_tensors, write_with_metadata
from earshot.models.transducer import Transducer
from earshot.session.recognizer import embedded_model_path
from earshot.train import mitigate_data as data
from earshot.train.augment import Augmenter
from earshot.train.batches import Batch, ClipTexts, Progress, TrainingClips
from earshot.train.cuts import write_json
from earshot.train.mitigate_curve import curve_page
from earshot.train.mitigate_figures import (
    Candidate,
    Development,
    Rates,
    changes,
    choose,
    hear,
    on_front,
    rates,
    scored,
)
from earshot.train.mitigate_fisher import (
    cached_information,
    fisher_information,
    information_key,
    normalised,
)
from earshot.train.mitigate_tuning import (
    Anchor,
    CohortInput,
    TuningConfig,
    averaged,
    drawn_batches,
    trained_names,
    tune,
)
from earshot.train.precision import usual_precision
from earshot.train.recipe import Recipe, load_recipe

__all__ = ["SETTINGS", "Mended", "Mitigation", "mitigate"]

SETTINGS = Path(__file__).parent / "mitigate.toml"

_CHECKED_ROWS = 40  # of the results, heard again to see whether they are of this model
_LEAST_EQUAL = 0.5  # of these that must read the same
_SWEEPS = (
    "methods", "plain_steps", "average_shares", "ewc_strengths", "l2_strengths", "mixed_shares",
    "oversample_ratios", "cohort_steps",
)  # fmt: skip

StageProgress = Callable[[str, float, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mitigation:
    """What is asked for.

    Args:
        report: JSON of `earshot audit run`.
        output: The model file to make.
        work_dir: Gets the cells of the sweep.
        model: The model that was audited; None is the embedded one.
        results: The file of results, where the report's own name of it does not hold.
        general: Manifest of speech that shall not be forgotten; None takes the other cohorts'.
        discovery: Which of the report's; None takes the first.
        columns: Column of the results by field, where they differ, as the audit was told.
        other_model: Do not ask whether the results are of this model.
        update: Also write the change as an `.eard` file.
        seed: Of all that is random.
        overrides: `section.key=value` of the recipe.
    """

    report: Path
    output: Path
    work_dir: Path
    model: Path | None = None
    results: Path | None = None
    general: Path | None = None
    discovery: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    other_model: bool = False
    update: Path | None = None
    seed: int = 1
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """A finished sweep.

    Args:
        output: The model file; that of the start where nothing was better.
        chosen: The candidate it is; None where it is the start.
        why: The reason, a sentence.
        report: JSON-ready: everything that was measured.
        curve: The page that shows it.
        cohort_models: Cohort name to a model file for its people, where a vector for each was
            chosen; `output` is then for everybody else.
    """

    output: Path
    chosen: Candidate | None
    why: str
    report: dict[str, Any]
    curve: Path
    cohort_models: Mapping[str, Path]


def mitigation_recipe(request: Mitigation) -> Recipe:
    """The recipe of a mitigation.

    Raises:
        ConfigError: An override is unknown or out of range.
    """
    settings = {
        "name": request.output.stem,
        "folder": str(request.work_dir),
        "train.seed": request.seed,
        "train.start_from": str(request.model or embedded_model_path()),
        "data.recordings": "",
    }
    own = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return load_recipe(SETTINGS, [*own, *request.overrides])


def mitigate(
    request: Mitigation,
    *,
    progress: StageProgress = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Mended:
    """Make the sweep, or go on with it, and take the best model.

    Args:
        request: What is asked for.
        progress: Called with (stage, done, total) now and then.
        tell: Called with a line about what is going on.

    Returns:
        The model, why it was chosen, and all figures.

    Raises:
        ConfigError: The report cannot be used, is of another model, or has too few speakers.
        ManifestError: Rows of the results cannot be used, or their sound is not there.
        ResultsError: Rows of the results cannot be read.
        ModelFileError: The model is not sound.
    """
    return _Sweep(request, progress, tell).run()


class _Limits(TypedDict, total=False):
    """Of what `tune` takes; nothing where all may change."""

    constrain: Callable[[int, Transducer], None]
    rounded: Callable[[Transducer], AbstractContextManager[None]]


class _Start:
    """The model that is mended, and how a changed one is written as a file of its kind."""

    def __init__(self, path: Path, compress: CompressConfig) -> None:
        self.path = path
        self.file = ModelFile(path)
        self.config = transducer_config(self.file)
        self.model = read_transducer(path, self.config).eval()
        self.state = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.codecs = {tensor.name: tensor.codec for tensor in self.file.tensors}
        # Zeros stay, but few bits do not unless it is asked for: what a mend changes is mostly less
        # than from one of sixteen levels to the next.
        self.sparse = any(is_sparse(codec) for codec in self.codecs.values())
        self.compress = replace(compress, keep_mask=compress.keep_mask or self.sparse)
        self._grids = file_grids(self.file, self.model) if compress.limits_change else {}
        self._header = cast("dict[str, Any]", self.file.header)
        self.tokenizer = self.file.tensor_bytes("tokenizer")

    def network(self) -> Transducer:
        """A copy, to be changed."""
        model = Transducer(self.config)
        model.load_state_dict(self.state)
        return model

    def limits(self, model: Transducer, steps: int) -> _Limits:
        """What keeps a network within what may change of the file."""
        if not self.compress.limits_change:
            return {}
        done = 0.0
        limited = LimitedChange(self.compress, lambda: done, codecs=self.codecs, grids=self._grids)
        holder = cast("Any", SimpleNamespace(transducer=model))
        limited.setup(cast("Any", None), holder, "fit")

        def constrain(step: int, model: Transducer) -> None:
            nonlocal done
            done = step / steps
            choosing = self.compress.changed_blocks < 1 and done >= self.compress.chosen_at
            if choosing and not limited.free:
                limited.choose(model)
            limited.constrain(model)

        return {"constrain": constrain, "rounded": limited.rounded}

    def write(self, model: Transducer, path: Path, *, description: str) -> None:
        """Write a network into a file that has all else of the start: language model, heads."""
        is_float = all(codec.startswith("f32") or codec == "u8" for codec in self.codecs.values())
        grids = self._grids or (fit_grids(model, QuantiseConfig(bits=8)) if self.sparse else {})
        export_transducer(
            model,
            path,
            name=self._header["name"],
            pieces=self._header["pieces"],
            tokenizer=self.tokenizer,
            codec="f32_r16" if is_float else "i8_r16x4",
            grids=grids,
            codecs={name: self.codecs[name] for name in self._grids},
        )
        same = {
            weight.name
            for weight in list_weights(model)
            if torch.equal(weight.of(model), self.state[weight.path])
        }
        tensors = {
            name: tensor
            for name, tensor in stored_tensors(ModelFile(path)).items()
            if name not in same
        }
        write_with_metadata(self.file, path, {"description": description}, tensors=tensors)


class _Sweep:
    """The request with everything that its cells share."""

    def __init__(
        self, request: Mitigation, progress: StageProgress, tell: Callable[[str], None]
    ) -> None:
        self._request = request
        self._progress = progress
        self._tell = tell
        self._recipe = mitigation_recipe(request)
        self._config = self._recipe.mitigate
        self._folder = request.work_dir
        self._discovery = data.read_discovery(
            request.report, method=request.discovery, results=request.results
        )
        self._targets = data.target_cohorts(self._discovery, self._config)
        self._rows = data.read_rows(self._discovery.results, columns=request.columns)
        self._cohorts = data.assigned(self._discovery, self._rows)
        self._speakers = data.deal_speakers(
            self._rows, self._cohorts, self._targets, self._config, seed=request.seed
        )
        self._names = [cohort.name for cohort in self._discovery.cohorts]
        self._start = _Start(request.model or embedded_model_path(), self._recipe.compress)
        self._tokenizer = sentencepiece.SentencePieceProcessor(model_proto=self._start.tokenizer)
        self._general = self._read_general()
        self._key = self._digest()
        self._prepared: _Prepared | None = None  # only where something is trained

    # ------------------------------------------------------------ what is there

    def _read_general(self) -> list[data.Row]:
        """What the manifest has of speakers who neither choose nor evaluate."""
        if self._request.general is None:
            return []
        held_out = {
            self._rows[n].utterance.speaker or ""
            for n in (*self._speakers.dev, *self._speakers.evaluation)
        }
        return data.general_rows(self._request.general, heard=held_out)

    def _digest(self) -> str:
        """What all cells depend on, but for their method and strength."""
        settings = asdict(self._recipe)
        mitigate_settings = {k: v for k, v in settings["mitigate"].items() if k not in _SWEEPS}
        del settings["train"]["start_from"]  # its content counts, below
        general = self._request.general
        parts = {
            "version": 1,
            "mitigate": mitigate_settings,
            "train": settings["train"],
            "augment": settings["augment"],
            "compress": settings["compress"],
            "start": hashlib.sha256(self._start.path.read_bytes()).hexdigest(),
            "results": hashlib.sha256(self._discovery.results.read_bytes()).hexdigest(),
            "cohorts": self._cohorts,
            "targets": self._targets,
            "general": hashlib.sha256(general.read_bytes()).hexdigest()
            if general is not None and general.is_file()
            else str(general),
        }
        text = json.dumps(parts, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _utterances(self, rows: Sequence[int]) -> list[Utterance]:
        return [self._rows[n].utterance for n in rows]

    def _cohorts_of(self, rows: Sequence[int]) -> list[int]:
        return [self._cohorts[n] for n in rows]

    def _rates(self, counts: Sequence[WordCounts], rows: Sequence[int]) -> Rates:
        return rates(counts, self._cohorts_of(rows), self._targets, self._names)

    def _require_same_model(self) -> None:
        """Raise where the results read like those of another model."""
        spread = [n for n, row in enumerate(self._rows) if row.hyp is not None]
        if self._request.other_model or not spread:
            return
        step = max(1, len(spread) // _CHECKED_ROWS)
        asked = spread[::step][:_CHECKED_ROWS]
        best = 0
        for method in ("greedy_search", "modified_beam_search"):
            heard = hear(self._start.path, self._utterances(asked), method=method)
            equal = sum(
                normalise(self._rows[n].hyp or "") == normalise(text)
                for n, text in zip(asked, heard, strict=True)
            )
            best = max(best, equal)
            if best >= _LEAST_EQUAL * len(asked):
                return
        raise ConfigError(
            f"{self._request.report}: is of another model than {self._start.path}: of {len(asked)} "
            f"rows of the results that were heard again, {best} read the same. Name the model that "
            "was audited with --model, or say --other-model."
        )

    # ------------------------------------------------------------ the sweep

    def run(self) -> Mended:
        """Everything."""
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(self._recipe.train.threads)
        start = self._heard("start", self._start.path)
        cells = [
            (method, strength)
            for method in self._config.methods
            for strength in self._config.strengths(method)
        ]
        there = sum(self._read_cell(*cell) is not None for cell in cells)
        if there:
            self._tell(f"{there} of {len(cells)} models are in {folder}; going on with the others")
        candidates: list[Candidate] = []
        for number, (method, strength) in enumerate(cells):
            self._progress("tune", number, len(cells))
            found = self._read_cell(method, strength)
            if found is None:
                self._make(method, strength)
                found = self._read_cell(method, strength)
                assert found is not None
            candidates.append(found)
        self._progress("tune", len(cells), len(cells))
        development = self._development(start["dev"])
        tolerance = self._config.rest_tolerance
        chosen, why = choose(development, candidates, tolerance=tolerance)
        of_method = {
            method: choose(
                development, [c for c in candidates if c.method == method], tolerance=tolerance
            )[0]
            for method in self._config.methods
        }
        models = self._write(chosen)
        report = self._report(candidates, chosen, why, of_method, start)
        page = self._request.output.with_suffix(".html")
        with replaced_file(page) as file:
            file.write(curve_page(report).encode())
        write_json(report, self._request.output.with_suffix(".json"))
        return Mended(
            output=self._request.output,
            chosen=chosen,
            why=why,
            report=report,
            curve=page,
            cohort_models=models,
        )

    def _heard(self, name: str, model: Path) -> dict[str, list[WordCounts]]:
        """Counts of the start on both held-out parts, from the folder or heard now."""
        path = self._folder / f"{name}-{self._key}.json"
        if not path.is_file():
            self._require_same_model()
            rows = [*self._speakers.dev, *self._speakers.evaluation]
            utterances = self._utterances(rows)
            texts = hear(
                model,
                utterances,
                progress=lambda done: self._progress("hear", done, len(utterances)),
            )
            counts = scored(utterances, texts)
            split = len(self._speakers.dev)
            write_json(
                {"dev": _packed(counts[:split]), "evaluation": _packed(counts[split:])}, path
            )
        saved = json.loads(path.read_text(encoding="utf-8"))
        return {part: _unpacked(saved[part]) for part in ("dev", "evaluation")}

    def _cell(self, method: str, strength: float) -> Path:
        return self._folder / "cells" / f"{method}-{strength:g}"

    def _read_cell(self, method: str, strength: float) -> Candidate | None:
        folder = self._cell(method, strength)
        path = folder / "result.json"
        if not path.is_file() or not (folder / "model.ear").is_file():
            return None
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["key"] != self._key:
            return None
        dev_counts, counts = _unpacked(saved["dev"]), _unpacked(saved["evaluation"])
        return Candidate(
            method=method,
            strength=strength,
            steps=saved["steps"],
            dev=self._rates(dev_counts, self._speakers.dev),
            evaluation=self._rates(counts, self._speakers.evaluation),
            dev_counts=tuple(dev_counts),
            evaluation_counts=tuple(counts),
            folder=folder,
        )

    def _development(self, start: Sequence[WordCounts]) -> Development:
        """The speakers who choose, and what the start hears of them."""
        held = self._speakers.dev
        return Development(
            rates=self._rates(start, held),
            counts=tuple(start),
            mended=tuple(self._cohorts[n] in self._targets for n in held),
            speakers=tuple(self._rows[n].utterance.speaker for n in held),
        )

    def _make(self, method: str, strength: float) -> None:
        """Train one cell, and with `plain` and `cohort` the others of the same run."""
        prepared = self._prepared or _Prepared(self)
        self._prepared = prepared
        config = self._config
        steps = self._recipe.train.max_steps
        if method in ("plain", "cohort"):
            self._train_by_steps(method, prepared)
        elif method == "average":
            tuned = self._plain_weights(prepared)
            model = self._start.network()
            model.load_state_dict(averaged(self._start.state, tuned, strength))
            self._keep(method, strength, int(max(config.plain_steps)), model)
        else:
            weights = prepared.target_weights()
            anchor = None
            if method == "mixed":
                weights = prepared.mixed_weights(strength)
            elif method == "oversample":
                weights = prepared.oversampled_weights(strength)
            else:
                anchor = self._anchor(method, strength, prepared)
            self._train_with_early_stop(method, strength, weights, anchor, steps, prepared)

    def _anchor(self, method: str, strength: float, prepared: _Prepared) -> Anchor:
        start = dict(self._start.model.named_parameters())
        names = trained_names(self._start.model, self._config.train)
        if method == "l2":
            importance: Mapping[str, Tensor] = {
                name: torch.ones_like(value) for name, value in start.items()
            }
        else:
            importance = normalised(prepared.information(), clip=self._config.fisher_clip)
        return Anchor({name: start[name] for name in names}, importance, strength)

    def _tuning(self, steps: int) -> TuningConfig:
        train = self._recipe.train
        return TuningConfig(
            steps=steps,
            peak_lr=train.peak_lr,
            warmup_steps=train.warmup_steps,
            clip_norm=train.clip_norm,
            bf16=usual_precision(train.precision) == "bf16-mixed",
            train=self._config.train,
            seed=self._request.seed,
        )

    def _train_with_early_stop(
        self,
        method: str,
        strength: float,
        weights: Sequence[float],
        anchor: Anchor | None,
        steps: int,
        prepared: _Prepared,
    ) -> None:
        """The weights at the step with the lowest overall rate of development speakers."""
        model = self._start.network()
        rows = self._speakers.dev
        looks: list[dict[str, float]] = []
        best: tuple[float, int, dict[str, Tensor]] | None = None
        waited = 0
        trial = self._folder / f"trial-{self._key}.ear"

        def look(step: int, network: Transducer) -> bool:
            nonlocal best, waited
            if step % self._config.check_steps and step != steps:
                return False
            network.eval()
            self._start.write(network, trial, description="a look")
            counts = scored(self._utterances(rows), hear(trial, self._utterances(rows)))
            now = self._rates(counts, rows)
            looks.append(
                {"step": step, "overall": now.overall, "target": now.target, "rest": now.rest}
            )
            if best is None or now.overall < best[0]:
                state = {name: value.clone() for name, value in network.state_dict().items()}
                best, waited = (now.overall, step, state), 0
            else:
                waited += 1
            return waited >= self._config.patience

        tune(
            model,
            prepared.batches(weights),
            self._tuning(steps),
            anchor=anchor,
            look=look,
            **self._start.limits(model, steps),
        )
        trial.unlink(missing_ok=True)
        assert best is not None  # the last step always looks
        model.load_state_dict(best[2])
        self._keep(method, strength, best[1], model, looks=looks)

    def _train_by_steps(self, method: str, prepared: _Prepared) -> None:
        """One run whose weights at several steps are models of the sweep."""
        wanted = sorted({int(step) for step in self._config.strengths(method)})
        model = self._start.network()
        vectors = None
        tuning = self._tuning(wanted[-1])
        if method == "cohort":
            vectors = CohortInput(len(self._targets), self._start.config.encoder.hidden)
            tuning = replace(tuning, peak_lr=self._config.cohort_lr)

        def look(step: int, network: Transducer) -> bool:
            if step in wanted:
                network.eval()
                self._keep(method, float(step), step, network, vectors=vectors)
                if method == "plain" and step == wanted[-1]:
                    self._keep_plain_weights(network)
            return False

        tune(
            model,
            prepared.batches(prepared.target_weights()),
            tuning,
            cohort_input=vectors,
            look=look,
            **(self._start.limits(model, wanted[-1]) if vectors is None else {}),
        )

    def _keep_plain_weights(self, network: Transducer) -> None:
        path = self._folder / f"plain-{self._key}.safetensors"
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        steps = str(int(max(self._config.plain_steps)))
        with replaced_file(path) as file:
            file.write(safetensors.torch.save(state, metadata={"steps": steps}))

    def _plain_weights(self, prepared: _Prepared) -> dict[str, Tensor]:
        """Weights of the longest plain run, trained now where it is not among the methods."""
        path = self._folder / f"plain-{self._key}.safetensors"
        steps = str(int(max(self._config.plain_steps)))
        if path.is_file():
            with safetensors.safe_open(path, framework="pt") as kept:
                same = (kept.metadata() or {}).get("steps") == steps
            if same:
                return dict(safetensors.torch.load_file(path))
        self._train_by_steps("plain", prepared)
        return dict(safetensors.torch.load_file(path))

    def _keep(
        self,
        method: str,
        strength: float,
        steps: int,
        model: Transducer,
        *,
        vectors: CohortInput | None = None,
        looks: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Write a model of the sweep, hear it, and only then its result."""
        folder = self._cell(method, strength)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        made_by = f"{method} {strength:g}, {steps} steps"
        rows = [*self._speakers.dev, *self._speakers.evaluation]
        if vectors is None:
            description = f"mended by earshot train mitigate ({made_by})"
            self._start.write(model, folder / "model.ear", description=description)
            utterances = self._utterances(rows)
            counts = scored(utterances, hear(folder / "model.ear", utterances))
        else:
            counts = self._keep_vectors(folder, model, vectors, rows, made_by)
        split = len(self._speakers.dev)
        write_json(
            {
                "key": self._key,
                "steps": steps,
                "looks": list(looks),
                "dev": _packed(counts[:split]),
                "evaluation": _packed(counts[split:]),
            },
            folder / "result.json",
        )

    def _keep_vectors(
        self,
        folder: Path,
        model: Transducer,
        vectors: CohortInput,
        rows: Sequence[int],
        made_by: str,
    ) -> list[WordCounts]:
        """A file for each cohort that is mended, and the start for everybody else."""
        shutil.copyfile(self._start.path, folder / "model.ear")
        utterances = self._utterances(rows)
        texts: list[str] = [""] * len(rows)
        for place in (-1, *range(len(self._targets))):
            path = folder / "model.ear"
            if place >= 0:
                path = folder / f"cohort-{place}.ear"
                own = self._start.network()
                own.load_state_dict(model.state_dict())
                vectors.folded(own, place)
                name = self._names[self._targets[place]]
                self._start.write(
                    own, path, description=f"for {name}, by earshot train mitigate ({made_by})"
                )
            inside = [n for n, row in enumerate(rows) if self._place(self._cohorts[row]) == place]
            heard = hear(path, [utterances[n] for n in inside])
            for n, text in zip(inside, heard, strict=True):
                texts[n] = text
        return scored(utterances, texts)

    def _place(self, cohort: int) -> int:
        """Number of a cohort among those that are mended; -1 for others."""
        return self._targets.index(cohort) if cohort in self._targets else -1

    # ------------------------------------------------------------ the end

    def _write(self, chosen: Candidate | None) -> dict[str, Path]:
        """Copy the model that is taken to where it was asked for, with its change if wanted."""
        output = self._request.output
        source = self._start.path if chosen is None else chosen.folder / "model.ear"
        _copy(source, output)
        models = {}
        if chosen is not None and chosen.method == "cohort":
            for place, target in enumerate(self._targets):
                path = output.with_name(f"{output.stem}-{_slug(self._names[target])}.ear")
                _copy(chosen.folder / f"cohort-{place}.ear", path)
                models[self._names[target]] = path
        if self._request.update is not None:
            base = ModelFile(self._start.path)
            for path in models.values() or [output]:
                update = self._request.update
                if models:
                    update = update.with_name(f"{update.stem}-{path.stem}{update.suffix}")
                compare_models(base, ModelFile(path)).write(update)
        return models

    def _report(
        self,
        candidates: Sequence[Candidate],
        chosen: Candidate | None,
        why: str,
        of_method: Mapping[str, Candidate | None],
        start: Mapping[str, Sequence[WordCounts]],
    ) -> dict[str, Any]:
        held = self._speakers
        cohorts = self._cohorts_of(held.evaluation)
        speakers = [self._rows[n].utterance.speaker for n in held.evaluation]
        fronts = {
            part: on_front([(getattr(c, part).rest, getattr(c, part).target) for c in candidates])
            for part in ("dev", "evaluation")
        }
        rows = []
        for number, candidate in enumerate(candidates):
            against = changes(
                start["evaluation"], candidate.evaluation_counts, cohorts, self._targets, speakers
            )
            rows.append(
                {
                    "name": candidate.name,
                    "method": candidate.method,
                    "strength": candidate.strength,
                    "steps": candidate.steps,
                    "model": str(candidate.folder / "model.ear"),
                    "dev": asdict(candidate.dev),
                    "evaluation": asdict(candidate.evaluation),
                    "change": {
                        name: _estimate(getattr(against, name))
                        for name in ("overall", "target", "rest")
                    },
                    "on_front": {part: fronts[part][number] for part in fronts},
                    "chosen": candidate is chosen,
                }
            )
        return {
            "report": str(self._request.report),
            "results": str(self._discovery.results),
            "model": str(self._start.path),
            "output": str(self._request.output),
            "discovery": self._discovery.method,
            "cohorts": [
                {"name": c.name, "rule": c.rule, "wer": c.wer, "mended": n in self._targets}
                for n, c in enumerate(self._discovery.cohorts)
            ],
            "speakers": held.counts,
            "utterances": {
                "adapt": len(held.adapt),
                "dev": len(held.dev),
                "evaluation": len(held.evaluation),
                "general": len(self._general),
                "not_trained": [self._rows[n].number for n in self._untrainable()],
            },
            "seed": self._request.seed,
            "evaluation_ids": [self._rows[n].utterance.id for n in held.evaluation],
            "start": {
                "dev": asdict(self._rates(start["dev"], held.dev)),
                "evaluation": asdict(self._rates(start["evaluation"], held.evaluation)),
            },
            "candidates": rows,
            "chosen": None if chosen is None else chosen.name,
            "chosen_of_method": {
                method: None if found is None else found.name for method, found in of_method.items()
            },
            "why": why,
        }

    def _untrainable(self) -> list[int]:
        return [
            n
            for n in self._speakers.adapt
            if not data.trainable(
                self._rows[n], len(self._tokenizer.encode(self._rows[n].utterance.text or ""))
            )
        ]


class _Prepared:
    """Clips, tokenizer and lexicon: what only training needs."""

    def __init__(self, sweep: _Sweep) -> None:
        self._sweep = sweep
        self._recipe = sweep._recipe
        untrainable = set(sweep._untrainable())
        kept = [n for n in sweep._speakers.adapt if n not in untrainable]
        rows = [(sweep._rows[n], sweep._place(sweep._cohorts[n])) for n in kept]
        self._of_target = [place >= 0 for _, place in rows]
        if not any(self._of_target):
            raise ConfigError(
                "mitigate: 0 utterances of the cohorts that are mended can be trained on; they "
                "must last 0.2 s to 17 s and be spoken no faster than the model can follow."
            )
        tokenizer = sweep._tokenizer
        rows += [
            (row, -1)
            for row in sweep._general
            if data.trainable(row, len(tokenizer.encode(row.utterance.text or "")))
        ]
        self._of_target += [False] * (len(rows) - len(self._of_target))
        if all(self._of_target):
            raise ConfigError(
                "mitigate: 0 utterances of anybody else can be trained on; what must not be "
                "forgotten is measured on them. Name some with --general."
            )
        audio = sweep._folder / "audio"
        cuts = [data.training_cut(row, place, audio) for row, place in rows]
        for number, cut in enumerate(cuts):  # a manifest may use the results' ids
            cut["id"] = f"{number}-{cut['id']}"
        self._cuts = list(CutSet.from_dicts(cuts))
        self._durations = [cut["duration"] for cut in cuts]
        self._lexicon = Lexicon.load()
        self._keys = [
            f"{row.utterance.audio.resolve()}:{row.utterance.audio.stat().st_size}:"
            f"{row.utterance.audio.stat().st_mtime_ns}:{row.utterance.offset_s}:"
            f"{row.utterance.text}"
            for row, _ in rows
        ]
        self._from_manifest = len(sweep._general) > 0
        self._num_own = len(kept)

    def target_weights(self) -> list[float]:
        """Only clips of the cohorts that are mended."""
        return [1.0 if inside else 0.0 for inside in self._of_target]

    def mixed_weights(self, share: float) -> list[float]:
        """Such that this share of the clips is of the cohorts that are mended."""
        target = sum(self._of_target)
        rest = len(self._of_target) - target
        return [share / target if inside else (1 - share) / rest for inside in self._of_target]

    def oversampled_weights(self, ratio: float) -> list[float]:
        """All clips, those of the cohorts so many times."""
        return [ratio if inside else 1.0 for inside in self._of_target]

    def _clips(self, augmenter: Augmenter | None, seed: int) -> TrainingClips:
        full = Progress()
        full.set(1.0)
        encoder = self._sweep._start.config.encoder
        texts = ClipTexts(self._sweep._tokenizer, self._lexicon, stack=encoder.stack)
        return TrainingClips(texts, augmenter, full, num_bins=encoder.num_bins, seed=seed)

    def batches(self, weights: Sequence[float]) -> Iterator[tuple[Batch, list[int]]]:
        """Endless batches with the cohorts of their utterances."""
        seed = self._recipe.train.seed
        clips = self._clips(Augmenter(self._recipe.augment, None, ()), seed)
        for chosen in drawn_batches(
            self._durations, weights, batch_s=self._recipe.train.batch_s, seed=seed
        ):
            batch = clips[CutSet.from_cuts([self._cuts[n] for n in chosen])]
            yield batch, [int(kind) if kind.lstrip("-").isdigit() else -1 for kind in batch.kinds]

    def information(self) -> dict[str, Tensor]:
        """Fisher's information of the start on what must not be forgotten, cached."""
        config = self._sweep._config
        # A manifest is what the model was trained on, and so better than the audited others.
        first = self._num_own if self._from_manifest else 0
        pool = [n for n, inside in enumerate(self._of_target) if not inside and n >= first]
        pool.sort(key=lambda n: hashlib.blake2b(self._keys[n].encode(), digest_size=8).digest())
        if config.fisher_utterances:
            pool = pool[: config.fisher_utterances]
        key = information_key(
            self._sweep._start.path,
            [self._keys[n] for n in pool],
            sampled=config.fisher_sampled,
            seed=self._recipe.train.seed,
        )

        def make() -> dict[str, Tensor]:
            clips = self._clips(None, 0)
            return fisher_information(
                self._sweep._start.network(),
                (clips[CutSet.from_cuts([self._cuts[n]])] for n in pool),
                sampled=config.fisher_sampled,
                seed=self._recipe.train.seed,
                progress=lambda done: self._sweep._progress("fisher", done, len(pool)),
            )

        return cached_information(self._sweep._folder, key, self._sweep._start.model, make)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, replaced_file(target) as new:
        shutil.copyfileobj(old, new)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-").lower() or "cohort"


def _packed(counts: Sequence[WordCounts]) -> list[list[int]]:
    return [[c.hits, c.substitutions, c.deletions, c.insertions] for c in counts]


def _unpacked(rows: Sequence[Sequence[int]]) -> list[WordCounts]:
    return [WordCounts(*row) for row in rows]


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)

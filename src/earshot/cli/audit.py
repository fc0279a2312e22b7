"""`earshot audit`: whom a recogniser fails. Knows options, files and tables; no statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from earshot.cli.console import (
    THRESHOLD_CROSSED,
    StageBars,
    complain,
    note,
    reported,
    say,
    usage_error,
)

if TYPE_CHECKING:
    from earshot.audit.compare import Change, Comparison
    from earshot.audit.config import AuditConfig
    from earshot.audit.geodemographic import Census
    from earshot.audit.reading import ReadingConfig
    from earshot.audit.results import Results
    from earshot.audit.run import Audit
    from earshot.audit.thresholds import Threshold

_Made = TypeVar("_Made")

app = typer.Typer(
    help="Whom a recogniser fails: cohorts, intervals, a report; needs the extra 'audit'.",
    no_args_is_help=True,
)

ResultsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RESULTS",
        help="References and hypotheses: JSONL, JSON, CSV or TSV (also .gz), a Lhotse manifest, or "
        "a Kaldi folder.",
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FIELD=COLUMN",
        help="Column that holds a field, such as ref=reference_text; repeatable. Fields: id, ref, "
        "hyp, speaker, lat, lon, zip, embedding, audio, offset, duration; words, errors, hits, "
        "substitutions, deletions, insertions where there are no texts.",
    ),
]
HypOption = Annotated[
    Path | None,
    typer.Option(
        "--hyp",
        metavar="FILE",
        help="Hypotheses by id, where they are not in RESULTS: JSONL or CSV with id and hyp or "
        "text, or Kaldi's `id words`.",
    ),
]
CensusOption = Annotated[
    Path | None, typer.Option("--census", metavar="CSV", help="Attributes of ZIP codes.")
]
EmbeddingsOption = Annotated[
    Path | None,
    typer.Option("--embeddings", metavar="NPY", help="Voice embeddings, one row an utterance."),
]
DiscoverOption = Annotated[
    str,
    typer.Option(
        help="Which discoveries, by commas: groups, regions, geodemographic, clusters. Those "
        "whose columns are missing are skipped."
    ),
]
GroupOption = Annotated[
    list[str] | None,
    typer.Option("--group", metavar="COLUMN", help="Only these groups; repeatable."),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="COLUMN", help="A column that is no group; repeatable."),
]
IntersectionsOption = Annotated[
    int, typer.Option(min=1, max=3, help="Columns that are crossed, at most; 1 crosses none.")
]
MinSpeakersOption = Annotated[int, typer.Option(min=2, help="Least speakers of a cohort.")]
MinWordsOption = Annotated[int, typer.Option(min=1, help="Least reference words of a cohort.")]
LevelOption = Annotated[float, typer.Option(min=0.5, max=0.9999, help="Coverage of intervals.")]
AlarmsOption = Annotated[
    float,
    typer.Option(min=0.0001, max=0.5, help="Chance that any cohort is called worse where none is."),
]
CriterionOption = Annotated[
    str, typer.Option(help="What a split of the map maximises: variance or gap.")
]
NormaliserOption = Annotated[
    str, typer.Option(help="What a gap is divided by: rate of the top, the bottom, or their mean.")
]
IntervalOption = Annotated[
    str, typer.Option(help="t (cluster-robust), or bootstrap (studentised; slower).")
]
SeedOption = Annotated[int, typer.Option(help="Of everything random.")]
SeedsOption = Annotated[
    int, typer.Option(min=1, help="Repetitions that say how stable a discovery is.")
]
TextOption = Annotated[
    str, typer.Option("--text", help="normalised (case and punctuation do not count) or as-is.")
]
UnitOption = Annotated[str, typer.Option("--unit", help="words or characters.")]
BadRowsOption = Annotated[
    str,
    typer.Option(
        help="stop or skip at rows that cannot be read and ids that come twice. Skipped rows are "
        "counted in the report."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
MaxRegionsOption = Annotated[int, typer.Option(min=2, help="Regions, at most.")]
MaxClustersOption = Annotated[int, typer.Option(min=2, help="Voice clusters to try, at most.")]
BottomShareOption = Annotated[
    float, typer.Option(help="Worst clusters are merged until they hold this share of speakers.")
]


@app.command()
def run(
    results: ResultsArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Report to write: .html, with the same as .json and the members of cohorts "
            "as .members.jsonl beside it; or .json alone.",
        ),
    ] = None,
    columns: MapOption = None,
    hypotheses: HypOption = None,
    census: CensusOption = None,
    embeddings: EmbeddingsOption = None,
    discover: DiscoverOption = "groups,regions,geodemographic,clusters",
    groups: GroupOption = None,
    ignore: IgnoreOption = None,
    intersections: IntersectionsOption = 2,
    min_speakers: MinSpeakersOption = 5,
    min_words: MinWordsOption = 100,
    level: LevelOption = 0.95,
    false_alarms: AlarmsOption = 0.05,
    criterion: CriterionOption = "variance",
    max_regions: MaxRegionsOption = 16,
    max_clusters: MaxClustersOption = 12,
    bottom_share: BottomShareOption = 0.1,
    normaliser: NormaliserOption = "top",
    interval: IntervalOption = "t",
    seed: SeedOption = 0,
    seeds: SeedsOption = 5,
    text: TextOption = "normalised",
    unit: UnitOption = "words",
    bad_rows: BadRowsOption = "stop",
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Exit with code 3 if so, such as 'max_gap_low>0.2'; repeatable. Metrics: wer, "
            "wer_low, wer_high, max_gap, max_gap_low, worst_wer, worst_wer_low, num_worse; the "
            "last five also of one discovery: 'regions.max_gap>0.2'.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the report.")] = None,
    caveats: Annotated[
        list[str] | None,
        typer.Option("--caveat", help="What readers must know of the data; repeatable."),
    ] = None,
    embed_audio: Annotated[
        bool,
        typer.Option("--embed-audio", help="Put short examples into the report, not links."),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Read and align on a Ray cluster, or 'local'; needs the extra 'cluster'.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a recogniser's results and find cohorts of speakers that it fails.

    Exits 0 when done, 1 if rows cannot be used, 2 for wrong options, 3 if a --fail-if holds.
    """
    if output is not None:
        if output.suffix not in (".html", ".json"):
            raise usage_error(
                f"{output}: a report is .html or .json. Give it one of these endings."
            )
        if not output.absolute().parent.is_dir():
            raise usage_error(f"{output}: there is no such folder. Make it first.")
    reading = _checked(lambda: _reading(columns, hypotheses, text, unit, bad_rows, ignore))
    config = _checked(
        lambda: _config(
            methods=tuple(name.strip() for name in discover.split(",") if name.strip()),
            level=level,
            false_alarms=false_alarms,
            min_speakers=min_speakers,
            min_words=min_words,
            groups=tuple(groups or ()),
            intersections=intersections,
            criterion=criterion,
            max_regions=max_regions,
            max_clusters=max_clusters,
            bottom_share=bottom_share,
            normaliser=normaliser,
            interval=interval,
            seed=seed,
            num_seeds=seeds,
        )
    )
    limits = _checked(lambda: [_threshold(condition) for condition in fail_if or ()])
    bars = StageBars()
    with reported():
        try:
            from earshot.audit.run import run_audit

            table = _census(census)
            read = _read(results, reading, embeddings, bars, ray)
            audit = run_audit(read, config=config, census=table, progress=bars)
            if output is not None:
                _write(audit, output, title=title, caveats=caveats, embed_audio=embed_audio)
        except KeyboardInterrupt:
            complain("stopped. No report was written.")
            raise typer.Exit(130) from None
        finally:
            bars.close()
        crossed = [limit for limit in limits if limit.is_crossed(audit)]
    if as_json:
        report = audit.as_dict()
        report["crossed"] = [limit.text for limit in crossed]
        say(json.dumps(report, ensure_ascii=False))
    else:
        _print_audit(audit, output)
    for limit in crossed:
        note(f"limit crossed: {limit.text} ({limit.metric} is {limit.value(audit):.4g})")
    if crossed:
        raise typer.Exit(THRESHOLD_CROSSED)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Results of one recogniser.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Results of another, same ids.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Report to write: .html with .json beside it, or .json."
        ),
    ] = None,
    columns: MapOption = None,
    census: CensusOption = None,
    embeddings: EmbeddingsOption = None,
    discover: DiscoverOption = "groups,regions,geodemographic,clusters",
    groups: GroupOption = None,
    ignore: IgnoreOption = None,
    intersections: IntersectionsOption = 2,
    min_speakers: MinSpeakersOption = 5,
    min_words: MinWordsOption = 100,
    level: LevelOption = 0.95,
    interval: IntervalOption = "t",
    seed: SeedOption = 0,
    text: TextOption = "normalised",
    unit: UnitOption = "words",
    bad_rows: BadRowsOption = "stop",
    as_json: JsonOption = False,
) -> None:
    """Compare two recognisers on the same utterances, cohort by cohort, paired over speakers."""
    if output is not None and output.suffix not in (".html", ".json"):
        raise usage_error(f"{output}: a report is .html or .json. Give it such an ending.")
    reading = _checked(lambda: _reading(columns, None, text, unit, bad_rows, ignore))
    config = _checked(
        lambda: _config(
            methods=tuple(name.strip() for name in discover.split(",") if name.strip()),
            level=level,
            min_speakers=min_speakers,
            min_words=min_words,
            groups=tuple(groups or ()),
            intersections=intersections,
            interval=interval,
            seed=seed,
            num_seeds=1,
        )
    )
    bars = StageBars()
    with reported():
        try:
            from earshot.audit.compare import compare as compare_results

            table = _census(census)
            first = _read(a, reading, embeddings, bars, None)
            second = _read(b, reading, None, bars, None)
            found = compare_results(first, second, config=config, census=table, progress=bars)
            if output is not None:
                _write_comparison(found, output)
        finally:
            bars.close()
    if as_json:
        say(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        _print_comparison(found)


@app.command()
def simulate(
    folder: Annotated[Path, typer.Argument(help="Folder for the files; made if need be.")],
    speakers: Annotated[int, typer.Option(min=2, help="How many.")] = 800,
    utterances: Annotated[float, typer.Option(min=1, help="Of each speaker, on average.")] = 8.0,
    null: Annotated[
        bool, typer.Option("--null", help="Plant nothing: all speakers fare alike.")
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Write results with planted cohorts whose error rates are known, to try audits on."""
    from dataclasses import replace

    with reported():
        from earshot.audit.simulate import NULL, World, plant, write_planted

        world = replace(
            NULL if null else World(), speakers=speakers, utterances=utterances, seed=seed
        )
        paths = write_planted(plant(world), folder)
    if as_json:
        say(json.dumps({name: str(path) for name, path in paths.items()}))
        return
    for name, path in paths.items():
        say(f"{name:<12}{path}")


# ---------------------------------------------------------------- options into settings


def _checked(make: Callable[[], _Made]) -> _Made:
    """What is made from options; a wrong value is wrong usage."""
    from earshot.core.errors import ConfigError

    try:
        return make()
    except ConfigError as err:
        raise usage_error(str(err)) from None


def _reading(
    columns: Sequence[str] | None,
    hypotheses: Path | None,
    text: str,
    unit: str,
    bad_rows: str,
    ignore: Sequence[str] | None,
) -> ReadingConfig:
    from earshot.audit.reading import ReadingConfig
    from earshot.core.errors import ConfigError

    mapping: dict[str, str] = {}
    for pair in columns or ():
        field, equals, column = pair.partition("=")
        if not equals or not field.strip() or not column.strip():
            raise ConfigError(f"--map '{pair}': it must read FIELD=COLUMN, such as ref=text.")
        mapping[field.strip()] = column.strip()
    return ReadingConfig(
        columns=mapping,
        hypotheses=hypotheses,
        text_form=text,
        unit=unit,
        bad_rows=bad_rows,
        ignore=tuple(ignore or ()),
    )


def _config(**settings: Any) -> AuditConfig:
    from earshot.audit.config import AuditConfig

    return AuditConfig(**settings)


def _threshold(condition: str) -> Threshold:
    from earshot.audit.thresholds import parse_threshold

    return parse_threshold(condition)


def _census(path: Path | None) -> Census | None:
    if path is None:
        return None
    from earshot.audit.geodemographic import read_census

    return read_census(path)


def _read(
    path: Path,
    reading: ReadingConfig,
    embeddings: Path | None,
    bars: StageBars,
    ray: str | None,
) -> Results:
    from earshot.audit.reading import read_results

    if ray is None:
        return read_results(path, config=reading, embeddings=embeddings, progress=bars)
    from earshot.audit.cluster import mapped_on_ray

    with mapped_on_ray(ray) as map_parts:
        return read_results(
            path, config=reading, embeddings=embeddings, progress=bars, map_parts=map_parts
        )


# ---------------------------------------------------------------- results out


def _write(
    audit: Audit,
    output: Path,
    *,
    title: str | None,
    caveats: Sequence[str] | None,
    embed_audio: bool,
) -> None:
    from earshot.audit.run import mitigation_command, write_members
    from earshot.data.atomic import replaced_file

    figures = output.with_suffix(".json")
    report = audit.as_dict()
    report["caveats"] = list(caveats or ())
    members = output.with_suffix(".members.jsonl")
    report["members"] = members.name
    report["mitigation"] = mitigation_command(figures)
    if output.suffix == ".html":
        from earshot.audit.report import render_report

        page = render_report(
            audit,
            title=title,
            caveats=caveats or (),
            folder=output.absolute().parent,
            mitigation=mitigation_command(figures),
            embed_audio=embed_audio,
        )
        with replaced_file(output) as file:
            file.write(page.encode())
    with replaced_file(members) as file:
        write_members(audit, file)
    with replaced_file(figures) as file:
        file.write(json.dumps(report, ensure_ascii=False, indent=1).encode() + b"\n")


def _write_comparison(found: Comparison, output: Path) -> None:
    from earshot.data.atomic import replaced_file

    if output.suffix == ".html":
        from earshot.audit.report import render_comparison

        with replaced_file(output) as file:
            file.write(render_comparison(found).encode())
    with replaced_file(output.with_suffix(".json")) as file:
        file.write(json.dumps(found.as_dict(), ensure_ascii=False, indent=1).encode() + b"\n")


def _percent(value: float | None) -> str:
    return "  -  " if value is None else f"{100 * value:.1f}"


def _range(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"[{_percent(low)}, {_percent(high)}]"


def _print_audit(audit: Audit, output: Path | None) -> None:
    overall, results = audit.overall, audit.results
    what = "utterances (speakers unknown)"
    if results.speakers is not None:
        what = "speaker" if overall.n_speakers == 1 else "speakers"
    say(
        f"WER {_percent(overall.wer)} % {_range(overall.ci_low, overall.ci_high)}, "
        f"{overall.n_speakers} {what}, {overall.n_words} words"
    )
    for warning in audit.warnings:
        note(f"note: {warning}")
    for each in results.exclusions:
        lines = ", ".join(map(str, each.lines[:5])) + (", ..." if each.count > 5 else "")
        note(f"left out of {each.scope}: {each.reason}: {each.count} rows (lines {lines})")
    for method, reason in audit.skipped.items():
        note(f"{method}: skipped, {reason}")
    if audit.table():
        say("")
        say(f"{'discovery':<16}{'WER gap %':>10}  {'interval':<18}{'bottom share %':>15}  bottom")
    for row in audit.table():
        held = "" if row["held_out"] else " (chosen and measured on the same speakers)"
        bottom = row["bottom"]
        assert isinstance(bottom, list)
        gap, low, high, share = (
            value if isinstance(value, float) else None
            for value in (
                row[name] for name in ("wer_gap", "wer_gap_low", "wer_gap_high", "bottom_share")
            )
        )
        span = _range(low, high)
        say(
            f"{row['method']:<16}{_percent(gap):>10}  {span:<18}{_percent(share):>15}  "
            f"{', '.join(bottom)}{held}"
        )
    worse = audit.worse()
    say("")
    if worse:
        say(f"worse than the rest (adjusted for {audit.num_tests} tests):")
        for discovery, cohort in worse:
            say(
                f"  {_percent(cohort.wer):>5} % {_range(cohort.ci_low, cohort.ci_high):<15} "
                f"{cohort.n_speakers:>5} speakers  {discovery.method}: {cohort.name} "
                f"({cohort.rule})"
            )
    else:
        say(f"no cohort is worse than the rest beyond chance ({audit.num_tests} tests)")
    if output is not None:
        say(f"\n{output}")


def _print_comparison(found: Comparison) -> None:
    def line(change: Change) -> str:
        p_value = "" if change.p_adjusted is None else f"  p {change.p_adjusted:.3g}"
        return (
            f"{_percent(change.wer_a):>6} {_percent(change.wer_b):>6}  "
            f"{100 * change.change:+6.1f} {_range(change.ci_low, change.ci_high):<17}"
            f"{change.n_speakers:>6} speakers  {change.name}{p_value}"
        )

    say(f"{'A %':>6} {'B %':>6}  {'B - A':>6} interval")
    say(line(found.overall))
    for discovery, changes in found.cohorts:
        say(discovery.method)
        for change in changes:
            say(line(change))

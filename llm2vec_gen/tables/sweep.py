"""One table over the jobs of a sweep: a row per job, a column per final loss and score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables import html, report
from llm2vec_gen.tables.base import Table
from llm2vec_gen.tables.figures import Figure
from llm2vec_gen.tables.grid import MISSING, Cell, Grid
from llm2vec_gen.types import LOWER_IS_BETTER, Score

VALIDATION_SCORES = ("val/cosine_match", "val/retrieval", "val/retrieval_mrr")
"""What a validation scores; its other results are losses, as those of the training are."""
FILE = "sweep.md"


class Job(Protocol):
    """One job of a sweep, such as a `sweeps.status.Status`.

    results          losses as they are, scores from 0 to 1, by name
    state            running, done or failed; `observed_state` also tells a process that died
    skipped          the earlier job whose result was reused
    """

    number: int
    overrides: list[str]
    results: dict[str, float]
    state: str
    error: str | None
    folder: str | None
    skipped: str | None

    @property
    def observed_state(self) -> str: ...


def files_of(
    jobs: Sequence[Job], folder: str, results: Sequence[str] | None = None, figure: str | None = None
) -> dict[str, str | bytes]:
    """Return the table of a sweep's jobs, its page and its figure (of a kind of `Figure`) as files, name -> content."""
    table = SweepTable(jobs, title=f"Sweep {Path(folder).name}", results=results)
    page = report.page("LLM2Vec-Gen", folder, {"Sweep": "\n".join(map(html.render, table.grids()))})
    drawn: Table = table if figure is None else Figure(table, figure)
    files: dict[str, str | bytes] = {f"table.{ending}": text for ending, text in drawn.files(()).items()}
    files |= {f"table.{ending}": picture for ending, picture in drawn.pictures(()).items()}
    return files | {"report.html": page}


class SweepTable(Table):
    """A row per job, named by the overrides in which jobs differ; the note gives the reason of each missing cell."""

    def __init__(self, jobs: Sequence[Job], title: str = "", results: Sequence[str] | None = None) -> None:
        self.jobs, self.title = list(jobs), title
        known = result_names([job.results for job in jobs])
        self.names = [name for name in known if results is None or _wanted(name, results)]
        if unknown := [name for name in results or () if not any(_wanted(other, [name]) for other in known)]:
            raise InputError(f"sweep.results: no job has {', '.join(unknown)}; they have {', '.join(known) or 'none'}")

    def draws(self, score: Score) -> bool:
        """Return False: results come from the jobs, not from scores."""
        return False

    def grids(self, scores: Iterable[Score] = ()) -> list[Grid]:
        """Return one grid; `scores` are not read."""
        names = self.names
        headings = dict(zip(names, result_headings(names), strict=True))
        _, labels = split_overrides([job.overrides for job in self.jobs])
        rows = [label or f"job {job.number}" for job, label in zip(self.jobs, labels, strict=True)]
        notes = [_reason(job, row, headings) for job, row in zip(self.jobs, rows, strict=True)]
        return [
            Grid(
                title=self.title,
                rows=rows,
                columns=[*headings.values()],
                cells=[[_cell(name, job.results.get(name)) for name in names] for job in self.jobs],
                lower_is_better=frozenset(
                    heading for name, heading in headings.items() if name.partition("/")[2] in LOWER_IS_BETTER
                ),
                note=" ".join([explanation(names), *filter(None, notes)]),
                corner="job",
            )
        ]

    def panels(self, scores: Iterable[Score] = ()) -> list[Grid]:
        """Return a grid of losses and one of scores, with the jobs as columns: what a figure draws."""
        headings = dict(zip(self.names, result_headings(self.names), strict=True))
        _, labels = split_overrides([job.overrides for job in self.jobs])
        keys = {label.partition("=")[0] for label in labels}
        corner = keys.pop() if len(keys) == 1 and not any(" " in label for label in labels) else ""
        columns = [
            label.removeprefix(f"{corner}=") or f"job {job.number}"
            for job, label in zip(self.jobs, labels, strict=True)
        ]
        grids = []
        for title, scale, of_losses in (("Losses", 1.0, True), ("Scores, times 100", 100.0, False)):
            names = [name for name in self.names if is_loss(name) == of_losses and not is_cost(name)]
            cells = [[Cell(job.results.get(name)) for job in self.jobs] for name in names]
            if names:
                rows = [headings[name] for name in names]
                grids.append(
                    Grid(title, rows, columns, cells, scale=scale, decimals=3 if of_losses else 1, corner=corner)
                )
        return grids or self.grids()


def markdown(jobs: Sequence[Job]) -> str:
    """Return Markdown: the overrides of all jobs in one line, then a row for each job; failed ones stand out."""
    shared, own = split_overrides([job.overrides for job in jobs])
    names = result_names([job.results for job in jobs])
    rows = [["job", "overrides", "state", *result_headings(names), "folder or error"]]
    for job, text in zip(jobs, own, strict=True):
        results = [result_text(name, job.results.get(name)) for name in names]
        rows.append([str(job.number), text, _mark(job), *results, _result(job)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["| " + " | ".join([*map(str.ljust, row[:-1], widths), row[-1]]) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in [*widths, 15]) + "|")
    head = [f"every job: {' '.join(shared)}", ""] if shared else []
    done = sum(job.state == "done" for job in jobs)
    foot = [explanation(names), ""] if names else []
    return "\n".join([*head, *lines, "", *foot, f"{done} of {len(jobs)} jobs done"]) + "\n"


def split_overrides(jobs: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Return the overrides that all jobs have in common, and of each job the others as one text.

    A single job has nothing in common with another.
    """
    shared = [text for text in jobs[0] if all(text in overrides for overrides in jobs)] if len(jobs) > 1 else []
    return shared, [" ".join(text for text in overrides if text not in shared) for overrides in jobs]


def _wanted(name: str, results: Sequence[str]) -> bool:
    return any(name == result or name.startswith(f"{result}/") for result in results)


def is_loss(name: str) -> bool:
    """Return whether a result is a loss; others are scores from 0 to 1, "evaluation/category" or of a validation."""
    return name.startswith(("train/", "val/")) and name not in VALIDATION_SCORES


def is_cost(name: str) -> bool:
    """Return whether a result is in tokens."""
    return name.partition("/")[2] == "cost"


def result_names(results: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the names of all results, losses first, otherwise in order of appearance."""
    names = dict.fromkeys(name for found in results for name in found)
    return sorted(names, key=lambda name: not is_loss(name))


def result_headings(names: Sequence[str]) -> list[str]:
    """Return the headings of results: the part after the slash, or the complete name where two have the same."""
    short = [name.partition("/")[2].replace("_", " ") for name in names]
    several = Counter(short)
    return [name if several[text] > 1 else text for name, text in zip(names, short, strict=True)]


def result_text(name: str, value: float | None) -> str:
    """Return a result as printed: a loss with four digits, a score times 100, a missing one as a missing cell."""
    if value is None:
        return MISSING
    return f"{value:.4g}" if is_loss(name) or is_cost(name) else f"{100 * value:.1f}"


def explanation(names: Sequence[str]) -> str:
    """Return in one line what the columns hold."""
    losses = "Losses: the last logged ones, not weighted (loss is the weighted sum)."
    scores = "Scores: main scores by category, times 100" + (
        "; cost is in tokens." if any(map(is_cost, names)) else "."
    )
    parts = [losses if any(is_loss(name) for name in names) else ""]
    parts += [scores if any(not is_loss(name) for name in names) else ""]
    return " ".join(filter(None, parts))


def _cell(name: str, value: float | None) -> Cell:
    """Return the cell of a result; losses have no best one, since other weights make another loss."""
    label = result_text(name, value)
    return Cell(label=label) if value is None or is_loss(name) else Cell(value, label=label)


def _reason(job: Job, row: str, headings: Mapping[str, str]) -> str:
    """Return the reason for which a job has missing cells; empty where it has none."""
    missing = [heading for name, heading in headings.items() if name not in job.results]
    if job.observed_state != "done":
        return f"{row}: {job.observed_state}{f', {job.error}' if job.error else ''}."
    if not headings or not missing:
        return ""
    return f"{row}: done, but its artifacts have no {', '.join(missing)}."


def _mark(job: Job) -> str:
    state = job.observed_state if job.state == "done" else job.observed_state.upper()
    return f"{state} (earlier)" if job.skipped else state


def _result(job: Job) -> str:
    return (job.error if job.state == "failed" else job.folder) or "-"

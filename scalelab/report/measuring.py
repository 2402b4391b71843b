"""What `scalelab eval` measures, one measurement after the other, each kept as it is done.

    runs/<name>/evals/<id>.json              one measurement, sealed: its numbers and its words
    runs/<name>/evals/<id>.verdicts.jsonl    what a judge said, as it is said

The id of a measurement hashes what decides it: the settings, the model's weights, the seed. So it
is made once, a killed evaluation goes on behind the last one that was kept, and a model that
changed is measured anew; so is one whose file is damaged. The id of verdicts hashes the judge, its
conversations and the seed.

Not here: the measurements themselves (the evals room), the page (eval_command.py).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.data.hashing import sha256
from scalelab.data.shards import open_corpus
from scalelab.data.textfiles import rows_of
from scalelab.errors import DataError
from scalelab.evals.aggregate import ScoreTable, mean_above_chance, mean_win_rate
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.contamination import order_test
from scalelab.evals.documents import PerplexitySet, read
from scalelab.evals.evalfile import ContaminationSpec, EvalFile, PredictionSpec
from scalelab.evals.overlap import overlap
from scalelab.evals.perplexity import perplexity
from scalelab.evals.predict import Target, predict
from scalelab.evals.recipes import rank_recipes
from scalelab.posttrain.flow import contents
from scalelab.report.comparing import Comparing
from scalelab.report.measured import Measured
from scalelab.sealed import Damaged, Format, typed

FORMAT = 1
"""Raise it where a measurement would come out otherwise: all are made anew."""


@dataclass(frozen=True)
class Kept:
    """One measurement on the disk."""

    id: str
    measured: list[Measured]


KEPT = Format("measurement", Kept, schema=1)


class Measuring:
    """One evaluation.

    Args:
        file: What is asked for.
        paths: Directory of each model.
        judges: Directory of each model that the judge is made from, by the judge's name for it.
        folder: Where measurements are kept.
        tell: Hears of each measurement that is made.
    """

    def __init__(
        self,
        file: EvalFile,
        paths: Mapping[str, Path],
        judges: Mapping[str, Path],
        folder: Path,
        tell: Callable[[str], None] = lambda said: None,
    ):
        self.file, self.paths, self.folder, self.tell = file, paths, folder, tell
        self.judges = judges
        self._loaded: dict[Path, Checkpoint] = {}

    def model(self, path: Path) -> Checkpoint:
        """The model in a directory, loaded once."""
        if path not in self._loaded:
            self._loaded[path] = Checkpoint.load(path)
        return self._loaded[path]

    def everything(self, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Measured]:
        """All measurements, in the order of the report.

        Args:
            runs: Finished runs of the sweeps that predictions are made from, by sweep: path,
                flops, n_params, n_tokens.
        """
        found: list[Measured] = []
        for name, path in self.paths.items():
            for asked in self.file.perplexity:
                found.append(self._perplexity(name, path, asked))
            found += self._tasks(name, path)
            for asked in self.file.contamination:
                found += self._contamination(name, path, asked)
        if self.file.pairwise is not None:
            found += self._pairwise()
        for asked in self.file.prediction:
            found += self._prediction(asked, runs)
        return [*found, *aggregates(found)]

    def _kept(
        self, what: Sequence[Any], make: Callable[[], Iterator[Measured] | list[Measured]]
    ) -> list[Measured]:
        """A measurement that is on the disk, or made now and written there."""
        its_id = _id(what)
        path = self.folder / f"{its_id}.json"
        kept, damage = read_kept(path)
        if kept is not None:
            return kept
        if damage is not None:
            self.tell(f"{path.name} is measured again: {damage}")
        made = list(make())
        KEPT.write(path, Kept(its_id, made))
        for one in made:
            self.tell(f"{one.kind} {one.name}" + (f" of {one.model}" if one.model else ""))
        return made

    def _perplexity(self, name: str, path: Path, asked: PerplexitySet) -> Measured:
        def make() -> Iterator[Measured]:
            model = self.model(path)
            if asked.source is None and model.corpus is None:
                yield Measured("perplexity", asked.name, name, {},
                               f"{asked.name}: not measured, nobody wrote down which text {name} "
                               "was trained on")  # fmt: skip
                return
            result = perplexity(model, read(asked, model), seed=self.file.seed)
            values: dict[str, float | None] = {}
            for what in ("nats_per_token", "perplexity", "bits_per_byte"):
                estimate = getattr(result.whole, what)
                low, high = estimate.interval or (None, None)
                values |= {what: estimate.value, f"{what}_low": low, f"{what}_high": high}
            yield Measured("perplexity", asked.name, name, values, result.summary())

        text = self.model(path).corpus if asked.source is None else asked.source.fingerprint(sha256)
        what = ["perplexity", name, self.digest(path), asked.model_dump_json(), text]
        what.append(self.file.seed)
        return self._kept(what, make)[0]

    def digest(self, path: Path) -> str:
        """What names a model's weights."""
        return self.model(path).digest

    def _tasks(self, name: str, path: Path) -> list[Measured]:
        if not self.file.tasks:
            return []
        from scalelab.evals.choice import evaluate  # lm-eval is asked for only where it is used
        from scalelab.evals.scores import side_by_side

        def make() -> Iterator[Measured]:
            model = self.model(path)
            scores = []
            for chat in self._ways(model):
                scores += evaluate(
                    model, self.file.tasks, limit=self.file.limit, chat=chat, seed=self.file.seed
                )
            yield from (_scored(score, name) for score in scores)
            if self.file.exported:
                yield from self._exported(name, model, scores)
            for task in dict.fromkeys(s.task.partition(".")[0] for s in scores):
                same = [s for s in scores if s.task.partition(".")[0] == task]
                for pair in side_by_side(same) if len(same) > 1 else ():
                    yield Measured(
                        "side_by_side", task, name, {"difference": pair.difference.value},
                        pair.text,
                    )  # fmt: skip

        settings = self.file.model_dump_json(include={"tasks", "chat", "limit", "seed", "exported"})
        rows = [contents(Path(file)) for task in self.file.tasks for file in task.files()]
        return self._kept(["tasks", name, self.digest(path), settings, rows], make)

    def _ways(self, model: Checkpoint) -> list[bool]:
        if self.file.chat is not None:
            return [self.file.chat]
        return [False, True] if model.chat is not None else [False]

    def _exported(self, name: str, model: Checkpoint, scores: Sequence[Any]) -> Iterator[Measured]:
        """The same tasks through an exported copy, and how far its numbers are from ours."""
        import tempfile

        from scalelab.evals.choice import evaluate
        from scalelab.evals.exported import export_checkpoint

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "exported"
            export_checkpoint(model, out)
            theirs = []
            for chat in self._ways(model):
                theirs += evaluate(
                    out, self.file.tasks, limit=self.file.limit, chat=chat, seed=self.file.seed
                )
        for ours, other in zip(scores, theirs, strict=True):
            gap = abs(ours.accuracy.value - other.accuracy.value)
            values = {"accuracy_gap": gap}
            if hasattr(ours, "logprobs"):
                values["largest_nats_gap"] = max(
                    float(np.abs(a - b).max())
                    for a, b in zip(ours.logprobs, other.logprobs, strict=True)
                )
            words = ", ".join(f"{k.replace('_', ' ')} {v:.2g}" for k, v in values.items())
            yield Measured(
                "exported", f"{ours.task}", name, values,
                f"{ours.task}: exported copy against the model in process: {words} [measured]",
            )  # fmt: skip

    def _contamination(self, name: str, path: Path, asked: ContaminationSpec) -> list[Measured]:
        items = _items(asked)

        def make() -> Iterator[Measured]:
            model = self.model(path)
            order = order_test(
                model, items, shards=asked.shards, permutations=asked.permutations,
                repeats=asked.control, seed=self.file.seed,
            )  # fmt: skip
            yield Measured(
                "contamination", f"{asked.name}.order", name, {"p": order.p, "z": order.z},
                order.summary(),
            )  # fmt: skip
            if model.corpus is None:
                yield Measured("contamination", f"{asked.name}.overlap", name, {},
                               f"n-grams of {asked.name}: not looked for, nobody wrote down which "
                               f"text {name} was trained on")  # fmt: skip
            else:
                found = overlap(items, open_corpus(model.corpus), n=asked.n, unit=asked.unit)
                values = {
                    "share_of_items": found.share_of_items,
                    "share_of_grams": found.share_of_grams,
                    "share_of_short": found.share_of_short,
                }
                yield Measured(
                    "contamination", f"{asked.name}.overlap", name, values, found.summary()
                )

        what = ["contamination", name, self.digest(path), asked.model_dump_json(), items]
        return self._kept([*what, self.file.seed], make)

    def _pairwise(self) -> list[Measured]:
        digests = {name: self.digest(path) for name, path in self.paths.items()}
        spec = self.file.pairwise
        judges = {name: contents(path) for name, path in self.judges.items()}
        what = ["pairwise", digests, judges, spec.model_dump_json(), spec.data.fingerprint()]
        what.append(self.file.seed)
        # Of this judge, whichever models answer and whatever is made of it.
        judge = ["verdicts", judges, spec.judge.model_dump_json(), spec.data.fingerprint()]
        verdicts = self.folder / f"{_id([*judge, self.file.seed])}.verdicts.jsonl"
        comparing = Comparing(
            spec, self.paths, self.model, self.judges, verdicts, self.file.seed, self.tell
        )
        return self._kept(what, comparing.everything)

    def _prediction(
        self, asked: PredictionSpec, runs: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> list[Measured]:
        task = next(t for t in self.file.tasks if t.name == asked.task)
        sweeps = (asked.sweep, *asked.against)

        def make() -> Iterator[Measured]:
            rows, chance = [], 0.0
            for sweep in sweeps:
                more, chance = self._scores_of(task, runs[sweep], sweep)
                rows += more
            own = [row for row in rows if row["recipe"] == asked.sweep]
            largest = max(row["flops"] for row in own)
            target = Target(asked.flops or 10 * largest, asked.n_params, asked.n_tokens)
            found = predict(
                own, task.name, target, chance=chance, form=asked.form, seed=self.file.seed
            )
            yield Measured(
                "prediction", f"{asked.task} from {asked.sweep}", None,
                {"accuracy": found.accuracy, "accuracy_low": found.accuracy_interval[0],
                 "accuracy_high": found.accuracy_interval[1], "loss": found.loss,
                 "carried": found.carried, "predictable": float(found.is_predictable)},
                found.text,
            )  # fmt: skip
            if asked.against:
                ranked = rank_recipes(rows, task.name, chance=chance, form=asked.form)
                yield Measured(
                    "prediction", f"{asked.task}: the better of {len(sweeps)} recipes", None,
                    {"by_accuracy": ranked.by_accuracy, "by_loss": ranked.by_loss,
                     "by_two_steps": ranked.by_two_steps},
                    ranked.text,
                )  # fmt: skip

        what = ["prediction", asked.model_dump_json(), task.model_dump_json()]
        what += [[contents(run["path"]) for sweep in sweeps for run in runs[sweep]]]
        what += [[contents(Path(file)) for file in task.files()]]
        return self._kept([*what, self.file.limit, self.file.seed], make)

    def _scores_of(
        self, task: Any, runs: Sequence[Mapping[str, Any]], sweep: str
    ) -> tuple[list[dict[str, Any]], float]:
        """What every run of a sweep scores on a task, as rows, and what a guess scores."""
        from scalelab.evals.choice import evaluate

        rows, chance = [], 0.0
        for run in runs:
            scores = evaluate(
                Checkpoint.load(run["path"]), [task], limit=self.file.limit, chat=False,
                seed=self.file.seed,
            )  # fmt: skip
            score = next((s for s in scores if s.mode == "full"), None)
            if score is None:
                raise DataError(
                    f"the task {task.name!r} has no mode full: its loss cannot be followed",
                    where="prediction",
                    fix="give the task modes: [full]",
                )
            chance = score.chance
            rows.append({
                "task": task.name, "recipe": sweep, "flops": run["flops"],
                "n_params": run["n_params"], "n_tokens": run["n_tokens"],
                "task_loss": score.loss_per_token.value, "accuracy": score.accuracy.value,
                "n_items": score.accuracy.n,
            })  # fmt: skip
        return rows, chance


def read_kept(path: Path) -> tuple[list[Measured] | None, str | None]:
    """Measurements that a file keeps, or None; and what is wrong with a file that is there."""
    try:
        text = path.read_text(encoding="utf-8")
        kept = KEPT.parse(text)
        if kept.id != path.stem:
            return None, f"it holds measurement {kept.id}"
        return kept.measured, None
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return None, "it is not UTF-8 text"
    except Damaged as damage:
        old = _unsealed(text)
        return old, None if old is not None else str(damage)


def _unsealed(text: str) -> list[Measured] | None:
    """Measurements of a file from before the seals, which is a bare list; None: it is none."""
    try:
        rows = json.loads(text)
        return [typed(Measured, row) for row in rows] if isinstance(rows, list) and rows else None
    except (ValueError, TypeError, Damaged, RecursionError):
        return None


def _id(what: Sequence[Any]) -> str:
    said = json.dumps([FORMAT, *what], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _scored(score: Any, model: str) -> Measured:
    """A score of lm-eval's as a measurement."""
    way = " as conversation" if score.conditions.chat else ""
    mode = "" if score.task.endswith(f".{score.mode}") else f".{score.mode}"
    values = {"accuracy": score.accuracy.value, "accuracy_low": score.accuracy.low,
              "accuracy_high": score.accuracy.high}  # fmt: skip
    chance = None
    if hasattr(score, "chance"):
        chance = score.chance
        values |= {
            "above_chance": score.above_chance.value,
            "loss_per_token": score.loss_per_token.value,
            "loss_per_byte": score.loss_per_byte.value,
            "probability": score.probability.value,
        }
        if score.accuracy_chars is not None:
            values |= {
                "accuracy_chars": score.accuracy_chars.value,
                "accuracy_bytes": score.accuracy_bytes.value,
            }
    return Measured("task", f"{score.task}{mode}{way}", model, values, score.text, chance)


def aggregates(found: Sequence[Measured]) -> list[Measured]:
    """Means over all tasks and sets, each with what it depends on."""
    scores: dict[str, dict[str, float]] = {}
    lower, chance = set(), {}
    for one in found:
        if one.kind == "task":
            scores.setdefault(one.name, {})[one.model] = one.values["accuracy"]
            chance[one.name] = one.chance or 0.0
        elif one.kind == "perplexity":
            if one.values:
                scores.setdefault(one.name, {})[one.model] = one.values["bits_per_byte"]
            lower.add(one.name)
    models = list(dict.fromkeys(one.model for one in found if one.model is not None))
    made = []
    if len(models) > 1 and scores:
        won = mean_win_rate(_table(scores, models, lower))
        made.append(_aggregate("mean win rate", won))
    tasks = {name: row for name, row in scores.items() if name in chance}
    if tasks:
        above = mean_above_chance(_table(tasks, models, set()), {n: chance[n] for n in tasks})
        made.append(_aggregate("mean above chance", above))
    return made


def _table(scores: Mapping[str, Mapping[str, float]], models: Sequence[str], lower: set[str]):
    score = np.array([[row.get(m, np.nan) for row in scores.values()] for m in models], float)
    return ScoreTable(tuple(models), tuple(scores), score, frozenset(lower & set(scores)))


def _aggregate(name: str, found: Any) -> Measured:
    values = {
        model: None if np.isnan(value) else float(value)
        for model, value in zip(found.models, found.value, strict=True)
    }
    return Measured("aggregate", name, None, values, found.summary())


def _items(asked: ContaminationSpec) -> list[str]:
    """The texts of a file of items. Raises DataError naming the record without one."""
    items = []
    for where, row in rows_of(Path(asked.rows)):
        text = row.get(asked.field)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"the record has no text in the field {asked.field!r}",
                where=where,
                fix=f"name the field that holds the item (field: ...); it has: {', '.join(row)}",
            )
        items.append(text)
    return items

"""Evaluation of tasks with lm-eval; the only file that calls it.

    Checkpoint               in this process, on this package's network
    exported directory       through lm-eval's HFLM, on transformers

Both give the same numbers: prompt tokens, start of the answer, prefix and truncation follow the same rules.

1) A text is preceded by END, as before every document that a base model was trained on. A
   conversation begins with its marker, without END.
2) Prompt and answer are encoded together and cut at the length of the prompt alone; the prompt's
   last spaces belong to the answer. An answer of the assistant begins with a space (data/chat.py).
3) Requests longer than the context lose tokens on the left; each sample records how many.

The internal `evaluate` is called instead of `simple_evaluate`, which seeds every generator of the
process, calls git and lists drivers (1.6 s). The index of 14,685 tasks is read only for a name that is
not in FOLDERS.

Log-likelihoods in nats, natural logarithm, summed over the tokens of an answer.
Source: EleutherAI lm-evaluation-harness 0.4.13, api/model.py (2), models/huggingface.py (3).
Not here: the tasks (multiple_choice.py, benchmarks.py), the answers (lm_eval_adapters.py), the
scores (scores.py).
"""

import contextlib
import importlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from scalelab.data.tokenizer import END
from scalelab.errors import ConfigError, DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.tasks.lm_eval_adapters import (
    ExportedModel,
    InProcessModel,
    Prefix,
    RequestLog,
    TokenizedRequest,
)
from scalelab.files import exists
from scalelab.hardware.device import find_device, tf32_products
from scalelab.registry import did_you_mean

INSTALL = "pip install -e '.[eval]'"
FOLDERS = ("arc", "hellaswag", "mmlu", "piqa")
"""Folders of lm-eval's tasks that are searched first: 0.3 s instead of 18 s for all."""
EXPORTED_BATCH = 16


@dataclass(frozen=True)
class NamedTask:
    """A task or group of lm-eval, by name."""

    name: str
    shots: int | None = None
    """Few-shot examples before each question; None: the task's default."""

    @property
    def group(self) -> None:
        """None: results of lm-eval's tasks are grouped by their own name. See CustomTask."""


@dataclass(frozen=True)
class CustomTask:
    """A task defined here: its rows, and its settings in lm-eval's format."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    shot_rows: Sequence[Mapping[str, Any]] | None
    """Rows of the few-shot examples; None: `rows` without the question itself."""
    settings: Mapping[str, Any]
    """doc_to_text, output_type, ..."""
    shots: int = 0
    """Examples before each question."""
    group: str | None = None
    """Name shared by the modes of the same rows; None: this name."""


@dataclass(frozen=True)
class EvalConditions:
    """Conditions of an evaluation. Scores under different conditions are not comparable."""

    model: str
    digest: str | None
    """Digest of the weights; None if an exported directory has no weights file."""
    route: Literal["in process", "exported"]
    harness: str
    """Version of lm-eval."""
    prefix: str
    """Token before the text, or "none"."""
    chat: bool
    """Whether questions were asked as conversations."""
    shots: int
    shot_seed: int
    limit: int | None
    """Number of rows, from the first; None: all."""
    n_truncated: int
    """Requests that were longer than the context and lost tokens on the left."""
    n_tokens_cut: int


@dataclass(frozen=True)
class TaskSample:
    """One row with its requests and the model's replies."""

    row: Mapping[str, Any]
    key: str
    """Key of the row; the same under every template."""
    target: Any
    prompts: tuple[str, ...]
    """Prompts, one per request."""
    answers: tuple[str, ...]
    """Answers whose likelihood was computed, without the leading space; empty for generated answers."""
    logprobs: tuple[float, ...]
    """Log-probability of each answer, nats."""
    n_tokens: tuple[int, ...]
    """Tokens of each answer."""
    n_cut: int
    """Tokens of the row's requests that were cut on the left."""
    written: str | None
    """Generated answer; None if likelihoods were computed."""
    metrics: Mapping[str, Any]
    """lm-eval's metrics of the row."""


@dataclass(frozen=True, eq=False)
class TaskResult:
    """Result of lm-eval on one task (measured)."""

    task: str
    asked: str
    """Requested name: that of the task or of its group."""
    conditions: EvalConditions
    metrics: Mapping[str, float]
    """lm-eval's metrics under its own names: its acc_norm is per character."""
    samples: tuple[TaskSample, ...]
    settings: Mapping[str, Any]
    """The task in lm-eval's format."""


def our_model(checkpoint: Checkpoint, *, prefix: Prefix = "end", wants_greedy: bool = True) -> Any:
    """Return a checkpoint as a model of lm-eval. Arguments as for InProcessModel.

    Raises:
        ConfigError: lm-eval is not installed.
    """
    template = _lm_eval("lm_eval.api.model").TemplateLM
    kind = type("OurModel", (InProcessModel, template), {"__doc__": InProcessModel.__doc__})
    return kind(checkpoint, prefix=prefix, wants_greedy=wants_greedy)


def exported_model(path: Path, *, chat: bool = False) -> Any:
    """Return an exported directory as lm-eval's HFLM, fp32, on the available device.

    Its tokenizer determines the prefix of a text; a conversation has none.

    Raises:
        ConfigError: lm-eval or transformers is not installed.
        DataError: It is not a checkpoint with a tokenizer.
    """
    hflm = _lm_eval("lm_eval.models.huggingface").HFLM
    kind = type("ExportedModel", (ExportedModel, hflm), {"__doc__": ExportedModel.__doc__})
    for name in ("config.json", "tokenizer_config.json"):
        if not exists(path / name):
            raise DataError(
                f"there is no {name}",
                where=str(path.absolute()),
                fix="name an exported checkpoint: config.json, model.safetensors, "
                "tokenizer.json, tokenizer_config.json",
            )
    model = kind(
        str(path),
        device=find_device().kind,
        dtype="float32",
        batch_size=EXPORTED_BATCH,
        add_bos_token=False if chat else None,
    )
    model.is_chat = chat
    return model


def run_tasks(
    model: Checkpoint | Path,
    tasks: Sequence[NamedTask | CustomTask],
    *,
    shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    seed: int = 0,
    prefix: Prefix = "end",
) -> list[TaskResult]:
    """Return the results of lm-eval on a model, one per task; a group gives one per member.

    Args:
        model: A checkpoint in this process, or the directory of an exported one.
        tasks: Tasks of lm-eval or custom ones.
        shots: Few-shot examples for every task; None: the default of each.
        limit: Number of rows of each task, from the first; None: all.
        chat: Ask each question as a conversation.
        seed: Seed of the few-shot examples.
        prefix: Token that a checkpoint reads before a text; an exported model has its own.

    Raises:
        ConfigError: lm-eval is not installed, a name is unknown, a number is out of range, or `chat` is
            requested of a base model.
        DataError: A task's rows are not available, or too few for the few-shot examples.
    """
    _check_arguments(tasks, shots, limit)
    evaluator = _lm_eval("lm_eval.evaluator")
    with _quiet():
        loaded, asked = _load(tasks)
        for name, task in loaded["tasks"].items():
            n_shots = asked[name].shots if shots is None else shots
            if n_shots is not None or task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", n_shots or 0)
            task.set_fewshot_seed(seed=seed)
            _check_examples(task)
        lm = _lm_eval_model(model, loaded["tasks"].values(), chat, prefix)
        with tf32_products():
            found = evaluator.evaluate(
                lm,
                loaded,
                limit=limit,
                bootstrap_iters=0,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
    at_first = _prefix(lm, chat)
    results = []
    for name, task in loaded["tasks"].items():
        samples = tuple(_sample(s, lm.ledger, task, chat) for s in found["samples"][name])
        cut = [read.n_cut for read in _requests(found["samples"][name], lm.ledger)]
        conditions = EvalConditions(
            model=str(model.path if isinstance(model, Checkpoint) else model),
            digest=model.digest if isinstance(model, Checkpoint) else _digest(model),
            route="in process" if isinstance(model, Checkpoint) else "exported",
            harness=importlib.import_module("lm_eval").__version__,
            prefix=at_first,
            chat=chat,
            shots=task.get_config("num_fewshot"),
            shot_seed=seed,
            limit=limit,
            n_truncated=sum(n > 0 for n in cut),
            n_tokens_cut=sum(cut),
        )
        metrics = {
            key.removesuffix(",none"): float(value)
            for key, value in found["results"][name].items()
            if isinstance(value, int | float) and "," in key and "_stderr" not in key
        }
        result = TaskResult(name, asked[name].name, conditions, metrics, samples, task.dump_config())
        results.append(result)
    return results


def _lm_eval(module: str) -> ModuleType:
    """Return a module. Raises ConfigError if it or one of its dependencies is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"evaluating needs the package {error.name}, which is not installed", where=module, fix=INSTALL
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress lm-eval's log lines and progress bars; errors are still raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _load(
    tasks: Sequence[NamedTask | CustomTask],
) -> tuple[dict[str, dict[str, Any]], dict[str, NamedTask | CustomTask]]:
    """Return the tasks as objects of lm-eval, and the request that each came from."""
    names = [task.name for task in tasks if isinstance(task, NamedTask)]
    index, datasets = _index(names), _lm_eval("datasets")
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    asked: dict[str, NamedTask | CustomTask] = {}
    for task in tasks:
        try:
            found = index.load([_to_lm_eval(task, datasets)])
        except (ConnectionError, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                f"the rows of {task.name} cannot be reached: {str(error).splitlines()[0]}",
                where="the Hugging Face hub",
                fix="give a local copy in the task's data_files: {test: FILE, shots: FILE}, "
                "JSONL or parquet with the columns of the original",
            ) from error
        if twice := sorted(set(found["tasks"]) & set(asked)):
            raise ConfigError(
                f"{twice[0]} is asked for as {asked[twice[0]].name} and as {task.name}",
                where="the evaluation",
                fix="name the group or its members, not both",
            )
        asked |= dict.fromkeys(found["tasks"], task)
        for kind, members in loaded.items():
            members |= found.get(kind, {})
    return loaded, asked


def _index(names: Sequence[str]) -> Any:
    """Return lm-eval's task index, as far as the names need it. Raises ConfigError for unknown names."""
    tasks = _lm_eval("lm_eval.tasks")
    folders = [str(Path(tasks.__file__).parent / folder) for folder in FOLDERS]
    index = tasks.TaskManager(include_path=folders if names else None, include_defaults=False)
    if set(names) - set(index.all_tasks):
        index = tasks.TaskManager(include_defaults=True)
    for name in names:
        if name not in index.all_tasks:
            raise ConfigError(
                f"unknown task {name!r}{did_you_mean(name, index.all_tasks)}",
                where="lm-eval's own tasks",
                fix="use one of its names, or define the task with rows",
            )
    return index


def _to_lm_eval(task: NamedTask | CustomTask, datasets: ModuleType) -> str | dict[str, Any]:
    if isinstance(task, NamedTask):
        return task.name
    splits = {"test": task.rows, "shots": task.rows if task.shot_rows is None else task.shot_rows}
    made = {name: datasets.Dataset.from_list([dict(r) for r in rows]) for name, rows in splits.items()}
    return {
        "task": task.name,
        "custom_dataset": lambda **_: made,
        "test_split": "test",
        "fewshot_split": "shots" if task.shot_rows else "test",
        **task.settings,
    }


def _lm_eval_model(model: Checkpoint | Path, tasks: Any, chat: bool, prefix: Prefix) -> Any:
    """Return the model as a model of lm-eval."""
    if not isinstance(model, Checkpoint):
        lm = exported_model(model, chat=chat)
        has_chat = lm.tokenizer.chat_template is not None
    else:
        wants = any(
            task.OUTPUT_TYPE == "loglikelihood" or "exact_match" in task.aggregation() for task in tasks
        )
        lm = our_model(model, prefix=prefix, wants_greedy=wants)
        has_chat = model.chat is not None
    if chat and not has_chat:
        raise ConfigError(
            "the model is a base model: its tokenizer has no chat tokens",
            where=str(model.path if isinstance(model, Checkpoint) else model),
            fix="set chat: false, or name a model that was trained with SFT",
        )
    return lm


def _prefix(lm: Any, chat: bool) -> str:
    """Return the token before a text, or "none"."""
    if isinstance(lm, InProcessModel):
        return END if lm.prefix == "end" and not chat else "none"
    first, *rest = lm.tok_encode("a")
    if not rest or lm.add_bos_token is False:
        return "none"
    return str(lm.tokenizer.convert_ids_to_tokens(first))


def _digest(path: Path) -> str | None:
    from scalelab.data.hashing import sha256

    file = path / "model.safetensors"
    return sha256(file)[:12] if exists(file) else None


def _requests(samples: Sequence[Mapping[str, Any]], ledger: RequestLog) -> list[TokenizedRequest]:
    """Return the tokenized requests of the samples; texts read in windows have none."""
    asked = [args for sample in samples for args in sample["arguments"]]
    found = [ledger.requests.get(_name(args)) for args in asked]
    return [read for read in found if read is not None]


def _name(args: tuple[Any, ...]) -> Any:
    """Return the key of a request in the log: (prompt, answer), or the prompt for generation."""
    is_pair = len(args) == 2 and isinstance(args[1], str)
    return args if is_pair else args[0]


def _sample(sample: Mapping[str, Any], ledger: RequestLog, task: Any, chat: bool) -> TaskSample:
    doc, asked = sample["doc"], sample["arguments"]
    reads = _requests([sample], ledger)
    is_weighed = task.OUTPUT_TYPE in {"multiple_choice", "loglikelihood"}
    delimiter = "" if chat and not task.get_config("gen_prefix") else task.get_config("target_delimiter")
    replies = sample["filtered_resps"]
    return TaskSample(
        row=doc,
        key=doc.get("key", sample["doc_hash"]),
        target=sample["target"],
        prompts=tuple(args[0] for args in asked),
        answers=tuple(a[1].removeprefix(delimiter) for a in asked) if is_weighed else (),
        logprobs=tuple(float(nats) for nats, _ in replies) if is_weighed else (),
        n_tokens=tuple(read.n_tokens for read in reads) if is_weighed else (),
        n_cut=sum(read.n_cut for read in reads),
        written=replies[0] if task.OUTPUT_TYPE == "generate_until" else None,
        metrics={name: sample[name] for name in sample["metrics"]},
    )


def _check_arguments(tasks: Sequence[str | CustomTask], shots: int | None, limit: int | None) -> None:
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    for wrong, problem, fix in (
        (not tasks, "no task is named", "name at least one"),
        (twice, f"a task is named twice: {', '.join(twice)}", "give each its own name"),
        (limit is not None and limit < 1, f"limit is {limit} rows", "ask at least one row"),
        (shots is not None and shots < 0, f"shots is {shots}", "give 0 or more"),
    ):
        if wrong:
            raise ConfigError(problem, where="the evaluation", fix=fix)


def _check_examples(task: Any) -> None:
    """Raise DataError if there are too few rows for the few-shot examples."""
    shots = task.get_config("num_fewshot")
    if not shots:
        return
    n_rows = len(task.sampler.df) if hasattr(task, "sampler") else 0
    is_same = task.fewshot_cfg.split is not None and task.fewshot_cfg.split == task.config.test_split
    if n_rows - is_same < shots:
        raise DataError(
            f"{shots} examples before each question, but there are only {n_rows - is_same}",
            where=f"task {task.task_name}",
            fix="ask for fewer shots, or give more rows",
        )

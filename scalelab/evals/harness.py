"""lm-eval asked about our models; the one file that knows it.

    Checkpoint               in this process, on our own network
    exported directory       through lm-eval's HFLM, on transformers

Both answer with the same numbers: the prompt's tokens, where the answer begins, what precedes
the text and what is cut are decided once.

1) Before a text stands END, as before every document that a base model was trained on. A
   conversation begins with its marker, and nothing stands before it.
2) Prompt and answer are encoded together and cut at the length of the prompt alone; the prompt's
   last spaces belong to the answer. An answer of the assistant begins with a space (data/chat.py).
3) What is longer than the context loses tokens on the left. Every such sample says how many.

The harness is entered below its command: `simple_evaluate` seeds every generator of the process,
asks git for a commit and lists the machine's drivers (1.6 s measured), which no number needs.
Its index of 14,685 tasks is read only for a name that the folders of the best known lack.

Log-likelihoods in nats, natural logarithm, summed over the tokens of an answer.
Source: EleutherAI lm-evaluation-harness 0.4.13, api/model.py (2), models/huggingface.py (3).
Not here: what is asked (choice.py, known.py), how it is answered (answering.py) and scored
(scores.py).
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
from scalelab.evals.answering import Exported, InProcess, Ledger, Prefix, Read
from scalelab.evals.checkpoint import Checkpoint
from scalelab.registry import did_you_mean
from scalelab.train.device import find_device

INSTALL = "pip install -e '.[eval]'"
FOLDERS = ("arc", "hellaswag", "mmlu", "piqa")
"""Folders of lm-eval's tasks that are looked through first: 0.3 s, where all of them take 18 s."""
EXPORTED_BATCH = 16


@dataclass(frozen=True)
class NamedTask:
    """A task or a group of lm-eval's own, by its name."""

    name: str
    shots: int | None = None
    """Examples before each question; None: as many as the task says."""

    @property
    def group(self) -> None:
        """See OwnTask: lm-eval's own tasks go by the name of their results."""


@dataclass(frozen=True)
class OwnTask:
    """A task of lm-eval made here: its rows, and its settings in lm-eval's words."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    shot_rows: Sequence[Mapping[str, Any]] | None
    """Rows that examples are taken from; None takes them from `rows`, the asked one left out."""
    settings: Mapping[str, Any]
    """doc_to_text, output_type, ..."""
    shots: int = 0
    """Examples before each question."""
    group: str | None = None
    """What the same rows asked in other modes have too; None: this name."""


@dataclass(frozen=True)
class Conditions:
    """Under what a model was asked. Two scores under other conditions are not comparable."""

    model: str
    digest: str | None
    """Of its weights; None for a directory of somebody else."""
    route: Literal["in process", "exported"]
    harness: str
    """Version of lm-eval."""
    prefix: str
    """The token that was read before the text, or "none"."""
    chat: bool
    """Whether the question was put as a conversation."""
    shots: int
    shot_seed: int
    limit: int | None
    """First rows that were asked; None: all of them."""
    n_truncated: int
    """Requests that lost tokens on the left, being longer than the context."""
    n_tokens_cut: int


@dataclass(frozen=True)
class Sample:
    """One row, what was asked and what the model said."""

    row: Mapping[str, Any]
    key: str
    """Names the row; equal for the same row under another template."""
    target: Any
    prompts: tuple[str, ...]
    """What was read, one per request."""
    answers: tuple[str, ...]
    """Answers that were weighed, without the space before them; empty where the model wrote."""
    logprobs: tuple[float, ...]
    """Of each answer, nats."""
    n_tokens: tuple[int, ...]
    """Of each answer."""
    n_cut: int
    """Tokens that the row's requests lost on the left."""
    written: str | None
    """What the model wrote; None where answers were weighed."""
    metrics: Mapping[str, Any]
    """lm-eval's own numbers of the row."""


@dataclass(frozen=True, eq=False)
class TaskResult:
    """What lm-eval measured on one task. Status: measured."""

    task: str
    asked: str
    """The name that was asked for: the task's own, or that of its group."""
    conditions: Conditions
    metrics: Mapping[str, float]
    """lm-eval's own numbers by lm-eval's own names: its acc_norm is by characters."""
    samples: tuple[Sample, ...]
    settings: Mapping[str, Any]
    """The task in lm-eval's words."""


def our_model(checkpoint: Checkpoint, *, prefix: Prefix = "end", wants_greedy: bool = True) -> Any:
    """OurModel: a checkpoint as one of lm-eval's models. Arguments as for InProcess.

    Raises:
        ConfigError: lm-eval is not installed.
    """
    template = _lm_eval("lm_eval.api.model").TemplateLM
    kind = type("OurModel", (InProcess, template), {"__doc__": InProcess.__doc__})
    return kind(checkpoint, prefix=prefix, wants_greedy=wants_greedy)


def exported_model(path: Path, *, chat: bool = False) -> Any:
    """An exported directory as lm-eval's HFLM, fp32, on the device that there is.

    What stands before a text is what its tokenizer says; before a conversation, nothing.

    Raises:
        ConfigError: lm-eval or transformers is not installed.
        DataError: It is no checkpoint with a tokenizer.
    """
    hflm = _lm_eval("lm_eval.models.huggingface").HFLM
    kind = type("ExportedModel", (Exported, hflm), {"__doc__": Exported.__doc__})
    for name in ("config.json", "tokenizer_config.json"):
        if not (path / name).exists():
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
    tasks: Sequence[NamedTask | OwnTask],
    *,
    shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    seed: int = 0,
    prefix: Prefix = "end",
) -> list[TaskResult]:
    """What lm-eval measures of a model, one result per task; a group gives one per member.

    Args:
        model: One of ours, in this process, or the directory of an exported one.
        tasks: Tasks of lm-eval's own, or made here.
        shots: Examples before each question of every task; None: as many as each says.
        limit: First rows of each task that are asked; None: all.
        chat: Put the question as a conversation.
        seed: Decides which examples stand before which question.
        prefix: What our own model reads before a text; an exported one brings its own.

    Raises:
        ConfigError: lm-eval is not installed, a name is unknown, a number makes no sense, or a
            conversation is asked of a model that holds none.
        DataError: A task's rows cannot be reached, or are too few for the examples asked for.
    """
    _refuse_nonsense(tasks, shots, limit)
    evaluator = _lm_eval("lm_eval.evaluator")
    with _quiet():
        loaded, asked = _load(tasks)
        for name, task in loaded["tasks"].items():
            n_shots = asked[name].shots if shots is None else shots
            if n_shots is not None or task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", n_shots or 0)
            task.set_fewshot_seed(seed=seed)
            _refuse_few_examples(task)
        lm = _answering(model, loaded["tasks"].values(), chat, prefix)
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
        conditions = Conditions(
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
        result = TaskResult(
            name, asked[name].name, conditions, metrics, samples, task.dump_config()
        )
        results.append(result)
    return results


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """Rows of a parquet file.

    Raises:
        ConfigError: pyarrow, which comes with lm-eval, is not installed.
        DataError: It cannot be read.
    """
    parquet, errors = _lm_eval("pyarrow.parquet"), _lm_eval("pyarrow").lib
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, errors.ArrowException) as error:
        raise DataError(
            f"cannot read the rows: {str(error).splitlines()[0]}",
            where=str(path),
            fix="name a parquet or JSONL file",
        ) from error


def _lm_eval(module: str) -> ModuleType:
    """A module of lm-eval. Raises ConfigError where it, or what it needs, is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"evaluating needs the package {error.name}, which is not installed",
            where=module,
            fix=INSTALL,
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's log lines and progress bars; what goes wrong is still raised."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _load(
    tasks: Sequence[NamedTask | OwnTask],
) -> tuple[dict[str, dict[str, Any]], dict[str, NamedTask | OwnTask]]:
    """The tasks as lm-eval's objects, their rows at hand, and which was asked for by what."""
    names = [task.name for task in tasks if isinstance(task, NamedTask)]
    index, datasets = _index(names), _lm_eval("datasets")
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    asked: dict[str, NamedTask | OwnTask] = {}
    for task in tasks:
        try:
            found = index.load([_in_its_words(task, datasets)])
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
    """lm-eval's list of tasks, as much of it as the names need. Raises ConfigError for others."""
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
                fix="name one of them, or write the task down as rows",
            )
    return index


def _in_its_words(task: NamedTask | OwnTask, datasets: ModuleType) -> str | dict[str, Any]:
    if isinstance(task, NamedTask):
        return task.name
    splits = {"test": task.rows, "shots": task.rows if task.shot_rows is None else task.shot_rows}
    made = {
        name: datasets.Dataset.from_list([dict(r) for r in rows]) for name, rows in splits.items()
    }
    return {
        "task": task.name,
        "custom_dataset": lambda **_: made,
        "test_split": "test",
        "fewshot_split": "shots" if task.shot_rows else "test",
        **task.settings,
    }


def _answering(model: Checkpoint | Path, tasks: Any, chat: bool, prefix: Prefix) -> Any:
    """The model as one of lm-eval's."""
    if not isinstance(model, Checkpoint):
        lm = exported_model(model, chat=chat)
        has_chat = lm.tokenizer.chat_template is not None
    else:
        wants = any(
            task.OUTPUT_TYPE == "loglikelihood" or "exact_match" in task.aggregation()
            for task in tasks
        )
        lm = our_model(model, prefix=prefix, wants_greedy=wants)
        has_chat = model.chat is not None
    if chat and not has_chat:
        raise ConfigError(
            "the model holds no conversations: its tokenizer has no turns",
            where=str(model.path if isinstance(model, Checkpoint) else model),
            fix="ask it without chat, or name a model that has been through SFT",
        )
    return lm


def _prefix(lm: Any, chat: bool) -> str:
    """The token that stands before a text, as it was read."""
    if isinstance(lm, InProcess):
        return END if lm.prefix == "end" and not chat else "none"
    first, *rest = lm.tok_encode("a")
    if not rest or lm.add_bos_token is False:
        return "none"
    return str(lm.tokenizer.convert_ids_to_tokens(first))


def _digest(path: Path) -> str | None:
    from scalelab.data.hashing import sha256

    file = path / "model.safetensors"
    return sha256(file)[:12] if file.exists() else None


def _requests(samples: Sequence[Mapping[str, Any]], ledger: Ledger) -> list[Read]:
    """How each request of the samples was read; texts that were read in windows have none."""
    asked = [args for sample in samples for args in sample["arguments"]]
    found = [ledger.requests.get(_name(args)) for args in asked]
    return [read for read in found if read is not None]


def _name(args: tuple[Any, ...]) -> Any:
    """What the ledger calls a request: (prompt, answer), or the prompt of what was written."""
    is_pair = len(args) == 2 and isinstance(args[1], str)
    return args if is_pair else args[0]


def _sample(sample: Mapping[str, Any], ledger: Ledger, task: Any, chat: bool) -> Sample:
    doc, asked = sample["doc"], sample["arguments"]
    reads = _requests([sample], ledger)
    is_weighed = task.OUTPUT_TYPE in {"multiple_choice", "loglikelihood"}
    delimiter = (
        "" if chat and not task.get_config("gen_prefix") else task.get_config("target_delimiter")
    )
    said = sample["filtered_resps"]
    return Sample(
        row=doc,
        key=doc.get("key", sample["doc_hash"]),
        target=sample["target"],
        prompts=tuple(args[0] for args in asked),
        answers=tuple(a[1].removeprefix(delimiter) for a in asked) if is_weighed else (),
        logprobs=tuple(float(nats) for nats, _ in said) if is_weighed else (),
        n_tokens=tuple(read.n_tokens for read in reads) if is_weighed else (),
        n_cut=sum(read.n_cut for read in reads),
        written=said[0] if task.OUTPUT_TYPE == "generate_until" else None,
        metrics={name: sample[name] for name in sample["metrics"]},
    )


def _refuse_nonsense(tasks: Sequence[str | OwnTask], shots: int | None, limit: int | None) -> None:
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


def _refuse_few_examples(task: Any) -> None:
    """Raises DataError where there are fewer examples than are to stand before a question."""
    shots = task.get_config("num_fewshot")
    if not shots:
        return
    there = len(task.sampler.df) if hasattr(task, "sampler") else 0
    is_same = (
        task.fewshot_cfg.split is not None and task.fewshot_cfg.split == task.config.test_split
    )
    if there - is_same < shots:
        raise DataError(
            f"{shots} examples before each question, but there are only {there - is_same}",
            where=f"task {task.task_name}",
            fix="ask for fewer shots, or give more rows",
        )

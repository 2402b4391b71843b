"""Names of columns in tables of other projects, and what each means.

    meaning_of("model.n_params")   Match(ours="n_params", sure=True, why="")
    meaning_of("train/loss")       Match(ours="loss", sure=False, why="it may be the training loss")

A name is compared in words: case, separators and camel case do not count, nor do the prefixes that
trackers and configurations put before a name (config/, params., metrics., model., train/). Words of
one meaning are one word (num and number are n, eval and validation are val). What the prefix of a
loss says is kept: train/loss is not eval/loss.

Source: the exports of Weights & Biases (columns Name, State, config keys, summary keys) and of
MLflow (run_id, status, params.X, metrics.X, tags.mlflow.runName), the arguments of Hugging Face's
Trainer, and the tables of published scaling studies (N, D, C, L).

Not here: which of several columns is taken (column_matching.py).
"""

import re
import unicodedata
from dataclasses import dataclass

NEEDED = ("n_params", "n_tokens", "loss")
"""Columns without which there is no evidence; a count of parameters (n_params_total) stands for n_params."""

_SPELLINGS = {
    **dict.fromkeys(("parameters", "parameter", "param", "prms"), "params"),
    **dict.fromkeys(("token", "toks", "tok"), "tokens"),
    **dict.fromkeys(("validation", "valid", "val", "eval", "evaluation", "dev"), "val"),
    **dict.fromkeys(("training",), "train"),
    **dict.fromkeys(("num", "number", "nr", "nb"), "n"),
    **dict.fromkeys(("flop",), "flops"),
    **dict.fromkeys(("step", "iter", "iters", "iteration", "iterations", "updates"), "steps"),
    **dict.fromkeys(("layer",), "layers"),
    **dict.fromkeys(("optimiser", "optim"), "optimizer"),
    **dict.fromkeys(("nonembedding", "nonembed"), "non embedding"),
    **dict.fromkeys(("embeddings", "embed", "emb", "embd", "embeds"), "embedding"),
    **dict.fromkeys(("seqlen",), "seq len"),
    **dict.fromkeys(("nparams",), "n params"),
    **dict.fromkeys(("ntokens",), "n tokens"),
    **dict.fromkeys(("nsteps",), "n steps"),
    **dict.fromkeys(("crossentropy", "xent", "ce"), "cross entropy"),
    **dict.fromkeys(("perplexity",), "ppl"),
    **dict.fromkeys(("vocabulary",), "vocab"),
    **dict.fromkeys(("max",), "max"),
    "of": "",
    "the": "",
}
"""Words of one meaning; an empty one is dropped."""

_WRAPPERS = frozenset(
    [
        "config",
        "configs",
        "cfg",
        "args",
        "arguments",
        "hparams",
        "hyperparameters",
        "hyperparams",
        "params",
        "metrics",
        "metric",
        "summary",
        "tags",
        "attributes",
        "mlflow",
        "options",
        "settings",
        "run",
    ]
)
"""Prefixes that say where a tracker keeps a value, and nothing about the value."""
_DOMAINS = frozenset(
    [
        "model",
        "train",
        "trainer",
        "optimizer",
        "data",
        "dataset",
        "final",
        "loss",
        "schedule",
        "scheduler",
        "lr",
        "network",
    ]
)
"""Prefixes of configurations; dropped where the rest has a meaning by itself."""

_SURE: dict[str, str] = {
    "n_params": "n params; params; params count; model params; n model params; params n",
    "n_params_total": "n params total; total params; params total; n total params",
    "n_params_non_embedding": "n params non embedding; non embedding params; n non embedding params; params non "
    "embedding; params no embedding; n no embedding; n non embedding; n params no embedding; params excluding "
    "embedding; params without embedding",
    "n_params_matmul": "n params matmul; matmul params",
    "n_params_active": "n params active; active params; n active params; params active; activated params",
    "n_tokens": "n tokens; tokens; train tokens; n train tokens; tokens seen; n tokens seen; total tokens; tokens "
    "total; consumed tokens; tokens consumed; tokens trained; tokens processed; train tokens seen; total train "
    "tokens; n tokens trained; n input tokens seen",
    "n_tokens_unique": "n tokens unique; unique tokens; n unique tokens; tokens unique",
    "loss": "val loss; final val loss; test loss; final test loss; heldout loss; held out loss; val cross entropy; "
    "val cross entropy loss; val nll; val lm loss; val loss final; loss val; loss test; lm loss validation",
    "flops": "flops; total flops; total flos; train flops; flops total; n flops; total train flops; train flops total; "
    "compute flops; flops train",
    "flops_planned": "flops planned; budget; compute budget; flops budget; budget flops; planned flops; target flops;"
    " isoflop budget; iso flops budget; isoflop; iso flops; isoflops; c budget",
    "n_steps": "n steps; steps; train steps; n train steps; global steps; train global steps; trainer global steps;"
    " steps done; current steps; optimizer steps",
    "n_steps_planned": "n steps planned; planned steps; max steps; total steps; steps planned; max train steps; "
    "total train steps; target steps; n steps total",
    "batch_tokens": "batch tokens; tokens per batch; batch size tokens; tokens per steps; global batch tokens; "
    "batch size in tokens; n batch tokens; train batch tokens",
    "batch_size": "batch size; global batch size; train batch size; bs; batch; effective batch size; total batch size;"
    " batch sequences; sequences per batch; batch size sequences",
    "learning_rate": "learning rate; lr; peak lr; max lr; peak learning rate; max learning rate; base lr; lr peak;"
    " lr max; optimizer lr; learning rate peak",
    "weight_decay": "weight decay; wd; optimizer weight decay",
    "schedule": "schedule; lr schedule; lr scheduler; scheduler; lr scheduler type; learning rate schedule; lr decay"
    " style; lr schedule type; decay schedule",
    "warmup": "warmup; warmup steps; n warmup steps; lr warmup steps",
    "dropout": "dropout; dropout rate",
    "width": "width; d model; hidden size; hidden dim; n embedding; embedding dim; model dim; dim model; model width;"
    " hidden dimension; embedding size",
    "depth": "depth; n layers; layers; n hidden layers; n blocks; model depth",
    "seq_len": "seq len; sequence length; seq length; context length; block size; max seq len; n ctx; ctx len; context",
    "vocab_size": "vocab size; n vocab; vocab; padded vocab size; tokenizer vocab size",
    "data": "data; dataset; corpus; dataset name; data name; train data; train dataset; train set; data mix",
    "tokenizer": "tokenizer; tokenizer name; data tokenizer; tokenizer name or path",
    "data_digest": "data digest",
    "optimizer": "optimizer; optimizer name; optimizer type",
    "seed": "seed; random seed; rng seed; train seed; model seed; init seed",
    "run": "run; run id; id; run name; name; run uuid; exp name; experiment name; exp id",
    "status": "status; state; run status; run state",
    "reason": "reason",
    "simulated": "simulated",
}
"""Names in words, by our column; separated by semicolons. First names are preferred for `run`."""

_UNIT_UNKNOWN = "its unit is not known"
_PERHAPS: dict[str, dict[str, str]] = {
    "n_params": {
        "its unit is not known": "size; model size; model; n; model scale; scale; params size",
        "it counts only some of the parameters": "trainable params; n trainable params; backbone params",
    },
    "n_tokens": {
        "its unit is not known": "d; d total; total d; data size; dataset size; train size",
        "it may be the tokens of the corpus, not those trained on": "dataset tokens; data tokens; corpus tokens; n "
        "dataset tokens",
        "it may be the tokens planned, not those trained on": "max tokens; target tokens; planned tokens; n tokens "
        "planned; tokens planned",
    },
    "loss": {
        "its meaning is not known": "l; final loss; ce; nll; cross entropy; cross entropy loss; lm loss; log loss",
        "it may be the lowest of the run, not the last": "best loss; min loss; lowest loss; best val loss; "
        "min val loss;"
        " val loss best; val loss min; lowest val loss; val best loss; val min loss",
        "it is a training loss": "train loss; final train loss; train cross entropy; train loss final; loss train; "
        "train cross entropy loss; train lm loss",
    },
    "flops": {
        "its unit is not known": "c; compute; train compute; total compute",
        "it is in another unit": "gflops; tflops; pflops; eflops; zflops; pf days; petaflops days; pflops days; "
        "petaflop s days; petaflops s days; total gflops; total tflops; total pflops; total eflops",
        "it is a rate": "flops per second; flops per s; mfu flops",
    },
    "flops_planned": {"its unit is not known": "target compute; planned compute"},
}
"""Names that may have a meaning, by our column and by what is not known."""

_UNITS = {
    **dict.fromkeys(("m", "million", "millions", "mm", "mil", "mn"), 1e6),
    **dict.fromkeys(("b", "billion", "billions", "bn", "bln"), 1e9),
    **dict.fromkeys(("t", "trillion", "trillions", "tn"), 1e12),
    **dict.fromkeys(("k", "thousand", "thousands"), 1e3),
}
"""Last words or brackets of a name that give its unit: "params (M)", "tokens_B"."""
_NO_UNIT = {"", "params", "tokens", "nats", "nats/token", "nats per token", "flops", "flop", "total", "steps"}
"""Brackets of a name that say no other unit than ours."""
SCALED = (
    *("n_params", "n_params_total", "n_params_non_embedding", "n_params_matmul", "n_params_active"),
    *("n_tokens", "n_tokens_unique", "flops", "flops_planned"),
)
"""Columns whose name may carry such a unit."""
_STRIP = ("run", "status", "reason", "group", "weight", "simulated", "param_count", "loss", "data")
"""Columns of which a prefix may change the meaning: model.name is not the run's name."""
_NO_LOSS = frozenset(
    [
        "scale",
        "aux",
        "z",
        "spike",
        "spikes",
        "time",
        "se",
        "std",
        "stderr",
        "sd",
        "var",
        "ci",
        "count",
        "weight",
        "type",
        "fn",
        "function",
        "name",
    ]
)
"""Words beside loss in names of what is no loss of language."""
_LETTERS = {"n": "n_params", "d": "n_tokens", "l": "loss", "c": "flops"}
"""Symbols of published tables, sure where N and D stand side by side."""


@dataclass(frozen=True)
class Match:
    """What a column of a table may mean."""

    ours: str
    """Our name of the column."""
    sure: bool
    """Whether the name has no other meaning."""
    why: str = ""
    """What is not sure."""
    scale: float = 1.0
    """Unit in the name: 1e6 for "params (M)"."""
    unit: str = ""
    """Unit that the name gives and that is not ours, as --units calls it where it knows it."""
    of_unit: bool = False
    """Whether it is only the unit that is not sure."""
    rank: int = 0
    """Order of preference among names of one meaning; lower is better."""


def segments(name: str) -> list[str]:
    """Return the parts of a name between /, . and :, each in words; "evalLoss" is "val loss"."""
    text = unicodedata.normalize("NFKC", str(name))
    text = re.sub(r"[(\[{][^)\]}]*[)\]}]", " ", text)
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    found = []
    for part in re.split(r"[/.:|>]+", text):
        words = re.split(r"[\W_]+", part.casefold())
        spelled = " ".join(_SPELLINGS.get(word, word) for word in words).split()
        if spelled:
            found.append(" ".join(spelled))
    return found


def plain_name(name: str) -> str:
    """Return a name in small letters, digits and underscores, without the prefixes of trackers."""
    text = unicodedata.normalize("NFKC", str(name))
    text = re.sub(r"([a-z])([A-Z])", r"\1_\2", text)
    parts = [re.sub(r"[\W_]+", "_", part.casefold()).strip("_") for part in re.split(r"[/.:|>]+", text)]
    parts = [part for part in parts if part]
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return "_".join(parts) or "unnamed"


def meaning_of(name: str, others: frozenset[str] = frozenset()) -> Match | None:
    """Return what a column may mean by its name; None for a name that means nothing to us.

    Names that start with an underscore are counts of the tracker itself: _step counts its own records.

    Args:
        name: Name of the column in its table.
        others: All names of the table, casefolded: N and D side by side are parameters and tokens.
    """
    bare = str(name).strip().casefold()
    if bare in _LETTERS:
        if {"n", "d"} <= others:
            return Match(_LETTERS[bare], True)
        return _uncertain(bare)
    if re.search(r"(^|[/.])_[^/.]*$", bare):
        return None
    if bare == "loss":
        return Match("loss", True)
    scale, parts, unknown = _unit(str(name), segments(name))
    found = _by_words(parts, scale)
    if found is not None and unknown and found.ours in (*SCALED, "loss"):
        why = f"its unit is {unknown}" if found.ours == "loss" else f"its unit ({unknown}) is not known"
        unit = "bits" if re.fullmatch(r"bits?( ?(/|per) ?tokens?)?", unknown.casefold()) else ""
        return Match(found.ours, False, why, unit=unit, of_unit=True)
    return found or _loss_like(" ".join(segments(name)))


def _by_words(parts: list[str], scale: float) -> Match | None:
    """Return the meaning of a name in parts, with or without its first ones."""
    dropped: set[str] = set()
    while parts:
        words = " ".join(parts)
        found = _BY_WORDS.get(words)
        if found is not None and (scale == 1.0 or found[0] in SCALED):
            ours, rank = found
            if not dropped or ours not in _STRIP or (ours == "run" and dropped <= {"tags", "mlflow"}):
                return Match(ours, True, scale=scale, rank=rank)
            if ours == "loss" and dropped <= _WRAPPERS:
                return Match(ours, True, rank=rank)
        if not (dropped - _WRAPPERS) and (perhaps := _uncertain(words)) is not None:
            return perhaps
        if len(parts) == 1 or parts[0] not in (_WRAPPERS | _DOMAINS):
            break
        dropped.add(parts[0])
        parts = parts[1:]
    return None


def _unit(name: str, parts: list[str]) -> tuple[float, list[str], str]:
    """Return the unit that a name ends in, its parts without it, and a unit that means nothing to us."""
    if bracket := re.search(r"[(\[{]\s*(?:in\s+)?([^)\]}]*?)\s*[)\]}]\s*$", name):
        unit = " ".join(_SPELLINGS.get(word, word) for word in bracket[1].casefold().split())
        scale = _UNITS.get(unit) or (float(unit) if re.fullmatch(r"1e\d{1,2}", unit) else 1.0)
        return scale, parts, "" if scale != 1.0 or unit in _NO_UNIT else bracket[1]
    if parts and " " in parts[-1]:
        words, _, last = parts[-1].rpartition(" ")
        words = words.removesuffix(" in")
        if last in _UNITS and words.split()[-1] in (
            "params",
            "tokens",
            "seen",
            "total",
            "embedding",
            "unique",
        ):
            return _UNITS[last], [*parts[:-1], words], ""
    return 1.0, parts, ""


def _uncertain(words: str) -> Match | None:
    return _PERHAPS_BY_WORDS.get(words)


def _loss_like(words: str) -> Match | None:
    """Return a doubtful match of a name with the word loss in it, or with perplexity."""
    every = words.split()
    if "ppl" in every:
        return Match("loss", False, "it is a perplexity, not nats per token", unit="perplexity", of_unit=True)
    words = words.replace("cross entropy", "loss")
    every = words.split()
    if "loss" not in every or _NO_LOSS & set(every):
        return None
    if "train" in every:
        return Match("loss", False, "it is a training loss")
    if "val" in every or "test" in every:
        return Match("loss", False, "it is the loss on one of several texts, or at another time")
    return Match("loss", False, "it may be the training loss")


_BY_WORDS = {
    " ".join(words.split()): (ours, rank)
    for ours, text in _SURE.items()
    for rank, words in enumerate(text.split(";"))
}
_PERHAPS_BY_WORDS = {
    " ".join(words.split()): Match(ours, False, why, of_unit=why == _UNIT_UNKNOWN)
    for ours, reasons in _PERHAPS.items()
    for why, text in reasons.items()
    for words in text.split(";")
}

RECIPE = (
    *("learning_rate", "batch_tokens", "batch_size", "weight_decay", "schedule", "width", "depth"),
    *("warmup", "dropout", "seq_len", "data", "tokenizer", "optimizer", "seed", "vocab_size"),
)
"""Canonical names of what a run's recipe consists of, kept in a table wherever a table has them."""
CANONICAL = tuple(_SURE)
"""Every column that names are compared with."""

"""What stages done by TRL share: its trainer in the middle, our own work around it.

    our model -> checkpoint for transformers -> TRL's trainer -> our weights by their names

TRL gives the losses and makes the steps. Which rows make up which batch, their tokens, the
optimizer and its schedule are those of our own loop, so that either backend can be held against
the other. Rows are handed over as tokens: from text TRL would read a message that spells a marker
of turns as the marker.

All steps are one step of our loop. TRL's own checkpoints lie in trl/ of the stage's directory
(weights, moments, schedule, random state, log) and a stage that was stopped or killed goes on
from the newest one that holds. The directory goes when the stage is done.

    trl/checkpoint-12/...            as transformers writes them
    trl/checkpoint-12/sealed.json    written by us behind it: the SHA-256 of every file

Before a checkpoint is given to transformers, all of it is verified: no file is missing, altered or
added. What is in pickles (optimizer.pt, scheduler.pt, rng_state.pth) transformers reads with
weights_only=True, which runs no code; training_args.bin is written and never read.

Source: TRL 1.16 and transformers 5.23, as installed; names of arguments change between versions.
Not here: single stages (offline_trl.py, online_trl.py), the way to other names
(model/huggingface.py).
"""

import contextlib
import importlib
import logging
import math
import pickle
import shutil
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scalelab.errors import LaunchError, RunError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.exported import export_checkpoint
from scalelab.files import writing
from scalelab.posttrain.base import Finished, Given, Rates, Step, Stopped
from scalelab.posttrain.loop import POINTS
from scalelab.posttrain.networks import Lora
from scalelab.sealed import Damaged, Format, check_file, synced_digest
from scalelab.train import checkpoint
from scalelab.train.device import find_device
from scalelab.train.optimizers.per_weight import PerWeight
from scalelab.train.schedule import WSD

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerState

INSTALL = "pip install -e '.[post]'"
FOLDER = "trl"
"""In the stage's directory."""
COURSE = "course"
PASSED_OVER = {"epoch", "num_tokens", "step_time"}
"""What TRL logs and the journal says in its own way."""
CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
"""Names of what recomputes activations, in transformers from 5.23 and before."""
IGNORED = -100
"""The label of a token that is not learned."""


def refuse_without_trl(stage: str, *more: str) -> None:
    """Import what TRL needs, and `more` packages. Raises LaunchError: one is not installed."""
    for name in ("accelerate", "datasets", "transformers", "trl", *more):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise LaunchError(
                f"the package {name} is not here, or cannot be imported: {error}",
                where=f"stage {stage}, which is done by TRL",
                fix=f"{INSTALL}, or use our own backend, which needs none of it",
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without log lines and progress bars of TRL and transformers; errors are still raised."""
    import datasets
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    others = [logging.getLogger(name) for name in ("trl", "accelerate", "peft")]
    before = [logger.level for logger in others]
    data_bars = datasets.is_progress_bar_enabled()
    try:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        datasets.disable_progress_bars()
        for logger in others:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # TRL 1.16 asks a model by the name that transformers 5.23 is leaving behind.
            warnings.filterwarnings(
                "ignore", r"`is_gradient_checkpointing` is deprecated", FutureWarning
            )
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
        if data_bars:
            datasets.enable_progress_bars()
        for logger, its in zip(others, before, strict=True):
            logger.setLevel(its)


class ByTrl(ABC):
    """A stage whose steps are made by TRL.

    Args:
        given: Of the stage.
        start: The model that it begins with.
        rates: Peak rate and the rest.
        warmup: Share of the updates over which the rate rises; then it falls to zero linearly.
        batch: Rows of an update.
        n_updates: Updates that there will be.
        lora: Train low-rank changes only.
    """

    n_steps = 1
    eval_every = None

    def __init__(
        self,
        given: Given,
        start: Checkpoint,
        rates: Rates,
        warmup: float,
        batch: int,
        n_updates: int,
        lora: Lora | None = None,
    ):
        self.given, self.start, self.rates, self.lora = given, start, rates, lora
        self.batch, self.n_updates, self.updates_within = batch, n_updates, n_updates
        self.schedule = WSD(warmup=warmup, cooldown=1 - warmup)
        self.folder = given.out / FOLDER
        self.look_every = max(1, n_updates // 4)
        self.is_trained = self.is_stopped = self.is_diverged = False
        self.course: list[list[float]] = []
        """What is kept of TRL's log, a row a step."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """Our network, which takes the weights that TRL has trained."""

    @abstractmethod
    def _made(self) -> "Trainer":
        """TRL's trainer, made by `_trainer`."""

    @abstractmethod
    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The trained weights under the names that they have in `module`."""

    @abstractmethod
    def _said(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """What TRL logs at a step, in the journal's words."""

    @abstractmethod
    def _course(self, state: "TrainerState") -> list[list[float]]:
        """What is kept of TRL's log, once all is done."""

    @abstractmethod
    def _n_tokens(self, step: int, logs: Mapping[str, float]) -> int:
        """Tokens that went through the model up to a step."""

    @abstractmethod
    def _cost(self, state: "TrainerState") -> Step:
        """Tokens and FLOPs of all that was done."""

    @abstractmethod
    def evaluate(self) -> Step:
        """Numbers on held-out prompts, with the weights that `module` has."""

    @abstractmethod
    def _record(self, out: Path) -> Finished:
        """Write what the stage leaves, and report what it came to."""

    def trainer(self) -> "Trainer":
        """TRL's trainer, ready to begin."""
        from transformers import PrinterCallback

        with quiet():
            trainer = self._made()
        trainer.remove_callback(PrinterCallback)
        return trainer

    def step(self, k: int) -> Step:
        """Make all steps that are left. Raises Stopped."""
        del k
        trainer = self.trainer()
        place, passed_over = newest(self.folder, self.given.out.name)
        for reason in passed_over:
            self.given.journal("checkpoint_passed_over", reason=reason)
        if place is not None:
            self.given.journal("resume", step=_step_of(place))
        try:
            with quiet(), writing(self.folder):
                trainer.train(resume_from_checkpoint=None if place is None else str(place))
        except pickle.UnpicklingError as error:
            raise RunError(
                f"transformers refuses to load the checkpoint: {str(error).splitlines()[0]}",
                where=str(place),
                fix="delete the checkpoint and run the same command again: the stage goes on from "
                "the one before it, or begins again",
            ) from error
        cost = self._cost(trainer.state)
        if self.is_diverged:
            self.given.guard()
            shutil.rmtree(self.folder)
            return replace(cost, numbers={"loss": math.nan})
        if trainer.state.global_step < self.n_updates:
            assert self.is_stopped
            raise Stopped
        self.take(trainer.model)
        self.course = self._course(trainer.state)
        self.is_trained = True
        return cost

    def take(self, model: "PreTrainedModel") -> None:
        """Put the weights that TRL has trained into `module`."""
        self._put(self._named(whole_weights(model)))

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        mine = dict(self.module.named_parameters())
        assert mine.keys() == weights.keys()
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights; until there are, all is in TRL's checkpoints."""
        if not self.is_trained:
            return {}
        course = torch.tensor(self.course, dtype=torch.float64)
        return dict(self.module.named_parameters()) | {COURSE: course}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See Work."""
        self.is_trained = bool(tensors)
        if self.is_trained:
            self.course = tensors[COURSE].tolist()
            self._put({name: tensor for name, tensor in tensors.items() if name != COURSE})

    def finish(self, out: Path) -> Finished:
        """Write what the stage leaves, and let go of TRL's checkpoints."""
        import transformers
        import trl

        assert self.is_trained
        finished = self._record(out)
        shutil.rmtree(self.folder, ignore_errors=True)
        versions = {"trl": trl.__version__, "transformers": transformers.__version__}
        return replace(finished, versions=versions)

    # What the stages build a trainer from.

    def exported(self) -> Path:
        """The model that it begins with, as transformers reads it."""
        place = self.folder / "start"
        export_checkpoint(self.start, place)
        return place

    def tokenizer(self, place: Path) -> "PreTrainedTokenizerBase":
        """The tokenizer of an exported model. TRL asks it for the tokens of padding and end."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(place)

    def _trainer(
        self,
        name: str,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        rows: Sequence[Mapping[str, Any]],
        order: Sequence[int],
        settings: Mapping[str, Any],
        **more: Any,
    ) -> "Trainer":
        """A trainer of TRL.

        Args:
            name: Its class's name before "Trainer" and "Config".
            model: What it trains.
            tokenizer: Of the model.
            rows: What it is given, as tokens.
            order: Places of the rows, one update's behind another's.
            settings: Of the config, beside those that all share.
            more: Of the trainer.
        """
        import trl
        from datasets import Dataset

        base, config = getattr(trl, f"{name}Trainer"), getattr(trl, f"{name}Config")
        if self.lora is not None:
            more["peft_config"] = low_rank(self.lora)
        shared = {
            "output_dir": str(self.folder),
            "max_steps": self.n_updates,
            "per_device_train_batch_size": self.batch,
            "max_grad_norm": self.rates.spec().max_norm() or 0.0,
            "seed": self.given.seed % 2**32,
            "train_sampling_strategy": "sequential",
            "logging_steps": max(1, self.n_updates // POINTS),
            "logging_nan_inf_filter": False,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "save_total_limit": checkpoint.KEEP,
            "use_cpu": find_device().kind == "cpu",
            "bf16": False,
            # The older name is TRL's default; alone it is deprecated where the newer one is known.
            **{name: False for name in CHECKPOINTING if name in config.__dataclass_fields__},
            "dataloader_pin_memory": False,
        }
        taken = type(base.__name__, (TakenAsGiven, base), {"work": self})
        return taken(
            model=model,
            args=config(**shared | dict(settings)),
            train_dataset=Dataset.from_list([dict(row) for row in rows]).select(order),
            processing_class=tokenizer,
            callbacks=[telling(self)],
            **more,
        )


class TakenAsGiven:
    """Before a trainer of TRL: rows and rates are ours, nothing is sent or written for others."""

    work: ByTrl

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Rows are tokens already, and all of them fit."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Rows bring what the reference says of them."""
        return dataset

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict]:
        """Prompts are tokens already."""
        return prompts, None, {}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Ours, with the weights called matrices that have more dimensions than one."""
        if self.optimizer is None:
            named = (model or self.model).named_parameters()
            trained = {name: p for name, p in named if p.requires_grad}
            kinds = {n: "matrix" if p.dim() > 1 else "vector" for n, p in trained.items()}
            self.optimizer = PerWeight(trained, kinds, self.work.rates.spec())
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Our warmup and fall. It is asked once more after the last step."""
        if self.lr_scheduler is None:
            last = num_training_steps - 1
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda k: self.work.schedule.factor(min(k, last), num_training_steps),
            )
        return self.lr_scheduler

    def _send_telemetry(self) -> None:
        """Nobody is told."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """A checkpoint on the way needs no card."""


def telling(work: ByTrl) -> Any:
    """A callback: the journal hears, held-out prompts are asked, and a stop is obeyed."""
    from transformers import TrainerCallback

    class Telling(TrainerCallback):
        def __init__(self) -> None:
            self.saved = self.asked = time.monotonic()
            self.wait = checkpoint.seconds_until_next(0)

        def on_log(self, args, state, control, logs=None, **_) -> None:
            if "train_runtime" in logs:  # the summary behind the last step
                return
            numbers = work._said(logs)
            if not math.isfinite(numbers.get("loss", 0.0)):
                work.is_diverged = control.should_training_stop = True
            numbers = {k: v for k, v in numbers.items() if math.isfinite(v)}
            n_tokens = work._n_tokens(state.global_step, logs)
            work.given.journal("step", step=state.global_step, n_tokens=n_tokens, **numbers)

        def on_step_end(self, args, state, control, model=None, **_) -> None:
            step = state.global_step
            if step % work.look_every == 0:
                work.take(model)
                # What looks on the way cost is not summed: the loop sees only the last one.
                work.given.journal("eval", step=step, **work.evaluate().numbers)
            self.asked = time.monotonic()
            stopping = work.given.stop()
            if stopping or self.asked - self.saved > self.wait:
                work.given.guard()
                control.should_save = True
            if stopping:
                work.is_stopped = control.should_training_stop = True

        def on_save(self, args, state, control, **_) -> None:
            place = work.folder / f"checkpoint-{state.global_step}"
            seal_checkpoint(place, work.given.out.name)
            self.saved = time.monotonic()
            self.wait = checkpoint.seconds_until_next(self.saved - self.asked)
            work.given.journal("checkpoint", step=state.global_step)

    return Telling()


def said(logs: Mapping[str, Any], names: Mapping[str, tuple[str, float]]) -> dict[str, float]:
    """The numbers of a log of TRL; what it logs as unknown is left out.

    Args:
        logs: Of a step.
        names: What TRL logs -> what we call it, and the factor that makes it the same.
    """
    found = {}
    for name, value in logs.items():
        if name not in PASSED_OVER and isinstance(value, int | float):
            ours, factor = names.get(name, (name, 1.0))
            found[ours] = value * factor
    return found


@dataclass(frozen=True)
class CheckpointSeal:
    """What stands in sealed.json of a checkpoint of TRL."""

    stage: str
    """Name of the stage's directory."""
    step: int
    files: dict[str, str]
    """SHA-256 of every other file, by its path within the checkpoint."""


SEAL = Format("seal of a TRL checkpoint", CheckpointSeal, schema=1)
SEALED = "sealed.json"


def seal_checkpoint(place: Path, stage: str) -> None:
    """Write down what a complete checkpoint of TRL consists of, once it is on the disk.

    Args:
        place: The checkpoint's directory.
        stage: Name of the stage's directory.
    """
    digests = {str(path.relative_to(place)): synced_digest(path) for path in _files_in(place)}
    SEAL.write(place / SEALED, CheckpointSeal(stage, _step_of(place), digests))


def newest(folder: Path, stage: str) -> tuple[Path | None, list[str]]:
    """TRL's newest checkpoint that holds, and why newer ones were passed over.

    sealed.json is what is written last: without it a save was killed.

    Args:
        folder: Of all checkpoints.
        stage: Name of the stage's directory.
    """
    places = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    passed_over = []
    for place in sorted(places, key=_step_of, reverse=True):
        try:
            _check(place, stage)
        except Damaged as damage:
            passed_over.append(f"{place.name}: {damage}")
            continue
        return place, passed_over
    return None, passed_over


def _check(place: Path, stage: str) -> None:
    """Refuse a checkpoint of which anything is not as it was saved. Raises Damaged."""
    try:
        seal = SEAL.read(place / SEALED)
    except FileNotFoundError:
        raise Damaged("it carries no seal: its save was not completed") from None
    except RunError as error:
        raise Damaged(error.problem) from None
    if (seal.stage, seal.step) != (stage, _step_of(place)):
        raise Damaged(f"it is that of stage {seal.stage} at step {seal.step}")
    if any(path.is_symlink() for path in (place, *place.rglob("*"))):
        raise Damaged("a symbolic link stands in it")
    there = {str(path.relative_to(place)) for path in _files_in(place)}
    if added := sorted(there - set(seal.files)):
        raise Damaged(f"{added[0]} was not saved with it")
    for name, digest in seal.files.items():
        check_file(place / name, digest)


def _files_in(place: Path) -> list[Path]:
    return [path for path in sorted(place.rglob("*")) if path.is_file() and path.name != SEALED]


def _step_of(place: Path) -> int:
    return int(place.name.rpartition("-")[2])


def low_rank(lora: Lora) -> Any:
    """Our low-rank changes in the words of peft. It changes q, k and v each by its own."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip


def whole_weights(model: "PreTrainedModel") -> dict[str, Tensor]:
    """A model's weights under transformers' names, low-rank changes put into them."""
    if not hasattr(model, "peft_config"):
        return model.state_dict()
    whole = model.get_base_model()
    changes = {
        name: layer.get_delta_weight("default")
        for name, layer in whole.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    weights = {}
    with torch.no_grad():
        for name, weight in whole.state_dict().items():
            layer = name.removesuffix(".base_layer.weight")
            if layer in changes:
                weights[f"{layer}.weight"] = weight + changes[layer]
            elif ".lora_" not in name:
                weights[name] = weight
    return weights

"""The part shared by all stages with TRL: its trainer between our data and our weights.

    our model -> checkpoint for transformers -> TRL's trainer -> our weights by name

TRL provides the losses and makes the steps. The batches, their tokens, the optimizer and its schedule
are those of our own loop, so that the two backends can be compared. Rows are passed as tokens: from
text, TRL would parse a message that contains a chat marker as the marker itself.

All steps of TRL are one step of our loop. TRL's checkpoints (weights, optimizer, schedule, random
state, log) are in trl/ of the stage's directory, and a stopped or killed stage resumes from the newest
valid one. The directory is deleted when the stage finishes.

    trl/checkpoint-12/...            written by transformers
    trl/checkpoint-12/sealed.json    written by us afterwards: the SHA-256 of every file

A checkpoint is verified before transformers reads it: no file is missing, altered or added.
transformers reads its pickles (optimizer.pt, scheduler.pt, rng_state.pth) with weights_only=True,
which runs no code; training_args.bin is written and never read.

Source: TRL 1.16 and transformers 5.23, as installed; names of arguments change between versions.
Not here: the stages (offline.py, online.py), the mapping of weight names (model/huggingface.py).
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

from scalelab.errors import ConfigError, LaunchError, RunError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.export import export_checkpoint
from scalelab.files import NoAnswer, files_in, matching, writing
from scalelab.hardware.device import find_device
from scalelab.posttrain.base import FinishedStage, OptimizerSetting, StageContext, StepResult, StopRequested
from scalelab.posttrain.loop import POINTS
from scalelab.posttrain.networks import Lora
from scalelab.sealed import Damaged, Format, check_file, synced_digest
from scalelab.train.checkpoints import unsharded
from scalelab.train.optimizers.per_weight import PerWeightOptimizer
from scalelab.train.schedule import WSD

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerState

INSTALL = "pip install -e '.[post]'"
FOLDER = "trl"
"""Directory of TRL's checkpoints, in the stage's directory."""
CURVE = "course"
"""Name of the training curve in our checkpoint."""
IGNORED_LOGS = {"epoch", "num_tokens", "step_time"}
"""Entries of TRL's logs that the journal has under another name."""
CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
"""Names of the setting that recomputes activations, in transformers from 5.23 and before."""
IGNORE_INDEX = -100
"""Label of a token without a loss."""


def require_trl(stage: str, *more: str) -> None:
    """Import TRL's requirements and the packages `more`. Raises LaunchError: one is missing."""
    for name in ("accelerate", "datasets", "transformers", "trl", *more):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise LaunchError(
                f"the package {name} cannot be imported: {error}",
                where=f"stage {stage}, which uses TRL",
                fix=f"{INSTALL}, or use a stage that does not need TRL: backend: own, or kind: ppo",
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence log lines and progress bars of TRL and transformers; errors are still raised."""
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
            # TRL 1.16 reads an attribute that transformers 5.23 deprecates.
            warnings.filterwarnings("ignore", r"`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
        if data_bars:
            datasets.enable_progress_bars()
        for logger, its in zip(others, before, strict=True):
            logger.setLevel(its)


class TrlJob(ABC):
    """A stage whose steps are made by TRL.

    Args:
        context: Context of the stage.
        start: Start model.
        rates: Optimizer settings, with the peak learning rate.
        warmup: Share of the updates over which the rate rises; it then falls to zero linearly.
        batch: Rows per update.
        n_updates: Total number of updates.
        lora: Train low-rank updates only; None: all weights.

    Raises:
        ConfigError: The weights of this architecture cannot be taken back from transformers.
    """

    n_steps = 1
    eval_every = None

    def __init__(
        self,
        context: StageContext,
        start: Checkpoint,
        rates: OptimizerSetting,
        warmup: float,
        batch: int,
        n_updates: int,
        lora: Lora | None = None,
    ):
        if not start.config.hugging_face().is_named_so_when_loaded:
            raise ConfigError(
                f"TRL cannot train this model: the architecture {start.config.kind!r} has other weights once "
                "transformers has loaded it, which cannot be taken back",
                where=f"stage {context.stage.name}, which uses TRL",
                fix="use a stage that does not need TRL (backend: own, or kind: ppo), or start from a dense model",
            )
        self.context, self.start, self.rates, self.lora = context, start, rates, lora
        self.batch, self.n_updates, self.updates_within = batch, n_updates, n_updates
        self.schedule = WSD(warmup=warmup, cooldown=1 - warmup)
        self.folder = context.out / FOLDER
        self.eval_interval = max(1, n_updates // 4)
        self.is_trained = self.is_stopped = self.is_diverged = False
        self.curve: list[list[float]] = []
        """Training curve from TRL's log, one row per step."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """Our network, which receives the weights that TRL has trained."""

    @abstractmethod
    def _make_trainer(self) -> "Trainer":
        """Return TRL's trainer, created with `_trainer`."""

    @abstractmethod
    def _named(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the trained weights under their names in `module`."""

    @abstractmethod
    def _journal_numbers(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Return TRL's log of a step under the journal's names."""

    @abstractmethod
    def _curve(self, state: "TrainerState") -> list[list[float]]:
        """Return the training curve from TRL's complete log."""

    @abstractmethod
    def _n_tokens(self, step: int, logs: Mapping[str, float]) -> int:
        """Return the number of tokens processed up to a step."""

    @abstractmethod
    def _cost(self, state: "TrainerState") -> StepResult:
        """Return tokens and FLOPs of all steps."""

    @abstractmethod
    def evaluate(self) -> StepResult:
        """Return metrics on held-out prompts with the weights of `module`."""

    @abstractmethod
    def _record(self, out: Path) -> FinishedStage:
        """Write the output files and return the outcome."""

    def trainer(self) -> "Trainer":
        """Return TRL's trainer, ready to train."""
        from transformers import PrinterCallback

        with quiet():
            trainer = self._make_trainer()
        trainer.remove_callback(PrinterCallback)
        return trainer

    def step(self, k: int) -> StepResult:
        """Make all remaining steps. Raises StopRequested."""
        del k
        trainer = self.trainer()
        place, skipped = newest_checkpoint(self.folder, self.context.out.name)
        for reason in skipped:
            self.context.journal("checkpoint_passed_over", reason=reason)
        if place is not None:
            self.context.journal("resume", step=_step_of(place))
        try:
            with quiet(), writing(self.folder):
                trainer.train(resume_from_checkpoint=None if place is None else str(place))
        except pickle.UnpicklingError as error:
            raise RunError(
                f"transformers refuses to load the checkpoint: {str(error).splitlines()[0]}",
                where=str(place),
                fix="delete the checkpoint and run the same command again; the stage resumes from the "
                "previous one, or starts again",
            ) from error
        cost = self._cost(trainer.state)
        if self.is_diverged:
            self.context.guard()
            shutil.rmtree(self.folder)
            return replace(cost, numbers={"loss": math.nan})
        if trainer.state.global_step < self.n_updates:
            assert self.is_stopped
            raise StopRequested
        self.load_weights(trainer.model)
        self.curve = self._curve(trainer.state)
        self.is_trained = True
        return cost

    def load_weights(self, model: "PreTrainedModel") -> None:
        """Load the weights that TRL has trained into `module`."""
        self._put(self._named(merged_state_dict(model)))

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        mine = dict(self.module.named_parameters())
        assert mine.keys() == weights.keys()
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """Return the trained weights; before the end the state is in TRL's checkpoints."""
        if not self.is_trained:
            return {}
        curve = torch.tensor(self.curve, dtype=torch.float64)
        return dict(self.module.named_parameters()) | {CURVE: curve}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See StageJob."""
        self.is_trained = bool(tensors)
        if self.is_trained:
            self.curve = tensors[CURVE].tolist()
            self._put({name: tensor for name, tensor in tensors.items() if name != CURVE})

    def finish(self, out: Path) -> FinishedStage:
        """Write the output files and delete TRL's checkpoints."""
        import transformers
        import trl

        assert self.is_trained
        finished = self._record(out)
        shutil.rmtree(self.folder, ignore_errors=True)
        versions = {"trl": trl.__version__, "transformers": transformers.__version__}
        return replace(finished, versions=versions)

    # Parts of a trainer, for the stages.

    def export_start(self) -> Path:
        """Export the start model for transformers and return the directory."""
        place = self.folder / "start"
        export_checkpoint(self.start, place)
        return place

    def tokenizer(self, place: Path) -> "PreTrainedTokenizerBase":
        """Return the tokenizer of an exported model, from which TRL takes the padding and end tokens."""
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
        """Return a trainer of TRL.

        Args:
            name: Name of its class without "Trainer"; that of its config without "Config".
            model: Model to train.
            tokenizer: Tokenizer of the model.
            rows: Training rows, as tokens.
            order: Indices of the rows, update after update.
            settings: Settings of the config in addition to the shared ones.
            more: Further arguments of the trainer.
        """
        import trl
        from datasets import Dataset

        base, config = getattr(trl, f"{name}Trainer"), getattr(trl, f"{name}Config")
        device = find_device()
        if self.lora is not None:
            more["peft_config"] = peft_config_of(self.lora)
        shared = {
            "output_dir": str(self.folder),
            "max_steps": self.n_updates,
            "per_device_train_batch_size": self.batch,
            "max_grad_norm": self.rates.spec().max_norm() or 0.0,
            "seed": self.context.seed % 2**32,
            "train_sampling_strategy": "sequential",
            "logging_steps": max(1, self.n_updates // POINTS),
            "logging_nan_inf_filter": False,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "save_total_limit": unsharded.KEEP,
            "use_cpu": device.kind == "cpu",
            "bf16": device.trl_precision == "bf16",
            # TRL sets the older name by default, which is deprecated where the newer one exists.
            **{name: False for name in CHECKPOINTING if name in config.__dataclass_fields__},
            "dataloader_pin_memory": False,
        }
        trainer = type(base.__name__, (TrainerOverrides, base), {"job": self})
        return trainer(
            model=model,
            args=config(**shared | dict(settings)),
            train_dataset=Dataset.from_list([dict(row) for row in rows]).select(order),
            processing_class=tokenizer,
            callbacks=[journal_callback(self)],
            **more,
        )


class TrainerOverrides:
    """Overrides of a TRL trainer: our rows, optimizer and schedule; no telemetry, no model card."""

    job: TrlJob

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Return the rows as they are: they are tokens and fit the context."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Return the rows as they are: they contain the reference log-probabilities."""
        return dataset

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict]:
        """Return the prompts as they are: they are tokens."""
        return prompts, None, {}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return our optimizer; weights with more than one dimension are matrices."""
        if self.optimizer is None:
            named = (model or self.model).named_parameters()
            trained = {name: p for name, p in named if p.requires_grad}
            kinds = {n: "matrix" if p.dim() > 1 else "vector" for n, p in trained.items()}
            self.optimizer = PerWeightOptimizer(trained, kinds, self.job.rates.spec())
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return our schedule. It is evaluated once more after the last step."""
        if self.lr_scheduler is None:
            last = num_training_steps - 1
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda k: self.job.schedule.factor(min(k, last), num_training_steps),
            )
        return self.lr_scheduler

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write nothing."""


def journal_callback(job: TrlJob) -> Any:
    """Return a callback that writes the journal, evaluates, saves and stops on request."""
    from transformers import TrainerCallback

    class _JournalCallback(TrainerCallback):
        def __init__(self) -> None:
            self.saved = self.checked = time.monotonic()
            self.wait = unsharded.seconds_until_next(0)

        def on_log(self, args, state, control, logs=None, **_) -> None:
            if "train_runtime" in logs:  # the summary after the last step
                return
            numbers = job._journal_numbers(logs)
            if not math.isfinite(numbers.get("loss", 0.0)):
                job.is_diverged = control.should_training_stop = True
            numbers = {k: v for k, v in numbers.items() if math.isfinite(v)}
            n_tokens = job._n_tokens(state.global_step, logs)
            job.context.journal("step", step=state.global_step, n_tokens=n_tokens, **numbers)

        def on_step_end(self, args, state, control, model=None, **_) -> None:
            step = state.global_step
            if step % job.eval_interval == 0:
                job.load_weights(model)
                # The cost of these evaluations is not summed: the loop sees only the last one.
                job.context.journal("eval", step=step, **job.evaluate().numbers)
            self.checked = time.monotonic()
            stopping = job.context.stop()
            if stopping or self.checked - self.saved > self.wait:
                job.context.guard()
                control.should_save = True
            if stopping:
                job.is_stopped = control.should_training_stop = True

        def on_save(self, args, state, control, **_) -> None:
            place = job.folder / f"checkpoint-{state.global_step}"
            seal_checkpoint(place, job.context.out.name)
            self.saved = time.monotonic()
            self.wait = unsharded.seconds_until_next(self.saved - self.checked)
            job.context.journal("checkpoint", step=state.global_step)

    return _JournalCallback()


def journal_numbers(logs: Mapping[str, Any], names: Mapping[str, tuple[str, float]]) -> dict[str, float]:
    """Return the numbers of a log of TRL under our names, without unknown ones.

    Args:
        logs: Log of a step.
        names: TRL's name -> our name, and the factor that converts the value.
    """
    found = {}
    for name, value in logs.items():
        if name not in IGNORED_LOGS and isinstance(value, int | float):
            ours, factor = names.get(name, (name, 1.0))
            found[ours] = value * factor
    return found


@dataclass(frozen=True)
class CheckpointSeal:
    """Content of sealed.json in a checkpoint of TRL."""

    stage: str
    """Name of the stage's directory."""
    step: int
    """Number of updates made."""
    files: dict[str, str]
    """SHA-256 of every other file, by its path within the checkpoint."""


SEAL = Format("seal of a TRL checkpoint", CheckpointSeal, schema=1)
SEALED = "sealed.json"


def seal_checkpoint(place: Path, stage: str) -> None:
    """Write the seal of a complete checkpoint of TRL, after its files are on disk.

    Args:
        place: Directory of the checkpoint.
        stage: Name of the stage's directory.
    """
    digests = {str(path.relative_to(place)): synced_digest(path) for path in _files_in(place)}
    SEAL.write(place / SEALED, CheckpointSeal(stage, _step_of(place), digests))


def newest_checkpoint(folder: Path, stage: str) -> tuple[Path | None, list[str]]:
    """Return TRL's newest valid checkpoint, and why newer ones were skipped.

    sealed.json is written last: a checkpoint without it was not saved completely.

    Args:
        folder: Directory of all checkpoints.
        stage: Name of the stage's directory.
    """
    places = [path for path in matching(folder, "checkpoint-*") if path.name[11:].isdecimal()]
    skipped = []
    for place in sorted(places, key=_step_of, reverse=True):
        try:
            _check(place, stage)
        except Damaged as damage:
            skipped.append(f"{place.name}: {damage}")
            continue
        return place, skipped
    return None, skipped


def _check(place: Path, stage: str) -> None:
    """Verify that a checkpoint is as it was saved. Raises Damaged or NoAnswer."""
    try:
        seal = SEAL.read(place / SEALED)
    except FileNotFoundError:
        raise Damaged("it has no seal: the save was not completed") from None
    except NoAnswer:
        raise
    except RunError as error:
        raise Damaged(error.problem) from None
    if (seal.stage, seal.step) != (stage, _step_of(place)):
        raise Damaged(f"it belongs to stage {seal.stage} at step {seal.step}")
    if any(path.is_symlink() for path in (place, *place.rglob("*"))):
        raise Damaged("it contains a symbolic link")
    present = {str(path.relative_to(place)) for path in _files_in(place)}
    if added := sorted(present - set(seal.files)):
        raise Damaged(f"{added[0]} is not part of it")
    for name, digest in seal.files.items():
        check_file(place / name, digest)


def _files_in(place: Path) -> list[Path]:
    return [path for path in files_in(place) if path.name != SEALED]


def _step_of(place: Path) -> int:
    return int(place.name.rpartition("-")[2])


def peft_config_of(lora: Lora) -> Any:
    """Return the peft config for low-rank updates. peft adapts q, k and v separately."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def merged_state_dict(model: "PreTrainedModel") -> dict[str, Tensor]:
    """Return a model's weights under transformers' names, with low-rank updates merged in."""
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

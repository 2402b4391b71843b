"""Conformance suite of post-training stages, for members of STAGES from any package.

    base = tiny_base(folder / "base")
    check_stage({"kind": "mine", "name": "mine", "start": "base"}, base=base, root=folder / "runs")

The stage runs twice, once without a stop and once stopped after every step, on a model so small that
this takes seconds on a CPU. A failed check is an AssertionError that states the violation.

Not here: the interface of a stage (posttrain/base.py).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scalelab.data.base import TokenizerConfig
from scalelab.data.tokenizer import train
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import ANSWER_PAIRS, MODEL, REWARD
from scalelab.evals.reward_model import RewardModel
from scalelab.model.transformer.config import Transformer
from scalelab.posttrain import STAGES
from scalelab.posttrain.add_chat_tokens import with_chat_tokens
from scalelab.posttrain.base import Stage
from scalelab.posttrain.display import StageDisplay
from scalelab.posttrain.networks import merged_weights, write_model
from scalelab.posttrain.pipeline import PosttrainFile, StagePlan, plan_stages, write_manifest
from scalelab.posttrain.stages.preferences import PAIRS, read_pairs
from scalelab.posttrain.worker import run_claimed_stage
from scalelab.records.stage_manifest import StageResult

NAME = "conformance"
TIMED = "seconds"
"""Part of the names of timing metrics, which differ between runs."""


def tiny_base(folder: Path, corpus: str | None = None, seq_len: int = 128) -> Path:
    """Write an untrained base model with some thousand weights and a byte tokenizer.

    Args:
        folder: Directory to write to.
        corpus: Digest recorded as that of its training corpus; None: not recorded.
        seq_len: Context length in tokens.

    Returns: The folder.
    """
    config = Transformer(
        n_layers=1, d_model=16, n_heads=2, n_kv_heads=2, head_size=8, d_ff=32, vocab_size=257
    )
    network = config.network()
    network.reset(0)
    with torch.no_grad():  # a head of zeros gives every token the same probability
        network.head.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train(TokenizerConfig(kind="bytes"), iter(()))
    like = Checkpoint(folder, config, network, tokenizer, seq_len, "", corpus)
    write_model(folder, like, {n: p.detach().clone() for n, p in network.named_parameters()})
    return folder


def tiny_assistant(folder: Path, corpus: str | None = None, seed: int = 0) -> Path:
    """Write a model like that of tiny_base with chat tokens; return its folder."""
    model = with_chat_tokens(Checkpoint.load(tiny_base(folder, corpus)), seed)
    write_model(folder, model, merged_weights(model.network))
    return folder


def planned_stages(
    stages: Sequence[Mapping[str, Any]], *, base: Path, root: Path, data: Any = "skills", seed: int = 0
) -> list[StagePlan]:
    """Plan stages as a post-training file does, and write the manifest and specs below `root`.

    Args:
        stages: Settings of the stages, as in a post-training file.
        base: Directory of the base model.
        root: Directory of all runs.
        data: Source of conversations.
        seed: Seed of the post-training.
    """
    file = PosttrainFile.model_validate(
        {"name": NAME, "base": "given", "data": data, "stages": list(stages), "seed": seed, "grades": None}
    )
    planned = plan_stages(file, base, root)
    write_manifest(file, planned, {}, root)
    return planned


def run_planned(planned: StagePlan, stop: Callable[[], bool] = lambda: False) -> StageResult | None:
    """Run a stage in this process and return its result; None if it was stopped."""
    run_claimed_stage(planned.dir, stop)
    return planned.dir.result()


def check_stage(
    stage: Mapping[str, Any],
    before: Sequence[Mapping[str, Any]] = (),
    *,
    base: Path,
    root: Path,
    data: Any = "skills",
) -> StageResult:
    """Check the contract of a stage.

    Args:
        stage: Settings of the stage, as in a post-training file.
        before: Stages that it needs; those that are finished below `root` are not repeated.
        base: Directory of a base model, such as tiny_base writes.
        root: Directory of all runs.
        data: Source of conversations.

    Returns: The result of the stage.

    Raises:
        AssertionError: The stage violates its contract.
    """
    *earlier, tested = planned_stages([*before, stage], base=base, root=root, data=data)
    check_config(tested.spec.stage)
    for one in earlier:
        assert run_planned(one).status == "finished", f"{one.name} did not finish"
    result = run_planned(tested)
    assert result is not None, "the stage has no result although it was not stopped"
    assert result.status == "finished", f"it ended as {result.status}: {result.reason}"
    check_result(tested, result)

    tested.dir.path.rename(root / f"{tested.dir.path.name}-in-one-go")
    *_, again = planned_stages([*before, stage], base=base, root=root, data=data)
    assert again.id == tested.id, "the same settings gave another id the second time"
    second = None
    for _ in range(10_000):
        second = run_planned(again, stop=lambda: True)
        if second is not None:
            break
    assert second is not None, "the stage does not finish if it is stopped after every step"
    assert second.n_resumes > 0, "it did not resume from a checkpoint"
    for what in ("files", "flops", "n_tokens", "tables", "memory_bytes"):
        one, other = (getattr(each, what) for each in (result, second))
        assert one == other, f"{what} differ if the stage is stopped and resumed: {one} and {other}"
    assert _untimed(result) == _untimed(second), "metrics differ if the stage is stopped and resumed"
    return second


def check_config(stage: Stage) -> None:
    """Check what a stage declares before it runs. Raises AssertionError."""
    kind = type(stage)
    assert STAGES[stage.kind] is kind, f"{stage.kind!r} is registered as another class"
    assert kind.model_validate(stage.model_dump()) == stage, "its settings do not survive YAML"
    names = {one.name for one in stage.inputs()}
    assert names == {*stage.needs(), *stage.files()}, "an input is neither a stage nor a path"
    for name in (stage.baseline(), stage.graded_model()):
        assert name is None or name in stage.needs(), f"it names {name!r}, which is not an input"
    rows, passes = stage.max_rows()
    assert rows is None or rows >= 0, f"{rows} rows"
    assert passes >= 0, f"{passes} passes"
    assert stage.expand()[-1].name == stage.name, "a series ends with the stage's own name"


def check_result(planned: StagePlan, result: StageResult) -> None:
    """Check the output and the display of a finished stage. Raises AssertionError."""
    stage, path = planned.spec.stage, planned.dir.path
    assert (result.stage, result.kind, result.id) == (stage.name, stage.kind, planned.id)
    assert json.loads(json.dumps(result.tables)) == result.tables, "tables are not JSON"
    for name, value in {**result.metrics, **result.flops_by, "flops": result.flops}.items():
        assert value is None or math.isfinite(value), f"{name} is {value}"
    planned.dir.check_outputs()
    if stage.output_kind == MODEL:
        assert Checkpoint.load(path).chat is not None, "the model that it writes cannot answer prompts"
    elif stage.output_kind == REWARD:
        assert RewardModel.load(path).seq_len > 0
    elif stage.output_kind == ANSWER_PAIRS:
        assert read_pairs(path / PAIRS), "it writes no pair"
    assert stage.output_kind is None or result.files, "it declares an output and writes no file"
    display = stage.display(result)
    assert isinstance(display, StageDisplay)
    assert all(math.isfinite(value) for value in display.headline.values())
    for table in display.tables:
        assert all(row.keys() == table.rows[0].keys() for row in table.rows), table.title
    for line in (line for plot in display.plots for line in plot.lines):
        lengths = {len(line.x), len(line.y), *([] if line.error is None else [len(line.error)])}
        assert len(lengths) == 1, f"the line {line.name!r} has columns of lengths {lengths}"


def _untimed(result: StageResult) -> dict[str, Any]:
    return {name: value for name, value in result.metrics.items() if TIMED not in name}

"""Does a stage of post-training keep its contract? For members of STAGES, of any package.

    base = tiny_base(folder / "base")
    check_stage({"kind": "mine", "name": "mine", "start": "base"}, base=base, root=folder / "runs")

The stage is done twice, once in one go and once stopped after every step, on a model so small that
this takes seconds on a CPU. Every check is an AssertionError that says what does not hold.

Not here: what a stage is (posttrain/base.py).
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
from scalelab.posttrain.base import Stage
from scalelab.posttrain.display import Display
from scalelab.posttrain.flow import Planned, PosttrainFile, plan, write_down
from scalelab.posttrain.networks import merged, write_model
from scalelab.posttrain.preferences import PAIRS, read_rows
from scalelab.posttrain.starting import conversing
from scalelab.posttrain.worker import outcome_of
from scalelab.track.stages import StageResult

NAME = "conformance"
TIMED = "seconds"
"""In the names of metrics that a clock gives, which differ from one time to the next."""


def tiny_base(folder: Path, corpus: str | None = None, seq_len: int = 128) -> Path:
    """Write a base model: untrained, of some thousand weights, reading bytes.

    Args:
        folder: Receives it.
        corpus: Digest of the corpus that it is said to be trained on; None: not recorded.
        seq_len: Its context, in tokens.

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
    """Write a model as tiny_base does that answers, though nonsense. Returns the folder."""
    model = conversing(Checkpoint.load(tiny_base(folder, corpus)), seed)
    write_model(folder, model, merged(model.network))
    return folder


def planned_stages(
    stages: Sequence[Mapping[str, Any]],
    *,
    base: Path,
    root: Path,
    data: Any = "skills",
    seed: int = 0,
) -> list[Planned]:
    """Stages as a post-training file gives them, each with its place below `root`, written down."""
    file = PosttrainFile.model_validate(
        {"name": NAME, "base": "given", "data": data, "stages": list(stages), "seed": seed,
         "grades": None}
    )  # fmt: skip
    planned = plan(file, base, root)
    write_down(file, planned, {}, root)
    return planned


def done(planned: Planned, stop: Callable[[], bool] = lambda: False) -> StageResult | None:
    """Do a stage in this process; None where it was stopped."""
    outcome_of(planned.dir, stop)
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
        stage: Its settings, as a post-training file gives them.
        before: Stages that it needs; those that are done below `root` are not done again.
        base: A base model, such as tiny_base writes.
        root: Of all runs.
        data: The source of conversations.

    Returns: What the stage came to.

    Raises:
        AssertionError: Something of the contract does not hold.
    """
    *earlier, asked = planned_stages([*before, stage], base=base, root=root, data=data)
    check_config(asked.spec.stage)
    for one in earlier:
        assert done(one).status == "finished", f"{one.name} did not finish"
    result = done(asked)
    assert result is not None, "a stage that is not stopped comes to a result"
    assert result.status == "finished", f"it {result.status}: {result.reason}"
    check_result(asked, result)

    asked.dir.path.rename(root / f"{asked.dir.path.name}-in-one-go")
    *_, again = planned_stages([*before, stage], base=base, root=root, data=data)
    assert again.id == asked.id, "the same settings have another id the second time"
    second = None
    for _ in range(10_000):
        second = done(again, stop=lambda: True)
        if second is not None:
            break
    assert second is not None, "a stage that is stopped after every step never ends"
    assert second.n_resumes > 0, "it did not go on from a checkpoint"
    for what in ("files", "flops", "n_tokens", "tables", "memory_bytes"):
        one, other = (getattr(each, what) for each in (result, second))
        assert one == other, f"{what} differ where the stage was stopped: {one} and {other}"
    assert _untimed(result) == _untimed(second), "metrics differ where the stage was stopped"
    return second


def check_config(stage: Stage) -> None:
    """Check what a stage says of itself before it is done. Raises AssertionError."""
    kind = type(stage)
    assert STAGES[stage.kind] is kind, f"{stage.kind!r} is registered as another class"
    assert kind.model_validate(stage.model_dump()) == stage, "its settings do not survive YAML"
    names = {one.name for one in stage.inputs()}
    assert names == {*stage.needs(), *stage.files()}, "an input is neither a stage nor a path"
    for said in (stage.baseline(), stage.grade_of()):
        assert said is None or said in stage.needs(), f"it speaks of {said!r}, which it needs not"
    rows, passes = stage.most_rows()
    assert rows is None or rows >= 0, f"{rows} rows"
    assert passes >= 0, f"{passes} passes"
    assert stage.expand()[-1].name == stage.name, "a series ends with the stage's own name"


def check_result(planned: Planned, result: StageResult) -> None:
    """Check what a finished stage left and shows. Raises AssertionError."""
    stage, path = planned.spec.stage, planned.dir.path
    assert (result.stage, result.kind, result.id) == (stage.name, stage.kind, planned.id)
    assert json.loads(json.dumps(result.tables)) == result.tables, "tables are not JSON"
    for name, value in {**result.metrics, **result.flops_by, "flops": result.flops}.items():
        assert value is None or math.isfinite(value), f"{name} is {value}"
    planned.dir.check_outputs()
    if stage.leaves == MODEL:
        assert Checkpoint.load(path).chat is not None, "the model that it leaves cannot answer"
    elif stage.leaves == REWARD:
        assert RewardModel.load(path).seq_len > 0
    elif stage.leaves == ANSWER_PAIRS:
        assert read_rows(path / PAIRS), "it leaves no pair"
    assert stage.leaves is None or result.files, "it leaves no file, and says that it does"
    shown = stage.display(result)
    assert isinstance(shown, Display)
    assert all(math.isfinite(value) for value in shown.headline.values())
    for table in shown.tables:
        assert all(row.keys() == table.rows[0].keys() for row in table.rows), table.title
    for line in (line for plot in shown.plots for line in plot.lines):
        lengths = {len(line.x), len(line.y), *([] if line.error is None else [len(line.error)])}
        assert len(lengths) == 1, f"the line {line.name!r} has columns of lengths {lengths}"


def _untimed(result: StageResult) -> dict[str, Any]:
    return {name: value for name, value in result.metrics.items() if TIMED not in name}

"""Run ids cover what differs from the defaults; runs from before are found under their old ids."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from scalelab.config import Config, Count, changed, digest_without, parse_yaml
from scalelab.errors import RunError
from scalelab.train.optimizers.adamw import AdamW
from scalelab.train.run_directory import RunDir
from scalelab.train.schedule import WSD
from scalelab.train.spec import EvalSpec, RunSpec

OLD = Path(__file__).parents[1] / "fixtures" / "unsealed" / "sweeps"


class Inner(Config):
    kind: Literal["inner"] = "inner"
    depth: Count = 2


class Outer(Config):
    size: Count
    inner: Inner = Inner()
    extra: float | None = None


class Later(Outer):
    """Outer with fields that came later."""

    added: Count = Field(7, json_schema_extra={"since": 2})
    inner: "LaterInner" = Field(default_factory=lambda: LaterInner())


class LaterInner(Inner):
    more: float | None = Field(None, json_schema_extra={"since": 2})


class Plugged(Config):
    inner: Any


class Bare(Config):
    size: Count


class Named(Bare):
    """Bare, once there are other kinds beside it."""

    kind: Literal["named"] = Field("named", json_schema_extra={"since": 2})


Later.model_rebuild()


def test_what_equals_a_default_is_not_covered_and_the_kind_always_is():
    assert changed(Outer(size=3)) == {"size": 3}
    assert changed(Outer(size=3, inner=Inner(depth=4))) == {"size": 3, "inner": {"kind": "inner", "depth": 4}}
    assert changed(Outer(size=3, extra=0.5)) == {"size": 3, "extra": 0.5}


def test_a_field_that_is_added_changes_no_id():
    assert changed(Later(size=3)) == changed(Outer(size=3))
    assert changed(Later(size=3, added=8)) == {"size": 3, "added": 8}
    assert changed(Named(size=3)) == changed(Bare(size=3))


def test_an_old_digest_is_that_of_the_fields_there_were():
    assert digest_without(Later(size=3), after=1) == Outer(size=3).digest
    assert digest_without(Later(size=3, inner=LaterInner(depth=5)), after=1) == (
        Outer(size=3, inner=Inner(depth=5)).digest
    )
    assert Later(size=3).digest != Outer(size=3).digest
    assert digest_without(Plugged(inner=LaterInner()), after=1) == Plugged(inner=Inner()).digest


def test_a_later_field_that_is_set_has_no_old_digest():
    """Nothing from before can be meant, and two that differ in it alone differ."""
    digests = {digest_without(Later(size=3, added=n), after=1) for n in (7, 8, 9)}

    assert len(digests) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"n_steps": 61},
        {"schedule": "cosine"},
        {"precision": "bf16"},
        {"data_digest": "0123456789ab"},
        {"evaluation": {"tokens": 2048}},
    ],
)
def test_whatever_decides_a_run_changes_its_id(tiny_spec, change):
    assert tiny_spec(**change).id != tiny_spec().id


def test_an_id_is_the_same_on_every_machine_and_day(tiny_spec):
    """Raise spec.ID_SCHEMA, and this id with it, where a default or the formula has to change."""
    spec = RunSpec.parse(parse_yaml((OLD / "smoke" / "6930f60c79db" / "spec.yaml").read_text(), "x"))

    said = SMOKE.replace("\n", "").encode()
    assert spec.ids == (hashlib.sha256(said).hexdigest()[:12], "6930f60c79db")


SMOKE = """{"run":{"batch_tokens":512,"data":{"source":{"kind":"pycode","tests":false},
"tokenizer":{"kind":"bytes"}},"data_digest":"d55ed3abe531",
"evaluation":{"curve_points":2,"curve_tokens":8192,"tokens":32768},
"model":{"d_ff":32,"d_model":8,"head_size":8,"kind":"transformer","n_heads":1,"n_kv_heads":1,
"n_layers":1,"vocab_size":257},"n_steps":952,
"optimizer":{"lr_embedding":0.042426406871192854,"lr_head":0.025455844122715714,
"lr_matrix":0.016970562748477143,"lr_vector":0.002121320343559643},
"schedule":{"cooldown":0.9,"kind":"wsd"},"seq_len":128},"schema":2}"""


def test_defaults_are_what_they_were_when_ids_left_them_out():
    """An id says nothing of a field at its default. A changed default gives old ids a new meaning:
    raise spec.ID_SCHEMA with it.
    """
    assert EvalSpec().model_dump() == {"tokens": 524288, "curve_points": 8, "curve_tokens": 65536}
    assert WSD().model_dump() == {
        "kind": "wsd",
        "warmup": 0.1,
        "cooldown": 0.2,
        "shape": "linear",
        "trunk": False,
        "warmup_steps": None,
    }
    rates = dict.fromkeys(("lr_matrix", "lr_embedding", "lr_head", "lr_vector"), 1.0)
    assert AdamW(**rates).model_dump() == rates | {
        "kind": "adamw",
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "weight_decay": 0.1,
        "grad_clip": 1.0,
        "own_groups": (),
        "weight_decay_matrix": None,
        "eps_blocks": None,
    }


@pytest.fixture
def old(tmp_path):
    """A directory of runs from before, and the spec of one that is done there."""
    shutil.copytree(OLD, tmp_path / "runs")
    run_dir = RunDir(tmp_path / "runs" / "smoke" / "6930f60c79db")
    return tmp_path / "runs", run_dir.spec()


def test_every_result_and_journal_from_before_is_read(old):
    root, _ = old
    runs = [RunDir(path.parent) for path in root.glob("smoke*/*/result.json")]
    losses = [run_dir.result().loss for run_dir in runs]

    assert len(runs) == 10
    assert all(1 < loss < 5 for loss in losses)
    assert all({"start", "step", "end"} <= {e["event"] for e in r.events()} for r in runs)
    assert all(run_dir.spec().ids[1] == run_dir.run for run_dir in runs)


def test_a_result_of_another_run_is_refused(old):
    root, _ = old
    one, other = (RunDir(path.parent) for path in sorted(root.glob("smoke/*/result.json"))[:2])
    shutil.copy(one.result_path, other.result_path)

    with pytest.raises(RunError, match=f"that of run {one.run}, not of {other.run}"):
        other.result()


def test_checkpoints_of_a_run_from_before_are_gone_on_from(old):
    """A meta.json without schema and seal, as it was written then."""
    import json

    import torch
    from safetensors.torch import save_file

    from scalelab.train.checkpoints import unsharded

    root, _ = old
    folder = root / "smoke" / "6930f60c79db" / "checkpoints"
    place_ = folder / "step-00000007"
    place_.mkdir(parents=True)
    record = {"spec": "6930f60c79db", **vars(unsharded.Progress(step=7))}
    (place_ / "meta.json").write_text(json.dumps(record))
    save_file({"a": torch.ones(3)}, place_ / "state.safetensors")

    progress, tensors, passed_over = unsharded.newest(folder, "6930f60c79db")
    assert (progress.step, passed_over) == (7, [])
    assert tensors["a"].tolist() == [1.0, 1.0, 1.0]

"""A sweep on tokenizers and tokens of another project, through the real command line."""

import json

import numpy as np
import observe
import pytest
from in_process import in_process
from token_writing import byte_level, write_huggingface, write_megatron

SWEEP = """
name: own
question: Does a sweep take these tokens?
prediction: It trains on them.
recipe:
  data:
    source: SOURCE
    TOKENIZER
    validation: 0.3
    epochs: 1000
  seq_len: 16
  param_count: matmul
  model: {kind: transformer, n_layers: 1, head_size: 8, ff_multiple: 8}
  optimizer: {lr: 3e-3}
  batch: {coefficient: 64, exponent: 0, min_tokens: 64, max_tokens: 64}
  min_steps: 2
  evaluation: {tokens: 256, curve_points: 0, curve_tokens: 64}
  precision: fp32
design: {kind: single, n_params: 5000, n_tokens: 256}
launch: {executor: inline}
"""


@pytest.fixture
def world(tmp_path):
    world = observe.World(tmp_path / "world", tmp_path / "cache")
    world.forget_mlflow()
    rng = np.random.default_rng(0)
    text = "".join(f"the other {n} thinks of this\n" for n in rng.integers(0, 10**6, 200))
    (world.path / "text.txt").write_text(text)
    return world


def rows():
    return [np.append(np.random.default_rng(i).integers(0, 49, 25), 49) for i in range(60)]


def source(world, kind):
    """The source and the tokenizer line of a kind; its files are written."""
    text = "{kind: text, paths: [text.txt], document: line}"
    if kind == "file":
        byte_level().save(str(world.path / "tokenizer.json"))
        return text, 'tokenizer: {kind: file, path: tokenizer.json, end: "<|stop|>"}'
    if kind == "huggingface":
        write_huggingface(world.path / "published")
        return text, "tokenizer: {kind: huggingface, path: published}"
    if kind == "megatron":
        write_megatron(world.path / "pair", [[row] for row in rows()])
        return "{kind: tokens, paths: [pair.idx], vocab: 50}", ""
    if kind == "npy":
        np.save(world.path / "rows.npy", np.concatenate(rows()).astype(np.uint16))
        return "{kind: tokens, paths: [rows.npy], vocab: 50, end: 49}", ""
    np.concatenate(rows()).astype(kind).tofile(world.path / "rows.bin")
    return f"{{kind: tokens, paths: [rows.bin], vocab: 50, end: 49, dtype: {kind}}}", ""


@pytest.mark.parametrize("kind", ["file", "huggingface", "uint16", "uint32", "npy", "megatron"])
def test_a_sweep_runs_end_to_end(kind, world):
    where, tokenizer = source(world, kind)
    (world.path / "own.yaml").write_text(SWEEP.replace("SOURCE", where).replace("TOKENIZER", tokenizer))

    done = in_process(world, "sweep", "own.yaml")
    described = in_process(world, "data", "own.yaml")

    assert done.returncode == 0, done.stderr
    (path,) = (world.runs / "own").glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["status"] == "finished"
    is_text = kind in ("file", "huggingface")
    assert abs(result["loss"] - np.log(259 if is_text else 50)) < 1.5
    assert (result["bpb"] is not None) == is_text
    assert result["tokenizer"] in described.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("vocab: 50", "vocab: 49"), "is token 49, and the vocabulary has 49 tokens"),
        (("uint16", "uint32"), "and the vocabulary has 50 tokens"),
        ((", end: 49", ""), "do not say where documents end"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(change, said, world):
    where, _ = source(world, "uint16")
    (world.path / "own.yaml").write_text(
        SWEEP.replace("SOURCE", where.replace(*change)).replace("TOKENIZER", "")
    )

    done = in_process(world, "sweep", "own.yaml")

    assert done.returncode == 2
    assert said in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(world.runs.glob("own/*/result.json"))


def test_tokenizers_are_compared_on_one_text(world):
    where, tokenizer = source(world, "file")
    text = SWEEP.replace("SOURCE", where)
    (world.path / "own.yaml").write_text(text.replace("TOKENIZER", tokenizer))
    (world.path / "bytes.yaml").write_text(text.replace("TOKENIZER", "tokenizer: bytes"))

    trained = in_process(world, "sweep", "own.yaml")
    done = in_process(world, "tokenizer-report", "own.yaml", "bytes.yaml", "--json", "found.json")

    assert (trained.returncode, done.returncode) == (0, 0), done.stderr
    assert "Perplexity per token cannot be compared between tokenizers" in done.stdout
    found = json.loads((world.path / "found.json").read_text())
    own, plain = (found["tokenizers"][name]["total"] for name in ("own", "bytes"))
    assert own["n_bytes"] == plain["n_bytes"]
    assert own["bytes_per_token"] > plain["bytes_per_token"]
    assert plain["n_tokens"] == plain["n_bytes"] + 200
    (result,) = [json.loads(path.read_text()) for path in (world.runs / "own").glob("*/result.json")]
    assert {*found["trained"]} == {"own"}  # the other file has the name of the same sweep, and other data
    assert found["trained"]["own"]["bpb"] == result["bpb"]
    page = (world.path / "reports/own-tokenizers/README.md").read_text()
    assert "1 9 8 4" in page
    assert json.loads((world.path / "reports/own-tokenizers/tokenizers.json").read_text()) == found


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["own.yaml"], "the source tokens has tokens and no tokenizer"),
        (["gone.yaml"], "cannot read gone.yaml"),
        (["text.txt"], "text.txt"),
    ],
)
def test_what_has_no_tokenizer_is_refused(argv, said, world):
    where, _ = source(world, "npy")
    (world.path / "own.yaml").write_text(SWEEP.replace("SOURCE", where).replace("TOKENIZER", ""))

    done = in_process(world, "tokenizer-report", *argv)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr

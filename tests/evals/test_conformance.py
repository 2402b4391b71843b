"""Every registered judge and every registered measurement keeps its contract."""

import importlib.util
import json

import pytest

from scalelab.evals import CONVERSATIONS, JUDGES, MEASUREMENTS, TASKS
from scalelab.evals.conversations.skill_conversations import SkillConversations
from scalelab.evals.measurement import FinishedRun
from scalelab.testing.conversations import check_conversations
from scalelab.testing.judges import check_judge
from scalelab.testing.measurements import check_measurement
from scalelab.testing.stages import check_stage, tiny_assistant, tiny_base
from scalelab.testing.tasks import check_task

CHOICES = [
    {"question": f"{word} then", "choices": ["one", "two more"], "answer": i % 2}
    for i, word in enumerate(("the", "model", "reads", "a", "token", "then", "writes", "one"))
]
TASK = {"kind": "choice", "name": "choose", "rows": CHOICES}
FIELDS = {
    "perplexity": {"perplexity": [{"name": "held-out", "corpus": "validation", "max_documents": 4}]},
    "tasks": {"tasks": [TASK | {"modes": ["full", "letter"]}], "limit": 4},
    "pairwise": {
        "pairwise": {"baseline": "one", "data": "skills", "judge": "gold", "prompts": 6, "swapped": True}
    },
    "contamination": {
        "contamination": [
            {
                "name": "items",
                "rows": "ITEMS",
                "field": "text",
                "shards": 4,
                "permutations": 3,
                "control": [1],
                "n": 5,
            }
        ]
    },
    "prediction": {"tasks": [TASK], "prediction": [{"sweep": "made", "task": "choose"}]},
}
BY_LM_EVAL = ("tasks", "prediction")
REWARD = {
    "kind": "reward",
    "name": "judge",
    "start": "base",
    "pairs": "PAIRS",
    "batch": 8,
    "rates": {"lr": 1e-2},
}
SETTINGS = {
    "gold": {"flips": 0.3},
    "reward": {"model": "judge"},
    "model": {"model": "one", "ask": "{question} {a} {b}", "n_new": 2},
    "person": {"dollars_per_hour": 30.0},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_corpus):
    """Two models that answer."""
    return {
        name: tiny_assistant(tmp_path_factory.mktemp(name), tiny_corpus.digest, seed)
        for seed, name in enumerate(("one", "other"))
    }


@pytest.fixture(scope="module")
def paths(models, tmp_path_factory):
    """The models, and a reward model."""
    folder = tmp_path_factory.mktemp("judge")
    rows = [{"prompt": f"q{i:02}", "chosen": "yes", "rejected": "no!!"} for i in range(30)]
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = REWARD | {"pairs": str(pairs)}
    result = check_stage(stage, base=models["one"], root=folder)
    return models | {"judge": next(folder.glob(f"*/judge-{result.id}"))}


@pytest.mark.parametrize("kind", JUDGES)
def test_a_judge_keeps_its_contract(kind, paths, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(
        "scalelab.evals.preference.judges.person.read_person_verdict", lambda prompt, a, b: float(a > b)
    )

    judge = check_judge({"kind": kind} | SETTINGS[kind], SkillConversations(), paths)

    assert judge.kind == kind


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_keeps_its_contract(name, models, tmp_path):
    if name in BY_LM_EVAL and importlib.util.find_spec("lm_eval") is None:
        pytest.skip("the extra `eval` is not installed")
    items = tmp_path / "items.jsonl"
    items.write_text("".join(f'{{"text": "the model reads {i} tokens"}}\n' for i in range(16)))
    fields = json.loads(json.dumps(FIELDS[name]).replace("ITEMS", str(items)))
    runs = [FinishedRun(models["one"], 1e9 * 2**k, 1e3 * 2**k, 1e5 * 2**k) for k in range(9)]

    rows = check_measurement(name, fields, models=models, folder=tmp_path, runs={"made": runs})

    assert {row.kind for row in rows} <= {kind.name for kind in MEASUREMENTS[name].kinds}


def test_a_base_model_is_measured_too(tmp_path, tiny_corpus):
    base = tiny_base(tmp_path / "base", tiny_corpus.digest)

    rows = check_measurement("perplexity", FIELDS["perplexity"], models={"base": base}, folder=tmp_path)

    assert rows[0].values["bits_per_byte"] > 0


def recorded(folder, n=12):
    """JSON lines of questions and answers: one file to train on, one held out."""
    paths = []
    for name in ("train", "test"):
        rows = [{"prompt": f"{name} {i}?", "completion": f"yes {i}"} for i in range(n)]
        paths.append(folder / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path) for path in paths]


@pytest.mark.parametrize("kind", [*CONVERSATIONS])
def test_a_source_of_conversations_conforms(kind, tmp_path):
    train, test = recorded(tmp_path)
    settings = {
        "skills": {},
        "files": {"train": [train], "test": [test]},
        "hub": {"name": str(tmp_path), "test": "test"},
    }
    check_conversations({"kind": kind, **settings[kind]})


TASK_SETTINGS = {
    "choice": TASK | {"modes": ["full", "letter"]},
    "generation": {
        "kind": "generation",
        "name": "write",
        "rows": [{"prompt": row["question"], "answer": "one"} for row in CHOICES],
    },
    "known": {"kind": "known", "name": "piqa"},
}


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_keeps_its_contract(kind):
    pytest.importorskip("lm_eval")

    assert check_task(TASK_SETTINGS[kind]).kind == kind

"""lm-eval on our models: the same numbers as counted by hand, and as on transformers."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scalelab.data import chat as chats
from scalelab.data.base import TokenizerConfig
from scalelab.data.tokenizer import TextTokenizer, train
from scalelab.errors import ConfigError, DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.export import export_checkpoint
from scalelab.evals.tasks.benchmarks import BenchmarkTask
from scalelab.evals.tasks.harness import CustomTask, NamedTask, exported_model, our_model, run_tasks
from scalelab.evals.tasks.multiple_choice import ChoiceTask, GenerationTask, evaluate
from scalelab.model.transformer.config import Transformer

pytest.importorskip("datasets")
pytest.importorskip("lm_eval")

ROWS = tuple(
    {
        "question": f"the model {verb} what it {how}",
        "choices": ["before the token", "and forgets", "one more ünd more", "then"],
        "answer": i % 4,
    }
    for i, (verb, how) in enumerate(
        (v, h) for v in ("reads", "writes", "told") for h in ("was", "then writes", "forgets")
    )
)
TASK = ChoiceTask(name="verbs", rows=ROWS, modes=("full", "letter"))
WRITE = GenerationTask(
    name="writes",
    rows=({"prompt": "the model", "answer": "x"}, {"prompt": "what it was told", "answer": "y"}),
    n_new=8,
    stop=("ZZ",),
)


@pytest.fixture(scope="session")
def words(tiny_text):
    """A tokenizer of merges, so that boundaries can fall inside words."""
    texts = [path.read_text() for path in sorted(tiny_text.iterdir())]
    return train(TokenizerConfig(kind="bpe", vocab_size=300), iter(texts))


def checkpoint(path, tokenizer, *, seed=0, seq_len=96, **changes):
    """A model of random weights; the head of a fresh one is all zeros, and all equally likely."""
    config = Transformer(
        n_layers=2,
        d_model=32,
        n_heads=2,
        n_kv_heads=1,
        head_size=16,
        d_ff=64,
        vocab_size=tokenizer.vocab_size,
        **changes,
    )
    network = config.network()
    network.reset(seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.3, generator=draw)
    network.requires_grad_(False).eval()
    return Checkpoint(path, config, network, tokenizer, seq_len, digest=f"seed{seed}")


@pytest.fixture(scope="session")
def base(words, tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("base"), words)


@pytest.fixture(scope="session")
def talker(words, tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("talker"), chats.with_markers(words), qk_norm=True)


@pytest.fixture(scope="session")
def directories(base, talker, tmp_path_factory):
    """Both models as transformers reads them."""
    out = tmp_path_factory.mktemp("exported")
    for name, model in (("base", base), ("talker", talker)):
        export_checkpoint(model, out / name)
    return out


def use_cpu_kernels(model, before, answer):
    """Nats of an answer, read after tokens: the definition, one row at a time."""
    row = [*before, *answer]
    return model.logprobs([row])[0][len(before) - 1 :].sum()


def tokens(model, text):
    return model.tokenizer.encode([text])[0].tolist()


@pytest.mark.parametrize("mode", ["full", "letter"])
def test_a_likelihood_is_the_one_counted_by_hand(base, mode):
    (score,) = evaluate(base, [TASK.model_copy(update={"modes": (mode,)})])

    for i, row in enumerate(ROWS):
        prompt, answers = row["question"], row["choices"]
        if mode == "letter":
            options = "\n".join(f"{'ABCD'[j]}. {c}" for j, c in enumerate(answers))
            prompt, answers = f"{prompt}\n{options}\nAnswer:", list("ABCD")
        head = [base.tokenizer.end, *tokens(base, prompt)]
        for j, answer in enumerate(answers):
            whole = [base.tokenizer.end, *tokens(base, f"{prompt} {answer}")]
            assert whole[: len(head)] == head  # no merge crosses the boundary here
            expected = use_cpu_kernels(base, head, whole[len(head) :])
            assert score.logprobs[i][j] == pytest.approx(expected, abs=1e-5)
            assert score.n_tokens[i][j] == len(whole) - len(head)


def test_scores_are_those_of_lm_evals_own_front_door(base):
    """simple_evaluate, its examples and its metrics."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from scalelab.evals.tasks.harness import _to_lm_eval

    (own, _, _), (_, _, _) = TASK.own_tasks()
    results = run_tasks(base, [own], shots=2, seed=5)
    import datasets

    theirs = simple_evaluate(
        model=our_model(base),
        tasks=[_to_lm_eval(own, datasets)],
        num_fewshot=2,
        fewshot_random_seed=5,
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )

    for name in ("acc", "acc_norm", "acc_bytes"):
        assert results[0].metrics[name] == theirs["results"]["verbs.full"][f"{name},none"]
    for ours, sample in zip(results[0].samples, theirs["samples"]["verbs.full"], strict=True):
        assert ours.prompts == tuple(prompt for prompt, _ in sample["arguments"])
        assert ours.logprobs == tuple(nats for nats, _ in sample["filtered_resps"])


@pytest.mark.parametrize("prefix", ["end", "none"])
def test_what_is_read_before_the_text_is_a_choice_that_is_recorded(base, prefix):
    (score,) = evaluate(base, [TASK.model_copy(update={"modes": ("full",)})], prefix=prefix)

    head = [base.tokenizer.end] if prefix == "end" else []
    head += tokens(base, ROWS[0]["question"])
    expected = use_cpu_kernels(base, head, tokens(base, " then"))
    assert score.logprobs[0][3] == pytest.approx(expected, abs=1e-5)
    assert score.conditions.prefix == ("<|endoftext|>" if prefix == "end" else "none")


def test_an_empty_prompt_is_read_as_the_end_of_a_document(base):
    lm = our_model(base)

    ((nats, is_greedy),) = lm.loglikelihood([Asked(("", "the model"))], disable_tqdm=True)

    expected = use_cpu_kernels(base, [base.tokenizer.end], tokens(base, "the model"))
    assert nats == pytest.approx(expected, abs=1e-5)
    assert is_greedy is False


class Asked:
    """A request of lm-eval, without its task."""

    def __init__(self, args):
        self.args = args


def test_the_likeliest_answer_is_called_greedy(base):
    for row in ROWS:
        prompt = tokens(base, row["question"])
        (best,) = base.generate_tokens([[base.tokenizer.end, *prompt]], n_new=1)[0]
        answer = base.tokenizer.decode([best])
        if tokens(base, row["question"] + answer) == [*prompt, best]:
            break
    else:
        pytest.fail("no row's best token is a text of its own")

    asked = [Asked((row["question"], text)) for text in (answer, f"{answer} zzz", " zzz")]
    found = our_model(base).loglikelihood(asked, disable_tqdm=True)

    assert [is_greedy for _, is_greedy in found] == [True, False, False]


def test_spaces_at_the_end_of_a_prompt_belong_to_the_answer(base):
    lm = our_model(base)

    a, b = lm.loglikelihood([Asked(("the model", " reads")), Asked(("the model ", "reads"))], True)

    assert a == (pytest.approx(b[0], rel=1e-6), b[1])


def test_a_prompt_that_is_too_long_loses_its_left_and_says_so(base):
    question = ("one more " * 100).strip()
    long = ({"question": question, "choices": ["then", "and"], "answer": 0}, ROWS[0])
    (score,) = evaluate(base, [ChoiceTask(name="long", rows=long)])

    wholes = [[base.tokenizer.end, *tokens(base, f"{question} {c}")] for c in ("then", "and")]
    n_head, room = 1 + len(tokens(base, question)), base.seq_len + 1
    expected = [base.logprobs([w[-room:]])[0][n_head - len(w) :].sum() for w in wholes]
    assert score.logprobs[0] == pytest.approx(expected, abs=1e-5)
    assert score.conditions.n_truncated == 2
    assert score.conditions.n_tokens_cut == sum(len(w) - room for w in wholes)
    assert "requests that were longer than the context" in score.text


def test_an_answer_longer_than_the_context_is_refused(base):
    row = {"question": "the", "choices": ["model " * 200, "and"], "answer": 0}

    with pytest.raises(DataError, match="longer than the context of 96"):
        evaluate(base, [ChoiceTask(name="long", rows=(row,))])


def test_a_whole_text_is_the_sum_of_its_windows(base):
    text = "the model reads a token then writes " * 12
    all_of_it = tokens(base, text)
    assert len(all_of_it) % base.seq_len

    (nats,) = our_model(base).loglikelihood_rolling([Asked((text,))])

    expected, start = 0.0, 0
    while start < len(all_of_it):
        end = min(start + base.seq_len, len(all_of_it))
        before = all_of_it[max(0, end - base.seq_len - 1) : start] or [base.tokenizer.end]
        expected += use_cpu_kernels(base, before, all_of_it[start:end])
        start = end
    assert nats == pytest.approx(expected, abs=1e-4)


def test_what_is_written_is_what_the_model_goes_on_with(base):
    (score,) = evaluate(base, [WRITE])

    for row, written in zip(WRITE.rows, score.written, strict=True):
        prompt = [base.tokenizer.end, *tokens(base, row["prompt"])]
        expected = [t for t in base.generate_tokens([prompt], n_new=8)[0] if t != base.tokenizer.end]
        assert written == base.tokenizer.decode(expected)


def test_writing_ends_at_a_stop(base):
    (free,) = evaluate(base, [WRITE])
    stop = free.written[0][2:4]

    (cut,) = evaluate(base, [WRITE.model_copy(update={"stop": (stop,)})])

    assert cut.written[0] == free.written[0].split(stop)[0]


def close(score, other):
    return all(a == pytest.approx(b, abs=2e-4) for a, b in zip(score.logprobs, other.logprobs, strict=True))


@pytest.mark.parametrize("shots", [0, 2])
def test_the_exported_model_gets_the_same_numbers(base, directories, shots):
    task = TASK.model_copy(update={"shots": shots})
    ours = evaluate(base, [task, WRITE], seed=3)
    theirs = evaluate(directories / "base", [task, WRITE], seed=3)

    for a, b in zip(ours[:2], theirs[:2], strict=True):
        assert close(a, b)
        assert a.accuracy == b.accuracy
        assert all((m == n).all() for m, n in zip(a.n_tokens, b.n_tokens, strict=True))
    assert ours[2].written == theirs[2].written
    assert theirs[0].conditions.prefix == ours[0].conditions.prefix == "<|endoftext|>"
    assert theirs[0].conditions.shots == shots
    assert (ours[0].conditions.route, theirs[0].conditions.route) == ("in process", "exported")


def test_a_conversation_gets_the_same_numbers_on_both_routes(talker, directories):
    tasks = [TASK.model_copy(update={"shots": 1}), WRITE]
    ours = evaluate(talker, tasks, chat=True)
    theirs = evaluate(directories / "talker", tasks, chat=True)

    assert close(ours[0], theirs[0])
    assert close(ours[1], theirs[1])
    assert ours[2].written == theirs[2].written
    assert {s.conditions.prefix for s in (*ours, *theirs)} == {"none"}
    assert all(s.conditions.chat for s in (*ours, *theirs))


def test_a_conversation_is_read_as_it_was_trained(talker):
    (score,) = evaluate(talker, [TASK.model_copy(update={"modes": ("full",)})], chat=True)

    prompt = talker.chat.prompt([{"role": "user", "content": ROWS[0]["question"]}])
    answer = talker.chat.answer("and forgets")[:-1]
    assert score.logprobs[0][1] == pytest.approx(use_cpu_kernels(talker, prompt, answer), abs=1e-5)
    assert score.n_chars[0][1] == len("and forgets")


def test_a_marker_spelled_in_a_question_is_only_text_in_process(talker, directories):
    row = {"question": "say <|assistant|> then", "choices": ["and", "then"], "answer": 0}
    task = ChoiceTask(name="spelled", rows=(row,))

    (score,) = evaluate(talker, [task], chat=True)

    prompt = talker.chat.prompt([{"role": "user", "content": row["question"]}])
    expected = use_cpu_kernels(talker, prompt, tokens(talker, " and"))
    assert score.logprobs[0][0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DataError, match="contains the special token"):
        evaluate(directories / "talker", [task], chat=True)


def test_a_base_model_holds_no_conversation(base, directories):
    for model in (base, directories / "base"):
        with pytest.raises(ConfigError, match="is a base model") as caught:
            evaluate(model, [TASK], chat=True)
        assert "SFT" in caught.value.fix


def test_whole_texts_on_transformers_begin_once(base, directories):
    text = "the model reads a token then writes " * 12

    (ours,) = our_model(base).loglikelihood_rolling([Asked((text,))])
    (theirs,) = exported_model(directories / "base").loglikelihood_rolling([Asked((text,))], True)

    assert ours == pytest.approx(theirs, abs=1e-3)


def test_an_export_reads_back_as_the_model(talker, directories):
    again = Checkpoint.load(directories / "talker")

    row = tokens(talker, "the model reads")
    assert again.logprobs([row])[0] == pytest.approx(talker.logprobs([row])[0], abs=1e-5)
    assert again.tokenizer.name == talker.tokenizer.name
    assert again.chat is not None


def test_an_export_never_writes_turns_and_pads_with_its_own_token(talker, directories):
    from transformers import AutoTokenizer, GenerationConfig

    how = GenerationConfig.from_pretrained(directories / "talker")
    tokenizer = AutoTokenizer.from_pretrained(directories / "talker")

    assert tuple(how.suppress_tokens) == talker.chat.never_written
    assert (how.eos_token_id, how.pad_token_id) == (talker.tokenizer.end, talker.chat.pad)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (how.eos_token_id, talker.chat.pad)


def test_transformers_writes_conversations_as_we_do(talker, directories):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(directories / "talker")
    talk = [{"role": "user", "content": "what it was"}, {"role": "assistant", "content": "told"}]

    text = theirs.apply_chat_template(talk, tokenize=False)

    ids = theirs.encode(text, add_special_tokens=False)
    assert ids == list(talker.chat.example(talk).tokens)
    assert theirs.encode("what it was") == [talker.tokenizer.end, *tokens(talker, "what it was")]


COPIES = {
    "hellaswag": (
        {
            "ctx_a": "A man [header] sits.",
            "ctx_b": "he",
            "activity_label": "Sitting",
            "endings": ["[step] stands up.", "sings  a song.", "reads.", "forgets."],
            "label": "2",
        },
        "hellaswag/hellaswag.yaml",
    ),
    "piqa": ({"goal": "To read", "sol1": "open the book", "sol2": "close it", "label": 1}, "piqa/piqa.yaml"),
    "arc_easy": (
        {
            "question": "What reads?",
            "answerKey": "3",
            "choices": {"text": ["a stone", "a model", "a word"], "label": ["1", "2", "3"]},
        },
        "arc/arc_easy.yaml",
    ),
    "arc_challenge": (
        {
            "question": "What reads?",
            "answerKey": "B",
            "choices": {"text": ["a stone", "a model"], "label": ["A", "B"]},
        },
        "arc/arc_challenge.yaml",
    ),
    "mmlu": (
        {"question": " What reads? ", "choices": ["a", "b", "the model", "d"], "answer": 2},
        "mmlu/default/mmlu_world_religions.yaml",
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_asked_as_lm_eval_asks_the_original(base, name, tmp_path):
    """The prompts of lm-eval's own YAML over the same rows, and its right answers."""
    import lm_eval.tasks

    row, yaml = COPIES[name]
    rows = [row] * 3
    if name == "mmlu":  # whose examples are the first ones
        rows = [row | {"question": f"What reads {i}?"} for i in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    files = {"test": str(tmp_path / "rows.jsonl"), "shots": str(tmp_path / "rows.jsonl")}
    subject = "world_religions" if name == "mmlu" else None
    shots = 2 if name == "mmlu" else 0
    task = BenchmarkTask(name=name, subject=subject, data_files=files, shots=shots)
    theirs = tmp_path / "theirs.yaml"
    source = Path(lm_eval.tasks.__file__).parent / yaml
    splits = {s: files["test"] for s in ("train", "validation", "test", "dev")}
    theirs.write_text(
        f"include: {source}\ntask: theirs\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {json.dumps({'data_files': splits, 'cache_dir': str(tmp_path)})}\n"
    )

    (result,) = run_tasks(base, [task.own_tasks()[0][0]])
    loaded = lm_eval.tasks.TaskManager(include_path=None, include_defaults=False).load([str(theirs)])
    original = loaded["tasks"]["theirs"]
    original.set_config("num_fewshot", shots)
    original.set_fewshot_seed(0)
    original.build_all_requests()

    asked = [i.args for i in original.instances]
    ours = [(p, f" {a}") for s in result.samples for p, a in zip(s.prompts, s.answers, strict=True)]
    assert ours == asked
    assert result.samples[0].target == int(original.doc_to_target(next(iter(original.eval_docs))))


def test_a_copy_in_parquet_is_read(base, tmp_path):
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "piqa.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([COPIES["piqa"][0]] * 2), file)

    (score,) = evaluate(base, [BenchmarkTask(name="piqa", data_files={"test": str(file)})])

    assert (score.task, score.accuracy.n, score.chance) == ("piqa.copy", 2, 0.5)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("hellaswag", {"label": "7"}, "label is '7', which is none of 0, 1, 2, 3"),
        ("arc_easy", {"answerKey": "9"}, "answerKey is '9'"),
        ("arc_easy", {"choices": ["a", "b"]}, "without text and label"),
        ("piqa", {"sol1": 3}, "not a list of texts"),
        ("mmlu", {"answer": 4}, "answer is 4, which is none of 0, 1, 2, 3"),
        ("mmlu", {"question": None}, "question is None, not a text"),
    ],
)
def test_a_copy_with_other_columns_is_refused(name, change, says, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(COPIES[name][0]) + "\n" + json.dumps(COPIES[name][0] | change))
    task = BenchmarkTask(
        name=name, subject="anatomy" if name == "mmlu" else None, data_files={"test": str(file)}
    )

    with pytest.raises(DataError, match=says) as caught:
        task.own_tasks()

    assert caught.value.where == f"{file}:2"


def test_a_missing_parquet_file_is_refused(tmp_path):
    task = BenchmarkTask(name="piqa", data_files={"test": str(tmp_path / "none.parquet")})

    with pytest.raises(DataError, match=r"cannot read none\.parquet: No such file"):
        task.own_tasks()


def test_a_task_that_cannot_be_reached_says_which_files_to_give(base):
    with pytest.raises(DataError, match="the rows of piqa cannot be reached") as caught:
        run_tasks(base, [NamedTask("piqa")])

    assert "data_files: {test: FILE, shots: FILE}" in caught.value.fix
    assert len(str(caught.value).splitlines()) == 3


def test_an_unknown_name_is_refused_with_the_closest(base, monkeypatch):
    """Looked for in the folders of the best known, then in the whole index: here, one folder."""
    import lm_eval.tasks

    whole = lm_eval.tasks.TaskManager
    folder = Path(lm_eval.tasks.__file__).parent / "mmlu"
    asked = []

    def index(include_path=None, include_defaults=True):
        asked.append(include_defaults)
        return whole(include_path=folder, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", index)

    with pytest.raises(ConfigError, match="did you mean 'mmlu_anatomy'"):
        run_tasks(base, [NamedTask("mmlu_anatomi")])
    assert asked == [False, True]


def test_a_task_by_name_is_asked_with_its_own_shots(base, monkeypatch):
    """Piqa's own YAML with rows of ours in place of the hub's."""
    import datasets

    rows = [COPIES["piqa"][0] | {"goal": f"To read {i}"} for i in range(4)]
    made = dict.fromkeys(("train", "validation"), datasets.Dataset.from_list(rows))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)

    (score,) = evaluate(base, [BenchmarkTask(name="piqa", shots=2)])
    (result,) = run_tasks(base, [NamedTask("piqa", 2)])

    assert (score.task, score.conditions.shots, score.accuracy.n) == ("piqa", 2, 4)
    assert score.template == "Question: {goal}\nAnswer:"
    assert result.samples[0].prompts[0].count("Question: To read") == 3
    assert result.metrics["acc"] == score.accuracy.value
    assert result.metrics["acc_norm"] == score.accuracy_chars.value


def test_a_task_of_a_group_cannot_be_asked_for_twice(base, monkeypatch):
    import datasets

    rows = [COPIES["arc_easy"][0]] * 3
    made = dict.fromkeys(("train", "validation", "test"), datasets.Dataset.from_list(rows))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)

    both = run_tasks(base, [NamedTask("ai2_arc")])
    assert {r.task for r in both} == {"arc_easy", "arc_challenge"}
    assert {r.asked for r in both} == {"ai2_arc"}
    with pytest.raises(ConfigError, match="arc_easy is asked for as ai2_arc and as arc_easy"):
        run_tasks(base, [NamedTask("ai2_arc"), NamedTask("arc_easy")])


@pytest.mark.parametrize(
    ("settings", "says"), [({"limit": 0}, "limit is 0 rows"), ({"shots": -1}, "shots is -1")]
)
def test_numbers_that_make_no_sense_are_refused(base, settings, says):
    with pytest.raises(ConfigError, match=says):
        run_tasks(base, [TASK.own_tasks()[0][0]], **settings)


def test_no_task_and_one_task_twice_are_refused(base):
    own = TASK.own_tasks()[0][0]

    with pytest.raises(ConfigError, match="no task is named"):
        run_tasks(base, [])
    with pytest.raises(ConfigError, match="named twice: verbs"):
        run_tasks(base, [own, own])


@pytest.mark.parametrize("from_others", [True, False])
def test_more_examples_than_rows_are_refused(base, from_others):
    others = ROWS[:2] if from_others else None
    task = ChoiceTask(name="few", rows=ROWS[:3], shot_rows=others, shots=3)

    with pytest.raises(DataError, match="3 examples before each question, but there are only 2"):
        evaluate(base, [task])


def test_the_asked_row_is_never_its_own_example(base):
    (result,) = run_tasks(base, [TASK.own_tasks()[0][0]], shots=3)

    for sample in result.samples:
        *examples, asked = sample.prompts[0].split("\n\n")
        assert len(examples) == 3
        assert all(asked not in example for example in examples)
    assert result.conditions.shots == 3


def test_the_first_rows_alone_can_be_asked(base):
    (result,) = run_tasks(base, [TASK.own_tasks()[0][0]], limit=2)

    assert [s.row["prompt"] for s in result.samples] == [r["question"] for r in ROWS[:2]]
    assert result.conditions.limit == 2


def test_more_new_tokens_than_context_are_refused(base):
    with pytest.raises(DataError, match="96 new tokens leave no room"):
        evaluate(base, [WRITE.model_copy(update={"n_new": 96})])


def test_a_long_prompt_to_go_on_from_is_cut_and_counted(base):
    rows = ({"prompt": "one more " * 100, "answer": "x"},)
    (score,) = evaluate(base, [WRITE.model_copy(update={"rows": rows})])

    n_prompt = 1 + len(tokens(base, "one more " * 100))
    assert score.conditions.n_tokens_cut == n_prompt - (base.seq_len - 8)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no config.json"):
        exported_model(tmp_path)


def test_a_missing_extra_says_how_to_install_it(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)

    with pytest.raises(ConfigError, match="needs the package lm_eval") as caught:
        run_tasks(base, [TASK.own_tasks()[0][0]])

    assert "pip install -e '.[eval]'" in caught.value.fix


def test_nothing_is_printed(base, capfd):
    run_tasks(base, [TASK.own_tasks()[0][0]])

    assert capfd.readouterr() == ("", "")


def test_the_generator_of_the_process_is_left_alone(base):
    before = torch.random.get_rng_state()

    run_tasks(base, [TASK.own_tasks()[0][0]], shots=1)

    assert torch.equal(before, torch.random.get_rng_state())


def test_a_task_of_rolling_texts_is_measured(base):
    rows = [{"text": "the model reads a token"}, {"text": "what it was told"}]
    task = CustomTask(
        "texts",
        rows,
        None,
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
    )

    (result,) = run_tasks(base, [task])

    nats = [use_cpu_kernels(base, [base.tokenizer.end], tokens(base, r["text"])) for r in rows]
    expected = -sum(nats) / sum(len(r["text"]) for r in rows) / np.log(2)
    assert result.metrics["bits_per_byte"] == pytest.approx(expected, rel=1e-6)


def test_bytes_are_asked_like_merges(tmp_path):
    model = checkpoint(tmp_path, train(TokenizerConfig(kind="bytes"), iter(())))
    assert isinstance(model.tokenizer, TextTokenizer)
    export_checkpoint(model, tmp_path / "out")

    ours = evaluate(model, [TASK])
    theirs = evaluate(tmp_path / "out", [TASK])

    assert all(close(a, b) for a, b in zip(ours, theirs, strict=True))

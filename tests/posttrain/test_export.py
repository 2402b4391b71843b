"""What leaves the house after post-training says the same elsewhere."""

import pytest
import torch

from scalelab.cli.work.export import export
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.export import export_checkpoint

TALK = [{"role": "user", "content": "please reverse name file"}]


@pytest.fixture(scope="module")
def assistant(done, sft):
    return done(sft(min_steps=40))["sft"].dir.path


@pytest.fixture
def theirs(assistant, tmp_path):
    """The model and the tokenizer as transformers loads them."""
    transformers = pytest.importorskip("transformers")
    export(assistant, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    return model, transformers.AutoTokenizer.from_pretrained(tmp_path / "out")


def test_logits_are_ours_to_1e_5(assistant, theirs):
    ours, (model, _) = Checkpoint.load(assistant), theirs
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, ours.config.vocab_size, (3, 40), generator=generator)

    with torch.no_grad():
        gap = (ours.network(tokens) - model(tokens).logits).abs().max().item()

    assert gap < 1e-5


def test_conversations_are_the_same_tokens_and_the_same_answers(assistant, theirs):
    ours, (model, tokenizer) = Checkpoint.load(assistant), theirs
    prompt = ours.chat.prompt(TALK)

    asked = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    written = model.generate(torch.tensor([asked]), max_new_tokens=20, do_sample=False)

    assert asked == prompt
    assert written[0, len(prompt) :].tolist() == ours.generate_tokens([prompt], n_new=20)[0]


def test_it_comes_back_as_it_was(assistant, tmp_path):
    ours = Checkpoint.load(assistant)
    export_checkpoint(ours, tmp_path / "out")

    back = Checkpoint.load(tmp_path / "out")

    assert back.config == ours.config
    assert back.seq_len == ours.seq_len
    assert back.chat.prompt(TALK) == ours.chat.prompt(TALK)
    for name, weight in ours.network.state_dict().items():
        assert torch.equal(back.network.state_dict()[name], weight), name

"""A tiny base model, and stages done in this process, for every test of post-training."""

import pytest
import torch

WORDS = "name value list file"


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_corpus):
    """A base model's directory: untrained, of some thousand weights, speaking bytes."""
    from scalelab.evals.checkpoint import Checkpoint
    from scalelab.model.transformer.config import Transformer
    from scalelab.posttrain.networks import write_model

    config = Transformer(
        n_layers=1, d_model=16, n_heads=2, n_kv_heads=2, head_size=8, d_ff=32, vocab_size=257
    )
    network = config.network()
    network.reset(0)
    with torch.no_grad():  # a head of zeros says the same of every token
        network.head.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_corpus.load_tokenizer()
    like = Checkpoint(folder, config, network, tokenizer, 128, "", tiny_corpus.digest)
    write_model(folder, like, {n: p.detach().clone() for n, p in network.named_parameters()})
    return folder


@pytest.fixture(scope="session")
def done(base, tmp_path_factory):
    """A function that does stages in this process: their planned places by name."""

    def do(*stages, data="skills", stop=lambda: False, seed=0, root=None, base=base):
        from scalelab.posttrain.flow import PosttrainFile, plan, write_down
        from scalelab.posttrain.worker import outcome_of

        file = PosttrainFile.model_validate(
            {"name": "t", "base": "given", "data": data, "stages": list(stages), "seed": seed,
             "grades": None}
        )  # fmt: skip
        root = root or tmp_path_factory.mktemp("runs")
        planned = plan(file, base, root)
        write_down(file, planned, {}, root)
        for one in planned:
            outcome_of(one.dir, stop)
        return {one.name: one for one in planned}

    return do


@pytest.fixture(scope="session")
def sft():
    """A small SFT stage, with changes laid over."""

    def make(**changes):
        stage = {"kind": "sft", "name": "sft", "examples": 24, "batch": 8, "rates": {"lr": 1e-2}}
        return stage | changes

    return make

"""A tiny base model, and stages run in this process, for every test of post-training."""

import pytest

WORDS = "name value list file"


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_corpus):
    """Directory of an untrained base model with some thousand weights and a byte tokenizer."""
    from scalelab.testing.stages import tiny_base

    return tiny_base(tmp_path_factory.mktemp("base"), tiny_corpus.digest)


@pytest.fixture(scope="session")
def done(base, tmp_path_factory):
    """A function that runs stages in this process and returns their plans by name."""

    def do(*stages, data="skills", stop=lambda: False, seed=0, root=None, base=base):
        from scalelab.testing.stages import planned_stages, run_planned

        root = root or tmp_path_factory.mktemp("runs")
        planned = planned_stages(stages, base=base, root=root, data=data, seed=seed)
        for one in planned:
            run_planned(one, stop)
        return {one.name: one for one in planned}

    return do


@pytest.fixture(scope="session")
def sft():
    """A small SFT stage with some settings changed."""

    def make(**changes):
        stage = {"kind": "sft", "name": "sft", "examples": 24, "batch": 8, "rates": {"lr": 1e-2}}
        return stage | changes

    return make

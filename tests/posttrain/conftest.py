"""A tiny base model, and stages done in this process, for every test of post-training."""

import pytest

WORDS = "name value list file"


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_corpus):
    """A base model's directory: untrained, of some thousand weights, speaking bytes."""
    from scalelab.testing.stages import tiny_base

    return tiny_base(tmp_path_factory.mktemp("base"), tiny_corpus.digest)


@pytest.fixture(scope="session")
def done(base, tmp_path_factory):
    """A function that does stages in this process: their planned places by name."""

    def do(*stages, data="skills", stop=lambda: False, seed=0, root=None, base=base):
        from scalelab.testing.stages import done, planned_stages

        root = root or tmp_path_factory.mktemp("runs")
        planned = planned_stages(stages, base=base, root=root, data=data, seed=seed)
        for one in planned:
            done(one, stop)
        return {one.name: one for one in planned}

    return do


@pytest.fixture(scope="session")
def sft():
    """A small SFT stage, with changes laid over."""

    def make(**changes):
        stage = {"kind": "sft", "name": "sft", "examples": 24, "batch": 8, "rates": {"lr": 1e-2}}
        return stage | changes

    return make

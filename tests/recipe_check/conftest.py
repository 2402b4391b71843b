"""A recipe of tiny models on the synthetic language: a run of a check takes a fraction of a second."""

import pytest


@pytest.fixture(scope="session")
def tiny_recipe():
    """A function that makes the recipe, with changes of its optimizer laid over."""
    from scalelab.train.recipe import Recipe

    def make(param="mup", **optimizer):
        return Recipe.model_validate(
            {
                "data": {
                    "source": {"kind": "synthetic", "vocab": 64, "topics": 4, "documents": 600, "length": 65},
                    "validation": 0.1,
                    "epochs": 50,
                },
                "seq_len": 16,
                "model": {"kind": "transformer", "n_layers": 1, "head_size": 8},
                "optimizer": {"lr": 0.01, "width_ref": 16, "batch_ref": 32, "embedding_lr": 3, "head_lr": 3}
                | optimizer,
                "batch": {"kind": "constant", "value": 32},
                "schedule": {"kind": "wsd", "warmup": 0.1, "cooldown": 0.5},
                "evaluation": {"tokens": 512},
                "param": param,
            }
        )

    return make


@pytest.fixture(scope="session")
def synthetic_corpus(tiny_recipe, cache):
    """The corpus of that recipe, prepared."""
    from scalelab.data.corpus.shards import prepare

    return prepare(tiny_recipe().data)

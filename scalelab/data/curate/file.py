"""A curation file: where pages come from, and the stages that make training text of them.

    scalelab data debian.yaml

Not here: the stages (stages/), the work (pipeline.py).
"""

from collections import Counter
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from scalelab.config import Config, Count, Name, plugin
from scalelab.config_errors import ValueAtKey
from scalelab.data import TOKENIZERS
from scalelab.data.base import TokenizerConfig
from scalelab.data.curate import CURATION_STAGES, PAGE_SOURCES
from scalelab.data.curate.base import CurationStage


class CurationFile(Config):
    """Settings of a curation."""

    file_kind: ClassVar[str | None] = "curation"

    name: Name
    """Name of the result: its directory is curated/NAME."""
    question: str = ""
    """What the curation is for, in a sentence."""
    source: plugin(PAGE_SOURCES)
    stages: tuple[plugin(CURATION_STAGES), ...] = Field(min_length=1)
    """Stages in their order. The first is `extract`."""
    tokenizer: plugin(TOKENIZERS, default="bpe") = TokenizerConfig()
    """Tokenizer of the shards, and of the counts of tokens on the page."""
    shard_mb: Annotated[Count, Field(le=1024)] = 16
    """Stored size of the files that make one shard, MB. A shard is what one process works on at once."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        kinds = [stage.kind for stage in self.stages]
        if kinds[0] != "extract":
            raise ValueAtKey(
                f"the first stage is {kinds[0]!r}, and only `extract` reads pages",
                ("stages", 0, "kind"),
                "begin with `- extract`",
            )
        repeated = [kind for kind, n in Counter(kinds).items() if n > 1 and kind in {"extract", "holdout"}]
        if repeated:
            at = len(kinds) - 1 - kinds[::-1].index(repeated[0])
            raise ValueAtKey(
                f"the stage {repeated[0]!r} is there twice", ("stages", at, "kind"), "remove one of the two"
            )
        if "holdout" in kinds:
            at = kinds.index("holdout")
            for i, stage in enumerate(self.stages[:at]):
                if stage.kind == "mix":
                    raise ValueAtKey(
                        "mix repeats documents before holdout cuts some of them out: the repeats would stay",
                        ("stages", i, "kind"),
                        "put it behind `holdout`",
                    )
                if _learns(stage):
                    raise ValueAtKey(
                        f"{stage.kind} learns from all documents before holdout cuts some of them out: what it "
                        "learns would hold validation text",
                        ("stages", i, "kind"),
                        "put it behind `holdout`",
                    )
            if "decontaminate" not in kinds[at:]:
                raise ValueAtKey(
                    "near copies of held-out documents stay in the training text",
                    ("stages", at, "kind"),
                    "add `- decontaminate` behind it",
                )
        for i, kind in enumerate(kinds):
            if kind == "decontaminate" and "holdout" not in kinds[:i] and not self.stages[i].against:
                raise ValueAtKey(
                    "decontaminate has nothing to compare with",
                    ("stages", i, "kind"),
                    "cut hold-outs with a stage `holdout` before it, or name files in `against`",
                )
        return self


def _learns(stage: CurationStage) -> bool:
    """Return whether a stage fits a classifier to documents."""
    return stage.kind == "quality" or bool(getattr(stage, "classifier", getattr(stage, "classify", False)))

"""A curation file: where pages come from, and the stages that make training text of them.

    scalelab data debian.yaml

A file may extend another and leave stages out, for an ablation in three lines:

    extends: sweeps/data/debian.yaml
    name: debian_no_quality
    without: [quality]

Not here: the stages (stages/), the work (pipeline.py).
"""

from collections import Counter
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from scalelab.config import Count, Name, plugin
from scalelab.config_errors import ValueAtKey
from scalelab.data import TOKENIZERS
from scalelab.data.base import TokenizerConfig
from scalelab.data.curate import CURATION_STAGES, PAGE_SOURCES
from scalelab.data.curate.base import CurationStage
from scalelab.extendable import ExtendableConfig
from scalelab.registry import did_you_mean


class CurationFile(ExtendableConfig):
    """Settings of a curation."""

    file_kind: ClassVar[str | None] = "curation"

    name: Name
    """Name of the result: its directory is curated/NAME."""
    question: str = ""
    """What the curation is for, in a sentence."""
    source: plugin(PAGE_SOURCES)
    stages: tuple[plugin(CURATION_STAGES), ...] = Field(min_length=1)
    """Stages in their order. The first is `extract`."""
    without: tuple[str, ...] = ()
    """Kinds of stages that are left out."""
    tokenizer: plugin(TOKENIZERS, default="bpe") = TokenizerConfig()
    """Tokenizer of the shards, and of the counts of tokens on the page."""
    shard_mb: Annotated[Count, Field(le=1024)] = 16
    """Stored size of the files that make one shard, MB. A shard is what one process works on at once."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        there = [stage.kind for stage in self.stages]
        for n, kind in enumerate(self.without):
            if kind not in there:
                raise ValueAtKey(
                    f"there is no stage {kind!r} to leave out{did_you_mean(kind, there)}",
                    ("without", n),
                    f"name stages of this file: {', '.join(dict.fromkeys(there))}",
                )
        places = [i for i, kind in enumerate(there) if kind not in self.without]
        stages = self.used_stages
        kinds = [stage.kind for stage in stages]
        if not kinds or kinds[0] != "extract":
            raise ValueAtKey(
                f"the first stage is {kinds[0] if kinds else None!r}, and only `extract` reads pages",
                ("stages", places[0] if places else 0, "kind"),
                "begin with `- extract`",
            )
        repeated = [kind for kind, n in Counter(kinds).items() if n > 1 and kind in {"extract", "holdout"}]
        if repeated:
            at = len(kinds) - 1 - kinds[::-1].index(repeated[0])
            raise ValueAtKey(
                f"the stage {repeated[0]!r} is there twice",
                ("stages", places[at], "kind"),
                "remove one of the two",
            )
        if "holdout" in kinds:
            at = kinds.index("holdout")
            for i, stage in enumerate(stages[:at]):
                if stage.kind == "mix":
                    raise ValueAtKey(
                        "mix repeats documents before holdout cuts some of them out: the repeats would stay",
                        ("stages", places[i], "kind"),
                        "put it behind `holdout`",
                    )
                if _learns(stage):
                    raise ValueAtKey(
                        f"{stage.kind} learns from all documents before holdout cuts some of them out: what it "
                        "learns would hold validation text",
                        ("stages", places[i], "kind"),
                        "put it behind `holdout`",
                    )
            if "decontaminate" not in kinds[at:]:
                raise ValueAtKey(
                    "near copies of held-out documents stay in the training text",
                    ("stages", places[at], "kind"),
                    "add `- decontaminate` behind it",
                )
        for i, kind in enumerate(kinds):
            if kind == "decontaminate" and "holdout" not in kinds[:i] and not stages[i].against:
                raise ValueAtKey(
                    "decontaminate has nothing to compare with",
                    ("stages", places[i], "kind"),
                    "cut hold-outs with a stage `holdout` before it, or name files in `against`",
                )
        return self

    @property
    def used_stages(self) -> tuple[CurationStage, ...]:
        """Stages that are run: all but those that are left out."""
        return tuple(stage for stage in self.stages if stage.kind not in self.without)


def _learns(stage: CurationStage) -> bool:
    """Return whether a stage fits a classifier to documents."""
    return stage.kind == "quality" or bool(getattr(stage, "classifier", getattr(stage, "classify", False)))

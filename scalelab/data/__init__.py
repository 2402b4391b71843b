"""Data: from documents to batches of tokens, the same batches every time."""

from scalelab.registry import Registry

SOURCES = Registry(
    "source",
    {
        "pycode": "scalelab.data.pycode:PyCode",
        "text": "scalelab.data.text:Text",
        "hub": "scalelab.data.hub:Hub",
        "synthetic": "scalelab.data.synthetic:Synthetic",
        "skills": "scalelab.data.skills:Skills",
        "mix": "scalelab.data.mix:Mix",
    },
    group="scalelab.sources",
    base="scalelab.data.base:Source",
)

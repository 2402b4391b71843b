"""Data: from documents to batches of tokens, the same batches every time."""

from scalelab.registry import Registry

SOURCES = Registry(
    "source",
    {
        "pycode": "scalelab.data.sources.pycode:PyCode",
        "text": "scalelab.data.sources.text:TextFiles",
        "hub": "scalelab.data.sources.hub:HubDataset",
        "synthetic": "scalelab.data.sources.synthetic:Synthetic",
        "skills": "scalelab.data.sources.skills:Skills",
        "mix": "scalelab.data.sources.mix:Mix",
    },
    group="scalelab.sources",
    base="scalelab.data.base:DocumentSource",
)

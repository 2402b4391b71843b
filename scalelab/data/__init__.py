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
        "curated": "scalelab.data.sources.curated:Curated",
        "mix": "scalelab.data.sources.mix:Mix",
        "tokens": "scalelab.data.sources.tokens:TokenShards",
    },
    group="scalelab.sources",
    base="scalelab.data.base:DocumentSource",
)

TOKENIZERS = Registry(
    "tokenizer",
    {
        "bpe": "scalelab.data.base:TokenizerConfig",
        "bytes": "scalelab.data.base:TokenizerConfig",
        "file": "scalelab.data.tokenizers.file:TokenizerFile",
        "huggingface": "scalelab.data.tokenizers.huggingface:HuggingFaceDirectory",
    },
    group="scalelab.tokenizers",
    base="scalelab.data.base:TokenizerSettings",
)

"""Models: what a network of a given size is, what it costs, and how it is written out.

An architecture is a folder with the same file names for each:

    config       the description: dimensions, counts, costs, and the family of shapes; no torch
    network      the torch module
    sharding     how it is spread over processes              (optional)
    huggingface  how it is written as a Hugging Face checkpoint, and read      (optional)
    generate     how it goes on with a text without reading all of it again    (optional)

The description is what the registry holds; it names the other parts. A small architecture may be
one file.
"""

from scalelab.registry import Registry

ARCHITECTURES = Registry(
    "architecture",
    {
        "transformer": "scalelab.model.transformer.config:Transformer",
        "moe": "scalelab.model.moe.config:Moe",
        "lstm": "scalelab.model.lstm.config:Lstm",
    },
    group="scalelab.architectures",
    base="scalelab.model.base:Architecture",
)

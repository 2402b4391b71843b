"""Functions by name, "module:function": what crosses to another process without its module."""

from importlib import import_module
from typing import Any


def called(function: str, *arguments: Any) -> Any:
    """What a function of ours returns."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*arguments)

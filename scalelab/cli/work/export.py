"""`scalelab export`: a model as a Hugging Face checkpoint, for whoever loads those.

Any model of ours: a finished run, a stage of a post-training, or an exported checkpoint again.
Its tokenizer, and the template of conversations where it holds them, come along.
"""

import argparse
from pathlib import Path

from scalelab.data.corpus.shards import open_corpus
from scalelab.errors import ConfigError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.export import export_checkpoint
from scalelab.launch.single_run import export_token_model, refuse_unfinished
from scalelab.screen import echo
from scalelab.train.run_directory import RunDir


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint and return the exit status."""
    return export(args.model, args.out)


def export(path: Path, out: Path) -> int:
    """Write the model of a directory to `out`. Returns the exit code.

    Raises:
        ConfigError: Something is there already.
        RunError: There is no model, or it is not finished.
        DataError: Its tokenizer cannot be read.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ConfigError("the directory is not empty", where=str(out), fix="name a new or empty directory")
    if _has_no_tokenizer(path):
        export_token_model(path, out)
    else:
        export_checkpoint(Checkpoint.load(path), out)
    echo(f"wrote {out}: load it with transformers.AutoModelForCausalLM.from_pretrained")
    return 0


def _has_no_tokenizer(path: Path) -> bool:
    """Return whether it is a run on a corpus of tokens, which has no tokenizer."""
    if not (path / "spec.yaml").exists() or (path / "model.json").exists():
        return False
    run_dir = RunDir(path)
    refuse_unfinished(run_dir)
    return open_corpus(run_dir.spec().data_digest).tokenizer_path is None

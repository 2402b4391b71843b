"""`scalelab export`: a model as a Hugging Face checkpoint, for whoever loads those.

Any model of ours: a finished run, a stage of a post-training, or an exported checkpoint again.
Its tokenizer, and the template of conversations where it holds them, come along.
"""

from pathlib import Path

from scalelab.data.shards import open_corpus
from scalelab.errors import ConfigError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.exported import export_checkpoint
from scalelab.launch.commands import export_tokens, finished
from scalelab.train.rundir import RunDir


def export(path: Path, out: Path) -> int:
    """Write the model of a directory to `out`. Returns the exit code.

    Raises:
        ConfigError: Something is there already.
        RunError: There is no model, or it is not finished.
        DataError: Its tokenizer cannot be read.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ConfigError(
            "something is there already", where=str(out), fix="name a new or empty directory"
        )
    if _speaks_no_text(path):
        export_tokens(path, out)
    else:
        export_checkpoint(Checkpoint.load(path), out)
    print(f"wrote {out}: load it with transformers.AutoModelForCausalLM.from_pretrained")
    return 0


def _speaks_no_text(path: Path) -> bool:
    """Whether it is a run on a language of tokens, which has no tokenizer."""
    if not (path / "spec.yaml").exists() or (path / "model.json").exists():
        return False
    run_dir = RunDir(path)
    finished(run_dir)
    return open_corpus(run_dir.spec().data_digest).tokenizer_path is None

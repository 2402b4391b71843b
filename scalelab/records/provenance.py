"""Which code made a result: the version, and the commit where there is one."""

import subprocess
from pathlib import Path

import scalelab


def code_version() -> dict[str, str]:
    """Return the version of scalelab and its git commit ("unknown" outside a checkout)."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(scalelab.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    commit = asked.stdout.strip() if asked.returncode == 0 else "unknown"
    return {"scalelab": scalelab.__version__, "commit": commit}

"""States of runs as trackers write them, and which of them are evidence.

    state_of_cell("FINISHED")     State("finished", is_evidence=True)
    state_of_cell("crashed")      State("crashed", is_evidence=False)
    state_of_cell("finnished")    None

Source: Weights & Biases (finished, running, crashed, failed, killed, preempted), MLflow's RunStatus
(FINISHED, RUNNING, SCHEDULED, FAILED, KILLED), Optuna's TrialState (COMPLETE, PRUNED, FAIL, RUNNING,
WAITING), Slurm's job states.

Not here: what a run's own numbers say about its end (partial_runs.py); the states of our own runs
(status.py).
"""

import pandas as pd

FINISHED = ("finished", "complete", "completed", "success", "succeeded", "done")
USED = (*FINISHED, "simulated")
"""States of rows that are evidence."""
_BEFORE_COOLDOWN = "its loss was read before the cooldown"
LEFT_OUT = {
    **dict.fromkeys(("planned", "scheduled", "queued", "pending", "waiting", "configuring"), ""),
    **dict.fromkeys(("running", "paused", "suspended", "completing", "preempting"), ""),
    **dict.fromkeys(
        ("interrupted", "stopped", "killed", "cancelled", "canceled", "aborted", "preempted"), ""
    ),
    **dict.fromkeys(("diverged", "failed", "fail", "crashed", "crash", "error", "errored", "pruned"), ""),
    **dict.fromkeys(("timeout", "out_of_memory", "oom", "node_fail", "boot_fail", "deadline"), ""),
    **dict.fromkeys(("intermediate", "un-annealed", "unannealed", "checkpoint"), _BEFORE_COOLDOWN),
}
"""States of rows that are no evidence, and why where the word alone does not say it."""
BLANK = "blank"
"""State of a cell with nothing in it, in a table that has states in other rows."""
BLANK_REASON = "its status cell is blank"
NAMED = ("finished", "simulated", "planned", "running", "interrupted", "diverged", "failed", "intermediate")
"""States that a message offers."""


def states(column: pd.Series) -> pd.Series:
    """Return the states of a column in small letters; BLANK where a cell has nothing in it."""
    words = [_word(value) for value in column.astype(object)]
    return pd.Series(words, column.index, dtype=object)


def _word(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value) or value is pd.NA or value is pd.NaT:
        return BLANK
    word = str(value).strip().lower()
    if word in ("", "-", "none", "null", "nan", "n/a"):
        return BLANK
    joined = word.replace(" ", "_").replace("-", "_")
    return next((each for each in (word, joined, word.replace("_", "-")) if each in KNOWN), word)


KNOWN = frozenset((*USED, *LEFT_OUT))

"""Tables that are easy to read wrong: two columns for one thing, units in names, ambiguous signs.

    traps()

Each is read as the clean table, or refused: whoever guesses wrong gives a confident wrong answer.

Not here: tables that have one reading (run_tables.py).
"""

import csv
import json
import math
from collections.abc import Iterator

from fuzzing.check import Case
from fuzzing.run_tables import ANSWER, CLEAN, Rows, as_csv, equal, numbers, renamed


def _with(**columns: object) -> Rows:
    """Return the clean rows with further columns, each a constant or a function of the row."""
    return [
        row | {name: value(row) if callable(value) else value for name, value in columns.items()}
        for row in CLEAN
    ]


def _without(rows: Rows, *names: str) -> Rows:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def _scaled(name: str, new: str, factor: float) -> Rows:
    """Return rows whose column has another name and unit."""
    return [
        {new if key == name else key: value / factor if key == name else value for key, value in row.items()}
        for row in CLEAN
    ]


def _histories(**columns: object) -> Rows:
    """Return several points of each run on its way, as trackers export them."""
    return [
        row
        | {"n_tokens": row["n_tokens"] * share, "loss": round(row["loss"] * (1 + 0.3 * (1 - share)), 5)}
        | {name: value(share) if callable(value) else value for name, value in columns.items()}
        for row in CLEAN
        for share in (0.25, 0.5, 0.75, 1.0)
    ]


def two_columns() -> Iterator[tuple[str, Rows]]:
    """Yield tables in which more than one column may be meant."""
    other = {"loss": "train_loss"}
    yield "train and validation loss", renamed(_with(val_loss=lambda r: r["loss"]), other)
    yield (
        "lower train loss beside",
        renamed(_with(train_loss=lambda r: r["loss"] * 0.95), {"loss": "val_loss"}),
    )
    yield (
        "train/loss and eval/loss",
        renamed(_with(**{"train/loss": lambda r: r["loss"] * 0.95}), {"loss": "eval/loss"}),
    )
    yield "train loss alone", renamed(_with(), {"loss": "train/loss"})
    yield (
        "two validation losses",
        renamed(_with(**{"val_loss_code": lambda r: r["loss"] / 2}), {"loss": "val_loss_web"}),
    )
    yield "smoothed loss beside", renamed(_with(loss_ema=lambda r: r["loss"] * 1.1), {"loss": "val_loss"})
    yield (
        "tokens of a step beside",
        renamed(_with(batch_tokens=524288, tokens_per_step=524288), {"n_tokens": "tokens"}),
    )
    yield "tokens of the corpus beside", renamed(_with(dataset_tokens=1e12), {"n_tokens": "tokens"})
    yield (
        "tokens seen and planned",
        renamed(_with(max_tokens=lambda r: r["n_tokens"] * 2), {"n_tokens": "tokens_seen"}),
    )
    yield (
        "two counts of parameters",
        _without(
            _with(
                n_params_total=lambda r: r["n_params"], n_params_non_embedding=lambda r: r["n_params"] * 0.9
            ),
            "n_params",
        ),
    )
    yield (
        "embedding parameters beside",
        renamed(_with(embedding_params=lambda r: r["n_params"] * 0.1), {"n_params": "params"}),
    )
    yield (
        "active parameters beside",
        renamed(_with(active_params=lambda r: r["n_params"] * 0.25), {"n_params": "params"}),
    )
    yield (
        "trainable parameters beside",
        renamed(_with(trainable_params=lambda r: r["n_params"] * 0.01), {"n_params": "total_params"}),
    )
    yield (
        "letters of other things",
        renamed(_with(n_layers=12, d_model=768, n_heads=12, d_head=64, L=12, D=768), {}),
    )
    yield "names in two cases", renamed(_with(Loss=lambda r: r["loss"] * 2), {"loss": "LOSS"})


def other_units() -> Iterator[tuple[str, Rows]]:
    """Yield tables whose units are in the names of the columns, or nowhere."""
    yield "params_M", _scaled("n_params", "params_M", 1e6)
    yield "params (M)", _scaled("n_params", "params (M)", 1e6)
    yield "n_params_millions", _scaled("n_params", "n_params_millions", 1e6)
    yield "params_b", _scaled("n_params", "params_b", 1e9)
    yield "tokens_B", _scaled("n_tokens", "tokens_B", 1e9)
    yield "tokens (billions)", _scaled("n_tokens", "tokens (billions)", 1e9)
    yield "tokens [1e9]", _scaled("n_tokens", "tokens [1e9]", 1e9)
    yield (
        "a cell without the unit of its column",
        [
            row | {"n_tokens": f"{row['n_tokens'] / 1e9:.12g}{'B' if i else ''}"}
            for i, row in enumerate(CLEAN)
        ],
    )
    yield "size in GB", _scaled("n_params", "size_gb", 5e8)
    yield "perplexity", _without(_with(perplexity=lambda r: math.exp(r["loss"])), "loss")
    yield "val_ppl", _without(_with(val_ppl=lambda r: math.exp(r["loss"])), "loss")
    yield "bits per byte", _without(_with(val_bpb=lambda r: r["loss"] / math.log(2) / 4), "loss")
    yield "bits", _without(_with(loss_bits=lambda r: r["loss"] / math.log(2)), "loss")
    yield "accuracy", _without(_with(accuracy=lambda r: 1 / r["loss"]), "loss")
    yield (
        "steps and a batch",
        _without(_with(steps=lambda r: r["n_tokens"] / 524288, batch_size=524288), "n_tokens"),
    )
    yield "epochs", _without(_with(epochs=1.0), "n_tokens")
    yield (
        "ratio of tokens",
        _without(_with(tokens_per_param=lambda r: r["n_tokens"] / r["n_params"]), "n_tokens"),
    )


def histories() -> Iterator[tuple[str, Rows]]:
    """Yield points of runs on their way: only the last of each is a result."""
    yield "history", _histories()
    yield "history with steps", _histories(_step=lambda share: int(1000 * share))
    yield "history with planned steps", _histories(step=lambda share: int(1000 * share), max_steps=1000)
    yield "history with states", _histories(State=lambda share: "finished" if share == 1 else "running")
    yield "history, all finished", _histories(State="finished", _step=lambda share: int(1000 * share))


def texts() -> Iterator[tuple[str, str, str]]:
    """Yield (label, file name, text) of numbers that can be read in two ways."""
    coarse = [row | {"loss": round(row["loss"], 3)} for row in CLEAN]
    comma = numbers(coarse, lambda v: f"{v:.3f}".replace(".", ","), ("loss",))
    yield "three decimals after a comma, quoted", "runs.csv", as_csv(comma)
    yield "three decimals after a comma", "runs.csv", as_csv(comma, ";")
    whole = numbers(comma, lambda v: str(int(v)), ("n_params", "n_tokens"))
    yield "three decimals after a comma, tabs", "runs.tsv", as_csv(whole, "\t")
    points = numbers(whole, lambda v: f"{int(v):,}".replace(",", "."), ("n_params", "n_tokens"))
    yield "points and commas", "runs.csv", as_csv(points, ";")
    yield "points and commas, quoted", "runs.csv", as_csv(points)
    thousand = [
        row | {"n_params": f"{row['n_params'] / 1e3:,.0f}k", "n_tokens": f"{row['n_tokens'] / 1e6:,.1f}M"}
        for row in coarse
    ]
    yield "thousands and suffixes", "runs.csv", as_csv(thousand)
    yield (
        "apostrophes",
        "runs.csv",
        as_csv(numbers(coarse, lambda v: f"{int(v):_}".replace("_", "'"), ("n_params", "n_tokens"))),
    )
    yield (
        "underscores",
        "runs.csv",
        as_csv(numbers(coarse, lambda v: f"{int(v):_}", ("n_params", "n_tokens"))),
    )
    yield (
        "small b",
        "runs.csv",
        as_csv(numbers(coarse, lambda v: f"{v / 1e9:.12g}b", ("n_params", "n_tokens"))),
    )
    yield (
        "T and G",
        "runs.csv",
        as_csv(numbers(coarse, lambda v: f"{v / 1e9:.12g}G", ("n_params", "n_tokens"))),
    )
    yield (
        "words",
        "runs.csv",
        as_csv(numbers(coarse, lambda v: f"{v / 1e6:.12g} million", ("n_params", "n_tokens"))),
    )
    yield "fullwidth digits", "runs.csv", as_csv(coarse).translate({48 + i: 0xFF10 + i for i in range(10)})
    yield (
        "minus in exponent",
        "runs.csv",
        as_csv(numbers(coarse, lambda v: f"{v * 1e9:.9g}e\u22129", ("loss",))),
    )
    yield (
        "Fortran",
        "runs.csv",
        as_csv(numbers(coarse, lambda v: f"{v:.9E}".replace("E", "D"), ("n_params",))),
    )
    yield (
        "a mean row",
        "runs.csv",
        as_csv([*coarse, {"run": "mean", "n_params": 1e9, "n_tokens": 1e10, "loss": 3.0}]),
    )
    yield "a row of units", "runs.csv", as_csv(coarse).replace("\n", "\nparams,tokens,nats,FLOPs,\n", 1)
    yield "two header lines", "runs.csv", "model,model,eval,,\n" + as_csv(coarse)
    yield "header twice", "runs.csv", as_csv(coarse) + as_csv(coarse).split("\n")[0] + "\n"
    yield "comment first", "runs.csv", "# exported\n" + as_csv(coarse)
    yield "separator line", "runs.csv", "sep=;\n" + as_csv(coarse, ";")
    yield "no header", "runs.csv", as_csv(coarse).split("\n", 1)[1]
    yield "quote in a note", "runs.csv", as_csv([r | {"note": 'x" y'} for r in coarse]).replace('""', '"')
    yield (
        "commas in a note",
        "runs.csv",
        as_csv([r | {"note": "a"} for r in coarse]).replace(",a\n", ",a,b\n", 3),
    )
    yield "extra commas", "runs.csv", as_csv(coarse).replace("\n", ",\n")
    yield "short rows", "runs.csv", as_csv(coarse).replace(",run-03\n", "\n")
    yield "a row cut short", "runs.csv", as_csv(coarse)[:-20]
    lines = as_csv(coarse).split("\n")
    lines[5] = ",".join(lines[5].split(",")[1:])
    yield "a row shifted to the left", "runs.csv", "\n".join(lines)
    lines[5] = "," + as_csv(coarse).split("\n")[5].rsplit(",", 1)[0]
    yield "a row shifted to the right", "runs.csv", "\n".join(lines)
    yield (
        "json of a tracker",
        "runs.json",
        json.dumps(
            [
                {
                    "config": {"n_params": r["n_params"]},
                    "summary": {"loss": r["loss"], "n_tokens": r["n_tokens"]},
                }
                for r in coarse
            ]
        ),
    )


def traps() -> Iterator[Case]:
    """Yield every trap."""
    for rows in (two_columns, other_units, histories):
        for label, table in rows():
            yield Case(
                f"trap: {label}",
                "runs.csv",
                as_csv(table, quoting=csv.QUOTE_MINIMAL).encode(),
                expected=equal,
            )
    for label, name, text in texts():
        yield Case(f"trap: {label}", name, text.encode(), expected=_coarsely)


def _coarsely(answer: object) -> str | None:
    """Return how an answer differs from the clean table with losses of three decimals."""
    found = answer["rows"]
    if len(found) == len(ANSWER) and all(
        math.isclose(a, b, rel_tol=1e-3)
        for one, two in zip(found, ANSWER, strict=True)
        for a, b in zip(one, two, strict=True)
    ):
        return None
    wrong = next((pair for pair in zip(found, ANSWER, strict=False) if pair[0] != pair[1]), None)
    return f"silent wrong answer: {len(found)} rows, {wrong}"

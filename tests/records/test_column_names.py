"""Names of columns: what each may mean, which is taken, and what is asked."""

import math

import pandas as pd
import pytest

from scalelab.errors import ConfigError, DataError
from scalelab.records.column_names import meaning_of, plain_name
from scalelab.records.external_table import named_table, parse_columns
from scalelab.records.table_units import TableUnits


def meaning(name, *others):
    found = meaning_of(name, frozenset(other.casefold() for other in (name, *others)))
    return found and (found.ours if found.sure else f"{found.ours}?", found.scale)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        *(("model.n_params", "n_params"), ("nParams", "n_params"), ("Number of parameters", "n_params")),
        *(
            ("params.num_parameters", "n_params"),
            ("config/model/params", "n_params"),
            ("N_params", "n_params"),
        ),
        *(("total_params", "n_params_total"), ("N_no_embed", "n_params_non_embedding")),
        *(("train_tokens", "n_tokens"), ("train/tokens", "n_tokens"), ("Tokens Seen", "n_tokens")),
        *(
            ("eval/loss", "loss"),
            ("val_loss", "loss"),
            ("Validation Loss (nats)", "loss"),
            ("evalLoss", "loss"),
        ),
        *(("metrics.eval_loss", "loss"), ("Loss", "loss"), ("test_loss", "loss")),
        *(
            ("Budget", "flops_planned"),
            ("Training FLOPs", "flops"),
            ("total_flops", "flops"),
            ("train/total_flos", "flops"),
        ),
        *(("Name", "run"), ("run_id", "run"), ("tags.mlflow.runName", "run"), ("State", "status")),
        *(("params.lr", "learning_rate"), ("config/optimizer/lr", "learning_rate"), ("wd", "weight_decay")),
        *(("lr_scheduler_type", "schedule"), ("hidden_size", "width"), ("num_hidden_layers", "depth")),
        *(("optimizer.name", "optimizer"), ("dataset", "data"), ("data.tokenizer", "tokenizer")),
        *(("train/global_step", "n_steps"), ("max_steps", "n_steps_planned"), ("batch_size", "batch_size")),
    ],
)
def test_names_of_one_meaning(name, ours):
    assert meaning(name) == (ours, 1.0)


@pytest.mark.parametrize(
    ("name", "scale"),
    [("params (M)", 1e6), ("n_params_M", 1e6), ("Tokens (B)", 1e9), ("tokens_billions", 1e9)],
)
def test_a_unit_in_a_name(name, scale):
    assert meaning(name)[1] == scale


@pytest.mark.parametrize(
    "name",
    [
        *(
            "train/loss",
            "metrics.loss",
            "final_loss",
            "best_val_loss",
            "val/c4/loss",
            "eval/perplexity",
            "lm_loss",
            "c4_ce_last",
        ),
        *("val loss (bits)", "N", "D", "L", "C", "size", "compute", "GFLOPs", "dataset_tokens", "params (x)"),
    ],
)
def test_names_that_are_not_sure(name):
    assert meaning(name)[0].endswith("?")


@pytest.mark.parametrize(
    "name",
    [
        "model.name",
        "loss_scale",
        "loss_se",
        "Runtime",
        "Created",
        "flops_6nd",
        "Group",
        "tokens_per_s",
        "_step",
        "summary/_step",
    ],
)
def test_names_of_no_meaning(name):
    assert meaning(name) is None


def test_letters_are_sure_beside_one_another():
    assert [meaning(x, "N", "D") for x in "NDLC"] == [
        *(("n_params", 1.0), ("n_tokens", 1.0), ("loss", 1.0), ("flops", 1.0))
    ]


def test_plain_names():
    assert [plain_name(x) for x in ("config/model.Activation", "End Time", "__", "params.useBias")] == [
        *("model_activation", "end_time", "unnamed", "use_bias")
    ]


WANDB = "Name,State,Tags,model.n_params,train_tokens,eval/loss,config.lr\na,finished,x,1e6,2e7,3.5,1e-3\n"


def test_an_export_of_a_tracker_is_read_and_says_how(tables):
    seen = tables.read(WANDB)

    assert dict(seen.reading.columns) == {
        "run": "Name",
        "status": "State",
        "n_params": "model.n_params",
        "n_tokens": "train_tokens",
        "loss": "eval/loss",
        "learning_rate": "config.lr",
    }
    assert set(seen.reading.matched) == set(seen.reading.columns)
    assert seen.reading.recipe == ("learning_rate",)
    assert dict(seen.reading.others) == {"Tags": "tags"}
    assert seen.table["tags"].tolist() == ["x"]


def test_units_in_names_are_applied_and_reported(tables):
    seen = tables.read("params (M),tokens_B,val_loss\n50,1.5,3.5\n70,2,3.25\n")

    assert seen.table[["n_params", "n_tokens"]].values.tolist() == [[5e7, 1.5e9], [7e7, 2e9]]
    assert "the unit in the name 'params (M)'" in str(seen.reading.conversions[0])
    error = tables.refuse("params (M),tokens_B,val_loss\n50M,1.5,3.5\n")
    assert "has a unit in its name 'params (M)' and units in its cells, such as '50M'" in error.problem


@pytest.mark.parametrize(
    ("header", "problem", "fix"),
    [
        (
            "params,tokens,train_loss",
            "loss may be 'train_loss' (it is a training loss)",
            "--columns n_params=params,n_tokens=tokens,loss=train_loss",
        ),
        (
            "params,tokens,loss,eval_loss",
            "two columns may be the validation loss: 'loss' and 'eval_loss'",
            "--columns loss=eval_loss",
        ),
        ("params,tokens,val_loss,test_loss", "loss may be 'val_loss' or 'test_loss'", "loss=val_loss"),
        ("model size,tokens,val loss", "n_params may be 'model size' (its unit", "n_params='model size'"),
        ("a,b,loss", "the table has no column n_params, n_tokens", "--columns n_params=NAME,n_tokens=NAME"),
    ],
)
def test_what_is_not_sure_is_asked_with_a_line_to_copy(tables, header, problem, fix):
    row = ",".join(["5e7", "2e9", "3.5", "3.4"][: header.count(",") + 1])
    error = tables.refuse(f"{header}\n{row}\n")

    assert problem in error.problem
    assert fix in error.fix


def test_the_line_to_copy_is_accepted(tables):
    text = "params,tokens,loss,eval loss\n5e7,2e9,3.5,3.4\n"
    columns = parse_columns("loss=eval loss")

    seen = tables.read(text, columns=columns)

    assert seen.table["loss"].tolist() == [3.4]
    assert seen.table["loss_2"].tolist() == [3.5]


def test_params_of_small_numbers_have_no_known_unit(tables):
    text = "params,tokens,val_loss\n50,1.5,3.5\n70,2,3.25\n"
    error = tables.refuse(text)

    assert "n_params may be 'params', whose numbers are too small" in error.problem
    assert error.fix.endswith(
        "--columns loss=val_loss,n_params=params,n_tokens=tokens --units n_params=M,n_tokens=B"
    )
    units = TableUnits.parse("n_params=M,n_tokens=B")
    assert tables.read(text, units=units).table["n_params"].tolist() == [5e7, 7e7]


@pytest.mark.parametrize(("name", "unit"), [("val loss (bits)", "bits"), ("eval/perplexity", "perplexity")])
def test_a_loss_in_another_unit_is_asked_for_with_its_unit(tables, name, unit):
    text = f"n_params,n_tokens,{name}\n5e7,2e9,8\n"
    error = tables.refuse(text)

    assert error.fix.endswith(
        f"--columns loss='{name}' --units loss={unit}".replace("'eval/perplexity'", name[:15])
    )
    loss = {"bits": 8 * math.log(2), "perplexity": math.log(8)}[unit]
    for columns in ({}, {"loss": name}):
        seen = tables.read(text, columns=columns, units=TableUnits.parse(f"loss={unit}"))
        assert seen.table["loss"].tolist() == pytest.approx([loss])


def test_a_column_can_be_declared_absent(tables):
    text = "N,D,L,C\n5e7,1.5e9,3.5,1\n7e7,2e9,3.25,2\n"

    assert "flops" in tables.read(text).table
    assert "flops" not in tables.read(text, columns={"flops": "none"}).table


def test_an_optional_column_that_is_not_sure_is_noted_and_not_used(tables):
    seen = tables.read("n_params,n_tokens,loss,compute,lr,peak_lr\n5e7,1.5e9,3.5,1,1,2\n")

    assert [note.partition(";")[0] for note in seen.reading.notes] == [
        "flops may be 'compute' (its unit is not known)",
        "learning_rate may be 'lr' or 'peak_lr'",
    ]
    assert {"compute", "lr", "peak_lr"} <= set(seen.table)


def test_a_budget_in_another_unit_is_not_used(tables):
    seen = tables.read("n_params,n_tokens,loss,Budget\n5e7,1.5e9,3.5,1\n7e7,2e9,3.25,2\n")

    assert "flops_planned" not in seen.table
    assert "'Budget' was not used as the budget in FLOPs" in seen.reading.notes[0]


def test_a_guessed_column_of_no_use_is_noted(tables):
    seen = tables.read("n_params,n_tokens,loss,step\n5e7,1.5e9,3.5,0\n7e7,2e9,3.25,2\n")

    assert "n_steps" not in seen.table
    assert "'step' may be n_steps and was not used" in seen.reading.notes[0]


def test_only_one_count_is_taken_as_it_is_called(tables):
    seen = tables.read("non_embedding_params,tokens,val_loss\n5e7,1.5e9,3.5\n")

    assert (seen.param_count, seen.table["n_params"].tolist()) == ("non_embedding", [5e7])


def test_data_frames_are_read_alike():
    frame = pd.DataFrame({"N": [1e6, -2], "D": [1e7, 2e7], "Loss": [3.5, 3.0]}, index=["x", "y"])

    table, reading = named_table(frame)

    assert dict(reading.columns) == {"n_params": "N", "n_tokens": "D", "loss": "Loss"}
    assert table["n_params"].tolist() == [1e6, -2]
    assert reading.format == "DataFrame"
    with pytest.raises(DataError, match="stands twice"):
        named_table(pd.concat([frame, frame], axis=1))


@pytest.mark.parametrize(
    "text",
    [
        "n_params=N\nloss=eval, final\n# a remark\n",
        "n_params: N\nloss: eval, final\n",
        '{"n_params": "N", "loss": "eval, final"}',
    ],
)
def test_names_in_a_file(tmp_path, text):
    (tmp_path / "columns.txt").write_text(text)

    assert parse_columns(str(tmp_path / "columns.txt")) == {"n_params": "N", "loss": "eval, final"}
    assert parse_columns("n_params=N,loss=eval, final") == {"n_params": "N", "loss": "eval, final"}


@pytest.mark.parametrize("text", ["n_params", "n_params=", "=N", "n_params=N,n_params=M", "gone.txt"])
def test_names_that_cannot_be_read(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot read the column names"):
        parse_columns(text)

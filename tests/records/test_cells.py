"""Numbers as people write them: read where they have one meaning, asked for where they have two."""

import pandas as pd
import pytest

from scalelab.records.cells import numbers, read_numbers


def read(cells, name="n_params", **more):
    return read_numbers({name: pd.Series(cells, dtype=object)}, **more)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("50M", 5e7),
            ("70m", 7e7),
            ("1.5B", 1.5e9),
            ("1.5 billion", 1.5e9),
            ("2T", 2e12),
            ("125k", 1.25e5),
        ),
        *(("8,312,000", 8312000), ("8 312", 8312), ("8\u202f312\u202f000", 8312000), ("8'312", 8312)),
        *(("8_312", 8312), ("1,234.5", 1234.5), ("1.234.567", 1234567), ("1.234,5", 1234.5)),
        *(("1e18", 1e18), ("+5", 5), (" 7 ", 7), ("50M params", 5e7), ("3,14159", 3.14159), ("0,125", 0.125)),
    ],
)
def test_numbers_of_one_meaning(text, value):
    assert read([text]).columns["n_params"].tolist() == pytest.approx([value], rel=1e-15)


@pytest.mark.parametrize(
    ("text", "value"), [("1e18 FLOPs", 1e18), ("1.5 EFLOPs", 1.5e18), ("300 PFLOP", 3e17), ("2 flops", 2)]
)
def test_flops_with_their_unit(text, value):
    assert read([text], "flops").columns["flops"].tolist() == [pytest.approx(value)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *(("many", "n_params"), ("50M±2", "n_params"), ("~50M", "n_params"), ("1,23,4", "n_params")),
        *(("12 34", "n_params"), ("3.5M", "loss"), ("512k", "batch_tokens"), ("1e18 FLOP/s", "flops")),
        *(
            ("0x10", "n_params"),
            ("1e999", "n_params"),
            ("\u0661\u0662", "n_params"),
            ("inf", "loss"),
            ("%", "loss"),
        ),
    ],
)
def test_what_is_no_number_stays_as_it_is(text, name):
    assert read([text], name).columns[name].tolist() == [text]


def test_conversions_are_counted_by_their_kind():
    found = read(["50M", "70M", "1e6", "8 312"]).conversions

    assert [str(each) for each in found] == [
        "n_params: 2 cells with the unit M, such as '50M' = 50000000",
        "n_params: 1 cell with spaces between thousands, such as '8 312' = 8312",
    ]


THREE = "n_params{0}n_tokens{0}loss\n"


def test_decimal_commas(tables):
    text = THREE.format(";") + "20050025,91652966;8312541208,7;3,697592\n3e7;4e9;3,125\n"

    seen = tables.read(text)

    assert seen.table[["n_params", "n_tokens", "loss"]].values.tolist() == [
        [20050025.91652966, 8312541208.7, 3.697592],
        [3e7, 4e9, 3.125],
    ]
    assert seen.reading.decimal == ","
    assert [each.column for each in seen.reading.conversions] == ["n_params", "n_tokens", "loss"]


def test_thousands_are_read_where_other_cells_have_decimal_points(tables):
    seen = tables.read(THREE.format(",") + '"8,312","20,050",3.69\n')

    assert seen.table[["n_params", "n_tokens"]].values.tolist() == [[8312, 20050]]


@pytest.mark.parametrize(
    "text",
    [
        THREE.format(",") + '"1,234","8,312",3\n',
        THREE.format(";") + "20,050;8312000;3,6974\n",
        THREE.format(";") + "20.050;8312000;3,6974\n",
    ],
)
def test_a_cell_of_two_meanings_is_asked_for(tables, text):
    error = tables.refuse(text)

    assert "can be read as" in error.problem
    assert error.fix.endswith("--decimal point or --decimal comma")
    point = tables.read(text, decimal="point").table if "3,6974" not in text else None
    comma = tables.read(text, decimal="comma").table
    first = text.split("\n")[1].split(";")[0].split('"')[1 if '"' in text else 0]
    assert comma["n_params"].iloc[0] == float(first.replace(".", "").replace(",", "."))
    assert point is None or point["n_params"].iloc[0] == float(first.replace(",", ""))


def test_a_column_written_in_two_ways_is_refused(tables):
    error = tables.refuse(THREE.format(";") + "1;2;3,6974\n1;2;3.69\n")

    assert error.problem == "loss is written with decimal points and with decimal commas: '3,6974' and '3.69'"


def test_what_is_a_number_and_what_is_none():
    column = pd.Series([1, 2.5, "3", None, True, "x", 10**400, [1], pd.Timestamp(0)], dtype=object)

    assert [str(value) for value in numbers(column)] == [
        "1.0",
        "2.5",
        "3.0",
        "nan",
        "nan",
        "nan",
        "inf",
        "nan",
        "nan",
    ]
    assert [str(value) for value in numbers(pd.Series(pd.array([1, None], "Int64")))] == ["1.0", "nan"]
    assert numbers(pd.Series(pd.to_datetime(["2020-01-01"]))).isna().all()
    assert numbers(pd.Series([1 + 2j])).isna().all()
    assert numbers(pd.Series([True])).isna().all()


@pytest.mark.parametrize("cell", ["2", "2.0", "0.5"])
def test_a_cell_that_lost_the_unit_of_its_column_is_refused_with_its_row(tables, cell):
    text = f"run,n_params,n_tokens,loss,status\na,5e7,1.5B,3.1,finished\nb,6e7,{cell},3,STATE\n"

    error = tables.refuse(text.replace("STATE", "finished"))

    assert f"rows 3 ({float(cell):g} without a unit, beside 1.5B)" in error.where
    assert len(tables.read(text.replace("STATE", "crashed")).table) == 1
    plain = tables.read(text.replace("STATE", "finished").replace(f"{cell},3,", "1e9,3,")).table
    assert plain["n_tokens"].tolist() == [1.5e9, 1e9]
    comma = 'n_params;n_tokens;loss\n5e7;"1,5B";3,1\n6e7;1.23;3\n'
    assert "1.23 without a unit" in tables.refuse(comma, decimal="comma").where
    assert len(tables.read("n_params,n_tokens,loss,n_steps\n5e7,1e9,3,1k\n6e7,1e9,3,500\n").table) == 2

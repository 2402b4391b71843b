"""A curation from pages to a source that a sweep trains on: resumed, shared, refused, the same to the last byte."""

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from curation import english, page

from scalelab.cli.main import main
from scalelab.data.base import DataConfig
from scalelab.data.corpus.shards import prepare
from scalelab.data.curate import CURATION_STAGES, base, pipeline, shard_work, store
from scalelab.data.curate.file import CurationFile
from scalelab.data.curate.pages.files import PageFiles
from scalelab.data.curate.pipeline import curate
from scalelab.data.curate.publish import CURATED, NAME, publish
from scalelab.data.curate.shard_work import ShardJob, ShardWorkers
from scalelab.data.curate.store import read_documents
from scalelab.data.hashing import FileHashes
from scalelab.data.sources.curated import Curated
from scalelab.errors import DataError
from scalelab.report.curation.page import curation_json

STAGES = [
    {"kind": "extract", "extractor": "own"},
    {"kind": "holdout", "sets": {"some": {"domains": ["part0"], "share": 0.3, "languages": []}}},
    {"kind": "exact_duplicates"},
    {"kind": "duplicate_lines", "max_documents": 8},
    {"kind": "near_duplicates"},
    {"kind": "heuristics", "use": ["gopher"]},
    {"kind": "pii"},
    {"kind": "decontaminate"},
]


@pytest.fixture
def site(tmp_path):
    """48 pages in four directories: prose, copies, short pages, a copy of what is held out."""
    for i in range(48):
        text = english(14, seed=i if i % 8 else 0)
        if i % 6 == 0:
            text = f"A short page: {english(3, seed=i)}"
        if i % 5 == 0:
            text += "\n\nWrite to someone@example.org for help. This line stands on many of the pages."
        path = tmp_path / "site" / f"part{i % 4}" / f"{i:02d}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(text, title=f"Page {i}"))
    return tmp_path / "site"


@pytest.fixture
def config(site):
    def make(**changes):
        given = {
            "name": "small",
            "source": {"kind": "files", "paths": [str(site)]},
            "stages": STAGES,
            "tokenizer": {"kind": "bytes"},
        }
        return CurationFile.model_validate(given | changes)

    return make


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of a few pages, so that there are several."""
    whole = PageFiles.shards
    monkeypatch.setattr(PageFiles, "shards", lambda self, shard_bytes: whole(self, 12_000))


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.jsonl")}


def untimed(result):
    return [replace(report, cpu_s=0) for report in result.reports]


def test_every_document_is_accounted_for_and_nothing_is_done_twice(
    config, tmp_path, monkeypatch, small_shards
):
    first = curate(config(), processes=1)
    published = publish(first, tmp_path / "out")

    assert len(first.reports[0].shards) > 3
    for before, after in zip(first.reports, first.reports[1:], strict=False):
        assert after.n_in == before.n_out
    for report in first.reports:
        rejected, held_out = (sum(n for n, _ in t.values()) for t in (report.reasons, report.holdouts))
        assert report.n_in == report.n_out + rejected + held_out
        assert sum(n for n, _ in report.domains.values()) == report.n_out
    assert first.reports[0].n_in == 48
    assert first.reports[4].reasons or first.reports[2].reasons
    assert published.holdouts["some"].n_documents == sum(n for n, _ in first.reports[1].holdouts.values()) > 0

    monkeypatch.setattr(shard_work, "run_job", lambda job: pytest.fail("a shard was done twice"))
    again = curate(config(), processes=1)
    assert again.reports == first.reports


def test_a_changed_threshold_repeats_only_the_stages_from_there_on(config, small_shards):
    before = curate(config(), processes=1)
    stages = [
        *STAGES[:5],
        {"kind": "heuristics", "use": ["gopher"], "thresholds": {"min_words": 60}},
        *STAGES[6:],
    ]

    after = curate(config(stages=stages), processes=1)

    assert [r.key for r in after.reports[:5]] == [r.key for r in before.reports[:5]]
    assert not {r.key for r in after.reports[5:]} & {r.key for r in before.reports[5:]}


def test_another_page_or_list_changes_the_keys(config, site, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("a.org\n")
    stages = [STAGES[0], {"kind": "url", "hosts": str(hosts)}]
    before = [r.key for r in curate(config(stages=stages)).reports]
    hosts.write_text("b.org\n")
    other_list = [r.key for r in curate(config(stages=stages)).reports]
    (site / "part0/new.html").write_text(page(english(9)))
    other_page = [r.key for r in curate(config(stages=stages)).reports]

    assert other_list[0] == before[0]
    assert other_list[1] != before[1]
    assert other_page[0] != before[0]


@pytest.mark.parametrize("library", ["scikit-learn", "fastwarc"])
def test_another_version_of_a_library_changes_the_keys(library, config, site, tmp_path, monkeypatch):
    """Stages of which a library fits the decision, and pages that a library reads."""
    (site / "a.warc").touch()
    given = config(
        stages=[STAGES[0], {"kind": "quality", "trusted": ["part0"], "keep": 0.5}, {"kind": "pii"}]
    )
    memo = FileHashes(tmp_path / "hashes.json")

    def keys():
        versions = [stage.implementation() for stage in given.stages]
        return pipeline._keys(given, ["0", given.source.implementation()], versions, memo, is_sample=False)

    before = keys()
    real = base.version
    monkeypatch.setattr(base, "version", lambda name: "0.0" if name == library else real(name))
    same = [one == other for one, other in zip(before, keys(), strict=True)]

    assert same == ([True, False, False] if library == "scikit-learn" else [False, False, False])


@pytest.mark.parametrize("kind", ["quality", "harmful", "domains"])
def test_what_fits_the_classifier_belongs_to_the_key(kind):
    settings = {"quality": {"trusted": ["a"], "keep": 0.5}, "domains": {"classify": True}}.get(kind, {})
    assert "scikit-learn" in CURATION_STAGES[kind](**settings).implementation()


def test_a_shard_looks_at_its_own_files_alone(site, monkeypatch):
    source = PageFiles(paths=[str(site)])
    groups = source.shards(12_000)
    monkeypatch.setattr(PageFiles, "_files", None)

    names = [page.name for group in groups for page in source.pages(group)]

    assert len(groups) > 1
    assert sorted(names) == sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def test_observations_are_read_when_they_are_asked_for(tmp_path):
    paths = [shard_work.observed_path(tmp_path, i) for i in range(3)]
    for i, path in enumerate(paths):
        store.write_arrays(path, {"number": np.array([i])})

    observations = pipeline._Observations(paths)

    assert [int(each["number"][0]) for each in observations] == [0, 1, 2]
    assert len(observations) == 3
    paths[1].unlink()
    assert observations[2]["number"] == 2
    with pytest.raises(FileNotFoundError):
        observations[1]


class Killed(BaseException):
    """Stands for a process that is killed."""


def test_killed_anywhere_ten_times_gives_the_same_shards(config, tmp_path, monkeypatch, small_shards):
    undisturbed = tmp_path / "undisturbed"
    publish(curate(config(), cache=tmp_path / "one", processes=1), undisturbed)
    draw, n_killed = random.Random(0), 0
    real = store.DocumentWriter.add
    write_arrays = shard_work.write_arrays

    def dangerous(function):
        def call(*args, **kwargs):
            nonlocal left, n_killed
            left -= 1
            if left <= 0 and n_killed < 10:
                n_killed += 1
                raise Killed
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(store.DocumentWriter, "add", dangerous(real))
    for module in (shard_work, pipeline):
        monkeypatch.setattr(module, "write_arrays", dangerous(write_arrays))
    while True:
        left = draw.randrange(1, 60)
        try:
            result = curate(config(), cache=tmp_path / "two", processes=1)
            break
        except Killed:
            continue
    publish(result, tmp_path / "disturbed")

    assert n_killed == 10
    assert contents(tmp_path / "disturbed") == contents(undisturbed)
    assert (tmp_path / "disturbed" / NAME).read_bytes() == (undisturbed / NAME).read_bytes()


def test_a_damaged_shard_is_made_anew_and_a_changed_one_refused(config, tmp_path, small_shards):
    result = curate(config(), processes=1)
    path = result.directories[3] / result.reports[3].shards[0].file
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    assert untimed(curate(config(), processes=1)) == untimed(result)
    assert path.read_bytes() == data

    path.write_bytes(data.replace(b"the", b"The", 1))
    shutil.rmtree(result.directories[4])
    with pytest.raises(DataError, match="SHA-256 does not match"):
        curate(config(), processes=1)


def test_several_processes_give_the_same_bytes(config, tmp_path, small_shards):
    alone, together = tmp_path / "alone", tmp_path / "together"
    publish(curate(config(), cache=tmp_path / "one", processes=1), alone)
    publish(curate(config(), cache=tmp_path / "two", processes=2), together)

    assert contents(alone) == contents(together)


def test_a_worker_reports_errors_and_one_that_ends_is_replaced_by_the_caller(tmp_path):
    stage = {"kind": "pii"}
    jobs = [ShardJob("apply", stage, str(tmp_path), i, str(tmp_path / "missing.jsonl")) for i in range(2)]
    with ShardWorkers(2) as workers, pytest.raises(DataError, match="No such file"):
        workers.run(jobs, "shards")
    with store.DocumentWriter(tmp_path / "there.jsonl") as writer:
        writer.add(store.WebDocument("a", "a@b.org"))
    jobs = [ShardJob("apply", stage, str(tmp_path), i, str(tmp_path / "there.jsonl")) for i in range(2)]
    with ShardWorkers(2) as workers:
        for process in workers._processes:
            process.kill()
            process.wait()
        workers.run(jobs, "shards")
    assert [d.text for d in read_documents(tmp_path / "documents-00001.jsonl")] == ["<EMAIL>"]


def test_a_holdout_without_documents_is_refused_and_passes_in_a_sample(config):
    sets = {
        "some": {"domains": ["part0"], "languages": [], "share": 0.5},
        "typo": {"domains": ["part9"], "languages": []},
    }
    stages = [STAGES[0], {"kind": "holdout", "sets": sets}, STAGES[-1]]
    for _ in range(2):  # the second time the stage is there already
        with pytest.raises(DataError, match="the hold-out 'typo' is empty") as caught:
            curate(config(stages=stages), processes=1)
    assert "part0, part1, part2, part3" in caught.value.fix
    assert curate(config(stages=stages), processes=1, sample=True).reports


def test_rejected_documents_are_kept_whole_with_their_reason(config, small_shards):
    result = curate(config(), processes=1)
    i = [s["kind"] for s in STAGES].index("heuristics")

    lines = [
        json.loads(line)
        for path in sorted(result.directories[i].glob("rejects-*.jsonl"))
        for line in path.read_text().splitlines()
    ]

    assert len(lines) == sum(n for n, _ in result.reports[i].reasons.values()) > 0
    assert all(line["reason"].startswith("gopher: ") and line["detail"] and line["text"] for line in lines)


def test_held_out_text_is_in_no_training_document(config, tmp_path, site):
    first = curate(config(), processes=1)
    name, (directory, stored) = next((n, files[0]) for n, files in first.holdouts.items())
    text = next(read_documents(directory / stored.file)).text
    (site / "part1/twin.html").write_text(page(text + "\n\n" + english(3, "more")))

    publish(curate(config(), processes=1), tmp_path / "out")

    passages = [" ".join(text.split()[i : i + 16]) for i in range(0, 100, 10)]
    train = " ".join(
        " ".join(d.text.split()) for p in (tmp_path / "out").glob("train-*") for d in read_documents(p)
    )
    assert name == "some"
    assert not [passage for passage in passages if passage in train]


def test_a_sweep_trains_on_the_curated_text_and_is_judged_on_the_holdout(config, tmp_path):
    publish(curate(config(), processes=1), tmp_path / "out")
    source = {"kind": "curated", "path": str(tmp_path / "out"), "holdout": "some"}

    corpus = prepare(DataConfig(source=source, tokenizer={"kind": "bytes"}))

    found = CURATED.read(tmp_path / "out" / NAME)
    sides = corpus.manifest.splits
    assert sides["validation"].n_documents == found.holdouts["some"].n_documents
    assert sides["train"].n_documents == sum(each.n_documents for each in found.train)
    tokenizer = corpus.load_tokenizer()
    ends = corpus.tokens("validation").ends.astype(int)
    row = corpus.tokens("validation").windows([0], int(ends[0]) - 1)[0]
    first = next(read_documents(tmp_path / "out/holdout-some.jsonl"))
    assert tokenizer.decode(row) == first.text


def test_a_directory_without_a_corpus_or_hold_out_is_refused(config, tmp_path):
    with pytest.raises(DataError, match="is no curated corpus"):
        Curated(path=str(tmp_path)).fingerprint(None)
    publish(curate(config(), processes=1), tmp_path / "out")
    with pytest.raises(DataError, match="no hold-out 'somee'; did you mean 'some'"):
        Curated(path=str(tmp_path / "out"), holdout="somee").fingerprint(None)
    shard = next((tmp_path / "out").glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-2] + b"x\n")
    with pytest.raises(DataError, match="is not what was written"):
        list(Curated(path=str(tmp_path / "out")).documents(None))


def test_nothing_is_published_over_something_else_or_without_documents(config, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    result = curate(config(), processes=1)
    with pytest.raises(DataError, match="something other than a curated corpus"):
        publish(result, tmp_path / "taken")
    assert (tmp_path / "taken/notes.txt").read_text() == "mine"
    stages = [STAGES[0], {"kind": "heuristics", "thresholds": {"min_words": 1e6}}]
    with pytest.raises(DataError, match="no document is left: the stage heuristics kept 0 of") as caught:
        publish(curate(config(stages=stages)), tmp_path / "none")
    assert "gopher: min_words" in caught.value.where
    assert not (tmp_path / "none").exists()


def test_a_damaged_holdout_or_shard_is_not_published_nor_compared_with(config, tmp_path):
    result = curate(config(), processes=1)
    files = [result.holdouts["some"][0], (result.directories[-1], result.reports[-1].shards[0])]
    for directory, stored in files:
        path = directory / stored.file
        data = path.read_bytes()
        path.write_bytes(data.replace(b"the", b"The", 1))  # its size is as it was
        with pytest.raises(DataError, match="SHA-256 does not match"):
            publish(result, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        path.write_bytes(data)
    directory, stored = files[0]
    (directory / stored.file).write_bytes((directory / stored.file).read_bytes().replace(b"the", b"The", 1))
    shutil.rmtree(result.directories[-1])
    with pytest.raises(DataError, match="SHA-256 does not match"):
        curate(config(), processes=1)


def test_personal_data_is_in_no_holdout_and_no_sample(config, tmp_path, site):
    for path in site.rglob("*.html"):  # at the beginning, which samples show
        path.write_text(path.read_text().replace("<p>", "<p>Write to someone@example.org about it. ", 1))
    published = publish(result := curate(config(), processes=1), tmp_path / "out")
    found = list(read_documents(tmp_path / "out/holdout-some.jsonl", published.holdouts["some"].sha256))

    assert any("someone@example.org" in d.text for d in read_documents(_first(result.holdouts["some"])))
    assert any("<EMAIL>" in d.text for d in found)
    assert not any("someone@example.org" in d.text for d in found)
    assert "someone@example.org" not in json.dumps(curation_json(result, None))
    assert "<EMAIL>" in result.reports[0].kept_samples[0].text
    assert published.holdouts["some"].n_documents == len(found) >= 1
    assert published.holdouts["some"].n_bytes == sum(d.n_bytes for d in found)


def _first(files):
    return files[0][0] / files[0][1].file


# The command


@pytest.fixture
def file(config, tmp_path, monkeypatch):
    """A curation file in a directory of its own, which is the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here/small.yaml").write_text(config().to_yaml())
    return "small.yaml"


def test_the_command_writes_documents_shards_and_a_page(file, capsys):
    assert main(["data", file, "--json", "stages.json"]) == 0
    out = capsys.readouterr().out

    assert "near_duplicates" in out
    assert "training tokens" in out
    assert "report: curated/small/README.md" in out
    page_text = Path("curated/small/README.md").read_text()
    for words in (
        "Stage near\\_duplicates",
        "Largest clusters of copies",
        "Rejected",
        "Domains",
        "retention",
    ):
        assert words in page_text
    assert "someone@example.org" not in page_text.split("Stage pii")[1]
    stages = json.loads(Path("stages.json").read_text())["stages"]
    assert [s["kind"] for s in stages] == [s["kind"] for s in STAGES]
    assert (
        stages[-1]["tokens_estimated"] > stages[-1]["bytes_out"]
    )  # a byte is a token, and a document has an end
    assert main(["data", file]) == 0


def test_a_sample_with_too_little_to_decide_from_passes_all(config):
    quality = {"kind": "quality", "trusted": ["nowhere"], "keep": 0.5}
    holdout = {"kind": "holdout", "sets": {"none": {"domains": ["nowhere"]}}}
    some = {"kind": "holdout", "sets": {"some": {"domains": ["part0"], "languages": [], "share": 0.5}}}
    mix = {"kind": "mix", "weights": {"part0": 1, "nowhere": 1}}
    stages = [STAGES[0], holdout, quality, mix, {"kind": "decontaminate"}]

    found = curate(config(stages=stages), processes=1, sample=True)

    assert found.reports[2].n_out == found.reports[2].n_in > 0
    with pytest.raises(DataError, match="0 trusted"):
        curate(config(stages=[stages[0], some, *stages[2:]]), processes=1)


def test_a_dry_run_writes_nothing_here(file, capsys):
    assert main(["data", file, "--dry-run"]) == 0
    assert "A sample of the pages only." in capsys.readouterr().out
    assert not Path("curated").exists()


def test_a_place_that_is_taken_is_refused_before_the_work(file, monkeypatch, capsys):
    Path("taken").write_text("mine")
    monkeypatch.setattr(pipeline, "curate", lambda *args, **kwargs: pytest.fail("the work was begun"))
    assert main(["data", file, "--out", "taken"]) == 2
    err = capsys.readouterr().err
    assert "taken is a file, something other than a curated corpus" in err
    assert "choose another directory (--out)" in err
    assert Path("taken").read_text() == "mine"


def test_flags_of_curation_are_refused_for_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "--example"]) == 0
    assert main(["data", "sweeps/isoflop.yaml", "--dry-run"]) == 2
    assert "--dry-run is for curation files" in capsys.readouterr().err


def test_a_worker_process_starts_without_heavy_packages():
    code = f"import sys, {shard_work.MODULE}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "sklearn", "scipy", "pandas", "mlflow"} & set(loaded)

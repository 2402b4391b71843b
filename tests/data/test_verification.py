"""Damage to a cache is refused or repaired; files that were verified are not read again."""

import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scalelab import leases
from scalelab.data import hashing
from scalelab.data.base import DataConfig
from scalelab.data.corpus import shards, verification
from scalelab.data.corpus.manifest import MANIFEST, contents_digest
from scalelab.data.corpus.shards import CorpusKey, find, open_corpus, prepare
from scalelab.data.corpus.token_files import CorpusFile
from scalelab.errors import DataError, RunError
from scalelab.files import machine
from scalelab.leases import hold
from scalelab.sealed import Damaged, check_file

FILES = {  # corpus directory, and the name of each kind of file
    "text": ("manifest.json", "train-00000.bin", "validation.ends", "tokenizer.json"),
    "synthetic": ("manifest.json", "validation-00000.bin", "train.ends", "validation.nats"),
}


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch):
    """Nothing here is about power cuts; waiting for the disk would take most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def configs(config):
    """A config of text in bytes and one of a language; both are prepared in milliseconds."""
    language = {"kind": "synthetic", "documents": 12}
    return {
        "text": config(tokenizer={"kind": "bytes"}),
        "synthetic": DataConfig(source=language, validation=0.3),
    }


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that are read to be verified, as they are read."""
    names = []

    def check(path, digest):
        names.append(path.name)
        check_file(path, digest)

    monkeypatch.setattr(verification, "check_file", check)
    return names


def another_process():
    """Forget what this process has verified."""
    verification._VERIFIED.clear()


def everything(corpus):
    """All that can be read of a corpus, in a form that can be compared."""
    sides = [corpus.tokens(split) for split in ("train", "validation")]
    nats, tokenizer = corpus.nats(), corpus.load_tokenizer()
    return (
        corpus.digest,
        [np.concatenate(side.shards).tolist() for side in sides],
        [side.ends.tolist() for side in sides],
        None if nats is None else nats.tolist(),
        tokenizer and tokenizer.name,
    )


def flip(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def another_digit(data, draw):
    place = draw.choice([i for i, byte in enumerate(data) if byte in b"0123456789"] or [0])
    return data[:place] + b"%d" % ((data[place] - 47) % 10) + data[place + 1 :]


HARMS = {
    "a flipped bit": flip,
    "another digit": another_digit,
    "cut short": lambda data, draw: data[: draw.randrange(1, len(data))],
    "longer": lambda data, draw: data + data[-2:],
    "empty": lambda data, draw: b"",
    "null": lambda data, draw: b"null",
    "zeros": lambda data, draw: bytes(len(data)),
    "missing": lambda data, draw: None,
}
SAME_SIZE = ("a flipped bit", "another digit", "zeros")


def harm(path, how, draw, is_sly=False):
    """Damage a file; the sly way restores its time of modification."""
    stat, data = path.stat(), HARMS[how](path.read_bytes(), draw)
    if data is None:
        path.unlink()
        return
    path.write_bytes(data)
    if is_sly:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def check_refusal(refused, corpus):
    problem, where, fix = str(refused.value).split("\n")
    assert problem.startswith("the prepared corpus is damaged: ")
    assert where == f"  where: {corpus.path}"
    assert fix.startswith("  fix:   delete this directory, then run the same command again")


@pytest.mark.parametrize("kind", FILES)
def test_damage_to_any_file_of_a_corpus_is_refused_and_mended_as_the_message_says(configs, kind, tmp_path):
    draw = random.Random(kind)
    corpus = prepare(configs[kind])
    written = everything(corpus)
    shutil.copytree(corpus.path, tmp_path / "sound")

    for name in FILES[kind]:
        for how in HARMS:
            for is_sly in (False, True) if how in SAME_SIZE else (False,):
                path = corpus.path / name
                sound = path.read_bytes()
                harm(path, how, draw, is_sly)
                if path.exists() and path.read_bytes() == sound:
                    continue  # no digit to change, or the file was this short
                another_process()
                with pytest.raises(DataError) as refused:
                    everything(open_corpus(corpus.digest))
                check_refusal(refused, corpus)
                shutil.copy(tmp_path / "sound" / name, path)
                assert everything(open_corpus(corpus.digest)) == written
        harm(corpus.path / name, "zeros", draw, is_sly=True)
        with pytest.raises(DataError) as refused:
            prepare(configs[kind])
        check_refusal(refused, corpus)
        shutil.rmtree(corpus.path)
        assert everything(prepare(configs[kind])) == written


def test_files_that_change_places_are_refused(configs):
    corpus = prepare(configs["text"])
    one, other = corpus.path / "train-00000.bin", corpus.path / "validation-00000.bin"
    one.rename(corpus.path / "aside")
    other.rename(one)
    (corpus.path / "aside").rename(other)

    with pytest.raises(DataError, match=r"train-00000.bin has \d+ bytes"):
        open_corpus(corpus.digest)


def test_a_corpus_under_another_name_is_refused(configs):
    corpus = prepare(configs["text"])
    corpus.path.rename(corpus.path.with_name("0123456789ab"))

    with pytest.raises(DataError, match="do not have the directory's digest"):
        open_corpus("0123456789ab")


@pytest.mark.parametrize("folder", ["keys", "hashes", "stamps"])
def test_damage_to_what_only_saves_time_costs_only_time(configs, own_cache, monkeypatch, folder):
    monkeypatch.setattr(hashing, "_RACY_NS", -(10**18))  # as if the files were old
    corpus = prepare(configs["text"])
    written = everything(corpus)
    (path,) = (own_cache / folder).iterdir()
    sound = path.read_bytes()
    draw = random.Random(folder)

    for how in HARMS:
        is_random = how in ("another digit", "a flipped bit")  # and may harm white space only
        for _ in range(3 if is_random else 1):
            harm(path, how, draw)
            another_process()
            assert everything(prepare(configs["text"])) == written
            if not is_random:
                assert json.loads(path.read_bytes()).keys() == json.loads(sound).keys()
            path.write_bytes(sound)


def test_a_hash_that_was_edited_is_not_believed(corpus_files, tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "_RACY_NS", -(10**18))  # as if the files were old
    path, memo = corpus_files / "000.txt", tmp_path / "memo.json"
    hashes = hashing.FileHashes(memo)
    digest = hashes(path)
    hashes.save()
    edited = memo.read_text().replace(digest, "0" * 64)

    for text in (edited, json.dumps({str(path): json.loads(edited)["files"][str(path)]})):
        memo.write_text(text)
        assert hashing.FileHashes(memo)(path) == digest


def test_a_key_under_the_name_of_another_is_not_believed(configs, own_cache):
    text, language = prepare(configs["text"]), prepare(configs["synthetic"])
    keys = {json.loads(key.read_text())["digest"]: key for key in (own_cache / "keys").iterdir()}
    shutil.copy(keys[text.digest], keys[language.digest])

    assert find(configs["synthetic"]) is None
    assert prepare(configs["synthetic"]) == language


def test_a_key_that_leads_out_of_the_cache_is_not_believed(configs, own_cache):
    corpus = prepare(configs["text"])
    (key,) = (own_cache / "keys").iterdir()
    shards.KEY.write(key, CorpusKey(f"../corpora/{corpus.digest}", key.stem))

    assert find(configs["text"]) is None


def test_without_a_key_a_damaged_corpus_is_replaced_and_a_sound_one_kept(configs, own_cache):
    corpus = prepare(configs["text"])
    written, inode = everything(corpus), (corpus.path / "train.ends").stat().st_ino
    shutil.rmtree(own_cache / "keys")
    assert everything(prepare(configs["text"])) == written
    assert (corpus.path / "train.ends").stat().st_ino == inode

    shutil.rmtree(own_cache / "keys")
    harm(corpus.path / "train.ends", "zeros", random.Random(0), is_sly=True)

    assert everything(prepare(configs["text"])) == written


# Stamps


def test_a_fresh_corpus_is_not_read_to_be_verified(configs, hashed):
    for config in configs.values():
        corpus = prepare(config)
        another_process()
        everything(open_corpus(corpus.digest))
        prepare(config)

    assert hashed == []


def test_without_a_stamp_each_file_is_read_once(configs, own_cache, hashed):
    corpus = prepare(configs["text"])
    shutil.rmtree(own_cache / "stamps")

    for _ in range(3):
        another_process()
        everything(open_corpus(corpus.digest))

    assert sorted(hashed) == sorted(corpus.manifest.files)


def test_only_what_is_used_is_verified(configs, own_cache, hashed):
    corpus = prepare(configs["text"])
    shutil.rmtree(own_cache / "stamps")

    another_process()
    found = find(configs["text"])
    assert hashed == []
    found.load_tokenizer()
    assert hashed == ["tokenizer.json"]
    another_process()
    open_corpus(corpus.digest).tokens("validation")
    assert hashed == ["tokenizer.json", "validation-00000.bin", "validation.ends"]


def test_prepare_verifies_every_file(configs, own_cache, hashed):
    corpus = prepare(configs["text"])
    shutil.rmtree(own_cache / "stamps")
    another_process()

    prepare(configs["text"])

    assert sorted(hashed) == sorted(corpus.manifest.files)


@pytest.mark.parametrize("change", ["touch", "chmod", "copy"])
def test_only_a_file_whose_state_changed_is_read_again(configs, hashed, change):
    corpus = prepare(configs["text"])
    path = corpus.path / "train.ends"
    if change == "touch":
        path.touch()
    elif change == "chmod":
        path.chmod(0o600)
    else:
        shutil.copy2(path, path.with_name("copy"))
        path.with_name("copy").rename(path)

    for _ in range(2):
        another_process()
        everything(open_corpus(corpus.digest))

    assert hashed == ["train.ends"]


def test_another_machine_reads_for_itself_and_keeps_its_own_stamp(configs, own_cache, hashed, monkeypatch):
    corpus = prepare(configs["text"])

    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    for _ in range(2):
        another_process()
        everything(open_corpus(corpus.digest))

    assert sorted(hashed) == sorted(corpus.manifest.files)
    assert len(list((own_cache / "stamps").iterdir())) == 2


def test_a_stamp_under_the_name_of_another_is_not_believed(configs, own_cache, hashed):
    corpus = prepare(configs["text"])
    stamp = verification._stamp_path(corpus.path)
    record = verification.STAMP.read(stamp)
    verification.STAMP.write(stamp, replace(record, corpus="0123456789ab"))
    another_process()

    corpus.load_tokenizer()

    assert hashed == ["tokenizer.json"]


def test_a_copied_cache_is_verified_again(configs, own_cache, tmp_path, hashed):
    corpus = prepare(configs["text"])
    written = everything(corpus)
    shutil.copytree(own_cache, tmp_path / "copied")

    assert everything(open_corpus(corpus.digest, tmp_path / "copied")) == written
    assert sorted(hashed) == sorted(corpus.manifest.files)


@pytest.mark.parametrize("refused", ["locks", "stamps"])
def test_a_cache_that_cannot_be_written_is_verified_once_by_each_process(configs, own_cache, hashed, refused):
    corpus = prepare(configs["text"])
    written = everything(corpus)
    shutil.rmtree(own_cache / "stamps")
    shutil.rmtree(own_cache / refused, ignore_errors=True)
    (own_cache / refused).write_text("stands for a disk that is read-only")

    for _ in range(2):
        another_process()
        for _ in range(2):
            assert everything(prepare(configs["text"])) == written

    assert sorted(hashed) == sorted([*corpus.manifest.files] * 2)
    harm(corpus.path / "train.ends", "zeros", random.Random(0), is_sly=True)
    with pytest.raises(DataError, match=r"train\.ends is not what was written"):
        open_corpus(corpus.digest).tokens("train")


def test_a_file_that_changes_while_it_is_read_is_refused(configs, monkeypatch):
    corpus = prepare(configs["text"])
    (corpus.path / "train.ends").touch()

    def check(path, digest):
        check_file(path, digest)
        path.touch()

    monkeypatch.setattr(verification, "check_file", check)

    with pytest.raises(DataError, match=r"train\.ends changed while it was read"):
        corpus.tokens("train")


OPENING = r"""
import sys, time
from scalelab.data.corpus import verification
from scalelab.data.corpus.shards import open_corpus
check = verification.check_file
def slow(path, digest):
    time.sleep(0.5)  # longer than the others take to come
    check(path, digest)
    sys.stdout.write(f"hashed {path.name}\n")
verification.check_file = slow
print("ready", flush=True)
sys.stdin.readline()
tokens = open_corpus(sys.argv[1]).tokens("train")
print(len(tokens))
"""


def test_of_three_workers_that_start_together_one_verifies(configs, own_cache):
    corpus = prepare(configs["text"])
    shutil.rmtree(own_cache / "stamps")

    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPENING, corpus.digest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    lines = [worker.communicate(timeout=60)[0].splitlines() for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert [said[-1] for said in lines] == [str(corpus.n_train)] * 3
    read = sorted(line for said in lines for line in said[:-1])
    assert read == ["hashed train-00000.bin", "hashed train.ends"]


# Names, links, and files from before the seals


def forged(corpus, **changes):
    """The path of a corpus whose manifest was changed, sealed anew and given its own digest."""
    manifest = replace(corpus.manifest, **changes)
    manifest = replace(manifest, digest=contents_digest(manifest))
    path = corpus.path.with_name(manifest.digest)
    corpus.path.rename(path)
    MANIFEST.write(path / "manifest.json", manifest)
    return path


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", ".hidden", "a/b", "a\nb", "", "..", "x" * 200]
)
@pytest.mark.parametrize("where", ["files", "shards"])
def test_names_that_lead_elsewhere_are_refused(configs, name, where):
    corpus = prepare(configs["text"])
    (corpus.path.parent / "secret").write_bytes(b"12")
    if where == "files":
        there = corpus.manifest.files | {name: CorpusFile(2, hashing.sha256(Path(__file__)))}
        path = forged(corpus, files=there)
    else:
        train = replace(corpus.manifest.splits["train"], shards=(name,))
        path = forged(corpus, splits=corpus.manifest.splits | {"train": train})

    with pytest.raises(DataError, match=r"is not the name of a file|is not among its files") as no:
        open_corpus(path.name)
    assert str(no.value).count("\n") == 2


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "train-00000.bin"])
@pytest.mark.parametrize("instead", ["symbolic link", "file"])
def test_what_is_no_plain_file_is_refused(configs, tmp_path, name, instead):
    corpus = prepare(configs["text"])
    path = corpus.path / name
    path.rename(tmp_path / "moved")
    if instead == "symbolic link":
        path.symlink_to(tmp_path / "moved")
    else:
        os.mkfifo(path)  # opening it would wait for ever

    with pytest.raises(DataError, match=f"{name} is (a|not a) {instead}"):
        open_corpus(corpus.digest)


def test_a_digest_that_is_no_plain_name_is_no_corpus(configs):
    corpus = prepare(configs["text"])

    for digest in ("", ".", f"../corpora/{corpus.digest}"):
        with pytest.raises(DataError, match="there is no prepared corpus"):
            open_corpus(digest)


def unsealed(path, **changes):
    """Make a sealed record look as it would before the seals."""
    record = json.loads(path.read_text())
    assert record.pop("schema") == 2
    assert len(record.pop("seal")) == 32
    path.write_text(json.dumps(record | changes, indent=1) + "\n")


@pytest.mark.parametrize("kind", FILES)
def test_a_corpus_from_before_the_seals_is_read(configs, own_cache, monkeypatch, hashed, kind):
    corpus = prepare(configs[kind])
    written = everything(corpus)
    unsealed(corpus.path / "manifest.json")
    (key,) = (own_cache / "keys").iterdir()
    key.write_text(json.dumps({"digest": corpus.digest}))
    shutil.rmtree(own_cache / "stamps")
    another_process()
    monkeypatch.setattr(shards, "_prepare", None)  # nothing is tokenised again

    assert everything(prepare(configs[kind])) == written
    assert sorted(hashed) == sorted(corpus.manifest.files)


@pytest.mark.parametrize(
    "changes", [{"vocab_size": 258}, {"format": 2}, {"tokenizer": "bpe"}, {"n_clusters": "many"}]
)
def test_before_the_seals_the_digest_speaks_for_the_contents(configs, changes):
    corpus = prepare(configs["text"])
    unsealed(corpus.path / "manifest.json", **changes)

    with pytest.raises(DataError) as refused:
        open_corpus(corpus.digest)
    check_refusal(refused, corpus)


def test_the_digest_of_contents_never_changes(configs):
    manifest = prepare(configs["text"]).manifest
    side = replace(manifest.splits["train"], n_tokens=7, n_documents=2, n_bytes=5, shards=("a",))
    fixed = replace(
        manifest,
        tokenizer="bytes-257-00000000",
        vocab_size=257,
        dtype="<u2",
        entropy=None,
        bytes_per_token=0.7142857142857143,
        splits={"train": side, "validation": side},
        files={"a": CorpusFile(14, "0" * 64)},
    )

    assert contents_digest(fixed) == "a59cc7638bf0"  # as before the seals: run ids depend on it


# What killed preparers leave


def test_leftovers_of_killed_preparers_are_gone_after_the_next_success(configs, own_cache):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    directories = [
        own_cache / "partial" / "00112233445566aa-0123456789abcdef",
        own_cache / "partial" / "00112233445566ab",  # before keys were followed by a nonce
        own_cache / "corpora" / f".00112233445a.{machine()}.{gone.pid}.partial",
        own_cache / "corpora" / ".00112233445b.0a1b2c3d.17.partial",  # of another machine
    ]
    files = [
        own_cache / folder / f".00112233.json.{machine()}.{gone.pid}.partial"
        for folder in ("keys", "hashes", "stamps", "locks")
    ]
    files.append(own_cache / "locks" / f".x-000001.json.ab12.{machine()}.{gone.pid}.partial")
    busy = own_cache / "partial" / "ffeeddccbbaa9988-0123456789abcdef"

    for is_there_already in (False, True):
        for directory in [*directories, busy]:
            directory.mkdir(parents=True)
            (directory / "train-00000.bin").write_text("half of it")
        for file in files:
            file.parent.mkdir(exist_ok=True)
            file.write_text("half of it")
        with hold(own_cache / "locks" / "ffeeddccbbaa9988", "in use", "wait"):
            corpus = prepare(configs["text"])
            left = [path for path in [*directories, *files] if path.exists()]
            assert left == [], f"corpus there already: {is_there_already}"
            assert busy.exists()
        shutil.rmtree(busy)

    assert [path.name for path in (own_cache / "corpora").iterdir()] == [corpus.digest]


def test_a_preparer_that_lost_its_lease_spoils_nothing(configs, own_cache, monkeypatch):
    undisturbed = everything(prepare(configs["text"], own_cache.with_name("other")))
    fill, directories = shards._fill, []

    def suspended(settings, directory):
        directories.append(directory)
        if len(directories) == 1:  # meanwhile another process takes over
            with monkeypatch.context() as patch:
                patch.setattr(leases, "_is_free", lambda *_: True)
                prepare(configs["text"])
        return fill(settings, directory)

    monkeypatch.setattr(shards, "_fill", suspended)

    with suppress(RunError):  # its directory is gone, unless it had not written yet
        prepare(configs["text"])
    assert len(set(directories)) == 2
    assert everything(prepare(configs["text"])) == undisturbed
    assert list((own_cache / "partial").iterdir()) == []


def test_names_that_are_not_utf_8_are_written_down_in_escapes(config, corpus_files):
    for name in (b"\xff.txt", b"\xfe.txt"):
        with open(os.path.join(os.fsencode(corpus_files), name), "w") as file:
            file.write((corpus_files / "005.txt").read_text() if name == b"\xff.txt" else "")

    corpus = prepare(config(tokenizer={"kind": "bytes"}))

    assert corpus.manifest.skipped["without text"]["examples"] == [r"\udcfe.txt"]
    assert corpus.manifest.largest_cluster["examples"] == ["005.txt", r"\udcff.txt"]


def test_a_missing_file_is_named_before_anything_is_read(configs, hashed):
    corpus = prepare(configs["text"])
    (corpus.path / "train-00000.bin").unlink()

    with pytest.raises(DataError, match=r"train-00000\.bin is missing"):
        corpus.tokens("train")
    with pytest.raises(Damaged):
        verification._check(corpus.path, corpus.manifest.files)
    assert hashed == []

"""Stages of a curation: every registered one conforms, and each one does what is known by hand."""

import itertools
import json
import random
import weakref

import numpy as np
import pytest
from curation import applied, document, documents, english, page

from scalelab.data.corpus.minhash import words_of
from scalelab.data.curate import CURATION_STAGES
from scalelab.data.curate.base import CurationContext, Page, StageLedger, name_hash
from scalelab.data.curate.stages import decontaminate
from scalelab.data.curate.stages.decontaminate import Decontaminate
from scalelab.data.curate.stages.domains import Domains
from scalelab.data.curate.stages.duplicate_lines import DuplicateLines
from scalelab.data.curate.stages.exact_duplicates import ExactDuplicates
from scalelab.data.curate.stages.extract import Extract
from scalelab.data.curate.stages.harmful import HarmfulContent
from scalelab.data.curate.stages.holdout import Holdout
from scalelab.data.curate.stages.mix import DomainMix, repeats
from scalelab.data.curate.stages.near_duplicates import NearDuplicates, connected, verified_pairs
from scalelab.data.curate.stages.quality import Quality
from scalelab.data.curate.stages.url import UrlBlocklist
from scalelab.data.curate.store import DocumentWriter
from scalelab.data.curate.text_classifier import Examples, ExampleSet
from scalelab.data.hashing import U64, mix
from scalelab.errors import DataError
from scalelab.testing.curation_stages import check_curation_stage

MAKE = {
    "extract": {"extractor": "own"},
    "language": {"keep": ["en"]},
    "holdout": {"sets": {"some": {"domains": ["a.org"], "share": 0.3}}},
    "url": {"words": ["bad"]},
    "harmful": {},
    "heuristics": {},
    "pii": {},
    "exact_duplicates": {},
    "duplicate_lines": {"max_documents": 3},
    "near_duplicates": {},
    "quality": {"trusted": ["b.org"], "keep": 0.5},
    "domains": {"rules": {"one": ["a.org/*"], "two": ["b.org/*"]}, "classify": True},
    "decontaminate": {},
    "mix": {"weights": {"a.org": 0.5, "b.org": 1.5}},
}


def corpus():
    """120 documents: prose of two domains, some short, repeated, spam, with an address or a notice."""
    found = []
    for i in range(120):
        text = english(12 + i % 9, seed=i % 100)
        if i % 11 == 0:
            text += "\n\nWrite to someone@example.org for further help with it."
        if i % 13 == 0:
            text = "casino viagra casino jackpot " * 30
        if i % 3 == 0:
            text += "\n\nThis notice stands below every third page of the whole site."
        if i % 17 == 0:
            text = "too short"
        host = "a.org" if i % 2 else "b.org"
        about = {
            "url": f"https://{host}/{'bad' if i % 19 == 0 else 'good'}/{i}",
            "domain": host,
            "language": "en",
        }
        found.append(document(text, f"{i:03d}", **about))
    return found


@pytest.mark.parametrize("kind", list(CURATION_STAGES))
def test_it_conforms(kind, tmp_path):
    if kind == "language":
        pytest.importorskip("py3langid")
    if kind in {"quality", "domains", "harmful"}:
        pytest.importorskip("sklearn")
    items = corpus()
    holdouts = None
    if kind == "extract":
        items = [Page(d.name, page(d.text).encode()) for d in items]
    if kind == "decontaminate":
        with DocumentWriter(tmp_path / "held.jsonl") as writer:
            writer.add(document(items[4].text[:400]))
        holdouts = {"some": [tmp_path / "held.jsonl"]}

    check_curation_stage(
        CURATION_STAGES[kind].model_validate({"kind": kind, **MAKE[kind]}),
        items,
        tmp_path / "work",
        holdouts=holdouts,
    )


def test_every_stage_can_be_made_here():
    assert set(MAKE) == set(CURATION_STAGES)


# Hold-outs


def test_a_holdout_takes_its_share_of_prose_of_its_domain_alone():
    given = [
        *documents([english(30, i) for i in range(400)], domain="a.org", language="en"),
        *(document(english(30, i), f"b{i}", domain="b.org", language="en") for i in range(50)),
        *(document("x = 1\n" * 60, f"c{i}", domain="a.org", language="en") for i in range(50)),
        *(document(english(30, i), f"d{i}", domain="a.org", language="de") for i in range(50)),
    ]
    held = []
    ledger = StageLedger(on_hold_out=lambda name, found: held.append((name, found.name)))

    kept = list(Holdout(sets={"some": {"domains": ["a.*"], "share": 0.25}}).apply(iter(given), {}, ledger))

    assert {name for name, _ in held} == {"some"}
    assert all(name.isdigit() for _, name in held)
    assert 70 <= len(held) <= 130
    assert len(held) + len(kept) == len(given)


def test_two_holdouts_over_one_domain_draw_independently():
    given = documents([english(30, i % 50) for i in range(400)], domain="a.org", language="en")
    held = []
    ledger = StageLedger(on_hold_out=lambda name, found: held.append(name))

    list(
        Holdout(sets={n: {"domains": ["a.org"], "share": 0.25} for n in "xy"}).apply(iter(given), {}, ledger)
    )

    assert 70 <= held.count("x") <= 130
    assert 50 <= held.count("y") <= 110  # a quarter of the other three quarters


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"domains": ["python3-doc"]}, "name domains that are there: a.org"),
        ({"domains": ["a.*"], "languages": ["de"]}, "put the stage `language` before it"),
        ({"domains": ["a.*"], "min_words": 9000}, "lower min_words"),
    ],
)
def test_a_holdout_that_nothing_falls_into_is_refused(wanted, words):
    stage = Holdout(sets={"full": {"domains": ["a.org"]}, "none": wanted})
    with pytest.raises(DataError, match="the hold-out 'none' is empty") as caught:
        stage.check_cut({"full"}, ["a.org"], ["en"])
    assert words in caught.value.fix


# URLs and harmful content


def test_hosts_of_a_file_and_their_subdomains_are_blocked(tmp_path):
    (tmp_path / "hosts").write_text("# a list\nevil.com\nwww.worse.org  # a host\n\n")
    given = [
        document("x", str(i), url=url)
        for i, url in enumerate(
            [
                "https://evil.com/a",
                "http://a.b.evil.com/",
                "https://notevil.com/",
                "https://www.worse.org",
                "",
                "https://c.org/porn-a",
            ]
        )
    ]

    kept, rejected, _, _ = applied(UrlBlocklist(hosts=str(tmp_path / "hosts"), words=["porn"]), given)

    assert [d.name for d in kept] == ["2", "4"]
    assert rejected == [
        ("0", "blocked host"),
        ("1", "blocked host"),
        ("3", "blocked host"),
        ("5", "blocked word in URL"),
    ]


@pytest.mark.parametrize("url", ["http://[x/bad", "http://a\u2100b/bad"])
def test_a_malformed_url_is_counted_and_ends_no_stage(url):
    pages = [Page("site/a", page(english(9)).encode(), url=url)]

    kept, _, ledger, _ = applied(Extract(extractor="own"), pages)
    assert [d.domain for d in kept] == ["site"]
    assert ledger.counts["malformed URL"] == 1
    for stage in (UrlBlocklist(words=["porn"]), Domains(rules={"bad": ["*bad"], "named": ["site/*"]})):
        found, _, ledger, _ = applied(stage, kept)
        assert ledger.counts["malformed URL"] == 1
        assert [d.name for d in found] == ["site/a"]
    assert found[0].domain == "named"


def test_a_word_of_the_list_alone_condemns_no_document():
    innocent = english(40) + " A casino is a building."
    spam = english(4) + " casino jackpot" * 10

    kept, rejected, _, shown = applied(
        HarmfulContent(trusted=["good"]),
        [document(innocent, "a", domain="good"), document(spam, "b"), document(spam, "c", domain="good")],
    )

    assert [d.name for d in kept] == ["a"]
    assert rejected == [("b", "words of the list"), ("c", "words of the list")]
    assert shown["trusted documents that the list rejects"] == 0.5
    assert "not fitted" in shown["classifier"]


def test_the_classifier_finds_harmful_text_that_the_list_does_not():
    pytest.importorskip("sklearn")
    draw = random.Random(0)
    lure = "win big money tonight click here bonus free spins deposit now lucky offer".split()

    def advertising(n, words):
        return " ".join(draw.choice(lure + words) for _ in range(n))

    given = [
        *(document(english(20, i), f"good{i:03d}", domain="good") for i in range(100)),
        *(document(advertising(80, ["casino", "jackpot"]), f"listed{i}") for i in range(40)),
        *(document(advertising(80, []), f"hidden{i}") for i in range(10)),
    ]

    kept, rejected, _, shown = applied(HarmfulContent(trusted=["good"], false_positives=0.05), given)
    unfitted = applied(HarmfulContent(trusted=["good"]), given)[3]

    assert {d.name for d in kept} >= {f"good{i:03d}" for i in range(100)}
    assert {name for name, reason in rejected if reason == "reads like harmful text"} == {
        f"hidden{i}" for i in range(10)
    }
    assert shown["trusted documents that the classifier rejects, of others"] == 0
    assert "false_positives 0.001 needs 2,020 trusted documents, and there are 100" in unfitted["classifier"]


def test_examples_are_those_with_the_smallest_hashes_in_any_order():
    for orders in itertools.permutations([5, 3, 4, 9, 1]):
        found = Examples(2)
        for order in orders:
            found.add(0, order, f"word{order}")
        assert found.arrays()["order"].tolist() == [1, 3]


# Duplicates


def test_copies_that_differ_in_space_and_case_are_one():
    texts = [english(5, 1), english(5, 2), english(5, 1).upper().replace(" ", "  "), english(5, 1)]

    kept, rejected, _, shown = applied(ExactDuplicates(), documents(texts))

    assert [d.name for d in kept] == ["001", "002"]  # the longest text stays
    assert {name for name, _ in rejected} == {"000", "003"}
    assert shown["clusters"][0]["documents"] == 3
    assert shown["clusters"][0]["examples"] == ["000", "002", "003"]
    assert len(shown["clusters"]) == 1


@pytest.mark.parametrize("stage", [ExactDuplicates(), NearDuplicates()])
def test_documents_that_share_a_name_are_refused(stage):
    """The decision is by name, so that the last document would be rejected with the copy."""
    with pytest.raises(DataError, match="2 documents share a name with another one, such as 'x'"):
        applied(stage, [document(english(5, seed), name) for seed, name in ((1, "w"), (1, "x"), (2, "x"))])


def similar_pair(jaccard, n, seed):
    """Two texts of distinct words of which the shingles of 5 have about this Jaccard similarity."""
    draw = random.Random(f"{jaccard}-{seed}")
    words = [f"w{draw.randrange(10**9)}" for _ in range(n)]
    shingles = n - 4
    # A suffix that is replaced takes k shingles away from both: J = (s - k) / (s + k).
    k = round(shingles * (1 - jaccard) / (1 + jaccard))
    other = words[: n - k] + [f"v{draw.randrange(10**9)}" for _ in range(k)]
    return " ".join(words), " ".join(other)


@pytest.mark.parametrize(
    ("jaccard", "least", "most"), [(0.95, 1, 1), (0.85, 0.9, 1), (0.5, 0, 0.1), (0.3, 0, 0)]
)
def test_planted_near_copies_are_found_and_others_left_alone(jaccard, least, most):
    """Recall of planted pairs; the bands alone join .5 in 5% of cases, the verification not."""
    pairs = [similar_pair(jaccard, 200, seed) for seed in range(60)]

    _, rejected, _, shown = applied(NearDuplicates(), documents([text for pair in pairs for text in pair]))

    assert least <= len(rejected) / 60 <= most
    assert all(each["documents"] == 2 for each in shown["clusters"])


def test_a_chain_of_near_copies_is_one_cluster_of_which_the_longest_stays():
    words = [f"word{i:03d}" for i in range(320)]
    texts = [" ".join(words[i * 15 : i * 15 + 200 + (i == 3)]) for i in range(6)]  # neighbours: J = .86

    kept, _, _, shown = applied(NearDuplicates(), documents(texts))

    assert [d.name for d in kept] == ["003"]
    assert shown["clusters"][0]["documents"] == 6


def test_documents_that_share_a_band_by_chance_are_no_copies():
    """Hashes of three documents: the first two agree in all bands but in 78 of 112 hashes, .696."""
    rng = np.random.default_rng(0)
    least = rng.integers(0, 2**32, (3, 112), dtype=np.uint32)
    least[1, :78] = least[0, :78]
    bands = np.array([[1, 2], [1, 2], [1, 3]], np.uint64)

    assert [pair.tolist() for pair in verified_pairs(bands, least, 0.7)] == [[], []]
    assert [pair.tolist() for pair in verified_pairs(bands, least, 0.69)] == [[0], [1]]


def test_connected_agrees_with_a_search():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 60, (2, 40))
    expected = np.arange(60)
    for _ in range(60):
        for i, j in zip(one, other, strict=True):
            expected[i] = expected[j] = min(expected[i], expected[j])

    assert (connected(60, one, other) == expected).all()


def test_lines_of_many_documents_are_removed_and_those_of_few_stay():
    notice = "Copyright notice that stands on each page of this site."
    few = "A remark of moderate length that only two pages have."
    texts = [f"{english(4, i)}\n{notice}\nshort line\n{few if i < 2 else ''}" for i in range(5)]
    texts.append(f"{notice}\n{notice}")

    kept, rejected, ledger, shown = applied(DuplicateLines(max_documents=3), documents(texts))

    assert [d.name for d in kept] == ["000", "001", "002", "003", "004"]
    assert rejected == [("005", "little left without repeated lines")]
    assert all(notice not in d.text and "short line" in d.text for d in kept)
    assert few in kept[0].text
    assert ledger.n_changed == 5
    assert shown["removed lines, distinct"] == 1


def test_the_share_of_a_holdout_in_removed_lines_is_shown(tmp_path):
    """A quarter of its 200 characters is a line that is removed from the text it is held out of."""
    notice = f"{'notice ' * 6}on pages"
    assert len(notice) == 50
    with DocumentWriter(tmp_path / "held.jsonl") as writer:
        writer.add(document(f"{notice}\n{'x' * 150}", "held"))
    texts = [f"{english(4, i)}\n{notice}" for i in range(4)]

    *_, shown = applied(
        DuplicateLines(max_documents=3), documents(texts), {"some": [tmp_path / "held.jsonl"]}
    )

    assert shown["share of hold-out some in removed lines"] == "25.00%"


# Quality, domains, mix


def test_quality_keeps_what_reads_like_trusted_text():
    pytest.importorskip("sklearn")
    draw = random.Random(1)
    noise = [" ".join(f"{draw.choice('abcdef')}{draw.randrange(99)}" for _ in range(80)) for _ in range(60)]
    given = [
        *(document(english(20, i), f"t{i}", domain="trusted") for i in range(60)),
        *(document(english(20, 1000 + i), f"g{i}", domain="web") for i in range(60)),
        *(document(text, f"n{i}", domain="web") for i, text in enumerate(noise)),
    ]

    kept, rejected, _, shown = applied(Quality(trusted=["trusted"], keep=2 / 3), given)

    assert {name[0] for name, _ in rejected} == {"n"}
    assert len(rejected) == 60
    assert shown["trusted documents that are rejected, of examples that were not fitted"] == 0
    assert all("quality" in d.meta for d in kept)


def test_the_share_that_is_kept_holds_for_documents_that_were_not_drawn():
    """Trusted and raw text of one kind: a classifier tells them apart only where it was fitted to them."""
    pytest.importorskip("sklearn")
    given = [
        *(document(english(20, i), f"t{i}", domain="trusted") for i in range(150)),
        *(document(english(20, 1000 + i), f"g{i}", domain="web") for i in range(1200)),
    ]

    kept, _, _, _ = applied(Quality(trusted=["trusted"], keep=0.5, examples=300), given)

    n_kept = sum(d.domain == "web" for d in kept)
    assert n_kept / 1200 == pytest.approx(0.5, abs=0.2)  # 3 standard errors of 60 examples


def test_too_few_trusted_documents_are_refused():
    given = documents([english(9, i) for i in range(30)], domain="web")
    with pytest.raises(DataError, match="0 trusted and 30 other documents are too few"):
        applied(Quality(trusted=["none"], keep=0.5), given)


def test_domains_are_named_by_rule_and_otherwise_by_text():
    pytest.importorskip("sklearn")
    draw = random.Random(2)

    def numbers():
        return " ".join(str(draw.randrange(100)) for _ in range(60))

    given = [
        *(document(english(9, i), f"e{i}", url=f"https://e.org/{i}") for i in range(40)),
        *(document(numbers(), f"n{i}", url=f"https://n.org/{i}") for i in range(40)),
        document(english(9, 999), "unknown prose", domain="x"),
        document(numbers(), "unknown numbers", domain="x"),
    ]
    rules = {"prose": ["e.org/*"], "numbers": ["n.org/*"]}

    named = {d.name: d.domain for d in applied(Domains(rules=rules, classify=True), given)[0]}
    unclassified = {d.name: d.domain for d in applied(Domains(rules=rules), given)[0]}

    assert (named["e0"], named["n0"]) == ("prose", "numbers")
    assert (named["unknown prose"], named["unknown numbers"]) == ("prose", "numbers")
    assert unclassified["unknown prose"] == "x"


def test_examples_are_merged_shard_by_shard():
    """Of each label those with the smallest hashes, while the arrays of one shard are in memory."""
    draw = np.random.default_rng(0)
    alive, every = [], []

    def shards():
        for i in range(6):
            orders, labels = (
                draw.permutation(1000)[:8].astype(U64) + U64(1000 * i % 3),
                draw.integers(0, 2, 8),
            )
            places = np.arange(8, dtype=np.int32) + 8 * i
            every.extend(zip(labels.tolist(), orders.tolist(), places.tolist(), strict=True))
            alive.append(weakref.ref(places))
            yield {"label": labels, "order": orders, "length": np.ones(8, int), "places": places}
            del places
            assert sum(each() is not None for each in alive) <= 1

    found = ExampleSet.merged(shards(), 3)

    wanted = [each for label in (0, 1) for each in sorted(e for e in every if e[0] == label)[:3]]
    assert list(zip(found.label, found.order, [row[0] for row in found.rows], strict=True)) == wanted


def test_a_domain_whose_only_example_is_kept_for_the_test_leaves_no_classifier():
    pytest.importorskip("sklearn")
    alone = next(
        d
        for i in range(99)
        if int(mix(np.array([name_hash(d := document("words", f"n{i}"))], U64))[0]) % 5 == 0
    )
    given = [*(document(english(9, i), f"e/{i}") for i in range(10)), alone]

    kept, _, _, shown = applied(Domains(rules={"prose": ["e/*"], "one": ["n*"]}, classify=True), given)

    assert "fewer than two domains" in shown["classifier"]
    assert [d.domain for d in kept] == ["prose"] * 10 + ["one"]


def test_repeats_follow_the_weights_up_to_the_cap():
    """By hand: 100 + 100 bytes; weights 3:1 give 150 and 50."""
    assert repeats({"a": 3, "b": 1}, {"a": 100, "b": 100}, 4) == {"a": 1.5, "b": 0.5}
    assert repeats({"a": 1}, {"a": 100, "b": 100}, 4) == {"a": 2.0, "b": 0.0}
    # 10 bytes cannot be more than 20: the other gets what is left open.
    assert repeats({"a": 1, "b": 1}, {"a": 10, "b": 90}, 2) == {"a": 2, "b": pytest.approx(80 / 90)}


def test_a_mix_has_the_shares_that_were_asked_for():
    given = [document(english(6, i), f"{i:03d}", domain="a" if i % 2 else "b") for i in range(400)]

    kept, _, _, shown = applied(DomainMix(weights={"a": 0.75, "b": 0.25}), given)

    size = {name: sum(d.n_bytes for d in kept if d.domain == name) for name in "ab"}
    assert size["a"] / sum(size.values()) == pytest.approx(0.75, abs=0.03)
    assert sum(size.values()) == pytest.approx(sum(d.n_bytes for d in given), rel=0.05)
    assert shown["share of the bytes"] == pytest.approx({"a": 0.75, "b": 0.25})


def test_a_weight_of_a_domain_without_documents_is_refused():
    with pytest.raises(DataError, match="the domain 'c' has no documents") as caught:
        applied(DomainMix(weights={"c": 1}), documents(["x"], domain="a"))
    assert "a" in caught.value.fix


# Decontamination


@pytest.fixture
def held_out(tmp_path):
    def write(*texts):
        with DocumentWriter(tmp_path / "holdout.jsonl") as writer:
            for i, text in enumerate(texts):
                writer.add(document(text, f"h{i}"))
        return {"some": [tmp_path / "holdout.jsonl"]}

    return write


def words(n, prefix):
    return " ".join(f"{prefix}{i}" for i in range(n))


def test_held_out_text_is_hashed_once_for_all_shards_and_observations_do_not_repeat_it(held_out, monkeypatch):
    stage, context = Decontaminate(), CurationContext(held_out(words(20, "secret")))
    texts = [f"{words(60, f'd{i}x')} {words(20, 'secret')}" for i in range(4)]
    read, real = [], decontaminate.read_documents
    monkeypatch.setattr(decontaminate, "read_documents", lambda path: read.append(path) or real(path))

    observed = [stage.observe(iter(documents([text])), context) for text in texts]
    decision = stage.decide(observed, context)

    assert len(read) == 1
    assert set(observed[0]) == {"found", "place", "sketch"}
    whole = stage.decide([stage.observe(iter(documents(texts)), context)], context)
    assert all(np.array_equal(decision[name], whole[name]) for name in ("passages", "shared"))
    assert len(decision["shared"]) == 8
    held_out("another text", words(30, "other"))
    assert len(stage.decide([stage.observe(iter(documents(texts)), context)], context)["shared"]) == 0
    assert len(read) == 2  # the file is another one


def test_a_planted_passage_is_cut_with_its_surroundings_and_nothing_else(held_out):
    secret = words(20, "secret")
    text = f"{words(400, 'before')} {secret} {words(400, 'after')}"
    clean = words(500, "clean") + " " + " ".join(secret.split()[:12])  # 12 words are no passage

    kept, rejected, _, shown = applied(Decontaminate(), documents([text, clean]), held_out(secret))

    assert not rejected
    assert kept[1].text == clean
    assert "secret" not in kept[0].text
    cut = len(text) - len(kept[0].text)
    assert len(secret) + 400 <= cut + 4 <= len(secret) + 410
    assert kept[0].text.startswith("before0 ")
    assert kept[0].text.endswith("after399")
    assert shown["passages of held-out text"] == 8 == shown["found in the corpus"]


def test_copies_of_held_out_text_are_rejected_and_phrases_of_everybody_are_left(held_out):
    copy, licence = words(60, "copy"), words(15, "licence")
    texts = [f"{copy} and more", *(f"{words(200, f'd{i}x')} {licence}" for i in range(12))]

    kept, rejected, _, _ = applied(Decontaminate(), documents(texts), held_out(copy, licence))

    assert rejected == [("000", "shares held-out text")]
    assert len(kept) == 12
    assert all(d.text.endswith(licence) for d in kept)


def test_a_page_with_many_copies_is_no_phrase_of_everybody(held_out):
    """12 copies of a held-out page, and 12 near copies of a page that quotes it, as mirrors of a site are."""
    copy, quoted = words(60, "copy"), words(20, "quoted")
    mirrored = f"{words(400, 'mirror')} {quoted} {words(400, 'more')}"
    texts = [*(f"{copy} number {i}" for i in range(12)), *(f"{mirrored} number {i}" for i in range(12))]

    kept, rejected, _, shown = applied(Decontaminate(), documents(texts), held_out(copy, quoted))

    assert [name for name, _ in rejected] == [f"{i:03d}" for i in range(12)]
    assert len(kept) == 12
    assert not any("quoted" in d.text for d in kept)
    assert shown["of these common, and not cut"] == 0


def test_a_document_of_held_out_text_alone_is_cut_where_any_share_is_allowed(held_out):
    copy = words(60, "copy")
    _, rejected, _, _ = applied(Decontaminate(max_share=1.0), documents([copy]), held_out(copy))
    assert rejected == [("000", "little left without held-out text")]


def test_a_document_of_phrases_of_everybody_alone_is_held_out_text(held_out):
    licence = words(15, "licence")
    texts = [*(f"{words(200, f'd{i}x')} {licence}" for i in range(12)), f"see {licence}"]

    kept, rejected, _, shown = applied(Decontaminate(), documents(texts), held_out(licence))

    assert rejected == [("012", "shares held-out text")]
    assert len(kept) == 12
    assert shown["of these common, and not cut"] == 3


def test_evaluation_files_count_as_held_out(tmp_path):
    (tmp_path / "eval.jsonl").write_text(json.dumps({"text": words(30, "question")}) + "\n")

    _, rejected, _, _ = applied(
        Decontaminate(against=[str(tmp_path / "eval.jsonl")]),
        documents([words(30, "question"), words(99, "other")]),
    )

    assert rejected == [("000", "shares held-out text")]


def test_held_out_text_without_a_passage_is_refused(held_out):
    with pytest.raises(DataError, match="no passage of 13 words"):
        applied(Decontaminate(), documents([english(5)]), held_out("a few words"))


def test_characters_outside_of_ascii_are_cut_at_the_right_place(held_out):
    secret = " ".join(f"Straße{i}ÄÖ" for i in range(20))
    text = f"{words(200, 'ä')} {secret} {words(200, 'ß')}"

    kept, _, _, _ = applied(Decontaminate(), documents([text]), held_out(secret))

    assert "Straße" not in kept[0].text
    assert kept[0].text.startswith("ä0 ")


@pytest.mark.parametrize("word", ["İstanbul", "ΟΔΟΣ'Ψ"])
def test_words_whose_lower_case_is_longer_or_depends_on_what_follows_are_cut_at_the_right_place(
    held_out, word
):
    secret = f"{words(7, 'gizli')} {word} {words(7, 'sonra')}"
    text = f"{words(200, 'İ')} {secret} {words(200, 'ß')}"

    kept, rejected, ledger, _ = applied(Decontaminate(), documents([text]), held_out(secret))

    assert not rejected
    assert ledger.counts == {"documents that share a passage": 1, "passages cut": 1}
    at = text.index(secret)
    pieces = text[: at - 200], text[at + len(secret) + 200 :]
    assert kept[0].text == "\n\n".join(piece.strip() for piece in pieces)


def test_the_places_of_words_are_those_of_the_words_that_are_hashed():
    text = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    text += " İi̇ İİ_İ ΣΑΣ ΑΣ'Σ. ǅ ﬁ "
    assert len(decontaminate._word_places(text)) == len(words_of(text.encode()))
    assert words_of("aİ İstanbul, x".encode()) == [b"ai", b"i", b"stanbul", b"x"]
    assert decontaminate._word_places("aİ İstanbul, x") == [(0, 2), (3, 4), (4, 11), (13, 14)]


# Extraction as a stage


def test_pages_without_text_and_unreadable_ones_are_rejected_with_their_reason():
    pages = [
        Page("good", page(english(9)).encode()),
        Page("empty", b"<html><body></body></html>"),
        Page("problem", b"", problem="page too large"),
        Page("binary", bytes(range(128, 256)) * 50 + b"\0" * 900),
        Page("text", english(9).encode(), media="text"),
    ]

    kept, rejected, _, _ = applied(Extract(extractor="own"), pages)

    assert [d.name for d in kept] == ["good", "text"]
    assert rejected == [
        ("empty", "little or no text"),
        ("problem", "page too large"),
        ("binary", "no known encoding"),
    ]
    assert kept[0].language == "en"
    assert kept[0].domain == "good"


def test_pages_without_a_url_have_the_domain_of_their_file_and_not_one_each():
    names = ["x.jsonl:1", "x.jsonl:2000", "a:1/x.jsonl:2", "x.warc.gz:7", "a.html", "b/c.html", "name"]
    given = [Page(name, english(9).encode(), media="text") for name in names]
    given.append(Page("x.jsonl:3", english(9).encode(), media="text", url="https://www.a.org:80/1"))

    kept, _, _, _ = applied(Extract(extractor="own"), given)

    domains = ["x.jsonl", "x.jsonl", "a:1", "x.warc.gz", "a.html", "b", "name", "a.org"]
    assert [d.domain for d in kept] == domains

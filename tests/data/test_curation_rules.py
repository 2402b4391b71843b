"""Rules for text and personal data: values by hand on both sides of each threshold, near misses."""

from pathlib import Path

import pytest
from curation import applied, document, english

from scalelab.config import parse_yaml
from scalelab.data.curate.file import CurationFile
from scalelab.data.curate.stages.heuristics import Heuristics
from scalelab.data.curate.stages.pii import PersonalData, is_card, is_iban, masked, masked_excerpt
from scalelab.data.curate.text_rules import RULES, TextStatistics
from scalelab.errors import ConfigError
from scalelab.file_kinds import kind_of_path

PROSE = english(40)


def value(rule, text):
    return RULES[rule].value(TextStatistics(text))


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("min_words", "a b  c\nd", 4),
        ("max_words", "a b", 2),
        ("min_mean_word_length", "ab abcd", 3),
        ("max_mean_word_length", "ab abcd", 3),
        ("symbols_per_word", "# a ... b", 0.5),
        ("bullet_lines", "- a\nb\n• c\n\n* d", 0.75),
        ("ellipsis_lines", "a...\nb…\nc\nd", 0.5),
        ("words_with_letter", "a1 2 -- b,", 0.5),
        ("stop_words", "The cat and THE dog", 2),
        ("duplicate_lines", "a\nb\na\na", 0.5),
        ("duplicate_paragraphs", "a\n\nb\n\na\n\nc", 0.25),
        ("duplicate_line_characters", "aaaa\nbb\naaaa", 0.4),
        ("duplicate_paragraph_characters", "aaaa\n\nbb\n\naaaa", 0.4),
        ("top_2_gram", "a b c a b d", 4 / 6),
        ("top_2_gram", "a b c d", 0),
        ("top_3_gram", "a b c x a b c y", 6 / 8),
        ("top_4_gram", "a b c d", 0),
        ("repeated_5_grams", "a b c d e x a b c d e", 5 / 11),
        ("repeated_6_grams", "a b c d e f a b c d e f", 0.5),
        ("repeated_7_grams", "a b c d e f g", 0),
        ("repeated_8_grams", "x " * 9, 8 / 9),  # the 8-gram at the second word is the one at the first
        ("repeated_9_grams", "a b", 0),
        ("repeated_10_grams", "", 0),
        ("min_sentences", "One. Two! (Three?) v1.2 four", 3),
        ("placeholder_text", "Lorem ipsum, lorem IPSUM", 2),
        ("lines_with_end", "a.\nb\nc!\nd", 0.5),
        ("characters_of_duplicate_lines", "aa\naa\nbb", 1 / 3),
        ("short_lines", "a\n" + "b" * 30, 0.5),
    ],
)
def test_values_by_hand(rule, text, expected):
    assert value(rule, text) == pytest.approx(expected)


def test_every_rule_is_tested_here():
    tested = {case[0] for mark in test_values_by_hand.pytestmark for case in mark.args[1]}
    assert tested == set(RULES)


def test_prose_passes_and_each_kind_of_bad_text_fails_by_its_rule():
    bad = {
        "gopher: min_words": "A short text of the page.",
        "gopher: words_with_letter": PROSE + " 12 34 56 78" * 80,
        "gopher: symbols_per_word": PROSE.replace(" ", " #"),
        "gopher: stop_words": "lorem dolor sit amet consectetur. " * 30,
        "gopher: bullet_lines": "\n".join(
            f"- {line} of the and to {i}" for i, line in enumerate(PROSE.replace("\n\n", " ").split(". "))
        ),
        "repetition: duplicate_lines": f"{PROSE}\n" * 3,
        "c4: min_sentences": PROSE.replace(".", ""),
    }

    assert Heuristics().reason_of(PROSE) is None
    found = {reason: Heuristics().reason_of(text) for reason, text in bad.items()}

    assert {reason: first[0] for reason, first in found.items()} == {reason: reason for reason in bad}


def test_technical_prose_with_punctuation_passes():
    """A tokenizer that counts punctuation as words lets 8 in 10 such pages fail."""
    text = " ".join(
        f"The call `f({i}, [x], {{y: {i}}})` returns (and stores) the value of it, if it has one to return; see [{i}]."
        for i in range(40)
    )
    assert Heuristics(use=["gopher", "c4"]).reason_of(text) is None


def test_the_value_and_the_threshold_are_kept_with_a_rejected_document():
    _, rejected, _, _ = applied(Heuristics(thresholds={"min_words": 900}), [document(PROSE)])
    assert rejected == [("a", "gopher: min_words")]
    reason = Heuristics(thresholds={"min_words": 900}).reason_of("a b")
    assert reason == ("gopher: min_words", "2, needs >= 900")


def test_rules_can_be_left_out_and_sets_chosen():
    assert set(Heuristics(use=["c4"]).applied) == {"min_sentences", "placeholder_text"}
    assert "stop_words" not in Heuristics(without=["stop_words"]).applied


# What a curation file may say


HOLDOUT = "{kind: holdout, sets: {a: {domains: [b]}}}"


def refused(stages, source="{kind: files, paths: [a]}"):
    text = f"name: x\nsource: {source}\nstages:\n{stages}\n"
    with pytest.raises(ConfigError) as caught:
        CurationFile.parse(parse_yaml(text, "x.yaml"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("  - language", "the first stage is 'language', and only `extract` reads pages"),
        ("  - extract\n  - extractt", "unknown curation stage 'extractt'; did you mean 'extract'"),
        (
            "  - extract\n  - {kind: heuristics, without: [min_word]}",
            "unknown rule 'min_word'; did you mean 'min_words'",
        ),
        (
            "  - extract\n  - {kind: heuristics, thresholds: {short_lines: 1.5}}",
            "1.5 of short_lines is not between 0 and 1",
        ),
        ("  - extract\n  - {kind: near_duplicates, threshold: 1.2}", "threshold"),
        ("  - extract\n  - {kind: near_duplicates, threshold: 0.2}", "threshold"),
        ("  - extract\n  - decontaminate", "decontaminate has nothing to compare with"),
        (
            f"  - extract\n  - {{kind: quality, trusted: [a], keep: 0.5}}\n  - {HOLDOUT}\n  - decontaminate",
            "quality learns from all documents before holdout cuts some",
        ),
        (f"  - extract\n  - harmful\n  - {HOLDOUT}\n  - decontaminate", "harmful learns from all documents"),
        (
            f"  - extract\n  - {{kind: domains, classify: true}}\n  - {HOLDOUT}\n  - decontaminate",
            "domains learns from all documents",
        ),
        (
            f"  - extract\n  - {{kind: mix, weights: {{a: 1}}}}\n  - {HOLDOUT}\n  - decontaminate",
            "mix repeats documents before holdout",
        ),
        (f"  - extract\n  - {HOLDOUT}\n  - pii", "near copies of held-out documents stay"),
        ("  - extract\n  - {kind: quality, trusted: [a]}", "give one of keep (a share) and min_score"),
        ("  - extract\n  - {kind: quality, keep: 0.5}", "name trusted domains"),
        ("  - extract\n  - {kind: mix, weights: {a: 0}}", "every weight is 0"),
        ("  - extract\n  - extract", "'extract' is there twice"),
        ("  - extract\n  - {kind: holdout, sets: {a: {domains: [b], share: 0.9}}}", "share"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_at_its_line(stages, words):
    text = refused(stages)
    assert words in text
    assert "x.yaml:" in text


def test_stages_that_only_count_or_compare_may_stand_before_the_holdout():
    stages = (
        f"[extract, {{kind: harmful, classifier: false}}, domains, near_duplicates, {HOLDOUT}, decontaminate]"
    )
    text = f"name: x\nsource: {{kind: files, paths: [a]}}\nstages: {stages}\n"
    assert len(CurationFile.parse(parse_yaml(text, "x.yaml")).stages) == 6


# Personal data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+list@mail.example.co.uk.", "Write to <EMAIL>."),
        ("<jane@example.org>, (bob_1@x-y.de)", "<<EMAIL>>, (<EMAIL>)"),
        ("user@localhost, a@b, @decorator, foo @ bar.com, git@", None),
        ("call +1 (202) 555-0143 or +49 30 1234567.", "call <PHONE> or <PHONE>."),
        ("(202) 555-0143, 202-555-0143, 202.555.0143", "<PHONE>, <PHONE>, <PHONE>"),
        ("on 2020-01-02, 1234567890, ISBN 978-3-16-148410-0, 3.14159265358, RFC 2026-1234", None),
        ("at 8.8.8.8, then 1.1.1.1. End", "at <IP>, then <IP>. End"),
        ("2001:4860:4860::8888 answers", "<IP> answers"),
        ("127.0.0.1, 192.168.1.10, 10.0.0.1, 256.1.1.1, 1.2.3, 1.2.3.4.5, ::1, std::abs, 12:30:45", None),
        ("version 1.2.3.4 and v8.8.8.8", None),
        ("12.1.1.2. Setting up\n\n  9.7.3.3.\u00a0Escapes\n", None),
        ("8.8.8.8\n9.9.9.9 is one\nask 4.4.4.4. Then", "<IP>\n<IP> is one\nask <IP>. Then"),
        ("130.89.148.77. An address of three digits", "<IP>. An address of three digits"),
        ("card 4111 1111 1111 1111 and 5500-0000-0000-0004", "card <CARD> and <CARD>"),
        ("4111 1111 1111 1112, 1234 5678 9012 3456, 0000 0000 0000 0000", None),
        ("DE89 3704 0044 0532 0130 00; GB82WEST12345698765432", "<IBAN>; <IBAN>"),
        ("DE89 3704 0044 0532 0130 01, DE8937040044053201300, XX89370400440532013000", None),
        ("4111 1111 1111 1111 12/25 123; 4111111111111111 123", "<CARD> 12/25 123; <CARD> 123"),
        ("4111-1111-1111-1111-7, 3782 822463 10005 1234", "<CARD>-7, <CARD> 1234"),
        ("7 4111 1111 1111 1111, 12/25 4111111111111111", "7 <CARD>, 12/25 <CARD>"),
        ("4111 1111 1111 1111 5500 0000 0000 0004", "<CARD> <CARD>"),
        ("AT61 1904 3002 3457 3201 BIC: BKAUATWW", "<IBAN> BIC: BKAUATWW"),
        ("ES91 2100 0418 4502 0005 1332 BIC", "<IBAN> BIC"),
        ("BE68 5390 0754 7034 GEBABEBB AT61 1904 3002 3457 3201", "<IBAN> GEBABEBB <IBAN>"),
        ("KTO1 2345 AT61 1904 3002 3457 3201", "KTO1 2345 <IBAN>"),
        ("Tel +49 30 1234567 10115 Berlin", "Tel <PHONE> 10115 Berlin"),
        ("[256 512 1024], 640 480 1024, shape 224 224 3000", None),
        ("+3.14159265358 +1.234567890 $+12345.678 -+271.82818 +123.45 678.90", None),
        ("+2023-04-05 10:11:12 and\n+1999-12-31 23", None),
        ("+1024 2048 4096, +1 555 0143 2024", None),
        ("1 202 555 0143 or (202) 555 0143, +1 202 555 0143 77", "<PHONE> or <PHONE>, <PHONE> 77"),
        ("Tel. 202 555 0143, phone: 202 555 0143", "Tel. <PHONE>, phone: <PHONE>"),
        ("Registrant Phone: +1.2025550143", "Registrant Phone: <PHONE>"),
        ("a hotel 256 512 1024, telling +3.14159265358", None),
    ],
)
def test_personal_data_is_masked_and_near_misses_stay(text, expected):
    kinds = PersonalData().mask
    assert masked(text, kinds)[0] == (text if expected is None else expected)
    assert bool(masked(text, kinds)[1]) == (expected is not None)


def test_check_digits_by_hand():
    """Published test numbers of four issuers. GB82 WEST 1234 5698 7654 32 is the example of ISO 13616."""
    numbers = "4111111111111111 5555555555554444 378282246310005 6011111111111117".split()
    assert all(map(is_card, numbers))
    wrong = [f"{n[:i]}{(int(n[i]) + 1) % 10}{n[i + 1 :]}" for n in numbers for i in range(len(n))]
    assert not any(map(is_card, wrong))
    assert is_iban("GB82 WEST 1234 5698 7654 32")
    assert not is_iban("GB82 WEST 1234 5698 7654 23")
    assert not is_card("79927398713")  # right digit, but 11 digits are no card


def test_findings_are_counted_and_never_recorded():
    kept, _, ledger, _ = applied(PersonalData(), [document("a@b.org and c@d.org, 8.8.8.8 " + PROSE)])

    assert ledger.counts == {"email masked": 2, "ip masked": 1}
    assert ledger.n_changed == 1
    assert "a@b.org" not in repr(ledger.changed) + kept[0].text


def test_an_address_that_an_excerpt_cuts_off_is_masked_too():
    assert masked_excerpt("a@b.org, mail jane.doe@exam") == "<EMAIL>, mail <EMAIL>"
    assert masked_excerpt("an @decorator and 5 @ 3") == "an @decorator and 5 @ 3"


def test_only_the_kinds_that_are_asked_for_are_masked():
    assert masked("a@b.org 8.8.8.8", ("ip",))[0] == "a@b.org <IP>"


# Stages left out


def extended(tmp_path, monkeypatch, text):
    (tmp_path / "whole.yaml").write_text(
        f"name: whole\nsource: {{kind: files, paths: [a]}}\nstages:\n  - extract\n  - {HOLDOUT}\n"
        "  - exact_duplicates\n  - {kind: quality, trusted: [a], keep: 0.5}\n  - decontaminate\n"
    )
    (tmp_path / "less.yaml").write_text(f"extends: whole.yaml\nname: less\n{text}\n")
    monkeypatch.chdir(tmp_path)
    return Path("less.yaml")


def test_an_ablation_extends_a_file_and_leaves_stages_out(tmp_path, monkeypatch):
    path = extended(tmp_path, monkeypatch, "without: [exact_duplicates, quality]")

    config = CurationFile.load(path)

    assert config.name == "less"
    assert [stage.kind for stage in config.used_stages] == ["extract", "holdout", "decontaminate"]
    assert kind_of_path(path) == "curation"


@pytest.mark.parametrize(
    ("without", "words", "where"),
    [
        ("qualty", "no stage 'qualty' to leave out; did you mean 'quality'", "less.yaml:3"),
        ("extract", "the first stage is 'holdout'", "whole.yaml:5"),
        ("holdout", "decontaminate has nothing to compare with", "whole.yaml:8"),
        ("decontaminate", "near copies of held-out documents stay", "whole.yaml:5"),
    ],
)
def test_what_cannot_be_left_out_is_refused_at_its_line(tmp_path, monkeypatch, without, words, where):
    with pytest.raises(ConfigError) as caught:
        CurationFile.load(extended(tmp_path, monkeypatch, f"without: [{without}]"))
    assert words in str(caught.value)
    assert where in str(caught.value)

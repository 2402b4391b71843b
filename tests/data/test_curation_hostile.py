"""Damaged and hostile pages: chunks, compressed bodies, lengths, markup and text made to cost time."""

import gzip
import signal

import pytest
from curation import english, record

from scalelab.data.curate.extraction.mathematics import keep_mathematics
from scalelab.data.curate.pages.warc import warc_pages
from scalelab.data.curate.stages.extract import _tidy
from scalelab.data.curate.stages.pii import masked
from scalelab.errors import DataError


def problems(path):
    return [(p.problem, p.data) for p in warc_pages(path, "a")]


def test_chunks_of_negative_size_or_past_the_end_are_no_endless_loop_and_no_page(archive):
    chunked = "Transfer-Encoding: chunked\r\n"
    bodies = [
        b"-6\r\nhello",  # no mark of a chunk: the body was stored without them
        b"5\r\nhello\r\n-a\r\nhello",
        b"5\r\nhello\r\nff\r\n world\r\n0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
    ]
    found = problems(archive(*(record(f"https://a.org/{i}", b, more=chunked) for i, b in enumerate(bodies))))

    assert found == [("", bodies[0]), *[("damaged chunks", b"")] * 3]


def test_a_compressed_body_is_read_to_its_last_member_and_refused_where_it_was_cut_short(archive):
    packed = "Content-Encoding: gzip\r\n"
    text = english(30).encode()
    one, two = gzip.compress(text), gzip.compress(b" and more")
    bodies = [one + two, one + b"\0\0", one[: len(one) // 2], one + b"<p>no member</p>"]
    found = problems(archive(*(record(f"https://a.org/{i}", b, more=packed) for i, b in enumerate(bodies))))

    assert found == [
        ("", text + b" and more"),
        ("", text),
        ("compressed body cut short", b""),
        ("damaged compression", b""),
    ]


def test_a_length_that_is_no_number_is_refused(archive):
    damaged = record("https://a.org/", b"<p>x</p>").replace(b"Content-Length: ", b"Content-Length: abc", 1)
    with pytest.raises(DataError, match=r"record 1 of a\.warc states the length 'abc"):
        list(warc_pages(archive(damaged, name="a.warc"), "a"))


def in_time(work, seconds=10):
    """Run a function that is linear in its input, and fail where it has not ended after very long."""

    def late(*_):
        pytest.fail("the time is not proportional to the length of the text")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return work()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "part", ["<math>", "<math", "<math><annotation encoding='application/x-tex'>", "<script type='math/tex'>"]
)
def test_mathematics_that_is_never_closed_is_left_as_it_is(part):
    html = part * 50_000
    assert in_time(lambda: keep_mathematics(html)) == html


def test_annotations_of_other_kinds_before_the_tex_are_passed_over():
    html = (
        '<math display="block"><annotation-xml encoding="MathML-Content"><ci>x</ci></annotation-xml>'
        '<annotation encoding="application/x-tex">x^2</annotation></math >'
    )
    assert keep_mathematics(html) == "<span>$$x^2$$</span>"


def test_long_runs_of_space_and_digits_cost_no_more_than_their_length():
    spaces = "word" + " \t" * 200_000 + "end  \n \nmore \t"
    assert in_time(lambda: _tidy(spaces)) == "word" + " \t" * 200_000 + "end\n\nmore"
    digits = ("+" + "1" * 39 + " ") * 5000
    assert in_time(lambda: masked(digits, ("phone",))) == (digits, {})

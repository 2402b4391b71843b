"""What tests of curation share: prose, pages, documents, and a stage applied to a few of them."""

import random

from scalelab.data.curate.base import CurationContext, StageLedger, WebDocument

NOUNS = "server module function planner index parser thread user table value copy list path option result lock page"
NOUNS += (
    " query buffer session driver record label letter garden river window teacher mountain paper stone bread"
)
ADJECTIVES = (
    "first last open small large quick late early new old common rare plain empty full short long broad"
)
ADJECTIVES += " narrow quiet loud bright dark heavy light strong weak fresh round square local remote shared"
VERBS = "reads returns stores checks replaces describes limits allows keeps moves finds takes needs follows covers"
PLACES = "with of to that has below above before after without behind near inside beyond between".split()
NOUNS, ADJECTIVES, VERBS = NOUNS.split(), ADJECTIVES.split(), VERBS.split()


def english(n_sentences, seed=0):
    """Sentences of plain English, five to a paragraph."""
    draw = random.Random(f"english-{seed}")
    sentences = []
    for i in range(n_sentences):
        parts = [
            f"{draw.choice(('the', 'a', 'every', 'this'))} {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}"
            for _ in "abc"
        ]
        sentence = f"{parts[0]} {draw.choice(VERBS)} {parts[1]} {draw.choice(PLACES)} {parts[2]}"
        sentences.append(f"{sentence.capitalize()}." + ("\n\n" if i % 5 == 4 else ""))
    return " ".join(sentences).strip().replace("\n\n ", "\n\n")


def page(text, title="Title"):
    """An HTML page with navigation around some text."""
    body = "".join(f"<p>{part}</p>" for part in text.split("\n\n"))
    links = "".join(f'<a href="/{i}">Chapter number {i}</a> ' for i in range(8))
    return (
        f'<!DOCTYPE html><html lang="en"><head><title>{title}</title></head><body><nav>{links}</nav>'
        f"<main><h1>{title}</h1>{body}</main><footer>Copyright <a href='/'>Home</a></footer></body></html>"
    )


def document(text, name="a", **about):
    return WebDocument(name, text, **about)


def documents(texts, **about):
    return [WebDocument(f"{i:03d}", text, **about) for i, text in enumerate(texts)]


def applied(stage, given, holdouts=None):
    """Kept documents, (name, reason) of the others, ledger, findings of the decision."""
    context = CurationContext(holdouts or {})
    decision = {}
    if stage.observes:
        decision = stage.decide([stage.observe(iter(given), context)], context)
    rejected = []
    ledger = StageLedger(lambda found, reason, detail: rejected.append((found.name, reason)))
    kept = list(stage.apply(iter(given), decision, ledger))
    return kept, rejected, ledger, context.shown


def record(url, body, kind="response", content_type="text/html; charset=utf-8", more="", status="200 OK"):
    block = body
    if kind == "response":
        block = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{more}\r\n".encode() + body
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2020-02-03T04:05:06Z\r\n"
        "WARC-Record-ID: <urn:uuid:12345678-1234-1234-1234-123456789012>\r\n"
        f"Content-Type: {'application/http' if kind == 'response' else 'text/plain'}\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"

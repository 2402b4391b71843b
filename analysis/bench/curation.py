"""How fast each stage of a curation is, beside other libraries where they are installed.

    python analysis/bench/curation.py [DOCUMENTS.jsonl ...] [PAGE.html ...]

Documents are those of a stage, <cache>/curation/extract-*/documents-*.jsonl.

Prints one JSON object a line: MB of text (of markup for extraction) per CPU second of one process. Without a file
the pages are made here, so only the ratios mean anything. Nothing is a limit: the machine may be shared.
"""

import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from curation import english, page

from scalelab.data.curate import CURATION_STAGES
from scalelab.data.curate.base import Arrays, CurationContext, StageLedger, WebDocument
from scalelab.data.curate.extraction.encodings import decoded
from scalelab.data.curate.stages.extract import EXTRACTORS
from scalelab.data.curate.store import read_documents

STAGES = {
    "harmful": {},
    "exact_duplicates": {},
    "duplicate_lines": {},
    "near_duplicates": {},
    "heuristics": {},
    "heuristics: gopher and repetition": {"use": ["gopher", "repetition"]},
    "pii": {},
    "language": {},
}
MOST = 3_000_000
"""Bytes of documents at most."""


def main(paths: list[str]) -> int:
    documents: list[WebDocument] = []
    size = 0
    for path in (path for path in paths if path.endswith(".jsonl")):
        for document in read_documents(Path(path)):
            if size < MOST:
                documents.append(document)
                size += document.n_bytes
    if not documents:
        documents = [WebDocument(str(i), english(60, i)) for i in range(400)]
        size = sum(document.n_bytes for document in documents)
    markup = [decoded(Path(path).read_bytes())[0] for path in paths if path.endswith(".html")]
    markup = markup or [page(document.text) for document in documents[:100]]
    for name, extract in EXTRACTORS.items():
        if all(
            importlib.util.find_spec(n)
            for n in {"own": [], "union": ["resiliparse", "trafilatura"]}.get(name, [name])
        ):
            extract(markup[0])  # what is loaded at the first call
            report(f"extract: {name}", sum(map(len, markup)), lambda e=extract: [e(text) for text in markup])
    for kind, settings in STAGES.items():
        name = kind.partition(":")[0]
        stage = CURATION_STAGES[name].model_validate({"kind": name, **settings})
        if kind == "language" and importlib.util.find_spec("py3langid") is None:
            continue
        list(stage.apply(iter(documents[:1]), decided(stage, documents[:40]), StageLedger()))
        report(
            kind, size, lambda s=stage: list(s.apply(iter(documents), decided(s, documents), StageLedger()))
        )
    if importlib.util.find_spec("datasketch") is not None:
        report("near_duplicates: datasketch, hashes alone", size, lambda: datasketch(documents))
    if importlib.util.find_spec("datatrove") is not None and importlib.util.find_spec("spacy") is not None:
        for what, work in datatrove().items():
            work(documents[0])  # what is loaded at the first call
            report(what, size, lambda w=work: [w(document) for document in documents])
    return 0


def decided(stage: object, documents: list[WebDocument]) -> Arrays:
    context = CurationContext({})
    return stage.decide([stage.observe(iter(documents), context)], context) if stage.observes else {}


def datasketch(documents: list[WebDocument]) -> None:
    from datasketch import MinHash

    for document in documents:
        words = document.text.lower().split()
        shingles = {" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))}
        MinHash(num_perm=112).update_batch(list(shingles))


def datatrove() -> dict[str, Callable[[WebDocument], object]]:
    """Return what datatrove does with one document: signatures of near copies, and the rules of two papers."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    signatures = MinhashDedupSignature(output_folder=tempfile.mkdtemp())
    filters = [GopherQualityFilter(), GopherRepetitionFilter()]
    return {
        "near_duplicates: datatrove, hashes alone": lambda d: signatures.get_signature(
            signatures.get_shingles(d.text)
        ),
        "heuristics: datatrove, gopher and repetition": lambda d: [
            each.filter(Document(text=d.text, id=d.name)) for each in filters
        ],
    }


def report(what: str, n_bytes: int, work: Callable[[], object]) -> None:
    """Print the speed of some work on so many bytes."""
    began = time.process_time()
    work()
    used = time.process_time() - began
    print(
        json.dumps(
            {"what": what, "MB_per_cpu_s": round(n_bytes / 1e6 / used, 2), "MB": round(n_bytes / 1e6, 2)}
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

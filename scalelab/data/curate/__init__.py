"""Curation: from web pages to training text, stage by stage, with what each one kept and rejected."""

from scalelab.registry import Registry

PAGE_SOURCES = Registry(
    "source of pages",
    {
        "files": "scalelab.data.curate.pages.files:PageFiles",
        "debian_docs": "scalelab.data.curate.pages.debian:DebianDocs",
    },
    group="scalelab.page_sources",
    base="scalelab.data.curate.base:PageSource",
)
CURATION_STAGES = Registry(
    "curation stage",
    {
        "extract": "scalelab.data.curate.stages.extract:Extract",
        "language": "scalelab.data.curate.stages.language:Language",
        "holdout": "scalelab.data.curate.stages.holdout:Holdout",
        "url": "scalelab.data.curate.stages.url:UrlBlocklist",
        "harmful": "scalelab.data.curate.stages.harmful:HarmfulContent",
        "heuristics": "scalelab.data.curate.stages.heuristics:Heuristics",
        "pii": "scalelab.data.curate.stages.pii:PersonalData",
        "exact_duplicates": "scalelab.data.curate.stages.exact_duplicates:ExactDuplicates",
        "duplicate_lines": "scalelab.data.curate.stages.duplicate_lines:DuplicateLines",
        "near_duplicates": "scalelab.data.curate.stages.near_duplicates:NearDuplicates",
        "quality": "scalelab.data.curate.stages.quality:Quality",
        "domains": "scalelab.data.curate.stages.domains:Domains",
        "decontaminate": "scalelab.data.curate.stages.decontaminate:Decontaminate",
        "mix": "scalelab.data.curate.stages.mix:DomainMix",
    },
    group="scalelab.curation_stages",
    base="scalelab.data.curate.base:CurationStage",
)

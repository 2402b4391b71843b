"""What `scalelab sweep`, `run` and `data` do, from words to words."""

import signal
import sys
import threading
from contextlib import closing
from pathlib import Path

from scalelab.data import shards
from scalelab.data.base import DataConfig
from scalelab.data.shards import Corpus
from scalelab.data.stream import refuse_too_many
from scalelab.errors import DataError, LaunchError, RunError
from scalelab.files import write_json
from scalelab.jobs.base import LOST, Executor
from scalelab.jobs.drive import Outcomes, drive
from scalelab.jobs.live import LiveView
from scalelab.launch import homes
from scalelab.launch.plan import PlannedWork, describe, estimate, place, timing_specs
from scalelab.launch.sweepfile import SweepFile
from scalelab.launch.sweeping import SweepSource, SweepWords, the_only_driver, write_down
from scalelab.sweep.base import Proposal
from scalelab.track.sync import Syncer
from scalelab.train.recipe import Recipe
from scalelab.train.rundir import RESULT, RunDir
from scalelab.train.spec import RunSpec, is_id
from scalelab.units import sci, si

UNPREPARED = "unprepared"
"""Stands for a corpus digest in a dry run whose data nobody has prepared."""


def run_sweep(
    path: Path, overrides: list[str], root: Path, *, dry_run: bool, json_out: Path | None
) -> int:
    """Train what a sweep file describes, and is not trained yet. Returns the exit code."""
    file = SweepFile.load(path, overrides)
    if dry_run:
        _dry_run(file, root, json_out)
        return 0
    corpus = shards.prepare(file.recipe.data)
    study = file.design.study(file.recipe, vocab_size=corpus.vocab_size, data_digest=corpus.digest)
    first = study.ask()
    refuse_unfit(file.recipe, corpus, first)
    with the_only_driver(root, file.name), closing(_executor(file)) as executor:
        work = place(first, root, file.name, homes.settle)
        timed = timing_specs(work)
        seconds = _timed(timed, executor)

        def placed(proposals: tuple[Proposal, ...]) -> list[PlannedWork]:
            refuse_unfit(file.recipe, corpus, proposals)
            return estimate(place(proposals, root, file.name, homes.settle), timed, seconds)

        source = SweepSource(study, placed, lambda all_: write_down(file, all_, root))
        work = source.begin(estimate(work, timed, seconds))
        print(describe(file, work, n_train=corpus.n_train, devices=executor.devices))
        if json_out is not None:
            write_json(json_out, plan_record(file, work))
        write_down(file, work, root)
        syncer = Syncer.start(root, file.name)
        words = SweepWords(file.recipe.param_count, source.work)
        with LiveView(words, words.done) as view:
            outcomes = drive(source, executor, view, file.launch.limits)
    behind = syncer.finish()
    return _say_how_it_ended(file, source.work, outcomes, behind)


def _executor(file: SweepFile) -> Executor:
    return file.launch.executor.start(("scalelab.launch.training",))


def _dry_run(file: SweepFile, root: Path, json_out: Path | None) -> None:
    corpus = shards.find(file.recipe.data)
    vocab_size = corpus.vocab_size if corpus else vocab_size_of(file.recipe.data)
    digest = corpus.digest if corpus else UNPREPARED
    study = file.design.study(file.recipe, vocab_size=vocab_size, data_digest=digest)
    proposals = study.ask()
    if corpus:
        refuse_unfit(file.recipe, corpus, proposals)
    work = place(proposals, root, file.name)
    with closing(_executor(file)) as executor:
        timed = timing_specs(work)
        work = estimate(work, timed, _timed(timed, executor))
        n_train = corpus.n_train if corpus else None
        print(describe(file, work, n_train=n_train, devices=executor.devices))
    if corpus is None:
        print("data: not prepared yet, so its tokens are not counted; `scalelab data FILE` does")
    if json_out is not None:
        write_json(json_out, plan_record(file, work))


def _timed(timed: list[Proposal], executor: Executor) -> list[float] | None:
    """Seconds per token of a few runs; None where they were not timed."""
    if not timed or not executor.capabilities.timing:
        return None
    texts = [proposal.spec.to_yaml() for proposal in timed]
    return executor.call("scalelab.train.pace:seconds_per_token", texts)


def vocab_size_of(data: DataConfig) -> int:
    """Tokens of the vocabulary that a corpus will have once prepared."""
    fixed = getattr(data.source, "vocab_size", None)
    if fixed is not None:
        return fixed
    return 257 if data.tokenizer.kind == "bytes" else data.tokenizer.vocab_size


def refuse_unfit(recipe: Recipe, corpus: Corpus, proposals: tuple[Proposal, ...]) -> None:
    """Refuse a sweep that the corpus cannot feed, before anything is trained.

    Raises:
        DataError: Some run needs more tokens than exist, or validation has too few.
    """
    longest = max((proposal.spec.n_tokens for proposal in proposals), default=0)
    refuse_too_many(corpus, recipe.seq_len, longest, recipe.data.epochs)
    wanted = max(recipe.evaluation.tokens, recipe.evaluation.curve_tokens)
    there = corpus.n_validation - 1
    if wanted > there:
        raise DataError(
            f"{si(wanted)} validation tokens are asked for, the corpus holds out {si(there)}",
            where="recipe.evaluation.tokens",
            fix=f"--set recipe.evaluation.tokens={there // recipe.seq_len * recipe.seq_len}, "
            "or hold out more: recipe.data.validation",
        )


def plan_record(file: SweepFile, work: list[PlannedWork]) -> dict:
    """The plan for programs."""
    return {
        "schema": 1,
        "sweep": file.name,
        "digest": file.digest,
        "param_count": file.recipe.param_count,
        "runs": [
            {
                "run": w.run_dir.run,
                "state": w.state,
                "flops_planned": w.proposal.flops_planned,
                "flops": w.proposal.flops,
                "n_params_planned": w.proposal.n_params_planned,
                "n_params": w.proposal.spec.model.size(file.recipe.seq_len).count(
                    file.recipe.param_count
                ),
                "n_tokens_planned": w.proposal.n_tokens_planned,
                "n_tokens": w.proposal.spec.n_tokens,
                "n_steps": w.proposal.spec.n_steps,
                "batch_tokens": w.proposal.spec.batch_tokens,
                "seed": w.proposal.spec.seed,
                "seconds_estimated": w.seconds,
            }
            for w in work
        ],
    }


def _say_how_it_ended(
    file: SweepFile, work: list[PlannedWork], outcomes: Outcomes, behind: str | None
) -> int:
    results = [w.run_dir.result() for w in work]
    finished = [r for r in results if r is not None and r.status == "finished"]
    spent = sum(r.flops for r in results if r is not None)
    planned = sum(w.proposal.flops for w in work)
    print(
        f"{file.name}: {len(finished)} of {len(work)} runs finished, "
        f"{sci(spent)} FLOPs spent of {sci(planned)} planned"
    )
    for w, result in zip(work, results, strict=True):
        if result is not None and result.status != "finished":
            print(f"  {w.run_dir.run} {result.status}: {result.reason}")
    lost = outcomes.of(*LOST)
    for ended in lost:
        print(f"  {ended.job.id} failed ({ended.outcome}): {ended.reason}")
        if ended.outcome == "error":
            print(f"    {ended.job.dir.path / 'traceback.txt'}")
    if behind is not None:
        print(behind)
    if outcomes.interrupted:
        print("stopped; the same command goes on from here")
        return 130
    if lost:
        print("the same command tries them again")
        return 1
    if not finished:
        raise LaunchError(
            f"no run of {file.name} finished, so there is nothing to fit",
            where=str(work[0].run_dir.path),
            fix="see above why each ended; where they diverged, lower the learning rate "
            "(recipe.optimizer.lr)",
        )
    print(f"next: scalelab fit {file.name}")
    return 0


def run_one(path: Path, root: Path) -> int:
    """Train the run of one spec file, where it stands or in runs/single/<run id>."""
    path = path / "spec.yaml" if path.is_dir() else path
    own = RunDir(path.parent)
    if path == own.spec_path and is_id(own.run):
        spec, run_dir = own.spec(), own  # refused where it was changed
    else:
        spec = RunSpec.load(path)
        run_dir = RunDir.of(spec, root, "single")
    stop = threading.Event()
    from scalelab.train.loop import train  # torch: only this command trains in this process

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run_dir.create(spec)
    with run_dir.claimed() as (ours, _):
        result = train(ours, stop.is_set)
    if result is None:
        print(f"stopped; `scalelab run {run_dir.path}` goes on", file=sys.stderr)
        return 130
    print(RESULT.text(result), end="")
    return 0


def prepare_data(path: Path, overrides: list[str]) -> int:
    """Prepare a sweep file's corpus and say what it holds."""
    file = SweepFile.load(path, overrides)
    corpus = shards.prepare(file.recipe.data)
    size = corpus.bytes_per_token
    per_token = "not made of text" if size is None else f"{size:.2f} bytes per token"
    print(
        f"corpus {corpus.digest}: {si(corpus.n_train)} training tokens, "
        f"{si(corpus.n_validation)} held out, vocabulary {corpus.vocab_size}, "
        f"{per_token}, tokenizer {corpus.tokenizer}\n"
        f"in {corpus.path}"
    )
    return 0


def finished(run_dir: RunDir) -> None:
    """Refuse a run that has no final weights. Raises RunError."""
    result = run_dir.result()
    if result is None or result.status != "finished":
        raise RunError(
            "the run has not finished, so it has no final weights",
            where=str(run_dir.path),
            fix=f"finish it: scalelab run {run_dir.path}",
        )


def export_tokens(path: Path, out: Path) -> None:
    """Write a run on a language of tokens where other software reads it: there is no tokenizer."""
    from scalelab.model.huggingface import to_hugging_face

    run_dir = RunDir(path)
    finished(run_dir)
    spec = run_dir.spec()
    to_hugging_face(spec.model, run_dir.weights_path, out, seq_len=spec.seq_len)

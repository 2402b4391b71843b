"""The front door. One subcommand per sentence a researcher says, one function each.

Only the standard library is imported here, so `scalelab --help` answers at once and
`scalelab fit` never waits for torch. Each command imports the rooms that it uses.
"""

import argparse
import os
import sys
from pathlib import Path

from scalelab.errors import ScalelabError

ROOT = Path("runs")
"""Where run directories go, below the current directory; $SCALELAB_RUNS overrides it."""


def sweep(args: argparse.Namespace) -> int:
    """Train the family of models that a sweep file describes; run it again to go on."""
    from scalelab.launch.commands import run_sweep

    return run_sweep(args.file, args.set, _root(), dry_run=args.dry_run, json_out=args.json)


def run(args: argparse.Namespace) -> int:
    """Train the one run that a spec.yaml describes, or go on with it."""
    from scalelab.launch.commands import run_one

    return run_one(args.spec, _root())


def runs(args: argparse.Namespace) -> int:
    """What exists: planned, running, interrupted, finished, diverged, failed; or forecasts."""
    if args.forecasts:
        from scalelab.report.ledger_text import show_forecasts

        return show_forecasts(_root())
    from scalelab.track.listing import listing
    from scalelab.track.table import every_run
    from scalelab.track.tablefile import write_table

    print(listing(_root(), args.name))
    if args.out is not None:
        write_table(every_run(_root(), args.name), args.out)
    return 0


def fit(args: argparse.Namespace) -> int:
    """Fit scaling laws to a sweep or to any table; say what they forecast and how surely."""
    if args.source and _is_table(args.source):
        from scalelab.report.fit_table import fit_table

        return fit_table(args)
    from scalelab.report.fit_sweep import fit_sweep

    return fit_sweep(args, _root())


def plan(args: argparse.Namespace) -> int:
    """Say what to train with a budget, what it takes and how sure that is; freeze a forecast."""
    from scalelab.report.plan_command import run_plan

    return run_plan(args, _root(), is_table=bool(args.source) and _is_table(args.source))


def launch(args: argparse.Namespace) -> int:
    """Train the final run of a plan, watched against its forecast; run it again to go on."""
    from scalelab.report.launch_command import launch_plan

    return launch_plan(args, _root())


def posttrain(args: argparse.Namespace) -> int:
    """Make an assistant of a base model, stage by stage, and grade it; run it again to go on."""
    from scalelab.report.posttrain_command import run_posttrain

    return run_posttrain(
        args.file, args.set, _root(), dry_run=args.dry_run, out=args.out, json_out=args.json
    )


def evaluate(args: argparse.Namespace) -> int:
    """Measure what models can do: loss, tasks, win rates, contamination; run it again to go on."""
    from scalelab.report.eval_command import run_eval

    return run_eval(
        args.file, args.set, _root(), dry_run=args.dry_run, out=args.out, json_out=args.json
    )


def simulate(args: argparse.Namespace) -> int:
    """Write a table of runs drawn from a known law, and tell the answer a fit must find."""
    from scalelab.report.simulated import run_simulate

    return run_simulate(args)


def sync(args: argparse.Namespace) -> int:
    """Bring MLflow up to date with the run directories."""
    from scalelab.track.sync import sync as catch_up

    print(catch_up(_root(), args.name))
    return 0


def ui(args: argparse.Namespace) -> int:
    """Show the runs in MLflow's web page."""
    from scalelab.track.ui import ui as serve

    serve(_root(), args.port)
    return 0


def data(args: argparse.Namespace) -> int:
    """Prepare the corpus of a sweep file: tokenizer, shards, split; say what it holds."""
    from scalelab.launch.commands import prepare_data

    return prepare_data(args.file, args.set)


def export(args: argparse.Namespace) -> int:
    """Write a model, of a run or of a stage, as a Hugging Face checkpoint."""
    from scalelab.report.export_command import export as write_out

    return write_out(args.run_dir, args.out)


def parser() -> argparse.ArgumentParser:
    """Every command, its arguments, and the function that runs it."""
    root = argparse.ArgumentParser(
        prog="scalelab",
        description="Train small models, fit a scaling law, and know how far to trust it.",
        epilog="A first look, in minutes and without a GPU: scalelab sweep sweeps/isoflop.yaml",
    )
    root.add_argument("--version", action="store_true", help="print the version and exit")
    commands = root.add_subparsers(metavar="command", dest="command")

    def command(function, *names, called=None):
        c = commands.add_parser(
            called or function.__name__, help=function.__doc__, description=function.__doc__
        )
        c.set_defaults(run=function)
        for name in names:
            c.add_argument(name, **ARGUMENTS[name])
        return c

    command(sweep, "file", "--set", "--dry-run", "--json")
    command(run, "spec")
    c = command(runs, "name", "--out")
    c.add_argument(
        "--forecasts", action="store_true", help="every frozen forecast and what came true of it"
    )
    c = command(fit, "source", "--target", "--law", "--param-count", "--columns")
    c.add_argument(
        "--flop-count", choices=("exact", "6ND"), default="exact", help="which count is C (exact)"
    )
    c.add_argument(
        "--compare-conventions",
        action="store_true",
        help="fit under every count of parameters and FLOPs; show how the exponents move",
    )
    c.add_argument(
        "--profile", action="store_true", help="add intervals by profile likelihood (seconds)"
    )
    c.add_argument(
        "--replicates", type=int, default=4000, help="bootstrap replicates (4000); 0 for none"
    )
    c.add_argument("--draws", action="store_true", help="write every bootstrap draw (draws.csv)")
    c.add_argument("--json", type=Path, help="write what was printed, for programs")
    c.add_argument("--out", type=Path, help="where figures and tables go (reports/NAME)")
    _plan_arguments(command(plan, "source", "--law", "--param-count", "--columns", "--override"))
    c = command(launch, "plan", "--override", "--dry-run")
    c.add_argument(
        "--layout",
        default="",
        metavar="replicate=2,tensor=2",
        help="processes to spread it over: replicate, shard, tensor, pipeline, micro_batches, "
        "recompute, offload (the plan's own)",
    )
    c.add_argument(
        "--prepare",
        action="store_true",
        help="write everything down for torchrun on several machines; start nothing",
    )
    c.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the launch: retries, checkpoint_s, heartbeat_timeout_s, stability.spike_nats ...",
    )
    c.add_argument("--out", type=Path, help="where the report goes (reports/NAME)")
    c = command(posttrain, "file", "--set", "--dry-run")
    c.add_argument("--json", type=Path, help="write the grades for programs")
    c.add_argument("--out", type=Path, help="where the report goes (reports/NAME)")
    c = command(evaluate, "file", "--set", "--dry-run", called="eval")
    c.add_argument("--json", type=Path, help="write the measurements for programs")
    c.add_argument("--out", type=Path, help="where the report goes (reports/NAME)")
    c = command(simulate)
    c.add_argument("out", metavar="OUT", type=Path, help="the table (.csv or .parquet)")
    c.add_argument("--law", default="chinchilla", help="the law that is true (chinchilla)")
    c.add_argument(
        "--constants", metavar="E=1.8,A=480", default="", help="its constants (the published ones)"
    )
    c.add_argument(
        "--design", choices=("isoflop", "ladder", "grid"), default="isoflop", help="(isoflop)"
    )
    c.add_argument(
        "--budgets", metavar="1e18:1e21:7", help="first:last:how many FLOPs, or a list with commas"
    )
    c.add_argument("--sizes", metavar="7", help="sizes in each budget")
    c.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the design: factor, offset, drift, seeds; ratios, n_params; n_tokens",
    )
    c.add_argument(
        "--noise",
        action="append",
        default=[],
        metavar="KIND:SIZE",
        help="gaussian, seed, heavy, onesided, ruined or drift, such as gaussian:0.003",
    )
    c.add_argument("--epochs", type=float, default=1.0, help="times each token is seen (1)")
    c.add_argument("--batch-tokens", type=float, help="tokens per step, for laws of steps")
    c.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    command(sync, "name")
    c = command(ui)
    c.add_argument("--port", type=int, default=5000, help="port on this machine (5000)")
    command(data, "file", "--set")
    c = command(export)
    c.add_argument("run_dir", type=Path, help="a directory: runs/SWEEP/RUN, runs/NAME/STAGE-ID")
    c.add_argument("out", type=Path, help="directory for the checkpoint")
    return root


def _plan_arguments(c: argparse.ArgumentParser) -> None:
    """The budget in one way of several, the constraints, what it is to run on."""
    g = c.add_argument_group("the budget, in one way")
    g.add_argument("--budget", metavar="C", help='FLOPs (1e21), or "300 PF-days"')
    g.add_argument("--days", type=float, help="of --gpus devices of kind --gpu")
    g.add_argument("--dollars", type=float, help="that rent devices of kind --gpu")
    g.add_argument("--loss", type=float, metavar="L", help="to be reached, nats per token")
    g = c.add_argument_group("the model, where something beside compute limits it")
    g.add_argument(
        "--params", type=float, metavar="N", help="given; with --tokens both, and no fit is needed"
    )
    g.add_argument("--tokens", type=float, metavar="D", help="given")
    g.add_argument("--max-params", type=float, metavar="N", help="no more than fit in memory")
    g.add_argument("--unique-tokens", type=float, metavar="U", help="that there are; then epochs")
    g.add_argument("--token-price", type=float, help="dollars for one more unique token")
    g.add_argument("--demand", type=float, metavar="T", help="tokens of use in the model's life")
    g = c.add_argument_group("what it runs on")
    g.add_argument("--gpu", metavar="KIND", help="h100, a100, rtx4090, tpu-v5e ...")
    g.add_argument("--gpus", type=int, metavar="COUNT", help="how many (the fewest that hold it)")
    g.add_argument("--mfu", type=float, help="share of the peak, 0 to 1 (the sweep's, measured)")
    g.add_argument("--mfu-inference", type=float, help="in use; then --demand in dollars too")
    g.add_argument("--region", help="whose grid: us, france, world ... (carbon unknown)")
    g.add_argument("--rates", type=Path, metavar="FILE", help="prices and carbon, your own")
    g.add_argument(
        "--layout", default="", metavar="shard=8,tensor=2", help="(the cheapest that fits)"
    )
    g = c.add_argument_group("the plan")
    g.add_argument("--recipe", type=Path, metavar="SWEEP.yaml", help="of a table's models")
    g.add_argument("--seed", type=int, default=0, help="of the final run (0)")
    g.add_argument("--trials", type=int, help="of the old pipeline beside this one (10)")
    g.add_argument("--replicates", type=int, default=4000, help="bootstrap replicates (4000)")
    g.add_argument("--json", type=Path, help="write plan.json there too")
    g.add_argument("--out", type=Path, metavar="DIR", help="where the plan goes (plans/NAME-C)")


ARGUMENTS = {
    "file": {"type": Path, "help": "a sweep, post-training or evaluation file (YAML)"},
    "spec": {"type": Path, "help": "a spec.yaml, or the run directory that holds one"},
    "name": {"nargs": "?", "help": "a sweep's name; all of them without it"},
    "plan": {"type": Path, "help": "a plan's directory, as `scalelab plan` wrote it"},
    "--override": {"metavar": "REASON", "help": "go beyond where the forecast's gate refuses"},
    "source": {"nargs": "?", "help": "a sweep's name, or a table (.csv, .parquet)"},
    "--set": {
        "action": "append",
        "default": [],
        "metavar": "A.B=VALUE",
        "help": "lay a value over the file's; may be given again",
    },
    "--dry-run": {"action": "store_true", "help": "show every run and its cost; train nothing"},
    "--json": {"type": Path, "help": "write the plan for programs"},
    "--out": {"type": Path, "help": "write the run table there (.csv or .parquet)"},
    "--target": {
        "metavar": "FLOPS",
        "type": float,
        "help": "training compute to forecast for (ten times the largest budget)",
    },
    "--law": {"action": "append", "help": "fit only this law; may be given again"},
    "--param-count": {
        "choices": ("total", "non_embedding", "matmul", "active"),
        "help": "which count is N (the sweep's own)",
    },
    "--columns": {
        "metavar": "n_params=N,loss=L",
        "default": "",
        "help": "what a stranger's table calls its columns",
    },
}


def _is_table(source: str) -> bool:
    """Whether a table is meant: by its ending, or because a file and no sweep has that name."""
    if Path(source).suffix in {".csv", ".parquet"}:
        return True
    return not (_root() / source).is_dir() and Path(source).exists()


def _root() -> Path:
    return Path(os.environ.get("SCALELAB_RUNS") or ROOT)


def main(argv: list[str] | None = None) -> int:
    """Run one command. 0: done. 2: the person can mend it, and was told how. 1: our bug."""
    args = parser().parse_args(argv)
    if args.version:
        from scalelab import __version__

        print(__version__)
        return 0
    if args.command is None:
        parser().print_help()
        return 0
    try:
        return args.run(args)
    except ScalelabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`scalelab runs | head`): nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()

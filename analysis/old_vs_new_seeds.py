"""How many seeds would tell the old way from the new one: from the losses that analysis/old_vs_new.md lists.

    python analysis/old_vs_new_seeds.py     writes the section "How many seeds would decide" into that page

The losses of the page are measured, the numbers of seeds are extrapolated: they hold if the mean difference is as
estimated, and the standard deviation of paired differences too or, as a bound, its upper 90% limit. The test is
Student's on differences of one seed, two-sided at 5%, as on the page; the number is the least with which it decides
with probability .8.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import chi2, nct, t

SECTION = "## How many seeds would decide"
BEFORE = "## The ways"
POWER, LEVEL, UPPER = 0.8, 0.05, 0.9
MOST = 2000


def losses_of(page):
    """Loss and FLOPs of each finished run of the page, by way and seed."""
    rows = page.partition("## Every run")[2].partition("\n## ")[0].splitlines()
    found = {}
    for row in rows:
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if len(cells) >= 9 and cells[1].isdigit():
            try:
                found.setdefault(cells[0], {})[int(cells[1])] = (float(cells[8]), 1e12 * float(cells[4]))
            except ValueError:
                continue  # a run without a loss
    return found


def power(difference, sd, n):
    """Probability that a two-sided paired test of n seeds finds a true difference."""
    limit, away = t.ppf(1 - LEVEL / 2, n - 1), abs(difference) * np.sqrt(n) / sd
    return float(nct.sf(limit, n - 1, away) + nct.cdf(-limit, n - 1, away))


def seeds_needed(difference, sd):
    """Least number of seeds that decides with the wanted probability; None above MOST."""
    return next((n for n in range(2, MOST + 1) if power(difference, sd, n) >= POWER), None)


def section(page):
    """The section as lines."""
    runs = losses_of(page)
    lines = [
        SECTION,
        "",
        "Extrapolated, by `python analysis/old_vs_new_seeds.py`: paired seeds with which Student's test, two-sided at",
        f"5%, decides with probability {POWER:g}, were the mean difference as estimated; with the standard deviation",
        f"as estimated, and with its upper {UPPER:.0%} limit. The runs above are of the embedded default before shared",
        "trunks; that its noise is that of the present default is assumed.",
        "",
        "| way | against | pairs | difference | sd of a pair | seeds | seeds, upper sd | FLOPs of these, both ways |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in (name for name in runs if name != "new"):
        shared = sorted(runs[way].keys() & runs["new"].keys())
        apart = np.array([runs[way][seed][0] - runs["new"][seed][0] for seed in shared])
        if len(apart) < 2:
            lines.append(f"| {way} | new | {len(apart)} | - | - | - | - | - |")
            continue
        mean, sd = float(apart.mean()), float(apart.std(ddof=1))
        upper = sd * np.sqrt((len(apart) - 1) / chi2.ppf(1 - UPPER, len(apart) - 1))
        few, many = (seeds_needed(mean, each) for each in (sd, upper))
        flops = sum(runs[name][seed][1] for name in (way, "new") for seed in shared) / len(shared)
        numbers = [f"over {MOST}" if n is None else str(n) for n in (few, many)]
        costs = "-" if few is None or many is None else f"{few * flops:.2g} to {many * flops:.2g}"
        lines.append(
            f"| {way} | new | {len(apart)} | {mean:+.4f} | {sd:.4f} | {numbers[0]} | {numbers[1]} | {costs} |"
        )
    return lines


def with_section(page, lines):
    """The page with the section in its place, an earlier one replaced."""
    head, _, rest = page.partition(f"{SECTION}\n")
    if rest:
        page = head + BEFORE + rest.partition(BEFORE)[2]
    before, mark, after = page.partition(BEFORE)
    return before + "\n".join(lines) + "\n\n" + mark + after


def main():
    """Write the section."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--page", type=Path, default=Path(__file__).with_name("old_vs_new.md"))
    args = parser.parse_args()
    page = args.page.read_text()
    args.page.write_text(with_section(page, section(page)))


if __name__ == "__main__":
    main()

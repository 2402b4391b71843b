"""Does a judge keep its contract? For members of JUDGES, of any package.

    check_judge({"kind": "mine"}, Skilled())

Every check is an AssertionError that says what does not hold.

Not here: what a judge is (evals/preference/judges/base.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalelab.evals import JUDGES
from scalelab.evals.conversations.base import Conversations
from scalelab.evals.preference.judges.base import FEWEST_TRIED, Judge

N = FEWEST_TRIED - 1
"""Comparisons: fewer than those after which a judge that cannot be read is refused."""


def check_judge(
    settings: Mapping[str, Any],
    conversations: Conversations,
    paths: Mapping[str, Path] | None = None,
    seed: int = 0,
) -> Judge:
    """Check the contract of a judge on prompts of some conversations.

    Args:
        settings: As a file gives them, `kind` among them. A judge that asks a person is asked
            here too.
        conversations: Where prompts, right answers among them, come from.
        paths: Directory of each of its inputs.
        seed: Of whatever the judge draws.

    Returns: The judge.

    Raises:
        AssertionError: Something of the contract does not hold.
    """
    kind = JUDGES[settings["kind"]]
    judge = kind.model_validate(settings)
    assert kind.model_validate(judge.model_dump()) == judge, "its settings do not survive YAML"
    names = {one.name for one in judge.inputs()}
    assert names == {*judge.needs(), *judge.files()}, "an input is neither a stage nor a path"
    assert judge.passes() >= 0, f"{judge.passes()} passes"
    at_once = judge.at_once()
    assert at_once is None or at_once > 0, f"{at_once} at once"
    assert at_once == 1 or not judge.interactive, "what a person says is written down at once"

    prompts = conversations.prompts(N, seed, "conformance")
    first = [prompt.reference or "yes" for prompt in prompts]
    second = [f"no, answer {i}" for i in range(N)]

    def verdicts(*parts: slice) -> list[float | None]:
        session = judge.open_session(conversations, paths or {}, seed)
        found = []
        for part in parts:
            found += session(prompts[part], first[part], second[part], part.start)
        assert session.n == N, f"{session.n} verdicts are counted of {N}"
        assert session.unreadable == sum(v is None for v in found), "None is not counted"
        assert session.flops >= 0, f"{session.flops} FLOPs"
        dollars = session.dollars_per_thousand
        assert dollars is None or dollars >= 0, f"{dollars} dollars"
        return found

    found = verdicts(slice(0, N))
    assert len(found) == N, f"{len(found)} verdicts on {N} comparisons"
    for verdict in found:
        assert verdict is None or 0 <= verdict <= 1, f"a verdict of {verdict}"
    again = verdicts(slice(0, 1), slice(1, N // 2), slice(N // 2, N))
    assert again == found, "the verdict depends on what else is asked with it"
    return judge

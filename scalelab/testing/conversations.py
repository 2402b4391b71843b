"""Does a source of conversations keep its contract? For members of CONVERSATIONS, of any package.

    check_conversations({"kind": "mine"})

Not here: what a source of conversations is (evals/conversations/base.py).
"""

from collections.abc import Mapping
from typing import Any

from scalelab.evals import CONVERSATIONS
from scalelab.evals.conversations.base import Conversations, Prompt


def check_conversations(settings: Mapping[str, Any], n: int = 6, seed: int = 3) -> Conversations:
    """Check the contract of a source.

    Args:
        settings: As a file gives them, `kind` among them.
        n: Conversations that it has at least.
        seed: Of every drawing.

    Returns: The source.

    Raises:
        AssertionError: Something of the contract does not hold.
    """
    kind = CONVERSATIONS[settings["kind"]]
    one, other = kind.model_validate(settings), kind.model_validate(settings)
    assert isinstance(one, Conversations)
    assert kind.model_validate(one.model_dump()) == one, "its settings do not survive a file"
    assert one.fingerprint() == other.fingerprint(), "the fingerprint drifts"
    assert int(one.fingerprint(), 16) >= 0, "the fingerprint is not hexadecimal"

    training = one.training(n, seed)
    assert training == other.training(n, seed), "training differs from one time to the next"
    assert len(training) == n
    assert training[: n // 2] == one.training(n // 2, seed), "fewer are not the first of more"
    for conversation in training:
        assert conversation[-1]["role"] == "assistant", "a training conversation without its answer"
        assert conversation[-1]["content"]

    asked = one.prompts(n, seed, "pairs")
    assert asked == other.prompts(n, seed, "pairs"), "prompts differ from one time to the next"
    sets = one.tests(n)
    assert sets == other.tests(n), "held-out prompts differ from one time to the next"
    assert sets
    for prompt in (*asked, *(prompt for rows in sets.values() for prompt in rows)):
        _check_prompt(one, prompt)
    held_out = [prompt.messages for rows in sets.values() for prompt in rows]
    trained = [conversation[:-1] for conversation in training]
    assert not any(prompt in trained for prompt in held_out), "a held-out prompt is trained on"
    return one


def _check_prompt(source: Conversations, prompt: Prompt) -> None:
    assert prompt.messages[-1]["role"] == "user", "a prompt that ends with no question"
    for answer in ("", "zzz", prompt.reference or "x"):
        worth, right = source.gold(prompt, answer), source.is_right(prompt, answer)
        assert worth is None or float("-inf") < worth < float("inf")
        assert right is None or isinstance(right, bool)
    if prompt.reference is not None:
        assert source.is_right(prompt, prompt.reference) in (True, None), "its reference is wrong"

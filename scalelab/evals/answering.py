"""How our models answer what lm-eval asks: tokens of prompts and answers, and what is cut.

    (prompt, answer)  ->  nats of the answer, and whether it is the likeliest one
    text              ->  nats of the whole text, read in windows
    prompt            ->  what the model writes, up to a stop

Two halves of two models; the other half is a class of lm-eval, and harness.py joins them.

    InProcess   on our own network               + TemplateLM = OurModel
    Exported    on transformers, from a directory  + HFLM

Log-likelihoods in nats, natural logarithm, summed over the tokens of an answer.
Source: lm-evaluation-harness 0.4.13, api/model.py::TemplateLM and models/huggingface.py::HFLM.
Not here: tasks and results (harness.py); the network (checkpoint.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scalelab.data.chat import MARKERS
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint

NEW_TOKENS = 256
"""Most new tokens of a generation task that names no number; lm-eval's own default."""

Prefix = Literal["end", "none"]
"""What our own model reads before a text: the token that ends documents, or nothing."""


@dataclass
class Read:
    """How one request was read."""

    n_tokens: int
    n_cut: int


@dataclass(eq=False)
class Ledger:
    """Requests by (prompt, answer), or by prompt where the model writes."""

    requests: dict[Any, Read] = field(default_factory=dict)

    def note(self, request: Any, prompt: int, answer: int, room: int) -> None:
        """Write down a request of `prompt` and `answer` tokens where `room` can be read."""
        if request is not None:
            self.requests[request] = Read(answer, max(0, prompt + answer - room))


@dataclass(frozen=True)
class Writing:
    """How a model is to write."""

    n_new: int
    stops: tuple[str, ...]
    temperature: float
    """0 where nothing is drawn."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Writing":
        """The same from lm-eval's generation_kwargs, which have four names for one number."""
        names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
        n_new = next((settings[name] for name in names if name in settings), NEW_TOKENS)
        until = settings.get("until", ())
        temperature = settings.get("temperature", 0.0) if settings.get("do_sample") else 0.0
        return cls(int(n_new), (until,) if isinstance(until, str) else tuple(until), temperature)

    def cut(self, text: str) -> str:
        """The text up to the first of the stops."""
        for stop in self.stops:
            text = text.split(stop)[0] if stop else text
        return text


class InProcess:
    """The half of OurModel that is ours; lm-eval's TemplateLM is the other, see `our_model`.

    Args:
        checkpoint: The model.
        prefix: What is read before a text that is no conversation: END or nothing.
        wants_greedy: Whether a metric asks if an answer is also the likeliest one, which costs
            a second look at every row. Without it the flag is False throughout.
    """

    def __init__(self, checkpoint: Checkpoint, *, prefix: Prefix, wants_greedy: bool):
        super().__init__()
        self.checkpoint, self.prefix, self.wants_greedy = checkpoint, prefix, wants_greedy
        self.ledger = Ledger()
        self._conversations: dict[str, tuple[list[int], str]] = {}

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return self.checkpoint.tokenizer.end

    @property
    def tokenizer_name(self) -> str:
        """Asked for by lm-eval where conversations are cached."""
        return self.checkpoint.tokenizer.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens of a text, END before them unless that is switched off."""
        tokens = self.checkpoint.tokenizer.encode([string])[0].tolist()
        is_begun = self.prefix == "end" if add_special_tokens is None else add_special_tokens
        return [self.eot_token_id, *tokens] if is_begun else tokens

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as lm-eval hands it on, as text; its tokens are kept here.

        A text that spells a marker stays text in the tokens, whatever it looks like in the
        string.
        """
        chat = self.checkpoint.chat
        assert chat is not None, "run_tasks refuses a conversation with a base model"
        history, begun = chat_history, ""
        if not add_generation_prompt:
            history, begun = chat_history[:-1], f" {chat_history[-1]['content']}"
        tokens = chat.prompt(history)
        text = self.checkpoint.tokenizer.decode(tokens) + begun
        self._conversations[text] = tokens, begun
        return text

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context not in self._conversations:
            return super()._encode_pair(context, continuation)
        tokens, begun = self._conversations[context]
        if not begun and not continuation[:1].isspace():
            continuation = f" {continuation}"
        read, whole = self.checkpoint.tokenizer.encode([begun, begun + continuation])
        return [*tokens, *read.tolist()], whole[len(read) :].tolist()

    def _prompt(self, context: str) -> list[int]:
        if context not in self._conversations:
            return self.tok_encode(context)
        tokens, begun = self._conversations[context]
        return [*tokens, *self.tok_encode(begun, add_special_tokens=False)]

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        room = self.checkpoint.seq_len + 1
        rows, lengths = [], []
        for request, context, continuation in requests:
            _refuse_too_long(len(continuation), self.checkpoint.seq_len, request)
            self.ledger.note(request, len(context), len(continuation), room)
            rows.append([*context, *continuation][-room:])
            lengths.append(len(continuation))
        found = self.checkpoint.logprobs(rows)
        greedy = self.checkpoint.greedy_matches(rows) if self.wants_greedy else [None] * len(rows)
        return [
            (float(row[-n:].sum()), bool(best[-n:].all()) if best is not None else False)
            for row, best, n in zip(found, greedy, lengths, strict=True)
        ]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, each cut into windows that are read once."""
        total = []
        for (text,) in (request.args for request in requests):
            tokens = self.tok_encode(text, add_special_tokens=False)
            rows = [(None, *window) for window in self._windows(tokens)]
            total.append(sum(nats for nats, _ in self._loglikelihood_tokens(rows)))
        return total

    def _windows(self, tokens: list[int]) -> Iterator[tuple[list[int], list[int]]]:
        """What is read and what is then weighed; every token is weighed once.

        The last window reaches back as far as it can, so that its tokens are read after others.
        """
        room = self.checkpoint.seq_len
        for start in range(0, len(tokens), room):
            end = min(start + room, len(tokens))
            before = tokens[end - room - 1 : start] if start else [self.eot_token_id]
            yield before, tokens[start:end]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each prompt, up to the first stop."""
        found: list[str] = [""] * len(requests)
        settings = [Writing.of(request.args[1]) for request in requests]
        for alike in sorted({(s.n_new, s.temperature) for s in settings}):
            n_new, temperature = alike
            _refuse_no_room(n_new, self.checkpoint.seq_len)
            room = self.checkpoint.seq_len - n_new
            batch = [i for i, s in enumerate(settings) if (s.n_new, s.temperature) == alike]
            prompts = [self._prompt(requests[i].args[0]) for i in batch]
            for i, prompt in zip(batch, prompts, strict=True):
                self.ledger.note(requests[i].args[0], len(prompt), 0, room)
            written = self.checkpoint.go_on(
                [prompt[-room:] for prompt in prompts], n_new=n_new, temperature=temperature
            )
            for i, tokens in zip(batch, written, strict=True):
                kept = [token for token in tokens if token != self.eot_token_id]
                found[i] = settings[i].cut(self.checkpoint.tokenizer.decode(kept))
        return found


class Exported:
    """The half of the exported model that is ours; lm-eval's HFLM is the other.

    HFLM reads markers out of any text and shortens prompts with a log line only; here the first
    is refused and the second counted.
    """

    def __init__(self, pretrained: str, **settings: Any):
        super().__init__(pretrained, **settings)
        self.ledger = Ledger()

    @property
    def special_tokens(self) -> set[str]:
        """Names that the tokenizer reads as one token."""
        return set(self.tokenizer.all_special_tokens) | set(self.tokenizer.added_tokens_encoder)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation in the words of the checkpoint's own template."""
        for message in chat_history:
            _refuse_markers(message["content"], self.special_tokens, str(self.pretrained))
        return super().apply_chat_template(chat_history, add_generation_prompt)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **settings: Any
    ) -> list[int]:
        """Tokens of a text. Raises DataError where the text spells a special token."""
        if not self.is_chat:
            _refuse_markers(string, self.special_tokens, str(self.pretrained))
        return super().tok_encode(string, add_special_tokens, **settings)

    is_chat = False
    """Whether texts are conversations, whose markers are meant."""

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        marker = MARKERS["assistant"]
        if self.is_chat and context.endswith(marker) and not continuation[:1].isspace():
            continuation = f" {continuation}"
        return super()._encode_pair(context, continuation)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **settings: Any
    ) -> list[tuple[float, bool]]:
        for request, context, continuation in requests:
            _refuse_too_long(len(continuation), self.max_length, request)
            self.ledger.note(request, len(context), len(continuation), self.max_length + 1)
        return super()._loglikelihood_tokens(requests, **settings)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts. HFLM alone would put the first token there twice."""
        kept, self.add_bos_token = self.add_bos_token, False
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.add_bos_token = kept

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each prompt, up to the first stop."""
        for request in requests:
            prompt, n_new = request.args[0], Writing.of(request.args[1]).n_new
            _refuse_no_room(n_new, self.max_length)
            room = self.max_length - n_new
            self.ledger.note(prompt, len(self.tok_encode(prompt)), 0, room)
        return super().generate_until(requests, disable_tqdm)


def _refuse_too_long(n_tokens: int, room: int, request: Any) -> None:
    if n_tokens > room:
        raise DataError(
            f"an answer of {n_tokens} tokens is longer than the context of {room}",
            where=f"the answer that begins {str(request[1])[:40]!r}" if request else "a text",
            fix="leave the row out, or ask a model with a longer context",
        )


def _refuse_no_room(n_new: int, room: int) -> None:
    if n_new >= room:
        raise DataError(
            f"{n_new} new tokens leave no room for a prompt in the context of {room}",
            where="the generation task",
            fix="ask for fewer new tokens (n_new)",
        )


def _refuse_markers(text: str, special: set[str], where: str) -> None:
    if found := sorted(name for name in special if name in text):
        raise DataError(
            f"a text spells the special token {found[0]!r}, which transformers reads as the token",
            where=f"{where}, the text that begins {text[:40]!r}",
            fix="ask the model in process, where a text is only text, or change the row",
        )

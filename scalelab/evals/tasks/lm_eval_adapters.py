"""Adapters between checkpoints and lm-eval: tokenization, truncation, likelihoods and generation.

    (prompt, answer)  ->  nats of the answer, and whether it is the most likely one
    text              ->  nats of the whole text, read in windows
    prompt            ->  generated text up to a stop

Two mixins for classes of lm-eval, combined in harness.py:

    InProcessModel   this package's network            + TemplateLM
    ExportedModel    transformers, from a directory     + HFLM

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
"""Maximum new tokens of a generation task without a setting; lm-eval's default."""

Prefix = Literal["end", "none"]
"""Prefix of a text in an in-process model: the end-of-document token, or nothing."""


@dataclass
class TokenizedRequest:
    """Sizes of one tokenized request."""

    n_tokens: int
    n_cut: int


@dataclass(eq=False)
class RequestLog:
    """Requests by (prompt, answer), or by prompt for generation."""

    requests: dict[Any, TokenizedRequest] = field(default_factory=dict)

    def note(self, request: Any, prompt: int, answer: int, room: int) -> None:
        """Record a request.

        Args:
            request: Key of the request; None is not recorded.
            prompt: Tokens of the prompt.
            answer: Tokens of the answer.
            room: Tokens that the model can read at once.
        """
        if request is not None:
            self.requests[request] = TokenizedRequest(answer, max(0, prompt + answer - room))


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of generation."""

    n_new: int
    stops: tuple[str, ...]
    temperature: float
    """0 without sampling."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "GenerationSettings":
        """Return the settings in lm-eval's generation_kwargs, which have four names for one number."""
        names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
        n_new = next((settings[name] for name in names if name in settings), NEW_TOKENS)
        until = settings.get("until", ())
        temperature = settings.get("temperature", 0.0) if settings.get("do_sample") else 0.0
        return cls(int(n_new), (until,) if isinstance(until, str) else tuple(until), temperature)

    def cut(self, text: str) -> str:
        """Return the text up to the first stop."""
        for stop in self.stops:
            text = text.split(stop)[0] if stop else text
        return text


class InProcessModel:
    """Mixin for lm-eval's TemplateLM that evaluates a checkpoint in this process; see `our_model`.

    Args:
        checkpoint: The model.
        prefix: Prefix of a text that is not a conversation: END or nothing.
        wants_greedy: Whether a metric needs to know if an answer is the most likely one, which costs
            a second forward pass. If not, that flag is always False.
    """

    def __init__(self, checkpoint: Checkpoint, *, prefix: Prefix, wants_greedy: bool):
        super().__init__()
        self.checkpoint, self.prefix, self.wants_greedy = checkpoint, prefix, wants_greedy
        self.ledger = RequestLog()
        self._conversations: dict[str, tuple[list[int], str]] = {}

    @property
    def eot_token_id(self) -> int:
        """Token that ends a document."""
        return self.checkpoint.tokenizer.end

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, which lm-eval uses to cache conversations."""
        return self.checkpoint.tokenizer.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens of a text, with END first unless disabled."""
        tokens = self.checkpoint.tokenizer.encode([string])[0].tolist()
        is_begun = self.prefix == "end" if add_special_tokens is None else add_special_tokens
        return [self.eot_token_id, *tokens] if is_begun else tokens

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text, as lm-eval expects it; its tokens are stored here.

        Text that contains the characters of a marker is tokenized as text.
        """
        chat = self.checkpoint.chat
        assert chat is not None, "run_tasks rejects conversations with a base model"
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

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of complete texts, read in windows."""
        total = []
        for (text,) in (request.args for request in requests):
            tokens = self.tok_encode(text, add_special_tokens=False)
            rows = [(None, *window) for window in self._windows(tokens)]
            total.append(sum(nats for nats, _ in self._loglikelihood_tokens(rows)))
        return total

    def _windows(self, tokens: list[int]) -> Iterator[tuple[list[int], list[int]]]:
        """Yield context and scored tokens; every token is scored once.

        The last window starts as early as possible, so that its tokens have context.
        """
        room = self.checkpoint.seq_len
        for start in range(0, len(tokens), room):
            end = min(start + room, len(tokens))
            before = tokens[end - room - 1 : start] if start else [self.eot_token_id]
            yield before, tokens[start:end]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the text generated after each prompt, up to the first stop."""
        found: list[str] = [""] * len(requests)
        settings = [GenerationSettings.of(request.args[1]) for request in requests]
        for alike in sorted({(s.n_new, s.temperature) for s in settings}):
            n_new, temperature = alike
            _refuse_no_room(n_new, self.checkpoint.seq_len)
            room = self.checkpoint.seq_len - n_new
            batch = [i for i, s in enumerate(settings) if (s.n_new, s.temperature) == alike]
            prompts = [self._prompt(requests[i].args[0]) for i in batch]
            for i, prompt in zip(batch, prompts, strict=True):
                self.ledger.note(requests[i].args[0], len(prompt), 0, room)
            written = self.checkpoint.generate_tokens(
                [prompt[-room:] for prompt in prompts], n_new=n_new, temperature=temperature
            )
            for i, tokens in zip(batch, written, strict=True):
                kept = [token for token in tokens if token != self.eot_token_id]
                found[i] = settings[i].cut(self.checkpoint.tokenizer.decode(kept))
        return found


class ExportedModel:
    """Mixin for lm-eval's HFLM that evaluates an exported checkpoint.

    HFLM parses markers in any text and truncates prompts with only a log line; here the first is an error
    and the second is counted.
    """

    def __init__(self, pretrained: str, **settings: Any):
        super().__init__(pretrained, **settings)
        self.ledger = RequestLog()

    @property
    def special_tokens(self) -> set[str]:
        """Special tokens of the tokenizer."""
        return set(self.tokenizer.all_special_tokens) | set(self.tokenizer.added_tokens_encoder)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return the conversation in the checkpoint's chat template."""
        for message in chat_history:
            _refuse_markers(message["content"], self.special_tokens, str(self.pretrained))
        return super().apply_chat_template(chat_history, add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **settings: Any) -> list[int]:
        """Return the tokens of a text. Raises DataError if it contains a special token."""
        if not self.is_chat:
            _refuse_markers(string, self.special_tokens, str(self.pretrained))
        return super().tok_encode(string, add_special_tokens, **settings)

    is_chat = False
    """Whether texts are conversations, whose markers are intended."""

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

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of complete texts. HFLM alone would insert the first token twice."""
        kept, self.add_bos_token = self.add_bos_token, False
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.add_bos_token = kept

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the text generated after each prompt, up to the first stop."""
        for request in requests:
            prompt, n_new = request.args[0], GenerationSettings.of(request.args[1]).n_new
            _refuse_no_room(n_new, self.max_length)
            room = self.max_length - n_new
            self.ledger.note(prompt, len(self.tok_encode(prompt)), 0, room)
        return super().generate_until(requests, disable_tqdm)


def _refuse_too_long(n_tokens: int, room: int, request: Any) -> None:
    if n_tokens > room:
        raise DataError(
            f"an answer of {n_tokens} tokens is longer than the context of {room}",
            where=f"the answer that begins {str(request[1])[:40]!r}" if request else "a text",
            fix="remove the row, or use a model with a longer context",
        )


def _refuse_no_room(n_new: int, room: int) -> None:
    if n_new >= room:
        raise DataError(
            f"{n_new} new tokens leave no room for a prompt in the context of {room}",
            where="the generation task",
            fix="reduce n_new",
        )


def _refuse_markers(text: str, special: set[str], where: str) -> None:
    if found := sorted(name for name in special if name in text):
        raise DataError(
            f"a text contains the special token {found[0]!r}, which transformers would parse",
            where=f"{where}, the text that begins {text[:40]!r}",
            fix="evaluate the model in process, where text stays text, or change the row",
        )

"""What every architecture says about itself before any weight exists, and what it may lack.

The rest of the program asks these questions and knows no dimension of any architecture by name.

Not here: what one architecture's numbers are (its folder), what its torch module offers
(network.py), how a target size becomes dimensions (sizing.py).
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from pydantic import model_validator

from scalelab.config import Config, arithmetic_reason
from scalelab.errors import ConfigError
from scalelab.registry import resolved

if TYPE_CHECKING:
    from scalelab.model.huggingface import HuggingFace
    from scalelab.model.network import Network
    from scalelab.model.sharding import Sharding

Kind = Literal["matrix", "embedding", "head", "vector"]
"""What a weight is, which decides its learning rate, its decay and its starting values."""

LAYOUTS = {
    "replicate": "data-parallel",
    "shard": "sharded",
    "tensor": "tensor-parallel",
    "pipeline": "pipeline-parallel",
}
FP32_BYTES = 4
SMALLEST_VOCABULARY = 257
"""Vocabulary of bytes, with which a family is tried when it is read."""
LACKING = {
    "sharding": ("has no layout over several processes", "train it in one process"),
    "huggingface": (
        "cannot be exported to a Hugging Face checkpoint",
        "name a model of an architecture that can be, such as transformer",
    ),
}
"""Problem and fix where an optional part is needed and missing."""


@dataclass(frozen=True)
class ModelSize:
    """Every parameter count of a model, and its cost.

    A count without its name is worthless: published exponents differ mostly because one
    paper's N leaves out what another's includes (Pearce & Song 2024, arXiv:2406.12907).
    """

    n_params_total: int
    """Every parameter, each once."""
    n_params_non_embedding: int
    """Without the input embedding and the output head (Kaplan et al. 2020)."""
    n_params_matmul: int
    """Weights that multiply tokens: the blocks' matrices and the output head, tied or not."""
    n_params_active: int
    """Parameters that one token uses. Equal to the total in a dense model."""
    flops_per_token: float
    """Training, forward and backward: every matrix product, attention in full, the head."""

    @property
    def is_sparse(self) -> bool:
        """Whether a token uses a part of the parameters."""
        return self.n_params_active != self.n_params_total

    def count(self, param_count: str) -> int:
        """One of the four counts by its short name ("matmul")."""
        return getattr(self, f"n_params_{param_count}")


@dataclass(frozen=True)
class Blocks:
    """A model as memory and layouts count it: equal blocks between an embedding and a head.

    Processes of a tensor-parallel layout share what is `cut`; each of them holds what is `whole`.
    """

    n: int
    width: int
    """Numbers that a token carries from one block to the next."""
    vocabulary: int
    """Parameters of the embedding, and of the head."""
    tied: bool
    """Whether the head is the embedding."""
    params_whole: int
    """Parameters of one block."""
    numbers_whole: int
    """Numbers that one token leaves in one block for the backward pass, at most."""
    params_cut: int = 0
    numbers_cut: int = 0
    normed: int = 0
    """Numbers of queries and keys that are normed head by head. They are kept as they came as well, and in fp32
    where a number has fewer bytes."""
    fp32: int = 0
    """Numbers that are kept in fp32 whatever the precision of the others."""
    params_first: int = 0
    """Parameters between the embedding and the first block."""
    params_last: int = 0
    """Parameters between the last block and the head."""
    scores: int = 0
    """Numbers that a token leaves for each token of context where attention weights are kept."""
    keys_values: int = 0
    """Width of what a token shows to all others of its context, twice: as keys and as values."""
    divided: Mapping[str, int] = field(default_factory=dict)
    """What the processes of a tensor-parallel layout must divide, by name."""
    refused: frozenset[str] = frozenset()
    """Axes of LAYOUTS along which this model cannot be spread, where others of its architecture may be."""

    def bytes_per_token(self, number: int, scores: int = 0, tensor: int = 1) -> float:
        """Bytes that one token leaves in one block for the backward pass, at most, on each of some processes.

        Args:
            number: Bytes of a number.
            scores: Numbers of attention weights of a token.
            tensor: Processes that share what is cut.
        """
        of_norms = self.normed * (number + (FP32_BYTES if number < FP32_BYTES else 0))
        whole = number * self.numbers_whole + FP32_BYTES * self.fp32
        return whole + (number * (self.numbers_cut + scores) + of_norms) / tensor

    def divides(self, tensor: int) -> bool:
        """Whether so many processes can share every matrix."""
        if tensor > 1 and "tensor" in self.refused:
            return False
        return not any(n % tensor for n in self.divided.values())

    @property
    def most_stages(self) -> int:
        """Pipeline stages at most: a tied head lies where its embedding lies."""
        return 1 if self.tied or "pipeline" in self.refused else self.n

    def words(self) -> str:
        """What a layout must divide: "width 64, 4 key-value heads and 2 layers"."""
        said = [f"width {self.width}", *(f"{n} {name}" for name, n in self.divided.items())]
        return f"{', '.join(said)} and {self.n} layers"


class ParallelDegrees(Protocol):
    """How many processes share what: a layout (hardware/layout.py)."""

    replicate: int
    shard: int
    tensor: int
    pipeline: int


class Architecture(Config):
    """One concrete model, every dimension decided. The base of all members of ARCHITECTURES.

    A subclass has a field `kind`, which is always its name in the registry, and a field
    `vocab_size`; it sets `family` and `parts`.
    """

    kind: str
    family: ClassVar[type["Family"]]
    """What a recipe holds: the shape rule."""
    parts: ClassVar[Mapping[str, str]]
    """"module:attribute" of its parts: network, and sharding, huggingface, generate if it can."""
    has_chunked_loss: ClassVar[bool] = False
    """Whether its network can compute a loss in chunks of rows (`loss_rows` of Network)."""
    has_multipliers: ClassVar[bool] = False
    """Whether it has multipliers of its residual branches and of its logits, and names the weights of its blocks
    "blocks.NUMBER.NAME"."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse, when it is imported, a class that lacks what no instance can be asked for."""
        super().__pydantic_init_subclass__(**kwargs)
        lacks = [] if "vocab_size" in cls.model_fields else ["vocab_size"]
        lacks += [name for name in ("family", "parts") if not hasattr(cls, name)]
        if lacks or "network" not in cls.parts:
            raise TypeError(f"{cls.__name__} has no {', '.join(lacks) or 'network in parts'}")

    @abstractmethod
    def size(self, seq_len: int) -> ModelSize:
        """Counts, and cost per token at a context of `seq_len` tokens."""

    @abstractmethod
    def blocks(self) -> Blocks:
        """The model as memory and layouts count it."""

    @abstractmethod
    def words(self) -> str:
        """The shape in a few words, for a plan."""

    def with_multipliers(self, *, residual: float, output: float, residual_depth: int | None) -> Self:
        """This model with factors on its residual branches and its logits.

        Args:
            residual: Factor on what a branch adds to the residual stream.
            output: Factor on the logits.
            residual_depth: Depth by which matrices that write into the residual stream start; None: its own.

        Raises:
            ConfigError: The architecture has none (`has_multipliers`).
        """
        del residual, output, residual_depth
        raise ConfigError(
            f"{self.kind} has no multipliers of its residual branches and its logits",
            where="recipe.param",
            fix="set recipe.param to standard, or choose an architecture that has them, such as transformer",
        )

    def context_limit(self) -> int | None:
        """Longest context that it can read, tokens; None: any."""
        return None

    def joined(self, name: str) -> dict[str, int]:
        """The parts of a weight by name, with the rows of each; one part where nothing is joined.

        Under these names a checkpoint is the same however the model was cut.
        """
        return {name: -1}

    def width(self) -> int:
        """Numbers that a token carries through the model. Rates of matrices depend on it."""
        return self.blocks().width

    def depth(self) -> int:
        """Blocks one after the other."""
        return self.blocks().n

    def activation_bytes_per_token(self, bytes_per_number: int) -> int:
        """What one token leaves behind in the blocks for the backward pass, in bytes, at most.

        Attention weights are not counted: on a GPU they are recomputed. Nor are the logits and the
        loss (loss_memory.py), since they depend on how the loss is computed.
        """
        found = self.blocks()
        return found.n * int(found.bytes_per_token(bytes_per_number))

    def refusal(self, layout: ParallelDegrees) -> tuple[str, str] | None:
        """Why a layout cannot carry this model, and the fix; None where it can."""
        found = self.blocks()
        for axis, word in LAYOUTS.items():
            lacks = "sharding" not in self.parts or axis in found.refused
            if getattr(layout, axis) > 1 and lacks:
                return f"{self.kind} has no {word} layout", f"choose {axis} 1"
        if found.width % layout.shard:
            return (
                f"width {found.width} does not divide over {layout.shard} shards",
                "choose a shard that divides the width, and more replicas",
            )
        if not found.divides(layout.tensor):
            said = " and ".join(f"{n} {name}" for name, n in found.divided.items())
            return (
                f"{said} do not all divide over {layout.tensor} processes",
                "choose a tensor degree that divides them",
            )
        if layout.pipeline > found.n:
            return (
                f"{found.n} layers do not fill {layout.pipeline} pipeline stages",
                "choose at most as many stages as there are layers",
            )
        if layout.pipeline > found.most_stages:
            return (
                "a tied head lies in another pipeline stage than its embedding",
                "choose pipeline 1, or a recipe whose head is not tied",
            )
        return None

    def network(self) -> "Network":
        """Its torch module, the weights not set."""
        return self.part("network")(self)

    def sharding(self) -> "Sharding":
        """How it is spread over processes. Raises ConfigError where it is not."""
        return self.part("sharding")(self)

    def hugging_face(self) -> "HuggingFace":
        """Its Hugging Face checkpoint. Raises ConfigError where there is none."""
        return self.part("huggingface")(self)

    @classmethod
    def part(cls, name: str) -> Any:
        """One of its parts.

        Raises:
            ConfigError: It does not have this part.
        """
        if name not in cls.parts:
            problem, fix = LACKING[name]
            kind = cls.model_fields["kind"].default
            raise ConfigError(f"{kind} {problem}", where=f"the architecture {cls.__module__}", fix=fix)
        return resolved(cls.parts[name])


class Family(Config):
    """A shape rule: the models of one architecture along a ladder of sizes."""

    kind: str
    closer: ClassVar[str]
    """What to change so that its sizes lie closer together, as an instruction."""

    @model_validator(mode="after")
    def _smallest_can_be_built(self) -> Self:
        try:
            next(iter(self.members(SMALLEST_VOCABULARY))).size(1)
        except (ArithmeticError, ValueError) as error:
            raise ValueError(f"its smallest model cannot be built: {arithmetic_reason(error)}") from None
        return self

    def width_obstacle(self) -> str | None:
        """Why a parametrization such as mup does not hold along its widths ("needs ..."); None where it does."""
        return None

    @abstractmethod
    def members(self, vocab_size: int) -> Iterator[Architecture]:
        """The family from its smallest member up, without end."""

"""The device under test, and the models that suit it.

The recipe and the sizes of a type of device are in workloads.yaml: on a GPU heads of 128 and widths in
multiples of 128, as in the sweeps for GPUs; on a CPU models of 100k to 3M parameters.

Not here: the steps (steps.py), the record of a whole command (record.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from scalelab.bench.steps import matmul_flops_per_s
from scalelab.config import Config, Positive, parse_yaml, read
from scalelab.hardware.device import Device
from scalelab.train.recipe import Recipe
from scalelab.train.spec import RunSpec
from scalelab.units import si

WORKLOADS = Path(__file__).with_name("workloads.yaml")
NO_CORPUS = "0" * 12
"""Digest of the corpus in specs that are trained on random tokens."""


class Workload(Config):
    """The models of one type of device."""

    sizes: tuple[Positive, ...]
    """Sizes of the models, parameters, smallest first."""
    reference: Positive
    """Size of the model that is compared with fp32 on the CPU."""
    middle: Positive
    """Size of the model with which settings, attention, validation and checkpoints are measured."""
    recipe: Recipe


class Workloads(Config):
    """The models of every type of device."""

    cpu: Workload
    cuda: Workload


@dataclass(frozen=True)
class SizedSpec:
    """One model of the workload."""

    size: float
    """Target size, parameters by the matmul count."""
    spec: RunSpec

    @property
    def name(self) -> str:
        """The target size in words: "350M"."""
        return si(self.size)

    @property
    def n_params(self) -> int:
        """Parameters of the model that was built, by the matmul count."""
        return self.spec.model.size(self.spec.seq_len).n_params_matmul


class Workbench:
    """A device and its workload.

    Args:
        device: Device under test; of it the first, where there are several.
        directory: Empty directory for checkpoints, runs and compiled kernels.
        changes: Replaced fields of the workload, such as smaller sizes; None for none.
    """

    def __init__(self, device: Device, directory: Path, changes: Mapping[str, Any] | None = None):
        self.device, self.directory = device, directory
        workload = getattr(Workloads.parse(read(WORKLOADS)), device.kind)
        if changes:
            workload = Workload.model_validate(workload.model_dump() | dict(changes))
        self.workload: Workload = workload

    @property
    def precision(self) -> str:
        """Precision of a run that leaves the choice to the device: bf16 or fp32."""
        return self.device.precision("auto")

    def spec_at(self, size: float, **changes: Any) -> SizedSpec:
        """Return the run of a size, with fields of its spec replaced.

        Args:
            size: Target size, parameters by the matmul count.
            changes: Fields of the RunSpec by name, validated as in a file.

        Raises:
            ConfigError: A field does not exist or cannot have its value.
        """
        recipe = self.workload.recipe
        vocab_size = recipe.data.source.vocab_size
        model = recipe.model_at(size, vocab_size)
        spec = recipe.spec(model, 20 * size, data_digest=NO_CORPUS, seed=0)
        if changes:
            fields = json.dumps(spec.model_dump(mode="json") | changes)
            spec = RunSpec.parse(parse_yaml(fields, "a run of the benchmark"))
        return SizedSpec(size, spec)

    def sizes(self) -> list[SizedSpec]:
        """Return the runs of all sizes, smallest first."""
        return [self.spec_at(size) for size in self.workload.sizes]

    @cached_property
    def matmul_flops_per_s(self) -> float:
        """Measured FLOP/s of a large matrix product in the precision of the device."""
        return matmul_flops_per_s(self.device, torch.bfloat16 if self.precision == "bf16" else torch.float32)

"""When the gradients of a sharded network are summed over processes: once a step, or once a micro-batch.

    held       weights are gathered once a step, gradients add up here in fp32 and are summed over
               processes after the last micro-batch: as many collective operations for any number of
               micro-batches
    not held   FSDP's own way: weights are gathered and gradients summed in every micro-batch; between
               them no process holds a whole gradient

Holding takes, beside the shards, the gathered weights in the working precision and a gradient in fp32
of all that the process computes with: 6 bytes per parameter in bf16, 8 in fp32. Both ways add the same
numbers, in another order.

A step that is held can be tried: all collective operations come before its first forward pass or after
its last backward pass, and the processes agree in between on whether memory was enough.

Not here: whether there is memory for it (plan/cost/memory.py), pipelines, which always hold (torch's
own schedule does so).
"""

from collections.abc import Iterator

from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup


class GradientSums:
    """Decides for a network under fully_shard when its gradients are summed over the processes.

    Args:
        network: The root module.
        held: Whether gradients are held here until the last micro-batch.
    """

    def __init__(self, network: FSDPModule, held: bool):
        self._network, self.is_held = network, held
        if held:
            network.set_reshard_after_forward(False)

    def gather(self) -> None:
        """Gather all weights, so that the passes to come need no other process."""
        fully_shard.state(self._network)._lazy_init()  # the root first, as its own forward pass would
        for module in self._network.modules():
            if isinstance(module, FSDPModule):
                module.unshard()

    def scatter(self) -> None:
        """Let go of gathered weights, so that the network's parameters are the shards again.

        After a pass without a backward pass FSDP keeps what it is set not to scatter, the root always.
        """
        for module in self._network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def expect(self, *, sums: bool) -> None:
        """Prepare for one micro-batch.

        Args:
            sums: Whether its backward pass sums the gradients over the processes, with those held.
        """
        if self.is_held:
            self._network.set_is_last_backward(sums)
            self._network.set_reshard_after_backward(sums)
            self._network.set_requires_gradient_sync(sums)

    def sum_held(self) -> None:
        """Sum what is held over the processes, after a last micro-batch that did not.

        As torch's pipelines do after their last one (pipelining/stage.py).
        """
        self.expect(sums=True)
        for group in self._groups():
            group.post_backward()
        fully_shard.state(self._network)._root_post_backward_final_callback()

    def discard(self) -> None:
        """Forget an unfinished step: gathered weights, held gradients and FSDP's place in the passes."""
        self._network.reset_iter_state()
        for group in self._groups():
            for weight in group.fsdp_params:  # what reset_iter_state leaves of a held gradient
                weight.unsharded_accumulated_grad = None
                if hasattr(weight, "_unsharded_param"):
                    weight._unsharded_param.grad = None
        self._network.zero_grad()

    def _groups(self) -> Iterator[FSDPParamGroup]:
        for state in fully_shard.state(self._network)._state_ctx.all_states:
            yield from state._fsdp_param_groups

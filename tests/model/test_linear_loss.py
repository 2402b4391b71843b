"""The loss in chunks: the plain loss and its gradients, in one graph, without all logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode

from scalelab.model import linear_loss
from scalelab.model.linear_loss import linear_cross_entropy
from scalelab.model.loss_memory import MOST_CHUNKS, chunk_rows, is_chunked, logits_bytes, loss_bytes
from scalelab.model.transformer.config import Transformer

R, C, V = 37, 8, 23


def inputs(dtype, rows=R, vocabulary=V):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, C, dtype=torch.float64, generator=generator).to(dtype)
    weight = torch.randn(vocabulary, C, dtype=torch.float64, generator=generator).to(dtype)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    return x.requires_grad_(), weight.requires_grad_(), targets


def plain(x, weight, targets):
    logits = linear(x, weight)
    return cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


def gradients(loss, *of):
    return torch.autograd.grad(loss * 0.5, of)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_gradients_are_those_of_finite_differences(rows):
    x, weight, targets = (t.detach()[:7] for t in inputs(torch.float64))
    x, weight, targets = x[:, :3].requires_grad_(), weight[:, :3].requires_grad_(), targets % 7

    assert torch.autograd.gradcheck(lambda a, b: linear_cross_entropy(a, b, targets, rows), (x, weight))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-3)]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_loss_and_gradients_are_the_plain_ones(dtype, tolerance, compiled):
    torch._dynamo.reset()
    function = linear_cross_entropy
    if compiled:
        function = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)
    x, weight, targets = inputs(dtype)
    chunked, wanted = function(x, weight, targets, 10), plain(x, weight, targets)

    assert chunked.dtype == wanted.dtype
    assert torch.allclose(chunked, wanted, rtol=min(tolerance, 2e-6))
    for ours, theirs in zip(gradients(chunked, x, weight), gradients(wanted, x, weight), strict=True):
        assert ours.dtype == dtype
        assert torch.allclose(ours, theirs, rtol=4 * tolerance, atol=tolerance)


def test_gradients_of_chunks_are_summed_in_fp32():
    """256 chunks that give the same: in bf16 their sum would stop growing at half of it."""
    n = 512
    x, weight = torch.ones(n, 1, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.bfloat16)
    weight.requires_grad_()
    loss = linear_cross_entropy(x, weight, torch.zeros(n, dtype=torch.long), 1)

    assert torch.autograd.grad(loss, weight)[0].flatten().tolist() == [-0.5, 0.5]


def saved_bytes(function, *arguments):
    """Bytes that autograd keeps for the backward pass, beside the arguments themselves."""
    there, found = {a.data_ptr() for a in arguments if isinstance(a, torch.Tensor)}, {}

    def keep(tensor):
        if tensor.data_ptr() not in there:
            found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = function(*arguments)
    assert loss.requires_grad
    return sum(found.values())


@pytest.mark.parametrize(("dtype", "number_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_kept_for_the_backward_pass_is_what_the_header_says(dtype, number_bytes, compiled):
    torch._dynamo.reset()
    rows, vocabulary = 512, 1024
    x, weight, targets = inputs(dtype, rows, vocabulary)
    function = linear_cross_entropy
    if compiled:
        function = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)

    assert saved_bytes(function, x, weight, targets, 64) == rows * C * number_bytes + 4 * vocabulary * C
    kept = saved_bytes(plain, x, weight, targets)
    assert kept == pytest.approx(4 * rows * vocabulary, rel=0.01)


class Largest(TorchDispatchMode):
    """The most numbers that one operation gives. What is inside of an operator of ours it does not see."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def test_no_more_logits_are_made_than_those_of_a_chunk():
    x, weight, targets = inputs(torch.float32, 512, 1024)
    with Largest() as whole:
        plain(x, weight, targets).backward()
    with Largest() as chunked, torch.no_grad():
        linear_loss._loss_and_gradients._init_fn(x, weight, targets, 64, True, True)

    assert (whole.numbers, chunked.numbers) == (512 * 1024, 64 * 1024)


@pytest.mark.parametrize("needs", [(False, False), (True, False), (False, True)])
def test_only_gradients_that_are_needed_are_made(needs):
    x, weight, targets = inputs(torch.float32)
    x, weight = x.detach().requires_grad_(needs[0]), weight.detach().requires_grad_(needs[1])
    loss = linear_cross_entropy(x, weight, targets, 10)

    assert torch.allclose(loss, plain(x, weight, targets))
    assert loss.requires_grad == any(needs)
    _, *made = linear_loss._loss_and_gradients(x, weight, targets, 10, *needs)
    assert [gradient.numel() > 0 for gradient in made] == list(needs)
    with torch.no_grad():
        assert not linear_cross_entropy(x, weight, targets, 10).requires_grad


@pytest.mark.parametrize("tied", [False, True])
def test_a_network_computes_the_same_in_chunks(tied):
    shape = {"n_layers": 1, "d_model": 16, "n_heads": 2, "n_kv_heads": 2, "head_size": 8, "d_ff": 32}
    model = Transformer(**shape, vocab_size=50, tied=tied)
    tokens = torch.randint(50, (3, 21), generator=torch.Generator().manual_seed(0))
    found = []
    for rows in (None, 7):
        network = model.network()
        network.reset(0)
        if not tied:
            torch.nn.init.normal_(network.head, generator=torch.Generator().manual_seed(1))
        network.configure(rows, "sdpa")
        loss = network(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in network.parameters())])

    for whole, chunked in zip(*found, strict=True):
        # Sums in another order: their rounding grows with the largest number that they add, not with what is left.
        assert torch.allclose(whole, chunked, rtol=1e-5, atol=1e-6 * whole.abs().max().item())


def test_chunks_are_few_and_none_is_larger_than_it_must_be():
    assert chunk_rows(2**17, 2**15) == 2**12
    assert chunk_rows(2**22, 2**15) == 2**22 / MOST_CHUNKS
    assert chunk_rows(8, 2**28) == 1


def test_logits_are_plain_up_to_a_sixteenth_of_the_memory():
    rows, vocabulary = 2**14, 2**15
    need = logits_bytes(rows, vocabulary, 2)

    assert need == rows * vocabulary * 10
    assert not is_chunked(rows, vocabulary, 2, 16 * need)
    assert is_chunked(rows, vocabulary, 2, 16 * need - 16)
    assert not is_chunked(rows, vocabulary, 2, None)


def test_the_estimate_falls_with_the_chunks():
    assert loss_bytes(1000, 5000, 64, 4, None) == logits_bytes(1000, 5000, 4) == 8 * 1000 * 5000
    assert loss_bytes(1000, 5000, 64, 2, 100) == 10 * 100 * 5000 + 2 * 1000 * 64 + 6 * 5000 * 64

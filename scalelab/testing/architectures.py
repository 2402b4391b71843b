"""Does an architecture keep its contract? For members of ARCHITECTURES, of any package.

    for model in small_models("mine", {"depth": 2}):
        check_architecture(model)

Models are so small that all of it takes seconds on a CPU. Every check is an AssertionError that
says what does not hold.

Not here: what an architecture is (model/base.py, model/network.py).
"""

import warnings
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from scalelab.errors import ConfigError
from scalelab.hardware.layout import Layout
from scalelab.model import ARCHITECTURES
from scalelab.model.base import LACKING, LAYOUTS, Architecture, Family
from scalelab.model.generate import write
from scalelab.model.huggingface import HuggingFace
from scalelab.model.network import Network
from scalelab.model.scalar_net import ScalarNet
from scalelab.model.sharding import Sharding

VOCAB_SIZE, ROWS, SEQ_LEN = 50, 3, 12
FLOP_MISS = 0.005
"""Share by which torch's own count may differ: it knows no softmax and no convention."""
CLOSE = 1e-5
ROUNDING = 1e-6
"""Share of the largest logit by which those of unchanged tokens may differ: 8 units in the last place of fp32."""


def small_models(name: str, family: Mapping[str, Any], n: int = 3) -> list[Architecture]:
    """The smallest members of a family.

    Args:
        name: In ARCHITECTURES.
        family: Settings of the shape rule, as under `model:` in a recipe, without `kind`.
        n: How many.
    """
    rule = ARCHITECTURES[name].family.model_validate({"kind": name, **family})
    check_family(rule, name)
    return list(islice(rule.members(VOCAB_SIZE), n))


def check_architecture(model: Architecture) -> None:
    """Every check of one model."""
    for check in (
        check_description,
        check_counts,
        check_flops,
        check_starting_values,
        check_state,
        check_causality,
        check_loss,
        check_segments,
        check_trunk,
        check_writing,
        check_layouts,
        check_parts,
    ):
        check(model)


def check_family(family: Family, name: str) -> None:
    """Members grow, are of the family's kind, and are distinct."""
    members = list(islice(family.members(VOCAB_SIZE), 5))
    sizes = [member.size(1).n_params_total for member in members]
    assert family.kind == name, f"the family of {name} is of kind {family.kind}"
    assert all(member.kind == name for member in members), f"a member is not of kind {name}"
    assert sizes == sorted(set(sizes)), f"members do not grow: {sizes}"
    assert family.closer, "`closer` does not say how sizes come closer together"


def check_description(model: Architecture) -> None:
    """A description survives its file, and its blocks add up to its size."""
    again = ARCHITECTURES[model.kind].model_validate(model.model_dump(mode="json"))
    assert again == model, f"{model.kind} is not the same after it was written and read"
    found, size = model.blocks(), model.size(SEQ_LEN)
    blocks = found.n * (found.params_whole + found.params_cut) + found.params_first + found.params_last
    total = blocks + found.vocabulary * (1 if found.tied else 2)
    assert total == size.n_params_total, f"blocks() has {total} parameters, size() {size}"
    assert (model.width(), model.depth()) == (found.width, found.n)
    assert model.activation_bytes_per_token(4) > model.activation_bytes_per_token(2) > 0
    assert model.words(), "words() is empty"
    follows = "loss_rows" in model.network().follows
    assert model.has_chunked_loss == follows, f"has_chunked_loss, and the network follows {follows}"


def check_counts(model: Architecture) -> None:
    """All four counts are those of the network."""
    network, size = model.network(), model.size(SEQ_LEN)
    numel = {name: weight.numel() for name, weight in network.named_parameters()}
    kinds = network.kinds()
    assert set(kinds) == set(numel), "kinds() does not name exactly the parameters"
    of = {kind: sum(n for name, n in numel.items() if kinds[name] == kind) for kind in KINDS}
    head = of["head"] or model.blocks().vocabulary
    assert size.n_params_total == sum(numel.values()), f"total: {size}, numel {numel}"
    outside = of["embedding"] + of["head"]
    assert size.n_params_non_embedding == sum(numel.values()) - outside, f"non_embedding: {size}"
    assert size.n_params_matmul == of["matrix"] + head, f"matmul: {size}, by kind {of}"
    assert 0 < size.n_params_active <= size.n_params_total, f"active: {size}"


KINDS = ("matrix", "embedding", "head", "vector")


def check_flops(model: Architecture) -> None:
    """FLOPs a token are those that torch counts."""
    network, (x, y) = shaken(model), tokens()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on reading oneDNN's switches
        # A layer that oneDNN fuses is one operation, in which the counter sees no product.
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            network(x, y).backward()
    counted = counter.get_total_flops() / x.numel()
    stated = model.size(SEQ_LEN).flops_per_token
    assert abs(stated / counted - 1) <= FLOP_MISS, f"{stated:.6g} FLOPs a token, torch has {counted:.6g}"


def check_starting_values(model: Architecture) -> None:
    """Starting values depend on the seed alone."""
    torch.manual_seed(1)
    one = reset(model, 3).state_dict()
    torch.manual_seed(2)
    same, other = reset(model, 3).state_dict(), reset(model, 4).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one), "one seed, two starts"
    assert any(not torch.equal(one[name], other[name]) for name in one), "the seed changes nothing"
    assert all(torch.isfinite(weight).all() for weight in one.values()), "a weight is not set"


def check_state(model: Architecture) -> None:
    """The parameters are all of the state, and another network takes them over."""
    network, (x, _) = shaken(model), tokens()
    state = network.state_dict()
    assert set(state) == {name for name, _ in network.named_parameters()}, "state_dict has buffers"
    other = model.network()
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(network(x), other(x)), "the same weights give other logits"
    for name, weight in state.items():
        rows = list(model.joined(name).values())
        assert rows == [-1] or sum(rows) == len(weight), f"the parts of {name} are not its rows"


def check_causality(model: Architecture) -> None:
    """A token sees what came before it, and nothing else."""
    network, (x, _), at = shaken(model), tokens(), SEQ_LEN // 2
    changed = x.clone()
    changed[:, at:] = (changed[:, at:] + 1) % VOCAB_SIZE
    with torch.no_grad():
        before, after = network(x), network(changed)
    assert before.shape == (ROWS, SEQ_LEN, VOCAB_SIZE), f"logits have shape {tuple(before.shape)}"
    # Without AVX a product over more or fewer tokens of an expert rounds otherwise: by units in the last place.
    seen = (before[:, :at] - after[:, :at]).abs().max().item()
    assert seen <= ROUNDING * before.abs().max().item(), "a token sees what comes after it"
    assert not close(before[:, at:], after[:, at:]), "tokens change nothing"


def check_loss(model: Architecture) -> None:
    """The loss is that of the logits, and a gradient reaches every weight."""
    network, (x, y) = shaken(model), tokens()
    loss = network(x, y)
    loss.backward()
    with torch.no_grad():
        logits = network(x)
        wanted = cross_entropy(logits.flatten(0, 1), y.flatten())
        hidden = network.hidden(x)
    assert abs(loss.item() - wanted.item()) < CLOSE * wanted.item(), f"{loss} is not {wanted}"
    assert hidden.shape == (ROWS, SEQ_LEN, model.width()), f"hidden() is {tuple(hidden.shape)}"
    idle = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not idle, f"no gradient reaches {', '.join(idle)}"


def check_segments(model: Architecture) -> None:
    """Texts side by side in one row are read as if each were alone."""
    network, (x, _) = shaken(model), tokens()
    owner, alone = torch.zeros_like(x), []
    for row, cut in enumerate((1, 5, SEQ_LEN)):
        owner[row, cut:] = 1
        parts = [part for part in (x[row, :cut], x[row, cut:]) if len(part)]
        with torch.no_grad():
            alone.append(torch.cat([network(part[None])[0] for part in parts]))
    with torch.no_grad():
        together = network(x, segments_BT=owner)
    assert close(together, torch.stack(alone)), "a segment sees another"


def check_trunk(model: Architecture) -> None:
    """Without its head the network carries one number a token, as in reward models and critics."""
    net, (x, _) = ScalarNet(shaken(model)), tokens()
    net(x).sum().backward()
    numel = {name: weight.numel() for name, weight in net.named_parameters()}
    found = model.blocks()
    head = 0 if found.tied else found.vocabulary
    wanted = model.size(SEQ_LEN).n_params_total - head + found.width
    assert net(x).shape == (ROWS, SEQ_LEN)
    assert set(net.kinds()) == set(numel), "kinds() names a head that is not there"
    assert sum(numel.values()) == wanted, f"{sum(numel.values())} parameters, {wanted} expected"


def check_writing(model: Architecture) -> None:
    """Text is continued as the network says, whatever the lengths of the prompts."""
    network, prompts = shaken(model), [[5, 7, 9, 11], [21], [8, 8]]
    written = write(network, prompts, n_new=6, end=0).tokens
    for prompt, row in zip(prompts, written, strict=True):
        for k, token in enumerate(row):
            with torch.no_grad():
                logits = network(torch.tensor([prompt + row[:k]]))[0, -1]
            assert logits.max() - logits[token] <= CLOSE, f"{token} is not the likeliest token"


def check_layouts(model: Architecture) -> None:
    """One process always carries it; a layout that it does not have is refused by its name."""
    assert model.refusal(Layout()) is None, "one process is refused"
    if "sharding" in model.parts:
        sharding = model.sharding()
        assert isinstance(sharding, Sharding)
        for name, weight in model.network().named_parameters():
            if weight.dim() > 1:
                width, cut = sharding.width_dim(name), sharding.cut_dim(name)
                assert width != cut, f"{name} is cut along its width"
                assert weight.shape[width] == model.width(), f"{name}: no width in {width}"
        return
    for axis, word in LAYOUTS.items():
        problem, fix = model.refusal(Layout(**{axis: 2})) or ("", "")
        assert problem == f"{model.kind} has no {word} layout", problem
        assert axis in fix, fix


def check_parts(model: Architecture) -> None:
    """Parts that it has do their work; parts that it lacks are refused by its name."""
    for part, (problem, fix) in LACKING.items():
        if part not in model.parts:
            message = refused(model, part)
            assert message == (f"{model.kind} {problem}", fix), f"{part} is missing: {message}"
    if "huggingface" in model.parts:
        if (problem := _not_exported(model)) is not None:
            named = f"{model.kind} {LACKING['huggingface'][0]} with "
            assert problem.startswith(named), f"a refusal that does not say why: {problem}"
            return
        layout, weights = model.hugging_face(), shaken(model).state_dict()
        assert isinstance(layout, HuggingFace)
        record = layout.describe(SEQ_LEN)
        assert record["model_type"] in layout.model_types
        assert layout.read(record) == model, "config.json describes another model"
        layouts = [layout]
        if model.has_multipliers:  # powers of two, which multiply without rounding
            scaled = model.with_multipliers(residual=0.5, output=0.25, residual_depth=None)
            layouts.append(scaled.hugging_face())
        for layout in layouts:
            again = layout.ours(layout.theirs(weights))
            assert set(again) == set(weights), "other weights come back"
            assert all(torch.equal(again[name], weights[name]) for name in weights), layout.config.words()


def _not_exported(model: Architecture) -> str | None:
    """Return why a model of an architecture with exports has none; None if it has."""
    try:
        model.hugging_face()
    except ConfigError as refusal:
        return refusal.problem
    return None


def refused(model: Architecture, part: str) -> tuple[str, str] | None:
    """Return problem and fix of the refusal of a part; None if it is provided."""
    try:
        model.part(part)
    except ConfigError as refusal:
        return refusal.problem, refusal.fix
    return None


def reset(model: Architecture, seed: int = 0) -> Network:
    """A network with its starting values."""
    network = model.network()
    network.reset(seed)
    return network


def shaken(model: Architecture, seed: int = 0) -> Network:
    """A network whose every weight is random, those that start at zero or one included."""
    network, generator = reset(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return network


def tokens(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens and those that follow them, shape (ROWS, SEQ_LEN) both."""
    generator = torch.Generator().manual_seed(seed)
    window = torch.randint(VOCAB_SIZE, (ROWS, SEQ_LEN + 1), generator=generator)
    return window[:, :-1], window[:, 1:]


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two results are the same but for rounding."""
    return torch.allclose(one, other, atol=CLOSE, rtol=0)

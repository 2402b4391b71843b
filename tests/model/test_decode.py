"""Writing with remembered keys and values equals reading everything again."""

import pytest
import torch

from scalelab.model.generate import write
from scalelab.model.transformer.config import Transformer

END = 0


@pytest.fixture(params=["plain", "grouped", "tied", "learned"])
def network(request):
    extra = {
        "plain": {"n_kv_heads": 4},
        "grouped": {"n_kv_heads": 2, "qk_norm": True},
        "tied": {"n_kv_heads": 4, "tied": True},
        "learned": {
            "n_kv_heads": 4,
            "positions": "learned",
            "max_positions": 17,
            "norm": "layer",
            "activation": "gelu",
        },
    }[request.param]
    config = Transformer(n_layers=2, d_model=32, n_heads=4, head_size=8, d_ff=64, vocab_size=50, **extra)
    network = config.network()
    network.reset(3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.requires_grad_(False)


PROMPTS = [[5, 7, 9, 11, 13], [21], [30, 31, 32], [8, 8]]


def slowly(network, prompt, n_new):
    """The likeliest token, again and again, everything read anew each time."""
    tokens = list(prompt)
    for _ in range(n_new):
        tokens.append(int(network(torch.tensor([tokens]))[0, -1].argmax()))
        if tokens[-1] == END:
            break
    return tokens[len(prompt) :]


def test_remembering_changes_nothing(network):
    written = write(network, PROMPTS, n_new=12, end=END)

    assert written.tokens == [slowly(network, prompt, 12) for prompt in PROMPTS]


def test_a_row_does_not_depend_on_its_neighbours(network):
    together = write(network, PROMPTS, n_new=8, end=END).tokens

    assert together == [write(network, [p], n_new=8, end=END).tokens[0] for p in PROMPTS]


def test_draws_follow_the_model_s_shares(network):
    n = 20_000
    generator = torch.Generator().manual_seed(1)

    written = write(network, [[5, 7]] * n, n_new=1, end=END, temperature=1.0, generator=generator)

    counts = torch.bincount(torch.tensor([row[0] for row in written.tokens]), minlength=50)
    share = torch.softmax(network(torch.tensor([[5, 7]]))[0, -1], dim=-1)
    spread = (share * (1 - share) / n).sqrt()
    assert ((counts / n - share).abs() < 5 * spread + 1e-4).all()


def test_top_p_keeps_the_likeliest_and_no_more(network):
    share = torch.softmax(network(torch.tensor([[5, 7]]))[0, -1], dim=-1)
    ordered, place = share.sort(descending=True)
    n_kept = int((ordered.cumsum(0) - ordered < 0.5).sum())
    generator = torch.Generator().manual_seed(1)

    written = write(
        network, [[5, 7]] * 4000, n_new=1, end=END, temperature=1.0, top_p=0.5, generator=generator
    )

    assert {row[0] for row in written.tokens} == set(place[:n_kept].tolist())


def test_the_same_generator_draws_the_same(network):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return write(network, PROMPTS, n_new=6, end=END, temperature=1.0, generator=generator).tokens

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_row_stops_at_its_end_token(network):
    generator = torch.Generator().manual_seed(0)

    written = write(network, [[5]] * 300, n_new=40, end=END, temperature=1.5, generator=generator)

    for row, ended in zip(written.tokens, written.ended, strict=True):
        assert row.count(END) == ended
        assert (row[-1] == END) == ended
        assert len(row) <= 40
    assert any(written.ended)


def test_what_is_never_to_be_written_is_not(network):
    generator = torch.Generator().manual_seed(0)
    never = list(range(1, 40))

    written = write(network, PROMPTS, n_new=20, end=END, temperature=2.0, generator=generator, never=never)

    assert not {t for row in written.tokens for t in row} & set(never)

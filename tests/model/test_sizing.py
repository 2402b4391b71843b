"""From target sizes to models: near enough, or refused."""

import pytest

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.model.sizing import TOLERANCE, nearest
from scalelab.model.transformer.config import TransformerFamily

LARGE = TransformerFamily(head_size=64, aspect_ratio=64)
SMALL = TransformerFamily(head_size=8, n_layers=2)


@pytest.mark.parametrize("target", [3e7, 1e8, 4e8, 1e9, 7e9, 7e10])
@pytest.mark.parametrize("count", ["total", "non_embedding", "matmul", "active"])
def test_the_nearest_member_is_near(target, count):
    actual = nearest(LARGE, target, count, 32768).size(1).count(count)

    assert abs(actual / target - 1) <= TOLERANCE


def test_no_other_member_is_nearer():
    chosen = nearest(SMALL, 1e5, "matmul", 1024)
    members = [m for m, _ in zip(SMALL.members(1024), range(40), strict=False)]

    best = min(members, key=lambda m: abs(m.size(1).n_params_matmul / 1e5 - 1))
    assert chosen == best


def test_aspect_ratio_and_head_size_are_held():
    for target in (1e8, 1e9, 1e10):
        model = nearest(LARGE, target, "matmul", 32768)

        assert model.d_model / model.n_layers == pytest.approx(64, rel=0.12)
        assert model.n_heads * 64 == model.d_model


@pytest.mark.parametrize(
    ("multiple", "head_size", "group", "step"), [(1, 64, 1, 64), (128, 64, 1, 128), (128, 48, 2, 384)]
)
def test_widths_are_multiples_of_whole_heads_and_of_width_multiple(multiple, head_size, group, step):
    family = TransformerFamily(
        head_size=head_size, heads_per_kv_head=group, width_multiple=multiple, n_layers=2
    )
    widths = [m.d_model for m, _ in zip(family.members(1000), range(3), strict=False)]

    assert widths == [step, 2 * step, 3 * step]


@pytest.mark.parametrize(
    ("n_heads", "group", "multiple", "widths"),
    [(3, 1, 1, [6, 12, 18]), (4, 2, 1, [8, 16, 24]), (4, 1, 12, [24, 48, 72])],
)
def test_a_number_of_heads_is_held_and_heads_grow_with_width(n_heads, group, multiple, widths):
    family = TransformerFamily(n_heads=n_heads, heads_per_kv_head=group, width_multiple=multiple, n_layers=2)
    found = [m for m, _ in zip(family.members(1000), range(3), strict=False)]

    assert [m.d_model for m in found] == widths
    for m in found:
        assert (m.n_heads, m.n_kv_heads) == (n_heads, n_heads // group)
        assert m.head_size == m.d_model / n_heads
        assert m.head_size % 2 == 0


def test_three_heads_hold_the_feed_forward_ratio_exactly():
    """Widths of 6 k have 16 k columns: 8/3 of the width in whole multiples of 16, so nothing is rounded."""
    family = TransformerFamily(n_heads=3, n_layers=2)

    for m, _ in zip(family.members(1024), range(20), strict=False):
        assert 3 * m.d_ff == 8 * m.d_model


def test_either_rule_of_heads_is_read_back_from_its_own_text():
    for family in (SMALL, TransformerFamily(n_layers=2), TransformerFamily(n_heads=3, n_layers=2)):
        assert TransformerFamily.parse(parse_yaml(family.to_yaml(), "family")) == family
    assert TransformerFamily(n_layers=2).head_size == 64
    assert TransformerFamily(n_heads=3, n_layers=2).head_size is None


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"n_heads": 4, "head_size": 8}, "either head_size or n_heads.*head_size is 8, n_heads 4"),
        ({"head_size": None}, "either head_size or n_heads.*head_size is None, n_heads None"),
        ({"n_heads": 3, "heads_per_kv_head": 2}, "3 heads do not divide into groups of 2"),
        ({"n_heads": 0}, "n_heads"),
        ({"head_size": 7}, "even head_size, not 7"),
    ],
)
def test_heads_that_cannot_be_are_refused(given, problem):
    with pytest.raises(ValueError, match=problem):
        TransformerFamily(n_layers=2, **given)


def test_members_grow():
    sizes = [m.size(1).n_params_total for m, _ in zip(LARGE.members(1000), range(30), strict=False)]

    assert sizes == sorted(set(sizes))


def test_a_size_that_cannot_be_built_is_refused_with_its_neighbours():
    with pytest.raises(ConfigError) as error:
        nearest(TransformerFamily(head_size=64, n_layers=2), 1e4, "total", 1024)

    assert "no model of 10k parameters (total) can be built" in str(error.value)
    assert "nearest members have" in str(error.value)
    assert "make head_size, n_heads or width_multiple smaller" in str(error.value)

"""The shape that a transformer of a given size probably has, where nobody says.

Llama's layout: width over depth between 80 and 160 and 8 key-value heads, as Llama 3 has
(Grattafiori et al. 2024, arXiv:2407.21783, table 3); small models get a smaller vocabulary and
smaller heads.
"""

import math

from scalelab.model.transformer.config import Transformer

NEAR = 0.1  # of ln N, by which an assumed shape may differ from the size that it stands for
SHAPES = (
    # vocabulary, head size, steps of width and of depth, d_ff over d_model, context, batch tokens
    (128_256, 128, 1_024, 8, 3.5, 8_192, 2**24),  # Llama 3
    (32_000, 64, 128, 2, 8 / 3, 2_048, 2**22),  # Llama 1, smaller heads
    (1_024, 8, 32, 2, 8 / 3, 256, 2**14),
)
WIDEST = 40  # steps of width that are tried
ASPECTS = (80, 160)  # d_model / n_layers


def llama_like(n_params: float, param_count: str) -> tuple[Transformer, int, int] | None:
    """The shape nearest to a size, its context and its batch in tokens; None where none is near.

    Args:
        n_params: Of the model that it stands for.
        param_count: Which count that is.
    """
    for vocab_size, head_size, width_step, depth_step, ratio, seq_len, batch in SHAPES:
        found = []
        for width in range(width_step, WIDEST * width_step + 1, width_step):
            deepest, shallowest = width / ASPECTS[0], width / ASPECTS[1]
            first = depth_step * max(1, math.ceil(shallowest / depth_step))
            for depth in range(first, int(deepest) + 1, depth_step):
                n_heads = width // head_size
                model = Transformer(
                    n_layers=depth,
                    d_model=width,
                    n_heads=n_heads,
                    n_kv_heads=min(8, n_heads) if n_heads % 8 == 0 else n_heads,
                    head_size=head_size,
                    d_ff=round(ratio * width / head_size) * head_size,
                    vocab_size=vocab_size,
                )
                size = model.size(1).count(param_count)
                found.append((abs(math.log(size / n_params)), model))
        miss, model = min(found, key=lambda pair: pair[0])
        if miss <= NEAR:
            return model, seq_len, batch
    return None

"""FLOPs of training, counted by hand.

    flops_per_token = 6 * n_params_matmul + 12 * n_layers * d_attn * seq_len

Why 6:   a weight in a matmul costs a multiply and an add going forward, twice that back.
Why 12:  scores and mixing cost 2 * 2 * d_attn * seq_len going forward, tripled by going back.
Counted: the output head, and attention in full although the causal mask skips half of it.
Not:     embedding look-ups, norms, rotary, softmax, recomputation. Hence MFU, not HFU.

Symbols: n_params_matmul weights that multiply tokens; d_attn query heads x head size;
         seq_len tokens of context.
Source:  Chowdhery et al. 2022 (PaLM), appendix B, arXiv:2204.02311.
Not here: device peaks (accelerators.py), measured throughput (train/loop.py).
"""


def training_flops_per_token(n_params_matmul: int, n_layers: int, d_attn: int, seq_len: int) -> float:
    """FLOPs to train on one token, forward and backward.

    Args:
        n_params_matmul: Parameters in matrix products.
        n_layers: Number of blocks.
        d_attn: Width of attention, all heads together.
        seq_len: Context length, tokens.
    """
    return 6.0 * n_params_matmul + 12.0 * n_layers * d_attn * seq_len

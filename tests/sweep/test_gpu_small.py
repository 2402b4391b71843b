"""The small sweep for a GPU: its FLOPs, its sizes and its text are those that its header promises."""

from source_tree import ROOT

from scalelab.sweep.file import SweepFile

FILE = ROOT / "sweeps" / "isoflop_gpu_small.yaml"
H100_FLOPS_PER_S, ASSUMED_MFU = 9.89e14, 0.33


def proposals():
    sweep = SweepFile.load(FILE, [])
    vocab_size = sweep.recipe.data.source.vocab_size
    return sweep, sweep.design.ask(sweep.recipe, vocab_size=vocab_size, data_digest="0" * 12)


def test_it_takes_about_twenty_minutes_at_the_mfu_that_its_header_assumes():
    _, every = proposals()
    minutes = sum(p.flops for p in every) / (ASSUMED_MFU * H100_FLOPS_PER_S) / 60

    assert "assumed MFU of 33%" in FILE.read_text()
    assert 18 < minutes < 22


def test_no_run_reads_its_text_twice():
    sweep, every = proposals()
    data = sweep.recipe.data
    n_train = data.source.documents * data.source.length * (1 - data.validation)

    assert data.epochs == 1
    assert max(p.spec.n_tokens for p in every) < n_train / 2


def test_heads_are_of_128_and_every_slice_has_five_sizes_near_their_targets():
    _, every = proposals()

    assert {p.spec.model.head_size for p in every} == {128}
    assert {p.spec.model.d_model % 128 for p in every} == {0}
    for budget in {p.flops_planned for p in every}:
        sizes = {p.spec.model.size(512).n_params_matmul: p for p in every if p.flops_planned == budget}
        assert len(sizes) == 5
        for n_params, proposal in sizes.items():
            assert abs(n_params / proposal.n_params_planned - 1) < 0.15

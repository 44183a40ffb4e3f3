"""Warnings of Gram blocks that say nothing any more."""

from colorize_jax.training.monitoring.gram_watch import GramWatch


def metrics(block="3", mean=0.5, contrast=0.2, share=0.6):
    names = {"mean": mean, "contrast": contrast, "cross_share": share, "relative": 0.1}
    return {f"gram_{name}/{block}": value for name, value in names.items()}


def test_healthy_blocks_and_runs_of_one_branch_are_silent():
    watch = GramWatch()
    assert watch.look({"loss": 1.0, "gram_loss": 0.0}) == []
    assert watch.look(metrics() | metrics("6", contrast=0.011)) == []
    assert watch.look(metrics(share=0.3)) == []


def test_parallel_tokens_are_told_once_a_block():
    watch = GramWatch()
    collapsed = {"mean": 0.998, "contrast": 0.001}
    (line,) = watch.look(metrics(**collapsed) | metrics("6"))
    assert "Gram block 3 says nothing any more" in line
    assert "mean cosine 0.998, deviation 0.0010" in line
    assert watch.look(metrics(**collapsed)) == []
    (line,) = watch.look(metrics("6", **collapsed))
    assert "Gram block 6" in line


def test_blocks_that_stop_looking_at_the_reference():
    """From 60 % of the output to 17 %; not those whose cross-attention has not begun."""
    watch = GramWatch()
    assert watch.look(metrics(share=0.04)) == watch.look(metrics(share=0.001)) == []
    assert watch.look(metrics(share=0.6)) == []
    (line,) = watch.look(metrics(share=0.17))
    assert "cross-attention is 17% of its output, and was 60%" in line
    assert watch.look(metrics(share=0.1)) == []

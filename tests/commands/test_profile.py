"""What a GPU's time goes into, of a profile's events."""

import jax.numpy as jnp
import pytest

from colorize_jax.benchmark import profile

EVENTS = [
    ("nvjet_sm90_tst_128x128", 0.0, 2.0),
    ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", 2.0, 1.0),
    ("loop_multiply_fusion_4", 2.5, 1.0),  # beside the attention
    ("sm90_xmma_fprop_implicit_gemm_bf16", 4.5, 0.5),
    ("memcpy128", 5.0, 0.5),
    ("loop_multiply_fusion_4", 6.0, 2.0),
]


def test_totals_of_kinds_kernels_and_the_span():
    found = profile.totals(reversed(EVENTS))
    assert found["kinds"] == {
        "fusions": 3.0,
        "products": 2.0,
        "attention": 1.0,
        "convolutions": 0.5,
        "copies": 0.5,
    }
    assert next(iter(found["kinds"])) == "fusions"
    assert found["largest"][0] == ["loop_multiply_fusion_4", 3.0, 2]
    assert found["span"] == 8.0 and found["busy"] == 6.5
    words = profile.in_words(found)
    assert words.startswith("fusions 43%, products 29%") and "no kernel in 19% of the span" in words


def test_nothing_is_said_where_no_kernel_is_known():
    assert profile.kernel_times(lambda: jnp.zeros(1)) == {} and profile.in_words({}) == ""
    assert profile.totals([])["busy"] == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_wgrad_implicit_gemm_indexed_bf16", "convolutions"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop", "attention"),
        ("cutlass_80_tensorop_bf16_s16816gemm", "products"),
        ("Memset 3", "copies"),
        ("input_add_reduce_fusion_28", "fusions"),
    ],
)
def test_kernels_have_kinds(name, kind):
    assert profile.kind_of(name) == kind

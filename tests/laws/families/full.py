"""Exact attention."""

from effjax.layers import FullAttention
from effjax.ops.full import full_attention
from tests.laws.families.family import Family, allowed, dense, on_arrays

FULL = Family(
    name="full",
    sequences=("v", "q", "k"),
    op=on_arrays(lambda arrays, frozen, **kwargs: full_attention(arrays["q"], arrays["k"], arrays["v"], **kwargs)),
    oracle=lambda arrays, frozen, **rules: dense(
        arrays["q"], arrays["k"], arrays["v"], allowed(arrays["q"].shape[1], **rules)
    ),
    layer=FullAttention,
    streaming=dict(rotary=True),
    growth="quadratic",
    longest=16_384,
)

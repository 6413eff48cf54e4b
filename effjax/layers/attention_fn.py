"""Any family that has no parameters of its own, as the `attention_fn` of Flax's multi-head attention."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from effjax.layers.full import FullAttention
from effjax.layers.local import LocalAttention
from effjax.layers.longformer import LongformerAttention
from effjax.layers.nystromformer import NystromAttention
from effjax.layers.performer import PerformerAttention
from effjax.layers.sparse import BigBirdAttention, FixedAttention, LogSparseAttention, StridedAttention
from effjax.layers.window import WindowAttention
from effjax.ops.favor import favor_attention
from effjax.ops.longformer import longformer_attention
from effjax.ops.nystrom import nystrom_attention

FAMILIES = {
    "big_bird": BigBirdAttention,
    "fixed": FixedAttention,
    "full": FullAttention,
    "local": LocalAttention,
    "log_sparse": LogSparseAttention,
    "longformer": LongformerAttention,
    "nystromformer": NystromAttention,
    "performer": PerformerAttention,
    "strided": StridedAttention,
    "window": WindowAttention,
}
OWN_PARAMETERS = "has parameters beyond projections of queries, keys and values"
NO_QUERIES = "is no attention, and has no queries and keys"
REFUSED = {
    "adaptive_span": OWN_PARAMETERS,
    "depthwise_conv": NO_QUERIES,
    "dynamic_conv": NO_QUERIES,
    "light_conv": NO_QUERIES,
    "linformer": OWN_PARAMETERS,
    "lsh": "shares one projection between queries and keys",
    "lsra": OWN_PARAMETERS,
    "transformer_xl": OWN_PARAMETERS,
}
FULL_MASKS = ("refuse", "padding")
# What a layer does around the attention itself, with positions or parameters; not to be had in a function of q, k, v.
AROUND = ("rotary", "n_kv_heads", "use_bias", "qk_head_dim", "qk_kernel", "kernel_size", "relative", "max_global")
AROUND += ("redraw_interval",)


def attention_fn(
    family: str, *, causal: bool = False, full_mask: str = "refuse", seed: int = 0, **options
) -> Callable[..., jax.Array]:
    """A function to pass as `flax.linen.MultiHeadDotProductAttention(attention_fn=…)`: the family changes, parameters
    do not.

        nn.MultiHeadDotProductAttention(num_heads=8, attention_fn=effjax.attention_fn("longformer", window=256))

    The function takes q, k, v `[..., T, N, H]` and what Flax passes along; without queries of padded positions it
    returns what `nn.dot_product_attention` would, if only the pairs that the family allows were unmasked.

    - `mask` `[..., 1, 1, S]` says which keys are there, for every family. One of `[..., T, S]` costs n² and means what
      it says with "full"; the others refuse it, or take it to be padding with `full_mask="padding"`: made by
      `nn.make_attention_mask` of tokens that are there, and `nn.make_causal_mask` where `causal` says so too.
    - `bias` is for "full" alone, as are keys of another length than queries: cross-attention and `decode=True`.
    - Dropout masks are those of the family, never broadcast; "performer" has no weights to drop, and refuses it.
    - Softmax and sums are float32 at least. `precision`, the einsum classes and `sow_weights` are refused.

    Args:
      family: "full", "window", "local", "longformer", "strided", "fixed", "log_sparse", "big_bird", "performer" or
        "nystromformer" (without its convolution).
      causal: a position sees itself and the past only.
      full_mask: "refuse" or "padding", see above.
      seed: of Performer's random features, which are constants here.
      **options: attributes of the family's class in `effjax.layers`, such as `window`, `chunk_size`, `n_features`.

    Returns:
      The function.

    Raises:
      ValueError: a family that needs parameters of its own, or an option that does not exist or makes no sense; from
        the function, arguments that the family cannot honour.
    """
    if family not in FAMILIES:
        reason = f"{family} {REFUSED[family]}; " if family in REFUSED else ""
        raise ValueError(f"family={family!r}; {reason}one of {', '.join(FAMILIES)} is allowed")
    if full_mask not in FULL_MASKS:
        raise ValueError(f"full_mask={full_mask!r}; one of {', '.join(FULL_MASKS)} is allowed")
    allowed = set(FAMILIES[family].__dataclass_fields__) - {*AROUND, "parent", "name", "dtype", "d_model", "n_heads"}
    allowed -= {"head_dim", "dropout_rate", "causal", "frozen"}
    if unknown := sorted(set(options) - allowed):
        raise ValueError(f"{', '.join(unknown)}: options of {family!r} are {', '.join(sorted(allowed))}")
    make = functools.partial(FAMILIES[family], causal=causal, d_model=2, parent=None, **options)
    dilation = options.get("dilation", 1)
    make(n_heads=len(dilation) if isinstance(dilation, tuple) else 1, head_dim=1)  # checks the options

    def attend(
        query,
        key,
        value,
        bias=None,
        mask=None,
        broadcast_dropout=True,
        dropout_rng=None,
        dropout_rate=0.0,
        deterministic=False,
        dtype=None,
        precision=None,
        module=None,
        force_fp32_for_softmax=False,
        qk_attn_weights_einsum=None,
        attn_weights_value_einsum=None,
    ):
        del broadcast_dropout, force_fp32_for_softmax
        _refuse(precision=precision, qk_attn_weights_einsum=qk_attn_weights_einsum)
        _refuse(attn_weights_value_einsum=attn_weights_value_einsum)
        if module is not None:
            raise ValueError("sow_weights=True: the weights of all pairs never exist at once; only False")
        query, key, value = promote_dtype(query, key, value, dtype=dtype)
        batch = query.shape[:-3]
        q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
        rules = {} if mask is None else _mask_rules(family, full_mask, mask, batch, q.shape[0])
        if bias is not None:
            if family != "full":
                raise ValueError(f"bias with family={family!r}; only 'full' adds one to its logits")
            rules["bias"] = _flat(bias, batch, q.shape[0])
        if family != "full" and q.shape[1] != k.shape[1]:
            raise ValueError(
                f"{q.shape[1]} queries and {k.shape[1]} keys with family={family!r}, which mixes a sequence with "
                "itself; only 'full' attends across, and decodes (decode=True): the others do so as effjax.layers"
            )
        if dropout_rate and not deterministic:
            if family == "performer":
                raise ValueError(f"dropout_rate={dropout_rate} with family='performer', which has no weights; only 0")
            rules |= dict(dropout_rate=dropout_rate, dropout_key=dropout_rng)
        mixer = make(n_heads=q.shape[2], head_dim=q.shape[3])
        return _attend(mixer, q, k, v, seed, rules).reshape(*batch, *q.shape[1:-1], v.shape[-1])

    return attend


def _attend(mixer, q, k, v, seed, rules):
    """The family's attention without its projections."""
    if isinstance(mixer, LongformerAttention):
        count = mixer.global_tokens
        tokens = (q, k, v) if count else ()
        marked = jnp.broadcast_to(jnp.arange(q.shape[1]) < count, q.shape[:2]) if count else None
        options = dict(window=mixer.window, dilation=mixer.dilation, causal=mixer.causal)
        options |= dict(global_mask=marked, max_global=count, implementation=mixer.implementation)
        return longformer_attention(q, k, v, *tokens, **options, **rules)
    if isinstance(mixer, NystromAttention):
        names = ("n_landmarks", "iterations", "inverse_start", "implementation")
        return nystrom_attention(q, k, v, **{name: getattr(mixer, name) for name in names}, **rules)
    if isinstance(mixer, PerformerAttention):
        projection = mixer.draw(jax.random.key(seed)) if mixer.n_features else None
        names = ("kernel", "causal", "epsilon", "chunk_size", "implementation")
        options = {name: getattr(mixer, name) for name in names}
        return favor_attention(q, k, v, projection=projection, **options, **rules)[0]
    return mixer.attend(q, k, v, **rules)


def _mask_rules(family, full_mask, mask, batch, rows):
    """A mask as an argument of the family's op."""
    mask = jnp.asarray(mask)
    mask = _flat(mask.reshape((1,) * max(0, 4 - mask.ndim) + mask.shape), batch, rows).astype(bool)
    if family == "full":
        return dict(mask=mask)
    if mask.shape[2] == 1 and mask.shape[1] == 1:
        return dict(padding_mask=mask[:, 0, 0])
    if full_mask == "padding" and mask.shape[1] == 1:
        return dict(padding_mask=jnp.any(mask[:, 0], axis=1))
    raise ValueError(
        f"mask of shape {mask.shape} with family={family!r}: [batch, 1, 1, keys], which says what keys are there, is "
        "allowed; a mask of all pairs is taken for padding with full_mask='padding' (and causality is said by "
        "causal=True), and honoured pair by pair by 'full' alone"
    )


def _flat(x, batch, rows):
    """`[..., N, T, S]`, broadcast over the batch's axes, as `[B, N, T, S]`."""
    return jnp.broadcast_to(x, (*batch, *x.shape[-3:])).reshape(rows, *x.shape[-3:])


def _refuse(**arguments):
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name}={value!r}; only None: products here have settings of their own")

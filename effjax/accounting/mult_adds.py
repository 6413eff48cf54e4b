"""Multiplications and additions as papers on small models count them: of the products, without the vocabulary."""

import jax
import jax.numpy as jnp

from effjax.accounting.flops import flop_breakdown


def mult_adds(model, params, *lengths: int) -> float:
    """Products of the blocks for one input: half the FLOPs of all matrix products and convolutions.

    Embeddings, the read-out, norms and softmaxes are not counted, whatever the length.

    Args:
      model: a `Decoder` or `Seq2Seq`.
      params: its parameters, or their shapes.
      *lengths: tokens of each input of `model.hidden`.

    Source: Wu, Liu et al. 2020 (2004.11886), section 5, for sentences of 30 tokens.
    """
    ids = [jax.ShapeDtypeStruct((1, length), jnp.int32) for length in lengths]

    def hidden(params, *ids):
        return model.apply({"params": params}, *ids, method="hidden")

    return flop_breakdown(hidden, params, *ids, platform="cpu").matmul / 2

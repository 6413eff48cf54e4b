"""An encoder-decoder: one stack reads a source, another writes a target and looks the source up in every block."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from effjax.layers.cross import CrossAttention, SourceRows
from effjax.layers.vocabulary import Vocabulary
from effjax.models import build
from effjax.models.decoder import Decoder, DecoderState
from effjax.models.encoder import Encoder

OF_A_SIDE = ("pattern", "n_layers", "positions", "axial", "factorised", "learned")
NOT_OFFERED = {"residual": "residual", "embedding": "full", "adaptive": {}}


class Seq2Seq(nn.Module):
    """`logits = read_out(decoder(embed(previous), source=encoder(embed(inputs))))`, one vocabulary for both.

    The two sides are the parts of `Encoder` and `Decoder` without vocabularies of their own. What the decoder keeps of
    the source, keys and values for every block, is made once (`read`) and is an explicit value: training and every step
    of decoding look up the same.

    Attributes:
      make_vocabulary: constructor of the embedding and the read-out, called with `dtype`.
      encoder: the side whose positions see all of the source.
      decoder: the side whose positions see their past and the source.
      dtype: dtype of the computation.

    Source: Vaswani et al. 2017 (1706.03762), section 3.
    """

    make_vocabulary: Callable[..., Vocabulary]
    encoder: Encoder
    decoder: Decoder
    dtype: Any = jnp.float32

    def setup(self):
        self.vocabulary = self.make_vocabulary(dtype=self.dtype)

    def __call__(self, inputs: Int[Array, "B S"], previous: Int[Array, "B T"], **arguments) -> Float[Array, "B T V"]:
        """Scores of every target token from those before it and the source; arguments are those of `hidden`."""
        return self.logits(self.hidden(inputs, previous, **arguments))

    def hidden(
        self,
        inputs: Int[Array, "B S"],
        previous: Int[Array, "B T"],
        *,
        source: dict[str, Any] | None = None,
        target: dict[str, Any] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        """What is read out.

        Args:
          inputs: ids of the source.
          previous: ids of the target, each one place later: a beginning, then the target but for its last token.
          source, target: `positions`, `padding_mask`, `segment_ids` of each, as in `effjax.layers.Mixer`; packed pairs
            have equal segments in both.
          deterministic: no dropout.
        """
        sources = self.read(inputs, deterministic=deterministic, **(source or {}))
        return self.write(previous, sources=sources, deterministic=deterministic, **(target or {}))[0]

    def read(self, inputs: Int[Array, "B S"], *, deterministic: bool = True, **sequence) -> list[SourceRows]:
        """What the decoder's blocks keep of a source."""
        encoded, _ = self.encoder.transform(self.vocabulary.embed(inputs), deterministic=deterministic, **sequence)
        rules = {name: sequence.get(name) for name in ("padding_mask", "segment_ids")}
        return self.decoder.read(encoded, **rules)

    def write(
        self, previous: Int[Array, "R T"], state: DecoderState | None = None, *, sources: list[SourceRows], **sequence
    ) -> tuple[Float[Array, "R T D"], DecoderState | None]:
        """The decoder's side: vectors to read out, and the state after these tokens; R may be a multiple of the
        sources, see `effjax.layers.cross.CrossAttention`."""
        return self.decoder.transform(self.vocabulary.embed(previous), state, sources=sources, **sequence)

    def step(
        self, tokens: Int[Array, "R T"], state: DecoderState, sources: list[SourceRows]
    ) -> tuple[Float[Array, "R V"], DecoderState]:
        """Scores of what follows these tokens, which follow what `state` has seen, and the state after them."""
        hidden, state = self.write(tokens, state, sources=sources)
        return self.logits(hidden[:, -1:])[:, 0], state

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Scores of every token, from what `hidden` gives."""
        return self.vocabulary.logits(hidden)

    def nats(
        self, inputs: Int[Array, "B S"], previous: Int[Array, "B T"], targets: Int[Array, "B T"], **arguments
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """`-log p(target)` and by how much the target's score exceeds the mean of all (`Vocabulary.margin`)."""
        hidden = self.hidden(inputs, previous, **arguments)
        return self.vocabulary.nats(hidden, targets), self.vocabulary.margin(hidden, targets)

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> DecoderState:
        """The decoder's state before the first of at most `max_length` tokens."""
        return self.decoder.initial_state(batch_size, dtype, max_length=max_length)

    def after_update(self, params, *, step: Int[Array, ""], key: Key[Array, ""]):
        """The parameters after every mixer's `after_update`."""
        update = lambda i, name, side: side.after_update(params[name], step=step, key=jax.random.fold_in(key, i))
        return params | {name: update(i, name, side) for i, (name, side) in enumerate(self.sides().items())}

    def penalty(self, params) -> Float[Array, ""]:
        """What the mixers add to the training loss, in nats per target."""
        return sum(side.penalty(params[name]) for name, side in self.sides().items())

    def metrics(self, params) -> dict[str, Float[Array, ""]]:
        """What is worth logging of the mixers' parameters, by side."""
        of_side = {name: side.metrics(params[name]) for name, side in self.sides().items()}
        return {f"{side}_{name}": value for side, found in of_side.items() for name, value in found.items()}

    def sides(self) -> dict[str, Decoder]:
        """The two sides by their names among the parameters."""
        return {"encoder": self.encoder, "decoder": self.decoder}


def seq2seq_config(encoder: tuple[str, ...] = ("full",), decoder: tuple[str, ...] = ("full",)) -> ConfigDict:
    """Every key of an encoder-decoder's `model` section, with its default.

    Widths, norms and dropout are common to both sides; the sections `encoder` and `decoder` hold what each has of its
    own: `pattern`, `n_layers`, positions and a section for every mixer of its pattern, as in `decoder_config`.

    Args:
      encoder: names of `effjax.layers.MIXERS` that are not causal, or need not be.
      decoder: names of mixers that can be causal.

    Raises:
      UserError: a name that does not exist.
    """
    whole = {"encoder": build.encoder_config(encoder), "decoder": build.decoder_config(decoder)}

    def own(config):
        return {name: config[name] for name in (*OF_A_SIDE, *sorted(set(config.pattern)))}

    common = build.decoder_config()
    for name in (*own(common), *NOT_OFFERED):
        del common[name]
    common.update(tie_embeddings=True, dropout_over_time=False, cross_heads=8, cross_head_dim=64)
    for name, config in whole.items():
        common[name] = ConfigDict(own(config) | {"n_layers": 6})
    return common


def make_seq2seq(config: ConfigDict, *, vocab_size: int, dtype=jnp.float32) -> Seq2Seq:
    """The encoder-decoder that a `model` section describes.

    Raises:
      UserError: a name that does not exist or a size that does not fit; a mixer of the encoder that is causal, or one
        of the decoder that is not.
    """
    common = {name: value for name, value in config.items() if name not in ("encoder", "decoder")} | NOT_OFFERED
    section = {name: ConfigDict(common | dict(config[name])) for name in ("encoder", "decoder")}
    cross = functools.partial(
        CrossAttention, config.d_model, config.cross_heads, config.cross_head_dim, config.attention_dropout
    )
    vocabulary = build.vocabulary_maker(section["decoder"], vocab_size)
    options = dict(dtype=dtype, drop_output=False)
    encoder = build.assemble(Encoder, build.must_see_both_sides, section["encoder"], None, **options)
    decoder = build.assemble(Decoder, build.must_stream, section["decoder"], None, make_cross=cross, **options)
    return Seq2Seq(vocabulary, encoder, decoder, dtype)

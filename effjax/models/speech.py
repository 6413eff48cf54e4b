"""From features of sound to symbols: a Conformer under CTC, or under an RNN transducer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from effjax.layers.mixer import at_least_one
from effjax.models.conformer import ConformerEncoder, EncoderState
from effjax.ops.dense import dense_dot
from effjax.ops.transducer import BLANK, transducer_loss


class CTCModel(nn.Module):
    """Log-probabilities of every symbol at every frame, independent of each other.

        loss = -log sum over all pi that collapse to y of prod_t p(pi_t | x)

    Attributes:
      encoder: of the frames.
      vocab_size: V, the blank, symbol 0, included.
      dtype: dtype of the computation; log-probabilities are float32.

    Source: Graves et al. 2006, Connectionist Temporal Classification.
    """

    encoder: ConformerEncoder
    vocab_size: int
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(vocab_size=self.vocab_size)

    def setup(self):
        self.head = nn.Dense(self.vocab_size, dtype=self.dtype, dot_general=dense_dot)

    def __call__(
        self, x, state: EncoderState | None = None, *, padding_mask=None, deterministic: bool = True
    ) -> tuple[Float[Array, "B S V"], Bool[Array, "B S"] | None, EncoderState | None]:
        """Log-probabilities of the symbols, which frames are real, and the state of a stream."""
        x, padding_mask, state = self.encoder(x, state, padding_mask=padding_mask, deterministic=deterministic)
        return nn.log_softmax(self.head(x).astype(jnp.float32)), padding_mask, state

    def nats(
        self,
        x: Float[Array, "B T F"],
        labels: Int[Array, "B U"],
        label_lengths: Int[Array, " B"],
        *,
        padding_mask: Bool[Array, "B T"],
        deterministic: bool = True,
    ) -> Float[Array, " B"]:
        """The loss of each utterance."""
        scores, real, _ = self(x, padding_mask=padding_mask, deterministic=deterministic)
        beyond = (jnp.arange(labels.shape[1]) >= label_lengths[:, None]).astype(jnp.float32)
        return optax.losses.ctc_loss(scores, 1.0 - real, labels, beyond, blank_id=BLANK)

    def min_frames(self, labels, label_lengths):
        """Fewest frames, after subsampling, that an alignment needs: one a label, and a blank between equal ones."""
        inside = jnp.arange(1, labels.shape[1]) < label_lengths[:, None]
        return label_lengths + jnp.sum((labels[:, 1:] == labels[:, :-1]) & inside, axis=1)


class TransducerModel(nn.Module):
    """Probabilities of every symbol at every frame, given the symbols so far: encoder, prediction LSTM, joint network.

    Attributes:
      encoder: of the frames.
      vocab_size: V, the blank, symbol 0, included.
      decoder_width: of the LSTM.
      joint_width: J, see `effjax.ops.transducer.transducer_loss`.
      frames_at_once: likewise.
      dtype: dtype of the computation; log-probabilities are float32.

    Source: Graves 2012 (1211.3711); Gulati et al. 2020 (2005.08100), section 3.1: one LSTM layer. Widths of the
      embedding (the encoder's) and of the joint network (640) are not in the paper; with these the counts of its three
      models come out within 1.5 %.
    """

    encoder: ConformerEncoder
    vocab_size: int
    decoder_width: int = 320
    joint_width: int = 640
    frames_at_once: int = 8
    dtype: Any = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        at_least_one(vocab_size=self.vocab_size, decoder_width=self.decoder_width, joint_width=self.joint_width)

    def setup(self):
        dense = dict(dtype=self.dtype, dot_general=dense_dot)
        self.embedding = nn.Embed(self.vocab_size, self.encoder.d_model, dtype=self.dtype)
        self.lstm = nn.OptimizedLSTMCell(self.decoder_width, dtype=self.dtype)
        self.frame_projection = nn.Dense(self.joint_width, use_bias=False, **dense)
        self.prefix_projection = nn.Dense(self.joint_width, **dense)
        init = nn.initializers.glorot_uniform()
        self.head_kernel = self.param("head_kernel", init, (self.joint_width, self.vocab_size))
        self.head_bias = self.param("head_bias", nn.initializers.zeros, (self.vocab_size,))

    def __call__(self, x, state: EncoderState | None = None, *, padding_mask=None, deterministic: bool = True):
        """Projected frames `[B, S, J]`, which are real, and the state of a stream."""
        x, padding_mask, state = self.encoder(x, state, padding_mask=padding_mask, deterministic=deterministic)
        return self.frame_projection(x), padding_mask, state

    def nats(self, x, labels, label_lengths, *, padding_mask, deterministic: bool = True) -> Float[Array, " B"]:
        """The loss of each utterance; arguments as of `CTCModel.nats`."""
        frames, real, _ = self(x, padding_mask=padding_mask, deterministic=deterministic)
        real_labels = jnp.where(jnp.arange(labels.shape[1]) < label_lengths[:, None], labels, BLANK)
        lengths = dict(frame_lengths=real.sum(1), label_lengths=label_lengths)
        arrays = (frames, self.prefixes(real_labels), self.head_kernel, self.head_bias, real_labels)
        return transducer_loss(*arrays, **lengths, frames_at_once=self.frames_at_once)

    def prefixes(self, labels: Int[Array, "B U"]) -> Float[Array, "B U1 J"]:
        """What the prediction network says behind 0, 1, … U labels; the blank stands for the beginning."""
        carry, y = self.start(labels.shape[0])
        body = nn.scan(
            lambda cell, carry, x: cell(carry, x),
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        _, outputs = body(self.lstm, carry, self.embedding(labels))
        return jnp.concatenate([y[:, None], self.prefix_projection(outputs)], axis=1)

    def start(self, batch_size: int):
        """The state of the prediction network before the first label, and what it says there, `[B, J]`."""
        zeros = jnp.zeros((batch_size, self.decoder_width), self.dtype)
        return self.extend((zeros, zeros), jnp.full(batch_size, BLANK))

    def extend(self, carry, labels: Int[Array, " B"]):
        """The state after one more label, and what the network says then."""
        carry, y = self.lstm(carry, self.embedding(labels))
        return carry, self.prefix_projection(y)

    def joint(self, frames: Float[Array, "B J"], prefixes: Float[Array, "B J"]) -> Float[Array, "B V"]:
        """Log-probabilities of the symbols at one frame and prefix of each row."""
        hidden = jnp.tanh(frames + prefixes)
        logits = (hidden @ self.head_kernel.astype(hidden.dtype)).astype(jnp.float32) + self.head_bias
        return nn.log_softmax(logits)

    def min_frames(self, labels, label_lengths):
        """Fewest frames that an alignment needs: labels take none."""
        del labels
        return jnp.ones_like(label_lengths)


Model = CTCModel | TransducerModel

"""The RNN transducer's loss: of all alignments of a label sequence with the frames, without their logits.

A joint network scores every label behind every frame and every prefix, `[B, T, U + 1, V]`, by far the largest array of
a speech model. Only two of its numbers enter the loss, those of the blank and of the label that comes next; so the
logits are made for a few frames at a time, reduced to these, and made again in the backward pass.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from effjax.ops.masking import FLOOR, MASKED

BLANK = 0


def transducer_loss(
    frames: Float[Array, "B T J"],
    prefixes: Float[Array, "B U1 J"],
    kernel: Float[Array, "J V"],
    bias: Float[Array, " V"],
    labels: Int[Array, "B U"],
    *,
    frame_lengths: Int[Array, " B"],
    label_lengths: Int[Array, " B"],
    frames_at_once: int = 8,
) -> Float[Array, " B"]:
    """Negative log-probability of each label sequence, summed over all its alignments.

        z_tu = W tanh(h_t + g_u) + b,   alpha_tu = alpha_{t-1,u} p(blank | t-1, u) + alpha_{t,u-1} p(y_u | t, u-1)
        loss = -log(alpha_{T-1,U} p(blank | T-1, U))

    Memory is O(B T U), besides `frames_at_once` B U V for the logits.

    Args:
      frames: h, the encoder's outputs, projected.
      prefixes: g, the prediction network's outputs behind 0, 1, … U labels, projected.
      kernel: W, from the joint width J to the V symbols; symbol 0 is the blank.
      bias: b.
      labels: y, of 1 … V - 1; what stands behind a sequence's end does not matter.
      frame_lengths: real frames of each row, at least 1.
      label_lengths: labels of each row, 0 allowed.
      frames_at_once: frames whose logits are in memory at the same time.

    Returns:
      Nats of each row.

    Raises:
      ValueError: there is not one prefix more than there are labels.

    Source: Graves 2012 (1211.3711), section 2.4 and, for the gradient, 2.5.
    """
    if prefixes.shape[1] != labels.shape[1] + 1:
        raise ValueError(f"prefixes has length {prefixes.shape[1]}; one more than {labels.shape[1]} labels is allowed")
    scores = transducer_scores(frames, prefixes, kernel, bias, labels, frames_at_once=frames_at_once)
    return lattice_loss(*scores, frame_lengths, label_lengths)


def transducer_scores(
    frames: Float[Array, "B T J"],
    prefixes: Float[Array, "B U1 J"],
    kernel: Float[Array, "J V"],
    bias: Float[Array, " V"],
    labels: Int[Array, "B U"],
    *,
    frames_at_once: int = 8,
) -> tuple[Float[Array, "B T U1"], Float[Array, "B T U1"]]:
    """Log-probabilities of the blank and of the next label at every frame and prefix; the last prefix has no next
    label, its column is that of the blank. Arguments as of `transducer_loss`."""
    (batch, length, width), count = frames.shape, prefixes.shape[1]
    following = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=BLANK)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def score(few):
        hidden = jnp.tanh(few[:, :, None] + prefixes[:, None])
        logits = (hidden @ kernel.astype(hidden.dtype)).astype(jnp.float32) + bias
        total = jax.nn.logsumexp(logits, axis=-1)
        index = jnp.broadcast_to(following[:, None, :, None], (*logits.shape[:-1], 1))
        label = jnp.take_along_axis(logits, index, axis=-1, mode="clip")[..., 0]
        return logits[..., BLANK] - total, label - total

    some = min(frames_at_once, length)
    pieces = jnp.pad(frames, ((0, 0), (0, -length % some), (0, 0))).reshape(batch, -1, some, width)
    scores = lax.map(score, pieces.swapaxes(0, 1))
    join = lambda x: x.swapaxes(0, 1).reshape(batch, -1, count)[:, :length]
    return tuple(map(join, scores))


@jax.custom_vjp
def lattice_loss(
    blank: Float[Array, "B T U1"],
    label: Float[Array, "B T U1"],
    frame_lengths: Int[Array, " B"],
    label_lengths: Int[Array, " B"],
) -> Float[Array, " B"]:
    """Minus the log of the sum over all paths of a lattice, from its corner to behind the last frame's last prefix.

    A blank leads to the next frame, a label to the next prefix. The gradient is minus the probability that a path takes
    a step, from one pass forward and one backward, each along the anti-diagonals of the lattice.

    Args:
      blank, label: log-probabilities of either step at every frame and prefix.
      frame_lengths, label_lengths: of each row; what stands beyond does not matter.

    Source: Graves 2012 (1211.3711), equations 16 to 20.
    """
    return _forward(blank, label, frame_lengths, label_lengths)[0]


def _forward(blank, label, frame_lengths, label_lengths):
    steps = _diagonals(blank, label, frame_lengths, label_lengths)
    rows, prefixes = blank.shape[0], blank.shape[2]
    start = jnp.full((rows, prefixes), MASKED).at[:, 0].set(0.0)

    def advance(alpha, step):
        ahead, up = step
        new = jnp.logaddexp(alpha + ahead, jnp.pad((alpha + up)[:, :-1], ((0, 0), (1, 0)), constant_values=MASKED))
        return jnp.maximum(new, MASKED), alpha

    last, alphas = lax.scan(advance, start, steps)
    alphas = jnp.concatenate([alphas, last[None]])
    end = frame_lengths + label_lengths
    total = alphas[end, jnp.arange(rows), label_lengths]
    return -total, (blank, label, frame_lengths, label_lengths, alphas, total)


def _backward(saved, g):
    blank, label, frame_lengths, label_lengths, alphas, total = saved
    steps = _diagonals(blank, label, frame_lengths, label_lengths)
    prefixes = jnp.arange(blank.shape[2])
    end = frame_lengths + label_lengths
    corner = prefixes == label_lengths[:, None]

    def retreat(beta, inputs):
        (ahead, up), alpha, diagonal = inputs
        beta = jnp.where((end == diagonal + 1)[:, None] & corner, 0.0, beta)
        ahead = ahead + beta
        up = up + jnp.pad(beta[:, 1:], ((0, 0), (0, 1)), constant_values=MASKED)
        taken = [jnp.exp(jnp.minimum(alpha + part - total[:, None], 0.0)) for part in (ahead, up)]
        return jnp.maximum(jnp.logaddexp(ahead, up), MASKED), taken

    start = jnp.full(alphas.shape[1:], MASKED)
    diagonals = jnp.arange(alphas.shape[0] - 1)
    _, taken = lax.scan(retreat, start, (steps, alphas[:-1], diagonals), reverse=True)
    possible = (total > FLOOR)[:, None, None]  # no path: no gradient, rather than NaN
    grads = (jnp.where(possible, -_from_diagonals(part, blank.shape[1]) * g[:, None, None], 0) for part in taken)
    return *grads, None, None


lattice_loss.defvjp(_forward, _backward)


def _diagonals(blank, label, frame_lengths, label_lengths):
    """Scores of both steps `[T + U, B, U + 1]` along the anti-diagonals t + u, MASKED where there is no such step."""
    length, count = blank.shape[1:]
    time, prefix = jnp.arange(length)[:, None], jnp.arange(count)
    inside = (time < frame_lengths[:, None, None]) & (prefix <= label_lengths[:, None, None])
    blank = jnp.where(inside, blank, MASKED)
    label = jnp.where(inside & (prefix < label_lengths[:, None, None]), label, MASKED)
    times = jnp.arange(length + count - 1)[:, None] - prefix
    there = (times >= 0) & (times < length)
    pick = lambda x: jnp.where(there, x[:, jnp.clip(times, 0, length - 1), prefix], MASKED).swapaxes(0, 1)
    return pick(blank), pick(label)


def _from_diagonals(x, length: int):
    """`[T + U, B, U + 1] -> [B, T, U + 1]`."""
    prefix = jnp.arange(x.shape[2])
    return x.swapaxes(0, 1)[:, jnp.arange(length)[:, None] + prefix, prefix]

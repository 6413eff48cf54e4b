"""What a law needs to know of an attention family: a fast op, a naive oracle, a layer, and what the family promises."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from effjax.layers import Mixer
from tests.laws.measure import relative_rms

HEADS, WIDTH, CHUNK = 2, 8, 8


@dataclass(frozen=True, eq=False)
class Family:
    """One way of exchanging information between positions.

    Attributes:
      name: as configurations name it.
      sequences: names of the differentiable inputs that run along time, each `[B, T, N, H]` unless `inputs` says
        otherwise (time is axis 1 in any case); the first one has the shape of the output.
      op: `op(arrays, frozen, causal=…, padding_mask=…, segment_ids=…, implementation=…) -> output`, `arrays` a dict.
      oracle: `oracle(arrays, frozen, causal=…, padding_mask=…, segment_ids=…)`, the equation as plainly as possible, in
        the dtype of the arrays, differentiable; an output at a padded query may be anything.
      layer: constructor of the layer, with any of its attributes (`causal` too, where there is a choice).
      parameters: `parameters(rng) -> {name: array}`, differentiable inputs of the op that do not run along time.
      choices: `choices(rng, batch, length) -> dict`, discrete choices that the laws hold fixed (`frozen`).
      replay: `replay(frozen, rows, length)`, what the layer's `mix` takes as `replay` to repeat those choices.
      implementations: forms of the op; (None,) where there is one.
      causal, both_sides: which of the two the family has.
      segments: whether packed documents are kept apart (where not, the layer raises ValueError).
      streaming: attributes under which one pass of the layer computes what its stream computes.
      check_state: `check_state(layer, params, x, state)` asserts that the state after `x`, `[2, 5, D]`, is right.
      growth: how the cost of the layer grows with the length: "linear", "n_log_n", "n_sqrt_n" or "quadratic".
      sized: attributes of the layer that depend on the length, `sized(length) -> dict` (a stride of about its root).
      memory: how temporaries grow: "linear" for all but those for which a comment says why.
      batched_memory: the same of the accelerator's form, which may hold the logits of all blocks that it visits.
      longest: greatest length at which the cost is looked at.
      sibling: name of a family with which it shares all but its equation; tests of laws other than 1 are slow for it.
    """

    name: str
    sequences: tuple[str, ...]
    op: Callable[..., Any]
    oracle: Callable[..., Any]
    layer: Callable[..., Mixer]
    parameters: Callable[..., dict] = lambda rng: {}
    choices: Callable[..., dict] = lambda rng, batch, length: {}
    replay: Callable[..., Any] = lambda frozen, rows, length: None
    implementations: tuple[str | None, ...] = ("blocked", "batched")
    causal: bool = True
    both_sides: bool = True
    segments: bool = True
    streaming: dict[str, Any] = field(default_factory=dict)
    check_state: Callable[..., None] = lambda layer, params, x, state: projected_past(params, x, state)
    growth: str = "linear"
    sized: Callable[[int], dict] = lambda length: {}
    memory: str = "linear"
    batched_memory: str = "linear"
    longest: int = 65_536
    sibling: str | None = None

    def inputs(self, length: int, *, batch: int = 2, seed: int = 0, dtype=np.float64):
        """Random arrays, and the discrete choices that the laws hold fixed."""
        rng = np.random.default_rng(seed)
        arrays = {name: rng.normal(size=self.shape(batch, length)).astype(dtype) for name in self.sequences}
        arrays |= {name: np.asarray(array, dtype) for name, array in self.parameters(rng).items()}
        return arrays, self.choices(rng, batch, length)

    def shape(self, batch: int, length: int) -> tuple[int, ...]:
        """Shape of the sequences and of the output."""
        return (batch, length, HEADS, WIDTH)


def on_arrays(op):
    """The op on `jax.Array`s, whatever kind of arrays a law holds."""
    as_array = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
    return lambda *args, **kwargs: op(*jax.tree.map(as_array, args), **jax.tree.map(as_array, kwargs))


def dense(q, k, v, mask):
    """softmax(q k^T / sqrt(H)) v over what the mask, `[B, N, T, S]`, allows; 0 for a row that may see nothing."""
    logits = jnp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1])
    return weighted(logits, v, mask)


def weighted(logits, v, mask):
    """softmax(logits) v over what the mask allows, `[B, N, T, S]`; 0 for a row that may see nothing."""
    weights = jnp.where(mask, jnp.exp(logits - jnp.max(jnp.where(mask, logits, -1e30), -1, keepdims=True)), 0.0)
    total = weights.sum(-1, keepdims=True)
    weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), 0.0)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def allowed(length, *, causal=True, padding_mask=None, segment_ids=None, batch=1):
    """Which keys each query may see by order, padding and segments: bool `[B or 1, 1, T, T]`."""
    time = np.arange(length)
    mask = time[:, None] >= time[None, :] if causal else np.ones((length, length), bool)
    mask = np.broadcast_to(mask, (batch, 1, length, length))
    if padding_mask is not None:
        mask = mask & np.asarray(padding_mask)[:, None, None, :]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
    return mask


def projected_past(params, x, state, name="key"):
    """A cache of keys: as many live slots as tokens seen, and in them the projections of those tokens."""
    expected = np.einsum("btd,dnh->btnh", np.asarray(x, np.float64), np.asarray(params["params"][name]["kernel"]))
    assert int(state.index) == x.shape[1]
    live = np.asarray(state.segment_ids) >= 0
    assert live.sum(-1).tolist() == [x.shape[1]] * x.shape[0]
    assert relative_rms(np.asarray(state.key)[live].reshape(expected.shape), expected) <= 1e-6

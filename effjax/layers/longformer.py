"""Longformer: a sliding window, dilated in some heads, and a few tokens that see and are seen by all."""

from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from effjax.layers.mixer import State, neutralise, stream_segments
from effjax.layers.projections import SeparateHeads, from_heads, to_heads
from effjax.layers.recent import RecentRows
from effjax.ops.full import full_attention
from effjax.ops.longformer import (
    from_residue_classes,
    group_heads,
    join_heads,
    longformer_attention,
    residue_classes,
    take_heads,
)
from effjax.ops.masking import MASKED, keep_scale
from effjax.ops.positions import sinusoidal_positions
from effjax.ops.relative import relative_attention


@flax.struct.dataclass
class DilatedWindows:
    """The keys and values of the last `window * d` tokens, for the heads of each dilation d in increasing order, and
    those of the first tokens, where they are global. O(window * d), whatever the length of the stream."""

    windows: tuple[RecentRows, ...]
    global_rows: tuple[jax.Array, ...]  # [B, G, N, H]: local keys and values, global keys and values
    global_segments: jax.Array  # [B, G], -1 where padded or still to come
    index: jax.Array  # tokens seen so far
    distances: jax.Array | None = None  # [window + 1, N, H], of a frozen layer after its first piece


class LongformerAttention(SeparateHeads):
    """Multi-head attention to the positions `t - d m`, `m = 0 … w` (not causal: `|m| <= w`), and to global tokens.

    Global tokens attend to everything, by projections of their own, which start as copies of the local ones. Which
    tokens are global is a matter of position (`global_tokens`) or given with each call (`global_mask`).

    With `relative` the logits are those of Transformer-XL, `((q_i + u) . k_j + (q_i + u') . W_r R_m) / sqrt(H)`, where
    R_m are the sinusoids of the distance m on the dilated grid; u and u' are one pair for all layers. The paper's
    language model, whose code was never published, has them, causal windows and no global tokens.

    Attributes:
      window: w, steps to either side.
      dilation: d, 1 for no gaps (the paper's tables give d - 1); one for all heads or one for each.
      global_tokens: the first so many tokens of a sequence are global.
      max_global: most tokens of a sequence that `global_mask` marks; 0: the layer takes no mask.
      relative: distances in the logits; causal windows without global tokens only.
      use_bias: biases in all projections but that of distances.
      frozen: the parameters are not going to change: a stream projects distances once.
      and those of `SeparateHeads`; implementations are those of `effjax.ops.longformer.longformer_attention`.

    Source: Beltagy et al. 2020 (2004.05150), sections 3 and 4; relative positions: Dai et al. 2019 (1901.02860).
    """

    bounded_state: ClassVar[bool] = True
    per_block: ClassVar[tuple[str, ...]] = ("window", "dilation")

    window: int = 256
    dilation: int | tuple[int, ...] = 1
    global_tokens: int = 0
    max_global: int = 0
    relative: bool = False
    use_bias: bool = False
    frozen: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("window", "global_tokens", "max_global"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}; 0 or more tokens is allowed")
        if len(self.dilations) != self.n_heads or min(self.dilations) < 1:
            raise ValueError(
                f"dilation={self.dilation}; a number of at least 1, or one for each of the {self.n_heads} heads, is "
                "allowed"
            )
        if self.global_tokens and self.max_global:
            raise ValueError(
                f"global_tokens={self.global_tokens} with max_global={self.max_global}; one of them is allowed"
            )
        if self.kv_heads != self.n_heads:
            raise ValueError(
                f"n_kv_heads={self.n_kv_heads}; 0 is allowed: heads of keys differ in dilation as those of queries do"
            )
        if self.relative and not (self.causal and not self.slots and not self.rotary and self.d_model % 2 == 0):
            raise ValueError(
                f"relative=True with causal={self.causal}, {self.slots} global tokens, rotary={self.rotary}, "
                f"d_model={self.d_model}; causal windows without either and an even width are allowed"
            )

    @property
    def dilations(self) -> tuple[int, ...]:
        """The dilation of each head."""
        return (self.dilation,) * self.n_heads if isinstance(self.dilation, int) else tuple(self.dilation)

    @property
    def groups(self) -> list[tuple[int, np.ndarray]]:
        """The dilations that occur, in increasing order, each with its heads."""
        return group_heads(self.dilations)

    @property
    def slots(self) -> int:
        """Most global tokens of a sequence."""
        return self.global_tokens or self.max_global

    def setup(self):
        project = partial(to_heads, self.n_heads, self.head_dim, dtype=self.dtype)
        self.query, self.key, self.value = (project(use_bias=self.use_bias) for _ in range(3))
        if self.slots:
            copied = lambda name: lambda key, shape, dtype: self.kernel_of(name).reshape(shape).astype(dtype)
            self.query_global, self.key_global, self.value_global = (
                project(use_bias=self.use_bias, kernel_init=copied(name)) for name in ("query", "key", "value")
            )
        if self.relative:
            self.distance = project()
        self.out = from_heads(self.d_model, use_bias=self.use_bias, dtype=self.dtype)

    def kernel_of(self, name):
        return getattr(self, name).variables["params"]["kernel"]

    def shared_params(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """With `relative`, u and u', one pair for all layers."""
        biased = ((self.n_heads, self.head_dim), nn.initializers.normal(0.02))
        return {"content_bias": biased, "position_bias": biased} if self.relative else {}

    def __call__(
        self,
        x: Float[Array, "B T D"],
        state: State = None,
        *,
        positions: Int[Array, "B T"] | None = None,
        padding_mask: Bool[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        global_mask: Bool[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T D"], State]:
        """As every `Mixer`; `global_mask` is True at the tokens that are global, at most `max_global` of a sequence."""
        y, state, _ = self.mix(
            x,
            state,
            positions=positions,
            padding_mask=padding_mask,
            segment_ids=segment_ids,
            global_mask=global_mask,
            deterministic=deterministic,
        )
        return y, state

    @nn.compact  # for the parameters that a model may hand in
    def mix(
        self,
        x,
        state=None,
        replay=None,
        *,
        positions=None,
        padding_mask=None,
        segment_ids=None,
        global_mask=None,
        deterministic=True,
        shared=None,
    ):
        if global_mask is not None and (not self.max_global or state is not None):
            raise ValueError(
                f"global_mask with max_global={self.max_global}; one pass of a layer with max_global of at least 1 "
                "takes it"
            )
        biases = shared or {name: self.param(name, init, shape) for name, (shape, init) in self.shared_params().items()}
        x = neutralise(x, padding_mask)
        q, k = self.rotate(self.query(x), self.key(x), positions, state)
        rows, tokens = (q, k, self.value(x)), ()
        if self.slots:
            q, k = self.rotate(self.query_global(x), self.key_global(x), positions, state)
            tokens = (q, k, self.value_global(x))
        dropout = self.attention_dropout(deterministic)
        if state is not None:
            segments = stream_segments(x, padding_mask, segment_ids)
            y, state = self.stream(rows, tokens, segments, state, biases, dropout)
        elif self.relative:
            segments = stream_segments(x, padding_mask, segment_ids)
            rules = {} if padding_mask is None and segment_ids is None else dict(segments=segments)
            y = self.relative_pass(rows, biases, dropout, **rules)
        else:
            if self.slots and global_mask is None:
                global_mask = jnp.broadcast_to(jnp.arange(x.shape[1]) < self.global_tokens, x.shape[:2])
            y = longformer_attention(
                *rows,
                *tokens,
                window=self.window,
                dilation=self.dilation,
                global_mask=global_mask,
                max_global=self.slots,
                causal=self.causal,
                padding_mask=padding_mask,
                segment_ids=segment_ids,
                implementation=self.implementation,
                **dropout,
            )
        return neutralise(self.out(y), padding_mask), state, ()

    def relative_pass(self, rows, biases, dropout, *, segments=None):
        """Windows over a whole sequence, for each dilation without gaps on the residue classes of positions."""
        length, parts = rows[0].shape[1], []
        rel = self.project_distances(min(self.window + 1, length))
        for step, heads in self.groups:
            q, k, v = (residue_classes(take_heads(x, heads), step) for x in rows)
            rules = {}
            if segments is not None:
                rules = segment_rules(*(residue_classes(segments, step, fill=-1),) * 2)
            y, _ = self.near(q, k, v, heads, rel, biases, rules | dropout)
            parts.append(from_residue_classes(y, step, length))
        return join_heads(parts, self.groups)

    def project_distances(self, count):
        """Distances 0 … count - 1 as `[count, N, H]`; without `relative` all are one, at which nothing is seen."""
        if not self.relative:
            return jnp.zeros((1, self.n_heads, self.head_dim), self.dtype)
        return self.distance(sinusoidal_positions(jnp.arange(count), self.d_model).astype(self.dtype))

    def near(self, q, k, v, heads, rel, biases, rules):
        """Values that the window of each query gives some heads, and the logarithm of the sum of their weights."""
        biases = {name: bias[heads] for name, bias in biases.items()}
        options = dict(window=self.window, implementation=self.implementation)
        return relative_attention(q, k, v, rel=rel[:, heads], **biases, **options, **rules)

    def stream(self, rows, tokens, segments, state: DilatedWindows, biases, dropout):
        """The next tokens against the windows kept, each other, and the global tokens at or before them."""
        (q, k, v), length = rows, segments.shape[1]
        rel = self.project_distances(self.window + 1) if state.distances is None else state.distances
        outputs, sums, windows = [], [], []
        for (step, heads), window in zip(self.groups, state.windows):
            (keys, values), key_segments, window = window.extend((take_heads(k, heads), take_heads(v, heads)), segments)
            positions = state.index + jnp.arange(-self.window * step, length)
            key_segments = jnp.where(positions < self.slots, -1, key_segments)  # those count as global tokens
            one = length == 1  # of a token alone only one residue class matters
            classes = partial(residue_classes, step=1 if one else step)
            of_keys = (lambda x, step=step: x[:, ::step]) if one else classes
            key_segments = key_segments[:, ::step] if one else classes(key_segments, fill=-1)
            rules = segment_rules(classes(segments, fill=-1), key_segments)
            group = classes(take_heads(q, heads)), of_keys(keys), of_keys(values)
            y, lse = self.near(*group, heads, rel, biases, rules | dropout)
            for collected, x in ((outputs, y), (sums, lse)):
                collected.append(from_residue_classes(x, 1 if one else step, length))
            windows.append(window)
        y, lse = join_heads(outputs, self.groups), join_heads(sums, self.groups)
        kept = rel if self.frozen and self.relative else None
        state = state.replace(windows=tuple(windows), index=state.index + length, distances=kept)
        if self.slots:
            state = self.meet_global_tokens((k, v, *tokens[1:]), segments, state)
            y = self.see_global_tokens(q, tokens[0], y, lse, segments, state, dropout)
        return y, state

    def meet_global_tokens(self, new, segments, state: DilatedWindows):
        """The state after new rows, of which some may be global tokens."""
        length = segments.shape[1]
        place = jnp.arange(self.slots) - (state.index - length)  # of each global token among the new ones

        def put(old, new):
            arrived = ((place >= 0) & (place < length)).reshape(-1, *[1] * (old.ndim - 2))
            return jnp.where(arrived, jnp.take(new, jnp.clip(place, 0, length - 1), axis=1).astype(old.dtype), old)

        return state.replace(
            global_rows=tuple(map(put, state.global_rows, new)), global_segments=put(state.global_segments, segments)
        )

    def see_global_tokens(self, q, q_global, y, lse, segments, state: DilatedWindows, dropout):
        """The output of windows, of known sums of weights, merged with what queries see of the global tokens; global
        queries see only those, by projections of their own."""
        length, first = q.shape[1], min(q.shape[1], self.slots)
        k, v, k_global, v_global = (x.astype(q.dtype) for x in state.global_rows)
        positions = state.index - length + jnp.arange(length)
        past = jnp.arange(self.slots) <= positions[:, None]
        rules = segment_rules(segments, state.global_segments)

        visible = (past & (rules["segment_ids"][:, :, None] == state.global_segments[:, None]))[:, :, None]
        s = jnp.einsum("btnh,bgnh->btng", q, k, preferred_element_type=lse.dtype) * self.head_dim**-0.5
        s = jnp.where(visible, s, MASKED)
        whole = jnp.logaddexp(lse, jax.nn.logsumexp(s, axis=-1))
        p = jnp.where(visible, jnp.exp(s - whole[..., None]), 0)
        if dropout:
            key = jax.random.fold_in(dropout["dropout_key"], 1)
            p = p * keep_scale(key, p.shape, dropout["dropout_rate"], p.dtype)
        seen = jnp.einsum("btng,bgnh->btnh", p.astype(v.dtype), v, preferred_element_type=lse.dtype)
        y = (y * jnp.exp(lse - whole)[..., None] + seen).astype(y.dtype)

        queries = q_global[:, :first]
        rules["segment_ids"] = rules["segment_ids"][:, :first]
        rows = full_attention(queries, k_global, v_global, mask=past[None, None, :first], **rules, **dropout)
        is_global = (positions[:first] < self.slots)[:, None, None]
        return y.at[:, :first].set(jnp.where(is_global, rows, y[:, :first]))

    def adapt(self, params, *, frozen: bool = False) -> dict[str, Any]:
        """The attributes to change for parameters that are not going to change."""
        del params
        return {"frozen": True} if frozen and self.relative else {}

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> DilatedWindows:
        if not self.causal:
            raise ValueError("causal=False cannot stream: a token's output needs tokens that are still to come")
        if self.max_global:
            raise ValueError(
                f"max_global={self.max_global} cannot stream: a mask says of a whole sequence which tokens are global; "
                "global_tokens can"
            )
        width = lambda heads: ((len(heads), self.head_dim),) * 2
        return DilatedWindows(
            windows=tuple(
                RecentRows.empty(batch_size, self.window * step, width(heads), dtype) for step, heads in self.groups
            ),
            global_rows=(jnp.zeros((batch_size, self.slots, self.n_heads, self.head_dim), dtype),) * 4,
            global_segments=jnp.full((batch_size, self.slots), -1, jnp.int32),
            index=jnp.zeros((), jnp.int32),
        )


def segment_rules(segments, key_segments):
    """Arguments of an op by which a query sees the keys of its segment, and none that is padded or missing."""
    return dict(segment_ids=jnp.maximum(segments, 0), key_segment_ids=key_segments)

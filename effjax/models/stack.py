"""A stack of blocks: one period of unlike blocks, scanned over its repeats, residual or reversible."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effjax.layers.cross import SourceRows
from effjax.layers.mixer import Mixer
from effjax.layers.small_state import restored_state, small_state
from effjax.models.block import Period
from effjax.ops.residual import residual_stack
from effjax.ops.reversible import reversible_stack

RESIDUALS = ("residual", "reversible", "exact")


class Stack(nn.Module):
    """`repeats` repetitions of a period of blocks.

    - "residual": `x <- x + mix(x); x <- x + feed(x)`; blocks that are post-norm make the sums themselves.
    - "reversible": two float32 streams that both start as x, `y1 = x1 + mix(x2); y2 = x2 + feed(y1)`; the backward
      pass recomputes activations from the output, which is the concatenation `[y1 ; y2]`, `[B, T, 2 D]`.
    - "exact": reversible on a fixed-point grid, where the recomputation is bit-exact.

    Parameters are those of real submodules, each with a leading axis over repeats.

    Attributes:
      period: the blocks that repeat.
      repeats: how often.
      residual: one of the above.
      remat: with "residual", recompute the activations of each block by `jax.checkpoint`.
      small_states: streams keep keys, values and memories in 8 bits (`effjax.layers.small_state`).

    Source: Kitaev et al. 2020 (2001.04451), section 3; Gomez et al. 2017 (1707.04585).
    """

    period: Period
    repeats: int
    residual: str = "residual"
    remat: bool = False
    small_states: bool = False

    def __post_init__(self):
        owner = self.period.parent
        if isinstance(owner, nn.Module) and not isinstance(owner, Stack):
            # A period made within a compact method belongs to that method's module, and its parameters would too.
            self.period = self.period.clone(parent=None, name=None)
        super().__post_init__()
        if self.residual not in RESIDUALS:
            raise ValueError(f"residual={self.residual!r}; one of {', '.join(RESIDUALS)} is allowed")
        if self.remat and self.residual != "residual":
            raise ValueError(f"remat=True with residual={self.residual!r}, which already recomputes its activations")
        if self.period.norm == "post" and self.residual != "residual":
            raise ValueError(f"norm='post' with residual={self.residual!r}: a norm after the sum cannot be undone")
        if self.period.make_cross and self.residual != "residual":
            raise ValueError(
                f"residual={self.residual!r} with attention to a source: two streams take turns in pairs of halves, "
                "between which there is no place for it; 'residual' is allowed"
            )
        if self.residual != "residual" and any(mixer.penalises_activations for mixer in self.period.mixers()):
            raise ValueError(
                f"residual={self.residual!r} with a mixer that adds to the loss what depends on its inputs: no "
                "gradient comes through there; residual='residual' lets it through"
            )

    def __call__(
        self,
        x: Float[Array, "B T D"],
        states=None,
        *,
        positions=None,
        padding_mask=None,
        segment_ids=None,
        global_mask=None,
        shared=None,
        sources=None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T E"], Any]:
        """Runs the stack.

        Args:
          x: embeddings, padded positions already neutral.
          states: what `initial_state` or an earlier piece gave, or None.
          positions, padding_mask, segment_ids, deterministic: as in `effjax.layers.Mixer`.
          global_mask: as in `effjax.layers.LongformerAttention`, which all mixers then have to be.
          shared: parameters that the blocks share, see `shared_params`.
          sources: what `read` gave, where blocks look up a source.

        Returns:
          `[B, T, D]` (residual) or `[B, T, 2 D]` (reversible), float32; and the states after this piece, or None.
        """
        self._make_parameters(x, shared)
        if global_mask is not None and not all(hasattr(mixer, "max_global") for mixer in self.period.mixers()):
            raise ValueError("global_mask for a stack with mixers that know no global tokens; None is allowed")
        blocks = pure_blocks(self.period.clone(parent=None), deterministic, small_states=self.small_states)
        params = self.variables["params"]["period"]
        # A constant key where nothing is dropped: LSH rotations differ by layer and repeat from call to call.
        base = jax.random.key(0) if deterministic else self.make_rng("dropout")
        arguments = dict(
            consts=dict(
                positions=positions,
                padding_mask=padding_mask,
                segment_ids=segment_ids,
                global_mask=global_mask,
                shared=shared,
            ),
            states=self._kept(states, sources),
            keys=jax.random.split(base, (self.repeats, len(blocks), len(blocks[0]))),
        )
        params = [tuple({name: params[name]} for name in names) for names in self.period.names()]
        x = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
        if self.residual == "residual":
            y, saved = residual_stack(blocks, params, x, add=self.period.norm == "pre", remat=self.remat, **arguments)
        else:
            y1, y2, saved = reversible_stack(blocks, params, x, x, mode=self.residual, **arguments)
            y = jnp.concatenate([y1, y2], axis=-1)
        mixed = [of_block[0] for of_block in saved]
        if penalties := [kept["penalties"] for kept in mixed if jax.tree.leaves(kept["penalties"])]:
            self.sow("penalties", "stack", sum(map(jnp.sum, penalties)))
        return y, None if states is None else [kept["state"] for kept in mixed]

    def read(self, source: Float[Array, "B S D"], *, padding_mask=None, segment_ids=None) -> list[SourceRows]:
        """What each block of the period keeps of a source, with a leading axis over repeats; for `__call__`."""
        self._make_parameters(source, None)
        period, params = self.period.clone(parent=None), self.variables["params"]["period"]

        def read(block):
            name = f"crossing_{block}"
            rows = lambda own: period.apply(
                {"params": {name: own}}, block, source, padding_mask, segment_ids, method="read"
            )
            return jax.vmap(rows)(params[name])

        return [read(block) for block in range(len(period.make_mixers))]

    def _make_parameters(self, x, shared):
        """The period's parameters with their axis over repeats, where they are being made."""
        if self.is_initializing():
            initialise = nn.vmap(
                lambda period, x, shared: period(x, shared),
                in_axes=None,
                axis_size=self.repeats,
                variable_axes={"params": 0},
                split_rngs={"params": True},
            )
            initialise(self.period, x[:1, :1], shared)

    def _kept(self, states, sources):
        """What every part of every block has beside its parameters: the mixer its state, the attention its source."""
        if states is None and sources is None:
            return None
        nothing = [None] * len(self.period.make_mixers)
        if sources is None:
            return [(state, None) for state in states]
        return [(state, source, None) for state, source in zip(states or nothing, sources, strict=True)]

    def initial_state(self, batch_size: int, dtype: Any = jnp.float32, *, max_length: int) -> list[Any]:
        """States before the first token: one per block of the period, with a leading axis over repeats."""
        states = self.period.initial_states(batch_size, dtype, max_length=max_length)
        if self.small_states:
            states = [small_state(state) for state in states]
        return [jax.tree.map(lambda leaf: jnp.stack([leaf] * self.repeats), state) for state in states]

    def shared_params(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """What the blocks' mixers share: `{name: (shape, initializer)}`, see `effjax.layers.Mixer.shared_params`."""
        shared = {}
        for mixer in self.period.mixers():
            for name, (shape, init) in mixer.shared_params().items():
                if shared.setdefault(name, (shape, init))[0] != shape:
                    raise ValueError(f"shared parameter {name} has shapes {shared[name][0]} and {shape}: blocks differ")
        return shared

    def after_update(self, params, *, step, key):
        """The stack's parameters after every mixer's `after_update`."""
        period = dict(params["period"])
        for i, mixer in self._that_define("after_update"):
            half, keys = period[f"mixing_{i}"], jax.random.split(jax.random.fold_in(key, i), self.repeats)
            update = jax.vmap(lambda own, key, mixer=mixer: mixer.after_update(own, step=step, key=key))
            period[f"mixing_{i}"] = half | {"mixer": update(half["mixer"], keys)}
        return params | {"period": period}

    def penalty(self, params):
        """The sum of the mixers' penalties."""
        total = jnp.zeros(())
        for i, mixer in self._that_define("penalty"):
            total += jnp.sum(jax.vmap(mixer.penalty)(params["period"][f"mixing_{i}"]["mixer"]))
        return total

    def metrics(self, params) -> dict[str, jax.Array]:
        """The mixers' metrics, brought together over the layers; see `effjax.layers.Mixer.metrics`."""
        found = {}
        for i, mixer in self._that_define("metrics"):
            for name, value in jax.vmap(mixer.metrics)(params["period"][f"mixing_{i}"]["mixer"]).items():
                found.setdefault(name, []).append(value)
        over = lambda name: jnp.max if name.startswith("max_") else jnp.mean
        return {name: over(name)(jnp.concatenate(values)) for name, values in found.items()}

    def adapt(self, params, *, frozen: bool = False) -> list[dict[str, Any]]:
        """Attributes that the mixer of each block of the period should change; see `effjax.layers.Mixer.adapt`."""
        own = [params["period"][name]["mixer"] for name, *_ in self.period.names()]
        return [mixer.adapt(params, frozen=frozen) for mixer, params in zip(self.period.mixers(), own)]

    def adapted(self, changes: list[dict[str, Any]]) -> "Stack":
        """The stack with these attributes of its mixers."""
        makers = zip(self.period.make_mixers, changes, strict=True)
        make_mixers = tuple(functools.partial(make, **change) for make, change in makers)
        return self.clone(period=self.period.clone(make_mixers=make_mixers))

    def fits(self, params) -> jax.Array:
        """Whether the mixers' static sizes suit these parameters; see `effjax.layers.Mixer.fits`."""
        fits = jnp.asarray(True)
        for i, mixer in self._that_define("fits"):
            fits &= jnp.all(jax.vmap(mixer.fits)(params["period"][f"mixing_{i}"]["mixer"]))
        return fits

    def _that_define(self, method):
        """Blocks whose mixers do more than the contract's default."""
        mixers = enumerate(self.period.mixers())
        return [(i, mixer) for i, mixer in mixers if getattr(type(mixer), method) is not getattr(Mixer, method)]


def pure_blocks(period: Period, deterministic: bool, *, small_states: bool = False):
    """The blocks of an unbound period as tuples of pure functions, the protocol of `effjax.ops.reversible`.

    The mixing half keeps its new state, the choices to replay and its penalties; the others have nothing to keep.
    """

    def mixing(i):
        def half(params, x, consts, state, key, saved):
            dropout, hashing = jax.random.split(key)
            (y, state, replay), sown = period.apply(
                {"params": params},
                i,
                x,
                restored_state(state, period.dtype) if small_states else state,
                None if saved is None else saved["replay"],
                deterministic=deterministic,
                rngs={"dropout": dropout, "hash": hashing},
                method="mix",
                mutable=["penalties"],
                **consts,
            )
            state = small_state(state) if small_states else state
            penalties = jax.tree.leaves(sown)
            return y, {"state": state, "replay": replay, "penalties": sum(penalties) if penalties else ()}

        return half

    def crossing(i):
        def half(params, x, consts, source, key, saved):
            rngs, rules = {"dropout": key}, {name: consts[name] for name in ("padding_mask", "segment_ids")}
            options = dict(deterministic=deterministic, rngs=rngs, method="cross")
            return period.apply({"params": params}, i, x, source, **rules, **options), ()

        return half

    def feeding(i):
        def half(params, x, consts, state, key, saved):
            rngs = {"dropout": key}
            return period.apply({"params": params}, i, x, deterministic=deterministic, rngs=rngs, method="feed"), ()

        return half

    parts = (mixing, crossing, feeding) if period.make_cross else (mixing, feeding)
    return [tuple(part(i) for part in parts) for i in range(len(period.make_mixers))]

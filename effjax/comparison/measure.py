"""Time, memory, FLOPs and error of layers of unlike families at equal shapes; whatever fails is reported."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from effjax.accounting.flops import count_flops
from effjax.accounting.memory import memory_of, readable_bytes
from effjax.layers import LSHAttention, Mixer
from effjax.ops.patterns import Causal, Sinks, SlidingWindow
from effjax.ops.sparse import sparse_attention

BASELINE = "full"


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What all families have in common.

    Attributes:
      batch_size: sequences.
      d_model, n_heads, head_dim: sizes of every layer.
      dtype: dtype of the computation.
    """

    batch_size: int = 1
    d_model: int = 512
    n_heads: int = 8
    head_dim: int = 64
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a family may take at one length before it is given up there and at greater ones.

    Attributes:
      seconds: of one call.
      bytes: of memory, by the compiler's plan.
    """

    seconds: float = 60.0
    bytes: float = math.inf


@dataclasses.dataclass
class Result:
    """One family at one length; None where a figure is not known.

    Attributes:
      family, length: which.
      problem: why there are no figures, or None.
      seconds: median time of a call.
      tokens_per_second: batch times length over it.
      memory: bytes at once, by the compiler's plan: arguments, results and temporaries.
      flops: of a call, from its jaxpr.
      error: root mean square difference from exact attention with the same projections (for LSH with shared queries
        and keys, as it has them) over that of exact attention.
    """

    family: str
    length: int
    problem: str | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    memory: int | None = None
    flops: float | None = None
    error: float | None = None


def compare(
    families: dict[str, Callable[[int, Shapes], Mixer]],
    lengths: list[int],
    *,
    shapes: Shapes = Shapes(),
    train: bool = False,
    repeats: int = 5,
    limits: Limits = Limits(),
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Measures every family at every length.

    The families' calls are interleaved, so that what else goes on in the machine meets all of them alike.

    Args:
      families: `{name: make(length, shapes) -> layer}`; `BASELINE` among them is what errors refer to.
      lengths: in tokens, ascending.
      shapes: sizes that all layers share.
      train: time forward and backward (gradients of parameters and inputs) rather than forward alone.
      repeats: timed calls of each family at each length, after one that is not timed.
      limits: a family beyond them is given up at this length and at greater ones.
      seed: of parameters and inputs.
      report: called with a line about each measurement as it is done.

    Returns:
      One result per family and length.
    """
    results, given_up, last = [], {}, {}
    for length in lengths:
        ready = {}
        for name, make in families.items():
            result = Result(name, length, problem=given_up.get(name))
            results.append(result)
            if result.problem is None:
                try:
                    ready[name] = _prepare(result, make(length, shapes), shapes, train, seed, limits, last.get(name))
                except Exception as problem:  # whatever it is, the others go on
                    result.problem = _reason(problem)
            if result.problem is not None:
                given_up[name] = result.problem
                report(f"{name} at {length:,}: {result.problem}")
        found = {result.family: result for result in results if result.length == length}
        for name, seconds in _times(ready, repeats, report).items():
            result = found[name]
            if isinstance(seconds, str):
                result.problem = given_up[name] = seconds
                continue
            result.seconds, result.tokens_per_second = seconds, shapes.batch_size * length / seconds
            last[name] = result
            report(f"{name} at {length:,}: {seconds * 1e3:,.1f} ms, {readable_bytes(result.memory)}")
        _errors(found, ready)
    return results


def crossing(results: list[Result], family: str, baseline: str = BASELINE) -> float | None:
    """The length from which a family is faster than the baseline, interpolated between measured lengths on logarithmic
    scales; None where it is slower at the greatest length at which both were measured."""
    ours, theirs = (
        {r.length: r.seconds for r in results if r.family == name and r.seconds} for name in (family, baseline)
    )
    lengths = sorted(ours.keys() & theirs.keys())
    gaps = [math.log(ours[length] / theirs[length]) for length in lengths]  # negative where the family is faster
    if family == baseline or not lengths or gaps[-1] >= 0:
        return None
    slower = [i for i, gap in enumerate(gaps) if gap >= 0]
    if not slower:
        return float(lengths[0])
    i = slower[-1]
    share = gaps[i] / (gaps[i] - gaps[i + 1])
    return math.exp(math.log(lengths[i]) + share * math.log(lengths[i + 1] / lengths[i]))


@dataclasses.dataclass
class _Ready:
    """A compiled layer with its arguments."""

    layer: Mixer
    run: Callable
    arguments: tuple
    forward: Callable


def _prepare(result, layer, shapes, train, seed, limits, last) -> _Ready | None:
    """Compiles a layer, unless it would pass the limits; fills in what is known without running it."""
    dtype = jnp.dtype(shapes.dtype)
    x = jax.ShapeDtypeStruct((shapes.batch_size, result.length, shapes.d_model), dtype)
    params = _parameters(layer, shapes, seed)
    forward = lambda params, x: layer.apply(params, x)[0]
    gradients = jax.grad(lambda params, x: jnp.sum(forward(params, x).astype(jnp.float32) ** 2), argnums=(0, 1))
    run = gradients if train else forward
    result.flops = count_flops(run, params, x, platform=jax.default_backend())
    if last is not None:
        expected = last.seconds * result.flops / last.flops
        if expected > limits.seconds:
            raise TimeoutError(f"would take about {expected:,.0f} s, more than {limits.seconds:,.0f} s")
    compiled = jax.jit(run).lower(params, x).compile()
    result.memory = memory_of(compiled).total
    if result.memory > limits.bytes:
        raise MemoryError(f"needs {readable_bytes(result.memory)}, more than {readable_bytes(int(limits.bytes))}")
    inputs = jnp.asarray(np.random.default_rng(seed).normal(size=x.shape), dtype)
    return _Ready(layer, compiled, (params, inputs), jax.jit(forward) if train else compiled)


def _parameters(layer, shapes, seed):
    """The layer's parameters; kernels of one name and shape are the same in all families."""
    params = jax.jit(layer.init)(jax.random.key(seed), jnp.zeros((1, 1, shapes.d_model), shapes.dtype))
    draw = jax.nn.initializers.glorot_uniform(in_axis=0, out_axis=(-2, -1))

    def same(path, leaf):
        names = [part.key for part in path]
        if names[-2:] not in ([name, "kernel"] for name in ("query", "key", "value", "out")):
            return leaf
        number = ("query", "key", "value", "out").index(names[-2])
        return draw(jax.random.fold_in(jax.random.key(seed), number), leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(same, params)


def _times(ready, repeats, report) -> dict[str, float | str]:
    """Median seconds of each family's calls, or why there are none."""
    seconds, problems = {name: [] for name in ready}, {}
    for repeat in range(repeats + 1):
        for name, case in ready.items():
            if name in problems:
                continue
            start = time.perf_counter()
            try:
                jax.block_until_ready(case.run(*case.arguments))
            except Exception as problem:
                problems[name] = _reason(problem)
                report(f"{name}: {problems[name]}")
                continue
            if repeat:  # the first call pays for fresh memory
                seconds[name].append(time.perf_counter() - start)
    return {name: problems.get(name) or statistics.median(times) for name, times in seconds.items()}


def _errors(found, ready):
    """Fills in the distance from exact attention, over the past or towards both sides as the family itself, of families
    that have its projections, and of LSH from exact attention that shares queries and keys."""
    if BASELINE not in ready or found[BASELINE].problem:
        return
    exact, targets = ready[BASELINE], {}

    def target(case):
        if isinstance(case.layer, LSHAttention):
            return np.asarray(jax.jit(partial(case.layer.apply, method=_exact_shared))(*case.arguments), np.float64)
        causal = getattr(case.layer, "causal", True)
        if causal not in targets:
            layer = exact.layer.clone(causal=causal)
            targets[causal] = np.asarray(jax.jit(layer.apply)(*exact.arguments)[0], np.float64)
        return targets[causal]

    def names(case):
        return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(case.arguments[0])}

    for name, case in ready.items():
        if found[name].problem is None and (isinstance(case.layer, LSHAttention) or names(exact) <= names(case)):
            theirs = target(case)
            difference = np.asarray(case.forward(*case.arguments), np.float64) - theirs
            found[name].error = float(np.sqrt(np.mean(difference**2) / np.mean(theirs**2)))


def _exact_shared(layer: LSHAttention, x):
    """What a causal LSH layer estimates: each position sees all before it, and itself only where there are none."""
    query, value = layer.query_key(x), layer.value(x)
    key = query / jnp.linalg.norm(query, axis=-1, keepdims=True)
    pattern = Causal() & (~SlidingWindow(0) | Sinks(1))
    return layer.out(sparse_attention(query, key, value, pattern=pattern, scale=1.0))


def _reason(problem: Exception) -> str:
    """What went wrong, in a line."""
    text = str(problem).strip()
    if "RESOURCE_EXHAUSTED" in text:
        return "out of memory"
    return ": ".join([type(problem).__name__, *text.splitlines()[:1]])

"""FLOPs of a function, counted on its jaxpr: loop bodies times their trips, which XLA's `cost_analysis` counts once."""

import dataclasses
import math
import re

import jax
from jax.extend import source_info_util
from jax.interpreters import partial_eval

# Moving, reinterpreting, selecting and communicating data is no arithmetic.
_FREE = frozenset(
    """all_gather all_to_all axis_index bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy
    copy_p device_put dynamic_slice dynamic_update_slice expand_dims gather get iota name num_programs
    optimization_barrier pad pbroadcast platform_index ppermute program_id psum psum_invariant pvary random_seed
    random_unwrap random_wrap reduce_precision reduce_scatter reshape rev scatter select_n sharding_constraint slice
    split squeeze stop_gradient swap transpose""".split()
)


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs by what carries them out: products (matrix and convolution), all other arithmetic, and opaque kernels."""

    matmul: float = 0.0
    elementwise: float = 0.0
    kernel: float = 0.0

    @property
    def total(self) -> float:
        return self.matmul + self.elementwise + self.kernel

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.matmul + other.matmul, self.elementwise + other.elementwise, self.kernel + other.kernel)

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.matmul * times, self.elementwise * times, self.kernel * times)


def count_flops(fn, *args, platform: str | None = None) -> float:
    """Total FLOPs of one call of `fn(*args)`, all devices together; see `flop_breakdown`."""
    return flop_breakdown(fn, *args, platform=platform).total


def flop_breakdown(fn, *args, platform: str | None = None) -> Flops:
    """FLOPs of one call of `fn(*args)`, by what carries them out.

    A product `[M, K] @ [K, N]` is 2 M N K for each batch entry, a convolution 2 x outputs x the inputs that each sees
    (padding included). Arithmetic, comparisons and transcendental functions are 1 per element of the result, reductions
    and cumulative sums 1 per element of the operand, a sort n log2 n; moving, converting and selecting data is free.
    A scan is its body times its length; a `while` loop its body times the x of the `jax.named_scope("mean_trips=x")`
    around it; a conditional its dearest branch, or the one lowered for `platform`; `shard_map` its body times its
    devices; a Pallas kernel its cost estimate, or without one its body times its grid. What no result depends on is
    left out, as XLA leaves it out.

    Args:
      fn: a traceable function; it is traced, never run.
      *args: pytrees of arrays or of `jax.ShapeDtypeStruct`s.
      platform: the platform to count for ("cpu", "tpu", "cuda") where the code differs; None: the default backend.

    Returns:
      `Flops` of all devices together.

    Raises:
      ValueError: a `while` loop does not say how often it runs.
    """
    return flops_of_jaxpr(jax.make_jaxpr(fn)(*args), platform=platform)


def flops_of_jaxpr(jaxpr, *, platform: str | None = None) -> Flops:
    """`flop_breakdown` of what is traced already: a closed jaxpr, such as `jax.jit(fn).trace(*args).jaxpr`."""
    live, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    return _count(live, platform or jax.default_backend())


def _count(jaxpr, platform: str) -> Flops:
    return sum((_count_equation(eqn, platform) for eqn in jaxpr.eqns), Flops())


def _count_equation(eqn, platform: str) -> Flops:
    params = eqn.params
    match eqn.primitive.name:
        case "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            return Flops(matmul=2.0 * _size(eqn.outvars[0]) * depth)
        case "conv_general_dilated":
            kernel, features = eqn.invars[1], params["dimension_numbers"].rhs_spec[0]
            return Flops(matmul=2.0 * _size(eqn.outvars[0]) * _size(kernel) / kernel.aval.shape[features])
        case "scan":
            return _bodies(eqn, platform)[0] * params["length"]
        case "while":
            return sum(_bodies(eqn, platform), Flops()) * _mean_trips(eqn)
        case "cond":
            return _dearest_branch(_bodies(eqn, platform), params.get("branches_platforms"), platform)
        case "shard_map":
            devices = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
            return _bodies(eqn, platform)[0] * devices
        case "pallas_call":
            if estimate := params["cost_estimate"]:
                return Flops(kernel=float(estimate.flops + estimate.transcendentals))
            return _bodies(eqn, platform)[0] * math.prod(params["grid_mapping"].grid)
        case name if name in _FREE:
            return Flops()
        case "sort" | "top_k":
            operand = eqn.invars[0]
            length = operand.aval.shape[params.get("dimension", -1)]
            return Flops(elementwise=_size(operand) * math.log2(max(length, 2)))
        case name if name.startswith(("reduce_window", "select_and")):
            return Flops(elementwise=float(_size(eqn.outvars[0]) * math.prod(params["window_dimensions"])))
        case name if name.startswith(("reduce", "cum", "arg")):
            return Flops(elementwise=float(_size(eqn.invars[0])))
        case name if name.startswith("scatter"):
            return Flops(elementwise=float(_size(eqn.invars[2])))
    if bodies := _bodies(eqn, platform):  # jit, remat, custom_jvp, custom_vjp and whatever else just calls
        return sum(bodies, Flops())
    return Flops(elementwise=float(sum(_size(result) for result in eqn.outvars[:1])))


def _size(variable) -> int:
    return math.prod(variable.aval.shape)


def _bodies(eqn, platform: str) -> list[Flops]:
    """The cost of each jaxpr among an equation's parameters: bare, closed over constants, or in a tuple of branches."""
    values = (item for value in eqn.params.values() for item in (value if isinstance(value, tuple) else (value,)))
    jaxprs = (getattr(value, "jaxpr", value) for value in values)
    return [_count(jaxpr, platform) for jaxpr in jaxprs if hasattr(jaxpr, "eqns")]


def _mean_trips(eqn) -> float:
    """The trips of a `while` loop: the innermost `mean_trips=` among the names of the scopes around it."""
    if scopes := re.findall(r"mean_trips=([\d.e+-]+)", str(eqn.source_info.name_stack)):
        return float(scopes[-1])
    where = source_info_util.summarize(eqn.source_info)
    raise ValueError(f"how often does the loop at {where} run? Wrap it in jax.named_scope('mean_trips=<mean>')")


def _dearest_branch(branches: list[Flops], platforms, platform: str) -> Flops:
    """`platforms` names the platforms that take each branch of a `platform_dependent`; None stands for the rest."""
    if platforms is not None:
        named = [branch for branch, names in zip(branches, platforms) if names is not None and platform in names]
        default = [branch for branch, names in zip(branches, platforms) if names is None]
        branches = named or default
    return max(branches, key=lambda flops: flops.total)

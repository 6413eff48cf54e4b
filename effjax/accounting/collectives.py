"""What devices say to each other: the collectives of a compiled program, by kind, count and bytes."""

import dataclasses
import functools
import math
import re

import jax

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CALLEE = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind: how many run, and the bytes one device puts into them (gets out of an all-gather)."""

    count: int = 0
    bytes: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.count + other.count, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Traffic":
        return Traffic(self.count * times, self.bytes * times)


@dataclasses.dataclass(frozen=True)
class Collectives:
    """The collectives that one device takes part in during one run of a program.

    Attributes:
      by_kind: XLA's name of the kind ("all-reduce", ...) -> its `Traffic`; kinds that do not occur are absent.
      unknown_loops: loops around collectives whose trip count the program does not show; each is taken to run once.
    """

    by_kind: dict[str, Traffic] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0

    @property
    def total(self) -> Traffic:
        return sum(self.by_kind.values(), Traffic())

    def __add__(self, other: "Collectives") -> "Collectives":
        kinds = {**self.by_kind, **other.by_kind}
        both = {kind: self.by_kind.get(kind, Traffic()) + other.by_kind.get(kind, Traffic()) for kind in kinds}
        return Collectives(both, self.unknown_loops + other.unknown_loops)

    def __mul__(self, times: int) -> "Collectives":
        return Collectives({kind: traffic * times for kind, traffic in self.by_kind.items()}, self.unknown_loops)


def collectives_of(compiled: jax.stages.Compiled) -> Collectives:
    """The collectives of a compiled program: `parse_collectives` of its optimized HLO."""
    return parse_collectives(compiled.as_text())


def parse_collectives(hlo: str) -> Collectives:
    """Counts the collectives in the text of an optimized HLO module.

    Loop bodies count as often as they run: XLA's `known_trip_count`, or the constant that the loop's condition holds
    its counter against (JAX's own loops count from 0 by 1). Of a conditional, the branch with the most bytes counts.

    Args:
      hlo: `compiled.as_text()`, from the CPU, GPU or TPU compiler.

    Returns:
      `Collectives` per device.
    """
    computations, entry = _parse(hlo)

    @functools.cache
    def cost(name: str) -> Collectives:
        return sum((_cost(each, computations, cost) for each in computations[name].values()), Collectives())

    return cost(entry)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    computation: str
    shape: str
    opcode: str
    rest: str  # operands, then attributes
    is_root: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])

    @property
    def bytes(self) -> int:
        return _bytes(self.shape)


def _parse(hlo: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    """The instructions of each computation by their names, and the name of the entry computation."""
    computations, entry, current = {}, "", ""
    for line in hlo.splitlines():
        if header := _HEADER.match(line):
            current = header[2]
            computations[current] = {}
            entry = current if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            root, name, shape, opcode, rest = instruction.groups()
            computations[current][name] = _Instruction(current, shape, opcode, rest, root is not None)
    return computations, entry


def _cost(instruction: _Instruction, computations, cost) -> Collectives:
    """The collectives of one instruction and of what it calls; `cost` gives those of a computation by name."""
    opcode, rest = instruction.opcode, instruction.rest
    if opcode.removesuffix("-start") in KINDS:
        return _collective(instruction, computations[instruction.computation])
    if opcode == "while":
        condition, body = (re.search(rf"{role}=%?([\w.\-]+)", rest)[1] for role in ("condition", "body"))
        inside = cost(body)
        trips = _trip_count(rest, computations[condition])
        if trips is None:
            return inside + Collectives(unknown_loops=1) if inside.by_kind else inside
        return inside * trips
    if opcode == "conditional":
        named = re.search(r"branch_computations=\{([^}]*)\}", rest)
        branches = re.findall(r"[\w.\-]+", named[1]) if named else _CALLEE.findall(rest)
        return max(map(cost, branches), key=lambda branch: branch.total.bytes)
    if opcode in ("async-update", "async-done"):  # their async-start has counted
        return Collectives()
    return sum((cost(callee) for callee in _CALLEE.findall(rest)), Collectives())


def _collective(instruction: _Instruction, siblings) -> Collectives:
    # The TPU compiler spreads an asynchronous collective over the fusions that run beside it; only the first starts it.
    stage = re.search(r'"async_collective_fusion_config":\{"flag_start":"(-?\d+)"', instruction.rest)
    if stage and stage[1] != "-1":
        return Collectives()
    kind = instruction.opcode.removesuffix("-start")
    sent = sum(siblings[name].bytes for name in instruction.operands)
    if kind == "all-gather":  # the result of a -start is the pair (operands, results)
        sent = instruction.bytes - (sent if instruction.opcode.endswith("-start") else 0)
    if instruction.computation.startswith("all-reduce-scatter"):  # the TPU compiler's fused form
        kind = "reduce-scatter"
    return Collectives({kind: Traffic(1, sent)})


def _trip_count(attributes: str, condition: dict[str, _Instruction]) -> int | None:
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes):
        return int(known[1])
    root = next(instruction for instruction in condition.values() if instruction.is_root)
    bounds = [condition[name] for name in root.operands if condition[name].opcode == "constant"]
    if root.opcode == "compare" and "direction=LT" in root.rest and bounds:
        return int(bounds[0].rest.partition(")")[0])
    return None


def _bytes(shape: str) -> int:
    """Bytes of `f32[8,128]{1,0}` or of a tuple of such."""
    arrays = _ARRAY.findall(shape)
    return sum(math.prod(map(int, filter(None, dims.split(",")))) * int(bits or 8) // 8 for _, bits, dims in arrays)

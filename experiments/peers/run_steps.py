"""Whole training steps, effjax beside PyTorch packages: time over the length, peak memory over depth.

  pip install -e . -r experiments/peers/requirements.txt
  cd experiments/peers && taskset -c 0 python run_steps.py

Language models of width 256, 4 heads of 64, batch 1, float32, Adam. Time: 4 blocks, all contenders interleaved
in one process, one thread each. Memory at 2,048 tokens: for effjax what the compiler plans for the step (parameters,
optimizer, gradients, temporaries), for PyTorch the greatest sum of living tensors that an operation has made (what a
kernel allocates inside itself is not seen). Writes steps.json; what is there is measured again only with --again.
"""

import json
import pathlib
import statistics
import sys
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from our_models import OURS
from torch.utils._python_dispatch import TorchDispatchMode
from torch_models import PEERS, VOCABULARY

from effjax import cli
from effjax.accounting.memory import memory_of

HERE = pathlib.Path(__file__).parent


def main(argv=None) -> None:
    parser = cli.plain_parser("peers/run_steps", __doc__)
    parser.add_argument("--lengths", default="1024,2048,4096", help="(default: %(default)s)")
    parser.add_argument("--depths", default="2,4,8", help="blocks, for memory (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps each (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    path = HERE / "steps.json"
    results = json.loads(path.read_text()) if path.exists() else {"time": {}, "memory": {}}
    todo = [("time", length, time_of) for length in map(int, args.lengths.split(","))]
    todo += [("memory", depth, memory_at) for depth in map(int, args.depths.split(","))]
    for what, size, measure in todo:
        for case in OURS:
            key = f"{case} @ {size}"
            if key not in results[what] or args.again:
                results[what][key] = measure(case, size, args.repeats)
                print(what, key, results[what][key], flush=True)
                path.write_text(json.dumps(results, indent=1) + "\n")


def sequence(length):
    return np.random.default_rng(0).integers(1, VOCABULARY, (1, length + 1))


def time_of(case: str, length: int, repeats: int) -> dict:
    """Median milliseconds of each contender's step, or what went wrong."""
    contenders = {"effjax": ours(case, length, 4)[0]}
    contenders |= {name: theirs(make, length, 4)[0] for name, make in PEERS[case].items()}
    times, failed = {name: [] for name in contenders}, {}
    for repeat in range(repeats + 2):
        for name, step in contenders.items():
            if name not in failed:
                start = time.perf_counter()
                try:
                    step()
                except Exception as problem:
                    failed[name] = reason(problem)
                    continue
                if repeat >= 2:
                    times[name].append(1e3 * (time.perf_counter() - start))
    return {"milliseconds": {name: statistics.median(t) for name, t in times.items() if t}, "failed": failed}


def memory_at(case: str, depth: int, repeats: int) -> dict:
    """Bytes at once in a step of each contender, and its parameters."""
    del repeats
    length, found, failed, parameters = 2048, {}, {}, {}
    _, compiled, parameters["effjax"] = ours(case, length, depth)
    found["effjax"] = memory_of(compiled).total
    for name, make in PEERS[case].items():
        try:
            with LivingTensors() as living:
                step, parameters[name] = theirs(make, length, depth)
                step()
                step()  # the first one makes the optimizer's state
            found[name] = living.peak
        except Exception as problem:
            failed[name] = reason(problem)
    return {"bytes": found, "parameters": parameters, "failed": failed}


def ours(case, length, depth):
    """A step without arguments, its compiled program, the number of parameters."""
    model, optimizer = OURS[case](length, depth), optax.adam(1e-4)
    tokens = jnp.asarray(sequence(length), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens[:, :8])["params"]
    state = [params, optimizer.init(params)]

    def update(params, opt_state, tokens):
        def loss(params):
            rngs = {"dropout": jax.random.key(0)}  # LSH draws its hash functions from it
            arguments = dict(deterministic=False, rngs=rngs, method="nats")
            return model.apply({"params": params}, tokens[:, :-1], tokens[:, 1:], **arguments)[0].mean()

        gradients = jax.grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state

    compiled = jax.jit(update, donate_argnums=(0, 1)).lower(*state, tokens).compile()

    def step():
        state[:] = jax.block_until_ready(compiled(*state, tokens))

    return step, compiled, sum(leaf.size for leaf in jax.tree.leaves(params))


def theirs(make, length, depth):
    """A step without arguments, the number of parameters."""
    torch.manual_seed(0)
    module, loss = make(length, depth)
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
    tokens = torch.from_numpy(sequence(length))

    def step():
        optimizer.zero_grad()
        loss(module, tokens).backward()
        optimizer.step()

    return step, sum(p.numel() for p in module.parameters())


class LivingTensors(TorchDispatchMode):
    """Adds up the storages that operations make and that are still alive; keeps the greatest sum."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage):
        address, size = storage._cdata, storage.nbytes()
        if address not in self.alive:
            self.alive[address] = weakref.finalize(storage, self.drop, address, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def drop(self, address, size):
        if self.alive.pop(address, None) is not None:
            self.now -= size


def reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:120]}"


if __name__ == "__main__":
    sys.exit(cli.run(main))

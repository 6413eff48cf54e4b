"""A task small enough to train in a test: a gated bigram model with dropout on made-up bytes.

As a program it trains that task, so that tests can kill it: `python fake_task.py WORKDIR [--flag=value …]`.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from effjax import cli
from effjax.tasks.task import Task
from effjax.training import distributed
from effjax.training.config import apply_overrides, base_config
from effjax.training.loop import train

VOCABULARY = 32


def fake_config(**overrides):
    """A configuration of the fake task; keyword `a__b` sets field `a.b`."""
    config = base_config().unlock()
    config.model = ConfigDict({"width": 16, "dropout": 0.1, "bad_steps": (), "carry": False})
    config.lock()
    config.update(dict(steps=12, batch_size=8, log_every=1, task="fake"))
    config.data.length = 16
    config.optimizer.update(dict(learning_rate=0.02, schedule="constant", warmup=1, clip_norm=1.0))
    config.eval.update(dict(every=4, metric="bits_per_byte"))
    config.checkpoint.update(dict(every=3, keep=2))
    return apply_overrides(config, [(key.replace("__", "."), str(value)) for key, value in overrides.items()])


class Reader:
    """Rows of a global batch drawn from the global index of each example; some batches have a NaN weight."""

    def __init__(self, config, process_index, process_count):
        self.config = config
        rows = config.batch_size // process_count
        self.rows = range(process_index * rows, (process_index + 1) * rows)

    def iterate(self, start_step):
        config, step = self.config, start_step
        while True:
            examples = [self.example(step * config.batch_size + row) for row in self.rows]
            tokens = np.stack(examples)
            weights = np.ones(tokens[:, 1:].shape, np.float32)
            weights[:, 0] = [row % 3 for row in self.rows]  # unequal, so that accumulation must weigh its pieces
            weights[:, -1] = np.nan if step + 1 in config.model.bad_steps else 1.0
            yield dict(inputs=tokens[:, :-1], targets=tokens[:, 1:], weights=weights)
            step += 1

    def example(self, index):
        draws = np.random.default_rng((self.config.seed, index)).integers(0, 3, self.config.data.length + 1)
        return (np.cumsum(draws) % VOCABULARY).astype(np.int32)


class FakeTask(Task):
    def __init__(self, config):
        self.config = config

    def init(self, key):
        width, (embedding_key, kernel_key) = self.config.model.width, jax.random.split(key)
        return {
            "embedding": {"table": jax.random.normal(embedding_key, (VOCABULARY, width))},
            "out": {
                "kernel": jax.random.normal(kernel_key, (width, VOCABULARY)) * 0.1,
                "bias": jnp.zeros(VOCABULARY),
            },
        }

    def initial_carry(self, batch_size):
        model = self.config.model
        return {"mean": jnp.zeros((2, batch_size, model.width)), "n": jnp.int32(0)} if model.carry else ()

    def train_reader(self, process_index, process_count):
        return Reader(self.config, process_index, process_count)

    def abstract_batch(self):
        shape = (self.config.batch_size, self.config.data.length)
        return {
            "inputs": jax.ShapeDtypeStruct(shape, jnp.int32),
            "targets": jax.ShapeDtypeStruct(shape, jnp.int32),
            "weights": jax.ShapeDtypeStruct(shape, jnp.float32),
        }

    def loss(self, params, batch, carry=(), *, key=None, deterministic=True):
        x = params["embedding"]["table"][batch["inputs"]]
        if self.config.model.carry:
            x = x + carry["mean"][0][:, None]
            carry = {"mean": jnp.stack([jax.lax.stop_gradient(x.mean(1))] * 2), "n": carry["n"] + 1}
        if not deterministic and self.config.model.dropout:
            x = jnp.where(jax.random.bernoulli(key, 1 - self.config.model.dropout, x.shape), x, 0.0)
        logits = jnp.tanh(x) @ params["out"]["kernel"] + params["out"]["bias"]
        nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][..., None], -1)[..., 0]
        total, count = jnp.sum(nats * batch["weights"]), jnp.sum(batch["weights"])
        return total / count, ({"nats": (total, count)}, carry)

    def report(self, metrics):
        return {"loss": metrics["nats"], "bits_per_byte": metrics["nats"] / np.log(2)}

    def evaluate(self, params, split, *, limit=None, mesh=None):
        batch = next(Reader(self.config, 0, 1).iterate({"valid": 10**6, "test": 2 * 10**6}[split]))
        loss, _ = jax.jit(self.loss)(params, batch, self.initial_carry(self.config.batch_size))
        return {"bits_per_byte": float(loss) / np.log(2), "targets": batch["targets"].size}

    def sample(self, params, key):
        return f"sampled with {int(jax.random.randint(key, (), 0, 1000))}"


def main(argv):
    parser = cli.ArgumentParser()
    parser.add_argument("workdir")
    cli.add_distributed_flags(parser)
    args, overrides = parser.parse_known_args(argv)
    distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    config = fake_config(**dict(flag.removeprefix("--").split("=") for flag in overrides))
    train(FakeTask(config), config, args.workdir)


if __name__ == "__main__":
    sys.exit(cli.run(main))

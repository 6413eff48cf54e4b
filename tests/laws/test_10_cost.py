"""Law 10: memory and FLOPs, from the compiler and the jaxpr, grow as the family promises; no stopwatch."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from effjax.accounting.flops import flops_of_jaxpr
from effjax.accounting.memory import memory_of, tree_bytes
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.optimizers import make_optimizer
from effjax.training.state import abstract_state
from effjax.training.step import make_train_step
from tests.laws.measure import D_MODEL, make_layer


def gradient_of(layer):
    return jax.grad(lambda params, x: jnp.sum(layer.apply(params, x)[0] ** 2), argnums=(0, 1))


def inputs(length):
    return jax.ShapeDtypeStruct((1, length, D_MODEL), jnp.float32)


# What a doubling of the length may multiply the cost by.
GROWTH = {"linear": (1.95, 2.2), "n_log_n": (2.0, 2.3), "n_sqrt_n": (2.65, 3.0), "quadratic": (3.5, 4.1)}


def traced(family, length, **form):
    layer, params = make_layer(family, **family.sized(length), **form)
    return jax.jit(gradient_of(layer)).trace(params, inputs(length))


def temporaries(program):
    return memory_of(program.lower().compile()).temp


@pytest.mark.slow
def test_memory_of_the_accelerators_form(family):
    if "batched" in family.implementations:
        short, long = (temporaries(traced(family, length, implementation="batched")) for length in (2048, 4096))
        assert short > 0 and long <= GROWTH[family.batched_memory][1] * short


@pytest.mark.slow
def test_cost_at_great_lengths(family):
    lengths = [family.longest // 4, family.longest // 2, family.longest]
    programs = [traced(family, length) for length in lengths]
    costs = {
        "memory": [temporaries(program) for program in programs],
        "growth": [flops_of_jaxpr(program.jaxpr, platform="cpu").total for program in programs],
    }
    for promise, measured in costs.items():
        print(f"{family.name}, {promise}: {dict(zip(lengths, measured))}")
        low, high = GROWTH[getattr(family, promise)]
        if family.growth == "quadratic" and promise == "memory":
            low = 1.0  # at the lengths that it can afford, the blocks of scores still count
        assert all(low <= long / short <= high for short, long in itertools.pairwise(measured)), promise


def training_step_bytes(residual, n_layers):
    """Temporaries, gradient tree and saved LSH buckets of the tiny configuration's compiled training step."""
    config = load_config("configs/reformer_enwik8.py:tiny").unlock()
    # A period of two, so that four layers are a loop as well: XLA unrolls a loop of one repeat and plans it otherwise.
    config.model.pattern = ("local", "lsh")
    config.model.update(residual=residual, n_layers=n_layers, d_model=32, d_ff=64, n_heads=2, head_dim=16)
    config.model.update(dropout=0.1, attention_dropout=0.1)
    config.model.axial.update(shape=(32, 32), dims=(16, 16))
    config.batch_size, config.data.length = 8, 1024  # activations large beside parameters, as in real models
    task, optimizer = make_task(config), make_optimizer(config)
    state = abstract_state(task, optimizer, config)
    step = jax.jit(make_train_step(task, optimizer, config), donate_argnums=0)
    temp = memory_of(step.lower(state, task.abstract_batch()).compile()).temp
    tokens, lsh_layers = config.batch_size * config.data.length, n_layers // 2
    buckets = 4 * tokens * config.model.n_heads * config.model.lsh.n_hashes * lsh_layers
    return temp, tree_bytes(state.params), buckets


@pytest.mark.slow
@pytest.mark.parametrize("residual", ["reversible", "exact"])
def test_activations_of_a_reversible_stack_are_flat_in_depth(residual):
    shallow, deep = (training_step_bytes(residual, n_layers) for n_layers in (4, 24))
    activations = [temp - gradients - buckets for temp, gradients, buckets in (shallow, deep)]
    print(f"{residual}: (temp, gradients, buckets) at 4 layers {shallow}, at 24 layers {deep}")
    assert abs(activations[1] / activations[0] - 1) <= 0.02


@pytest.mark.slow
def test_activations_of_a_residual_stack_are_not():
    """The contrast, so that the law above could fail."""
    shallow, deep = (training_step_bytes("residual", n_layers) for n_layers in (4, 24))
    print(f"residual: (temp, gradients, buckets) at 4 layers {shallow}, at 24 layers {deep}")
    assert deep[0] - deep[1] > 3 * (shallow[0] - shallow[1])

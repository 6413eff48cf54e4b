"""The Sparse Transformer's configurations: what the paper says of the model, and two steps of the small one."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax import cli, evaluate, generate
from effjax.models.build import decoder_config, make_decoder
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train
from tests.laws.measure import relative_norm

ENWIK8 = "configs/sparse_transformer_enwik8.py"
SMALL = {
    "steps": 2,
    "log_every": 1,
    "batch_size": 8,
    "data.length": 64,
    "model.n_layers": 2,
    "optimizer.warmup": 1,
    "eval.limit": 300,
    "eval.context": 64,
    "eval.stride": 32,
    "eval.batch_size": 8,
    "eval.test": False,
    "sample.length": 0,
}


@pytest.mark.slow
def test_trains_scores_and_generates(tmp_path, capsys):
    config = load_config(f"{ENWIK8}:tiny")
    config.update_from_flattened_dict(SMALL)
    train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # An output matrix of zeros: ln 256 nats, 512 of which one device adds up one after the other in float32.
    assert rows[0]["train/bits_per_byte"] == pytest.approx(8, rel=512 * 2**-24)
    assert rows[1]["train/bits_per_byte"] < 8
    capsys.readouterr()
    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--split=valid", "--limit=300", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["targets"] == 300 and abs(scores["bits_per_byte"] - rows[1]["valid/bits_per_byte"]) < 1e-4
    assert cli.run(generate.main, [f"--workdir={tmp_path}", "--prompt=The history of", "--length=8"]) == 0
    assert capsys.readouterr().out.startswith("The history of")


def test_weights_are_those_that_the_paper_counts():
    """12 d^2 a layer: queries, keys, values, outputs and the feed-forward network."""
    params = make_task(load_config(ENWIK8)).abstract_params
    matrices = [leaf.size for leaf in jax.tree.leaves(params["stack"]) if leaf.ndim > 2]  # the first axis is layers
    assert sum(matrices) == 30 * 12 * 512**2 == 94_371_840


IMAGES = {  # sections of models for images, and the weights of a layer by the reference's accounting
    "CIFAR-10": (
        dict(d_model=256, d_ff=512, n_heads=2, head_dim=128, n_layers=128),
        dict(stride=96, qk_head_dim=64),  # a row of 32 pixels; half-size queries and keys
        (32, 32, 3),
        2 * 256 * 128 + 2 * 256**2 + 2 * 256 * 512,
        58.7,
    ),
    "ImageNet-64": (
        dict(d_model=512, d_ff=2048, n_heads=16, head_dim=32, n_layers=48),
        dict(stride=128),
        (64, 64, 3),
        12 * 512**2,
        151.0,
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_weights_of_the_models_for_images(name):
    """Invariant 8: 58.7M and 151.0M in the matrices of the blocks, from a section, without memory for any of them."""
    sizes, strided, grid, layer, millions = IMAGES[name]
    section = decoder_config(pattern=("strided",))
    section.update(sizes | dict(positions="factorised"))
    section.strided.update(strided)
    section.factorised.shape = grid
    model = make_decoder(section, vocab_size=256)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    matrices = sum(leaf.size for leaf in jax.tree.leaves(params["stack"]) if leaf.ndim > 2)
    assert matrices == sizes["n_layers"] * layer and round(matrices / 1e6, 1) == millions
    assert sum(leaf.size for leaf in jax.tree.leaves(params["positions"])) == sum(grid) * sizes["d_model"]


@pytest.mark.slow
def test_recomputing_activations_changes_no_gradient():
    """Invariant 9: loss and gradients under patterns whose heads are split and merged, with dropout."""

    def gradients(remat):
        section = decoder_config(pattern=("strided", "fixed"))
        section.update(d_model=16, d_ff=32, n_heads=2, head_dim=8, n_layers=4, dropout=0.2, remat=remat)
        section.strided.update(stride=4, form=("split",))
        section.fixed.update(block=8, summary=2, form=("merged",))
        model = make_decoder(section, vocab_size=11)
        ids = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 21)), jnp.int32)
        params = jax.jit(model.init)(jax.random.key(0), ids[:1, :1])

        @jax.jit
        def run(params):
            rngs = {"dropout": jax.random.key(1)}
            loss = lambda params: model.apply(params, ids, ids, deterministic=False, rngs=rngs, method="nats")[0].mean()
            return jax.value_and_grad(loss)(params)

        return run(params), str(jax.make_jaxpr(run)(params)).count("dot_general")

    (plain, products), (again, recomputed) = gradients(False), gradients(True)
    assert float(plain[0]) == pytest.approx(float(again[0]), rel=1e-6)
    assert relative_norm(again[1], plain[1]) <= 1e-6
    assert recomputed > products


def test_initial_weights_are_as_wide_as_the_paper_says():
    config = load_config(f"{ENWIK8}:tiny")
    params = jax.jit(make_task(config).init)(jax.random.key(0))
    period = params["stack"]["period"]
    width, hidden, branches = 128, 512, math.sqrt(2 * 4)
    deviations = {
        0.125 / math.sqrt(width): params["vocabulary"]["embedding"]["embedding"],
        0.125 / math.sqrt(2 * width): params["positions"]["axis_0"],
        0.125 / math.sqrt(width) / branches: period["mixing_0"]["mixer"]["out"]["kernel"],
        0.125 / math.sqrt(hidden) / branches: period["feeding_0"]["feed_forward"]["outer"]["kernel"],
    }
    for deviation, leaf in deviations.items():
        assert float(jnp.std(leaf)) == pytest.approx(deviation, rel=0.05)
    assert not params["vocabulary"]["head"]["kernel"].any()


def test_interleaved_heads_alternate_from_layer_to_layer():
    config = load_config(f"{ENWIK8}:tiny").unlock()
    config.model.pattern = ("fixed", "fixed")
    config.model.fixed.form = ("local", "far")
    mixers = make_task(config).model.stack.period.mixers()
    assert [mixer.form for mixer in mixers] == ["local", "far"]

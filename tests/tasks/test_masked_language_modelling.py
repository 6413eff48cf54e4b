"""Masked language modelling: two steps of a small Linformer, its score, and what it refuses."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax import cli, evaluate, generate
from effjax.data.masking import masked_scoring_batches
from effjax.errors import UserError
from effjax.plan import count_parameters
from effjax.tasks import make_task
from effjax.training.config import load_config
from effjax.training.loop import train

SMALL = {
    "steps": 2,
    "log_every": 1,
    "batch_size": 8,
    "data.length": 32,
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.head_dim": 16,
    "model.n_layers": 2,
    "model.axial.shape": (32,),
    "model.axial.dims": (32,),
    "model.linformer.n_projected": 8,
    "model.linformer.max_length": 32,
    "model.linformer.sharing": "layerwise",
    "eval.context": 32,
    "eval.stride": 16,
    "eval.limit": 500,
    "eval.test": False,
}


def small_config(**settings):
    config = load_config("configs/linformer_enwik8.py:tiny")
    config.update_from_flattened_dict(SMALL | {key.replace("__", "."): value for key, value in settings.items()})
    return config


@pytest.mark.slow
def test_trains_scores_and_refuses_to_write(tmp_path, capsys):
    config = small_config()
    task = make_task(config)
    train(task, config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and 6 < rows[1]["train/masked_bits_per_byte"] < 10
    capsys.readouterr()
    assert cli.run(evaluate.main, [f"--workdir={tmp_path}", "--split=valid", "--limit=500", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["masked_bits_per_byte"] == pytest.approx(rows[1]["valid/masked_bits_per_byte"], abs=1e-4)
    assert 50 < scores["targets"] < 100  # 15 % of 500
    assert cli.run(generate.main, [f"--workdir={tmp_path}", "--prompt=The", "--length=8"]) == 1
    assert "cannot write a text from left to right" in capsys.readouterr().err


def test_loss_is_that_of_the_hidden_tokens():
    task = make_task(small_config())
    params = jax.jit(task.init)(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 256, 90).astype(np.uint8)
    batch = next(masked_scoring_batches(tokens, "test", vocab_size=256, context=32, stride=16, batch_size=5))
    loss, (metrics, carry) = jax.jit(task.loss)(params, batch)
    inputs, there = jnp.asarray(batch["inputs"]), jnp.asarray(batch["padding_mask"])
    logits = jax.jit(task.model.apply)({"params": params}, inputs, padding_mask=there)[0]
    assert logits.shape[-1] == 257
    nats = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch["targets"][..., None], -1)[..., 0]
    expected = nats[batch["weights"] > 0].mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5) and carry == ()
    assert float(metrics["nats"][1]) == batch["weights"].sum()
    assert task.report({"nats": math.log(2)}) == {"loss": math.log(2), "masked_bits_per_byte": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(sample__length=9), "config.sample.length=9: a masked language model"),
        (dict(data__reader="streams"), "config.data.reader='streams'"),
        (dict(eval__reader="streams"), "config.eval.reader='streams'"),
        (dict(data__length=64), "config.data.length=64 .* must not exceed the 32 positions"),
        (dict(model__linformer__max_length=16), "must not exceed the 16 positions"),
        (dict(eval__metric="bits_per_byte"), "masked_bits_per_byte"),
        (dict(task="language_modelling", eval__metric="bits_per_byte"), "it serves encoders only"),
        (dict(model__linformer__causal=True), "causal=True"),
    ],
)
def test_mistakes_are_found_before_any_work(settings, message):
    with pytest.raises(UserError, match=message):
        make_task(small_config(**settings))


@pytest.mark.parametrize(
    ("sharing", "parameters"),
    [("none", 2 * 12 * 12), ("headwise", 2 * 12), ("key_value", 12), ("layerwise", 1)],
)
def test_full_preset_by_sharing(sharing, parameters):
    config = load_config("configs/linformer_enwik8.py")
    config.model.linformer.sharing = sharing
    params = make_task(config).abstract_params
    # 85,054,464 in matrices and biases of blocks with their norms, 257 rows of embeddings, biases, 512 positions.
    rest = 12 * (4 * 768**2 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768) + 257 * 769 + 512 * 768
    assert count_parameters(params)["total"] == rest + parameters * 256 * 512

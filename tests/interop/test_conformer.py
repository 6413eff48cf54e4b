"""The Conformer encoder gives what Hugging Face's Wav2Vec2-Conformer gives, with gradients.

Their masked variant is left to tests/layers/test_conformer_convolution.py: behind the first block their convolutions
run over whatever attention and feed-forwards left at padded places, which ours by law do not.
"""

import functools

import jax
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.interop import export_conformer, import_conformer, import_state_dict
from effjax.interop.rules import to_theirs
from effjax.interop.wav2vec2_conformer import layout
from tests.goldens.foreign import foreign_settings
from tests.goldens.load import distance, load


def imported(name):
    """The golden, the encoder and its variables."""
    golden = load(f"hf_conformer_{name}")
    settings = foreign_settings(golden)
    return golden, settings, *import_conformer(settings, golden["weights"])


@functools.partial(jax.jit, static_argnames=("encoder", "train"))
def run(variables, x, cotangent, *, encoder, train):
    def encode(params, x):
        return encoder.apply(variables | {"params": params}, x, deterministic=not train, mutable=["batch_stats"])[0][0]

    out, pull = jax.vjp(encode, variables["params"], x)
    return out, *pull(cotangent)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param("relative", "eval", marks=pytest.mark.slow),
        pytest.param("relative", "train", marks=pytest.mark.slow),
        pytest.param("rotary", "eval", marks=pytest.mark.slow),
        ("rotary", "train"),
    ],
)
def test_matches_hugging_face(name, variant):
    golden, _, encoder, variables = imported(name)
    cotangent = golden["inputs"]["cotangent"][variant]
    out, grads, grad_x = run(variables, golden["inputs"]["x"], cotangent, encoder=encoder, train=variant == "train")
    assert distance(out, golden["outputs"][variant]["out"])[1] <= 1e-5
    assert distance(grad_x, golden["grads"][variant]["x"])[1] <= 1e-5
    if expected := golden["weight_grads"].get(variant):
        ours = to_theirs(layout(encoder), variables | {"params": grads})
        largest = max(np.abs(array).max() for array in expected.values())
        for weight, theirs in expected.items():  # gradients of the keys' biases are 0 but for rounding
            bound = 1e-5 * max(np.abs(theirs).max(), 0.1 * largest)
            assert np.abs(ours[f"encoder.{weight}"] - theirs).max() <= bound, weight


def test_there_and_back_changes_no_bit():
    """As part of a whole model, whose other tensors are left out."""
    golden, settings, encoder, variables = imported("relative")
    written, tensors = export_conformer(encoder, variables)
    assert settings.items() <= written.items()
    assert {name.removeprefix("encoder.") for name in tensors} == set(golden["weights"])
    around = {"feature_projection.projection.bias": np.zeros(3), "encoder.pos_conv_embed.conv.bias": np.zeros(3)}
    whole = {f"wav2vec2_conformer.{name}": tensor for name, tensor in (tensors | around).items()}
    jax.tree.map(np.testing.assert_array_equal, import_conformer(settings, whole)[1], variables)
    with pytest.raises(UserError, match=r"chunk_size=2 \(0 there\); convolution_bias=True \(False there\)"):
        export_conformer(encoder.clone(chunk_size=2, convolution_bias=True), variables)
    with pytest.raises(UserError, match="the encoder alone has a place here"):
        import_state_dict(settings, whole)

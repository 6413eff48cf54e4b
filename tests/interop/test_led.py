"""An imported LED gives what Hugging Face's gives, with gradients, and goes back without loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effjax.errors import UserError
from effjax.interop import export_led, import_led, import_state_dict
from effjax.interop.led import layout
from effjax.interop.rules import to_theirs
from tests.goldens.load import distance, load


def imported():
    golden = load("hf_led")
    settings = golden["story"]["settings"]
    return golden, settings, *import_led(settings, golden["weights"])


@pytest.mark.slow
def test_logits_and_gradients_are_hugging_faces():
    golden, _, section, model, params = imported()
    inputs = {name: jnp.asarray(array) for name, array in golden["inputs"].items() if name != "cotangent"}
    ids, previous = inputs["ids"].astype(jnp.int32), inputs["previous"].astype(jnp.int32)

    @jax.jit
    def run(params, cotangent):
        source = {"global_mask": inputs["global_mask"] > 0}
        logits, pull = jax.vjp(lambda params: model.apply({"params": params}, ids, previous, source=source), params)
        return logits, *pull(cotangent)

    logits, grads = run(params, golden["inputs"]["cotangent"]["logits"])
    assert distance(logits, golden["outputs"]["logits"])[1] <= 1e-5
    theirs, ours = dict(golden["weight_grads"]["logits"]), to_theirs(layout(section, 24), grads)
    shared = theirs.pop("led.shared.weight")
    np.add.at(shared, golden["inputs"]["ids"], golden["grads"]["logits"]["embeds"])
    assert distance(ours["led.shared.weight"], shared)[1] <= 1e-5
    largest = max(np.abs(grad).max() for grad in theirs.values())
    for name, grad in theirs.items():  # key biases have no gradient but rounding
        assert np.abs(ours[name] - grad).max() <= 1e-5 * largest, name


def test_there_and_back_changes_no_bit():
    golden, settings, section, _, params = imported()
    written, tensors = export_led(section, params)
    assert written.items() <= (settings | {"torch_dtype": "float32"}).items()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, golden["weights"][name])
    left_out = set(golden["weights"]) - set(tensors)
    assert all("embed_tokens" in name or name == "lm_head.weight" for name in left_out), left_out
    section.norm_epsilon = 1e-6
    with pytest.raises(UserError, match=r"encoder\.norm_epsilon=1e-06 \(1e-05 there\)"):
        export_led(section, params)
    with pytest.raises(UserError, match="decoder_ffn_dim; equal ones only"):
        import_led(settings | {"decoder_ffn_dim": 7}, golden["weights"])
    with pytest.raises(UserError, match="import_led reads it"):
        import_state_dict(settings, golden["weights"])

"""What other projects may rely on, and that asking for it is what imports it."""

import subprocess
import sys

import effjax

SURFACE = [
    "Decoder",
    "Encoder",
    "FeedForward",
    "MIXERS",
    "Mixer",
    "Period",
    "Stack",
    "attention_fn",
    "decoder_config",
    "encoder_config",
    "export_state_dict",
    "import_state_dict",
    "load_model",
    "make_decoder",
    "make_encoder",
    "reversible_stack",
]


def test_the_public_names_are_these():
    assert effjax.__all__ == SURFACE
    for name in SURFACE:
        assert getattr(effjax, name) is not None
        assert name in effjax.__doc__
    assert set(SURFACE) <= set(dir(effjax))


def test_configurations_need_no_jax():
    program = (
        "import sys, effjax; from effjax.training.config import base_config, load_config; base_config();"
        "assert not {'jax', 'flax', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

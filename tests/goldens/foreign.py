"""Goldens of Hugging Face's layouts as the folders that their library writes."""

import json

import safetensors.numpy


def foreign_settings(golden) -> dict:
    """The `config.json` of a golden; those of Conformers tell their sizes in words of their own."""
    story = golden["story"]["settings"]
    if "model_type" in story:
        return story
    return {
        "model_type": "wav2vec2-conformer",
        "hidden_size": story["hidden"],
        "num_hidden_layers": story["layers"],
        "num_attention_heads": story["heads"],
        "intermediate_size": story["ff"],
        "conv_depthwise_kernel_size": story["kernel"],
        "position_embeddings_type": story["positions"],
        "hidden_act": story["activation"],
        "layer_norm_eps": story["layer_norm_eps"],
        "hidden_dropout": 0.0,
    }


def write_foreign(folder, settings, tensors):
    """A folder with `config.json` and `model.safetensors`; returns it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    safetensors.numpy.save_file(dict(tensors), folder / "model.safetensors")
    return folder

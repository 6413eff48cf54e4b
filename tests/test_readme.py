"""Each block of Python in the README runs by itself, beside checkpoints of the names that it reads."""

import json
import pathlib
import re

import pytest
import safetensors.numpy

import effjax.convert
from effjax import cli
from tests.goldens.load import load

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
FOLDERS = {"longformer": "hf_longformer_mlm", "led": "hf_led", "wav2vec2_conformer": "hf_conformer_relative"}
CONFORMER = {
    "model_type": "wav2vec2-conformer",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_depthwise_kernel_size": 7,
    "position_embeddings_type": "relative",
    "layer_norm_eps": 1e-5,
}
SHOWN = (
    "attention_fn(", "Block(nn.Module)", 'residual="reversible"', "bridge.ToNNX", "load_model(",
    "import_state_dict(", "import_led(", "import_conformer(", "ConformerEncoder(",
)  # fmt: skip


def test_it_shows_what_it_has_to():
    for words in SHOWN:
        assert any(words in block for block in BLOCKS), words
    for block in BLOCKS:
        compile(block, "README.md", "exec")
        assert all(len(line) <= 120 for line in block.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_it_runs(number, tmp_path, monkeypatch):
    block, names = BLOCKS[number], {}
    monkeypatch.chdir(tmp_path)
    for folder, golden in FOLDERS.items():
        if f'"{folder}' in block or f'"runs/{folder}' in block:
            write(tmp_path / folder, load(golden))
    if '"runs/longformer"' in block:
        assert cli.run(effjax.convert.main, ["--from=longformer", "--to=runs/longformer"]) == 0
    exec(compile(block, "README.md", "exec"), names)
    assert names


def write(folder, golden):
    """A golden as a folder in Hugging Face's form."""
    folder.mkdir()
    settings = golden["story"]["settings"]
    (folder / "config.json").write_text(json.dumps(settings if "model_type" in settings else CONFORMER))
    safetensors.numpy.save_file(golden["weights"], folder / "model.safetensors")

"""Each block of Python in the README runs by itself, beside checkpoints of the names that it reads."""

import pathlib
import re

import pytest

import effjax.convert
from effjax import cli
from tests.goldens.foreign import foreign_settings, write_foreign
from tests.goldens.load import load

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
FOLDERS = {"longformer": "hf_longformer_mlm", "led": "hf_led", "wav2vec2_conformer": "hf_conformer_relative"}
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
            golden = load(golden)
            write_foreign(tmp_path / folder, foreign_settings(golden), golden["weights"])
    if '"runs/longformer"' in block:
        assert cli.run(effjax.convert.main, ["--from=longformer", "--to=runs/longformer"]) == 0
    exec(compile(block, "README.md", "exec"), names)
    assert names

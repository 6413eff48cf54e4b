"""The command convert: working directories that the other commands take, the way back, mistakes that leave nothing."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import effjax
import effjax.convert
import effjax.evaluate
import effjax.generate
from effjax import cli
from effjax.data.vocabularies import get_vocabulary
from effjax.errors import UserError
from effjax.interop import import_conformer, import_led, import_state_dict
from effjax.interop.files import read_checkpoint
from effjax.interop.reformer import REFORMER
from effjax.interop.rules import to_theirs
from effjax.interop.settings import Settings
from effjax.interop.workdirs import load_model
from effjax.models.build import make_decoder
from tests.goldens.foreign import foreign_settings, write_foreign
from tests.goldens.load import load

REFORMER_JSON = {
    "model_type": "reformer",
    "is_decoder": True,
    "vocab_size": 258,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "attention_head_size": 8,
    "feed_forward_size": 16,
    "attn_layers": ["local", "lsh"],
    "num_buckets": None,
    "local_attn_chunk_length": 8,
    "lsh_attn_chunk_length": 8,
    "axial_pos_shape": [4, 16],
    "axial_pos_embds_dim": [4, 12],
    "local_attention_probs_dropout_prob": 0.0,
}


def longformer(tmp_path, **changes):
    golden = load("hf_longformer_mlm")
    return write_foreign(tmp_path / "theirs", golden["story"]["settings"] | changes, golden["weights"])


def convert(*argv):
    return cli.run(effjax.convert.main, [str(argument) for argument in argv])


@pytest.mark.slow
def test_an_imported_reformer_is_scored_and_writes_text(tmp_path, capsys):
    section = REFORMER.read(Settings(REFORMER_JSON, "test"), frozenset())
    model = make_decoder(section, vocab_size=258)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    theirs = write_foreign(tmp_path / "theirs", REFORMER_JSON, to_theirs(REFORMER.layout(section), params))
    ours = tmp_path / "ours"
    assert convert(f"--from={theirs}", f"--to={ours}") == 0
    assert "language_modelling, vocabulary bytes+2" in capsys.readouterr().out
    argv = [f"--workdir={ours}", "--split=test", "--limit=64", "--json"]
    assert cli.run(effjax.evaluate.main, argv) == 0
    assert 6 < json.loads(capsys.readouterr().out.splitlines()[-1])["bits_per_byte"] < 14
    assert cli.run(effjax.generate.main, [f"--workdir={ours}", "--length=3"]) == 0
    assert capsys.readouterr().out.startswith("The ")
    model, again = load_model(str(ours), fields=(("model.lsh.n_hashes", 3),))
    assert model.stack.period.mixers()[1].n_hashes == 3
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_there_and_back_changes_no_bit(tmp_path, capsys):
    theirs, ours, back = longformer(tmp_path), tmp_path / "ours", tmp_path / "back"
    assert convert(f"--from={theirs}", f"--to={ours}") == 0
    assert "vocabulary ids:23" in capsys.readouterr().out
    assert convert(f"--from={ours}", f"--to={back}") == 0
    (settings, before), (again, after) = read_checkpoint(str(theirs)), read_checkpoint(str(back))
    assert again.items() <= (settings | {"torch_dtype": "float32"}).items()
    assert set(before) - set(after) == {"lm_head.decoder.weight", "lm_head.decoder.bias"}
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name])
    assert convert(f"--from={theirs}", f"--to={ours}") == 1
    assert "exists; nothing is overwritten" in capsys.readouterr().err


@pytest.mark.parametrize("name", [pytest.param("led", marks=pytest.mark.slow), "wav2vec2-conformer"])
def test_what_no_task_trains_becomes_a_folder_with_its_model(name, tmp_path, capsys):
    golden = load({"led": "hf_led", "wav2vec2-conformer": "hf_conformer_rotary"}[name])
    settings, weights = foreign_settings(golden), golden["weights"]
    *_, model, params = {"led": import_led, "wav2vec2-conformer": import_conformer}[name](settings, weights)
    theirs, ours, back = write_foreign(tmp_path / "theirs", settings, weights), tmp_path / "ours", tmp_path / "back"
    assert convert(f"--from={theirs}", f"--to={tmp_path / 'no'}", "--vocabulary=bytes") == 1
    assert f"no task here reads a {name}" in capsys.readouterr().err
    assert convert(f"--from={theirs}", f"--to={ours}") == 0
    assert f"{name}, for effjax.load_model" in capsys.readouterr().out
    again, loaded = effjax.load_model(str(ours))
    assert str(again) == str(model)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert convert(f"--from={ours}", f"--to={back}") == 0
    written, tensors = read_checkpoint(str(back))
    assert all(written[key] == value for key, value in settings.items() if key in written)
    prefix = "" if name == "led" else "encoder."
    assert tensors and all(np.array_equal(x, weights[key.removeprefix(prefix)]) for key, x in tensors.items())

    with pytest.raises(UserError, match="checkpoint='best'; 'latest' only"):
        effjax.load_model(str(ours), "best")
    with pytest.raises(UserError, match="has no configuration: fields"):
        effjax.load_model(str(ours), fields=(("model.d_ff", 3),))
    arrays = safetensors.numpy.load_file(ours / "params.safetensors")
    lost = sorted(arrays)[0]
    del arrays[lost]
    safetensors.numpy.save_file(arrays | {"params/more": np.zeros(3)}, ours / "params.safetensors")
    with pytest.raises(UserError, match=rf"{lost} absent, expected float32.*params/more float64\[3\], expected absent"):
        effjax.load_model(str(ours))
    (ours / "params.safetensors").write_bytes(b"nothing")
    assert convert(f"--from={ours}", f"--to={tmp_path / 'no'}") == 1
    assert "params.safetensors cannot be read" in capsys.readouterr().err
    assert cli.run(effjax.evaluate.main, [f"--workdir={ours}"]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "ours", "theirs"]


def test_ids_without_a_text_are_an_error_where_text_is_asked_for():
    with pytest.raises(UserError, match="ids:23 is that of a tokenizer elsewhere"):
        get_vocabulary("ids:23").encode(b"text")


def test_all_misfits_are_in_one_message(tmp_path, capsys):
    theirs = longformer(tmp_path)
    golden = load("hf_longformer_mlm")["weights"]
    golden["classifier.weight"] = np.zeros((2, 2), np.float32)
    golden["longformer.encoder.layer.0.output.dense.bias"] = np.zeros(7, np.float32)
    golden["lm_head.dense.bias"] = np.zeros(16, np.int32)
    golden["lm_head.decoder.bias"] = golden["lm_head.decoder.bias"] + 1
    del golden["longformer.encoder.layer.1.intermediate.dense.weight"]
    safetensors.numpy.save_file(golden, theirs / "model.safetensors")
    assert convert(f"--from={theirs}", f"--to={tmp_path / 'ours'}") == 1
    message = capsys.readouterr().err
    for part in (
        "missing: encoder.layer.1.intermediate.dense.weight",
        "unknown: classifier.weight",
        "encoder.layer.0.output.dense.bias [7], expected [16]",
        "lm_head.dense.bias holds int32",
        "lm_head.decoder.bias is another than lm_head.bias",
    ):
        assert part in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


def test_files_that_are_none_of_ours(tmp_path, capsys):
    theirs, ours = longformer(tmp_path), tmp_path / "ours"
    tensors, kept = theirs / "model.safetensors", (theirs / "config.json").read_text()
    complain = lambda source: (convert(f"--from={source}", f"--to={ours}"), capsys.readouterr().err)

    assert complain(tmp_path / "nothing")[0] == 1
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors cannot be read" in complain(theirs)[1]
    tensors.rename(theirs / "pytorch_model.bin")
    assert "holds pytorch_model.bin and no model.safetensors: a pickle can run any code" in complain(theirs)[1]
    assert "a pickle can run any code" in complain(theirs / "pytorch_model.bin")[1]
    tensors.write_bytes(whole)
    (theirs / "config.json").write_text("{")
    assert "config.json cannot be read" in complain(theirs)[1]
    (theirs / "config.json").unlink()
    assert "there is no config.json" in complain(tensors)[1]
    (theirs / "config.json").write_text(kept.replace('"longformer"', '"bert"'))
    assert "model_type='bert'; big_bird, longformer, reformer, transfo-xl is allowed" in complain(theirs)[1]
    (theirs / "config.json").write_text(kept)
    assert convert(f"--from={theirs}", f"--to={ours}", "--vocabulary=bytes") == 1
    assert "--vocabulary=bytes has 256 ids; the model needs one of 23" in capsys.readouterr().err
    assert not ours.exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("hf_longformer_mlm", {"attention_window": [4, 5]}, "attention_window=.4, 5.; an even number"),
        ("hf_longformer_mlm", {"hidden_act": "mish"}, "hidden_act='mish'"),
        ("hf_longformer_mlm", {"vocab_size": 25}, r"expected \[25, 16\]"),
        ("hf_big_bird_full", {"use_bias": False}, "use_bias=False"),
        ("hf_big_bird_full", {"model_type": "reformer", "attn_layers": ["full"]}, "'local' and 'lsh' are allowed"),
        ("hf_reformer_local_lm", {"lsh_num_chunks_after": 1, "attn_layers": ["lsh"]}, "lsh_num_chunks_after=1"),
        ("hf_reformer_local_lm", {"attn_layers": ["local", "lsh"]}, r"missing: encoder.layers.1.+query_key"),
    ],
)
def test_what_no_model_here_has(name, changes, message):
    golden = load(name)
    with pytest.raises(UserError, match=message):
        import_state_dict(golden["story"]["settings"] | changes, golden["weights"])

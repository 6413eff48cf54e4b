"""Translation and summarisation from their tiny presets: two steps, scores, predictions, and what they refuse."""

import json
import math
from collections import Counter

import jax
import numpy as np
import pytest

from effjax import cli, evaluate, predict
from effjax.errors import UserError
from effjax.plan import count_parameters
from effjax.tasks import make_task
from effjax.training.averaging import average_params
from effjax.training.checkpoints import restore_params
from effjax.training.config import load_config
from effjax.training.loop import train
from effjax.training.workdir import open_workdir

SMALL = {
    "steps": 2,
    "log_every": 1,
    "batch_size": 8,
    "data.length": 24,
    "options.source_length": 24,
    "options.learn_from": 200,
    "options.beams": 2,
    "model.d_model": 16,
    "model.d_ff": 16,
    "model.n_heads": 2,
    "model.head_dim": 4,
    "model.cross_heads": 2,
    "model.cross_head_dim": 8,
    "eval.every": 2,
    "eval.limit": 16,
    "eval.batch_size": 8,
    "eval.test": False,
    "checkpoint.every": 1,
}
ONE_LAYER = {
    f"model.{side}.{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"pattern": ("lsra",), "n_layers": 1, "lsra.kernel_size": (3,)}.items()
}
LED = {
    "model.encoder.n_layers": 1,
    "model.decoder.n_layers": 1,
    "data.length": 16,
    "options.source_length": 64,
    "model.encoder.axial.shape": (64,),
    "model.encoder.axial.dims": (16,),
    "model.decoder.axial.dims": (16,),
    "model.encoder.longformer.window": (4,),
}
DOCUMENTS = ONE_LAYER | {"data.length": 16, "options.source_length": 64}
TITLES, LEADS = {"data.name": "wikipedia_titles"}, {"data.name": "wikipedia_leads"}  # real, unlike the presets' own
PRESETS = {
    "lite_transformer_multi30k": ONE_LAYER,
    "led_arxiv": LED,
    "lite_transformer_iwslt14": ONE_LAYER,
    "lite_transformer_wmt14": ONE_LAYER,
    "lite_transformer_cnn_dailymail": DOCUMENTS,
}


def small_config(name, **settings):
    config = load_config(f"configs/{name}.py:tiny")
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    config.update_from_flattened_dict(SMALL | PRESETS[name] | settings)
    return config


def run(capsys, main, *args):
    capsys.readouterr()
    code = cli.run(main, list(args))
    return code, capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data"), [(name, LEADS if "data.length" in PRESETS[name] else TITLES) for name in PRESETS]
)
def test_trains_scores_and_predicts(name, data, tmp_path, capsys, monkeypatch):
    config = small_config(name, **data)
    train(make_task(config), config, str(tmp_path / "run"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and 4 < rows[1]["valid/loss"] < 9

    code, said = run(capsys, evaluate.main, f"--workdir={tmp_path / 'run'}", "--limit=3", "--json")
    scores = json.loads(said.out)
    summaries = config.task == "summarisation"
    measures = {"rouge1", "rouge2", "rougeL"} if summaries else {"bleu"}
    assert code == 0 and measures <= set(scores) and all(0 <= scores[name] <= 100 for name in measures)
    if not summaries:
        case = "lc" if config.options.lowercase else "mixed"
        assert f"case:{case}|eff:no|tok:13a|smooth:exp|version:" in scores["bleu_signature"]

    monkeypatch.setattr("effjax.data.text_pairs.load_text_pairs", None)  # predictions need no corpus
    text = "The Arctic Ocean is the smallest of the oceans." if summaries else "Arktischer Ozean"
    (tmp_path / "input.txt").write_text(f"{text}\n")
    code, said = run(capsys, predict.main, f"--workdir={tmp_path / 'run'}", str(tmp_path / "input.txt"), "--json")
    outputs = json.loads(said.out)["outputs"]
    assert code == 0 and len(outputs) == 1 and math.isfinite(outputs[0]["score"])
    task = make_task(config)
    task.workdir = open_workdir(str(tmp_path / "run"))
    (tmp_path / "input.txt").write_text(" \n" if summaries else f"{text}\n\n{text}\n")
    with pytest.raises(UserError, match="the text is empty" if summaries else r"input\.txt, line 2: the text is empty"):
        task.read_sources(str(tmp_path / "input.txt"))
    if summaries:  # long documents are shortened, long sentences refused
        assert len(task.read_sources("dog " * 200)) == 1
    else:
        assert len(task.read_sources(text)) == 1
        with pytest.raises(UserError, match="tokens; the model reads 23"):
            task.read_sources("Hund " * 200)

    if name == "lite_transformer_multi30k":
        check_average(tmp_path, config)


def check_average(tmp_path, config):
    """The mean of two checkpoints is what `average:2` restores; three are more than there are."""
    workdir = open_workdir(str(tmp_path / "run"))
    like = make_task(config).abstract_params
    parts = [restore_params(workdir, like, which=step)[1] for step in (1, 2)]
    step, mean = average_params(workdir, like, 2)
    assert step == 2
    jax.tree.map(lambda m, a, b: np.testing.assert_allclose(m, (a + b) / 2, rtol=1e-6), mean, *parts)
    with pytest.raises(UserError, match=r"holds those of steps \[1, 2\]; average:1 to average:2 is allowed"):
        average_params(workdir, like, 3)


@pytest.mark.slow
def test_learns_to_translate_toy_german(tmp_path, capsys):
    """Sixty steps bring the loss far below where it began; every output begins with an article, as the targets do."""
    config = small_config("lite_transformer_multi30k", steps=60, model__d_model=32, model__head_dim=8, batch_size=16)
    config.update_from_flattened_dict({"log_every": 20, "checkpoint.every": 60, "eval.every": 60, "model.d_ff": 32})
    config.optimizer.update(learning_rate=1e-2, warmup=10)
    train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train/loss"] < 0.6 * rows[0]["train/loss"]
    (tmp_path / "input.txt").write_text("Ein Hund sieht heute einen Baum .\nEine Frau sucht dort ein Haus .\n")
    code, said = run(capsys, predict.main, f"--workdir={tmp_path}", str(tmp_path / "input.txt"))
    lines = said.out.splitlines()
    assert code == 0 and len(lines) == 2 and all(line.startswith("A") for line in lines)


@pytest.mark.slow
def test_language_model_of_wikitext103_trains_and_scores(tmp_path):
    config = load_config("configs/lite_transformer_wikitext103.py:tiny")
    small = {"model.pattern": ("lsra",), "model.n_layers": 1, "model.lsra.kernel_size": (3,), "data.length": 16}
    small |= {"steps": 2, "log_every": 1, "eval.context": 16, "eval.stride": 8, "eval.limit": 100, "eval.test": False}
    config.update_from_flattened_dict(small | {"sample.length": 4})
    train(make_task(config), config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and 1000 < rows[1]["valid/perplexity"] < 20_000


@pytest.mark.slow
def test_loss_of_packed_rows_is_that_of_their_pairs():
    lengths = dict(data__length=48, options__source_length=48)
    task = make_task(small_config("lite_transformer_multi30k", **lengths))
    params = jax.jit(task.init)(jax.random.key(0))
    packed = task.examples("train")
    row = packed.rows[0]
    assert len(row) > 1
    task_alone = make_task(small_config("lite_transformer_multi30k", options__pack=False, **lengths))
    task_alone.vocabulary = task.vocabulary
    single = task_alone.examples("train")
    places = [int(np.flatnonzero(single.numbers == number)[0]) for number in row]
    together = jax.jit(task.loss)(params, packed.batch(np.array([0])))[1][0]["nats"]
    alone = jax.jit(task_alone.loss)(params, single.batch(np.array(places)))[1][0]["nats"]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def ngrams(words, n):
    return Counter(zip(*(words[i:] for i in range(n))))


def test_bleu_is_that_of_its_definition():
    """Papineni et al. 2002 on words between spaces, for texts that the tokeniser leaves alone."""
    written = ["a small dog sees the old house today", "two men sit on a red bench in the park", "a child runs"]
    references = ["a small dog sees an old house today", "two men are on a red bench in a park", "one child runs fast"]
    logs = 0.0
    for n in range(1, 5):
        pairs = [(ngrams(w.split(), n), ngrams(r.split(), n)) for w, r in zip(written, references)]
        hits, total = sum(sum((w & r).values()) for w, r in pairs), sum(sum(w.values()) for w, _ in pairs)
        logs += math.log(hits / total) / 4
    lengths = [sum(len(text.split()) for text in side) for side in (written, references)]
    expected = 100 * math.exp(logs) * min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    task = make_task(small_config("lite_transformer_multi30k"))
    assert task.quality(written, references)["bleu"] == pytest.approx(expected, rel=1e-6)


def longest_common(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_rouge_is_that_of_its_definition():
    """Lin 2004 for summaries of one line, of words without endings."""
    written, references = ["a dog saw the big house", "red cat"], ["the dog saw a house", "a red cat sat"]

    def f1(hits, w, r):
        return 200 * hits / (w + r)

    task = make_task(small_config("led_arxiv"))
    scores = task.quality(written, references)
    words = [(w.split(), r.split()) for w, r in zip(written, references)]
    for name, n in (("rouge1", 1), ("rouge2", 2)):
        counts = [(ngrams(w, n), ngrams(r, n)) for w, r in words]
        values = [f1(sum((w & r).values()), sum(w.values()), sum(r.values())) for w, r in counts]
        assert scores[name] == pytest.approx(np.mean(values), rel=1e-6)
    values = [f1(longest_common(w, r), len(w), len(r)) for w, r in words]
    assert scores["rougeL"] == pytest.approx(np.mean(values), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(data__vocabulary="bytes"), "config.data.vocabulary='bytes'; bpe:N"),
        (dict(data__vocabulary="bpe:99"), "N of at least 259"),
        (dict(options__beams=0), "config.options.beams=0"),
        (dict(options__label_smoothing=1.0), "config.options.label_smoothing=1.0"),
        (dict(eval__metric="bleu"), "config.eval.metric='bleu'; 'loss' or 'perplexity'"),
        (dict(sample__length=5), "config.sample.length=5"),
        (dict(model__encoder__lsra__causal=True), "LSRA is causal"),
    ],
)
def test_mistakes_are_found_before_any_work(settings, message):
    with pytest.raises(UserError, match=message):
        make_task(small_config("lite_transformer_multi30k", **settings))


def test_documents_must_fit_the_positions():
    with pytest.raises(UserError, match=r"config.options.source_length=128 exceeds the 64 positions of the encoder"):
        make_task(small_config("led_arxiv", options__source_length=128))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "parameters", "millions"),
    [
        ("wmt14", 17_283_616, 527),
        ("wmt14.py:medium", 11_739_792, 360),
        ("wmt14.py:small", 2_884_400, 90),
        ("iwslt14", 1_713_584, None),
        ("iwslt14.py:medium", 3_837_104, None),
        ("iwslt14.py:large", 6_805_424, None),
        ("cnn_dailymail", 17_283_616, 800),
        ("wikitext103", None, 1147),
    ],
)
def test_published_sizes_and_mult_adds(preset, parameters, millions):
    """Parameters of the blocks to the unit, mult-adds as far as their last digit goes (the language model's to 1 %)."""
    source = f"configs/lite_transformer_{preset}" if ".py" in preset else f"configs/lite_transformer_{preset}.py"
    task = make_task(load_config(source))
    params = task.abstract_params
    if millions is not None:
        (counted,) = task.mult_adds(params).values()
        assert counted / 1e6 == pytest.approx(millions, rel=0.01 if preset == "wikitext103" else 0.0025)
    del params["vocabulary"]
    assert parameters in (None, count_parameters(params)["total"])

"""Configurations: one table of fields, files that fill it in, and overrides from the command line.

An experiment is a Python file with `get_config(preset)`, which starts from `base_config()`; `load_config` reads
`path.py:preset`, `apply_overrides` what `--config.key=value` says. Everything here runs without JAX.
"""

import ast
import difflib
import importlib.util
import inspect
import pathlib
import re

from ml_collections import ConfigDict

from effjax.errors import UserError

FIELDS = (
    ("seed", 0, "seed of the parameters, the order of the data, dropout and hashing"),
    ("task", "language_modelling", "what is trained for: language_modelling"),
    ("steps", 1000, "training steps in all"),
    ("stages", (), "(steps, ((field, value), …)) of each, in order, see effjax/training/stages.py; (): one stage"),
    ("batch_size", 8, "sequences per step, all devices and processes together"),
    ("accumulate", 1, "pieces of its batch that a step computes one after another, to save memory"),
    ("dtype", "float32", "compute in float32 or bfloat16; parameters are float32 in any case"),
    (
        "data.name",
        "enwik8_sample",
        "enwik8_sample (with effjax), enwik8, text8, wikitext103, pg19, bytes_file or token_files",
    ),
    ("data.path", "", "a raw, .zip, .gz or .xz file (tokens: a .zip or a folder) to read instead of downloading"),
    (
        "data.vocabulary",
        "bytes",
        "bytes, bytes+2, drop_newlines, newline_eos, text8, text8_eos, words:N, hashed_words:N or ids:N",
    ),
    ("data.reader", "windows", "windows (shuffled) or streams (in order, state carried from step to step)"),
    ("data.length", 512, "targets per sequence"),
    ("data.stride", 0, "distance between the starts of two windows; 0: data.length"),
    ("optimizer.name", "adam", "adam, adamw, adafactor or adagrad"),
    ("optimizer.schedule", "rsqrt", "after a linear warm-up: rsqrt, cosine (0 at the last step) or constant"),
    ("optimizer.learning_rate", 0.03125, "c of rsqrt, c * min(1, t/warmup) / sqrt(max(t, warmup)); else the peak"),
    ("optimizer.warmup", 2000, "steps of warm-up"),
    ("optimizer.b1", 0.9, "Adam's decay of the mean gradient"),
    ("optimizer.b2", 0.98, "Adam's decay of the mean squared gradient"),
    ("optimizer.eps", 1e-9, "Adam's and Adagrad's epsilon"),
    ("optimizer.weight_decay", 0.0, "decoupled decay of all but biases and scales (adamw, adafactor)"),
    ("optimizer.tensor_clip", 0.0, "adagrad: norm of one tensor's gradient from which its step shrinks; 0: none"),
    ("optimizer.clip_norm", 1.0, "largest global norm of the gradient; 0: no clipping"),
    ("mesh.data", -1, "devices along the batch, parameters copied; -1: all that remain"),
    ("mesh.fsdp", 1, "devices along the batch, parameters split by the sharding rules"),
    ("mesh.tensor", 1, "devices along heads and features"),
    ("mesh.sequence", 1, "devices along the length"),
    ("sharding", (), "rules (path regex, mesh axes of the trailing dimensions); the first that matches holds"),
    ("eval.every", 500, "steps between scores of the valid split; 0: after the last step only"),
    ("eval.reader", "windows", "windows (each by itself) or streams (side by side, state carried along, no stride)"),
    ("eval.context", 512, "bytes the scorer sees at once"),
    ("eval.stride", 256, "targets it scores in each window"),
    ("eval.batch_size", 8, "windows it scores at once, or streams"),
    ("eval.model", (), "pairs (field of model, value) that hold for scoring, such as a longer memory"),
    ("eval.limit", 0, "targets of the periodic score; 0: the whole split"),
    ("eval.metric", "bits_per_byte", "the score that names the best checkpoint; lower is better"),
    ("eval.test", True, "score the whole test split at the end"),
    ("checkpoint.every", 500, "steps between checkpoints; 0: after the last step only"),
    ("checkpoint.keep", 2, "latest checkpoints to keep, besides the best"),
    ("log_every", 10, "steps between rows of metrics.jsonl"),
    ("init_from", "", "a run of the same parameters, from which training starts"),
    (
        "quantization.mode",
        "none",
        "int8_weight_only, int4_weight_only or int8_dynamic: training rounds as it does; none",
    ),
    ("quantization.rules", (), "(path regex, True or False), the first that matches holds; (): all but the vocabulary"),
    ("quantization.group", 32, "weights that share a scale with 4 bits"),
    ("quantization.states", False, "streams keep keys, values and memories in 8 bits"),
    ("quantization.stored", False, "the checkpoint holds integers: what effjax.quantize writes"),
    ("pruning.method", "none", "what is pruned in training is least by magnitude, saliency or movement; none"),
    ("pruning.structure", "weights", "weights, 2:4 and the like, block:4x4 and the like, heads or neurons"),
    ("pruning.distribution", "uniform", "of the sparsity over kernels: uniform, global or erk"),
    ("pruning.sparsity", 0.5, "share of the prunable weights that is 0 in the end"),
    ("pruning.initial", 0.0, "that share after the first pruning"),
    ("pruning.begin", 0, "first update that prunes"),
    ("pruning.end", 1000, "update from which the sparsity is whole"),
    ("pruning.every", 100, "updates between two prunings"),
    ("pruning.rules", (), "which kernels, as quantization.rules"),
    ("max_bad_steps", 10, "steps in a row whose loss or gradient may be non-finite before training stops"),
    ("sample.prompt", "", "start of the text generated at the end of training"),
    ("sample.length", 256, "tokens to generate; 0: none"),
    ("sample.temperature", 1.0, "below 1: likelier text, above 1: more varied"),
    ("sample.top_k", 0, "choose among the k likeliest tokens; 0: among all"),
)
AT_LEAST_ONE = ("steps", "batch_size", "accumulate", "log_every", "max_bad_steps", "checkpoint.keep", "data.length")


def base_config() -> ConfigDict:
    """Every field at its default; `model`, and `options` of tasks that have some, are empty: an experiment fills them.

    Locked: a misspelt field is an error.
    """
    fields = {"model": {}, "options": {}}
    for key, default, _ in FIELDS:
        *groups, name = key.split(".")
        group = fields
        for part in groups:
            group = group.setdefault(part, {})
        group[name] = default
    return ConfigDict(fields).lock()


def load_config(source: str) -> ConfigDict:
    """Reads an experiment.

    Args:
      source: `path.py` or `path.py:preset`; a file that defines `get_config(preset)`.

    Returns:
      The configuration, locked.

    Raises:
      UserError: there is no such file or preset.
    """
    parts = re.fullmatch(r"(.+\.py)(?::(.*))?", source)
    if not parts:
        raise UserError(f"--config={source}: expected a Python file, FILE.py or FILE.py:PRESET")
    path, preset = pathlib.Path(parts[1]).expanduser(), parts[2]
    if not path.is_file():
        raise UserError(f"--config={source}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"effjax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={source}: {path} does not define get_config")
    if preset and not inspect.signature(module.get_config).parameters:
        raise UserError(f"--config={source}: {path} has no presets")
    config = module.get_config(*filter(None, [preset]))
    return config.unlock().lock()  # what was added to a locked configuration, its model, is locked only now


def apply_overrides(config: ConfigDict, overrides: list[tuple[str, str]]) -> ConfigDict:
    """Sets fields from text, in place.

    Args:
      config: a configuration.
      overrides: pairs such as `("optimizer.warmup", "500")`; the text is read as the type that the field has.

    Returns:
      `config`.

    Raises:
      UserError: no such field (the nearest one is named), or text that is not of its type.
    """
    fields = flatten(config)
    for key, text in overrides:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
            raise UserError(f"--config.{key}: there is no such field; the nearest is --config.{near[0]}")
        *groups, name = key.split(".")
        group = config
        for part in groups:
            group = group[part]
        group[name] = _parse(key, text, fields[key])
    return config


def set_fields(config: ConfigDict, fields, *, source: str, may_set: tuple[str, ...] = ("",)) -> None:
    """Sets fields to values of the types that they have, in place.

    Args:
      config: a configuration or a part of one, unlocked.
      fields: pairs such as `("optimizer.warmup", 500)`.
      source: what sets them, for the error.
      may_set: beginnings of the names that may be set.

    Raises:
      UserError: no such pairs, no such field, or a value of another type.
    """
    if not isinstance(fields, tuple) or not all(isinstance(field, tuple) and len(field) == 2 for field in fields):
        raise UserError(f"{source}: {fields!r} is no tuple of pairs (field, value)")
    known = flatten(config)
    for key, value in fields:
        if key not in known or not key.startswith(may_set):
            names = ", ".join(sorted(known) if may_set == ("",) else (name.rstrip(".") for name in may_set))
            raise UserError(f"{source} sets {key!r}; fields of {names} are allowed")
        if not _fits(value, known[key]):
            raise UserError(f"{source} sets {key}={value!r}; expected {type(known[key]).__name__}, as in the rest")
        *groups, name = key.split(".")
        group = config
        for part in groups:
            group = group[part]
        with group.ignore_type():
            group[name] = value


def _fits(value, current) -> bool:
    """Whether a value is of another one's type; one value for all blocks may stand for a tuple of one for each."""

    def kinds(x):
        return set().union(*map(kinds, x)) if isinstance(x, tuple) else {type(x)}

    allowed = kinds(current)
    if float in allowed:
        allowed.add(int)
    return not allowed or current is None or kinds(value) <= allowed


def check_config(config: ConfigDict) -> None:
    """Raises UserError where a count is below 1, or a field does not fit another, or a sharding rule is none."""
    fields = flatten(config)
    for key in AT_LEAST_ONE:
        if fields[key] < 1:
            raise UserError(f"config.{key}={fields[key]}; 1 or more is allowed")
    if config.batch_size % config.accumulate:
        raise UserError(f"config.accumulate={config.accumulate} does not divide config.batch_size={config.batch_size}")
    if config.eval.reader == "windows" and 0 < config.eval.context < config.eval.stride:
        sizes = f"config.eval.stride={config.eval.stride}, config.eval.context={config.eval.context}"
        raise UserError(f"{sizes}: a stride beyond the context would skip targets")
    for rule in config.sharding:
        _check_rule(rule)


def _check_rule(rule) -> None:
    match rule:
        case (str(pattern), tuple()) if isinstance(rule, tuple):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"config.sharding: {pattern!r} in rule {rule!r} is no regex: {error}") from error
        case _:
            raise UserError(f"config.sharding: rule {rule!r} is no pair (path regex, tuple of mesh axes)")


def flatten(config, prefix: str = "") -> dict:
    """`{"optimizer.warmup": 2000, …}`: every field of a nested configuration under its dotted name."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def describe_fields() -> str:
    """The table of fields for `--help`."""
    rows = [(f"--config.{key}={'' if default == '' else default}", text) for key, default, text in FIELDS]
    return "\n".join(f"  {flag:<44}{text}" for flag, text in rows)


def _parse(key: str, text: str, current):
    """`text` as a value of the type of `current`."""
    kind = type(current)
    if kind is str:
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and type(value) is list:
        value = tuple(value)
    if current is not None and type(value) is not kind:
        raise UserError(f"--config.{key}={text}: expected {kind.__name__}, such as {current!r}")
    return value

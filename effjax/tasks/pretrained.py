"""The encoder of a masked language model as the beginning of another task."""

import jax
import numpy as np

from effjax.errors import UserError
from effjax.training.checkpoints import restore_params
from effjax.training.workdir import load_saved_config, open_workdir


def pretrained_encoder(config, encoder, which: str = "latest"):
    """The parameters of an encoder, from a run of `masked_language_modelling`.

    Args:
      config: `options.init_from` is the run's working directory, `data.vocabulary` has to be its vocabulary.
      encoder: shapes of the parameters that are wanted, as a nested dict; the run may have more (its read-out).
      which: "latest", "best" or a step.

    Returns:
      Arrays of NumPy in that nested dict.

    Raises:
      UserError: no such run, another task or vocabulary, or a parameter that it lacks or has in another shape.
    """
    from effjax.tasks import make_task

    where = f"config.options.init_from={config.options.init_from}"
    workdir = open_workdir(config.options.init_from)
    saved = load_saved_config(workdir)
    if saved.task != "masked_language_modelling":
        raise UserError(f"{where} is a run of {saved.task}; one of masked_language_modelling is needed")
    if saved.data.vocabulary != config.data.vocabulary:
        raise UserError(
            f"{where} uses vocabulary {saved.data.vocabulary!r}, config.data.vocabulary is {config.data.vocabulary!r}"
        )
    there = make_task(saved).abstract_params
    for path, leaf in jax.tree_util.tree_leaves_with_path(encoder):
        found = there
        for part in path:
            found = found.get(part.key) if isinstance(found, dict) else None
        if getattr(found, "shape", None) != leaf.shape:
            name = "/".join(part.key for part in path)
            shape = "nothing" if found is None else f"shape {found.shape}"
            raise UserError(f"{where} has {shape} at {name}, where the classifier's encoder has shape {leaf.shape}")
    _, params = restore_params(workdir, there, which=which)
    return jax.tree_util.tree_map_with_path(lambda path, _: np.asarray(_get(params, path)), encoder)


def _get(tree, path):
    for part in path:
        tree = tree[part.key]
    return tree

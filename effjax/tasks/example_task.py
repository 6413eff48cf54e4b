"""What the tasks have in common whose data are finite sets of examples: documents, series, utterances, sentences."""

import functools
import math

import jax
from jax.sharding import Mesh

from effjax.data.examples import ExampleReader, Examples, scoring_examples
from effjax.data.placement import BATCH, global_rows, reader_share
from effjax.errors import UserError
from effjax.tasks.task import Task
from effjax.training.metrics import Means


class ExampleTask(Task):
    """A task over splits of examples. A subclass has `examples`, `init`, `loss`, `abstract_batch` and, where the names
    of its metrics are not what is to be logged, `report`.

    Args:
      config: a whole configuration.
    """

    splits = ("train", "valid", "test")

    def __init__(self, config):
        self.config = config

    def examples(self, split: str) -> Examples:
        """The examples of a split; read once."""
        raise NotImplementedError

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global training batch; `inputs` is what the model reads, `[B, T]` or `[B, T, …]`."""
        raise NotImplementedError

    def init(self, key: jax.Array):
        """Parameters, a nested dict of float32 arrays."""
        raise NotImplementedError

    def loss(self, params, batch, carry=(), *, key=None, deterministic: bool = True):
        """`(loss, (metrics, carry))`: metrics are sums and weights, `{name: (sum, weight)}`, which leave out the rows
        where `batch["example_weights"]` (in scoring) is 0."""
        raise NotImplementedError

    def report(self, metrics: dict[str, float], split: str = "train") -> dict[str, float]:
        """What is logged of mean metrics."""
        del split
        return metrics

    def initial_carry(self, batch_size: int):
        """Nothing goes from step to step."""
        del batch_size
        return ()

    def generation_state(self, length: int):
        """What generating one output of `length` tokens keeps in memory; nothing, unless the task generates."""
        del length
        return ()

    def train_reader(self, process_index: int, process_count: int) -> ExampleReader:
        """The reader of this process's share of every global batch."""
        config = self.config
        return ExampleReader(
            self.examples("train"),
            batch_size=config.batch_size,
            seed=config.seed,
            process_index=process_index,
            process_count=process_count,
        )

    def scoring_batches(self, split: str, *, limit: int | None = None, batch_size: int = 0, mesh: Mesh | None = None):
        """The batches of a split, on the devices of a mesh where there is one; for `evaluate`."""
        if split not in self.splits:
            raise UserError(f"split={split!r}; one of {', '.join(self.splits)} is allowed")
        share, rows = (0, 1), batch_size or self.config.eval.batch_size
        if mesh is not None:  # whole rows on every device
            share = reader_share(mesh)
            rows += -rows % math.prod(mesh.shape[axis] for axis in BATCH)
        place = dict(batch_size=rows, process_index=share[0], process_count=share[1])
        for batch in scoring_examples(self.examples(split), limit=limit, **place):
            yield batch if mesh is None else global_rows(batch, mesh, rows)

    def evaluate(
        self,
        params,
        split: str,
        *,
        limit: int | None = None,
        context: int = 0,
        stride: int = 0,
        batch_size: int = 0,
        mesh: Mesh | None = None,
    ) -> dict[str, float]:
        """Means of the metrics over a split.

        Args:
          params: parameters.
          split: one of `splits`.
          limit: only the first so many examples; 0 or None: all.
          context, stride: of tasks that read windows; 0 is allowed.
          batch_size: examples at once; 0: `config.eval.batch_size`.
          mesh: devices over which a batch is spread; None: the default device.

        Raises:
          UserError: no such split, or a setting that this task does not have.
        """
        self.check_windows(context, stride)
        means = Means()
        for batch in self.scoring_batches(split, limit=limit, batch_size=batch_size, mesh=mesh):
            means.add(self.score(params, batch))
        return self.report_of(means, split)

    def check_windows(self, context: int = 0, stride: int = 0) -> None:
        """Raises UserError where `evaluate` is asked for windows."""
        for name, value in (("context", context), ("stride", stride)):
            if value:
                raise UserError(f"{name}={value}: the examples of {self.config.task} are read whole; 0 is allowed")

    def report_of(self, means: Means, split: str) -> dict[str, float]:
        """`report` of what was added to `means`; a metric without weight is 0."""
        return self.report({name: total / (weight or 1.0) for name, (total, weight) in means.sums().items()}, split)

    @functools.cached_property
    def score(self):
        """Compiled: the metrics of a batch."""
        return jax.jit(lambda params, batch: self.loss(params, batch)[1][0])

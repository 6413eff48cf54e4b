"""Windows of series: what a forecaster is conditioned on, and the steps after it that it is to forecast."""

import sys

import numpy as np

from effjax.data.calendar import ages, calendar, check_covariates
from effjax.data.examples import ExampleReader
from effjax.data.pipeline import ENDLESS, check_at_least, prefetched
from effjax.data.series import SeriesSet
from effjax.errors import UserError

SPLITS = ("train", "valid", "test")


class Windows:
    """Windows of `context + horizon` values, by series and start.

    A batch has `inputs` `[b, T]`, the values; `padding_mask` `[b, T]`, False before a series' first value;
    `covariates` `[b, T, C]`; `series` `[b]`, 1 + the number of the series, 0 where it is not told; `window` `[b]`, a
    number that is the window's own.

    Args:
      series: the set.
      numbers: series of each window, `[n]`.
      starts: index of its first value, `[n]`; below 0, what is missing counts as padding.
      length: values of a window.
      covariates: names, see `effjax.data.calendar`.
      unknown_rate: share of training windows whose series is not told, so that a model learns to do without.
    """

    def __init__(
        self, series: SeriesSet, numbers, starts, *, length: int, covariates: tuple[str, ...], unknown_rate=0.0
    ):
        check_covariates(covariates)
        self.series, self.length, self.covariates, self.unknown_rate = series, length, tuple(covariates), unknown_rate
        self.numbers, self.starts = np.asarray(numbers, np.int64), np.asarray(starts, np.int64)
        self._calendars = {}

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """The windows at `indices`; `rng` is that of training."""
        numbers, starts = self.numbers[indices], self.starts[indices]
        places = starts[:, None] + np.arange(self.length)
        first = self.series.first[numbers]
        rows = [np.maximum(own, 0) for own in places]
        mask = places >= first[:, None]
        values = np.stack([self.series.values[number][row] for number, row in zip(numbers, rows)])
        columns = np.stack([self._calendar(number)[row] for number, row in zip(numbers, rows)])
        if "age" in self.covariates:
            columns[..., self.covariates.index("age")] = ages(places, first)
        known = 1 + numbers
        if rng is not None and self.unknown_rate:
            known = np.where(rng.random(len(known)) < self.unknown_rate, 0, known)
        return {
            "inputs": np.where(mask, values, 0).astype(np.float32),
            "padding_mask": mask,
            "covariates": columns,
            "series": known.astype(np.int32),
            "window": np.asarray(indices, np.int32),
        }

    def _calendar(self, number: int) -> np.ndarray:
        """The covariates of all values of a series; most sets share one array of times."""
        times = self.series.times[number]
        if id(times) not in self._calendars:
            self._calendars[id(times)] = calendar(times, self.covariates)
        return self._calendars[id(times)]


def training_windows(
    series: SeriesSet, *, context: int, horizon: int, stride: int, held_out: int, skip_short: bool = False, **options
) -> Windows:
    """The windows of the stretches before the last `held_out` steps.

    A series of N steps with its first value at f has `(N - context) // stride - ceil(f / stride)` windows of horizon
    `stride`, the first of which begins at f.

    Args:
      series: the set.
      context, horizon: steps to be conditioned on, and to forecast.
      stride: steps from the start of a window to that of the next one.
      held_out: steps before `series.end` that are not trained on.
      skip_short: leave out series that are too short for one window, and say how many on standard error.
      **options: of `Windows`.

    Raises:
      UserError: a series that is too short: file and series are named.
    """
    check_at_least(1, context=context, horizon=horizon, stride=stride)
    numbers, starts, short = [], [], []
    for number, (first, end) in enumerate(zip(series.first, series.end - held_out)):
        if end - first < context + horizon:
            short.append(number)
            continue
        count = max((end - context - horizon) // stride + 1 - -(-first // stride), 1)
        numbers.append(np.full(count, number))
        starts.append(first + stride * np.arange(count))
    if short:
        has = max(int(series.end[short[0]] - held_out - series.first[short[0]]), 0)
        report = (
            f"{series.origin}: series {series.names[short[0]]!r} has {has} values before the last {held_out}, a window "
            f"takes {context} + {horizon}"
        )
        if not skip_short or len(short) == len(series):
            others = f"; {len(short)} of {len(series)} series are as short" if len(short) > 1 else ""
            raise UserError(report + others)
        print(f"not trained on: {len(short)} of {len(series)} series; {report}", file=sys.stderr, flush=True)
    return Windows(series, np.concatenate(numbers), np.concatenate(starts), length=context + horizon, **options)


def scoring_windows(
    series: SeriesSet, *, context: int, horizon: int, stride: int, steps: int, after: int, **options
) -> Windows:
    """Windows whose forecasts begin every `stride` steps of a stretch of `steps`, `after` steps before the end.

    All series' windows of one beginning come before those of the next. A series shorter than the context is padded.

    Args:
      series: the set.
      context, horizon: steps to be conditioned on, and to forecast.
      stride: steps between two beginnings: the horizon, for a protocol that rolls on.
      steps: length of the stretch.
      after: steps between it and `series.end`.
      **options: of `Windows`.

    Raises:
      UserError: a stretch shorter than the horizon, or a series without a value before it.
    """
    check_at_least(1, context=context, horizon=horizon, stride=stride)
    if steps < horizon:
        raise UserError(f"{steps} steps to score are less than the horizon of {horizon}")
    begin = series.end - after - steps
    late = np.flatnonzero(begin <= series.first)
    if late.size:
        number = int(late[0])
        has = max(int(series.end[number] - series.first[number]), 0)
        raise UserError(
            f"{series.origin}: series {series.names[number]!r} has {has} values; more than {after + steps} are needed "
            "to forecast the steps that are scored"
        )
    origins = np.arange(0, steps - horizon + 1, stride)
    starts = (origins[:, None] + begin[None] - context).reshape(-1)
    numbers = np.tile(np.arange(len(series)), len(origins))
    return Windows(series, numbers, starts, length=context + horizon, **options)


def window_weights(windows: Windows, context: int) -> np.ndarray:
    """`1 + mean of the non-zero |values| of the context`, `[n]`: how often a window is drawn in weighted sampling.

    Source: Salinas et al. 2020 (1704.04110), section 3.4.
    """
    weights = np.ones(len(windows))
    for number in range(len(windows.series)):
        own = np.flatnonzero(windows.numbers == number)
        values = np.abs(windows.series.values[number]).astype(np.float64)
        sums, counts = (np.concatenate([[0], np.cumsum(x)]) for x in (values, values != 0))
        begin, end = windows.starts[own], windows.starts[own] + context
        weights[own] += (sums[end] - sums[begin]) / np.maximum(counts[end] - counts[begin], 1)
    return weights


class WeightedReader(ExampleReader):
    """Draws examples with replacement, each as often as its weight says; there are no epochs.

    Args:
      examples, batch_size, seed, process_index, process_count: as in `ExampleReader`.
      weights: of each example, above 0.
    """

    def __init__(self, examples, *, weights: np.ndarray, **settings):
        super().__init__(examples, **settings)
        if len(weights) != len(examples) or not (np.isfinite(weights) & (weights > 0)).all():
            raise UserError("weights must be finite and above 0, one for each example")
        self._bounds = np.cumsum(weights, dtype=np.float64)

    def iterate(self, start_step: int = 0):
        """This process's rows of the batches of steps `start_step`, `start_step + 1`, … without end."""
        import grain

        def read(step: int) -> dict[str, np.ndarray]:
            step = int(step)
            whole = np.random.default_rng((self.seed, step)).random(self.rows * self.process_count)
            mine = whole[self.process_index * self.rows :][: self.rows]
            indices = np.searchsorted(self._bounds, mine * self._bounds[-1], side="right")
            indices = np.minimum(indices, len(self._bounds) - 1)
            return self.examples.batch(indices, np.random.default_rng((self.seed, step, self.process_index)))

        return prefetched(grain.MapDataset.range(ENDLESS).map(read), start_step)

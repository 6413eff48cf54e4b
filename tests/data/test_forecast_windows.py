"""Windows of series by the published protocol: how many, from where to where, and what pads them."""

import numpy as np
import pytest

from effjax.data.calendar import times_from
from effjax.data.forecast_windows import WeightedReader, scoring_windows, training_windows, window_weights
from effjax.data.series import series_set
from effjax.errors import UserError


def a_set(lengths=(50,), first=None, step="hour", start="2014-01-01"):
    """Series whose value at index i is 100 * (number + 1) + i."""
    values = [100.0 * (n + 1) + np.arange(length) for n, length in enumerate(lengths)]
    times = [times_from(np.datetime64(start), step, length) for length in lengths]
    return series_set("mine", "mine.csv", step, [f"s{n}" for n in range(len(lengths))], values, times, first=first)


@pytest.mark.parametrize("first", [0, 1, 24, 30, 2000])
def test_number_of_training_windows_is_the_published_one(first):
    hours = 24 * 120
    series = a_set((hours + 168,), [first])
    windows = training_windows(series, context=168, horizon=24, stride=24, held_out=168, covariates=())
    assert len(windows) == (hours - 168) // 24 - -(-first // 24)
    assert windows.starts[0] == first and (np.diff(windows.starts) == 24).all()
    assert windows.starts[-1] + 192 <= hours


def test_one_day_rolls_over_a_week_and_seven_days_are_forecast_at_once():
    series = a_set((24 * 30,) * 3, start="2014-08-09")
    common = dict(steps=168, after=0, covariates=())
    rolling = scoring_windows(series, context=168, horizon=24, stride=24, **common)
    assert len(rolling) == 7 * 3 and list(rolling.numbers[:4]) == [0, 1, 2, 0]
    whole = scoring_windows(series, context=168, horizon=168, stride=168, **common)
    assert len(whole) == 3
    first, last = (series.times[0][windows.starts[-1] + windows.length - 1] for windows in (rolling, whole))
    assert first == last == np.datetime64("2014-09-07T23:00")
    begin = series.times[0][rolling.starts[0] + 168]
    assert begin == series.times[0][whole.starts[0] + 168] == np.datetime64("2014-09-01T00:00")
    valid = scoring_windows(series, context=168, horizon=24, stride=24, steps=168, after=168, covariates=())
    assert series.times[0][valid.starts[-1] + 191] == np.datetime64("2014-08-31T23:00")


def test_a_batch_holds_what_was_measured_and_says_what_was_not():
    series = a_set((50, 12), [0, 5])
    windows = scoring_windows(series, context=8, horizon=2, stride=2, steps=4, after=0, covariates=("hour", "age"))
    batch = windows.batch(np.array([0, 1, 3]), None)
    np.testing.assert_array_equal(batch["inputs"][0], np.arange(138, 148))
    # The second series ends at index 12, its first forecast begins at 8, the window at 0, its first value at 5.
    np.testing.assert_array_equal(batch["padding_mask"][1], [False] * 5 + [True] * 5)
    np.testing.assert_array_equal(batch["inputs"][1], [0] * 5 + [205, 206, 207, 208, 209])
    np.testing.assert_allclose(batch["covariates"][1, 4:7, 1], [0, np.log10(2), np.log10(3)], rtol=1e-6)
    np.testing.assert_array_equal(batch["inputs"][2][-2:], [210, 211])
    assert list(batch["series"]) == [1, 2, 2] and list(batch["window"]) == [0, 1, 3]


def test_training_forgets_some_identities():
    windows = training_windows(
        a_set((2000,)), context=4, horizon=2, stride=1, held_out=2, covariates=(), unknown_rate=0.25
    )
    told = windows.batch(np.arange(1600), np.random.default_rng(0))["series"]
    assert set(told) == {0, 1} and 0.2 < (told == 0).mean() < 0.3
    assert (windows.batch(np.arange(50), None)["series"] == 1).all()


def test_short_series_are_named_or_counted(capsys):
    series = a_set((50, 20, 19))
    settings = dict(context=12, horizon=4, stride=4, held_out=5, covariates=())
    with pytest.raises(UserError, match=r"mine.csv: series 's1' has 15 values before the last 5, .* 12 \+ 4; 2 of 3"):
        training_windows(series, **settings)
    windows = training_windows(series, **settings, skip_short=True)
    assert set(windows.numbers) == {0}
    assert "not trained on: 2 of 3 series; mine.csv: series 's1'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"series 's0' has 10 values"):
        training_windows(a_set((15,)), **settings, skip_short=True)
    with pytest.raises(UserError, match=r"series 's1' has 4 values; more than 6 are needed"):
        scoring_windows(a_set((50, 4)), context=8, horizon=2, stride=2, steps=6, after=0, covariates=())
    with pytest.raises(UserError, match=r"less than the horizon of 8"):
        scoring_windows(a_set(), context=8, horizon=8, stride=2, steps=6, after=0, covariates=())
    with pytest.raises(UserError, match=r"there is no covariate 'moon'"):
        scoring_windows(a_set(), context=8, horizon=2, stride=2, steps=6, after=0, covariates=("moon",))


def test_windows_are_drawn_as_often_as_their_scale_says():
    series = a_set((40, 40))
    series.values[0][:] = 1.0
    series.values[1][:] = np.where(np.arange(40) % 2, 5.0, 0.0)  # zeros do not count
    windows = training_windows(series, context=8, horizon=2, stride=2, held_out=10, covariates=())
    weights = window_weights(windows, 8)
    np.testing.assert_allclose(weights, np.where(windows.numbers == 0, 2.0, 6.0))
    batches = WeightedReader(windows, weights=weights, batch_size=500, seed=0).iterate()
    drawn = np.concatenate([next(batches)["series"] for _ in range(4)])
    assert 0.22 < (drawn == 1).mean() < 0.28


def test_weighted_draws_depend_on_the_step_alone():
    windows = training_windows(a_set((200,)), context=8, horizon=2, stride=1, held_out=10, covariates=())
    make = lambda **place: WeightedReader(windows, weights=window_weights(windows, 8), batch_size=6, seed=3, **place)
    rest, whole = make().iterate(2), make().iterate()
    expected = [next(whole)["window"] for _ in range(4)][2:]
    shares = [make(process_index=i, process_count=2).iterate(2) for i in range(2)]
    for own in expected:
        np.testing.assert_array_equal(next(rest)["window"], own)
        np.testing.assert_array_equal(np.concatenate([next(share)["window"] for share in shares]), own)
    with pytest.raises(UserError, match=r"weights must be"):
        WeightedReader(windows, weights=np.zeros(len(windows)), batch_size=6, seed=3)

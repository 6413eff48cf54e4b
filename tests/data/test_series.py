"""Series of the form of every source, from tiny records, and what is wrong with others."""

import gzip
import io
import lzma
import urllib.error
import zipfile

import numpy as np
import pytest

from effjax.data import downloads, electricity, ett, exchange_rate, m4_hourly, traffic
from effjax.data.calendar import calendar, times_after, times_from
from effjax.data.series import known_series, load_series, read_csv
from effjax.errors import UserError

ETT = "date,HUFL,OT\n2016-07-01 00:00:00,5.5,30.5\n2016-07-01 01:00:00,4.5,-1\n2016-07-01 02:00:00,3.5,2\n"


def test_columns_of_a_dated_file():
    series = ett.parse(ETT.encode(), "etth1", "file.csv")
    assert series.names == ("HUFL", "OT") and series.step == "hour"
    np.testing.assert_array_equal(series.values[1], np.float32([30.5, -1, 2]))
    assert series.times[0][2] == np.datetime64("2016-07-01T02:00")


def test_the_sample_is_what_its_notice_says():
    series = load_series("seattle_weather")
    assert (series.step, series.names) == known_series("seattle_weather")
    assert {len(own) for own in series.values} == {1461} and series.times[0][-1] == np.datetime64("2015-12-31")
    assert series.values[1][0] == np.float32(12.8)
    with pytest.raises(UserError, match=r"takes no path"):
        load_series("seattle_weather", path="x.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ETT.replace("4.5", "nan"), "file.csv: series 'HUFL' is nan in row 2 \\(2016-07-01T01:00\\)"),
        (ETT.replace("4.5", ""), "series 'HUFL' is nan in row 2"),
        (ETT.replace("-1", "inf"), "series 'OT' is inf in row 2"),
        (ETT.replace("-1", "low"), "series 'OT' is 'low' in row 2"),
        (ETT.replace(",-1", ""), "row 2 has 2 cells, the first line names 3"),
        (ETT.replace("02:00:00", "03:00:00"), "row 3 .2016-07-01T03:00. does not follow row 2"),
        (ETT.replace("07-01 01", "07-09 01"), "rows 1 and 2 are 11580 minutes apart"),
        (ETT.replace("2016-07-01 01:00:00", "yesterday"), "'yesterday' in row 2 is no time"),
        (ETT[:13], "1 lines"),
        ("date\n2016-07-01\n", "no column of numbers"),
        ("date,a\n2016-07-01,1\n", "1 rows; at least 2"),
    ],
)
def test_bad_rows_are_named(text, message):
    with pytest.raises(UserError, match=message):
        read_csv(text.encode(), "file.csv")


def test_text_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"file.csv is no CSV text"):
        read_csv(b"\xff\xfe\x00", "file.csv")


def test_rows_without_times_and_working_days():
    plain = read_csv(b"a,b\n1,2\n3,4\n", "file.csv", step="day")
    assert plain.step == "day" and plain.times[0][1] - plain.times[0][0] == np.timedelta64(1, "D")
    friday = read_csv(b"day,a\n2016-07-01,1\n2016-07-04,2\n2016-07-05,3\n", "file.csv")
    assert friday.step == "business_day"
    monday = b"day,a\n" + b"".join(f"{time.astype('M8[D]')},1\n".encode() for time in friday.times[0][1:])
    assert read_csv(monday, "file.csv").step == "day"
    after = times_after(np.datetime64("2016-07-08"), "business_day", 2)
    assert [str(time)[:10] for time in after] == ["2016-07-11", "2016-07-12"]


def test_exchange_rates_stand_on_working_days():
    series = exchange_rate.parse(b"0.7,1.6\n0.8,1.5\n", "rates.txt")
    assert series.names == ("rate_0", "rate_1") and series.step == "business_day"
    assert [str(time)[:10] for time in series.times[0]] == ["1990-01-01", "1990-01-02"]
    np.testing.assert_array_equal(series.values[1], np.float32([1.6, 1.5]))
    for data, message in ((b"0.7,1.6\n0.8\n", "line 2 has 1"), (b"0.7,x\n", "line 1"), (b"", "is empty")):
        with pytest.raises(UserError, match=f"rates.txt.*{message}"):
            exchange_rate.parse(data, "rates.txt")


TRAIN = b'"V1","V2","V3","V4"\n"H1","605","586",""\n"H2","3124","2990","2862"\n'
TEST = b'"V1","V2"\n"H1","619"\n"H2","2771"\n'


def test_m4_series_of_unlike_lengths_join_their_test_parts():
    series = m4_hourly.parse((TRAIN, "train.csv"), (TEST, "test.csv"))
    assert series.names == ("H1", "H2")
    np.testing.assert_array_equal(series.values[0], [605, 586, 619])
    np.testing.assert_array_equal(series.values[1], [3124, 2990, 2862, 2771])
    assert list(series.end) == [3, 4] and len(series.times[0]) == 3
    with pytest.raises(UserError, match=r"only one of them has the series 'H2'"):
        m4_hourly.parse((TRAIN, "train.csv"), (TEST[:20], "test.csv"))
    with pytest.raises(UserError, match=r"series 'H1' is nan in row 1"):
        m4_hourly.parse((TRAIN.replace(b'"605"', b'""'), "train.csv"), (TEST, "test.csv"))
    with pytest.raises(UserError, match=r"train.csv: series 'H1'.*'much'"):
        m4_hourly.parse((TRAIN.replace(b"605", b"much"), "train.csv"), (TEST, "test.csv"))


def quarters(n=12, start="2014-09-07T22:15"):
    """A text of the archive's form: client 1 draws 1,5 a quarter, client 2 begins in the second hour."""
    lines = ['"";"MT_001";"MT_002"']
    for i, time in enumerate(np.datetime64(start) + np.arange(n) * np.timedelta64(15, "m")):
        lines.append(f'"{str(time).replace("T", " ")}:00";1,5;{0 if i < 4 else i},25')
    return ("\n".join(lines) + "\n").replace(";0,25", ";0")


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_quarters_of_electricity_add_up_to_hours(tmp_path):
    file = write_zip(tmp_path / "LD2011_2014.txt.zip", {"LD2011_2014.txt": quarters()})
    series = electricity.parse(file)
    assert series.names == ("MT_001", "MT_002")
    assert [str(time) for time in series.times[0]] == ["2014-09-07T22:00", "2014-09-07T23:00", "2014-09-08T00:00"]
    np.testing.assert_array_equal(series.values[0], [6, 6, 6])
    np.testing.assert_array_equal(series.values[1], [0, 4 + 5 + 6 + 7 + 1, 8 + 9 + 10 + 11 + 1])
    assert list(series.first) == [0, 1]  # what stands before was not measured
    assert list(series.end) == [2, 2]  # the last hour forecast is 2014-09-07 23:00
    with pytest.raises(UserError, match=r"holds 2 series, electricity has 370"):
        electricity.load(str(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(";1,5", "", 1), "line 2 has 1 values, the first line names 2"),
        (lambda text: text.replace("1,5", "a,5", 1), "line 2"),
        (lambda text: text.replace("1,5", "nan", 1), "series 'MT_001' is nan in row 1"),
        (lambda text: "".join(text.splitlines(True)[:2] + text.splitlines(True)[10:]), "line 3 .* does not follow"),
        (lambda text: text.splitlines(True)[0], "holds no values"),
        (lambda text: text.replace(";1,5", ";0"), "'MT_001' is 0 in every row"),
    ],
)
def test_bad_lines_of_electricity_are_named(change, message, tmp_path):
    file = tmp_path / "LD2011_2014.txt"
    file.write_text(change(quarters()))
    with pytest.raises(UserError, match=message):
        electricity.parse(file)


def test_cut_archives_are_named(tmp_path):
    file = write_zip(tmp_path / "LD2011_2014.txt.zip", {"LD2011_2014.txt": quarters()})
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"LD2011_2014.txt.zip is truncated or corrupt"):
        electricity.parse(file)
    file = write_zip(tmp_path / "LD2011_2014.txt.zip", {"other.txt": ""})
    with pytest.raises(UserError, match=r"no file LD2011_2014.txt"):
        electricity.parse(file)
    (tmp_path / "Hourly-train.csv.xz").write_bytes(lzma.compress(TRAIN)[:-9])
    (tmp_path / "Hourly-test.csv.gz").write_bytes(gzip.compress(TEST))
    with pytest.raises(UserError, match=r"Hourly-train.csv.xz is truncated or corrupt"):
        load_series("m4_hourly", path=str(tmp_path))
    (tmp_path / "Hourly-train.csv.xz").write_bytes(lzma.compress(TRAIN))
    with pytest.raises(UserError, match=r"Hourly-train.csv.xz has md5 .*, m4_hourly has 5838f531"):
        load_series("m4_hourly", path=str(tmp_path))
    (tmp_path / "Hourly-train.csv.xz").unlink()
    with pytest.raises(UserError, match=r"no file Hourly-train.csv in this folder"):
        load_series("m4_hourly", path=str(tmp_path))


def days_of_traffic(weekdays=(4, 5, 6, 7, 1, 3), order=(3, 1, 2, 6, 5, 4), sensors=2):
    """Files of the archive's form: on day d, sensor s is at d + s/10 all the time, but twice that in the last hour."""
    files = {"PEMS_train": "", "PEMS_test": "", "randperm": f"[{' '.join(map(str, order))}]"}
    labels = []
    for i, day in enumerate(order):
        rows = [[f"{day + s / 10:g}"] * 138 + [f"{2 * (day + s / 10):g}"] * 6 for s in range(sensors)]
        files["PEMS_train" if i < 4 else "PEMS_test"] += "[" + ";".join(" ".join(row) for row in rows) + "]\n"
        labels.append(weekdays[day - 1])
    files |= {
        f"PEMS_{part}labels": f"[{' '.join(map(str, own))}]"
        for part, own in (("train", labels[:4]), ("test", labels[4:]))
    }
    return files


def test_days_of_traffic_come_into_order(tmp_path):
    series = traffic.parse(write_zip(tmp_path / "PEMS-SF.zip", days_of_traffic()))
    assert len(series) == 2 and len(series.values[0]) == 6 * 24
    np.testing.assert_allclose(series.values[1][::24], [1.1, 2.1, 3.1, 4.1, 5.1, 6.1], rtol=1e-6)
    np.testing.assert_allclose(series.values[1][23::24], 2 * series.values[1][::24])
    # The New Year is missing, and a Monday: dates follow from the weekdays, 1 for Sunday.
    dates = [str(time)[5:10] for time in series.times[0][::24]]
    assert dates == ["01-02", "01-03", "01-04", "01-05", "01-06", "01-08"]
    with pytest.raises(UserError, match=r"2 series of 6 days up to .*, traffic has 963 of 440 days"):
        traffic.load(str(tmp_path / "PEMS-SF.zip"))


def test_the_dates_of_traffic_fill_the_span_that_the_archive_names():
    every = traffic.FIRST + np.arange(455)
    missing = ["2008-01-01", "2008-01-21", "2008-02-18", "2008-03-09", "2008-05-26", "2008-07-04", "2008-09-01"]
    missing += ["2008-10-13", "2008-11-11", "2008-11-27", "2008-12-25", "2009-01-01", "2009-01-19", "2009-02-16"]
    days = np.array([day for day in every if str(day) not in [*missing, "2009-03-08"]])
    weekdays = (days.astype(np.int64) + 4) % 7 + 1
    assert len(days) == traffic.DAYS
    np.testing.assert_array_equal(traffic.dates_of(weekdays), days)
    assert days[-1] == traffic.LAST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(randperm="[1 2 3 4 5 5]"), "permutation of 6 differ"),
        (dict(PEMS_testlabels="[1]"), "6 days, 5 labels"),
        (dict(PEMS_testlabels="[1 x]"), "PEMS_testlabels is no list of integers"),
        (dict(PEMS_test="[1 2;3 4]\n"), "PEMS_test: line 1 is a matrix of"),
        (dict(PEMS_test="[1 2;3]\n"), "PEMS_test: line 1 is no matrix"),
        (dict(randperm=None), "no file randperm"),
    ],
)
def test_bad_files_of_traffic_are_named(change, message, tmp_path):
    files = {name: text for name, text in (days_of_traffic() | change).items() if text is not None}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        traffic.parse(tmp_path)


def test_downloads_are_made_once_and_refusals_name_both_ways(tmp_path, monkeypatch):
    class Answer(io.BytesIO):
        pass

    asked = []

    def answer(request, timeout):
        asked.append(request.full_url)
        return Answer(b"0.7\n")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", answer)
    for _ in range(2):
        file = downloads.official_file("https://example.org/a/rates.txt", name="rates", cache_dir=str(tmp_path))
        assert file.read_bytes() == b"0.7\n"
    assert asked == ["https://example.org/a/rates.txt"]

    def refuse(request, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match=r"(?s)etth2 is not in .*no network.*--config.data.path=/path/to/ETTh2.csv"):
        load_series("etth2", path=None, cache_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"no such file"):
        load_series("etth2", path=str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match=r"no series 'electricty'.*did you mean 'electricity'"):
        load_series("electricty")
    with pytest.raises(UserError, match=r"give --config.data.path="):
        load_series("series_csv")


def test_covariates_are_standard_scores_of_the_calendar():
    times = times_from(np.datetime64("2011-01-01"), "hour", 24 * 365)
    names = ("hour", "weekday", "month", "day", "yearday", "minute")
    columns = calendar(times, names)
    np.testing.assert_allclose(columns[:, :2].mean(0), 0, atol=0.01)
    np.testing.assert_allclose(columns[:, :2].std(0), 1, atol=0.01)
    raw = columns * np.sqrt((np.array([24, 7, 12, 31, 366, 60]) ** 2 - 1) / 12) + np.array([23, 6, 11, 30, 365, 59]) / 2
    noon = 24 * 31 + 12  # the first of February, a Tuesday
    np.testing.assert_allclose(raw[noon], [12, 1, 1, 0, 31, 0], atol=1e-4)

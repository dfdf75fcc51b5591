"""What a baseline may know at each row, and which labels it may fit there."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fjq.errors import InputError
from fjq.forecast import Law, Samples


class Unavailable(Exception):
    """A baseline has nothing to stand on here: a column, its labels or a package is absent. The text says what."""


class Known(NamedTuple):
    """The labels that may be fitted, one horizon: places in the order in which they became known, and how many
    of them each row may use [N]. What is fitted at a row is a function of that many first ones."""

    order: np.ndarray
    count: np.ndarray

    def prefix_sum(self, values: np.ndarray) -> np.ndarray:
        """Sums [N, ...] over the labels that each row may use. values: [K, ...]."""
        ordered = values[self.order]
        return np.concatenate([np.zeros_like(ordered[:1], shape=(1, *values.shape[1:])), ordered.cumsum(0)])[self.count]


@dataclasses.dataclass(frozen=True)
class Series:
    """One series: history, rows and labels as in `fjq.baselines`, with NaN targets where a label is not valid."""

    time: np.ndarray
    columns: dict[str, np.ndarray]
    row_time: np.ndarray
    label_time: np.ndarray
    target: np.ndarray
    label_end: np.ndarray | None
    train: np.ndarray
    label_steps: np.ndarray | None = None  # [K, H], where the data say it

    def column(self, name: str, positive: bool = False) -> np.ndarray:
        """A column of the history [M]; `positive`: refuses values of zero or less."""
        if name not in self.columns:
            raise Unavailable(f'the data has no column {name!r}, only {", ".join(sorted(self.columns)) or "none"}')
        values = np.asarray(self.columns[name], np.float64)
        if not np.isfinite(values).any():
            raise Unavailable(f'the column {name!r} holds no value')
        if positive and (values <= 0).any():
            raise InputError('a value is not positive', column=name, row=int((values <= 0).argmax()))
        return values

    def step_variance(self, column: str, kind: str) -> np.ndarray:
        """The variance of each step [M]: of a price its squared log return, of a return or volatility its square."""
        if kind == 'price':
            return np.diff(np.log(self.column(column, positive=True)), prepend=np.nan) ** 2
        if kind in ('return', 'volatility'):
            return self.column(column) ** 2
        raise InputError(f'the kind {kind!r} is not known', remedy="choose 'price', 'return' or 'volatility'")

    def returns(self, column: str, kind: str) -> np.ndarray:
        """The return of each step [M]: of a price its log return."""
        if kind == 'return':
            return self.column(column)
        if kind == 'price':
            return np.diff(np.log(self.column(column, positive=True)), prepend=np.nan)
        raise InputError(f'the kind {kind!r} is not known', remedy="choose 'price' or 'return'")

    def span_sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of history values [M] over each label's span, after its row and up to its end [K, H]; NaN where a
        label is not valid, or its span holds nothing."""
        if self.label_end is None:
            raise Unavailable('the rows have no label_end, so nobody knows what their labels span')
        running = np.append(0, np.cumsum(values))
        first = np.searchsorted(self.time, self.label_time, side='right')[:, None]
        last = np.searchsorted(self.time, self.label_end, side='right')
        return np.where(np.isfinite(self.target) & (last > first), running[last] - running[first], np.nan)

    def at_rows(self, values: np.ndarray) -> np.ndarray:
        """The latest of history values [M, ...] known at each row [N, ...]; NaN before the first."""
        return _latest(self.time, values, self.row_time)

    def at_labels(self, values: np.ndarray) -> np.ndarray:
        """The latest of history values [M, ...] known at the time of each labelled row [K, ...]."""
        return _latest(self.time, values, self.label_time)

    def steps(self, given: tuple[float, ...]) -> np.ndarray:
        """History steps whose variance a label sums [H]: those `given` in the config, or the mean of the training
        labels, by the data's own account (1 where labels are annualised), else all that a label spans."""
        if given or self.label_steps is None:
            return self.spans(given)
        used = np.isfinite(self.target) & self.train[:, None]
        if not used.any(0).all():
            raise Unavailable('a horizon has no training label to count steps by: set `steps`')
        return np.where(used, self.label_steps, 0).sum(0) / used.sum(0)

    def spans(self, given: tuple[float, ...]) -> np.ndarray:
        """History steps that a label spans [H]: those `given` in the config, or the mean of the training labels."""
        horizons = self.target.shape[1]
        if given:
            if len(given) != horizons:
                raise InputError(f'{len(given)} steps for {horizons} horizons', remedy='give one a horizon')
            return np.array(given, np.float64)
        if self.label_end is None:
            raise Unavailable('the rows have no label_end to count steps by: set `steps`')
        used = np.isfinite(self.target) & self.train[:, None]
        first = np.searchsorted(self.time, self.label_time, side='right')[:, None]
        spans = np.searchsorted(self.time, self.label_end, side='right') - first
        if not used.any(0).all():
            raise Unavailable('a horizon has no training label to count steps by: set `steps`')
        return np.where(used, spans, 0).sum(0) / used.sum(0)

    def volatility_targets(self) -> np.ndarray:
        """The targets [K, H], refused where they cannot be volatilities."""
        if (self.target <= 0).any():
            raise Unavailable('some targets are not positive, so they are no volatilities')
        return self.target

    def known(self, fit: str, embargo: float, usable: np.ndarray | None = None) -> list[Known]:
        """For each horizon the labels that each row may fit. usable: [K, H] True = can be fitted; None = all."""
        able = np.isfinite(self.target) & (True if usable is None else usable)
        if fit == 'train':
            kept = [np.flatnonzero(able[:, h] & self.train) for h in range(able.shape[1])]
            return [Known(order, np.full(len(self.row_time), len(order))) for order in kept]
        if fit != 'expanding':
            raise InputError(f'the way to fit {fit!r} is not known', remedy="choose 'train' or 'expanding'")
        if self.label_end is None:
            raise Unavailable('the rows have no label_end, so nobody knows when their labels had ended')
        out = []
        for h in range(able.shape[1]):
            kept = np.flatnonzero(able[:, h])
            free = _later(self.label_end[kept, h], embargo)
            order = np.argsort(free, kind='stable')
            out.append(Known(kept[order], np.searchsorted(free[order], self.row_time, side='right')))
        return out

    def scale_to_labels(self, raw: np.ndarray, fit: str, embargo: float, min_labels: int) -> np.ndarray:
        """Forecasts [N, H] from raw volatilities of every history step [M, H], times the factor that makes their
        mean square that of the labels: other units, overnight moves and risk premia are all such factors."""
        target, at_labels = self.volatility_targets(), self.at_labels(raw)
        out = self.at_rows(raw)
        for h, known in enumerate(self.known(fit, embargo, np.isfinite(at_labels))):
            pairs = np.stack([target[:, h], at_labels[:, h]], 1) ** 2
            wanted, given = known.prefix_sum(pairs).T
            enough = known.count >= max(min_labels, 1)
            out[:, h] *= np.where(enough, np.sqrt(wanted / np.where(enough, given, 1)), np.nan)
        return out


class Baseline:
    """The common entry of all baselines. A family defines `name` and `forecast_series(series) -> Law`."""

    def forecast(self, history: dict, rows: dict, labels: dict) -> Law:
        """The forecast of every row and horizon; see `fjq.baselines`.

        Raises:
          Unavailable: a column, labels or a package is absent.
          InputError: shapes that do not fit, times out of order, or an unknown choice in the config.
        """
        return _each_series(self.forecast_series, history, rows, labels)

    def forecast_series(self, series: Series) -> Law:
        """The forecast of one series, leading axes [N, H]."""
        raise AttributeError('forecast_series')


class PathBaseline(Baseline):
    """A baseline that also draws whole paths, for scores of all horizons together: its law is of each horizon alone. A
    family defines `simulate_series(series, count, seed) -> Samples`."""

    def simulate(self, history: dict, rows: dict, labels: dict, *, count: int, seed: int = 0) -> Samples:
        """`count` paths of each row: values [N, H, count], where a place of the last axis is one path. Raises what
        `forecast` does."""
        return _each_series(lambda series: self.simulate_series(series, count, seed), history, rows, labels)

    def simulate_series(self, series: Series, count: int, seed: int) -> Samples:
        """The paths of one series."""
        raise AttributeError('simulate_series')


def row_generator(seed: int, moment) -> np.random.Generator:
    """Draws of the row of a moment, whatever other rows are asked for."""
    return np.random.Generator(np.random.Philox([seed, int(np.asarray(moment).astype(np.int64))]))


def _each_series(answer: Callable[[Series], Law], history: dict, rows: dict, labels: dict) -> Law:
    """The answers for each series, put together in the order of `rows`."""
    if 'id' not in history:
        return answer(_make_series(history, rows, labels))
    laws, places = [], []
    for name in np.unique(rows['id']):
        parts = [_select(table, np.flatnonzero(np.asarray(table['id']) == name)) for table in (history, rows, labels)]
        laws.append(answer(_make_series(*parts)))
        places.append(np.flatnonzero(np.asarray(rows['id']) == name))
    order = np.argsort(np.concatenate(places))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *laws)


def _make_series(history: dict, rows: dict, labels: dict) -> Series:
    time = np.asarray(history['time'])
    if (np.diff(time) <= np.zeros(1, np.diff(time).dtype)).any():
        raise InputError('the history is not in order of time, each time once', column='time')
    columns = {name: np.asarray(values) for name, values in history.items() if name not in ('time', 'id')}
    for name, values in columns.items():
        if values.shape != time.shape:
            raise InputError(f'history of shape {values.shape} for {len(time)} times', column=name)
    row_time = np.asarray(rows['time'])
    tables = [_label_table(labels) | {'train': np.asarray(labels.get('train', np.ones(len(labels['time']), bool)))}]
    if 'target' in rows:  # a row that is asked for may be a label of later ones; one in both tables counts once
        asked = _label_table(rows) | {'train': np.zeros(len(row_time), bool)}
        tables.append(_select(asked, np.flatnonzero(~np.isin(asked['time'], tables[0]['time']))))
    merged = {k: np.concatenate([t[k] for t in tables]) for k in tables[0] if all(k in t for t in tables)}
    return Series(
        time=_stamp(time, row_time),
        columns=columns,
        row_time=row_time,
        label_time=merged['time'],
        target=np.where(merged['valid'], merged['target'], np.nan),
        label_end=_stamp(merged['label_end'], row_time) if 'label_end' in merged else None,
        train=merged['train'],
        label_steps=merged.get('steps'),
    )


def _label_table(table: dict) -> dict:
    out = {name: np.asarray(table[name]) for name in ('time', 'target', 'valid', 'label_end', 'steps') if name in table}
    if out['target'].shape != out['valid'].shape or out['target'].shape[:1] != out['time'].shape:
        shapes = f'time {out["time"].shape}, target {out["target"].shape}, valid {out["valid"].shape}'
        raise InputError(f'rows of shapes {shapes} do not fit')
    return out


def _select(table: dict, places: np.ndarray) -> dict:
    """The rows of a table at `places`; entries that are not one a row (the horizons) stay."""
    length = len(table['time'])
    return {k: np.asarray(v)[places] if np.shape(v)[:1] == (length,) else v for k, v in table.items()}


def _stamp(stamp: np.ndarray, row_time: np.ndarray) -> np.ndarray:
    """When a stamped value is known: a date, beside rows within days, means the end of that day."""
    units = [np.datetime_data(t.dtype)[0] if t.dtype.kind == 'M' else '' for t in (stamp, row_time)]
    return stamp + np.timedelta64(1, 'D') if units[0] == 'D' and units[1] not in ('D', '') else stamp


def _later(time: np.ndarray, amount: float) -> np.ndarray:
    if time.dtype.kind == 'M':
        whole = float(amount).is_integer()
        gap = np.timedelta64(int(amount), 'D') if whole else np.timedelta64(round(amount * 86_400e9), 'ns')
        return time + gap
    return time + int(np.ceil(amount))


def _latest(time: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    place = np.searchsorted(time, at, side='right') - 1
    out = values[np.maximum(place, 0)].astype(np.float64)
    out[place < 0] = np.nan
    return out

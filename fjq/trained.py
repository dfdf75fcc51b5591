"""A trained model in a script: jitted predict and embed, frames in and frames out, save and load."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from fjq import calibration as calibrations
from fjq.atomic import write_atomic
from fjq.calibration import Calibration
from fjq.checkpoint import read_params
from fjq.config import Experiment, to_json
from fjq.errors import InputError
from fjq.feed import make_gather, read_batches, read_tail
from fjq.fit import check_bound
from fjq.forecast import Law, Point, pool, to_columns
from fjq.paths import flatten, path_of
from fjq.run import FITTED, ORIGIN, read_config, read_manifest

WEIGHTS = 'model.safetensors'
CONFIG = 'config.json'


class Trained:
    """The best weights of a run with its task.

    Attributes:
      config: the experiment it was trained by.
      params, extra: nested dicts of arrays.
      step: updates of the checkpoint, None where it was read from a saved folder.
      calibration: what an evaluation or forecast by these weights fitted, None where there was none.
      data: the settings of the data that frames become, with what training fitted on its files, so that it needs none.
      manifest: that of the run; {} where there is none.
    """

    def __init__(
        self,
        config: Experiment,
        params: dict[str, Any],
        extra: dict[str, Any],
        step: int | None = None,
        calibration: Calibration | None = None,
        folder: Path | None = None,
    ):
        """folder: where the weights are from: its manifest, and what training fitted on its files, go with them."""
        self.config, self.task, self.step, self.calibration = config, config.task.build(), step, calibration
        self.params, self.extra = jax.device_put((params, extra))
        self.data, self.manifest, self._fitted = config.data, {}, {}
        if folder is not None:
            self.manifest = read_manifest(folder)
            self._fitted = {file.name: file.read_bytes() for file in sorted((folder / FITTED).glob('[!.]*'))}
        if self._fitted:
            self.data = config.data.with_fitted(folder / FITTED)
        self._predict = jax.jit(self.task.predict)
        self._embed = jax.jit(self.task.embed) if hasattr(self.task, 'embed') else None

    @classmethod
    def load(cls, path: str | Path, task: Any = None) -> 'Trained':
        """Reads a run folder or a folder that `save` wrote.

        Args:
          task: the config of the model, as `fjq.adopt.adopt_task` gives it; that of the training where it is None.

        Raises:
          InputError: neither is there, or the weights are not of the config's model.
        """
        path = Path(path)
        config = read_config(path)
        if task is not None:
            config.task = task
        if not (path / WEIGHTS).is_file():
            weights = read_params(path)
            found = Calibration.read(path, weights.step)
            return cls(config, weights.params, weights.extra, weights.step, found, path)
        task = config.task.build()
        like = dict(zip(('params', 'extra'), jax.eval_shape(task.init, jax.random.key(0)), strict=True))
        weights = _unflatten(_read_arrays(path / WEIGHTS), like, path / WEIGHTS)
        return cls(config, **weights, calibration=Calibration.read(path, None), folder=path)

    def save(self, folder: str | Path) -> None:
        """Writes config.json, model.safetensors, what was fitted on the data of the run, its manifest as origin.json
        and, once fitted, calibration.json, which `fjq.load` reads back to the same numbers."""
        from safetensors.numpy import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        leaves = flatten({'params': self.params, 'extra': self.extra})
        arrays = {name: np.asarray(leaf, order='C') for name, leaf in leaves.items()}
        write_atomic(folder / WEIGHTS, save(arrays))
        write_atomic(folder / CONFIG, to_json(self.config).encode())
        shutil.rmtree(folder / FITTED, ignore_errors=True)  # of another model
        for name, content in self._fitted.items():
            write_atomic(folder / FITTED / name, content)
        write_atomic(folder / ORIGIN, (json.dumps(self.manifest, indent=1) + '\n').encode())
        (folder / calibrations.FILE).unlink(missing_ok=True)
        if self.calibration is not None:
            self.calibration.write(folder)

    def predict(self, batch: dict[str, Any], key: jax.Array | None = None) -> Law:
        """A batch -> the law of every row, as the model gives it. Compiled once for each shape."""
        return self._predict(self.params, self.extra, batch, key)

    def embed(self, batch: dict[str, Any]) -> jax.Array:
        """A batch -> the vectors that downstream models consume."""
        if self._embed is None:
            raise InputError(f'{self.config.name} makes no embeddings')
        return self._embed(self.params, self.extra, batch)

    def predict_df(self, frame: Any, levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> Any:
        """Long frame in, long frame out.

        Args:
          frame: what the config's data reads from files, as a pandas, polars or pyarrow table or a dict of columns.
          levels: the quantiles to add.

        Returns:
          columns `id`, `time`, `horizon`, `mean`, `q05`, ...: one line a forecast, of the kind of `frame`; calibrated
          as the evaluation of the run was. A point forecast has quantiles once the run was evaluated, none before.

        Raises:
          InputError: the frame can not be read, or what the data fit now is not what the weights were trained with.
        """
        dataset = self.data.from_table(to_table(frame))
        check_bound(self.task, dataset, self.manifest)
        law, rows = predict_rows(self.predict, dataset, 'all')
        if self.calibration is not None:
            law = self.calibration.apply(law, rows)
        elif isinstance(law, Point):
            levels = ()  # an interval without width would pass for certainty
        return _like(frame, forecast_table(law, rows, levels))


def predict_rows(predict, dataset, split: str, first: int = 0) -> tuple[Law, dict[str, np.ndarray]]:
    """Forecasts the rows of a split, averaging the batch rows that share one.

    Args:
      predict: batch -> law.
      first: only rows from this one on, without reading the batches before them.

    Returns:
      (the law with leading axis N, those of `dataset.rows(split)`).
    """
    rows = {name: x if name == 'horizon' else x[first:] for name, x in dataset.rows(split).items()}
    gather, laws, index = make_gather(dataset), [], []
    for batch in read_tail(dataset, split, first) if first else read_batches(dataset, split):
        laws.append(predict(gather(batch)))
        index.append(np.where(batch['mask'], batch['row'] - first, -1).clip(min=-1))
    if not laws:
        raise InputError(f'the {split} split is empty', remedy='check the split dates')
    law = jax.tree.map(lambda *leaves: np.concatenate(leaves), *jax.device_get(laws))
    return pool(law, np.concatenate(index), len(rows['time'])), rows


def forecast_table(law: Law, rows: dict[str, np.ndarray], levels: tuple[float, ...]) -> pa.Table:
    """One line a row and horizon: id, time, horizon (its number), mean and quantiles, and the target where known."""
    columns = {name: np.asarray(values) for name, values in to_columns(law, levels).items()}
    count, horizons = next(iter(columns.values())).shape[:2]
    out = {
        'id': np.repeat(rows['id'], horizons),
        'time': np.repeat(rows['time'], horizons),
        'horizon': np.tile(np.asarray(rows.get('horizon', np.arange(1, horizons + 1))), count),
    }
    out |= {name: values.reshape(-1) for name, values in columns.items()}
    if 'target' in rows:
        out['target'] = np.where(rows['valid'], rows['target'], np.nan).reshape(-1)
    return pa.table(out)


def to_table(frame: Any) -> pa.Table:
    """A pandas, polars or pyarrow table, or a dict of columns -> pyarrow."""
    if isinstance(frame, pa.Table):
        return frame
    if hasattr(frame, 'to_arrow'):
        return frame.to_arrow()
    if isinstance(frame, dict):
        try:
            return pa.table(frame)
        except (pa.ArrowException, TypeError, ValueError) as e:
            raise InputError(f'the dict is no table ({e})', remedy='give columns of one length') from e
    if type(frame).__module__.startswith('pandas'):
        return pa.Table.from_pandas(frame, preserve_index=False)
    raise InputError(f'a {type(frame).__name__} is no table', remedy='give a pandas, polars or pyarrow table or a dict')


def _like(frame: Any, table: pa.Table) -> Any:
    kind = type(frame).__module__.split('.')[0]
    if kind == 'pandas':
        return table.to_pandas()
    if kind == 'polars':
        import polars

        return polars.from_arrow(table)
    return {n: table[n].to_numpy() for n in table.column_names} if isinstance(frame, dict) else table


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(file)
    except SafetensorError as e:
        raise InputError(
            f'not a safetensors file, or a damaged one ({e})', file=file, remedy='export the run again'
        ) from e


def _unflatten(arrays: dict[str, np.ndarray], like: Any, file: Path) -> Any:
    missing = sorted(set(flatten(like)) ^ set(arrays))
    if missing:
        raise InputError(
            f'{missing[0]!r} is in only one of the file and the model', file=file, remedy='use its own config.json'
        )

    def pick(path, leaf):
        value = arrays[path_of(path)]
        if value.shape != leaf.shape:
            raise InputError(f'{path_of(path)!r} has shape {value.shape}, the model {leaf.shape}', file=file)
        return value

    return jax.tree_util.tree_map_with_path(pick, like)

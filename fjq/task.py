"""The contract between a model, its data, and everything that is shared.

The loop, the harness and the jobs know nothing else of a model (`Task`) and of its data (`Dataset`).
A batch is a dict of arrays of static shape; every leaf has the same leading axis B of rows, so that
micro-batches, devices and processes can cut it anywhere. It always holds

  mask [B] bool    True = the row takes part (False: padding of a ragged last batch);
  row  [B] int32   the index into `Dataset.rows(split)` that the row predicts (-1 for padding);
                   several rows may share one index: the harness averages their forecasts.

Masks are True where something takes part, everywhere.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

Batch = dict[str, Any]
Params = dict[str, Any]


class Loss(NamedTuple):
    """Sums, divided once at the very end, so that padding, micro-batches and devices agree (but for what `key` draws,
    which is drawn anew for each micro-batch).

    total: sum of the per-row losses of the rows that take part, float32 scalar.
    weight: what to divide `total` by (rows, tokens or targets that take part).
    metrics: name -> (sum, weight), each divided like the loss.
    extra: the new state outside the gradient (running statistics, codebooks); {} where there is none.
    """

    total: Any
    weight: Any
    metrics: dict[str, tuple[Any, Any]]
    extra: Any


class Shard(NamedTuple):
    """This process's part of every batch: rows `index * B / count` up to `(index + 1) * B / count`."""

    index: int = 0
    count: int = 1


@runtime_checkable
class Task(Protocol):
    """A model with its loss. `config.task.build()` makes one. All methods are pure and can be jitted.

    The dataclass `config.task` may define `follow(config) -> config`: the experiment with what follows from other
    fields filled in, such as its own sizes from the settings of the data (`fjq.config.settle`).

    A task may also define
      check(dataset): raises InputError where data do not fit the model (vocabulary, variables, horizons).
      check_settings(data): the same of what the config's data say before they are read, which may take hours.
      figures: names of the metrics that the loss gives without a key, where they are known before the data are read.
      begin(params, extra, dataset) -> (params, extra): what the data or loaded weights decide before update 1 (a frozen
        reference, normalisation, a bias from quantiles); once, on the host, of the same tree and shapes.
      bound_to: names of entries of `dataset.fingerprint()` that weights can not be used without (a tokenizer).
      prepare(params, extra, batch, key) -> batch: what the current weights must produce before the loss
        (rollouts, codes of a frozen tokenizer); runs jitted, outside the gradient.
      conclude(params, extra, dataset) -> lines: what --job=train says of the best weights at its end.
      embed(params, extra, batch) -> array: the vectors that downstream models consume, and `embedding`, their name.
      torch_files(experiment, weights) -> {file name: object}: what `--job=export` writes as PyTorch checkpoints.
    """

    def init(self, key) -> tuple[Params, Any]:
        """Random key -> (params: nested dict of float32 arrays with string keys, extra)."""

    def loss(self, params: Params, extra: Any, batch: Batch, key) -> Loss:
        """The training loss of one (micro-)batch; `key` drives dropout and sampling."""

    def predict(self, params: Params, extra: Any, batch: Batch, key):
        """The forecast of every row: one of the laws of `fjq.forecast` with leading axis B."""


@runtime_checkable
class Dataset(Protocol):
    """What `config.data.open(...)` gives: numbered whole batches, and the rows that they predict.

    Where windows overlap so much that batches are better made on the device, a dataset may also define
      tables() -> {name: array}: what is put on every device once;
      gather(tables, batch) -> batch: a pure function; `train` and `batches` then only say where to look.
    One that keeps files of its own may define verify(): raises InputError where they are not what was written.
    One that fits something on its files (a tokenizer) may define save_fitted(folder), which writes it there, and its
    `config.data` with_fitted(folder) -> the settings that have it: a table then needs no files of the training.
    `config.data` may define check(): raises InputError where its fields make no sense, whatever the data are.
    """

    def train(self, seed: int, shard: Shard):
        """An endless `grain.MapDataset`: step -> this process's part of that step's batch.

        A batch is a pure function of (fingerprint, seed, step); its rows do not depend on `shard`.
        """

    def batches(self, split: str, shard: Shard):
        """A finite `grain.MapDataset` over every row of a split in its order, the last batch padded with mask False."""

    def rows(self, split: str) -> dict[str, np.ndarray]:
        """The forecast targets of a split, in time order: `id`, `time` [N], `target` [N, H], `valid` [N, H]."""

    def history(self) -> dict[str, np.ndarray]:
        """The series that baselines may read: `time` [M] and named columns [M]; they cut it by time themselves."""

    def fingerprint(self) -> dict[str, Any]:
        """What the data is (files, sizes, settings); a checkpoint of another fingerprint is refused."""

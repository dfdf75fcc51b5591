"""Do the settings, the data, the model and the weights belong together? Told before anything long begins."""

from pathlib import Path
from typing import Any

import jax

from fjq.config import Experiment, Train
from fjq.errors import InputError
from fjq.keys import make_key
from fjq.optim import make_optimizer
from fjq.run import cache_folder, read_manifest
from fjq.task import Dataset, Task


def check_settings(config: Experiment, task: Task) -> None:
    """Raises InputError where the split, the training or the optimiser makes no sense: cheap to tell before the data
    are read, which may take hours."""
    _check_data_settings(config, task)
    t = config.train
    for name in ('steps', 'micro_batches', 'log_every', 'eval_every', 'save_every', 'max_bad_steps'):
        if getattr(t, name) < 1:
            raise InputError(f'train.{name} is {getattr(t, name)}', remedy='make it 1 or more')
    if not 0 <= t.ema < 1:
        raise InputError(f'train.ema is {t.ema}', remedy='use 0 for none, or a decay such as 0.999')
    if t.mode not in ('min', 'max'):
        raise InputError(f'train.mode is {t.mode!r}', remedy="choose 'min' or 'max'")
    if hasattr(task, 'figures'):
        for field in ('metric', 'alarm'):
            check_figure(t, field, 'validation', {'loss', *task.figures})
    make_optimizer(config.optim, t.steps, jax.eval_shape(task.init, make_key(config.seed, 'init'))[0])


def check_figure(settings: Train, field: str, who: str, known: set[str]) -> None:
    """Raises InputError where a field of `Train` names none of the known figures of validation or training."""
    name = getattr(settings, field)
    if name and name not in known:
        raise InputError(
            f'train.{field} is {name!r}, which {who} does not give',
            remedy='choose one of ' + ', '.join(sorted(known)),
        )


def _check_data_settings(config: Experiment, task: Task) -> None:
    """Raises InputError where settings of the data make no sense, or do not fit the model, whatever the files hold."""
    if hasattr(config.data, 'check'):
        config.data.check()
    if hasattr(task, 'check_settings'):
        task.check_settings(config.data)
    split = getattr(config.data, 'split', None)
    if split is None:
        return
    valid_start, test_start = split.starts()
    if not valid_start < test_start:
        raise InputError(
            f'train ends at {split.train_end} and valid at {split.valid_end}',
            column='data.split',
            remedy='put train_end before valid_end',
        )
    for name in ('purge_days', 'embargo_days'):
        if not getattr(split, name) >= 0:
            raise InputError(f'{getattr(split, name):g} days', column=f'data.split.{name}', remedy='give 0 or more')


def open_data(config: Experiment, workdir: Path) -> Dataset:
    """The data of a config whose weights lie in `workdir`, checked against the model.

    Raises:
      InputError: what is wrong with a file or a field, or data that the model can not read.
    """
    task = config.task.build()
    _check_data_settings(config, task)
    dataset = config.data.open(cache_folder(config, workdir), config.parallel)
    check_fit(task, dataset, workdir)
    return dataset


def check_fit(task: Task, dataset: Dataset, *workdirs: Path) -> None:
    """Raises InputError where data do not fit the model, or what its weights are bound to is not that of a workdir."""
    if hasattr(task, 'check'):
        task.check(dataset)
    for workdir in workdirs:
        check_bound(task, dataset, read_manifest(workdir), workdir)


def check_bound(task: Task, dataset: Dataset, manifest: dict[str, Any], folder: Path | None = None) -> None:
    """Raises InputError where what weights are bound to is not that of the data in the manifest of their training."""
    then = manifest.get('data', {})
    for name in (n for n in getattr(task, 'bound_to', ()) if then.get(n) is not None):
        now = dataset.fingerprint().get(name)
        if then[name] != now:
            raise InputError(
                f'the weights were trained with the {name} {then[name]}, the data have {now}',
                file=folder,
                remedy=f'give data made with the same {name}, or train anew',
            )

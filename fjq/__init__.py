"""fjq: train, check and ship models of financial time series in JAX."""


def load(path):
    """A trained model, ready to predict: see `fjq.trained.Trained`.

    Args:
      path: a run folder (its best checkpoint is taken) or a folder that `save` wrote.
    """
    from fjq.trained import Trained

    return Trained.load(path)

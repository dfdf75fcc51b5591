"""What the jobs of tokens do: fields of `TokenData`, so that flags can set them."""

import dataclasses

from fjq.errors import InputError


@dataclasses.dataclass(kw_only=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0  # logits are divided by it; 0 = the likeliest token, always
    top_k: int = 0  # only the k likeliest tokens; 0 = all
    top_p: float = 1.0  # only the likeliest tokens that reach this mass together

    def check(self) -> None:
        """Raises InputError where a setting makes no sense."""
        if not self.temperature >= 0:
            raise InputError(f'temperature is {self.temperature}', remedy='give 0 for the likeliest token, or more')
        if self.top_k < 0:
            raise InputError(f'top_k is {self.top_k}', remedy='give 0 for all tokens, or more')
        if not 0 < self.top_p <= 1:
            raise InputError(f'top_p is {self.top_p}', remedy='give 1 for all tokens, or a mass above 0')


@dataclasses.dataclass(kw_only=True)
class Generate(Sampling):
    """--job=generate: paths of tokens after a prompt, and the candles that they decode to."""

    assets: tuple[str, ...] = ()  # whose last candles are prompts, of all at the path; () = those that the data pick
    time: str = ''  # prompts end with the last candle at or before it; '' = with the newest
    seed_tokens: tuple[int, ...] = ()  # a prompt of tokens instead, whose price is 100
    horizon: int = 32  # candles of a path
    paths: int = 64  # a prompt


@dataclasses.dataclass(kw_only=True)
class Analyze:
    """--job=analyze: what the tokens of the data are like."""

    split: str = 'all'  # candles up to the end of 'train', or 'all'
    top: int = 10  # tokens, patterns and outliers that are shown
    pattern: int = 3  # tokens of a pattern
    least: int = 10  # times that a pattern was seen
    transitions: int = 5  # likeliest next tokens of each
    sigmas: float = 3.0  # distance of an outlier's decoded return from the mean, in standard deviations

"""How many labels are sums over windows that lack days, and so too low?"""

import dataclasses

from fjq.studies import Study


@dataclasses.dataclass(kw_only=True)
class LabelWindows:
    """Counts of labels by what `rows` say of their windows: `short` of days, `unended` where the data stop."""

    name: str = 'label windows'

    def run(self, trained, dataset, split, judged, rows, mask) -> Study:
        lines = [
            {'part': part, 'horizon': str(horizon), 'labels': int(r['valid'][:, h].sum())}
            | {name: int((r[name] & r['valid'])[:, h].sum()) for name in ('short', 'unended')}
            for part, r in (('train', dataset.rows('train')), (split, rows))
            for h, horizon in enumerate(r['horizon'])
        ]
        return Study({'Windows of the labels': lines}, [_say(line) for line in lines if line['short']])


def _say(line: dict) -> str:
    return (
        f'Of {line["labels"]} labels of {line["part"]}, horizon {line["horizon"]}, {line["short"]} have windows '
        f'short of days ({line["unended"]} windows had not ended where the data stop): their sums are too low, for '
        'the model and for every baseline; --config.data.short_windows drops or rescales them.'
    )

"""A simulated market with known variance, in the files and schemas of real vendors.

    from fjq.data.synthetic import scaled, simulate
    folders = simulate(Path('data'), scaled('tiny', days=60, what=('index', 'rv')))

`python -m fjq.data.synthetic --out=data --what=index,rv` does the same. It is there so that the truth is known and no
vendor's data is needed; what a model earns on it says nothing of a real market.
"""

from fjq.data.synthetic.market import LAYOUTS, SCALES, STREAMS, Market, scaled
from fjq.data.synthetic.simulate import simulate

__all__ = ['LAYOUTS', 'SCALES', 'STREAMS', 'Market', 'scaled', 'simulate']

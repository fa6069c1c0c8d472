import pytest

from hpm.data.prefetch import OneAhead
from hpm.errors import TrainingError


class Source:
    """Counts, and tells how far it has come; raises where it is told to."""

    def __init__(self, count, error=None):
        self.taken = 0
        self.count = count
        self.error = error

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == self.count:
            raise self.error or StopIteration
        self.taken += 1
        return self.taken


def test_the_next_item_is_taken_before_one_is_given_out():
    source = Source(4)
    ahead = OneAhead(source)
    assert source.taken == 0
    taken = [(item, source.taken) for item in ahead]
    assert taken == [(1, 2), (2, 3), (3, 4), (4, 4)]
    assert list(ahead) == []


@pytest.mark.parametrize("count", [0, 1])
def test_short_sources(count):
    assert list(OneAhead(Source(count))) == list(range(1, count + 1))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_error_comes_after_the_items_before_it(count):
    ahead = OneAhead(Source(count, TrainingError("too many")))
    assert [next(ahead) for _ in range(count)] == list(range(1, count + 1))
    for _ in range(2):
        with pytest.raises(TrainingError, match="too many"):
            next(ahead)
